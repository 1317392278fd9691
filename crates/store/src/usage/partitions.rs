//! Partitions of events: made ahead, and dropped when nobody needs them any more.

use std::time::Duration;

use chrono::{DateTime, Months, NaiveDate, TimeDelta, Utc};
use sqlx::PgPool;

use super::{UsageStore, rows};
use crate::{StoreError, convert};

/// Reservations that are removed in one statement.
const REMOVED_AT_ONCE: i64 = 5_000;
/// Between two of them, others have their turn.
const PAUSE: Duration = Duration::from_millis(100);

/// For how long what was used is kept in detail. Windows and daily statistics are kept for ever.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Whole months of events before the one that runs; at least 1, as an event may be repeated that long.
    pub event_months: u32,
    /// How long reservations are kept after their end.
    pub reservations: TimeDelta,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Partitions that were made.
    pub made: u64,
    /// Partitions that were dropped.
    pub dropped: u64,
    /// Reservations that were removed.
    pub reservations: u64,
}

/// Makes the partition of a month, where there is none.
pub(super) async fn make(pool: &PgPool, month: NaiveDate) -> Result<bool, StoreError> {
    let made =
        sqlx::query_scalar!(r#"SELECT usage.make_partition($1) AS "made!""#, month).fetch_one(pool).await?;
    Ok(made)
}

impl UsageStore {
    /// Makes the partitions of this month and of the next, drops those that are older than `retention` says, and removes
    /// reservations that ended long ago. Safe to do from several processes at once, at any time.
    ///
    /// # Errors
    /// [`StoreError::Database`]; the next time goes on from there.
    pub async fn tidy(&self, now: DateTime<Utc>, retention: Retention) -> Result<Tidied, StoreError> {
        let mut tidied = Tidied::default();
        let this = rows::month(now);
        for month in [Some(this), this.checked_add_months(Months::new(1))].into_iter().flatten() {
            tidied.made = tidied.made.saturating_add(make(&self.pool, month).await?.into());
        }
        if let Some(before) = this.checked_sub_months(Months::new(retention.event_months.max(1))) {
            let dropped =
                sqlx::query_scalar!(r#"SELECT usage.drop_partitions_before($1) AS "dropped!""#, before)
                    .fetch_one(&self.pool)
                    .await?;
            tidied.dropped = convert::unsigned(dropped)?;
        }
        if let Some(before) = now.checked_sub_signed(retention.reservations) {
            loop {
                let removed = sqlx::query!(
                    "DELETE FROM usage.reservations WHERE ctid = ANY (ARRAY(
                         SELECT ctid FROM usage.reservations WHERE state <> 'held' AND ended_at < $1
                         ORDER BY ended_at LIMIT $2))",
                    before,
                    REMOVED_AT_ONCE,
                )
                .execute(&self.pool)
                .await?
                .rows_affected();
                tidied.reservations = tidied.reservations.saturating_add(removed);
                if removed < REMOVED_AT_ONCE.unsigned_abs() {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(tidied)
    }
}
