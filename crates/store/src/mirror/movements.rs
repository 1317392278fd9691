//! Rows of money that moved on the chain.
//!
//! Each movement is one row, however often the chain is reorganised. What names it does not depend on a block:
//!
//! * a charge: its transaction, its subscription, the number of the period, and an ordinal among equals. The number alone
//!   does not suffice: it occurs again after a change of plan, and one transaction can change plans twice;
//! * usage and refunds: their subscription and the merchant's key, which the contract takes once. Sent again in
//!   another transaction after a reorganisation, they are still the same movement.

use alloy_primitives::{Address, B256};
use dues_domain::{
    calendar::Span,
    chain::{EventPosition, OnchainPlan},
    fold::{Movement, MovementKind},
    ids::TransactionId,
    money::Money,
};
use uuid::Uuid;

use super::{MirroredSubscription, Step};
use crate::{StoreError, convert};

/// A movement to be recorded.
#[derive(Debug, Clone, Copy)]
pub struct Recorded<'a> {
    /// Of which subscription, as it is after the event.
    pub subscription: &'a MirroredSubscription,
    /// The plan that the subscription is on after the event.
    pub plan: &'a OnchainPlan,
    /// What the event reports.
    pub movement: &'a Movement,
    /// Of a charge: how many charges of the same subscription and number of a period are before it in its
    /// transaction.
    pub ordinal: u32,
    /// The amount with its asset.
    pub money: &'a Money,
    /// Where the event stands.
    pub at: EventPosition,
}

impl Step<'_> {
    /// Writes the row of a movement: one row, however often its transaction is mined.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] where the row is there already and has not failed, or where another one is for the
    /// same period, key or event.
    pub async fn record_movement(&mut self, recorded: &Recorded<'_>) -> Result<TransactionId, StoreError> {
        let payer = recorded.subscription.state.payer;
        let written = match recorded.movement.kind {
            MovementKind::Charge { period, span } => self.record_charge(recorded, period, span).await?,
            MovementKind::Usage { key, period } => {
                let to = recorded.plan.payee;
                self.record_keyed(recorded, "usage", key, Some(period), [payer, to]).await?
            }
            MovementKind::Refund { key, from } => {
                self.record_keyed(recorded, "refund", key, None, [from, payer]).await?
            }
        };
        written
            .map(TransactionId::from_uuid)
            .ok_or(StoreError::Inconsistent("a money movement was to be written twice"))
    }

    async fn record_charge(
        &mut self,
        recorded: &Recorded<'_>,
        period: u16,
        span: Span,
    ) -> Result<Option<Uuid>, StoreError> {
        let Recorded { subscription, plan, money, at, .. } = recorded;
        let written = sqlx::query_scalar!(
            "INSERT INTO ledger.transactions AS t
                 (id, account_id, subscription_id, rail, kind, status, amount, currency, exponent, onchain_plan_id,
                  plan_changes, period, ordinal, period_start, period_end, chain_id, contract, token, payer, payee,
                  tx_hash, block_number, block_hash, log_index, occurred_at)
             SELECT $1, s.account_id, s.id, 'chain', 'charge', 'pending', ($3::text)::numeric, $4, $5, $6, $7, $8, $9,
                    $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21
             FROM ledger.subscriptions s WHERE s.id = $2
             ON CONFLICT ON CONSTRAINT transactions_transfer_key DO UPDATE SET
                 account_id = excluded.account_id, status = 'pending', failure_reason = NULL,
                 amount = excluded.amount, currency = excluded.currency, exponent = excluded.exponent,
                 onchain_plan_id = excluded.onchain_plan_id, plan_changes = excluded.plan_changes,
                 period_start = excluded.period_start, period_end = excluded.period_end, token = excluded.token,
                 payer = excluded.payer, payee = excluded.payee, block_number = excluded.block_number,
                 block_hash = excluded.block_hash, log_index = excluded.log_index,
                 occurred_at = excluded.occurred_at, updated_at = now()
             WHERE t.status = 'failed'
             RETURNING t.id",
            TransactionId::generate().as_uuid(),
            subscription.id.as_uuid(),
            convert::numeric(money.amount),
            money.asset.code,
            i16::from(money.asset.exponent),
            i64::from(plan.id),
            convert::unsigned::<_, i32>(subscription.state.plan_changes)?,
            i32::from(period),
            convert::unsigned::<_, i32>(recorded.ordinal)?,
            span.start,
            span.end,
            self.source.chain_id,
            self.source.contract,
            plan.token.as_slice(),
            subscription.state.payer.as_slice(),
            plan.payee.as_slice(),
            at.tx_hash.as_slice(),
            convert::to_i64(at.block.number)?,
            at.block.hash.as_slice(),
            convert::to_i64(at.log_index)?,
            at.timestamp,
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        Ok(written)
    }

    async fn record_keyed(
        &mut self,
        recorded: &Recorded<'_>,
        kind: &'static str,
        key: B256,
        period: Option<u16>,
        [payer, payee]: [Address; 2],
    ) -> Result<Option<Uuid>, StoreError> {
        let Recorded { subscription, plan, money, at, .. } = recorded;
        let span = period.map(|n| plan.interval.period(subscription.state.anchor, n.into()));
        let written = sqlx::query_scalar!(
            "INSERT INTO ledger.transactions AS t
                 (id, account_id, subscription_id, rail, kind, status, amount, currency, exponent, onchain_plan_id,
                  period, period_start, period_end, spent_key, chain_id, contract, token, payer, payee, tx_hash,
                  block_number, block_hash, log_index, occurred_at)
             SELECT $1, s.account_id, s.id, 'chain', $3, 'pending', ($4::text)::numeric, $5, $6, $7, $8, $9, $10, $11,
                    $12, $13, $14, $15, $16, $17, $18, $19, $20, $21
             FROM ledger.subscriptions s WHERE s.id = $2
             ON CONFLICT (subscription_id, kind, spent_key) WHERE spent_key IS NOT NULL DO UPDATE SET
                 account_id = excluded.account_id, status = 'pending', failure_reason = NULL,
                 amount = excluded.amount, currency = excluded.currency, exponent = excluded.exponent,
                 onchain_plan_id = excluded.onchain_plan_id, period = excluded.period,
                 period_start = excluded.period_start, period_end = excluded.period_end, token = excluded.token,
                 payer = excluded.payer, payee = excluded.payee, tx_hash = excluded.tx_hash,
                 block_number = excluded.block_number, block_hash = excluded.block_hash,
                 log_index = excluded.log_index, occurred_at = excluded.occurred_at, updated_at = now()
             WHERE t.status = 'failed'
             RETURNING t.id",
            TransactionId::generate().as_uuid(),
            subscription.id.as_uuid(),
            kind,
            convert::numeric(money.amount),
            money.asset.code,
            i16::from(money.asset.exponent),
            i64::from(plan.id),
            period.map(i32::from),
            span.map(|span| span.start),
            span.map(|span| span.end),
            key.as_slice(),
            self.source.chain_id,
            self.source.contract,
            plan.token.as_slice(),
            payer.as_slice(),
            payee.as_slice(),
            at.tx_hash.as_slice(),
            convert::to_i64(at.block.number)?,
            at.block.hash.as_slice(),
            convert::to_i64(at.log_index)?,
            at.timestamp,
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        Ok(written)
    }
}
