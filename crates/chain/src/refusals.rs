//! What the contract refuses with, in words.

use alloy::sol_types::SolInterface as _;
use dues_domain::chain::ChargeFailure;

use crate::contract::{Dues, charge_failure};

/// An error of the contract, as it is encoded.
pub type ContractError = Dues::DuesErrors;

/// The contract's error that `data` is; `None` where it is none that this version knows (a token's own, say).
#[must_use]
pub fn decode(data: &[u8]) -> Option<ContractError> {
    ContractError::abi_decode(data).ok()
}

/// Why the token did not move the money, where that is what an error says.
#[must_use]
pub fn failure(error: &ContractError) -> Option<ChargeFailure> {
    match error {
        ContractError::ChargeRefused(e) => charge_failure(e.reason).ok(),
        ContractError::RefundRefused(e) => charge_failure(e.reason).ok(),
        _ => None,
    }
}

/// An error of the contract in words, with its name in front.
#[must_use]
pub fn explain(error: &ContractError) -> String {
    let reason = failure(error).map_or("", |failure| match failure {
        ChargeFailure::UnknownSubscription => "there is no such subscription",
        ChargeFailure::NotDue => "it is not due",
        ChargeFailure::Cancelled => "it is cancelled",
        ChargeFailure::Lapsed => "it has lapsed",
        ChargeFailure::Allowance => "the allowance to the contract is smaller than the amount",
        ChargeFailure::Balance => "the balance is smaller than the amount",
        ChargeFailure::Token => "the token refuses",
    });
    match error {
        ContractError::UnknownPlan(e) => format!("UnknownPlan: there is no plan {}", e.planId),
        ContractError::RetiredPlan(e) => format!("RetiredPlan: plan {} is retired", e.planId),
        ContractError::NotMerchant(e) => format!(
            "NotMerchant: {} is not the merchant of plan {} (nor, for usage and refunds, an operator of it)",
            e.caller, e.planId
        ),
        ContractError::UnknownSubscription(e) => {
            format!("UnknownSubscription: there is no subscription {}", e.id)
        }
        ContractError::NotParty(e) => {
            format!("NotParty: {} is neither the merchant nor the payer of subscription {}", e.caller, e.id)
        }
        ContractError::ChargeRefused(e) => {
            format!("ChargeRefused: the payer of subscription {} cannot be charged: {reason}", e.id)
        }
        ContractError::RefundRefused(e) => {
            format!("RefundRefused: subscription {} cannot be refunded: {reason}", e.id)
        }
        ContractError::NotChangeable(e) => {
            format!("NotChangeable: subscription {} has ended, will end, or has lapsed", e.id)
        }
        ContractError::ChangePending(e) => {
            format!("ChangePending: subscription {} has a change of plan scheduled already", e.id)
        }
        ContractError::PlansUnrelated(e) => format!(
            "PlansUnrelated: plans {} and {} have different merchants or tokens, or are the same",
            e.fromPlanId, e.toPlanId
        ),
        ContractError::NotFavourable(e) => format!(
            "NotFavourable: plan {} is in something worse than plan {} for its payer, or pays another account: it \
             takes the payer's own act",
            e.toPlanId, e.fromPlanId
        ),
        ContractError::InvalidAmount(_) => "InvalidAmount: an amount of nothing".to_owned(),
        ContractError::PeriodClosed(e) => format!(
            "PeriodClosed: usage cannot be charged to period {} of subscription {}: it is not paid, has not begun, is \
             over for too long, or the subscription was cancelled",
            e.period, e.id
        ),
        ContractError::UsageCapExceeded(e) => format!(
            "UsageCapExceeded: the usage of the period would be {}, the plan's cap is {} (base units)",
            e.total, e.cap
        ),
        ContractError::RefundExceedsPaid(e) => format!(
            "RefundExceedsPaid: refunds would be {} in all, paid was {} (base units)",
            e.total, e.paid
        ),
        ContractError::KeySpent(e) => {
            format!("KeySpent: the key {} was used for subscription {} before", e.key, e.id)
        }
        ContractError::InvalidToken(e) => format!("InvalidToken: {} is no token", e.token),
        ContractError::InvalidGrace(e) => {
            format!("InvalidGrace: a grace of {} seconds is outside {} to {}", e.grace, e.min, e.max)
        }
        ContractError::InvalidTrial(e) => {
            format!("InvalidTrial: a trial of {} seconds is longer than {}", e.trial, e.max)
        }
        ContractError::InvalidCount(e) => {
            format!("InvalidCount: {} days or months are outside 1 to {}", e.count, e.max)
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use alloy::{
        primitives::{B256, U256},
        sol_types::SolError as _,
    };

    use super::*;

    #[test]
    fn refusals_are_read_and_said_with_their_names() {
        let refused = Dues::RefundRefused { id: U256::from(7), reason: 5 }.abi_encode();
        let error = decode(&refused).unwrap();
        assert_eq!(failure(&error), Some(ChargeFailure::Allowance));
        assert!(explain(&error).starts_with("RefundRefused: subscription 7"), "{}", explain(&error));
        let spent = Dues::KeySpent { id: U256::from(7), key: B256::repeat_byte(1) }.abi_encode();
        assert!(matches!(decode(&spent), Some(ContractError::KeySpent(_))));
        assert!(decode(b"").is_none());
        assert!(decode(&[1, 2, 3, 4]).is_none());
    }
}
