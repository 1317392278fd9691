//! Taking back what a reorganisation took back.

use dues_domain::chain::{BlockRef, EventPosition, OnchainSubscriptionId};
use dues_domain::ids::{AccountId, SubscriptionId};

use super::{Step, StoredEvent};
use crate::{StoreError, convert};

/// A subscription that lost its events, or some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// The contract's number for it before the reorganisation.
    pub onchain_id: OnchainSubscriptionId,
    /// Its row.
    pub id: SubscriptionId,
    /// The account that it is for.
    pub account: AccountId,
    /// What is left of its history, in order.
    pub events: Vec<StoredEvent>,
}

impl Step<'_> {
    /// Takes back everything above `fork`: events, blocks and plans are removed, debits fail with the reason
    /// `reorganised` (and revive if their transaction is mined again), subscriptions without any event left are
    /// detached from the chain. Gives every subscription that was touched; those with events left are for the
    /// caller to fold again.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] where `fork` is below finality, or where an event's subscription has no row.
    pub async fn unwind(&mut self, fork: BlockRef) -> Result<Vec<Touched>, StoreError> {
        let fork = convert::to_i64(fork.number)?;
        self.refuse_below_finality(fork).await?;
        let touched = sqlx::query_scalar!(
            r#"DELETE FROM ledger.chain_events WHERE chain_id = $1 AND contract = $2 AND block_number > $3
               RETURNING onchain_id"#,
            self.source.chain_id,
            self.source.contract,
            fork,
        )
        .fetch_all(&mut *self.tx)
        .await?;
        let mut ids: Vec<i64> = touched.into_iter().flatten().collect();
        ids.sort_unstable();
        ids.dedup();

        self.fail_charges(fork).await?;
        let mut histories = Vec::with_capacity(ids.len());
        for id in ids {
            histories.push(self.history(id).await?);
        }
        let detached: Vec<_> =
            histories.iter().filter(|t| t.events.is_empty()).map(|t| t.id.as_uuid()).collect();
        sqlx::query!(
            "UPDATE ledger.subscriptions SET onchain_id = NULL, onchain_plan_id = NULL, status = 'incomplete',
                 confirmed = false, periods = 0, paid_through = anchor, cancel_at_period_end = false,
                 ended_at = NULL, updated_at = now()
             WHERE id = ANY($1)",
            &detached,
        )
        .execute(&mut *self.tx)
        .await?;
        self.forget_chain_above(fork).await?;
        Ok(histories)
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

    async fn fail_charges(&mut self, fork: i64) -> Result<(), StoreError> {
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

    async fn history(&mut self, onchain_id: i64) -> Result<Touched, StoreError> {
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
        let events = sqlx::query!(
            "SELECT block_number, block_hash, block_time, log_index, tx_hash, topics, data FROM ledger.chain_events
             WHERE chain_id = $1 AND contract = $2 AND onchain_id = $3 ORDER BY block_number, log_index",
            self.source.chain_id,
            self.source.contract,
            onchain_id,
        )
        .fetch_all(&mut *self.tx)
        .await?
        .into_iter()
        .map(|event| {
            Ok(StoredEvent {
                at: EventPosition {
                    block: convert::block_ref(event.block_number, &event.block_hash)?,
                    log_index: convert::unsigned(event.log_index)?,
                    tx_hash: convert::hash(&event.tx_hash)?,
                    timestamp: event.block_time,
                },
                topics: event.topics.iter().map(|t| convert::hash(t)).collect::<Result<_, _>>()?,
                data: event.data,
            })
        })
        .collect::<Result<_, StoreError>>()?;
        Ok(Touched {
            onchain_id: convert::unsigned(onchain_id)?,
            id: SubscriptionId::from_uuid(row.id),
            account: AccountId::from_uuid(row.account_id),
            events,
        })
    }

    async fn forget_chain_above(&mut self, fork: i64) -> Result<(), StoreError> {
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
