//! What the merchant does on a chain, as the ledger knows it: never money, which the indexer alone writes.
//!
//! An act is written down before it is sent, with the very bytes, and in the audit log in the same transaction. What
//! became of it is written down when it is known. A [`MerchantLead`] is the only one that acts with its signer, as the
//! nonces of an account are a single sequence.

use alloy_primitives::{Address, B256};
use chrono::{DateTime, Utc};
use dues_domain::{
    chain::{BlockRef, ChainSource, OnchainSubscriptionId},
    ids::{AccountId, ActId, SubscriptionId, TransactionId},
    money::BaseUnits,
};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::{Actor, Store, StoreError, TransactionKind, audit, convert, keeper::MinedAt};

/// An act that is about to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAct {
    /// Our id.
    pub id: ActId,
    /// What is done: `refund`.
    pub action: String,
    /// To what: `subscription:7`.
    pub subject: String,
    /// How much, where that is part of it.
    pub amount: Option<BaseUnits>,
    /// The contract's idempotency key, where it has one.
    pub key: Option<B256>,
    /// The signer's count that its transaction takes.
    pub nonce: u64,
    /// The transaction's hash.
    pub hash: B256,
    /// The transaction as it is sent.
    pub raw: Vec<u8>,
}

/// An act that may still change: in no block yet, or in one that is not final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedAct {
    /// What was recorded.
    pub act: NewAct,
    /// When.
    pub at: DateTime<Utc>,
    /// Where it was last seen.
    pub mined: Option<MinedAt>,
}

/// A subscription that an act is about, as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActSubject {
    /// Our id.
    pub subscription: SubscriptionId,
    /// Whose it is.
    pub account: AccountId,
    /// Which contract on which chain.
    pub source: ChainSource,
    /// The contract's number; none while it is not on the chain.
    pub onchain_id: Option<OnchainSubscriptionId>,
    /// The money movement that was named, where it was one.
    pub movement: Option<Movement>,
}

/// A money movement that an act is about, or that it has brought about before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// Our id.
    pub id: TransactionId,
    /// What it is for.
    pub kind: TransactionKind,
    /// How much moved.
    pub amount: BaseUnits,
    /// The transaction on the chain.
    pub tx_hash: B256,
    /// Whether it was reorganised away.
    pub failed: bool,
}

/// The one who acts with a signer on a chain, as long as its connection lasts.
#[derive(Debug)]
pub struct MerchantLead {
    connection: PgConnection,
    source: ChainSource,
    chain_id: i64,
    signer: Address,
}

impl Store {
    /// The subscription that `id` names, or that of the money movement that it names.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn act_subject(&self, id: Uuid) -> Result<Option<ActSubject>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT s.id, s.account_id, s.chain_id, s.contract, s.onchain_id, t.id AS "movement?", t.kind AS "kind?",
                      t.status AS "status?", t.amount::text AS "amount?", t.tx_hash AS "tx_hash?"
               FROM ledger.subscriptions s LEFT JOIN ledger.transactions t ON t.subscription_id = s.id AND t.id = $1
               WHERE s.id = $1 OR s.id = (SELECT subscription_id FROM ledger.transactions WHERE id = $1)"#,
            id,
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let movement = match (row.movement, row.kind, row.status, row.amount, row.tx_hash) {
            (Some(id), Some(kind), Some(status), Some(amount), Some(hash)) => {
                Some(movement(id, &kind, &status, &amount, &hash)?)
            }
            _ => None,
        };
        Ok(Some(ActSubject {
            subscription: SubscriptionId::from_uuid(row.id),
            account: AccountId::from_uuid(row.account_id),
            source: convert::chain_source(row.chain_id, &row.contract)?,
            onchain_id: row.onchain_id.map(convert::unsigned).transpose()?,
            movement,
        }))
    }

    /// Our id of the subscription that the contract at `source` calls `id`, and whose it is.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn subscription_at(
        &self,
        source: ChainSource,
        id: OnchainSubscriptionId,
    ) -> Result<Option<(SubscriptionId, AccountId)>, StoreError> {
        let row = sqlx::query!(
            "SELECT id, account_id FROM ledger.subscriptions WHERE chain_id = $1 AND contract = $2 AND onchain_id = $3",
            convert::to_i64(source.chain_id)?,
            source.contract.as_slice(),
            convert::to_i64(id)?,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| (SubscriptionId::from_uuid(row.id), AccountId::from_uuid(row.account_id))))
    }

    /// What the idempotency key `key` was spent for, as far as the ledger knows.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn movement_by_key(
        &self,
        source: ChainSource,
        id: OnchainSubscriptionId,
        key: B256,
    ) -> Result<Option<Movement>, StoreError> {
        sqlx::query!(
            r#"SELECT t.id, t.kind, t.status, t.amount::text AS "amount!", t.tx_hash
               FROM ledger.transactions t JOIN ledger.subscriptions s ON s.id = t.subscription_id
               WHERE s.chain_id = $1 AND s.contract = $2 AND s.onchain_id = $3 AND t.spent_key = $4
                 AND t.status <> 'failed'"#,
            convert::to_i64(source.chain_id)?,
            source.contract.as_slice(),
            convert::to_i64(id)?,
            key.as_slice(),
        )
        .fetch_optional(&self.pool)
        .await?
        .map(|row| movement(row.id, &row.kind, &row.status, &row.amount, &row.tx_hash))
        .transpose()
    }

    /// The last refund of exactly `amount` of a subscription, by whomever: its transaction, and when. One that the
    /// indexer has not seen yet counts, too, where it was recorded here.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn equal_refund(
        &self,
        source: ChainSource,
        id: OnchainSubscriptionId,
        amount: BaseUnits,
    ) -> Result<Option<(B256, DateTime<Utc>)>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT tx_hash AS "tx_hash!", at AS "at!" FROM (
                   SELECT t.tx_hash, t.occurred_at AS at
                   FROM ledger.transactions t JOIN ledger.subscriptions s ON s.id = t.subscription_id
                   WHERE s.chain_id = $1 AND s.contract = $2 AND s.onchain_id = $3 AND t.kind = 'refund'
                     AND t.status <> 'failed' AND t.amount = ($4::text)::numeric
                   UNION ALL
                   SELECT a.tx_hash, a.created_at FROM ledger.merchant_acts a
                   WHERE a.chain_id = $1 AND a.contract = $2 AND a.subject = $5 AND a.action = 'refund'
                     AND a.amount = ($4::text)::numeric AND a.status = 'mined' AND a.succeeded
                     -- Unless the indexer has been there, and knows better.
                     AND NOT EXISTS (SELECT FROM ledger.chain_checkpoints c WHERE c.chain_id = $1 AND c.contract = $2
                                     AND c.final_number >= a.block_number)
               ) refunds ORDER BY at DESC LIMIT 1"#,
            convert::to_i64(source.chain_id)?,
            source.contract.as_slice(),
            convert::to_i64(id)?,
            convert::numeric(amount),
            format!("subscription:{id}"),
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok((convert::hash(&row.tx_hash)?, row.at))).transpose()
    }

    /// What was begun on a chain, with whichever key, and is in no block yet. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn open_acts(&self, source: ChainSource) -> Result<Vec<(Address, RecordedAct)>, StoreError> {
        let acts = sqlx::query!(
            r#"SELECT id, signer, action, subject, amount::text, spent_key, nonce, tx_hash, raw, created_at
               FROM ledger.merchant_acts WHERE chain_id = $1 AND contract = $2 AND status = 'open'
               ORDER BY created_at, id"#,
            convert::to_i64(source.chain_id)?,
            source.contract.as_slice(),
        );
        let rows = acts.fetch_all(&self.pool).await?;
        rows.into_iter()
            .map(|row| {
                let act = NewAct {
                    id: ActId::from_uuid(row.id),
                    action: row.action,
                    subject: row.subject,
                    amount: row.amount.as_deref().map(convert::base_units).transpose()?,
                    key: row.spent_key.as_deref().map(convert::hash).transpose()?,
                    nonce: convert::unsigned(row.nonce)?,
                    hash: convert::hash(&row.tx_hash)?,
                    raw: row.raw,
                };
                Ok((convert::address(&row.signer)?, RecordedAct { act, at: row.created_at, mined: None }))
            })
            .collect()
    }

    /// Takes the lead in acting with `signer` on a chain, or gives `None` where another process does, a keeper included.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn lead_merchant(
        &self,
        source: ChainSource,
        signer: Address,
    ) -> Result<Option<MerchantLead>, StoreError> {
        // The same name as the keeper's: whoever uses one account for both uses one sequence of nonces.
        let of_signer = format!("dues:keeper-signer:{}:{signer}", source.chain_id);
        let Some(connection) = self.exclusive(&[&of_signer], &[]).await? else { return Ok(None) };
        Ok(Some(MerchantLead { connection, source, chain_id: convert::to_i64(source.chain_id)?, signer }))
    }
}

impl MerchantLead {
    /// Everything of this signer that is in no final block, by nonce.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn unsettled(&mut self) -> Result<Vec<RecordedAct>, StoreError> {
        sqlx::query!(
            r#"SELECT a.id, a.action, a.subject, a.amount::text, a.spent_key, a.nonce, a.tx_hash, a.raw, a.created_at,
                      a.block_number, a.block_hash, a.succeeded, a.gas_used, a.gas_price
               FROM ledger.merchant_acts a
               LEFT JOIN ledger.chain_checkpoints c ON (c.chain_id, c.contract) = (a.chain_id, a.contract)
               WHERE a.chain_id = $1 AND a.contract = $2 AND a.signer = $3
                 AND (a.status = 'open' OR a.status = 'mined' AND a.block_number > coalesce(c.final_number, -1))
               ORDER BY a.nonce, a.created_at"#,
            self.chain_id,
            self.source.contract.as_slice(),
            self.signer.as_slice(),
        )
        .fetch_all(&mut self.connection)
        .await?
        .into_iter()
        .map(|row| {
            let act = NewAct {
                id: ActId::from_uuid(row.id),
                action: row.action,
                subject: row.subject,
                amount: row.amount.as_deref().map(convert::base_units).transpose()?,
                key: row.spent_key.as_deref().map(convert::hash).transpose()?,
                nonce: convert::unsigned(row.nonce)?,
                hash: convert::hash(&row.tx_hash)?,
                raw: row.raw,
            };
            let mined = match (row.block_number, row.block_hash, row.succeeded, row.gas_used, row.gas_price) {
                (Some(number), Some(hash), Some(succeeded), Some(gas_used), Some(gas_price)) => Some(MinedAt {
                    block: convert::block_ref(number, &hash)?,
                    succeeded,
                    gas_used: convert::unsigned(gas_used)?,
                    gas_price: convert::unsigned(gas_price)?,
                }),
                _ => None,
            };
            Ok(RecordedAct { act, at: row.created_at, mined })
        })
        .collect()
    }

    /// Records an act that is going to be sent, `detail` of it in the audit log. Durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::ActUnresolved`] where another signer has begun the same, [`StoreError::Database`].
    pub async fn record(&mut self, act: &NewAct, detail: &Value) -> Result<(), StoreError> {
        let about = self.about(act, "intended", detail);
        let mut tx = self.connection.begin().await?;
        sqlx::query!(
            "INSERT INTO ledger.merchant_acts (id, chain_id, contract, signer, action, subject, amount, spent_key, nonce,
                                               tx_hash, raw)
             VALUES ($1, $2, $3, $4, $5, $6, ($7::text)::numeric, $8, $9, $10, $11)",
            act.id.as_uuid(),
            self.chain_id,
            self.source.contract.as_slice(),
            self.signer.as_slice(),
            act.action,
            act.subject,
            act.amount.map(convert::numeric),
            act.key.as_ref().map(B256::as_slice),
            convert::to_i64(act.nonce)?,
            act.hash.as_slice(),
            act.raw,
        )
        .execute(&mut *tx)
        .await?;
        write_down(&mut tx, act, about).await?;
        Ok(tx.commit().await?)
    }

    /// Notes that an act is in a block.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn mined(&mut self, act: &NewAct, at: &MinedAt) -> Result<(), StoreError> {
        let outcome = if at.succeeded { "done" } else { "reverted" };
        let BlockRef { number, hash } = at.block;
        let detail = json!({ "block_number": number, "block_hash": hash, "gas_used": at.gas_used });
        let about = self.about(act, outcome, &detail);
        let mut tx = self.connection.begin().await?;
        sqlx::query!(
            "UPDATE ledger.merchant_acts
             SET status = 'mined', block_number = $2, block_hash = $3, succeeded = $4, gas_used = $5, gas_price = $6,
                 updated_at = now()
             WHERE id = $1",
            act.id.as_uuid(),
            convert::to_i64(number)?,
            hash.as_slice(),
            at.succeeded,
            convert::to_i64(at.gas_used)?,
            convert::to_i64(at.gas_price)?,
        )
        .execute(&mut *tx)
        .await?;
        write_down(&mut tx, act, about).await?;
        Ok(tx.commit().await?)
    }

    /// Notes that an act that was in a block is in none any more.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn reopened(&mut self, act: &NewAct) -> Result<(), StoreError> {
        let about = self.about(act, "reorganised", &Value::Null);
        let mut tx = self.connection.begin().await?;
        sqlx::query!(
            "UPDATE ledger.merchant_acts
             SET status = 'open', block_number = NULL, block_hash = NULL, succeeded = NULL, gas_used = NULL,
                 gas_price = NULL, updated_at = now()
             WHERE id = $1",
            act.id.as_uuid(),
        )
        .execute(&mut *tx)
        .await?;
        write_down(&mut tx, act, about).await?;
        Ok(tx.commit().await?)
    }

    /// Notes that another transaction has taken an act's nonce: it never comes into a block.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn superseded(&mut self, act: &NewAct) -> Result<(), StoreError> {
        let about = self.about(act, "superseded", &Value::Null);
        let mut tx = self.connection.begin().await?;
        sqlx::query!(
            "UPDATE ledger.merchant_acts SET status = 'superseded', updated_at = now() WHERE id = $1 AND status = 'open'",
            act.id.as_uuid(),
        )
        .execute(&mut *tx)
        .await?;
        write_down(&mut tx, act, about).await?;
        Ok(tx.commit().await?)
    }

    /// Gives the lead back.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn release(self) -> Result<(), StoreError> {
        Ok(self.connection.close().await?)
    }

    /// What the audit log says of an act.
    fn about(&self, act: &NewAct, outcome: &str, detail: &Value) -> Value {
        json!({
            "act": act.id,
            "outcome": outcome,
            "chain_id": self.source.chain_id,
            "contract": self.source.contract,
            "signer": self.signer,
            "amount": act.amount.map(|amount| amount.to_string()),
            "key": act.key,
            "nonce": act.nonce,
            "tx_hash": act.hash,
            "detail": detail,
        })
    }
}

async fn write_down(tx: &mut PgConnection, act: &NewAct, about: Value) -> Result<(), StoreError> {
    audit::record(tx, Actor::Operator, &format!("merchant.{}", act.action), &act.subject, about).await
}

fn movement(
    id: Uuid,
    kind: &str,
    status: &str,
    amount: &str,
    tx_hash: &[u8],
) -> Result<Movement, StoreError> {
    Ok(Movement {
        id: TransactionId::from_uuid(id),
        kind: kind.parse()?,
        amount: convert::base_units(amount)?,
        tx_hash: convert::hash(tx_hash)?,
        failed: status == "failed",
    })
}
