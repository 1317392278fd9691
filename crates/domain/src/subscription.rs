//! A subscription as the ledger knows it: the fold of its events, and its status at an instant.

use alloy_primitives::{Address, B256};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    chain::{EventPosition, OnchainPlanId, OnchainSubscriptionId, SubscriptionEvent, SubscriptionEventKind},
    money::BaseUnits,
};

/// `incomplete → trialing → active ⇄ past_due → expired`, or `cancelled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionStatus {
    /// Agreed, but not (or, after a reorganisation, no longer) confirmed. Gives nothing.
    Incomplete,
    /// Inside the trial.
    Trialing,
    /// Inside a paid period.
    Active,
    /// The paid period is over, renewal is still tried, access is kept.
    PastDue,
    /// Grace is over without a payment.
    Expired,
    /// Ended by the payer.
    Cancelled,
}

impl SubscriptionStatus {
    /// Every status.
    pub const ALL: [Self; 6] =
        [Self::Incomplete, Self::Trialing, Self::Active, Self::PastDue, Self::Expired, Self::Cancelled];

    /// The status as the API and the database spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Trialing => "trialing",
            Self::Active => "active",
            Self::PastDue => "past_due",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether a subscription of this status gives its tier.
    #[must_use]
    pub const fn gives_access(self) -> bool {
        matches!(self, Self::Trialing | Self::Active | Self::PastDue)
    }
}

/// The facts that decide a subscription's status; everything else is the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Whether a payment (or a trial) has been confirmed.
    pub confirmed: bool,
    /// Periods paid; 0 while in trial.
    pub periods: u16,
    /// End of the trial or of the last paid period.
    pub paid_through: DateTime<Utc>,
    /// Until when a renewal is still tried.
    pub grace_until: DateTime<Utc>,
    /// Whether it ends with the paid period.
    pub cancel_at_period_end: bool,
    /// Whether it has been ended at once.
    pub ended: bool,
}

impl Term {
    /// The status at `now`. Time passes without events: nothing has to happen for a subscription to fall due or
    /// to expire.
    #[must_use]
    pub fn status_at(&self, now: DateTime<Utc>) -> SubscriptionStatus {
        if !self.confirmed {
            SubscriptionStatus::Incomplete
        } else if self.ended {
            SubscriptionStatus::Cancelled
        } else if now < self.paid_through {
            if self.periods == 0 { SubscriptionStatus::Trialing } else { SubscriptionStatus::Active }
        } else if self.cancel_at_period_end {
            SubscriptionStatus::Cancelled
        } else if now < self.grace_until {
            SubscriptionStatus::PastDue
        } else {
            SubscriptionStatus::Expired
        }
    }

    /// The instant at which [`status_at`](Self::status_at) gives another answer by the clock alone, where it
    /// still gives access at `now`.
    #[must_use]
    pub fn next_change(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self.status_at(now) {
            SubscriptionStatus::Trialing | SubscriptionStatus::Active => Some(self.paid_through),
            SubscriptionStatus::PastDue => Some(self.grace_until),
            SubscriptionStatus::Incomplete | SubscriptionStatus::Expired | SubscriptionStatus::Cancelled => {
                None
            }
        }
    }
}

/// A subscription on the chain rail: the fold of its events, equal to the contract's storage plus the reference
/// and the event that its access rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainSubscription {
    /// The contract's id.
    pub id: OnchainSubscriptionId,
    /// The contract's id of its plan.
    pub plan: OnchainPlanId,
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
    /// Whether it ends with the paid period.
    pub cancel_at_period_end: bool,
    /// When it was ended at once.
    pub ended_at: Option<DateTime<Utc>>,
    /// The event that access rests on: the last charge, or the start of the trial.
    pub evidence: EventPosition,
}

/// One debit that a [`SubscriptionEvent`] reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// Which period since the anchor, from 1.
    pub period: u16,
    /// `[start, end)` of the period.
    pub start: DateTime<Utc>,
    /// End of the period.
    pub end: DateTime<Utc>,
    /// What was taken.
    pub amount: BaseUnits,
}

/// Events that cannot be a history of the contract: the mirror has lost one, or reads another contract.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FoldError {
    /// An event of a subscription that never began.
    #[error("subscription {0} has an event before it began")]
    NotBegun(OnchainSubscriptionId),
    /// A second beginning.
    #[error("subscription {0} began twice")]
    BegunTwice(OnchainSubscriptionId),
    /// A period was skipped or paid twice.
    #[error("subscription {id} went from {before} paid periods to {after}")]
    PeriodGap {
        /// The subscription.
        id: OnchainSubscriptionId,
        /// Paid periods before the event.
        before: u16,
        /// Paid periods after it.
        after: u16,
    },
}

impl ChainSubscription {
    /// The state after `event`, and the debit that it reports.
    ///
    /// # Errors
    /// [`FoldError`] where no history of the contract has `event` follow `before`.
    pub fn apply(
        before: Option<Self>,
        event: &SubscriptionEvent,
        at: EventPosition,
    ) -> Result<(Self, Option<Charge>), FoldError> {
        if let SubscriptionEventKind::Subscribed { reference, anchor } = event.kind {
            return match before {
                Some(_) => Err(FoldError::BegunTwice(event.id)),
                None => Ok((Self::begin(event, reference, anchor, at), None)),
            };
        }
        let mut state = before.ok_or(FoldError::NotBegun(event.id))?;
        let mut charge = None;
        match event.kind {
            SubscriptionEventKind::Charged { periods, paid_through, amount } => {
                if state.periods.checked_add(1) != Some(periods) {
                    return Err(FoldError::PeriodGap { id: event.id, before: state.periods, after: periods });
                }
                charge =
                    Some(Charge { period: periods, start: state.paid_through, end: paid_through, amount });
                state.plan = event.plan;
                state.periods = periods;
                state.paid_through = paid_through;
                state.confirmed = true;
                state.evidence = at;
            }
            SubscriptionEventKind::CancelScheduled => state.cancel_at_period_end = true,
            SubscriptionEventKind::Cancelled => state.ended_at = Some(at.timestamp),
            SubscriptionEventKind::Resumed => state.cancel_at_period_end = false,
            SubscriptionEventKind::Subscribed { .. } | SubscriptionEventKind::ChargeFailed { .. } => {}
        }
        Ok((state, charge))
    }

    fn begin(event: &SubscriptionEvent, reference: B256, anchor: DateTime<Utc>, at: EventPosition) -> Self {
        Self {
            id: event.id,
            plan: event.plan,
            payer: event.payer,
            reference,
            anchor,
            periods: 0,
            paid_through: anchor,
            // An anchor in the future is the end of a trial, which the contract has granted with this event.
            confirmed: anchor > at.timestamp,
            cancel_at_period_end: false,
            ended_at: None,
            evidence: at,
        }
    }

    /// The status as of the last event, for the ledger's own column. What counts is [`Term::status_at`].
    #[must_use]
    pub fn recorded_status(&self) -> SubscriptionStatus {
        match self {
            Self { confirmed: false, .. } => SubscriptionStatus::Incomplete,
            Self { ended_at: Some(_), .. } => SubscriptionStatus::Cancelled,
            Self { periods: 0, .. } => SubscriptionStatus::Trialing,
            _ => SubscriptionStatus::Active,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;
    use crate::chain::BlockRef;

    fn t(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn at(seconds: i64) -> EventPosition {
        EventPosition {
            block: BlockRef { number: seconds.unsigned_abs(), hash: B256::repeat_byte(1) },
            log_index: 0,
            tx_hash: B256::repeat_byte(2),
            timestamp: t(seconds),
        }
    }

    fn event(kind: SubscriptionEventKind) -> SubscriptionEvent {
        SubscriptionEvent { id: 7, plan: 1, payer: Address::repeat_byte(3), kind }
    }

    fn subscribed(anchor: i64) -> SubscriptionEvent {
        event(SubscriptionEventKind::Subscribed { reference: B256::ZERO, anchor: t(anchor) })
    }

    fn charged(periods: u16, paid_through: i64) -> SubscriptionEvent {
        let amount = BaseUnits::new(5).unwrap();
        event(SubscriptionEventKind::Charged { periods, paid_through: t(paid_through), amount })
    }

    fn fold(events: &[(i64, SubscriptionEvent)]) -> Result<ChainSubscription, FoldError> {
        let mut state = None;
        for (time, event) in events {
            state = Some(ChainSubscription::apply(state, event, at(*time))?.0);
        }
        Ok(state.unwrap())
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
    }

    #[test]
    fn a_charge_pays_from_the_last_end_and_becomes_the_evidence() {
        let begun = fold(&[(100, subscribed(100)), (100, charged(1, 200))]).unwrap();
        let (state, charge) = ChainSubscription::apply(Some(begun), &charged(2, 300), at(210)).unwrap();
        let amount = BaseUnits::new(5).unwrap();
        assert_eq!(charge, Some(Charge { period: 2, start: t(200), end: t(300), amount }));
        assert_eq!((state.paid_through, state.evidence), (t(300), at(210)));
    }

    #[test]
    fn a_scheduled_end_keeps_the_period_and_can_be_taken_back() {
        let paid = [(100, subscribed(100)), (100, charged(1, 200))];
        let cancel = (120, event(SubscriptionEventKind::CancelScheduled));
        let ending = fold(&[paid[0].clone(), paid[1].clone(), cancel.clone()]).unwrap();
        assert!(ending.cancel_at_period_end);
        assert_eq!(ending.paid_through, t(200));
        let resumed = (130, event(SubscriptionEventKind::Resumed));
        let back = fold(&[paid[0].clone(), paid[1].clone(), cancel, resumed]).unwrap();
        assert!(!back.cancel_at_period_end);
    }

    #[test]
    fn a_history_that_the_contract_cannot_have_is_refused() {
        assert_eq!(fold(&[(1, charged(1, 2))]), Err(FoldError::NotBegun(7)));
        assert_eq!(fold(&[(1, subscribed(1)), (2, subscribed(2))]), Err(FoldError::BegunTwice(7)));
        let gap = fold(&[(1, subscribed(1)), (1, charged(2, 9))]);
        assert_eq!(gap, Err(FoldError::PeriodGap { id: 7, before: 0, after: 2 }));
    }

    fn term(paid_through: i64, grace_until: i64) -> Term {
        Term {
            confirmed: true,
            periods: 1,
            paid_through: t(paid_through),
            grace_until: t(grace_until),
            cancel_at_period_end: false,
            ended: false,
        }
    }

    #[test]
    fn time_alone_takes_a_subscription_from_active_to_expired() {
        let term = term(100, 150);
        assert_eq!(term.status_at(t(99)), SubscriptionStatus::Active);
        assert_eq!(term.status_at(t(100)), SubscriptionStatus::PastDue);
        assert_eq!(term.status_at(t(149)), SubscriptionStatus::PastDue);
        assert_eq!(term.status_at(t(150)), SubscriptionStatus::Expired);
    }

    #[test]
    fn a_scheduled_end_has_no_grace_and_an_immediate_one_no_rest() {
        let scheduled = Term { cancel_at_period_end: true, ..term(100, 150) };
        assert_eq!(scheduled.status_at(t(99)), SubscriptionStatus::Active);
        assert_eq!(scheduled.status_at(t(100)), SubscriptionStatus::Cancelled);
        let ended = Term { ended: true, ..term(100, 150) };
        assert_eq!(ended.status_at(t(0)), SubscriptionStatus::Cancelled);
    }

    proptest! {
        #[test]
        fn the_status_holds_until_its_next_change_and_not_beyond(
            paid_through in 0_i64..1000, grace in 1_i64..1000, now in 0_i64..2000,
            cancel_at_period_end: bool, confirmed: bool, ended: bool, periods in 0_u16..2,
        ) {
            let term = Term { cancel_at_period_end, confirmed, ended, periods, ..term(paid_through, paid_through + grace) };
            let status = term.status_at(t(now));
            match term.next_change(t(now)) {
                Some(change) => {
                    prop_assert!(status.gives_access() && change > t(now));
                    prop_assert_eq!(term.status_at(change - TimeDelta::seconds(1)), status);
                    prop_assert_ne!(term.status_at(change), status);
                }
                None => prop_assert!(!status.gives_access()),
            }
        }
    }
}
