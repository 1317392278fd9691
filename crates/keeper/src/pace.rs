//! How often the ledger is asked for what takes it long.
//!
//! What is due, and whose means to look at, takes a scan of all subscriptions: an index would cost every renewal more than
//! the scans do. A few thousand are scanned in no time; a million take half a second, and are looked at every ten.

use std::time::Duration;

use tokio::time::Instant;

/// What takes no longer than this may be asked in every round.
const QUICK: Duration = Duration::from_millis(100);
/// What takes longer gets one part of so many of the time.
const PARTS: u32 = 20;
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);

/// When a question may be asked again.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    not_before: Option<Instant>,
}

impl Pace {
    /// Whether it is time.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|not_before| now >= not_before)
    }

    /// Notes how long the answer took, and whether there is more to be had: that is not waited for.
    pub(crate) fn took(&mut self, now: Instant, took: Duration, more: bool) {
        let rest = took.saturating_mul(PARTS).min(LONGEST);
        self.not_before = if took <= QUICK || more { None } else { now.checked_add(rest) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quick_is_asked_always_and_what_is_slow_seldom() {
        let now = Instant::now();
        let after = |took, more| {
            let mut pace = Pace::default();
            pace.took(now, Duration::from_millis(took), more);
            pace.not_before.map(|not_before| (not_before - now).as_millis())
        };
        assert_eq!(after(100, false), None);
        assert_eq!(after(500, false), Some(10_000));
        assert_eq!(after(9_000, false), Some(60_000));
        assert_eq!(after(9_000, true), None);
        let mut pace = Pace::default();
        assert!(pace.is_due(now));
        pace.took(now, Duration::from_secs(1), false);
        assert!(!pace.is_due(now) && pace.is_due(now + Duration::from_secs(20)));
    }
}
