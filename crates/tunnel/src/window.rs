//! The window of one stream: how many bytes may be on their way to a reader that has not read them yet.
//!
//! It begins small, so that many readers that never read cost little, and doubles while the reader keeps up with the path, up to what the path
//! holds; what all windows have grown by is bounded by a [`Budget`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes that windows may grow by, shared by all connections of a process.
#[derive(Clone, Debug)]
pub struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// What is left of it, in bytes.
    pub fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes all of `bytes`, or nothing.
    fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The receiving side's account of one stream.
#[derive(Debug)]
pub struct Window {
    size: u32,
    /// What the sender may still send.
    open: u32,
    /// What was read and not yet told to the sender.
    read: u32,
    /// What of `size` came out of the budget.
    grown: u32,
    /// When the sender was last given credit, since the stream began.
    credited: Duration,
}

impl Window {
    /// A window of `size` bytes.
    pub fn new(size: u32) -> Self {
        Self { size, open: size, read: 0, grown: 0, credited: Duration::ZERO }
    }

    /// The size the window has now, in bytes.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Accounts for bytes that arrived; `false` if the sender had no leave to send them.
    #[must_use]
    pub fn receive(&mut self, bytes: u32) -> bool {
        match self.open.checked_sub(bytes) {
            Some(left) => {
                self.open = left;
                true
            }
            None => false,
        }
    }

    /// Accounts for bytes that were read at `now`, a time since the stream began; returns the credit to give to the sender, if it is time.
    ///
    /// A reader that took half a window within two round trips waits for the window and not for itself: its window doubles.
    pub fn read(
        &mut self,
        bytes: u32,
        now: Duration,
        round_trip: Option<Duration>,
        max: u32,
        budget: &Budget,
    ) -> Option<u32> {
        self.read += bytes;
        if self.read < self.size / 2 {
            return None;
        }
        let keeps_up = round_trip.is_some_and(|trip| now.saturating_sub(self.credited) < trip * 2);
        let growth = self.size.min(max.saturating_sub(self.size));
        let growth = if keeps_up && growth > 0 && budget.take(growth as usize) { growth } else { 0 };
        self.size += growth;
        self.grown += growth;
        self.credited = now;
        let credit = std::mem::take(&mut self.read) + growth;
        self.open += credit;
        Some(credit)
    }

    /// Gives back what came out of the budget.
    pub fn close(&mut self, budget: &Budget) {
        budget.give_back(std::mem::take(&mut self.grown) as usize);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRIP: Option<Duration> = Some(Duration::from_millis(50));

    #[test]
    fn a_reader_that_keeps_up_gets_a_window_as_large_as_its_path() {
        let budget = Budget::new(64 << 20);
        let mut window = Window::new(64 << 10);
        for step in 1..20 {
            let half = window.size() / 2;
            assert!(window.receive(half));
            window.read(half, Duration::from_millis(50 * step), TRIP, 16 << 20, &budget);
        }
        assert_eq!(window.size(), 16 << 20);
        window.close(&budget);
        assert_eq!(budget.left(), 64 << 20);
    }

    #[test]
    fn a_slow_reader_and_one_on_a_path_that_was_not_measured_keep_the_first_window() {
        let budget = Budget::new(64 << 20);
        for (every, trip) in [(101, TRIP), (1, None)] {
            let mut window = Window::new(64 << 10);
            for step in 1..20 {
                assert!(window.receive(32 << 10));
                window.read(32 << 10, Duration::from_millis(every * step), trip, 16 << 20, &budget);
            }
            assert_eq!(window.size(), 64 << 10);
        }
    }

    #[test]
    fn without_a_budget_nothing_grows() {
        let budget = Budget::new(0);
        let mut window = Window::new(1000);
        assert!(window.receive(1000));
        assert_eq!(window.read(1000, Duration::ZERO, TRIP, 1 << 20, &budget), Some(1000));
        assert!(!window.receive(1001));
    }

    proptest! {
        /// Whatever is read and when: what is on its way never exceeds the window, the window never its bound, and the budget is whole in
        /// the end.
        #[test]
        fn the_sender_never_has_more_leave_than_the_window(
            steps in prop::collection::vec((1u32..200_000, 0u64..200), 1..100),
            size in 1u32..(256 << 10),
        ) {
            let budget = Budget::new(4 << 20);
            let max = 8 << 20;
            let mut window = Window::new(size);
            let (mut on_the_way, mut now) = (0u64, Duration::ZERO);
            let mut leave = u64::from(size);
            for (bytes, pause) in steps {
                now += Duration::from_millis(pause);
                let sent = u64::from(bytes).min(leave);
                prop_assert!(window.receive(sent as u32));
                leave -= sent;
                on_the_way += sent;
                let read = on_the_way.min(u64::from(bytes) / 2);
                on_the_way -= read;
                leave += u64::from(window.read(read as u32, now, TRIP, max, &budget).unwrap_or(0));
                prop_assert!(on_the_way + leave <= u64::from(window.size()));
                prop_assert!(window.size() <= max.max(size));
            }
            window.close(&budget);
            prop_assert_eq!(budget.left(), 4 << 20);
        }
    }
}
