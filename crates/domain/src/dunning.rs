//! When a renewal that was refused is tried again.
//!
//! The first attempts come soon, because most refusals are a wallet that is topped up within the hour; later ones come
//! further apart; the last one comes shortly before grace ends. Jitter keeps those who were refused together, on the
//! first of a month say, from coming back together.

use alloy_primitives::U256;
use chrono::{DateTime, TimeDelta, Utc};

use crate::{chain::ChargeFailure, money::BaseUnits};

/// At least so many attempts fit into any grace, however short.
const ATTEMPTS_AT_LEAST: i32 = 8;
/// The last attempt is so long before the end of grace, or a fiftieth of grace where that is less.
const LAST_BEFORE: TimeDelta = TimeDelta::minutes(10);
const LAST_PART: i32 = 50;

/// How long to wait between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySchedule {
    /// After the first refusal. Each further wait is twice as long.
    pub first: TimeDelta,
    /// The longest wait.
    pub longest: TimeDelta,
    /// By how many hundredths of itself a wait is longer or shorter, at most.
    pub jitter_percent: u8,
}

/// The time in which one renewal can be charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraceWindow {
    /// When it fell due.
    pub from: DateTime<Utc>,
    /// From then on it cannot be charged any more.
    pub until: DateTime<Utc>,
}

/// How the renewal of a subscription stands that was tried and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dunning {
    /// Why, the last time.
    pub reason: ChargeFailure,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was last tried, by the chain's clock.
    pub last_attempt_at: DateTime<Utc>,
    /// When it is tried again; `None` where grace ends before.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// For how many further periods a payer's money and consent last, as things are.
///
/// Several subscriptions of one payer in one token share both; each is counted as if it were alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runway {
    /// Whole periods that can be paid, at the price of the next one.
    pub renewals: u32,
    /// What runs out first: [`ChargeFailure::Balance`] or [`ChargeFailure::Allowance`].
    pub limited_by: ChargeFailure,
    /// Of when this is, by the chain's clock.
    pub as_of: DateTime<Utc>,
}

impl Runway {
    /// The most renewals that are told apart: whoever approves without limit is not told a number with 70 digits.
    pub const MOST: u32 = 1_000_000;

    /// What `balance` and `allowance` are enough for at `price` per period, all in base units.
    #[must_use]
    pub fn new(balance: U256, allowance: U256, price: BaseUnits, as_of: DateTime<Utc>) -> Self {
        let limited_by = if balance <= allowance { ChargeFailure::Balance } else { ChargeFailure::Allowance };
        let periods = balance.min(allowance).checked_div(U256::from(price.get())).unwrap_or_default();
        let renewals = u32::try_from(periods).map_or(Self::MOST, |periods| periods.min(Self::MOST));
        Self { renewals, limited_by, as_of }
    }
}

impl RetrySchedule {
    /// When to try again after the `attempts`th refusal, which was at `now`; `None` where grace is over before.
    ///
    /// `random` is any number, all of them equally likely; it decides the jitter and nothing else.
    #[must_use]
    pub fn next(
        &self,
        attempts: u32,
        now: DateTime<Utc>,
        grace: GraceWindow,
        random: u32,
    ) -> Option<DateTime<Utc>> {
        let length = grace.until.signed_duration_since(grace.from).max(TimeDelta::zero());
        let last = grace.until.checked_sub_signed(part(length, LAST_PART).min(LAST_BEFORE))?;
        if now >= last {
            return None;
        }
        let doubled = 2_i32.checked_pow(attempts.saturating_sub(1)).and_then(|n| self.first.checked_mul(n));
        let longest = self.longest.min(part(length, ATTEMPTS_AT_LEAST));
        let wait = doubled.unwrap_or(longest).min(longest);
        let wait = jittered(wait, self.jitter_percent, random).max(TimeDelta::seconds(1));
        let next = now.checked_add_signed(wait)?;
        Some(next.min(last))
    }
}

fn part(of: TimeDelta, parts: i32) -> TimeDelta {
    of.checked_div(parts).unwrap_or_default()
}

/// `wait`, longer or shorter by up to `percent` hundredths.
fn jittered(wait: TimeDelta, percent: u8, random: u32) -> TimeDelta {
    let widest = i64::from(percent.min(100)).saturating_mul(10);
    let span = widest.saturating_mul(2).saturating_add(1);
    // In thousandths, from -widest to +widest.
    let by = i64::from(random).checked_rem(span).unwrap_or_default().saturating_sub(widest);
    let seconds = wait.num_seconds();
    let shift = seconds.saturating_mul(by).checked_div(1_000).unwrap_or_default();
    TimeDelta::try_seconds(seconds.saturating_add(shift)).unwrap_or(wait)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCHEDULE: RetrySchedule =
        RetrySchedule { first: TimeDelta::hours(1), longest: TimeDelta::hours(24), jitter_percent: 20 };

    fn t(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn grace(seconds: i64) -> GraceWindow {
        GraceWindow { from: t(0), until: t(seconds) }
    }

    /// Of the numbers that decide jitter, the one that means none.
    const CALM: u32 = 200;

    #[test]
    fn waits_double_up_to_the_longest_and_the_last_one_ends_before_grace_does() {
        let week = grace(7 * 86_400);
        let mut at = t(0);
        let mut waits = Vec::new();
        for attempt in 1.. {
            let Some(next) = SCHEDULE.next(attempt, at, week, CALM) else { break };
            waits.push((next - at).num_minutes());
            at = next;
        }
        // The longest is an eighth of a week here, 21 hours.
        assert_eq!(waits[..6], [60, 120, 240, 480, 960, 1260]);
        assert_eq!(at, t(7 * 86_400 - 600));
    }

    #[test]
    fn the_shortest_grace_has_room_for_several_attempts() {
        let hour = grace(3_600);
        let mut at = t(0);
        let tries = (1..).map_while(|n| {
            at = SCHEDULE.next(n, at, hour, CALM)?;
            Some(at)
        });
        let tries: Vec<_> = tries.collect();
        assert!(tries.len() >= 8, "{tries:?}");
        assert_eq!(tries.last(), Some(&t(3_600 - 72)));
    }

    #[test]
    fn the_smaller_of_balance_and_allowance_says_how_long_it_lasts() {
        let left = |balance: u64, allowance: U256| {
            let runway = Runway::new(U256::from(balance), allowance, BaseUnits::new(30), t(0));
            (runway.renewals, runway.limited_by)
        };
        assert_eq!(left(89, U256::MAX), (2, ChargeFailure::Balance));
        assert_eq!(left(89, U256::from(29)), (0, ChargeFailure::Allowance));
        let endless = Runway::new(U256::MAX, U256::MAX, BaseUnits::new(1), t(0));
        assert_eq!(endless.renewals, Runway::MOST);
    }

    #[test]
    fn jitter_reaches_both_ways_and_no_further() {
        let year = grace(366 * 86_400);
        let at = |random| (SCHEDULE.next(1, t(0), year, random).unwrap() - t(0)).num_seconds();
        assert_eq!((at(0), at(CALM), at(400)), (2_880, 3_600, 4_320));
    }

    proptest! {
        #[test]
        fn the_next_attempt_is_later_than_this_one_and_within_grace(
            attempts in 1_u32.., now in 0_i64..10_000_000, from in 0_i64..10_000_000, length in 0_i64..10_000_000,
            random: u32, jitter_percent: u8, first in 0_i64..1_000_000, longest in 0_i64..1_000_000,
        ) {
            let schedule = RetrySchedule {
                first: TimeDelta::seconds(first), longest: TimeDelta::seconds(longest), jitter_percent,
            };
            let window = GraceWindow { from: t(from), until: t(from + length) };
            if let Some(next) = schedule.next(attempts, t(now), window, random) {
                prop_assert!(next > t(now) && next < window.until);
            } else {
                prop_assert!(t(now) >= t(from + length) - TimeDelta::minutes(10));
            }
        }
    }
}
