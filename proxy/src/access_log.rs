//! The access log: one JSON line for each request, and for each TCP connection when it has ended, with OpenTelemetry's
//! attribute names.
//!
//! A worker writes lines into a buffer of its own; one thread writes the buffers out, so that a slow disk or a blocked
//! pipe holds up no request. Headers and the query are not logged: secrets travel there.

use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::ops::Not;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http::Version;
use serde::{Serialize, Serializer};
use weir_policy::context::Priority;

use crate::config::AccessLog;
use crate::error::Hop;
use crate::metrics::Shared;
use crate::record::{AttemptEvent, AttemptOutcome, DownstreamAddr, Purpose, RequestRecord, Sampled};
use crate::tcp::TcpRecord;

/// How long a line may wait to be written.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// A buffer with this much in it is written at once: few, large writes.
const FLUSH_BYTES: usize = 64 * 1024;

/// What a worker's buffer holds at most while the writer is held up, per worker; what comes then is dropped and
/// counted. About 2,000 lines.
const BUFFER_BYTES_MAX: usize = 1024 * 1024;

/// How long a stop waits for the last lines. A pipe that nobody reads would hold it up for ever.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Why the access log can't be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessLogError {
    /// The file.
    #[error("--access-log: {path}: {source}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The thread that writes.
    #[error("the access log's thread can't be started: {0}")]
    Thread(io::Error),
}

/// Where workers put lines. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LogSink {
    state: Arc<WriterState>,
    metrics: Arc<Shared>,
}

/// The thread that writes; owned by whoever opened the log. Its drop writes what is left and ends the thread; it gives
/// up after two seconds if the lines can't be written, which leaves the thread to the end of the process.
#[derive(Debug)]
pub(crate) struct LogWriter {
    state: Arc<WriterState>,
    thread: Option<JoinHandle<()>>,
}

/// Opens the log and starts its thread; `None`: it is off.
///
/// # Errors
/// When the file can't be opened for appending, or the thread can't be started.
pub(crate) fn open(config: &AccessLog, metrics: Arc<Shared>) -> Result<Option<(LogSink, LogWriter)>, AccessLogError> {
    let out: Box<dyn Write + Send> = match config {
        AccessLog::Off => return Ok(None),
        AccessLog::Stdout => Box::new(io::stdout()),
        AccessLog::File(path) => {
            let file = File::options().append(true).create(true).open(path);
            Box::new(file.map_err(|source| AccessLogError::Open {
                path: path.clone(),
                source,
            })?)
        }
    };
    start(out, metrics, FLUSH_AFTER).map(Some)
}

/// As [`open`], to any place, with any wait.
fn start(
    out: Box<dyn Write + Send>,
    metrics: Arc<Shared>,
    flush_after: Duration,
) -> Result<(LogSink, LogWriter), AccessLogError> {
    let state = Arc::new(WriterState::default());
    let for_thread = (Arc::clone(&state), Arc::clone(&metrics));
    let thread = thread::Builder::new().name("access-log".to_owned());
    let thread = thread.spawn(move || for_thread.0.run(out, &for_thread.1, flush_after));
    let writer = LogWriter {
        state: Arc::clone(&state),
        thread: Some(thread.map_err(AccessLogError::Thread)?),
    };
    Ok((LogSink { state, metrics }, writer))
}

impl LogSink {
    /// A buffer for one more worker.
    pub(crate) fn buffer(&self) -> LogBuffer {
        let lines = Arc::new(Mutex::new(Vec::new()));
        locked(&self.state.control).buffers.push(Arc::clone(&lines));
        LogBuffer {
            lines,
            state: Arc::clone(&self.state),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

/// One worker's lines.
#[derive(Debug)]
pub(crate) struct LogBuffer {
    lines: Arc<Mutex<Vec<u8>>>,
    state: Arc<WriterState>,
    metrics: Arc<Shared>,
}

impl LogBuffer {
    /// Adds a request's line. Waits for nothing but the writer's taking the buffer away, which is a swap of pointers.
    pub(crate) fn write(&self, record: &RequestRecord) {
        self.add(&Line::of(record));
    }

    /// Adds the line of a TCP connection, which has ended.
    pub(crate) fn write_tcp(&self, record: &TcpRecord) {
        self.add(&TcpLine::of(record));
    }

    fn add(&self, line: &impl Serialize) {
        let mut lines = locked(&self.lines);
        let before = lines.len();
        if before >= BUFFER_BYTES_MAX || serde_json::to_writer(&mut *lines, line).is_err() {
            lines.truncate(before);
            self.metrics.access_log_dropped(1);
            return;
        }
        lines.push(b'\n');
        let after = lines.len();
        drop(lines);
        if before == 0 {
            self.state.wake(Urgency::Soon);
        }
        if before < FLUSH_BYTES && after >= FLUSH_BYTES {
            self.state.wake(Urgency::Now);
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        let mut control = locked(&self.state.control);
        control.stopping = true;
        self.state.changed.notify_all();
        let stopped = self
            .state
            .changed
            .wait_timeout_while(control, STOP_WITHIN, |control| !control.stopped);
        let stopped = stopped.unwrap_or_else(PoisonError::into_inner).0.stopped;
        let Some(thread) = self.thread.take() else { return };
        if !stopped {
            tracing::warn!("the last access log lines can't be written in time");
        } else if thread.join().is_err() {
            tracing::error!("the access log's thread panicked");
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    Soon,
    Now,
}

/// What workers and the writer's thread tell each other.
#[derive(Debug, Default)]
struct WriterState {
    control: Mutex<Control>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Control {
    buffers: Vec<Arc<Mutex<Vec<u8>>>>,
    wanted: Option<Urgency>,
    stopping: bool,
    stopped: bool,
}

impl WriterState {
    fn wake(&self, urgency: Urgency) {
        let mut control = locked(&self.control);
        match (control.wanted, urgency) {
            (None, _) | (Some(Urgency::Soon), Urgency::Now) => control.wanted = Some(urgency),
            (Some(Urgency::Soon), Urgency::Soon) | (Some(Urgency::Now), _) => {}
        }
        drop(control);
        self.changed.notify_all();
    }

    /// The thread: sleeps while there is nothing, gathers for up to `flush_after`, writes.
    fn run(&self, mut out: Box<dyn Write + Send>, metrics: &Shared, flush_after: Duration) {
        let mut taken = Vec::new();
        loop {
            let control = self.changed.wait_while(locked(&self.control), |control| {
                control.wanted.is_none() && !control.stopping
            });
            let gather = self.changed.wait_timeout_while(
                control.unwrap_or_else(PoisonError::into_inner),
                flush_after,
                |control| control.wanted != Some(Urgency::Now) && !control.stopping,
            );
            let mut control = gather.unwrap_or_else(PoisonError::into_inner).0;
            control.wanted = None;
            let buffers = control.buffers.clone();
            let stopping = control.stopping;
            drop(control);
            for buffer in &buffers {
                mem::swap(&mut taken, &mut *locked(buffer));
                write_out(&mut out, &taken, metrics);
                taken.clear();
                // A burst's large buffer is not kept for good.
                taken.shrink_to(2 * FLUSH_BYTES);
            }
            drop(buffers);
            let mut control = locked(&self.control);
            // A buffer that only we hold belonged to a worker that is gone.
            control
                .buffers
                .retain(|buffer| Arc::strong_count(buffer) > 1 || !locked(buffer).is_empty());
            if stopping {
                control.stopped = true;
                self.changed.notify_all();
                return;
            }
        }
    }
}

fn write_out(out: &mut dyn Write, lines: &[u8], metrics: &Shared) {
    if lines.is_empty() {
        return;
    }
    if let Err(error) = out.write_all(lines).and_then(|()| out.flush()) {
        let dropped = lines.iter().filter(|byte| **byte == b'\n').count();
        metrics.access_log_dropped(dropped.try_into().unwrap_or(u64::MAX));
        // At most one event for each flush, so at most one a second or for each 64 KiB.
        tracing::warn!(%error, dropped, "access log lines can't be written");
    }
}

/// A poisoned lock is taken all the same: a line is added or cut off whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line. Names are OpenTelemetry's semantic conventions for HTTP and RPC where those have one, else `weir.*`.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: Timestamp,
    #[serde(rename = "weir.direction")]
    direction: &'static str,
    #[serde(rename = "http.request.method")]
    method: &'a str,
    #[serde(rename = "server.address")]
    server_address: &'a str,
    #[serde(rename = "server.port", skip_serializing_if = "Option::is_none")]
    server_port: Option<u16>,
    #[serde(rename = "url.path")]
    path: &'a str,
    #[serde(rename = "network.protocol.version")]
    downstream_version: &'static str,
    #[serde(rename = "http.response.status_code")]
    status: u16,
    #[serde(rename = "rpc.grpc.status_code", skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u32>,
    #[serde(rename = "weir.flag")]
    flag: &'static str,
    #[serde(rename = "error.message", skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(rename = "weir.duration_ms")]
    duration: Millis,
    #[serde(rename = "weir.upstream.first_byte_ms", skip_serializing_if = "Option::is_none")]
    first_byte: Option<Millis>,
    #[serde(rename = "http.request.body.size")]
    request_bytes: u64,
    #[serde(rename = "http.response.body.size")]
    response_bytes: u64,
    #[serde(rename = "weir.service")]
    service: &'a str,
    #[serde(rename = "weir.route", skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(rename = "weir.cluster", skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    #[serde(rename = "weir.endpoint", skip_serializing_if = "Option::is_none")]
    endpoint: Option<Text<std::net::SocketAddr>>,
    #[serde(rename = "weir.upstream.protocol.version", skip_serializing_if = "Option::is_none")]
    upstream_version: Option<&'static str>,
    #[serde(rename = "weir.peer.workload", skip_serializing_if = "Option::is_none")]
    peer_workload: Option<Text<&'a weir_policy::names::WorkloadName>>,
    #[serde(rename = "weir.peer.identity", skip_serializing_if = "Option::is_none")]
    peer_identity: Option<Text<&'a weir_policy::spiffe::SpiffeId>>,
    #[serde(rename = "client.address", skip_serializing_if = "Option::is_none")]
    client_address: Option<Text<std::net::IpAddr>>,
    #[serde(rename = "client.port", skip_serializing_if = "Option::is_none")]
    client_port: Option<u16>,
    #[serde(
        rename = "weir.attempts",
        skip_serializing_if = "<[_]>::is_empty",
        serialize_with = "attempts"
    )]
    attempts: &'a [AttemptEvent],
    trace_id: Hex<16>,
    span_id: Hex<8>,
    trace_sampled: bool,
    #[serde(rename = "weir.context_id", skip_serializing_if = "Option::is_none")]
    context_id: Option<Hex<8>>,
    #[serde(rename = "weir.priority", skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(rename = "weir.health_check", skip_serializing_if = "Not::not")]
    health_check: bool,
}

impl<'a> Line<'a> {
    fn of(record: &'a RequestRecord) -> Line<'a> {
        let (server_address, server_port) = record.server();
        let (client_address, client_port) = match record.downstream {
            DownstreamAddr::Tcp(address) => (Some(Text(address.ip())), Some(address.port())),
            DownstreamAddr::Unix => (None, None),
        };
        Line {
            timestamp: Timestamp(record.started),
            direction: record.direction.as_str(),
            method: record.method.as_str(),
            server_address,
            server_port,
            path: record.path_only(),
            downstream_version: version(record.downstream_version),
            status: record.status,
            grpc_status: record.grpc_status,
            flag: record.flag.as_str(),
            error: record.error.as_deref(),
            duration: Millis(record.duration),
            first_byte: record.upstream_first_byte.map(Millis),
            request_bytes: record.request_bytes,
            response_bytes: record.response_bytes,
            service: &record.service,
            route: record.route.as_deref(),
            cluster: record.cluster.as_deref(),
            endpoint: record.endpoint.map(Text),
            upstream_version: record.upstream_version.map(version),
            peer_workload: record.peer_workload.as_ref().map(Text),
            peer_identity: record.peer_identity.as_deref().map(Text),
            client_address,
            client_port,
            attempts: &record.attempts,
            trace_id: Hex(record.trace.trace_id),
            span_id: Hex(record.trace.span_id),
            trace_sampled: record.trace.sampled == Sampled::Yes,
            context_id: record.context_id.map(|id| Hex(id.to_be_bytes())),
            priority: record.priority.map(Priority::level),
            health_check: record.purpose == Purpose::HealthCheck,
        }
    }
}

/// The line of a TCP connection; what it has in common with a request's has the same name.
#[derive(Serialize)]
struct TcpLine<'a> {
    timestamp: Timestamp,
    #[serde(rename = "weir.direction")]
    direction: &'static str,
    #[serde(rename = "network.transport")]
    transport: &'static str,
    #[serde(rename = "weir.flag")]
    flag: &'static str,
    #[serde(rename = "error.message", skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(rename = "weir.fault", skip_serializing_if = "Option::is_none")]
    fault: Option<&'static str>,
    #[serde(rename = "weir.hop", skip_serializing_if = "Option::is_none")]
    hop: Option<Text<Hop>>,
    #[serde(rename = "weir.hint", skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
    #[serde(rename = "weir.duration_ms")]
    duration: Millis,
    #[serde(rename = "weir.upstream.connected_ms", skip_serializing_if = "Option::is_none")]
    connected: Option<Millis>,
    #[serde(rename = "weir.from_downstream_bytes")]
    from_downstream: u64,
    #[serde(rename = "weir.to_downstream_bytes")]
    to_downstream: u64,
    #[serde(rename = "weir.service")]
    service: &'a str,
    #[serde(rename = "weir.cluster", skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    #[serde(rename = "weir.endpoint", skip_serializing_if = "Option::is_none")]
    endpoint: Option<Text<std::net::SocketAddr>>,
    #[serde(rename = "weir.peer.workload", skip_serializing_if = "Option::is_none")]
    peer_workload: Option<Text<&'a weir_policy::names::WorkloadName>>,
    #[serde(rename = "weir.peer.identity", skip_serializing_if = "Option::is_none")]
    peer_identity: Option<Text<&'a weir_policy::spiffe::SpiffeId>>,
    #[serde(rename = "client.address", skip_serializing_if = "Option::is_none")]
    client_address: Option<Text<std::net::IpAddr>>,
    #[serde(rename = "client.port", skip_serializing_if = "Option::is_none")]
    client_port: Option<u16>,
    #[serde(
        rename = "weir.attempts",
        skip_serializing_if = "<[_]>::is_empty",
        serialize_with = "attempts"
    )]
    attempts: &'a [AttemptEvent],
}

impl<'a> TcpLine<'a> {
    fn of(record: &'a TcpRecord) -> TcpLine<'a> {
        let (client_address, client_port) = match record.downstream {
            DownstreamAddr::Tcp(address) => (Some(Text(address.ip())), Some(address.port())),
            DownstreamAddr::Unix => (None, None),
        };
        let blame = record.blame.as_ref();
        TcpLine {
            timestamp: Timestamp(record.started),
            direction: record.direction.as_str(),
            transport: "tcp",
            flag: record.flag.as_str(),
            error: record.error.as_deref(),
            fault: blame.map(|blame| blame.fault.as_str()),
            hop: blame.map(|blame| Text(blame.hop)),
            hint: blame.map(|blame| blame.hint),
            duration: Millis(record.duration),
            connected: record.connected.map(Millis),
            from_downstream: record.from_downstream,
            to_downstream: record.to_downstream,
            service: &record.service,
            cluster: record.cluster.as_deref(),
            endpoint: record.endpoint.map(Text),
            peer_workload: record.peer_workload.as_deref().map(Text),
            peer_identity: record.peer_identity.as_deref().map(Text),
            client_address,
            client_port,
            attempts: &record.attempts,
        }
    }
}

/// As OpenTelemetry's `network.protocol.version` writes it.
pub(crate) fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "unknown",
    }
}

/// One text for each attempt, `10.0.0.1:15006 answered 503 at 12.3ms`: people read it, and each line stays one object.
fn attempts<S: Serializer>(attempts: &&[AttemptEvent], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(attempts.iter().map(|attempt| {
        let status = match attempt.outcome {
            AttemptOutcome::Answered(status) => format!(" {status}"),
            AttemptOutcome::ConnectFailed
            | AttemptOutcome::Unprocessed
            | AttemptOutcome::Reset
            | AttemptOutcome::TimedOut
            | AttemptOutcome::Abandoned => String::new(),
        };
        let millis = attempt.at.as_secs_f64() * 1e3;
        format!(
            "{} {}{status} at {millis:.1}ms",
            attempt.endpoint,
            attempt.outcome.as_str()
        )
    }))
}

/// What can be written as text, without a copy.
struct Text<T>(T);

impl<T: std::fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A duration in milliseconds, to the microsecond.
struct Millis(Duration);

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64((self.0.as_secs_f64() * 1e6).round() / 1e3)
    }
}

/// A time as RFC 3339 has it, in UTC, to the microsecond.
struct Timestamp(std::time::SystemTime);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match jiff::Timestamp::try_from(self.0) {
            Ok(time) => serializer.collect_str(&format_args!("{time:.6}")),
            Err(_outside_of_the_calendar) => serializer.serialize_none(),
        }
    }
}

/// An id in lower-case hexadecimal.
struct Hex<const N: usize>([u8; N]);

/// By a table: the formatter takes a fifteenth of what a request costs for two ids.
impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 0xf)]);
        let mut text = String::with_capacity(2 * N);
        for byte in self.0 {
            text.push(digit(byte >> 4));
            text.push(digit(byte));
        }
        serializer.serialize_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::metrics::Metrics;
    use crate::record::ResponseFlag;
    use crate::record::tests::record;

    /// Hands each write to the test, once the test lets it.
    struct Gate {
        enter: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.enter.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.written
                .send(bytes.to_vec())
                .map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Gated = (LogSink, LogWriter, mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>);

    fn gated(metrics: &Metrics, flush_after: Duration) -> Gated {
        let (open, enter) = mpsc::channel();
        let (written, seen) = mpsc::channel();
        let gate = Box::new(Gate { enter, written });
        let (sink, writer) = start(gate, Arc::clone(metrics.shared()), flush_after).expect("a thread");
        (sink, writer, open, seen)
    }

    /// So long that no test sees it pass.
    const NEVER: Duration = Duration::from_secs(3_600);

    #[track_caller]
    fn check_line(record: &RequestRecord, expect: &str) {
        let line = serde_json::to_string(&Line::of(record)).expect("a line");
        assert_eq!(line, expect);
    }

    #[test]
    fn a_line_has_opentelemetrys_names() {
        check_line(
            &record(),
            concat!(
                r#"{"timestamp":"2026-01-02T03:04:05.678901Z","weir.direction":"outbound","http.request.method":"GET","#,
                r#""server.address":"identity.police","server.port":8080,"url.path":"/v1/people","#,
                r#""network.protocol.version":"1.1","http.response.status_code":200,"weir.flag":"none","#,
                r#""weir.duration_ms":3.25,"weir.upstream.first_byte_ms":2.5,"#,
                r#""http.request.body.size":0,"http.response.body.size":42,"weir.service":"identity.police:80","#,
                r#""weir.route":"HTTPRoute/police/identity#rules[0]","weir.cluster":"identity.police:80","#,
                r#""weir.endpoint":"10.0.0.7:15006","weir.upstream.protocol.version":"2","#,
                r#""weir.peer.workload":"police/identity-1","weir.peer.identity":"spiffe://mesh.gov/ns/police/sa/identity","#,
                r#""client.address":"127.0.0.1","client.port":40000,"#,
                r#""weir.attempts":["10.0.0.7:15006 answered 200 at 2.5ms"],"#,
                r#""trace_id":"0102030405060708090a0b0c0d0e0f10","span_id":"1112131415161718","trace_sampled":true,"#,
                r#""weir.context_id":"00000000000000ff","weir.priority":2}"#
            ),
        );
    }

    #[test]
    fn what_is_unknown_is_left_out() {
        let mut bare = record();
        bare.authority = String::new();
        bare.downstream = DownstreamAddr::Unix;
        bare.upstream_version = None;
        bare.route = None;
        bare.cluster = None;
        bare.endpoint = None;
        bare.peer_workload = None;
        bare.peer_identity = None;
        bare.attempts.clear();
        bare.upstream_first_byte = None;
        bare.context_id = None;
        bare.priority = None;
        bare.trace.sampled = Sampled::No;
        bare.flag = ResponseFlag::NoConfig;
        bare.status = 503;
        bare.grpc_status = Some(14);
        bare.error = Some("no configuration for \"x\"".to_owned());
        check_line(
            &bare,
            concat!(
                r#"{"timestamp":"2026-01-02T03:04:05.678901Z","weir.direction":"outbound","http.request.method":"GET","#,
                r#""server.address":"","url.path":"/v1/people","network.protocol.version":"1.1","#,
                r#""http.response.status_code":503,"rpc.grpc.status_code":14,"weir.flag":"no_config","#,
                r#""error.message":"no configuration for \"x\"","weir.duration_ms":3.25,"#,
                r#""http.request.body.size":0,"http.response.body.size":42,"weir.service":"identity.police:80","#,
                r#""trace_id":"0102030405060708090a0b0c0d0e0f10","span_id":"1112131415161718","trace_sampled":false}"#
            ),
        );
    }

    #[test]
    fn a_query_never_reaches_the_log() {
        let mut asked = record();
        asked.path = "/login?password=secret".to_owned();
        let line = serde_json::to_string(&Line::of(&asked)).expect("a line");
        assert!(line.contains(r#""url.path":"/login","#), "{line}");
        assert!(!line.contains("secret"), "{line}");
    }

    #[test]
    fn hostile_text_stays_inside_its_line() {
        let mut hostile = record();
        hostile.path = "/a\"\n{\"x\":1}\u{0}\u{1b}[31m".to_owned();
        hostile.authority = "a\nb:80".to_owned();
        let line = serde_json::to_string(&Line::of(&hostile)).expect("a line");
        assert!(line.bytes().all(|byte| byte >= b' '), "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read["url.path"], hostile.path.as_str());
    }

    #[test]
    fn lines_of_all_workers_are_written_whole_by_the_stop() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.log");
        let metrics = Metrics::default();
        let opened = open(&AccessLog::File(path.clone()), Arc::clone(metrics.shared())).expect("a log");
        let (sink, writer) = opened.expect("it is on");
        thread::scope(|scope| {
            for _ in 0..4 {
                let buffer = sink.buffer();
                scope.spawn(move || {
                    for _ in 0..500 {
                        buffer.write(&record());
                    }
                });
            }
        });
        drop(writer);
        let text = std::fs::read_to_string(&path).expect("the log");
        assert_eq!(text.lines().count(), 2_000);
        for line in text.lines() {
            let read: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(read["http.response.status_code"], 200);
        }
    }

    #[test]
    fn a_full_buffer_is_written_at_once() {
        let metrics = Metrics::default();
        let (sink, writer, open, seen) = gated(&metrics, NEVER);
        let buffer = sink.buffer();
        open.send(()).expect("the gate is there");
        let line = serde_json::to_string(&Line::of(&record())).expect("a line").len() + 1;
        for _ in 0..FLUSH_BYTES.div_ceil(line) {
            buffer.write(&record());
        }
        let written = seen.recv_timeout(Duration::from_secs(10)).expect("a write");
        assert!(written.len() >= FLUSH_BYTES && written.ends_with(b"}\n"));
        drop(open);
        drop(writer);
    }

    #[test]
    fn a_line_alone_is_written_when_its_time_is_up() {
        let metrics = Metrics::default();
        let (sink, writer, open, seen) = gated(&metrics, Duration::from_millis(1));
        let buffer = sink.buffer();
        for _ in 0..3 {
            open.send(()).expect("the gate is there");
            buffer.write(&record());
            let written = seen.recv_timeout(Duration::from_secs(10)).expect("a write");
            assert!(written.ends_with(b"}\n"));
        }
        drop(open);
        drop(writer);
    }

    #[test]
    fn a_writer_that_is_held_up_costs_lines_not_memory() {
        let metrics = Metrics::default();
        let (sink, writer, open, seen) = gated(&metrics, NEVER);
        let buffer = sink.buffer();
        // Enough for what the writer took away and for a full buffer behind it.
        let line = serde_json::to_string(&Line::of(&record())).expect("a line").len() + 1;
        let lines = 3 * BUFFER_BYTES_MAX / line;
        for _ in 0..lines {
            buffer.write(&record());
        }
        assert!(locked(&buffer.lines).len() < BUFFER_BYTES_MAX + line);
        // The gate lets each write through; what was not dropped arrives.
        for _ in 0..lines {
            open.send(()).expect("the gate is there");
        }
        drop(writer);
        drop(open);
        let written: usize = seen
            .iter()
            .map(|bytes| bytes.iter().filter(|byte| **byte == b'\n').count())
            .sum();
        let page = metrics.page().expect("the page");
        let dropped = page
            .lines()
            .find_map(|line| line.strip_prefix("weir_access_log_dropped_total "));
        let dropped: usize = dropped.expect("the counter").parse().expect("a number");
        assert!(dropped > 0);
        assert_eq!(written + dropped, lines);
    }

    #[test]
    fn a_place_that_takes_nothing_is_counted() {
        let metrics = Metrics::default();
        let (sink, writer, open, _seen) = gated(&metrics, NEVER);
        drop(open);
        sink.buffer().write(&record());
        sink.buffer().write(&record());
        drop(writer);
        let page = metrics.page().expect("the page");
        assert!(page.contains("\nweir_access_log_dropped_total 2\n"), "{page}");
    }

    #[test]
    fn a_log_that_cant_be_opened_says_which() {
        let metrics = Metrics::default();
        let path = PathBuf::from("/nowhere/access.log");
        let error = open(&AccessLog::File(path), Arc::clone(metrics.shared())).expect_err("no such directory");
        assert!(
            error.to_string().starts_with("--access-log: /nowhere/access.log: "),
            "{error}"
        );
    }
}
