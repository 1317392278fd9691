//! How far a long backfill is, for whoever waits for it.

use std::time::Duration;

use tokio::time::Instant;

/// How often it says where it is.
const INTERVAL: Duration = Duration::from_secs(5);

/// How fast the chain is read, while the ledger is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Logs of the contract, each second since the backfill began.
    pub events_per_second: u64,
    /// Whole seconds until the head, if it goes on like this; `None` before there is anything to go by.
    pub seconds_left: Option<u64>,
}

/// One stretch of reading that is behind the head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backfill {
    began: Instant,
    said: Instant,
    blocks: u64,
    events: u64,
}

impl Backfill {
    pub(crate) fn begin() -> Self {
        let now = Instant::now();
        Self { began: now, said: now, blocks: 0, events: 0 }
    }

    /// Counts what was read.
    pub(crate) const fn read(&mut self, blocks: u64, events: u64) {
        self.blocks = self.blocks.saturating_add(blocks);
        self.events = self.events.saturating_add(events);
    }

    /// The pace so far, where `left` blocks are still to be read.
    pub(crate) fn pace(&self, left: u64) -> Pace {
        pace(self.blocks, self.events, left, self.began.elapsed())
    }

    /// Whether it is time to say where it is. Takes it as said then.
    pub(crate) fn is_to_be_told(&mut self) -> bool {
        let due = self.said.elapsed() >= INTERVAL;
        if due {
            self.said = Instant::now();
        }
        due
    }
}

fn pace(blocks: u64, events: u64, left: u64, took: Duration) -> Pace {
    let millis = took.as_millis().max(1);
    let per_second = u128::from(events).saturating_mul(1000) / millis;
    let seconds_left = (u128::from(left).saturating_mul(millis) / 1000).checked_div(u128::from(blocks));
    let narrow = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
    Pace { events_per_second: narrow(per_second), seconds_left: seconds_left.map(narrow) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_what_the_blocks_so_far_took_for_each_that_is_left() {
        let told = pace(2_000, 50_000, 6_000, Duration::from_secs(10));
        assert_eq!(told, Pace { events_per_second: 5_000, seconds_left: Some(30) });
    }

    #[test]
    fn nothing_is_promised_before_anything_was_read() {
        assert_eq!(pace(0, 0, 9, Duration::ZERO), Pace { events_per_second: 0, seconds_left: None });
    }

    #[test]
    fn it_is_told_now_and_then_only() {
        let mut backfill = Backfill::begin();
        assert!(!backfill.is_to_be_told());
        backfill.said = Instant::now().checked_sub(INTERVAL).unwrap();
        assert!(backfill.is_to_be_told());
        assert!(!backfill.is_to_be_told());
    }

    #[test]
    fn what_is_read_counts_from_the_beginning_on() {
        let mut backfill = Backfill::begin();
        backfill.began = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        backfill.read(10, 100_000);
        backfill.read(10, 100_000);
        let Pace { events_per_second, seconds_left } = backfill.pace(80);
        assert!((19_000..=20_000).contains(&events_per_second), "{events_per_second}");
        assert!((40..43).contains(&seconds_left.unwrap()), "{seconds_left:?}");
    }
}
