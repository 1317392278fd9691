//! What the contract says: its events as plain values, and where on the chain they stand.

use alloy_primitives::{Address, B256, U256};
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
    /// A merchant wants a plan's payments to go to another account. Nothing changes before that account accepts.
    PayeeProposed {
        /// The plan.
        plan: OnchainPlanId,
        /// Who is to be paid; zero where the proposal was withdrawn.
        payee: Address,
        /// From when it can accept.
        acceptable_from: DateTime<Utc>,
    },
    /// A plan's payments go to another account from now on.
    PayeeChanged {
        /// The plan.
        plan: OnchainPlanId,
        /// Who is paid now.
        payee: Address,
    },
    /// Something happened to one subscription.
    Subscription(SubscriptionEvent),
    /// An account may, or may no longer, charge usage and refund for a merchant.
    OperatorSet {
        /// The merchant.
        merchant: Address,
        /// The account.
        operator: Address,
        /// Whether it may.
        approved: bool,
    },
    /// Nonces of a payer's signatures are used up.
    NoncesSpent {
        /// Whose.
        payer: Address,
        /// The nonces divided by 256.
        word: U256,
        /// Which of those 256, as bits.
        mask: U256,
    },
}

/// An on-chain plan: its terms, which never change, and who is paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnchainPlan {
    /// The contract's id.
    pub id: OnchainPlanId,
    /// Who created it.
    pub merchant: Address,
    /// What it is paid in.
    pub token: Address,
    /// Who is paid; the only part that can change.
    pub payee: Address,
    /// What one period costs.
    pub price: BaseUnits,
    /// How long one period is.
    pub interval: Interval,
    /// Length of the trial in seconds; 0 for none.
    pub trial_seconds: u32,
    /// How long after paid-through a renewal is still tried, in seconds.
    pub grace_seconds: u32,
    /// The most that may be charged for usage in one period, beside the price; 0 for none.
    pub usage_cap: BaseUnits,
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

/// One of the two who agreed on a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// Who pays.
    Payer,
    /// Whose plan it is.
    Merchant,
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
    /// One or more periods were paid.
    Charged {
        /// Periods paid since the anchor, these included.
        periods: u16,
        /// End of the last one.
        paid_through: DateTime<Utc>,
        /// What was taken: less than the price where the rest of another plan's time was credited.
        amount: BaseUnits,
    },
    /// A renewal was tried and did not go through. Nothing changes on the chain.
    ChargeFailed {
        /// Why.
        reason: ChargeFailure,
    },
    /// It is on another plan. All values are those after the payment; where money moves for it, its
    /// [`Charged`](Self::Charged) is the subscription's next event, in the same transaction.
    PlanChanged {
        /// The plan that it was on.
        from: OnchainPlanId,
        /// From where periods are counted now.
        anchor: DateTime<Utc>,
        /// Periods paid since then.
        periods: u16,
        /// End of the last one.
        paid_through: DateTime<Utc>,
        /// What the unused rest of the old plan was worth, and was taken off the payment.
        credit: BaseUnits,
    },
    /// The next period will be one of another plan.
    ChangeScheduled {
        /// That plan.
        to: OnchainPlanId,
        /// Who did this. The merchant can where the plan is nowhere worse, and the payer can revoke it.
        by: Party,
    },
    /// The next period will be one of the present plan after all.
    ChangeRevoked,
    /// Access ends at the end of the paid period.
    CancelScheduled {
        /// Who did this. What the merchant did, the payer cannot take back.
        by: Party,
    },
    /// Access ended at once.
    Cancelled {
        /// Who did this.
        by: Party,
    },
    /// A scheduled end was taken back.
    Resumed,
    /// Usage was charged, beside the price.
    UsageCharged {
        /// The merchant's idempotency key, spent for this subscription.
        key: B256,
        /// The period that it was charged to, counted from the present anchor.
        period: u16,
        /// What was taken.
        amount: BaseUnits,
        /// What has been charged to that period now.
        total: BaseUnits,
    },
    /// Money went back to the payer.
    Refunded {
        /// The merchant's idempotency key, spent for this subscription.
        key: B256,
        /// Whose money it was: the merchant's or an operator's.
        from: Address,
        /// What was sent.
        amount: BaseUnits,
        /// What has been refunded for this subscription now.
        total: BaseUnits,
    },
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

impl ChargeFailure {
    /// The reason as the API, the database and metrics spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownSubscription => "unknown_subscription",
            Self::NotDue => "not_due",
            Self::Cancelled => "cancelled",
            Self::Lapsed => "lapsed",
            Self::Allowance => "allowance",
            Self::Balance => "balance",
            Self::Token => "token",
        }
    }
}

/// A word that is no [`ChargeFailure`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a reason why a charge fails")]
pub struct UnknownChargeFailure;

impl std::str::FromStr for ChargeFailure {
    type Err = UnknownChargeFailure;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let all = [
            Self::UnknownSubscription,
            Self::NotDue,
            Self::Cancelled,
            Self::Lapsed,
            Self::Allowance,
            Self::Balance,
            Self::Token,
        ];
        all.into_iter().find(|failure| failure.as_str() == name).ok_or(UnknownChargeFailure)
    }
}
