//! The facts that an entitlement is decided on.

use chrono::TimeDelta;
use dues_domain::{
    calendar::LATEST,
    catalogue::Tier,
    chain::BlockRef,
    entitlement::{ChainEvidence, Finality, Rail, ScheduledPlan, SubscriptionFacts},
    ids::{AccountId, SubscriptionId},
    subscription::{Term, trial_until},
};

use crate::{Store, StoreError, convert};

impl Store {
    /// Everything that the ledger knows of the subscriptions of `account` that have been confirmed.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn subscription_facts(&self, account: AccountId) -> Result<Vec<SubscriptionFacts>, StoreError> {
        sqlx::query!(
            r#"SELECT s.id, s.chain_id, s.contract, s.onchain_id AS "onchain_id!", s.anchor, s.periods, s.paid_through,
                      s.cancel_at_period_end, s.ended_at, s.evidence_block_number, s.evidence_block_hash,
                      s.evidence_log_index, s.evidence_at, s.scheduled_plan_id,
                      least(cp.grace_seconds, np.grace_seconds) AS "grace_seconds!", p.tier AS "tier?",
                      n.key AS "next_key?", n.tier AS "next_tier?", c.final_number
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
               WHERE s.account_id = $1 AND s.confirmed"#,
            account.as_uuid(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            // A renewal into a scheduled plan is tried within the shorter grace of the two, as in the contract.
            let grace_until = TimeDelta::try_seconds(row.grace_seconds)
                .and_then(|grace| row.paid_through.checked_add_signed(grace))
                .unwrap_or(LATEST)
                .min(LATEST);
            let scheduled_plan = row
                .scheduled_plan_id
                .map(|onchain_id| {
                    let sold_as = row.next_key.zip(row.next_tier).map(|(key, tier)| {
                        let key = key.parse().map_err(|_| StoreError::Inconsistent("a plan's key is none"))?;
                        Ok::<_, StoreError>((key, parse_tier(&tier)?))
                    });
                    let onchain_id = convert::unsigned(onchain_id)?;
                    Ok::<_, StoreError>(ScheduledPlan { onchain_id, sold_as: sold_as.transpose()? })
                })
                .transpose()?;
            let finality = if row.evidence_block_number <= row.final_number {
                Finality::Final
            } else {
                Finality::Pending
            };
            Ok(SubscriptionFacts {
                id: SubscriptionId::from_uuid(row.id),
                rail: Rail::Chain,
                tier: row.tier.as_deref().map(parse_tier).transpose()?,
                term: Term {
                    confirmed: true,
                    trial_until: trial_until(row.anchor, convert::unsigned(row.periods)?, row.evidence_at),
                    paid_through: row.paid_through,
                    grace_until,
                    cancel_at_period_end: row.cancel_at_period_end,
                    ended: row.ended_at.is_some(),
                },
                anchor: row.anchor,
                scheduled_plan,
                evidence: ChainEvidence {
                    source: convert::chain_source(row.chain_id, &row.contract)?,
                    onchain_id: convert::unsigned(row.onchain_id)?,
                    block: BlockRef {
                        number: convert::unsigned(row.evidence_block_number)?,
                        hash: convert::hash(&row.evidence_block_hash)?,
                    },
                    log_index: convert::unsigned(row.evidence_log_index)?,
                    finality,
                },
            })
        })
        .collect()
    }
}

fn parse_tier(name: &str) -> Result<Tier, StoreError> {
    name.parse().map_err(|_| StoreError::Inconsistent("a plan's tier is unknown"))
}
