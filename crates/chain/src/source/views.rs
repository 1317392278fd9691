//! What the contract's storage and the token's logs say, for whoever checks the ledger against them.
//!
//! Storage is read at one block, named by its hash: a node that no longer has that block says so instead of answering
//! from another one.

use std::sync::Arc;

use alloy::{
    eips::BlockId,
    primitives::{Address, B256, Bytes, U256},
    rpc::types::{Log, TransactionInput, TransactionReceipt, TransactionRequest},
    sol_types::{SolCall, SolEvent},
};
use chrono::{DateTime, Utc};
use dues_domain::{
    calendar::{Interval, instant},
    chain::{BlockRef, OnchainPlan, OnchainPlanId, OnchainSubscriptionId, Party},
    money::BaseUnits,
};

use super::{Endpoint, Prefer, RpcSource, SourceError};
use crate::contract::{Dues, interval_unit};

alloy::sol! {
    #[derive(Debug)]
    event Transfer(address indexed from, address indexed to, uint256 value);
}

/// The bits of a subscription's flags, as the interface states them.
const ENDS_BY_PAYER: u8 = 1;
const ENDED: u8 = 1 << 1;
const ENDS_BY_MERCHANT: u8 = 1 << 2;

/// A plan as the contract holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractPlan {
    /// Its terms.
    pub plan: OnchainPlan,
    /// Whether it takes no new subscribers any more.
    pub retired: bool,
}

/// A subscription as the contract holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractSubscription {
    /// Its number.
    pub id: OnchainSubscriptionId,
    /// The plan that it is on.
    pub plan: OnchainPlanId,
    /// The plan of its next period, where that is another one.
    pub scheduled_plan: Option<OnchainPlanId>,
    /// Who pays.
    pub payer: Address,
    /// From where periods are counted.
    pub anchor: DateTime<Utc>,
    /// Periods paid since then.
    pub periods: u16,
    /// The end of the last of them.
    pub paid_through: DateTime<Utc>,
    /// Whose word it is that it ends with the paid time. The merchant's stands above the payer's.
    pub cancel_scheduled_by: Option<Party>,
    /// Whether it was ended at once.
    pub ended: bool,
    /// The sum of its debits.
    pub paid: U256,
    /// The sum of its refunds.
    pub refunded: U256,
}

/// Tokens that moved, by the token's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenTransfer {
    /// The token.
    pub token: Address,
    /// Whose they were.
    pub from: Address,
    /// Whose they became.
    pub to: Address,
    /// How many base units.
    pub amount: U256,
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The block that it is in.
    pub block: BlockRef,
    /// What it called.
    pub to: Option<Address>,
    /// Every ERC-20 transfer in it.
    pub transfers: Vec<TokenTransfer>,
    /// The topics of the contract's own logs in it.
    pub events: Vec<Vec<B256>>,
}

impl RpcSource {
    /// How many plans and subscriptions there are at `at`: the numbers of the last ones.
    ///
    /// # Errors
    /// [`SourceError`] where the node does not answer for that block.
    pub async fn counts(&self, at: BlockRef) -> Result<(OnchainPlanId, OnchainSubscriptionId), SourceError> {
        let plans = self.view(at, &Dues::planCountCall {}).await?;
        let subscriptions = self.view(at, &Dues::subscriptionCountCall {}).await?;
        let subscriptions = subscriptions.try_into().map_err(|_| NOT_A_VIEW)?;
        Ok((plans, subscriptions))
    }

    /// The plans `first..=last` at `at`, all in one call.
    ///
    /// # Errors
    /// [`SourceError`] where the node does not answer for that block.
    pub async fn plans(
        &self,
        at: BlockRef,
        first: OnchainPlanId,
        last: OnchainPlanId,
    ) -> Result<Vec<ContractPlan>, SourceError> {
        let calls = (first..=last).map(|id| Dues::planCall { planId: id }.abi_encode().into()).collect();
        let answers = self.view(at, &Dues::multicallCall { calls }).await?;
        let plans = (first..=last)
            .zip(&answers)
            .map(|(id, answer)| {
                let stored = Dues::planCall::abi_decode_returns(answer).map_err(|_| NOT_A_VIEW)?;
                let unit = interval_unit(stored.unit).map_err(|_| NOT_A_VIEW)?;
                let plan = OnchainPlan {
                    id,
                    merchant: stored.merchant,
                    token: stored.token,
                    payee: stored.payee,
                    price: BaseUnits::new(stored.price.to()),
                    interval: Interval { unit, count: stored.count },
                    trial_seconds: stored.trial,
                    grace_seconds: stored.grace,
                    usage_cap: BaseUnits::new(stored.usageCap.to()),
                };
                Ok(ContractPlan { plan, retired: stored.retired })
            })
            .collect::<Result<Vec<_>, SourceError>>()?;
        if plans.len() == answers.len() && (first..=last).count() == plans.len() {
            Ok(plans)
        } else {
            Err(NOT_A_VIEW)
        }
    }

    /// The subscriptions `first..=last` at `at`, all in one call.
    ///
    /// # Errors
    /// [`SourceError`] where the node does not answer for that block.
    pub async fn subscriptions(
        &self,
        at: BlockRef,
        first: OnchainSubscriptionId,
        last: OnchainSubscriptionId,
    ) -> Result<Vec<ContractSubscription>, SourceError> {
        let count = last.saturating_sub(first).saturating_add(1);
        let page = Dues::subscriptionsCall { fromId: U256::from(first), count: U256::from(count) };
        let records = self.view(at, &page).await?;
        if u64::try_from(records.len()) != Ok(count) {
            return Err(NOT_A_VIEW);
        }
        Ok((first..=last)
            .zip(records)
            .map(|(id, record)| {
                let stored = record.subscription;
                let flag = |bit: u8| stored.flags & bit != 0;
                ContractSubscription {
                    id,
                    plan: stored.planId,
                    scheduled_plan: (record.scheduledPlanId != 0).then_some(record.scheduledPlanId),
                    payer: stored.payer,
                    anchor: instant(stored.anchor.to()),
                    periods: stored.periods,
                    paid_through: instant(record.paidThrough),
                    cancel_scheduled_by: match (flag(ENDS_BY_MERCHANT), flag(ENDS_BY_PAYER)) {
                        (true, _) => Some(Party::Merchant),
                        (false, true) => Some(Party::Payer),
                        (false, false) => None,
                    },
                    ended: flag(ENDED),
                    paid: record.paid,
                    refunded: record.refunded,
                }
            })
            .collect())
    }

    /// What the transaction `hash` did; `None` where it is in no block.
    ///
    /// # Errors
    /// [`SourceError::Rpc`] where the node does not answer.
    pub async fn receipt(&self, hash: B256) -> Result<Option<Receipt>, SourceError> {
        let ask = |endpoint: Arc<Endpoint>| async move {
            endpoint.call::<_, Option<TransactionReceipt>>("eth_getTransactionReceipt", (hash,)).await
        };
        let (_, receipt) = self.read(Prefer::Current, ask).await?;
        let Some(receipt) = receipt else { return Ok(None) };
        let (Some(number), Some(block_hash)) = (receipt.block_number, receipt.block_hash) else {
            return Ok(None);
        };
        let logs = receipt.logs();
        Ok(Some(Receipt {
            block: BlockRef { number, hash: block_hash },
            to: receipt.to,
            transfers: logs.iter().filter_map(transfer).collect(),
            events: logs
                .iter()
                .filter(|log| log.address() == self.shared.source.contract)
                .map(|log| log.topics().to_vec())
                .collect(),
        }))
    }

    /// What a view of the contract answers at `at`.
    pub(super) async fn view<C: SolCall>(&self, at: BlockRef, call: &C) -> Result<C::Return, SourceError> {
        let input = TransactionInput::new(call.abi_encode().into());
        let to = Some(self.shared.source.contract.into());
        let request = &TransactionRequest { to, input, ..Default::default() };
        let ask = |endpoint: Arc<Endpoint>| async move {
            endpoint.call::<_, Bytes>("eth_call", (request, BlockId::hash(at.hash))).await
        };
        let (_, answer) = self.read(Prefer::Current, ask).await?;
        C::abi_decode_returns(&answer).map_err(|_| NOT_A_VIEW)
    }
}

/// The transfer that a log is. (One of an NFT has its number among the topics, and is none.)
fn transfer(log: &Log) -> Option<TokenTransfer> {
    let event = Transfer::decode_log(&log.inner).ok()?;
    (log.topics().len() == 3).then_some(TokenTransfer {
        token: log.address(),
        from: event.from,
        to: event.to,
        amount: event.value,
    })
}

const NOT_A_VIEW: SourceError = SourceError::Inconsistent("a view's answer is not one of this contract");
