//! A directory through starts, cuts and damage; an operator's files.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::*;
use crate::authority::x509::{hex, sha256};

fn trust_domain() -> TrustDomain {
    "mesh.gov".parse().expect("a trust domain")
}

fn open(directory: &tempfile::TempDir) -> Result<Ca, AuthorityError> {
    let directory = Directory::open(directory.path().join("authority"))?;
    directory.token_key()?;
    directory.ca(None, &trust_domain(), SystemTime::now())
}

/// Fingerprints of root and intermediate.
fn prints(ca: &Ca) -> (String, String) {
    let print = |certificate: &CertificateDer<'_>| hex(&sha256(certificate));
    (print(&ca.roots()[0]), print(ca.intermediate().expect("there is one")))
}

#[track_caller]
fn refused(directory: &tempfile::TempDir, file: &str, expect: &str) {
    let error = open(directory).expect_err("it is wrong").to_string();
    let path = directory.path().join("authority").join(file);
    let path = path.display().to_string();
    assert!(error.starts_with(path.trim_end_matches('/')), "{error}");
    assert!(error.contains(expect), "{error}");
}

#[test]
fn a_directory_is_made_once_and_only_for_its_owner() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = prints(&open(&directory).expect("made"));
    assert_eq!(prints(&open(&directory).expect("read")), first);
    let place = directory.path().join("authority");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&place), 0o700);
    let mut names: Vec<String> = fs::read_dir(&place)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    assert_eq!(names, [INTERMEDIATE, ROOT, TOKEN_KEY]);
    for name in &names {
        assert_eq!(mode(&place.join(name)), 0o600, "{name}");
    }
}

#[test]
fn what_a_cut_off_start_leaves_is_finished() {
    let directory = tempfile::tempdir().expect("a directory");
    let (root, _) = prints(&open(&directory).expect("made"));
    let place = directory.path().join("authority");
    for left in [&[INTERMEDIATE][..], &[TOKEN_KEY], &[INTERMEDIATE, TOKEN_KEY]] {
        for name in left {
            fs::remove_file(place.join(name)).expect("removed");
            fs::write(place.join(format!("{name}.new")), "half").expect("written");
        }
        let (again, _) = prints(&open(&directory).expect("finished"));
        assert_eq!(again, root, "the root is what others trust");
    }
}

#[test]
fn what_is_damaged_is_refused_with_what_to_do() {
    let damaged = |change: &dyn Fn(&Path)| {
        let directory = tempfile::tempdir().expect("a directory");
        open(&directory).expect("made");
        change(&directory.path().join("authority"));
        directory
    };
    let lost = damaged(&|place| fs::remove_file(place.join(ROOT)).expect("removed"));
    refused(&lost, ROOT, "restore it from a copy");
    for file in [ROOT, INTERMEDIATE, TOKEN_KEY] {
        let garbage = damaged(&|place| fs::write(place.join(file), "garbage").expect("written"));
        refused(&garbage, file, "holds no ");
        let open_to_all = damaged(&|place| {
            fs::set_permissions(place.join(file), fs::Permissions::from_mode(0o640)).expect("set");
        });
        refused(
            &open_to_all,
            file,
            "has mode 640, so that others can reach keys: chmod 600",
        );
    }
    let open_to_all = damaged(&|place| fs::set_permissions(place, fs::Permissions::from_mode(0o750)).expect("set"));
    refused(
        &open_to_all,
        "",
        "has mode 750, so that others can reach keys: chmod 700",
    );
    // The root of another authority: what is there was not signed by it.
    let other = tempfile::tempdir().expect("a directory");
    open(&other).expect("made");
    let mixed = damaged(&|place| {
        let from = other.path().join("authority").join(ROOT);
        fs::copy(from, place.join(ROOT)).map(drop).expect("copied");
    });
    refused(&mixed, INTERMEDIATE, "does not lead to any of the roots");
}

#[test]
fn an_intermediate_that_ends_is_renewed_under_the_same_root() {
    let directory = tempfile::tempdir().expect("a directory");
    let (root, before) = prints(&open(&directory).expect("made"));
    let place = Directory::open(directory.path().join("authority")).expect("open");
    for days in [300, 800] {
        let later = SystemTime::now() + Duration::from_secs(days * 24 * 60 * 60);
        let (same, after) = prints(&place.ca(None, &trust_domain(), later).expect("renewed"));
        assert_eq!(same, root);
        assert_ne!(after, before);
    }
    let ended = SystemTime::now() + Duration::from_secs(11 * 365 * 24 * 60 * 60);
    let error = place
        .ca(None, &trust_domain(), ended)
        .expect_err("the root has ended")
        .to_string();
    assert!(
        error.contains("root.pem holds") && error.contains("which ended at"),
        "{error}"
    );
}

#[test]
fn an_operators_files_are_taken_whole_or_refused_by_name() {
    let now = SystemTime::now();
    let root = Pair::root(&trust_domain(), now).expect("a root");
    let stranger = Pair::root(&trust_domain(), now).expect("a root");
    let intermediate = root.intermediate(&trust_domain(), now).expect("an intermediate");
    let pem = |pair: &Pair| crate::authority::x509::to_pem(&pair.certificate);
    let (cert, key, roots) = (pem(&intermediate), intermediate.key.serialize_pem(), pem(&root));
    let check = |cert: &str, key: &str, roots: &str| {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
            path
        };
        let files = CaFiles {
            cert: write("cert", cert),
            key: write("key", key),
            roots: write("roots", roots),
        };
        let bytes = files.read().expect("there");
        let error = files.ca(&bytes, now).map(|_| ()).err()?;
        let error = error.to_string();
        let place = format!("{}/", directory.path().display());
        Some(error.replace(&place, ""))
    };
    let starts = |error: Option<String>, expect: &str| {
        let error = error.expect("it is wrong");
        assert!(error.starts_with(expect), "{error}");
    };
    assert_eq!(check(&cert, &key, &roots), None);
    assert_eq!(
        check(&format!("{cert}{roots}"), &key, &roots),
        None,
        "the root may be there as well"
    );
    assert_eq!(
        check(&cert, &key, &format!("{}{roots}", pem(&stranger))),
        None,
        "several roots"
    );
    starts(check("", &key, &roots), "cert holds no certificate");
    starts(check(&cert, "", &roots), "key holds no private key");
    starts(check(&cert, &key, ""), "roots holds no certificate");
    starts(
        check(&roots, &root.key.serialize_pem(), &roots),
        "cert holds only what --ca-roots holds",
    );
    starts(
        check(&cert, &root.key.serialize_pem(), &roots),
        "key is not the key of the first certificate",
    );
    starts(
        check(&cert, &key, &pem(&stranger)),
        "cert does not lead to any of the roots",
    );
    let broken = cert.replacen('M', "?", 1);
    starts(
        check(&broken, &key, &roots),
        "cert holds a certificate that can't be read",
    );
    let missing = CaFiles {
        cert: "no-such-cert".into(),
        key: "k".into(),
        roots: "r".into(),
    };
    let missing = missing.read().map(|_| ()).expect_err("it is not there").to_string();
    assert!(missing.starts_with("no-such-cert: "), "{missing}");
}

#[test]
fn a_key_of_an_operators_that_others_can_read_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str| {
        let path = directory.path().join(name);
        fs::write(&path, "").expect("written");
        path
    };
    let files = CaFiles {
        cert: write("cert"),
        key: write("key"),
        roots: write("roots"),
    };
    for (mode, right) in [
        (0o600, true),
        (0o400, true),
        (0o644, false),
        (0o604, false),
        (0o620, false),
    ] {
        fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).expect("set");
        let read = files.read().map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(read.is_ok(), right, "{read:?}");
        if let Err(said) = read {
            assert!(
                said.contains(&format!(
                    "key has mode {mode:o}, so that others can reach the key: 600 is right"
                )),
                "{said}"
            );
        }
    }
    // Whoever owns it: a group gets it of root alone.
    for (owner, mode, right) in [
        (0, 0o640, true),
        (0, 0o440, true),
        (0, 0o644, false),
        (0, 0o660, false),
        (1000, 0o640, false),
        (1000, 0o600, true),
    ] {
        assert_eq!(mode & forbidden(owner) == 0, right, "{owner} {mode:o}");
    }
}

fn authority(directory: &tempfile::TempDir) -> Directory {
    Directory::open(directory.path().join("authority")).expect("open")
}

/// A rotation at its last step, in a directory.
fn forgetting(directory: &tempfile::TempDir) -> (Directory, Rotation) {
    open(directory).expect("made");
    let place = authority(directory);
    let now = SystemTime::now();
    let begun = place.begin(BTreeSet::new(), &trust_domain(), now).expect("begun").0;
    let rotation = begun.at(Step::Forget, now);
    place.keep(&rotation).expect("kept");
    (place, rotation)
}

/// Cut off after any of its writes, the end of a rotation is found under way, signs as before, and is done again.
#[test]
fn the_end_of_a_rotation_that_is_cut_off_is_done_again() {
    const WRITES: [&str; 3] = [BRIDGES, INTERMEDIATE, ROOT];
    for done in 0..=WRITES.len() {
        let directory = tempfile::tempdir().expect("a directory");
        let (place, rotation) = forgetting(&directory);
        let file = |name: &str| directory.path().join("authority").join(name);
        let names = [&WRITES[..], &[ROTATION]].concat();
        let before: Vec<Option<Vec<u8>>> = names.iter().map(|name| fs::read(file(name)).ok()).collect();
        let now = SystemTime::now();
        place.finish(&rotation, now).expect("done");
        for (name, bytes) in names.iter().zip(before).skip(done) {
            match bytes {
                Some(bytes) => place.write(name, &bytes).expect("written"),
                None => fs::remove_file(file(name)).expect("removed"),
            }
        }
        let held = authority(&directory).rotation().expect("read");
        assert!(held.as_ref() == Some(&rotation), "{done}");
        let ca = place.ca(held.as_ref(), &trust_domain(), now).expect("it signs");
        let new = rotation.new_root().expect("a root");
        assert_eq!(ca.roots(), std::slice::from_ref(&new), "{done}");
        assert_eq!(ca.bridges().first(), rotation.bridges().expect("two").first(), "{done}");
        place.finish(&rotation, now).expect("done again");
        let after = authority(&directory);
        assert!(after.rotation().expect("read").is_none(), "{done}");
        let ca = after.ca(None, &trust_domain(), now).expect("it signs");
        assert_eq!((ca.roots(), ca.bridges().len()), (&[new][..], 2), "{done}");
        assert!(!fs::read_to_string(file(ROOT)).expect("there").is_empty());
    }
}

#[test]
fn what_leads_from_roots_of_the_past_ends_with_its_time_and_grows_with_each_rotation() {
    let directory = tempfile::tempdir().expect("a directory");
    let (place, rotation) = forgetting(&directory);
    let now = SystemTime::now();
    place.finish(&rotation, now).expect("done");
    let at = |days: u64| now + Duration::from_secs(days * 24 * 60 * 60);
    let begun = place.begin(BTreeSet::new(), &trust_domain(), at(30)).expect("begun").0;
    place.finish(&begun.at(Step::Forget, at(30)), at(30)).expect("done");
    let second = begun.bridges().expect("two");
    let bridges = |days| {
        let ca = place.ca(None, &trust_domain(), at(days)).expect("it signs");
        ca.bridges().to_vec()
    };
    assert_eq!(bridges(59).len(), 4);
    let left = bridges(61);
    assert_eq!(left.len(), 2, "of the first root nothing leads here any more");
    assert!(second.iter().all(|one| left.contains(one)));
    assert_eq!(bridges(91), []);
}

#[test]
fn a_rotation_is_aborted_as_if_it_had_not_begun() {
    let directory = tempfile::tempdir().expect("a directory");
    let before = prints(&open(&directory).expect("made"));
    let place = authority(&directory);
    let now = SystemTime::now();
    let rotation = place.begin(BTreeSet::new(), &trust_domain(), now).expect("begun").0;
    let both = place.ca(Some(&rotation), &trust_domain(), now).expect("it signs");
    assert_eq!((prints(&both), both.roots().len()), (before.clone(), 2));
    place.abort().expect("aborted");
    place.abort().expect("once more");
    assert!(place.rotation().expect("read").is_none());
    assert_eq!(prints(&open(&directory).expect("read")), before);
}

/// However long the step before it lasted, who trusts the old root alone believes what is signed.
#[test]
fn the_new_root_is_below_the_old_one_from_when_it_signs() {
    let directory = tempfile::tempdir().expect("a directory");
    open(&directory).expect("made");
    let place = authority(&directory);
    let now = SystemTime::now();
    let begun = place.begin(BTreeSet::new(), &trust_domain(), now).expect("begun").0;
    let cross = |rotation: &Rotation| rotation.bridges().expect("two").remove(0);
    for days in [1, 59, 61, 200] {
        let later = now + Duration::from_secs(days * 24 * 60 * 60);
        let signs = place.at_sign(&begun, &trust_domain(), later).expect("it goes on");
        let (_, until) = ca::times(&cross(&signs)).expect("read");
        let left = until.duration_since(later).expect("it has not ended").as_secs();
        assert_eq!(left.div_ceil(24 * 60 * 60), 60, "{days}");
        assert_eq!((signs.step, signs.new_root()), (Step::Sign, begun.new_root()));
        let ca = place.ca(Some(&signs), &trust_domain(), later).expect("it signs");
        assert_eq!(ca.roots().len(), 2);
    }
}

/// A root that has ended says nothing any more, and nobody believes it: the rotation goes on without.
#[test]
fn a_rotation_outlives_the_root_that_is_to_go() {
    let directory = tempfile::tempdir().expect("a directory");
    open(&directory).expect("made");
    let place = authority(&directory);
    let now = SystemTime::now();
    let begun = place.begin(BTreeSet::new(), &trust_domain(), now).expect("begun").0;
    let late = now + Duration::from_secs(11 * 365 * 24 * 60 * 60);
    let signs = place.at_sign(&begun, &trust_domain(), late).expect("it goes on");
    assert_eq!((signs.step, signs.bridges()), (Step::Sign, begun.bridges()));
}

#[test]
fn a_rotation_that_fails_to_begin_has_not_begun() {
    let directory = tempfile::tempdir().expect("a directory");
    let before = prints(&open(&directory).expect("made"));
    let place = authority(&directory);
    place.write(BRIDGES, b"garbage").expect("written");
    let begun = place.begin(BTreeSet::new(), &trust_domain(), SystemTime::now());
    let error = begun.map(|_| ()).expect_err("what is there is damaged").to_string();
    assert!(error.contains("bridges.pem holds no certificate"), "{error}");
    assert!(place.rotation().expect("read").is_none(), "a restart would go on");
    place.remove(BRIDGES).expect("removed");
    assert_eq!(prints(&open(&directory).expect("read")), before);
    let despite = BTreeSet::from(["n/a".to_owned()]);
    let (rotation, _) = place
        .begin(despite.clone(), &trust_domain(), SystemTime::now())
        .expect("begun");
    assert_eq!(rotation.despite, despite);
    assert!(place.rotation().expect("read") == Some(rotation), "as it was written");
}

#[test]
fn a_damaged_rotation_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let (place, _) = forgetting(&directory);
    place.write(ROTATION, b"{}").expect("written");
    let error = place.rotation().expect_err("damaged").to_string();
    assert!(
        error.contains("rotation.json is damaged: restore it from a copy"),
        "{error}"
    );
}

#[test]
fn until_when_certificates_are_good_is_written_for_one_root() {
    let directory = tempfile::tempdir().expect("a directory");
    let ca = open(&directory).expect("made");
    let (one, other) = (ca.root().expect("a root"), RootId::of([7; 32]));
    let place = authority(&directory);
    assert_eq!(place.given_until(one).expect("read"), None);
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    place.set_given_until(one, until).expect("written");
    assert_eq!(place.given_until(one).expect("read"), Some(until));
    assert_eq!(place.given_until(other).expect("read"), None);
}
