//! Which single endpoints are left alone for a while because they fail: decided on results, shared by all workers,
//! never locked.
//!
//! The rules are those of Envoy's published outlier detection with `split_external_local_origin_errors`, so that an
//! Envoy with the same configuration decides alike, but for three things: failure percentages are of a window that
//! slides, not of one that ends with a timer; an ejection ends by itself, at its time; and the last endpoint is never
//! ejected.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::model::OutlierDetection;
use crate::time::{Time, saturating_nanos};
use crate::window::Window;

/// The detector of one cluster in one proxy.
#[derive(Debug)]
pub struct Detector {
    config: OutlierDetection,
    /// Whether a thread is about to eject: one at a time, so that the bound on the number of ejected ones is exact.
    deciding: AtomicBool,
    ejections: [AtomicU64; Cause::ALL.len()],
}

/// What is known of one endpoint. Made for a detector's configuration, and anew when that changes: what was counted
/// under other rules says nothing about the new.
#[derive(Debug)]
pub struct Host {
    errors_5xx: AtomicU32,
    gateway_errors: AtomicU32,
    local_origin_failures: AtomicU32,
    /// Answers; marked: those with a 5xx.
    answers: Window,
    /// Attempts; marked: those without an answer.
    attempts: Window,
    /// When the last ejection ends or ended, in nanoseconds; 0: there was none.
    ejected_until: AtomicU64,
    /// The number by which the last ejection was multiplied.
    times: AtomicU32,
}

/// What became of an attempt, as far as it says something of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seen {
    /// It answered, and not with an error of the server.
    Good,
    /// It answered with a 5xx other than those of a gateway.
    ServerError,
    /// It answered 502, 503 or 504.
    GatewayError,
    /// It could not be reached, broke off or took too long.
    NoAnswer,
}

impl Seen {
    /// By the status of an answer.
    pub fn of_status(status: u16) -> Seen {
        match status {
            502..=504 => Seen::GatewayError,
            500.. => Seen::ServerError,
            _ => Seen::Good,
        }
    }

    /// By the status of a gRPC answer, read as the HTTP status that it stands for where it says something of the server
    /// rather than of the request (gRPC, statuscodes.md): UNAVAILABLE 503, DEADLINE_EXCEEDED 504; UNKNOWN, INTERNAL and
    /// DATA_LOSS 500.
    pub fn of_grpc_status(status: u32) -> Seen {
        match status {
            4 | 14 => Seen::GatewayError,
            2 | 13 | 15 => Seen::ServerError,
            _ => Seen::Good,
        }
    }
}

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// [`OutlierDetection::consecutive_5xx_errors`]
    Consecutive5xxErrors,
    /// [`OutlierDetection::consecutive_gateway_errors`]
    ConsecutiveGatewayErrors,
    /// [`OutlierDetection::consecutive_local_origin_failures`]
    ConsecutiveLocalOriginFailures,
    /// [`OutlierDetection::failure_percentage`]
    FailurePercentage,
}

impl Cause {
    /// All of them, in the order of their numbers.
    pub const ALL: [Cause; 4] = [
        Cause::Consecutive5xxErrors,
        Cause::ConsecutiveGatewayErrors,
        Cause::ConsecutiveLocalOriginFailures,
        Cause::FailurePercentage,
    ];

    /// As in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Consecutive5xxErrors => "consecutive_5xx_errors",
            Cause::ConsecutiveGatewayErrors => "consecutive_gateway_errors",
            Cause::ConsecutiveLocalOriginFailures => "consecutive_local_origin_failures",
            Cause::FailurePercentage => "failure_percentage",
        }
    }
}

/// An endpoint that has just been ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Why.
    pub cause: Cause,
    /// For how long.
    pub ejected_for: Duration,
    /// The number by which the base time was multiplied, before the longest time bounded it.
    pub times: u32,
}

impl Detector {
    /// One that has ejected nothing.
    pub fn new(config: OutlierDetection) -> Self {
        Detector {
            config,
            deciding: AtomicBool::new(false),
            ejections: Default::default(),
        }
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &OutlierDetection {
        &self.config
    }

    /// An endpoint that nothing is known of.
    pub fn host(&self) -> Host {
        Host {
            errors_5xx: AtomicU32::new(0),
            gateway_errors: AtomicU32::new(0),
            local_origin_failures: AtomicU32::new(0),
            answers: Window::new(self.config.interval),
            attempts: Window::new(self.config.interval),
            ejected_until: AtomicU64::new(0),
            times: AtomicU32::new(0),
        }
    }

    /// Counts what became of an attempt at `host`, and ejects it if that was too much. `hosts` are all that could be
    /// used if none were ejected, this one among them. What is reported of one that is ejected is of before, and not
    /// counted.
    pub fn report<'a>(
        &self,
        host: &Host,
        seen: Seen,
        now: Time,
        hosts: impl Iterator<Item = &'a Host> + Clone,
    ) -> Option<Ejection> {
        if host.is_ejected(now) {
            return None;
        }
        self.count(host, seen, now);
        let cause = self.cause(host, seen, now, hosts.clone())?;
        // Whoever comes second leaves it: the next failure asks again.
        if self.deciding.swap(true, Ordering::Acquire) {
            return None;
        }
        let ejection = self.may_eject(host, now, hosts).then(|| self.eject(host, cause, now));
        self.deciding.store(false, Ordering::Release);
        ejection
    }

    /// How many were ejected for this cause.
    pub fn ejections_total(&self, cause: Cause) -> u64 {
        let counter = self.ejections.get(cause as usize);
        counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    fn count(&self, host: &Host, seen: Seen, now: Time) {
        match seen {
            Seen::Good => {
                reset(&host.errors_5xx);
                reset(&host.gateway_errors);
                reset(&host.local_origin_failures);
            }
            Seen::ServerError => {
                more(&host.errors_5xx);
                reset(&host.gateway_errors);
                reset(&host.local_origin_failures);
            }
            Seen::GatewayError => {
                more(&host.errors_5xx);
                more(&host.gateway_errors);
                reset(&host.local_origin_failures);
            }
            Seen::NoAnswer => more(&host.local_origin_failures),
        }
        if self.config.failure_percentage.is_some() {
            let (answered, error, silent) = match seen {
                Seen::Good => (1, 0, 0),
                Seen::ServerError | Seen::GatewayError => (1, 1, 0),
                Seen::NoAnswer => (0, 0, 1),
            };
            host.attempts.add(now, 1, silent);
            if answered > 0 {
                host.answers.add(now, answered, error);
            }
        }
    }

    fn cause<'a>(&self, host: &Host, seen: Seen, now: Time, hosts: impl Iterator<Item = &'a Host>) -> Option<Cause> {
        let reached = |counter: &AtomicU32, limit: Option<u32>| {
            limit.is_some_and(|limit| counter.load(Ordering::Relaxed) >= limit.max(1))
        };
        let config = &self.config;
        let window: fn(&Host) -> &Window = match seen {
            Seen::Good => return None,
            Seen::NoAnswer => {
                if reached(&host.local_origin_failures, config.consecutive_local_origin_failures) {
                    return Some(Cause::ConsecutiveLocalOriginFailures);
                }
                |host| &host.attempts
            }
            Seen::ServerError | Seen::GatewayError => {
                if reached(&host.gateway_errors, config.consecutive_gateway_errors) {
                    return Some(Cause::ConsecutiveGatewayErrors);
                }
                if reached(&host.errors_5xx, config.consecutive_5xx_errors) {
                    return Some(Cause::Consecutive5xxErrors);
                }
                |host| &host.answers
            }
        };
        let rule = config.failure_percentage?;
        let enough = |host: &Host| {
            let counts = window(host).counts(now);
            (counts.all >= u64::from(rule.min_requests)).then_some(counts)
        };
        let counts = enough(host)?;
        let fails = counts.marked * 100 >= u64::from(rule.threshold) * counts.all;
        let compared = || hosts.filter(|host| enough(host).is_some()).count();
        (fails && compared() >= usize::try_from(rule.min_hosts).unwrap_or(usize::MAX))
            .then_some(Cause::FailurePercentage)
    }

    fn may_eject<'a>(&self, host: &Host, now: Time, hosts: impl Iterator<Item = &'a Host>) -> bool {
        let (mut all, mut ejected) = (0_usize, 1_usize);
        for host in hosts {
            all += 1;
            ejected += usize::from(host.is_ejected(now));
        }
        let within = ejected * 100 <= usize::from(self.config.max_ejection_percent) * all;
        !host.is_ejected(now) && ejected < all && within
    }

    fn eject(&self, host: &Host, cause: Cause, now: Time) -> Ejection {
        let config = &self.config;
        let ended = Time::from_nanos(host.ejected_until.load(Ordering::Relaxed));
        // Each interval without an ejection takes one off.
        let interval = saturating_nanos(config.interval).max(1);
        let well = saturating_nanos(now.saturating_since(ended)) / interval;
        let before = u64::from(host.times.load(Ordering::Relaxed)).saturating_sub(well);
        let times = u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1);
        let longest = config.max_ejection_time.max(config.base_ejection_time);
        let ejected_for = config.base_ejection_time.saturating_mul(times).min(longest);
        host.times.store(times, Ordering::Relaxed);
        for counter in [&host.errors_5xx, &host.gateway_errors, &host.local_origin_failures] {
            counter.store(0, Ordering::Relaxed);
        }
        host.answers.clear();
        host.attempts.clear();
        host.ejected_until
            .store((now + ejected_for).as_nanos(), Ordering::Release);
        if let Some(counter) = self.ejections.get(cause as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Ejection {
            cause,
            ejected_for,
            times,
        }
    }
}

impl Host {
    /// Whether it is left alone at `now`.
    pub fn is_ejected(&self, now: Time) -> bool {
        self.ejected_until(now).is_some()
    }

    /// When its ejection ends; `None`: it is not ejected at `now`.
    pub fn ejected_until(&self, now: Time) -> Option<Time> {
        let until = Time::from_nanos(self.ejected_until.load(Ordering::Acquire));
        (now < until).then_some(until)
    }
}

/// Written only where it changes something: most answers are good, and workers share the cache line.
fn reset(counter: &AtomicU32) {
    if counter.load(Ordering::Relaxed) != 0 {
        counter.store(0, Ordering::Relaxed);
    }
}

fn more(counter: &AtomicU32) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::FailurePercentage;

    const SECOND: Duration = Duration::from_secs(1);
    const NOW: Time = Time::from_nanos(1_000_000_000_000);

    /// Nothing is looked at; ejections take 30 s to 100 s.
    fn nothing() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx_errors: None,
            consecutive_gateway_errors: None,
            consecutive_local_origin_failures: None,
            failure_percentage: None,
            interval: SECOND * 10,
            base_ejection_time: SECOND * 30,
            max_ejection_time: SECOND * 100,
            max_ejection_percent: 100,
        }
    }

    struct Cluster {
        detector: Detector,
        hosts: Vec<Host>,
    }

    impl Cluster {
        fn new(hosts: usize, config: OutlierDetection) -> Cluster {
            let detector = Detector::new(config);
            Cluster {
                hosts: (0..hosts).map(|_| detector.host()).collect(),
                detector,
            }
        }

        fn report(&self, host: usize, seen: Seen, now: Time) -> Option<Ejection> {
            self.detector.report(&self.hosts[host], seen, now, self.hosts.iter())
        }

        /// Ejects a host by one failure; the configuration is for that.
        fn fail(&self, host: usize, now: Time) -> Option<Ejection> {
            self.report(host, Seen::ServerError, now)
        }

        fn ejected(&self, now: Time) -> usize {
            self.hosts.iter().filter(|host| host.is_ejected(now)).count()
        }
    }

    /// Of three hosts the first sees this, letter by letter: `.` good, `5` a 5xx, `g` a gateway error, `x` no answer.
    #[track_caller]
    fn check(config: OutlierDetection, seen: &str, expect: Option<Cause>) {
        let cluster = Cluster::new(3, config);
        let mut cause = None;
        for (at, letter) in seen.chars().enumerate() {
            assert_eq!(cause, None, "ejected before the end, at {at} of {seen}");
            let seen = match letter {
                '.' => Seen::Good,
                '5' => Seen::ServerError,
                'g' => Seen::GatewayError,
                _ => Seen::NoAnswer,
            };
            cause = cluster.report(0, seen, NOW).map(|ejection| ejection.cause);
        }
        assert_eq!(cause, expect, "{seen}");
        assert_eq!(cluster.ejected(NOW), usize::from(expect.is_some()));
    }

    #[test]
    fn what_follows_one_another_is_counted_by_kind() {
        let errors = OutlierDetection {
            consecutive_5xx_errors: Some(3),
            ..nothing()
        };
        check(errors, "55.555", Some(Cause::Consecutive5xxErrors));
        check(errors, "5g5", Some(Cause::Consecutive5xxErrors));
        check(errors, "55x5", Some(Cause::Consecutive5xxErrors));
        check(errors, "xxxxxx", None);
        check(errors, "55.55.55", None);
        let gateway = OutlierDetection {
            consecutive_gateway_errors: Some(3),
            ..nothing()
        };
        check(gateway, "ggg", Some(Cause::ConsecutiveGatewayErrors));
        check(gateway, "gg5gg", None);
        check(gateway, "gg.gg", None);
        check(gateway, "555555", None);
        check(gateway, "ggxg", Some(Cause::ConsecutiveGatewayErrors));
        let local = OutlierDetection {
            consecutive_local_origin_failures: Some(2),
            ..nothing()
        };
        check(local, "x.x5xx", Some(Cause::ConsecutiveLocalOriginFailures));
        check(local, "xgx5x.x", None);
        check(nothing(), "555gggxxx", None);
    }

    #[test]
    fn statuses_are_told_apart() {
        for (status, expect) in [
            (200, Seen::Good),
            (404, Seen::Good),
            (429, Seen::Good),
            (500, Seen::ServerError),
            (501, Seen::ServerError),
            (502, Seen::GatewayError),
            (503, Seen::GatewayError),
            (504, Seen::GatewayError),
            (505, Seen::ServerError),
            (599, Seen::ServerError),
        ] {
            assert_eq!(Seen::of_status(status), expect, "{status}");
        }
        for (status, expect) in [
            (0, Seen::Good),
            (1, Seen::Good),
            (2, Seen::ServerError),
            (4, Seen::GatewayError),
            (5, Seen::Good),
            (8, Seen::Good),
            (13, Seen::ServerError),
            (14, Seen::GatewayError),
            (15, Seen::ServerError),
            (99, Seen::Good),
        ] {
            assert_eq!(Seen::of_grpc_status(status), expect, "{status}");
        }
    }

    #[test]
    fn a_share_of_failures_needs_requests_and_hosts_to_compare_with() {
        let rule = FailurePercentage {
            threshold: 50,
            min_requests: 4,
            min_hosts: 2,
        };
        let config = OutlierDetection {
            failure_percentage: Some(rule),
            ..nothing()
        };
        check(config, "5555", None);
        let cluster = Cluster::new(3, config);
        for _ in 0..4 {
            assert_eq!(cluster.report(1, Seen::Good, NOW), None);
        }
        for seen in [Seen::Good, Seen::Good, Seen::GatewayError] {
            assert_eq!(cluster.report(0, seen, NOW), None);
        }
        let ejection = cluster.fail(0, NOW).expect("half of four");
        assert_eq!(ejection.cause, Cause::FailurePercentage);
        assert_eq!(cluster.detector.ejections_total(Cause::FailurePercentage), 1);
        // Attempts without an answer are a share of their own.
        let cluster = Cluster::new(2, config);
        for _ in 0..4 {
            cluster.report(1, Seen::Good, NOW);
        }
        for seen in [Seen::ServerError, Seen::NoAnswer, Seen::Good] {
            assert_eq!(cluster.report(0, seen, NOW), None);
        }
        assert!(cluster.report(0, Seen::NoAnswer, NOW).is_some(), "two of four attempts");
        // None of them is an answer.
        let cluster = Cluster::new(2, config);
        for _ in 0..4 {
            cluster.report(1, Seen::Good, NOW);
        }
        for seen in [Seen::Good, Seen::NoAnswer, Seen::ServerError, Seen::ServerError] {
            assert_eq!(cluster.report(0, seen, NOW), None, "three answers");
        }
        // What is older than the interval is gone.
        let cluster = Cluster::new(2, config);
        for _ in 0..4 {
            cluster.report(1, Seen::Good, NOW + SECOND * 11);
        }
        for _ in 0..3 {
            cluster.fail(0, NOW);
        }
        assert_eq!(cluster.fail(0, NOW + SECOND * 11), None);
    }

    #[test]
    fn what_led_to_an_ejection_does_not_lead_to_the_next() {
        let config = OutlierDetection {
            failure_percentage: Some(FailurePercentage {
                threshold: 50,
                min_requests: 2,
                min_hosts: 1,
            }),
            base_ejection_time: SECOND,
            ..nothing()
        };
        for seen in [Seen::ServerError, Seen::NoAnswer] {
            let cluster = Cluster::new(2, config);
            assert_eq!(cluster.report(0, seen, NOW), None);
            assert!(cluster.report(0, seen, NOW).is_some());
            // It is back within the interval.
            assert_eq!(cluster.report(0, seen, NOW + SECOND), None, "{seen:?}");
            assert!(cluster.report(0, seen, NOW + SECOND).is_some(), "{seen:?}");
        }
    }

    #[test]
    fn no_ejection_is_shorter_than_the_base_time() {
        let config = OutlierDetection {
            max_ejection_time: SECOND * 10,
            ..one_failure(100)
        };
        let cluster = Cluster::new(2, config);
        let ejection = cluster.fail(0, NOW).expect("one failure");
        assert_eq!(ejection.ejected_for, SECOND * 30);
    }

    fn one_failure(max_ejection_percent: u8) -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx_errors: Some(1),
            max_ejection_percent,
            ..nothing()
        }
    }

    #[test]
    fn ejections_get_longer_and_are_forgiven_slowly() {
        let cluster = Cluster::new(2, one_failure(100));
        let mut now = NOW;
        let mut eject = |after: Duration, expect_seconds: u32, expect_times: u32| {
            now = now + after;
            let ejection = cluster.fail(0, now).expect("not ejected, and not the last");
            assert_eq!(
                (ejection.ejected_for, ejection.times),
                (SECOND * expect_seconds, expect_times)
            );
            let nearly = ejection.ejected_for - Duration::from_nanos(1);
            assert!(cluster.hosts[0].is_ejected(now + nearly));
            now = now + ejection.ejected_for;
            assert!(!cluster.hosts[0].is_ejected(now));
        };
        eject(Duration::ZERO, 30, 1);
        eject(Duration::ZERO, 60, 2);
        eject(SECOND * 9, 90, 3);
        eject(Duration::ZERO, 100, 4);
        // Three intervals without one take three off.
        eject(SECOND * 30, 60, 2);
        eject(SECOND * 3600, 30, 1);
    }

    #[test]
    fn what_is_reported_of_an_ejected_one_is_not_counted() {
        let config = OutlierDetection {
            consecutive_5xx_errors: Some(2),
            ..nothing()
        };
        let cluster = Cluster::new(2, config);
        cluster.fail(0, NOW);
        assert!(cluster.fail(0, NOW).is_some());
        for _ in 0..10 {
            assert_eq!(cluster.fail(0, NOW + SECOND), None);
        }
        let back = NOW + SECOND * 30;
        assert_eq!(cluster.fail(0, back), None, "it begins from none");
        assert!(cluster.fail(0, back).is_some());
    }

    #[test]
    fn so_many_may_be_out_and_never_the_last() {
        for (hosts, percent, expect) in [
            (1, 100, 0),
            (2, 100, 1),
            (3, 100, 2),
            (2, 50, 1),
            (3, 50, 1),
            (4, 50, 2),
            (3, 33, 0),
            (3, 34, 1),
            (10, 10, 1),
            (9, 10, 0),
            (20, 10, 2),
        ] {
            let cluster = Cluster::new(hosts, one_failure(percent));
            for host in 0..hosts {
                cluster.fail(host, NOW);
            }
            assert_eq!(cluster.ejected(NOW), expect, "{hosts} hosts, {percent} %");
        }
    }

    #[test]
    fn threads_never_eject_more_together() {
        for _ in 0..50 {
            let cluster = Cluster::new(8, one_failure(50));
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let cluster = &cluster;
                    scope.spawn(move || {
                        for host in 0..8 {
                            cluster.fail((host + thread * 2) % 8, NOW);
                        }
                    });
                }
            });
            assert!(cluster.ejected(NOW) <= 4);
        }
    }

    proptest! {
        #[test]
        fn bounds_hold_whatever_is_seen(
            hosts in 1_usize..7,
            percent in 1_u8..=100,
            events in prop::collection::vec((0_usize..7, 0_u8..4, 0_u64..20), 0..200),
        ) {
            let config = OutlierDetection {
                consecutive_5xx_errors: Some(2),
                consecutive_gateway_errors: Some(1),
                consecutive_local_origin_failures: Some(2),
                failure_percentage: Some(FailurePercentage { threshold: 30, min_requests: 2, min_hosts: 1 }),
                max_ejection_percent: percent,
                ..nothing()
            };
            let cluster = Cluster::new(hosts, config);
            let mut now = NOW;
            let mut ejections = 0;
            for (host, seen, seconds) in events {
                now = now + Duration::from_secs(seconds);
                let seen = [Seen::Good, Seen::ServerError, Seen::GatewayError, Seen::NoAnswer][usize::from(seen)];
                if let Some(ejection) = cluster.report(host % hosts, seen, now) {
                    ejections += 1;
                    prop_assert!((SECOND * 30..=SECOND * 100).contains(&ejection.ejected_for));
                    prop_assert!(seen != Seen::Good);
                }
                let ejected = cluster.ejected(now);
                prop_assert!(ejected < hosts);
                prop_assert!(ejected * 100 <= usize::from(percent) * hosts);
            }
            let counted: u64 = Cause::ALL.iter().map(|cause| cluster.detector.ejections_total(*cause)).sum();
            prop_assert_eq!(counted, ejections);
        }
    }
}
