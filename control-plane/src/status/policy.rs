//! The status of policies: for each target, whether the policy is accepted there, and in force.

use weir_api::Object;
use weir_api::status::{
    CONTROLLER_NAME, ConditionStatus, ParentReference, PolicyAncestorStatus, PolicyStatus, condition,
};

use super::conditions::{Observation, Verdict, conditions, few};
use super::{Standings, in_force};
use crate::proxies::Extent;

/// What a policy claims with one of its targets.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    /// The target, as the spec names it.
    pub(super) target: ParentReference,
    /// What that is, for people.
    ///
    /// # Errors
    /// What of it is not there.
    pub(super) found: Result<String, String>,
    /// Why the policy can't be in force there.
    pub(super) misfit: Option<String>,
    /// The oldest policy that claims just the same and can be in force there, the claimant itself among them.
    pub(super) oldest: Option<&'a Object>,
    /// Of the policies that claim a part of it as much, the oldest that holds for such a part.
    pub(super) partly: Option<&'a Object>,
    /// Whom it may concern.
    pub(super) extent: Extent,
    /// What became of its references; `None`: it has none.
    pub(super) references: Option<References>,
    /// Who holds instead, if for every part of the target another policy does.
    pub(super) overridden: Option<String>,
    /// What of it is without effect there.
    pub(super) ineffective: Option<String>,
}

/// What became of the references of a policy.
#[derive(Clone, Debug)]
pub(super) struct References {
    /// Whether each leads somewhere.
    pub(super) resolved: Verdict,
    /// None does: its target is closed, and this is why.
    pub(super) closed: Option<String>,
}

/// What is to be said of a policy with these claims.
pub(super) fn status(object: &Object, claims: Vec<Claim<'_>>, standings: &Standings, now: &str) -> PolicyStatus {
    let before: PolicyStatus = super::read(object);
    let at = Observation {
        generation: object.metadata.generation,
        now,
    };
    let ancestors = claims.into_iter().map(|claim| {
        let accepted = accepted(object, &claim);
        let without = |message| Verdict::new(condition::INEFFECTIVE, ConditionStatus::True, "RulesRedirect", message);
        let ineffective = claim.ineffective.filter(|_| accepted.is_true()).map(without);
        let in_force = match claim.overridden {
            // Proxies are told that it is closed.
            _ if !accepted.is_true() && accepted.reason != NO_CERTIFICATE => in_force::not_accepted(),
            Some(message) => Verdict::new(condition::IN_FORCE, ConditionStatus::False, "Overridden", message),
            None => in_force::verdict(&standings.at(&claim.extent)),
        };
        let resolved = claim.references.map(|references| references.resolved);
        let held = before.ancestors.iter().find(|held| held.ancestor_ref == claim.target);
        let held = held.map_or(&[][..], |held| &held.conditions);
        PolicyAncestorStatus {
            conditions: conditions(
                [Some(accepted), resolved, Some(in_force), ineffective]
                    .into_iter()
                    .flatten(),
                held,
                at,
            ),
            ancestor_ref: claim.target,
            controller_name: CONTROLLER_NAME.to_owned(),
        }
    });
    PolicyStatus {
        ancestors: ancestors.collect(),
    }
}

/// Whether the target is there, the policy can be in force for it, and no older one claims the same.
fn accepted(object: &Object, claim: &Claim<'_>) -> Verdict {
    let not = |reason, message: String| Verdict::new(condition::ACCEPTED, ConditionStatus::False, reason, message);
    let shown = match &claim.found {
        Ok(shown) => shown,
        Err(missing) => return not("TargetNotFound", missing.clone()),
    };
    if let Some(misfit) = &claim.misfit {
        return not("Invalid", format!("{misfit} ({shown})"));
    }
    let own = object.key();
    match claim.oldest {
        Some(oldest) if oldest.key() != own => {
            let (holder, created) = (oldest.key(), &oldest.metadata.creation_timestamp);
            let because = match *created == object.metadata.creation_timestamp {
                true => "of two of one age the first by name",
                false => "the older",
            };
            not(
                "Conflicted",
                format!("{holder} and {own} both claim {shown}; {holder}, {because}, holds"),
            )
        }
        Some(_) | None => {
            if let Some(why) = claim
                .references
                .as_ref()
                .and_then(|references| references.closed.as_ref())
            {
                return not(
                    NO_CERTIFICATE,
                    format!("{why}; until it has one, nothing is sent to {shown}"),
                );
            }
            let (reason, message) = match claim.partly.map(Object::key) {
                None => ("Accepted", format!("it holds for {shown}")),
                Some(older) => {
                    let message = format!("it holds for some of {shown}; for others {older}, the older, holds");
                    ("PartlyConflicted", message)
                }
            };
            Verdict::new(condition::ACCEPTED, ConditionStatus::True, reason, message)
        }
    }
}

/// Which policies hold instead of one, if others do for each of these parts; `None`: it holds for one of them, or
/// nobody does.
pub(super) fn others<'a>(own: &Object, holders: impl Iterator<Item = Option<&'a Object>>) -> Option<String> {
    let mut others: Vec<String> = Vec::new();
    for holder in holders {
        let holder = holder
            .map(Object::key)
            .filter(|holder| *holder != own.key())?
            .to_string();
        if !others.contains(&holder) {
            others.push(holder);
        }
    }
    (!others.is_empty()).then(|| few(&others, ", ", others.len()))
}

/// Names in a list, for people.
pub(super) fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
    match names.len() {
        0 => "none with a name".to_owned(),
        count => few(&names, ", ", count),
    }
}

/// Gateway API, BackendTLSPolicyReasonNoValidCACertificate.
const NO_CERTIFICATE: &str = "NoValidCACertificate";
