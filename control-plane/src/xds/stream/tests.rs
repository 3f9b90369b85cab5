//! Conversations, step by step, each named by the rule it shows.

use super::*;

const ROUTE: ResourceType = ResourceType::Route;
const CLUSTER: ResourceType = ResourceType::Cluster;

/// One step of a conversation. Names are separated by blanks.
enum Step {
    /// Delta: the client subscribes; which names then are answered when all are held in the given version.
    Subscribe(&'static str, &'static str),
    /// Delta: the first request of a reconnect: subscribes with (name, version) it has; which are answered.
    Reconnect(&'static [(&'static str, u128)], &'static str),
    /// Delta: the client lets go; of which it had any; which are answered, of which `-` are gone.
    Unsubscribe(&'static str, &'static str, &'static str),
    /// State of the world: all names, beside the nonce that is confirmed (0: none); which are answered.
    List(&'static str, u64, &'static str),
    /// State of the world: all names, beside the nonce that is rejected and why.
    Reject(&'static str, u64, &'static str),
    /// What everything is becomes this; which names are answered, of which `-` are gone.
    Cover(&'static str, &'static str),
    /// The resource is now in this version (0: absent); the nonce it is told by.
    Change(&'static str, u128, Option<u64>),
    Ack(u64),
    Nack(u64, &'static str),
    Stands(&'static str, Standing),
    /// What the client asks for of everything.
    AsksEverything(bool),
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

fn names(names: &str) -> Vec<String> {
    names.split_whitespace().map(str::to_owned).collect()
}

fn delta(subscribe: &str, unsubscribe: &str) -> Asked {
    Asked {
        names: Names::Delta {
            subscribe: names(subscribe),
            unsubscribe: names(unsubscribe),
            initial_versions: BTreeMap::new(),
        },
        ..Asked::default()
    }
}

fn list(all: &str, nonce: u64, error: Option<&str>) -> Asked {
    Asked {
        names: Names::All(names(all)),
        response_nonce: if nonce == 0 { String::new() } else { nonce.to_string() },
        error: error.map(str::to_owned),
    }
}

fn verdict(variant: Variant, nonce: u64, error: Option<&str>) -> Asked {
    assert_eq!(variant, Variant::Delta, "in the other one each verdict lists names");
    Asked {
        response_nonce: nonce.to_string(),
        error: error.map(str::to_owned),
        ..Asked::default()
    }
}

/// A stream, and what its server holds: every resource starts in version 1.
struct World {
    of: ResourceType,
    stream: Subscriptions,
    now: BTreeMap<String, u128>,
    everything: BTreeSet<String>,
}

impl World {
    fn held(&self, name: &str) -> Held {
        let wanted = self
            .stream
            .subscription(self.of, name)
            .is_some_and(Subscription::is_wanted);
        let version = self.now.get(name).copied().unwrap_or(1);
        if wanted { held(version) } else { Held::Absent }
    }

    /// Tells of these, and returns what the answer says anything of; in the state of the world all that it lists.
    fn tell(&mut self, about: &BTreeSet<String>) -> Option<Vec<String>> {
        let now: Vec<(&str, Held)> = about.iter().map(|name| (name.as_str(), self.held(name))).collect();
        let answer = self.stream.tell(self.of, &now, moment(0))?;
        if says_all(self.stream.variant(), self.of) {
            let all = self.stream.iter().filter(|(.., held)| held.is_there());
            return Some(all.map(|(_, name, _)| name.to_owned()).collect());
        }
        let said = answer.names.iter().map(|name| match self.held(name) {
            Held::Absent => format!("-{name}"),
            Held::Version(_) => name.clone(),
        });
        Some(said.collect())
    }

    fn ask(&mut self, asked: Asked) -> (Effect, Option<Vec<String>>) {
        let effect = self.stream.ask(self.of, asked).expect("few names");
        let mut about: BTreeSet<String> = effect.wanted.iter().chain(&effect.unsure).cloned().collect();
        match effect.everything {
            Everything::AsBefore => {}
            Everything::Asked => {
                self.stream.cover(self.of, &self.everything);
                about.extend(self.everything.iter().cloned());
            }
            Everything::LetGo => {
                let left = self.stream.cover(self.of, &BTreeSet::new()).left;
                left.iter().for_each(|name| self.stream.forget(self.of, name));
            }
        }
        let told = self.tell(&about);
        for name in &effect.unsure {
            self.stream.forget_unwanted(self.of, name);
        }
        (effect, told)
    }
}

#[track_caller]
fn check(variant: Variant, of: ResourceType, steps: &[Step]) {
    let mut world = World {
        of,
        stream: Subscriptions::new(variant, Wildcards::Served),
        now: BTreeMap::new(),
        everything: BTreeSet::from(["x".to_owned(), "y".to_owned()]),
    };
    for (at, step) in steps.iter().enumerate() {
        match step {
            Subscribe(wanted, expect) => {
                let (_, told) = world.ask(delta(wanted, ""));
                assert_eq!(told.unwrap_or_default(), names(expect), "step {at}");
            }
            Reconnect(has, expect) => {
                let versions = has.iter().map(|(n, v)| ((*n).to_owned(), Version(*v).to_string()));
                let asked = Asked {
                    names: Names::Delta {
                        subscribe: has.iter().map(|(name, _)| (*name).to_owned()).collect(),
                        unsubscribe: Vec::new(),
                        initial_versions: versions.collect(),
                    },
                    ..Asked::default()
                };
                let (_, told) = world.ask(asked);
                assert_eq!(told.unwrap_or_default(), names(expect), "step {at}");
            }
            Unsubscribe(gone, expect, answered) => {
                let (effect, told) = world.ask(delta("", gone));
                let told = told.unwrap_or_default();
                assert_eq!((effect.let_go, told), (names(expect), names(answered)), "step {at}");
            }
            List(all, nonce, expect) => {
                let (_, told) = world.ask(list(all, *nonce, None));
                assert_eq!(told.unwrap_or_default(), names(expect), "step {at}");
            }
            Reject(all, nonce, why) => {
                let (_, told) = world.ask(list(all, *nonce, Some(why)));
                assert_eq!(told, None, "step {at}");
            }
            Cover(all, expect) => {
                world.everything = names(all).into_iter().collect();
                let Covered { mut added, left } = world.stream.cover(of, &world.everything);
                added.extend(left);
                let told = world.tell(&added);
                assert_eq!(told.unwrap_or_default(), names(expect), "step {at}");
            }
            Change(name, version, expect) => {
                world.now.insert((*name).to_owned(), *version);
                let now = [(*name, held(*version))];
                let told = world.stream.tell(of, &now, moment(0));
                assert_eq!(told.map(|answer| answer.nonce), expect.map(Nonce), "step {at}");
            }
            Ack(nonce) => {
                let (_, told) = world.ask(verdict(variant, *nonce, None));
                assert_eq!(told, None, "step {at}");
            }
            Nack(nonce, why) => {
                let (_, told) = world.ask(verdict(variant, *nonce, Some(why)));
                assert_eq!(told, None, "step {at}");
            }
            Stands(name, expect) => {
                let subscription = world.stream.subscription(of, name);
                let standing = subscription.map(Subscription::standing);
                assert_eq!(standing.as_ref(), Some(expect), "step {at}");
            }
            AsksEverything(expect) => assert_eq!(world.stream.asks_everything(of), *expect, "step {at}"),
        }
        let open = world.stream.open.values().map(|(_, names)| names.len()).sum::<usize>();
        assert!(
            open <= world.stream.iter().count(),
            "step {at}: {:?}",
            world.stream.open
        );
    }
}

fn rejected(why: &str) -> Standing {
    Standing::Rejected(why.to_owned())
}

use Standing::{InForce, Pending};
use Variant::{Delta, StateOfTheWorld};

#[test]
fn what_is_subscribed_is_answered_and_confirmed_by_nonce() {
    let steps = [
        Subscribe("a", "a"),
        Subscribe("b", "b"),
        Stands("a", Pending),
        Ack(1),
        Stands("a", InForce),
        Stands("b", Pending),
        Nack(2, "bad"),
        Stands("b", rejected("bad")),
    ];
    check(Delta, ROUTE, &steps);
    let steps = [
        List("a", 0, "a"),
        Stands("a", Pending),
        List("a", 1, ""),
        Stands("a", InForce),
        List("a b", 1, "b"),
        Reject("a b", 2, "bad"),
        Stands("a", InForce),
        Stands("b", rejected("bad")),
    ];
    check(StateOfTheWorld, ROUTE, &steps);
}

#[test]
fn delta_a_name_subscribed_again_is_answered_again() {
    let steps = [
        Subscribe("a", "a"),
        Ack(1),
        Subscribe("a", "a"),
        Ack(2),
        Stands("a", InForce),
    ];
    check(Delta, ROUTE, &steps);
}

#[test]
fn delta_a_reconnect_is_sent_only_what_differs() {
    let steps = [
        Change("b", 2, None),
        Change("c", 0, None),
        Reconnect(&[("a", 1), ("b", 1), ("c", 1)], "b -c"),
        Stands("a", InForce),
        Stands("b", Pending),
        Change("a", 2, Some(2)),
    ];
    check(Delta, ROUTE, &steps);
}

#[test]
fn delta_initial_versions_count_in_the_first_request_of_a_type_only() {
    check(Delta, ROUTE, &[Subscribe("a", "a"), Reconnect(&[("b", 1)], "b")]);
}

#[test]
fn delta_an_unreadable_initial_version_is_as_none() {
    let mut stream = Subscriptions::new(Delta, Wildcards::No);
    let asked = Asked {
        names: Names::Delta {
            subscribe: names("a"),
            unsubscribe: Vec::new(),
            initial_versions: BTreeMap::from([("a".to_owned(), "not ours".to_owned())]),
        },
        ..Asked::default()
    };
    stream.ask(ROUTE, asked).expect("one name");
    assert!(stream.tell(ROUTE, &[("a", held(1))], moment(0)).is_some());
}

#[test]
fn what_does_not_exist_is_said_once_and_what_comes_later_as_well() {
    let steps = [
        Change("a", 0, None),
        Subscribe("a", "-a"),
        Change("a", 0, None),
        Ack(1),
        Stands("a", InForce),
        Change("a", 1, Some(2)),
        Change("a", 0, Some(3)),
    ];
    check(Delta, ROUTE, &steps);
}

#[test]
fn sotw_what_does_not_exist_is_missing_from_listeners_and_clusters_and_else_not_said() {
    let steps = [Change("a", 0, None), List("a b", 0, "b"), Change("b", 0, Some(2))];
    check(StateOfTheWorld, CLUSTER, &steps);
    let steps = [
        Change("a", 0, None),
        List("a", 0, ""),
        Stands("a", InForce),
        Change("a", 1, Some(1)),
        Change("a", 0, None),
        Stands("a", InForce),
    ];
    check(StateOfTheWorld, ROUTE, &steps);
}

#[test]
fn sotw_answers_hold_all_listeners_and_clusters_and_else_what_changed() {
    check(
        StateOfTheWorld,
        CLUSTER,
        &[List("a b", 0, "a b"), List("a b c", 1, "a b c")],
    );
    check(StateOfTheWorld, ROUTE, &[List("a b", 0, "a b"), List("a b c", 1, "c")]);
}

#[test]
fn sotw_a_request_with_a_stale_nonce_changes_no_subscription() {
    let steps = [
        List("a", 0, "a"),
        Change("a", 2, Some(2)),
        List("a b", 1, ""),
        Stands("a", Pending),
        List("a b", 2, "b"),
        Stands("a", InForce),
    ];
    check(StateOfTheWorld, ROUTE, &steps);
}

#[test]
fn sotw_what_is_no_longer_listed_is_let_go() {
    let steps = [
        List("a b", 0, "a b"),
        List("b", 1, ""),
        Change("a", 2, None),
        List("a b", 1, "a"),
    ];
    check(StateOfTheWorld, ROUTE, &steps);
}

#[test]
fn a_newer_version_does_not_wait_for_an_ack_and_a_late_ack_is_not_its_own() {
    let steps = [
        Subscribe("a", "a"),
        Change("a", 2, Some(2)),
        Ack(1),
        Stands("a", Pending),
        Nack(1, "bad"),
        Stands("a", Pending),
        Ack(2),
        Stands("a", InForce),
    ];
    check(Delta, ROUTE, &steps);
    let steps = [
        List("a", 0, "a"),
        Change("a", 2, Some(2)),
        Reject("a", 1, "bad"),
        Stands("a", Pending),
        List("a", 2, ""),
        Stands("a", InForce),
    ];
    check(StateOfTheWorld, CLUSTER, &steps);
}

#[test]
fn what_was_rejected_is_not_repeated_unasked() {
    let steps = [
        Subscribe("a", "a"),
        Nack(1, "bad"),
        Change("a", 1, None),
        Subscribe("a", "a"),
        Nack(2, "bad"),
        Change("a", 2, Some(3)),
        Stands("a", Pending),
    ];
    check(Delta, ROUTE, &steps);
}

#[test]
fn sotw_what_was_rejected_and_is_sent_along_again_is_judged_again() {
    let steps = [
        List("a b", 0, "a b"),
        Reject("a b", 1, "a: no such thing"),
        Stands("a", rejected("a: no such thing")),
        Stands("b", InForce),
        Change("b", 2, Some(2)),
        Stands("a", rejected("a: no such thing")),
        Reject("a b", 2, "a: no such thing"),
        Stands("b", InForce),
        Stands("a", rejected("a: no such thing")),
    ];
    check(StateOfTheWorld, CLUSTER, &steps);
}

#[test]
fn of_an_answer_that_is_rejected_only_what_is_named_is_not_in_force() {
    let steps = [
        Subscribe("a.b:80 a.b:8080 c", "a.b:80 a.b:8080 c"),
        Nack(1, "1 error: a.b:8080: unknown field"),
        Stands("a.b:80", InForce),
        Stands("a.b:8080", rejected("1 error: a.b:8080: unknown field")),
        Stands("c", InForce),
    ];
    check(Delta, ROUTE, &steps);
    for (text, name, expect) in [
        ("a.b:80: bad", "a.b:80", true),
        ("see a.b:80.", "a.b:80", true),
        ("'a.b:80'", "a.b:80", true),
        ("a.b:8080: bad", "a.b:80", false),
        ("a.b:80: bad", "a.b", false),
        ("aa.b:80", "a.b:80", false),
        ("c.a.b:80", "a.b:80", false),
        ("anything", "", false),
    ] {
        assert_eq!(mentions(text, name), expect, "{text} {name}");
    }
}

#[test]
fn what_was_let_go_is_not_told_and_garbage_is_ignored() {
    let steps = [
        Subscribe("a", "a"),
        Unsubscribe("a never", "a", ""),
        Change("a", 2, None),
        Ack(1),
        Ack(99),
        Subscribe("a", "a"),
    ];
    check(Delta, ROUTE, &steps);
    let mut stream = Subscriptions::new(Delta, Wildcards::No);
    let garbage = Asked {
        response_nonce: "-1 or so".to_owned(),
        ..Asked::default()
    };
    assert_eq!(stream.ask(ROUTE, garbage), Ok(Effect::default()));
}

#[test]
fn a_first_request_that_names_nothing_asks_for_everything_of_listeners_and_clusters() {
    check(Delta, CLUSTER, &[Subscribe("", "x y"), AsksEverything(true)]);
    check(
        StateOfTheWorld,
        CLUSTER,
        &[List("", 0, "x y"), List("", 1, ""), AsksEverything(true)],
    );
    for of in [ROUTE, ResourceType::Endpoints] {
        check(Delta, of, &[Subscribe("", ""), AsksEverything(false)]);
        check(StateOfTheWorld, of, &[List("", 0, ""), AsksEverything(false)]);
    }
}

#[test]
fn everything_may_be_nothing_and_is_answered_all_the_same() {
    for variant in [Delta, StateOfTheWorld] {
        let mut stream = Subscriptions::new(variant, Wildcards::Served);
        let asked = match variant {
            Delta => delta("*", ""),
            StateOfTheWorld => list("*", 0, None),
        };
        let effect = stream.ask(CLUSTER, asked).expect("few names");
        assert_eq!(effect.everything, Everything::Asked);
        let answer = stream.tell(CLUSTER, &[], moment(0));
        assert_eq!(answer.map(|answer| answer.names), Some(BTreeSet::new()));
        assert_eq!(stream.tell(CLUSTER, &[], moment(0)), None, "once");
    }
}

/// The examples of the section "How the client specifies what resources to return".
#[test]
fn an_empty_list_is_no_longer_everything_once_a_name_was_given() {
    let steps = [
        List("", 0, "x y"),
        List("* a", 1, "a x y"),
        AsksEverything(true),
        List("a", 2, ""),
        AsksEverything(false),
        List("", 2, ""),
        AsksEverything(false),
    ];
    check(StateOfTheWorld, CLUSTER, &steps);
    check(
        StateOfTheWorld,
        CLUSTER,
        &[List("a", 0, "a"), List("", 1, ""), AsksEverything(false)],
    );
    let steps = [
        Subscribe("", "x y"),
        Subscribe("a", "a"),
        AsksEverything(true),
        Unsubscribe("*", "", ""),
        AsksEverything(false),
        Change("x", 2, None),
        Change("a", 2, Some(3)),
    ];
    check(Delta, CLUSTER, &steps);
    check(
        Delta,
        CLUSTER,
        &[Subscribe("a", "a"), Unsubscribe("a", "a", ""), AsksEverything(false)],
    );
}

#[test]
fn what_is_named_stays_when_everything_is_let_go() {
    let steps = [
        Subscribe("* x", "x y"),
        Unsubscribe("*", "", ""),
        Change("x", 2, Some(2)),
        Change("y", 2, None),
    ];
    check(Delta, CLUSTER, &steps);
}

/// Section "Unsubscribing from Resources" of "Incremental xDS".
#[test]
fn who_lets_go_of_a_name_and_asks_for_everything_is_told_whether_it_is_part_of_that() {
    let steps = [
        Subscribe("* x a", "a x y"),
        Unsubscribe("x a", "x a", "-a x"),
        Change("x", 2, Some(3)),
        Change("a", 2, None),
        Unsubscribe("x a", "", ""),
        Change("b", 0, None),
        Subscribe("b", "-b"),
        Unsubscribe("b", "b", "-b"),
    ];
    check(Delta, CLUSTER, &steps);
    let steps = [
        List("* x a", 0, "a x y"),
        List("*", 1, "x y"),
        List("*", 2, ""),
        Change("a", 2, None),
        Change("x", 2, Some(3)),
    ];
    check(StateOfTheWorld, CLUSTER, &steps);
}

#[test]
fn who_asks_for_everything_is_not_told_that_something_does_not_exist() {
    for (variant, first) in [(Delta, Subscribe("*", "x y")), (StateOfTheWorld, List("*", 0, "x y"))] {
        let steps = [
            first,
            Change("z", 0, None),
            Cover("x y z", ""),
            Stands("z", InForce),
            Change("z", 1, Some(2)),
        ];
        check(variant, CLUSTER, &steps);
    }
}

#[test]
fn what_leaves_everything_is_told_as_gone_until_that_is_confirmed() {
    let steps = [
        Subscribe("*", "x y"),
        Ack(1),
        Cover("y z", "-x z"),
        Stands("x", Pending),
        Ack(2),
        Stands("y", InForce),
        Cover("x y z", "x"),
    ];
    check(Delta, CLUSTER, &steps);
    let steps = [
        List("", 0, "x y"),
        List("", 1, ""),
        Cover("y z", "y z"),
        List("", 2, ""),
    ];
    check(StateOfTheWorld, CLUSTER, &steps);
}

#[test]
fn without_wildcards_a_star_is_a_name_like_any_other() {
    let mut stream = Subscriptions::new(Delta, Wildcards::No);
    let effect = stream.ask(CLUSTER, delta("*", "")).expect("one name");
    assert_eq!((effect.wanted, effect.everything), (names("*"), Everything::AsBefore));
    let answer = stream.tell(CLUSTER, &[("*", Held::Absent)], moment(0));
    assert!(answer.is_some_and(|answer| answer.names.contains("*")));
}

#[test]
fn types_are_worlds_of_their_own() {
    let mut stream = Subscriptions::new(Delta, Wildcards::No);
    for of in [ROUTE, CLUSTER] {
        stream.ask(of, delta("a", "")).expect("one name");
        assert!(stream.tell(of, &[("a", held(1))], moment(0)).is_some());
    }
    stream.ask(CLUSTER, verdict(Delta, 1, None)).expect("no names");
    let standing = |of| stream.subscription(of, "a").map(Subscription::standing);
    assert_eq!(standing(CLUSTER), Some(Pending), "nonce 1 was of the other type");
    assert_eq!(standing(ROUTE), Some(Pending));
}

#[test]
fn a_client_is_behind_since_the_first_change_it_did_not_confirm() {
    let mut stream = Subscriptions::new(Delta, Wildcards::No);
    stream.ask(ROUTE, delta("a", "")).expect("one name");
    for (version, revision, expect) in [(1, 5, 5), (2, 6, 5), (3, 7, 5)] {
        stream.tell(ROUTE, &[("a", held(version))], moment(revision));
        let behind = stream.subscription(ROUTE, "a").and_then(Subscription::behind);
        assert_eq!(behind.map(|behind| behind.revision), Some(Revision(expect)));
    }
    stream.ask(ROUTE, verdict(Delta, 3, None)).expect("an ACK");
    assert_eq!(stream.subscription(ROUTE, "a").and_then(Subscription::behind), None);
    stream.tell(ROUTE, &[("a", held(4))], moment(9));
    stream.tell(ROUTE, &[("a", held(3))], moment(10));
    let subscription = stream.subscription(ROUTE, "a").expect("subscribed");
    assert_eq!(subscription.behind(), None, "it is back at what is in force");
    assert_eq!(subscription.standing(), InForce);
}

#[test]
fn subscriptions_are_bounded_and_letting_go_makes_room() {
    let many = |from: usize, to: usize| Asked {
        names: Names::Delta {
            subscribe: (from..to).map(|n| n.to_string()).collect(),
            unsubscribe: Vec::new(),
            initial_versions: BTreeMap::new(),
        },
        ..Asked::default()
    };
    let mut stream = Subscriptions::new(Delta, Wildcards::No);
    stream
        .ask(ROUTE, many(0, SUBSCRIPTIONS_MAX))
        .expect("as many as may be");
    stream.ask(ROUTE, many(0, 1)).expect("one that it has");
    stream.ask(ROUTE, delta("", "0")).expect("fewer");
    let other = many(SUBSCRIPTIONS_MAX, SUBSCRIPTIONS_MAX + 1);
    stream.ask(CLUSTER, other).expect("there is room again");
    assert_eq!(stream.ask(ROUTE, many(0, 1)), Err(Refusal::TooMany));
    let mut stream = Subscriptions::new(StateOfTheWorld, Wildcards::No);
    let all = Names::All((0..=SUBSCRIPTIONS_MAX).map(|n| n.to_string()).collect());
    let asked = Asked {
        names: all,
        ..Asked::default()
    };
    assert_eq!(stream.ask(ROUTE, asked), Err(Refusal::TooMany));
}
