//! The access log: one JSON line for each request, and for each TCP connection when it has ended, with OpenTelemetry's
//! attribute names.
//!
//! A worker writes lines into a buffer of its own; one thread writes the buffers out, so that a slow disk or a blocked
//! pipe holds up no request. Headers and the query are not logged: secrets travel there.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http::Version;
use weir_policy::names::WorkloadName;
use weir_policy::spiffe::SpiffeId;

use crate::config::AccessLog;
use crate::metrics::Shared;
use crate::record::{DownstreamAddr, Purpose, RequestRecord, Sampled};
use crate::tcp::{Blame, TcpRecord};

mod fields;

use fields::{Fields, Seconds, name};

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
            seconds: Cell::default(),
            state: Arc::clone(&self.state),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

/// One worker's lines.
#[derive(Debug)]
pub(crate) struct LogBuffer {
    lines: Arc<Mutex<Vec<u8>>>,
    seconds: Cell<Seconds>,
    state: Arc<WriterState>,
    metrics: Arc<Shared>,
}

impl LogBuffer {
    /// Adds a request's line. Waits for nothing but the writer's taking the buffer away, which is a swap of pointers.
    pub(crate) fn write(&self, record: &RequestRecord) {
        self.add(|lines, seconds| write_request(lines, seconds, record));
    }

    /// Adds the line of a TCP connection, which has ended.
    pub(crate) fn write_tcp(&self, record: &TcpRecord) {
        self.add(|lines, seconds| write_connection(lines, seconds, record));
    }

    fn add(&self, write: impl FnOnce(&mut Vec<u8>, &mut Seconds)) {
        let mut lines = locked(&self.lines);
        let before = lines.len();
        if before >= BUFFER_BYTES_MAX {
            self.metrics.access_log_dropped(1);
            return;
        }
        let mut seconds = self.seconds.get();
        write(&mut lines, &mut seconds);
        self.seconds.set(seconds);
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

/// Writes a request's line. Names are OpenTelemetry's semantic conventions for HTTP and RPC where those have one, else
/// `weir.*`.
fn write_request(out: &mut Vec<u8>, seconds: &mut Seconds, record: &RequestRecord) {
    let mut line = Fields::begin(out, seconds, record.started);
    line.word(name!("weir.direction"), record.direction.as_str());
    line.text(name!("http.request.method"), record.method.as_str());
    let (server_address, server_port) = record.server();
    line.text(name!("server.address"), server_address);
    if let Some(port) = server_port {
        line.number(name!("server.port"), port);
    }
    line.text(name!("url.path"), record.path_only());
    line.word(name!("network.protocol.version"), version(record.downstream_version));
    line.number(name!("http.response.status_code"), record.status);
    if let Some(status) = record.grpc_status {
        line.number(name!("rpc.grpc.status_code"), status);
    }
    line.word(name!("weir.flag"), record.flag.as_str());
    line.text_if(name!("error.message"), record.error.as_deref());
    line.millis(name!("weir.duration_ms"), record.duration);
    if let Some(first_byte) = record.upstream_first_byte {
        line.millis(name!("weir.upstream.first_byte_ms"), first_byte);
    }
    line.number(name!("http.request.body.size"), record.request_bytes);
    line.number(name!("http.response.body.size"), record.response_bytes);
    line.text(name!("weir.service"), &record.service);
    line.text_if(name!("weir.route"), record.route.as_deref());
    line.text_if(name!("weir.cluster"), record.cluster.as_deref());
    if let Some(endpoint) = record.endpoint {
        line.address(name!("weir.endpoint"), endpoint);
    }
    if let Some(spoken) = record.upstream_version {
        line.word(name!("weir.upstream.protocol.version"), version(spoken));
    }
    let (workload, identity) = (record.peer_workload.as_deref(), record.peer_identity.as_deref());
    write_peers(&mut line, workload, identity, record.downstream);
    line.attempts(name!("weir.attempts"), &record.attempts);
    line.id(name!("trace_id"), record.trace.trace_id);
    line.id(name!("span_id"), record.trace.span_id);
    line.truth(name!("trace_sampled"), record.trace.sampled == Sampled::Yes);
    if let Some(id) = record.context_id {
        line.id(name!("weir.context_id"), id.to_be_bytes());
    }
    if let Some(priority) = record.priority {
        line.number(name!("weir.priority"), priority.level());
    }
    if record.purpose == Purpose::HealthCheck {
        line.truth(name!("weir.health_check"), true);
    }
    line.end();
}

/// Writes the line of a TCP connection; what it has in common with a request's has the same name.
fn write_connection(out: &mut Vec<u8>, seconds: &mut Seconds, record: &TcpRecord) {
    let mut line = Fields::begin(out, seconds, record.started);
    line.word(name!("weir.direction"), record.direction.as_str());
    line.word(name!("network.transport"), "tcp");
    line.word(name!("weir.flag"), record.flag.as_str());
    line.text_if(name!("error.message"), record.error.as_deref());
    if let Some(Blame { fault, hop, hint }) = record.blame {
        line.word(name!("weir.fault"), fault.as_str());
        line.word(name!("weir.hop"), hop.as_str());
        line.text(name!("weir.hint"), hint);
    }
    line.millis(name!("weir.duration_ms"), record.duration);
    if let Some(connected) = record.connected {
        line.millis(name!("weir.upstream.connected_ms"), connected);
    }
    line.number(name!("weir.from_downstream_bytes"), record.from_downstream);
    line.number(name!("weir.to_downstream_bytes"), record.to_downstream);
    line.text(name!("weir.service"), &record.service);
    line.text_if(name!("weir.cluster"), record.cluster.as_deref());
    if let Some(endpoint) = record.endpoint {
        line.address(name!("weir.endpoint"), endpoint);
    }
    let (workload, identity) = (record.peer_workload.as_deref(), record.peer_identity.as_deref());
    write_peers(&mut line, workload, identity, record.downstream);
    line.attempts(name!("weir.attempts"), &record.attempts);
    line.end();
}

/// Who is at the two ends, as far as is known.
fn write_peers(
    line: &mut Fields<'_>,
    workload: Option<&WorkloadName>,
    identity: Option<&SpiffeId>,
    downstream: DownstreamAddr,
) {
    if let Some(workload) = workload {
        line.workload(name!("weir.peer.workload"), workload);
    }
    if let Some(identity) = identity {
        line.identity(name!("weir.peer.identity"), identity);
    }
    match downstream {
        DownstreamAddr::Tcp(address) => {
            line.ip(name!("client.address"), address.ip());
            line.number(name!("client.port"), address.port());
        }
        DownstreamAddr::Unix => {}
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

    /// A request's line, without its end.
    fn line(record: &RequestRecord) -> String {
        let mut out = Vec::new();
        write_request(&mut out, &mut Seconds::default(), record);
        let line = String::from_utf8(out).expect("text");
        line.strip_suffix('\n').expect("an end").to_owned()
    }

    #[track_caller]
    fn check_line(record: &RequestRecord, expect: &str) {
        assert_eq!(line(record), expect);
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
        let line = line(&asked);
        assert!(line.contains(r#""url.path":"/login","#), "{line}");
        assert!(!line.contains("secret"), "{line}");
    }

    #[test]
    fn hostile_text_stays_inside_its_line() {
        let mut hostile = record();
        hostile.path = "/a\"\n{\"x\":1}\u{0}\u{1b}[31m".to_owned();
        hostile.authority = "a\nb:80".to_owned();
        let line = line(&hostile);
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
        let line = line(&record()).len() + 1;
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
        let line = line(&record()).len() + 1;
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
