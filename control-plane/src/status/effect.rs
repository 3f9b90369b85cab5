//! What of a route is without effect: rules whose requests others take, and rules that send no request anywhere.

use std::collections::{BTreeMap, BTreeSet};

use weir_api::http_route::{HttpRouteFilter, RouteTimeouts};
use weir_api::status::{ConditionStatus, condition};
use weir_api::{RouteRule, RouteSpec};
use weir_policy::model::RouteConfig;
use weir_policy::route::taken_whole;

use super::conditions::{Verdict, all, few};
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

/// Why a rule sends no request anywhere, in the order in which a status speaks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unsent {
    WeightsZero,
    NoBackends,
    Redirects,
}

impl Unsent {
    /// `None`: it sends some.
    fn of(rule: &RouteRule<'_>) -> Option<Unsent> {
        let weights = rule.backend_refs;
        if rule.redirects() {
            Some(Unsent::Redirects)
        } else if weights.is_empty() {
            Some(Unsent::NoBackends)
        } else if weights.iter().all(|backend| backend.weight == 0) {
            Some(Unsent::WeightsZero)
        } else {
            None
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Unsent::WeightsZero => "WeightsZero",
            Unsent::NoBackends => "NoBackends",
            Unsent::Redirects => "RulesRedirect",
        }
    }
}

/// The fields of a rule that are for requests that are sent. `timeouts` are among them: an answer of the proxy's own
/// comes at once.
fn for_sent_ones(rule: &RouteRule<'_>) -> Vec<&'static str> {
    let timeouts = rule.timeouts.unwrap_or_default();
    let filter = |wanted: fn(&HttpRouteFilter) -> bool| rule.filters.iter().any(wanted);
    let fields = [
        ("timeouts", timeouts != RouteTimeouts::default()),
        ("retry", rule.retry.is_some()),
        (
            "RequestMirror",
            filter(|filter| matches!(filter, HttpRouteFilter::RequestMirror(_))),
        ),
        (
            "RequestHeaderModifier",
            filter(|filter| matches!(filter, HttpRouteFilter::RequestHeaderModifier(_))),
        ),
    ];
    fields
        .iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| *name)
        .collect()
}

/// What is to be said of a rule that sends no request; `None`: nothing, since it does all that it asks for.
fn unsent(number: usize, rule: &RouteRule<'_>, why: Unsent, answer: &str) -> Option<String> {
    let fields = for_sent_ones(rule);
    let because = match why {
        Unsent::NoBackends | Unsent::Redirects if fields.is_empty() => return None,
        Unsent::WeightsZero => format!("rules[{number}] answers with {answer}, since all its weights are 0"),
        Unsent::NoBackends => format!("rules[{number}] answers with {answer}, since it has no backendRefs"),
        Unsent::Redirects => format!("rules[{number}] redirects"),
    };
    if fields.is_empty() {
        return Some(because);
    }
    let has = if fields.len() > 1 { "have" } else { "has" };
    Some(format!("{because}: its {} {has} no effect", all(&fields)))
}

/// What of the route `key` is without effect; `None`: all of it has some.
pub(super) fn verdict(key: &str, spec: RouteSpec<'_>, unreachable: &Unreachable) -> Option<Verdict> {
    let mut said = Vec::new();
    let mut no_request_sent: Vec<(Unsent, String)> = Vec::new();
    for (number, rule) in spec.rules().into_iter().enumerate() {
        if let Some((object, by)) = unreachable.taker(&(key.to_owned(), number)) {
            let by = match object == key {
                true => format!("rules[{by}]"),
                false => format!("{object} rules[{by}]"),
            };
            said.push(format!(
                "rules[{number}] takes no request, since {by} takes all of its requests"
            ));
        }
        if let Some(why) = Unsent::of(&rule) {
            let said = unsent(number, &rule, why, without_backend(spec));
            no_request_sent.extend(said.map(|said| (why, said)));
        }
    }
    let first = no_request_sent.iter().map(|(why, _)| *why).min();
    let reason = match (said.as_slice(), first) {
        ([], first) => first?.reason(),
        (_, _) => "RulesUnreachable",
    };
    said.extend(no_request_sent.into_iter().map(|(_, said)| said));
    let message = few(&said, "; ", said.len());
    Some(Verdict::new(
        condition::INEFFECTIVE,
        ConditionStatus::True,
        reason,
        message,
    ))
}
