//! Whether requests may come to the proxy, and if not, what it waits for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The conditions under which requests may come. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// What is waited for, by the number of its condition.
    unmet: BTreeMap<u64, String>,
}

/// One of the conditions. It outlives its handle: one that was not met when the handle went is never met.
#[derive(Debug)]
pub(crate) struct Condition {
    readiness: Readiness,
    number: u64,
    name: String,
}

impl Readiness {
    /// One more condition, not met yet. `name`: what is waited for, as a sentence without its end.
    pub(crate) fn condition(&self, name: impl Into<String>) -> Condition {
        let name = name.into();
        let mut state = self.locked();
        let number = state.next;
        state.next += 1;
        state.unmet.insert(number, name.clone());
        drop(state);
        Condition {
            readiness: self.clone(),
            number,
            name,
        }
    }

    /// What is waited for, in the order in which the conditions were made; empty: requests may come.
    pub(crate) fn pending(&self) -> Vec<String> {
        self.locked().unmet.values().cloned().collect()
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    /// It holds.
    pub(crate) fn met(&self) {
        self.readiness.locked().unmet.remove(&self.number);
    }

    /// It holds no more.
    pub(crate) fn unmet(&self) {
        self.readiness.locked().unmet.insert(self.number, self.name.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_met_and_lost() {
        let readiness = Readiness::default();
        assert!(readiness.pending().is_empty());
        let (first, second) = (readiness.condition("b"), readiness.condition("a"));
        assert_eq!(readiness.pending(), ["b", "a"]);
        first.met();
        first.met();
        assert_eq!(readiness.pending(), ["a"]);
        second.met();
        assert!(readiness.pending().is_empty());
        first.unmet();
        assert_eq!(readiness.pending(), ["b"]);
    }

    #[test]
    fn a_condition_whose_keeper_is_gone_stays_unmet() {
        let readiness = Readiness::default();
        drop(readiness.condition("the listeners are bound"));
        assert_eq!(readiness.pending(), ["the listeners are bound"]);
    }
}
