//! What was used beyond what was included: to be billed once its window is over, each window once.

use alloy_primitives::B256;
use chrono::{DateTime, Utc};
use dues_domain::{calendar::Span, ids::AccountId, usage::Usage};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{UsageStore, commit::keep_closed, rows::WindowRow};
use crate::{StoreError, convert};

/// A window that is over, with overage that is not billed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overage {
    /// Whose.
    pub account: AccountId,
    /// The window; its start names it.
    pub window: Span,
    /// Requests beyond what was included.
    pub requests: u64,
    /// Tokens beyond what was included.
    pub tokens: u64,
    /// The key that billing was begun with, where it was.
    pub key: Option<B256>,
}

/// How the billing of a window ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Billing {
    /// It was paid.
    Billed,
    /// It never will be.
    Waived,
}

impl UsageStore {
    /// The windows that are over at `now` and have overage that is neither billed nor waived; the longest over first, at most
    /// `limit` of them.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn unbilled_overage(&self, now: DateTime<Utc>, limit: u32) -> Result<Vec<Overage>, StoreError> {
        let mut tx = self.pool.begin().await?;
        close_windows(&mut tx, now, limit).await?;
        tx.commit().await?;
        sqlx::query!(
            r#"SELECT account_id, started_at, ended_at, requests_overage AS "requests!", tokens_overage AS "tokens!",
                      billing_key
               FROM usage.closed_windows WHERE billing IN ('due', 'charging') AND ended_at <= $1
               ORDER BY ended_at, account_id LIMIT $2"#,
            now,
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(Overage {
                account: AccountId::from_uuid(row.account_id),
                window: Span { start: row.started_at, end: row.ended_at },
                requests: convert::unsigned(row.requests)?,
                tokens: convert::unsigned(row.tokens)?,
                key: row.billing_key.as_deref().map(convert::hash).transpose()?,
            })
        })
        .collect()
    }

    /// Notes that the window of `account` that began at `started_at` is about to be billed with `key`, before it is tried.
    /// Gives the key to do it with: that of the first time, where there was one, so that it cannot be charged twice. `None`
    /// where there is nothing to bill, or not any more.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn begin_billing(
        &self,
        account: AccountId,
        started_at: DateTime<Utc>,
        key: B256,
        now: DateTime<Utc>,
    ) -> Result<Option<B256>, StoreError> {
        let key = sqlx::query_scalar!(
            r#"UPDATE usage.closed_windows
               SET billing_key = coalesce(billing_key, $3), billing = 'charging',
                   billing_changed_at = CASE billing WHEN 'due' THEN $4 ELSE billing_changed_at END
               WHERE account_id = $1 AND started_at = $2 AND billing IN ('due', 'charging')
               RETURNING billing_key AS "key!""#,
            account.as_uuid(),
            started_at,
            key.as_slice(),
            now,
        )
        .fetch_optional(&self.pool)
        .await?;
        key.as_deref().map(convert::hash).transpose()
    }

    /// Notes how the billing of a window ended; gives whether it had not ended before. Only what was begun can be billed.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn end_billing(
        &self,
        account: AccountId,
        started_at: DateTime<Utc>,
        billing: Billing,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let (billing, from) = match billing {
            Billing::Billed => ("billed", ["charging", "charging"]),
            Billing::Waived => ("waived", ["due", "charging"]),
        };
        let from = from.map(ToOwned::to_owned);
        let ended = sqlx::query!(
            "UPDATE usage.closed_windows SET billing = $3, billing_changed_at = $4
             WHERE account_id = $1 AND started_at = $2 AND billing = ANY ($5)",
            account.as_uuid(),
            started_at,
            billing,
            now,
            &from,
        )
        .execute(&self.pool)
        .await?;
        Ok(ended.rows_affected() > 0)
    }
}

/// Closes windows with overage that are over, of accounts that have used nothing since.
async fn close_windows(tx: &mut PgConnection, now: DateTime<Utc>, limit: u32) -> Result<(), StoreError> {
    let over = sqlx::query_as!(
        WindowRow,
        "SELECT account_id, started_at, ended_at, requests_used, tokens_used, requests_reserved, tokens_reserved,
                requests_excess, tokens_excess, requests_included, tokens_included, hold_expires_at
         FROM usage.windows WHERE overage AND ended_at <= $1 ORDER BY account_id LIMIT $2 FOR NO KEY UPDATE",
        now,
        i64::from(limit),
    )
    .fetch_all(&mut *tx)
    .await?;
    let closed = over.iter().map(|row| Ok((AccountId::from_uuid(row.account_id), row.usage()?)));
    let closed: Vec<(AccountId, Usage)> = closed.collect::<Result<_, StoreError>>()?;
    if closed.is_empty() {
        return Ok(());
    }
    keep_closed(tx, &closed).await?;
    // As `Usage::closed` has it: an empty window at the end of the one that was closed, with what is held.
    let accounts: Vec<Uuid> = closed.iter().map(|(account, _)| account.as_uuid()).collect();
    sqlx::query!(
        "UPDATE usage.windows SET started_at = ended_at, requests_used = 0, tokens_used = 0, requests_excess = 0,
             tokens_excess = 0, requests_included = 0, tokens_included = 0, overage = false
         WHERE account_id = ANY ($1)",
        &accounts,
    )
    .execute(tx)
    .await?;
    Ok(())
}
