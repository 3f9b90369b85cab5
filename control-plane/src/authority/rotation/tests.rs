//! What comes next, by what is known.

use proptest::prelude::*;

use super::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn rotation(step: Step) -> Rotation {
    let trust_domain = "mesh.gov".parse().expect("a trust domain");
    let root = Pair::root(&trust_domain, now()).expect("a root");
    let begun = Rotation::begin(&root, &trust_domain, now()).expect("a rotation");
    let mut rotation = begun.at(step, now());
    if step >= Step::Sign {
        rotation.old_given_until = Some(unix_seconds(now()) - 1);
    }
    rotation
}

fn proxy(name: &str, kind: ProxyKind, roots: Roots, shown: Option<Below>) -> Proxy {
    Proxy {
        workload: format!("n/{name}").parse().expect("a workload"),
        kind,
        roots,
        shown,
    }
}

#[track_caller]
fn check(step: Step, proxies: &[Proxy], expect: Result<Next, &[(&str, Why)]>) {
    let facts = Facts {
        now: now(),
        roots: Vec::new(),
        proxies: proxies.to_vec(),
        awaited: Vec::new(),
        start: Start::Over,
    };
    let expect = expect.unwrap_or_else(|behind| {
        let behind = behind.iter().map(|(name, why)| {
            let workload = format!("n/{name}").parse().expect("a workload");
            (workload, why.clone())
        });
        Next::Wait(Waiting {
            behind: behind.collect(),
            until: None,
        })
    });
    assert_eq!(solve(&rotation(step), &facts), expect, "{step}");
}

#[test]
fn a_step_ends_when_nobody_is_behind() {
    use Below::{New, Old};
    use ProxyKind::{Other, Weir};
    let weir = |roots, shown| proxy("a", Weir, roots, shown);
    let other = |roots| proxy("a", Other, roots, None);
    let rejected = || Roots::Rejected("why".to_owned());
    let reason = || Why::Rejected("why".to_owned());

    check(Step::Trust, &[], Ok(Next::Go(Step::Sign)));
    check(
        Step::Trust,
        &[weir(Roots::InForce, Some(Old))],
        Ok(Next::Go(Step::Sign)),
    );
    check(Step::Trust, &[weir(Roots::InForce, None)], Err(&[("a", Why::NotShown)]));
    check(
        Step::Trust,
        &[weir(Roots::Pending, Some(Old))],
        Err(&[("a", Why::Pending)]),
    );
    check(Step::Trust, &[weir(rejected(), Some(Old))], Err(&[("a", reason())]));
    check(
        Step::Trust,
        &[weir(Roots::NotAsked, None)],
        Err(&[("a", Why::NotAsked)]),
    );
    check(Step::Trust, &[other(Roots::InForce)], Ok(Next::Go(Step::Sign)));
    check(Step::Trust, &[other(Roots::NotAsked)], Err(&[("a", Why::NotAsked)]));
    check(Step::Trust, &[other(Roots::Pending)], Err(&[("a", Why::Pending)]));

    check(Step::Sign, &[], Ok(Next::Go(Step::Forget)));
    check(
        Step::Sign,
        &[weir(Roots::InForce, Some(New))],
        Ok(Next::Go(Step::Forget)),
    );
    check(
        Step::Sign,
        &[weir(Roots::Pending, Some(New))],
        Ok(Next::Go(Step::Forget)),
    );
    for shown in [None, Some(Old)] {
        let behind: &[(&str, Why)] = &[("a", Why::OldCertificate)];
        check(Step::Sign, &[weir(Roots::InForce, shown)], Err(behind));
    }
    check(Step::Sign, &[other(Roots::NotAsked)], Ok(Next::Go(Step::Forget)));

    check(Step::Forget, &[], Ok(Next::Finish));
    check(Step::Forget, &[weir(Roots::InForce, None)], Ok(Next::Finish));
    check(
        Step::Forget,
        &[weir(Roots::Pending, Some(New))],
        Err(&[("a", Why::Pending)]),
    );
    check(Step::Forget, &[other(rejected())], Err(&[("a", reason())]));
    check(Step::Forget, &[other(Roots::NotAsked)], Ok(Next::Finish));
}

#[test]
fn all_who_are_behind_are_named_in_order_and_who_is_well_is_not() {
    let proxies = [
        proxy("c", ProxyKind::Weir, Roots::Pending, None),
        proxy("b", ProxyKind::Weir, Roots::InForce, Some(Below::Old)),
        proxy("a", ProxyKind::Other, Roots::NotAsked, None),
    ];
    check(Step::Trust, &proxies, Err(&[("a", Why::NotAsked), ("c", Why::Pending)]));
}

#[test]
fn who_is_given_up_is_not_waited_for() {
    let mut held = rotation(Step::Trust);
    held.despite.insert("n/a".to_owned());
    let facts = Facts {
        now: now(),
        roots: Vec::new(),
        proxies: vec![proxy("a", ProxyKind::Weir, Roots::Pending, None)],
        awaited: Vec::new(),
        start: Start::Over,
    };
    assert_eq!(solve(&held, &facts), Next::Go(Step::Sign));
}

#[test]
fn certificates_below_the_old_root_hold_it_and_those_who_have_not_come_back_hold_any_step() {
    let end = unix_seconds(now()) + 1;
    let mut held = rotation(Step::Sign);
    held.old_given_until = Some(end);
    let at = |seconds: u64, awaited: &[&str]| Facts {
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        roots: Vec::new(),
        proxies: Vec::new(),
        awaited: awaited.iter().map(|name| name.parse().expect("a workload")).collect(),
        start: Start::Over,
    };
    let until = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(end));
    for early in [end - 1, end] {
        let waiting = Waiting {
            behind: Vec::new(),
            until,
        };
        assert_eq!(solve(&held, &at(early, &[])), Next::Wait(waiting));
    }
    assert_eq!(solve(&held, &at(end + 1, &[])), Next::Go(Step::Forget));
    for step in [Step::Trust, Step::Sign, Step::Forget] {
        let waiting = Waiting {
            behind: vec![("n/a".parse().expect("a workload"), Why::NotBack)],
            until: None,
        };
        assert_eq!(
            solve(&rotation(step), &at(end, &["n/a"])),
            Next::Wait(waiting),
            "{step}"
        );
    }
}

/// An Envoy that was connected before is in no list: it is only known when it is back.
#[test]
fn soon_after_a_start_no_new_root_signs() {
    let facts = |start| Facts {
        now: now(),
        roots: Vec::new(),
        proxies: Vec::new(),
        awaited: Vec::new(),
        start,
    };
    for (step, expect) in [
        (Step::Trust, Next::Wait(Waiting::default())),
        (Step::Sign, Next::Go(Step::Forget)),
        (Step::Forget, Next::Finish),
    ] {
        assert_eq!(solve(&rotation(step), &facts(Start::Recent)), expect, "{step}");
    }
    assert_eq!(solve(&rotation(Step::Trust), &facts(Start::Over)), Next::Go(Step::Sign));
}

#[test]
fn what_is_kept_shows_no_key_and_is_read_as_it_was_written() {
    let held = rotation(Step::Sign);
    assert!(!format!("{held:?}").contains("PRIVATE"));
    let text = serde_json::to_string(&held).expect("JSON");
    assert!(serde_json::from_str::<Rotation>(&text).expect("a rotation") == held);
    let more = text.replacen('{', r#"{"more": 1, "#, 1);
    assert!(serde_json::from_str::<Rotation>(&more).is_err());
}

/// Who trusts one root alone, or both, believes what is signed at each step of which they may be.
#[test]
fn what_is_signed_is_believed_by_all_who_may_meet_it() {
    let trust_domain: TrustDomain = "mesh.gov".parse().expect("a trust domain");
    let now = SystemTime::now();
    let old = Pair::root(&trust_domain, now).expect("a root");
    let intermediate = old.intermediate(&trust_domain, now).expect("an intermediate");
    let held = Rotation::begin(&old, &trust_domain, now).expect("a rotation");
    let (old_root, new_root) = (old.certificate.clone(), held.new_root().expect("a root"));
    let before = held.before(intermediate, &old, now).expect("an authority");
    let signing = held.signing(now).expect("an authority");
    let after = held.after(now).expect("an authority");
    assert_eq!(before.roots(), [old_root.clone(), new_root.clone()]);
    assert_eq!(signing.roots(), [new_root.clone(), old_root.clone()]);
    assert_eq!(after.roots(), std::slice::from_ref(&new_root));

    let id = "spiffe://mesh.gov/ns/n/sa/a".parse().expect("an id");
    let key = ca::new_key().expect("a key");
    let leaf = ca::Leaf {
        id: &id,
        dns: None,
        labels: &Default::default(),
        key: &key,
        ttl: Duration::from_secs(60),
    };
    let signed = |ca: &Ca| ca.sign(&leaf, now).expect("signed").chain;
    let leads = |chain: &[CertificateDer<'static>], root| super::super::rotating::leads_to(chain, root);
    let (by_old, crossed, by_new) = (signed(&before), signed(&signing), signed(&after));
    assert!(leads(&by_old, &old_root) && !leads(&by_old, &new_root));
    assert!(leads(&crossed, &old_root) && leads(&crossed, &new_root));
    assert!(!leads(&by_new, &old_root) && leads(&by_new, &new_root));
    // What shows that the new root is trusted leads to nothing else, at each step.
    let new = weir_policy::roots::RootId::of(x509::sha256(&new_root));
    for ca in [&before, &signing, &after] {
        let shown = ca
            .sign_below(new, &leaf, now)
            .expect("it has it")
            .expect("signed")
            .chain;
        assert!(!leads(&shown, &old_root) && leads(&shown, &new_root));
    }
    // Who joins by a token that knows the old root alone is led from there.
    let bridged: Vec<_> = by_new.into_iter().chain(held.bridges().expect("two")).collect();
    assert!(leads(&bridged, &old_root));
}

prop_compose! {
    fn any_proxy()(
        number in 0..5_u8,
        weir in any::<bool>(),
        roots in prop::sample::select(vec![Roots::InForce, Roots::Pending, Roots::Rejected(String::new()), Roots::NotAsked]),
        shown in prop::option::of(prop::sample::select(vec![Below::Old, Below::New])),
    ) -> Proxy {
        let kind = if weir { ProxyKind::Weir } else { ProxyKind::Other };
        proxy(&format!("p{number}"), kind, roots, shown)
    }
}

proptest! {
    /// No step is left with somebody who would not believe what comes next, and none is left out.
    #[test]
    fn nobody_is_left_behind(proxies in prop::collection::vec(any_proxy(), 0..6)) {
        let facts = Facts { now: now(), roots: Vec::new(), proxies, awaited: Vec::new(), start: Start::Over };
        for step in [Step::Trust, Step::Sign, Step::Forget] {
            let held = rotation(step);
            let next = solve(&held, &facts);
            prop_assert_eq!(&next, &solve(&held, &facts));
            let weir = facts.proxies.iter().filter(|proxy| proxy.kind == ProxyKind::Weir);
            match next {
                Next::Go(Step::Sign) => {
                    prop_assert!(facts.proxies.iter().all(|proxy| proxy.roots == Roots::InForce));
                    prop_assert!(weir.clone().all(|proxy| proxy.shown.is_some()));
                }
                Next::Go(Step::Forget) => prop_assert!(weir.clone().all(|proxy| proxy.shown == Some(Below::New))),
                Next::Finish => prop_assert!(facts.proxies.iter().all(|proxy| proxy.roots != Roots::Pending)),
                Next::Go(Step::Trust) => prop_assert!(false, "never back"),
                Next::Wait(waiting) => prop_assert!(!waiting.behind.is_empty()),
            }
        }
    }
}
