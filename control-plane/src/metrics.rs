//! What Prometheus scrapes of the control plane: `GET /metrics` on the API's port.

use std::fmt;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::authority::Authority;
use crate::authority::rotation::Step;
use crate::refusals::Refusals;

/// The media type of [`page`].
pub(crate) const PAGE_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The page, made anew.
///
/// # Errors
/// When it can't be written, which memory does not refuse.
pub(crate) fn page(authority: &Authority, connections_refused: &Refusals) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("weir_control");
    registry.register_collector(Box::new(Certificates(authority.clone())));
    registry.register_collector(Box::new(Rotation(authority.clone())));
    registry.register_collector(Box::new(Refused {
        connections: connections_refused.total(),
        tokens: authority.tokens_refused(),
    }));
    let mut page = String::new();
    encode(&mut page, &registry)?;
    Ok(page)
}

/// The certificates that everything in the mesh hangs on.
#[derive(Debug)]
struct Certificates(Authority);

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "certificate_left",
            "Time until a certificate of the authority ends; negative: since then",
            Some(&Unit::Seconds),
            ConstGauge::new(0_i64).metric_type(),
        )?;
        for (name, left) in self.0.left(SystemTime::now()) {
            let gauge = ConstGauge::new(left);
            gauge.encode(family.encode_family(&[("certificate", name)])?)?;
        }
        Ok(())
    }
}

/// How the rotation of the root goes on.
#[derive(Debug)]
struct Rotation(Authority);

impl Collector for Rotation {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (under_way, behind) = self.0.rotation_progress();
        let help = "The step of the rotation of the root that is under way: 1; of the others: 0";
        let gauge = ConstGauge::new(0_i64).metric_type();
        let mut family = encoder.encode_descriptor("rotation_step", help, None, gauge)?;
        for step in [Step::Trust, Step::Sign, Step::Forget] {
            let gauge = ConstGauge::new(i64::from(under_way == Some(step)));
            gauge.encode(family.encode_family(&[("step", step.to_string())])?)?;
        }
        let help = "Proxies that the rotation waits for, or that don't trust the roots as they are now";
        let behind = ConstGauge::new(i64::try_from(behind).unwrap_or(i64::MAX));
        let encoder = encoder.encode_descriptor("rotation_behind", help, None, behind.metric_type())?;
        behind.encode(encoder)
    }
}

/// What the TLS port did not take.
#[derive(Debug)]
struct Refused {
    connections: u64,
    tokens: u64,
}

impl Collector for Refused {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Connections that the TLS port closed, and join tokens that it refused";
        let mut family = encoder.encode_descriptor("refused", help, None, MetricType::Counter)?;
        for (what, total) in [("connection", self.connections), ("token", self.tokens)] {
            ConstCounter::new(total).encode(family.encode_family(&[("what", what)])?)?;
        }
        Ok(())
    }
}
