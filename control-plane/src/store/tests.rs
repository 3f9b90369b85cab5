//! The store as a whole: on disk, through restarts, with many writers and slow watchers.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use tokio::task::JoinSet;

use super::samples::{key, namespace, service};
use super::*;

fn open(directory: &tempfile::TempDir) -> (Store, StoreTask) {
    Store::open(Location::Directory(directory.path().join("data"))).expect("a store")
}

fn memory() -> (Store, StoreTask) {
    Store::open(Location::Memory).expect("a store")
}

fn delete(name: &str) -> Op {
    Op::Delete {
        key: key(Kind::Service, "a", name),
        precondition: Precondition::Any,
    }
}

/// `+x@1`, `~x@2`, `-x@3`, with revisions counted from the watch's beginning.
fn shown(events: &[Arc<Event>], from: Revision) -> Vec<String> {
    let show = |event: &Arc<Event>| {
        let sign = match event.change {
            Change::Added { .. } => '+',
            Change::Modified { .. } => '~',
            Change::Deleted { .. } => '-',
        };
        format!("{sign}{}@{}", event.key.name, event.revision.0 - from.0)
    };
    events.iter().map(show).collect()
}

#[tokio::test]
async fn what_is_written_is_read_and_listed() {
    let (store, task) = memory();
    let ops = vec![
        Op::Create(namespace("a")),
        Op::Create(service("a", "y", 80)),
        Op::Create(service("a", "x", 80)),
        Op::Create(service("b", "x", 80)),
    ];
    let written = store.write(ops).await.expect("written");
    assert_eq!(store.revision(), written.revision);
    assert_eq!(written.objects.len(), 4);
    assert_eq!(
        store.get(&key(Kind::Service, "a", "x")).as_ref(),
        Some(&written.objects[2])
    );
    assert_eq!(store.get(&key(Kind::Service, "a", "z")), None);
    let names = |namespace| {
        let (listed, revision) = store.list(Kind::Service, namespace);
        assert_eq!(revision, written.revision);
        let names = listed.iter().map(|stored| stored.object.key().to_string());
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(None), "Service/a/x Service/a/y Service/b/x");
    assert_eq!(names(Some("a")), "Service/a/x Service/a/y");
    assert_eq!(names(Some("c")), "");
    assert_eq!(store.all().0.len(), 4);
    task.stop().await.expect("no panic");
    let late = store.write(vec![Op::Create(namespace("b"))]).await;
    assert!(matches!(late, Err(WriteError::Closed)), "{late:?}");
}

#[tokio::test]
async fn a_restart_keeps_objects_and_gives_no_revision_twice() {
    let directory = tempfile::tempdir().expect("a directory");
    let (store, task) = open(&directory);
    let ops = vec![Op::Create(service("a", "x", 80)), Op::Create(service("a", "y", 80))];
    store.write(ops).await.expect("written");
    let status = Op::Status {
        key: key(Kind::Service, "a", "x"),
        status: json!({"loadBalancer": {}}),
        precondition: Precondition::Any,
    };
    store.write(vec![status]).await.expect("written");
    let last = store.write(vec![delete("y")]).await.expect("written").revision;
    let before = store.all();
    task.stop().await.expect("no panic");
    drop(store);

    let (store, task) = open(&directory);
    assert_eq!(store.all(), before);
    assert_eq!(store.revision(), last);
    let next = store
        .write(vec![Op::Create(service("a", "y", 80))])
        .await
        .expect("written");
    assert!(next.revision > last, "{} after {last}", next.revision);
    // What happened before the restart is not remembered; from its end on it is.
    assert!(store.watch(Revision(last.0 - 1)).is_err());
    assert!(store.watch(last).is_ok());
    task.stop().await.expect("no panic");
}

#[tokio::test]
async fn one_directory_has_one_store_at_a_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let (store, task) = open(&directory);
    let path = directory.path().join("data");
    match Store::open(Location::Directory(path.clone())) {
        Err(OpenError::Locked { directory, pid }) => {
            assert_eq!((directory, pid), (path.clone(), Some(std::process::id())));
        }
        other => panic!("{other:?}"),
    }
    task.stop().await.expect("no panic");
    drop(store);
    let (_store, task) = open(&directory);
    task.stop().await.expect("no panic");
}

#[tokio::test]
async fn files_are_their_owners_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let (store, task) = open(&directory);
    store.write(vec![Op::Create(namespace("a"))]).await.expect("written");
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    let data = directory.path().join("data");
    assert_eq!(mode(&data), 0o700);
    let files: Vec<_> = std::fs::read_dir(&data)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert!(files.len() >= 3, "database, log, lock: {files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    task.stop().await.expect("no panic");
}

#[track_caller]
fn open_error(database: &[u8]) -> OpenError {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("weir.db"), database).expect("written");
    match Store::open(Location::Directory(directory.path().to_owned())) {
        Err(error) => error,
        Ok(_) => panic!("opened"),
    }
}

/// A store's database, changed by another program.
async fn changed(sql: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    let (_, task) = Store::open(Location::Directory(directory.path().to_owned())).expect("a store");
    task.stop().await.expect("no panic");
    let path = directory.path().join("weir.db");
    let connection = rusqlite::Connection::open(&path).expect("a database");
    let script = format!("PRAGMA journal_mode = DELETE; {sql}");
    connection.execute_batch(&script).expect("changed");
    drop(connection);
    std::fs::read(&path).expect("a file")
}

#[tokio::test]
async fn a_file_that_is_no_store_of_ours_is_refused() {
    let no_database = open_error(b"no database, and long enough to be looked at");
    assert!(matches!(no_database, OpenError::Database { .. }), "{no_database:?}");
    let newer = open_error(&changed("PRAGMA user_version = 3").await);
    assert!(matches!(newer, OpenError::Schema { found: 3, .. }), "{newer:?}");
    let foreign = "INSERT INTO objects VALUES ('Pod', 'a', 'x', 1, '{\"kind\": \"Pod\"}')";
    match open_error(&changed(foreign).await) {
        OpenError::Object { key, .. } => assert_eq!(key, "Pod/a/x"),
        other => panic!("{other:?}"),
    }
    let negative = "INSERT INTO objects VALUES ('Service', 'a', 'x', -1, '{}')";
    match open_error(&changed(negative).await) {
        OpenError::Object { problem, .. } => assert_eq!(problem, "its revision is -1"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_watch_tells_everything_in_order_from_where_it_began() {
    let (store, task) = memory();
    let start = store.revision();
    let mut early = store.watch(start).expect("a watch");
    store
        .write(vec![
            Op::Create(service("a", "x", 80)),
            Op::Create(service("a", "y", 80)),
        ])
        .await
        .expect("written");
    let mut late = store.watch(Revision(start.0 + 1)).expect("a watch");
    assert_eq!(shown(&early.next().await.expect("events"), start), ["+x@1", "+y@2"]);
    assert_eq!(shown(&late.next().await.expect("events"), start), ["+y@2"]);
    let replace = Op::Replace {
        object: service("a", "x", 81),
        precondition: Precondition::Any,
    };
    // The watch waits first and is woken by the write.
    let (events, written) = tokio::join!(early.next(), store.write(vec![replace, delete("y")]));
    assert_eq!(shown(&events.expect("events"), start), ["~x@3", "-y@4"]);
    assert_eq!(early.seen(), written.expect("written").revision);
    let future = store.watch(Revision(start.0 + 100)).expect_err("not there yet");
    assert_eq!(future.latest, early.seen());
    task.stop().await.expect("no panic");
    assert_eq!(late.next().await.map(|events| events.len()), Ok(2));
    assert_eq!(late.next().await, Err(WatchEnded::Closed));
}

#[tokio::test]
async fn of_writers_who_know_the_same_revision_one_wins() {
    let (store, task) = memory();
    let written = store
        .write(vec![Op::Create(service("a", "x", 1))])
        .await
        .expect("written");
    let mut writers = JoinSet::new();
    for port in 100..150 {
        let store = store.clone();
        let precondition = Precondition::Revision(written.revision);
        let object = service("a", "x", port);
        writers.spawn(async move { store.write(vec![Op::Replace { object, precondition }]).await });
    }
    let results = writers.join_all().await;
    let won: Vec<&Written> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert_eq!(won.len(), 1, "{results:?}");
    for result in &results {
        match result {
            Ok(_) => {}
            Err(WriteError::Conflict { held, given, .. }) => {
                assert_eq!((*held, *given), (won[0].revision, written.revision));
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    task.stop().await.expect("no panic");
}
