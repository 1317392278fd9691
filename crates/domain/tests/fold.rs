//! The fold against a model of the contract: whatever legal things happen to a subscription, in whatever transactions,
//! folding the events gives the contract's storage and every movement of money.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what was not expected fails the test")]

use std::collections::HashSet;

use alloy_primitives::{Address, B256};
use chrono::{DateTime, TimeDelta, Utc};
use dues_domain::{
    calendar::{Interval, IntervalUnit, Span},
    chain::{
        BlockRef, ChargeFailure, EventPosition, OnchainPlanId, Party, SubscriptionEvent,
        SubscriptionEventKind as Kind,
    },
    fold::{ChainSubscription, FoldError, Movement, MovementKind},
    money::BaseUnits,
};
use proptest::prelude::*;

const ID: u64 = 7;
const PAYER: Address = Address::repeat_byte(1);
const MERCHANT: Address = Address::repeat_byte(2);
const GRACE: TimeDelta = TimeDelta::days(7);
/// Of each plan, by its id less 1. Two are alike, so that periods can be counted on.
const INTERVALS: [Interval; 4] = [
    Interval::MONTH,
    Interval::MONTH,
    Interval { unit: IntervalUnit::Day, count: 30 },
    Interval { unit: IntervalUnit::Month, count: 3 },
];

/// Something that somebody tries. What the contract would refuse happens not at all.
#[derive(Debug, Clone)]
enum Act {
    Subscribe { plan: OnchainPlanId, trial_days: i64, count: u16, renews: bool },
    Charge,
    FailToCharge,
    Prepay { count: u16 },
    ChangeNow { plan: OnchainPlanId, count: u16, free: bool },
    Schedule { plan: OnchainPlanId, by: Party },
    Revoke,
    Cancel { by: Party },
    CancelNow { by: Party },
    Resume,
    Usage { amount: u128 },
    Refund { amount: u128 },
}

/// A transaction of several acts, some days after the one before.
type Tx = (i64, Vec<Act>);

/// The storage of the contract, as far as it has one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    plan: OnchainPlanId,
    scheduled: Option<OnchainPlanId>,
    anchor: DateTime<Utc>,
    periods: u16,
    ends_by_payer: bool,
    ends_by_merchant: bool,
    ended: bool,
}

impl Stored {
    fn interval(&self) -> Interval {
        INTERVALS[usize::try_from(self.plan).unwrap() - 1]
    }

    fn end(&self) -> DateTime<Utc> {
        self.interval().period_end(self.anchor, self.periods.into()).unwrap()
    }

    fn ends(&self) -> bool {
        self.ends_by_payer || self.ends_by_merchant
    }
}

/// The contract, and what happened in it.
#[derive(Debug, Default)]
struct Contract {
    now: DateTime<Utc>,
    stored: Option<Stored>,
    log: Vec<(SubscriptionEvent, EventPosition)>,
    moved: Vec<Movement>,
    keys: u8,
    tx: u64,
}

impl Contract {
    fn emit(&mut self, kind: Kind) {
        let plan = self.stored.as_ref().unwrap().plan;
        let at = EventPosition {
            block: BlockRef { number: self.tx, hash: B256::left_padding_from(&self.tx.to_be_bytes()) },
            log_index: self.log.len().try_into().unwrap(),
            tx_hash: B256::left_padding_from(&self.tx.to_be_bytes()),
            timestamp: self.now,
        };
        self.log.push((SubscriptionEvent { id: ID, plan, payer: PAYER, kind }, at));
    }

    /// A debit for everything from `start` to the end of the paid time.
    fn collect(&mut self, start: DateTime<Utc>) {
        let stored = self.stored.clone().unwrap();
        // Amounts tell the debits apart.
        let amount = BaseUnits::new(1_000 + u128::try_from(self.log.len()).unwrap());
        let (periods, paid_through) = (stored.periods, stored.end());
        self.emit(Kind::Charged { periods, paid_through, amount });
        let span = Span { start, end: paid_through };
        self.moved.push(Movement { amount, kind: MovementKind::Charge { period: periods, span } });
    }

    fn change(&mut self, plan: OnchainPlanId, anchor: DateTime<Utc>, periods: u16) {
        let stored = self.stored.as_mut().unwrap();
        let from = stored.plan;
        (stored.plan, stored.scheduled, stored.anchor, stored.periods) = (plan, None, anchor, periods);
        let (paid_through, credit) = (stored.end(), BaseUnits::new(1));
        self.emit(Kind::PlanChanged { from, anchor, periods, paid_through, credit });
    }

    fn key(&mut self) -> B256 {
        self.keys += 1;
        B256::repeat_byte(self.keys)
    }

    /// Does `act` where the contract allows it.
    fn act(&mut self, act: &Act) {
        let now = self.now;
        let Some(s) = self.stored.clone() else {
            let Act::Subscribe { plan, trial_days, count, renews } = *act else { return };
            let trial = TimeDelta::days(if count == 0 { trial_days } else { 0 });
            let anchor = now + trial;
            let periods = if count == 0 && trial_days == 0 { 1 } else { count };
            let ends_by_payer = !renews;
            let stored = Stored {
                plan,
                scheduled: None,
                anchor,
                periods,
                ends_by_payer,
                ends_by_merchant: false,
                ended: false,
            };
            self.stored = Some(stored);
            self.emit(Kind::Subscribed { reference: B256::repeat_byte(3), anchor });
            if periods != 0 {
                self.collect(anchor);
            }
            if ends_by_payer {
                self.emit(Kind::CancelScheduled { by: Party::Payer });
            }
            return;
        };
        let end = s.end();
        let lapsed = now >= end + GRACE;
        let goes_on = !s.ends() && !s.ended && !lapsed;
        let past_due = goes_on && now >= end;
        let stored = self.stored.as_mut().unwrap();
        match *act {
            Act::Charge if past_due => {
                if let Some(next) = s.scheduled {
                    let counted = INTERVALS[usize::try_from(next).unwrap() - 1] == s.interval();
                    let (anchor, before) = if counted { (s.anchor, s.periods) } else { (end, 0) };
                    self.change(next, anchor, before + 1);
                } else {
                    stored.periods += 1;
                }
                self.collect(end);
            }
            Act::FailToCharge if past_due => {
                self.emit(Kind::ChargeFailed { reason: ChargeFailure::Balance });
            }
            Act::Prepay { count } if goes_on && s.scheduled.is_none() => {
                stored.periods += count;
                self.collect(end);
            }
            Act::ChangeNow { plan, count, free } if goes_on && !past_due && plan != s.plan => {
                self.change(plan, now, count);
                if !free {
                    self.collect(now);
                }
            }
            Act::Schedule { plan, by } if goes_on && plan != s.plan => {
                if by == Party::Merchant && s.scheduled.is_some() {
                    return;
                }
                stored.scheduled = Some(plan);
                self.emit(Kind::ChangeScheduled { to: plan, by });
            }
            Act::Revoke if goes_on && s.scheduled.is_some() => {
                stored.scheduled = None;
                self.emit(Kind::ChangeRevoked);
            }
            Act::Cancel { by } if !s.ended && !s.ends_by_merchant => {
                match by {
                    Party::Payer if s.ends_by_payer => return,
                    Party::Payer => stored.ends_by_payer = true,
                    Party::Merchant => stored.ends_by_merchant = true,
                }
                self.emit(Kind::CancelScheduled { by });
            }
            Act::CancelNow { by } if !s.ended => {
                stored.ended = true;
                self.emit(Kind::Cancelled { by });
            }
            Act::Resume if s.ends_by_payer && !s.ends_by_merchant && !s.ended && now < end => {
                stored.ends_by_payer = false;
                self.emit(Kind::Resumed);
            }
            Act::Usage { amount } if s.periods > 0 && !s.ended && now < end && now >= s.anchor => {
                let (key, amount, period) = (self.key(), BaseUnits::new(amount), s.periods);
                self.emit(Kind::UsageCharged { key, period, amount, total: amount });
                self.moved.push(Movement { amount, kind: MovementKind::Usage { key, period } });
            }
            Act::Refund { amount } if !self.moved.is_empty() => {
                let (key, amount, from) = (self.key(), BaseUnits::new(amount), MERCHANT);
                self.emit(Kind::Refunded { key, from, amount, total: amount });
                self.moved.push(Movement { amount, kind: MovementKind::Refund { key, from } });
            }
            _ => {}
        }
    }

    fn run(&mut self, (days, acts): &Tx) {
        self.now += TimeDelta::days(*days);
        self.tx += 1;
        for act in acts {
            self.act(act);
        }
    }
}

/// The fold of `log`, put away and taken out again between transactions as the ledger does.
fn fold(
    log: &[(SubscriptionEvent, EventPosition)],
) -> Result<(Option<ChainSubscription>, Vec<Movement>), FoldError> {
    let (mut state, mut moved): (Option<ChainSubscription>, _) = (None, Vec::new());
    let mut tx = None;
    for (event, at) in log {
        if tx.replace(at.tx_hash) != Some(at.tx_hash)
            && let Some(state) = &mut state
        {
            state.unpaid_change = None;
        }
        let (next, movement) = ChainSubscription::apply(state, event, *at)?;
        state = Some(next);
        moved.extend(movement);
    }
    Ok((state, moved))
}

fn assert_same(state: Option<&ChainSubscription>, stored: Option<&Stored>) -> Result<(), TestCaseError> {
    let (Some(state), Some(stored)) = (state, stored) else {
        prop_assert!(state.is_none() && stored.is_none());
        return Ok(());
    };
    prop_assert_eq!(state.plan, stored.plan);
    prop_assert_eq!(state.scheduled_plan, stored.scheduled);
    prop_assert_eq!(state.anchor, stored.anchor);
    prop_assert_eq!(state.periods, stored.periods);
    prop_assert_eq!(state.paid_through, stored.end());
    prop_assert_eq!(state.cancel_at_period_end(), stored.ends());
    prop_assert_eq!(state.cancel_scheduled_by == Some(Party::Merchant), stored.ends_by_merchant);
    prop_assert_eq!(state.ended.is_some(), stored.ended);
    prop_assert!(state.confirmed, "a trial or a payment comes with every subscription");
    Ok(())
}

fn party() -> impl Strategy<Value = Party> {
    prop_oneof![Just(Party::Payer), Just(Party::Merchant)]
}

fn act() -> impl Strategy<Value = Act> {
    let (plan, count) = (1_u32..=4, 1_u16..=3);
    prop_oneof![
        5 => Just(Act::Charge),
        1 => Just(Act::FailToCharge),
        2 => count.clone().prop_map(|count| Act::Prepay { count }),
        3 => (plan.clone(), count, any::<bool>())
            .prop_map(|(plan, count, free)| Act::ChangeNow { plan, count, free }),
        3 => (plan, party()).prop_map(|(plan, by)| Act::Schedule { plan, by }),
        1 => Just(Act::Revoke),
        1 => (0_u8..3, party()).prop_map(|(rare, by)| if rare == 0 { Act::Cancel { by } } else { Act::Charge }),
        1 => Just(Act::Resume),
        1 => (0_u8..20, party()).prop_map(|(rare, by)| if rare == 0 { Act::CancelNow { by } } else { Act::Charge }),
        2 => (1_u128..100).prop_map(|amount| Act::Usage { amount }),
        1 => (1_u128..100).prop_map(|amount| Act::Refund { amount }),
    ]
}

/// Days that fall into, at the edge of and beyond periods and graces.
fn days() -> impl Strategy<Value = i64> {
    prop_oneof![8 => Just(0_i64), 6 => 1_i64..28, 12 => 28_i64..36, 1 => 36_i64..100]
}

fn history() -> impl Strategy<Value = Vec<Tx>> {
    let begin = (1_u32..=4, prop_oneof![Just(0_i64), Just(14)], 0_u16..4, proptest::bool::weighted(0.9))
        .prop_map(|(plan, trial_days, count, renews)| {
            (10_000, vec![Act::Subscribe { plan, trial_days, count, renews }])
        });
    let rest = proptest::collection::vec((days(), proptest::collection::vec(act(), 1..4)), 0..25);
    (begin, rest).prop_map(|((days, mut first), mut rest)| {
        // Some transactions subscribe and go on at once.
        if let Some((0, acts)) = rest.first_mut() {
            first.append(acts);
        }
        std::iter::once((days, first)).chain(rest).collect()
    })
}

proptest! {
    // An integration test has no place where proptest looks for one.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_fold_of_any_legal_history_is_the_storage_and_every_movement(history in history()) {
        let mut contract = Contract::default();
        let mut known = vec![(0, None, 0)];
        for tx in &history {
            contract.run(tx);
            known.push((contract.log.len(), contract.stored.clone(), contract.moved.len()));
        }
        // Also of what a reorganisation leaves of it.
        for (events, stored, movements) in &known {
            let (state, moved) = fold(&contract.log[..*events]).unwrap();
            assert_same(state.as_ref(), stored.as_ref())?;
            prop_assert_eq!(&moved, &contract.moved[..*movements]);
        }
    }

    #[test]
    fn no_period_is_paid_twice_between_two_changes_of_plan(history in history()) {
        let mut contract = Contract::default();
        history.iter().for_each(|tx| contract.run(tx));
        let (mut state, mut periods) = (None, HashSet::new());
        for (event, at) in &contract.log {
            let (next, movement) = ChainSubscription::apply(state, event, *at).unwrap();
            if let Some(Movement { kind: MovementKind::Charge { period, span }, .. }) = movement {
                prop_assert!(span.start < span.end);
                prop_assert!(periods.insert((next.plan_changes, period)), "{period} twice");
            }
            state = Some(next);
        }
    }

    #[test]
    fn a_change_of_plan_that_was_lost_never_goes_unnoticed(history in history(), which: prop::sample::Index) {
        let mut contract = Contract::default();
        history.iter().for_each(|tx| contract.run(tx));
        let changes: Vec<_> = (0..contract.log.len().saturating_sub(1))
            .filter(|index| matches!(contract.log[*index].0.kind, Kind::PlanChanged { .. }))
            .collect();
        if changes.is_empty() {
            return Ok(());
        }
        contract.log.remove(*which.get(&changes));
        let noticed = matches!(fold(&contract.log), Err(FoldError::OtherPlan { .. }));
        prop_assert!(noticed);
    }
}
