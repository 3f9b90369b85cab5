//! The database: a table of objects and the latest revision, changed in one transaction.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, TransactionBehavior, params};
use weir_api::{FieldError, Key, Object};

use super::index::Loaded;
use super::stage::Staged;
use super::{Location, Revision, Stored, TokenUse, UseError};

/// Why the store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the directory.
    #[error("{} is in use by another weir-control{}; stop that one, or give this one another --data-dir", .directory.display(), with_pid(.pid))]
    Locked {
        /// The data directory.
        directory: PathBuf,
        /// Its process id, where it could be read.
        pid: Option<u32>,
    },
    /// The directory or a file in it can't be made or read.
    #[error("{}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no database, or is damaged.
    #[error("{}: {source}", .path.display())]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// SQLite's own check of the file found damage.
    #[error("{} is damaged: {found}; restore it from a copy", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What SQLite says.
        found: String,
    },
    /// The database was written by another version of weir-control.
    #[error("{} has schema {found}; this weir-control knows schemas up to {SCHEMA}", .path.display())]
    Schema {
        /// Which.
        path: PathBuf,
        /// Its schema.
        found: i64,
    },
    /// An object in the database can't be read.
    #[error("{}: the object {key} can't be read: {problem}", .path.display())]
    Object {
        /// Which database.
        path: PathBuf,
        /// Which object, `kind/namespace/name`.
        key: String,
        /// Why.
        problem: String,
    },
    /// The store's thread can't be started.
    #[error("can't start the store's thread: {0}")]
    Thread(#[source] io::Error),
}

/// The open database. Dropping it releases the directory.
#[derive(Debug)]
pub(super) struct Disk {
    connection: Connection,
    /// How many transactions were committed since it was opened.
    pub(super) commits: u64,
    /// Locked for as long as it is open.
    _lock: Option<Lock>,
}

impl Disk {
    pub(super) fn open(location: &Location) -> Result<(Disk, Loaded), OpenError> {
        match location {
            Location::Memory => {
                let path = Path::new(":memory:");
                let connection = Connection::open_in_memory().map_err(at(path))?;
                prepare(&connection, path)?;
                let mut loaded = load(&connection, path)?;
                // Nothing is kept from an earlier run, so the clock keeps revisions from being given twice: a watcher
                // that comes back after a restart must not take this history for a part of the one it knew.
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                loaded.revision = Revision(u64::try_from(since_epoch.as_millis()).unwrap_or_default());
                let disk = Disk {
                    connection,
                    commits: 0,
                    _lock: None,
                };
                Ok((disk, loaded))
            }
            Location::Directory(directory) => {
                let lock = lock(directory)?;
                let path = directory.join(DATABASE_FILE);
                private_file(&path)?;
                let connection = Connection::open(&path).map_err(at(&path))?;
                prepare(&connection, &path)?;
                let loaded = load(&connection, &path)?;
                let disk = Disk {
                    connection,
                    commits: 0,
                    _lock: Some(lock),
                };
                Ok((disk, loaded))
            }
        }
    }

    /// A new random UUID (RFC 9562 section 5.4), from SQLite's generator, which the system seeds.
    pub(super) fn new_uid(&self) -> rusqlite::Result<String> {
        let random: [u8; 16] = self
            .connection
            .query_row("SELECT randomblob(16)", [], |row| row.get(0))?;
        let bits = (u128::from_be_bytes(random) & !(0xf << 76) & !(0b11 << 62)) | (0x4 << 76) | (0b10 << 62);
        let hex = format!("{bits:032x}");
        let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        Ok(format!("{a}-{b}-{c}-{d}-{e}"))
    }

    /// Commits all or nothing, and returns when it is on disk.
    pub(super) fn commit(&mut self, staged: &Staged) -> rusqlite::Result<()> {
        match self.try_commit(staged) {
            Ok(()) => {}
            // The failure may have come after the commit: the file says what is true.
            Err(_) if self.revision().is_ok_and(|revision| revision == staged.revision) => {}
            Err(error) => return Err(error),
        }
        self.commits += 1;
        tracing::trace!(commits = self.commits, changes = staged.events.len(), "committed");
        Ok(())
    }

    fn try_commit(&mut self, staged: &Staged) -> rusqlite::Result<()> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut put = transaction.prepare_cached(
                "INSERT INTO objects (kind, namespace, name, revision, body) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (kind, namespace, name) DO UPDATE SET revision = ?4, body = ?5",
            )?;
            let mut delete =
                transaction.prepare_cached("DELETE FROM objects WHERE kind = ?1 AND namespace = ?2 AND name = ?3")?;
            for (key, stored) in &staged.rows {
                let Key { kind, namespace, name } = key;
                match stored {
                    Some(stored) => put.execute(params![
                        kind.kind(),
                        namespace,
                        name,
                        as_integer(stored.revision),
                        stored.object.to_value().to_string()
                    ])?,
                    None => delete.execute(params![kind.kind(), namespace, name])?,
                };
            }
            let mut revision = transaction.prepare_cached("UPDATE latest SET revision = ?1")?;
            revision.execute([as_integer(staged.revision)])?;
        }
        transaction.commit()
    }

    /// Writes a token's use down, unless as many other keys as may have used it. `now`: seconds of Unix time.
    pub(super) fn use_token(&mut self, usage: &TokenUse, now: i64) -> Result<(), UseError> {
        let failed = |error| UseError::Storage(Arc::new(error));
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = transaction.map_err(failed)?;
        let used = (|| {
            transaction.execute("DELETE FROM token_uses WHERE ends < ?1", [now])?;
            let mut others =
                transaction.prepare_cached("SELECT count(*) FROM token_uses WHERE token = ?1 AND key <> ?2")?;
            let others: u32 = others.query_row([&usage.token, &usage.key], |row| row.get(0))?;
            if others >= usage.uses_max {
                return Ok(Err(UseError::UsedUp));
            }
            let ends = i64::try_from(usage.ends).unwrap_or(i64::MAX);
            let put = "INSERT INTO token_uses (token, key, ends) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
            transaction.execute(put, params![usage.token, usage.key, ends])?;
            Ok(Ok(()))
        })();
        used.map_err(failed)??;
        transaction.commit().map_err(failed)
    }

    fn revision(&self) -> rusqlite::Result<Revision> {
        latest(&self.connection)
    }
}

/// Takes the directory for this process, making it if it is missing.
fn lock(directory: &Path) -> Result<Lock, OpenError> {
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::File { path, source }
    };
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(file_error(directory))?;
    let path = directory.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(file_error(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut held_by = String::new();
            // Unreadable: the error then lacks the number, nothing else.
            let _ = file.take(PID_BYTES_MAX).read_to_string(&mut held_by);
            return Err(OpenError::Locked {
                directory: directory.to_owned(),
                pid: held_by.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(source)) => return Err(OpenError::File { path, source }),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .and_then(|()| file.flush());
    written.map_err(file_error(&path))?;
    Ok(Lock(file))
}

/// The lock on a directory, until it is dropped.
///
/// Closing the file would not do: a process that is being started holds it as well, from its fork to its exec, and a
/// lock is held until all have closed it (flock(2)).
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // What can't be unlocked is unlocked by its closing.
        let _ = self.0.unlock();
    }
}

/// Makes the file if it is missing, and only its owner's: SQLite gives its side files the same mode.
fn private_file(path: &Path) -> Result<(), OpenError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options
        .open(path)
        .and_then(|file| file.set_permissions(std::fs::Permissions::from_mode(0o600)))
        .map_err(|source| OpenError::File {
            path: path.to_owned(),
            source,
        })
}

fn prepare(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    // Someone may look into the file with another program; a lock of theirs is waited for this long.
    connection.busy_timeout(BUSY_TIMEOUT).map_err(at(path))?;
    // FULL: a commit is on disk when it returns, also if the machine then loses power.
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;")
        .map_err(at(path))?;
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(at(path))?;
    if found != "ok" {
        return Err(OpenError::Damaged {
            path: path.to_owned(),
            found,
        });
    }
    let schema: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(at(path))?;
    match schema {
        0 => {
            connection.execute_batch(CREATE).map_err(at(path))?;
            connection.execute_batch(FROM_1_TO_2).map_err(at(path))
        }
        1 => connection.execute_batch(FROM_1_TO_2).map_err(at(path)),
        SCHEMA => Ok(()),
        found => Err(OpenError::Schema {
            path: path.to_owned(),
            found,
        }),
    }
}

fn load(connection: &Connection, path: &Path) -> Result<Loaded, OpenError> {
    let mut loaded = Loaded {
        revision: latest(connection).map_err(at(path))?,
        ..Loaded::default()
    };
    let mut select = connection
        .prepare("SELECT kind || '/' || namespace || '/' || name, revision, body FROM objects")
        .map_err(at(path))?;
    let rows = select
        .query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, String>(2)?,
            ))
        })
        .map_err(at(path))?;
    for row in rows {
        let (key, revision, body) = row.map_err(at(path))?;
        let stored = read_object(revision, &body).map_err(|problem| OpenError::Object {
            path: path.to_owned(),
            key,
            problem,
        })?;
        loaded.objects.insert(stored.object.key(), Arc::new(stored));
    }
    Ok(loaded)
}

fn read_object(revision: i64, body: &str) -> Result<Stored, String> {
    let revision = u64::try_from(revision).map_err(|_| format!("its revision is {revision}"))?;
    let value = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let object = Object::parse(value).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        errors.join("; ")
    })?;
    Ok(Stored {
        object: Arc::new(object),
        revision: Revision(revision),
    })
}

fn latest(connection: &Connection) -> rusqlite::Result<Revision> {
    let revision: i64 = connection.query_row("SELECT revision FROM latest", [], |row| row.get(0))?;
    let out_of_range = |_| rusqlite::Error::IntegralValueOutOfRange(0, revision);
    u64::try_from(revision).map(Revision).map_err(out_of_range)
}

/// SQLite's integers are signed; at a million changes a second the difference matters after 292,000 years.
fn as_integer(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn at(path: &Path) -> impl FnOnce(rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Database { path, source }
}

fn with_pid(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

/// Makes every commit fail, as a full disk does.
#[cfg(test)]
pub(super) fn break_writes(disk: &Disk) {
    disk.connection
        .execute_batch("PRAGMA query_only = ON")
        .expect("a pragma");
}

const DATABASE_FILE: &str = "weir.db";
const LOCK_FILE: &str = "lock";
const PID_BYTES_MAX: u64 = 16;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const SCHEMA: i64 = 2;
const CREATE: &str = "
BEGIN IMMEDIATE;
CREATE TABLE objects (
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    revision INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE latest (revision INTEGER NOT NULL) STRICT;
INSERT INTO latest (revision) VALUES (0);
PRAGMA user_version = 1;
COMMIT;
";
/// Which keys have used which join tokens, until these end.
const FROM_1_TO_2: &str = "
BEGIN IMMEDIATE;
CREATE TABLE token_uses (
    token TEXT NOT NULL,
    key TEXT NOT NULL,
    ends INTEGER NOT NULL,
    PRIMARY KEY (token, key)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 2;
COMMIT;
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_though_a_process_that_is_being_started_still_has_its_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let held = lock(directory.path()).expect("free");
        let forked = held.0.try_clone().expect("another descriptor");
        assert!(matches!(lock(directory.path()), Err(OpenError::Locked { .. })));
        drop(held);
        lock(directory.path()).expect("free again");
        drop(forked);
    }
}
