//! Money movements, for reading.

use std::str::FromStr;

use alloy_primitives::{Address, B256};
use chrono::{DateTime, Utc};
use dues_domain::{
    calendar::Span,
    chain::{BlockRef, ChainSource},
    ids::{AccountId, SubscriptionId, TransactionId},
    money::{Asset, Money},
};

use crate::{Store, StoreError, convert};

/// Where a money movement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionStatus {
    /// In a block that may still be reorganised away.
    Pending,
    /// In a final block.
    Completed,
    /// Reorganised away and not mined again.
    Failed,
}

/// What money moved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionKind {
    /// From the payer, for periods.
    Charge,
    /// From the payer, for usage.
    Usage,
    /// Back to the payer.
    Refund,
}

impl FromStr for TransactionStatus {
    type Err = StoreError;

    fn from_str(name: &str) -> Result<Self, StoreError> {
        match name {
            "pending" => Ok(Self::Pending),
            "completed" => Ok(Self::Completed),
            "failed" => Ok(Self::Failed),
            _ => Err(StoreError::Inconsistent("a transaction's status is unknown")),
        }
    }
}

impl FromStr for TransactionKind {
    type Err = StoreError;

    fn from_str(name: &str) -> Result<Self, StoreError> {
        match name {
            "charge" => Ok(Self::Charge),
            "usage" => Ok(Self::Usage),
            "refund" => Ok(Self::Refund),
            _ => Err(StoreError::Inconsistent("a transaction's kind is unknown")),
        }
    }
}

/// One money movement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Our id.
    pub id: TransactionId,
    /// The subscription that it is for.
    pub subscription: SubscriptionId,
    /// What it is for.
    pub kind: TransactionKind,
    /// Where it stands.
    pub status: TransactionStatus,
    /// Why it failed, for people.
    pub failure_reason: Option<String>,
    /// How much moved.
    pub money: Money,
    /// The time that it pays for; none of a refund.
    pub period: Option<Span>,
    /// The merchant's idempotency key, of usage and refunds.
    pub key: Option<B256>,
    /// Which contract on which chain.
    pub source: ChainSource,
    /// Whose money it was: of a refund, the merchant's or an operator's.
    pub payer: Address,
    /// Who got it.
    pub payee: Address,
    /// The transaction on the chain.
    pub tx_hash: B256,
    /// The block that it is (or was last) in.
    pub block: BlockRef,
    /// Index of the event's log in that block.
    pub log_index: u64,
    /// The block's time.
    pub occurred_at: DateTime<Utc>,
}

impl Store {
    /// The newest `limit` money movements of `account`, newest first; those before `before` where it is given.
    ///
    /// # Errors
    /// [`StoreError::UnknownTransaction`] where `before` is none of the account's.
    pub async fn transactions(
        &self,
        account: AccountId,
        before: Option<TransactionId>,
        limit: u32,
    ) -> Result<Vec<Transaction>, StoreError> {
        if let Some(before) = before {
            sqlx::query!(
                "SELECT id FROM ledger.transactions WHERE id = $1 AND account_id = $2",
                before.as_uuid(),
                account.as_uuid(),
            )
            .fetch_optional(&self.pool)
            .await?
            .ok_or(StoreError::UnknownTransaction)?;
        }
        sqlx::query!(
            r#"SELECT t.id, t.subscription_id, t.kind, t.status, t.failure_reason, t.amount::text AS "amount!",
                    t.currency, t.exponent, t.period_start, t.period_end, t.spent_key, t.chain_id, t.contract, t.payer, t.payee, t.tx_hash,
                    t.block_number, t.block_hash, t.log_index, t.occurred_at
             FROM ledger.transactions t
             WHERE t.account_id = $1
               AND ($2::uuid IS NULL OR (t.occurred_at, t.id) <
                    (SELECT b.occurred_at, b.id FROM ledger.transactions b WHERE b.id = $2 AND b.account_id = $1))
             ORDER BY t.occurred_at DESC, t.id DESC LIMIT $3"#,
            account.as_uuid(),
            before.map(TransactionId::as_uuid),
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(Transaction {
                id: TransactionId::from_uuid(row.id),
                subscription: SubscriptionId::from_uuid(row.subscription_id),
                kind: row.kind.parse()?,
                status: row.status.parse()?,
                failure_reason: row.failure_reason,
                money: Money {
                    amount: convert::base_units(&row.amount)?,
                    asset: Asset { code: row.currency, exponent: convert::unsigned(row.exponent)? },
                },
                period: row.period_start.zip(row.period_end).map(|(start, end)| Span { start, end }),
                key: row.spent_key.as_deref().map(convert::hash).transpose()?,
                source: convert::chain_source(row.chain_id, &row.contract)?,
                payer: convert::address(&row.payer)?,
                payee: convert::address(&row.payee)?,
                tx_hash: convert::hash(&row.tx_hash)?,
                block: convert::block_ref(row.block_number, &row.block_hash)?,
                log_index: convert::unsigned(row.log_index)?,
                occurred_at: row.occurred_at,
            })
        })
        .collect()
    }
}
