//! What holds for a workload's own proxy.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use http::HeaderName;
use weir_policy::egress::Egress;
use weir_policy::model::WorkloadPolicy;
use weir_policy::mutual_tls::{Mode, MutualTls};
use weir_policy::telemetry::{AccessLog, ExcludedPath, SpanTag, TEN_THOUSAND, Telemetry, is_credential};

use super::at::{At, Fault, take};
use super::checks::{name, text};
use crate::rejection::Problem;
use crate::v1;
use crate::v1::excluded_path::Path;

pub(super) fn workload_policy(at: &At<'_>, wire: v1::WorkloadPolicy) -> Result<WorkloadPolicy, Fault> {
    let v1::WorkloadPolicy {
        name: workload,
        telemetry: told,
        mutual_tls: entered,
        egress: outside,
    } = wire;
    let (at_telemetry, at_mutual_tls) = (at.field("telemetry"), at.field("mutual_tls"));
    Ok(WorkloadPolicy {
        workload: name(&at.field("name"), &workload)?,
        telemetry: telemetry(&at_telemetry, at_telemetry.need(told)?)?,
        mutual_tls: mutual_tls(&at_mutual_tls, at_mutual_tls.need(entered)?)?,
        egress: egress(&at.field("egress"), outside)?,
    })
}

fn egress(at: &At<'_>, wire: i32) -> Result<Egress, Fault> {
    Ok(match at.known(wire)? {
        v1::Egress::Refuse => Egress::Refuse,
        v1::Egress::Passthrough => Egress::Passthrough,
    })
}

fn mutual_tls(at: &At<'_>, wire: v1::MutualTls) -> Result<MutualTls, Fault> {
    take!(at, wire, v1::MutualTls { mode, ports; });
    let at_ports = at.field("ports");
    let mut read = BTreeMap::new();
    for (index, wire) in ports.into_iter().enumerate() {
        let at = at_ports.index(index);
        take!(at, wire, v1::PortMutualTls { app_port, mode; });
        let at_port = at.field("app_port");
        let narrow = u16::try_from(app_port).ok().and_then(NonZeroU16::new);
        let port = narrow.ok_or_else(|| at_port.fault(app_port, Problem::OutOfRange { allowed: "1 to 65535" }))?;
        if read.insert(port, self::mode(&at.field("mode"), mode)?).is_some() {
            return Err(at_port.fault(port, Problem::Duplicate));
        }
    }
    Ok(MutualTls {
        mode: self::mode(&at.field("mode"), mode)?,
        ports: read,
    })
}

/// A door is never left to a default: what says nothing is refused.
fn mode(at: &At<'_>, wire: i32) -> Result<Mode, Fault> {
    match at.known(wire)? {
        v1::MutualTlsMode::Unspecified => Err(at.fault("", Problem::Missing)),
        v1::MutualTlsMode::Strict => Ok(Mode::Strict),
        v1::MutualTlsMode::Permissive => Ok(Mode::Permissive),
        v1::MutualTlsMode::Off => Ok(Mode::Off),
    }
}

fn telemetry(at: &At<'_>, wire: v1::Telemetry) -> Result<Telemetry, Fault> {
    take!(at, wire, v1::Telemetry { access_log, sampling, tags, excluded_paths; });
    let at_tags = at.field("tags");
    let mut read: Vec<SpanTag> = Vec::with_capacity(tags.len());
    for (index, wire) in tags.into_iter().enumerate() {
        let at = at_tags.index(index);
        let tag = span_tag(&at, wire)?;
        if read.iter().any(|earlier| earlier.name == tag.name) {
            return Err(at
                .field("name")
                .fault(format_args!("{:?}", tag.name), Problem::Duplicate));
        }
        read.push(tag);
    }
    let at_paths = at.field("excluded_paths");
    let paths = excluded_paths.into_iter().enumerate();
    let paths = paths.map(|(index, wire)| excluded_path(&at_paths.index(index), wire));
    Ok(Telemetry {
        access_log: match at.field("access_log").known(access_log)? {
            v1::AccessLog::Unspecified => None,
            v1::AccessLog::All => Some(AccessLog::All),
            v1::AccessLog::Errors => Some(AccessLog::Errors),
            v1::AccessLog::Off => Some(AccessLog::Off),
        },
        sampling_parts_per_ten_thousand: sampling.map(|wire| share(&at.field("sampling"), wire)).transpose()?,
        tags: read,
        excluded_paths: paths.collect::<Result<_, _>>()?,
    })
}

fn share(at: &At<'_>, wire: v1::Sampling) -> Result<u16, Fault> {
    take!(at, wire, v1::Sampling { parts_per_ten_thousand; });
    let narrow = u16::try_from(parts_per_ten_thousand).ok();
    narrow.filter(|parts| *parts <= TEN_THOUSAND).ok_or_else(|| {
        let at = at.field("parts_per_ten_thousand");
        at.fault(parts_per_ten_thousand, Problem::OutOfRange { allowed: "0 to 10000" })
    })
}

fn span_tag(at: &At<'_>, wire: v1::SpanTag) -> Result<SpanTag, Fault> {
    take!(at, wire, v1::SpanTag { name, request_header; });
    let at_header = at.field("request_header");
    let header = HeaderName::from_bytes(request_header.as_bytes());
    let header = header.map_err(|_| at_header.malformed(&request_header, "is no name of a field"))?;
    if is_credential(&header) {
        return Err(at_header.malformed(&request_header, "is a credential, which no span may show"));
    }
    Ok(SpanTag {
        name: text(&at.field("name"), name)?,
        header,
    })
}

fn excluded_path(at: &At<'_>, wire: v1::ExcludedPath) -> Result<ExcludedPath, Fault> {
    take!(at, wire, v1::ExcludedPath { path; });
    let path_at = |at: &At<'_>, path: String| {
        let path = text(at, path)?;
        match path.starts_with('/') {
            true => Ok(path),
            false => Err(at.malformed(&path, "does not begin with '/'")),
        }
    };
    match at.field("path").need(path)? {
        Path::Exact(path) => path_at(&at.field("exact"), path).map(ExcludedPath::Exact),
        Path::Prefix(path) => path_at(&at.field("prefix"), path).map(ExcludedPath::Prefix),
    }
}
