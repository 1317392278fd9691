//! What the contract says: its events as plain values, and where on the chain they stand.

use alloy_primitives::{Address, B256};
use chrono::{DateTime, Utc};

use crate::{calendar::Interval, money::BaseUnits};

/// One deployment of the contract: everything that is mirrored is keyed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainSource {
    /// The chain's id (EIP-155).
    pub chain_id: u64,
    /// The contract's address.
    pub contract: Address,
}

/// A block by number and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockRef {
    /// Height.
    pub number: u64,
    /// Hash, which alone tells two blocks of one height apart.
    pub hash: B256,
}

/// A block's header, as far as the mirror needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    /// Number and hash.
    pub block: BlockRef,
    /// Hash of the block before.
    pub parent_hash: B256,
    /// The block's own time.
    pub timestamp: DateTime<Utc>,
}

/// Where an event stands on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventPosition {
    /// The block.
    pub block: BlockRef,
    /// Index of the log within the block.
    pub log_index: u64,
    /// The transaction that emitted it.
    pub tx_hash: B256,
    /// The block's time.
    pub timestamp: DateTime<Utc>,
}

/// The contract's id of a plan (`uint32`).
pub type OnchainPlanId = u32;

/// The contract's id of a subscription: sequential from 1, held in 64 bits by the contract's own counter.
pub type OnchainSubscriptionId = u64;

/// An event of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContractEvent {
    /// A merchant offers a plan.
    PlanCreated(OnchainPlan),
    /// A merchant takes no new subscribers for a plan any more.
    PlanRetired(OnchainPlanId),
    /// Something happened to one subscription.
    Subscription(SubscriptionEvent),
}

/// The terms of an on-chain plan, which never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnchainPlan {
    /// The contract's id.
    pub id: OnchainPlanId,
    /// Who created it.
    pub merchant: Address,
    /// What it is paid in.
    pub token: Address,
    /// Who is paid.
    pub payee: Address,
    /// What one period costs.
    pub price: BaseUnits,
    /// How long one period is.
    pub interval: Interval,
    /// Length of the trial in seconds; 0 for none.
    pub trial_seconds: u32,
    /// How long after paid-through a renewal is still tried, in seconds.
    pub grace_seconds: u32,
}

/// An event of one subscription. Every event of the contract names its plan and payer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionEvent {
    /// The contract's id of the subscription.
    pub id: OnchainSubscriptionId,
    /// Its plan after the event.
    pub plan: OnchainPlanId,
    /// Who pays.
    pub payer: Address,
    /// What happened.
    pub kind: SubscriptionEventKind,
}

/// What happened to a subscription, with the state that results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionEventKind {
    /// The payer consented to a plan. Nothing is paid by this event.
    Subscribed {
        /// Names the account that it is for.
        reference: B256,
        /// From where periods are counted: now, or the end of the trial.
        anchor: DateTime<Utc>,
    },
    /// One period was paid.
    Charged {
        /// Periods paid since the anchor, this one included.
        periods: u16,
        /// End of the period.
        paid_through: DateTime<Utc>,
        /// What was taken.
        amount: BaseUnits,
    },
    /// A renewal was tried and did not go through. Nothing changes on the chain.
    ChargeFailed {
        /// Why.
        reason: ChargeFailure,
    },
    /// Access ends at the end of the paid period.
    CancelScheduled,
    /// Access ended at once.
    Cancelled,
    /// A scheduled end was taken back.
    Resumed,
}

/// Why a charge does not go through: the contract's `Reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChargeFailure {
    /// No such subscription.
    UnknownSubscription,
    /// The paid period has not ended.
    NotDue,
    /// The payer cancelled.
    Cancelled,
    /// Grace is over; a new consent is needed.
    Lapsed,
    /// The allowance is smaller than the price.
    Allowance,
    /// The balance is smaller than the price.
    Balance,
    /// The token refused for a reason of its own.
    Token,
}
