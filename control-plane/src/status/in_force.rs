//! Whether a resource is in force on the proxies that it concerns.

use weir_api::status::{ConditionStatus, condition};

use super::conditions::{Verdict, few, quoted};
use crate::proxies::Summary;

/// What proxies make of a resource that is accepted.
pub(super) fn verdict(summary: &Summary) -> Verdict {
    let concerned = summary.in_force + summary.pending + summary.rejected;
    let share = format!("in force on {} of {concerned}", summary.in_force);
    if summary.rejected > 0 {
        let rejections = summary.first_rejected.iter();
        let named: Vec<String> = rejections
            .map(|rejection| format!("{} rejected: {}", rejection.proxy, quoted(&rejection.reason)))
            .collect();
        let message = format!("{share}; {}", few(&named, "; ", summary.rejected));
        return Verdict::new(condition::IN_FORCE, ConditionStatus::False, "Rejected", message);
    }
    if summary.pending > 0 {
        let message = format!(
            "{share}; waiting for {}",
            few(&summary.first_pending, ", ", summary.pending)
        );
        return Verdict::new(condition::IN_FORCE, ConditionStatus::Unknown, "Pending", message);
    }
    if concerned == 0 {
        let message = "no connected proxy uses it";
        return Verdict::new(condition::IN_FORCE, ConditionStatus::Unknown, "NoSubscribers", message);
    }
    Verdict::new(condition::IN_FORCE, ConditionStatus::True, "InForce", share)
}

/// What is not accepted is in force nowhere.
pub(super) fn not_accepted() -> Verdict {
    let message = "it is not accepted, so that no proxy is told of it";
    Verdict::new(condition::IN_FORCE, ConditionStatus::False, "NotAccepted", message)
}

#[cfg(test)]
mod tests {
    use weir_api::views::Rejection;

    use super::*;

    #[track_caller]
    fn check(in_force: usize, pending: usize, rejected: usize, expect: (ConditionStatus, &str, &str)) {
        let name = |n| format!("citizen/payment-{n}");
        let rejection = |n| Rejection {
            proxy: name(n),
            reason: "no such\nfield".to_owned(),
        };
        let summary = Summary {
            in_force,
            pending,
            first_pending: (0..pending.min(3)).map(name).collect(),
            rejected,
            first_rejected: (0..rejected.min(3)).map(rejection).collect(),
        };
        let verdict = verdict(&summary);
        assert_eq!((verdict.status, verdict.reason, verdict.message.as_str()), expect);
    }

    #[test]
    fn one_that_rejects_tells_before_those_that_wait() {
        use ConditionStatus::{False, True, Unknown};
        check(0, 0, 0, (Unknown, "NoSubscribers", "no connected proxy uses it"));
        check(42, 0, 0, (True, "InForce", "in force on 42 of 42"));
        let waiting = "in force on 40 of 42; waiting for citizen/payment-0, citizen/payment-1";
        check(40, 2, 0, (Unknown, "Pending", waiting));
        let rejected = "in force on 41 of 43; citizen/payment-0 rejected: no such field";
        check(41, 1, 1, (False, "Rejected", rejected));
        let many = "in force on 0 of 1000; citizen/payment-0 rejected: no such field; citizen/payment-1 rejected: no such \
                    field; citizen/payment-2 rejected: no such field and 997 more";
        check(0, 0, 1000, (False, "Rejected", many));
    }
}
