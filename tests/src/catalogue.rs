//! What `dues.toml` sells by default, made through the domain's own types.

use std::collections::{BTreeMap, BTreeSet};

use dues_domain::{
    calendar::Interval,
    catalogue::{Catalogue, PlanOffer, Quota, Tier, TierTerms},
    money::{BaseUnits, Money},
};

use crate::asset;

const PLANS: [(&str, Tier, u128, Interval); 6] = [
    ("basic-month", Tier::Basic, 29_990_000, Interval::MONTH),
    ("basic-year", Tier::Basic, 299_990_000, Interval::YEAR),
    ("premium-month", Tier::Premium, 99_990_000, Interval::MONTH),
    ("premium-year", Tier::Premium, 999_990_000, Interval::YEAR),
    ("enterprise-month", Tier::Enterprise, 499_990_000, Interval::MONTH),
    ("enterprise-year", Tier::Enterprise, 4_999_990_000, Interval::YEAR),
];

/// The catalogue of the default configuration.
#[must_use]
pub fn catalogue() -> Catalogue {
    let terms = |requests, tokens, features: &[&str]| TierTerms {
        requests,
        tokens,
        features: features.iter().map(|feature| (*feature).to_owned()).collect::<BTreeSet<_>>(),
    };
    let limits = |requests, tokens| (Quota::Limited(requests), Quota::Limited(tokens));
    let (free, basic, premium) = (limits(100, 10_000), limits(5_000, 500_000), limits(50_000, 5_000_000));
    let tiers = BTreeMap::from([
        (Tier::Free, terms(free.0, free.1, &["basic_assistant", "limited_api"])),
        (Tier::Basic, terms(basic.0, basic.1, &["priority_support", "custom_prompts", "analytics"])),
        (Tier::Premium, terms(premium.0, premium.1, &["advanced_analytics", "webhooks", "api_access"])),
        (
            Tier::Enterprise,
            terms(Quota::Unlimited, Quota::Unlimited, &["dedicated_support", "custom_integration", "sla"]),
        ),
    ]);
    let plans = PLANS
        .into_iter()
        .map(|(key, tier, units, interval)| {
            let key: dues_domain::ids::PlanKey = key.parse().unwrap();
            let price = Money { amount: BaseUnits::new(units), asset: asset() };
            (key.clone(), PlanOffer { key, tier, price, interval })
        })
        .collect();
    Catalogue::new(tiers, plans).unwrap()
}
