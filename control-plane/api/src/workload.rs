//! Workload: what one proxy told of itself. Written by the control plane alone.

use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::Serialize;

use crate::service::AppProtocol;

/// One proxy with the apps beside it. Its labels are those of its metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSpec {
    /// Where others reach its inbound ports.
    pub address: IpAddr,
    /// Its app ports; a number occurs once.
    pub ports: Vec<WorkloadPort>,
    /// Where it runs.
    #[serde(skip_serializing_if = "WorkloadLocality::is_empty")]
    pub locality: WorkloadLocality,
    /// When this instance started, in microseconds of Unix time: a newer one takes the place of an older.
    pub instance: u64,
    /// The proxy's version, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// An app port of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPort {
    /// Where the app listens.
    pub app_port: NonZeroU16,
    /// Where the proxy takes requests for it.
    pub inbound_port: NonZeroU16,
    /// What the app speaks.
    pub protocol: AppProtocol,
    /// Whether requests enter the mesh here.
    pub edge: bool,
}

/// Where a workload runs; empty text: unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct WorkloadLocality {
    /// The region.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// The zone in it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// The site in that.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub site: String,
}

impl WorkloadLocality {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.site.is_empty()
    }
}
