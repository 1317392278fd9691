//! Reading the mirror for an audit: one snapshot, in pages, while everybody else goes on.

use alloy_primitives::{Address, B256};
use chrono::{DateTime, Utc};
use dues_domain::{
    calendar::Interval,
    chain::{BlockRef, ChainSource, EventPosition, OnchainPlan, OnchainPlanId, OnchainSubscriptionId},
    fold::{ChainSubscription, End},
    ids::{AccountId, SubscriptionId, TransactionId},
    money::BaseUnits,
};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{Checkpoint, MirrorScope, MirroredSubscription, Source, StoredEvent, checkpoint};
use crate::{Store, StoreError, TransactionKind, TransactionStatus, convert};

/// What of a contract's part of the ledger there is to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// How far the mirror has come.
    pub checkpoint: Checkpoint,
    /// Whose plans, and from which block on.
    pub mirrored: MirrorScope,
}

/// A mirrored plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedPlan {
    /// Its terms.
    pub plan: OnchainPlan,
    /// The block that it was created in.
    pub block_number: u64,
    /// The block that it was retired in.
    pub retired_block: Option<u64>,
}

/// A mirrored subscription that is on the chain, by the ledger's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedSubscription {
    /// Its id, account and state.
    pub row: MirroredSubscription,
    /// The status of its last event.
    pub status: String,
    /// The transaction that it began in.
    pub origin_tx: B256,
    /// The plan that it began with.
    pub origin_plan: OnchainPlanId,
}

/// A row of money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedMovement {
    /// Its id.
    pub id: TransactionId,
    /// Its account.
    pub account: AccountId,
    /// Its subscription.
    pub subscription: SubscriptionId,
    /// What for.
    pub kind: TransactionKind,
    /// Where it stands.
    pub status: TransactionStatus,
    /// How much.
    pub amount: BaseUnits,
    /// Of what.
    pub currency: String,
    /// With how many decimal places.
    pub exponent: u8,
    /// The plan that it was for.
    pub plan: OnchainPlanId,
    /// Of a charge: how often its subscription had changed plans.
    pub plan_changes: Option<u32>,
    /// Which period, of charges and usage.
    pub period: Option<u16>,
    /// Of a charge: how many equal ones are before it in its transaction.
    pub ordinal: Option<u32>,
    /// From when on it pays.
    pub period_start: Option<DateTime<Utc>>,
    /// Until when it pays.
    pub period_end: Option<DateTime<Utc>>,
    /// The merchant's key, of usage and refunds.
    pub key: Option<B256>,
    /// The token that moved.
    pub token: Address,
    /// Whose it was.
    pub payer: Address,
    /// Whose it became.
    pub payee: Address,
    /// Where the event stands.
    pub at: EventPosition,
}

/// One unchanging view of what is mirrored of a contract.
#[derive(Debug)]
pub struct Snapshot {
    connection: PgConnection,
    source: Source,
}

impl Store {
    /// The ledger as it is now, for as long as the snapshot is kept. It holds nobody up.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn snapshot(&self, source: ChainSource) -> Result<Snapshot, StoreError> {
        // The chain is asked in between, for as long as it takes.
        let options = (*self.pool.connect_options())
            .clone()
            .options([("statement_timeout", "0"), ("idle_in_transaction_session_timeout", "0")]);
        let mut connection = PgConnection::connect_with(&options).await?;
        sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut connection).await?;
        let source =
            Source { chain_id: convert::to_i64(source.chain_id)?, contract: source.contract.to_vec() };
        Ok(Snapshot { connection, source })
    }
}

impl Snapshot {
    /// How far the mirror has come, and what is mirrored.
    ///
    /// # Errors
    /// [`StoreError::NotMirrored`] where nothing is.
    pub async fn scope(&mut self) -> Result<Scope, StoreError> {
        let checkpoint =
            checkpoint(&mut self.connection, &self.source).await?.ok_or(StoreError::NotMirrored)?;
        let begun = sqlx::query!(
            "SELECT merchant, start_block FROM ledger.chain_checkpoints WHERE chain_id = $1 AND contract = $2",
            self.source.chain_id,
            self.source.contract,
        )
        .fetch_one(&mut self.connection)
        .await?;
        let mirrored = MirrorScope {
            merchant: convert::address(&begun.merchant)?,
            start_block: convert::unsigned(begun.start_block)?,
        };
        Ok(Scope { checkpoint, mirrored })
    }

    /// Every plan, in the order of their numbers.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn plans(&mut self) -> Result<Vec<AuditedPlan>, StoreError> {
        sqlx::query!(
            r#"SELECT onchain_plan_id, merchant, token, payee, price::text AS "price!", interval_unit, interval_count,
                      trial_seconds, grace_seconds, usage_cap::text AS "usage_cap!", block_number, retired_block
               FROM ledger.chain_plans WHERE chain_id = $1 AND contract = $2 ORDER BY onchain_plan_id"#,
            self.source.chain_id,
            self.source.contract,
        )
        .fetch_all(&mut self.connection)
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
            let retired_block = row.retired_block.map(convert::unsigned).transpose()?;
            Ok(AuditedPlan { plan, block_number: convert::unsigned(row.block_number)?, retired_block })
        })
        .collect()
    }

    /// The subscriptions whose number is one of `first..=last`, in the order of their numbers.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn subscriptions(
        &mut self,
        first: OnchainSubscriptionId,
        last: OnchainSubscriptionId,
    ) -> Result<Vec<AuditedSubscription>, StoreError> {
        sqlx::query!(
            r#"SELECT id, account_id, onchain_id AS "onchain_id!", onchain_plan_id AS "plan!", scheduled_plan_id, payer,
                      reference, anchor, periods, paid_through, confirmed, cancel_scheduled_by, ended_at, ended_by,
                      plan_changes, evidence_block_number, evidence_block_hash, evidence_log_index, evidence_tx,
                      evidence_at, status, origin_tx, origin_plan_id
               FROM ledger.subscriptions
               WHERE chain_id = $1 AND contract = $2 AND onchain_id BETWEEN $3 AND $4 ORDER BY onchain_id"#,
            self.source.chain_id,
            self.source.contract,
            convert::to_i64(first)?,
            convert::to_i64(last)?,
        )
        .fetch_all(&mut self.connection)
        .await?
        .into_iter()
        .map(|row| {
            let ended_by = row.ended_by.as_deref().map(convert::party).transpose()?;
            let state = ChainSubscription {
                id: convert::unsigned(row.onchain_id)?,
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
                    block: convert::block_ref(row.evidence_block_number, &row.evidence_block_hash)?,
                    log_index: convert::unsigned(row.evidence_log_index)?,
                    tx_hash: convert::hash(&row.evidence_tx)?,
                    timestamp: row.evidence_at,
                },
                unpaid_change: None,
            };
            let (id, account) = (SubscriptionId::from_uuid(row.id), AccountId::from_uuid(row.account_id));
            Ok(AuditedSubscription {
                row: MirroredSubscription { id, account, state },
                status: row.status,
                origin_tx: convert::hash(&row.origin_tx)?,
                origin_plan: convert::unsigned(row.origin_plan_id)?,
            })
        })
        .collect()
    }

    /// The subscriptions whose number is beyond `last`: by number and id.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn subscriptions_beyond(
        &mut self,
        last: OnchainSubscriptionId,
    ) -> Result<Vec<(OnchainSubscriptionId, SubscriptionId)>, StoreError> {
        sqlx::query!(
            r#"SELECT onchain_id AS "onchain_id!", id FROM ledger.subscriptions
               WHERE chain_id = $1 AND contract = $2 AND onchain_id > $3 ORDER BY onchain_id"#,
            self.source.chain_id,
            self.source.contract,
            convert::to_i64(last)?,
        )
        .fetch_all(&mut self.connection)
        .await?
        .into_iter()
        .map(|row| Ok((convert::unsigned(row.onchain_id)?, SubscriptionId::from_uuid(row.id))))
        .collect()
    }

    /// The events of the subscriptions whose number is one of `first..=last`, by number and then in the chain's order.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn histories(
        &mut self,
        first: OnchainSubscriptionId,
        last: OnchainSubscriptionId,
    ) -> Result<Vec<(OnchainSubscriptionId, StoredEvent)>, StoreError> {
        sqlx::query_as!(
            EventRow,
            "SELECT block_number, block_hash, block_time, log_index, tx_hash, onchain_id, topics, data
             FROM ledger.chain_events
             WHERE chain_id = $1 AND contract = $2 AND onchain_id BETWEEN $3 AND $4
             ORDER BY onchain_id, block_number, log_index",
            self.source.chain_id,
            self.source.contract,
            convert::to_i64(first)?,
            convert::to_i64(last)?,
        )
        .fetch_all(&mut self.connection)
        .await?
        .into_iter()
        .map(|row| match row.read()? {
            (Some(id), event) => Ok((id, event)),
            (None, _) => Err(StoreError::Inconsistent("an event of a subscription has none")),
        })
        .collect()
    }

    /// The events of plans, in the chain's order.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn plan_events(&mut self) -> Result<Vec<StoredEvent>, StoreError> {
        sqlx::query_as!(
            EventRow,
            "SELECT block_number, block_hash, block_time, log_index, tx_hash, onchain_id, topics, data
             FROM ledger.chain_events
             WHERE chain_id = $1 AND contract = $2 AND onchain_id IS NULL ORDER BY block_number, log_index",
            self.source.chain_id,
            self.source.contract,
        )
        .fetch_all(&mut self.connection)
        .await?
        .into_iter()
        .map(|row| Ok(row.read()?.1))
        .collect()
    }

    /// The events of the blocks `first..=last`, in the chain's order, each with its subscription where it has one.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn events(
        &mut self,
        first: u64,
        last: u64,
    ) -> Result<Vec<(Option<OnchainSubscriptionId>, StoredEvent)>, StoreError> {
        sqlx::query_as!(
            EventRow,
            "SELECT block_number, block_hash, block_time, log_index, tx_hash, onchain_id, topics, data
             FROM ledger.chain_events
             WHERE chain_id = $1 AND contract = $2 AND block_number BETWEEN $3 AND $4
             ORDER BY block_number, log_index",
            self.source.chain_id,
            self.source.contract,
            convert::to_i64(first)?,
            convert::to_i64(last)?,
        )
        .fetch_all(&mut self.connection)
        .await?
        .into_iter()
        .map(EventRow::read)
        .collect()
    }

    /// Events of blocks outside of `first..=last`, which the mirror has not read.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn events_outside(&mut self, first: u64, last: u64) -> Result<Vec<StoredEvent>, StoreError> {
        sqlx::query_as!(
            EventRow,
            "SELECT block_number, block_hash, block_time, log_index, tx_hash, onchain_id, topics, data
             FROM ledger.chain_events
             WHERE chain_id = $1 AND contract = $2 AND (block_number < $3 OR block_number > $4)
             ORDER BY block_number, log_index",
            self.source.chain_id,
            self.source.contract,
            convert::to_i64(first)?,
            convert::to_i64(last)?,
        )
        .fetch_all(&mut self.connection)
        .await?
        .into_iter()
        .map(|row| Ok(row.read()?.1))
        .collect()
    }

    /// The money of `subscriptions` that has not failed.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn movements(
        &mut self,
        subscriptions: &[SubscriptionId],
    ) -> Result<Vec<AuditedMovement>, StoreError> {
        let ids: Vec<Uuid> = subscriptions.iter().map(|id| id.as_uuid()).collect();
        // Each half is what one of the partial indexes holds.
        sqlx::query_as!(
            MovementRow,
            r#"SELECT id AS "id!", account_id AS "account_id!", subscription_id AS "subscription_id!", kind AS "kind!",
                      status AS "status!", amount::text AS "amount!", currency AS "currency!", exponent AS "exponent!",
                      onchain_plan_id AS "onchain_plan_id!", plan_changes, period, ordinal, period_start, period_end,
                      spent_key, token AS "token!", payer AS "payer!", payee AS "payee!", tx_hash AS "tx_hash!",
                      block_number AS "block_number!", block_hash AS "block_hash!", log_index AS "log_index!",
                      occurred_at AS "occurred_at!"
               FROM ledger.transactions WHERE subscription_id = ANY ($1) AND kind = 'charge' AND status <> 'failed'
               UNION ALL
               SELECT id, account_id, subscription_id, kind, status, amount::text, currency, exponent,
                      onchain_plan_id, plan_changes, period, ordinal, period_start, period_end, spent_key,
                      token, payer, payee, tx_hash, block_number, block_hash, log_index, occurred_at
               FROM ledger.transactions
               WHERE subscription_id = ANY ($1) AND spent_key IS NOT NULL AND status <> 'failed'"#,
            &ids,
        )
        .fetch_all(&mut self.connection)
        .await?
        .into_iter()
        .map(AuditedMovement::try_from)
        .collect()
    }

    /// The money of a transaction on the chain for one subscription that has failed.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn failed_movements(
        &mut self,
        tx_hash: B256,
        subscription: SubscriptionId,
    ) -> Result<Vec<AuditedMovement>, StoreError> {
        sqlx::query_as!(
            MovementRow,
            r#"SELECT id, account_id, subscription_id, kind, status, amount::text AS "amount!", currency, exponent,
                      onchain_plan_id, plan_changes, period, ordinal, period_start, period_end, spent_key,
                      token, payer, payee, tx_hash, block_number, block_hash, log_index, occurred_at
               FROM ledger.transactions
               WHERE chain_id = $1 AND contract = $2 AND tx_hash = $3 AND subscription_id = $4 AND status = 'failed'"#,
            self.source.chain_id,
            self.source.contract,
            tx_hash.as_slice(),
            subscription.as_uuid(),
        )
        .fetch_all(&mut self.connection)
        .await?
        .into_iter()
        .map(AuditedMovement::try_from)
        .collect()
    }

    /// Money that has not failed, of subscriptions that are not on the chain or whose number is beyond `last`.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn stray_movements(
        &mut self,
        last: OnchainSubscriptionId,
    ) -> Result<Vec<AuditedMovement>, StoreError> {
        sqlx::query_as!(
            MovementRow,
            r#"SELECT t.id, t.account_id, t.subscription_id, t.kind, t.status, t.amount::text AS "amount!", t.currency,
                      t.exponent, t.onchain_plan_id, t.plan_changes, t.period, t.ordinal, t.period_start, t.period_end,
                      t.spent_key, t.token, t.payer, t.payee, t.tx_hash, t.block_number, t.block_hash, t.log_index,
                      t.occurred_at
               FROM ledger.transactions t JOIN ledger.subscriptions s ON s.id = t.subscription_id
               WHERE s.chain_id = $1 AND s.contract = $2 AND t.status <> 'failed'
                 AND (s.onchain_id IS NULL OR s.onchain_id > $3)
               ORDER BY t.id"#,
            self.source.chain_id,
            self.source.contract,
            convert::to_i64(last)?,
        )
        .fetch_all(&mut self.connection)
        .await?
        .into_iter()
        .map(AuditedMovement::try_from)
        .collect()
    }

    /// The money that has not failed of the next `limit` transactions of the chain after `after`, by their hashes.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn movements_after(
        &mut self,
        after: Option<B256>,
        limit: u32,
    ) -> Result<Vec<AuditedMovement>, StoreError> {
        let after = after.map(|hash| hash.to_vec()).unwrap_or_default();
        sqlx::query_as!(
            MovementRow,
            r#"SELECT id, account_id, subscription_id, kind, status, amount::text AS "amount!", currency, exponent,
                      onchain_plan_id, plan_changes, period, ordinal, period_start, period_end, spent_key,
                      token, payer, payee, tx_hash, block_number, block_hash, log_index, occurred_at
               FROM ledger.transactions
               WHERE chain_id = $1 AND contract = $2 AND status <> 'failed' AND tx_hash IN (
                   SELECT DISTINCT tx_hash FROM ledger.transactions
                   WHERE chain_id = $1 AND contract = $2 AND status <> 'failed' AND tx_hash > $3
                   ORDER BY tx_hash LIMIT $4)
               ORDER BY tx_hash, block_number, log_index"#,
            self.source.chain_id,
            self.source.contract,
            after,
            i64::from(limit),
        )
        .fetch_all(&mut self.connection)
        .await?
        .into_iter()
        .map(AuditedMovement::try_from)
        .collect()
    }

    /// How many transactions of the chain have money that has not failed.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn transactions_with_money(&mut self) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(DISTINCT tx_hash) AS "count!" FROM ledger.transactions
               WHERE chain_id = $1 AND contract = $2 AND status <> 'failed'"#,
            self.source.chain_id,
            self.source.contract,
        )
        .fetch_one(&mut self.connection)
        .await?;
        convert::unsigned(count)
    }

    /// Ends it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn close(self) -> Result<(), StoreError> {
        Ok(self.connection.close().await?)
    }
}

struct EventRow {
    block_number: i64,
    block_hash: Vec<u8>,
    block_time: DateTime<Utc>,
    log_index: i64,
    tx_hash: Vec<u8>,
    onchain_id: Option<i64>,
    topics: Vec<Vec<u8>>,
    data: Vec<u8>,
}

impl EventRow {
    fn read(self) -> Result<(Option<OnchainSubscriptionId>, StoredEvent), StoreError> {
        let at = EventPosition {
            block: convert::block_ref(self.block_number, &self.block_hash)?,
            log_index: convert::unsigned(self.log_index)?,
            tx_hash: convert::hash(&self.tx_hash)?,
            timestamp: self.block_time,
        };
        let topics = self.topics.iter().map(|topic| convert::hash(topic)).collect::<Result<_, _>>()?;
        let id = self.onchain_id.map(convert::unsigned).transpose()?;
        Ok((id, StoredEvent { at, topics, data: self.data }))
    }
}

struct MovementRow {
    id: Uuid,
    account_id: Uuid,
    subscription_id: Uuid,
    kind: String,
    status: String,
    amount: String,
    currency: String,
    exponent: i16,
    onchain_plan_id: i64,
    plan_changes: Option<i32>,
    period: Option<i32>,
    ordinal: Option<i32>,
    period_start: Option<DateTime<Utc>>,
    period_end: Option<DateTime<Utc>>,
    spent_key: Option<Vec<u8>>,
    token: Vec<u8>,
    payer: Vec<u8>,
    payee: Vec<u8>,
    tx_hash: Vec<u8>,
    block_number: i64,
    block_hash: Vec<u8>,
    log_index: i64,
    occurred_at: DateTime<Utc>,
}

impl TryFrom<MovementRow> for AuditedMovement {
    type Error = StoreError;

    fn try_from(row: MovementRow) -> Result<Self, StoreError> {
        let block: BlockRef = convert::block_ref(row.block_number, &row.block_hash)?;
        Ok(Self {
            id: TransactionId::from_uuid(row.id),
            account: AccountId::from_uuid(row.account_id),
            subscription: SubscriptionId::from_uuid(row.subscription_id),
            kind: row.kind.parse()?,
            status: row.status.parse()?,
            amount: convert::base_units(&row.amount)?,
            currency: row.currency,
            exponent: convert::unsigned(row.exponent)?,
            plan: convert::unsigned(row.onchain_plan_id)?,
            plan_changes: row.plan_changes.map(convert::unsigned).transpose()?,
            period: row.period.map(convert::unsigned).transpose()?,
            ordinal: row.ordinal.map(convert::unsigned).transpose()?,
            period_start: row.period_start,
            period_end: row.period_end,
            key: row.spent_key.as_deref().map(convert::hash).transpose()?,
            token: convert::address(&row.token)?,
            payer: convert::address(&row.payer)?,
            payee: convert::address(&row.payee)?,
            at: EventPosition {
                block,
                log_index: convert::unsigned(row.log_index)?,
                tx_hash: convert::hash(&row.tx_hash)?,
                timestamp: row.occurred_at,
            },
        })
    }
}
