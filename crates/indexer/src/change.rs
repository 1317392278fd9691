//! What a committed step changed, for whoever watches.

use dues_domain::{
    chain::{BlockRef, ChargeFailure, OnchainPlanId, OnchainSubscriptionId, Party},
    ids::AccountId,
    money::Money,
};

/// Something that a committed step changed, for whoever watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerChange {
    /// Whose.
    pub account: AccountId,
    /// The contract's number of the subscription.
    pub onchain_id: OnchainSubscriptionId,
    /// Where.
    pub block: BlockRef,
    /// What.
    pub kind: LedgerChangeKind,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerChangeKind {
    /// A subscription began.
    Subscribed,
    /// Periods were paid.
    Charged(Money),
    /// A renewal did not go through.
    ChargeFailed(ChargeFailure),
    /// It is on another plan.
    PlanChanged {
        /// The plan that it was on.
        from: OnchainPlanId,
        /// The plan that it is on now.
        to: OnchainPlanId,
    },
    /// Its next period will be one of another plan.
    ChangeScheduled {
        /// That plan.
        to: OnchainPlanId,
        /// Who did this.
        by: Party,
    },
    /// Its next period will be one of its present plan after all.
    ChangeRevoked,
    /// It will end with the paid period.
    CancelScheduled(Party),
    /// It ended at once.
    Cancelled(Party),
    /// Usage was paid.
    UsageCharged(Money),
    /// Money went back.
    Refunded(Money),
    /// It goes on after all.
    Resumed,
    /// A reorganisation took back some or all of it.
    Reorganised,
}
