//! Counting over a sliding window without a lock: a ring of slots, each one atomic word that holds which slice of time
//! it counts and two counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::time::{Time, saturating_nanos};

/// Events, and those among them that are marked, of the last `length`, in steps of a tenth: the oldest tenth goes
/// whole.
#[derive(Debug)]
pub(crate) struct Window {
    slot_nanos: u64,
    slots: [AtomicU64; SLOTS],
}

/// Counts of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) all: u64,
    pub(crate) marked: u64,
}

impl Window {
    /// A window of this length; less than ten microseconds counts as that.
    pub(crate) fn new(length: Duration) -> Self {
        Window {
            slot_nanos: (saturating_nanos(length) / SLOTS as u64).max(1_000),
            slots: [const { AtomicU64::new(0) }; SLOTS],
        }
    }

    /// Adds to the counts at `now`.
    pub(crate) fn add(&self, now: Time, all: u32, marked: u32) {
        let period = self.period(now);
        let Some(slot) = self.slots.get(ring_index(period)) else {
            return;
        };
        // A thread whose clock was read a little earlier may find the slot already taken over: it counts there.
        let _ = slot.fetch_update(Relaxed, Relaxed, |word| {
            let mut held = Slot::unpack(word);
            let age = period.wrapping_sub(held.period) & PERIOD_MASK;
            if age != 0 && age < PERIOD_MASK / 2 || held.is_unused() {
                held = Slot {
                    period,
                    ..Slot::default()
                };
            }
            Some(held.plus(u64::from(all), u64::from(marked)).pack())
        });
    }

    /// The counts of the window that ends `now`.
    pub(crate) fn counts(&self, now: Time) -> Counts {
        let period = self.period(now);
        let mut sum = Counts::default();
        for slot in &self.slots {
            let held = Slot::unpack(slot.load(Relaxed));
            // What another thread counted with a later clock is in the window as well.
            let age = period.wrapping_sub(held.period) & PERIOD_MASK;
            if age < SLOTS as u64 || age > PERIOD_MASK / 2 {
                sum.all += held.all;
                sum.marked += held.marked;
            }
        }
        sum
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        for slot in &self.slots {
            slot.store(0, Relaxed);
        }
    }

    fn period(&self, now: Time) -> u64 {
        (now.as_nanos() / self.slot_nanos) & PERIOD_MASK
    }
}

/// The word of a slot, unpacked. The period is which slice of time it counts, cut to its bits: it comes round again
/// after 2^28 slices (three days with a window of ten milliseconds, eight years with one of ten seconds).
#[derive(Clone, Copy, Default)]
struct Slot {
    period: u64,
    all: u64,
    marked: u64,
}

impl Slot {
    fn unpack(word: u64) -> Self {
        Slot {
            period: word >> (2 * COUNT_BITS),
            all: word >> COUNT_BITS & COUNT_MASK,
            marked: word & COUNT_MASK,
        }
    }

    fn pack(self) -> u64 {
        self.period << (2 * COUNT_BITS) | self.all << COUNT_BITS | self.marked
    }

    fn is_unused(self) -> bool {
        self.all == 0 && self.marked == 0
    }

    /// Counts further; at the end of the range both counts are halved, which keeps their proportion.
    fn plus(mut self, all: u64, marked: u64) -> Self {
        self.all += all;
        self.marked += marked;
        while self.all > COUNT_MASK || self.marked > COUNT_MASK {
            self.all /= 2;
            self.marked /= 2;
        }
        self
    }
}

fn ring_index(period: u64) -> usize {
    usize::try_from(period % SLOTS as u64).unwrap_or(0)
}

const SLOTS: usize = 10;
const COUNT_BITS: u32 = 18;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const PERIOD_MASK: u64 = (1 << (64 - 2 * COUNT_BITS)) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn counts(all: u64, marked: u64) -> Counts {
        Counts { all, marked }
    }

    #[test]
    fn what_is_older_than_the_window_is_gone() {
        let window = Window::new(SECOND);
        let start = Time::ZERO + SECOND * 7;
        window.add(start, 3, 1);
        window.add(start + SECOND / 2, 2, 2);
        assert_eq!(window.counts(start + SECOND / 2), counts(5, 3));
        assert_eq!(window.counts(start + SECOND * 9 / 10), counts(5, 3));
        assert_eq!(window.counts(start + SECOND), counts(2, 2));
        assert_eq!(window.counts(start + SECOND * 2), counts(0, 0));
        // A slot that comes round again begins anew.
        window.add(start + SECOND, 1, 0);
        assert_eq!(window.counts(start + SECOND), counts(3, 2));
        window.clear();
        assert_eq!(window.counts(start + SECOND), counts(0, 0));
    }

    #[test]
    fn a_clock_read_earlier_counts_as_well() {
        let window = Window::new(SECOND);
        let late = Time::ZERO + SECOND * 10;
        let early = Time::ZERO + SECOND * 9;
        window.add(late, 1, 0);
        window.add(early, 1, 0);
        assert_eq!(window.counts(late), counts(2, 0));
        assert_eq!(window.counts(early), counts(2, 0));
    }

    #[test]
    fn counts_beyond_the_range_keep_their_proportion() {
        let window = Window::new(SECOND);
        for _ in 0..10 {
            window.add(Time::ZERO, 100_000, 25_000);
        }
        let Counts { all, marked } = window.counts(Time::ZERO);
        assert!((60_000..=COUNT_MASK).contains(&all), "{all}");
        assert!((all / 4 - 8..=all / 4).contains(&marked), "{marked} of {all}");
        window.add(Time::ZERO, u32::MAX, u32::MAX);
        assert!(window.counts(Time::ZERO).all <= COUNT_MASK);
    }

    proptest! {
        #[test]
        fn it_counts_what_a_list_of_events_counts(
            length in 1_u64..100,
            events in prop::collection::vec((0_u64..30, 0_u32..4, 0_u32..4), 0..60),
        ) {
            let window = Window::new(Duration::from_micros(10 * length));
            let mut list: Vec<(u64, u64, u64)> = Vec::new();
            let mut slot = 0;
            for (steps, all, marked) in events {
                slot += steps;
                let now = Time::from_nanos(slot * length * 1_000);
                window.add(now, all, marked);
                list.push((slot, u64::from(all), u64::from(marked)));
                let inside = || list.iter().filter(|(at, _, _)| slot - at < 10);
                let expect = counts(inside().map(|event| event.1).sum(), inside().map(|event| event.2).sum());
                prop_assert_eq!(window.counts(now), expect);
            }
        }
    }
}
