//! Slow start, in the part of a cluster that goes with its `lb_policy`.

use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    LbConfig, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig,
};
use envoy_types::pb::envoy::config::core::v3::RuntimeDouble;
use envoy_types::pb::envoy::r#type::v3::Percent;
use weir_policy::model::{Balancing, SlowStart};

use super::duration;
use crate::meaning::AGGRESSION_KEY;

pub(super) fn lb_config(balancing: &Balancing, slow_start: Option<&SlowStart>) -> Option<LbConfig> {
    let slow_start_config = Some(slow_start_config(slow_start?));
    Some(match balancing {
        Balancing::PeakEwma { .. } => LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
            slow_start_config,
            ..LeastRequestLbConfig::default()
        }),
        Balancing::RoundRobin => LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config }),
    })
}

fn slow_start_config(slow_start: &SlowStart) -> SlowStartConfig {
    SlowStartConfig {
        slow_start_window: Some(duration(slow_start.window)),
        aggression: Some(RuntimeDouble {
            default_value: slow_start.aggression,
            runtime_key: AGGRESSION_KEY.to_owned(),
        }),
        min_weight_percent: Some(Percent {
            value: slow_start.min_weight_percent.into(),
        }),
    }
}
