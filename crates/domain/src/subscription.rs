//! A subscription's status at an instant.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

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
    /// Ended by the payer or by the merchant.
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
    /// End of the trial where there is one, also where periods after it are paid already; see [`trial_until`].
    pub trial_until: Option<DateTime<Utc>>,
    /// End of the trial or of the last paid period.
    pub paid_through: DateTime<Utc>,
    /// Until when a renewal is still tried: by the grace of its plan, or of a scheduled one where that is shorter.
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
            let in_trial = self.trial_until.is_some_and(|end| now < end);
            if in_trial { SubscriptionStatus::Trialing } else { SubscriptionStatus::Active }
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
            SubscriptionStatus::Trialing => self.trial_until,
            SubscriptionStatus::Active => Some(self.paid_through),
            SubscriptionStatus::PastDue => Some(self.grace_until),
            SubscriptionStatus::Incomplete | SubscriptionStatus::Expired | SubscriptionStatus::Cancelled => {
                None
            }
        }
    }
}

/// The end of the trial of a subscription that is anchored there and has paid `periods`; `None` where there is none,
/// or none any more. `evidence_at` is when the event was that access rests on.
///
/// Not by the clock: a block may be a little ahead of it, and whoever has just paid is in no trial.
#[must_use]
pub fn trial_until(anchor: DateTime<Utc>, periods: u16, evidence_at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    (periods == 0 || evidence_at < anchor).then_some(anchor)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn t(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn term(paid_through: i64, grace_until: i64) -> Term {
        Term {
            confirmed: true,
            trial_until: None,
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

    #[test]
    fn whoever_paid_when_periods_began_is_in_no_trial() {
        assert_eq!(trial_until(t(50), 1, t(50)), None);
        assert_eq!(trial_until(t(50), 0, t(10)), Some(t(50)));
        assert_eq!(trial_until(t(50), 1, t(10)), Some(t(50)), "paid ahead");
    }

    #[test]
    fn a_trial_ends_at_the_anchor_also_where_more_is_paid_already() {
        let paid_ahead = Term { trial_until: Some(t(50)), ..term(100, 150) };
        assert_eq!(paid_ahead.status_at(t(49)), SubscriptionStatus::Trialing);
        assert_eq!(paid_ahead.status_at(t(50)), SubscriptionStatus::Active);
        let unpaid = Term { trial_until: Some(t(100)), ..term(100, 150) };
        assert_eq!(unpaid.status_at(t(99)), SubscriptionStatus::Trialing);
        assert_eq!(unpaid.status_at(t(100)), SubscriptionStatus::PastDue);
    }

    proptest! {
        #[test]
        fn the_status_holds_until_its_next_change_and_not_beyond(
            paid_through in 0_i64..1000, grace in 1_i64..1000, now in 0_i64..2000,
            cancel_at_period_end: bool, confirmed: bool, ended: bool, trial in 0_i64..1000,
        ) {
            let trial_until = Some(t(trial.min(paid_through)));
            let term = Term { cancel_at_period_end, confirmed, ended, trial_until, ..term(paid_through, paid_through + grace) };
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
