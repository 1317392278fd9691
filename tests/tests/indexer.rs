//! The indexer by itself: one leader, the right chain, no unwinding below finality.

use std::{collections::HashMap, time::Duration};

use dues_chain::source::{RpcSource, SourceError};
use dues_domain::chain::ChainSource;
use dues_indexer::{FinalityPolicy, Indexer, IndexerConfig, IndexerError, IndexerHealth, Role};
use dues_store::mirror::MirrorScope;
use dues_tests::{Chain, FINALITY_DEPTH, Options, SOON, Site, Stack, asset, eventually, synced};
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

async fn external() -> Stack {
    Site::new(Options { external_chain: true, ..Options::default() }).await.start().await
}

async fn indexer(site: &Site, chain: &Chain, chain_id: u64) -> Indexer {
    let source = ChainSource { chain_id, contract: chain.contract };
    let config = IndexerConfig {
        source,
        // As the devnet that began this ledger.
        scope: MirrorScope { merchant: chain.merchant, start_block: 1 },
        finality: FinalityPolicy::Depth(FINALITY_DEPTH),
        poll_interval: Duration::from_millis(20),
        assets: HashMap::from([(chain.token, asset())]),
    };
    let rpc = RpcSource::new(site.rpc_url(), source).unwrap();
    Indexer::new(site.database.store().await, rpc, config)
}

/// An indexer that runs beside the test.
struct Running {
    health: watch::Receiver<IndexerHealth>,
    readiness: Box<dyn Fn() -> Result<(), String>>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), IndexerError>>,
}

impl Running {
    fn start(indexer: Indexer) -> Self {
        let (health, readiness) = (indexer.health(), Box::new(indexer.readiness()));
        let stop = CancellationToken::new();
        Self { health, readiness, stop: stop.clone(), task: tokio::spawn(indexer.run(stop)) }
    }

    async fn becomes(&mut self, role: Role) {
        let waited = tokio::time::timeout(SOON, self.health.wait_for(|health| health.role == role)).await;
        waited.unwrap_or_else(|_| panic!("it does not become {role:?}")).unwrap();
    }

    fn role(&self) -> Role {
        self.health.borrow().role
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_indexer_stands_by_and_takes_over_without_writing_anything_twice() {
    let stack = external().await;
    let (account, payer) = stack.customer(1).await;
    let (plan, chain) = (stack.plan("premium-month").onchain_id, stack.chain.clone());
    let mut second = Running::start(indexer(stack.site(), &chain, chain.id).await);
    second.becomes(Role::Standby).await;
    chain.subscribe(&payer, plan, account.reference).await;
    stack.synced().await;
    assert_eq!(second.role(), Role::Standby);
    eventually(SOON, "a standby is ready: the other one keeps the ledger up to date", || async {
        (second.readiness)()
    })
    .await;

    let ledger = stack.ledger.clone();
    let site = stack.stop().await;
    chain.subscribe(&payer, plan, account.reference).await;
    synced(&chain, &ledger).await;
    second.becomes(Role::Leading).await;
    assert_eq!(ledger.transactions(payer.address()).await.len(), 2);

    // The other way round.
    let mut third = Running::start(indexer(&site, &chain, chain.id).await);
    third.becomes(Role::Standby).await;
    chain.subscribe(&payer, plan, account.reference).await;
    synced(&chain, &ledger).await;
    assert_eq!((second.role(), third.role()), (Role::Leading, Role::Standby));
    second.stop().await;
    third.becomes(Role::Leading).await;
    chain.subscribe(&payer, plan, account.reference).await;
    synced(&chain, &ledger).await;
    let rows = ledger.transactions(payer.address()).await;
    assert_eq!(rows.iter().map(|row| row.period).collect::<Vec<_>>(), [Some(1); 4]);
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_chain_stops_the_indexer_before_it_writes_anything() {
    let stack = external().await;
    let (chain, ledger) = (stack.chain.clone(), stack.ledger.clone());
    let site = stack.stop().await;
    let before = ledger.digest().await;
    let other = indexer(&site, &chain, 1).await;
    let ended = tokio::time::timeout(SOON, other.run(CancellationToken::new())).await.unwrap();
    let found = chain.id;
    let error = ended.unwrap_err();
    let IndexerError::Source(SourceError::WrongChain { expected: 1, found: node }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(node, found);
    assert_eq!(ledger.digest().await, before);
}

/// A payment that is final, and the block that it is in.
async fn settled() -> (Stack, Uuid, u64) {
    let stack = external().await;
    let (account, payer) = stack.customer(1).await;
    let plan = stack.plan("premium-month").onchain_id;
    let receipt = stack.chain.subscribe(&payer, plan, account.reference).await;
    stack.chain.mine(FINALITY_DEPTH + 3).await;
    stack.synced().await;
    (stack, account.id, receipt.block_number.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_below_finality_stops_the_indexer_and_changes_nothing() {
    let (stack, _, block) = settled().await;
    let (chain, ledger) = (stack.chain.clone(), stack.ledger.clone());
    let site = stack.stop().await;
    let before = ledger.digest().await;
    chain.reorg_from(block, &[]).await;
    let deep = indexer(&site, &chain, chain.id).await.repaired_by("dues reindex --chain somewhere");
    let deep = Running::start(deep);
    eventually(SOON, "it says what happened, and what repairs it", || async {
        match (deep.readiness)() {
            Err(why)
                if why.contains("had been final") && why.contains("`dues reindex --chain somewhere`") =>
            {
                Ok(())
            }
            state => Err(format!("{state:?}")),
        }
    })
    .await;
    let stopped_at = deep.health.borrow().checkpoint;
    chain.mine(5).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((deep.role(), deep.health.borrow().checkpoint), (Role::Starting, stopped_at));
    assert_eq!(ledger.digest().await, before);
    deep.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_down_to_the_final_block_is_followed() {
    let stack = external().await;
    let (account, payer) = stack.customer(1).await;
    let plan = stack.plan("premium-month").onchain_id;
    let receipt = stack.chain.subscribe(&payer, plan, account.reference).await;
    // The payment is the lowest block that is not final.
    stack.chain.mine(FINALITY_DEPTH - 1).await;
    stack.synced().await;
    stack.chain.reorg_from(receipt.block_number.unwrap(), &[]).await;
    stack.synced().await;
    assert_eq!(stack.api.entitlements(account.id).await["tier"], "free");
    assert_eq!(stack.ledger.transactions(payer.address()).await[0].status, "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reorganisation_below_finality_readyz_says_so_and_the_api_still_answers() {
    let (stack, account, block) = settled().await;
    let before = stack.ledger.digest().await;
    assert_eq!(stack.api.get("/readyz").await.status, 200);
    stack.chain.reorg_from(block, &[]).await;
    // While the chain is being shortened, the node is merely behind the ledger.
    let answer = eventually(SOON, "readyz says what happened", || async {
        let answer = stack.api.get("/readyz").await;
        match answer.body["parts"]["indexer"].as_str() {
            Some(reason) if answer.status == 503 && reason.contains("had been final") => Ok(answer),
            _ => Err(format!("{answer:?}")),
        }
    })
    .await;
    assert_eq!(
        (&answer.body["status"], &answer.body["parts"]["database"]),
        (&"not_ready".into(), &"ok".into())
    );
    assert_eq!(stack.api.get("/healthz").await.status, 200);
    assert_eq!(stack.api.entitlements(account).await["tier"], "premium");
    assert_eq!(stack.api.transactions(account).await[0]["status"], "completed");
    assert_eq!(stack.api.post("/v1/accounts", &json!({ "external_id": "new" })).await.status, 201);
    let mut after = stack.ledger.digest().await;
    after.insert("accounts".into(), before["accounts"].clone());
    assert_eq!(after, before);
}
