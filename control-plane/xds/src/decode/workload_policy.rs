//! What holds for a workload's own proxy.

use http::HeaderName;
use weir_policy::model::WorkloadPolicy;
use weir_policy::telemetry::{AccessLog, ExcludedPath, SpanTag, TEN_THOUSAND, Telemetry, is_credential};

use super::at::{At, Fault, take};
use super::checks::{name, text};
use crate::rejection::Problem;
use crate::v1;
use crate::v1::excluded_path::Path;

pub(super) fn workload_policy(at: &At<'_>, wire: v1::WorkloadPolicy) -> Result<WorkloadPolicy, Fault> {
    let v1::WorkloadPolicy {
        name: workload,
        telemetry: wire,
    } = wire;
    let at_telemetry = at.field("telemetry");
    let wire = at_telemetry.need(wire)?;
    Ok(WorkloadPolicy {
        workload: name(&at.field("name"), &workload)?,
        telemetry: telemetry(&at_telemetry, wire)?,
    })
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
