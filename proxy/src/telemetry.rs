//! Metrics, access log and spans together: what the workers record into, and the tasks that carry it out of the proxy.

use std::sync::Arc;

use crate::config::ProxyConfig;
use crate::metrics::Metrics;
use crate::record::{Recorder, Sampler};

/// What the workers record into. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry {
    metrics: Arc<Metrics>,
    sampler: Sampler,
}

/// Carries log lines and spans out; owned by whoever started it.
#[derive(Debug)]
pub(crate) struct TelemetryTasks {}

/// Why telemetry can't start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {}

impl Telemetry {
    /// Opens the access log and makes ready to export; nothing runs until [`TelemetryTasks::run`].
    ///
    /// # Errors
    /// When the access log can't be opened.
    pub(crate) fn start(config: &ProxyConfig) -> Result<(Telemetry, TelemetryTasks), TelemetryError> {
        let metrics = Arc::default();
        let sampler = Sampler::new(config.trace_sampling);
        Ok((Telemetry { metrics, sampler }, TelemetryTasks {}))
    }

    /// A recorder for one more worker.
    pub(crate) fn recorder(&self) -> Recorder {
        Recorder::new(self.metrics.worker())
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
    /// Carries lines and spans out until every recorder and the [`Telemetry`] are dropped and the rest is written, or
    /// given up. On the runtime beside the workers.
    pub(crate) async fn run(self) {}
}
