//! Rows of money that moved on the chain.
//!
//! Each movement is one row, however often the chain is reorganised. What names it does not depend on a block:
//!
//! * a charge: its transaction, its subscription, the number of the period, and an ordinal among equals. The number alone
//!   does not suffice: it occurs again after a change of plan, and one transaction can change plans twice;
//! * usage and refunds: their subscription and the merchant's key, which the contract takes once. Sent again in
//!   another transaction after a reorganisation, they are still the same movement.
//!
//! So a movement whose row has failed takes that row over. All others are new rows; where one is there already, the
//! database refuses the second.

use std::collections::{HashMap, HashSet};

use alloy_primitives::{Address, B256};
use chrono::{DateTime, Utc};
use dues_domain::{
    calendar::Span,
    chain::{EventPosition, OnchainPlanId},
    ids::{AccountId, SubscriptionId, TransactionId},
    money::Money,
};
use uuid::Uuid;

use super::{
    Step,
    rows::{Row, Rows, Target},
};
use crate::{StoreError, convert};

static ROWS: Target<27> = Target {
    table: "ledger.transactions",
    columns: [
        "id",
        "account_id",
        "subscription_id",
        "rail",
        "kind",
        "status",
        "amount",
        "currency",
        "exponent",
        "onchain_plan_id",
        "plan_changes",
        "period",
        "ordinal",
        "period_start",
        "period_end",
        "spent_key",
        "chain_id",
        "contract",
        "token",
        "payer",
        "payee",
        "tx_hash",
        "block_number",
        "block_hash",
        "log_index",
        "occurred_at",
        "settled_at",
    ],
};

/// A movement to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMovement {
    /// Of which subscription.
    pub subscription: SubscriptionId,
    /// The account that the subscription is for.
    pub account: AccountId,
    /// The plan that the subscription is on after the event.
    pub plan: OnchainPlanId,
    /// What for.
    pub purpose: Purpose,
    /// How much.
    pub money: Money,
    /// In which token.
    pub token: Address,
    /// From whom.
    pub payer: Address,
    /// To whom.
    pub payee: Address,
    /// Where the event stands.
    pub at: EventPosition,
}

/// What money moved for, with what names the movement beside its subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// From the payer, for periods.
    Charge {
        /// The last period that it pays, counted from the anchor.
        period: u16,
        /// From the start of the first period that it pays to the end of the last.
        span: Span,
        /// How often the subscription has changed plans.
        plan_changes: u32,
        /// How many charges of the same subscription and number of a period are before it in its transaction.
        ordinal: u32,
    },
    /// From the payer, for usage.
    Usage {
        /// The merchant's idempotency key.
        key: B256,
        /// The period, counted from the anchor.
        period: u16,
        /// From its start to its end.
        span: Span,
    },
    /// To the payer.
    Refund {
        /// The merchant's idempotency key.
        key: B256,
    },
}

/// What names a movement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Name {
    Charge { tx_hash: B256, subscription: SubscriptionId, period: i32, ordinal: i32 },
    Keyed { subscription: SubscriptionId, kind: &'static str, key: B256 },
}

/// A purpose as its columns.
struct Columns {
    kind: &'static str,
    plan_changes: Option<i32>,
    period: Option<i32>,
    ordinal: Option<i32>,
    span: Option<Span>,
    key: Option<B256>,
}

impl NewMovement {
    fn columns(&self) -> Result<Columns, StoreError> {
        Ok(match self.purpose {
            Purpose::Charge { period, span, plan_changes, ordinal } => Columns {
                kind: "charge",
                plan_changes: Some(convert::unsigned(plan_changes)?),
                period: Some(period.into()),
                ordinal: Some(convert::unsigned(ordinal)?),
                span: Some(span),
                key: None,
            },
            Purpose::Usage { key, period, span } => Columns {
                kind: "usage",
                plan_changes: None,
                period: Some(period.into()),
                ordinal: None,
                span: Some(span),
                key: Some(key),
            },
            Purpose::Refund { key } => Columns {
                kind: "refund",
                plan_changes: None,
                period: None,
                ordinal: None,
                span: None,
                key: Some(key),
            },
        })
    }

    fn name(&self) -> Result<Name, StoreError> {
        let subscription = self.subscription;
        Ok(match self.purpose {
            Purpose::Charge { period, ordinal, .. } => Name::Charge {
                tx_hash: self.at.tx_hash,
                subscription,
                period: period.into(),
                ordinal: convert::unsigned(ordinal)?,
            },
            Purpose::Usage { key, .. } => Name::Keyed { subscription, kind: "usage", key },
            Purpose::Refund { key } => Name::Keyed { subscription, kind: "refund", key },
        })
    }
}

impl Step<'_> {
    /// Writes the rows of movements: one row each, however often its transaction is mined. Those up to `final_number` are
    /// settled.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] where a row is there already and has not failed, or where another one is for the
    /// same period, key or event.
    pub async fn record_movements(
        &mut self,
        movements: &[NewMovement],
        final_number: u64,
    ) -> Result<(), StoreError> {
        if movements.is_empty() {
            return Ok(());
        }
        let mut failed = self.failed_movements(movements).await?;
        let mut new = Vec::with_capacity(movements.len());
        for movement in movements {
            // Mostly nothing has failed, and then names need not be looked at.
            let row = if failed.is_empty() { None } else { failed.remove(&movement.name()?) };
            match row {
                Some(id) => self.revive(id, movement).await?,
                None => new.push(movement),
            }
        }
        self.insert_movements(&new, final_number).await
    }

    /// The rows of the subscriptions of `movements` that have failed, by their names.
    async fn failed_movements(
        &mut self,
        movements: &[NewMovement],
    ) -> Result<HashMap<Name, Uuid>, StoreError> {
        let subscriptions: HashSet<Uuid> =
            movements.iter().map(|movement| movement.subscription.as_uuid()).collect();
        let subscriptions: Vec<Uuid> = subscriptions.into_iter().collect();
        // Mostly nothing has failed, and PostgreSQL sees that before it looks at any subscription.
        sqlx::query!(
            "SELECT id, subscription_id, kind, tx_hash, period, ordinal, spent_key FROM ledger.transactions
             WHERE status = 'failed' AND chain_id = $1 AND contract = $2 AND subscription_id = ANY($3)
               AND EXISTS (SELECT FROM ledger.transactions WHERE status = 'failed')",
            self.source.chain_id,
            self.source.contract,
            &subscriptions,
        )
        .fetch_all(&mut *self.tx)
        .await?
        .into_iter()
        .map(|row| {
            let subscription = SubscriptionId::from_uuid(row.subscription_id);
            let key = row.spent_key.as_deref().map(convert::hash).transpose()?;
            let name = match (row.kind.as_str(), row.period, row.ordinal, key) {
                ("charge", Some(period), Some(ordinal), None) => {
                    Name::Charge { tx_hash: convert::hash(&row.tx_hash)?, subscription, period, ordinal }
                }
                ("usage", _, None, Some(key)) => Name::Keyed { subscription, kind: "usage", key },
                ("refund", _, None, Some(key)) => Name::Keyed { subscription, kind: "refund", key },
                _ => return Err(StoreError::Inconsistent("a money movement has no name")),
            };
            Ok((name, row.id))
        })
        .collect()
    }

    async fn revive(&mut self, id: Uuid, movement: &NewMovement) -> Result<(), StoreError> {
        let Columns { plan_changes, period, span, .. } = movement.columns()?;
        let NewMovement { account, plan, money, token, payer, payee, at, .. } = movement;
        let revived = sqlx::query!(
            "UPDATE ledger.transactions SET
                 account_id = $2, status = 'pending', failure_reason = NULL, amount = ($3::text)::numeric,
                 currency = $4, exponent = $5, onchain_plan_id = $6, plan_changes = $7, period = $8,
                 period_start = $9, period_end = $10, token = $11, payer = $12, payee = $13, tx_hash = $14,
                 block_number = $15, block_hash = $16, log_index = $17, occurred_at = $18, updated_at = now()
             WHERE id = $1 AND status = 'failed'",
            id,
            account.as_uuid(),
            convert::numeric(money.amount),
            money.asset.code,
            i16::from(money.asset.exponent),
            i64::from(*plan),
            plan_changes,
            period,
            span.map(|span| span.start),
            span.map(|span| span.end),
            token.as_slice(),
            payer.as_slice(),
            payee.as_slice(),
            at.tx_hash.as_slice(),
            convert::to_i64(at.block.number)?,
            at.block.hash.as_slice(),
            convert::to_i64(at.log_index)?,
            at.timestamp,
        )
        .execute(&mut *self.tx)
        .await?;
        if revived.rows_affected() == 1 {
            Ok(())
        } else {
            Err(StoreError::Inconsistent("a money movement that had failed is gone"))
        }
    }

    async fn insert_movements(
        &mut self,
        movements: &[&NewMovement],
        final_number: u64,
    ) -> Result<(), StoreError> {
        if movements.is_empty() {
            return Ok(());
        }
        let settled_at = self.settled_at(movements, final_number).await?;
        let source = &self.source;
        let mut rows = Rows::new(&mut self.tx, &ROWS);
        for movement in movements {
            let Columns { kind, plan_changes, period, ordinal, span, key } = movement.columns()?;
            let NewMovement { money, at, .. } = movement;
            let settled_at = settled_at.filter(|_| at.block.number <= final_number);
            rows = rows
                .add(|row| {
                    row.uuid(TransactionId::generate().as_uuid())?;
                    row.uuid(movement.account.as_uuid())?;
                    row.uuid(movement.subscription.as_uuid())?;
                    row.text("chain")?;
                    row.text(kind)?;
                    row.text(if settled_at.is_some() { "completed" } else { "pending" })?;
                    row.amount(money.amount)?;
                    row.text(&money.asset.code)?;
                    row.i16(money.asset.exponent.into())?;
                    row.i64(movement.plan.into())?;
                    for number in [plan_changes, period, ordinal] {
                        row.optional(number, Row::i32)?;
                    }
                    row.optional(span, |row, span| row.instant(span.start))?;
                    row.optional(span, |row, span| row.instant(span.end))?;
                    row.optional(key, |row, key| row.bytes(key.as_slice()))?;
                    row.i64(source.chain_id)?;
                    row.bytes(&source.contract)?;
                    row.bytes(movement.token.as_slice())?;
                    row.bytes(movement.payer.as_slice())?;
                    row.bytes(movement.payee.as_slice())?;
                    row.bytes(at.tx_hash.as_slice())?;
                    row.i64(convert::to_i64(at.block.number)?)?;
                    row.bytes(at.block.hash.as_slice())?;
                    row.i64(convert::to_i64(at.log_index)?)?;
                    row.instant(at.timestamp)?;
                    row.optional(settled_at, Row::instant)
                })
                .await?;
        }
        rows.finish().await
    }

    /// The step's own instant, by the database's clock, where any of `movements` is final.
    async fn settled_at(
        &mut self,
        movements: &[&NewMovement],
        final_number: u64,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        if movements.iter().all(|movement| movement.at.block.number > final_number) {
            return Ok(None);
        }
        let now = sqlx::query_scalar!(r#"SELECT now() AS "now!""#).fetch_one(&mut *self.tx).await?;
        Ok(Some(now))
    }
}
