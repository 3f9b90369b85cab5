//! Metrics, access log and spans together: what the workers record into, and the tasks that carry it out of the proxy.

use std::sync::Arc;
use std::time::SystemTime;

use crate::access_log::{self, AccessLogError, LogSink, LogWriter};
use crate::config::ProxyConfig;
use crate::metrics::Metrics;
use crate::otlp::collector::{Collector, CollectorError};
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

/// Why nothing could be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    #[error(transparent)]
    Collector(#[from] CollectorError),
}

impl Telemetry {
    /// Opens the access log and makes ready to export; spans are sent once [`TelemetryTasks::run`] runs.
    ///
    /// # Errors
    /// When the access log can't be opened, or the collector could never be believed.
    pub(crate) fn start(config: &ProxyConfig) -> Result<(Telemetry, TelemetryTasks), TelemetryError> {
        let metrics = Arc::new(Metrics::default());
        let (sink, log) = access_log::open(&config.access_log, Arc::clone(metrics.shared()))?.unzip();
        let collector = config.otlp.clone();
        let collector = collector.map(|url| Collector::new(url, config.otlp_ca_file.clone()));
        let spans = collector.transpose()?.map(|collector| {
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
    /// Carries lines and spans out until `stop`, which is when nothing records any more; then writes and sends the
    /// rest, for seconds at most. On the runtime beside the workers.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AccessLog;
    use crate::record::Sampled;
    use crate::record::tests::record;

    #[tokio::test]
    async fn one_record_is_a_metric_a_line_and_a_span() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.log");
        let (collector, mut got) = crate::otlp::tests::collector().await;
        let mut config = ProxyConfig::new("citizen/portal-1".parse().expect("a workload"), Vec::new());
        config.access_log = AccessLog::File(path.clone());
        config.otlp = Some(collector);
        let (telemetry, tasks) = Telemetry::start(&config).expect("it starts");

        std::thread::scope(|scope| {
            for sampled in [Sampled::Yes, Sampled::No] {
                let recorder = telemetry.recorder();
                scope.spawn(move || {
                    let mut one = record();
                    one.trace.sampled = sampled;
                    one.told.span = sampled;
                    recorder.record(one);
                });
            }
        });
        tasks.run(async {}).await;

        let page = telemetry.metrics().page().expect("the page");
        let counted = page.lines().find(|line| line.starts_with("weir_requests_total"));
        assert!(counted.is_some_and(|line| line.ends_with(" 2")), "{page}");
        let log = std::fs::read_to_string(&path).expect("the log");
        assert_eq!(log.lines().count(), 2, "{log}");
        let request = got.try_recv().expect("one batch");
        let spans = &request.resource_spans[0].scope_spans[0].spans;
        assert_eq!(spans.len(), 1, "the sampled one");
        let trace_id: String = spans[0].trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(log.contains(&format!("\"trace_id\":\"{trace_id}\"")), "{log}");
    }

    #[tokio::test]
    async fn what_is_off_costs_nothing() {
        let config = ProxyConfig::new("citizen/portal-1".parse().expect("a workload"), Vec::new());
        let (telemetry, tasks) = Telemetry::start(&config).expect("it starts");
        telemetry.recorder().record(record());
        tasks.run(async {}).await;
        let page = telemetry.metrics().page().expect("the page");
        assert!(page.contains("\nweir_spans_dropped_total 0\n"), "{page}");
        assert!(page.contains("\nweir_access_log_dropped_total 0\n"), "{page}");
    }
}
