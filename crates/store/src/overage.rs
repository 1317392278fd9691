//! What overage can be charged to.

use alloy_primitives::B256;
use chrono::{DateTime, Utc};
use dues_domain::{
    calendar::Interval,
    chain::{ChainSource, OnchainSubscriptionId},
    ids::AccountId,
    money::BaseUnits,
};

use crate::{Store, StoreError, TransactionStatus, convert};

/// A subscription that usage can be charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Billable {
    /// The contract's number.
    pub onchain_id: OnchainSubscriptionId,
    /// From where its periods are counted.
    pub anchor: DateTime<Utc>,
    /// How long they are.
    pub interval: Interval,
    /// How long a period that is over can still be charged to, in seconds.
    pub grace_seconds: i64,
    /// The most that may be charged to one period.
    pub usage_cap: BaseUnits,
}

impl Store {
    /// The subscription of `account` on `source` that the last instant before `end` was paid by, with a usage cap; the
    /// dearest, where there are several.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn billable_at(
        &self,
        account: AccountId,
        source: ChainSource,
        end: DateTime<Utc>,
    ) -> Result<Option<Billable>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT s.onchain_id AS "onchain_id!", s.anchor, cp.interval_unit, cp.interval_count, cp.grace_seconds,
                      cp.usage_cap::text AS "usage_cap!"
               FROM ledger.subscriptions s JOIN ledger.chain_plans cp USING (chain_id, contract, onchain_plan_id)
               WHERE s.account_id = $1 AND s.chain_id = $2 AND s.contract = $3 AND s.confirmed AND s.ended_at IS NULL
                 AND s.anchor < $4 AND s.paid_through >= $4 AND cp.usage_cap > 0
               ORDER BY cp.price DESC, s.onchain_id LIMIT 1"#,
            account.as_uuid(),
            convert::to_i64(source.chain_id)?,
            source.contract.as_slice(),
            end,
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            Ok(Billable {
                onchain_id: convert::unsigned(row.onchain_id)?,
                anchor: row.anchor,
                interval: Interval {
                    unit: convert::unit(&row.interval_unit)?,
                    count: convert::unsigned(row.interval_count)?,
                },
                grace_seconds: row.grace_seconds,
                usage_cap: convert::base_units(&row.usage_cap)?,
            })
        })
        .transpose()
    }

    /// Whether `account` has a subscription on any chain that the time before `end` can be charged to, now or once it is paid.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn may_be_billable_at(
        &self,
        account: AccountId,
        end: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar!(
            r#"SELECT EXISTS (
                   SELECT FROM ledger.subscriptions s JOIN ledger.chain_plans cp USING (chain_id, contract, onchain_plan_id)
                   WHERE s.account_id = $1 AND s.confirmed AND s.ended_at IS NULL AND s.anchor < $2 AND cp.usage_cap > 0
               ) AS "exists!""#,
            account.as_uuid(),
            end,
        )
        .fetch_one(&self.pool)
        .await?)
    }

    /// How the usage charge with `key` stands in the ledger; `None` where it is not there, or is there no more.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn usage_charge_status(
        &self,
        source: ChainSource,
        key: B256,
    ) -> Result<Option<TransactionStatus>, StoreError> {
        let status = sqlx::query_scalar!(
            "SELECT status FROM ledger.transactions
             WHERE chain_id = $1 AND contract = $2 AND kind = 'usage' AND spent_key = $3 AND status <> 'failed'",
            convert::to_i64(source.chain_id)?,
            source.contract.as_slice(),
            key.as_slice(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(status.map(|status| {
            if status == "completed" { TransactionStatus::Completed } else { TransactionStatus::Pending }
        }))
    }
}
