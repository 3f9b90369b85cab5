//! What holds for a workload's own proxy, in Weir's own message.

use envoy_types::pb::google::protobuf::Any;
use weir_policy::egress::Egress;
use weir_policy::model::WorkloadPolicy;
use weir_policy::mutual_tls::{Mode, MutualTls};
use weir_policy::telemetry::{AccessLog, ExcludedPath, SpanTag};

use super::pack;
use crate::v1;
use crate::v1::excluded_path::Path;

/// What holds for a workload's own proxy, as `weir.v1.WorkloadPolicy`.
pub fn workload_policy(policy: &WorkloadPolicy) -> Any {
    let telemetry = &policy.telemetry;
    let access_log = telemetry
        .access_log
        .map_or(v1::AccessLog::Unspecified, |log| match log {
            AccessLog::All => v1::AccessLog::All,
            AccessLog::Errors => v1::AccessLog::Errors,
            AccessLog::Off => v1::AccessLog::Off,
        });
    let sampling = telemetry.sampling_parts_per_ten_thousand.map(|parts| v1::Sampling {
        parts_per_ten_thousand: parts.into(),
    });
    let tag = |tag: &SpanTag| v1::SpanTag {
        name: tag.name.clone(),
        request_header: tag.header.to_string(),
    };
    let excluded = |path: &ExcludedPath| v1::ExcludedPath {
        path: Some(match path {
            ExcludedPath::Exact(path) => Path::Exact(path.clone()),
            ExcludedPath::Prefix(path) => Path::Prefix(path.clone()),
        }),
    };
    pack(&v1::WorkloadPolicy {
        name: policy.workload.to_string(),
        telemetry: Some(v1::Telemetry {
            access_log: access_log.into(),
            sampling,
            tags: telemetry.tags.iter().map(tag).collect(),
            excluded_paths: telemetry.excluded_paths.iter().map(excluded).collect(),
        }),
        mutual_tls: Some(mutual_tls(&policy.mutual_tls)),
        egress: egress(policy.egress).into(),
    })
}

fn egress(egress: Egress) -> v1::Egress {
    match egress {
        Egress::Refuse => v1::Egress::Refuse,
        Egress::Passthrough => v1::Egress::Passthrough,
    }
}

fn mutual_tls(held: &MutualTls) -> v1::MutualTls {
    let ports = held.ports.iter().map(|(app_port, held)| v1::PortMutualTls {
        app_port: app_port.get().into(),
        mode: mode(*held).into(),
    });
    v1::MutualTls {
        mode: mode(held.mode).into(),
        ports: ports.collect(),
    }
}

fn mode(mode: Mode) -> v1::MutualTlsMode {
    match mode {
        Mode::Strict => v1::MutualTlsMode::Strict,
        Mode::Permissive => v1::MutualTlsMode::Permissive,
        Mode::Off => v1::MutualTlsMode::Off,
    }
}
