//! Metrics, access log and spans together: what the workers record into, and the tasks that carry it out of the proxy.

use std::sync::Arc;
use std::time::SystemTime;

use crate::access_log::{self, AccessLogError, LogSink, LogWriter};
use crate::config::ProxyConfig;
use crate::metrics::Metrics;
use crate::otlp::{self, SpanSink, SpanTask};
use crate::record::{Recorder, Sampler};

/// What the workers record into. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry {
    metrics: Arc<Metrics>,
    sampler: Sampler,
    log: Option<LogSink>,
    spans: Option<SpanSink>,
}

/// Carries log lines and spans out; owned by whoever started it. Its drop writes the last log lines, for up to two
/// seconds.
#[derive(Debug)]
pub(crate) struct TelemetryTasks {
    log: Option<LogWriter>,
    spans: Option<SpanTask>,
}

impl Telemetry {
    /// Opens the access log and makes ready to export; spans are sent once [`TelemetryTasks::run`] runs.
    ///
    /// # Errors
    /// When the access log can't be opened.
    pub(crate) fn start(config: &ProxyConfig) -> Result<(Telemetry, TelemetryTasks), AccessLogError> {
        let metrics = Arc::new(Metrics::default());
        let (sink, log) = access_log::open(&config.access_log, Arc::clone(metrics.shared()))?.unzip();
        let spans = config.otlp.clone().map(|collector| {
            let shared = Arc::clone(metrics.shared());
            otlp::pair(collector, &config.workload, SystemTime::now(), shared)
        });
        let (span_sink, spans) = spans.unzip();
        let telemetry = Telemetry {
            metrics,
            sampler: Sampler::new(config.trace_sampling),
            log: sink,
            spans: span_sink,
        };
        Ok((telemetry, TelemetryTasks { log, spans }))
    }

    /// A recorder for one more worker.
    pub(crate) fn recorder(&self) -> Recorder {
        let log = self.log.as_ref().map(LogSink::buffer);
        Recorder::new(self.metrics.worker(), log, self.spans.clone())
    }

    /// All that is counted.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Decides which traces are recorded.
    pub(crate) fn sampler(&self) -> Sampler {
        self.sampler
    }
}

impl TelemetryTasks {
    /// Carries lines and spans out until `stop`, which is when nothing records any more; then writes and sends the rest,
    /// for seconds at most. On the runtime beside the workers.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>) {
        match self.spans {
            Some(spans) => spans.run(stop).await,
            None => stop.await,
        }
        if let Some(log) = self.log {
            // It waits for a disk or a pipe: not on a thread that serves others.
            if let Err(error) = tokio::task::spawn_blocking(move || drop(log)).await {
                tracing::error!(%error, "the access log did not end well");
            }
        }
    }
}
