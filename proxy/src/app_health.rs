//! Whether the app's ports take connections: checked often until they do, seldom afterwards, and at once when a
//! request found one closed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use weir_policy::time::Time;

use crate::clock::Clock;

/// Between checks of a port that takes no connections: an app that is up is found soon.
const WHILE_CLOSED: Duration = Duration::from_millis(250);

/// Between checks of a port that takes connections: requests find sooner than a check when it no longer does.
const WHILE_OPEN: Duration = Duration::from_secs(5);

/// Between any two checks of a port, however many requests found it closed.
const AT_LEAST: Duration = Duration::from_millis(50);

/// How long opening a connection may take; on loopback it takes longer only when the app's queue is full.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// What is known of the app's ports. A clone is another handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct AppHealth {
    ready: watch::Receiver<BTreeSet<NonZeroU16>>,
    refused: Arc<BTreeMap<NonZeroU16, Notify>>,
}

/// The task that checks them.
#[derive(Debug)]
pub(crate) struct Checks {
    ready: watch::Sender<BTreeSet<NonZeroU16>>,
    refused: Arc<BTreeMap<NonZeroU16, Notify>>,
    clock: Clock,
}

impl AppHealth {
    /// Checks these ports of loopback: a handle, and the task to run. None is ready before its first check.
    pub(crate) fn new(ports: impl IntoIterator<Item = NonZeroU16>, clock: Clock) -> (AppHealth, Checks) {
        let refused = ports.into_iter().map(|port| (port, Notify::new())).collect();
        let refused = Arc::new(refused);
        let (sender, ready) = watch::channel(BTreeSet::new());
        let checks = Checks {
            ready: sender,
            refused: Arc::clone(&refused),
            clock,
        };
        (AppHealth { ready, refused }, checks)
    }

    /// The ports that take connections now.
    pub(crate) fn ready(&self) -> watch::Receiver<BTreeSet<NonZeroU16>> {
        self.ready.clone()
    }

    /// A request found this port closed: it is checked at once. Cheap; may be called for each such request.
    pub(crate) fn refused(&self, port: NonZeroU16) {
        if let Some(refused) = self.refused.get(&port) {
            refused.notify_one();
        }
    }
}

impl Checks {
    /// Checks until it is dropped.
    ///
    /// # Cancel safety
    /// What was found stays.
    pub(crate) async fn run(self) {
        let ports = self.refused.iter();
        futures_util::future::join_all(ports.map(|(port, refused)| self.watch(*port, refused))).await;
    }

    async fn watch(&self, port: NonZeroU16, refused: &Notify) {
        let mut schedule = Schedule::new(self.clock.now());
        loop {
            let due = tokio::time::sleep_until(self.clock.instant(schedule.due()));
            // Cancel safe: a notification that is not taken stays.
            tokio::select! {
                () = due => {}
                () = refused.notified() => {
                    schedule.refused(self.clock.now());
                    continue;
                }
            }
            let found = check(port).await;
            schedule.checked(self.clock.now(), found);
            self.ready.send_if_modified(|ready| match found {
                Found::Open => ready.insert(port),
                Found::Closed => ready.remove(&port),
            });
        }
    }
}

async fn check(port: NonZeroU16) -> Found {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.get()));
    match tokio::time::timeout(CHECK_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Found::Open,
        Ok(Err(_)) | Err(_) => Found::Closed,
    }
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Open,
    Closed,
}

/// When to check one port. Pure.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    last: Option<Time>,
    due: Time,
}

impl Schedule {
    /// The first check is due at once.
    fn new(now: Time) -> Schedule {
        Schedule { last: None, due: now }
    }

    fn due(&self) -> Time {
        self.due
    }

    fn checked(&mut self, now: Time, found: Found) {
        self.last = Some(now);
        self.due = match found {
            Found::Open => now + WHILE_OPEN,
            Found::Closed => now + WHILE_CLOSED,
        };
    }

    /// Some request found the port closed.
    fn refused(&mut self, now: Time) {
        let soonest = self.last.map_or(now, |last| now.max(last + AT_LEAST));
        self.due = self.due.min(soonest);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn checks_are_frequent_while_closed_and_rare_while_open() {
        let mut schedule = Schedule::new(at(1000));
        assert_eq!(schedule.due(), at(1000));
        schedule.checked(at(1001), Found::Closed);
        assert_eq!(schedule.due(), at(1251));
        schedule.checked(at(1251), Found::Open);
        assert_eq!(schedule.due(), at(6251));
        schedule.checked(at(6251), Found::Closed);
        assert_eq!(schedule.due(), at(6501));
    }

    #[test]
    fn a_refused_request_brings_the_check_forward_but_not_without_end() {
        let mut schedule = Schedule::new(at(0));
        schedule.checked(at(100), Found::Open);
        schedule.refused(at(2000));
        assert_eq!(schedule.due(), at(2000), "at once");
        schedule.checked(at(2001), Found::Open);
        schedule.refused(at(2002));
        schedule.refused(at(2003));
        assert_eq!(schedule.due(), at(2051), "50 ms after the check before");
        schedule.checked(at(2051), Found::Closed);
        schedule.refused(at(2290));
        assert_eq!(schedule.due(), at(2290));
        schedule.refused(at(2400));
        assert_eq!(schedule.due(), at(2290), "never later than it was");
    }

    #[tokio::test]
    async fn an_app_is_ready_when_it_takes_connections_and_not_after_it_is_gone() {
        let app = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = app.local_addr().expect("bound").port();
        let port = NonZeroU16::new(port).expect("not 0");
        drop(app);
        let (health, checks) = AppHealth::new([port], Clock::start());
        let task = tokio::spawn(checks.run());
        let mut ready = health.ready();
        assert!(ready.borrow().is_empty());
        let app = TcpListener::bind(("127.0.0.1", port.get()))
            .await
            .expect("the port again");
        ready.wait_for(|ready| ready.contains(&port)).await.expect("found");
        drop(app);
        health.refused(port);
        let refused = ready.wait_for(BTreeSet::is_empty);
        tokio::time::timeout(WHILE_OPEN, refused)
            .await
            .expect("sooner than by itself")
            .expect("found");
        task.abort();
    }
}
