//! What was last in force, kept on disk: a proxy that starts without its control plane serves from it.
//!
//! One file, replaced whole: written beside, synced, renamed, so that a crash leaves the old one or the new one. Its
//! head names the format's version and its end is a checksum; a file that can't be used is set aside, not trusted in
//! part.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use weir_policy::names::WorkloadName;
use weir_xds::ResourceType;
use weir_xds::envoy::Any;

/// The first bytes of the file; the last two digits are the version of the format.
const MAGIC: &[u8; 8] = b"WEIRLG01";

/// What of [`MAGIC`] every version has.
const MAGIC_STEM: &[u8] = b"WEIRLG";

/// How large a file is read, in bytes. What a proxy has in force is far smaller; more is not ours.
const FILE_MAX: u64 = 256 << 20;

const NAME: &str = "last-good";
const NAME_NEW: &str = "last-good.new";
const NAME_BAD: &str = "last-good.bad";
const NAME_LOCK: &str = "lock";

/// One resource in force.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kept {
    /// Its type.
    pub(crate) kind: ResourceType,
    /// The name it is subscribed to by.
    pub(crate) name: String,
    /// As the control plane names its version.
    pub(crate) version: String,
    /// As it came.
    pub(crate) resource: Arc<Any>,
}

/// The directory where one proxy keeps what it knows. Locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct LastGood {
    directory: PathBuf,
    workload: WorkloadName,
    _lock: File,
}

/// Why a state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateDirError {
    /// It can't be made, read or written.
    #[error("state directory {}: {error}", .path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What came of it.
        error: io::Error,
    },
    /// Another process has it.
    #[error("state directory {} is in use by another proxy; each needs one of its own", .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// What was found in a state directory.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// Nothing: a first start.
    Nothing,
    /// What was in force.
    Kept(Vec<Kept>),
    /// A file that can't be used. It was moved, so that it can be looked at.
    SetAside {
        /// Where to.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    /// It is shorter than it says, or has more after its end.
    #[error("is torn")]
    Torn,
    /// It is larger than any of ours.
    #[error("is larger than {FILE_MAX} bytes")]
    TooLarge,
    /// It does not begin as ours do.
    #[error("is not a file of this kind")]
    Foreign,
    /// Another version of the format.
    #[error("is of another version of the format")]
    OtherVersion,
    /// Its checksum is wrong.
    #[error("does not match its checksum")]
    Checksum,
    /// Its checksum is right, and yet it can't be read.
    #[error("can't be read")]
    Unreadable,
    /// It was written for another workload, whose routes may differ.
    #[error("is of workload {held}")]
    OtherWorkload {
        /// Which.
        held: String,
    },
}

impl LastGood {
    /// Opens a directory, which is made if it is not there, for one workload's proxy.
    ///
    /// # Errors
    /// When it can't be used, or another process has it open.
    pub(crate) fn open(directory: &Path, workload: &WorkloadName) -> Result<LastGood, StateDirError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| StateDirError::Io { path, error }
        };
        fs::create_dir_all(directory).map_err(failed(directory))?;
        let path = directory.join(NAME_LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(failed(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StateDirError::InUse {
                    path: directory.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(StateDirError::Io { path, error }),
        }
        // What a crash left half-written.
        let new = directory.join(NAME_NEW);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StateDirError::Io { path: new, error });
            }
            Ok(()) | Err(_) => {}
        }
        Ok(LastGood {
            directory: directory.to_owned(),
            workload: workload.clone(),
            _lock: lock,
        })
    }

    /// Opens a directory and reads what was in force; a file that had to be set aside is logged, and nothing is in
    /// force then.
    ///
    /// # Errors
    /// As [`LastGood::open`] and [`LastGood::load`].
    pub(crate) fn start(directory: &Path, workload: &WorkloadName) -> Result<(LastGood, Vec<Kept>), StateDirError> {
        let last_good = LastGood::open(directory, workload)?;
        let kept = match last_good.load()? {
            Loaded::Nothing => Vec::new(),
            Loaded::Kept(kept) => kept,
            Loaded::SetAside { path, damage } => {
                tracing::warn!(moved_to = %path.display(), %damage, "what was kept on disk can't be used");
                Vec::new()
            }
        };
        Ok((last_good, kept))
    }

    /// Reads what was in force.
    ///
    /// # Errors
    /// When the file is there and can't be read or set aside; damage is not an error.
    pub(crate) fn load(&self) -> Result<Loaded, StateDirError> {
        let path = self.directory.join(NAME);
        let failed = |error| StateDirError::Io {
            path: path.clone(),
            error,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Nothing),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        match read(&bytes, &self.workload) {
            Ok(kept) => Ok(Loaded::Kept(kept)),
            Err(damage) => {
                let bad = self.directory.join(NAME_BAD);
                fs::rename(&path, &bad).map_err(failed)?;
                Ok(Loaded::SetAside { path: bad, damage })
            }
        }
    }

    /// Replaces what is kept. Blocks until it is on the disk.
    ///
    /// # Errors
    /// When it could not be written; what was kept before is then still there.
    pub(crate) fn save(&self, kept: &[Kept]) -> Result<(), StateDirError> {
        let path = self.directory.join(NAME_NEW);
        let failed = |error| StateDirError::Io {
            path: path.clone(),
            error,
        };
        let mut file = File::create(&path).map_err(failed)?;
        file.write_all(&write(kept, &self.workload)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&path, self.directory.join(NAME)).map_err(failed)?;
        // The new name is only as durable as the directory that holds it.
        let directory = File::open(&self.directory).map_err(failed)?;
        directory.sync_all().map_err(failed)
    }
}

/// The file's middle.
#[derive(Clone, PartialEq, Message)]
struct Contents {
    #[prost(string, tag = "1")]
    workload: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<KeptResource>,
}

#[derive(Clone, PartialEq, Message)]
struct KeptResource {
    /// The URL of the type as it is subscribed to.
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
    /// The resource's own type and bytes.
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

/// Magic, length of the middle (8 bytes, little-endian), the middle, checksum over all before it (4 bytes).
fn write(kept: &[Kept], workload: &WorkloadName) -> Vec<u8> {
    let contents = Contents {
        workload: workload.to_string(),
        resources: kept
            .iter()
            .map(|kept| KeptResource {
                kind: kept.kind.url().to_owned(),
                name: kept.name.clone(),
                version: kept.version.clone(),
                type_url: kept.resource.type_url.clone(),
                value: kept.resource.value.clone(),
            })
            .collect(),
    };
    let middle = contents.encode_to_vec();
    let mut bytes = Vec::with_capacity(middle.len() + 20);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(middle.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&middle);
    bytes.extend_from_slice(&crc32(&bytes).to_le_bytes());
    bytes
}

fn read(bytes: &[u8], workload: &WorkloadName) -> Result<Vec<Kept>, Damage> {
    if bytes.len() as u64 > FILE_MAX {
        return Err(Damage::TooLarge);
    }
    let Some((magic, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(Damage::Torn);
    };
    if magic != MAGIC {
        return Err(match magic.starts_with(MAGIC_STEM) {
            true => Damage::OtherVersion,
            false => Damage::Foreign,
        });
    }
    let (length, rest) = rest.split_first_chunk::<8>().ok_or(Damage::Torn)?;
    let (middle, checksum) = rest.split_last_chunk::<4>().ok_or(Damage::Torn)?;
    if u64::from_le_bytes(*length) != middle.len() as u64 {
        return Err(Damage::Torn);
    }
    let (checked, _) = bytes.split_at(bytes.len() - checksum.len());
    if crc32(checked) != u32::from_le_bytes(*checksum) {
        return Err(Damage::Checksum);
    }
    let contents = Contents::decode(middle).map_err(|_| Damage::Unreadable)?;
    if contents.workload != workload.to_string() {
        return Err(Damage::OtherWorkload {
            held: contents.workload,
        });
    }
    let mut kept = Vec::with_capacity(contents.resources.len());
    for resource in contents.resources {
        kept.push(Kept {
            kind: ResourceType::from_url(&resource.kind).ok_or(Damage::Unreadable)?,
            name: resource.name,
            version: resource.version,
            resource: Arc::new(Any {
                type_url: resource.type_url,
                value: resource.value,
            }),
        });
    }
    Ok(kept)
}

/// CRC-32 (IEEE 802.3, reflected, polynomial 0xEDB88320): finds what disks and crashes do to a file.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> WorkloadName {
        "citizen/health-code".parse().expect("a name")
    }

    fn kept(name: &str) -> Kept {
        Kept {
            kind: ResourceType::Cluster,
            name: name.to_owned(),
            version: "7".to_owned(),
            resource: Arc::new(Any {
                type_url: ResourceType::Cluster.url().to_owned(),
                value: vec![1, 2, 3],
            }),
        }
    }

    #[track_caller]
    fn loaded(last_good: &LastGood) -> Vec<Kept> {
        match last_good.load().expect("a readable directory") {
            Loaded::Kept(kept) => kept,
            other => panic!("kept nothing: {other:?}"),
        }
    }

    #[test]
    fn the_checksum_is_the_standards() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn what_was_saved_is_loaded_by_the_next_process() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("made/on/demand");
        let first = LastGood::open(&path, &workload()).expect("opens");
        assert!(matches!(first.load(), Ok(Loaded::Nothing)));
        first.save(&[kept("a.b:1")]).expect("writes");
        first.save(&[kept("a.b:1"), kept("c.d:2")]).expect("writes");
        drop(first);
        let second = LastGood::open(&path, &workload()).expect("opens");
        assert_eq!(loaded(&second), [kept("a.b:1"), kept("c.d:2")]);
    }

    #[test]
    fn a_directory_has_one_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = LastGood::open(directory.path(), &workload()).expect("opens");
        let second = LastGood::open(directory.path(), &workload());
        assert!(matches!(second, Err(StateDirError::InUse { .. })), "{second:?}");
        drop(first);
        LastGood::open(directory.path(), &workload()).expect("opens once it is free");
    }

    #[test]
    fn a_write_that_was_cut_off_leaves_the_one_before() {
        let directory = tempfile::tempdir().expect("a directory");
        let whole = write(&[kept("c.d:2")], &workload());
        for written in 0..whole.len() {
            let last_good = LastGood::open(directory.path(), &workload()).expect("opens");
            last_good.save(&[kept("a.b:1")]).expect("writes");
            let new = directory.path().join(NAME_NEW);
            fs::write(&new, whole.get(..written).expect("in range")).expect("writes");
            drop(last_good);
            let last_good = LastGood::open(directory.path(), &workload()).expect("opens");
            assert_eq!(loaded(&last_good), [kept("a.b:1")], "cut off after {written} bytes");
            assert!(!new.exists());
        }
    }

    #[test]
    fn what_is_damaged_is_set_aside() {
        let whole = write(&[kept("a.b:1")], &workload());
        let mut cases: Vec<(Vec<u8>, Damage)> = Vec::new();
        for length in 0..whole.len() {
            let torn = whole.get(..length).expect("in range").to_vec();
            cases.push((torn, Damage::Torn));
        }
        let mut longer = whole.clone();
        longer.push(0);
        cases.push((longer, Damage::Torn));
        for index in 16..whole.len() {
            let mut flipped = whole.clone();
            *flipped.get_mut(index).expect("in range") ^= 0x10;
            cases.push((flipped, Damage::Checksum));
        }
        let mut old = whole.clone();
        old.splice(6..8, *b"00");
        cases.push((old, Damage::OtherVersion));
        cases.push((b"[proxy]\nworkload = 1".to_vec(), Damage::Foreign));
        let other = "citizen/portal".parse().expect("a name");
        let held = "citizen/portal".to_owned();
        cases.push((write(&[], &other), Damage::OtherWorkload { held }));

        let directory = tempfile::tempdir().expect("a directory");
        let last_good = LastGood::open(directory.path(), &workload()).expect("opens");
        for (bytes, expect) in cases {
            fs::write(directory.path().join(NAME), &bytes).expect("writes");
            match last_good.load().expect("a readable directory") {
                Loaded::SetAside { path, damage } => {
                    assert_eq!(damage, expect, "{bytes:?}");
                    assert_eq!(fs::read(path).expect("is there"), bytes);
                }
                other => panic!("{other:?} of {bytes:?}"),
            }
            assert!(matches!(last_good.load(), Ok(Loaded::Nothing)));
        }
    }
}
