//! What nodes do wrong, between the indexer and a chain that does nothing wrong: nothing may be lost or invented.

use std::{collections::HashMap, time::Duration};

use dues_chain::{
    contract::Dues,
    source::{Endpoints, RpcSource, SourceError},
};
use dues_indexer::{FinalityPolicy, Indexer, IndexerConfig, IndexerError};
use dues_store::mirror::MirrorScope;
use dues_tests::{
    Database, FINALITY_DEPTH, Fault, FaultProxy, Faults, Ledger, Options, SOON, Site, Stack, asset, event,
    eventually,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use url::Url;

/// Soon enough where an indexer has to be patient in between.
const PATIENTLY: Duration = Duration::from_secs(90);
const OFTEN: Duration = Duration::from_millis(20);
/// So seldom that no test sees it.
const NEVER: Duration = Duration::from_secs(3_600);

/// A ledger of its own, written by an indexer that reads through something.
struct Mirror {
    database: Database,
    ledger: Ledger,
    readiness: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), IndexerError>>,
}

impl Mirror {
    async fn start(stack: &Stack, endpoints: impl Into<Endpoints>, poll_interval: Duration) -> Self {
        let database = Database::fresh().await;
        let source = stack.source();
        let config = IndexerConfig {
            source,
            scope: MirrorScope { merchant: stack.chain.merchant, start_block: 1 },
            finality: FinalityPolicy::Depth(FINALITY_DEPTH),
            poll_interval,
            assets: HashMap::from([(stack.chain.token, asset())]),
        };
        let rpc = RpcSource::new(endpoints, source).unwrap();
        let indexer = Indexer::new(database.store().await, rpc, config);
        let (readiness, stop) = (Box::new(indexer.readiness()), CancellationToken::new());
        let task = tokio::spawn(indexer.run(stop.clone()));
        Self { ledger: Ledger::new(&database), database, readiness, stop, task }
    }

    /// Waits until it is what the devnet's own indexer, which nobody deceives, has.
    async fn agrees(&self, stack: &Stack, who: &str) {
        stack.synced().await;
        eventually(PATIENTLY, &format!("the ledger behind {who} is right"), || async {
            assert!(!self.task.is_finished(), "the indexer behind {who} has stopped");
            let (right, found) = (stack.ledger.mirror().await, self.ledger.mirror().await);
            if found == right {
                return Ok(());
            }
            let missing: Vec<_> = right.iter().filter(|row| !found.contains(row)).take(2).collect();
            let invented: Vec<_> = found.iter().filter(|row| !right.contains(row)).take(2).collect();
            let state = (self.readiness)();
            Err(format!("{state:?}; missing, among others: {missing:?}; too much: {invented:?}"))
        })
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        drop(self.database);
    }
}

async fn stack() -> Stack {
    Site::new(Options { external_chain: true, ..Options::default() }).await.start().await
}

fn endpoints(urls: &[&Url]) -> Endpoints {
    urls.iter().map(|url| url.as_str()).collect::<Vec<_>>().join(" ").parse().unwrap()
}

/// Payments, a cancellation, and blocks that hold several of them or nothing.
async fn some_history(stack: &Stack, first: u64) {
    let plan = stack.plan("premium-month").onchain_id;
    for number in first..first + 3 {
        let (account, payer) = stack.customer(number).await;
        let receipt = stack.chain.subscribe(&payer, plan, account.reference).await;
        let id = event::<Dues::Subscribed>(&receipt).id;
        if number == first {
            stack.chain.cancel(&payer, id).await;
        }
        stack.chain.mine(2).await;
    }
}

/// The one endpoint that there is does it again and again, while there are payments and a reorganisation.
async fn alone(fault: Fault) {
    let stack = stack().await;
    let seed = Fault::ALL.into_iter().zip(1..).find(|(other, _)| *other == fault).unwrap().1;
    let proxy = FaultProxy::start(stack.site().rpc_url(), seed).await;
    proxy.set(Faults::none().with(fault, 0.15));
    let mirror = Mirror::start(&stack, proxy.url(), OFTEN).await;
    some_history(&stack, 1).await;
    mirror.agrees(&stack, "it").await;
    // What was paid in these blocks never was.
    let head = stack.chain.head().await.header.number;
    stack.chain.reorg_from(head - 5, &[]).await;
    some_history(&stack, 10).await;
    stack.chain.mine(FINALITY_DEPTH).await;
    mirror.agrees(&stack, "it").await;
    // Blocks go on until it has happened at least once; and then again, to show that it is got over.
    eventually(PATIENTLY, "it has happened", || async {
        if proxy.counters().of(fault) > 0 {
            return Ok(());
        }
        some_history(&stack, fastrand::u64(100..1_000_000)).await;
        Err(format!("{:?}", proxy.counters()))
    })
    .await;
    mirror.agrees(&stack, "it").await;
    mirror.stop().await;
}

macro_rules! each_fault_alone_loses_and_invents_nothing {
    ($($test:ident: $fault:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                alone(Fault::$fault).await;
            }
        )*
    };
}

each_fault_alone_loses_and_invents_nothing! {
    nothing_is_lost_or_invented_by_drop: Drop,
    nothing_is_lost_or_invented_by_delay: Delay,
    nothing_is_lost_or_invented_by_replay: Replay,
    nothing_is_lost_or_invented_by_cached: Cached,
    nothing_is_lost_or_invented_by_truncate: Truncate,
    nothing_is_lost_or_invented_by_rate_limit: RateLimit,
    nothing_is_lost_or_invented_by_rate_limit_by_code: RateLimitByCode,
    nothing_is_lost_or_invented_by_server_error: ServerError,
    nothing_is_lost_or_invented_by_range: Range,
    nothing_is_lost_or_invented_by_missing_logs: MissingLogs,
    nothing_is_lost_or_invented_by_some_logs: SomeLogs,
    nothing_is_lost_or_invented_by_invented_log: InventedLog,
    nothing_is_lost_or_invented_by_wrong_fork_logs: WrongForkLogs,
    nothing_is_lost_or_invented_by_stale_head: StaleHead,
    nothing_is_lost_or_invented_by_wrong_fork: WrongFork,
    nothing_is_lost_or_invented_by_null_block: NullBlock,
    nothing_is_lost_or_invented_by_no_batches: NoBatches,
}

#[tokio::test(flavor = "multi_thread")]
async fn all_faults_together_lose_and_invent_nothing() {
    let stack = stack().await;
    let (first, second) = (
        FaultProxy::start(stack.site().rpc_url(), 71).await,
        FaultProxy::start(stack.site().rpc_url(), 72).await,
    );
    let faults = Fault::ALL.into_iter().fold(Faults::none(), |faults, fault| faults.with(fault, 0.02));
    first.set(faults.clone());
    second.set(faults);
    let mirror = Mirror::start(&stack, endpoints(&[&first.url(), &second.url()]), OFTEN).await;
    some_history(&stack, 1).await;
    mirror.agrees(&stack, "everything").await;
    let head = stack.chain.head().await.header.number;
    stack.chain.reorg_from(head - 4, &[]).await;
    some_history(&stack, 10).await;
    stack.chain.mine(FINALITY_DEPTH).await;
    mirror.agrees(&stack, "everything").await;
    mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_first_endpoint_dies_the_next_one_is_read() {
    let stack = stack().await;
    let first = FaultProxy::start(stack.site().rpc_url(), 1).await;
    let second = FaultProxy::start(stack.site().rpc_url(), 2).await;
    let mirror = Mirror::start(&stack, endpoints(&[&first.url(), &second.url()]), OFTEN).await;
    some_history(&stack, 1).await;
    mirror.agrees(&stack, "two good endpoints").await;
    assert_eq!(second.counters().calls.get("eth_getLogs"), None, "the second one is asked without need");

    first.kill(true);
    some_history(&stack, 10).await;
    mirror.agrees(&stack, "a dead and a good endpoint").await;
    assert!(second.counters().calls["eth_getLogs"] > 0);

    // And back, when the first one lives again and the second one does not.
    first.kill(false);
    second.kill(true);
    some_history(&stack, 20).await;
    mirror.agrees(&stack, "the endpoint that had died").await;
    mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_first_endpoint_always_lies_the_next_one_is_believed() {
    let stack = stack().await;
    for (seed, lie) in (1..).zip([
        Fault::MissingLogs,
        Fault::SomeLogs,
        Fault::InventedLog,
        Fault::WrongForkLogs,
        Fault::WrongFork,
        Fault::NullBlock,
    ]) {
        let liar = FaultProxy::start(stack.site().rpc_url(), seed).await;
        liar.set(Faults::none().with(lie, 1.0));
        let honest = stack.site().rpc_url();
        let mirror = Mirror::start(&stack, endpoints(&[&liar.url(), &honest]), OFTEN).await;
        some_history(&stack, seed * 100).await;
        mirror.agrees(&stack, &format!("an endpoint of {lie:?} and an honest one")).await;
        assert!(liar.counters().of(lie) > 0, "{lie:?}");
        mirror.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_stuck_is_not_believed_while_another_one_is_ahead() {
    let stack = stack().await;
    let (stuck, good) = (
        FaultProxy::start(stack.site().rpc_url(), 1).await,
        FaultProxy::start(stack.site().rpc_url(), 2).await,
    );
    let mirror = Mirror::start(&stack, endpoints(&[&stuck.url(), &good.url()]), OFTEN).await;
    some_history(&stack, 1).await;
    mirror.agrees(&stack, "two good endpoints").await;
    // It answers what is in the ledger, and would do so for ever.
    let head = stack.chain.head().await.header.number;
    stuck.set(Faults { frozen_at: Some(head), ..Faults::none() });
    some_history(&stack, 10).await;
    mirror.agrees(&stack, "a stuck endpoint and a good one").await;
    mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_behind_the_ledger_is_not_asked_while_another_one_is_ahead() {
    let stack = stack().await;
    let late = FaultProxy::start(stack.site().rpc_url(), 1).await;
    some_history(&stack, 1).await;
    let head = stack.chain.head().await.header.number;
    late.set(Faults { frozen_at: Some(head - 5), ..Faults::none() });
    let both = endpoints(&[&late.url(), &stack.site().rpc_url()]);
    let rpc = RpcSource::new(both, stack.source()).unwrap();
    assert_eq!(rpc.head(0).await.unwrap().block.number, head - 5, "nothing speaks against it yet");
    assert_eq!(rpc.head(head - 1).await.unwrap().block.number, head);
    late.reset_counters();
    assert_eq!(rpc.head(head - 1).await.unwrap().block.number, head);
    assert_eq!(late.counters().requests, 0, "it is asked again at once");
    // Where there is no other one, what it says is all there is.
    let alone = RpcSource::new(late.url(), stack.source()).unwrap();
    assert_eq!(alone.head(head - 1).await.unwrap().block.number, head - 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_another_chain_is_not_used_and_only_such_ones_are_an_error() {
    let stack = stack().await;
    let other = FaultProxy::start(stack.site().rpc_url(), 1).await;
    other.set(Faults { chain_id: Some(1), ..Faults::none() });
    let both = endpoints(&[&other.url(), &stack.site().rpc_url()]);
    let rpc = RpcSource::new(both, stack.source()).unwrap();
    rpc.verify_chain().await.unwrap();
    assert!(rpc.header(1.into()).await.unwrap().is_some());
    assert_eq!(other.counters().calls.keys().collect::<Vec<_>>(), ["eth_chainId"]);
    let alone = RpcSource::new(other.url(), stack.source()).unwrap();
    let error = alone.verify_chain().await.unwrap_err();
    assert!(matches!(error, SourceError::WrongChain { expected: 31_337, found: 1 }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_another_chain_ends_nothing_while_the_right_one_is_only_down() {
    let stack = stack().await;
    stack.chain.mine(2).await;
    let down = FaultProxy::start(stack.site().rpc_url(), 1).await;
    let other = FaultProxy::start(stack.site().rpc_url(), 2).await;
    down.kill(true);
    // Which of them is asked last is a matter of how long they rest: mostly it is the other one.
    for _ in 0..10 {
        other.set(Faults::none());
        let rpc = RpcSource::new(endpoints(&[&down.url(), &other.url()]), stack.source()).unwrap();
        assert!(rpc.header(1.into()).await.unwrap().is_some());
        // After a failure, it turns out to be of another chain.
        other.set(Faults { chain_id: Some(1), ..Faults::none() });
        other.script([Fault::Drop]);
        let error = rpc.segment(1, 2, None).await.unwrap_err();
        assert!(!matches!(error, SourceError::WrongChain { .. }), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_waited_for_as_long_as_the_provider_says() {
    let stack = stack().await;
    let proxy = FaultProxy::start(stack.site().rpc_url(), 1).await;
    let rpc = RpcSource::new(proxy.url(), stack.source()).unwrap();
    proxy.script([Fault::RateLimit, Fault::RateLimit]);
    assert!(rpc.header(1.into()).await.unwrap().is_some());
    let counters = proxy.counters();
    assert_eq!((counters.of(Fault::RateLimit), counters.impatient), (2, 0));

    // With another endpoint, nobody waits: it is asked instead.
    let both = endpoints(&[&proxy.url(), &stack.site().rpc_url()]);
    let rpc = RpcSource::new(both, stack.source()).unwrap();
    proxy.set(Faults::none().with(Fault::RateLimit, 1.0));
    proxy.reset_counters();
    for _ in 0..5 {
        assert!(rpc.header(1.into()).await.unwrap().is_some());
    }
    assert_eq!((proxy.counters().of(Fault::RateLimit), proxy.counters().impatient), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_names_the_host_and_never_the_key() {
    let stack = stack().await;
    let proxy = FaultProxy::start(stack.site().rpc_url(), 1).await;
    let rpc = RpcSource::new(proxy.url(), stack.source()).unwrap();
    for fault in [Fault::Drop, Fault::Truncate, Fault::ServerError, Fault::RateLimitByCode] {
        proxy.set(Faults::none().with(fault, 1.0));
        let error = rpc.header(1.into()).await.unwrap_err();
        let text = format!("{error} {error:?} {rpc:?}");
        assert!(error.to_string().contains("127.0.0.1"), "{fault:?}: {error}");
        // The client of the connection itself is not printed with its URL either.
        assert!(!text.contains("a-secret-key"), "{fault:?}: {text}");
        proxy.set(Faults::none());
        eventually(SOON, "it is well again", || async {
            rpc.header(1.into()).await.map(|_| ()).map_err(|error| error.to_string())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_takes_few_round_trips_and_comes_through_narrow_ranges_without_batches() {
    let stack = stack().await;
    some_history(&stack, 1).await;
    stack.chain.mine(2_000).await;
    some_history(&stack, 10).await;
    stack.synced().await;
    let head = stack.chain.head().await.header.number;
    let proxy = FaultProxy::start(stack.site().rpc_url(), 1).await;
    let rpc = RpcSource::new(proxy.url(), stack.source()).unwrap();
    let all = rpc.segment(1, head, None).await.unwrap();
    let round_trips = proxy.counters().requests;
    assert!(round_trips <= head / 100 + 10, "{round_trips} for {head} blocks: {:?}", proxy.counters());
    assert_eq!(u64::try_from(all.headers.len()).unwrap(), head);

    for (limit, no_batches) in [(Some(10), 0.0), (None, 1.0), (Some(333), 1.0)] {
        proxy.set(Faults { range_limit: limit, ..Faults::none().with(Fault::NoBatches, no_batches) });
        let rpc = RpcSource::new(proxy.url(), stack.source()).unwrap();
        assert_eq!(rpc.segment(1, head, None).await.unwrap(), all, "{limit:?}, {no_batches}");
        if limit == Some(10) {
            assert!(rpc.span() < head, "segments stay short where ranges are: {}", rpc.span());
        }
    }
}

/// Connections to a node, which can be cut.
struct Relay {
    url: Url,
    connections: std::sync::Arc<std::sync::Mutex<JoinSet<()>>>,
    server: JoinHandle<()>,
}

impl Relay {
    async fn start(upstream: &Url) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap()).parse().unwrap();
        let connections = std::sync::Arc::new(std::sync::Mutex::new(JoinSet::new()));
        let port = upstream.port().unwrap();
        let server = tokio::spawn({
            let connections = connections.clone();
            async move {
                loop {
                    let (mut client, _) = listener.accept().await.unwrap();
                    connections.lock().unwrap().spawn(async move {
                        let mut node = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
                    });
                }
            }
        });
        Self { url, connections, server }
    }

    fn cut(&self) {
        self.connections.lock().unwrap().abort_all();
    }

    fn accepted(&self) -> usize {
        self.connections.lock().unwrap().len()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_over_websocket_wakes_the_indexer_without_any_poll() {
    let stack = stack().await;
    let relay = Relay::start(&stack.site().rpc_url()).await;
    let both = endpoints(&[&stack.site().rpc_url(), &relay.url]);
    let mirror = Mirror::start(&stack, both, NEVER).await;
    mirror.agrees(&stack, "the first look").await;
    eventually(SOON, "the WebSocket is there", || async {
        if relay.accepted() > 0 { Ok(()) } else { Err("no connection".to_owned()) }
    })
    .await;
    // The next poll is an hour away.
    for first in [1, 10, 20] {
        some_history(&stack, first).await;
        mirror.agrees(&stack, "the WebSocket").await;
    }
    // What happened while nobody listened is read as soon as somebody does again.
    relay.cut();
    some_history(&stack, 30).await;
    mirror.agrees(&stack, "the next WebSocket").await;
    some_history(&stack, 40).await;
    mirror.agrees(&stack, "the next WebSocket").await;
    mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_websocket_polling_goes_on() {
    let stack = stack().await;
    let nobody = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let deaf: Url = format!("ws://{nobody}").parse().unwrap();
    let mirror = Mirror::start(&stack, endpoints(&[&stack.site().rpc_url(), &deaf]), OFTEN).await;
    some_history(&stack, 1).await;
    mirror.agrees(&stack, "polling").await;
    mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_told_from_what_is_none() {
    let stack = stack().await;
    let rpc = RpcSource::new(stack.site().rpc_url(), stack.source()).unwrap();
    assert_eq!(rpc.token_decimals(stack.chain.token).await.unwrap(), 6);
    for none in [stack.chain.contract, stack.chain.merchant] {
        let error = rpc.token_decimals(none).await.unwrap_err();
        assert!(matches!(error, SourceError::NoToken(address) if address == none), "{error:?}");
    }
}
