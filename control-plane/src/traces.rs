//! The latest traces: received over OTLP, kept in memory within bounds, shown by the views. For a mesh without a trace
//! store of its own; a production mesh sends its spans elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{self as otlp};
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};
use weir_api::views::{self, SpanStatus, TraceList, TraceSummary};

/// What the store of traces may hold, per process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Traces; the one that began to arrive first goes first.
    pub(crate) traces_max: usize,
    /// Spans of one trace; later ones are refused and counted.
    pub(crate) spans_per_trace_max: usize,
    /// The estimated size of all of them.
    pub(crate) bytes_max: usize,
}

impl Default for Bounds {
    /// A few minutes of a demonstration, a small part of what a control plane may use.
    fn default() -> Self {
        Bounds {
            traces_max: 2_000,
            spans_per_trace_max: 512,
            bytes_max: 64 << 20,
        }
    }
}

/// The latest traces; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Traces {
    held: Arc<Mutex<Held>>,
}

impl Traces {
    /// Empty, within `bounds`.
    pub(crate) fn new(bounds: Bounds) -> Self {
        let held = Held {
            bounds,
            traces: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        };
        Traces {
            held: Arc::new(Mutex::new(held)),
        }
    }

    /// The gRPC service that receives spans.
    pub(crate) fn service(&self) -> TraceServiceServer<Traces> {
        // OTLP specification, "Protocol Details": servers must take gzip, which collectors use by default. What it
        // unpacks to is bounded as messages are.
        TraceServiceServer::new(self.clone()).accept_compressed(CompressionEncoding::Gzip)
    }

    /// Takes spans in; returns how many were refused: those with a wrong id, and those beyond a trace's bound.
    pub(crate) fn take(&self, request: ExportTraceServiceRequest) -> i64 {
        let mut refused = 0;
        let mut held = self.lock();
        for resource_spans in request.resource_spans {
            let service: Arc<str> = service_name(resource_spans.resource.as_ref()).into();
            for span in resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let taken = Span::read(span, &service).is_some_and(|(trace, span)| held.add(trace, span));
                refused += i64::from(!taken);
            }
        }
        refused
    }

    /// The `limit` traces that began to arrive last, the latest first.
    pub(crate) fn list(&self, limit: usize) -> TraceList {
        let held = self.lock();
        let latest = held.order.iter().rev().take(limit);
        let items = latest
            .filter_map(|id| held.traces.get(id).map(|trace| trace.summary(*id)))
            .collect();
        TraceList { items }
    }

    /// One trace, its spans in the order of the tree: each parent before its children, siblings by their start.
    /// `None`: not held, or the text is no trace id.
    pub(crate) fn trace(&self, id: &str) -> Option<views::Trace> {
        let id = TraceId::parse(id)?;
        let held = self.lock();
        let trace = held.traces.get(&id)?;
        let spans = trace.in_tree_order().into_iter().map(Span::view).collect();
        Some(views::Trace {
            trace_id: id.to_string(),
            spans,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // What a panicking holder left is still a set of spans: worth more than a view that fails for ever.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl TraceService for Traces {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let refused = self.take(request.into_inner());
        // OTLP specification, "Partial Success": set only if something was refused.
        let partial_success = (refused > 0).then(|| ExportTracePartialSuccess {
            rejected_spans: refused,
            error_message: "spans without valid ids, or beyond the number kept of one trace".to_owned(),
        });
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

#[derive(Debug)]
struct Held {
    bounds: Bounds,
    traces: HashMap<TraceId, Trace>,
    order: VecDeque<TraceId>,
    bytes: usize,
}

impl Held {
    /// Whether there was room for it.
    fn add(&mut self, id: TraceId, span: Span) -> bool {
        let trace = self.traces.entry(id).or_insert_with(|| {
            self.order.push_back(id);
            Trace::default()
        });
        if trace.spans.len() >= self.bounds.spans_per_trace_max {
            return false;
        }
        let bytes = span.estimated_bytes();
        trace.bytes += bytes;
        trace.spans.push(span);
        self.bytes += bytes;
        while self.order.len() > self.bounds.traces_max || self.bytes > self.bounds.bytes_max {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            let dropped = self.traces.remove(&oldest).map_or(0, |trace| trace.bytes);
            self.bytes -= dropped;
        }
        true
    }
}

/// W3C Trace Context section 3.2.2.3: 16 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct TraceId(u128);

impl TraceId {
    fn read(bytes: &[u8]) -> Option<Self> {
        let id = u128::from_be_bytes(bytes.try_into().ok()?);
        (id != 0).then_some(TraceId(id))
    }

    fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let id = if hex { u128::from_str_radix(text, 16).ok() } else { None };
        id.map(TraceId)
    }
}

impl std::fmt::Display for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::fmt::Debug for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, Default)]
struct Trace {
    spans: Vec<Span>,
    bytes: usize,
}

impl Trace {
    fn summary(&self, id: TraceId) -> TraceSummary {
        let root = self.roots().into_iter().next();
        let start = self.spans.iter().map(|span| span.start_unix_nano).min().unwrap_or(0);
        let end = self.spans.iter().map(|span| span.end_unix_nano).max().unwrap_or(0);
        TraceSummary {
            trace_id: id.to_string(),
            root: root.map_or_else(String::new, |span| span.name.clone()),
            service: root.map_or_else(String::new, |span| span.service.to_string()),
            start: timestamp(start),
            duration_millis: end.saturating_sub(start) as f64 / 1e6,
            spans: count(self.spans.len()),
            errors: count(
                self.spans
                    .iter()
                    .filter(|span| span.status == StatusCode::Error)
                    .count(),
            ),
        }
    }

    /// Spans whose parent is not here, by start.
    fn roots(&self) -> Vec<&Span> {
        let ids: BTreeSet<u64> = self.spans.iter().map(|span| span.id).collect();
        let is_root = |span: &&Span| span.parent.is_none_or(|parent| !ids.contains(&parent));
        let mut roots: Vec<&Span> = self.spans.iter().filter(is_root).collect();
        roots.sort_by_key(|span| (span.start_unix_nano, span.id));
        roots
    }

    fn in_tree_order(&self) -> Vec<&Span> {
        let mut children: BTreeMap<u64, Vec<&Span>> = BTreeMap::new();
        for span in &self.spans {
            if let Some(parent) = span.parent {
                children.entry(parent).or_default().push(span);
            }
        }
        let mut order = Vec::with_capacity(self.spans.len());
        let mut seen = BTreeSet::new();
        let mut next = self.roots();
        next.reverse();
        while let Some(span) = next.pop() {
            // A span that was sent twice is shown once.
            if !seen.insert(span.id) {
                continue;
            }
            order.push(span);
            let mut below = children.remove(&span.id).unwrap_or_default();
            below.sort_by_key(|span| std::cmp::Reverse((span.start_unix_nano, span.id)));
            next.extend(below);
        }
        // Spans that are each other's ancestors hang from no root: they come last, so that nothing is hidden.
        order.extend(self.spans.iter().filter(|span| seen.insert(span.id)));
        order
    }
}

#[derive(Debug)]
struct Span {
    id: u64,
    parent: Option<u64>,
    service: Arc<str>,
    name: String,
    kind: SpanKind,
    start_unix_nano: u64,
    end_unix_nano: u64,
    status: StatusCode,
    attributes: Vec<(String, String)>,
}

impl Span {
    /// `None`: its ids are not valid (OTLP: trace_id is 16 bytes, span_id 8, neither all zero).
    fn read(span: otlp::Span, service: &Arc<str>) -> Option<(TraceId, Span)> {
        let trace = TraceId::read(&span.trace_id)?;
        let id = span_id(&span.span_id)?;
        let parent = match span.parent_span_id.as_slice() {
            [] => None,
            bytes => span_id(bytes),
        };
        let kind = SpanKind::try_from(span.kind).unwrap_or(SpanKind::Unspecified);
        let status = span.status.as_ref().map_or(0, |status| status.code);
        let mut attributes: Vec<(String, String)> = Vec::new();
        for KeyValue { key, value, .. } in span.attributes.into_iter().take(ATTRIBUTES_MAX) {
            attributes.push((truncated(key), truncated(value.map_or_else(String::new, any_text))));
        }
        let message = span
            .status
            .map(|status| status.message)
            .filter(|message| !message.is_empty());
        attributes.extend(message.map(|message| ("otel.status_description".to_owned(), truncated(message))));
        let read = Span {
            id,
            parent,
            service: Arc::clone(service),
            name: truncated(span.name),
            kind,
            start_unix_nano: span.start_time_unix_nano,
            end_unix_nano: span.end_time_unix_nano.max(span.start_time_unix_nano),
            status: StatusCode::try_from(status).unwrap_or(StatusCode::Unset),
            attributes,
        };
        Some((trace, read))
    }

    fn estimated_bytes(&self) -> usize {
        let attributes: usize = self
            .attributes
            .iter()
            .map(|(key, value)| size_of::<(String, String)>() + key.len() + value.len())
            .sum();
        size_of::<Span>() + self.name.len() + attributes
    }

    fn view(&self) -> views::Span {
        let kind = match self.kind {
            // OTLP: what is unspecified may be taken as internal.
            SpanKind::Unspecified | SpanKind::Internal => views::SpanKind::Internal,
            SpanKind::Server => views::SpanKind::Server,
            SpanKind::Client => views::SpanKind::Client,
            SpanKind::Producer => views::SpanKind::Producer,
            SpanKind::Consumer => views::SpanKind::Consumer,
        };
        let status = match self.status {
            StatusCode::Unset => SpanStatus::Unset,
            StatusCode::Ok => SpanStatus::Ok,
            StatusCode::Error => SpanStatus::Error,
        };
        let attributes = self
            .attributes
            .iter()
            .map(|(key, value)| (key.clone(), value.clone().into()));
        views::Span {
            span_id: format!("{:016x}", self.id),
            parent_id: self.parent.map_or_else(String::new, |parent| format!("{parent:016x}")),
            service: self.service.to_string(),
            name: self.name.clone(),
            kind,
            start_unix_nano: self.start_unix_nano,
            duration_nanos: self.end_unix_nano - self.start_unix_nano,
            status,
            attributes: attributes.collect(),
        }
    }
}

fn span_id(bytes: &[u8]) -> Option<u64> {
    let id = u64::from_be_bytes(bytes.try_into().ok()?);
    (id != 0).then_some(id)
}

/// OpenTelemetry, Resource semantic conventions: `service.name`, and `service.namespace` before it where it is given.
fn service_name(resource: Option<&Resource>) -> String {
    let attribute = |wanted: &str| {
        let found = resource?.attributes.iter().find(|attribute| attribute.key == wanted)?;
        match &found.value.as_ref()?.value {
            Some(any_value::Value::StringValue(text)) if !text.is_empty() => Some(text.as_str()),
            _ => None,
        }
    };
    let name = attribute("service.name").unwrap_or("unknown_service");
    truncated(match attribute("service.namespace") {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    })
}

/// Lists and maps are counted, not shown: nothing of ours uses them, and they nest.
fn any_text(value: AnyValue) -> String {
    match value.value {
        None => String::new(),
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::BoolValue(value)) => value.to_string(),
        Some(any_value::Value::IntValue(value)) => value.to_string(),
        Some(any_value::Value::DoubleValue(value)) => value.to_string(),
        Some(any_value::Value::BytesValue(bytes)) => format!("{} bytes", bytes.len()),
        Some(any_value::Value::ArrayValue(list)) => format!("a list of {}", list.values.len()),
        Some(any_value::Value::KvlistValue(map)) => format!("a map of {}", map.values.len()),
        Some(any_value::Value::StringValueStrindex(index)) => format!("string {index} of a table"),
    }
}

fn truncated(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    // What was decoded may have room for much more than it holds.
    text.shrink_to_fit();
    text
}

/// RFC 3339 in UTC, to the millisecond; empty where the time is beyond what a calendar shows.
fn timestamp(unix_nano: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(unix_nano));
    time.map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// Per span; OpenTelemetry's SDKs keep 128 by default, ours sets some twenty.
const ATTRIBUTES_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn span(trace: u128, id: u64, parent: u64, start: u64) -> otlp::Span {
        otlp::Span {
            trace_id: trace.to_be_bytes().to_vec(),
            span_id: id.to_be_bytes().to_vec(),
            parent_span_id: match parent {
                0 => Vec::new(),
                parent => parent.to_be_bytes().to_vec(),
            },
            name: format!("span {id}"),
            kind: SpanKind::Server.into(),
            start_time_unix_nano: start,
            end_time_unix_nano: start + 1_500_000,
            ..otlp::Span::default()
        }
    }

    fn export(service: &str, spans: Vec<otlp::Span>) -> ExportTraceServiceRequest {
        let name = KeyValue {
            key: "service.name".to_owned(),
            value: Some(AnyValue {
                value: Some(any_value::Value::StringValue(service.to_owned())),
            }),
            ..KeyValue::default()
        };
        ExportTraceServiceRequest {
            resource_spans: vec![otlp::ResourceSpans {
                resource: Some(Resource {
                    attributes: vec![name],
                    ..Resource::default()
                }),
                scope_spans: vec![otlp::ScopeSpans {
                    spans,
                    ..otlp::ScopeSpans::default()
                }],
                ..otlp::ResourceSpans::default()
            }],
        }
    }

    /// Span ids in the order of the view.
    #[track_caller]
    fn order(spans: &[(u64, u64, u64)], expect: &[u64]) {
        let traces = Traces::new(Bounds::default());
        let spans = spans
            .iter()
            .map(|(id, parent, start)| span(7, *id, *parent, *start))
            .collect();
        assert_eq!(traces.take(export("portal", spans)), 0);
        let view = traces.trace(&format!("{:032x}", 7)).expect("it was sent");
        let shown: Vec<u64> = view
            .spans
            .iter()
            .map(|span| u64::from_str_radix(&span.span_id, 16).expect("hex"))
            .collect();
        assert_eq!(shown, expect);
    }

    #[test]
    fn spans_are_shown_as_a_tree_whatever_their_order_of_arrival() {
        order(&[(1, 0, 10), (2, 1, 11), (3, 1, 12), (4, 2, 13)], &[1, 2, 4, 3]);
        order(&[(4, 2, 13), (3, 1, 12), (2, 1, 11), (1, 0, 10)], &[1, 2, 4, 3]);
        order(&[(2, 99, 5), (1, 0, 10)], &[2, 1]);
        order(&[(1, 0, 1), (1, 0, 1)], &[1]);
        order(&[(1, 2, 1), (2, 1, 2), (3, 0, 3)], &[3, 1, 2]);
        order(&[(1, 1, 1)], &[1]);
    }

    #[test]
    fn a_summary_names_the_root_and_counts() {
        let traces = Traces::new(Bounds::default());
        traces.take(export("identity", vec![span(7, 2, 1, 2_000_000)]));
        let mut failed = span(7, 1, 0, 1_000_000);
        failed.status = Some(otlp::Status {
            code: StatusCode::Error.into(),
            message: "upstream reset".to_owned(),
        });
        traces.take(export("portal", vec![failed]));
        let list = traces.list(20);
        let summary = &list.items[0];
        assert_eq!((summary.root.as_str(), summary.service.as_str()), ("span 1", "portal"));
        assert_eq!((summary.spans, summary.errors), (2, 1));
        assert_eq!(summary.duration_millis, 2.5);
        assert_eq!(summary.start, "1970-01-01T00:00:00.001Z");
        let view = traces.trace(&summary.trace_id).expect("listed");
        assert_eq!(view.spans[0].status, SpanStatus::Error);
        assert_eq!(view.spans[0].attributes["otel.status_description"], "upstream reset");
    }

    #[test]
    fn what_is_held_is_bounded_and_the_oldest_goes() {
        let bounds = Bounds {
            traces_max: 3,
            spans_per_trace_max: 2,
            bytes_max: usize::MAX,
        };
        let traces = Traces::new(bounds);
        let refused = traces.take(export("a", (1..=5).map(|id| span(1, id, 0, id)).collect()));
        assert_eq!(refused, 3, "three beyond a trace's bound");
        for trace in 2..=4 {
            traces.take(export("a", vec![span(trace, 1, 0, 1)]));
        }
        let held: Vec<String> = traces.list(20).items.into_iter().map(|trace| trace.trace_id).collect();
        assert_eq!(held, [4_u128, 3, 2].map(|id| TraceId(id).to_string()));
        assert_eq!(traces.list(1).items.len(), 1);
    }

    #[test]
    fn bytes_are_bounded_by_estimate() {
        let bounds = Bounds {
            bytes_max: 10_000,
            ..Bounds::default()
        };
        let traces = Traces::new(bounds);
        for trace in 1..=1000 {
            let mut large = span(trace, 1, 0, 1);
            large.name = "x".repeat(100_000);
            traces.take(export("a", vec![large]));
            let held = traces.lock();
            assert!(held.bytes <= 10_000);
            assert_eq!(held.bytes, held.traces.values().map(|trace| trace.bytes).sum::<usize>());
            assert_eq!(held.order.len(), held.traces.len());
        }
        assert!(!traces.list(10).items.is_empty());
    }

    #[test]
    fn wrong_ids_are_refused() {
        let traces = Traces::new(Bounds::default());
        let mut short = span(1, 1, 0, 1);
        short.trace_id.pop();
        let mut long = span(1, 1, 0, 1);
        long.span_id.push(0);
        assert_eq!(
            traces.take(export("a", vec![span(0, 1, 0, 1), span(1, 0, 0, 1), short, long])),
            4
        );
        assert!(traces.list(10).items.is_empty());
        for id in ["", "zz", "+0000000000000000000000000000001", &"0".repeat(33)] {
            assert!(traces.trace(id).is_none(), "{id}");
        }
    }
}
