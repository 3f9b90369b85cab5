//! Who still comes in cleartext where mutual TLS is wanted: what has to be empty before a port can be made strict.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use dashmap::DashMap;
use serde::Serialize;
use weir_policy::time::Time;

use crate::clock::Clock;

/// Callers by host and app port. Shared by all workers; touched by requests that come in cleartext alone. Cheap to
/// clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct CleartextCallers(Arc<DashMap<(IpAddr, NonZeroU16), Seen>>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    requests: u64,
    last: Time,
}

/// One caller, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CleartextCaller {
    address: IpAddr,
    app_port: NonZeroU16,
    requests: u64,
    last_seconds_ago: u64,
}

/// Hosts that are told apart: one that comes when there are as many takes the place of the one that was away longest.
const CALLERS_MAX: usize = 256;

impl CleartextCallers {
    /// Counts a request.
    pub(crate) fn count(&self, address: IpAddr, app_port: NonZeroU16, now: Time) {
        let key = (address, app_port);
        if let Some(mut seen) = self.0.get_mut(&key) {
            seen.requests = seen.requests.saturating_add(1);
            seen.last = now;
            return;
        }
        if self.0.len() >= CALLERS_MAX {
            let oldest = self.0.iter().min_by_key(|entry| entry.last).map(|entry| *entry.key());
            if let Some(oldest) = oldest {
                self.0.remove(&oldest);
            }
        }
        let first = Seen { requests: 1, last: now };
        self.0.insert(key, first);
    }

    /// All of them, those with most requests first.
    pub(crate) fn shown(&self, clock: Clock) -> Vec<CleartextCaller> {
        let now = clock.now();
        let callers = self.0.iter().map(|entry| {
            let (address, app_port) = *entry.key();
            CleartextCaller {
                address,
                app_port,
                requests: entry.requests,
                last_seconds_ago: now.saturating_since(entry.last).as_secs(),
            }
        });
        let mut callers: Vec<_> = callers.collect();
        callers.sort_by_key(|caller| (std::cmp::Reverse(caller.requests), caller.address, caller.app_port));
        callers
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn callers_are_counted_by_host_and_port_and_are_not_more_than_there_may_be() {
        let clock = Clock::start();
        let callers = CleartextCallers::default();
        let port = |port| NonZeroU16::new(port).expect("a port");
        let host = |host: u32| IpAddr::from(Ipv4Addr::from(host));
        callers.count(host(1), port(80), Time::ZERO);
        for _ in 0..3 {
            callers.count(host(2), port(80), Time::from_nanos(1));
        }
        callers.count(host(2), port(81), Time::from_nanos(2));
        let shown = callers.shown(clock);
        let seen: Vec<_> = shown
            .iter()
            .map(|one| (one.address, one.app_port.get(), one.requests))
            .collect();
        assert_eq!(seen, [(host(2), 80, 3), (host(1), 80, 1), (host(2), 81, 1)]);
        for other in 0..CALLERS_MAX as u32 {
            callers.count(host(100 + other), port(80), Time::from_nanos(3));
        }
        let shown = callers.shown(clock);
        assert_eq!(shown.len(), CALLERS_MAX);
        assert!(
            shown.iter().all(|one| one.address >= host(100)),
            "who was away longest goes first"
        );
    }
}
