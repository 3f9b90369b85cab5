//! What of a route is without effect: rules whose requests others take, and rules that send no request anywhere.

use std::collections::{BTreeMap, BTreeSet};

use weir_api::RouteSpec;
use weir_api::status::{ConditionStatus, condition};
use weir_policy::model::RouteConfig;
use weir_policy::route::taken_whole;

use super::conditions::{Verdict, few};
use crate::compile::routes::Origin;

/// A rule of a route: the route's key as text, and the rule's place.
type Rule = (String, usize);

/// The rules that never take a request of some route configurations, each with a rule that takes all of its requests.
#[derive(Debug, Default)]
pub(super) struct Unreachable {
    taken_by: BTreeMap<Rule, Rule>,
    reachable: BTreeSet<Rule>,
}

impl Unreachable {
    /// Takes in one more configuration: a rule is reachable if it is in any of them, by any match for any host.
    pub(super) fn add(&mut self, config: &RouteConfig) {
        for host in &config.virtual_hosts {
            for (route, taker) in host.routes.iter().zip(taken_whole(host)) {
                let Some(rule) = rule_of(&route.name) else {
                    continue;
                };
                let taker = taker
                    .and_then(|taker| host.routes.get(taker))
                    .and_then(|by| rule_of(&by.name));
                match taker {
                    Some(taker) => {
                        self.taken_by.entry(rule).or_insert(taker);
                    }
                    None => {
                        self.reachable.insert(rule);
                    }
                }
            }
        }
    }

    fn taker(&self, rule: &Rule) -> Option<&Rule> {
        if self.reachable.contains(rule) {
            return None;
        }
        self.taken_by.get(rule)
    }
}

/// The rule that the route of this name is of.
fn rule_of(route: &str) -> Option<Rule> {
    let Origin { object, rule, .. } = Origin::of(route)?;
    Some((object.to_owned(), rule))
}

/// The answer to what has no valid backend.
pub(super) fn without_backend(spec: RouteSpec<'_>) -> &'static str {
    match spec {
        RouteSpec::Http(_) => "500",
        RouteSpec::Grpc(_) => "UNAVAILABLE",
    }
}

/// What of the route `key` is without effect; `None`: all of it has some.
pub(super) fn verdict(key: &str, spec: RouteSpec<'_>, unreachable: &Unreachable) -> Option<Verdict> {
    let mut taken = Vec::new();
    let mut weightless = Vec::new();
    for (number, rule) in spec.rules().into_iter().enumerate() {
        if let Some((object, by)) = unreachable.taker(&(key.to_owned(), number)) {
            let by = match object == key {
                true => format!("rules[{by}]"),
                false => format!("{object} rules[{by}]"),
            };
            taken.push(format!(
                "rules[{number}] takes no request, since {by} takes all of its requests"
            ));
        }
        let weights = rule.backend_refs;
        if !weights.is_empty() && weights.iter().all(|backend| backend.weight == 0) {
            let answer = without_backend(spec);
            weightless.push(format!(
                "rules[{number}] answers with {answer}, since all its weights are 0"
            ));
        }
    }
    let reason = match (taken.as_slice(), weightless.as_slice()) {
        ([], []) => return None,
        ([], _) => "WeightsZero",
        _ => "RulesUnreachable",
    };
    taken.append(&mut weightless);
    let message = few(&taken, "; ", taken.len());
    Some(Verdict::new(
        condition::INEFFECTIVE,
        ConditionStatus::True,
        reason,
        message,
    ))
}
