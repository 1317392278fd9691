//! A keeper of the test's own, tokens that it has trouble with, and subscriptions that fall due.

use std::{collections::HashSet, time::Duration};

use alloy::{
    primitives::{Address, U256},
    signers::local::PrivateKeySigner,
    sol_types::{SolCall, SolConstructor as _},
};
use chrono::{DateTime, TimeDelta, Utc};
use dues_api::clock::{Clock as _, SystemClock};
use dues_chain::{contract::Dues, source::RpcSource};
use dues_domain::{dunning::RetrySchedule, relay::RelayLimits};
use dues_keeper::{
    BatchLimits, FeeLimits, Keeper, KeeperConfig, KeeperError, KeeperLimits, KeeperSigner, Plan, Round,
};
use dues_store::Store;
use serde_json::json;
use sqlx::Row as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{Chain, SOON, Stack, event, eventually};

#[expect(missing_docs, clippy::too_many_arguments, reason = "generated from the tokens' artifacts")]
mod bindings {
    alloy::sol!(
        #[sol(rpc)]
        #[derive(Debug)]
        MoodyToken,
        "abi/MoodyToken.json"
    );
    alloy::sol!(
        #[sol(rpc)]
        #[derive(Debug)]
        BlocklistToken,
        "abi/BlocklistToken.json"
    );
}
pub use bindings::{BlocklistToken, MoodyToken};

const GWEI: u64 = 1_000_000_000;

/// A keeper that runs until it is stopped, or dropped.
#[derive(Debug)]
pub struct RunningKeeper {
    stop: CancellationToken,
    task: Option<JoinHandle<Result<(), KeeperError>>>,
}

/// A row of `ledger.keeper_transactions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeeperRow {
    /// The signer's count.
    pub nonce: i64,
    /// The how-manyth of its nonce.
    pub replacement: i32,
    /// Where it stands.
    pub status: String,
    /// What it charges.
    pub onchain_ids: Vec<i64>,
    /// Whether it was carried out.
    pub succeeded: Option<bool>,
    /// Wei per unit of gas, at most.
    pub max_fee: i64,
}

impl RunningKeeper {
    /// Starts one.
    #[must_use]
    pub fn start(keeper: Keeper) -> Self {
        let stop = CancellationToken::new();
        let task = Some(tokio::spawn(keeper.run(stop.clone())));
        Self { stop, task }
    }

    /// Stops it in order.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap().unwrap();
    }

    /// Stops it wherever it is.
    pub async fn kill(mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
    }
}

impl Drop for RunningKeeper {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What the tests' keepers do, and that they look often.
#[must_use]
pub fn keeper_config(stack: &Stack) -> KeeperConfig {
    KeeperConfig {
        source: stack.source(),
        merchant: stack.chain.merchant,
        token: stack.chain.token,
        poll_interval: Duration::from_millis(20),
        limits: keeper_limits(),
        relay: Some(relay_limits()),
    }
}

/// Those of the default configuration, but that an account may have fewer.
#[must_use]
pub fn relay_limits() -> RelayLimits {
    RelayLimits {
        per_account_per_day: 6,
        gas_budget_per_day: 20_000_000,
        max_gas_per_intent: 500_000,
        longest_wait: TimeDelta::hours(1),
    }
}

/// Those of the default configuration, but that a transaction is stuck sooner.
#[must_use]
pub fn keeper_limits() -> KeeperLimits {
    KeeperLimits {
        batches: BatchLimits {
            items: 50,
            gas_per_transaction: 15_000_000,
            gas_per_block: 20_000_000,
            in_flight: 8,
        },
        fees: FeeLimits { max_fee: 100 * GWEI, max_priority_fee: 2 * GWEI },
        stuck_after_blocks: 3,
        retry: RetrySchedule { first: TimeDelta::hours(1), longest: TimeDelta::days(1), jitter_percent: 20 },
        low_balance_charges: 100,
        runway_interval: TimeDelta::days(1),
    }
}

impl Stack {
    /// A signer with something for gas.
    pub async fn keeper_signer(&self, number: u64) -> KeeperSigner {
        let wallet = self.chain.wallet(number).await;
        signer(&wallet)
    }

    /// A keeper of the tests' own, that asks the node at `url`.
    pub async fn keeper_at(&self, url: Url, config: KeeperConfig, signer: &KeeperSigner) -> Keeper {
        let rpc = RpcSource::new(url, config.source).unwrap();
        Keeper::new(self.store().await, rpc, config, signer.clone())
    }

    /// The same, that asks the chain itself.
    pub async fn keeper(&self, config: KeeperConfig, signer: &KeeperSigner) -> Keeper {
        self.keeper_at(self.node(), config, signer).await
    }

    /// Does what `dues keeper --once` does.
    pub async fn keep_once(&self, config: KeeperConfig, signer: &KeeperSigner) -> (Round, usize) {
        self.keeper(config, signer).await.once(CancellationToken::new()).await.unwrap()
    }

    /// What a keeper would do.
    pub async fn keeper_plan(&self) -> Plan {
        let config = keeper_config(self);
        let rpc = RpcSource::new(self.node(), config.source).unwrap();
        dues_keeper::plan(&self.store().await, &rpc, &config).await.unwrap()
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> Url {
        self.manifest["rpc_url"].as_str().unwrap().parse().unwrap()
    }

    /// The ledger.
    pub async fn store(&self) -> Store {
        Store::connect(self.site().database.url(), 4).await.unwrap()
    }

    /// Subscriptions of the payers `numbers` to `plan`, each with its payer.
    pub async fn subscribers(
        &self,
        plan: u32,
        numbers: impl IntoIterator<Item = u64>,
    ) -> Vec<(PrivateKeySigner, U256)> {
        let mut all = Vec::new();
        for number in numbers {
            let (account, payer) = self.customer(number).await;
            let receipt = self.chain.subscribe(&payer, plan, account.reference).await;
            all.push((payer, event::<Dues::Charged>(&receipt).id));
        }
        all
    }

    /// Lets the chain's clock reach the end of what the last of `ids` has paid, and the ledger know.
    pub async fn fall_due(&self, ids: &[U256]) -> DateTime<Utc> {
        let mut due = 0;
        for id in ids {
            due = due.max(self.chain.dues().paidThrough(*id).call().await.unwrap());
        }
        let due = i64::try_from(due).unwrap();
        self.at(DateTime::from_timestamp(due, 0).unwrap()).await
    }

    /// Lets the chain's clock reach `at`, and the ledger know.
    pub async fn at(&self, at: DateTime<Utc>) -> DateTime<Utc> {
        self.chain.next_block_at(at.timestamp()).await;
        self.chain.mine(1).await;
        self.synced().await;
        at
    }

    /// Waits until the ledger has `count` charges of a payer.
    pub async fn charges_become(&self, payer: Address, count: usize) {
        eventually(SOON, &format!("{payer} has paid {count} periods"), || async {
            let rows = self.ledger.transactions(payer).await;
            let paid = rows.iter().filter(|row| row.status != "failed").count();
            if paid == count { Ok(()) } else { Err(format!("{paid} are paid")) }
        })
        .await;
    }

    /// What keepers have signed, by nonce.
    pub async fn keeper_rows(&self) -> Vec<KeeperRow> {
        sqlx::query(
            "SELECT nonce, replacement, status, onchain_ids, succeeded, max_fee
             FROM ledger.keeper_transactions ORDER BY signer, nonce, replacement",
        )
        .fetch_all(self.ledger.pool())
        .await
        .unwrap()
        .iter()
        .map(|row| KeeperRow {
            nonce: row.get("nonce"),
            replacement: row.get("replacement"),
            status: row.get("status"),
            onchain_ids: row.get("onchain_ids"),
            succeeded: row.get("succeeded"),
            max_fee: row.get("max_fee"),
        })
        .collect()
    }

    /// Waits until what keepers have signed is as `wanted` says.
    pub async fn keeper_rows_become(
        &self,
        what: &str,
        wanted: impl Fn(&[KeeperRow]) -> bool,
    ) -> Vec<KeeperRow> {
        eventually(SOON, what, || async {
            let rows = self.keeper_rows().await;
            if wanted(&rows) { Ok(rows) } else { Err(format!("{rows:?}")) }
        })
        .await
    }

    /// Checks that no payment was made twice: each payer of `payers` has paid `count` periods, and the chain says so, too.
    pub async fn each_has_paid(&self, payers: &[(PrivateKeySigner, U256)], count: u16) {
        let distinct: HashSet<_> = payers.iter().map(|(_, id)| id).collect();
        assert_eq!(distinct.len(), payers.len());
        for (payer, id) in payers {
            self.charges_become(payer.address(), count.into()).await;
            assert_eq!(self.chain.dues().subscription(*id).call().await.unwrap().periods, count);
        }
    }
}

impl Chain {
    /// Has the next blocks cost at least so much.
    pub async fn base_fee(&self, wei: u64) {
        self.rpc("anvil_setNextBlockBaseFeePerGas", json!([format!("{wei:#x}")])).await;
    }

    /// Gives an account so much for gas.
    pub async fn set_ether(&self, of: Address, wei: u128) {
        self.rpc("anvil_setBalance", json!([of, format!("{wei:#x}")])).await;
    }

    /// How many transactions wait for a block.
    pub async fn pending(&self) -> u64 {
        let status = self.rpc("txpool_status", json!([])).await;
        u64::from_str_radix(status["pending"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    }

    /// Waits until `count` transactions wait for a block.
    pub async fn pending_becomes(&self, count: u64) {
        eventually(SOON, &format!("{count} transactions wait for a block"), || async {
            let pending = self.pending().await;
            if pending == count { Ok(()) } else { Err(format!("{pending} do")) }
        })
        .await;
    }

    /// A token that misbehaves on command.
    pub async fn moody_token(&self) -> Address {
        let arguments = MoodyToken::constructorCall { dues: self.contract }.abi_encode();
        self.create([MoodyToken::BYTECODE.to_vec(), arguments].concat()).await
    }

    /// A token that blocks accounts on command.
    pub async fn blocklist_token(&self) -> Address {
        self.create(BlocklistToken::BYTECODE.to_vec()).await
    }

    /// Funds `payer` with another token than the test dollar, and lets Dues take it.
    pub async fn fund_with(&self, payer: &PrivateKeySigner, token: Address) {
        use crate::Token::{approveCall, mintCall};
        let (to, value) = (payer.address(), U256::from(100_000_000_000_u64));
        self.execute(payer, token, &mintCall { to, amount: value }).await;
        self.execute(payer, token, &approveCall { spender: self.contract, value }).await;
    }

    /// Calls anything as the merchant, outside of the order of transactions that wait.
    pub async fn as_merchant(&self, to: Address, call: &impl SolCall) {
        self.execute(&self.merchant_wallet(), to, call).await;
    }
}

/// The keeper's signer that a wallet is.
#[must_use]
pub fn signer(wallet: &PrivateKeySigner) -> KeeperSigner {
    KeeperSigner::from_private_key(&wallet.to_bytes().to_string().into()).unwrap()
}

/// The machine's time, which is the API's.
#[must_use]
pub fn now() -> DateTime<Utc> {
    SystemClock.now()
}
