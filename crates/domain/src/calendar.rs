//! Billing periods and quota windows.
//!
//! Period *n* ends at *anchor + n intervals*, always computed from the anchor and never from the end before it:
//! a subscription of 31 January is due on 28 (or 29) February and again on 31 March. The contract computes the
//! same instants (`contracts/src/libraries/Periods.sol`).

use chrono::{DateTime, Datelike, Days, Months, Utc};
use serde::{Deserialize, Serialize};

/// What an interval is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntervalUnit {
    /// 86,400 seconds.
    Day,
    /// A calendar month in UTC, clamped to the month's last day.
    Month,
}

/// How long one period is: a number of days or of calendar months.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interval {
    /// Days or months.
    pub unit: IntervalUnit,
    /// How many of them, at least 1.
    pub count: u16,
}

/// An instant beyond what a calendar can name (the year 262,142).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the instant is outside the calendar")]
pub struct OutsideCalendar;

impl Interval {
    /// One calendar month: the length of every quota window.
    pub const MONTH: Self = Self { unit: IntervalUnit::Month, count: 1 };
    /// Twelve calendar months.
    pub const YEAR: Self = Self { unit: IntervalUnit::Month, count: 12 };

    /// The end of period `n` of a subscription anchored at `anchor`; `n = 0` is the anchor itself.
    ///
    /// # Errors
    /// [`OutsideCalendar`] where the instant has no name.
    pub fn period_end(self, anchor: DateTime<Utc>, n: u32) -> Result<DateTime<Utc>, OutsideCalendar> {
        let steps = u32::from(self.count).checked_mul(n).ok_or(OutsideCalendar)?;
        match self.unit {
            IntervalUnit::Day => anchor.checked_add_days(Days::new(u64::from(steps))),
            IntervalUnit::Month => anchor.checked_add_months(Months::new(steps)),
        }
        .ok_or(OutsideCalendar)
    }

    /// Period `n`, from 1, of a subscription anchored at `anchor`; it ends at [`LATEST`] at the latest.
    #[must_use]
    pub fn period(self, anchor: DateTime<Utc>, n: u32) -> Span {
        let end = |n| self.period_end(anchor, n).unwrap_or(LATEST).min(LATEST);
        Span { start: end(n.saturating_sub(1)), end: end(n) }
    }
}

/// The last instant that the ledger and the API can name: the end of the year 9999, where RFC 3339 ends. A payer may
/// pay for tens of thousands of years; whatever lies beyond is as good as this, and must not stop anything.
pub const LATEST: DateTime<Utc> = match DateTime::from_timestamp(253_402_300_799, 0) {
    Some(instant) => instant,
    None => DateTime::<Utc>::UNIX_EPOCH,
};

/// The instant `seconds` after 1970, [`LATEST`] at most.
#[must_use]
pub fn instant(seconds: u64) -> DateTime<Utc> {
    let instant = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    instant.unwrap_or(LATEST).min(LATEST)
}

/// A half-open span of time, `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First instant inside.
    pub start: DateTime<Utc>,
    /// First instant after.
    pub end: DateTime<Utc>,
}

/// The quota window around `now`: months counted from `anchor`, in both directions (the anchor of a trial lies
/// at its end, so a trialing account is in a window before the anchor).
///
/// # Errors
/// [`OutsideCalendar`] where a bound has no name.
pub fn quota_window(anchor: DateTime<Utc>, now: DateTime<Utc>) -> Result<Span, OutsideCalendar> {
    let month = |at: DateTime<Utc>| {
        i64::from(at.year()).checked_mul(12).and_then(|m| m.checked_add(i64::from(at.month0())))
    };
    let guess = month(now)
        .zip(month(anchor))
        .and_then(|(now, anchor)| now.checked_sub(anchor))
        .ok_or(OutsideCalendar)?;
    // The guess is the window that starts in the calendar month of `now`. Where that start is later than `now`
    // (the 10th against an anchor on the 31st), the window is the one before.
    let start = shift_months(anchor, guess)?;
    let n = if start <= now { guess } else { guess.checked_sub(1).ok_or(OutsideCalendar)? };
    let next = n.checked_add(1).ok_or(OutsideCalendar)?;
    Ok(Span { start: shift_months(anchor, n)?, end: shift_months(anchor, next)? })
}

fn shift_months(anchor: DateTime<Utc>, months: i64) -> Result<DateTime<Utc>, OutsideCalendar> {
    let distance = Months::new(u32::try_from(months.unsigned_abs()).map_err(|_| OutsideCalendar)?);
    if months >= 0 { anchor.checked_add_months(distance) } else { anchor.checked_sub_months(distance) }
        .ok_or(OutsideCalendar)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_month_end_anchor_is_clamped_and_comes_back() {
        let anchor = at("2027-01-31T10:00:00Z");
        let ends: Vec<_> = (0..=3).map(|n| Interval::MONTH.period_end(anchor, n).unwrap()).collect();
        assert_eq!(
            ends,
            [anchor, at("2027-02-28T10:00:00Z"), at("2027-03-31T10:00:00Z"), at("2027-04-30T10:00:00Z")]
        );
    }

    #[test]
    fn a_leap_day_anchor_is_clamped_in_common_years_only() {
        let anchor = at("2028-02-29T00:00:00Z");
        assert_eq!(Interval::YEAR.period_end(anchor, 1), Ok(at("2029-02-28T00:00:00Z")));
        assert_eq!(Interval::YEAR.period_end(anchor, 4), Ok(at("2032-02-29T00:00:00Z")));
    }

    #[test]
    fn an_instant_without_a_name_is_an_error() {
        assert_eq!(Interval::YEAR.period_end(at("2027-01-01T00:00:00Z"), u32::MAX), Err(OutsideCalendar));
    }

    #[test]
    fn a_quota_window_is_half_open_at_both_edges() {
        let anchor = at("2027-01-31T10:00:00Z");
        let february = Span { start: at("2027-02-28T10:00:00Z"), end: at("2027-03-31T10:00:00Z") };
        assert_eq!(quota_window(anchor, february.start), Ok(february));
        assert_eq!(quota_window(anchor, february.end - TimeDelta::seconds(1)), Ok(february));
        assert_eq!(quota_window(anchor, february.end).unwrap().start, february.end);
    }

    #[test]
    fn a_trial_has_a_window_before_its_anchor() {
        let window = quota_window(at("2027-03-15T00:00:00Z"), at("2027-03-08T00:00:00Z"));
        assert_eq!(window, Ok(Span { start: at("2027-02-15T00:00:00Z"), end: at("2027-03-15T00:00:00Z") }));
    }

    #[test]
    fn an_instant_beyond_the_last_one_is_the_last_one() {
        assert_eq!(LATEST, at("9999-12-31T23:59:59Z"));
        assert_eq!(instant(1_800_000_000), at("2027-01-15T08:00:00Z"));
        for beyond in [253_402_300_800, u64::MAX] {
            assert_eq!(instant(beyond), LATEST);
        }
    }

    proptest! {
        #[test]
        fn every_instant_is_in_exactly_one_window(anchor in 0_i64..8_000_000_000, now in 0_i64..8_000_000_000) {
            let (anchor, now) = (DateTime::from_timestamp(anchor, 0).unwrap(), DateTime::from_timestamp(now, 0).unwrap());
            let window = quota_window(anchor, now).unwrap();
            prop_assert!(window.start <= now && now < window.end);
            prop_assert_eq!(quota_window(anchor, window.end).unwrap().start, window.end);
        }

        #[test]
        fn periods_never_shrink_or_overlap(anchor in 0_i64..8_000_000_000, count in 1_u16..=120, n in 0_u32..500) {
            let anchor = DateTime::from_timestamp(anchor, 0).unwrap();
            for unit in [IntervalUnit::Day, IntervalUnit::Month] {
                let interval = Interval { unit, count };
                let (start, end) = (interval.period_end(anchor, n).unwrap(), interval.period_end(anchor, n + 1).unwrap());
                let shortest = if unit == IntervalUnit::Day { 1 } else { 28 };
                prop_assert!(end - start >= TimeDelta::days(i64::from(count) * shortest));
            }
        }
    }
}
