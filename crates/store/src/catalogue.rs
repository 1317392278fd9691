//! Plans of the catalogue as immutable versions, and the on-chain plans that sell them.

use std::collections::BTreeMap;

use alloy_primitives::Address;
use dues_domain::{
    calendar::Interval,
    catalogue::PlanOffer,
    chain::{ChainSource, OnchainPlanId},
    ids::{PlanKey, PlanVersionId},
    money::{Asset, BaseUnits, Money},
};

use crate::{Store, StoreError, convert};

/// A version of a plan, and where on one chain it is sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPlan {
    /// The version's id.
    pub id: PlanVersionId,
    /// What it offers.
    pub offer: PlanOffer,
    /// The contract's plan that sells it, once it is known.
    pub onchain_plan_id: Option<OnchainPlanId>,
}

/// The part of an on-chain plan's terms that a plan of the catalogue has, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnchainTerms {
    /// What it is paid in.
    pub token: Address,
    /// What one period costs.
    pub price: BaseUnits,
    /// How long one period is.
    pub interval: Interval,
}

/// Which on-chain plan sells which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainPlanMapping {
    /// The version.
    pub plan: PlanVersionId,
    /// The contract's plan.
    pub onchain_plan_id: OnchainPlanId,
    /// The token that stands for the plan's currency.
    pub token: Address,
}

impl Store {
    /// Stores `offers` and gives each one's current version, with the plan of `source` that sells it. An offer
    /// whose terms differ from its key's newest version becomes a new version; versions never change.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn sync_plans(
        &self,
        offers: impl IntoIterator<Item = &PlanOffer>,
        source: ChainSource,
    ) -> Result<Vec<StoredPlan>, StoreError> {
        let mut tx = self.pool.begin().await?;
        // Two processes that start at once must not make two versions of one change.
        sqlx::query!("LOCK TABLE ledger.plans IN SHARE ROW EXCLUSIVE MODE").execute(&mut *tx).await?;
        let mut stored = Vec::new();
        for offer in offers {
            let newest = newest_version(&mut tx, &offer.key, source).await?;
            let plan = match newest {
                Some((_, plan)) if plan.offer == *offer => plan,
                newest => {
                    let version = newest.map_or(0, |(version, _)| version);
                    let version = version
                        .checked_add(1)
                        .ok_or(StoreError::Inconsistent("a plan has too many versions"))?;
                    insert_version(&mut tx, offer, version).await?
                }
            };
            stored.push(plan);
        }
        tx.commit().await?;
        Ok(stored)
    }

    /// The newest version of each of `offers`, with the plan of `source` that sells it; `None` where it is not stored, or
    /// has other terms. Stores nothing.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn stored_plans(
        &self,
        offers: impl IntoIterator<Item = &PlanOffer>,
        source: ChainSource,
    ) -> Result<Vec<Option<StoredPlan>>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let mut stored = Vec::new();
        for offer in offers {
            let newest = newest_version(&mut connection, &offer.key, source).await?;
            stored.push(newest.map(|(_, plan)| plan).filter(|plan| plan.offer == *offer));
        }
        Ok(stored)
    }

    /// Which plans of `source` sell which plans of the catalogue, old versions included.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn mapped_plans(
        &self,
        source: ChainSource,
    ) -> Result<BTreeMap<OnchainPlanId, PlanKey>, StoreError> {
        sqlx::query!(
            "SELECT pp.onchain_plan_id, p.key FROM ledger.plan_prices pp JOIN ledger.plans p ON p.id = pp.plan_id
             WHERE pp.chain_id = $1 AND pp.contract = $2",
            convert::to_i64(source.chain_id)?,
            source.contract.as_slice(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            let key = row.key.parse().map_err(|_| StoreError::Inconsistent("a plan's key is none"))?;
            Ok((convert::unsigned(row.onchain_plan_id)?, key))
        })
        .collect()
    }

    /// The terms of the plan that the contract at `source` calls `id`, as the indexer has mirrored them.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn onchain_terms(
        &self,
        source: ChainSource,
        id: OnchainPlanId,
    ) -> Result<Option<OnchainTerms>, StoreError> {
        sqlx::query!(
            r#"SELECT token, price::text AS "price!", interval_unit, interval_count FROM ledger.chain_plans
             WHERE chain_id = $1 AND contract = $2 AND onchain_plan_id = $3"#,
            convert::to_i64(source.chain_id)?,
            source.contract.as_slice(),
            i64::from(id),
        )
        .fetch_optional(&self.pool)
        .await?
        .map(|row| {
            let interval = Interval {
                unit: convert::unit(&row.interval_unit)?,
                count: convert::unsigned(row.interval_count)?,
            };
            let (token, price) = (convert::address(&row.token)?, convert::base_units(&row.price)?);
            Ok(OnchainTerms { token, price, interval })
        })
        .transpose()
    }

    /// Records which plan of `source` sells a version. It gives its tier only as long as the terms are the same. A mapping that exists already is left as it is.
    ///
    /// # Errors
    /// [`StoreError::Database`]; [`StoreError::Inconsistent`] where either side is mapped otherwise.
    pub async fn map_plan(&self, source: ChainSource, mapping: ChainPlanMapping) -> Result<(), StoreError> {
        let (chain_id, contract) = (convert::to_i64(source.chain_id)?, source.contract);
        let plan = mapping.plan.as_uuid();
        sqlx::query!(
            "INSERT INTO ledger.plan_prices (chain_id, contract, onchain_plan_id, plan_id, token)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            chain_id,
            contract.as_slice(),
            i64::from(mapping.onchain_plan_id),
            plan,
            mapping.token.as_slice(),
        )
        .execute(&self.pool)
        .await?;
        let mapped = sqlx::query_scalar!(
            "SELECT plan_id FROM ledger.plan_prices
             WHERE chain_id = $1 AND contract = $2 AND onchain_plan_id = $3 AND token = $4",
            chain_id,
            contract.as_slice(),
            i64::from(mapping.onchain_plan_id),
            mapping.token.as_slice(),
        )
        .fetch_optional(&self.pool)
        .await?;
        if mapped == Some(plan) {
            Ok(())
        } else {
            Err(StoreError::Inconsistent("an on-chain plan or a plan version is mapped otherwise"))
        }
    }
}

async fn newest_version(
    tx: &mut sqlx::PgConnection,
    key: &PlanKey,
    source: ChainSource,
) -> Result<Option<(i32, StoredPlan)>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT p.id, p.version, p.tier, p.interval_unit, p.interval_count, p.price::text AS "price!", p.currency, p.exponent,
                  pp.onchain_plan_id AS "onchain_plan_id?"
           FROM ledger.plans p
           LEFT JOIN ledger.plan_prices pp ON pp.plan_id = p.id AND pp.chain_id = $2 AND pp.contract = $3
           WHERE p.key = $1 ORDER BY p.version DESC LIMIT 1"#,
        key.as_str(),
        convert::to_i64(source.chain_id)?,
        source.contract.as_slice(),
    )
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let offer = PlanOffer {
        key: key.clone(),
        tier: row.tier.parse().map_err(|_| StoreError::Inconsistent("a plan's tier is unknown"))?,
        price: Money {
            amount: convert::base_units(&row.price)?,
            asset: Asset { code: row.currency, exponent: convert::unsigned(row.exponent)? },
        },
        interval: Interval {
            unit: convert::unit(&row.interval_unit)?,
            count: convert::unsigned(row.interval_count)?,
        },
    };
    let onchain_plan_id = row.onchain_plan_id.map(convert::unsigned).transpose()?;
    Ok(Some((row.version, StoredPlan { id: PlanVersionId::from_uuid(row.id), offer, onchain_plan_id })))
}

async fn insert_version(
    tx: &mut sqlx::PgConnection,
    offer: &PlanOffer,
    version: i32,
) -> Result<StoredPlan, StoreError> {
    let id = PlanVersionId::generate();
    sqlx::query!(
        "INSERT INTO ledger.plans
             (id, key, version, tier, interval_unit, interval_count, price, currency, exponent)
         VALUES ($1, $2, $3, $4, $5, $6, ($7::text)::numeric, $8, $9)",
        id.as_uuid(),
        offer.key.as_str(),
        version,
        offer.tier.as_str(),
        convert::unit_name(offer.interval.unit),
        i32::from(offer.interval.count),
        convert::numeric(offer.price.amount),
        offer.price.asset.code,
        i16::from(offer.price.asset.exponent),
    )
    .execute(tx)
    .await?;
    Ok(StoredPlan { id, offer: offer.clone(), onchain_plan_id: None })
}
