//! What a keeper asks of nodes: whether charges would go through, what gas costs, where its transactions are; and the one
//! thing that is sent.
//!
//! A node that refuses to carry something out has answered: that says nothing about the node, and no other one is asked.

use std::{borrow::Cow, sync::Arc};

use alloy::{
    eips::{BlockId, BlockNumberOrTag},
    primitives::{Address, B256, Bytes, U64, U256},
    rpc::types::{FeeHistory, TransactionInput, TransactionReceipt, TransactionRequest},
    sol_types::{SolCall, SolError as _},
};
use dues_domain::chain::{BlockRef, ChargeFailure, ContractEvent, OnchainSubscriptionId, SubscriptionEvent};
use futures::{StreamExt as _, stream};
use serde_json::Value;

use super::{Endpoint, Prefer, RpcSource, SourceError, failure::Failure};
use crate::contract::{Dues, charge_failure, decode};

/// Previews in one call. Each may cost two questions of 100,000 gas to a token that burns it.
const PREVIEWS: usize = 50;
/// Single simulations in flight at once.
const IN_FLIGHT: usize = 8;
/// Over how many blocks the tips of others are looked at, and which part of them pays less than that.
const FEE_BLOCKS: u64 = 10;
const FEE_PERCENTILE: u8 = 50;

/// What a batch would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simulated {
    /// So many of it would be charged.
    Charged(usize),
    /// None of it: the gas does not suffice to know whose fault a failure is.
    Reverted,
}

/// What gas costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GasPrices {
    /// Wei per unit that are burnt in the next block.
    pub next_base_fee: u128,
    /// What others give to whoever builds the block: the median of late. 0 where nobody sends anything.
    pub usual_tip: u128,
}

/// What a node says to a transaction that it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// It has it, whether from now or from before.
    Accepted,
    /// It does not take it now, for the reason that it gives. Nothing speaks against sending it again later.
    Refused(String),
}

/// A transaction that is in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inclusion {
    /// The block.
    pub block: BlockRef,
    /// Whether it was carried out.
    pub succeeded: bool,
    /// Units of gas that it took.
    pub gas_used: u64,
    /// Wei for each of them.
    pub gas_price: u128,
    /// What the contract says of it, subscription by subscription.
    pub events: Vec<SubscriptionEvent>,
}

/// What a payer has of a token, and how much of that Dues may take, in base units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Means {
    /// The payer's balance.
    pub balance: U256,
    /// The payer's allowance to the contract.
    pub allowance: U256,
}

alloy::sol! {
    function balanceOf(address owner) external view returns (uint256);
    function allowance(address owner, address spender) external view returns (uint256);
}

impl RpcSource {
    /// Why each of `ids` could not be charged at `at`, as far as the contract can see beforehand.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers for that block.
    pub async fn preview_charges(
        &self,
        at: BlockRef,
        ids: &[OnchainSubscriptionId],
    ) -> Result<Vec<Option<ChargeFailure>>, SourceError> {
        let mut found = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(PREVIEWS) {
            let calls = chunk
                .iter()
                .map(|id| Dues::previewChargeCall { id: U256::from(*id) }.abi_encode().into())
                .collect();
            match self.carry_out(at, None, &Dues::multicallCall { calls }).await? {
                Ok(answers) if answers.len() == chunk.len() => {
                    for answer in answers {
                        let reason =
                            Dues::previewChargeCall::abi_decode_returns(&answer).map_err(|_| NOT_OURS)?;
                        found.push(optional(reason)?);
                    }
                }
                // What is refused as a whole says nothing about any of them. It comes out when they are simulated.
                Ok(_) | Err(_) => found.extend(chunk.iter().map(|_| None)),
            }
        }
        Ok(found)
    }

    /// What charging `ids` in one batch, with `gas`, would do at `at`.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers for that block.
    pub async fn simulate_batch(
        &self,
        at: BlockRef,
        ids: &[OnchainSubscriptionId],
        gas: u64,
    ) -> Result<Simulated, SourceError> {
        let call = batch_call(ids);
        Ok(match self.carry_out(at, Some(gas), &call).await? {
            Ok(charged) => Simulated::Charged(charged.try_into().map_err(|_| NOT_OURS)?),
            Err(_) => Simulated::Reverted,
        })
    }

    /// Which of `ids` a batch of nothing else, with `gas`, would not charge at `at`, and why.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers for that block.
    pub async fn refusals(
        &self,
        at: BlockRef,
        ids: &[OnchainSubscriptionId],
        gas: u64,
    ) -> Result<Vec<(OnchainSubscriptionId, ChargeFailure)>, SourceError> {
        let questions: Vec<_> = ids
            .iter()
            .map(|&id| async move {
                match self.simulate_batch(at, &[id], gas).await? {
                    Simulated::Charged(0) => {}
                    Simulated::Charged(_) => return Ok(None),
                    Simulated::Reverted => return Ok(Some((id, ChargeFailure::Token))),
                }
                let call = Dues::chargeOneCall { id: U256::from(id) };
                let refusal = self.carry_out(at, Some(gas), &call).await?.err();
                let refused = refusal
                    .and_then(|data| Dues::ChargeRefused::abi_decode(&data).ok())
                    .and_then(|refused| charge_failure(refused.reason).ok());
                // One that goes through only outside of batches has a token that needs more gas than they give it.
                Ok::<_, SourceError>(Some((id, refused.unwrap_or(ChargeFailure::Token))))
            })
            .collect();
        let mut refusals = Vec::new();
        let mut answers = stream::iter(questions).buffered(IN_FLIGHT);
        while let Some(answer) = answers.next().await {
            refusals.extend(answer?);
        }
        Ok(refusals)
    }

    /// What gas costs at the moment.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers.
    pub async fn gas_prices(&self) -> Result<GasPrices, SourceError> {
        let ask = |endpoint: Arc<Endpoint>| async move {
            let question = (U64::from(FEE_BLOCKS), BlockNumberOrTag::Latest, [FEE_PERCENTILE]);
            endpoint.call::<_, FeeHistory>("eth_feeHistory", question).await
        };
        let (_, history) = self.read(Prefer::Current, ask).await?;
        // The last one is that of the block to come.
        let next_base_fee = history
            .base_fee_per_gas
            .last()
            .copied()
            .ok_or(SourceError::Inconsistent("a fee history without fees"))?;
        let mut tips: Vec<u128> =
            history.reward.iter().flatten().filter_map(|block| block.first().copied()).collect();
        tips.retain(|tip| *tip > 0);
        tips.sort_unstable();
        let usual_tip = tips.get(tips.len() / 2).copied().unwrap_or_default();
        Ok(GasPrices { next_base_fee, usual_tip })
    }

    /// What an account has of the chain's own currency, in wei.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers.
    pub async fn native_balance(&self, of: Address) -> Result<U256, SourceError> {
        let ask = |endpoint: Arc<Endpoint>| async move {
            endpoint.call("eth_getBalance", (of, BlockNumberOrTag::Latest)).await
        };
        self.read(Prefer::Current, ask).await.map(|(_, balance)| balance)
    }

    /// How many transactions of an account are in blocks up to `at`.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers for that block.
    pub async fn transaction_count(&self, of: Address, at: BlockRef) -> Result<u64, SourceError> {
        let ask = |endpoint: Arc<Endpoint>| async move {
            endpoint.call::<_, U64>("eth_getTransactionCount", (of, BlockId::hash(at.hash))).await
        };
        self.read(Prefer::Current, ask).await.map(|(_, count)| count.to())
    }

    /// Whether the node has heard of a transaction: it is in a block, or waits for one.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers.
    pub async fn knows(&self, hash: B256) -> Result<bool, SourceError> {
        let ask = |endpoint: Arc<Endpoint>| async move {
            // As it comes: chains have kinds of transactions of their own.
            endpoint.call::<_, Option<Value>>("eth_getTransactionByHash", (hash,)).await
        };
        self.read(Prefer::Current, ask).await.map(|(_, found)| found.is_some())
    }

    /// Sends a signed transaction. May be repeated: a transaction is itself, however often it is sent.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers.
    pub async fn send(&self, raw: &[u8]) -> Result<Sent, SourceError> {
        let raw = &Bytes::copy_from_slice(raw);
        let ask = |endpoint: Arc<Endpoint>| async move {
            endpoint.answer::<_, B256>("eth_sendRawTransaction", (raw,)).await
        };
        let (_, answer) = self.read(Prefer::Current, ask).await?;
        Ok(match answer {
            Ok(_) => Sent::Accepted,
            Err(refusal) if says_known(&refusal.reason) => Sent::Accepted,
            Err(refusal) => Sent::Refused(refusal.reason.into_owned()),
        })
    }

    /// Where a transaction is, and what it did; `None` where it is in no block.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers.
    pub async fn inclusion(&self, hash: B256) -> Result<Option<Inclusion>, SourceError> {
        let ask = |endpoint: Arc<Endpoint>| async move {
            endpoint.call::<_, Option<TransactionReceipt>>("eth_getTransactionReceipt", (hash,)).await
        };
        let (_, receipt) = self.read(Prefer::Current, ask).await?;
        let Some(receipt) = receipt else { return Ok(None) };
        let Some((number, block_hash)) = receipt.block_number.zip(receipt.block_hash) else {
            return Ok(None);
        };
        let ours = receipt.logs().iter().filter(|log| log.address() == self.shared.source.contract);
        let events = ours
            .filter_map(|log| match decode(log.topics(), &log.data().data).ok()? {
                ContractEvent::Subscription(event) => Some(event),
                _ => None,
            })
            .collect();
        Ok(Some(Inclusion {
            block: BlockRef { number, hash: block_hash },
            succeeded: receipt.status(),
            gas_used: receipt.gas_used,
            gas_price: receipt.effective_gas_price,
            events,
        }))
    }

    /// What payers have of tokens at `at`, and how much of it the contract may take; `None` where a token does not say.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers for that block.
    pub async fn means(
        &self,
        at: BlockRef,
        of: &[(Address, Address)],
    ) -> Result<Vec<Option<Means>>, SourceError> {
        let spender = self.shared.source.contract;
        let questions: Vec<_> = of
            .iter()
            .map(|&(payer, token)| async move {
                let balance = self.ask_token(at, token, &balanceOfCall { owner: payer }).await?;
                let allowance = self.ask_token(at, token, &allowanceCall { owner: payer, spender }).await?;
                let means = balance.zip(allowance);
                Ok::<_, SourceError>(means.map(|(balance, allowance)| Means { balance, allowance }))
            })
            .collect();
        let mut means = Vec::with_capacity(of.len());
        let mut answers = stream::iter(questions).buffered(IN_FLIGHT);
        while let Some(answer) = answers.next().await {
            means.push(answer?);
        }
        Ok(means)
    }

    async fn ask_token<C: SolCall<Return = U256>>(
        &self,
        at: BlockRef,
        token: Address,
        call: &C,
    ) -> Result<Option<U256>, SourceError> {
        let input = TransactionInput::new(call.abi_encode().into());
        let request = &TransactionRequest { to: Some(token.into()), input, ..Default::default() };
        let ask = |endpoint: Arc<Endpoint>| async move {
            endpoint.answer::<_, Bytes>("eth_call", (request, BlockId::hash(at.hash))).await
        };
        let (_, answer) = self.read(Prefer::Current, ask).await?;
        Ok(answer.ok().and_then(|answer| C::abi_decode_returns(&answer).ok()))
    }

    /// What the contract returns to `call` at `at`, or what it reverts with.
    async fn carry_out<C: SolCall>(
        &self,
        at: BlockRef,
        gas: Option<u64>,
        call: &C,
    ) -> Result<Result<C::Return, Bytes>, SourceError> {
        let input = TransactionInput::new(call.abi_encode().into());
        let to = Some(self.shared.source.contract.into());
        let request = &TransactionRequest { to, input, gas, ..Default::default() };
        let ask = |endpoint: Arc<Endpoint>| async move {
            match endpoint.answer::<_, Bytes>("eth_call", (request, BlockId::hash(at.hash))).await? {
                Ok(answer) => Ok(Ok(answer)),
                // Without revert data it may be anything, a block that the node does not have for one.
                Err(refusal) => match refusal.revert_data {
                    Some(data) => Ok(Err(data)),
                    None if ["revert", "out of gas", "OutOfGas"]
                        .iter()
                        .any(|words| refusal.reason.contains(words)) =>
                    {
                        Ok(Err(Bytes::new()))
                    }
                    None => Err(Failure::Broken { method: "eth_call", reason: refusal.reason.into_owned() }),
                },
            }
        };
        let (_, answer) = self.read(Prefer::Current, ask).await?;
        match answer {
            Ok(answer) => C::abi_decode_returns(&answer).map(Ok).map_err(|_| NOT_OURS),
            Err(data) => Ok(Err(data)),
        }
    }
}

/// The call that charges `ids`.
#[must_use]
pub fn batch_call(ids: &[OnchainSubscriptionId]) -> Dues::chargeBatchCall {
    Dues::chargeBatchCall { ids: ids.iter().map(|id| U256::from(*id)).collect() }
}

/// A node that has a transaction already says so by an error: `already known` (geth, Erigon, reth), `AlreadyKnown`
/// (Nethermind), `Known transaction` (Besu), `transaction already imported` (anvil).
fn says_known(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    ["already known", "alreadyknown", "known transaction", "already imported", "already exists"]
        .iter()
        .any(|words| reason.contains(words))
}

fn optional(reason: u8) -> Result<Option<ChargeFailure>, SourceError> {
    if reason == 0 { Ok(None) } else { charge_failure(reason).map(Some).map_err(|_| NOT_OURS) }
}

/// What an endpoint refuses to carry out.
#[derive(Debug)]
pub(super) struct Refusal {
    /// In its own words.
    pub(super) reason: Cow<'static, str>,
    /// What the contract reverts with, where it does.
    pub(super) revert_data: Option<Bytes>,
}

const NOT_OURS: SourceError = SourceError::Inconsistent("an answer is not one of this contract");
