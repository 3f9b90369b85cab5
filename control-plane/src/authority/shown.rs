//! Which root each proxy showed last that it trusts, while a rotation is under way.

use std::collections::{BTreeMap, BTreeSet};

use weir_policy::names::WorkloadName;
use weir_policy::roots::RootId;

use super::rotation::Below;

/// What proxies showed, at most [`SHOWN_MAX`]. Anybody with a certificate can show for any name of its namespace: when
/// it is full, the oldest of those without a stream makes place, so that made-up names keep nobody out.
#[derive(Debug, Default)]
pub(super) struct Shown {
    all: BTreeMap<WorkloadName, Held>,
    /// Of those without a stream, by when they came.
    unconnected: BTreeMap<u64, WorkloadName>,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    root: RootId,
    certificate: Below,
    /// Its place among those without a stream; `None`: it has one.
    unconnected: Option<u64>,
}

/// As many with a stream have shown it as there may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Shown {
    /// This one trusts this root, and has a certificate below it, or not.
    ///
    /// # Errors
    /// When there are too many.
    pub(super) fn put(&mut self, workload: &WorkloadName, root: RootId, certificate: Below) -> Result<(), Full> {
        if let Some(held) = self.all.get_mut(workload) {
            (held.root, held.certificate) = (root, certificate);
            return Ok(());
        }
        if self.all.len() >= SHOWN_MAX {
            let (_, oldest) = self.unconnected.pop_first().ok_or(Full)?;
            self.all.remove(&oldest);
        }
        let unconnected = Some(self.next);
        self.unconnected.insert(self.next, workload.clone());
        self.next += 1;
        let held = Held {
            root,
            certificate,
            unconnected,
        };
        self.all.insert(workload.clone(), held);
        Ok(())
    }

    /// These have a stream now, and nobody else. What others showed is kept as long as there is room: it comes before
    /// their stream is known.
    pub(super) fn connected(&mut self, here: &BTreeSet<&WorkloadName>) {
        for (workload, held) in &mut self.all {
            match (here.contains(workload), held.unconnected) {
                (true, Some(place)) => {
                    self.unconnected.remove(&place);
                    held.unconnected = None;
                }
                (false, None) => {
                    self.unconnected.insert(self.next, workload.clone());
                    held.unconnected = Some(self.next);
                    self.next += 1;
                }
                (true, None) | (false, Some(_)) => {}
            }
        }
    }

    /// What it showed of this root.
    pub(super) fn of(&self, workload: &WorkloadName, root: RootId) -> Option<Below> {
        let held = self.all.get(workload).filter(|held| held.root == root);
        held.map(|held| held.certificate)
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Shown::default();
    }
}

/// A mesh beyond that needs a second control plane.
const SHOWN_MAX: usize = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str) -> WorkloadName {
        name.parse().expect("a workload")
    }

    #[test]
    fn made_up_names_keep_nobody_out_who_has_a_stream() {
        let root = RootId::of([1; 32]);
        let (here, late) = (workload("n/here"), workload("n/late"));
        let mut shown = Shown::default();
        shown.put(&here, root, Below::Old).expect("room");
        shown.connected(&BTreeSet::from([&here]));
        for number in 0..SHOWN_MAX * 2 {
            let made_up = workload(&format!("m/p{number}"));
            shown.put(&made_up, root, Below::Old).expect("others make place");
        }
        shown.put(&late, root, Below::New).expect("others make place");
        assert_eq!(shown.all.len(), SHOWN_MAX);
        assert_eq!(shown.unconnected.len(), SHOWN_MAX - 1);
        assert_eq!(shown.of(&here, root), Some(Below::Old), "the oldest, but connected");
        assert_eq!(shown.of(&late, root), Some(Below::New));
        assert_eq!(shown.of(&workload("m/p0"), root), None);
        assert_eq!(shown.of(&here, RootId::of([2; 32])), None, "of another root");
        // Who has left makes place as well, after those who were never here.
        shown.connected(&BTreeSet::from([&late]));
        let all: Vec<WorkloadName> = shown.all.keys().cloned().collect();
        assert_eq!(shown.unconnected.last_key_value().map(|(_, name)| name), Some(&here));
        shown.connected(&all.iter().collect());
        assert_eq!(shown.put(&workload("n/more"), root, Below::Old), Err(Full));
        shown.put(&here, root, Below::New).expect("it has its place");
        assert_eq!(shown.of(&here, root), Some(Below::New));
    }
}
