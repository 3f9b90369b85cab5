//! Sampled requests as spans, sent to a collector by OTLP over gRPC.
//!
//! Inbound requests are SERVER spans, outbound ones CLIENT spans, with OpenTelemetry's semantic conventions for HTTP
//! and gRPC. A request that was sent several times is one span; each attempt is an event in it.

pub(crate) mod collector;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use opentelemetry::trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter, SpanLinks};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use self::collector::Collector;
use crate::access_log::version;
use crate::metrics::Shared;
use crate::record::{AttemptEvent, AttemptOutcome, Direction, DownstreamAddr, RequestRecord, ResponseFlag};
use weir_policy::names::WorkloadName;

/// Sampled requests that wait to be sent, per process; about 1 KiB each. What comes when it is full is dropped and
/// counted.
const QUEUE_MAX: usize = 4_096;

/// Spans sent at once: the OpenTelemetry SDKs' default for a batch.
const BATCH_MAX: usize = 512;

/// How long a span may wait for others.
const BATCH_AFTER: Duration = Duration::from_secs(1);

/// How long the collector may take for a batch.
const EXPORT_WITHIN: Duration = Duration::from_secs(5);

/// How long a stop waits for the collector to take what is left.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How often at most a collector that doesn't answer is complained about.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// Takes sampled requests. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SpanSink {
    queue: mpsc::Sender<RequestRecord>,
    metrics: Arc<Shared>,
}

/// Sends them on.
#[derive(Debug)]
pub(crate) struct SpanTask {
    queue: mpsc::Receiver<RequestRecord>,
    metrics: Arc<Shared>,
    collector: Collector,
    resource: Resource,
}

/// A sink and the task behind it. `instance` tells this run of the proxy from others of the same workload.
pub(crate) fn pair(
    collector: Collector,
    workload: &WorkloadName,
    instance: SystemTime,
    metrics: Arc<Shared>,
) -> (SpanSink, SpanTask) {
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    let sink = SpanSink {
        queue: sender,
        metrics: Arc::clone(&metrics),
    };
    let task = SpanTask {
        queue: receiver,
        metrics,
        collector,
        resource: resource(workload, instance),
    };
    (sink, task)
}

impl SpanSink {
    /// Takes a sampled request, or drops and counts it if there is no room.
    pub(crate) fn offer(&self, record: RequestRecord) {
        if self.queue.try_send(record).is_err() {
            self.metrics.spans_dropped(1);
        }
    }
}

impl SpanTask {
    /// Sends spans, 512 at once or what there is after a second, until `stop`; then sends what is left. A batch that
    /// the collector does not take within five seconds is dropped and counted.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) {
        let exporter = match exporter(&self.collector, &self.resource) {
            Ok(exporter) => exporter,
            Err(error) => {
                tracing::error!(%error, collector = %self.collector, "spans can't be exported");
                stop.await;
                return;
            }
        };
        let scope = InstrumentationScope::builder("weir-proxy")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        let mut complained = None;
        let mut stop = std::pin::pin!(stop);
        let mut stop_by: Option<Instant> = None;
        loop {
            let mut batch = Vec::with_capacity(BATCH_MAX);
            let gathered = tokio::select! {
                // Cancel safe: what is not received stays in the queue, what is stays in the batch.
                gathered = gather(&mut self.queue, &mut batch) => gathered,
                // Not polled again once it has resolved.
                () = &mut stop, if stop_by.is_none() => {
                    stop_by = Some(Instant::now() + STOP_WITHIN);
                    self.queue.close();
                    Queue::Open
                }
            };
            let left = stop_by.map(|by| by.saturating_duration_since(Instant::now()));
            if !batch.is_empty() {
                let within = left.map_or(EXPORT_WITHIN, |left| left.min(EXPORT_WITHIN));
                self.send(&exporter, &scope, batch, within, &mut complained).await;
            }
            match gathered {
                Queue::Open => {}
                Queue::Ended => return,
            }
        }
    }

    async fn send(
        &self,
        exporter: &opentelemetry_otlp::SpanExporter,
        scope: &InstrumentationScope,
        batch: Vec<RequestRecord>,
        within: Duration,
        complained: &mut Option<Instant>,
    ) {
        let spans: Vec<SpanData> = batch.into_iter().map(|record| span(record, scope)).collect();
        let count = spans.len().try_into().unwrap_or(u64::MAX);
        let problem = match timeout(within, exporter.export(spans)).await {
            Ok(Ok(())) => {
                self.metrics.spans_exported(count);
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => format!("no answer within {within:?}"),
        };
        self.metrics.spans_dropped(count);
        if complained.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            *complained = Some(Instant::now());
            tracing::warn!(problem, collector = %self.collector, spans = count, "the collector did not take spans");
        }
    }
}

/// Whether more can come.
enum Queue {
    Open,
    Ended,
}

/// Waits for a first record, then for more until the batch is full or its time is up.
async fn gather(queue: &mut mpsc::Receiver<RequestRecord>, batch: &mut Vec<RequestRecord>) -> Queue {
    if queue.recv_many(batch, BATCH_MAX).await == 0 {
        return Queue::Ended;
    }
    let until = Instant::now() + BATCH_AFTER;
    while let Some(room) = BATCH_MAX.checked_sub(batch.len()).filter(|room| *room > 0) {
        match timeout_at(until, queue.recv_many(batch, room)).await {
            Ok(0) => return Queue::Ended,
            Ok(_more) => {}
            Err(_elapsed) => break,
        }
    }
    Queue::Open
}

/// Inside a runtime: the connection is made when the first batch is sent.
fn exporter(
    collector: &Collector,
    resource: &Resource,
) -> Result<opentelemetry_otlp::SpanExporter, ExporterBuildError> {
    let builder = opentelemetry_otlp::SpanExporter::builder().with_tonic();
    let builder = builder.with_channel(collector.channel()).with_timeout(EXPORT_WITHIN);
    let mut exporter = builder.build()?;
    exporter.set_resource(resource);
    Ok(exporter)
}

fn resource(workload: &WorkloadName, instance: SystemTime) -> Resource {
    let since = instance.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let attributes = [
        KeyValue::new("service.name", workload.name.to_string()),
        KeyValue::new("service.namespace", workload.namespace.to_string()),
        KeyValue::new("service.instance.id", format!("{workload}@{}", since.as_micros())),
    ];
    Resource::builder_empty().with_attributes(attributes).build()
}

/// A request as a span.
fn span(record: RequestRecord, scope: &InstrumentationScope) -> SpanData {
    let ids = record.trace;
    let kind = match record.direction {
        Direction::Inbound => SpanKind::Server,
        Direction::Outbound => SpanKind::Client,
    };
    let context = SpanContext::new(
        TraceId::from_bytes(ids.trace_id),
        SpanId::from_bytes(ids.span_id),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    );
    let mut events = SpanEvents::default();
    events.events = record
        .attempts
        .iter()
        .map(|attempt| event(attempt, record.started))
        .collect();
    let method = method(&record.method);
    SpanData {
        span_context: context,
        parent_span_id: ids.parent_id.map_or(SpanId::INVALID, SpanId::from_bytes),
        // The parent is the other proxy's span or the app's: never of this process's own SDK.
        parent_span_is_remote: ids.parent_id.is_some(),
        span_kind: kind,
        name: format!("{method} {}", record.service).into(),
        start_time: record.started,
        end_time: record.started.checked_add(record.duration).unwrap_or(record.started),
        status: status(&record),
        attributes: attributes(record),
        dropped_attributes_count: 0,
        events,
        links: SpanLinks::default(),
        instrumentation_scope: scope.clone(),
    }
}

/// A method that the conventions know, or `_OTHER`: a span's name may not be what a peer makes up.
fn method(method: &Method) -> &str {
    match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH") => known,
        _ => "_OTHER",
    }
}

fn event(attempt: &AttemptEvent, started: SystemTime) -> Event {
    let mut attributes = vec![
        KeyValue::new("weir.endpoint", attempt.endpoint.to_string()),
        KeyValue::new("weir.outcome", attempt.outcome.as_str()),
    ];
    if let AttemptOutcome::Answered(status) = attempt.outcome {
        attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
    }
    let at = started.checked_add(attempt.at).unwrap_or(started);
    Event::new("weir.attempt", at, attributes, 0)
}

/// The status by the semantic conventions. HTTP spans: from 500 on it is an error, for a client from 400 on. RPC spans:
/// for a client every status but OK, for a server those that are its own doing.
fn status(record: &RequestRecord) -> Status {
    let by_status = match (record.direction, record.grpc_status) {
        (Direction::Outbound, Some(grpc)) => grpc != 0,
        // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
        (Direction::Inbound, Some(grpc)) => matches!(grpc, 2 | 4 | 12..=15),
        (Direction::Outbound, None) => record.status >= 400,
        (Direction::Inbound, None) => record.status >= 500,
    };
    if by_status || is_failure(record.flag) {
        let description = record.error.clone().unwrap_or_default();
        Status::error(description)
    } else {
        Status::Unset
    }
}

/// Whether a flag alone makes a span an error, as when an answer of status 200 broke off.
fn is_failure(flag: ResponseFlag) -> bool {
    match flag {
        ResponseFlag::None
        | ResponseFlag::Direct
        // The caller's doing: as bad as its status says.
        | ResponseFlag::BadRequest
        | ResponseFlag::NotCarried
        | ResponseFlag::DownstreamReset
        | ResponseFlag::UnknownDestination
        | ResponseFlag::ProhibitedAddress
        | ResponseFlag::NoRoute
        | ResponseFlag::CleartextRefused
        | ResponseFlag::CallerNotTrusted
        | ResponseFlag::OriginNotAllowed => false,
        ResponseFlag::NotResolved
        | ResponseFlag::NoConfig
        | ResponseFlag::IdleTimeout
        | ResponseFlag::ConfigRefused
        | ResponseFlag::NoBackend
        | ResponseFlag::RateLimited
        | ResponseFlag::Fault
        | ResponseFlag::NoEndpoint
        | ResponseFlag::LimitReached
        | ResponseFlag::BreakerOpen
        | ResponseFlag::ConnectFailed
        | ResponseFlag::ConnectTimeout
        | ResponseFlag::TlsFailed
        | ResponseFlag::TlsClosed
        | ResponseFlag::UpstreamReset
        | ResponseFlag::UpstreamProtocol
        | ResponseFlag::AttemptTimeout
        | ResponseFlag::RequestTimeout
        | ResponseFlag::Draining
        | ResponseFlag::Internal => true,
    }
}

fn attributes(record: RequestRecord) -> Vec<KeyValue> {
    let (server_address, server_port) = record.server();
    let resends = i64::try_from(record.attempts.len())
        .unwrap_or(i64::MAX)
        .saturating_sub(1);
    let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut attributes = vec![
        KeyValue::new("http.request.method", method(&record.method).to_owned()),
        KeyValue::new("url.path", record.path_only().to_owned()),
        KeyValue::new("server.address", server_address.to_owned()),
        KeyValue::new("network.protocol.version", version(record.downstream_version)),
        KeyValue::new("http.request.body.size", size(record.request_bytes)),
        KeyValue::new("http.response.body.size", size(record.response_bytes)),
        KeyValue::new("weir.direction", record.direction.as_str()),
        KeyValue::new("weir.service", record.service.to_string()),
        KeyValue::new("weir.flag", record.flag.as_str()),
    ];
    let mut add = |key: &'static str, value: Option<opentelemetry::Value>| {
        attributes.extend(value.map(|value| KeyValue::new(key, value)));
    };
    add("server.port", server_port.map(|port| i64::from(port).into()));
    let answered = (record.status != 0).then(|| i64::from(record.status).into());
    add("http.response.status_code", answered);
    add(
        "rpc.grpc.status_code",
        record.grpc_status.map(|status| i64::from(status).into()),
    );
    add("rpc.system", record.grpc_status.map(|_| "grpc".into()));
    add("http.request.resend_count", (resends > 0).then(|| resends.into()));
    add(
        "weir.route",
        record.route.as_ref().map(|route| route.to_string().into()),
    );
    add(
        "weir.cluster",
        record.cluster.as_ref().map(|cluster| cluster.to_string().into()),
    );
    add(
        "network.peer.address",
        record.endpoint.map(|endpoint| endpoint.ip().to_string().into()),
    );
    add(
        "network.peer.port",
        record.endpoint.map(|endpoint| i64::from(endpoint.port()).into()),
    );
    add(
        "weir.upstream.protocol.version",
        record.upstream_version.map(|upstream| version(upstream).into()),
    );
    add(
        "weir.peer.workload",
        record.peer_workload.as_ref().map(|peer| peer.to_string().into()),
    );
    add(
        "weir.peer.identity",
        record.peer_identity.as_ref().map(|peer| peer.to_string().into()),
    );
    add(
        "weir.context_id",
        record.context_id.map(|id| format!("{id:016x}").into()),
    );
    add(
        "weir.priority",
        record.priority.map(|priority| i64::from(priority.level()).into()),
    );
    if let DownstreamAddr::Tcp(client) = record.downstream {
        add("client.address", Some(client.ip().to_string().into()));
        add("client.port", Some(i64::from(client.port()).into()));
    }
    match status(&record) {
        Status::Error { .. } => add("error.type", Some(error_type(&record).into())),
        Status::Unset | Status::Ok => {}
    }
    let tags = record.told.tags.into_iter();
    attributes.extend(tags.map(|(name, value)| KeyValue::new(name, value)));
    attributes
}

/// The flag where the mesh has one, else the status: few values either way.
fn error_type(record: &RequestRecord) -> String {
    match (record.flag, record.grpc_status) {
        (ResponseFlag::None | ResponseFlag::Direct, Some(grpc)) => grpc.to_string(),
        (ResponseFlag::None | ResponseFlag::Direct, None) => record.status.to_string(),
        (flag, _) => flag.as_str().to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
    use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
    use opentelemetry_proto::tonic::common::v1::any_value;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;
    use tokio_stream::wrappers::TcpListenerStream;

    use super::*;
    use crate::metrics::Metrics;
    use crate::record::tests::record;

    /// A collector that hands what it gets to the test.
    struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(
            &self,
            request: tonic::Request<ExportTraceServiceRequest>,
        ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
            let taken = self.0.send(request.into_inner()).await;
            taken.map_err(|_| tonic::Status::permission_denied("not wanted"))?;
            Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
        }
    }

    pub(crate) async fn collector() -> (http::Uri, mpsc::Receiver<ExportTraceServiceRequest>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, receiver) = mpsc::channel(16);
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (format!("http://{address}").parse().expect("a URI"), receiver)
    }

    /// In cleartext.
    fn plain(url: http::Uri) -> super::Collector {
        super::Collector::new(url, None).expect("there is nothing to be wrong")
    }

    fn workload() -> WorkloadName {
        "citizen/portal-1".parse().expect("a workload")
    }

    fn sample(metrics: &Metrics, name: &str) -> u64 {
        let page = metrics.page().expect("the page");
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect(name).parse().expect("a number")
    }

    fn text(span: &Span, key: &str) -> Option<String> {
        let attribute = span.attributes.iter().find(|attribute| attribute.key == key)?;
        match attribute.value.as_ref()?.value.as_ref()? {
            any_value::Value::StringValue(text) => Some(text.clone()),
            any_value::Value::IntValue(number) => Some(number.to_string()),
            other => panic!("{key}: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_collector_gets_both_spans_with_their_parents() {
        let (collector, mut got) = collector().await;
        let metrics = Metrics::default();
        let instance = SystemTime::UNIX_EPOCH + Duration::from_micros(5);
        let (sink, task) = pair(plain(collector), &workload(), instance, Arc::clone(metrics.shared()));
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(task.run(async { drop(stopped.await) }));

        let outbound = record();
        let mut inbound = record();
        inbound.direction = Direction::Inbound;
        inbound.trace.span_id = [0x31; 8];
        inbound.trace.parent_id = Some(outbound.trace.span_id);
        sink.offer(outbound.clone());
        sink.offer(inbound);
        let mut root = record();
        root.trace.parent_id = None;
        sink.offer(root);

        let request = got.recv().await.expect("a batch");
        let resource = request.resource_spans[0].resource.as_ref().expect("a resource");
        let mut named: Vec<String> = resource
            .attributes
            .iter()
            .map(|attribute| {
                format!(
                    "{}={:?}",
                    attribute.key,
                    attribute.value.as_ref().and_then(|v| v.value.clone())
                )
            })
            .collect();
        named.sort();
        assert_eq!(
            named,
            [
                r#"service.instance.id=Some(StringValue("citizen/portal-1@5"))"#,
                r#"service.name=Some(StringValue("portal-1"))"#,
                r#"service.namespace=Some(StringValue("citizen"))"#,
            ]
        );
        let spans = &request.resource_spans[0].scope_spans[0].spans;
        let [client, server, root] = spans.as_slice() else {
            panic!("{spans:?}")
        };
        assert_eq!(client.trace_id, outbound.trace.trace_id);
        assert_eq!(client.span_id, outbound.trace.span_id);
        assert_eq!(client.parent_span_id, [0x21; 8]);
        assert_eq!(client.kind, 3, "CLIENT");
        assert_eq!(client.end_time_unix_nano - client.start_time_unix_nano, 3_250_000);
        assert_eq!(client.name, "GET identity.police:80");
        assert_eq!(text(client, "http.response.status_code").as_deref(), Some("200"));
        assert_eq!(text(client, "network.peer.address").as_deref(), Some("10.0.0.7"));
        assert_eq!(client.events.len(), 1);
        assert_eq!(server.kind, 2, "SERVER");
        assert_eq!(server.trace_id, client.trace_id);
        assert_eq!(server.parent_span_id, client.span_id);
        assert!(
            root.parent_span_id.iter().all(|byte| *byte == 0),
            "{:?}",
            root.parent_span_id
        );

        drop(stop);
        task.await.expect("it ends");
        assert_eq!(sample(&metrics, "weir_spans_exported_total"), 3);
        assert_eq!(sample(&metrics, "weir_spans_dropped_total"), 0);
    }

    #[tokio::test]
    async fn a_stop_sends_what_is_left() {
        let (collector, mut got) = collector().await;
        let metrics = Metrics::default();
        let (sink, task) = pair(
            plain(collector),
            &workload(),
            SystemTime::now(),
            Arc::clone(metrics.shared()),
        );
        for _ in 0..BATCH_MAX + 1 {
            sink.offer(record());
        }
        task.run(async {}).await;
        sink.offer(record());
        let mut batches = Vec::new();
        while let Ok(request) = got.try_recv() {
            batches.push(request.resource_spans[0].scope_spans[0].spans.len());
        }
        assert_eq!(batches, [BATCH_MAX, 1]);
        assert_eq!(
            sample(&metrics, "weir_spans_dropped_total"),
            1,
            "what came after the stop"
        );
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts() {
        let metrics = Metrics::default();
        let collector = http::Uri::from_static("http://127.0.0.1:1");
        let (sink, task) = pair(
            plain(collector),
            &workload(),
            SystemTime::now(),
            Arc::clone(metrics.shared()),
        );
        for _ in 0..QUEUE_MAX + 3 {
            sink.offer(record());
        }
        assert_eq!(sample(&metrics, "weir_spans_dropped_total"), 3);
        drop(task);
    }

    #[tokio::test]
    async fn a_collector_that_refuses_costs_spans_and_nothing_else() {
        let (collector, got) = collector().await;
        drop(got);
        let metrics = Metrics::default();
        let (sink, task) = pair(
            plain(collector),
            &workload(),
            SystemTime::now(),
            Arc::clone(metrics.shared()),
        );
        sink.offer(record());
        sink.offer(record());
        task.run(async {}).await;
        assert_eq!(sample(&metrics, "weir_spans_dropped_total"), 2);
        assert_eq!(sample(&metrics, "weir_spans_exported_total"), 0);
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut RequestRecord), kind: SpanKind, error: Option<&str>) {
        let mut one = record();
        change(&mut one);
        let span = span(one, &InstrumentationScope::default());
        assert_eq!(span.span_kind, kind);
        let error_type = span
            .attributes
            .iter()
            .find(|attribute| attribute.key.as_str() == "error.type");
        assert_eq!(
            error_type.map(|attribute| attribute.value.to_string()).as_deref(),
            error
        );
        assert_eq!(matches!(span.status, Status::Error { .. }), error.is_some());
    }

    #[test]
    fn what_is_an_error_differs_by_side() {
        use Direction::{Inbound, Outbound};
        use SpanKind::{Client, Server};
        let answered = |direction, status| {
            move |record: &mut RequestRecord| {
                record.direction = direction;
                record.status = status;
            }
        };
        check(answered(Outbound, 200), Client, None);
        check(answered(Inbound, 200), Server, None);
        check(answered(Outbound, 404), Client, Some("404"));
        check(answered(Inbound, 404), Server, None);
        check(answered(Outbound, 503), Client, Some("503"));
        check(answered(Inbound, 500), Server, Some("500"));
        let grpc = |direction, status| {
            move |record: &mut RequestRecord| {
                record.direction = direction;
                record.grpc_status = Some(status);
            }
        };
        check(grpc(Outbound, 0), Client, None);
        check(grpc(Outbound, 5), Client, Some("5"));
        check(grpc(Inbound, 5), Server, None);
        check(grpc(Inbound, 14), Server, Some("14"));
        let flagged = |flag, status| {
            move |record: &mut RequestRecord| {
                record.flag = flag;
                record.status = status;
            }
        };
        check(
            flagged(ResponseFlag::UpstreamReset, 200),
            Client,
            Some("upstream_reset"),
        );
        check(flagged(ResponseFlag::BreakerOpen, 503), Client, Some("breaker_open"));
        check(flagged(ResponseFlag::Direct, 302), Client, None);
        check(flagged(ResponseFlag::DownstreamReset, 0), Client, None);
    }

    #[test]
    fn each_attempt_is_an_event() {
        let mut retried = record();
        let first = AttemptEvent {
            outcome: AttemptOutcome::TimedOut,
            at: Duration::from_millis(1),
            ..retried.attempts[0]
        };
        retried.attempts.insert(0, first);
        let span = span(retried, &InstrumentationScope::default());
        let resent = span
            .attributes
            .iter()
            .find(|attribute| attribute.key.as_str() == "http.request.resend_count");
        assert_eq!(
            resent.map(|attribute| attribute.value.to_string()).as_deref(),
            Some("1")
        );
        let events: Vec<String> = span
            .events
            .iter()
            .map(|event| {
                let values: Vec<String> = event
                    .attributes
                    .iter()
                    .map(|attribute| attribute.value.to_string())
                    .collect();
                format!("{} {}", event.name, values.join(" "))
            })
            .collect();
        assert_eq!(
            events,
            [
                "weir.attempt 10.0.0.7:15006 timed out",
                "weir.attempt 10.0.0.7:15006 answered 200"
            ]
        );
        assert_eq!(span.events[0].timestamp, record().started + Duration::from_millis(1));
    }

    #[test]
    fn tags_stand_behind_the_spans_own_attributes() {
        let mut tagged = record();
        tagged.told.tags = vec![(Arc::from("department"), "health".to_owned())];
        let span = span(tagged, &InstrumentationScope::default());
        let last = span.attributes.last().expect("it has some");
        assert_eq!(
            (last.key.as_str(), last.value.to_string().as_str()),
            ("department", "health")
        );
    }

    #[test]
    fn a_made_up_method_does_not_name_a_span() {
        let mut odd = record();
        odd.method = Method::from_bytes(b"MADEUP").expect("a method");
        let span = span(odd, &InstrumentationScope::default());
        assert_eq!(span.name, "_OTHER identity.police:80");
    }
}
