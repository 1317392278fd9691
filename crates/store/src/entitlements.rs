//! The facts that an entitlement is decided on.

use chrono::TimeDelta;
use dues_domain::{
    chain::BlockRef,
    entitlement::{ChainEvidence, Finality, Rail, SubscriptionFacts},
    ids::{AccountId, SubscriptionId},
    subscription::Term,
};

use crate::{Store, StoreError, convert};

impl Store {
    /// Everything that the ledger knows of the subscriptions of `account` that have been confirmed.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn subscription_facts(&self, account: AccountId) -> Result<Vec<SubscriptionFacts>, StoreError> {
        sqlx::query!(
            r#"SELECT s.id, s.chain_id, s.contract, s.onchain_id AS "onchain_id!", s.anchor, s.periods,
                      s.paid_through, s.cancel_at_period_end, s.ended_at, s.evidence_block_number,
                      s.evidence_block_hash, s.evidence_log_index, cp.grace_seconds, p.tier AS "tier?",
                      c.final_number
               FROM ledger.subscriptions s
               JOIN ledger.chain_plans cp USING (chain_id, contract, onchain_plan_id)
               JOIN ledger.chain_checkpoints c USING (chain_id, contract)
               LEFT JOIN ledger.plan_prices pp USING (chain_id, contract, onchain_plan_id, token)
               LEFT JOIN ledger.plans p ON p.id = pp.plan_id
                   AND (p.price, p.interval_unit, p.interval_count) = (cp.price, cp.interval_unit, cp.interval_count)
               WHERE s.account_id = $1 AND s.confirmed"#,
            account.as_uuid(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            let grace = TimeDelta::try_seconds(row.grace_seconds)
                .and_then(|grace| row.paid_through.checked_add_signed(grace))
                .ok_or(StoreError::Inconsistent("a subscription's grace ends outside the calendar"))?;
            let tier = row
                .tier
                .map(|tier| tier.parse().map_err(|_| StoreError::Inconsistent("a plan's tier is unknown")))
                .transpose()?;
            let finality = if row.evidence_block_number <= row.final_number {
                Finality::Final
            } else {
                Finality::Pending
            };
            Ok(SubscriptionFacts {
                id: SubscriptionId::from_uuid(row.id),
                rail: Rail::Chain,
                tier,
                term: Term {
                    confirmed: true,
                    periods: convert::unsigned(row.periods)?,
                    paid_through: row.paid_through,
                    grace_until: grace,
                    cancel_at_period_end: row.cancel_at_period_end,
                    ended: row.ended_at.is_some(),
                },
                anchor: row.anchor,
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
