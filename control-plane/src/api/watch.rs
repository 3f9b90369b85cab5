//! Watches: changes of a collection as lines of JSON, from a revision or from what is there, until either side ends it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use weir_api::views::{WatchEvent, WatchEventType};
use weir_api::{Key, Object};

use super::Api;
use super::list::{Headings, Shape};
use super::query::{Bookmarks, Start};
use super::select::Selector;
use super::status::{Failure, Reason};
use crate::drain::Drain;
use crate::store::{Change, Event, Revision, Stored, Watch, WatchEnded};

/// What a watch is about.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) shape: Shape,
    /// `None`: everywhere.
    pub(super) namespace: Option<String>,
    pub(super) selector: Selector,
}

/// Starts a watch.
///
/// # Errors
/// When its start is too far back or in the future (410), or there are too many watches (429).
pub(super) fn follow(
    api: &Arc<Api>,
    wanted: Wanted,
    start: Start,
    bookmarks: Bookmarks,
    timeout: Option<Duration>,
) -> Result<Body, Failure> {
    let permit = Arc::clone(&api.watches)
        .try_acquire_owned()
        .map_err(|_| Failure::retry_later(Reason::TooManyRequests, "there are too many watches; try again later"))?;
    let store = api.objects.store();
    let there = || store.list(wanted.shape.kind, wanted.namespace.as_deref());
    let (there, from) = match start {
        Start::There => there(),
        Start::Initial(not_older) => {
            let (there, from) = there();
            if not_older > from {
                return Err(super::resources::future(not_older, from));
            }
            (there, from)
        }
        Start::After(from) => (Vec::new(), from),
        Start::Now => (Vec::new(), store.revision()),
    };
    let watch = store
        .watch(from)
        .map_err(|compacted| Failure::new(Reason::Expired, compacted.to_string()))?;
    let there = there.into_iter().filter(|stored| wanted.selects(stored));
    let mut pending: VecDeque<Pending> = there.map(Pending::There).collect();
    if let (Start::Initial(_), Bookmarks::Send) = (start, bookmarks) {
        pending.push_back(Pending::InitialEnd(from));
    }
    let timeout = timeout
        .unwrap_or(api.limits.watch_timeout_max)
        .min(api.limits.watch_timeout_max);
    let now = Instant::now();
    let following = Following {
        wanted,
        watch,
        pending,
        drain: api.drain.clone(),
        ends: now + timeout,
        bookmark: match bookmarks {
            Bookmarks::Send => Some(Bookmark {
                interval: api.limits.bookmark_interval,
                due: now + api.limits.bookmark_interval,
                told: from,
            }),
            Bookmarks::Omit => None,
        },
        headings: Headings::Written,
        state: State::Going,
        _permit: permit,
    };
    let lines = futures_util::stream::unfold(following, |mut following| async move {
        let line = following.next().await?;
        Some((Ok::<_, Infallible>(line), following))
    });
    Ok(Body::from_stream(lines))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Going,
    Ended,
}

struct Bookmark {
    interval: Duration,
    due: Instant,
    told: Revision,
}

struct Following {
    wanted: Wanted,
    watch: Watch,
    /// To be sent: what is there at the start, or one step's worth of the store's watch. Written as text only when the
    /// client takes it.
    pending: VecDeque<Pending>,
    drain: Drain,
    ends: Instant,
    bookmark: Option<Bookmark>,
    /// Of the next table: only the first has them.
    headings: Headings,
    state: State,
    _permit: OwnedSemaphorePermit,
}

enum Pending {
    There(Arc<Stored>),
    /// All that was there at this revision was sent.
    InitialEnd(Revision),
    Changed(Arc<Event>),
    Line(Bytes),
}

/// What comes next.
enum Step {
    Events(Result<Vec<Arc<Event>>, WatchEnded>),
    BookmarkDue,
    End,
}

impl Following {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            while let Some(pending) = self.pending.pop_front() {
                match pending {
                    Pending::There(stored) => return Some(self.object(WatchEventType::Added, &stored.object)),
                    Pending::InitialEnd(revision) => {
                        let metadata = json!({
                            "resourceVersion": revision.to_string(), "annotations": {INITIAL_END: "true"},
                        });
                        return Some(line(WatchEventType::Bookmark, self.wanted.shape.none(&metadata)));
                    }
                    Pending::Changed(event) => {
                        if let Some((event_type, object)) = self.wanted.seen(&event) {
                            return Some(self.object(event_type, &object));
                        }
                    }
                    Pending::Line(line) => return Some(line),
                }
            }
            if self.state == State::Ended {
                return None;
            }
            match self.step().await {
                Step::End => return None,
                Step::BookmarkDue => self.add_bookmark(),
                Step::Events(Ok(events)) => self.pending.extend(events.into_iter().map(Pending::Changed)),
                Step::Events(Err(WatchEnded::Closed)) => return None,
                Step::Events(Err(WatchEnded::Compacted(compacted))) => {
                    let status = Failure::new(Reason::Expired, compacted.to_string()).into_status();
                    let status = serde_json::to_value(status).unwrap_or_default();
                    self.pending
                        .push_back(Pending::Line(line(WatchEventType::Error, status)));
                    self.state = State::Ended;
                }
            }
        }
    }

    async fn step(&mut self) -> Step {
        let bookmark_due = self.bookmark.as_ref().map(|bookmark| bookmark.due);
        let bookmark = async {
            match bookmark_due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        // Each arm is cancel safe: sleeps start anew at the same instant, `begun` and the store's watch lose nothing.
        // In order: an end is not put off by a stream of events.
        tokio::select! {
            biased;
            () = self.drain.begun() => Step::End,
            () = tokio::time::sleep_until(self.ends) => Step::End,
            () = bookmark => Step::BookmarkDue,
            events = self.watch.next() => Step::Events(events),
        }
    }

    fn add_bookmark(&mut self) {
        let seen = self.watch.seen();
        let Some(bookmark) = &mut self.bookmark else {
            return;
        };
        bookmark.due = Instant::now() + bookmark.interval;
        if bookmark.told == seen {
            return;
        }
        bookmark.told = seen;
        let object = self.wanted.shape.none(&json!({"resourceVersion": seen.to_string()}));
        self.pending
            .push_back(Pending::Line(line(WatchEventType::Bookmark, object)));
    }

    fn object(&mut self, event_type: WatchEventType, object: &Object) -> Bytes {
        let headings = std::mem::replace(&mut self.headings, Headings::LeftOut);
        line(event_type, self.wanted.shape.one(object, headings))
    }
}

impl Wanted {
    fn concerns(&self, key: &Key) -> bool {
        key.kind == self.shape.kind
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == key.namespace)
    }

    fn selects(&self, stored: &Stored) -> bool {
        self.selector.matches(&stored.object.metadata)
    }

    /// A change as this watch sees it: an object whose labels come to match is added, one whose labels no longer do is
    /// deleted.
    fn seen(&self, event: &Event) -> Option<(WatchEventType, Arc<Object>)> {
        if !self.concerns(&event.key) {
            return None;
        }
        let (before, after) = match &event.change {
            Change::Added { after } => (None, Some(after)),
            Change::Modified { before, after } => (Some(before), Some(after)),
            Change::Deleted { before } => (Some(before), None),
        };
        let before = before.filter(|stored| self.selects(stored));
        let after = after.filter(|stored| self.selects(stored));
        match (before, after) {
            (None, None) => None,
            (None, Some(after)) => Some((WatchEventType::Added, Arc::clone(&after.object))),
            (Some(_), Some(after)) => Some((WatchEventType::Modified, Arc::clone(&after.object))),
            (Some(before), None) => Some((WatchEventType::Deleted, at(&before.object, event.revision))),
        }
    }
}

/// An object that is gone, with the revision at which it went: a watch goes on from there.
fn at(object: &Object, revision: Revision) -> Arc<Object> {
    let mut object = object.clone();
    object.metadata.resource_version = revision.to_string();
    Arc::new(object)
}

fn line(event_type: WatchEventType, object: Value) -> Bytes {
    let event = WatchEvent { event_type, object };
    // JSON values can always be written.
    let mut line = serde_json::to_vec(&event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// Says in a bookmark that all that was there has been sent (Kubernetes, WatchList).
const INITIAL_END: &str = "k8s.io/initial-events-end";
