//! Hosts that routes are for, and which of them cover which.

use weir_policy::model;

/// A host that routes are for; the more specific sorts first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    Exact(String),
    /// The number of characters, in reverse, stands first so that the longest sorts first.
    Suffix(std::cmp::Reverse<usize>, String),
    Any,
}

impl Host {
    fn read(text: &str) -> Host {
        match text.strip_prefix("*.") {
            Some(suffix) => Host::Suffix(std::cmp::Reverse(suffix.len()), suffix.to_owned()),
            None => Host::Exact(text.to_owned()),
        }
    }

    /// Whether every request for `other` is one for this host.
    pub(super) fn covers(&self, other: &Host) -> bool {
        match (self, other) {
            (Host::Any, _) => true,
            (Host::Exact(own), Host::Exact(other)) => own == other,
            (Host::Suffix(_, own), Host::Suffix(_, other)) => own == other || below(other, own),
            (Host::Suffix(_, own), Host::Exact(other)) => below(other, own),
            (Host::Exact(_), Host::Suffix(..) | Host::Any) | (Host::Suffix(..), Host::Any) => false,
        }
    }

    pub(super) fn to_model(&self) -> model::HostMatch {
        match self {
            Host::Exact(host) => model::HostMatch::Exact(host.clone()),
            Host::Suffix(_, suffix) => model::HostMatch::Suffix(suffix.clone()),
            Host::Any => model::HostMatch::Any,
        }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Host::Exact(host) => f.write_str(host),
            Host::Suffix(_, suffix) => write!(f, "*.{suffix}"),
            Host::Any => f.write_str("*"),
        }
    }
}

fn below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix)
        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// The hosts that hostnames mean; none means every host.
pub(super) fn hosts(hostnames: &[String]) -> impl Iterator<Item = Host> {
    let any = hostnames.is_empty().then_some(Host::Any);
    hostnames.iter().map(|host| Host::read(host)).chain(any)
}

/// Whether there is a request that is for hosts of both.
pub(super) fn intersect(one: &[String], other: &[String]) -> bool {
    hosts(one).any(|one| hosts(other).any(|other| one.covers(&other) || other.covers(&one)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames_intersect_where_a_request_may_be_for_both() {
        for (one, other, expect) in [
            (&[][..], &[][..], true),
            (&[], &["a.x"], true),
            (&["a.x"], &["a.x", "b.x"], true),
            (&["a.x"], &["b.x"], false),
            (&["*.x"], &["a.x"], true),
            (&["*.x"], &["x"], false),
            (&["*.x"], &["*.a.x"], true),
            (&["*.a.x"], &["*.b.x"], false),
        ] {
            let names = |hosts: &[&str]| hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
            let (one, other) = (names(one), names(other));
            assert_eq!(intersect(&one, &other), expect, "{one:?} {other:?}");
            assert_eq!(intersect(&other, &one), expect, "{other:?} {one:?}");
        }
    }
}
