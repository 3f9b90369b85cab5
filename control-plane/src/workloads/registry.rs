//! Which workloads there are, and how sure of them we are. Pure: the clock is passed in, what changed is handed out by
//! [`Registry::take_changes`].

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use weir_api::workload::{State, WorkloadSpec};
use weir_policy::names::WorkloadName;

/// One stream of one proxy; never used twice by one control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(pub(crate) u64);

/// What a proxy said of itself when it registered; checked before it comes here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    /// What becomes the Workload's spec.
    pub(crate) spec: WorkloadSpec,
    /// What becomes its labels, matched by Services' selectors.
    pub(crate) labels: BTreeMap<String, String>,
}

impl Registration {
    fn app_ports(&self) -> impl Iterator<Item = NonZeroU16> {
        self.spec.ports.iter().map(|port| port.app_port)
    }
}

/// A workload as it stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// What it said of itself.
    pub(crate) registration: Registration,
    /// App ports that take connections.
    pub(crate) ready: BTreeSet<NonZeroU16>,
    /// How sure we are of it.
    pub(crate) state: State,
}

/// Why a registration is not taken: the name is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Taken {
    /// By a newer instance.
    #[error("a newer instance of this workload is registered (started at {held}, this one at {given} µs of Unix time)")]
    Newer {
        /// The instance that holds the name.
        held: u64,
        /// The instance that was refused.
        given: u64,
    },
    /// By a workload of another account.
    #[error(
        "this workload is registered by account {held:?} (given: {given:?}); it is free again when that one is gone, or \
         take another name"
    )]
    OtherAccount {
        /// Who holds the name.
        held: String,
        /// Who was refused; empty: nobody known, in cleartext.
        given: String,
    },
}

/// Every workload of the mesh.
#[derive(Debug)]
pub(crate) struct Registry {
    entries: BTreeMap<WorkloadName, Workload>,
    streams: BTreeMap<StreamId, WorkloadName>,
    changed: BTreeSet<WorkloadName>,
    unconfirmed_timeout: Duration,
}

#[derive(Debug)]
struct Workload {
    registration: Registration,
    ready: BTreeSet<NonZeroU16>,
    traffic: Traffic,
    presence: Presence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traffic {
    Wanted,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here(StreamId),
    Lost { since: Instant },
}

impl Registry {
    /// An empty registry. An unconfirmed workload leaves after `unconfirmed_timeout`, by the rule of [`Self::expire`].
    pub(crate) fn new(unconfirmed_timeout: Duration) -> Self {
        Registry {
            entries: BTreeMap::new(),
            streams: BTreeMap::new(),
            changed: BTreeSet::new(),
            unconfirmed_timeout,
        }
    }

    /// Takes over a workload from the store when the control plane starts: it is unconfirmed until it registers again.
    pub(crate) fn restore(&mut self, name: WorkloadName, record: Record, now: Instant) {
        let traffic = match record.state {
            State::Draining => Traffic::Refused,
            State::Confirmed | State::Unconfirmed => Traffic::Wanted,
        };
        if record.state == State::Confirmed {
            self.changed.insert(name.clone());
        }
        let workload = Workload {
            registration: record.registration,
            ready: record.ready,
            traffic,
            presence: Presence::Lost { since: now },
        };
        self.entries.insert(name, workload);
    }

    /// A proxy says what it is. A newer instance takes the place of an older one. The same instance on a new stream
    /// keeps what is known of its health and its draining, so that a reconnect changes nothing for its callers. Returns
    /// the stream that held the name until now, which has nothing more to say. A name that an account holds is its
    /// alone; one that was taken in cleartext is anybody's.
    ///
    /// # Errors
    /// When a newer instance or another account holds the name.
    pub(crate) fn register(
        &mut self,
        stream: StreamId,
        name: WorkloadName,
        registration: Registration,
    ) -> Result<Option<StreamId>, Taken> {
        let held = self.entries.get(&name);
        let account = |registration: &Registration| registration.spec.account.clone();
        let owner = held
            .map(|held| account(&held.registration))
            .filter(|owner| !owner.is_empty());
        if let Some(held) = owner.filter(|owner| *owner != registration.spec.account) {
            let given = account(&registration);
            return Err(Taken::OtherAccount { held, given });
        }
        if let Some(held) = held.filter(|held| held.registration.spec.instance > registration.spec.instance) {
            return Err(Taken::Newer {
                held: held.registration.spec.instance,
                given: registration.spec.instance,
            });
        }
        let same = held.filter(|held| held.registration.spec.instance == registration.spec.instance);
        let ports: BTreeSet<NonZeroU16> = registration.app_ports().collect();
        let ready = same.map_or_else(BTreeSet::new, |same| same.ready.intersection(&ports).copied().collect());
        let traffic = same.map_or(Traffic::Wanted, |same| same.traffic);
        let replaced = held.and_then(|held| match held.presence {
            Presence::Here(stream) => Some(stream),
            Presence::Lost { .. } => None,
        });
        if let Some(replaced) = replaced {
            self.streams.remove(&replaced);
        }
        let workload = Workload {
            registration,
            ready,
            traffic,
            presence: Presence::Here(stream),
        };
        self.entries.insert(name.clone(), workload);
        self.changed.insert(name.clone());
        self.streams.insert(stream, name);
        Ok(replaced)
    }

    /// Which of the workload's app ports take connections now; ports it never named are ignored.
    pub(crate) fn health(&mut self, stream: StreamId, ready: &BTreeSet<NonZeroU16>) {
        let Some((name, workload)) = self.of_stream(stream) else {
            return;
        };
        let ready: BTreeSet<NonZeroU16> = workload
            .registration
            .app_ports()
            .filter(|port| ready.contains(port))
            .collect();
        if workload.ready != ready {
            workload.ready = ready;
            self.changed.insert(name);
        }
    }

    /// New requests should no longer come.
    pub(crate) fn draining(&mut self, stream: StreamId) {
        let Some((name, workload)) = self.of_stream(stream) else {
            return;
        };
        if workload.traffic != Traffic::Refused {
            workload.traffic = Traffic::Refused;
            self.changed.insert(name);
        }
    }

    /// The workload is gone.
    pub(crate) fn deregister(&mut self, stream: StreamId) {
        if let Some(name) = self.streams.remove(&stream) {
            self.entries.remove(&name);
            self.changed.insert(name);
        }
    }

    /// All workloads of a namespace are gone. Returns the streams of those that were here.
    pub(crate) fn leave(&mut self, namespace: &str) -> Vec<StreamId> {
        let names = self
            .entries
            .keys()
            .filter(|name| name.namespace.to_string() == namespace);
        let names: Vec<WorkloadName> = names.cloned().collect();
        let mut streams = Vec::new();
        for name in names {
            let left = self.entries.remove(&name);
            if let Some(Presence::Here(stream)) = left.map(|workload| workload.presence) {
                self.streams.remove(&stream);
                streams.push(stream);
            }
            self.changed.insert(name);
        }
        streams
    }

    /// The stream ended without a word: the workload is unconfirmed from now. A stream that no longer holds its name
    /// changes nothing.
    pub(crate) fn lost(&mut self, stream: StreamId, now: Instant) {
        let Some(name) = self.streams.remove(&stream) else {
            return;
        };
        if let Some(workload) = self.entries.get_mut(&name) {
            workload.presence = Presence::Lost { since: now };
            self.changed.insert(name);
        }
    }

    /// Takes out who has been unconfirmed for the time-out, but only while more than half of the workloads of its zone
    /// are confirmed, or the other one of two: a cut-off site is not deleted. All are judged by the same count, before
    /// any leaves.
    pub(crate) fn expire(&mut self, now: Instant) {
        let zones = self.zones();
        let leaves = |workload: &Workload| match workload.presence {
            Presence::Here(_) => false,
            Presence::Lost { since } => {
                let old_enough = now.saturating_duration_since(since) >= self.unconfirmed_timeout;
                old_enough && zones.get(&zone(workload)).is_some_and(Count::mostly_confirmed)
            }
        };
        let gone: Vec<WorkloadName> = self
            .entries
            .iter()
            .filter(|(_, workload)| leaves(workload))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.entries.remove(&name);
            self.changed.insert(name);
        }
    }

    /// When [`Self::expire`] may next have something to do if nothing happens until then; `None`: not by time alone.
    pub(crate) fn next_expiry(&self, now: Instant) -> Option<Instant> {
        let lost = self.entries.values().filter_map(|workload| match workload.presence {
            Presence::Here(_) => None,
            Presence::Lost { since } => since.checked_add(self.unconfirmed_timeout),
        });
        lost.filter(|due| *due > now).min()
    }

    /// What changed since the last call: each workload as it is now, `None` when it is gone.
    pub(crate) fn take_changes(&mut self) -> Vec<(WorkloadName, Option<Record>)> {
        let changed = std::mem::take(&mut self.changed);
        let now = changed.into_iter().map(|name| {
            let record = self.entries.get(&name).map(Workload::record);
            (name, record)
        });
        now.collect()
    }

    /// Puts a change back that could not be written, so that the next [`Self::take_changes`] hands it out again.
    pub(crate) fn keep_change(&mut self, name: WorkloadName) {
        self.changed.insert(name);
    }

    fn of_stream(&mut self, stream: StreamId) -> Option<(WorkloadName, &mut Workload)> {
        let name = self.streams.get(&stream)?;
        let workload = self.entries.get_mut(name)?;
        Some((name.clone(), workload))
    }

    fn zones(&self) -> BTreeMap<(&str, &str), Count> {
        let mut zones: BTreeMap<(&str, &str), Count> = BTreeMap::new();
        for workload in self.entries.values() {
            let count = zones.entry(zone(workload)).or_default();
            count.all += 1;
            if matches!(workload.presence, Presence::Here(_)) {
                count.confirmed += 1;
            }
        }
        zones
    }
}

/// A zone's workloads, counted.
#[derive(Debug, Default)]
struct Count {
    confirmed: usize,
    all: usize,
}

impl Count {
    /// Of two, one that crashed is half of the zone and yet no cut-off site: the other one speaks for the zone.
    fn mostly_confirmed(&self) -> bool {
        let unconfirmed = self.all - self.confirmed;
        self.confirmed > unconfirmed || (self.confirmed, unconfirmed) == (1, 1)
    }
}

fn zone(workload: &Workload) -> (&str, &str) {
    let locality = &workload.registration.spec.locality;
    (&locality.region, &locality.zone)
}

impl Workload {
    fn record(&self) -> Record {
        let state = match (self.traffic, self.presence) {
            (Traffic::Refused, _) => State::Draining,
            (Traffic::Wanted, Presence::Here(_)) => State::Confirmed,
            (Traffic::Wanted, Presence::Lost { .. }) => State::Unconfirmed,
        };
        Record {
            registration: self.registration.clone(),
            ready: self.ready.clone(),
            state,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;
    use weir_api::service::AppProtocol;
    use weir_api::workload::{WorkloadLocality, WorkloadPort};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn name(text: &str) -> WorkloadName {
        text.parse().expect("a workload's name")
    }

    fn registration(instance: u64, zone: &str) -> Registration {
        let spec = WorkloadSpec {
            address: IpAddr::from([127, 0, 0, 1]),
            ports: vec![WorkloadPort {
                app_port: port(8080),
                inbound_port: port(15006),
                protocol: AppProtocol::Http1,
                edge: false,
            }],
            locality: WorkloadLocality {
                region: "east".into(),
                zone: zone.into(),
                site: String::new(),
            },
            instance,
            version: "0.1.0".into(),
            account: String::new(),
        };
        Registration {
            spec,
            labels: BTreeMap::new(),
        }
    }

    fn port(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).expect("not zero")
    }

    fn ready(ports: &[u16]) -> BTreeSet<NonZeroU16> {
        ports.iter().copied().map(port).collect()
    }

    fn state(registry: &Registry, of: &str) -> Option<State> {
        registry.entries.get(&name(of)).map(|workload| workload.record().state)
    }

    fn changes(registry: &mut Registry) -> Vec<(String, Option<State>)> {
        let changes = registry.take_changes().into_iter();
        changes
            .map(|(name, record)| (name.to_string(), record.map(|record| record.state)))
            .collect()
    }

    #[test]
    fn a_life_from_registration_to_the_end() {
        let mut registry = Registry::new(TIMEOUT);
        let stream = StreamId(1);
        registry
            .register(stream, name("a/b"), registration(1, "z"))
            .expect("nobody holds it");
        assert_eq!(changes(&mut registry), [("a/b".to_owned(), Some(State::Confirmed))]);

        registry.health(stream, &ready(&[8080, 9999]));
        let held = registry.take_changes();
        assert_eq!(
            held[0].1.as_ref().expect("it is here").ready,
            ready(&[8080]),
            "9999 is no port of it"
        );
        registry.health(stream, &ready(&[8080]));
        assert!(registry.take_changes().is_empty(), "nothing new was said");

        registry.draining(stream);
        assert_eq!(changes(&mut registry), [("a/b".to_owned(), Some(State::Draining))]);
        registry.deregister(stream);
        assert_eq!(changes(&mut registry), [("a/b".to_owned(), None)]);
        registry.lost(stream, Instant::now());
        assert!(
            registry.take_changes().is_empty(),
            "the end of its stream says nothing more"
        );
    }

    #[test]
    fn a_name_is_its_accounts_alone_until_it_is_free() {
        let mut registry = Registry::new(TIMEOUT);
        let of = |account: &str, instance| {
            let mut registration = registration(instance, "z");
            registration.spec.account = account.to_owned();
            registration
        };
        // In cleartext nobody is known: who comes with an account takes it over.
        registry
            .register(StreamId(1), name("a/b"), of("", 5))
            .expect("nobody holds it");
        registry
            .register(StreamId(2), name("a/b"), of("portal", 5))
            .expect("nobody known holds it");
        let taken = |given: &str| Taken::OtherAccount {
            held: "portal".to_owned(),
            given: given.to_owned(),
        };
        registry.lost(StreamId(2), Instant::now());
        for account in ["", "police"] {
            let refused = registry.register(StreamId(3), name("a/b"), of(account, 9));
            assert_eq!(refused, Err(taken(account)), "also while its stream is lost");
        }
        registry
            .register(StreamId(4), name("a/b"), of("portal", 6))
            .expect("it is its own");
        registry.deregister(StreamId(4));
        registry
            .register(StreamId(5), name("a/b"), of("police", 1))
            .expect("it is free");
    }

    #[test]
    fn a_newer_instance_takes_the_place_and_an_older_one_does_not() {
        let mut registry = Registry::new(TIMEOUT);
        registry
            .register(StreamId(1), name("a/b"), registration(5, "z"))
            .expect("nobody holds it");
        registry.health(StreamId(1), &ready(&[8080]));
        let replaced = registry.register(StreamId(2), name("a/b"), registration(6, "z"));
        assert_eq!(replaced, Ok(Some(StreamId(1))));
        let held = registry.take_changes();
        assert!(
            held[0].1.as_ref().expect("here").ready.is_empty(),
            "the new instance's health is not known yet"
        );

        let refused = registry.register(StreamId(3), name("a/b"), registration(5, "z"));
        assert_eq!(refused, Err(Taken::Newer { held: 6, given: 5 }));
        registry.deregister(StreamId(1));
        registry.lost(StreamId(1), Instant::now());
        assert_eq!(
            state(&registry, "a/b"),
            Some(State::Confirmed),
            "the older one's words no longer count"
        );
        assert!(registry.take_changes().is_empty());
    }

    #[test]
    fn an_instance_that_drains_goes_on_draining_and_the_next_one_does_not() {
        let mut registry = Registry::new(TIMEOUT);
        registry
            .register(StreamId(1), name("a/b"), registration(5, "z"))
            .expect("nobody holds it");
        registry.draining(StreamId(1));
        registry.lost(StreamId(1), Instant::now());
        registry
            .register(StreamId(2), name("a/b"), registration(5, "z"))
            .expect("it is the same");
        assert_eq!(state(&registry, "a/b"), Some(State::Draining));
        registry
            .register(StreamId(3), name("a/b"), registration(6, "z"))
            .expect("it is newer");
        assert_eq!(state(&registry, "a/b"), Some(State::Confirmed));
    }

    #[test]
    fn a_reconnect_of_the_same_instance_keeps_its_health() {
        let mut registry = Registry::new(TIMEOUT);
        registry
            .register(StreamId(1), name("a/b"), registration(5, "z"))
            .expect("nobody holds it");
        registry.health(StreamId(1), &ready(&[8080]));
        registry
            .register(StreamId(2), name("a/b"), registration(5, "z"))
            .expect("it is the same");
        registry.lost(StreamId(1), Instant::now());
        let held = registry.take_changes();
        let record = held[0].1.as_ref().expect("here");
        assert_eq!((record.state, record.ready.clone()), (State::Confirmed, ready(&[8080])));
    }

    /// A zone of `confirmed` workloads with open streams and `lost` ones whose stream ended at the start.
    #[track_caller]
    fn zone_of(confirmed: u64, lost: u64, expect_left: usize) {
        let mut registry = Registry::new(TIMEOUT);
        let start = Instant::now();
        for n in 0..confirmed + lost {
            let stream = StreamId(n);
            registry
                .register(stream, name(&format!("a/w{n}")), registration(1, "z"))
                .expect("new");
            if n >= confirmed {
                registry.lost(stream, start);
            }
        }
        registry.expire(start + TIMEOUT - Duration::from_millis(1));
        assert_eq!(
            registry.entries.len() as u64,
            confirmed + lost,
            "nobody leaves before the time-out"
        );
        let due = (lost > 0).then_some(start + TIMEOUT);
        assert_eq!(registry.next_expiry(start), due);
        registry.expire(start + TIMEOUT);
        assert_eq!(registry.entries.len(), expect_left);
    }

    #[test]
    fn the_unconfirmed_leave_only_while_most_of_their_zone_is_confirmed() {
        zone_of(3, 1, 3);
        zone_of(2, 1, 2);
        zone_of(1, 1, 1);
        zone_of(0, 1, 1);
        zone_of(2, 2, 4);
        zone_of(3, 3, 6);
        zone_of(1, 3, 4);
        zone_of(0, 4, 4);
        zone_of(4, 0, 4);
    }

    #[test]
    fn another_zone_does_not_speak_for_a_cut_off_one() {
        let mut registry = Registry::new(TIMEOUT);
        let start = Instant::now();
        for n in 0..9 {
            registry
                .register(StreamId(n), name(&format!("a/w{n}")), registration(1, "up"))
                .expect("new");
        }
        for n in 10..12 {
            registry
                .register(StreamId(n), name(&format!("a/w{n}")), registration(1, "cut"))
                .expect("new");
            registry.lost(StreamId(n), start);
        }
        registry.expire(start + TIMEOUT * 10);
        assert_eq!(state(&registry, "a/w10"), Some(State::Unconfirmed));
    }

    #[test]
    fn what_the_store_held_is_unconfirmed_until_it_registers_again() {
        let mut registry = Registry::new(TIMEOUT);
        let start = Instant::now();
        for n in 0..3 {
            let record = Record {
                registration: registration(7, "z"),
                ready: ready(&[8080]),
                state: State::Confirmed,
            };
            registry.restore(name(&format!("a/w{n}")), record, start);
        }
        assert_eq!(changes(&mut registry).len(), 3, "each is written as unconfirmed");
        registry.expire(start + TIMEOUT);
        assert_eq!(registry.entries.len(), 3, "nobody is confirmed yet");
        for n in 0..2 {
            registry
                .register(StreamId(n), name(&format!("a/w{n}")), registration(7, "z"))
                .expect("the same instance");
        }
        registry.expire(start + TIMEOUT);
        assert_eq!(registry.entries.len(), 2, "most are back: the third is gone");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Register { workload: u8, instance: u8 },
        Health { stream: u8, takes: bool },
        Draining { stream: u8 },
        Deregister { stream: u8 },
        Lost { stream: u8 },
        Wait { seconds: u8 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4u8, 0..4u8).prop_map(|(workload, instance)| Step::Register { workload, instance }),
            (0..24u8, any::<bool>()).prop_map(|(stream, takes)| Step::Health { stream, takes }),
            (0..24u8).prop_map(|stream| Step::Draining { stream }),
            (0..24u8).prop_map(|stream| Step::Deregister { stream }),
            (0..24u8).prop_map(|stream| Step::Lost { stream }),
            (0..90u8).prop_map(|seconds| Step::Wait { seconds }),
        ]
    }

    proptest! {
        /// Whatever happens: an instance never goes back, the changes handed out rebuild the registry, and time alone
        /// takes nobody out unless most of the zone is confirmed.
        #[test]
        fn the_registry_holds_its_invariants(steps in proptest::collection::vec(step(), 0..60)) {
            let mut registry = Registry::new(TIMEOUT);
            let mut now = Instant::now();
            let mut mirror: BTreeMap<WorkloadName, Record> = BTreeMap::new();
            let mut next_stream = 0;
            for step in steps {
                let instance = |held: &Workload| held.registration.spec.instance;
                let before: BTreeMap<_, _> =
                    registry.entries.iter().map(|(name, held)| (name.clone(), instance(held))).collect();
                match step {
                    Step::Register { workload, instance } => {
                        let own = name(&format!("a/w{workload}"));
                        let held = before.get(&own).copied();
                        let taken = registry.register(StreamId(next_stream), own, registration(instance.into(), "z"));
                        prop_assert_eq!(taken.is_ok(), held.is_none_or(|held| held <= instance.into()));
                        next_stream += 1;
                    }
                    Step::Health { stream, takes } => {
                        let ports: &[u16] = if takes { &[8080] } else { &[] };
                        registry.health(StreamId(stream.into()), &ready(ports));
                    }
                    Step::Draining { stream } => registry.draining(StreamId(stream.into())),
                    Step::Deregister { stream } => registry.deregister(StreamId(stream.into())),
                    Step::Lost { stream } => registry.lost(StreamId(stream.into()), now),
                    Step::Wait { seconds } => {
                        now += Duration::from_secs(seconds.into());
                        let here = |held: &&Workload| matches!(held.presence, Presence::Here(_));
                        let confirmed = registry.entries.values().filter(here).count();
                        registry.expire(now);
                        let left = before.len() - registry.entries.len();
                        prop_assert!(left == 0 || confirmed * 2 > before.len() || (confirmed, before.len()) == (1, 2));
                    }
                }
                for (name, instance) in before {
                    let kept = registry.entries.get(&name);
                    prop_assert!(kept.is_none_or(|kept| kept.registration.spec.instance >= instance));
                }
                for (name, record) in registry.take_changes() {
                    match record {
                        Some(record) => mirror.insert(name, record),
                        None => mirror.remove(&name),
                    };
                }
                let whole: BTreeMap<_, _> =
                    registry.entries.iter().map(|(name, held)| (name.clone(), held.record())).collect();
                prop_assert_eq!(&mirror, &whole);
            }
        }
    }
}
