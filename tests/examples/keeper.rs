//! `script/bench keeper`: so many subscriptions that fall due at once, on a chain with a block a second, until each is
//! charged and in the ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use alloy::{
    primitives::{Address, U256, keccak256},
    sol_types::SolCall,
};
use clap::Parser;
use dues_chain::contract::Dues;
use dues_tests::{RunningKeeper, Stack, Token, eventually, keeper_config};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Measures how long a keeper takes for what falls due at once, and what it spends on it.
#[derive(Parser)]
struct Args {
    /// Subscriptions, each of another payer.
    #[arg(long, default_value_t = 5_000)]
    subscriptions: u64,
    /// Charges in one transaction.
    #[arg(long, default_value_t = 50)]
    batch: usize,
}

/// Payers whose transactions are sent at once.
const CHUNK: u64 = 200;
const PATIENTLY: Duration = Duration::from_secs(1_200);

/// Requests in one body, each of which must be answered.
async fn batch(http: &reqwest::Client, stack: &Stack, calls: Vec<(&str, Value)>) {
    let count = calls.len();
    let body: Vec<_> = (0_u64..)
        .zip(calls)
        .map(|(id, (method, params))| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
        .collect();
    let answers: Vec<Value> = http.post(stack.node()).json(&body).send().await.unwrap().json().await.unwrap();
    assert_eq!(answers.len(), count);
    if let Some(refused) =
        answers.iter().find(|answer| answer["result"].is_null() && !answer["error"].is_null())
    {
        panic!("{refused}");
    }
}

/// Subscribes everybody; nobody has to sign, as anvil takes any sender's word.
async fn subscribe(stack: &Stack, subscriptions: u64) {
    let (http, chain) = (reqwest::Client::new(), &stack.chain);
    let plan = stack.plan("basic-month").onchain_id;
    let account = stack.api.account("bench").await;
    chain.rpc("anvil_autoImpersonateAccount", json!([true])).await;
    chain.automine(false).await;
    let mut done = 0;
    while done < subscriptions {
        let last = (done + CHUNK).min(subscriptions);
        let payers: Vec<_> = (done..last)
            .map(|number| Address::from_word(keccak256(format!("bench payer {number}"))))
            .collect();
        let ether = "0x56bc75e2d63100000";
        batch(&http, stack, payers.iter().map(|payer| ("anvil_setBalance", json!([payer, ether]))).collect())
            .await;
        let mut calls = Vec::new();
        for payer in &payers {
            let (spender, value) = (chain.contract, U256::from(100_000_000_000_u64));
            let inputs = [
                (chain.token, Token::mintCall { to: *payer, amount: value }.abi_encode()),
                (chain.token, Token::approveCall { spender, value }.abi_encode()),
                (chain.contract, Dues::subscribeCall { planId: plan, r#ref: account.reference }.abi_encode()),
            ];
            for (nonce, (to, input)) in inputs.into_iter().enumerate() {
                let request = json!({
                    "from": payer, "to": to, "input": alloy::primitives::Bytes::from(input), "gas": "0x493e0",
                    "nonce": format!("{nonce:#x}"), "maxFeePerGas": "0xba43b7400", "maxPriorityFeePerGas": "0x3b9aca00",
                });
                calls.push(("eth_sendTransaction", json!([request])));
            }
        }
        batch(&http, stack, calls).await;
        while chain.pending().await > 0 {
            chain.mine(1).await;
        }
        done = last;
    }
    let count: u64 = chain.dues().subscriptionCount().call().await.unwrap().try_into().unwrap();
    println!("{count} subscriptions, with those of the demo");
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let stack = Stack::start().await;
    let signer = stack.keeper_signer(1_000_000).await;
    subscribe(&stack, args.subscriptions).await;
    stack.synced().await;
    let last: U256 = stack.chain.dues().subscriptionCount().call().await.unwrap();
    stack.chain.rpc("anvil_autoImpersonateAccount", json!([false])).await;

    let mut config = keeper_config(&stack);
    config.poll_interval = Duration::from_millis(250);
    config.limits.batches.items = args.batch;
    // As in dues.toml.
    config.limits.stuck_after_blocks = 10;
    stack.fall_due(&[last]).await;
    let due = stack.keeper_plan().await.found;
    println!("{} are due, {} would be refused", due.ready(), due.refused.len());
    let wanted = i64::try_from(due.ready()).unwrap();
    stack.chain.interval_mining(1).await;
    let before = stack.chain.ether(signer.address()).await;
    let begun = Instant::now();
    let keeper = RunningKeeper::start(stack.keeper(config, &signer).await);
    let renewals = "SELECT count(*) FROM ledger.transactions WHERE period = 2 AND status <> 'failed'";
    eventually(PATIENTLY, "all are charged", || async {
        let count = stack.ledger.count(renewals).await;
        if count >= wanted { Ok(()) } else { Err(format!("{count} are")) }
    })
    .await;
    let took = begun.elapsed();
    let rows =
        stack.keeper_rows_become("all are in blocks", |rows| rows.iter().all(|row| row.status != "open"));
    let rows = rows.await;
    keeper.stop().await;
    let mut nonces: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
    for row in &rows {
        for id in &row.onchain_ids {
            nonces.entry(*id).or_default().insert(row.nonce);
        }
    }
    let replacements = rows.iter().filter(|row| row.replacement > 0).count();
    let gas: i64 = stack.ledger.count("SELECT sum(gas_used)::bigint FROM ledger.keeper_transactions").await;
    let spent = before - stack.chain.ether(signer.address()).await;
    let blocks =
        stack.ledger.count("SELECT count(DISTINCT block_number) FROM ledger.keeper_transactions").await;
    let (seconds, transactions) = (took.as_secs_f64(), rows.len());
    println!("{wanted} charges in {seconds:.1} s, {transactions} transactions in {blocks} blocks");
    println!("{replacements} of them in place of another one that was stuck");
    println!("{} gas a charge, {spent} wei in all", gas / wanted);
    let again = nonces.values().filter(|nonces| nonces.len() > 1).count();
    println!("in more than one transaction, replacements aside: {again}");
    let twice =
        "SELECT count(*) FROM (SELECT FROM ledger.transactions WHERE period = 2 AND status <> 'failed'
                 GROUP BY subscription_id HAVING count(*) > 1) twice";
    println!("charged twice: {}", stack.ledger.count(twice).await);
    println!("left: {}", stack.keeper_plan().await.found.ready());
}
