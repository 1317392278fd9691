//! What payers sign and the relay sends for them, and why it would not.
//!
//! The fields are those that the payer signs (`IDues.sol`, *Signatures*), less the plan's terms, which the contract itself
//! fills in. Signatures and permits are good for what they say and for nothing else; nevertheless they do not print.

use std::fmt;

use alloy_primitives::{Address, B256, Bytes, U128, U256};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use crate::chain::{ChargeFailure, OnchainPlanId, OnchainSubscriptionId};

/// What a payer wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Intent {
    /// To subscribe.
    Subscribe(SubscribeIntent),
    /// To change a subscription's plan.
    Change(ChangeIntent),
    /// To cancel a subscription.
    Cancel(CancelIntent),
}

/// To subscribe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeIntent {
    /// Who pays.
    pub payer: Address,
    /// Which plan.
    pub plan: OnchainPlanId,
    /// What the subscription is for.
    pub reference: B256,
    /// Periods to pay now; 0 for what `subscribe` does.
    pub count: u16,
    /// Whether periods after that may be charged.
    pub renews: bool,
    /// A number that the payer has not used.
    pub nonce: U256,
    /// The last second in which the signature is good.
    pub deadline: U256,
}

/// To change a subscription's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeIntent {
    /// Which subscription.
    pub id: OnchainSubscriptionId,
    /// The plan to change to.
    pub plan: OnchainPlanId,
    /// Periods to pay now; 0 to change with the next period.
    pub count: u16,
    /// The most that may be debited now, in base units.
    pub max_amount: U128,
    /// A number that the payer has not used.
    pub nonce: U256,
    /// The last second in which the signature is good.
    pub deadline: U256,
}

/// To cancel a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelIntent {
    /// Which subscription.
    pub id: OnchainSubscriptionId,
    /// At once, or with the paid time.
    pub at_once: bool,
    /// A number that the payer has not used.
    pub nonce: U256,
    /// The last second in which the signature is good.
    pub deadline: U256,
}

impl Intent {
    /// What it is, as the API and the database spell it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Subscribe(_) => "subscribe",
            Self::Change(_) => "change",
            Self::Cancel(_) => "cancel",
        }
    }

    /// The number that it uses up.
    #[must_use]
    pub const fn nonce(&self) -> U256 {
        match self {
            Self::Subscribe(intent) => intent.nonce,
            Self::Change(intent) => intent.nonce,
            Self::Cancel(intent) => intent.nonce,
        }
    }

    /// The last second in which its signature is good.
    #[must_use]
    pub const fn deadline(&self) -> U256 {
        match self {
            Self::Subscribe(intent) => intent.deadline,
            Self::Change(intent) => intent.deadline,
            Self::Cancel(intent) => intent.deadline,
        }
    }

    /// The plan that it leads to.
    #[must_use]
    pub const fn plan(&self) -> Option<OnchainPlanId> {
        match self {
            Self::Subscribe(intent) => Some(intent.plan),
            Self::Change(intent) => Some(intent.plan),
            Self::Cancel(_) => None,
        }
    }
}

/// A payer's consent to an intent: an ECDSA signature, or whatever its account's code takes (ERC-1271).
#[derive(Clone, PartialEq, Eq)]
pub struct Consent(pub Bytes);

impl fmt::Debug for Consent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Consent").field(&format_args!("{} bytes", self.0.len())).finish()
    }
}

/// A payer's allowance to the contract by signature, in the token of the plan.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Permit {
    /// Of the token itself (EIP-2612).
    Eip2612 {
        /// Base units.
        value: U256,
        /// The last second in which it is good.
        deadline: U256,
        /// The signature's 27 or 28.
        v: u8,
        /// The signature's first half.
        r: B256,
        /// The signature's second half.
        s: B256,
    },
    /// Of Permit2, for tokens that have none.
    Permit2 {
        /// Base units, of 160 bits.
        value: U256,
        /// When the allowance ends, in seconds of 48 bits.
        expiration: u64,
        /// Permit2's own count, of 48 bits.
        nonce: u64,
        /// The last second in which it is good.
        signature_deadline: U256,
        /// As Permit2 takes it.
        signature: Bytes,
    },
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eip2612 { .. } => "Permit::Eip2612",
            Self::Permit2 { .. } => "Permit::Permit2",
        })
    }
}

/// How much is relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayLimits {
    /// Intents of one account, or of one payer, within 24 hours, whatever became of them.
    pub per_account_per_day: u32,
    /// Gas that is spent on one chain within 24 hours.
    pub gas_budget_per_day: u64,
    /// Gas that one intent may take.
    pub max_gas_per_intent: u64,
    /// For how long an intent waits for somebody to send it, where its deadline is not sooner.
    pub longest_wait: TimeDelta,
}

/// Where an intent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayStatus {
    /// It waits for a keeper.
    Queued,
    /// It passed the simulation, and a transaction with it waits for a block.
    Sending,
    /// It was carried out, in a block. (What that entitles to, the contract's events say.)
    Mined,
    /// It was not carried out: by the simulation's word, or in a block where it reverted.
    Refused,
    /// Nobody sent it in time.
    Expired,
}

impl RelayStatus {
    const ALL: [Self; 5] = [Self::Queued, Self::Sending, Self::Mined, Self::Refused, Self::Expired];

    /// As the API and the database spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Mined => "mined",
            Self::Refused => "refused",
            Self::Expired => "expired",
        }
    }
}

/// Why an intent is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayRefusal {
    /// Its deadline is over.
    Expired,
    /// Its nonce was used, or made void by the payer.
    NonceSpent,
    /// It is not what the payer signed, on this chain, for this contract, with the plan's terms.
    InvalidSignature,
    /// No such plan.
    UnknownPlan,
    /// The plan takes no new subscribers.
    RetiredPlan,
    /// No such subscription.
    UnknownSubscription,
    /// What the payer lets the contract take is less than the price.
    Allowance,
    /// What the payer has is less than the price.
    Balance,
    /// The token refuses: a blocklist, a pause.
    Token,
    /// A count of periods that no plan allows.
    InvalidCount,
    /// The subscription has ended, will end, has lapsed, or is past due.
    NotChangeable,
    /// The two plans have different merchants or tokens, or are the same.
    PlansUnrelated,
    /// The new plan costs less for the same time: such a change waits for the next period (`count` 0).
    NotAnUpgrade,
    /// What is left of the old plan is worth more than the periods asked for.
    CreditExceedsPrice,
    /// The change would debit more than the payer allows.
    AmountExceedsMax,
    /// The subscription has ended.
    AlreadyEnded,
    /// It takes more gas than one intent may.
    GasAboveLimit,
    /// The gas for today is spent.
    GasBudgetExhausted,
    /// Something else, or it went through in the simulation and not in its block.
    Reverted,
}

impl RelayRefusal {
    /// Every reason.
    pub const ALL: [Self; 19] = [
        Self::Expired,
        Self::NonceSpent,
        Self::InvalidSignature,
        Self::UnknownPlan,
        Self::RetiredPlan,
        Self::UnknownSubscription,
        Self::Allowance,
        Self::Balance,
        Self::Token,
        Self::InvalidCount,
        Self::NotChangeable,
        Self::PlansUnrelated,
        Self::NotAnUpgrade,
        Self::CreditExceedsPrice,
        Self::AmountExceedsMax,
        Self::AlreadyEnded,
        Self::GasAboveLimit,
        Self::GasBudgetExhausted,
        Self::Reverted,
    ];

    /// The reason as the API, the database and metrics spell it. Stable.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NonceSpent => "nonce_spent",
            Self::InvalidSignature => "invalid_signature",
            Self::UnknownPlan => "unknown_plan",
            Self::RetiredPlan => "retired_plan",
            Self::UnknownSubscription => "unknown_subscription",
            Self::Allowance => "allowance",
            Self::Balance => "balance",
            Self::Token => "token",
            Self::InvalidCount => "invalid_count",
            Self::NotChangeable => "not_changeable",
            Self::PlansUnrelated => "plans_unrelated",
            Self::NotAnUpgrade => "not_an_upgrade",
            Self::CreditExceedsPrice => "credit_exceeds_price",
            Self::AmountExceedsMax => "amount_exceeds_max",
            Self::AlreadyEnded => "already_ended",
            Self::GasAboveLimit => "gas_above_limit",
            Self::GasBudgetExhausted => "gas_budget_exhausted",
            Self::Reverted => "reverted",
        }
    }
}

impl From<ChargeFailure> for RelayRefusal {
    fn from(failure: ChargeFailure) -> Self {
        match failure {
            ChargeFailure::Allowance => Self::Allowance,
            ChargeFailure::Balance => Self::Balance,
            ChargeFailure::Token => Self::Token,
            ChargeFailure::UnknownSubscription => Self::UnknownSubscription,
            ChargeFailure::NotDue | ChargeFailure::Cancelled | ChargeFailure::Lapsed => Self::NotChangeable,
        }
    }
}

/// A word that is none of the relay's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a word of the relay")]
pub struct UnknownWord;

impl std::str::FromStr for RelayStatus {
    type Err = UnknownWord;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|status| status.as_str() == name).ok_or(UnknownWord)
    }
}

impl std::str::FromStr for RelayRefusal {
    type Err = UnknownWord;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|refusal| refusal.as_str() == name).ok_or(UnknownWord)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn words_are_distinct_and_lead_back() {
        let words: HashSet<_> = RelayRefusal::ALL.iter().map(|refusal| refusal.as_str()).collect();
        assert_eq!(words.len(), RelayRefusal::ALL.len());
        assert!(RelayRefusal::ALL.into_iter().all(|refusal| refusal.as_str().parse() == Ok(refusal)));
        assert!(RelayStatus::ALL.into_iter().all(|status| status.as_str().parse() == Ok(status)));
        assert_eq!("sent".parse::<RelayStatus>(), Err(UnknownWord));
    }

    #[test]
    fn what_was_signed_does_not_print() {
        let consent = Consent(Bytes::from(vec![0xab; 65]));
        let (r, s) = (B256::repeat_byte(0xab), B256::repeat_byte(0xab));
        let permit = Permit::Eip2612 { value: U256::ONE, deadline: U256::ONE, v: 27, r, s };
        let printed = format!("{consent:?} {permit:?}");
        assert!(!printed.contains("abab") && printed.contains("65 bytes"), "{printed}");
    }

    #[test]
    fn an_intent_is_stored_with_all_of_its_digits() {
        let intent = Intent::Cancel(CancelIntent {
            id: u64::MAX,
            at_once: true,
            nonce: U256::MAX,
            deadline: U256::MAX,
        });
        let json = serde_json::to_value(&intent).unwrap();
        assert_eq!(json["kind"], "cancel");
        assert_eq!(serde_json::from_value::<Intent>(json).unwrap(), intent);
        let change = Intent::Change(ChangeIntent {
            id: 1,
            plan: 2,
            count: 1,
            max_amount: U128::MAX,
            nonce: U256::ZERO,
            deadline: U256::ZERO,
        });
        let json = serde_json::to_string(&change).unwrap();
        assert_eq!(serde_json::from_str::<Intent>(&json).unwrap(), change);
    }
}
