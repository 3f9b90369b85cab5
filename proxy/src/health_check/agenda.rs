//! Which endpoint is checked when. Pure: time and chance are given.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weir_policy::health_check;
use weir_policy::names::ClusterName;
use weir_policy::time::Time;

use super::Target;

/// The endpoints that are checked, each once at a time, and [`AT_ONCE_MAX`] of them at once. What is due while so many
/// are under way waits, the longest due first.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    entries: BTreeMap<Key, Entry>,
    due: BTreeSet<(Time, Key)>,
    under_way: usize,
}

/// An endpoint of a cluster: two clusters may have one in common, and rules of their own.
pub(super) type Key = (ClusterName, SocketAddr);

/// How many checks one proxy has under way at once: with an answer within 100 ms these are 640 in a second, and what
/// hangs costs no more than so many sockets.
pub(super) const AT_ONCE_MAX: usize = 64;

/// From when on a check that waited for others counts as late.
const LATE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Entry {
    target: Target,
    stands: Stands,
}

#[derive(Clone, Copy, Debug)]
enum Stands {
    Due(Time),
    UnderWay { began: Time },
}

/// A check that begins.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) key: Key,
    pub(super) target: Target,
    pub(super) late: bool,
}

impl Agenda {
    /// These are to be checked from now on, and no others. Returns those whose check is under way and of no use any
    /// more.
    pub(super) fn follow(
        &mut self,
        targets: impl Iterator<Item = (Key, Target)>,
        now: Time,
        mut random: impl FnMut() -> u64,
    ) -> Vec<Key> {
        let mut before = std::mem::take(&mut self.entries);
        let mut ended = Vec::new();
        for (key, target) in targets {
            let known = before.remove(&key);
            let stands = match known {
                // Under the same rules.
                Some(known) if Arc::ptr_eq(&known.target.checked, &target.checked) => known.stands,
                known => {
                    self.forget(&key, known, &mut ended);
                    let first = health_check::first(target.check(), now, random());
                    self.due.insert((first, key.clone()));
                    Stands::Due(first)
                }
            };
            self.entries.insert(key, Entry { target, stands });
        }
        for (key, gone) in before {
            self.forget(&key, Some(gone), &mut ended);
        }
        ended
    }

    fn forget(&mut self, key: &Key, entry: Option<Entry>, ended: &mut Vec<Key>) {
        match entry.map(|entry| entry.stands) {
            Some(Stands::Due(at)) => {
                self.due.remove(&(at, key.clone()));
            }
            Some(Stands::UnderWay { .. }) => {
                self.under_way = self.under_way.saturating_sub(1);
                ended.push(key.clone());
            }
            None => {}
        }
    }

    /// When the next check may begin; `None`: not before one ends.
    pub(super) fn next(&self) -> Option<Time> {
        let (at, _) = self.due.first().filter(|_| self.under_way < AT_ONCE_MAX)?;
        Some(*at)
    }

    /// The next check, if one may begin at `now`.
    pub(super) fn begin(&mut self, now: Time) -> Option<Begun> {
        let at = self.next().filter(|at| *at <= now)?;
        let (_, key) = self.due.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.stands = Stands::UnderWay { began: now };
        self.under_way += 1;
        Some(Begun {
            target: entry.target.clone(),
            late: now.saturating_since(at) > LATE,
            key,
        })
    }

    /// A check has ended, and the next one of the same endpoint becomes due. Returns what was checked; `None`: that is
    /// not checked any more.
    pub(super) fn ended(&mut self, key: Key, now: Time, random: u64) -> Option<&Target> {
        let entry = self.entries.get_mut(&key)?;
        let Stands::UnderWay { began } = entry.stands else {
            return None;
        };
        let next = health_check::next(entry.target.check(), began, now, random);
        entry.stands = Stands::Due(next);
        self.due.insert((next, key));
        self.under_way = self.under_way.saturating_sub(1);
        Some(&entry.target)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_policy::model::{HealthCheck, HealthCheckKind};

    use super::*;
    use crate::health_check::tests::{check, target};

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    /// Endpoints of one cluster, of these ports.
    fn targets(check: &HealthCheck, ports: impl IntoIterator<Item = u16>) -> Vec<(Key, Target)> {
        let ports: Vec<u16> = ports.into_iter().collect();
        ports.into_iter().map(|port| target(check, port)).collect()
    }

    fn ports(begun: &[Begun]) -> Vec<u16> {
        begun.iter().map(|begun| begun.key.1.port()).collect()
    }

    fn begin_all(agenda: &mut Agenda, now: Time) -> Vec<Begun> {
        std::iter::from_fn(|| agenda.begin(now)).collect()
    }

    #[test]
    fn checks_take_turns_and_come_again() {
        let check = check(HealthCheckKind::Tcp);
        let mut agenda = Agenda::default();
        let mut draws = [0, u64::MAX / 2].into_iter();
        let ended = agenda.follow(targets(&check, [1, 2]).into_iter(), at(0), || {
            draws.next().expect("two")
        });
        assert!(ended.is_empty());
        assert_eq!(ports(&begin_all(&mut agenda, at(0))), [1]);
        assert!(
            agenda.next() > Some(at(4_999)) && agenda.next() <= Some(at(5_000)),
            "in the middle of 10 s"
        );
        assert_eq!(ports(&begin_all(&mut agenda, at(5_000))), [2]);
        assert_eq!(agenda.next(), None, "both are under way");
        let (one, _) = target(&check, 1);
        agenda.ended(one.clone(), at(6_000), 0);
        assert_eq!(agenda.next(), Some(at(10_000)), "an interval after it began");
        assert!(agenda.begin(at(9_999)).is_none());
        assert_eq!(ports(&begin_all(&mut agenda, at(10_000))), [1]);
        // One that took longer than the interval is followed by the next at once.
        agenda.ended(one, at(25_000), 0);
        assert_eq!(agenda.next(), Some(at(25_000)));
    }

    #[test]
    fn no_more_than_so_many_are_under_way_and_what_waits_keeps_its_order() {
        let check = check(HealthCheckKind::Tcp);
        let all = u16::try_from(AT_ONCE_MAX).expect("few") + 2;
        let mut agenda = Agenda::default();
        agenda.follow(targets(&check, 1..=all).into_iter(), at(0), || 0);
        let begun = begin_all(&mut agenda, at(0));
        assert_eq!(begun.len(), AT_ONCE_MAX);
        assert!(begun.iter().all(|begun| !begun.late));
        assert_eq!(agenda.next(), None);
        agenda.ended(begun[5].key.clone(), at(2_000), 0);
        let next = agenda.begin(at(2_000)).expect("there is room");
        assert_eq!(next.key.1.port(), all - 1);
        assert!(next.late, "it waited for two seconds");
        assert_eq!(agenda.next(), None);
    }

    #[test]
    fn what_is_gone_or_under_other_rules_is_checked_no_more() {
        let rules = check(HealthCheckKind::Tcp);
        let mut agenda = Agenda::default();
        let known = targets(&rules, [1, 2, 3]);
        agenda.follow(known.clone().into_iter(), at(0), || 0);
        let begun = begin_all(&mut agenda, at(0));
        assert_eq!(ports(&begun), [1, 2, 3]);
        agenda.ended(known[2].0.clone(), at(1), 0);
        // 1 stays, 2 goes, 3 gets other rules, 4 is new.
        let mut next = vec![known[0].clone()];
        next.extend(targets(&rules, [3, 4]));
        let ended = agenda.follow(next.into_iter(), at(1_000), || 0);
        assert_eq!(ended, [known[1].0.clone()]);
        assert_eq!(ports(&begin_all(&mut agenda, at(1_000))), [3, 4]);
        // What comes back late from one that is gone changes nothing.
        agenda.ended(known[1].0.clone(), at(1_001), 0);
        assert_eq!(agenda.next(), None);
        assert_eq!(agenda.follow(std::iter::empty(), at(1_002), || 0).len(), 3);
        assert_eq!(agenda.under_way, 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Follow(Vec<u16>),
        Pass(u64),
        End(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => prop::collection::btree_set(0..100_u16, 0..90).prop_map(|ports| Step::Follow(ports.into_iter().collect())),
            4 => (0..3_000_u64).prop_map(Step::Pass),
            4 => any::<usize>().prop_map(Step::End),
        ]
    }

    proptest! {
        /// Each endpoint that is to be checked is either due or under way, each at most once, and none else.
        #[test]
        fn every_endpoint_is_due_or_under_way(steps in prop::collection::vec(step(), 1..60), seed: u64) {
            let check = HealthCheck { interval: SECOND, ..check(HealthCheckKind::Tcp) };
            let all = targets(&check, 0..100);
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut agenda, mut now) = (Agenda::default(), Time::ZERO);
            let mut under_way: Vec<Key> = Vec::new();
            for step in steps {
                match step {
                    Step::Follow(ports) => {
                        let wanted = ports.iter().map(|port| all[usize::from(*port)].clone());
                        let gone = agenda.follow(wanted, now, || random.u64(..));
                        prop_assert!(gone.iter().all(|key| under_way.contains(key)));
                        under_way.retain(|key| !gone.contains(key));
                        prop_assert_eq!(agenda.entries.len(), ports.len());
                    }
                    Step::Pass(millis) => {
                        now = now + Duration::from_millis(millis);
                        for begun in begin_all(&mut agenda, now) {
                            prop_assert!(!under_way.contains(&begun.key), "{:?} is under way", begun.key);
                            under_way.push(begun.key);
                        }
                        prop_assert!(under_way.len() == AT_ONCE_MAX || agenda.next().is_none_or(|next| next > now));
                    }
                    Step::End(_) if under_way.is_empty() => {}
                    Step::End(index) => {
                        let key = under_way.swap_remove(index % under_way.len());
                        agenda.ended(key, now, random.u64(..));
                    }
                }
                prop_assert_eq!(agenda.under_way, under_way.len());
                prop_assert_eq!(agenda.due.len() + agenda.under_way, agenda.entries.len());
            }
        }
    }
}
