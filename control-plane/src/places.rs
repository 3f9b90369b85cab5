//! Places in a bounded whole, of which no one holder has more than a share: whoever takes all that they can get leaves
//! the rest to the others.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weir_policy::names::Label;

/// How many places there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// For all together.
    pub(crate) all: usize,
    /// For one holder.
    pub(crate) each: usize,
}

/// Whose share a place is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// One host, or what may well be one: an IPv4 address, or a /64 of IPv6.
    Host(IpAddr),
    /// A namespace, by certificate.
    Namespace(Label),
}

impl Holder {
    /// Who is at an address.
    pub(crate) fn at(address: IpAddr) -> Holder {
        Holder::Host(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            // The rest of the bits is for each host to choose (RFC 4291 section 2.5.4).
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Host(IpAddr::V4(address)) => write!(f, "host {address}"),
            Holder::Host(IpAddr::V6(address)) => write!(f, "host {address}/64"),
            Holder::Namespace(namespace) => write!(f, "namespace {namespace}"),
        }
    }
}

/// Why there is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    #[error("all {0} are open, which is the most")]
    All(usize),
    #[error("{0} has {1} open, which is the most for one")]
    Share(Holder, usize),
}

/// All places; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    room: Room,
    free: Arc<Semaphore>,
    held: Arc<Held>,
}

/// How many each holder has. Never more entries than there are places.
#[derive(Debug, Default)]
struct Held(Mutex<HashMap<Holder, usize>>);

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<Holder, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    holder: Option<Holder>,
    held: Arc<Held>,
    _free: OwnedSemaphorePermit,
}

impl Places {
    /// So many, all free.
    pub(crate) fn new(room: Room) -> Places {
        Places {
            room,
            free: Arc::new(Semaphore::new(room.all)),
            held: Arc::default(),
        }
    }

    /// A place for this holder, if there is one now. `None` has no bound but the whole.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn take(&self, holder: Option<Holder>) -> Result<Place, Full> {
        let free = Arc::clone(&self.free).try_acquire_owned();
        self.place(free.map_err(|_| Full::All(self.room.all))?, holder)
    }

    /// Waits until one is free, whoever will have it.
    ///
    /// # Cancel safety
    /// Safe: dropped, nothing is taken.
    pub(crate) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// Gives what [`Places::free`] waited for to a holder.
    ///
    /// # Errors
    /// When the holder has its share already.
    pub(crate) fn place(&self, free: OwnedSemaphorePermit, holder: Option<Holder>) -> Result<Place, Full> {
        if let Some(holder) = &holder {
            let mut held = self.held.lock();
            let has = held.get(holder).copied().unwrap_or(0);
            if has >= self.room.each {
                return Err(Full::Share(holder.clone(), self.room.each));
            }
            held.insert(holder.clone(), has + 1);
        }
        Ok(Place {
            holder,
            held: Arc::clone(&self.held),
            _free: free,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(holder) = &self.holder else {
            return;
        };
        let mut held = self.held.lock();
        match held.get_mut(holder) {
            Some(has) if *has > 1 => *has -= 1,
            Some(_) | None => drop(held.remove(holder)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(namespace: &str) -> Holder {
        Holder::Namespace(namespace.parse().expect("a label"))
    }

    #[test]
    fn one_holder_has_its_share_and_leaves_the_rest() {
        let places = Places::new(Room { all: 3, each: 2 });
        let citizen = || places.take(Some(of("citizen")));
        let first = citizen().expect("the first");
        let _second = citizen().expect("the second");
        assert_eq!(citizen().expect_err("a third"), Full::Share(of("citizen"), 2));
        let _police = places.take(Some(of("police"))).expect("the rest");
        assert_eq!(places.take(Some(of("data"))).expect_err("a fourth"), Full::All(3));
        assert_eq!(places.take(None).expect_err("a fourth"), Full::All(3));
        drop(first);
        let back = citizen().expect("it was given back");
        drop(back);
        let _anybody = places.take(None).expect("without a share");
        assert_eq!(citizen().expect_err("full"), Full::All(3));
    }

    #[test]
    fn who_has_no_place_is_not_kept() {
        let places = Places::new(Room { all: 2, each: 1 });
        drop(places.take(Some(of("citizen"))).expect("a place"));
        assert!(places.held.lock().is_empty());
    }

    #[test]
    fn a_host_has_one_share_by_all_its_addresses() {
        let at = |address: &str| Holder::at(address.parse().expect("an address"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.2"), at("10.0.0.1"));
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:0:0:2"));
        assert_ne!(at("2001:db8:0:1::1"), at("2001:db8::1"));
        assert_eq!(at("2001:db8::1").to_string(), "host 2001:db8::/64");
    }
}
