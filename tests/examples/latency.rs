//! `script/bench latency`: from a block with a payment to the entitlement over HTTP, on the stack of `dues dev`.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use alloy::{primitives::B256, signers::local::PrivateKeySigner};
use clap::Parser;
use dues_tests::{Account, Api, Chain, SOON};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

/// How often both sides are looked at: the figures are exact to about this.
const LOOK: Duration = Duration::from_millis(2);
const START_WITHIN: Duration = Duration::from_secs(120);

/// How long after the arrival of a payment's block the account's entitlement is there over HTTP. Everything is the real
/// thing: `dues dev` as a process of its own, with blocks every second. One payment at a time, at a moment of its own
/// between two blocks.
#[derive(Parser)]
struct Arguments {
    /// How many payments, one in each block
    #[arg(long, default_value_t = 100)]
    payments: u64,
    /// The program; `dues` beside this one by default
    #[arg(long)]
    dues: Option<PathBuf>,
}

#[tokio::main]
async fn main() {
    let Arguments { payments, dues } = Arguments::parse();
    // target/release/examples/latency
    let beside = env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("dues");
    let dir = tempfile::tempdir().unwrap();
    let mut stack = start(&dues.unwrap_or(beside), dir.path());
    let manifest = manifest(dir.path(), &mut stack).await;
    let text = |key: &str| manifest[key].as_str().unwrap();
    let address = |key: &str| text(key).parse().unwrap();
    let id = manifest["chain_id"].as_u64().unwrap();
    let chain = Chain::new(text("rpc_url"), id, address("contract"), address("token"), address("merchant"));
    let api = Api::new(text("api_url"), text("api_key"));
    let plan =
        manifest["plans"].as_array().unwrap().iter().find(|plan| plan["id"] == "premium-month").unwrap();
    let plan = u32::try_from(plan["onchain_id"].as_u64().unwrap()).unwrap();

    let customers = (0..payments).map(|number| {
        let (api, chain) = (api.clone(), chain.clone());
        async move { (api.account(&format!("latency-{number}")).await, chain.payer(number).await) }
    });
    let customers = futures::future::join_all(customers).await;
    eprintln!("{payments} customers are ready; now one payment a second");
    let mut took = Vec::new();
    for (number, (account, payer)) in (0..).zip(customers) {
        // Not always right after a block: what matters is when the block comes, not when the payment was sent.
        sleep(Duration::from_millis(number * 37 % 900)).await;
        took.push(payment(&chain, &api, plan, &account, &payer).await);
    }
    stop(stack).await;

    took.sort_unstable();
    let at = |percent: usize| took[(took.len() * percent).div_ceil(100).max(1) - 1];
    println!(
        "from a block's arrival to the entitlement over HTTP, {payments} payments, blocks every second:"
    );
    println!(
        "p50 {:.1?}   p90 {:.1?}   p99 {:.1?}   max {:.1?}",
        at(50),
        at(90),
        at(99),
        took[took.len() - 1]
    );
}

fn start(dues: &Path, dir: &Path) -> Child {
    let log = std::fs::File::create(dir.join("log")).unwrap();
    Command::new(dues)
        .args(["dev", "--data-dir"])
        .arg(dir.join("data"))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", dues.display()))
}

async fn manifest(dir: &Path, stack: &mut Child) -> Value {
    let began = Instant::now();
    loop {
        if let Ok(manifest) = std::fs::read_to_string(dir.join("data/devnet.json")) {
            return serde_json::from_str(&manifest).unwrap();
        }
        let ended = stack.try_wait().unwrap();
        if ended.is_some() || began.elapsed() > START_WITHIN {
            let log = std::fs::read_to_string(dir.join("log")).unwrap();
            panic!("dues dev did not come up ({ended:?}):\n{log}");
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Pays, and gives the time from the block to the entitlement.
async fn payment(
    chain: &Chain,
    api: &Api,
    plan: u32,
    account: &Account,
    payer: &PrivateKeySigner,
) -> Duration {
    let tx = chain.sign_subscribe(payer, plan, account.reference).await;
    chain.send(&tx).await;
    let (mined, visible) = tokio::join!(mined(chain, tx.hash), visible(api, account));
    // Two polls: the one of the block may be the later one.
    visible.saturating_duration_since(mined)
}

async fn mined(chain: &Chain, tx: B256) -> Instant {
    loop {
        if chain.try_receipt(tx).await.is_some() {
            return Instant::now();
        }
        sleep(LOOK).await;
    }
}

async fn visible(api: &Api, account: &Account) -> Instant {
    let began = Instant::now();
    while api.entitlements(account.id).await["tier"] != "premium" {
        assert!(began.elapsed() < SOON, "the entitlement of {} does not come", account.id);
        sleep(LOOK).await;
    }
    Instant::now()
}

/// Has `dues dev` stop everything that it has started.
async fn stop(mut stack: Child) {
    let id = stack.id().unwrap().to_string();
    Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
    stack.wait().await.unwrap();
}
