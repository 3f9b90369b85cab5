//! The store's thread: takes what is queued, commits it together, answers each writer.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::disk::Disk;
use super::index::Shared;
use super::stage::{Batch, Staged};
use super::{Op, WriteError, Written};

/// What the thread is asked for.
#[derive(Debug)]
pub(super) enum Request {
    Write {
        ops: Vec<Op>,
        mode: WriteMode,
        reply: Reply,
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
    let staged = shared.with_objects(|objects, revision| {
        let mut batch = Batch::new(objects, revision, now(), &mut next_uid);
        for request in requests {
            match request {
                Request::Stop => {
                    next = Next::Stop;
                    break;
                }
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
            shared.publish(staged.events);
            for (result, reply) in waiting {
                answer(reply, result);
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            tracing::error!(%error, writes = waiting.len(), "the store can't write");
            // Also those that could not be done anyway: what they saw may have been a write that is now undone.
            for (_, reply) in waiting {
                answer(reply, Err(WriteError::Storage(Arc::clone(&error))));
            }
        }
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
