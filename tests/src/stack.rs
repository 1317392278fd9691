//! A whole Dues, and the place that it can be started in again.

use std::{collections::BTreeMap, path::PathBuf};

use alloy::{primitives::Address, signers::local::PrivateKeySigner};
use chrono::TimeDelta;
use dues_api::clock::{Clock as _, SystemClock};
use dues_chain::contract::IDues;
use dues_devnet::{Devnet, DevnetOptions, Ports};
use dues_domain::{
    calendar::{Interval, IntervalUnit},
    catalogue::{PlanOffer, Tier},
    chain::ChainSource,
    money::{Asset, BaseUnits, Money},
};
use dues_embedded::{Anvil, AnvilOptions, tools};
use dues_store::ChainPlanMapping;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    runtime::Handle,
    task::{JoinHandle, block_in_place},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use crate::{
    Account, Api, Chain, Database, Ledger, SOON, catalogue, database::scratch_dir, eventually, relay_limits,
};

/// How many blocks below the head count as final.
pub const FINALITY_DEPTH: u64 = 12;
/// Grace of the catalogue's plans: a week.
pub const GRACE_SECONDS: u32 = 604_800;
const CHAIN_ID: u64 = 31_337;

/// How a [`Site`] is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether the chain is an anvil of the test's, which lives on while the devnet is stopped.
    pub external_chain: bool,
    /// By how many days such a chain's clock begins behind the machine's. It goes on from there.
    pub days_behind: u64,
}

/// What outlives a start: data directory, database, and chain where it is the test's.
#[derive(Debug)]
pub struct Site {
    // In the order in which they have to go.
    anvil: Option<Anvil>,
    chain_id: u64,
    /// The database.
    pub database: Database,
    dir: TempDir,
}

/// A running Dues. Its tests need tokio's multi-threaded runtime.
#[derive(Debug)]
pub struct Stack {
    /// The API, with the devnet's key.
    pub api: Api,
    /// The chain.
    pub chain: Chain,
    /// The database.
    pub ledger: Ledger,
    /// `devnet.json`.
    pub manifest: Value,
    // The devnet before what it stands on.
    running: Running,
    site: Site,
}

/// The devnet's task. A test that ends, well or not, waits for the devnet's own end: nothing of it is left.
#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    task: Option<JoinHandle<Result<(), String>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // A test that fails has said why already.
            let _ = block_in_place(|| Handle::current().block_on(timeout(SOON, task)));
        }
    }
}

/// A plan of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The contract's id.
    pub onchain_id: u32,
    /// Base units.
    pub price: u64,
}

/// What prices are in.
#[must_use]
pub fn asset() -> Asset {
    Asset { code: "USDC".into(), exponent: 6 }
}

impl Site {
    /// A place where nothing was started yet.
    pub async fn new(options: Options) -> Self {
        if options.external_chain {
            return Self::on(CHAIN_ID, options.days_behind).await;
        }
        Self { anvil: None, chain_id: CHAIN_ID, database: Database::fresh().await, dir: scratch_dir() }
    }

    /// A place with a chain of the test's own, of another number than all others have.
    pub async fn on_chain(chain_id: u64) -> Self {
        Self::on(chain_id, 0).await
    }

    async fn on(chain_id: u64, days_behind: u64) -> Self {
        let dir = scratch_dir();
        let mut anvil = AnvilOptions::new(tools::anvil().unwrap(), chain_id, dir.path().join("chain"));
        if days_behind > 0 {
            let genesis = SystemClock.now() - TimeDelta::days(days_behind.try_into().unwrap());
            anvil.extra_args = vec!["--timestamp".into(), genesis.timestamp().to_string().into()];
        }
        let anvil = Some(Anvil::start(anvil).await.unwrap());
        Self { anvil, chain_id, database: Database::fresh().await, dir }
    }

    /// The devnet's data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("devnet")
    }

    /// Where the test's own chain is.
    #[must_use]
    pub fn rpc_url(&self) -> Url {
        self.anvil.as_ref().unwrap().rpc_url().parse().unwrap()
    }

    /// Ends the test's own chain.
    pub fn stop_chain(&mut self) {
        drop(self.anvil.take().unwrap());
    }

    /// Brings the devnet up.
    pub async fn start(self) -> Stack {
        let devnet = DevnetOptions {
            data_dir: self.data_dir(),
            reset: false,
            catalogue: catalogue(),
            asset: asset(),
            sale: BTreeMap::new(),
            rpc_url: self.anvil.as_ref().map(|anvil| anvil.rpc_url().parse().unwrap()),
            database_url: Some(self.database.url().clone()),
            ports: Ports::default(),
            // No blocks by the clock.
            block_time: 0,
            month_in: None,
            finality_depth: FINALITY_DEPTH,
            // Tests charge by themselves, or have a keeper of their own.
            keeper: None,
            relay: Some(relay_limits()),
        };
        let devnet = Devnet::up(devnet).await.unwrap_or_else(|error| panic!("no devnet: {error:#}"));
        let manifest = std::fs::read_to_string(self.data_dir().join("devnet.json")).unwrap();
        let manifest: Value = serde_json::from_str(&manifest).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { devnet.run(stop).await.map_err(|error| format!("{error:#}")) }
        });
        let running = Running { stop, task: Some(task) };
        let text = |key: &str| manifest[key].as_str().unwrap().to_owned();
        let address = |key: &str| text(key).parse::<Address>().unwrap();
        let (contract, token, merchant) = (address("contract"), address("token"), address("merchant"));
        let chain = Chain::new(&text("rpc_url"), self.chain_id, contract, token, merchant);
        chain.automine(true).await;
        let api = Api::new(&text("api_url"), &text("api_key"));
        let ledger = Ledger::new(&self.database);
        Stack { api, chain, ledger, manifest, running, site: self }
    }
}

impl Stack {
    /// A devnet in a place of its own.
    pub async fn start() -> Self {
        Site::new(Options::default()).await.start().await
    }

    /// Stops it in order.
    pub async fn stop(mut self) -> Site {
        self.running.stop.cancel();
        self.running.task.take().unwrap().await.unwrap().unwrap();
        self.site
    }

    /// The place that it runs in.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Which contract on which chain.
    #[must_use]
    pub fn source(&self) -> ChainSource {
        ChainSource { chain_id: self.chain.id, contract: self.chain.contract }
    }

    /// A plan of the catalogue by its key.
    #[must_use]
    pub fn plan(&self, key: &str) -> Plan {
        let plans = self.manifest["plans"].as_array().unwrap();
        let plan = plans.iter().find(|plan| plan["id"] == key).unwrap();
        Plan {
            onchain_id: plan["onchain_id"].as_u64().unwrap().try_into().unwrap(),
            price: plan["price_base_units"].as_str().unwrap().parse().unwrap(),
        }
    }

    /// Has the merchant sell `tier` under `key` by an on-chain plan of `terms`, beside the catalogue's, and gives its
    /// number.
    pub async fn sell(&self, key: &str, tier: Tier, terms: IDues::PlanTerms) -> u32 {
        let unit = if terms.unit == 0 { IntervalUnit::Day } else { IntervalUnit::Month };
        let offer = PlanOffer {
            key: key.parse().unwrap(),
            tier,
            price: Money { amount: BaseUnits::new(terms.price.to()), asset: asset() },
            interval: Interval { unit, count: terms.count },
        };
        let store = self.site.database.store().await;
        let stored = store.sync_plans([&offer], self.source()).await.unwrap().remove(0);
        let onchain_plan_id = self.chain.create_plan(&self.chain.merchant_wallet(), &terms).await;
        let mapping = ChainPlanMapping { plan: stored.id, onchain_plan_id, token: self.chain.token };
        store.map_plan(self.source(), mapping).await.unwrap();
        store.close().await;
        onchain_plan_id
    }

    /// The wallet and the account of a demo user, by its place in `devnet.json`.
    #[must_use]
    pub fn demo(&self, index: usize) -> (PrivateKeySigner, Uuid) {
        let wallet = &self.manifest["wallets"][index];
        let text = |key: &str| wallet[key].as_str().unwrap();
        (text("private_key").parse().unwrap(), text("account_id").parse().unwrap())
    }

    /// An account of the platform and a wallet that can pay for it, but is not linked to it.
    pub async fn customer(&self, number: u64) -> (Account, PrivateKeySigner) {
        let account = self.api.account(&format!("customer-{number}")).await;
        (account, self.chain.payer(number).await)
    }

    /// Waits until the account has `tier`, and gives the whole answer.
    pub async fn tier_becomes(&self, account: Uuid, tier: &str) -> Value {
        eventually(SOON, &format!("{account} is {tier}"), || async {
            let answer = self.api.entitlements(account).await;
            if answer["tier"] == tier { Ok(answer) } else { Err(answer.to_string()) }
        })
        .await
    }

    /// Waits until the ledger holds everything up to the chain's head.
    pub async fn synced(&self) {
        synced(&self.chain, &self.ledger).await;
    }
}

/// Waits until `ledger` holds everything up to the head of `chain`.
pub async fn synced(chain: &Chain, ledger: &Ledger) {
    eventually(SOON, "the ledger holds everything up to the head", || async {
        let (head, checkpoint) = (chain.head().await.header.hash, ledger.checkpoint().await);
        if checkpoint == Some(head) { Ok(()) } else { Err(format!("{checkpoint:?}, not {head}")) }
    })
    .await;
}
