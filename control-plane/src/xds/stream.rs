//! What one delta ADS stream has asked for, been told and confirmed. Pure: it decides what must be said, the caller
//! says it.
//!
//! Rules are of the xDS protocol's page ("xDS REST and gRPC protocol", Envoy's documentation), sections "Incremental
//! xDS", "Resource names", "Subscribing to Resources", "Unsubscribing From Resources" and "ACK and NACK semantics per
//! resource type"; each is named where it is kept. Each answer carries one resource or one removal, so that its ACK or
//! NACK speaks for that one alone.

use std::collections::BTreeMap;
use std::time::Instant;

use weir_xds::ResourceType;

use crate::compile::Version;
use crate::store::Revision;

/// The most resources one stream may subscribe to: far above what an app uses, and it bounds a stream's memory.
pub(crate) const SUBSCRIPTIONS_MAX: usize = 10_000;

/// The number of an answer on its stream; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Nonce(u64);

impl std::fmt::Display for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What is said of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// It exists, in this version.
    Version(Version),
    /// It does not exist.
    Absent,
}

/// One request of a client, taken apart.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Names to add.
    pub(crate) subscribe: Vec<String>,
    /// Names to let go.
    pub(crate) unsubscribe: Vec<String>,
    /// What the client says it has from an earlier stream, name by version.
    pub(crate) initial_versions: BTreeMap<String, String>,
    /// The answer that this request confirms or rejects; empty: none.
    pub(crate) response_nonce: String,
    /// Why the client rejects that answer; `None`: it confirms it.
    pub(crate) error: Option<String>,
}

/// What a request asks of the server.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Effect {
    /// Names that the client subscribed to in this request; [`Subscriptions::tell`] knows which of them need an answer.
    pub(crate) wanted: Vec<String>,
    /// Names it let go of.
    pub(crate) let_go: Vec<String>,
    /// The resource that this request confirmed or rejected, if it was the newest said of it.
    pub(crate) verdict_on: Option<String>,
}

/// Why a request ends its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// See [`SUBSCRIPTIONS_MAX`].
    #[error("a stream may subscribe to at most {SUBSCRIPTIONS_MAX} resources")]
    TooMany,
}

/// When something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// On the clock.
    pub(crate) time: Instant,
    /// In the store's history.
    pub(crate) revision: Revision,
}

/// One subscribed resource as the client has it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Subscription {
    said: Option<Said>,
    /// What the client last confirmed.
    in_force: Option<Held>,
    /// Why the client rejected what was said last.
    rejected: Option<String>,
    /// It was asked for and not answered yet.
    owed: Owed,
    /// Since when what is in force is not what was said last.
    behind: Option<Moment>,
}

/// The newest that was said.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Said {
    held: Held,
    /// By which answer; `None`: the client had it when the stream began.
    by: Option<Nonce>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Owed {
    #[default]
    Nothing,
    Answer,
}

/// Where the client stands with a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It confirmed what was said last.
    InForce,
    /// It has not answered yet, or was not told yet.
    Pending,
    /// It rejected what was said last, for this reason.
    Rejected(String),
}

impl Standing {
    /// Of two resources that concern one object the worse tells; of two rejections the first.
    pub(crate) fn worsen(&mut self, other: Standing) {
        match (&*self, &other) {
            (Standing::Rejected(_), _) | (_, Standing::InForce) | (Standing::Pending, Standing::Pending) => {}
            (Standing::InForce | Standing::Pending, Standing::Rejected(_) | Standing::Pending) => *self = other,
        }
    }
}

impl Subscription {
    /// Where the client stands.
    pub(crate) fn standing(&self) -> Standing {
        if let Some(reason) = &self.rejected {
            return Standing::Rejected(reason.clone());
        }
        match (self.said, self.in_force) {
            (Some(said), Some(in_force)) if said.held == in_force => Standing::InForce,
            _ => Standing::Pending,
        }
    }

    /// Since when the client is behind what was said; `None`: it is not, or was told nothing yet.
    pub(crate) fn behind(&self) -> Option<Moment> {
        self.behind
    }
}

/// Everything a stream subscribes to.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    types: BTreeMap<ResourceType, TypeState>,
    /// Answers that can still be confirmed: the newest of each resource, so never more than there are subscriptions.
    open: BTreeMap<Nonce, (ResourceType, String)>,
    last_nonce: u64,
    count: usize,
}

#[derive(Debug, Default)]
struct TypeState {
    resources: BTreeMap<String, Subscription>,
}

impl Subscriptions {
    /// Takes in one request for resources of one type.
    ///
    /// # Errors
    /// When the stream has to end.
    pub(crate) fn ask(&mut self, of: ResourceType, asked: Asked) -> Result<Effect, Refusal> {
        let verdict_on = self.verdict(of, &asked);
        // "Incremental xDS": initial_resource_versions is populated in the first request of each type on a stream only.
        let first = !self.types.contains_key(&of);
        let mut let_go = Vec::new();
        for name in asked.unsubscribe {
            if self.forget(of, &name) {
                let_go.push(name);
            }
        }
        let resources = &mut self.types.entry(of).or_default().resources;
        for name in &asked.subscribe {
            let fresh = !resources.contains_key(name);
            if fresh {
                if self.count >= SUBSCRIPTIONS_MAX {
                    return Err(Refusal::TooMany);
                }
                self.count += 1;
            }
            let subscription = resources.entry(name.clone()).or_default();
            let had = asked.initial_versions.get(name).filter(|_| first && fresh);
            match had.and_then(|version| version.parse().ok()) {
                // "Incremental xDS", reconnect: what the client has in the current version need not be sent again.
                Some(version) => {
                    let held = Held::Version(version);
                    subscription.said = Some(Said { held, by: None });
                    subscription.in_force = Some(held);
                }
                // DeltaDiscoveryRequest.resource_names_subscribe: the server must answer every name listed, even one
                // it believes the client to have: the client may have dropped it in between.
                None => subscription.owed = Owed::Answer,
            }
        }
        Ok(Effect {
            wanted: asked.subscribe,
            let_go,
            verdict_on,
        })
    }

    /// Decides whether the client must be told that the resource is now `held`, and if so by which answer. A version
    /// that was rejected is not repeated unasked; one that was not confirmed yet does not hold back a newer one.
    pub(crate) fn tell(&mut self, of: ResourceType, name: &str, held: Held, now: Moment) -> Option<Nonce> {
        let subscription = self.types.get_mut(&of)?.resources.get_mut(name)?;
        if subscription.owed == Owed::Nothing && subscription.said.is_some_and(|said| said.held == held) {
            return None;
        }
        self.last_nonce += 1;
        let nonce = Nonce(self.last_nonce);
        let said = Said { held, by: Some(nonce) };
        if let Some(older) = subscription.said.replace(said).and_then(|said| said.by) {
            self.open.remove(&older);
        }
        subscription.owed = Owed::Nothing;
        subscription.rejected = None;
        subscription.behind = match subscription.in_force {
            Some(in_force) if in_force == held => None,
            _ => Some(subscription.behind.unwrap_or(now)),
        };
        self.open.insert(nonce, (of, name.to_owned()));
        Some(nonce)
    }

    /// Every subscription, by type and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ResourceType, &str, &Subscription)> {
        let types = self.types.iter();
        types.flat_map(|(of, state)| state.resources.iter().map(|(name, held)| (*of, name.as_str(), held)))
    }

    /// One subscription.
    pub(crate) fn subscription(&self, of: ResourceType, name: &str) -> Option<&Subscription> {
        self.types.get(&of)?.resources.get(name)
    }

    /// "ACK and NACK": a request whose nonce names an answer confirms it, or rejects it when error_detail is set. One
    /// that names an answer which a newer one of the same resource has replaced says nothing about the newer one.
    fn verdict(&mut self, of: ResourceType, asked: &Asked) -> Option<String> {
        let nonce = asked.response_nonce.parse().map(Nonce).ok()?;
        // "Each resource type has its own nonces": an answer is confirmed by a request of its own type.
        let (said_of, _) = self.open.get(&nonce)?;
        if *said_of != of {
            return None;
        }
        let (_, name) = self.open.remove(&nonce)?;
        let subscription = self.types.get_mut(&of)?.resources.get_mut(&name)?;
        match &asked.error {
            None => {
                subscription.in_force = subscription.said.map(|said| said.held);
                subscription.behind = None;
            }
            Some(reason) => subscription.rejected = Some(reason.clone()),
        }
        Some(name)
    }

    /// "Unsubscribing From Resources": names the client does not hold are ignored.
    fn forget(&mut self, of: ResourceType, name: &str) -> bool {
        let Some(state) = self.types.get_mut(&of) else {
            return false;
        };
        let Some(subscription) = state.resources.remove(name) else {
            return false;
        };
        if let Some(nonce) = subscription.said.and_then(|said| said.by) {
            self.open.remove(&nonce);
        }
        self.count -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: ResourceType = ResourceType::Route;

    /// One step of a conversation.
    enum Step {
        /// The client subscribes; which names then need an answer when all are held in the given version.
        Subscribe(&'static [&'static str], &'static [&'static str]),
        /// The first request of a reconnect: subscribes with (name, version) it has; which need an answer.
        Reconnect(&'static [(&'static str, u128)], &'static [&'static str]),
        Unsubscribe(&'static [&'static str], &'static [&'static str]),
        /// The resource is now in this version (0: absent); the nonce it is told by.
        Change(&'static str, u128, Option<u64>),
        Ack(u64, Option<&'static str>),
        Nack(u64, Option<&'static str>),
        Stands(&'static str, Standing),
    }
    use Step::*;

    fn held(version: u128) -> Held {
        match version {
            0 => Held::Absent,
            version => Held::Version(Version(version)),
        }
    }

    fn moment(revision: u64) -> Moment {
        Moment {
            time: Instant::now(),
            revision: Revision(revision),
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Every resource starts in version 1.
    #[track_caller]
    fn check(steps: &[Step]) {
        let mut stream = Subscriptions::default();
        let mut now: BTreeMap<String, u128> = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            let asked = match step {
                Subscribe(wanted, _) => Asked {
                    subscribe: names(wanted),
                    ..Asked::default()
                },
                Reconnect(has, _) => Asked {
                    subscribe: has.iter().map(|(name, _)| (*name).to_owned()).collect(),
                    initial_versions: has
                        .iter()
                        .map(|(n, v)| ((*n).to_owned(), Version(*v).to_string()))
                        .collect(),
                    ..Asked::default()
                },
                Unsubscribe(gone, expect) => {
                    let asked = Asked {
                        unsubscribe: names(gone),
                        ..Asked::default()
                    };
                    let effect = stream.ask(ROUTE, asked).expect("few names");
                    assert_eq!(effect.let_go, names(expect), "step {at}");
                    continue;
                }
                Change(name, version, expect) => {
                    now.insert((*name).to_owned(), *version);
                    let told = stream.tell(ROUTE, name, held(*version), moment(0));
                    assert_eq!(told, expect.map(Nonce), "step {at}");
                    continue;
                }
                Ack(nonce, _) => Asked {
                    response_nonce: nonce.to_string(),
                    ..Asked::default()
                },
                Nack(nonce, _) => Asked {
                    response_nonce: nonce.to_string(),
                    error: Some("bad".to_owned()),
                    ..Asked::default()
                },
                Stands(name, expect) => {
                    let subscription = stream.subscription(ROUTE, name).expect("it is subscribed");
                    assert_eq!(subscription.standing(), *expect, "step {at}");
                    continue;
                }
            };
            let effect = stream.ask(ROUTE, asked).expect("few names");
            match step {
                Subscribe(_, expect) | Reconnect(_, expect) => {
                    let current = |name: &String| held(now.get(name).copied().unwrap_or(1));
                    let mut told = effect.wanted.clone();
                    told.retain(|name| stream.tell(ROUTE, name, current(name), moment(0)).is_some());
                    assert_eq!(told, names(expect), "step {at}");
                }
                Ack(_, expect) | Nack(_, expect) => assert_eq!(effect.verdict_on.as_deref(), *expect, "step {at}"),
                Unsubscribe(..) | Change(..) | Stands(..) => {}
            }
        }
    }

    #[test]
    fn what_is_subscribed_is_answered_and_confirmed_by_nonce() {
        check(&[
            Subscribe(&["a", "b"], &["a", "b"]),
            Stands("a", Standing::Pending),
            Ack(1, Some("a")),
            Stands("a", Standing::InForce),
            Stands("b", Standing::Pending),
            Nack(2, Some("b")),
            Stands("b", Standing::Rejected("bad".into())),
        ]);
    }

    #[test]
    fn a_name_subscribed_again_is_answered_again() {
        check(&[
            Subscribe(&["a"], &["a"]),
            Ack(1, Some("a")),
            Subscribe(&["a"], &["a"]),
            Ack(2, Some("a")),
            Stands("a", Standing::InForce),
        ]);
    }

    #[test]
    fn a_reconnect_is_sent_only_what_differs() {
        check(&[
            Change("b", 2, None),
            Change("c", 0, None),
            Reconnect(&[("a", 1), ("b", 1), ("c", 1)], &["b", "c"]),
            Stands("a", Standing::InForce),
            Stands("b", Standing::Pending),
            Change("a", 2, Some(3)),
        ]);
    }

    #[test]
    fn initial_versions_count_in_the_first_request_of_a_type_only() {
        check(&[Subscribe(&["a"], &["a"]), Reconnect(&[("b", 1)], &["b"])]);
    }

    #[test]
    fn an_unreadable_initial_version_is_as_none() {
        let mut stream = Subscriptions::default();
        let asked = Asked {
            subscribe: names(&["a"]),
            initial_versions: BTreeMap::from([("a".to_owned(), "not ours".to_owned())]),
            ..Asked::default()
        };
        stream.ask(ROUTE, asked).expect("one name");
        assert!(stream.tell(ROUTE, "a", held(1), moment(0)).is_some());
    }

    #[test]
    fn what_does_not_exist_is_said_once_and_what_comes_later_as_well() {
        check(&[
            Change("a", 0, None),
            Subscribe(&["a"], &["a"]),
            Change("a", 0, None),
            Ack(1, Some("a")),
            Stands("a", Standing::InForce),
            Change("a", 1, Some(2)),
            Change("a", 0, Some(3)),
        ]);
    }

    #[test]
    fn a_newer_version_does_not_wait_for_an_ack_and_a_late_ack_is_not_its_own() {
        check(&[
            Subscribe(&["a"], &["a"]),
            Change("a", 2, Some(2)),
            Ack(1, None),
            Stands("a", Standing::Pending),
            Nack(1, None),
            Stands("a", Standing::Pending),
            Ack(2, Some("a")),
            Stands("a", Standing::InForce),
        ]);
    }

    #[test]
    fn what_was_rejected_is_not_repeated_unasked() {
        check(&[
            Subscribe(&["a"], &["a"]),
            Nack(1, Some("a")),
            Change("a", 1, None),
            Subscribe(&["a"], &["a"]),
            Nack(2, Some("a")),
            Change("a", 2, Some(3)),
            Stands("a", Standing::Pending),
        ]);
    }

    #[test]
    fn what_was_let_go_is_not_told_and_garbage_is_ignored() {
        check(&[
            Subscribe(&["a"], &["a"]),
            Unsubscribe(&["a", "never"], &["a"]),
            Change("a", 2, None),
            Ack(1, None),
            Ack(99, None),
            Subscribe(&["a"], &["a"]),
        ]);
        let mut stream = Subscriptions::default();
        let garbage = Asked {
            response_nonce: "-1 or so".to_owned(),
            ..Asked::default()
        };
        assert_eq!(stream.ask(ROUTE, garbage), Ok(Effect::default()));
    }

    #[test]
    fn types_are_worlds_of_their_own() {
        let mut stream = Subscriptions::default();
        for of in [ROUTE, ResourceType::Cluster] {
            let asked = Asked {
                subscribe: names(&["a"]),
                ..Asked::default()
            };
            stream.ask(of, asked).expect("one name");
            assert!(stream.tell(of, "a", held(1), moment(0)).is_some());
        }
        let ack = Asked {
            response_nonce: "1".to_owned(),
            ..Asked::default()
        };
        let effect = stream.ask(ResourceType::Cluster, ack).expect("no names");
        assert_eq!(effect.verdict_on, None, "nonce 1 was of the other type");
    }

    #[test]
    fn a_client_is_behind_since_the_first_change_it_did_not_confirm() {
        let mut stream = Subscriptions::default();
        let asked = Asked {
            subscribe: names(&["a"]),
            ..Asked::default()
        };
        stream.ask(ROUTE, asked).expect("one name");
        for (version, revision, expect) in [(1, 5, 5), (2, 6, 5), (3, 7, 5)] {
            stream.tell(ROUTE, "a", held(version), moment(revision));
            let behind = stream.subscription(ROUTE, "a").and_then(Subscription::behind);
            assert_eq!(behind.map(|behind| behind.revision), Some(Revision(expect)));
        }
        let ack = Asked {
            response_nonce: "3".to_owned(),
            ..Asked::default()
        };
        stream.ask(ROUTE, ack).expect("an ACK");
        assert_eq!(stream.subscription(ROUTE, "a").and_then(Subscription::behind), None);
        stream.tell(ROUTE, "a", held(4), moment(9));
        stream.tell(ROUTE, "a", held(3), moment(10));
        let subscription = stream.subscription(ROUTE, "a").expect("subscribed");
        assert_eq!(subscription.behind(), None, "it is back at what is in force");
        assert_eq!(subscription.standing(), Standing::InForce);
    }

    #[test]
    fn subscriptions_are_bounded_and_letting_go_makes_room() {
        let mut stream = Subscriptions::default();
        let many = |from: usize, to: usize| Asked {
            subscribe: (from..to).map(|n| n.to_string()).collect(),
            ..Asked::default()
        };
        stream
            .ask(ROUTE, many(0, SUBSCRIPTIONS_MAX))
            .expect("as many as may be");
        stream.ask(ROUTE, many(0, 1)).expect("one that it has");
        let gone = Asked {
            unsubscribe: names(&["0"]),
            ..Asked::default()
        };
        stream.ask(ROUTE, gone).expect("fewer");
        let other = many(SUBSCRIPTIONS_MAX, SUBSCRIPTIONS_MAX + 1);
        stream.ask(ResourceType::Cluster, other).expect("there is room again");
        assert_eq!(stream.ask(ROUTE, many(0, 1)), Err(Refusal::TooMany));
    }
}
