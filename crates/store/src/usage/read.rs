//! Reading what was used, without any lock.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use dues_domain::{calendar::Span, ids::AccountId, usage::Usage};

use uuid::Uuid;

use super::{UsageStore, rows::WindowRow};
use crate::{StoreError, convert};

/// A window that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedWindow {
    /// When.
    pub window: Span,
    /// Requests.
    pub requests: ClosedMeter,
    /// Tokens.
    pub tokens: ClosedMeter,
}

/// What one meter counted in a window that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedMeter {
    /// Used.
    pub used: u64,
    /// The part that was not included.
    pub overage: u64,
    /// Used as well, beyond a reservation and beyond the hard limit.
    pub excess: u64,
}

/// What was used on one UTC day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayStats {
    /// The day.
    pub day: NaiveDate,
    /// Requests.
    pub requests: u64,
    /// Conversations.
    pub conversations: u64,
    /// Tokens.
    pub tokens: u64,
}

impl UsageStore {
    /// The counters of `account` as they are at `now`: without what reservations held whose time is over. The window may
    /// be over, too; [`Usage::at`] gives the one that runs.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn usage(&self, account: AccountId, now: DateTime<Utc>) -> Result<Usage, StoreError> {
        let usages = self.usages(&[account], now).await?;
        Ok(usages.first().copied().unwrap_or(Usage::NONE))
    }

    /// The same of each of `accounts`, in their order.
    ///
    /// # Errors
    /// As [`usage`](Self::usage).
    pub async fn usages(&self, accounts: &[AccountId], now: DateTime<Utc>) -> Result<Vec<Usage>, StoreError> {
        let ids: Vec<Uuid> = accounts.iter().map(|account| account.as_uuid()).collect();
        let rows = sqlx::query!(
            r#"SELECT w.account_id, w.started_at, w.ended_at, w.requests_used, w.tokens_used, w.requests_reserved,
                      w.tokens_reserved, w.requests_excess, w.tokens_excess, w.requests_included, w.tokens_included,
                      w.hold_expires_at, coalesce(over.requests, 0) AS "over_requests!",
                      coalesce(over.tokens, 0) AS "over_tokens!"
               FROM usage.windows w
               LEFT JOIN LATERAL (
                   SELECT sum(r.requests) AS requests, sum(r.tokens) AS tokens FROM usage.reservations r
                   WHERE r.account_id = w.account_id AND r.state = 'held' AND r.expires_at <= $2
               ) AS over ON w.hold_expires_at <= $2
               WHERE w.account_id = ANY ($1)"#,
            &ids,
            now,
        )
        .fetch_all(&self.pool)
        .await?;
        let mut found = HashMap::with_capacity(rows.len());
        for row in rows {
            let window = WindowRow {
                account_id: row.account_id,
                started_at: row.started_at,
                ended_at: row.ended_at,
                requests_used: row.requests_used,
                tokens_used: row.tokens_used,
                requests_reserved: row.requests_reserved.saturating_sub(row.over_requests),
                tokens_reserved: row.tokens_reserved.saturating_sub(row.over_tokens),
                requests_excess: row.requests_excess,
                tokens_excess: row.tokens_excess,
                requests_included: row.requests_included,
                tokens_included: row.tokens_included,
                hold_expires_at: row.hold_expires_at,
            };
            found.insert(window.account_id, window.usage()?);
        }
        Ok(ids.iter().map(|id| found.get(id).copied().unwrap_or(Usage::NONE)).collect())
    }

    /// The newest `limit` windows of `account` that were closed, newest first. The last one that ran may be over without
    /// being among them: it is closed when something is used in the next one.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn closed_windows(
        &self,
        account: AccountId,
        limit: u32,
    ) -> Result<Vec<ClosedWindow>, StoreError> {
        sqlx::query!(
            r#"SELECT started_at, ended_at, requests_used, tokens_used, requests_excess, tokens_excess,
                      requests_overage AS "requests_overage!", tokens_overage AS "tokens_overage!"
               FROM usage.closed_windows WHERE account_id = $1 ORDER BY started_at DESC LIMIT $2"#,
            account.as_uuid(),
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            let meter = |used, overage, excess| {
                Ok::<_, StoreError>(ClosedMeter {
                    used: convert::unsigned(used)?,
                    overage: convert::unsigned(overage)?,
                    excess: convert::unsigned(excess)?,
                })
            };
            Ok(ClosedWindow {
                window: Span { start: row.started_at, end: row.ended_at },
                requests: meter(row.requests_used, row.requests_overage, row.requests_excess)?,
                tokens: meter(row.tokens_used, row.tokens_overage, row.tokens_excess)?,
            })
        })
        .collect()
    }

    /// What `account` used on each day from `from` to `to`, both included; days without anything are left out.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn days(
        &self,
        account: AccountId,
        from: NaiveDate,
        to: NaiveDate,
    ) -> Result<Vec<DayStats>, StoreError> {
        sqlx::query!(
            "SELECT day, requests, conversations, tokens FROM usage.stats
             WHERE account_id = $1 AND day BETWEEN $2 AND $3 ORDER BY day",
            account.as_uuid(),
            from,
            to,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(DayStats {
                day: row.day,
                requests: convert::unsigned(row.requests)?,
                conversations: convert::unsigned(row.conversations)?,
                tokens: convert::unsigned(row.tokens)?,
            })
        })
        .collect()
    }
}

impl From<Usage> for ClosedWindow {
    fn from(usage: Usage) -> Self {
        let meter = |counter: dues_domain::usage::Counter| ClosedMeter {
            used: counter.used,
            overage: counter.overage(),
            excess: counter.excess,
        };
        Self { window: usage.window, requests: meter(usage.requests), tokens: meter(usage.tokens) }
    }
}
