//! Bindings of `Dues.sol`, and its logs as domain events.

use alloy::{
    primitives::{Address, B256, Log, LogData, U256},
    sol_types::{SolEvent, SolEventInterface},
};
use chrono::{DateTime, Utc};
use dues_domain::{
    calendar::{Interval, IntervalUnit},
    chain::{
        ChargeFailure, ContractEvent, OnchainPlan, OnchainPlanId, OnchainSubscriptionId, SubscriptionEvent,
        SubscriptionEventKind,
    },
    money::{BaseUnits, MoneyError},
};

pub use bindings::{Dues, IDues};

#[expect(
    missing_docs,
    clippy::too_many_arguments,
    reason = "generated from the contract's artifact, whose NatSpec says it"
)]
mod bindings {
    alloy::sol!(
        #[sol(rpc)]
        #[derive(Debug)]
        Dues,
        "abi/Dues.json"
    );
}

/// A log of the contract's address that is not one of its events as this version knows them.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Unknown topic or malformed data.
    #[error("the log is not an event of this version of the contract")]
    UnknownEvent(#[source] alloy::sol_types::Error),
    /// A subscription number beyond the contract's own 64-bit counter.
    #[error("subscription number {0} is beyond the contract's counter")]
    SubscriptionId(U256),
    /// A number that names no variant of the contract's enum.
    #[error("{value} is no {name}")]
    Variant {
        /// Which enum.
        name: &'static str,
        /// The number.
        value: u8,
    },
    /// An instant that no calendar names.
    #[error("{0} seconds is no instant")]
    Instant(u64),
    /// An amount beyond 96 bits.
    #[error(transparent)]
    Amount(#[from] MoneyError),
}

/// Whom an event of the contract concerns, as its indexed parameters say. Anybody may use the contract and have it
/// emit events, so this is asked before anything else of a log is believed or even read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concerns {
    /// A merchant that has created a plan.
    Merchant(Address),
    /// A plan, or a subscription to it.
    Plan(OnchainPlanId),
}

/// Whom a log with `topics` concerns; `None` where it is no event that this version knows.
#[must_use]
pub fn concerns(topics: &[B256]) -> Option<Concerns> {
    let [signature, first, rest @ ..] = topics else { return None };
    match *signature {
        Dues::PlanCreated::SIGNATURE_HASH => {
            rest.first().map(|word| Concerns::Merchant(Address::from_word(*word)))
        }
        Dues::PlanRetired::SIGNATURE_HASH => plan_id(first),
        Dues::Subscribed::SIGNATURE_HASH
        | Dues::Charged::SIGNATURE_HASH
        | Dues::ChargeFailed::SIGNATURE_HASH
        | Dues::CancelScheduled::SIGNATURE_HASH
        | Dues::Cancelled::SIGNATURE_HASH
        | Dues::Resumed::SIGNATURE_HASH => rest.first().and_then(plan_id),
        _ => None,
    }
}

fn plan_id(word: &B256) -> Option<Concerns> {
    u32::try_from(U256::from_be_bytes(word.0)).ok().map(Concerns::Plan)
}

/// The event that a log with `topics` and `data` of the contract is.
///
/// # Errors
/// [`DecodeError`] where it is none that this version knows: the contract cannot emit one, so the address is
/// another contract's or the node answers nonsense.
pub fn decode(topics: Vec<B256>, data: Vec<u8>) -> Result<ContractEvent, DecodeError> {
    // The address was matched by whoever read the log; the interface does not look at it.
    let log = Log { address: Default::default(), data: LogData::new_unchecked(topics, data.into()) };
    let event = Dues::DuesEvents::decode_log(&log).map_err(DecodeError::UnknownEvent)?.data;
    let subscription = |id: U256, plan, payer, kind| {
        let id = subscription_id(id)?;
        Ok(ContractEvent::Subscription(SubscriptionEvent { id, plan, payer, kind }))
    };
    match event {
        Dues::DuesEvents::PlanCreated(e) => Ok(ContractEvent::PlanCreated(OnchainPlan {
            id: e.planId,
            merchant: e.merchant,
            token: e.token,
            payee: e.payee,
            price: BaseUnits::new(e.price.to())?,
            interval: Interval { unit: interval_unit(e.unit)?, count: e.count },
            trial_seconds: e.trial,
            grace_seconds: e.grace,
        })),
        Dues::DuesEvents::PlanRetired(e) => Ok(ContractEvent::PlanRetired(e.planId)),
        Dues::DuesEvents::Subscribed(e) => {
            let kind =
                SubscriptionEventKind::Subscribed { reference: e.r#ref, anchor: instant(e.anchor.to())? };
            subscription(e.id, e.planId, e.payer, kind)
        }
        Dues::DuesEvents::Charged(e) => {
            let kind = SubscriptionEventKind::Charged {
                periods: e.periods,
                paid_through: instant(e.paidThrough)?,
                amount: BaseUnits::new(e.amount.to())?,
            };
            subscription(e.id, e.planId, e.payer, kind)
        }
        Dues::DuesEvents::ChargeFailed(e) => {
            let kind = SubscriptionEventKind::ChargeFailed { reason: charge_failure(e.reason)? };
            subscription(e.id, e.planId, e.payer, kind)
        }
        Dues::DuesEvents::CancelScheduled(e) => {
            subscription(e.id, e.planId, e.payer, SubscriptionEventKind::CancelScheduled)
        }
        Dues::DuesEvents::Cancelled(e) => {
            subscription(e.id, e.planId, e.payer, SubscriptionEventKind::Cancelled)
        }
        Dues::DuesEvents::Resumed(e) => subscription(e.id, e.planId, e.payer, SubscriptionEventKind::Resumed),
    }
}

fn subscription_id(id: U256) -> Result<OnchainSubscriptionId, DecodeError> {
    u64::try_from(id).map_err(|_| DecodeError::SubscriptionId(id))
}

fn instant(seconds: u64) -> Result<DateTime<Utc>, DecodeError> {
    i64::try_from(seconds)
        .ok()
        .and_then(|s| DateTime::from_timestamp(s, 0))
        .ok_or(DecodeError::Instant(seconds))
}

fn interval_unit(value: u8) -> Result<IntervalUnit, DecodeError> {
    match value {
        0 => Ok(IntervalUnit::Day),
        1 => Ok(IntervalUnit::Month),
        _ => Err(DecodeError::Variant { name: "IntervalUnit", value }),
    }
}

/// The contract's number for an interval unit.
#[must_use]
pub const fn interval_unit_number(unit: IntervalUnit) -> u8 {
    match unit {
        IntervalUnit::Day => 0,
        IntervalUnit::Month => 1,
    }
}

fn charge_failure(value: u8) -> Result<ChargeFailure, DecodeError> {
    Ok(match value {
        1 => ChargeFailure::UnknownSubscription,
        2 => ChargeFailure::NotDue,
        3 => ChargeFailure::Cancelled,
        4 => ChargeFailure::Lapsed,
        5 => ChargeFailure::Allowance,
        6 => ChargeFailure::Balance,
        7 => ChargeFailure::Token,
        _ => return Err(DecodeError::Variant { name: "Reason", value }),
    })
}

#[cfg(test)]
mod tests {
    use alloy::primitives::aliases::U40;
    use proptest::prelude::*;

    use super::*;

    fn decode_event<E: SolEvent>(event: &E) -> Result<ContractEvent, DecodeError> {
        let data = event.encode_log_data();
        decode(data.topics().to_vec(), data.data.to_vec())
    }

    #[test]
    fn a_charge_is_read_with_its_resulting_state() {
        let payer = Address::repeat_byte(7);
        let decoded = decode_event(&Dues::Charged {
            id: U256::from(3),
            planId: 2,
            payer,
            periods: 4,
            paidThrough: 1_800_000_000,
            amount: alloy::primitives::aliases::U96::from(29_990_000_u64),
        });
        let kind = SubscriptionEventKind::Charged {
            periods: 4,
            paid_through: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            amount: BaseUnits::new(29_990_000).unwrap(),
        };
        let expected = SubscriptionEvent { id: 3, plan: 2, payer, kind };
        assert_eq!(decoded.unwrap(), ContractEvent::Subscription(expected));
    }

    #[test]
    fn an_impossible_value_is_an_error_and_never_a_guess() {
        let subscribed = |id| Dues::Subscribed {
            id,
            planId: 1,
            payer: Address::ZERO,
            r#ref: B256::ZERO,
            anchor: U40::from(1),
            paidThrough: 1,
        };
        assert!(matches!(decode_event(&subscribed(U256::MAX)), Err(DecodeError::SubscriptionId(_))));
        let failed = Dues::ChargeFailed { id: U256::from(1), planId: 1, payer: Address::ZERO, reason: 99 };
        assert!(matches!(decode_event(&failed), Err(DecodeError::Variant { name: "Reason", value: 99 })));
    }

    #[test]
    fn an_event_of_somebody_else_is_told_apart_before_it_is_read() {
        let huge = Dues::ChargeFailed { id: U256::MAX, planId: 0, payer: Address::ZERO, reason: 1 };
        assert_eq!(concerns(huge.encode_log_data().topics()), Some(Concerns::Plan(0)));
        let retired = Dues::PlanRetired { planId: 7 };
        assert_eq!(concerns(retired.encode_log_data().topics()), Some(Concerns::Plan(7)));
        assert_eq!(concerns(&[]), None);
        assert_eq!(concerns(&[B256::ZERO; 4]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_logs_never_panic(
            topics in proptest::collection::vec(any::<[u8; 32]>(), 0..5),
            data in proptest::collection::vec(any::<u8>(), 0..300),
            signature in 0..Dues::DuesEvents::COUNT,
        ) {
            let mut topics: Vec<B256> = topics.into_iter().map(B256::from).collect();
            if let Some(first) = topics.first_mut() {
                *first = Dues::DuesEvents::SELECTORS[signature].into();
            }
            let _ = (concerns(&topics), decode(topics, data));
        }
    }
}
