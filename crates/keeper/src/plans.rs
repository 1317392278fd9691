//! Plans of the catalogue on a chain: their terms there, and which of them are missing.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, aliases::U96};
use dues_chain::{
    contract::{IDues, interval_unit_number},
    source::{ContractPlan, RpcSource, SourceError},
};
use dues_domain::{
    calendar::{Interval, IntervalUnit},
    catalogue::PlanOffer,
    chain::{BlockRef, OnchainPlan, OnchainPlanId},
    ids::PlanKey,
    money::BaseUnits,
};
use dues_store::StoredPlan;

/// Plans in one call.
const PAGE: u32 = 100;
const DAY: u32 = 86_400;
/// What the contract allows.
const LONGEST_TRIAL: u32 = 366 * DAY;
const SHORTEST_GRACE: u32 = 3_600;
/// A renewal is tried for a week, where nothing else is said.
const USUAL_GRACE: u32 = 7 * DAY;

/// The terms of a plan that only its sale on a chain has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaleTerms {
    /// Length of the trial in seconds; 0 for none.
    pub trial_seconds: u32,
    /// How long a renewal is tried after a period's end, in seconds.
    pub grace_seconds: u32,
    /// The most that may be charged for usage in one period, beside the price; 0 for none.
    pub usage_cap: BaseUnits,
}

/// Terms that the contract does not take.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TermsError {
    /// A price or a cap of more than 96 bits.
    #[error("the contract takes at most 2^96 - 1 base units")]
    Amount,
    /// An interval of more than 3660 days or 120 months.
    #[error("an interval on chain is at most 3660 days or 120 months")]
    Interval,
    /// More than 366 days.
    #[error("a trial is at most 366 days")]
    Trial,
    /// Less than an hour, or longer than a period can be short.
    #[error(
        "grace is at least an hour, and at most the shortest time that a period can last: {longest} seconds"
    )]
    Grace {
        /// The longest that is possible.
        longest: u32,
    },
}

impl SaleTerms {
    /// What a plan of `interval` has where nothing is said: no trial, a week of grace, no usage on top.
    #[must_use]
    pub fn usual(interval: Interval) -> Self {
        let grace_seconds = USUAL_GRACE.min(shortest(interval));
        Self { trial_seconds: 0, grace_seconds, usage_cap: BaseUnits::new(0) }
    }
}

/// The shortest time that a period can last, in seconds.
fn shortest(interval: Interval) -> u32 {
    let days = match interval.unit {
        IntervalUnit::Day => 1_u32,
        IntervalUnit::Month => 28,
    };
    days.saturating_mul(interval.count.into()).saturating_mul(DAY)
}

/// `offer` as the contract takes it.
///
/// # Errors
/// Where the contract would not.
pub fn plan_terms(
    offer: &PlanOffer,
    sale: SaleTerms,
    token: Address,
    payee: Address,
) -> Result<IDues::PlanTerms, TermsError> {
    let most = match offer.interval.unit {
        IntervalUnit::Day => 3_660,
        IntervalUnit::Month => 120,
    };
    if !(1..=most).contains(&offer.interval.count) {
        return Err(TermsError::Interval);
    }
    if sale.trial_seconds > LONGEST_TRIAL {
        return Err(TermsError::Trial);
    }
    let longest = shortest(offer.interval);
    if !(SHORTEST_GRACE..=longest).contains(&sale.grace_seconds) {
        return Err(TermsError::Grace { longest });
    }
    let units = |amount: BaseUnits| U96::try_from(amount.get()).map_err(|_| TermsError::Amount);
    Ok(IDues::PlanTerms {
        token,
        price: units(offer.price.amount)?,
        payee,
        unit: interval_unit_number(offer.interval.unit),
        count: offer.interval.count,
        trial: sale.trial_seconds,
        grace: sale.grace_seconds,
        usageCap: units(sale.usage_cap)?,
    })
}

/// One term that is not on the chain what it is in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TermDifference {
    /// Which.
    pub term: &'static str,
    /// As configured.
    pub configured: String,
    /// On the chain.
    pub onchain: String,
}

/// Where a plan of the catalogue stands on a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A plan of the chain sells it.
    Sold {
        /// That plan.
        id: OnchainPlanId,
        /// Whether it takes no new subscribers any more.
        retired: bool,
        /// What it has otherwise. Terms never change on a chain.
        differences: Vec<TermDifference>,
    },
    /// It is said to be sold by a plan that the chain does not have.
    Gone {
        /// That plan.
        id: OnchainPlanId,
    },
    /// There is a plan of exactly these terms that sells nothing yet: it only has to be mapped.
    Unmapped {
        /// That plan.
        id: OnchainPlanId,
    },
    /// There is none.
    Missing,
}

/// A plan of the catalogue, its terms, and where it stands.
#[derive(Debug, Clone)]
pub struct Surveyed {
    /// The plan.
    pub offer: PlanOffer,
    /// As the contract would have it.
    pub terms: IDues::PlanTerms,
    /// Where it stands.
    pub standing: Standing,
}

/// Every plan of `merchant` at `at`, whoever else uses the contract.
///
/// # Errors
/// [`SourceError`] where no node answers for that block.
pub async fn plans_of(
    rpc: &RpcSource,
    at: BlockRef,
    merchant: Address,
) -> Result<Vec<ContractPlan>, SourceError> {
    let (count, _) = rpc.counts(at).await?;
    let (mut plans, mut first) = (Vec::new(), 1_u32);
    while first <= count {
        let last = first.saturating_add(PAGE.saturating_sub(1)).min(count);
        plans.extend(rpc.plans(at, first, last).await?);
        let Some(next) = last.checked_add(1) else { break };
        first = next;
    }
    plans.retain(|plan| plan.plan.merchant == merchant);
    Ok(plans)
}

/// Where each of `wanted` stands: with its terms, and as it is stored, if it is. `mapped` are the chain's plans that sell
/// something, `onchain` all of the merchant's.
#[must_use]
pub fn survey(
    wanted: Vec<(PlanOffer, IDues::PlanTerms, Option<StoredPlan>)>,
    mapped: &BTreeMap<OnchainPlanId, PlanKey>,
    onchain: &[ContractPlan],
) -> Vec<Surveyed> {
    let mut taken: BTreeSet<_> = mapped.keys().copied().collect();
    wanted
        .into_iter()
        .map(|(offer, terms, stored)| {
            let standing = match stored.and_then(|stored| stored.onchain_plan_id) {
                Some(id) => match onchain.iter().find(|plan| plan.plan.id == id) {
                    Some(plan) => Standing::Sold {
                        id,
                        retired: plan.retired,
                        differences: differences(&terms, &plan.plan),
                    },
                    None => Standing::Gone { id },
                },
                None => {
                    let unmapped = onchain.iter().find(|plan| {
                        !plan.retired
                            && !taken.contains(&plan.plan.id)
                            && differences(&terms, &plan.plan).is_empty()
                    });
                    match unmapped {
                        Some(plan) => {
                            taken.insert(plan.plan.id);
                            Standing::Unmapped { id: plan.plan.id }
                        }
                        None => Standing::Missing,
                    }
                }
            };
            Surveyed { offer, terms, standing }
        })
        .collect()
}

fn differences(terms: &IDues::PlanTerms, plan: &OnchainPlan) -> Vec<TermDifference> {
    let interval = |unit: u8, count: u16| format!("{count} {}", if unit == 0 { "days" } else { "months" });
    let pairs = [
        ("token", terms.token.to_string(), plan.token.to_string()),
        ("price", terms.price.to_string(), plan.price.to_string()),
        (
            "interval",
            interval(terms.unit, terms.count),
            interval(interval_unit_number(plan.interval.unit), plan.interval.count),
        ),
        ("trial", terms.trial.to_string(), plan.trial_seconds.to_string()),
        ("grace", terms.grace.to_string(), plan.grace_seconds.to_string()),
        ("usage_cap", terms.usageCap.to_string(), plan.usage_cap.to_string()),
        ("payee", terms.payee.to_string(), plan.payee.to_string()),
    ];
    pairs
        .into_iter()
        .filter(|(_, configured, onchain)| configured != onchain)
        .map(|(term, configured, onchain)| TermDifference { term, configured, onchain })
        .collect()
}

#[cfg(test)]
mod tests {
    use dues_domain::{
        catalogue::Tier,
        ids::PlanVersionId,
        money::{Asset, Money},
    };

    use super::*;

    fn offer(key: &str, price: u128, interval: Interval) -> PlanOffer {
        let asset = Asset { code: "USDC".into(), exponent: 6 };
        let price = Money { amount: BaseUnits::new(price), asset };
        PlanOffer { key: key.parse().unwrap(), tier: Tier::Basic, price, interval }
    }

    fn onchain(id: OnchainPlanId, terms: &IDues::PlanTerms, unit: IntervalUnit) -> ContractPlan {
        let plan = OnchainPlan {
            id,
            merchant: Address::repeat_byte(9),
            token: terms.token,
            payee: terms.payee,
            price: BaseUnits::new(terms.price.to()),
            interval: Interval { unit, count: terms.count },
            trial_seconds: terms.trial,
            grace_seconds: terms.grace,
            usage_cap: BaseUnits::new(terms.usageCap.to()),
        };
        ContractPlan { plan, retired: false }
    }

    fn terms(offer: &PlanOffer) -> IDues::PlanTerms {
        let (token, payee) = (Address::repeat_byte(1), Address::repeat_byte(2));
        plan_terms(offer, SaleTerms::usual(offer.interval), token, payee).unwrap()
    }

    #[test]
    fn usual_terms_are_ones_that_the_contract_takes() {
        for count in 1..=120 {
            terms(&offer("p", 1, Interval { unit: IntervalUnit::Month, count }));
        }
        for count in 1..=3_660 {
            terms(&offer("p", 1, Interval { unit: IntervalUnit::Day, count }));
        }
        let day = Interval { unit: IntervalUnit::Day, count: 1 };
        assert_eq!(SaleTerms::usual(day).grace_seconds, 86_400);
        assert_eq!(SaleTerms::usual(Interval::MONTH).grace_seconds, 604_800);
    }

    #[test]
    fn terms_that_the_contract_would_refuse_are_refused_before() {
        let plan = offer("p", 1, Interval::MONTH);
        let usual = SaleTerms::usual(plan.interval);
        let refused =
            |plan: &PlanOffer, sale| plan_terms(plan, sale, Address::ZERO, Address::ZERO).unwrap_err();
        let longest = 28 * 86_400;
        for grace_seconds in [0, 3_599, longest + 1] {
            assert_eq!(refused(&plan, SaleTerms { grace_seconds, ..usual }), TermsError::Grace { longest });
        }
        assert_eq!(
            refused(&plan, SaleTerms { trial_seconds: LONGEST_TRIAL + 1, ..usual }),
            TermsError::Trial
        );
        let usage_cap = BaseUnits::new(1 << 96);
        assert_eq!(refused(&plan, SaleTerms { usage_cap, ..usual }), TermsError::Amount);
        let long = Interval { unit: IntervalUnit::Month, count: 121 };
        assert_eq!(refused(&offer("p", 1, long), usual), TermsError::Interval);
    }

    #[test]
    fn an_unmapped_plan_of_the_same_terms_is_taken_once_and_other_terms_are_told() {
        let (one, two) = (offer("one", 5, Interval::MONTH), offer("two", 5, Interval::MONTH));
        let (dear, gone) = (offer("dear", 7, Interval::MONTH), offer("gone", 8, Interval::MONTH));
        let stored = |offer: &PlanOffer, id| StoredPlan {
            id: PlanVersionId::generate(),
            offer: offer.clone(),
            onchain_plan_id: Some(id),
        };
        let mut other = onchain(1, &terms(&dear), IntervalUnit::Month);
        other.plan.grace_seconds = 3_600;
        let mut retired = onchain(2, &terms(&one), IntervalUnit::Month);
        retired.retired = true;
        let chain = [
            other,
            retired,
            // Sells something else.
            onchain(3, &terms(&one), IntervalUnit::Month),
            onchain(4, &terms(&one), IntervalUnit::Month),
        ];
        let mapped = BTreeMap::from([(1, "dear".parse().unwrap()), (3, "old".parse().unwrap())]);
        let wanted = vec![
            (one.clone(), terms(&one), None),
            (two.clone(), terms(&two), None),
            (dear.clone(), terms(&dear), Some(stored(&dear, 1))),
            (gone.clone(), terms(&gone), Some(stored(&gone, 9))),
        ];
        let found: Vec<_> = survey(wanted, &mapped, &chain).into_iter().map(|plan| plan.standing).collect();
        let differences =
            vec![TermDifference { term: "grace", configured: "604800".into(), onchain: "3600".into() }];
        assert_eq!(
            found,
            [
                Standing::Unmapped { id: 4 },
                Standing::Missing,
                Standing::Sold { id: 1, retired: false, differences },
                Standing::Gone { id: 9 },
            ]
        );
    }
}
