//! What time it is on the devnet: what its chain says, where that is ahead of the machine.
//!
//! It is ahead where months pass in minutes (`--fast-time`), and where somebody has moved the chain's clock by hand
//! (`cast rpc evm_increaseTime`). Payments are judged by the chain's clock, so entitlements have to be as well.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use dues_api::clock::{Clock, SystemClock};
use dues_chain::source::RpcSource;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How often the chain's head is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// 31 days: no month is longer.
const MONTH_SECONDS: u64 = 31 * 86_400;

/// How the chain's time passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimePace {
    /// Seconds of the machine from one block to the next.
    pub(crate) block_time: u64,
    /// Seconds of the chain from one block to the next; `None` where they are the machine's.
    pub(crate) chain_seconds: Option<u64>,
}

impl TimePace {
    /// A month in `month_in` seconds, or as the machine's time passes.
    pub(crate) fn new(block_time: u64, month_in: Option<u64>) -> Self {
        let chain_seconds =
            month_in.map(|month| MONTH_SECONDS.saturating_mul(block_time).div_ceil(month.max(1)));
        Self { block_time, chain_seconds }
    }

    /// How far the chain's time has come `elapsed` after a block: never to where the next block will be.
    fn since_block(self, elapsed: Duration) -> TimeDelta {
        let chain = u128::from(self.chain_seconds.unwrap_or(self.block_time)).saturating_mul(1_000);
        let real = u128::from(self.block_time.max(1)).saturating_mul(1_000);
        let passed = elapsed.as_millis().saturating_mul(chain) / real;
        let passed = passed.min(chain.saturating_sub(1));
        TimeDelta::milliseconds(i64::try_from(passed).unwrap_or(i64::MAX))
    }
}

/// The devnet's clock. Clones tell the same time.
#[derive(Debug, Clone)]
pub(crate) struct ChainClock {
    pace: TimePace,
    head: Arc<Mutex<Option<SeenHead>>>,
}

/// A head's time, and when it was first seen.
#[derive(Debug, Clone, Copy)]
struct SeenHead {
    timestamp: DateTime<Utc>,
    at: Instant,
}

impl ChainClock {
    pub(crate) fn new(pace: TimePace) -> Self {
        Self { pace, head: Arc::default() }
    }

    /// Whether the chain's time passes faster than the machine's.
    pub(crate) const fn is_fast(&self) -> bool {
        self.pace.chain_seconds.is_some()
    }

    /// Looks at the head until `shutdown`. While the node does not answer, the clock stands at its last block.
    pub(crate) async fn follow(self, rpc: RpcSource, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            if let Ok(head) = rpc.head(0).await {
                self.saw(head.timestamp);
            }
        }
    }

    fn saw(&self, timestamp: DateTime<Utc>) {
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        if head.is_none_or(|head| head.timestamp != timestamp) {
            *head = Some(SeenHead { timestamp, at: Instant::now() });
        }
    }
}

impl Clock for ChainClock {
    fn now(&self) -> DateTime<Utc> {
        let machine = SystemClock.now();
        let head = *self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let chain =
            head.and_then(|head| head.timestamp.checked_add_signed(self.pace.since_block(head.at.elapsed())));
        chain.map_or(machine, |chain| chain.max(machine))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_month_takes_as_many_seconds_as_asked() {
        let pace = TimePace::new(1, Some(60));
        assert_eq!(pace.chain_seconds, Some(44_640));
        assert_eq!(pace.since_block(Duration::from_millis(500)), TimeDelta::seconds(22_320));
        // The next block is late.
        assert_eq!(pace.since_block(Duration::from_secs(9)), TimeDelta::milliseconds(44_639_999));
        let pace = TimePace::new(5, None);
        assert_eq!(pace.since_block(Duration::from_millis(1_234)), TimeDelta::milliseconds(1_234));
    }

    #[tokio::test]
    async fn the_clock_is_the_machines_until_the_chain_is_ahead() {
        let clock = ChainClock::new(TimePace::new(1, None));
        let machine = SystemClock.now();
        assert!(clock.now() >= machine && clock.now() < machine + TimeDelta::hours(1));
        clock.saw(machine - TimeDelta::days(1));
        assert!(clock.now() >= machine && clock.now() < machine + TimeDelta::hours(1));
        clock.saw(machine + TimeDelta::days(1));
        assert!(clock.now() >= machine + TimeDelta::days(1));
    }
}
