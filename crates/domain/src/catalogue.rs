//! What is sold: tiers with their quotas and features, and plans that sell a tier at a price for an interval.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{calendar::Interval, ids::PlanKey, money::Money};

/// A level of service, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The default answer for an account that pays nothing; never a row in the ledger.
    Free,
    /// The first paid tier.
    Basic,
    /// The second paid tier.
    Premium,
    /// The highest tier.
    Enterprise,
}

impl Tier {
    /// Every tier, ascending.
    pub const ALL: [Self; 4] = [Self::Free, Self::Basic, Self::Premium, Self::Enterprise];

    /// The tier's name as the API and the database spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Basic => "basic",
            Self::Premium => "premium",
            Self::Enterprise => "enterprise",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no tier.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a tier is one of free, basic, premium, enterprise")]
pub struct UnknownTier;

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == text).ok_or(UnknownTier)
    }
}

/// How much of a meter a quota window holds. Unlimited is a value of its own, not a large number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// At most this many in a window.
    Limited(u64),
    /// So many are included in a window; what is used beyond is overage, which is allowed, and billed later.
    Soft {
        /// What is included.
        included: u64,
        /// How much the window holds in all, overage included; `None` where there is no end to it.
        hard: Option<u64>,
    },
    /// No limit.
    Unlimited,
}

impl Quota {
    /// What is included, or `None` where everything is.
    #[must_use]
    pub const fn limit(self) -> Option<u64> {
        match self {
            Self::Limited(limit) | Self::Soft { included: limit, .. } => Some(limit),
            Self::Unlimited => None,
        }
    }

    /// What is never passed, or `None` where there is no such limit.
    #[must_use]
    pub const fn hard_limit(self) -> Option<u64> {
        match self {
            Self::Limited(limit) => Some(limit),
            Self::Soft { hard, .. } => hard,
            Self::Unlimited => None,
        }
    }
}

/// What one tier gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierTerms {
    /// Requests per quota window.
    pub requests: Quota,
    /// Tokens per quota window.
    pub tokens: Quota,
    /// Features of this tier and of every tier below it.
    pub features: BTreeSet<String>,
}

/// A plan as the catalogue offers it: a tier, a price and an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanOffer {
    /// Stable name across versions.
    pub key: PlanKey,
    /// What it gives.
    pub tier: Tier,
    /// What one period costs.
    pub price: Money,
    /// How long one period is.
    pub interval: Interval,
}

/// What is wrong with a catalogue.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CatalogueError {
    /// A tier has no terms.
    #[error("tier {0} is missing")]
    MissingTier(Tier),
    /// A plan sells the tier that costs nothing.
    #[error("plan {0} sells the free tier, which is never sold")]
    SellsFree(PlanKey),
    /// A plan costs nothing.
    #[error("plan {0} has no price")]
    NoPrice(PlanKey),
    /// A plan lasts no time.
    #[error("plan {0} has an interval of nothing")]
    NoInterval(PlanKey),
}

/// Every tier and every plan on offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    tiers: BTreeMap<Tier, TierTerms>,
    plans: BTreeMap<PlanKey, PlanOffer>,
}

impl Catalogue {
    /// A catalogue of `tiers`, each with the features of its own only, and `plans`.
    ///
    /// # Errors
    /// Every fault of the catalogue together, so that an operator mends them in one go.
    pub fn new(
        tiers: BTreeMap<Tier, TierTerms>,
        plans: BTreeMap<PlanKey, PlanOffer>,
    ) -> Result<Self, Vec<CatalogueError>> {
        let mut faults: Vec<_> = Tier::ALL
            .into_iter()
            .filter(|tier| !tiers.contains_key(tier))
            .map(CatalogueError::MissingTier)
            .collect();
        for plan in plans.values() {
            if plan.tier == Tier::Free {
                faults.push(CatalogueError::SellsFree(plan.key.clone()));
            }
            if plan.price.amount.get() == 0 {
                faults.push(CatalogueError::NoPrice(plan.key.clone()));
            }
            if plan.interval.count == 0 {
                faults.push(CatalogueError::NoInterval(plan.key.clone()));
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut inherited = BTreeSet::new();
        let tiers = tiers
            .into_iter()
            .map(|(tier, mut terms)| {
                inherited.extend(terms.features);
                terms.features = inherited.clone();
                (tier, terms)
            })
            .collect();
        Ok(Self { tiers, plans })
    }

    /// The terms of `tier`, its features including those of every lower tier.
    #[must_use]
    pub fn terms(&self, tier: Tier) -> TierTerms {
        // `new` refuses a catalogue that lacks a tier; nothing at all is the safe answer if one were missing.
        self.tiers.get(&tier).cloned().unwrap_or(TierTerms {
            requests: Quota::Limited(0),
            tokens: Quota::Limited(0),
            features: BTreeSet::new(),
        })
    }

    /// The plans on offer, by key.
    pub fn plans(&self) -> impl Iterator<Item = &PlanOffer> {
        self.plans.values()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::money::{Asset, BaseUnits};

    /// A catalogue without plans whose tiers have 10, 20, 30 and unlimited requests and one feature each.
    pub(crate) fn catalogue() -> Catalogue {
        Catalogue::new(tiers(), BTreeMap::new()).unwrap()
    }

    fn tiers() -> BTreeMap<Tier, TierTerms> {
        let quotas = [Quota::Limited(10), Quota::Limited(20), Quota::Limited(30), Quota::Unlimited];
        Tier::ALL
            .into_iter()
            .zip(quotas)
            .map(|(tier, quota)| {
                let features = BTreeSet::from([format!("{tier}_feature")]);
                (tier, TierTerms { requests: quota, tokens: quota, features })
            })
            .collect()
    }

    fn plan(tier: Tier, units: u128, count: u16) -> PlanOffer {
        PlanOffer {
            key: "p".parse().unwrap(),
            tier,
            price: Money { amount: BaseUnits::new(units), asset: Asset { code: "USDC".into(), exponent: 6 } },
            interval: Interval { count, ..Interval::MONTH },
        }
    }

    #[test]
    fn a_higher_tier_includes_the_features_of_the_lower_ones() {
        let premium = catalogue().terms(Tier::Premium);
        assert_eq!(
            premium.features.iter().map(String::as_str).collect::<Vec<_>>(),
            ["basic_feature", "free_feature", "premium_feature"]
        );
    }

    #[test]
    fn all_faults_of_a_catalogue_are_reported_together() {
        let mut incomplete = tiers();
        incomplete.remove(&Tier::Basic);
        let bad = plan(Tier::Free, 0, 0);
        let key = bad.key.clone();
        assert_eq!(
            Catalogue::new(incomplete, BTreeMap::from([(key.clone(), bad)])),
            Err(vec![
                CatalogueError::MissingTier(Tier::Basic),
                CatalogueError::SellsFree(key.clone()),
                CatalogueError::NoPrice(key.clone()),
                CatalogueError::NoInterval(key),
            ])
        );
    }

    #[test]
    fn tiers_are_ordered_and_spelled_one_way() {
        assert!(Tier::ALL.is_sorted());
        for tier in Tier::ALL {
            assert_eq!(tier.as_str().parse(), Ok(tier));
        }
        assert_eq!("Basic".parse::<Tier>(), Err(UnknownTier));
    }
}
