//! Which `Host` a request to the API may carry: a page that a browser got from elsewhere can make its own name resolve
//! to this address (DNS rebinding) and then reach the API as its own origin. It can't change the name, so the name
//! tells.

use std::net::{IpAddr, SocketAddr};

/// The hosts under which the API is reached.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    bound: SocketAddr,
    /// In lower case, without port.
    named: Vec<String>,
}

impl Hosts {
    /// Names of the address the API listens on, and `named` beside them.
    pub(crate) fn new(bound: SocketAddr, named: &[String]) -> Hosts {
        Hosts {
            bound,
            named: named.iter().map(|name| name.to_ascii_lowercase()).collect(),
        }
    }

    /// Whether a request with this `Host` is meant for the API. The port is not looked at: a rebound name has ours.
    pub(crate) fn allow(&self, host: &str) -> bool {
        let lower = host.to_ascii_lowercase();
        let name = without_port(&lower);
        if name == "localhost" || self.named.iter().any(|allowed| allowed == name) {
            return true;
        }
        let literal = name
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(name);
        let Ok(address) = literal.parse::<IpAddr>() else {
            return false;
        };
        // An address can't be rebound; where every one is listened on, each may be the right one.
        address.is_loopback() || address == self.bound.ip() || self.bound.ip().is_unspecified()
    }
}

/// The host of `host` or `host:port` (RFC 9110 section 7.2).
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        Some(_) | None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bound: &str, host: &str, allowed: bool) {
        let hosts = Hosts::new(bound.parse().expect(bound), &["Mesh.Example.gov".to_owned()]);
        assert_eq!(hosts.allow(host), allowed, "{host} at {bound}");
    }

    #[test]
    fn only_names_of_the_bound_address_pass() {
        let loopback = "127.0.0.1:7440";
        for host in [
            "localhost",
            "LocalHost:7440",
            "127.0.0.1",
            "127.0.0.1:7440",
            "127.1.2.3:1",
            "[::1]:7440",
            "[::1]",
        ] {
            check(loopback, host, true);
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:7440",
            "10.0.0.1",
            "[::2]",
            "a:b",
        ] {
            check(loopback, host, false);
        }
        check(loopback, "mesh.example.gov:7440", true);
        check("10.0.0.1:7440", "10.0.0.1:7440", true);
        check("10.0.0.1:7440", "10.0.0.2:7440", false);
        check("0.0.0.0:7440", "10.0.0.2:7440", true);
        check("0.0.0.0:7440", "evil.example", false);
    }
}
