//! A Workload's status, as it is stored.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weir_api::Object;

use super::registry::State;

/// What became of a workload: written by the registry alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkloadStatus {
    /// How sure we are of it.
    pub(crate) state: State,
    /// App ports that take connections.
    pub(crate) ready_app_ports: BTreeSet<NonZeroU16>,
}

impl WorkloadStatus {
    /// The status of a stored workload. One that can't be read is as of a workload that takes nothing: it says so
    /// anew when it registers.
    pub(crate) fn of(workload: &Object) -> WorkloadStatus {
        let read = workload
            .status
            .as_ref()
            .and_then(|status| WorkloadStatus::deserialize(status).ok());
        read.unwrap_or_else(|| WorkloadStatus {
            state: State::Unconfirmed,
            ready_app_ports: BTreeSet::new(),
        })
    }

    /// As it is stored.
    pub(crate) fn to_value(&self) -> Value {
        let ports = self.ready_app_ports.iter().map(|port| port.get());
        serde_json::json!({"state": self.state, "readyAppPorts": ports.collect::<Vec<_>>()})
    }

    /// Whether it asked for no new requests.
    pub(crate) fn is_draining(&self) -> bool {
        match self.state {
            State::Draining => true,
            State::Confirmed | State::Unconfirmed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::fixture;

    #[test]
    fn what_is_written_reads_back_and_garbage_is_not_ready() {
        let mut workload = fixture::workload("a", "b", "10.0.0.1", &[]);
        let status = WorkloadStatus {
            state: State::Draining,
            ready_app_ports: BTreeSet::from([fixture::port(8080)]),
        };
        workload.status = Some(status.to_value());
        assert_eq!(WorkloadStatus::of(&workload), status);
        assert_eq!(
            status.to_value(),
            serde_json::json!({"state": "Draining", "readyAppPorts": [8080]})
        );
        for garbage in [
            None,
            Some(Value::Null),
            Some(serde_json::json!({"state": "Fine", "readyAppPorts": [0]})),
        ] {
            workload.status = garbage;
            assert!(WorkloadStatus::of(&workload).ready_app_ports.is_empty());
        }
    }
}
