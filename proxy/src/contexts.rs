//! Requests that our app is working on: where a call of the app finds the context of the request it is made for.

use std::sync::Arc;

use dashmap::DashMap;
use weir_policy::context::{Context, ContextId};
use weir_policy::deadline::Deadline;
use weir_policy::trace::TraceParent;

/// How many requests are kept open at most, per process; what comes beyond is carried, but its calls find no context.
const OPEN_MAX: usize = 65_536;

/// The requests under way at our app, by context and by trace. Touched once when a request comes and once when it ends.
#[derive(Debug, Default)]
pub(crate) struct Contexts {
    by_id: DashMap<ContextId, Vec<Entry>>,
    by_trace: DashMap<[u8; 16], Vec<Entry>>,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Entry {
    context: Context,
    /// When its caller no longer waits.
    deadline: Deadline,
    place: Place,
}

/// Where in its trace a request is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) trace_id: [u8; 16],
    /// Our inbound span: no other request has it.
    pub(crate) span_id: [u8; 8],
    /// What the app has as the parent of its calls: our span, or its caller's where we have none, which requests may
    /// then have in common.
    pub(crate) passed_on: [u8; 8],
}

/// What a call of the app inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) context: Context,
    pub(crate) deadline: Deadline,
}

/// Keeps a request findable for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenContext {
    contexts: Arc<Contexts>,
    entry: Entry,
}

impl Contexts {
    /// A request has come in. `None`: too many are open.
    pub(crate) fn open(self: &Arc<Self>, context: Context, deadline: Deadline, place: Place) -> Option<OpenContext> {
        if self.by_id.len() >= OPEN_MAX {
            return None;
        }
        let entry = Entry {
            context,
            deadline,
            place,
        };
        self.by_id.entry(context.id).or_default().push(entry);
        self.by_trace.entry(place.trace_id).or_default().push(entry);
        Some(OpenContext {
            contexts: Arc::clone(self),
            entry,
        })
    }

    /// The request that a call is made for: by the id that the app passed on in `tracestate`; else by the span it gave
    /// as parent; else by its trace, if only one request of that is open.
    pub(crate) fn find(&self, id: Option<ContextId>, parent: Option<&TraceParent>) -> Option<Found> {
        let under = |parent: &TraceParent| {
            let span = parent.parent_id;
            move |entry: &&Entry| entry.place.passed_on == span
        };
        let found = id.and_then(|id| {
            let entries = self.by_id.get(&id)?;
            // A service that is asked twice for one citizen's request has the id open twice.
            let by_span = parent.and_then(|parent| strictest(entries.iter().filter(under(parent))));
            by_span.or_else(|| strictest(entries.iter()))
        });
        let found = found.or_else(|| {
            let parent = parent?;
            let entries = self.by_trace.get(&parent.trace_id)?;
            let by_span = only(entries.iter().filter(under(parent)));
            by_span.or_else(|| only(entries.iter())).copied()
        });
        found.map(|entry| Found {
            context: entry.context,
            deadline: entry.deadline,
        })
    }
}

fn only<'a>(mut entries: impl Iterator<Item = &'a Entry>) -> Option<&'a Entry> {
    let first = entries.next()?;
    entries.next().is_none().then_some(first)
}

/// The shortest deadline and the lowest priority of several.
fn strictest<'a>(entries: impl Iterator<Item = &'a Entry>) -> Option<Entry> {
    entries.copied().reduce(|mut strict, entry| {
        strict.deadline = strict.deadline.earliest(entry.deadline);
        strict.context.priority = match (strict.context.priority, entry.context.priority) {
            (None, None) => None,
            (one, other) => Some(one.unwrap_or_default().lower(other.unwrap_or_default())),
        };
        strict
    })
}

impl OpenContext {
    /// The request was answered in time and goes on for as long as its two ends like: so may the calls that are made
    /// for it from now on.
    pub(crate) fn goes_on(&mut self) {
        self.entry.deadline = Deadline::NONE;
        let Entry { context, place, .. } = self.entry;
        let lift = |entries: &mut Vec<Entry>| {
            let own = entries.iter_mut().filter(|entry| entry.place.span_id == place.span_id);
            own.for_each(|entry| entry.deadline = Deadline::NONE);
        };
        if let Some(mut entries) = self.contexts.by_id.get_mut(&context.id) {
            lift(&mut entries);
        }
        if let Some(mut entries) = self.contexts.by_trace.get_mut(&place.trace_id) {
            lift(&mut entries);
        }
    }
}

impl Drop for OpenContext {
    fn drop(&mut self) {
        let Place { trace_id, span_id, .. } = self.entry.place;
        // Each guard of the map is dropped before the map is asked again: it locks.
        if let dashmap::Entry::Occupied(mut entries) = self.contexts.by_id.entry(self.entry.context.id) {
            entries.get_mut().retain(|entry| entry.place.span_id != span_id);
            if entries.get().is_empty() {
                entries.remove();
            }
        }
        if let dashmap::Entry::Occupied(mut entries) = self.contexts.by_trace.entry(trace_id) {
            entries.get_mut().retain(|entry| entry.place.span_id != span_id);
            if entries.get().is_empty() {
                entries.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use weir_policy::time::Time;

    const TRACE: [u8; 16] = [7; 16];

    fn context(id: u64) -> Context {
        Context::new(ContextId(id))
    }

    fn parent(span: u8) -> TraceParent {
        TraceParent {
            trace_id: TRACE,
            parent_id: [span; 8],
            sampled: false,
        }
    }

    fn spans(own: u8, passed_on: u8) -> Place {
        Place {
            trace_id: TRACE,
            span_id: [own; 8],
            passed_on: [passed_on; 8],
        }
    }

    #[test]
    fn a_call_finds_its_request_by_the_span_that_was_passed_on() {
        let contexts = Arc::new(Contexts::default());
        let open = |id, own, passed_on| {
            let open = contexts.open(context(id), Deadline::NONE, spans(own, passed_on));
            open.expect("room")
        };
        let found = |span| contexts.find(None, Some(&parent(span))).map(|found| found.context.id);
        let (one, two) = (open(1, 1, 11), open(2, 2, 12));
        assert_eq!([found(11), found(12)], [Some(ContextId(1)), Some(ContextId(2))]);
        assert_eq!([found(1), found(2)], [None, None], "nobody was told of these");
        // Two under one span of their caller: which of them a call is made for is not to be known.
        let three = open(3, 3, 11);
        assert_eq!(found(11), None);
        drop(three);
        assert_eq!(found(11), Some(ContextId(1)));
        drop((one, two));
        assert!(contexts.by_id.is_empty() && contexts.by_trace.is_empty());
    }

    #[test]
    fn what_goes_on_has_no_deadline_for_its_calls_and_others_keep_theirs() {
        let contexts = Arc::new(Contexts::default());
        let soon = Deadline::at(Time::from_nanos(Duration::from_secs(1).as_nanos() as u64));
        let mut tunnel = contexts.open(context(1), soon, spans(1, 11)).expect("room");
        let request = contexts.open(context(1), soon, spans(2, 12)).expect("room");
        tunnel.goes_on();
        let deadline = |id, span| {
            let found = contexts.find(id, Some(&parent(span)));
            found.expect("it is open").deadline
        };
        for id in [Some(ContextId(1)), None] {
            assert_eq!(deadline(id, 11), Deadline::NONE, "by {id:?}");
            assert_eq!(deadline(id, 12), soon, "by {id:?}");
        }
        drop((tunnel, request));
        assert!(contexts.by_id.is_empty() && contexts.by_trace.is_empty());
    }

    #[test]
    fn a_call_finds_its_request_by_id_then_span_then_trace() {
        let contexts = Arc::new(Contexts::default());
        let late = Deadline::at(Time::from_nanos(Duration::from_secs(9).as_nanos() as u64));
        let soon = Deadline::at(Time::from_nanos(Duration::from_secs(1).as_nanos() as u64));
        let one = contexts.open(context(1), late, spans(1, 1)).expect("room");
        assert_eq!(
            contexts.find(None, Some(&parent(9))).expect("the only one").context.id,
            ContextId(1)
        );
        let two = contexts.open(context(2), soon, spans(2, 2)).expect("room");
        assert_eq!(
            contexts
                .find(Some(ContextId(2)), Some(&parent(1)))
                .expect("by id")
                .deadline,
            soon
        );
        assert_eq!(
            contexts.find(None, Some(&parent(2))).expect("by span").context.id,
            ContextId(2)
        );
        assert_eq!(contexts.find(None, Some(&parent(9))), None, "two are open in the trace");
        let again = contexts.open(context(2), late, spans(3, 3)).expect("room");
        assert_eq!(
            contexts
                .find(Some(ContextId(2)), Some(&parent(3)))
                .expect("by id and span")
                .deadline,
            late
        );
        assert_eq!(
            contexts.find(Some(ContextId(2)), None).expect("the strictest").deadline,
            soon
        );
        drop((one, two, again));
        assert_eq!(contexts.find(Some(ContextId(2)), Some(&parent(3))), None);
        assert!(contexts.by_id.is_empty() && contexts.by_trace.is_empty());
    }
}
