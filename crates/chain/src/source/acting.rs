//! What somebody asks of nodes before acting with an account of its own: whether it would go through, and how much gas it
//! would take.

use std::sync::Arc;

use alloy::{
    eips::{BlockId, BlockNumberOrTag},
    primitives::{Address, B256, Bytes, U64, U256},
    rpc::types::{TransactionInput, TransactionRequest},
};
use dues_domain::{
    chain::{BlockRef, OnchainPlanId, OnchainSubscriptionId},
    money::BaseUnits,
};

use super::{Endpoint, Prefer, RpcSource, SourceError, charging::Refusal, failure::Failure};
use crate::contract::Dues;

/// A call, as an account would make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Whose.
    pub from: Address,
    /// What is called.
    pub to: Address,
    /// With what.
    pub input: Bytes,
}

/// Why a call would not go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRefused {
    /// In the node's words.
    pub reason: String,
    /// What the contract reverts with, where it is the contract that refuses.
    pub data: Option<Bytes>,
}

impl RpcSource {
    /// What `call` would return at `at`, or why it would be refused.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers for that block.
    pub async fn rehearse(
        &self,
        at: BlockRef,
        call: &Call,
    ) -> Result<Result<Bytes, CallRefused>, SourceError> {
        let request = &request(call);
        let ask = |endpoint: Arc<Endpoint>| async move {
            carried_out(endpoint.answer("eth_call", (request, BlockId::hash(at.hash))).await?, "eth_call")
        };
        self.read(Prefer::Current, ask).await.map(|(_, answer)| answer)
    }

    /// How much gas `call` takes at the moment, or why it would be refused.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers.
    pub async fn estimate(&self, call: &Call) -> Result<Result<u64, CallRefused>, SourceError> {
        let request = &request(call);
        let ask = |endpoint: Arc<Endpoint>| async move {
            let answer = endpoint.answer("eth_estimateGas", (request, BlockNumberOrTag::Latest)).await?;
            carried_out::<U64>(answer, "eth_estimateGas")
        };
        let (_, answer) = self.read(Prefer::Current, ask).await?;
        Ok(answer.map(|gas| gas.to()))
    }

    /// What the next transaction of an account has to count, those included that wait for a block.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers.
    pub async fn next_nonce(&self, of: Address) -> Result<u64, SourceError> {
        let ask = |endpoint: Arc<Endpoint>| async move {
            endpoint.call::<_, U64>("eth_getTransactionCount", (of, BlockNumberOrTag::Pending)).await
        };
        self.read(Prefer::Current, ask).await.map(|(_, count)| count.to())
    }

    /// Whether `operator` may charge usage and refund for `merchant` at `at`.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers for that block.
    pub async fn is_operator(
        &self,
        at: BlockRef,
        merchant: Address,
        operator: Address,
    ) -> Result<bool, SourceError> {
        self.view(at, &Dues::isOperatorCall { merchant, operator }).await
    }

    /// Whether `key` was spent for a subscription at `at`, by a usage charge or a refund.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers for that block.
    pub async fn is_key_spent(
        &self,
        at: BlockRef,
        id: OnchainSubscriptionId,
        key: B256,
    ) -> Result<bool, SourceError> {
        self.view(at, &Dues::isKeySpentCall { id: U256::from(id), key }).await
    }

    /// The usage that was charged to a period of a subscription until `at`.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers for that block.
    pub async fn usage_charged(
        &self,
        at: BlockRef,
        id: OnchainSubscriptionId,
        period: u16,
    ) -> Result<BaseUnits, SourceError> {
        let charged = self.view(at, &Dues::usageOfCall { id: U256::from(id), period }).await?;
        Ok(BaseUnits::new(charged.to()))
    }

    /// The plan that the transaction `hash` has created; `None` where it is in no block, or has created none.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers.
    pub async fn created_plan(&self, hash: B256) -> Result<Option<OnchainPlanId>, SourceError> {
        use alloy::sol_types::SolEvent as _;

        let Some(receipt) = self.receipt(hash).await? else { return Ok(None) };
        Ok(receipt.events.iter().find_map(|topics| match topics.as_slice() {
            [signature, plan, ..] if *signature == Dues::PlanCreated::SIGNATURE_HASH => {
                u32::try_from(U256::from_be_bytes(plan.0)).ok()
            }
            _ => None,
        }))
    }
}

fn request(call: &Call) -> TransactionRequest {
    let input = TransactionInput::new(call.input.clone());
    TransactionRequest { from: Some(call.from), to: Some(call.to.into()), input, ..Default::default() }
}

/// A refusal by the contract is an answer; anything else that a node may refuse for is its own matter, and another one is
/// asked.
fn carried_out<T>(
    answer: Result<T, Refusal>,
    method: &'static str,
) -> Result<Result<T, CallRefused>, Failure> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(refusal) => {
            let reason = refusal.reason.into_owned();
            let says_so = ["revert", "out of gas", "OutOfGas", "insufficient funds", "Insufficient funds"];
            if refusal.revert_data.is_some() || says_so.iter().any(|words| reason.contains(words)) {
                Ok(Err(CallRefused { reason, data: refusal.revert_data }))
            } else {
                Err(Failure::Broken { method, reason })
            }
        }
    }
}
