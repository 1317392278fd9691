//! The one question that the platform asks all day: what may this account do right now, and why?

use std::{cmp::Reverse, collections::BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    catalogue::{Catalogue, Tier},
    chain::{BlockRef, ChainSource, OnchainPlanId, OnchainSubscriptionId},
    dunning::{Dunning, Runway},
    ids::{PlanKey, SubscriptionId},
    subscription::{SubscriptionStatus, Term},
    usage::Allowance,
};

/// How money moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rail {
    /// The contract.
    Chain,
}

/// Whether the block that an answer rests on can still be reorganised away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finality {
    /// It can.
    Pending,
    /// It cannot.
    Final,
}

/// The event on the chain that a subscription's access rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainEvidence {
    /// Which contract on which chain.
    pub source: ChainSource,
    /// The contract's id of the subscription.
    pub onchain_id: OnchainSubscriptionId,
    /// The block of the last payment (or of the start of the trial).
    pub block: BlockRef,
    /// Index of the event's log within that block.
    pub log_index: u64,
    /// Whether that block is final.
    pub finality: Finality,
}

/// A plan that the next period of a subscription will be one of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduledPlan {
    /// The contract's id.
    pub onchain_id: OnchainPlanId,
    /// Its name and what it gives; `None` where it is not in the catalogue.
    pub sold_as: Option<(PlanKey, Tier)>,
}

/// What the ledger knows of one subscription of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionFacts {
    /// Our id.
    pub id: SubscriptionId,
    /// How it is paid.
    pub rail: Rail,
    /// What the plan that it is on gives; `None` where that is not in the catalogue, in which case it gives nothing.
    pub tier: Option<Tier>,
    /// What decides its status.
    pub term: Term,
    /// From where its periods and quota windows are counted.
    pub anchor: DateTime<Utc>,
    /// The plan of its next period, where that is another one.
    pub scheduled_plan: Option<ScheduledPlan>,
    /// How its renewal stands, where it was tried and refused.
    pub dunning: Option<Dunning>,
    /// How many further periods its payer's money and consent last for, where somebody has looked.
    pub runway: Option<Runway>,
    /// What its access rests on.
    pub evidence: ChainEvidence,
}

/// What an account may do at an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entitlement {
    /// The tier, [`Tier::Free`] where nothing better is live.
    pub tier: Tier,
    /// Status of the subscription that gives the tier; `None` for the free tier.
    pub status: Option<SubscriptionStatus>,
    /// Whether that subscription ends with its paid period.
    pub cancel_at_period_end: bool,
    /// The plan of that subscription's next period, where that is another one.
    pub scheduled_plan: Option<ScheduledPlan>,
    /// How that subscription's renewal stands, where it was tried and refused.
    pub dunning: Option<Dunning>,
    /// How many further periods that subscription's payer can pay, where somebody has looked.
    pub runway: Option<Runway>,
    /// Everything that the tier includes.
    pub features: BTreeSet<String>,
    /// The instant at which this answer changes if nothing but time happens; `None` for the free tier.
    pub valid_until: Option<DateTime<Utc>>,
    /// What may be used; how much of it is used stands in the counters (see [`usage`](crate::usage)).
    pub allowance: Allowance,
    /// Which subscription gives the tier and what that rests on.
    pub source: Option<(SubscriptionId, Rail, ChainEvidence)>,
}

/// What an account with `subscriptions` may do at `now`.
///
/// The best live subscription wins: highest tier, then latest paid-through, then the rail (chain first), then
/// the oldest, so that the answer never depends on the order of the rows. Without one the account is
/// [`Tier::Free`], with quota windows counted from `account_since`.
#[must_use]
pub fn entitlement(
    subscriptions: &[SubscriptionFacts],
    account_since: DateTime<Utc>,
    catalogue: &Catalogue,
    now: DateTime<Utc>,
) -> Entitlement {
    let best = subscriptions
        .iter()
        .filter(|s| s.term.status_at(now).gives_access())
        .filter_map(|s| s.tier.map(|tier| (tier, s)))
        .max_by_key(|(tier, s)| (*tier, s.term.paid_through, Reverse(s.rail), Reverse(s.id)));
    let tier = best.map_or(Tier::Free, |(tier, _)| tier);
    let anchor = best.map_or(account_since, |(_, s)| s.anchor);
    let terms = catalogue.terms(tier);
    Entitlement {
        tier,
        status: best.map(|(_, s)| s.term.status_at(now)),
        cancel_at_period_end: best.is_some_and(|(_, s)| s.term.cancel_at_period_end),
        scheduled_plan: best.and_then(|(_, s)| s.scheduled_plan.clone()),
        dunning: best.and_then(|(_, s)| s.dunning),
        runway: best.and_then(|(_, s)| s.runway),
        features: terms.features,
        valid_until: best.and_then(|(_, s)| s.term.next_change(now)),
        allowance: Allowance { requests: terms.requests, tokens: terms.tokens, anchor },
        source: best.map(|(_, s)| (s.id, s.rail, s.evidence)),
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, B256};
    use proptest::prelude::*;

    use super::*;
    use crate::catalogue::{Quota, tests::catalogue};

    fn t(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn facts(tier: Option<Tier>, paid_through: i64) -> SubscriptionFacts {
        SubscriptionFacts {
            id: SubscriptionId::generate(),
            rail: Rail::Chain,
            tier,
            term: Term {
                confirmed: true,
                trial_until: None,
                paid_through: t(paid_through),
                grace_until: t(paid_through + 100),
                cancel_at_period_end: false,
                ended: false,
            },
            anchor: t(0),
            scheduled_plan: None,
            dunning: None,
            runway: None,
            evidence: ChainEvidence {
                source: ChainSource { chain_id: 1, contract: Address::ZERO },
                onchain_id: 1,
                block: BlockRef { number: 1, hash: B256::ZERO },
                log_index: 0,
                finality: Finality::Pending,
            },
        }
    }

    fn ask(subscriptions: &[SubscriptionFacts], now: i64) -> Entitlement {
        entitlement(subscriptions, t(0), &catalogue(), t(now))
    }

    #[test]
    fn nothing_is_free() {
        let answer = ask(&[], 50);
        assert_eq!((answer.tier, answer.status, answer.valid_until), (Tier::Free, None, None));
        assert_eq!((answer.allowance.requests, answer.allowance.anchor), (Quota::Limited(10), t(0)));
    }

    #[test]
    fn the_highest_tier_wins_and_then_the_longest() {
        let (basic, short, long) =
            (facts(Some(Tier::Basic), 900), facts(Some(Tier::Premium), 100), facts(Some(Tier::Premium), 200));
        let answer = ask(&[basic, short, long.clone()], 50);
        assert_eq!(answer.tier, Tier::Premium);
        assert_eq!(answer.source.map(|(id, ..)| id), Some(long.id));
        assert_eq!(answer.valid_until, Some(t(200)));
    }

    #[test]
    fn grace_keeps_the_tier_and_its_end_takes_it() {
        let subscription = [facts(Some(Tier::Basic), 100)];
        assert_eq!(ask(&subscription, 100).status, Some(SubscriptionStatus::PastDue));
        assert_eq!(ask(&subscription, 100).valid_until, Some(t(200)));
        assert_eq!(ask(&subscription, 200).tier, Tier::Free);
    }

    #[test]
    fn the_plan_now_on_gives_the_tier_and_a_scheduled_one_is_only_told_of() {
        let sold_as = Some(("basic-month".parse().unwrap(), Tier::Basic));
        let scheduled_plan = Some(ScheduledPlan { onchain_id: 1, sold_as });
        let premium = SubscriptionFacts { scheduled_plan, ..facts(Some(Tier::Premium), 100) };
        let answer = ask(std::slice::from_ref(&premium), 50);
        assert_eq!((answer.tier, answer.scheduled_plan), (Tier::Premium, premium.scheduled_plan));
        assert_eq!(ask(&[], 50).scheduled_plan, None);
    }

    #[test]
    fn a_plan_outside_the_catalogue_gives_nothing() {
        assert_eq!(ask(&[facts(None, 100)], 50).tier, Tier::Free);
    }

    #[test]
    fn unlimited_is_a_value_of_its_own() {
        assert_eq!(ask(&[facts(Some(Tier::Enterprise), 100)], 50).allowance.tokens.limit(), None);
    }

    proptest! {
        #[test]
        fn the_answer_does_not_depend_on_the_order_of_the_rows(
            ends in proptest::collection::vec((0_i64..300, 0_usize..4, any::<bool>()), 0..6),
            now in 0_i64..400, rotation in 0_usize..6,
        ) {
            let mut rows: Vec<_> = ends
                .iter()
                .map(|(end, tier, cancel)| {
                    let mut row = facts(Some(Tier::ALL[*tier]), *end);
                    row.term.cancel_at_period_end = *cancel;
                    row
                })
                .collect();
            let answer = ask(&rows, now);
            let best = rows.iter().filter(|r| r.term.status_at(t(now)).gives_access()).filter_map(|r| r.tier).max();
            prop_assert_eq!(answer.tier, best.unwrap_or(Tier::Free));
            let len = rows.len();
            if rotation < len { rows.rotate_left(rotation % len); }
            prop_assert_eq!(ask(&rows, now), answer);
        }
    }
}
