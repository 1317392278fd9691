//! Bindings of `Dues.sol`, and its logs as domain events.

use alloy::{
    primitives::{Address, B256, U256},
    sol_types::{SolEvent, SolEventInterface},
};
use dues_domain::{
    calendar::{Interval, IntervalUnit, instant},
    chain::{
        ChargeFailure, ContractEvent, OnchainPlan, OnchainPlanId, OnchainSubscriptionId, Party,
        SubscriptionEvent, SubscriptionEventKind,
    },
    money::BaseUnits,
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
}

/// Whom an event of the contract concerns, as its indexed parameters say. Anybody may use the contract and have it
/// emit events, so this is asked before anything else of a log is believed or even read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concerns {
    /// A merchant that has created a plan.
    Merchant(Address),
    /// A plan, or a subscription to it.
    Plan(OnchainPlanId),
    /// No row of the ledger: who may act for a merchant, and which signatures of a payer are void. Only the contract
    /// itself ever asks for these.
    Permissions,
}

/// Whom a log with `topics` concerns; `None` where it is no event that this version knows.
#[must_use]
pub fn concerns(topics: &[B256]) -> Option<Concerns> {
    let [signature, first, rest @ ..] = topics else { return None };
    match *signature {
        Dues::PlanCreated::SIGNATURE_HASH => {
            rest.first().map(|word| Concerns::Merchant(Address::from_word(*word)))
        }
        Dues::PlanRetired::SIGNATURE_HASH
        | Dues::PayeeProposed::SIGNATURE_HASH
        | Dues::PayeeChanged::SIGNATURE_HASH => plan_id(first),
        Dues::Subscribed::SIGNATURE_HASH
        | Dues::Charged::SIGNATURE_HASH
        | Dues::ChargeFailed::SIGNATURE_HASH
        | Dues::PlanChanged::SIGNATURE_HASH
        | Dues::ChangeScheduled::SIGNATURE_HASH
        | Dues::ChangeRevoked::SIGNATURE_HASH
        | Dues::CancelScheduled::SIGNATURE_HASH
        | Dues::Cancelled::SIGNATURE_HASH
        | Dues::Resumed::SIGNATURE_HASH
        | Dues::UsageCharged::SIGNATURE_HASH
        | Dues::Refunded::SIGNATURE_HASH => rest.first().and_then(plan_id),
        Dues::OperatorSet::SIGNATURE_HASH | Dues::NoncesSpent::SIGNATURE_HASH => Some(Concerns::Permissions),
        _ => None,
    }
}

/// Whether a log with `topics` tells of money that moved.
#[must_use]
pub fn moves_money(topics: &[B256]) -> bool {
    let moving =
        [Dues::Charged::SIGNATURE_HASH, Dues::UsageCharged::SIGNATURE_HASH, Dues::Refunded::SIGNATURE_HASH];
    topics.first().is_some_and(|signature| moving.contains(signature))
}

fn plan_id(word: &B256) -> Option<Concerns> {
    u32::try_from(U256::from_be_bytes(word.0)).ok().map(Concerns::Plan)
}

/// The event that a log with `topics` and `data` of the contract is.
///
/// # Errors
/// [`DecodeError`] where it is none that this version knows: the contract cannot emit one, so the address is
/// another contract's or the node answers nonsense.
pub fn decode(topics: impl AsRef<[B256]>, data: impl AsRef<[u8]>) -> Result<ContractEvent, DecodeError> {
    // The address was matched by whoever read the log.
    let event = Dues::DuesEvents::decode_raw_log(topics.as_ref(), data.as_ref())
        .map_err(DecodeError::UnknownEvent)?;
    let (id, plan, payer, kind) = match event {
        Dues::DuesEvents::PlanCreated(e) => return plan_created(&e).map(ContractEvent::PlanCreated),
        Dues::DuesEvents::PlanRetired(e) => return Ok(ContractEvent::PlanRetired(e.planId)),
        Dues::DuesEvents::PayeeProposed(e) => {
            let acceptable_from = instant(e.acceptableFrom);
            return Ok(ContractEvent::PayeeProposed { plan: e.planId, payee: e.payee, acceptable_from });
        }
        Dues::DuesEvents::PayeeChanged(e) => {
            return Ok(ContractEvent::PayeeChanged { plan: e.planId, payee: e.payee });
        }
        Dues::DuesEvents::OperatorSet(Dues::OperatorSet { merchant, operator, approved }) => {
            return Ok(ContractEvent::OperatorSet { merchant, operator, approved });
        }
        Dues::DuesEvents::NoncesSpent(Dues::NoncesSpent { payer, word, mask }) => {
            return Ok(ContractEvent::NoncesSpent { payer, word, mask });
        }
        Dues::DuesEvents::Subscribed(e) => {
            let anchor = instant(e.anchor.to());
            (e.id, e.planId, e.payer, SubscriptionEventKind::Subscribed { reference: e.r#ref, anchor })
        }
        Dues::DuesEvents::Charged(e) => {
            let (paid_through, amount) = (instant(e.paidThrough), BaseUnits::new(e.amount));
            let kind = SubscriptionEventKind::Charged { periods: e.periods, paid_through, amount };
            (e.id, e.planId, e.payer, kind)
        }
        Dues::DuesEvents::ChargeFailed(e) => {
            let kind = SubscriptionEventKind::ChargeFailed { reason: charge_failure(e.reason)? };
            (e.id, e.planId, e.payer, kind)
        }
        Dues::DuesEvents::PlanChanged(e) => {
            let kind = SubscriptionEventKind::PlanChanged {
                from: e.fromPlanId,
                anchor: instant(e.anchor.to()),
                periods: e.periods,
                paid_through: instant(e.paidThrough),
                credit: BaseUnits::new(e.credit),
            };
            (e.id, e.planId, e.payer, kind)
        }
        Dues::DuesEvents::ChangeScheduled(e) => {
            let (to, by) = (e.toPlanId, party(e.byMerchant));
            (e.id, e.planId, e.payer, SubscriptionEventKind::ChangeScheduled { to, by })
        }
        Dues::DuesEvents::ChangeRevoked(e) => (e.id, e.planId, e.payer, SubscriptionEventKind::ChangeRevoked),
        Dues::DuesEvents::CancelScheduled(e) => {
            (e.id, e.planId, e.payer, SubscriptionEventKind::CancelScheduled { by: party(e.byMerchant) })
        }
        Dues::DuesEvents::Cancelled(e) => {
            (e.id, e.planId, e.payer, SubscriptionEventKind::Cancelled { by: party(e.byMerchant) })
        }
        Dues::DuesEvents::Resumed(e) => (e.id, e.planId, e.payer, SubscriptionEventKind::Resumed),
        Dues::DuesEvents::UsageCharged(e) => {
            let kind = SubscriptionEventKind::UsageCharged {
                key: e.key,
                period: e.period,
                amount: BaseUnits::new(e.amount.to()),
                total: BaseUnits::new(e.total.to()),
            };
            (e.id, e.planId, e.payer, kind)
        }
        Dues::DuesEvents::Refunded(e) => {
            let (amount, total) = (BaseUnits::new(e.amount), BaseUnits::new(e.total));
            let kind = SubscriptionEventKind::Refunded { key: e.key, from: e.from, amount, total };
            (e.id, e.planId, e.payer, kind)
        }
    };
    let id = subscription_id(id)?;
    Ok(ContractEvent::Subscription(SubscriptionEvent { id, plan, payer, kind }))
}

fn plan_created(e: &Dues::PlanCreated) -> Result<OnchainPlan, DecodeError> {
    Ok(OnchainPlan {
        id: e.planId,
        merchant: e.merchant,
        token: e.token,
        payee: e.payee,
        price: BaseUnits::new(e.price.to()),
        interval: Interval { unit: interval_unit(e.unit)?, count: e.count },
        trial_seconds: e.trial,
        grace_seconds: e.grace,
        usage_cap: BaseUnits::new(e.usageCap.to()),
    })
}

const fn party(by_merchant: bool) -> Party {
    if by_merchant { Party::Merchant } else { Party::Payer }
}

fn subscription_id(id: U256) -> Result<OnchainSubscriptionId, DecodeError> {
    u64::try_from(id).map_err(|_| DecodeError::SubscriptionId(id))
}

pub(crate) fn interval_unit(value: u8) -> Result<IntervalUnit, DecodeError> {
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

pub(crate) fn charge_failure(value: u8) -> Result<ChargeFailure, DecodeError> {
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
    use alloy::primitives::aliases::{U40, U96};
    use chrono::{DateTime, Utc};
    use proptest::prelude::*;

    use super::*;

    fn decode_event<E: SolEvent>(event: &E) -> Result<ContractEvent, DecodeError> {
        let data = event.encode_log_data();
        decode(data.topics(), &data.data)
    }

    fn t(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    /// Every event of a subscription that is read by more than its name, and what it has to be read as.
    #[test]
    fn events_are_read_with_their_resulting_state() {
        let (id, payer) = (U256::from(3), Address::repeat_byte(7));
        let (key, from) = (B256::repeat_byte(8), Address::repeat_byte(9));
        let amount = BaseUnits::new(u128::MAX);
        let read = |decoded: Result<ContractEvent, DecodeError>, kind| {
            let expected = SubscriptionEvent { id: 3, plan: 2, payer, kind };
            assert_eq!(decoded.unwrap(), ContractEvent::Subscription(expected));
        };
        let (periods, paid_through) = (4, t(1_800_000_000));
        read(
            decode_event(&Dues::Charged {
                id,
                planId: 2,
                payer,
                periods,
                paidThrough: 1_800_000_000,
                amount: u128::MAX,
            }),
            SubscriptionEventKind::Charged { periods, paid_through, amount },
        );
        read(
            decode_event(&Dues::PlanChanged {
                id,
                planId: 2,
                payer,
                fromPlanId: 1,
                anchor: U40::from(1_700_000_000),
                periods,
                paidThrough: 1_800_000_000,
                credit: 5,
            }),
            SubscriptionEventKind::PlanChanged {
                from: 1,
                anchor: t(1_700_000_000),
                periods,
                paid_through,
                credit: BaseUnits::new(5),
            },
        );
        read(
            decode_event(&Dues::ChangeScheduled { id, planId: 2, payer, toPlanId: 6, byMerchant: true }),
            SubscriptionEventKind::ChangeScheduled { to: 6, by: Party::Merchant },
        );
        read(
            decode_event(&Dues::CancelScheduled { id, planId: 2, payer, byMerchant: true }),
            SubscriptionEventKind::CancelScheduled { by: Party::Merchant },
        );
        read(
            decode_event(&Dues::Cancelled { id, planId: 2, payer, byMerchant: false }),
            SubscriptionEventKind::Cancelled { by: Party::Payer },
        );
        read(
            decode_event(&Dues::UsageCharged {
                id,
                planId: 2,
                payer,
                key,
                period: 4,
                amount: U96::from(10),
                total: U96::from(30),
            }),
            SubscriptionEventKind::UsageCharged {
                key,
                period: 4,
                amount: BaseUnits::new(10),
                total: BaseUnits::new(30),
            },
        );
        read(
            decode_event(&Dues::Refunded { id, planId: 2, payer, key, from, amount: 10, total: u128::MAX }),
            SubscriptionEventKind::Refunded { key, from, amount: BaseUnits::new(10), total: amount },
        );
    }

    #[test]
    fn a_time_that_no_calendar_names_is_the_last_one_that_it_does() {
        let (id, payer) = (U256::from(3), Address::ZERO);
        let charged = Dues::Charged { id, planId: 1, payer, periods: 1, paidThrough: u64::MAX, amount: 1 };
        let ContractEvent::Subscription(event) = decode_event(&charged).unwrap() else { panic!() };
        let SubscriptionEventKind::Charged { paid_through, .. } = event.kind else { panic!() };
        assert_eq!(paid_through, dues_domain::calendar::LATEST);
    }

    #[test]
    fn every_event_of_the_contract_concerns_somebody_and_is_read() {
        for selector in Dues::DuesEvents::SELECTORS {
            let topics = [B256::from(*selector), B256::ZERO, B256::ZERO, B256::ZERO];
            assert_ne!(concerns(&topics), None, "{selector:?}");
            // With as many topics as the event has, zeros are an event of each kind, but for reasons.
            let read = (1..=4).any(|count| decode(&topics[..count], [0; 320]).is_ok());
            assert!(read || *selector == Dues::ChargeFailed::SIGNATURE_HASH.0, "{selector:?}");
        }
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
        let merchant = Address::repeat_byte(1);
        let operator = Dues::OperatorSet { merchant, operator: merchant, approved: true };
        assert_eq!(concerns(operator.encode_log_data().topics()), Some(Concerns::Permissions));
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
