//! The authority as a whole: who is let in, how often, and what is said of it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::drain;
use crate::store::{Location, StoreTask};

fn open(config: AuthorityConfig) -> (Authority, Keeper, StoreTask) {
    let (store, task) = Store::open(Location::Memory).expect("a store");
    let (authority, keeper) = Authority::open(config, None, store).expect("an authority");
    (authority, keeper, task)
}

fn request() -> Csr {
    let key = rcgen::KeyPair::generate().expect("a key");
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .expect("a request");
    csr::read(&csr.pem().expect("as text")).expect("it is right")
}

async fn admit(authority: &Authority, token: &str, csr: &Csr) -> Result<(), Refused> {
    let grant = authority.read_token(token)?;
    authority.use_token(&grant, csr).await
}

fn portal(authority: &Authority) -> SpiffeId {
    authority.id("citizen", "portal").expect("an id")
}

#[tokio::test]
async fn a_token_lets_as_many_keys_in_as_it_may_also_when_they_come_at_once() {
    let (authority, _keeper, store) = open(AuthorityConfig::default());
    let token = authority
        .token(&portal(&authority), Labels::new(), "1h", 3)
        .expect("a token");
    let requests: Vec<Csr> = (0..8).map(|_| request()).collect();
    let admitted = requests.iter().map(|csr| admit(&authority, &token.token, csr));
    let admitted = futures_util::future::join_all(admitted).await;
    assert_eq!(admitted.iter().filter(|admitted| admitted.is_ok()).count(), 3);
    for (csr, first) in requests.iter().zip(&admitted) {
        let again = admit(&authority, &token.token, csr).await;
        assert_eq!(again.is_ok(), first.is_ok(), "the same key is the same use");
        if let Err(error) = again {
            assert!(matches!(error, Refused::UsedUp { uses: 3 }), "{error}");
        }
    }
    store.stop().await.expect("no panic");
}

#[tokio::test]
async fn uses_are_counted_through_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let open = || {
        let (store, task) = Store::open(Location::Directory(directory.path().to_owned())).expect("a store");
        let opened = Authority::open(AuthorityConfig::default(), Some(directory.path()), store);
        (opened.expect("an authority").0, task)
    };
    let (authority, store) = open();
    let token = authority
        .token(&portal(&authority), Labels::new(), "1h", 1)
        .expect("a token");
    let first = request();
    admit(&authority, &token.token, &first).await.expect("the first");
    store.stop().await.expect("no panic");
    let (authority, store) = open();
    admit(&authority, &token.token, &first).await.expect("the same");
    let second = admit(&authority, &token.token, &request()).await;
    assert!(matches!(second, Err(Refused::UsedUp { uses: 1 })), "{second:?}");
    store.stop().await.expect("no panic");
}

#[tokio::test]
async fn nobody_becomes_the_control_plane() {
    let (authority, _keeper, store) = open(AuthorityConfig::default());
    let ours = authority.id("weir-system", "weir-control").expect("an id");
    let token = authority.token(&ours, Labels::new(), "1h", 1);
    assert!(matches!(token, Err(Refused::ControlPlane(_))), "{token:?}");
    for refused in [
        authority.issue(&ours, &Labels::new(), &request(), None),
        authority.issue_to_person(&ours, &request(), None),
    ] {
        assert!(matches!(refused, Err(Refused::ControlPlane(_))), "{refused:?}");
    }
    // The account alone, or the namespace alone, is another one.
    for (namespace, account) in [("weir-system", "portal"), ("citizen", "weir-control")] {
        let id = authority.id(namespace, account).expect("an id");
        authority.token(&id, Labels::new(), "1h", 1).expect("a token");
    }
    store.stop().await.expect("no panic");
}

#[tokio::test]
async fn what_is_asked_for_out_of_bounds_is_refused_by_name() {
    let (authority, _keeper, store) = open(AuthorityConfig::default());
    let id = portal(&authority);
    let label = |name: &str, value: &str| Labels::from([(name.to_owned(), value.to_owned())]);
    let many: Labels = (0..17).map(|n| (format!("l{n}"), String::new())).collect();
    let check = |refused: Result<IssuedToken, Refused>, expect: &str| {
        let said = refused.expect_err("it is wrong").to_string();
        assert!(said.starts_with(expect), "{said}");
    };
    for ttl in ["", "1", "59s", "721h", "-1h", "1 h"] {
        check(
            authority.token(&id, Labels::new(), ttl, 1),
            &format!("ttl {ttl:?}: a time from 1m to 720h is right"),
        );
    }
    check(authority.token(&id, Labels::new(), "1h", 0), "uses \"0\": ");
    check(authority.token(&id, Labels::new(), "1h", 1001), "uses \"1001\": ");
    check(authority.token(&id, label("a b", "c"), "1h", 1), "labels \"a b=c\": ");
    check(authority.token(&id, label("a", "c!"), "1h", 1), "labels \"a=c!\": ");
    check(authority.token(&id, many, "1h", 1), "labels \"17\": at most 16");
    for (namespace, account) in [("Citizen", "portal"), ("citizen", ""), ("citizen", "a/b"), ("a.b", "c")] {
        assert!(authority.id(namespace, account).is_err(), "{namespace} {account}");
    }
    store.stop().await.expect("no panic");
}

#[tokio::test]
async fn a_certificate_is_good_for_no_longer_than_it_may_be() {
    let hour = Duration::from_secs(3_600);
    let config = AuthorityConfig {
        cert_ttl: hour,
        ..AuthorityConfig::default()
    };
    let (authority, _keeper, store) = open(config);
    let id = portal(&authority);
    let good_for = |signed: Result<Signed, Refused>| {
        let left = signed.expect("signed").not_after.duration_since(SystemTime::now());
        // To the second, and rounded up again.
        left.expect("not ended").as_secs_f64().ceil() as u64
    };
    let near = |seconds: u64, expect: u64| assert!((expect - 5..=expect).contains(&seconds), "{seconds}");
    near(good_for(authority.issue(&id, &Labels::new(), &request(), None)), 3_600);
    near(
        good_for(authority.issue(&id, &Labels::new(), &request(), Some(hour * 2))),
        3_600,
    );
    near(
        good_for(authority.issue(&id, &Labels::new(), &request(), Some(hour / 2))),
        1_800,
    );
    near(good_for(authority.issue_to_person(&id, &request(), Some("2h"))), 7_200);
    assert!(authority.issue_to_person(&id, &request(), Some("721h")).is_err());
    store.stop().await.expect("no panic");
}

/// An operator's files, with an intermediate under a root of theirs.
struct Files {
    directory: tempfile::TempDir,
    trust_domain: TrustDomain,
    root: ca::Pair,
    first: ca::Pair,
}

impl Files {
    fn new(now: SystemTime) -> Files {
        let trust_domain = AuthorityConfig::default().trust_domain;
        let root = ca::Pair::root(&trust_domain, now).expect("a root");
        let files = Files {
            directory: tempfile::tempdir().expect("a directory"),
            first: root.intermediate(&trust_domain, now).expect("an intermediate"),
            trust_domain,
            root,
        };
        std::fs::write(files.place("key"), "").expect("written");
        std::fs::set_permissions(files.place("key"), Permissions::from_mode(0o600)).expect("set");
        std::fs::write(files.place("roots"), to_pem(&files.root.certificate)).expect("written");
        files.write(&files.first);
        files
    }

    fn place(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, pair: &ca::Pair) {
        std::fs::write(self.place("key"), pair.key.serialize_pem()).expect("written");
        std::fs::write(self.place("cert"), to_pem(&pair.certificate)).expect("written");
    }

    fn intermediate(&self, now: SystemTime) -> ca::Pair {
        self.root
            .intermediate(&self.trust_domain, now)
            .expect("an intermediate")
    }

    fn config(&self) -> AuthorityConfig {
        AuthorityConfig {
            files: Some(CaFiles {
                cert: self.place("cert"),
                key: self.place("key"),
                roots: self.place("roots"),
            }),
            ..AuthorityConfig::default()
        }
    }
}

#[tokio::test]
async fn an_intermediate_that_is_not_good_yet_is_taken_when_it_is() {
    let now = SystemTime::now();
    let files = Files::new(now);
    let (authority, mut keeper, store) = open(files.config());
    let before = authority.status().intermediate.sha256;
    let day = Duration::from_secs(24 * 60 * 60);
    let next = files.intermediate(now + day);
    files.write(&next);
    keeper.look(now);
    let trouble = authority.status().trouble;
    assert!(trouble.contains("which is good only from"), "{trouble}");
    assert_eq!(authority.status().intermediate.sha256, before);
    keeper.look(now + day);
    assert_eq!(authority.status().intermediate.sha256, hex(&sha256(&next.certificate)));
    assert_eq!(authority.status().trouble, "");
    store.stop().await.expect("no panic");
}

#[tokio::test]
async fn trouble_ends_when_the_files_are_again_what_is_in_use() {
    let now = SystemTime::now();
    let files = Files::new(now);
    let (authority, mut keeper, store) = open(files.config());
    let trouble = || authority.status().trouble;
    let away = files.place("away");
    std::fs::rename(files.place("key"), &away).expect("moved");
    keeper.look(now);
    assert!(trouble().contains("key: "), "{:?}", trouble());
    std::fs::rename(&away, files.place("key")).expect("moved back");
    keeper.look(now);
    assert_eq!(trouble(), "", "one that could not be read");
    std::fs::write(files.place("cert"), "garbage").expect("written");
    keeper.look(now);
    assert!(trouble().contains("cert holds no certificate"), "{:?}", trouble());
    files.write(&files.first);
    keeper.look(now);
    assert_eq!(trouble(), "", "one that was wrong");
    std::fs::set_permissions(files.place("key"), Permissions::from_mode(0o644)).expect("set");
    keeper.look(now);
    assert!(trouble().contains("key has mode 644"), "{:?}", trouble());
    store.stop().await.expect("no panic");
}

/// Roots in a file until a token that names them, and the longest of all else, gets too long.
#[tokio::test]
async fn every_token_that_is_made_is_taken() {
    let now = SystemTime::now();
    let files = Files::new(now);
    let roots = || {
        let root = ca::Pair::root(&files.trust_domain, now).expect("a root");
        to_pem(&root.certificate)
    };
    let mut pem = to_pem(&files.root.certificate);
    pem.extend(std::iter::repeat_with(roots).take(29));
    std::fs::write(files.place("roots"), &pem).expect("written");
    let mut config = files.config();
    config.trust_domain = "d".repeat(255).parse().expect("the longest");
    let (authority, _keeper, store) = open(config.clone());
    let labels: Labels = (0..16)
        .map(|n| {
            (
                format!("{}/{n:0>63}", ["p".repeat(63).as_str(); 4].join(".").split_at(253).0),
                "v".repeat(63),
            )
        })
        .collect();
    let id = |authority: &Authority| authority.id(&"n".repeat(63), &"a".repeat(63)).expect("the longest");
    let token = |authority: &Authority| authority.token(&id(authority), labels.clone(), "720h", TOKEN_USES_MAX);
    let made = token(&authority).expect("thirty roots have room").token;
    let grant = authority.read_token(&made).expect("it is taken");
    assert_eq!((grant.claims.labels, grant.claims.roots.len()), (labels.clone(), 30));
    store.stop().await.expect("no panic");
    pem.extend(std::iter::repeat_with(roots).take(10));
    std::fs::write(files.place("roots"), &pem).expect("written");
    let (authority, _keeper, store) = open(config);
    let said = token(&authority).expect_err("forty have none").to_string();
    assert!(
        said.starts_with("token \"") && said.contains("bytes\": at most 12288 are right; it names 40 roots"),
        "{said}"
    );
    authority
        .token(&id(&authority), Labels::new(), "1h", 1)
        .expect("without labels they have");
    store.stop().await.expect("no panic");
}

/// Under virtual time: the keeper looks when it is time, and the test with it.
#[tokio::test(start_paused = true)]
async fn an_operators_files_are_followed_and_the_last_good_are_kept() {
    let now = SystemTime::now();
    let files = Files::new(now);
    let (authority, mut keeper, store) = open(files.config());
    let signs = || authority.status().intermediate.sha256;
    let before = signs();
    std::fs::write(files.place("cert"), "garbage").expect("written");
    keeper.look(now);
    assert_eq!(signs(), before);
    assert!(
        authority.status().trouble.contains("cert holds no certificate"),
        "{:?}",
        authority.status().trouble
    );
    let mut ca = authority.ca();
    ca.mark_unchanged();
    files.write(&files.intermediate(now));
    let (drainer, drain) = drain::channel();
    let kept = tokio::spawn(keeper.keep(drain));
    ca.changed().await.expect("the authority is there");
    assert_ne!(signs(), before);
    assert_eq!(authority.status().trouble, "");
    drainer.begin();
    kept.await.expect("no panic");
    store.stop().await.expect("no panic");
}

fn open_in(directory: &tempfile::TempDir) -> (Authority, Keeper, StoreTask) {
    let (store, task) = Store::open(Location::Memory).expect("a store");
    let opened = Authority::open(AuthorityConfig::default(), Some(directory.path()), store);
    let (authority, keeper) = opened.expect("an authority");
    (authority, keeper, task)
}

#[tokio::test]
async fn what_was_known_before_a_rotation_carries_it_no_step() {
    let directory = tempfile::tempdir().expect("a directory");
    let (authority, _keeper, store) = open_in(&directory);
    let facts = |roots| rotation::Facts {
        now: SystemTime::now(),
        roots,
        proxies: Vec::new(),
        awaited: Vec::new(),
        start: rotation::Start::Over,
    };
    let published = || authority.roots().borrow().clone();
    let before = facts(published());
    authority.rotate(Default::default()).expect("it begins");
    authority.advance(&before).expect("nothing to do");
    assert_eq!(authority.rotation_progress().0, Some(rotation::Step::Trust));
    authority.advance(&facts(published())).expect("nobody is behind");
    assert_eq!(authority.rotation_progress().0, Some(rotation::Step::Sign));
    store.stop().await.expect("no panic");
}

/// A mount that hangs, as a pipe that nobody writes: who asks how the authority stands doesn't wait for it.
#[tokio::test]
async fn files_that_hang_hold_nobody_but_their_reader() {
    let now = SystemTime::now();
    let files = Files::new(now);
    let (authority, mut keeper, store) = open(files.config());
    let (roots, pem) = (files.place("roots"), to_pem(&files.root.certificate));
    std::fs::remove_file(&roots).expect("removed");
    let made = std::process::Command::new("mkfifo").arg(&roots).status();
    assert!(made.expect("mkfifo is there").success());
    let looking = std::thread::spawn(move || keeper.look(now));
    // It opens when the keeper reads.
    let mut writer = std::fs::OpenOptions::new().write(true).open(&roots).expect("a pipe");
    let (said, hears) = std::sync::mpsc::channel();
    let asked = authority.clone();
    let asking = std::thread::spawn(move || said.send((asked.rotation_progress(), asked.status().trouble)));
    let heard = hears.recv_timeout(Duration::from_secs(10));
    std::io::Write::write_all(&mut writer, pem.as_bytes()).expect("written");
    drop(writer);
    looking.join().expect("no panic");
    asking.join().expect("no panic").expect("heard");
    assert_eq!(heard.expect("at once"), ((None, 0), String::new()));
    assert_eq!(authority.status().trouble, "", "the same as before");
    store.stop().await.expect("no panic");
}
