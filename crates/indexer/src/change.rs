//! What a committed step changed, for whoever watches.

use dues_domain::{
    chain::{BlockRef, ChargeFailure, OnchainSubscriptionId},
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
    /// A period was paid.
    Charged(Money),
    /// A renewal did not go through.
    ChargeFailed(ChargeFailure),
    /// It will end with the paid period.
    CancelScheduled,
    /// It ended at once.
    Cancelled,
    /// It goes on after all.
    Resumed,
    /// A reorganisation took back some or all of it.
    Reorganised,
}
