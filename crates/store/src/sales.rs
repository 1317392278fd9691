//! Where the catalogue's plans are sold, for whoever wants to subscribe.

use alloy_primitives::Address;
use dues_domain::{
    catalogue::PlanOffer,
    chain::{ChainSource, OnchainPlanId},
    ids::{AccountId, PlanKey, SubscriptionId},
    money::BaseUnits,
};

use crate::{Store, StoreError, convert};

/// An on-chain plan that takes new subscribers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanSale {
    /// What it sells.
    pub key: PlanKey,
    /// Which contract on which chain.
    pub source: ChainSource,
    /// The contract's number for it.
    pub onchain_id: OnchainPlanId,
    /// What it is paid in.
    pub token: Address,
    /// Who is paid.
    pub payee: Address,
    /// How long it is free of charge at first.
    pub trial_seconds: u32,
    /// How long a renewal is tried.
    pub grace_seconds: u32,
    /// The most that may be charged for usage in a period.
    pub usage_cap: BaseUnits,
}

/// Who pays for a subscription, and for which plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaidBy {
    /// Which one.
    pub subscription: SubscriptionId,
    /// The wallet that it is charged to.
    pub payer: Address,
    /// The catalogue's plan; `None` where it does not sell it.
    pub plan: Option<PlanKey>,
}

impl Store {
    /// Where `offers` are sold at these very terms, by key and chain.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn plan_sales(
        &self,
        offers: impl IntoIterator<Item = &PlanOffer>,
    ) -> Result<Vec<PlanSale>, StoreError> {
        let offers: Vec<_> = offers.into_iter().collect();
        let rows = sqlx::query!(
            r#"SELECT p.key, p.tier, p.price::text AS "price!", p.currency, p.exponent, p.interval_unit, p.interval_count,
                      cp.chain_id, cp.contract, cp.onchain_plan_id, cp.token, cp.payee, cp.trial_seconds,
                      cp.grace_seconds, cp.usage_cap::text AS "usage_cap!"
               FROM (SELECT DISTINCT ON (key) * FROM ledger.plans ORDER BY key, version DESC) p
               JOIN ledger.plan_prices pp ON pp.plan_id = p.id
               JOIN ledger.chain_plans cp USING (chain_id, contract, onchain_plan_id, token)
               WHERE (p.price, p.interval_unit, p.interval_count) = (cp.price, cp.interval_unit, cp.interval_count)
                   AND cp.retired_block IS NULL
               ORDER BY p.key, cp.chain_id, cp.contract"#,
        )
        .fetch_all(&self.pool)
        .await?;
        let mut sales = Vec::with_capacity(rows.len());
        for row in rows {
            // A version that the configuration has left behind is not on offer.
            let is_it = |offer: &&&PlanOffer| {
                offer.key.as_str() == row.key
                    && offer.tier.as_str() == row.tier
                    && offer.price.asset.code == row.currency
                    && i16::from(offer.price.asset.exponent) == row.exponent
                    && convert::numeric(offer.price.amount) == row.price
                    && convert::unit_name(offer.interval.unit) == row.interval_unit
                    && i32::from(offer.interval.count) == row.interval_count
            };
            let Some(offer) = offers.iter().find(is_it) else { continue };
            sales.push(PlanSale {
                key: offer.key.clone(),
                source: convert::chain_source(row.chain_id, &row.contract)?,
                onchain_id: convert::unsigned(row.onchain_plan_id)?,
                token: convert::address(&row.token)?,
                payee: convert::address(&row.payee)?,
                trial_seconds: convert::unsigned(row.trial_seconds)?,
                grace_seconds: convert::unsigned(row.grace_seconds)?,
                usage_cap: convert::base_units(&row.usage_cap)?,
            });
        }
        Ok(sales)
    }

    /// Who pays for the subscriptions of `account` that are on a chain.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn paid_by(&self, account: AccountId) -> Result<Vec<PaidBy>, StoreError> {
        sqlx::query!(
            r#"SELECT s.id, s.payer, p.key AS "key?"
               FROM ledger.subscriptions s
               JOIN ledger.chain_plans cp USING (chain_id, contract, onchain_plan_id)
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
            let plan = row.key.map(|key| key.parse());
            let plan = plan.transpose().map_err(|_| StoreError::Inconsistent("a plan's key is none"))?;
            Ok(PaidBy {
                subscription: SubscriptionId::from_uuid(row.id),
                payer: convert::address(&row.payer)?,
                plan,
            })
        })
        .collect()
    }
}
