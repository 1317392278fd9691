//! One step of the indexer: everything that it writes, in one transaction.

use std::collections::HashMap;

use alloy_primitives::Address;
use dues_domain::{
    calendar::Interval,
    chain::{BlockRef, EventPosition, OnchainPlan, OnchainPlanId},
};
use sqlx::PgTransaction;

use super::{Checkpoint, MirrorScope, Source};
use crate::{StoreError, convert};

/// An open step. Dropping it undoes everything; [`commit`](Self::commit) makes it so.
#[derive(Debug)]
pub struct Step<'a> {
    pub(super) tx: PgTransaction<'a>,
    pub(super) source: Source,
    pub(super) scope: MirrorScope,
}

impl Step<'_> {
    /// Makes the step durable.
    ///
    /// # Errors
    /// [`StoreError::Database`]; the step may or may not be durable then, and the checkpoint tells.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.tx.commit().await?)
    }

    /// Remembers blocks above finality.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn record_blocks(&mut self, blocks: &[BlockRef]) -> Result<(), StoreError> {
        let numbers = blocks.iter().map(|b| convert::to_i64(b.number)).collect::<Result<Vec<_>, _>>()?;
        let hashes: Vec<Vec<u8>> = blocks.iter().map(|b| b.hash.to_vec()).collect();
        sqlx::query!(
            "INSERT INTO ledger.chain_blocks (chain_id, contract, number, hash)
             SELECT $1, $2, number, hash FROM unnest($3::bigint[], $4::bytea[]) AS b (number, hash)",
            self.source.chain_id,
            self.source.contract,
            &numbers,
            &hashes,
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// The plans that are mirrored: those of our merchant.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn plans(&mut self) -> Result<HashMap<OnchainPlanId, OnchainPlan>, StoreError> {
        sqlx::query!(
            r#"SELECT onchain_plan_id, merchant, token, payee, price::text AS "price!", interval_unit, interval_count,
                      trial_seconds, grace_seconds, usage_cap::text AS "usage_cap!"
               FROM ledger.chain_plans WHERE chain_id = $1 AND contract = $2"#,
            self.source.chain_id,
            self.source.contract,
        )
        .fetch_all(&mut *self.tx)
        .await?
        .into_iter()
        .map(|row| {
            let plan = OnchainPlan {
                id: convert::unsigned(row.onchain_plan_id)?,
                merchant: convert::address(&row.merchant)?,
                token: convert::address(&row.token)?,
                payee: convert::address(&row.payee)?,
                price: convert::base_units(&row.price)?,
                interval: Interval {
                    unit: convert::unit(&row.interval_unit)?,
                    count: convert::unsigned(row.interval_count)?,
                },
                trial_seconds: convert::unsigned(row.trial_seconds)?,
                grace_seconds: convert::unsigned(row.grace_seconds)?,
                usage_cap: convert::base_units(&row.usage_cap)?,
            };
            Ok((plan.id, plan))
        })
        .collect()
    }

    /// Mirrors a plan of our merchant.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn record_plan(&mut self, plan: &OnchainPlan, at: EventPosition) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO ledger.chain_plans (chain_id, contract, onchain_plan_id, merchant, token, payee, price,
                                             interval_unit, interval_count, trial_seconds, grace_seconds, usage_cap,
                                             block_number)
             VALUES ($1, $2, $3, $4, $5, $6, ($7::text)::numeric, $8, $9, $10, $11, ($12::text)::numeric, $13)",
            self.source.chain_id,
            self.source.contract,
            i64::from(plan.id),
            plan.merchant.as_slice(),
            plan.token.as_slice(),
            plan.payee.as_slice(),
            convert::numeric(plan.price),
            convert::unit_name(plan.interval.unit),
            i32::from(plan.interval.count),
            i64::from(plan.trial_seconds),
            i64::from(plan.grace_seconds),
            convert::numeric(plan.usage_cap),
            convert::to_i64(at.block.number)?,
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Mirrors that a plan takes no new subscribers any more.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn retire_plan(&mut self, plan: OnchainPlanId, at: EventPosition) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE ledger.chain_plans SET retired_block = $4
             WHERE chain_id = $1 AND contract = $2 AND onchain_plan_id = $3",
            self.source.chain_id,
            self.source.contract,
            i64::from(plan),
            convert::to_i64(at.block.number)?,
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Mirrors who is paid for a plan.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn save_payee(&mut self, plan: OnchainPlanId, payee: Address) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE ledger.chain_plans SET payee = $4
             WHERE chain_id = $1 AND contract = $2 AND onchain_plan_id = $3",
            self.source.chain_id,
            self.source.contract,
            i64::from(plan),
            payee.as_slice(),
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Moves the checkpoint from `expected` to `next`: settles what has become final and forgets the blocks that
    /// cannot change any more.
    ///
    /// # Errors
    /// [`StoreError::CheckpointMoved`] where another writer moved it.
    pub async fn advance(
        &mut self,
        expected: Option<Checkpoint>,
        next: Checkpoint,
    ) -> Result<(), StoreError> {
        let (number, final_number) =
            (convert::to_i64(next.block.number)?, convert::to_i64(next.final_number)?);
        let moved = match expected {
            Some(from) => {
                sqlx::query!(
                    "UPDATE ledger.chain_checkpoints
                     SET block_number = $5, block_hash = $6, final_number = $7, updated_at = now()
                     WHERE chain_id = $1 AND contract = $2 AND block_number = $3 AND block_hash = $4",
                    self.source.chain_id,
                    self.source.contract,
                    convert::to_i64(from.block.number)?,
                    from.block.hash.as_slice(),
                    number,
                    next.block.hash.as_slice(),
                    final_number,
                )
                .execute(&mut *self.tx)
                .await?
            }
            None => {
                sqlx::query!(
                    "INSERT INTO ledger.chain_checkpoints
                         (chain_id, contract, block_number, block_hash, final_number, merchant, start_block)
                     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
                    self.source.chain_id,
                    self.source.contract,
                    number,
                    next.block.hash.as_slice(),
                    final_number,
                    self.scope.merchant.as_slice(),
                    convert::to_i64(self.scope.start_block)?,
                )
                .execute(&mut *self.tx)
                .await?
            }
        };
        if moved.rows_affected() != 1 {
            return Err(StoreError::CheckpointMoved);
        }
        self.settle(final_number).await
    }

    async fn settle(&mut self, final_number: i64) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE ledger.transactions SET status = 'completed', settled_at = now(), updated_at = now()
             WHERE chain_id = $1 AND contract = $2 AND status = 'pending' AND block_number <= $3",
            self.source.chain_id,
            self.source.contract,
            final_number,
        )
        .execute(&mut *self.tx)
        .await?;
        // The final block itself stays: it is the last possible fork point.
        sqlx::query!(
            "DELETE FROM ledger.chain_blocks WHERE chain_id = $1 AND contract = $2 AND number < $3",
            self.source.chain_id,
            self.source.contract,
            final_number,
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}
