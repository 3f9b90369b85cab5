//! One TCP connection through the proxy, whatever is spoken on it: from its accept to both its ends, and what is
//! recorded then. A stream of bytes has no place for a context or a deadline, so that neither goes with it.

pub(crate) mod inbound;
pub(crate) mod outbound;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use weir_policy::context::Fault;
use weir_policy::names::WorkloadName;
use weir_policy::spiffe::SpiffeId;
use weir_policy::telemetry::{AccessLog, Ended};
use weir_policy::time::Time;

use crate::clock::Clock;
use crate::drain::Drain;
use crate::error::{Hop, ProxyError};
use crate::http::io::Io;
use crate::metrics::TcpTrack;
use crate::record::{AttemptEvent, AttemptOutcome, Direction, DownstreamAddr, Recorder, ResponseFlag, Sampled};
use crate::relay::{self, RelayEnd, Relayed, Way};
use crate::tls;
use crate::worker::Worker;

/// Everything known of a TCP connection once it has ended.
#[derive(Clone, Debug)]
pub(crate) struct TcpRecord {
    /// Which way it was opened.
    pub(crate) direction: Direction,
    /// When it could be carried: accepted, and its TLS agreed on.
    pub(crate) started: SystemTime,
    /// The service of the port (outbound), or the app port (inbound).
    pub(crate) service: Arc<str>,
    /// The cluster it led to.
    pub(crate) cluster: Option<Arc<str>>,
    /// The endpoint it led to, or that was tried last.
    pub(crate) endpoint: Option<SocketAddr>,
    /// The workload there, where it is known.
    pub(crate) peer_workload: Option<Arc<WorkloadName>>,
    /// Who is at the other side by its certificate: the upstream for outbound, the downstream for inbound.
    pub(crate) peer_identity: Option<Arc<SpiffeId>>,
    /// Who connected to us.
    pub(crate) downstream: DownstreamAddr,
    /// Why it ended; none: both sides had ended what they sent.
    pub(crate) flag: ResponseFlag,
    /// The same in words, for people.
    pub(crate) error: Option<String>,
    /// Whose fault that is, where it is somebody's.
    pub(crate) blame: Option<Blame>,
    /// Each endpoint that was tried, in order.
    pub(crate) attempts: Vec<AttemptEvent>,
    /// From its start until the upstream was connected; `None`: it never was.
    pub(crate) connected: Option<Duration>,
    /// From its start to its end.
    pub(crate) duration: Duration,
    /// Bytes that the upstream took.
    pub(crate) from_downstream: u64,
    /// Bytes that the downstream took.
    pub(crate) to_downstream: u64,
    /// Whether it has a line in the access log.
    pub(crate) log: AccessLog,
}

/// Whose fault an end is, where it came about, and what to do about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blame {
    pub(crate) fault: Fault,
    pub(crate) hop: Hop,
    pub(crate) hint: &'static str,
}

impl TcpRecord {
    /// What became of it, as far as the access log asks.
    pub(crate) fn ended(&self) -> Ended {
        match self.flag {
            ResponseFlag::None => Ended::Well,
            _ => Ended::Failed,
        }
    }
}

/// A connection under way. However it ends, it is counted and recorded exactly once, when this is dropped; dropped
/// without an end, the proxy is stopping.
pub(crate) struct Connection {
    record: TcpRecord,
    recorder: Rc<Recorder>,
    track: Arc<TcpTrack>,
    clock: Clock,
    began: Time,
}

impl Connection {
    fn begin(worker: &Worker, direction: Direction, service: &Arc<str>, downstream: DownstreamAddr) -> Connection {
        let track = worker.recorder.metrics().tcp(direction, service);
        track.opened();
        let log = worker
            .mesh
            .current()
            .telemetry()
            .told(Sampled::No, &HeaderMap::new())
            .log;
        Connection {
            record: TcpRecord {
                direction,
                started: SystemTime::now(),
                service: Arc::clone(service),
                cluster: None,
                endpoint: None,
                peer_workload: None,
                peer_identity: None,
                downstream,
                flag: ResponseFlag::Draining,
                error: None,
                blame: None,
                attempts: Vec::new(),
                connected: None,
                duration: Duration::ZERO,
                from_downstream: 0,
                to_downstream: 0,
                log,
            },
            recorder: Rc::clone(&worker.recorder),
            track,
            clock: worker.clock,
            began: worker.clock.now(),
        }
    }

    fn elapsed(&self) -> Duration {
        self.clock.now().saturating_since(self.began)
    }

    fn connected(&mut self) {
        self.record.connected = Some(self.elapsed());
    }

    fn attempt_failed(&mut self, endpoint: SocketAddr) {
        let at = self.elapsed();
        self.record.attempts.push(AttemptEvent {
            endpoint,
            outcome: AttemptOutcome::ConnectFailed,
            at,
        });
    }

    /// It led nowhere. The downstream sees a reset: a plain end would be one of an answer without a byte.
    fn refuse(mut self, downstream: &Io, error: &ProxyError) {
        downstream.end_with_reset();
        self.record.flag = error.flag();
        self.record.error = Some(error.to_string());
        self.record.blame = Some(Blame {
            fault: error.fault(),
            hop: error.hop(),
            hint: error.hint(),
        });
    }

    /// Carries bytes to the end. Unless both sides ended what they sent, both see a reset: what one of them got must
    /// not look like the whole. `spoke` hears of each part that the upstream sent.
    async fn carry(
        mut self,
        mut downstream: Io,
        mut upstream: Io,
        drain: &mut Drain,
        mut spoke: impl FnMut(),
    ) -> Broke {
        let passed = |way, bytes| {
            self.track.passed(way, bytes);
            if way == Way::ToDownstream {
                spoke();
            }
        };
        let Relayed {
            from_downstream,
            to_downstream,
            end,
        } = relay::relay(&mut downstream, &mut upstream, None, drain, passed).await;
        self.record.from_downstream = from_downstream;
        self.record.to_downstream = to_downstream;
        if !matches!(end, RelayEnd::Finished) {
            downstream.end_with_reset();
            upstream.end_with_reset();
        }
        self.end(&end);
        match end {
            RelayEnd::UpstreamLost(_) => Broke::Upstream,
            RelayEnd::Finished | RelayEnd::Idle | RelayEnd::Drained | RelayEnd::DownstreamLost(_) => Broke::Other,
        }
    }

    fn end(&mut self, end: &RelayEnd) {
        let upstream = |hint| Blame {
            fault: Fault::Upstream,
            hop: Hop::Endpoint,
            hint,
        };
        let (flag, error, blame) = match end {
            RelayEnd::Finished => (ResponseFlag::None, None, None),
            RelayEnd::Idle => (ResponseFlag::IdleTimeout, Some("no byte came".to_owned()), None),
            RelayEnd::Drained => {
                let error = "the time of this proxy's drain was over".to_owned();
                (ResponseFlag::Draining, Some(error), None)
            }
            RelayEnd::DownstreamLost(error) => {
                let error = format!("the downstream broke off: {}", tls::Said(error));
                let blame = Blame {
                    fault: Fault::Downstream,
                    hop: Hop::Listener,
                    hint: "look at the log of whoever connected",
                };
                (ResponseFlag::DownstreamReset, Some(error), Some(blame))
            }
            RelayEnd::UpstreamLost(error) if tls::ended(error) => {
                let hint = "look at the certificates of both (`weirctl proxy config`), and at both clocks";
                let error = format!("the upstream ended TLS: {}", tls::Said(error));
                (ResponseFlag::TlsFailed, Some(error), Some(upstream(hint)))
            }
            RelayEnd::UpstreamLost(error) => {
                let error = format!("the upstream broke off: {}", tls::Said(error));
                let hint = "look at the log of the workload there";
                (ResponseFlag::UpstreamReset, Some(error), Some(upstream(hint)))
            }
        };
        self.record.flag = flag;
        self.record.error = error;
        self.record.blame = blame;
    }
}

/// Who broke a connection off, as far as it says something of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broke {
    Upstream,
    Other,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.record.duration = self.elapsed();
        self.track.ended(self.record.flag);
        self.recorder.record_tcp(&self.record);
    }
}

/// Makes the system ask now and then whether the other end is still there: a host that is gone says nothing, and a
/// connection may be silent for days.
fn keep_alive(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TIMES);
    // Where the system does not let us, it is as it was.
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// Without a byte for so long, the other end is asked whether it is there; below the five minutes after which firewalls
/// forget a silent connection.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(120);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
/// So often, until it is taken for gone: three minutes after its last byte.
const KEEPALIVE_TIMES: u32 = 4;
