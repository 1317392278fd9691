//! Random histories: a merchant, payers, a keeper, a chain that reorganises, nodes that fail, lag and lie, and an
//! indexer that is killed.
//!
//! A [`World`] draws everything from one seed. [`World::act`] does the next thing; [`World::check`] mends the nodes, lets
//! the indexer catch up and compares every row with the chain: `check` says what must be equal. At the end,
//! [`World::audit`] has the product's own audit say the same. (What a node does wrong, and how often, is of the seed;
//! to which request it does so is of the order in which they come.)

mod acts;
mod check;
mod mirror;
mod nodes;

use std::thread;

use alloy::{
    primitives::{Address, B256, U256},
    signers::local::PrivateKeySigner,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use url::Url;

pub use acts::Act;
pub use mirror::Mirrored;

use self::{mirror::IndexerProcess, nodes::Nodes};
use crate::{Chain, Database, Ledger, SignedTx};

/// How many blocks below the head count as final.
const DEPTH: u64 = 8;
const PAYERS: u64 = 5;
/// What everybody has and allows: enough for all that a history can cost.
const FUNDS: u64 = 100_000_000_000;

/// One history.
#[derive(Debug)]
pub struct World {
    seed: u64,
    rng: StdRng,
    chain: Chain,
    ledger: Ledger,
    database: Database,
    /// The chain's own node, which is always right.
    node: Url,
    nodes: Nodes,
    mirrored: Mirrored,
    merchant: PrivateKeySigner,
    payers: Vec<PrivateKeySigner>,
    plans: Vec<u32>,
    /// The contract's number of the first subscription that can be of this history.
    first_id: U256,
    /// What is on the chain and may still be reorganised, in the chain's order.
    sent: Vec<Sent>,
    /// The highest head that there ever was: what is final by it is final.
    highest: u64,
    indexers: Vec<IndexerProcess>,
    /// What was done, for whoever has to understand a failure.
    log: Vec<String>,
}

#[derive(Debug, Clone)]
struct Sent {
    block: u64,
    from: Address,
    tx: SignedTx,
}

impl World {
    /// The history of `seed` on `chain`, of which the indexer learns through proxies of the node at `node`. Other
    /// histories of the same chain are other merchants'.
    pub async fn new(seed: u64, chain: Chain, node: Url) -> Self {
        let database = Database::fresh().await;
        database.store().await.close().await;
        let mut rng = StdRng::seed_from_u64(seed);
        let merchant = chain.wallet(seed * 100 + 99).await;
        let mut payers = Vec::new();
        for number in 0..PAYERS {
            payers.push(chain.wallet(seed * 100 + number).await);
        }
        for wallet in payers.iter().chain([&merchant]) {
            chain.fund(wallet).await;
            chain.approve(wallet, FUNDS).await;
        }
        let start_block = chain.head().await.header.number + 1;
        let nodes = Nodes::start(&mut rng, &node).await;
        let mirrored = Mirrored {
            database_url: database.url().clone(),
            rpc_urls: nodes.urls(),
            chain_id: chain.id,
            contract: chain.contract,
            token: chain.token,
            merchant: merchant.address(),
            start_block,
            finality_depth: DEPTH,
        };
        let mut plans = Vec::new();
        for _ in 0..3 {
            plans.push(chain.create_plan(&merchant, &acts::terms(&mut rng, &chain)).await);
        }
        // What was done so far stays.
        chain.mine(DEPTH).await;
        let first_id = chain.dues().subscriptionCount().call().await.unwrap() + U256::ONE;
        let highest = chain.head().await.header.number;
        let ledger = Ledger::new(&database);
        let indexers = vec![IndexerProcess::start(&mirrored)];
        Self {
            seed,
            rng,
            chain,
            ledger,
            database,
            node,
            nodes,
            mirrored,
            merchant,
            payers,
            plans,
            first_id,
            sent: Vec::new(),
            highest,
            indexers,
            log: Vec::new(),
        }
    }

    /// Does `count` random things, and checks now and then.
    ///
    /// # Panics
    /// Where the ledger is not what the chain says; with the seed and all that was done.
    pub async fn live(&mut self, count: u32) {
        if self.rng.random_bool(0.5) {
            self.err().await;
        }
        for _ in 0..count {
            self.act().await;
            if self.rng.random_ratio(1, 12) {
                self.check().await;
            }
        }
        self.check().await;
        self.audit().await;
    }

    /// What came of it, in a line.
    pub async fn summary(&self) -> String {
        let count = async |query| self.ledger.count(query).await;
        format!(
            "seed {}: {} events, {} movements, {} more were reorganised away; nodes erred: {:?}",
            self.seed,
            count("SELECT count(*) FROM ledger.chain_events").await,
            count("SELECT count(*) FROM ledger.transactions WHERE status <> 'failed'").await,
            count("SELECT count(*) FROM ledger.transactions WHERE status = 'failed'").await,
            self.nodes.injected(),
        )
    }

    fn note(&mut self, what: impl Into<String>) {
        self.log.push(what.into());
    }

    fn key(&mut self) -> B256 {
        // Few, so that some are used again.
        B256::with_last_byte(self.rng.random_range(1..40))
    }
}

impl Drop for World {
    /// However a history fails, it says how to live it again.
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let Self { seed, log, .. } = self;
        eprintln!("\nThe history of seed {seed} failed. What was done:\n  {}", log.join("\n  "));
        for (indexer, place) in self.indexers.iter().zip(1..) {
            eprintln!(
                "\nWhat indexer {place} of {} printed last:\n{}",
                self.indexers.len(),
                indexer.printed()
            );
        }
        eprintln!(
            "\nAgain: DUES_HISTORY_SEED={seed} cargo nextest run -p dues-tests -E 'binary(histories)'\n"
        );
    }
}
