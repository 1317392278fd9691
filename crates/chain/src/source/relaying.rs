//! What payers signed: as a call, and whether it would go through.

use std::sync::Arc;

use alloy::{
    eips::BlockId,
    primitives::{
        Address, Bytes, U64, U256,
        aliases::{U48, U160},
    },
    rpc::types::{TransactionInput, TransactionRequest},
    sol_types::{SolCall as _, SolInterface as _},
};
use dues_domain::{
    chain::BlockRef,
    relay::{Consent, Intent, Permit, RelayRefusal},
};

use super::{Endpoint, Prefer, RpcSource, SourceError, charging::Refusal};
use crate::contract::{Dues, IDues, charge_failure};

impl RpcSource {
    /// Why the contract would not take `call` (see [`intent_call`]) at `at` with so much gas.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers for that block.
    pub async fn refuses(
        &self,
        at: BlockRef,
        call: Bytes,
        gas: u64,
    ) -> Result<Option<RelayRefusal>, SourceError> {
        let to = Some(self.shared.source.contract.into());
        let input = TransactionInput::new(call);
        let request = &TransactionRequest { to, input, gas: Some(gas), ..Default::default() };
        let ask = |endpoint: Arc<Endpoint>| async move {
            endpoint.answer::<_, Bytes>("eth_call", (request, BlockId::hash(at.hash))).await
        };
        let (_, answer) = self.read(Prefer::Current, ask).await?;
        answer.err().map(|said| refusal(&said)).transpose()
    }

    /// How much gas a transaction of `from` with `call` needs now, or why the contract would not take it with `most`.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers.
    pub async fn estimate_intent(
        &self,
        from: Address,
        call: Bytes,
        most: u64,
    ) -> Result<Result<u64, RelayRefusal>, SourceError> {
        let to = Some(self.shared.source.contract.into());
        let input = TransactionInput::new(call);
        let request =
            &TransactionRequest { from: Some(from), to, input, gas: Some(most), ..Default::default() };
        let ask = |endpoint: Arc<Endpoint>| async move {
            endpoint.answer::<_, U64>("eth_estimateGas", (request,)).await
        };
        let (_, answer) = self.read(Prefer::Current, ask).await?;
        match answer {
            Ok(gas) if gas.to::<u64>() > most => Ok(Err(RelayRefusal::GasAboveLimit)),
            Ok(gas) => Ok(Ok(gas.to())),
            Err(said) => refusal(&said).map(Err),
        }
    }
}

/// What a node means that does not carry a call out. A word that is not known says nothing about the node, which has
/// answered; and it must not be able to keep other nodes busy, or charges waiting: whoever signs makes these calls.
fn refusal(refusal: &Refusal) -> Result<RelayRefusal, SourceError> {
    let has = |words: &[&str]| words.iter().any(|word| refusal.reason.contains(word));
    match &refusal.revert_data {
        Some(data) => Ok(reverted(data)),
        // "out of gas", "gas required exceeds allowance", "intrinsic gas too low", revm's `OutOfGas` and `MemoryOOG`.
        None if has(&["gas", "Gas", "OOG"]) => Ok(RelayRefusal::GasAboveLimit),
        None if has(&["revert", "EVM error"]) => Ok(RelayRefusal::Reverted),
        None => Err(SourceError::Inconsistent("what is said of a call is neither a result nor a reason")),
    }
}

/// The call of the contract that carries out what `payer` signed, with `permit` before it.
#[must_use]
pub fn intent_call(payer: Address, intent: &Intent, consent: &Consent, permit: Option<&Permit>) -> Bytes {
    let signature = consent.0.clone();
    let call = match intent {
        Intent::Subscribe(s) => {
            let intent = IDues::SubscribeIntent {
                payer: s.payer,
                planId: s.plan,
                r#ref: s.reference,
                count: s.count,
                renews: s.renews,
                nonce: s.nonce,
                deadline: s.deadline,
            };
            Dues::subscribeForCall { intent, signature }.abi_encode()
        }
        Intent::Change(c) => {
            let intent = IDues::ChangeIntent {
                id: U256::from(c.id),
                planId: c.plan,
                count: c.count,
                maxAmount: c.max_amount.to(),
                nonce: c.nonce,
                deadline: c.deadline,
            };
            Dues::changeForCall { intent, signature }.abi_encode()
        }
        Intent::Cancel(c) => {
            let (id, nonce, deadline) = (U256::from(c.id), c.nonce, c.deadline);
            let intent = IDues::CancelIntent { id, atOnce: c.at_once, nonce, deadline };
            Dues::cancelForCall { intent, signature }.abi_encode()
        }
    };
    let Some((plan, permit)) = intent.plan().zip(permit) else { return call.into() };
    let permit = permit_call(payer, plan, permit);
    Dues::multicallCall { calls: vec![permit.into(), call.into()] }.abi_encode().into()
}

fn permit_call(owner: Address, plan: u32, permit: &Permit) -> Vec<u8> {
    match permit {
        Permit::Eip2612 { value, deadline, v, r, s } => {
            let (value, deadline) = (*value, *deadline);
            Dues::permitCall { planId: plan, owner, value, deadline, v: *v, r: *r, s: *s }.abi_encode()
        }
        Permit::Permit2 { value, expiration, nonce, signature_deadline, signature } => Dues::permit2Call {
            planId: plan,
            owner,
            // Whoever made it has looked at its widths; what does not fit is no permit, which stops nothing.
            value: value.saturating_to::<U160>(),
            expiration: U256::from(*expiration).saturating_to::<U48>(),
            nonce: U256::from(*nonce).saturating_to::<U48>(),
            signatureDeadline: *signature_deadline,
            signature: signature.clone(),
        }
        .abi_encode(),
    }
}

/// What the contract means by an error.
fn reverted(data: &[u8]) -> RelayRefusal {
    use Dues::DuesErrors as E;
    // It has a word for every reason but one.
    if data.is_empty() {
        return RelayRefusal::GasAboveLimit;
    }
    let Ok(error) = E::abi_decode(data) else { return RelayRefusal::Reverted };
    match error {
        E::Expired(_) => RelayRefusal::Expired,
        E::NonceSpent(_) => RelayRefusal::NonceSpent,
        E::InvalidSignature(_) => RelayRefusal::InvalidSignature,
        E::UnknownPlan(_) => RelayRefusal::UnknownPlan,
        E::RetiredPlan(_) => RelayRefusal::RetiredPlan,
        E::UnknownSubscription(_) => RelayRefusal::UnknownSubscription,
        E::ChargeRefused(e) => charge_failure(e.reason).map_or(RelayRefusal::Reverted, Into::into),
        E::InvalidCount(_) => RelayRefusal::InvalidCount,
        E::NotChangeable(_) => RelayRefusal::NotChangeable,
        E::PlansUnrelated(_) => RelayRefusal::PlansUnrelated,
        E::NotAnUpgrade(_) => RelayRefusal::NotAnUpgrade,
        E::CreditExceedsPrice(_) => RelayRefusal::CreditExceedsPrice,
        E::AmountExceedsMax(_) => RelayRefusal::AmountExceedsMax,
        E::AlreadyEnded(_) => RelayRefusal::AlreadyEnded,
        // The second where a call of a `multicall` has run out of it.
        E::InsufficientGas(_) | E::FailedCall(_) => RelayRefusal::GasAboveLimit,
        _ => RelayRefusal::Reverted,
    }
}

#[cfg(test)]
mod tests {
    use alloy::{
        primitives::{B256, U128},
        sol_types::SolError as _,
    };
    use dues_domain::relay::{CancelIntent, ChangeIntent, SubscribeIntent};

    use super::*;

    const PAYER: Address = Address::repeat_byte(7);

    fn consent() -> Consent {
        Consent(Bytes::from(vec![1; 65]))
    }

    #[test]
    fn each_kind_of_intent_is_the_call_that_was_signed_for() {
        let subscribe = Intent::Subscribe(SubscribeIntent {
            payer: PAYER,
            plan: 3,
            reference: B256::repeat_byte(9),
            count: 2,
            renews: true,
            nonce: U256::from(4),
            deadline: U256::from(5),
        });
        let call = intent_call(PAYER, &subscribe, &consent(), None);
        let Dues::subscribeForCall { intent, signature } = Dues::subscribeForCall::abi_decode(&call).unwrap();
        assert_eq!((intent.payer, intent.planId, intent.r#ref), (PAYER, 3, B256::repeat_byte(9)));
        assert_eq!((intent.count, intent.renews), (2, true));
        assert_eq!((intent.nonce, intent.deadline, signature), (U256::from(4), U256::from(5), consent().0));

        let (nonce, deadline) = (U256::MAX, U256::from(6));
        let change = ChangeIntent { id: 8, plan: 2, count: 1, max_amount: U128::MAX, nonce, deadline };
        let call = intent_call(PAYER, &Intent::Change(change), &consent(), None);
        let change = Dues::changeForCall::abi_decode(&call).unwrap().intent;
        assert_eq!((change.id, change.planId, change.count), (U256::from(8), 2, 1));
        assert_eq!((change.maxAmount, change.nonce, change.deadline), (u128::MAX, nonce, deadline));

        let cancel = CancelIntent { id: 8, at_once: true, nonce, deadline };
        let call = intent_call(PAYER, &Intent::Cancel(cancel), &consent(), None);
        let cancel = Dues::cancelForCall::abi_decode(&call).unwrap().intent;
        assert_eq!((cancel.id, cancel.atOnce, cancel.nonce), (U256::from(8), true, nonce));
    }

    #[test]
    fn a_permit_goes_before_the_intent_for_its_payer_and_its_plan() {
        let intent = Intent::Change(ChangeIntent {
            id: 8,
            plan: 2,
            count: 1,
            max_amount: U128::ZERO,
            nonce: U256::ZERO,
            deadline: U256::ZERO,
        });
        let (value, deadline, r, s) =
            (U256::from(5), U256::from(6), B256::repeat_byte(1), B256::repeat_byte(2));
        let calls = |permit| {
            let call = intent_call(PAYER, &intent, &consent(), Some(&permit));
            let calls = Dues::multicallCall::abi_decode(&call).unwrap().calls;
            assert_eq!((calls.len(), &calls[1]), (2, &intent_call(PAYER, &intent, &consent(), None)));
            calls
        };
        let first = calls(Permit::Eip2612 { value, deadline, v: 28, r, s });
        let permit = Dues::permitCall::abi_decode(&first[0]).unwrap();
        assert_eq!((permit.planId, permit.owner, permit.value, permit.deadline), (2, PAYER, value, deadline));
        assert_eq!((permit.v, permit.r, permit.s), (28, r, s));
        let (signature, signature_deadline) = (consent().0, deadline);
        let first = calls(Permit::Permit2 { value, expiration: 7, nonce: 8, signature_deadline, signature });
        let permit = Dues::permit2Call::abi_decode(&first[0]).unwrap();
        assert_eq!((permit.planId, permit.owner, permit.value), (2, PAYER, U160::from(5)));
        assert_eq!((permit.expiration, permit.nonce), (U48::from(7), U48::from(8)));
        assert_eq!((permit.signatureDeadline, permit.signature), (deadline, consent().0));
    }

    #[test]
    fn what_the_contract_reverts_with_has_a_word() {
        let is = |data: Vec<u8>, expected| assert_eq!(reverted(&data), expected);
        let id = U256::ONE;
        is(Dues::NonceSpent { payer: PAYER, nonce: id }.abi_encode(), RelayRefusal::NonceSpent);
        is(Dues::InvalidSignature { payer: PAYER }.abi_encode(), RelayRefusal::InvalidSignature);
        for (reason, expected) in
            [(5, RelayRefusal::Allowance), (6, RelayRefusal::Balance), (7, RelayRefusal::Token)]
        {
            is(Dues::ChargeRefused { id, reason }.abi_encode(), expected);
        }
        is(Dues::ChargeRefused { id, reason: 99 }.abi_encode(), RelayRefusal::Reverted);
        is(Dues::NotMerchant { planId: 1, caller: PAYER }.abi_encode(), RelayRefusal::Reverted);
        is(Vec::new(), RelayRefusal::GasAboveLimit);
        is(vec![1, 2, 3, 4, 5], RelayRefusal::Reverted);
        let said = |reason: &'static str| refusal(&Refusal { reason: reason.into(), revert_data: None }).ok();
        assert_eq!(
            said("err: intrinsic gas too low: have 60000, want 70000"),
            Some(RelayRefusal::GasAboveLimit)
        );
        assert_eq!(said("EVM error: OutOfGas"), Some(RelayRefusal::GasAboveLimit));
        assert_eq!(said("error -32603: EVM error MemoryOOG"), Some(RelayRefusal::GasAboveLimit));
        assert_eq!(said("execution reverted"), Some(RelayRefusal::Reverted));
        assert_eq!(said("header not found"), None);
    }
}
