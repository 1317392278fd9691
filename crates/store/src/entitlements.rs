//! The facts that an entitlement is decided on.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use dues_domain::{
    calendar::LATEST,
    catalogue::Tier,
    chain::{BlockRef, ChainSource, OnchainSubscriptionId},
    dunning::{Dunning, Runway},
    entitlement::{ChainEvidence, Finality, Rail, ScheduledPlan, SubscriptionFacts},
    fold::ChainSubscription,
    ids::{AccountId, SubscriptionId},
    subscription::{Term, trial_until},
};

use crate::{
    Store, StoreError, convert,
    keeper::failure,
    mirror::{EventRow, StoredEvent},
};

/// Folds what is stored of one subscription, oldest event first. The store knows no contract's events.
pub type Fold = dyn Fn(Vec<StoredEvent>) -> Result<Option<ChainSubscription>, StoreError> + Send + Sync;

/// When a payment on a chain gives access: as soon as it is in a block, or on some chains only once that block is
/// final.
#[derive(Clone)]
pub struct Grants {
    once_final: HashSet<ChainSource>,
    fold: Arc<Fold>,
}

impl std::fmt::Debug for Grants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grants").field("once_final", &self.once_final).finish_non_exhaustive()
    }
}

impl Grants {
    /// Access with the block of the payment, on every chain.
    #[must_use]
    pub fn at_once() -> Self {
        // Without a chain in the set, nothing is ever folded.
        Self::new(HashSet::new(), Arc::new(|_| Ok(None)))
    }

    /// Access with the block of the payment, but on the chains of `once_final` only once that block is final.
    #[must_use]
    pub fn new(once_final: HashSet<ChainSource>, fold: Arc<Fold>) -> Self {
        Self { once_final, fold }
    }
}

/// What the ledger says of an account's subscriptions, and until when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountSubscriptions {
    /// The subscriptions that count.
    pub facts: Vec<SubscriptionFacts>,
    /// Where one of these chains is final up to one of these blocks, it may say something else.
    pub until_final: Vec<(ChainSource, u64)>,
}

/// What a plan gives, and the one that is scheduled to follow it.
struct Sold {
    tier: Option<Tier>,
    grace_seconds: i64,
    scheduled_plan: Option<ScheduledPlan>,
}

impl Sold {
    fn new(
        tier: Option<&str>,
        grace_seconds: i64,
        scheduled_plan_id: Option<i64>,
        next: Option<(String, String)>,
    ) -> Result<Self, StoreError> {
        let sold_as = next.map(|(key, tier)| {
            let key = key.parse().map_err(|_| StoreError::Inconsistent("a plan's key is none"))?;
            Ok::<_, StoreError>((key, parse_tier(&tier)?))
        });
        let sold_as = sold_as.transpose()?;
        let scheduled_plan = match scheduled_plan_id {
            Some(id) => Some(ScheduledPlan { onchain_id: convert::unsigned(id)?, sold_as }),
            None => None,
        };
        Ok(Self { tier: tier.map(parse_tier).transpose()?, grace_seconds, scheduled_plan })
    }

    /// A renewal into a scheduled plan is tried within the shorter grace of the two, as in the contract.
    fn grace_until(&self, paid_through: DateTime<Utc>) -> DateTime<Utc> {
        TimeDelta::try_seconds(self.grace_seconds)
            .and_then(|grace| paid_through.checked_add_signed(grace))
            .unwrap_or(LATEST)
            .min(LATEST)
    }
}

impl Store {
    /// Everything that the ledger knows of the subscriptions of `account` that have been confirmed, so far as `grants`
    /// lets it count.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn subscription_facts(
        &self,
        account: AccountId,
        grants: &Grants,
    ) -> Result<Vec<SubscriptionFacts>, StoreError> {
        Ok(self.account_subscriptions(account, grants).await?.facts)
    }

    /// As [`subscription_facts`](Self::subscription_facts), with what ends them beside a change of the ledger.
    ///
    /// # Errors
    /// As there.
    pub async fn account_subscriptions(
        &self,
        account: AccountId,
        grants: &Grants,
    ) -> Result<AccountSubscriptions, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT s.id, s.chain_id, s.contract, s.onchain_id AS "onchain_id!", s.anchor, s.periods, s.paid_through,
                      s.cancel_at_period_end, s.ended_at, s.evidence_block_number, s.evidence_block_hash,
                      s.evidence_log_index, s.evidence_at, s.scheduled_plan_id,
                      least(cp.grace_seconds, np.grace_seconds) AS "grace_seconds!", p.tier AS "tier?",
                      n.key AS "next_key?", n.tier AS "next_tier?", c.final_number,
                      a.attempts AS "attempts?", a.reason AS "refusal?", a.last_attempt_at AS "last_attempt_at?",
                      a.next_attempt_at, r.renewals AS "renewals?", r.limited_by AS "limited_by?", r.as_of AS "runway_as_of?"
               FROM ledger.subscriptions s
               JOIN ledger.chain_plans cp USING (chain_id, contract, onchain_plan_id)
               JOIN ledger.chain_checkpoints c USING (chain_id, contract)
               LEFT JOIN ledger.plan_prices pp USING (chain_id, contract, onchain_plan_id, token)
               LEFT JOIN ledger.plans p ON p.id = pp.plan_id
                   AND (p.price, p.interval_unit, p.interval_count) = (cp.price, cp.interval_unit, cp.interval_count)
               LEFT JOIN ledger.chain_plans np ON (np.chain_id, np.contract, np.onchain_plan_id)
                   = (s.chain_id, s.contract, s.scheduled_plan_id)
               LEFT JOIN ledger.plan_prices npp ON (npp.chain_id, npp.contract, npp.onchain_plan_id, npp.token)
                   = (np.chain_id, np.contract, np.onchain_plan_id, np.token)
               LEFT JOIN ledger.plans n ON n.id = npp.plan_id
                   AND (n.price, n.interval_unit, n.interval_count) = (np.price, np.interval_unit, np.interval_count)
               -- Of an earlier period, it says nothing any more.
               LEFT JOIN ledger.charge_attempts a ON a.subscription_id = s.id AND a.paid_through = s.paid_through
               LEFT JOIN ledger.charge_runways r ON r.subscription_id = s.id
               WHERE s.account_id = $1 AND s.confirmed"#,
            account.as_uuid(),
        )
        .fetch_all(&self.pool)
        .await?;
        let (mut facts, mut until_final) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            let source = convert::chain_source(row.chain_id, &row.contract)?;
            let id = SubscriptionId::from_uuid(row.id);
            let onchain_id = convert::unsigned(row.onchain_id)?;
            let finality = if row.evidence_block_number <= row.final_number {
                Finality::Final
            } else {
                Finality::Pending
            };
            if finality == Finality::Pending && grants.once_final.contains(&source) {
                // Any block that becomes final may hold an event of this subscription.
                until_final.push((source, convert::unsigned::<_, u64>(row.final_number)?.saturating_add(1)));
                facts.extend(self.facts_once_final(id, source, onchain_id, row.final_number, grants).await?);
                continue;
            }
            if finality == Finality::Pending {
                until_final.push((source, convert::unsigned(row.evidence_block_number)?));
            }
            let dunning = match (row.attempts, row.refusal, row.last_attempt_at) {
                (Some(attempts), Some(reason), Some(last_attempt_at)) => Some(Dunning {
                    reason: failure(&reason)?,
                    attempts: convert::unsigned(attempts)?,
                    last_attempt_at,
                    next_attempt_at: row.next_attempt_at,
                }),
                _ => None,
            };
            let runway = match (row.renewals, row.limited_by, row.runway_as_of) {
                (Some(renewals), Some(limited_by), Some(as_of)) => Some(Runway {
                    renewals: convert::unsigned(renewals)?,
                    limited_by: failure(&limited_by)?,
                    as_of,
                }),
                _ => None,
            };
            let next = row.next_key.zip(row.next_tier);
            let sold = Sold::new(row.tier.as_deref(), row.grace_seconds, row.scheduled_plan_id, next)?;
            facts.push(SubscriptionFacts {
                id,
                rail: Rail::Chain,
                tier: sold.tier,
                term: Term {
                    confirmed: true,
                    trial_until: trial_until(row.anchor, convert::unsigned(row.periods)?, row.evidence_at),
                    paid_through: row.paid_through,
                    grace_until: sold.grace_until(row.paid_through),
                    cancel_at_period_end: row.cancel_at_period_end,
                    ended: row.ended_at.is_some(),
                },
                anchor: row.anchor,
                scheduled_plan: sold.scheduled_plan,
                dunning,
                runway,
                evidence: ChainEvidence {
                    source,
                    onchain_id,
                    block: BlockRef {
                        number: convert::unsigned(row.evidence_block_number)?,
                        hash: convert::hash(&row.evidence_block_hash)?,
                    },
                    log_index: convert::unsigned(row.evidence_log_index)?,
                    finality,
                },
            });
        }
        Ok(AccountSubscriptions { facts, until_final })
    }

    /// A subscription as it was at the last final block; `None` where it gave nothing then.
    async fn facts_once_final(
        &self,
        id: SubscriptionId,
        source: ChainSource,
        onchain_id: OnchainSubscriptionId,
        final_number: i64,
        grants: &Grants,
    ) -> Result<Option<SubscriptionFacts>, StoreError> {
        let (chain_id, contract) = (convert::to_i64(source.chain_id)?, source.contract.to_vec());
        let events = sqlx::query_as!(
            EventRow,
            "SELECT block_number, block_hash, block_time, log_index, tx_hash, topics, data FROM ledger.chain_events
             WHERE chain_id = $1 AND contract = $2 AND onchain_id = $3 AND block_number <= $4
             ORDER BY block_number, log_index",
            chain_id,
            contract,
            convert::to_i64(onchain_id)?,
            final_number,
        )
        .fetch_all(&self.pool)
        .await?;
        let events = events.into_iter().map(StoredEvent::try_from).collect::<Result<Vec<_>, _>>()?;
        let Some(state) = (grants.fold)(events)?.filter(|state| state.confirmed) else { return Ok(None) };
        let row = sqlx::query!(
            r#"SELECT least(cp.grace_seconds, np.grace_seconds) AS "grace_seconds!", p.tier AS "tier?",
                      n.key AS "next_key?", n.tier AS "next_tier?"
               FROM ledger.chain_plans cp
               LEFT JOIN ledger.plan_prices pp USING (chain_id, contract, onchain_plan_id, token)
               LEFT JOIN ledger.plans p ON p.id = pp.plan_id
                   AND (p.price, p.interval_unit, p.interval_count) = (cp.price, cp.interval_unit, cp.interval_count)
               LEFT JOIN ledger.chain_plans np ON (np.chain_id, np.contract, np.onchain_plan_id)
                   = (cp.chain_id, cp.contract, $4)
               LEFT JOIN ledger.plan_prices npp ON (npp.chain_id, npp.contract, npp.onchain_plan_id, npp.token)
                   = (np.chain_id, np.contract, np.onchain_plan_id, np.token)
               LEFT JOIN ledger.plans n ON n.id = npp.plan_id
                   AND (n.price, n.interval_unit, n.interval_count) = (np.price, np.interval_unit, np.interval_count)
               WHERE cp.chain_id = $1 AND cp.contract = $2 AND cp.onchain_plan_id = $3"#,
            chain_id,
            contract,
            i64::from(state.plan),
            state.scheduled_plan.map(i64::from),
        )
        .fetch_one(&self.pool)
        .await?;
        let next = row.next_key.zip(row.next_tier);
        let sold =
            Sold::new(row.tier.as_deref(), row.grace_seconds, state.scheduled_plan.map(i64::from), next)?;
        Ok(Some(SubscriptionFacts {
            id,
            rail: Rail::Chain,
            tier: sold.tier,
            term: Term {
                confirmed: true,
                trial_until: trial_until(state.anchor, state.periods, state.evidence.timestamp),
                paid_through: state.paid_through,
                grace_until: sold.grace_until(state.paid_through),
                cancel_at_period_end: state.cancel_at_period_end(),
                ended: state.ended.is_some(),
            },
            anchor: state.anchor,
            scheduled_plan: sold.scheduled_plan,
            // The keeper's notes are of the latest state, not of this one.
            dunning: None,
            runway: None,
            evidence: ChainEvidence {
                source,
                onchain_id,
                block: state.evidence.block,
                log_index: state.evidence.log_index,
                finality: Finality::Final,
            },
        }))
    }
}

fn parse_tier(name: &str) -> Result<Tier, StoreError> {
    name.parse().map_err(|_| StoreError::Inconsistent("a plan's tier is unknown"))
}
