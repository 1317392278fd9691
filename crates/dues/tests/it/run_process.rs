//! `dues run` beside a chain and a database that are not its own.

use std::{fs, os::unix::process::ExitStatusExt as _};

use dues_chain::contract::Dues as Contract;
use dues_tests::{
    Answer, Chain, FINALITY_DEPTH, Ledger, Options, SOON, Site, Stack, event, eventually, synced,
};
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
    let stack = Site::new(Options { external_chain: true, ..Options::default() }).await.start().await;
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
    let stack = Site::new(Options { external_chain: true, ..Options::default() }).await.start().await;
    let chain = stack.chain.clone();
    let site = stack.stop().await;
    let mut service = Service::new(&chain, &site);
    let listen = format!("127.0.0.1:{}", dues_embedded::free_port().unwrap());
    service.environment.push(("DUES__METRICS__LISTEN", listen.clone()));
    let dead = format!("127.0.0.1:{}", dues_embedded::free_port().unwrap());
    let node = site.rpc_url();
    service.environment[1].1 = format!("http://{dead}/v2/a-secret-key {node}");
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
        format!("dues_rpc_resting{{chain=\"{}\",endpoint=\"{dead}\"}} 1", chain.id),
        format!("dues_rpc_resting{{chain=\"{}\",endpoint=\"{}\"}} 0", chain.id, node.authority()),
    ];
    // These grow; that they are there says that they are not 0.
    let counted = [
        format!("dues_rpc_failures_total{{chain=\"{}\",endpoint=\"{dead}\",kind=\"broken\"}} ", chain.id),
        format!(
            "dues_rpc_requests_total{{chain=\"{}\",endpoint=\"{}\",method=\"eth_getLogs\"}} ",
            chain.id,
            node.authority()
        ),
    ];
    eventually(SOON, "the figures say where the indexer is", || async {
        let answer =
            metrics.get(format!("http://{listen}/metrics")).send().await.map_err(|e| e.to_string())?;
        let text = answer.text().await.map_err(|e| e.to_string())?;
        assert!(!text.contains("a-secret-key"), "{text}");
        let exact = expected.iter().all(|line| text.lines().any(|found| found == line));
        let counted = counted.iter().all(|begin| text.lines().any(|found| found.starts_with(begin)));
        if exact && counted { Ok(()) } else { Err(text) }
    })
    .await;
    // Not on the address that the platform has.
    service.api().await.get("/metrics").await.assert_problem("metrics", 404, "route_not_found");
    running.signal(Signal::SIGTERM);
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_chains_are_mirrored_side_by_side_and_the_fault_of_one_is_not_the_others() {
    let (stack, account, payer) = set_up().await;
    let (chain, plan) = (stack.chain.clone(), stack.plan("basic-month").onchain_id);
    let site = stack.stop().await;
    let other = Site::on_chain(1_337_001).await.start().await;
    let (second, premium) = (other.chain.clone(), other.plan("premium-month").onchain_id);
    let rich = second.payer(7).await;
    let mut second_site = other.stop().await;

    let mut service = Service::new(&chain, &site);
    let file = service.dir.path().join("dues.toml");
    let config = format!(
        "{}[chains.other]\nchain_id = {}\nmerchant = \"{}\"\ntoken = \"{}\"\nstart_block = 1\nfinality = \"latest\"\n\
         poll_interval_ms = 50\n",
        fs::read_to_string(&file).unwrap(),
        second.id,
        second.merchant,
        second.token
    );
    fs::write(&file, config).unwrap();
    service.environment.push(("DUES__CHAINS__OTHER__RPC_URL", second_site.rpc_url().to_string()));
    let api = service.api().await;
    let dues = service.start().await;
    service.readyz_is(&api, 200).await;
    let id = premium.to_string();
    let args = ["plans", "map", "premium-month", &id, "--chain", "other"];
    let map = run(service.dir.path(), &args, &service.environment()).await;
    assert_eq!(map.code, Some(0), "{map:?}");

    // One account, paid for on both chains: the better one counts, and each is final by its own policy.
    chain.subscribe(&payer, plan, account.reference).await;
    second.subscribe(&rich, premium, account.reference).await;
    let answer = eventually(SOON, "both payments are seen", || async {
        let (answer, rows) = (api.entitlements(account.id).await, api.transactions(account.id).await.len());
        if answer["tier"] == "premium" && rows == 2 { Ok(answer) } else { Err(format!("{rows}: {answer}")) }
    })
    .await;
    assert_eq!(
        (&answer["source"]["chain_id"], &answer["source"]["finality"]),
        (&second.id.into(), &"final".into())
    );
    let mut statuses: Vec<_> = api
        .transactions(account.id)
        .await
        .iter()
        .map(|row| row["status"].as_str().unwrap().to_owned())
        .collect();
    statuses.sort();
    assert_eq!(statuses, ["completed", "pending"]);

    // The second node is gone: the first chain goes on, and readyz names the one that does not.
    second_site.stop_chain();
    chain.mine(FINALITY_DEPTH).await;
    let answer = service.readyz_is(&api, 503).await;
    assert_eq!(
        (&answer.body["parts"]["indexer of dev"], &answer.body["parts"]["database"]),
        (&"ok".into(), &"ok".into())
    );
    assert_ne!(answer.body["parts"]["indexer of other"], "ok");
    eventually(SOON, "the first chain's payment is final", || async {
        let rows = api.transactions(account.id).await;
        if rows.iter().all(|row| row["status"] == "completed") { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
    dues.signal(Signal::SIGTERM);
    assert_eq!(dues.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_access_is_granted_once_final_what_is_pending_gives_and_takes_nothing() {
    let (stack, account, payer) = set_up().await;
    let chain = stack.chain.clone();
    let (basic, premium) = (stack.plan("basic-month").onchain_id, stack.plan("premium-month").onchain_id);
    let site = stack.stop().await;
    let mut service = Service::new(&chain, &site);
    service.environment.push(("DUES__CHAINS__DEV__GRANT", "final".to_owned()));
    let api = service.api().await;
    let dues = service.start().await;
    let subscribed = chain.subscribe(&payer, basic, account.reference).await;
    let id = event::<Contract::Subscribed>(&subscribed).id;
    service.synced().await;
    assert_eq!(api.transactions(account.id).await[0]["status"], "pending");
    assert_eq!(api.entitlements(account.id).await["tier"], "free");
    chain.mine(FINALITY_DEPTH).await;
    service.synced().await;
    let paid = api.entitlements(account.id).await;
    assert_eq!((&paid["tier"], &paid["source"]["finality"]), (&"basic".into(), &"final".into()));

    // An upgrade that is not final leaves what was paid before, with the block that it rests on.
    chain.change_now(&payer, id, premium).await;
    service.synced().await;
    let mut pending = api.entitlements(account.id).await;
    pending["as_of"] = paid["as_of"].clone();
    assert_eq!(pending, paid);
    chain.mine(FINALITY_DEPTH).await;
    service.synced().await;
    assert_eq!(api.entitlements(account.id).await["tier"], "premium");
    dues.signal(Signal::SIGTERM);
    assert_eq!(dues.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_a_key_charges_what_is_due() {
    // Anvil's account 9.
    const KEY: &str = "0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6";
    let (stack, account, payer) = set_up().await;
    let plan = stack.plan("basic-month").onchain_id;
    let id = event::<Contract::Charged>(&stack.chain.subscribe(&payer, plan, account.reference).await).id;
    stack.fall_due(&[id]).await;
    let chain = stack.chain.clone();
    let site = stack.stop().await;
    let mut service = Service::new(&chain, &site);
    let listen = format!("127.0.0.1:{}", dues_embedded::free_port().unwrap());
    service.environment.push(("DUES__METRICS__LISTEN", listen.clone()));
    service.environment.push(("DUES__KEEPER__PRIVATE_KEY", KEY.to_owned()));
    // It begins with an empty purse, and says so.
    let signer: alloy::signers::local::PrivateKeySigner = KEY.parse().unwrap();
    chain.set_ether(signer.address(), 0).await;
    let api = service.api().await;
    let dues = service.start().await;
    eventually(SOON, "the empty purse is an alarm", || async {
        let text = reqwest::get(format!("http://{listen}/metrics")).await.unwrap().text().await.unwrap();
        let low =
            text.lines().any(|line| line.starts_with("dues_keeper_signer_low{") && line.ends_with(" 1"));
        let said = dues.printed().contains("the signer is running out of money for gas");
        if low && said { Ok(()) } else { Err(text) }
    })
    .await;
    assert_eq!(api.transactions(account.id).await.len(), 1);
    chain.set_ether(signer.address(), 10_u128.pow(18)).await;
    eventually(SOON, "it has charged", || async {
        let count = api.transactions(account.id).await.len();
        if count == 2 { Ok(()) } else { Err(dues.printed()) }
    })
    .await;
    let metrics = eventually(SOON, "its figures say so", || async {
        let text = reqwest::get(format!("http://{listen}/metrics")).await.unwrap().text().await.unwrap();
        let charges =
            text.lines().any(|line| line.starts_with("dues_keeper_charges_total{") && !line.ends_with(" 0"));
        if charges { Ok(text) } else { Err(text) }
    })
    .await;
    for name in
        ["gas_used_total", "spent_gwei_total", "transactions_sent_total", "signer_balance_gwei", "leading"]
    {
        assert!(metrics.contains(&format!("dues_keeper_{name}{{")), "{name} is not in {metrics}");
    }
    assert!(!dues.printed().contains(&KEY[2..]));
    dues.signal(Signal::SIGTERM);
    assert_eq!(dues.ended().await.code(), Some(0));
}
