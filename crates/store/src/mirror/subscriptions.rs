//! Mirrored subscriptions: the fold of their events, and the account that each is for.

use alloy_primitives::Address;
use dues_domain::{
    chain::{BlockRef, EventPosition, OnchainSubscriptionId},
    fold::{ChainSubscription, End},
    ids::{AccountId, SubscriptionId},
};
use serde_json::json;

use super::Step;
use crate::{StoreError, convert};

/// A subscription's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirroredSubscription {
    /// Our id.
    pub id: SubscriptionId,
    /// The account that it is for.
    pub account: AccountId,
    /// The fold of its events.
    pub state: ChainSubscription,
}

impl Step<'_> {
    /// The subscription that the contract calls `id`.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn subscription(
        &mut self,
        id: OnchainSubscriptionId,
    ) -> Result<Option<MirroredSubscription>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT id, account_id, onchain_plan_id AS "plan!", scheduled_plan_id, payer, reference, anchor, periods,
                      paid_through, confirmed, cancel_scheduled_by, ended_at, ended_by, plan_changes,
                      evidence_block_number, evidence_block_hash, evidence_log_index, evidence_tx, evidence_at
               FROM ledger.subscriptions WHERE chain_id = $1 AND contract = $2 AND onchain_id = $3"#,
            self.source.chain_id,
            self.source.contract,
            convert::to_i64(id)?,
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let ended_by = row.ended_by.as_deref().map(convert::party).transpose()?;
        let state = ChainSubscription {
            id,
            plan: convert::unsigned(row.plan)?,
            scheduled_plan: row.scheduled_plan_id.map(convert::unsigned).transpose()?,
            payer: convert::address(&row.payer)?,
            reference: convert::hash(&row.reference)?,
            anchor: row.anchor,
            periods: convert::unsigned(row.periods)?,
            paid_through: row.paid_through,
            confirmed: row.confirmed,
            cancel_scheduled_by: row.cancel_scheduled_by.as_deref().map(convert::party).transpose()?,
            ended: row.ended_at.zip(ended_by).map(|(at, by)| End { at, by }),
            plan_changes: convert::unsigned(row.plan_changes)?,
            evidence: EventPosition {
                block: BlockRef {
                    number: convert::unsigned(row.evidence_block_number)?,
                    hash: convert::hash(&row.evidence_block_hash)?,
                },
                log_index: convert::unsigned(row.evidence_log_index)?,
                tx_hash: convert::hash(&row.evidence_tx)?,
                timestamp: row.evidence_at,
            },
            // A step begins between transactions.
            unpaid_change: None,
        };
        let (id, account) = (SubscriptionId::from_uuid(row.id), AccountId::from_uuid(row.account_id));
        Ok(Some(MirroredSubscription { id, account, state }))
    }

    /// Writes a subscription that just began. Its account is the one that its reference names, else the one that
    /// its payer's wallet belongs to, else a new one for that wallet: nothing that was paid is ever dropped.
    ///
    /// `ordinal` counts beginnings of the same payer, plan and reference within the transaction, from 0. A row that a reorganisation left
    /// without its event takes it back, and keeps its id and its account.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn begin_subscription(
        &mut self,
        state: ChainSubscription,
        ordinal: u32,
    ) -> Result<MirroredSubscription, StoreError> {
        let account = self.resolve_account(&state).await?;
        let row = sqlx::query!(
            "INSERT INTO ledger.subscriptions
                 (id, account_id, rail, status, chain_id, contract, onchain_id, onchain_plan_id, payer, reference,
                  origin_tx, origin_plan_id, origin_ordinal, anchor, periods, paid_through, confirmed,
                  cancel_at_period_end, evidence_block_number, evidence_block_hash, evidence_log_index, evidence_tx,
                  evidence_at)
             VALUES ($1, $2, 'chain', $3, $4, $5, $6, $7, $8, $9, $10, $7, $11, $12, $13, $14, $15, false, $16, $17,
                     $18, $10, $19)
             ON CONFLICT ON CONSTRAINT subscriptions_origin_key DO UPDATE SET
                 onchain_id = excluded.onchain_id, onchain_plan_id = excluded.onchain_plan_id
             RETURNING id, account_id",
            SubscriptionId::generate().as_uuid(),
            account.as_uuid(),
            state.recorded_status().as_str(),
            self.source.chain_id,
            self.source.contract,
            convert::to_i64(state.id)?,
            i64::from(state.plan),
            state.payer.as_slice(),
            state.reference.as_slice(),
            state.evidence.tx_hash.as_slice(),
            convert::unsigned::<_, i32>(ordinal)?,
            state.anchor,
            i32::from(state.periods),
            state.paid_through,
            state.confirmed,
            convert::to_i64(state.evidence.block.number)?,
            state.evidence.block.hash.as_slice(),
            convert::to_i64(state.evidence.log_index)?,
            state.evidence.timestamp,
        )
        .fetch_one(&mut *self.tx)
        .await?;
        let (id, account) = (SubscriptionId::from_uuid(row.id), AccountId::from_uuid(row.account_id));
        let subscription = MirroredSubscription { id, account, state };
        self.save_subscription(&subscription).await?;
        Ok(subscription)
    }

    /// Writes a subscription's state after an event.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] where its row is gone.
    pub async fn save_subscription(&mut self, subscription: &MirroredSubscription) -> Result<(), StoreError> {
        let state = &subscription.state;
        let saved = sqlx::query!(
            "UPDATE ledger.subscriptions SET
                 status = $2, onchain_plan_id = $3, scheduled_plan_id = $4, anchor = $5, periods = $6,
                 paid_through = $7, confirmed = $8, cancel_at_period_end = $9, cancel_scheduled_by = $10,
                 ended_at = $11, ended_by = $12, plan_changes = $13, evidence_block_number = $14,
                 evidence_block_hash = $15, evidence_log_index = $16, evidence_tx = $17, evidence_at = $18,
                 updated_at = now()
             WHERE id = $1",
            subscription.id.as_uuid(),
            state.recorded_status().as_str(),
            i64::from(state.plan),
            state.scheduled_plan.map(i64::from),
            state.anchor,
            i32::from(state.periods),
            state.paid_through,
            state.confirmed,
            state.cancel_at_period_end(),
            state.cancel_scheduled_by.map(convert::party_name),
            state.ended.map(|end| end.at),
            state.ended.map(|end| convert::party_name(end.by)),
            convert::unsigned::<_, i32>(state.plan_changes)?,
            convert::to_i64(state.evidence.block.number)?,
            state.evidence.block.hash.as_slice(),
            convert::to_i64(state.evidence.log_index)?,
            state.evidence.tx_hash.as_slice(),
            state.evidence.timestamp,
        )
        .execute(&mut *self.tx)
        .await?;
        if saved.rows_affected() == 1 {
            Ok(())
        } else {
            Err(StoreError::Inconsistent("a subscription's row is gone"))
        }
    }

    async fn resolve_account(&mut self, state: &ChainSubscription) -> Result<AccountId, StoreError> {
        if let Some(named) = AccountId::from_reference(state.reference) {
            let known =
                sqlx::query!("SELECT id FROM ledger.accounts WHERE id = $1 FOR KEY SHARE", named.as_uuid())
                    .fetch_optional(&mut *self.tx)
                    .await?;
            if known.is_some() {
                return Ok(named);
            }
        }
        if let Some(owner) = self.wallet_owner(state.payer).await? {
            return Ok(owner);
        }
        self.account_for_wallet(state.payer).await
    }

    async fn wallet_owner(&mut self, wallet: Address) -> Result<Option<AccountId>, StoreError> {
        let owner = sqlx::query_scalar!(
            "SELECT account_id FROM ledger.wallets WHERE address = $1 FOR KEY SHARE",
            wallet.as_slice()
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        Ok(owner.map(AccountId::from_uuid))
    }

    async fn account_for_wallet(&mut self, wallet: Address) -> Result<AccountId, StoreError> {
        let id = AccountId::generate();
        sqlx::query!("INSERT INTO ledger.accounts (id, origin) VALUES ($1, 'wallet')", id.as_uuid())
            .execute(&mut *self.tx)
            .await?;
        // Where the platform links this wallet at the same moment, the insert fails, the step is undone, and the
        // next try finds the owner.
        sqlx::query!(
            "INSERT INTO ledger.wallets (address, account_id, proof) VALUES ($1, $2, 'payment')",
            wallet.as_slice(),
            id.as_uuid(),
        )
        .execute(&mut *self.tx)
        .await?;
        sqlx::query!(
            "INSERT INTO ledger.audit_log (actor, action, subject, detail)
             VALUES ('indexer', 'account.create_for_wallet', $1, $2)",
            id.to_string(),
            json!({ "wallet": wallet }),
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(id)
    }
}
