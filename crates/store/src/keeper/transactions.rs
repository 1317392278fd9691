//! What the keeper has signed.

use alloy_primitives::B256;
use dues_domain::{
    chain::{BlockRef, OnchainSubscriptionId},
    ids::RelayIntentId,
    relay::RelayRefusal,
};
use sqlx::Connection as _;

use super::KeeperLead;
use crate::{StoreError, convert};

/// A transaction that is about to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKeeperTransaction {
    /// Its hash.
    pub hash: B256,
    /// The signer's count that it takes.
    pub nonce: u64,
    /// 0 for the first of its nonce, and one more for each that replaces another.
    pub replacement: u32,
    /// As it is sent.
    pub raw: Vec<u8>,
    /// The subscriptions that it charges.
    pub onchain_ids: Vec<OnchainSubscriptionId>,
    /// The intent that it carries instead.
    pub relay: Option<RelayIntentId>,
    /// The most gas that it may use.
    pub gas_limit: u64,
    /// The most wei per unit of gas that it may cost.
    pub max_fee: u64,
    /// Of which so much is for whoever builds the block.
    pub priority_fee: u64,
    /// The head when it was signed.
    pub head_number: u64,
}

/// Where a transaction ended up, and what that took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinedAt {
    /// The block.
    pub block: BlockRef,
    /// Whether it was carried out. One that was not has paid for its gas nevertheless.
    pub succeeded: bool,
    /// Units of gas.
    pub gas_used: u64,
    /// Wei for each of them.
    pub gas_price: u64,
}

/// A transaction that still has to be looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeeperTransaction {
    /// What was signed.
    pub signed: NewKeeperTransaction,
    /// The block that it was last seen in.
    pub mined: Option<BlockRef>,
    /// Whether the ledger knows another block at that height.
    pub reorganised: bool,
    /// Whether that height is final.
    pub is_final: bool,
}

impl KeeperLead {
    /// Everything of this signer that is in no final block, by nonce, the replaced ones before their replacements.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn unsettled(&mut self) -> Result<Vec<KeeperTransaction>, StoreError> {
        sqlx::query!(
            r#"SELECT t.hash, t.nonce, t.replacement, t.raw, t.onchain_ids, t.relay_intent_id, t.gas_limit, t.max_fee,
                      t.priority_fee, t.head_number, t.block_number, t.block_hash,
                      (b.hash IS NOT NULL AND b.hash <> t.block_hash) AS "reorganised!",
                      coalesce(t.block_number <= c.final_number, false) AS "is_final!"
               FROM ledger.keeper_transactions t
               LEFT JOIN ledger.chain_checkpoints c ON (c.chain_id, c.contract) = (t.chain_id, t.contract)
               LEFT JOIN ledger.chain_blocks b ON (b.chain_id, b.contract, b.number) = (t.chain_id, t.contract, t.block_number)
               WHERE t.chain_id = $1 AND t.signer = $2 AND t.status IN ('open', 'mined')
               ORDER BY t.nonce, t.replacement"#,
            self.chain_id,
            self.signer,
        )
        .fetch_all(&mut self.connection)
        .await?
        .into_iter()
        .map(|row| {
            let ids = row.onchain_ids.into_iter().map(convert::unsigned).collect::<Result<Vec<_>, _>>()?;
            let signed = NewKeeperTransaction {
                hash: convert::hash(&row.hash)?,
                nonce: convert::unsigned(row.nonce)?,
                replacement: convert::unsigned(row.replacement)?,
                raw: row.raw,
                onchain_ids: ids,
                relay: row.relay_intent_id.map(RelayIntentId::from_uuid),
                gas_limit: convert::unsigned(row.gas_limit)?,
                max_fee: convert::unsigned(row.max_fee)?,
                priority_fee: convert::unsigned(row.priority_fee)?,
                head_number: convert::unsigned(row.head_number)?,
            };
            let mined = row.block_number.zip(row.block_hash);
            let mined = mined.map(|(number, hash)| convert::block_ref(number, &hash)).transpose()?;
            Ok(KeeperTransaction { signed, mined, reorganised: row.reorganised, is_final: row.is_final })
        })
        .collect()
    }

    /// Records a transaction that is going to be sent, and the intent in it as under way. Durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Database`], also where one was recorded as the same replacement of the same nonce;
    /// [`StoreError::Inconsistent`] where its intent does not wait to be sent.
    pub async fn record(&mut self, new: &NewKeeperTransaction) -> Result<(), StoreError> {
        let ids = new.onchain_ids.iter().map(|id| convert::to_i64(*id)).collect::<Result<Vec<_>, _>>()?;
        let mut tx = self.connection.begin().await?;
        sqlx::query!(
            "INSERT INTO ledger.keeper_transactions (hash, chain_id, contract, signer, nonce, replacement, raw, onchain_ids,
                                                     gas_limit, max_fee, priority_fee, head_number, relay_intent_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            new.hash.as_slice(),
            self.chain_id,
            self.contract,
            self.signer,
            convert::to_i64(new.nonce)?,
            convert::unsigned::<_, i32>(new.replacement)?,
            new.raw,
            &ids,
            convert::to_i64(new.gas_limit)?,
            convert::to_i64(new.max_fee)?,
            convert::to_i64(new.priority_fee)?,
            convert::to_i64(new.head_number)?,
            new.relay.map(RelayIntentId::as_uuid),
        )
        .execute(&mut *tx)
        .await?;
        if let Some(id) = new.relay {
            let taken = sqlx::query!(
                "UPDATE ledger.relay_intents
                 SET status = 'sending', tx_hash = $2, gas_limit = $3, sent_at = coalesce(sent_at, now()),
                     updated_at = now()
                 WHERE id = $1 AND status IN ('queued', 'sending')",
                id.as_uuid(),
                new.hash.as_slice(),
                convert::to_i64(new.gas_limit)?,
            )
            .execute(&mut *tx)
            .await?
            .rows_affected();
            if taken != 1 {
                return Err(StoreError::Inconsistent("an intent was to be sent that does not wait for it"));
            }
        }
        tx.commit().await?;
        Ok(())
    }

    /// Notes that a transaction is in a block, and what came of the intent in it; gives whether it was not known to be in
    /// any. `refusal` is why it was not carried out, where that matters.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn mined(
        &mut self,
        hash: B256,
        at: &MinedAt,
        refusal: Option<RelayRefusal>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.connection.begin().await?;
        let before = sqlx::query_scalar!(
            r#"UPDATE ledger.keeper_transactions t
               SET status = 'mined', block_number = $2, block_hash = $3, succeeded = $4, gas_used = $5, gas_price = $6,
                   updated_at = now()
               FROM (SELECT hash, status FROM ledger.keeper_transactions WHERE hash = $1 FOR UPDATE) before
               WHERE t.hash = before.hash RETURNING before.status"#,
            hash.as_slice(),
            convert::to_i64(at.block.number)?,
            at.block.hash.as_slice(),
            at.succeeded,
            convert::to_i64(at.gas_used)?,
            convert::to_i64(at.gas_price)?,
        )
        .fetch_one(&mut *tx)
        .await?;
        let refusal = refusal.unwrap_or(RelayRefusal::Reverted);
        sqlx::query!(
            "UPDATE ledger.relay_intents r
             SET status = CASE WHEN $4 THEN 'mined' ELSE 'refused' END, reason = CASE WHEN $4 THEN NULL ELSE $7 END,
                 tx_hash = $1, block_number = $2, block_hash = $3, gas_used = $5, gas_price = $6, updated_at = now()
             FROM ledger.keeper_transactions t
             WHERE t.hash = $1 AND r.id = t.relay_intent_id
               AND (r.status IN ('sending', 'mined')
                    -- It reverted in a block that is gone, and is carried out in this one.
                    OR r.status = 'refused' AND r.tx_hash IS NOT NULL AND NOT EXISTS (
                        SELECT FROM ledger.relay_intents o
                        WHERE (o.chain_id, o.contract, o.payer, o.nonce) = (r.chain_id, r.contract, r.payer, r.nonce)
                          AND o.status IN ('queued', 'sending', 'mined')))",
            hash.as_slice(),
            convert::to_i64(at.block.number)?,
            at.block.hash.as_slice(),
            at.succeeded,
            convert::to_i64(at.gas_used)?,
            convert::to_i64(at.gas_price)?,
            refusal.as_str(),
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(before == "open")
    }

    /// Notes that a transaction is in no block any more.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn reopened(&mut self, hash: B256) -> Result<(), StoreError> {
        let mut tx = self.connection.begin().await?;
        sqlx::query!(
            "UPDATE ledger.keeper_transactions
             SET status = 'open', block_number = NULL, block_hash = NULL, succeeded = NULL, gas_used = NULL,
                 gas_price = NULL, updated_at = now()
             WHERE hash = $1 AND status = 'mined'",
            hash.as_slice(),
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "UPDATE ledger.relay_intents r
             SET status = 'sending', block_number = NULL, block_hash = NULL, gas_used = NULL, gas_price = NULL,
                 updated_at = now()
             FROM ledger.keeper_transactions t
             WHERE t.hash = $1 AND r.id = t.relay_intent_id AND r.status = 'mined'",
            hash.as_slice(),
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Notes that the nonce `nonce` is used up for good: by the transaction of ours that is in a block, if there is one,
    /// or by somebody else's. An intent that was to have it waits for another one.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn settled(&mut self, nonce: u64) -> Result<(), StoreError> {
        let mut tx = self.connection.begin().await?;
        sqlx::query!(
            "UPDATE ledger.keeper_transactions
             SET status = CASE status WHEN 'mined' THEN 'final' ELSE 'superseded' END, updated_at = now()
             WHERE chain_id = $1 AND signer = $2 AND nonce = $3 AND status IN ('open', 'mined')",
            self.chain_id,
            self.signer,
            convert::to_i64(nonce)?,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "UPDATE ledger.relay_intents r
             SET status = 'queued', sent_at = NULL, tx_hash = NULL, gas_limit = NULL, updated_at = now()
             WHERE r.status = 'sending' AND r.id IN (
                 SELECT relay_intent_id FROM ledger.keeper_transactions
                 WHERE chain_id = $1 AND signer = $2 AND nonce = $3 AND status = 'superseded')",
            self.chain_id,
            self.signer,
            convert::to_i64(nonce)?,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}
