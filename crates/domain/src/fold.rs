//! What a subscription's on-chain events amount to: a pure fold, equal to the contract's storage.
//!
//! Each event states the resulting state, so that the fold mostly takes the contract's word. What it refuses are
//! histories that the contract cannot have: they mean that the mirror has lost an event. Taking events back is folding
//! what is left again.

use alloy_primitives::{Address, B256};
use chrono::{DateTime, Utc};

use crate::{
    calendar::Span,
    chain::{
        EventPosition, OnchainPlanId, OnchainSubscriptionId, Party, SubscriptionEvent, SubscriptionEventKind,
    },
    money::BaseUnits,
    subscription::{SubscriptionStatus, trial_until},
};

/// A subscription on the chain rail: the fold of its events, equal to the contract's storage plus the reference
/// and the event that its access rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainSubscription {
    /// The contract's id.
    pub id: OnchainSubscriptionId,
    /// The contract's id of the plan that it is on.
    pub plan: OnchainPlanId,
    /// The contract's id of the plan of its next period, where that is another one.
    pub scheduled_plan: Option<OnchainPlanId>,
    /// Who pays.
    pub payer: Address,
    /// The account it is for, as the payer named it.
    pub reference: B256,
    /// From where periods are counted.
    pub anchor: DateTime<Utc>,
    /// Periods paid since the anchor.
    pub periods: u16,
    /// End of the trial or of the last paid period.
    pub paid_through: DateTime<Utc>,
    /// Whether a trial or a payment has been seen.
    pub confirmed: bool,
    /// Who has cancelled it for the end of the paid period, if anybody has.
    pub cancel_scheduled_by: Option<Party>,
    /// Its end, where it was ended at once.
    pub ended: Option<End>,
    /// How often its plan was changed: after each change, a number of a period may occur again.
    pub plan_changes: u32,
    /// The event that access rests on: the last charge or change of plan, or the start of the trial.
    pub evidence: EventPosition,
    /// What the payment of the last event, a change of plan, pays for. It is the next event of the same transaction or
    /// there is none; so this is of no meaning between transactions, and is not kept.
    pub unpaid_change: Option<UnpaidChange>,
}

/// That a subscription was ended at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// When.
    pub at: DateTime<Utc>,
    /// By whom.
    pub by: Party,
}

/// A change of plan whose payment, if it needs one, follows at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpaidChange {
    tx_hash: B256,
    start: DateTime<Utc>,
}

/// Money that moved for a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Movement {
    /// How much.
    pub amount: BaseUnits,
    /// What for.
    pub kind: MovementKind,
}

/// What money moved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MovementKind {
    /// From the payer, for periods.
    Charge {
        /// The last period that it pays, counted from the anchor.
        period: u16,
        /// From the start of the first period that it pays to the end of the last.
        span: Span,
    },
    /// From the payer, for usage.
    Usage {
        /// The merchant's idempotency key.
        key: B256,
        /// The period, counted from the anchor.
        period: u16,
    },
    /// To the payer.
    Refund {
        /// The merchant's idempotency key.
        key: B256,
        /// Whose money it was.
        from: Address,
    },
}

/// Events that cannot be a history of the contract: the mirror has lost one, or reads another contract.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FoldError {
    /// An event of a subscription that never began.
    #[error("subscription {0} has an event before it began: is start_block after the contract's deployment?")]
    NotBegun(OnchainSubscriptionId),
    /// A second beginning.
    #[error("subscription {0} began twice")]
    BegunTwice(OnchainSubscriptionId),
    /// A debit for periods that neither adds one nor pays for a change of plan.
    #[error("subscription {id} was charged, and went from {before} paid periods to {after}")]
    NoNewPeriod {
        /// The subscription.
        id: OnchainSubscriptionId,
        /// Paid periods before the event.
        before: u16,
        /// Paid periods after it.
        after: u16,
    },
    /// An event names another plan than the one that the subscription is on.
    #[error("subscription {id} is on plan {on}, and an event of it says {found}")]
    OtherPlan {
        /// The subscription.
        id: OnchainSubscriptionId,
        /// The plan by the events before.
        on: OnchainPlanId,
        /// The plan by this event.
        found: OnchainPlanId,
    },
}

impl ChainSubscription {
    /// The state after `event`, and the money that it reports.
    ///
    /// # Errors
    /// [`FoldError`] where no history of the contract has `event` follow `before`.
    pub fn apply(
        before: Option<Self>,
        event: &SubscriptionEvent,
        at: EventPosition,
    ) -> Result<(Self, Option<Movement>), FoldError> {
        if let SubscriptionEventKind::Subscribed { reference, anchor } = event.kind {
            return match before {
                Some(_) => Err(FoldError::BegunTwice(event.id)),
                None => Ok((Self::begin(event, reference, anchor, at), None)),
            };
        }
        let mut state = before.ok_or(FoldError::NotBegun(event.id))?;
        let change = state.unpaid_change.take();
        let plan_before = match event.kind {
            SubscriptionEventKind::PlanChanged { from, .. } => from,
            _ => event.plan,
        };
        if plan_before != state.plan {
            return Err(FoldError::OtherPlan { id: event.id, on: state.plan, found: plan_before });
        }
        let mut movement = None;
        match event.kind {
            SubscriptionEventKind::Charged { periods, paid_through, amount } => {
                let start = state.paid_from(change, periods, paid_through, at)?;
                let kind = MovementKind::Charge { period: periods, span: Span { start, end: paid_through } };
                movement = Some(Movement { amount, kind });
                state.periods = periods;
                state.paid_through = paid_through;
                state.confirmed = true;
                state.evidence = at;
            }
            SubscriptionEventKind::PlanChanged { anchor, periods, paid_through, .. } => {
                // A scheduled change takes effect once the paid time is over, and is paid from there on; a change at
                // once takes effect before, and is paid from now on.
                let start = if at.timestamp < state.paid_through { anchor } else { state.paid_through };
                state.unpaid_change = Some(UnpaidChange { tx_hash: at.tx_hash, start });
                state.plan = event.plan;
                state.scheduled_plan = None;
                state.anchor = anchor;
                state.periods = periods;
                state.paid_through = paid_through;
                state.plan_changes = state.plan_changes.saturating_add(1);
                state.evidence = at;
            }
            SubscriptionEventKind::ChangeScheduled { to, .. } => state.scheduled_plan = Some(to),
            SubscriptionEventKind::ChangeRevoked => state.scheduled_plan = None,
            SubscriptionEventKind::CancelScheduled { by } => state.cancel_scheduled_by = Some(by),
            SubscriptionEventKind::Cancelled { by } => state.ended = Some(End { at: at.timestamp, by }),
            SubscriptionEventKind::Resumed => state.cancel_scheduled_by = None,
            SubscriptionEventKind::UsageCharged { key, period, amount, .. } => {
                movement = Some(Movement { amount, kind: MovementKind::Usage { key, period } });
            }
            SubscriptionEventKind::Refunded { key, from, amount, .. } => {
                movement = Some(Movement { amount, kind: MovementKind::Refund { key, from } });
            }
            SubscriptionEventKind::Subscribed { .. } | SubscriptionEventKind::ChargeFailed { .. } => {}
        }
        Ok((state, movement))
    }

    fn begin(event: &SubscriptionEvent, reference: B256, anchor: DateTime<Utc>, at: EventPosition) -> Self {
        Self {
            id: event.id,
            plan: event.plan,
            scheduled_plan: None,
            payer: event.payer,
            reference,
            anchor,
            periods: 0,
            paid_through: anchor,
            // An anchor in the future is the end of a trial, which the contract has granted with this event.
            confirmed: anchor > at.timestamp,
            cancel_scheduled_by: None,
            ended: None,
            plan_changes: 0,
            evidence: at,
            unpaid_change: None,
        }
    }

    /// From when on a charge pays that results in `periods` and `paid_through`.
    fn paid_from(
        &self,
        change: Option<UnpaidChange>,
        periods: u16,
        paid_through: DateTime<Utc>,
        at: EventPosition,
    ) -> Result<DateTime<Utc>, FoldError> {
        if periods > self.periods {
            return Ok(self.paid_through);
        }
        // The change of plan has stated the result already.
        change
            .filter(|change| {
                change.tx_hash == at.tx_hash && (periods, paid_through) == (self.periods, self.paid_through)
            })
            .map(|change| change.start)
            .ok_or(FoldError::NoNewPeriod { id: self.id, before: self.periods, after: periods })
    }

    /// Whether it ends with the paid period, whoever wanted that.
    #[must_use]
    pub const fn cancel_at_period_end(&self) -> bool {
        self.cancel_scheduled_by.is_some()
    }

    /// The status as of the last event, for the ledger's own column. What counts is
    /// [`Term::status_at`](crate::subscription::Term::status_at).
    #[must_use]
    pub fn recorded_status(&self) -> SubscriptionStatus {
        match self {
            Self { confirmed: false, .. } => SubscriptionStatus::Incomplete,
            Self { ended: Some(_), .. } => SubscriptionStatus::Cancelled,
            _ => match trial_until(self.anchor, self.periods, self.evidence.timestamp) {
                Some(_) => SubscriptionStatus::Trialing,
                None => SubscriptionStatus::Active,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::BlockRef;

    fn t(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    /// An event at `seconds`, whose transaction is the only one of that second.
    fn at(seconds: i64) -> EventPosition {
        EventPosition {
            block: BlockRef { number: seconds.unsigned_abs(), hash: B256::repeat_byte(1) },
            log_index: 0,
            tx_hash: B256::left_padding_from(&seconds.to_be_bytes()),
            timestamp: t(seconds),
        }
    }

    fn on(plan: OnchainPlanId, kind: SubscriptionEventKind) -> SubscriptionEvent {
        SubscriptionEvent { id: 7, plan, payer: Address::repeat_byte(3), kind }
    }

    fn event(kind: SubscriptionEventKind) -> SubscriptionEvent {
        on(1, kind)
    }

    fn subscribed(anchor: i64) -> SubscriptionEvent {
        event(SubscriptionEventKind::Subscribed { reference: B256::ZERO, anchor: t(anchor) })
    }

    fn charge(periods: u16, paid_through: i64) -> SubscriptionEventKind {
        SubscriptionEventKind::Charged { periods, paid_through: t(paid_through), amount: BaseUnits::new(5) }
    }

    fn charged(periods: u16, paid_through: i64) -> SubscriptionEvent {
        event(charge(periods, paid_through))
    }

    fn changed(from: OnchainPlanId, anchor: i64, periods: u16, paid_through: i64) -> SubscriptionEventKind {
        let (anchor, paid_through, credit) = (t(anchor), t(paid_through), BaseUnits::new(3));
        SubscriptionEventKind::PlanChanged { from, anchor, periods, paid_through, credit }
    }

    /// The state after all of `events`, and the money of the last.
    fn fold_all(
        events: &[(i64, SubscriptionEvent)],
    ) -> Result<(ChainSubscription, Option<Movement>), FoldError> {
        let (mut state, mut movement) = (None, None);
        for (time, event) in events {
            let (next, moved) = ChainSubscription::apply(state, event, at(*time))?;
            (state, movement) = (Some(next), moved);
        }
        Ok((state.unwrap(), movement))
    }

    fn fold(events: &[(i64, SubscriptionEvent)]) -> Result<ChainSubscription, FoldError> {
        fold_all(events).map(|(state, _)| state)
    }

    fn paid(period: u16, start: i64, end: i64) -> Option<Movement> {
        let span = Span { start: t(start), end: t(end) };
        Some(Movement { amount: BaseUnits::new(5), kind: MovementKind::Charge { period, span } })
    }

    #[test]
    fn a_subscription_gives_nothing_before_its_first_payment() {
        let state = fold(&[(100, subscribed(100))]).unwrap();
        assert_eq!(state.recorded_status(), SubscriptionStatus::Incomplete);
    }

    #[test]
    fn a_trial_is_granted_by_its_anchor_in_the_future() {
        let state = fold(&[(100, subscribed(200))]).unwrap();
        assert_eq!(state.recorded_status(), SubscriptionStatus::Trialing);
        assert_eq!(state.evidence, at(100));
        let ahead = fold(&[(100, subscribed(200)), (150, charged(1, 300))]).unwrap();
        assert_eq!(ahead.recorded_status(), SubscriptionStatus::Trialing);
    }

    #[test]
    fn a_charge_pays_from_the_last_end_and_becomes_the_evidence() {
        let begun = [(100, subscribed(100)), (100, charged(1, 200))];
        let (state, movement) = fold_all(&[&begun[..], &[(210, charged(2, 300))]].concat()).unwrap();
        assert_eq!(movement, paid(2, 200, 300));
        assert_eq!((state.paid_through, state.evidence), (t(300), at(210)));
        let (state, movement) = fold_all(&[&begun[..], &[(150, charged(5, 600))]].concat()).unwrap();
        assert_eq!(movement, paid(5, 200, 600), "four periods at once");
        assert_eq!(state.periods, 5);
    }

    #[test]
    fn a_change_at_once_is_paid_from_now_on_and_counts_anew() {
        let upgrade = [
            (100, subscribed(100)),
            (100, charged(1, 200)),
            (140, on(2, changed(1, 140, 1, 240))),
            (140, on(2, charge(1, 240))),
        ];
        let (state, movement) = fold_all(&upgrade).unwrap();
        assert_eq!(movement, paid(1, 140, 240));
        assert_eq!((state.plan, state.anchor, state.periods, state.plan_changes), (2, t(140), 1, 1));
        let (_, movement) = fold_all(&[&upgrade[..], &[(240, on(2, charge(2, 340)))]].concat()).unwrap();
        assert_eq!(movement, paid(2, 240, 340));
    }

    #[test]
    fn a_change_in_the_second_of_the_subscription_itself_is_paid_from_there() {
        let (_, movement) = fold_all(&[
            (100, subscribed(100)),
            (100, charged(1, 200)),
            (100, on(2, changed(1, 100, 1, 200))),
            (100, on(2, charge(1, 200))),
        ])
        .unwrap();
        assert_eq!(movement, paid(1, 100, 200));
    }

    #[test]
    fn a_scheduled_change_is_paid_from_the_end_of_the_paid_time_and_ends_the_schedule() {
        let schedule = [
            (100, subscribed(100)),
            (100, charged(1, 200)),
            (150, event(SubscriptionEventKind::ChangeScheduled { to: 2, by: Party::Payer })),
        ];
        assert_eq!(fold(&schedule).unwrap().scheduled_plan, Some(2));
        // Counted on from the old anchor, or anew from the end of the paid time.
        for (anchor, periods) in [(100, 2), (200, 1)] {
            let renewal =
                [(205, on(2, changed(1, anchor, periods, 300))), (205, on(2, charge(periods, 300)))];
            let (state, movement) = fold_all(&[&schedule[..], &renewal].concat()).unwrap();
            assert_eq!(movement, paid(periods, 200, 300));
            assert_eq!((state.plan, state.scheduled_plan), (2, None));
        }
        let revoked = [(160, event(SubscriptionEventKind::ChangeRevoked))];
        assert_eq!(fold(&[&schedule[..], &revoked].concat()).unwrap().scheduled_plan, None);
    }

    #[test]
    fn a_change_without_a_payment_is_the_evidence_itself() {
        let (state, movement) = fold_all(&[
            (100, subscribed(100)),
            (100, charged(1, 200)),
            (150, on(2, changed(1, 100, 1, 200))),
        ])
        .unwrap();
        assert_eq!((movement, state.evidence), (None, at(150)));
        assert_eq!(state.recorded_status(), SubscriptionStatus::Active);
    }

    #[test]
    fn a_scheduled_end_keeps_the_period_and_can_be_taken_back() {
        let paid = [(100, subscribed(100)), (100, charged(1, 200))];
        for by in [Party::Payer, Party::Merchant] {
            let cancel = [(120, event(SubscriptionEventKind::CancelScheduled { by }))];
            let ending = fold(&[&paid[..], &cancel].concat()).unwrap();
            assert_eq!((ending.cancel_scheduled_by, ending.paid_through), (Some(by), t(200)));
            assert!(ending.cancel_at_period_end());
            let resumed = [(130, event(SubscriptionEventKind::Resumed))];
            assert!(!fold(&[&paid[..], &cancel, &resumed].concat()).unwrap().cancel_at_period_end());
        }
    }

    #[test]
    fn usage_and_refunds_move_money_and_change_nothing_else() {
        let paid = [(100, subscribed(100)), (100, charged(1, 200))];
        let (key, from) = (B256::repeat_byte(9), Address::repeat_byte(4));
        let (amount, total) = (BaseUnits::new(2), BaseUnits::new(2));
        let before = fold(&paid).unwrap();
        for (kind, expected) in [
            (
                SubscriptionEventKind::UsageCharged { key, period: 1, amount, total },
                MovementKind::Usage { key, period: 1 },
            ),
            (
                SubscriptionEventKind::Refunded { key, from, amount, total },
                MovementKind::Refund { key, from },
            ),
        ] {
            let (after, movement) =
                ChainSubscription::apply(Some(before.clone()), &event(kind), at(150)).unwrap();
            assert_eq!(movement, Some(Movement { amount, kind: expected }));
            assert_eq!(after, before);
        }
    }

    #[test]
    fn a_history_that_the_contract_cannot_have_is_refused() {
        let begun = [(1, subscribed(1)), (1, charged(1, 9))];
        let after = |more: &[(i64, SubscriptionEvent)]| fold(&[&begun[..], more].concat()).unwrap_err();
        assert_eq!(fold(&[(1, charged(1, 2))]), Err(FoldError::NotBegun(7)));
        assert_eq!(after(&[(2, subscribed(2))]), FoldError::BegunTwice(7));
        let again = FoldError::NoNewPeriod { id: 7, before: 1, after: 1 };
        assert_eq!(after(&[(2, charged(1, 9))]), again);
        // A change is paid in its own transaction, at once, and with its own result.
        let change = (2, on(2, changed(1, 2, 1, 12)));
        assert_eq!(after(&[change.clone(), (3, on(2, charge(1, 12)))]), again);
        assert_eq!(after(&[change.clone(), (2, on(2, charge(1, 13)))]), again);
        let twice = [change.clone(), (2, on(2, charge(1, 12))), (2, on(2, charge(1, 12)))];
        assert_eq!(after(&twice), again);
        // A change of plan was lost.
        let lost = FoldError::OtherPlan { id: 7, on: 1, found: 2 };
        assert_eq!(after(&[(2, on(2, charge(2, 19)))]), lost);
        assert_eq!(after(&[(2, on(3, changed(2, 2, 1, 12)))]), lost);
    }
}
