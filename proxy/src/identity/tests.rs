//! When certificates are renewed, under virtual time; what is kept on disk.

use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;

/// Attempts that come to what is written down, and then to nothing more.
struct Scripted {
    began: Instant,
    outcomes: VecDeque<Option<u64>>,
    /// When each was made, in milliseconds from the start.
    made: mpsc::Sender<u128>,
    wanted: Arc<Notify>,
}

impl Source for Scripted {
    async fn obtain(&mut self) -> Option<Duration> {
        let made = self.began.elapsed().as_millis();
        self.made.send(made).await.expect("it is read");
        match self.outcomes.pop_front() {
            Some(outcome) => outcome.map(Duration::from_secs),
            None => std::future::pending().await,
        }
    }

    async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

fn scripted(outcomes: &[Option<u64>]) -> (Scripted, mpsc::Receiver<u128>) {
    let (made, seen) = mpsc::channel(16);
    let source = Scripted {
        began: Instant::now(),
        outcomes: outcomes.iter().copied().collect(),
        made,
        wanted: Arc::default(),
    };
    (source, seen)
}

/// When each attempt was made, the one after the last outcome as well.
async fn attempts(good_for: Option<Duration>, random: fn() -> f64, outcomes: &[Option<u64>]) -> Vec<u128> {
    let (mut source, mut seen) = scripted(outcomes);
    let all = async {
        let mut made = Vec::new();
        while made.len() <= outcomes.len() {
            made.push(seen.recv().await.expect("it goes on"));
        }
        made
    };
    tokio::select! {
        () = keep(&mut source, good_for, random) => Vec::new(),
        made = all => made,
    }
}

const LEAST: fn() -> f64 = || 0.0;
const MIDDLE: fn() -> f64 = || 0.5;
const MOST: fn() -> f64 = || 1.0;

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_at_two_thirds_with_a_tenth_of_jitter() {
    let day = 24 * 60 * 60;
    let good_for = Some(Duration::from_secs(day));
    // Nothing is there: at once, then at two thirds of each.
    assert_eq!(
        attempts(None, MIDDLE, &[Some(day), Some(60)]).await,
        [0, 57_600_000, 57_640_000]
    );
    assert_eq!(
        attempts(good_for, MIDDLE, &[]).await,
        [57_600_000],
        "what was kept is used first"
    );
    assert_eq!(attempts(good_for, LEAST, &[]).await, [48_960_000]);
    assert_eq!(attempts(good_for, MOST, &[]).await, [66_240_000]);
    assert_eq!(
        attempts(Some(Duration::ZERO), MIDDLE, &[]).await,
        [1_000],
        "never without a pause"
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_it_is_tried_again_with_waits_that_double() {
    let failures = [None; 8];
    let expect = [0, 1, 3, 7, 15, 31, 63, 123, 183].map(|seconds| seconds * 1_000);
    assert_eq!(attempts(None, MOST, &failures).await, expect);
    assert_eq!(attempts(None, LEAST, &failures[..3]).await, [0, 500, 1_500, 3_500]);
    // A success begins anew.
    let mixed = [None, None, Some(60), None];
    assert_eq!(attempts(None, MIDDLE, &mixed).await, [0, 750, 2_250, 42_250, 43_000]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_wanted_is_not_waited_for() {
    let (mut source, mut seen) = scripted(&[Some(3_600), Some(3_600)]);
    let wanted = Arc::clone(&source.wanted);
    let test = async {
        assert_eq!(seen.recv().await, Some(0));
        tokio::time::sleep(Duration::from_secs(7)).await;
        wanted.notify_one();
        assert_eq!(seen.recv().await, Some(7_000));
        assert_eq!(seen.recv().await, Some(2_407_000));
    };
    tokio::select! {
        () = keep(&mut source, None, MIDDLE) => {}
        () = test => {}
    }
}

const PORTAL: &str = "spiffe://mesh.gov/ns/citizen/sa/portal";

fn credential() -> Credential {
    let (root, chain, key, _) = trust::tests::chain(PORTAL);
    let (not_after, id) = trust::read(&chain[0]).expect("a certificate");
    Credential {
        id,
        chain,
        roots: vec![root],
        key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        not_after,
    }
}

#[test]
fn what_is_kept_reads_back_and_nobody_else_reads_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(kept::FILE);
    let now = SystemTime::now();
    assert!(kept::read(&path, now).expect("nothing is wrong").is_none());
    let held = credential();
    kept::write(&path, &held).expect("written");
    kept::write(&path, &held).expect("and again");
    let mode = std::fs::metadata(&path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let read = kept::read(&path, now).expect("it is right").expect("there");
    assert_eq!(
        (&read.id, &read.chain, &read.roots),
        (&held.id, &held.chain, &held.roots)
    );
    assert_eq!(
        (read.key.secret_der(), read.not_after),
        (held.key.secret_der(), held.not_after)
    );
    let refused = |now| kept::read(&path, now).map(|_| ()).expect_err("it is wrong");
    assert_eq!(refused(held.not_after), "its certificate has ended");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("set");
    assert!(refused(now).starts_with("it has mode 640"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
    let whole = std::fs::read_to_string(&path).expect("text");
    let key_alone: String = whole.split_inclusive("-----END PRIVATE KEY-----\n").take(1).collect();
    for damaged in ["", "garbage", &key_alone, &whole[..whole.len() / 2]] {
        std::fs::write(&path, damaged).expect("written");
        assert_eq!(refused(now), "it is damaged", "{damaged:?}");
    }
}

#[test]
fn a_root_that_came_along_is_not_trusted_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(kept::FILE);
    let now = SystemTime::now();
    let (root, chain, key, id) = trust::tests::chain(PORTAL);
    let (other, ..) = trust::tests::chain(PORTAL);
    let answer: Vec<String> = chain.iter().chain([&other, &root]).map(pem).collect();
    let trust = Trust {
        roots: Vec::new(),
        pins: vec![trust::sha256(&root)],
        id: id.trust_domain.control_plane(),
    };
    let held = joining::answered(&answer, &key, &id, &trust, now).expect("it is right");
    assert_eq!((&held.chain, &held.roots), (&chain, &vec![root]));
    kept::write(&path, &held).expect("written");
    let read = kept::read(&path, now).expect("it is right").expect("there");
    assert_eq!((read.chain, read.roots), (held.chain, held.roots));
}

fn pem(certificate: &CertificateDer<'static>) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{encoded}\n-----END CERTIFICATE-----\n")
}

#[test]
fn a_key_is_shown_nowhere() {
    let held = credential();
    let secret = format!("{:?}", held.key.secret_der());
    let config = Arc::new(
        Trust {
            roots: held.roots.clone(),
            pins: Vec::new(),
            id: held.id.trust_domain.control_plane(),
        }
        .client_config(Some((held.chain.clone(), held.key.clone_key())))
        .expect("it is right"),
    );
    let state = State(Some(Arc::new(Held {
        credential: held,
        config,
    })));
    let identity = Identity {
        shared: Arc::new(Shared {
            state: watch::Sender::new(state),
            wanted: Notify::new(),
            trouble: Mutex::default(),
        }),
    };
    let shown = format!("{identity:?} {}", identity.status(SystemTime::now()));
    assert!(shown.contains("spiffe://mesh.gov/ns/citizen/sa/portal"), "{shown}");
    assert!(!shown.contains(&secret) && !shown.contains("PRIVATE"), "{shown}");
}
