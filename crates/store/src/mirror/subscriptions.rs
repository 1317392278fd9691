//! Mirrored subscriptions: the fold of their events, and the account that each is for.
//!
//! A step touches each subscription once, however many events of it there are: it reads all of them, folds, and writes
//! all of them.

use std::collections::HashMap;

use alloy_primitives::{Address, B256};
use chrono::{DateTime, Utc};
use dues_domain::{
    chain::{BlockRef, EventPosition, OnchainPlanId, OnchainSubscriptionId},
    fold::{ChainSubscription, End},
    ids::{AccountId, SubscriptionId},
};

use super::{
    Step,
    rows::{Rows, Target},
};
use crate::{StoreError, convert};

static ROWS: Target<28> = Target {
    table: "ledger.subscriptions",
    columns: [
        "id",
        "account_id",
        "rail",
        "status",
        "chain_id",
        "contract",
        "onchain_id",
        "onchain_plan_id",
        "scheduled_plan_id",
        "payer",
        "reference",
        "origin_tx",
        "origin_plan_id",
        "origin_ordinal",
        "anchor",
        "periods",
        "paid_through",
        "confirmed",
        "cancel_at_period_end",
        "cancel_scheduled_by",
        "ended_at",
        "ended_by",
        "plan_changes",
        "evidence_block_number",
        "evidence_block_hash",
        "evidence_log_index",
        "evidence_tx",
        "evidence_at",
    ],
};

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

/// What names the beginning of a subscription, and survives that its transaction is mined again in another block,
/// under another number, or with other items of it failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The transaction.
    pub tx_hash: B256,
    /// Who pays.
    pub payer: Address,
    /// The plan that it begins with.
    pub plan: OnchainPlanId,
    /// The account that it is for, as the payer names it.
    pub reference: B256,
    /// How many beginnings of the same payer, plan and reference are before it in its transaction.
    pub ordinal: u32,
}

/// The row of a subscription that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Our id.
    pub id: SubscriptionId,
    /// The account that it is for.
    pub account: AccountId,
    /// Whether the row is there already: a reorganisation has left it without its beginning.
    pub revived: bool,
}

impl Step<'_> {
    /// The subscriptions that the contract calls by one of `ids`. Until the step ends, nobody can move them to another
    /// account.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn subscriptions(
        &mut self,
        ids: &[OnchainSubscriptionId],
    ) -> Result<HashMap<OnchainSubscriptionId, MirroredSubscription>, StoreError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let ids = ids.iter().map(|id| convert::to_i64(*id)).collect::<Result<Vec<_>, _>>()?;
        let rows = sqlx::query_as!(
            SubscriptionRow,
            // Not `= ANY`: for each row of the table, PostgreSQL goes through the whole of an array that it learns late.
            r#"SELECT id, account_id, onchain_id AS "onchain_id!", onchain_plan_id AS "plan!", scheduled_plan_id,
                      payer, reference, anchor, periods, paid_through, confirmed, cancel_scheduled_by, ended_at, ended_by,
                      plan_changes, evidence_block_number, evidence_block_hash, evidence_log_index, evidence_tx,
                      evidence_at
               FROM unnest($3::bigint[]) AS wanted (wanted_id)
               JOIN ledger.subscriptions s ON s.chain_id = $1 AND s.contract = $2 AND s.onchain_id = wanted_id
               ORDER BY s.id
               FOR KEY SHARE OF s"#,
            self.source.chain_id,
            self.source.contract,
            &ids,
        )
        .fetch_all(&mut *self.tx)
        .await?;
        rows.into_iter()
            .map(|row| {
                let subscription = MirroredSubscription::try_from(row)?;
                Ok((subscription.state.id, subscription))
            })
            .collect()
    }

    /// The rows of subscriptions that begin, in the order of `origins`. A row that a reorganisation left without its
    /// beginning takes it back, and keeps its id and its account. Any other gets an id, and its account is the one that
    /// its reference names, else the one that its payer's wallet belongs to, else a new one for that wallet: nothing
    /// that was paid is ever dropped.
    ///
    /// New rows are written by [`insert_subscriptions`](Self::insert_subscriptions), the others by
    /// [`update_subscriptions`](Self::update_subscriptions).
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn begin_subscriptions(&mut self, origins: &[Origin]) -> Result<Vec<Begun>, StoreError> {
        if origins.is_empty() {
            return Ok(Vec::new());
        }
        let known = self.detached(origins).await?;
        let new: Vec<&Origin> = origins.iter().filter(|origin| !known.contains_key(*origin)).collect();
        let accounts = self.resolve_accounts(&new).await?;
        let mut accounts = accounts.into_iter();
        origins
            .iter()
            .map(|origin| match known.get(origin) {
                Some((id, account)) => Ok(Begun { id: *id, account: *account, revived: true }),
                None => {
                    let account =
                        accounts.next().ok_or(StoreError::Inconsistent("a subscription has no account"))?;
                    Ok(Begun { id: SubscriptionId::generate(), account, revived: false })
                }
            })
            .collect()
    }

    async fn detached(
        &mut self,
        origins: &[Origin],
    ) -> Result<HashMap<Origin, (SubscriptionId, AccountId)>, StoreError> {
        let mut txs: Vec<Vec<u8>> = origins.iter().map(|origin| origin.tx_hash.to_vec()).collect();
        txs.dedup();
        sqlx::query!(
            "SELECT id, account_id, payer, reference, origin_tx, origin_plan_id, origin_ordinal
             FROM ledger.subscriptions WHERE chain_id = $1 AND contract = $2 AND origin_tx = ANY($3)",
            self.source.chain_id,
            self.source.contract,
            &txs,
        )
        .fetch_all(&mut *self.tx)
        .await?
        .into_iter()
        .map(|row| {
            let origin = Origin {
                tx_hash: convert::hash(&row.origin_tx)?,
                payer: convert::address(&row.payer)?,
                plan: convert::unsigned(row.origin_plan_id)?,
                reference: convert::hash(&row.reference)?,
                ordinal: convert::unsigned(row.origin_ordinal)?,
            };
            Ok((origin, (SubscriptionId::from_uuid(row.id), AccountId::from_uuid(row.account_id))))
        })
        .collect()
    }

    /// Writes the rows of new subscriptions, as they are after their events.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] where one is on a plan that is not known.
    pub async fn insert_subscriptions(
        &mut self,
        subscriptions: &[(&MirroredSubscription, Origin)],
    ) -> Result<(), StoreError> {
        if subscriptions.is_empty() {
            return Ok(());
        }
        let source = &self.source;
        let mut rows = Rows::new(&mut self.tx, &ROWS);
        for (subscription, origin) in subscriptions {
            let state = &subscription.state;
            rows = rows
                .add(|row| {
                    row.uuid(subscription.id.as_uuid())?;
                    row.uuid(subscription.account.as_uuid())?;
                    row.text("chain")?;
                    row.text(state.recorded_status().as_str())?;
                    row.i64(source.chain_id)?;
                    row.bytes(&source.contract)?;
                    row.i64(convert::to_i64(state.id)?)?;
                    row.i64(state.plan.into())?;
                    row.optional(state.scheduled_plan, |row, plan| row.i64(plan.into()))?;
                    row.bytes(state.payer.as_slice())?;
                    row.bytes(state.reference.as_slice())?;
                    row.bytes(origin.tx_hash.as_slice())?;
                    row.i64(origin.plan.into())?;
                    row.i32(convert::unsigned(origin.ordinal)?)?;
                    row.instant(state.anchor)?;
                    row.i32(state.periods.into())?;
                    row.instant(state.paid_through)?;
                    row.bool(state.confirmed)?;
                    row.bool(state.cancel_at_period_end())?;
                    row.optional(state.cancel_scheduled_by, |row, by| row.text(convert::party_name(by)))?;
                    row.optional(state.ended, |row, end| row.instant(end.at))?;
                    row.optional(state.ended, |row, end| row.text(convert::party_name(end.by)))?;
                    row.i32(convert::unsigned(state.plan_changes)?)?;
                    row.i64(convert::to_i64(state.evidence.block.number)?)?;
                    row.bytes(state.evidence.block.hash.as_slice())?;
                    row.i64(convert::to_i64(state.evidence.log_index)?)?;
                    row.bytes(state.evidence.tx_hash.as_slice())?;
                    row.instant(state.evidence.timestamp)
                })
                .await?;
        }
        rows.finish().await
    }

    /// Writes subscriptions whose rows are there, as they are after their events.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] where a row is gone.
    pub async fn update_subscriptions(
        &mut self,
        subscriptions: &[&MirroredSubscription],
    ) -> Result<(), StoreError> {
        if subscriptions.is_empty() {
            return Ok(());
        }
        let states = || subscriptions.iter().map(|subscription| &subscription.state);
        let ids: Vec<_> = subscriptions.iter().map(|subscription| subscription.id.as_uuid()).collect();
        let onchain_ids = states().map(|s| convert::to_i64(s.id)).collect::<Result<Vec<_>, _>>()?;
        let statuses: Vec<String> = states().map(|s| s.recorded_status().as_str().to_owned()).collect();
        let plans: Vec<i64> = states().map(|s| s.plan.into()).collect();
        let scheduled: Vec<Option<i64>> = states().map(|s| s.scheduled_plan.map(i64::from)).collect();
        let anchors: Vec<_> = states().map(|s| s.anchor).collect();
        let periods: Vec<i32> = states().map(|s| s.periods.into()).collect();
        let paid_through: Vec<_> = states().map(|s| s.paid_through).collect();
        let confirmed: Vec<_> = states().map(|s| s.confirmed).collect();
        let party = |party| convert::party_name(party).to_owned();
        let cancelled_by: Vec<Option<String>> = states().map(|s| s.cancel_scheduled_by.map(party)).collect();
        let ended_at: Vec<Option<DateTime<Utc>>> = states().map(|s| s.ended.map(|end| end.at)).collect();
        let ended_by: Vec<Option<String>> = states().map(|s| s.ended.map(|end| party(end.by))).collect();
        let plan_changes =
            states().map(|s| convert::unsigned::<_, i32>(s.plan_changes)).collect::<Result<Vec<_>, _>>()?;
        let evidence_numbers =
            states().map(|s| convert::to_i64(s.evidence.block.number)).collect::<Result<Vec<_>, _>>()?;
        let evidence_hashes: Vec<Vec<u8>> = states().map(|s| s.evidence.block.hash.to_vec()).collect();
        let evidence_indexes =
            states().map(|s| convert::to_i64(s.evidence.log_index)).collect::<Result<Vec<_>, _>>()?;
        let evidence_txs: Vec<Vec<u8>> = states().map(|s| s.evidence.tx_hash.to_vec()).collect();
        let evidence_at: Vec<_> = states().map(|s| s.evidence.timestamp).collect();
        let saved = sqlx::query!(
            "UPDATE ledger.subscriptions s SET
                 onchain_id = n.onchain_id, status = n.status, onchain_plan_id = n.plan,
                 scheduled_plan_id = n.scheduled, anchor = n.anchor, periods = n.periods,
                 paid_through = n.paid_through, confirmed = n.confirmed,
                 cancel_at_period_end = n.cancelled_by IS NOT NULL, cancel_scheduled_by = n.cancelled_by,
                 ended_at = n.ended_at, ended_by = n.ended_by, plan_changes = n.plan_changes,
                 evidence_block_number = n.evidence_number, evidence_block_hash = n.evidence_hash,
                 evidence_log_index = n.evidence_index, evidence_tx = n.evidence_tx, evidence_at = n.evidence_at,
                 updated_at = now()
             FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::timestamptz[],
                         $7::integer[], $8::timestamptz[], $9::boolean[], $10::text[], $11::timestamptz[],
                         $12::text[], $13::integer[], $14::bigint[], $15::bytea[], $16::bigint[], $17::bytea[],
                         $18::timestamptz[])
                 AS n (id, onchain_id, status, plan, scheduled, anchor, periods, paid_through, confirmed,
                       cancelled_by, ended_at, ended_by, plan_changes, evidence_number, evidence_hash,
                       evidence_index, evidence_tx, evidence_at)
             WHERE s.id = n.id",
            &ids,
            &onchain_ids,
            &statuses,
            &plans,
            &scheduled as &[Option<i64>],
            &anchors,
            &periods,
            &paid_through,
            &confirmed,
            &cancelled_by as &[Option<String>],
            &ended_at as &[Option<DateTime<Utc>>],
            &ended_by as &[Option<String>],
            &plan_changes,
            &evidence_numbers,
            &evidence_hashes,
            &evidence_indexes,
            &evidence_txs,
            &evidence_at,
        )
        .execute(&mut *self.tx)
        .await?;
        if usize::try_from(saved.rows_affected()).is_ok_and(|saved| saved == subscriptions.len()) {
            Ok(())
        } else {
            Err(StoreError::Inconsistent("a subscription's row is gone"))
        }
    }
}

/// A subscription as it is stored.
struct SubscriptionRow {
    id: uuid::Uuid,
    account_id: uuid::Uuid,
    onchain_id: i64,
    plan: i64,
    scheduled_plan_id: Option<i64>,
    payer: Vec<u8>,
    reference: Vec<u8>,
    anchor: DateTime<Utc>,
    periods: i32,
    paid_through: DateTime<Utc>,
    confirmed: bool,
    cancel_scheduled_by: Option<String>,
    ended_at: Option<DateTime<Utc>>,
    ended_by: Option<String>,
    plan_changes: i32,
    evidence_block_number: i64,
    evidence_block_hash: Vec<u8>,
    evidence_log_index: i64,
    evidence_tx: Vec<u8>,
    evidence_at: DateTime<Utc>,
}

impl TryFrom<SubscriptionRow> for MirroredSubscription {
    type Error = StoreError;

    fn try_from(row: SubscriptionRow) -> Result<Self, StoreError> {
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
        Ok(Self { id, account, state })
    }
}
