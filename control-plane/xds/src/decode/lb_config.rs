//! Slow start, in the part of a cluster that goes with its `lb_policy`.

use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    LbConfig, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig,
};
use envoy_types::pb::envoy::config::core::v3::RuntimeDouble;
use weir_policy::model::{Balancing, SlowStart};

use super::at::{At, Fault, take};
use super::checks::{equal, positive, whole_percent};
use crate::meaning::{AGGRESSION_KEY, DEFAULT_AGGRESSION, DEFAULT_MIN_WEIGHT_PERCENT};
use crate::rejection::Problem;

/// What is there must belong to the policy that balances.
pub(super) fn slow_start(
    at: &At<'_>,
    balancing: &Balancing,
    wire: Option<LbConfig>,
) -> Result<Option<SlowStart>, Fault> {
    let field = match &wire {
        None => return Ok(None),
        Some(LbConfig::LeastRequestLbConfig(_)) => "least_request_lb_config",
        Some(LbConfig::RoundRobinLbConfig(_)) => "round_robin_lb_config",
        Some(LbConfig::RingHashLbConfig(_)) => "ring_hash_lb_config",
        Some(LbConfig::MaglevLbConfig(_)) => "maglev_lb_config",
        Some(LbConfig::OriginalDstLbConfig(_)) => "original_dst_lb_config",
    };
    let at = at.field(field);
    let config = match (wire, balancing) {
        (Some(LbConfig::LeastRequestLbConfig(wire)), Balancing::PeakEwma { .. }) => {
            take!(at, wire, LeastRequestLbConfig { slow_start_config; choice_count, active_request_bias });
            slow_start_config
        }
        (Some(LbConfig::RoundRobinLbConfig(wire)), Balancing::RoundRobin) => {
            take!(at, wire, RoundRobinLbConfig { slow_start_config; });
            slow_start_config
        }
        (_, Balancing::PeakEwma { .. } | Balancing::RoundRobin) => {
            return Err(at.fault("", Problem::WithoutEffect));
        }
    };
    let at = at.field("slow_start_config");
    take!(at, at.need(config)?, SlowStartConfig { slow_start_window, aggression, min_weight_percent; });
    let at_window = at.field("slow_start_window");
    let window = positive(&at_window, at_window.need(slow_start_window)?)?;
    let at_aggression = at.field("aggression");
    let aggression = match aggression {
        None => DEFAULT_AGGRESSION,
        Some(wire) => {
            take!(at_aggression, wire, RuntimeDouble { default_value, runtime_key; });
            // There is no runtime layer that another key could look into.
            equal(&at_aggression.field("runtime_key"), &runtime_key, AGGRESSION_KEY)?;
            if !(default_value > 0.0 && default_value.is_finite()) {
                let allowed = "greater than 0";
                let at = at_aggression.field("default_value");
                return Err(at.fault(default_value, Problem::OutOfRange { allowed }));
            }
            default_value
        }
    };
    Ok(Some(SlowStart {
        window,
        aggression,
        min_weight_percent: match min_weight_percent {
            None => DEFAULT_MIN_WEIGHT_PERCENT,
            Some(wire) => whole_percent(&at.field("min_weight_percent"), &wire)?,
        },
    }))
}
