//! `dues run` beside a chain and a database that are not its own.

use std::{fs, os::unix::process::ExitStatusExt as _};

use dues_tests::{Answer, Chain, FINALITY_DEPTH, Ledger, Options, SOON, Site, Stack, eventually, synced};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use crate::{Dues, Signal, run, scratch};

/// A `dues run`, started in `dir` with `dues.toml` there.
struct Service<'a> {
    dir: TempDir,
    environment: Vec<(&'static str, String)>,
    stack: Before<'a>,
}

/// What the devnet that set everything up has left.
struct Before<'a> {
    chain: &'a Chain,
    site: &'a Site,
}

impl<'a> Service<'a> {
    fn new(chain: &'a Chain, site: &'a Site) -> Self {
        let dir = scratch();
        let port = dues_embedded::free_port().unwrap();
        let (merchant, token) = (chain.merchant, chain.token);
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\n[chains.dev]\nchain_id = {}\nmerchant = \"{merchant}\"\n\
             token = \"{token}\"\nstart_block = 1\nfinality = {FINALITY_DEPTH}\npoll_interval_ms = 50\n",
            chain.id
        );
        fs::write(dir.path().join("dues.toml"), config).unwrap();
        let environment = vec![
            ("DUES__DATABASE__URL", site.database.url().expose_secret().to_owned()),
            ("DUES__CHAINS__DEV__RPC_URL", site.rpc_url().to_string()),
            ("PORT", port.to_string()),
        ];
        Self { dir, environment, stack: Before { chain, site } }
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// Its API, with a key of its own.
    async fn api(&self) -> dues_tests::Api {
        let all = ["accounts:read", "accounts:write", "entitlements:read"];
        let scopes = all.iter().flat_map(|scope| ["--scope", scope]);
        let args: Vec<_> = ["key", "create", "--name", "test"].into_iter().chain(scopes).collect();
        let key = run(self.dir.path(), &args, &self.environment()).await;
        let port = &self.environment[2].1;
        dues_tests::Api::new(&format!("http://127.0.0.1:{port}"), key.stdout.trim())
    }

    async fn start(&self) -> Dues {
        let dues = Dues::start(self.dir.path(), &["run"], &self.environment());
        let port: u16 = self.environment[2].1.parse().unwrap();
        eventually(SOON, "it listens", || async {
            std::net::TcpStream::connect(("127.0.0.1", port))
                .map_err(|error| format!("{error}\n{}", dues.printed()))
        })
        .await;
        dues
    }

    async fn readyz_is(&self, api: &dues_tests::Api, status: u16) -> Answer {
        eventually(SOON, &format!("readyz is {status}"), || async {
            let answer = api.get("/readyz").await;
            if answer.status == status { Ok(answer) } else { Err(format!("{answer:?}")) }
        })
        .await
    }

    async fn synced(&self) {
        synced(self.stack.chain, &Ledger::new(&self.stack.site.database)).await;
    }
}

async fn set_up() -> (Stack, dues_tests::Account, alloy::signers::local::PrivateKeySigner) {
    let stack = Site::new(Options { external_chain: true }).await.start().await;
    let (account, payer) = stack.customer(1).await;
    (stack, account, payer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_mirrors_answers_survives_a_kill_and_stops_on_sigterm() {
    let (stack, account, payer) = set_up().await;
    let (chain, plan) = (stack.chain.clone(), stack.plan("premium-month").onchain_id);
    let site = stack.stop().await;
    let service = Service::new(&chain, &site);
    let api = service.api().await;
    let dues = service.start().await;
    service.readyz_is(&api, 200).await;
    chain.subscribe(&payer, plan, account.reference).await;
    service.synced().await;
    assert_eq!(api.entitlements(account.id).await["tier"], "premium");

    dues.signal(Signal::SIGKILL);
    assert_eq!(dues.ended().await.signal(), Some(9));
    chain.subscribe(&payer, plan, account.reference).await;
    let dues = service.start().await;
    service.synced().await;
    service.readyz_is(&api, 200).await;
    assert_eq!(api.transactions(account.id).await.len(), 2);
    dues.signal(Signal::SIGTERM);
    assert_eq!(dues.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_chain_is_reorganised_below_finality_says_so_and_still_answers() {
    let (stack, account, payer) = set_up().await;
    let chain = stack.chain.clone();
    let plan = stack.plan("premium-month").onchain_id;
    let block = chain.subscribe(&payer, plan, account.reference).await.block_number.unwrap();
    let site = stack.stop().await;
    let service = Service::new(&chain, &site);
    let api = service.api().await;
    let dues = service.start().await;
    chain.mine(FINALITY_DEPTH + 2).await;
    service.synced().await;
    service.readyz_is(&api, 200).await;
    let ledger = Ledger::new(&site.database);
    let before = ledger.digest().await;

    chain.reorg_from(block, &[]).await;
    let answer = service.readyz_is(&api, 503).await;
    assert_eq!(answer.body["parts"]["database"], "ok");
    eventually(SOON, "the log says what to do", || async {
        let printed = dues.printed();
        if printed.contains("had been final; nothing was changed") { Ok(()) } else { Err(printed) }
    })
    .await;
    assert_eq!(api.entitlements(account.id).await["tier"], "premium");
    assert_eq!(api.get("/healthz").await.status, 200);
    assert_eq!(ledger.digest().await, before);

    // A new start does not get around it.
    dues.signal(Signal::SIGTERM);
    assert_eq!(dues.ended().await.code(), Some(0));
    let dues = service.start().await;
    service.readyz_is(&api, 503).await;
    assert_eq!(api.entitlements(account.id).await["tier"], "premium");
    assert_eq!(ledger.digest().await, before);
    dues.signal(Signal::SIGTERM);
    assert_eq!(dues.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_told_on_an_address_of_their_own() {
    let stack = Site::new(Options { external_chain: true }).await.start().await;
    let chain = stack.chain.clone();
    let site = stack.stop().await;
    let mut service = Service::new(&chain, &site);
    let listen = format!("127.0.0.1:{}", dues_embedded::free_port().unwrap());
    service.environment.push(("DUES__METRICS__LISTEN", listen.clone()));
    let running = service.start().await;
    let metrics = reqwest::Client::new();
    chain.mine(3).await;
    let head = chain.head().await.header.number;
    let expected = [
        format!(
            "dues_indexer_checkpoint_block{{chain=\"{}\",contract=\"{}\"}} {head}",
            chain.id, chain.contract
        ),
        format!("dues_indexer_lag_blocks{{chain=\"{}\",contract=\"{}\"}} 0", chain.id, chain.contract),
        format!("dues_indexer_leading{{chain=\"{}\",contract=\"{}\"}} 1", chain.id, chain.contract),
    ];
    eventually(SOON, "the figures say where the indexer is", || async {
        let answer =
            metrics.get(format!("http://{listen}/metrics")).send().await.map_err(|e| e.to_string())?;
        let text = answer.text().await.map_err(|e| e.to_string())?;
        if expected.iter().all(|line| text.lines().any(|found| found == line)) { Ok(()) } else { Err(text) }
    })
    .await;
    // Not on the address that the platform has.
    service.api().await.get("/metrics").await.assert_problem("metrics", 404, "route_not_found");
    running.signal(Signal::SIGTERM);
    running.ended().await;
}
