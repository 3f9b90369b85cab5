//! The store's thread: takes what is queued, commits it together, answers each writer.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::disk::Disk;
use super::index::Shared;
use super::stage::{Batch, Staged};
use super::{Op, TokenUse, UseError, WriteError, Written};

/// What the thread is asked for.
#[derive(Debug)]
pub(super) enum Request {
    Write {
        ops: Vec<Op>,
        mode: WriteMode,
        reply: Reply,
    },
    UseToken {
        usage: TokenUse,
        reply: oneshot::Sender<Result<(), UseError>>,
    },
    /// Ends the thread, after what was queued before it.
    Stop,
}

/// Whether a write is for real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteMode {
    Commit,
    DryRun,
}

type Reply = oneshot::Sender<Result<Written, WriteError>>;

/// Whether the thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Go,
    Stop,
}

/// Serves requests until it is told to stop or no handle is left.
pub(super) fn run(mut disk: Disk, shared: &Shared, mut requests: mpsc::Receiver<Request>) {
    let mut queued = Vec::with_capacity(COMMITTED_TOGETHER_MAX);
    loop {
        // Takes what is there and waits only if nothing is: writes that come while a commit runs share the next one.
        if requests.blocking_recv_many(&mut queued, COMMITTED_TOGETHER_MAX) == 0 {
            return;
        }
        if serve(&mut disk, shared, queued.drain(..)) == Next::Stop {
            return;
        }
    }
}

fn serve(disk: &mut Disk, shared: &Shared, requests: impl Iterator<Item = Request>) -> Next {
    let mut next = Next::Go;
    let mut uid_failure = None;
    let mut next_uid = || {
        disk.new_uid().unwrap_or_else(|error| {
            uid_failure = Some(error);
            String::new()
        })
    };
    let mut waiting = Vec::new();
    let mut uses = Vec::new();
    let staged = shared.with_objects(|objects, revision| {
        let mut batch = Batch::new(objects, revision, now(), &mut next_uid);
        for request in requests {
            match request {
                Request::Stop => {
                    next = Next::Stop;
                    break;
                }
                Request::UseToken { usage, reply } => uses.push((usage, reply)),
                Request::Write { ops, mode, reply } => {
                    let result = match mode {
                        WriteMode::Commit => batch.apply(ops),
                        WriteMode::DryRun => batch.preview(ops),
                    };
                    waiting.push((result, reply));
                }
            }
        }
        batch.finish()
    });
    let committed = match uid_failure {
        Some(error) => Err(error),
        None => commit(disk, &staged),
    };
    match committed {
        Ok(()) => {
            shared.set_trouble(None);
            shared.publish(staged.events);
            for (result, reply) in waiting {
                answer(reply, result);
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            shared.set_trouble(Some(Arc::clone(&error)));
            tracing::error!(%error, writes = waiting.len(), "the store can't write");
            // Also those that could not be done anyway: what they saw may have been a write that is now undone.
            for (_, reply) in waiting {
                answer(reply, Err(WriteError::Storage(Arc::clone(&error))));
            }
        }
    }
    // Seldom enough that each has a commit of its own.
    for (usage, reply) in uses {
        // Who asked may have gone; the use stands.
        let _ = reply.send(disk.use_token(&usage, Timestamp::now().as_second()));
    }
    next
}

fn commit(disk: &mut Disk, staged: &Staged) -> rusqlite::Result<()> {
    if staged.events.is_empty() {
        return Ok(());
    }
    disk.commit(staged)
}

fn answer(reply: Reply, result: Result<Written, WriteError>) {
    // The writer may have gone; its write stands.
    let _ = reply.send(result);
}

fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// Bounds how long a writer waits for its neighbours' changes to be put into the transaction.
const COMMITTED_TOGETHER_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::index::Memory;
    use crate::store::samples::service;
    use crate::store::{Location, Revision, disk};

    type Answer = oneshot::Receiver<Result<Written, WriteError>>;

    fn write(name: &str) -> (Request, Answer) {
        let (reply, answer) = oneshot::channel();
        let request = Request::Write {
            ops: vec![Op::Create(service("a", name, 80))],
            mode: WriteMode::Commit,
            reply,
        };
        (request, answer)
    }

    fn revisions(answers: &mut [Answer]) -> Vec<Result<u64, String>> {
        let read = |answer: &mut Answer| match answer.try_recv().expect("answered") {
            Ok(written) => Ok(written.revision.0),
            Err(error) => Err(error.to_string()),
        };
        answers.iter_mut().map(read).collect()
    }

    #[test]
    fn what_is_queued_shares_one_commit_and_each_has_its_own_answer() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut disk, loaded) = Disk::open(&Location::Directory(directory.path().to_owned())).expect("a disk");
        let shared = Shared::new(loaded, Memory::default());
        let (requests, mut answers): (Vec<_>, Vec<_>) = ["x", "y", "x", "z"].map(write).into_iter().unzip();
        assert_eq!(serve(&mut disk, &shared, requests.into_iter()), Next::Go);
        let exists = Err("Service/a/x exists already".to_owned());
        assert_eq!(revisions(&mut answers), [Ok(1), Ok(2), exists, Ok(3)]);
        assert_eq!(disk.commits, 1);
        assert_eq!(shared.revision(), Revision(3));
    }

    #[test]
    fn a_failed_commit_is_said_to_all_and_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut disk, loaded) = Disk::open(&Location::Directory(directory.path().to_owned())).expect("a disk");
        let shared = Shared::new(loaded, Memory::default());
        disk::break_writes(&disk);
        let (requests, mut answers): (Vec<_>, Vec<_>) = ["x", "y", "x"].map(write).into_iter().unzip();
        serve(&mut disk, &shared, requests.into_iter());
        for revision in revisions(&mut answers) {
            let error = revision.expect_err("nothing is written");
            assert!(error.starts_with("the store can't write: "), "{error}");
        }
        assert_eq!(shared.all(), (Vec::new(), Revision(0)));
        assert!(shared.trouble().is_some());
    }

    #[test]
    fn requests_behind_the_stop_are_not_done() {
        let (mut disk, loaded) = Disk::open(&Location::Memory).expect("a disk");
        let shared = Shared::new(loaded, Memory::default());
        let (before, answer_before) = write("x");
        let (behind, mut answer_behind) = write("y");
        let next = serve(&mut disk, &shared, [before, Request::Stop, behind].into_iter());
        assert_eq!(next, Next::Stop);
        assert!(revisions(&mut [answer_before])[0].is_ok());
        assert!(answer_behind.try_recv().is_err());
    }
}
