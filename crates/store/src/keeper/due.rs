//! What is due, and what was refused.

use std::str::FromStr as _;

use alloy_primitives::Address;
use chrono::{DateTime, Utc};
use dues_domain::{
    chain::{ChainSource, ChargeFailure, OnchainSubscriptionId},
    dunning::{GraceWindow, Runway},
    ids::SubscriptionId,
    money::BaseUnits,
};
use sqlx::types::Uuid;

use super::KeeperLead;
use crate::{Store, StoreError, convert};

/// Which of the due charges.
#[derive(Debug, Clone, Copy)]
pub struct DueQuery {
    /// Of which contract.
    pub source: ChainSource,
    /// Of whose plans.
    pub merchant: Address,
    /// Whose transactions may be under way for some of it. What others have sent is nothing to wait for: it may never be
    /// in a block, and the contract charges once in any case.
    pub signer: Option<Address>,
    /// What time it is, by the chain's clock.
    pub now: DateTime<Utc>,
    /// Those after this one: the last of the page before.
    pub after: Option<After>,
    /// How many at most.
    pub limit: u32,
}

/// Where a page of due charges ended.
pub type After = (DateTime<Utc>, SubscriptionId);

/// The charge of a subscription's next period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// Our id of the subscription.
    pub subscription: SubscriptionId,
    /// The contract's.
    pub onchain_id: OnchainSubscriptionId,
    /// What it is paid in.
    pub token: Address,
    /// When it falls due, and until when it can be charged.
    pub grace: GraceWindow,
    /// How often it was tried and refused.
    pub attempts: u32,
}

/// A charge that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub charge: Charge,
    /// Why.
    pub reason: ChargeFailure,
    /// When it was tried, by the chain's clock.
    pub at: DateTime<Utc>,
    /// When it is tried again.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// A subscription whose payer's means are to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunwaySubject {
    /// Our id of the subscription.
    pub subscription: SubscriptionId,
    /// Who pays.
    pub payer: Address,
    /// What is paid in.
    pub token: Address,
    /// The price of its next period.
    pub price: BaseUnits,
}

struct ChargeRow {
    id: Uuid,
    onchain_id: i64,
    token: Vec<u8>,
    paid_through: DateTime<Utc>,
    grace_until: DateTime<Utc>,
    attempts: i32,
}

impl TryFrom<ChargeRow> for Charge {
    type Error = StoreError;

    fn try_from(row: ChargeRow) -> Result<Self, StoreError> {
        Ok(Self {
            subscription: SubscriptionId::from_uuid(row.id),
            onchain_id: convert::unsigned(row.onchain_id)?,
            token: convert::address(&row.token)?,
            grace: GraceWindow { from: row.paid_through, until: row.grace_until },
            attempts: convert::unsigned(row.attempts)?,
        })
    }
}

impl Store {
    /// What is due and not put off, the longest due first: renewing, confirmed, within grace, no attempt put it off to
    /// later, and no transaction of the signer is under way for it.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn due_charges(&self, query: DueQuery) -> Result<Vec<Charge>, StoreError> {
        let (after, after_id) = query.after.map(|(at, id)| (at, id.as_uuid())).unzip();
        sqlx::query_as!(
            ChargeRow,
            r#"WITH busy AS (
                   SELECT DISTINCT unnest(t.onchain_ids) AS onchain_id
                   FROM ledger.keeper_transactions t
                   LEFT JOIN ledger.chain_checkpoints c USING (chain_id, contract)
                   WHERE t.chain_id = $1 AND t.contract = $2 AND t.signer = $8
                     -- The ledger is not there yet, or its chain went another way, and what was charged will be again.
                     AND (t.status = 'mined' AND (t.block_number > c.block_number OR EXISTS (
                              SELECT FROM ledger.chain_blocks b
                              WHERE (b.chain_id, b.contract, b.number) = (t.chain_id, t.contract, t.block_number)
                                AND b.hash <> t.block_hash))
                          OR t.status = 'open' AND NOT EXISTS (
                              SELECT FROM ledger.keeper_transactions m
                              WHERE (m.chain_id, m.signer, m.nonce) = (t.chain_id, t.signer, t.nonce)
                                AND m.status = 'mined'))
               )
               SELECT s.id, s.onchain_id AS "onchain_id!", p.token, s.paid_through,
                      s.paid_through + make_interval(secs => least(p.grace_seconds, n.grace_seconds)) AS "grace_until!",
                      coalesce(a.attempts, 0) AS "attempts!"
               FROM ledger.subscriptions s
               JOIN ledger.chain_plans p USING (chain_id, contract, onchain_plan_id)
               LEFT JOIN ledger.chain_plans n
                   ON (n.chain_id, n.contract, n.onchain_plan_id) = (s.chain_id, s.contract, s.scheduled_plan_id)
               LEFT JOIN ledger.charge_attempts a
                   ON a.subscription_id = s.id AND a.paid_through = s.paid_through
               WHERE s.chain_id = $1 AND s.contract = $2 AND p.merchant = $3
                 AND s.confirmed AND s.ended_at IS NULL AND NOT s.cancel_at_period_end AND s.periods < 65535
                 AND s.paid_through <= $4::timestamptz
                 -- Whatever lapsed long ago is not even looked at.
                 AND s.paid_through > $4::timestamptz - make_interval(secs => (
                     SELECT max(grace_seconds) FROM ledger.chain_plans WHERE chain_id = $1 AND contract = $2))
                 AND s.paid_through + make_interval(secs => least(p.grace_seconds, n.grace_seconds)) > $4
                 AND (a.subscription_id IS NULL OR a.next_attempt_at <= $4)
                 AND ($5::timestamptz IS NULL OR (s.paid_through, s.id) > ($5, $6))
                 AND NOT EXISTS (SELECT FROM busy WHERE busy.onchain_id = s.onchain_id)
               ORDER BY s.paid_through, s.id
               LIMIT $7"#,
            convert::to_i64(query.source.chain_id)?,
            query.source.contract.as_slice(),
            query.merchant.as_slice(),
            query.now,
            after,
            after_id,
            i64::from(query.limit),
            query.signer.map(|signer| signer.to_vec()),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(TryInto::try_into)
        .collect()
    }

    /// The next charges of the subscriptions that the contract calls by `ids`, due or not, as far as they are on the
    /// chain.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn charges_of(
        &self,
        source: ChainSource,
        ids: &[OnchainSubscriptionId],
    ) -> Result<Vec<Charge>, StoreError> {
        let ids = ids.iter().map(|id| convert::to_i64(*id)).collect::<Result<Vec<_>, _>>()?;
        sqlx::query_as!(
            ChargeRow,
            r#"SELECT s.id, s.onchain_id AS "onchain_id!", p.token, s.paid_through,
                      s.paid_through + make_interval(secs => least(p.grace_seconds, n.grace_seconds)) AS "grace_until!",
                      coalesce(a.attempts, 0) AS "attempts!"
               FROM ledger.subscriptions s
               JOIN ledger.chain_plans p USING (chain_id, contract, onchain_plan_id)
               LEFT JOIN ledger.chain_plans n
                   ON (n.chain_id, n.contract, n.onchain_plan_id) = (s.chain_id, s.contract, s.scheduled_plan_id)
               LEFT JOIN ledger.charge_attempts a
                   ON a.subscription_id = s.id AND a.paid_through = s.paid_through
               WHERE s.chain_id = $1 AND s.contract = $2 AND s.onchain_id = ANY($3)"#,
            convert::to_i64(source.chain_id)?,
            source.contract.as_slice(),
            &ids,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(TryInto::try_into)
        .collect()
    }

    /// Subscriptions that go on and whose payer's means nobody has looked at since `before`, the longest ago first,
    /// `limit` at most.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn runway_subjects(
        &self,
        source: ChainSource,
        merchant: Address,
        now: DateTime<Utc>,
        before: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<RunwaySubject>, StoreError> {
        sqlx::query!(
            r#"SELECT s.id, s.payer, p.token, coalesce(n.price, p.price)::text AS "price!"
               FROM ledger.subscriptions s
               JOIN ledger.chain_plans p USING (chain_id, contract, onchain_plan_id)
               LEFT JOIN ledger.chain_plans n
                   ON (n.chain_id, n.contract, n.onchain_plan_id) = (s.chain_id, s.contract, s.scheduled_plan_id)
               LEFT JOIN ledger.charge_runways r ON r.subscription_id = s.id
               WHERE s.chain_id = $1 AND s.contract = $2 AND p.merchant = $3
                 AND s.confirmed AND s.ended_at IS NULL AND NOT s.cancel_at_period_end
                 AND s.paid_through > $4::timestamptz - make_interval(secs => p.grace_seconds)
                 -- Also after each payment, which has used up some of it.
                 AND (r.subscription_id IS NULL OR r.as_of < $5 OR r.as_of < s.evidence_at)
               ORDER BY r.as_of NULLS FIRST
               LIMIT $6"#,
            convert::to_i64(source.chain_id)?,
            source.contract.as_slice(),
            merchant.as_slice(),
            now,
            before,
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(RunwaySubject {
                subscription: SubscriptionId::from_uuid(row.id),
                payer: convert::address(&row.payer)?,
                token: convert::address(&row.token)?,
                price: convert::base_units(&row.price)?,
            })
        })
        .collect()
    }
}

impl KeeperLead {
    /// Notes charges that were refused, all or none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn refused(&mut self, refused: &[Refused]) -> Result<(), StoreError> {
        let (mut ids, mut periods, mut attempts) = (Vec::new(), Vec::new(), Vec::new());
        let (mut reasons, mut at, mut next) = (Vec::new(), Vec::new(), Vec::new());
        for one in refused {
            ids.push(one.charge.subscription.as_uuid());
            periods.push(one.charge.grace.from);
            attempts.push(convert::unsigned::<_, i32>(one.charge.attempts.saturating_add(1))?);
            reasons.push(one.reason.as_str().to_owned());
            at.push(one.at);
            next.push(one.next_attempt_at);
        }
        sqlx::query!(
            "INSERT INTO ledger.charge_attempts AS a (subscription_id, paid_through, attempts, reason, first_attempt_at,
                                                      last_attempt_at, next_attempt_at)
             SELECT id, period, attempts, reason, at, at, next
             FROM unnest($1::uuid[], $2::timestamptz[], $3::integer[], $4::text[], $5::timestamptz[], $6::timestamptz[])
                 AS refused (id, period, attempts, reason, at, next)
             ON CONFLICT (subscription_id) DO UPDATE
             SET paid_through = excluded.paid_through, attempts = excluded.attempts, reason = excluded.reason,
                 first_attempt_at = CASE WHEN a.paid_through = excluded.paid_through
                     THEN least(a.first_attempt_at, excluded.first_attempt_at) ELSE excluded.first_attempt_at END,
                 last_attempt_at = excluded.last_attempt_at, next_attempt_at = excluded.next_attempt_at",
            &ids,
            &periods,
            &attempts,
            &reasons,
            &at,
            &next as &[Option<DateTime<Utc>>],
        )
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    /// Notes for how long payers' means last, all or none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn runways(&mut self, found: &[(SubscriptionId, Runway)]) -> Result<(), StoreError> {
        let (mut ids, mut renewals) = (Vec::new(), Vec::new());
        let (mut limits, mut as_of) = (Vec::new(), Vec::new());
        for (subscription, runway) in found {
            ids.push(subscription.as_uuid());
            renewals.push(convert::unsigned::<_, i32>(runway.renewals)?);
            limits.push(runway.limited_by.as_str().to_owned());
            as_of.push(runway.as_of);
        }
        sqlx::query!(
            "INSERT INTO ledger.charge_runways (subscription_id, renewals, limited_by, as_of)
             SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::timestamptz[])
             ON CONFLICT (subscription_id) DO UPDATE
             SET renewals = excluded.renewals, limited_by = excluded.limited_by, as_of = excluded.as_of",
            &ids,
            &renewals,
            &limits,
            &as_of,
        )
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }
}

/// What stands in the way of a charge, as the keeper's tables spell it.
pub(crate) fn failure(name: &str) -> Result<ChargeFailure, StoreError> {
    ChargeFailure::from_str(name).map_err(|_| StoreError::Inconsistent("a reason of a refusal is unknown"))
}
