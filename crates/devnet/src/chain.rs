//! The devnet's chain: contract, token, plans, and transactions of the demo.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use alloy::{
    eips::BlockNumberOrTag,
    network::{EthereumWallet, TransactionBuilder},
    primitives::{Address, Bytes, TxHash, U256},
    providers::{DynProvider, Provider, ProviderBuilder},
    rpc::types::TransactionRequest,
    signers::local::PrivateKeySigner,
    sol_types::SolCall as _,
};
use anyhow::{Context as _, ensure};
use dues_api::clock::{Clock, SystemClock};
use dues_chain::{
    contract::Dues,
    deploy::{CREATE2_DEPLOYER, SALT, contract_address, create2_calldata},
    source::{Endpoints, RpcSource},
};
use dues_domain::{catalogue::PlanOffer, chain::ChainSource, ids::PlanKey};
use dues_keeper::plans::{SaleTerms, Standing, plan_terms, plans_of, survey};
use dues_store::{ChainPlanMapping, Store, StoredPlan};
use futures::future::try_join_all;
use serde::de::DeserializeOwned;
use url::Url;

use crate::{
    clock::TimePace,
    demo::{DEMO_ACCOUNTS, OPERATOR_KEY},
};

#[expect(clippy::too_many_arguments, reason = "generated from the token's artifact")]
mod bindings {
    alloy::sol!(
        #[sol(rpc)]
        #[derive(Debug)]
        DevUSD,
        "abi/DevUSD.json"
    );
}
pub(crate) use bindings::DevUSD;

const RECEIPT_POLL: Duration = Duration::from_millis(25);
const RECEIPT_WITHIN: Duration = Duration::from_secs(60);

/// What is on the chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contracts {
    pub(crate) source: ChainSource,
    pub(crate) token: Address,
    pub(crate) merchant: Address,
}

/// A plan of the catalogue with its number on the chain.
#[derive(Debug, Clone)]
pub(crate) struct SoldPlan {
    pub(crate) offer: PlanOffer,
    pub(crate) onchain_id: u32,
}

/// The chain, with the keys of the operator and of the demo's wallets.
#[derive(Debug, Clone)]
pub(crate) struct DevChain {
    provider: DynProvider,
    rpc_url: Url,
    operator: Address,
    /// Whether blocks come only when they are asked for, until [`go_live`](Self::go_live).
    ours: bool,
}

/// The first 16 bytes of block 1's hash in hexadecimal: names this very chain. Where there is no block 1 yet, the
/// node is asked to mine it.
///
/// Not block 0: an anvil that loads a saved chain makes a new one, and may serve either.
pub(crate) async fn name(rpc_url: Url) -> anyhow::Result<String> {
    let provider = ProviderBuilder::new().disable_recommended_fillers().connect_http(rpc_url);
    if provider.get_block_number().await.context("the chain does not answer")? == 0 {
        let _: serde_json::Value = provider
            .raw_request("evm_mine".into(), ())
            .await
            .context("the chain has no blocks, and mines none")?;
    }
    let block = provider.get_block_by_number(1.into()).await?.context("the chain has no first block")?;
    Ok(block.header.hash.to_string().trim_start_matches("0x").chars().take(32).collect())
}

impl DevChain {
    pub(crate) fn connect(rpc_url: Url, ours: bool) -> anyhow::Result<Self> {
        let operator: PrivateKeySigner = OPERATOR_KEY.parse()?;
        let address = operator.address();
        let mut wallet = EthereumWallet::from(operator);
        for demo in DEMO_ACCOUNTS {
            wallet.register_signer(demo.private_key.parse::<PrivateKeySigner>()?);
        }
        let provider = ProviderBuilder::new()
            .with_cached_nonce_management()
            .wallet(wallet)
            .connect_http(rpc_url.clone())
            .erased();
        provider.client().set_poll_interval(RECEIPT_POLL);
        Ok(Self { provider, rpc_url, operator: address, ours })
    }

    /// Puts the contract and the test token where they belong, unless they are there.
    pub(crate) async fn deploy(&self) -> anyhow::Result<Contracts> {
        let token_code = &DevUSD::BYTECODE;
        let (dues, token) = (contract_address(), CREATE2_DEPLOYER.create2_from_code(SALT, token_code));
        let mut sent = Vec::new();
        for (address, code) in [(dues, &Dues::BYTECODE), (token, token_code)] {
            if self.provider.get_code_at(address).await?.is_empty() {
                sent.push(self.send(self.operator, CREATE2_DEPLOYER, create2_calldata(code)).await?);
            }
        }
        self.confirm(sent).await?;
        for address in [dues, token] {
            ensure!(
                !self.provider.get_code_at(address).await?.is_empty(),
                "there is no contract at {address}"
            );
        }
        let chain_id = self.provider.get_chain_id().await?;
        Ok(Contracts { source: ChainSource { chain_id, contract: dues }, token, merchant: self.operator })
    }

    /// Creates the plans that are not on the chain yet, as `dues plans sync` would, and records which on-chain plan
    /// sells which.
    pub(crate) async fn create_plans(
        &self,
        store: &Store,
        contracts: Contracts,
        mut stored: Vec<StoredPlan>,
        sale: &BTreeMap<PlanKey, SaleTerms>,
    ) -> anyhow::Result<Vec<SoldPlan>> {
        let Contracts { source, token, merchant } = contracts;
        stored.sort_by_key(|plan| (plan.offer.tier, plan.offer.price.amount));
        let versions: HashMap<_, _> = stored.iter().map(|plan| (plan.offer.key.clone(), plan.id)).collect();
        let wanted = stored.into_iter().map(|plan| {
            let offer = plan.offer.clone();
            let sale = sale.get(&offer.key).copied();
            let sale = sale.unwrap_or_else(|| SaleTerms::usual(offer.interval));
            let terms = plan_terms(&offer, sale, token, merchant)
                .with_context(|| format!("{} cannot be sold on chain", offer.key))?;
            anyhow::Ok((offer, terms, Some(plan)))
        });
        let wanted = wanted.collect::<Result<_, _>>()?;
        let rpc = RpcSource::new(self.rpc_url.as_str().parse::<Endpoints>()?, source)?;
        let onchain = plans_of(&rpc, rpc.head(0).await?.block, merchant).await?;
        let surveyed = survey(wanted, &store.mapped_plans(source).await?, &onchain);
        let mut sent = Vec::new();
        for plan in surveyed {
            let created = match plan.standing {
                Standing::Missing => {
                    let call = Dues::createPlanCall { terms: plan.terms }.abi_encode().into();
                    Err(self.send(self.operator, source.contract, call).await?)
                }
                Standing::Sold { id, .. } | Standing::Gone { id } | Standing::Unmapped { id } => Ok(id),
            };
            sent.push((plan.offer, created));
        }
        self.mine().await?;
        let mut sold = Vec::new();
        for (offer, created) in sent {
            let onchain_id = match created {
                Ok(id) => id,
                Err(tx) => {
                    let created = self.receipt(tx).await?.decoded_log::<Dues::PlanCreated>();
                    created.with_context(|| format!("plan {} was not created", offer.key))?.planId
                }
            };
            let plan = *versions.get(&offer.key).context("a plan has no version")?;
            store.map_plan(source, ChainPlanMapping { plan, onchain_plan_id: onchain_id, token }).await?;
            sold.push(SoldPlan { offer, onchain_id });
        }
        Ok(sold)
    }

    /// Balance of the test token.
    pub(crate) async fn balance(&self, contracts: Contracts, of: Address) -> anyhow::Result<U256> {
        Ok(DevUSD::new(contracts.token, &self.provider).balanceOf(of).call().await?)
    }

    /// How many transactions `from` has sent.
    pub(crate) async fn nonce(&self, from: Address) -> anyhow::Result<u64> {
        Ok(self.provider.get_transaction_count(from).await?)
    }

    /// The newest subscription of `payer`.
    pub(crate) async fn subscription_of(
        &self,
        contracts: Contracts,
        payer: Address,
    ) -> anyhow::Result<Option<U256>> {
        let dues = Dues::new(contracts.source.contract, &self.provider);
        let count = dues.subscriptionCount().call().await?;
        let all = dues.subscriptions(U256::ONE, count).call().await?;
        let newest = all.iter().rposition(|record| record.subscription.payer == payer);
        Ok(newest.map(|index| U256::from(index).saturating_add(U256::ONE)))
    }

    /// Gives `to` ten ether for gas, where the chain is our own; says whether it did.
    pub(crate) async fn give_ether(&self, to: Address) -> anyhow::Result<bool> {
        if self.ours {
            let ten = U256::from(10_000_000_000_000_000_000_u64);
            let _: serde_json::Value = self.call("anvil_setBalance", (to, ten)).await?;
        }
        Ok(self.ours)
    }

    /// Sends a transaction; [`confirm`](Self::confirm) waits for it.
    pub(crate) async fn send(&self, from: Address, to: Address, input: Bytes) -> anyhow::Result<TxHash> {
        let request = TransactionRequest::default().with_from(from).with_to(to).with_input(input);
        Ok(*self.provider.send_transaction(request).await?.tx_hash())
    }

    /// Waits until every one of `sent` is in a block and has succeeded.
    pub(crate) async fn confirm(&self, sent: Vec<TxHash>) -> anyhow::Result<()> {
        if sent.is_empty() {
            return Ok(());
        }
        self.mine().await?;
        try_join_all(sent.into_iter().map(|tx| self.receipt(tx))).await?;
        Ok(())
    }

    /// Has the next block at `timestamp`, where the chain's clock is ours.
    pub(crate) async fn set_next_time(&self, timestamp: i64) -> anyhow::Result<()> {
        if self.ours {
            let _: serde_json::Value = self.call("evm_setNextBlockTimestamp", (timestamp,)).await?;
        }
        Ok(())
    }

    /// Lets the chain's time go on from its head. An anvil that has loaded a saved chain would go on from its own genesis.
    pub(crate) async fn take_up_time(&self) -> anyhow::Result<()> {
        if self.ours {
            let after_head = self.head_time().await?.saturating_add(1);
            let _: serde_json::Value = self.call("evm_setTime", (after_head,)).await?;
        }
        Ok(())
    }

    async fn head_time(&self) -> anyhow::Result<u64> {
        let head = self.provider.get_block_by_number(BlockNumberOrTag::Latest).await?;
        Ok(head.context("the chain has no head")?.header.timestamp)
    }

    /// Lets blocks come by themselves, and the chain's time pass as `pace` says. It begins with the machine's, or with the
    /// head's where that is ahead of it: a chain cannot go back.
    pub(crate) async fn go_live(&self, pace: TimePace) -> anyhow::Result<()> {
        if self.ours {
            let after_head = self.head_time().await?.saturating_add(1);
            let now = u64::try_from(SystemClock.now().timestamp())?.max(after_head);
            let _: serde_json::Value = self.call("evm_setTime", (now,)).await?;
            let _: serde_json::Value = self.call("evm_mine", ()).await?;
            if let Some(seconds) = pace.chain_seconds {
                let _: serde_json::Value = self.call("anvil_setBlockTimestampInterval", (seconds,)).await?;
            }
            let _: serde_json::Value = self.call("evm_setIntervalMining", (pace.block_time,)).await?;
        }
        Ok(())
    }

    async fn mine(&self) -> anyhow::Result<()> {
        if self.ours {
            let _: serde_json::Value = self.call("evm_mine", ()).await?;
        }
        Ok(())
    }

    async fn call<P, R>(&self, method: &'static str, params: P) -> anyhow::Result<R>
    where
        P: alloy::rpc::json_rpc::RpcSend,
        R: DeserializeOwned + std::fmt::Debug + Send + Sync + Unpin + 'static,
    {
        self.provider.raw_request(method.into(), params).await.with_context(|| format!("{method} failed"))
    }

    async fn receipt(&self, tx: TxHash) -> anyhow::Result<alloy::rpc::types::TransactionReceipt> {
        let wait = async {
            loop {
                if let Some(receipt) = self.provider.get_transaction_receipt(tx).await? {
                    return anyhow::Ok(receipt);
                }
                tokio::time::sleep(RECEIPT_POLL).await;
            }
        };
        let receipt = tokio::time::timeout(RECEIPT_WITHIN, wait)
            .await
            .with_context(|| format!("transaction {tx} is in no block after {RECEIPT_WITHIN:?}"))??;
        ensure!(receipt.status(), "transaction {tx} was reverted");
        Ok(receipt)
    }
}
