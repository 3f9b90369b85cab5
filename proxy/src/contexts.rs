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
    trace_id: [u8; 16],
    /// Our inbound span: what the app passes on as parent.
    span_id: [u8; 8],
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
    pub(crate) fn open(
        self: &Arc<Self>,
        context: Context,
        deadline: Deadline,
        trace_id: [u8; 16],
        span_id: [u8; 8],
    ) -> Option<OpenContext> {
        if self.by_id.len() >= OPEN_MAX {
            return None;
        }
        let entry = Entry {
            context,
            deadline,
            trace_id,
            span_id,
        };
        self.by_id.entry(context.id).or_default().push(entry);
        self.by_trace.entry(trace_id).or_default().push(entry);
        Some(OpenContext {
            contexts: Arc::clone(self),
            entry,
        })
    }

    /// The request that a call is made for: by the id that the app passed on in `tracestate`; else by the span it gave
    /// as parent; else by its trace, if only one request of that is open.
    pub(crate) fn find(&self, id: Option<ContextId>, parent: Option<&TraceParent>) -> Option<Found> {
        let span = parent.map(|parent| parent.parent_id);
        let found = id.and_then(|id| {
            let entries = self.by_id.get(&id)?;
            // A service that is asked twice for one citizen's request has the id open twice.
            let by_span = entries.iter().find(|entry| Some(entry.span_id) == span);
            by_span.copied().or_else(|| strictest(&entries))
        });
        let found = found.or_else(|| {
            let parent = parent?;
            let entries = self.by_trace.get(&parent.trace_id)?;
            let by_span = entries.iter().find(|entry| entry.span_id == parent.parent_id);
            by_span.or_else(|| only(&entries)).copied()
        });
        found.map(|entry| Found {
            context: entry.context,
            deadline: entry.deadline,
        })
    }
}

fn only(entries: &[Entry]) -> Option<&Entry> {
    match entries {
        [entry] => Some(entry),
        _ => None,
    }
}

/// The shortest deadline and the lowest priority of several.
fn strictest(entries: &[Entry]) -> Option<Entry> {
    entries.iter().copied().reduce(|mut strict, entry| {
        strict.deadline = strict.deadline.earliest(entry.deadline);
        strict.context.priority = strict.context.priority.lower(entry.context.priority);
        strict
    })
}

impl Drop for OpenContext {
    fn drop(&mut self) {
        let span = self.entry.span_id;
        // Each guard of the map is dropped before the map is asked again: it locks.
        if let dashmap::Entry::Occupied(mut entries) = self.contexts.by_id.entry(self.entry.context.id) {
            entries.get_mut().retain(|entry| entry.span_id != span);
            if entries.get().is_empty() {
                entries.remove();
            }
        }
        if let dashmap::Entry::Occupied(mut entries) = self.contexts.by_trace.entry(self.entry.trace_id) {
            entries.get_mut().retain(|entry| entry.span_id != span);
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

    #[test]
    fn a_call_finds_its_request_by_id_then_span_then_trace() {
        let contexts = Arc::new(Contexts::default());
        let late = Deadline::at(Time::from_nanos(Duration::from_secs(9).as_nanos() as u64));
        let soon = Deadline::at(Time::from_nanos(Duration::from_secs(1).as_nanos() as u64));
        let one = contexts.open(context(1), late, TRACE, [1; 8]).expect("room");
        assert_eq!(
            contexts.find(None, Some(&parent(9))).expect("the only one").context.id,
            ContextId(1)
        );
        let two = contexts.open(context(2), soon, TRACE, [2; 8]).expect("room");
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
        let again = contexts.open(context(2), late, TRACE, [3; 8]).expect("room");
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
