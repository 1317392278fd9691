//! Taking back what a reorganisation took back.

use std::collections::BTreeSet;

use alloy_primitives::U256;
use chrono::{DateTime, Utc};
use dues_domain::{
    chain::{BlockRef, EventPosition, OnchainPlanId, OnchainSubscriptionId},
    ids::{AccountId, SubscriptionId},
};

use super::{Step, StoredEvent};
use crate::{StoreError, convert};

/// A subscription that lost its events, or some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TouchedSubscription {
    /// The contract's number for it before the reorganisation.
    pub onchain_id: OnchainSubscriptionId,
    /// Its row.
    pub id: SubscriptionId,
    /// The account that it is for.
    pub account: AccountId,
    /// What is left of its history, in order.
    pub events: Vec<StoredEvent>,
}

/// A plan that lost its events, or some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TouchedPlan {
    /// The contract's number for it before the reorganisation.
    pub id: OnchainPlanId,
    /// What is left of its history, in order.
    pub events: Vec<StoredEvent>,
}

/// What a reorganisation touched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unwound {
    /// Subscriptions.
    pub subscriptions: Vec<TouchedSubscription>,
    /// Plans.
    pub plans: Vec<TouchedPlan>,
}

impl Step<'_> {
    /// Takes the events above `fork` back: debits and refunds fail with the reason `reorganised` (and revive if they
    /// are mined again), subscriptions without any event left are detached from the chain. Gives everything that was
    /// touched, for the caller to fold again what has events left; [`forget_above`](Self::forget_above) then removes
    /// what nothing refers to any more.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] where `fork` is below finality, or where an event's subscription has no row.
    pub async fn unwind(&mut self, fork: BlockRef) -> Result<Unwound, StoreError> {
        let fork = convert::to_i64(fork.number)?;
        self.refuse_below_finality(fork).await?;
        let removed = sqlx::query!(
            r#"DELETE FROM ledger.chain_events WHERE chain_id = $1 AND contract = $2 AND block_number > $3
               RETURNING onchain_id, CASE WHEN onchain_id IS NULL THEN topics[2] END AS plan_topic"#,
            self.source.chain_id,
            self.source.contract,
            fork,
        )
        .fetch_all(&mut *self.tx)
        .await?;
        let ids: BTreeSet<i64> = removed.iter().filter_map(|event| event.onchain_id).collect();
        let plans: BTreeSet<Vec<u8>> = removed.into_iter().filter_map(|event| event.plan_topic).collect();

        self.fail_movements(fork).await?;
        let mut unwound = Unwound::default();
        for id in ids {
            unwound.subscriptions.push(self.subscription_history(id).await?);
        }
        for topic in plans {
            unwound.plans.push(self.plan_history(&topic).await?);
        }
        let detached: Vec<_> = unwound
            .subscriptions
            .iter()
            .filter(|touched| touched.events.is_empty())
            .map(|touched| touched.id.as_uuid())
            .collect();
        sqlx::query!(
            "UPDATE ledger.subscriptions SET onchain_id = NULL, onchain_plan_id = NULL, scheduled_plan_id = NULL,
                 status = 'incomplete', confirmed = false, periods = 0, paid_through = anchor, plan_changes = 0,
                 cancel_at_period_end = false, cancel_scheduled_by = NULL, ended_at = NULL, ended_by = NULL,
                 updated_at = now()
             WHERE id = ANY($1)",
            &detached,
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(unwound)
    }

    async fn refuse_below_finality(&mut self, fork: i64) -> Result<(), StoreError> {
        let final_number = sqlx::query_scalar!(
            "SELECT final_number FROM ledger.chain_checkpoints WHERE chain_id = $1 AND contract = $2",
            self.source.chain_id,
            self.source.contract,
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        if final_number.is_some_and(|final_number| fork < final_number) {
            return Err(StoreError::Inconsistent("a fork point is below finality"));
        }
        Ok(())
    }

    async fn fail_movements(&mut self, fork: i64) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE ledger.transactions SET status = 'failed', failure_reason = 'reorganised', updated_at = now()
             WHERE chain_id = $1 AND contract = $2 AND block_number > $3 AND status = 'pending'",
            self.source.chain_id,
            self.source.contract,
            fork,
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    async fn subscription_history(&mut self, onchain_id: i64) -> Result<TouchedSubscription, StoreError> {
        let row = sqlx::query!(
            "SELECT id, account_id FROM ledger.subscriptions
             WHERE chain_id = $1 AND contract = $2 AND onchain_id = $3",
            self.source.chain_id,
            self.source.contract,
            onchain_id,
        )
        .fetch_optional(&mut *self.tx)
        .await?
        .ok_or(StoreError::Inconsistent("an event's subscription has no row"))?;
        let events = sqlx::query_as!(
            EventRow,
            "SELECT block_number, block_hash, block_time, log_index, tx_hash, topics, data FROM ledger.chain_events
             WHERE chain_id = $1 AND contract = $2 AND onchain_id = $3 ORDER BY block_number, log_index",
            self.source.chain_id,
            self.source.contract,
            onchain_id,
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Ok(TouchedSubscription {
            onchain_id: convert::unsigned(onchain_id)?,
            id: SubscriptionId::from_uuid(row.id),
            account: AccountId::from_uuid(row.account_id),
            events: events.into_iter().map(StoredEvent::try_from).collect::<Result<_, _>>()?,
        })
    }

    async fn plan_history(&mut self, topic: &[u8]) -> Result<TouchedPlan, StoreError> {
        let id = U256::from_be_bytes(convert::hash(topic)?.0);
        let events = sqlx::query_as!(
            EventRow,
            "SELECT block_number, block_hash, block_time, log_index, tx_hash, topics, data FROM ledger.chain_events
             WHERE chain_id = $1 AND contract = $2 AND topics[2] = $3 AND onchain_id IS NULL
             ORDER BY block_number, log_index",
            self.source.chain_id,
            self.source.contract,
            topic,
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Ok(TouchedPlan {
            id: convert::unsigned(id)?,
            events: events.into_iter().map(StoredEvent::try_from).collect::<Result<_, _>>()?,
        })
    }

    /// Removes plans and blocks above `fork`, once every touched subscription is folded again: until then one may still
    /// be on such a plan.
    ///
    /// # Errors
    /// [`StoreError::Database`]; [`StoreError::Inconsistent`] where a subscription is still on such a plan.
    pub async fn forget_above(&mut self, fork: BlockRef) -> Result<(), StoreError> {
        let fork = convert::to_i64(fork.number)?;
        sqlx::query!(
            "DELETE FROM ledger.chain_plans WHERE chain_id = $1 AND contract = $2 AND block_number > $3",
            self.source.chain_id,
            self.source.contract,
            fork,
        )
        .execute(&mut *self.tx)
        .await?;
        sqlx::query!(
            "UPDATE ledger.chain_plans SET retired_block = NULL
             WHERE chain_id = $1 AND contract = $2 AND retired_block > $3",
            self.source.chain_id,
            self.source.contract,
            fork,
        )
        .execute(&mut *self.tx)
        .await?;
        sqlx::query!(
            "DELETE FROM ledger.chain_blocks WHERE chain_id = $1 AND contract = $2 AND number > $3",
            self.source.chain_id,
            self.source.contract,
            fork,
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}

/// A raw event as it is stored.
pub(crate) struct EventRow {
    pub(crate) block_number: i64,
    pub(crate) block_hash: Vec<u8>,
    pub(crate) block_time: DateTime<Utc>,
    pub(crate) log_index: i64,
    pub(crate) tx_hash: Vec<u8>,
    pub(crate) topics: Vec<Vec<u8>>,
    pub(crate) data: Vec<u8>,
}

impl TryFrom<EventRow> for StoredEvent {
    type Error = StoreError;

    fn try_from(row: EventRow) -> Result<Self, StoreError> {
        let at = EventPosition {
            block: convert::block_ref(row.block_number, &row.block_hash)?,
            log_index: convert::unsigned(row.log_index)?,
            tx_hash: convert::hash(&row.tx_hash)?,
            timestamp: row.block_time,
        };
        let topics = row.topics.iter().map(|topic| convert::hash(topic)).collect::<Result<_, _>>()?;
        Ok(Self { at, topics, data: row.data })
    }
}
