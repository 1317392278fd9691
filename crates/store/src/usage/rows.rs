//! Between the counters' columns and the domain's types.

use chrono::{DateTime, Datelike as _, Months, NaiveDate, TimeDelta, Utc};
use dues_domain::{
    calendar::Span,
    ids::ReservationId,
    usage::{Counter, Meter, Meters, Quantity, Usage},
};
use uuid::Uuid;

use super::{Reservation, ReservationState, Settlement};
use crate::{StoreError, convert};

/// Clocks of several processes may be this far apart where a month begins.
const CLOCKS: TimeDelta = TimeDelta::hours(1);

/// A row of `usage.windows`.
#[derive(Debug)]
pub(super) struct WindowRow {
    pub(super) account_id: Uuid,
    pub(super) started_at: DateTime<Utc>,
    pub(super) ended_at: DateTime<Utc>,
    pub(super) requests_used: i64,
    pub(super) tokens_used: i64,
    pub(super) requests_reserved: i64,
    pub(super) tokens_reserved: i64,
    pub(super) requests_excess: i64,
    pub(super) tokens_excess: i64,
    pub(super) requests_included: Option<i64>,
    pub(super) tokens_included: Option<i64>,
    pub(super) hold_expires_at: Option<DateTime<Utc>>,
}

impl WindowRow {
    pub(super) fn usage(&self) -> Result<Usage, StoreError> {
        let counter = |used, reserved, excess, included: Option<i64>| {
            Ok::<_, StoreError>(Counter {
                used: convert::unsigned(used)?,
                reserved: convert::unsigned(reserved)?,
                excess: convert::unsigned(excess)?,
                included: included.map(convert::unsigned).transpose()?,
            })
        };
        Ok(Usage {
            window: Span { start: self.started_at, end: self.ended_at },
            requests: counter(
                self.requests_used,
                self.requests_reserved,
                self.requests_excess,
                self.requests_included,
            )?,
            tokens: counter(
                self.tokens_used,
                self.tokens_reserved,
                self.tokens_excess,
                self.tokens_included,
            )?,
        })
    }
}

/// A row of `usage.events`.
#[derive(Debug)]
pub(super) struct EventRow {
    pub(super) account_id: Uuid,
    pub(super) event_id: String,
    pub(super) occurred_at: DateTime<Utc>,
    pub(super) requests: i32,
    pub(super) tokens: i32,
    pub(super) conversations: i32,
    pub(super) window_ended_at: DateTime<Utc>,
    pub(super) requests_used: i64,
    pub(super) tokens_used: i64,
    pub(super) requests_limit: Option<i64>,
    pub(super) tokens_limit: Option<i64>,
    pub(super) requests_hard_limit: Option<i64>,
    pub(super) tokens_hard_limit: Option<i64>,
    pub(super) requests_reserved: Option<i64>,
    pub(super) tokens_reserved: Option<i64>,
    pub(super) requests_overage: Option<i64>,
    pub(super) tokens_overage: Option<i64>,
}

/// An event that was counted, with its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) occurred_at: DateTime<Utc>,
    pub(super) quantity: Quantity,
    pub(super) meters: Meters,
}

impl EventRow {
    pub(super) fn counted(&self) -> Result<Counted, StoreError> {
        let number = |number: Option<i64>| number.map(convert::unsigned).transpose();
        let meter = |used, limit, hard_limit, reserved, overage| {
            Ok::<_, StoreError>(Meter {
                limit: number(limit)?,
                hard_limit: number(hard_limit)?,
                used: convert::unsigned(used)?,
                reserved: number(reserved)?.unwrap_or(0),
                overage: number(overage)?.unwrap_or(0),
                resets_at: self.window_ended_at,
            })
        };
        Ok(Counted {
            occurred_at: self.occurred_at,
            quantity: quantity(self.requests, self.tokens, self.conversations)?,
            meters: Meters {
                requests: meter(
                    self.requests_used,
                    self.requests_limit,
                    self.requests_hard_limit,
                    self.requests_reserved,
                    self.requests_overage,
                )?,
                tokens: meter(
                    self.tokens_used,
                    self.tokens_limit,
                    self.tokens_hard_limit,
                    self.tokens_reserved,
                    self.tokens_overage,
                )?,
            },
        })
    }
}

/// A row of `usage.reservations`.
#[derive(Debug)]
pub(super) struct ReservationRow {
    pub(super) account_id: Uuid,
    pub(super) id: Uuid,
    pub(super) event_id: String,
    pub(super) requests: i32,
    pub(super) tokens: i32,
    pub(super) made_at: DateTime<Utc>,
    pub(super) expires_at: DateTime<Utc>,
    pub(super) state: String,
    pub(super) ended_at: Option<DateTime<Utc>>,
    pub(super) settled_requests: Option<i32>,
    pub(super) settled_tokens: Option<i32>,
    pub(super) settled_conversations: Option<i32>,
    pub(super) excess_requests: Option<i32>,
    pub(super) excess_tokens: Option<i32>,
}

impl TryFrom<ReservationRow> for Reservation {
    type Error = StoreError;

    fn try_from(row: ReservationRow) -> Result<Self, StoreError> {
        let settled = match (row.settled_requests, row.settled_tokens, row.settled_conversations) {
            (Some(requests), Some(tokens), Some(conversations)) => Some(Settlement {
                actual: quantity(requests, tokens, conversations)?,
                excess: quantity(
                    row.excess_requests.unwrap_or_default(),
                    row.excess_tokens.unwrap_or_default(),
                    0,
                )?,
            }),
            _ => None,
        };
        Ok(Self {
            id: ReservationId::from_uuid(row.id),
            event_id: row.event_id,
            quantity: quantity(row.requests, row.tokens, 0)?,
            made_at: row.made_at,
            expires_at: row.expires_at,
            state: match row.state.as_str() {
                "held" => ReservationState::Held,
                "settled" => ReservationState::Settled,
                "released" => ReservationState::Released,
                "expired" => ReservationState::Expired,
                _ => return Err(StoreError::Inconsistent("a reservation's state is unknown")),
            },
            ended_at: row.ended_at,
            settled,
        })
    }
}

fn quantity(requests: i32, tokens: i32, conversations: i32) -> Result<Quantity, StoreError> {
    Ok(Quantity {
        requests: convert::unsigned(requests)?,
        tokens: convert::unsigned(tokens)?,
        conversations: convert::unsigned(conversations)?,
    })
}

/// A quantity as PostgreSQL's `integer`.
pub(super) fn to_i32(number: u32) -> Result<i32, StoreError> {
    i32::try_from(number).map_err(|_| StoreError::Inconsistent("a quantity is beyond 31 bits"))
}

/// A limit as PostgreSQL's `bigint`.
pub(super) fn limit(limit: Option<u64>) -> Result<Option<i64>, StoreError> {
    limit.map(convert::to_i64).transpose()
}

/// What is nearly always nothing takes no room.
pub(super) fn unless_zero(number: u64) -> Result<Option<i64>, StoreError> {
    if number == 0 { Ok(None) } else { limit(Some(number)) }
}

/// The first day of the month of `at`.
pub(super) fn month(at: DateTime<Utc>) -> NaiveDate {
    let day = at.date_naive();
    day.with_day(1).unwrap_or(day)
}

/// The months in which an event may have been recorded that is reported at `now`: this one and the one before, and the
/// next one where another process's clock may be there already.
pub(super) fn months_around(now: DateTime<Utc>) -> Vec<NaiveDate> {
    let this = month(now);
    let ahead = now.checked_add_signed(CLOCKS).map(month);
    let mut months: Vec<_> =
        [this.checked_sub_months(Months::new(1)), Some(this), ahead].into_iter().flatten().collect();
    months.dedup();
    months
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_looked_for_in_this_month_and_the_one_before() {
        let months = |now: &str| {
            months_around(now.parse().unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(months("2027-03-31T10:00:00Z"), ["2027-02-01", "2027-03-01"]);
        assert_eq!(months("2027-01-01T00:00:00Z"), ["2026-12-01", "2027-01-01"]);
        assert_eq!(months("2026-12-31T23:30:00Z"), ["2026-11-01", "2026-12-01", "2027-01-01"]);
    }
}
