//! How subscriptions and plans are named on the command line.

use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};
use dues_domain::{
    chain::{OnchainPlanId, OnchainSubscriptionId},
    ids::{AccountId, PlanKey, SubscriptionId},
};
use dues_store::{Store, merchant::Movement};

use crate::config::{Chain, Config};

/// A chain, by its name in the configuration, and what it is to do.
pub(crate) type Named = (String, Chain);

/// A subscription: by our id, by that of one of its transactions, or as `chain:number`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SubscriptionName {
    Ours(SubscriptionId),
    Onchain { chain: Option<String>, id: OnchainSubscriptionId },
}

/// A plan: `chain:number`, a number, or a plan of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PlanName {
    Onchain { chain: Option<String>, id: OnchainPlanId },
    Catalogue(PlanKey),
}

impl FromStr for SubscriptionName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "an id of a subscription or a transaction is needed, or a chain and the contract's number, as in base:7";
        if let Ok(id) = text.parse() {
            return Ok(Self::Ours(id));
        }
        let (chain, id) = onchain(text);
        Ok(Self::Onchain { chain, id: id.parse().map_err(|_| FORM)? })
    }
}

impl FromStr for PlanName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str =
            "a plan of the catalogue is needed, or a chain and the contract's number, as in base:7";
        let (chain, id) = onchain(text);
        match (id.parse(), chain) {
            (Ok(id), chain) => Ok(Self::Onchain { chain, id }),
            (Err(_), None) => text.parse().map(Self::Catalogue).map_err(|_| FORM),
            (Err(_), Some(_)) => Err(FORM),
        }
    }
}

fn onchain(text: &str) -> (Option<String>, &str) {
    text.split_once(':').map_or((None, text), |(chain, id)| (Some(chain.to_owned()), id))
}

/// A subscription, found.
#[derive(Debug)]
pub(super) struct FoundSubscription {
    pub(super) id: OnchainSubscriptionId,
    /// As the ledger knows it; the indexer may not have been there yet.
    pub(super) ours: Option<(SubscriptionId, AccountId)>,
    /// The money movement that it was named by.
    pub(super) movement: Option<Movement>,
}

impl SubscriptionName {
    /// The subscription, and the chain that it is on.
    pub(super) async fn find(
        self,
        store: &Store,
        chains: Vec<Named>,
    ) -> anyhow::Result<(Named, FoundSubscription)> {
        match self {
            Self::Ours(id) => {
                let found = store.act_subject(id.as_uuid()).await?;
                let found = found.with_context(|| format!("there is no subscription or transaction {id}"))?;
                let of = |(_, chain): &Named| chain.indexer.source == found.source;
                let chain = chains.into_iter().find(of).with_context(|| {
                    format!("{id} is on chain {}, which is not among those meant", found.source.chain_id)
                })?;
                let onchain_id = found.onchain_id.context("the subscription is on no chain any more")?;
                let ours = Some((found.subscription, found.account));
                Ok((chain, FoundSubscription { id: onchain_id, ours, movement: found.movement }))
            }
            Self::Onchain { chain, id } => {
                let chain = pick(chains, chain.as_deref())?;
                let ours = store.subscription_at(chain.1.indexer.source, id).await?;
                Ok((chain, FoundSubscription { id, ours, movement: None }))
            }
        }
    }
}

impl PlanName {
    /// The chain that is meant, and the contract's number.
    pub(super) async fn find(
        self,
        store: &Store,
        config: &Catalogue,
        chains: Vec<Named>,
    ) -> anyhow::Result<(Named, OnchainPlanId)> {
        match self {
            Self::Onchain { chain, id } => Ok((pick(chains, chain.as_deref())?, id)),
            Self::Catalogue(key) => {
                let chain = pick(chains, None)?;
                let id = config.sold_by(store, &chain.0, &chain.1, &key).await?;
                Ok((chain, id))
            }
        }
    }

    /// The contract's number on a chain that is known already.
    pub(super) async fn on(
        self,
        store: &Store,
        config: &Catalogue,
        name: &str,
        chain: &Chain,
    ) -> anyhow::Result<OnchainPlanId> {
        match self {
            Self::Onchain { chain: named, id } => {
                ensure!(
                    named.is_none_or(|named| named == name),
                    "the plan and the subscription are on different chains"
                );
                Ok(id)
            }
            Self::Catalogue(key) => config.sold_by(store, name, chain, &key).await,
        }
    }
}

/// The catalogue of the configuration, for finding what sells its plans.
#[derive(Debug)]
pub(super) struct Catalogue(dues_domain::catalogue::Catalogue);

impl Catalogue {
    pub(super) fn of(config: &Config) -> Self {
        Self(config.catalogue.clone())
    }

    async fn sold_by(
        &self,
        store: &Store,
        name: &str,
        chain: &Chain,
        key: &PlanKey,
    ) -> anyhow::Result<OnchainPlanId> {
        let offer = self.0.plans().find(|offer| offer.key == *key);
        let offer = offer.with_context(|| format!("there is no plan {key} in the catalogue"))?;
        let stored = store.stored_plans([offer], chain.indexer.source).await?;
        let id = stored.into_iter().flatten().find_map(|plan| plan.onchain_plan_id);
        id.with_context(|| format!("{key} is not sold on {name}: see `dues plans sync`"))
    }
}

/// The one that is named, or the only one that there is.
pub(super) fn pick(chains: Vec<Named>, name: Option<&str>) -> anyhow::Result<Named> {
    match name {
        Some(name) => {
            let found = chains.into_iter().find(|(other, _)| other == name);
            found.with_context(|| format!("there is no chain {name} among those meant"))
        }
        None => {
            let mut chains = chains.into_iter();
            match (chains.next(), chains.next()) {
                (Some(only), None) => Ok(only),
                _ => bail!("there are several chains: name one, as in base:7 or by --chain"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_documented() {
        let id = "0198c0de-0000-7000-8000-000000000007";
        assert_eq!(id.parse(), Ok(SubscriptionName::Ours(id.parse().unwrap())));
        assert_eq!("7".parse(), Ok(SubscriptionName::Onchain { chain: None, id: 7 }));
        assert_eq!("base:7".parse(), Ok(SubscriptionName::Onchain { chain: Some("base".into()), id: 7 }));
        for bad in ["", "base", "base:", ":x", "base:-1", "7:base", "base:99999999999999999999"] {
            assert!(bad.parse::<SubscriptionName>().is_err(), "{bad:?}");
        }
        assert_eq!("base:7".parse(), Ok(PlanName::Onchain { chain: Some("base".into()), id: 7 }));
        assert_eq!("7".parse(), Ok(PlanName::Onchain { chain: None, id: 7 }));
        assert_eq!("basic-month".parse(), Ok(PlanName::Catalogue("basic-month".parse().unwrap())));
        for bad in ["", "base:basic-month", "Basic", "base:"] {
            assert!(bad.parse::<PlanName>().is_err(), "{bad:?}");
        }
    }
}
