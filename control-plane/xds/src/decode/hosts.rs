//! Hosts.

use std::net::Ipv6Addr;

use weir_policy::model::HostMatch;

use super::at::{At, Fault};

/// A domain of a virtual host: `*`, `*.suffix` or a host.
pub(super) fn host(at: &At<'_>, domain: &str) -> Result<HostMatch, Fault> {
    if domain == "*" {
        return Ok(HostMatch::Any);
    }
    match domain.strip_prefix("*.") {
        Some(suffix) => {
            dns_name(at, domain, suffix)?;
            Ok(HostMatch::Suffix(suffix.to_owned()))
        }
        None => {
            literal(at, domain)?;
            Ok(HostMatch::Exact(domain.to_owned()))
        }
    }
}

/// A host without port, in lower case: a DNS name, an IPv4 address or an IPv6 address in brackets (RFC 3986 section
/// 3.2.2).
pub(super) fn literal(at: &At<'_>, host: &str) -> Result<(), Fault> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => match address.parse::<Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err(at.malformed(host, "is not an IPv6 address in brackets")),
        },
        None => dns_name(at, host, host),
    }
}

fn dns_name(at: &At<'_>, whole: &str, name: &str) -> Result<(), Fault> {
    if name.is_empty() {
        return Err(at.malformed(whole, "is empty where a host should be"));
    }
    // RFC 1035 section 2.3.4.
    if name.len() > 253 {
        return Err(at.malformed(whole, "is longer than 253 characters"));
    }
    // `_` is no part of a host's name, but in use.
    if name
        .bytes()
        .any(|byte| !matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
    {
        return Err(at.malformed(whole, "may hold only a-z, 0-9, '-', '_' and '.', and '*.' at its start"));
    }
    if name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err(at.malformed(whole, "has a label that is empty or longer than 63 characters"));
    }
    Ok(())
}
