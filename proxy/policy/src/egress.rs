//! What leaves the mesh: which authorities may be a name outside, and which addresses nothing is sent to from there.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use http::uri::Authority;

use crate::names::MESH_SUFFIX;

/// What becomes of requests for names that are none of the mesh's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Egress {
    /// They are refused.
    #[default]
    Refuse,
    /// They go to what the name is in DNS.
    Passthrough,
}

impl Egress {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Egress::Refuse => "refuse",
            Egress::Passthrough => "passthrough",
        }
    }
}

/// A place outside of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outside {
    /// Which host.
    pub host: Host,
    /// Which of its ports; 80 where none was given (RFC 9110 section 4.2.1).
    pub port: NonZeroU16,
}

/// A host outside of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// Its address.
    Address(IpAddr),
    /// Its name, in lower case and without a dot at the end; to be looked up as it stands, below no other domain.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Address(address) => address.fmt(f),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// Why an authority is no place outside of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOutside {
    /// It is of a shape that only names of the mesh have.
    #[error("names below .svc and .cluster.local are the mesh's alone")]
    MeshName,
    /// It is neither a name that DNS can have nor an address.
    #[error("it is neither a DNS name nor an IP address")]
    NoHost,
    /// Its port is none.
    #[error("its port is not one of 1 to 65535")]
    Port,
}

impl Outside {
    /// Reads an authority that is no service of the mesh.
    ///
    /// # Errors
    /// When it can't be a place outside either.
    pub fn of(authority: &Authority) -> Result<Outside, NotOutside> {
        let host = authority.host();
        let after = authority.as_str().get(host.len()..).unwrap_or_default();
        let port = match after.strip_prefix(':') {
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().map_err(|_| NotOutside::Port)?,
            None if after.is_empty() => DEFAULT_PORT,
            Some(_) | None => return Err(NotOutside::Port),
        };
        Ok(Outside {
            host: Host::of(host)?,
            port,
        })
    }
}

impl Host {
    fn of(host: &str) -> Result<Host, NotOutside> {
        if let Some(bare) = host.strip_prefix('[') {
            let address = bare.strip_suffix(']').and_then(|bare| bare.parse::<Ipv6Addr>().ok());
            return address
                .map(|address| Host::Address(address.into()))
                .ok_or(NotOutside::NoHost);
        }
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            return Ok(Host::Address(address.into()));
        }
        let lower = host.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        let is_below = |domain: &str| {
            let rest = name.strip_suffix(domain);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        if is_below("svc") || is_below(MESH_SUFFIX) || is_below(MESH_DOMAIN) {
            return Err(NotOutside::MeshName);
        }
        // RFC 1034 section 3.1; `_` is no letter of a host name, but names in use have it.
        let is_label = |label: &str| {
            let letters = label
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
            letters && (1..=63).contains(&label.len())
        };
        match name.len() <= 253 && name.split('.').all(is_label) {
            true => Ok(Host::Name(name.to_owned())),
            false => Err(NotOutside::NoHost),
        }
    }
}

/// Why nothing is sent to an address from what passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prohibited {
    /// This host alone: what listens there counts on nobody else reaching it.
    Loopback,
    /// The link, where clouds answer with credentials.
    LinkLocal,
    /// No host; systems take it for this one.
    Unspecified,
    /// Many hosts.
    Multicast,
    /// A port of this proxy.
    OwnPort,
}

impl fmt::Display for Prohibited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Prohibited::Loopback => "a loopback address",
            Prohibited::LinkLocal => "a link-local address",
            Prohibited::Unspecified => "an unspecified address",
            Prohibited::Multicast => "a multicast or broadcast address",
            Prohibited::OwnPort => "a port of this proxy itself",
        })
    }
}

/// Whether nothing may be sent to an address, whichever port: also where it stands in an IPv6 address, by which a
/// system or a gateway would send to it.
pub fn prohibited(address: IpAddr) -> Option<Prohibited> {
    match address {
        IpAddr::V4(address) => prohibited_v4(address),
        IpAddr::V6(address) => prohibited_v6(address),
    }
}

fn prohibited_v4(address: Ipv4Addr) -> Option<Prohibited> {
    if address.is_loopback() {
        Some(Prohibited::Loopback)
    } else if address.is_link_local() {
        Some(Prohibited::LinkLocal)
    } else if address.octets().first() == Some(&0) {
        // RFC 6890 section 2.2.2: "this host on this network", all of 0.0.0.0/8.
        Some(Prohibited::Unspecified)
    } else if address.is_multicast() || address.is_broadcast() {
        Some(Prohibited::Multicast)
    } else {
        None
    }
}

fn prohibited_v6(address: Ipv6Addr) -> Option<Prohibited> {
    if address.is_loopback() {
        Some(Prohibited::Loopback)
    } else if address.is_unspecified() {
        Some(Prohibited::Unspecified)
    } else if address.is_unicast_link_local() {
        Some(Prohibited::LinkLocal)
    } else if address.is_multicast() {
        Some(Prohibited::Multicast)
    } else {
        embedded(address).and_then(prohibited_v4)
    }
}

/// The IPv4 address that an IPv6 address stands for.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let last = (u32::from(g) << 16) | u32::from(h);
    let v4 = match [a, b, c, d, e, f] {
        // Mapped and compatible (RFC 4291 section 2.5.5), translated (RFC 2765 section 2.1).
        [0, 0, 0, 0, 0, 0 | 0xffff] | [0, 0, 0, 0, 0xffff, 0] => last,
        // NAT64: the well-known prefix (RFC 6052 section 2.1) and the local one (RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0] | [0x64, 0xff9b, 1, ..] => last,
        // 6to4 (RFC 3056 section 2).
        [0x2002, high, low, ..] => (u32::from(high) << 16) | u32::from(low),
        _ => return None,
    };
    Some(Ipv4Addr::from(v4))
}

/// RFC 9110 section 4.2.1.
const DEFAULT_PORT: NonZeroU16 = NonZeroU16::MIN.saturating_add(79);
/// The domain that the mesh's names are below.
const MESH_DOMAIN: &str = "cluster.local";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn reads(authority: &str, expect: Result<(&str, u16), NotOutside>) {
        let authority: Authority = authority.parse().expect("an authority");
        let read = Outside::of(&authority).map(|outside| (outside.host.to_string(), outside.port.get()));
        let expect = expect.map(|(host, port)| (host.to_owned(), port));
        assert_eq!(read, expect, "{authority}");
    }

    #[test]
    fn an_authority_leads_outside_unless_it_looks_like_a_mesh_name() {
        use NotOutside::{MeshName, NoHost, Port};
        reads("example.org", Ok(("example.org", 80)));
        reads("API.Example.ORG.:8443", Ok(("api.example.org", 8443)));
        reads("legacy", Ok(("legacy", 80)));
        reads("_x.example.org", Ok(("_x.example.org", 80)));
        reads("198.51.100.7:81", Ok(("198.51.100.7", 81)));
        reads("[2001:db8::7]:81", Ok(("2001:db8::7", 81)));
        reads("[2001:db8::7]", Ok(("2001:db8::7", 80)));
        for mesh in [
            "a.b.svc.cluster.local",
            "A.B.SVC.cluster.local.:80",
            "svc.cluster.local",
            "a.svc",
            "a.b.svc",
            "a.b.pod.cluster.local",
            "cluster.local",
        ] {
            reads(mesh, Err(MeshName));
        }
        reads("xsvc", Ok(("xsvc", 80)));
        reads("a.mycluster.local", Ok(("a.mycluster.local", 80)));
        for wrong in ["a..b", "a!b", ".", "[fe80::1%25eth0]", "[::1", &"a".repeat(64)] {
            if wrong.parse::<Authority>().is_ok() {
                reads(wrong, Err(NoHost));
            }
        }
        for wrong in ["a:0", "a:65536", "a:99999999"] {
            reads(wrong, Err(Port));
        }
    }

    #[track_caller]
    fn is(addresses: &[&str], expect: Option<Prohibited>) {
        for address in addresses {
            assert_eq!(prohibited(address.parse().expect("an address")), expect, "{address}");
        }
    }

    #[test]
    fn nothing_is_sent_to_this_host_the_link_or_many() {
        is(
            &["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"],
            Some(Prohibited::Loopback),
        );
        is(
            &[
                "::127.0.0.1",
                "::ffff:0:127.0.0.1",
                "64:ff9b::127.0.0.1",
                "64:ff9b:1::127.0.0.1",
                "2002:7f00:1::",
            ],
            Some(Prohibited::Loopback),
        );
        is(
            &[
                "169.254.169.254",
                "169.254.0.0",
                "fe80::1",
                "febf::1",
                "::ffff:169.254.1.1",
            ],
            Some(Prohibited::LinkLocal),
        );
        is(
            &["0.0.0.0", "0.255.0.1", "::", "::ffff:0.0.0.0"],
            Some(Prohibited::Unspecified),
        );
        is(
            &[
                "224.0.0.1",
                "239.255.255.255",
                "255.255.255.255",
                "ff02::1",
                "::ffff:224.0.0.1",
            ],
            Some(Prohibited::Multicast),
        );
        is(
            &[
                "1.1.1.1",
                "10.0.0.1",
                "126.255.255.255",
                "128.0.0.1",
                "169.253.255.255",
                "169.255.0.0",
                "192.168.1.1",
                "2001:db8::1",
                "fd00::1",
                "fec0::1",
                "::ffff:10.0.0.1",
                "64:ff9b::10.0.0.1",
                "2002:a00:1::",
            ],
            None,
        );
    }

    proptest! {
        #[test]
        fn an_ipv4_address_is_the_same_in_whichever_form(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let [a, b, c, d] = v4.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let expect = prohibited(v4.into());
            for v6 in [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            ] {
                prop_assert_eq!(prohibited(v6.into()), expect, "{}", v6);
            }
        }
    }
}
