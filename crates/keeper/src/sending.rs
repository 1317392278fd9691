//! What is signed and sent.

use alloy::{
    consensus::{Transaction as _, TxEip1559, TxEnvelope},
    eips::{eip2718::Decodable2718 as _, eip2930::AccessList},
    primitives::{Bytes, TxKind, U256},
    sol_types::SolCall as _,
};
use dues_chain::source::{Sent, batch_call};
use dues_domain::{
    chain::{BlockHeader, OnchainSubscriptionId},
    ids::RelayIntentId,
};
use dues_store::{StoreError, keeper::NewKeeperTransaction};

use crate::{Keeper, KeeperError, fees::Fees};

/// What a transaction is for.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    /// The subscriptions that it charges.
    pub(crate) onchain_ids: Vec<OnchainSubscriptionId>,
    /// Or the intent that it carries.
    pub(crate) relay: Option<RelayIntentId>,
    /// What the contract is called with.
    pub(crate) call: Bytes,
}

impl Work {
    /// Charges in one batch.
    pub(crate) fn charges(onchain_ids: Vec<OnchainSubscriptionId>) -> Self {
        let call = batch_call(&onchain_ids).abi_encode().into();
        Self { onchain_ids, relay: None, call }
    }

    /// What a recorded transaction is for.
    pub(crate) fn of(transaction: &NewKeeperTransaction) -> Result<Self, KeeperError> {
        let envelope = TxEnvelope::decode_2718_exact(&transaction.raw)
            .map_err(|_| StoreError::Inconsistent("what is recorded as a transaction is none"))?;
        Ok(Self {
            onchain_ids: transaction.onchain_ids.clone(),
            relay: transaction.relay,
            call: envelope.input().clone(),
        })
    }
}

impl Keeper {
    pub(crate) fn sign(
        &self,
        nonce: u64,
        replacement: u32,
        work: Work,
        gas_limit: u64,
        fees: Fees,
        head: &BlockHeader,
    ) -> Result<NewKeeperTransaction, KeeperError> {
        let Fees { max_fee, priority_fee } = fees;
        let Work { onchain_ids, relay, call } = work;
        let (hash, raw) = self.signer.sign(TxEip1559 {
            chain_id: self.config.source.chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas: max_fee.into(),
            max_priority_fee_per_gas: priority_fee.into(),
            to: TxKind::Call(self.config.source.contract),
            value: U256::ZERO,
            access_list: AccessList::default(),
            input: call,
        })?;
        let head_number = head.block.number;
        Ok(NewKeeperTransaction {
            hash,
            nonce,
            replacement,
            raw,
            onchain_ids,
            relay,
            gas_limit,
            max_fee,
            priority_fee,
            head_number,
        })
    }

    /// Sends what is recorded. A node that does not take it is asked again in the next round.
    pub(crate) async fn send(&self, transaction: &NewKeeperTransaction) -> Result<(), KeeperError> {
        if let Sent::Refused(reason) = self.rpc.send(&transaction.raw).await? {
            tracing::warn!(hash = %transaction.hash, reason, "the node does not take a transaction for now");
        }
        Ok(())
    }
}
