//! Conditions from verdicts: since when each is so, and texts that stay short.

use weir_api::status::{Condition, ConditionStatus};

/// What is found of a resource, before it is known since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// One of [`weir_api::status::condition`].
    pub(super) condition: &'static str,
    /// Whether it is so.
    pub(super) status: ConditionStatus,
    /// Why, for programs.
    pub(super) reason: &'static str,
    /// Why, for people.
    pub(super) message: String,
}

impl Verdict {
    pub(super) fn new(
        condition: &'static str,
        status: ConditionStatus,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Verdict {
        Verdict {
            condition,
            status,
            reason,
            message: message.into(),
        }
    }

    pub(super) fn is_true(&self) -> bool {
        self.status == ConditionStatus::True
    }
}

/// When verdicts are found, and of what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation<'a> {
    /// The resource's generation.
    pub(super) generation: i64,
    /// RFC 3339, in whole seconds.
    pub(super) now: &'a str,
}

/// Conditions in the order of the verdicts. One whose status is that of before keeps the time of its last transition
/// (Kubernetes, API conventions, "Typical status properties"); another reason or message does not move it.
pub(super) fn conditions(
    verdicts: impl IntoIterator<Item = Verdict>,
    before: &[Condition],
    at: Observation<'_>,
) -> Vec<Condition> {
    let condition = |verdict: Verdict| {
        let same = |held: &&Condition| held.condition_type == verdict.condition && held.status == verdict.status;
        let since = before.iter().find(same).map(|held| held.last_transition_time.as_str());
        Condition {
            condition_type: verdict.condition.to_owned(),
            status: verdict.status,
            observed_generation: at.generation,
            last_transition_time: since.filter(|since| !since.is_empty()).unwrap_or(at.now).to_owned(),
            reason: verdict.reason.to_owned(),
            message: verdict.message,
        }
    };
    verdicts.into_iter().map(condition).collect()
}

/// The first few of a number of texts: `a, b, c and 39 more`.
pub(super) fn few(named: &[String], separator: &str, count: usize) -> String {
    let shown = &named[..named.len().min(NAMED_MAX)];
    let shown = shown.join(separator);
    match count.saturating_sub(named.len().min(NAMED_MAX)) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// A list in words: `a`, `a and b`, `a, b and c`.
pub(super) fn all(named: &[&str]) -> String {
    match named {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A text of somebody else's as part of a message: its first characters, on one line.
pub(super) fn quoted(text: &str) -> String {
    let mut clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = clean.by_ref().take(QUOTED_CHARS_MAX).collect();
    if clean.next().is_some() {
        short.push('…');
    }
    short
}

/// Of a list in a message: enough to know where to look first.
pub(super) const NAMED_MAX: usize = 3;
const QUOTED_CHARS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_is_a_change_of_status_alone() {
        let verdict = |status, reason, message: &str| Verdict::new("Accepted", status, reason, message);
        let at = |generation, now| Observation { generation, now };
        let first = conditions([verdict(ConditionStatus::True, "A", "a")], &[], at(1, "t1"));
        assert_eq!(first[0].last_transition_time, "t1");
        let other = verdict(ConditionStatus::True, "B", "b");
        let second = conditions([other], &first, at(2, "t2"));
        assert_eq!((second[0].reason.as_str(), second[0].message.as_str()), ("B", "b"));
        assert_eq!(second[0].observed_generation, 2);
        assert_eq!(second[0].last_transition_time, "t1");
        let third = conditions([verdict(ConditionStatus::False, "B", "b")], &second, at(2, "t3"));
        assert_eq!(third[0].last_transition_time, "t3");
        let back = conditions([verdict(ConditionStatus::True, "A", "a")], &third, at(2, "t4"));
        assert_eq!(back[0].last_transition_time, "t4");
    }

    #[test]
    fn each_condition_has_a_time_of_its_own() {
        let verdict = |name| Verdict::new(name, ConditionStatus::True, "A", "a");
        let at = |now| Observation { generation: 1, now };
        let mut before = conditions([verdict("Accepted")], &[], at("t1"));
        before.append(&mut conditions([verdict("InForce")], &[], at("t2")));
        let after = conditions([verdict("InForce"), verdict("Accepted")], &before, at("t3"));
        let times: Vec<&str> = after.iter().map(|one| one.last_transition_time.as_str()).collect();
        assert_eq!(times, ["t2", "t1"]);
        // One that somebody wrote without a time.
        before[0].last_transition_time.clear();
        let after = conditions([verdict("Accepted")], &before, at("t3"));
        assert_eq!(after[0].last_transition_time, "t3");
    }

    #[test]
    fn texts_stay_short_and_on_one_line() {
        let names = |count: usize| (0..count).map(|n| format!("p{n}")).collect::<Vec<_>>();
        for (named, count, expect) in [
            (0, 0, ""),
            (1, 1, "p0"),
            (3, 3, "p0, p1, p2"),
            (4, 4, "p0, p1, p2 and 1 more"),
            (3, 42, "p0, p1, p2 and 39 more"),
        ] {
            assert_eq!(few(&names(named), ", ", count), expect);
        }
        for (named, expect) in [
            (&["a"][..], "a"),
            (&["a", "b"], "a and b"),
            (&["a", "b", "c"], "a, b and c"),
        ] {
            assert_eq!(all(named), expect);
        }
        assert_eq!(quoted("a\nb\u{1b}[0m"), "a b [0m");
        let long = quoted(&"界".repeat(1_000));
        assert_eq!(long.chars().count(), QUOTED_CHARS_MAX + 1);
    }
}
