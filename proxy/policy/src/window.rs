//! Counting over a sliding window without a lock: a ring of slots, each one atomic word that holds which slice of time
//! it counts and two counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::time::{Time, saturating_nanos};

/// Events, and those among them that are marked, of the last `length`, in steps of a tenth: the oldest tenth goes whole.
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
