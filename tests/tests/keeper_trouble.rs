//! What goes wrong on the way: tokens, fees, nodes, forks, and the keeper itself being killed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy::primitives::{Address, U256};
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use dues_chain::contract::{Dues, IDues};
use dues_tests::{
    BlocklistToken, MoodyToken, Options, RunningKeeper, SOON, Site, Stack, event, eventually, keeper_config,
};
use serde_json::json;
use tokio::net::TcpListener;
use url::Url;

const GWEI: u64 = 1_000_000_000;
/// The moods of `MoodyToken` that matter here.
const REVERTS: u8 = 6;
const BURNS: u8 = 7;

fn ids<W>(payers: &[(W, U256)]) -> Vec<U256> {
    payers.iter().map(|(_, id)| *id).collect()
}

/// A plan by the month in `token`, that the ledger knows.
/// The catalogue does not sell it: it gives nothing, and is charged nevertheless.
async fn plan_in(stack: &Stack, token: Address) -> u32 {
    let terms = IDues::PlanTerms { token, ..stack.chain.monthly(5_000_000, stack.chain.merchant) };
    stack.chain.create_plan(&stack.chain.merchant_wallet(), &terms).await
}

/// Why the renewal of a subscription was refused the last time, and how often it was.
async fn refusal(stack: &Stack, id: U256) -> Option<(String, i32)> {
    sqlx::query_as(
        "SELECT a.reason, a.attempts FROM ledger.charge_attempts a
         JOIN ledger.subscriptions s ON s.id = a.subscription_id WHERE s.onchain_id = $1",
    )
    .bind(id.to::<i64>())
    .fetch_optional(stack.ledger.pool())
    .await
    .unwrap()
}

async fn is_refused(stack: &Stack, id: U256, reason: &str, attempts: i32) {
    eventually(SOON, &format!("{id} is refused {attempts} times: {reason}"), || async {
        let found = refusal(stack, id).await;
        let is = found.as_ref().is_some_and(|(found, times)| found == reason && *times == attempts);
        if is { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_revert_burn_gas_or_block_somebody_do_not_stop_the_others() {
    let stack = Stack::start().await;
    let (moody, blocklist) = (stack.chain.moody_token().await, stack.chain.blocklist_token().await);
    let in_moody = plan_in(&stack, moody).await;
    let in_blocklist = plan_in(&stack, blocklist).await;
    let good = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=3).await;
    let mut odd = Vec::new();
    for (number, token, plan) in [
        (10, moody, in_moody),
        (11, moody, in_moody),
        (12, blocklist, in_blocklist),
        (13, blocklist, in_blocklist),
    ] {
        let (account, payer) = stack.customer(number).await;
        stack.chain.fund_with(&payer, token).await;
        let receipt = stack.chain.subscribe(&payer, plan, account.reference).await;
        odd.push((payer, event::<Dues::Charged>(&receipt).id));
    }
    let all: Vec<_> = good.iter().chain(&odd).map(|(_, id)| *id).collect();
    stack.chain.as_merchant(moody, &MoodyToken::setMoodCall { mood_: BURNS }).await;
    let block = BlocklistToken::setBlockedCall { account: odd[2].0.address(), value: true };
    stack.chain.as_merchant(blocklist, &block).await;

    stack.fall_due(&all).await;
    let signer = stack.keeper_signer(100).await;
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    stack.each_has_paid(&good, 2).await;
    stack.each_has_paid(&odd[3..], 2).await;
    for (_, id) in &odd[..3] {
        is_refused(&stack, *id, "token", 1).await;
    }
    // Nothing was sent for them: the gas is not the keeper's to burn.
    let sent: Vec<_> = stack.keeper_rows().await.into_iter().flat_map(|row| row.onchain_ids).collect();
    assert_eq!(sent.len(), 4, "{sent:?}");
    // The token comes to its senses, and what it owes is charged at the next attempt.
    stack.chain.as_merchant(moody, &MoodyToken::setMoodCall { mood_: 0 }).await;
    stack.chain.increase_time(Duration::from_secs(2 * 3_600)).await;
    stack.chain.mine(1).await;
    stack.each_has_paid(&odd[..2], 2).await;
    is_refused(&stack, odd[2].1, "token", 2).await;
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_turns_bad_in_the_very_block_harms_nobody_else() {
    let stack = Stack::start().await;
    let moody = stack.chain.moody_token().await;
    let plan = plan_in(&stack, moody).await;
    let good = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=2).await;
    let mut odd = Vec::new();
    for number in 10..13 {
        let (account, payer) = stack.customer(number).await;
        stack.chain.fund_with(&payer, moody).await;
        let receipt = stack.chain.subscribe(&payer, plan, account.reference).await;
        odd.push((payer, event::<Dues::Charged>(&receipt).id));
    }
    let all: Vec<_> = good.iter().chain(&odd).map(|(_, id)| *id).collect();
    stack.fall_due(&all).await;
    stack.chain.automine(false).await;
    let signer = stack.keeper_signer(100).await;
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    // What goes well in a simulation is sent in two transactions: those in the known token, and the others.
    stack.chain.pending_becomes(2).await;
    let merchant = stack.chain.merchant_wallet();
    let burn = stack.chain.sign(&merchant, moody, &MoodyToken::setMoodCall { mood_: BURNS }).await;
    stack.chain.send(&burn).await;
    stack.chain.pending_becomes(3).await;
    stack.chain.mine(1).await;
    assert_eq!(stack.chain.receipt(burn.hash).await.transaction_index, Some(0), "it was before the batches");
    stack.each_has_paid(&good, 2).await;
    for (_, id) in &odd {
        is_refused(&stack, *id, "token", 1).await;
    }
    let rows = stack.keeper_rows().await;
    assert!(rows.iter().all(|row| row.succeeded == Some(true)), "nothing was reverted: {rows:?}");

    stack.chain.automine(true).await;
    stack.chain.as_merchant(moody, &MoodyToken::setMoodCall { mood_: REVERTS }).await;
    stack.chain.increase_time(Duration::from_secs(2 * 3_600)).await;
    stack.chain.mine(1).await;
    is_refused(&stack, odd[0].1, "token", 2).await;
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_a_trusted_token_makes_revert_is_tried_again_with_more_gas() {
    let stack = Stack::start().await;
    let moody = stack.chain.moody_token().await;
    let plan = plan_in(&stack, moody).await;
    let mut payers = Vec::new();
    for number in 1..=5 {
        let (account, payer) = stack.customer(number).await;
        stack.chain.fund_with(&payer, moody).await;
        let receipt = stack.chain.subscribe(&payer, plan, account.reference).await;
        payers.push((payer, event::<Dues::Charged>(&receipt).id));
    }
    stack.fall_due(&ids(&payers)).await;
    stack.chain.automine(false).await;
    let signer = stack.keeper_signer(100).await;
    // Believed to behave, it gets no gas to burn for each of five.
    let mut config = keeper_config(&stack);
    config.token = moody;
    let keeper = RunningKeeper::start(stack.keeper(config, &signer).await);
    stack.chain.pending_becomes(1).await;
    let merchant = stack.chain.merchant_wallet();
    let burn = stack.chain.sign(&merchant, moody, &MoodyToken::setMoodCall { mood_: BURNS }).await;
    stack.chain.send(&burn).await;
    stack.chain.pending_becomes(2).await;
    stack.chain.mine(1).await;
    stack.keeper_rows_become("it was reverted", |rows| rows[0].succeeded == Some(false)).await;
    is_refused(&stack, payers[4].1, "token", 1).await;
    stack.each_has_paid(&payers, 1).await;

    stack.chain.automine(true).await;
    stack.chain.as_merchant(moody, &MoodyToken::setMoodCall { mood_: 0 }).await;
    stack.chain.increase_time(Duration::from_secs(2 * 3_600)).await;
    stack.chain.mine(1).await;
    stack.each_has_paid(&payers, 2).await;
    let each =
        "SELECT min(gas_limit / cardinality(onchain_ids)) FROM ledger.keeper_transactions WHERE nonce > 0";
    assert!(stack.ledger.count(each).await >= 1_100_000, "as for a token that nobody knows");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_forgets_is_sent_the_same_again() {
    let stack = Stack::start().await;
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=3).await;
    let signer = stack.keeper_signer(100).await;
    stack.fall_due(&ids(&payers)).await;
    stack.chain.automine(false).await;
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    for _ in 0..3 {
        stack.chain.pending_becomes(1).await;
        stack.chain.rpc("anvil_dropAllTransactions", json!([])).await;
    }
    stack.chain.pending_becomes(1).await;
    stack.chain.mine(1).await;
    stack.each_has_paid(&payers, 2).await;
    let rows = stack.keeper_rows_become("it is in a block", |rows| rows[0].status == "mined").await;
    assert_eq!((rows.len(), rows[0].nonce, rows[0].replacement), (1, 0, 0), "{rows:?}");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_cap_charging_waits_and_goes_on_afterwards() {
    let stack = Stack::start().await;
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=2).await;
    let signer = stack.keeper_signer(100).await;
    stack.fall_due(&ids(&payers)).await;
    stack.chain.base_fee(500 * GWEI).await;
    stack.chain.mine(1).await;
    stack.synced().await;
    let (round, charges) = stack.keep_once(keeper_config(&stack), &signer).await;
    assert_eq!((charges, round.held_back), (0, Some(dues_keeper::HeldBack::FeeAboveCap)));
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    stack.chain.mine(5).await;
    assert_eq!(stack.keeper_rows().await, []);
    stack.chain.base_fee(GWEI).await;
    stack.chain.mine(1).await;
    stack.each_has_paid(&payers, 2).await;
    assert_eq!(stack.keeper_rows().await.len(), 1);
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_transaction_is_replaced_within_the_cap() {
    let stack = Stack::start().await;
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=2).await;
    let signer = stack.keeper_signer(100).await;
    stack.fall_due(&ids(&payers)).await;
    stack.chain.automine(false).await;
    stack.chain.base_fee(GWEI).await;
    stack.chain.mine(1).await;
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    stack.chain.pending_becomes(1).await;
    // Base fees are far above what it offers: blocks go by without it.
    eventually(SOON, "it is replaced", || async {
        stack.chain.base_fee(30 * GWEI).await;
        stack.chain.mine(1).await;
        let rows = stack.keeper_rows().await;
        if rows.len() > 1 { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
    // And now even above the cap.
    for _ in 0..8 {
        stack.chain.base_fee(500 * GWEI).await;
        stack.chain.mine(1).await;
    }
    let rows = stack.keeper_rows().await;
    assert!(rows.windows(2).all(|pair| pair[1].max_fee * 10 >= pair[0].max_fee * 11), "{rows:?}");
    assert!(rows.iter().all(|row| row.nonce == 0 && row.max_fee <= (100 * GWEI).try_into().unwrap()));
    // Anvil forgets what is below the base fee, so that it may have to be sent again.
    eventually(SOON, "it is in a block", || async {
        stack.chain.base_fee(20 * GWEI).await;
        stack.chain.mine(1).await;
        let rows = stack.keeper_rows().await;
        if rows.iter().any(|row| row.status == "mined") { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
    stack.each_has_paid(&payers, 2).await;
    stack.chain.mine(dues_tests::FINALITY_DEPTH + 1).await;
    let rows = stack
        .keeper_rows_become("one of them is final", |rows| {
            rows.iter().all(|row| matches!(row.status.as_str(), "final" | "superseded"))
        })
        .await;
    assert_eq!(rows.iter().filter(|row| row.status == "final").count(), 1, "{rows:?}");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_purse_loses_nothing() {
    let stack = Stack::start().await;
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=2).await;
    let signer = stack.keeper_signer(100).await;
    stack.chain.set_ether(signer.address(), 0).await;
    stack.fall_due(&ids(&payers)).await;
    let (round, _) = stack.keep_once(keeper_config(&stack), &signer).await;
    assert_eq!(round.held_back, Some(dues_keeper::HeldBack::Purse));
    assert_eq!(stack.keeper_rows().await, [], "what cannot be paid for is not even signed");
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    stack.chain.set_ether(signer.address(), 10_u128.pow(18)).await;
    stack.chain.mine(1).await;
    stack.each_has_paid(&payers, 2).await;
    assert_eq!(refusal(&stack, payers[0].1).await, None, "that is not the payer's failure");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_that_somebody_else_has_used_is_given_up_and_what_it_was_for_is_charged() {
    let stack = Stack::start().await;
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=2).await;
    let wallet = stack.chain.wallet(100).await;
    let signer = dues_tests::signer(&wallet);
    stack.fall_due(&ids(&payers)).await;
    stack.chain.automine(false).await;
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    stack.chain.pending_becomes(1).await;
    keeper.kill().await;
    stack.chain.rpc("anvil_dropAllTransactions", json!([])).await;
    stack.chain.automine(true).await;
    stack.chain.approve(&wallet, 1).await;
    assert_eq!(stack.chain.pending_nonce(wallet.address()).await, 1);
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    eventually(SOON, "it is given up", || async {
        stack.chain.mine(1).await;
        let rows = stack.keeper_rows().await;
        if rows[0].status == "superseded" { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
    stack.each_has_paid(&payers, 2).await;
    let nonces: Vec<_> = stack.keeper_rows().await.iter().map(|row| row.nonce).collect();
    assert_eq!(nonces, [0, 1]);
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_purse_charges_as_many_as_it_can_pay_for() {
    let stack = Stack::start().await;
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=2).await;
    let signer = stack.keeper_signer(100).await;
    stack.fall_due(&ids(&payers)).await;
    // Enough for the limit of one charge, not for that of two.
    let max_fee = stack.keeper_plan().await.max_fee.unwrap();
    stack.chain.set_ether(signer.address(), 1_000_000 * u128::from(max_fee)).await;
    let (_, charges) = stack.keep_once(keeper_config(&stack), &signer).await;
    assert_eq!(charges, 2);
    let items: Vec<_> = stack.keeper_rows().await.iter().map(|row| row.onchain_ids.len()).collect();
    assert_eq!(items, [1, 1]);
    stack.each_has_paid(&payers, 2).await;
}

/// A node in front of the chain that takes transactions and loses them, or does not even answer.
#[derive(Clone)]
struct Lossy {
    to: Url,
    client: reqwest::Client,
    deaf: Arc<AtomicBool>,
    lost: Arc<AtomicUsize>,
}

impl Lossy {
    async fn start(to: Url) -> (Self, Url) {
        let (deaf, lost) = (Arc::new(AtomicBool::new(true)), Arc::default());
        let node = Self { to, client: reqwest::Client::new(), deaf, lost };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let router = Router::new().route("/", post(Self::pass)).with_state(node.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (node, url)
    }

    async fn pass(State(node): State<Self>, body: Bytes) -> (StatusCode, Bytes) {
        let sends = String::from_utf8_lossy(&body).contains("eth_sendRawTransaction");
        if sends && node.deaf.load(Ordering::SeqCst) {
            node.lost.fetch_add(1, Ordering::SeqCst);
            return (StatusCode::BAD_GATEWAY, Bytes::new());
        }
        let sent = node
            .client
            .post(node.to.clone())
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await;
        (StatusCode::OK, sent.unwrap().bytes().await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_record_and_the_node_it_sends_the_same_again() {
    let stack = Stack::start().await;
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=3).await;
    let signer = stack.keeper_signer(100).await;
    stack.fall_due(&ids(&payers)).await;
    let (node, url) = Lossy::start(stack.node()).await;
    let keeper = RunningKeeper::start(stack.keeper_at(url, keeper_config(&stack), &signer).await);
    eventually(SOON, "a transaction is lost on the way", || async {
        if node.lost.load(Ordering::SeqCst) > 0 { Ok(()) } else { Err("none is".to_owned()) }
    })
    .await;
    keeper.kill().await;
    let recorded = stack.keeper_rows().await;
    assert_eq!((recorded.len(), recorded[0].status.as_str()), (1, "open"));
    stack.each_has_paid(&payers, 1).await;

    // The next one, on another node.
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    stack.each_has_paid(&payers, 2).await;
    let rows = stack.keeper_rows_become("it is in a block", |rows| rows[0].status == "mined").await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(stack.chain.pending_nonce(signer.address()).await, 1, "gas was paid once");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reorganisation_takes_away_is_charged_again() {
    let stack = Stack::start().await;
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=3).await;
    let signer = stack.keeper_signer(100).await;
    stack.fall_due(&ids(&payers)).await;
    let before = stack.chain.head().await.header.number;
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    stack.each_has_paid(&payers, 2).await;
    stack.keeper_rows_become("it is in a block", |rows| rows.len() == 1 && rows[0].status == "mined").await;
    stack.chain.mine(2).await;
    stack.synced().await;
    stack.chain.reorg_from(before + 1, &[]).await;
    stack.chain.mine(1).await;
    eventually(SOON, "the charge of before is gone", || async {
        let rows = stack.ledger.transactions(payers[0].0.address()).await;
        let gone = rows.iter().any(|row| row.status == "failed") || rows[1].block_number > before + 3;
        if gone { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
    stack.each_has_paid(&payers, 2).await;
    stack.chain.mine(dues_tests::FINALITY_DEPTH + 1).await;
    let rows =
        stack.keeper_rows_become("it is final", |rows| rows.iter().all(|row| row.status == "final")).await;
    assert_eq!((rows.len(), stack.chain.pending_nonce(signer.address()).await), (1, 1), "{rows:?}");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_was_emptied_is_past_due_is_tried_again_and_recovers() {
    // The API's clock is the machine's: renewals are to fall due a day before now, and grace to end in six.
    let site = Site::new(Options { external_chain: true, days_behind: 60 }).await;
    let stack = site.start().await;
    let now = dues_tests::now();
    let due = now - chrono::TimeDelta::days(1);
    let anchor = due - chrono::Months::new(1);
    stack.chain.next_block_at(anchor.timestamp()).await;
    let (account, payer) = stack.customer(1).await;
    let (lapsing_account, lapsing) = stack.customer(2).await;
    let basic = stack.plan("basic-month");
    let id =
        event::<Dues::Charged>(&stack.chain.subscribe(&payer, basic.onchain_id, account.reference).await).id;
    let receipt = stack.chain.subscribe(&lapsing, basic.onchain_id, lapsing_account.reference).await;
    let lapsing_id = event::<Dues::Charged>(&receipt).id;
    let merchant = stack.chain.merchant;
    let all = stack.chain.dollars().balanceOf(payer.address()).call().await.unwrap();
    let empty = dues_tests::Token::transferCall { to: merchant, value: all };
    stack.chain.execute(&payer, stack.chain.token, &empty).await;
    stack.chain.approve(&lapsing, 0).await;
    stack.tier_becomes(account.id, "basic").await;

    let signer = stack.keeper_signer(100).await;
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    stack.fall_due(&[id, lapsing_id]).await;
    is_refused(&stack, id, "balance", 1).await;
    is_refused(&stack, lapsing_id, "allowance", 1).await;
    let answer = stack.tier_becomes(account.id, "basic").await;
    assert_eq!(answer["status"], "past_due");
    let refused = &answer["renewal"]["refused"];
    assert_eq!((&refused["reason"], &refused["attempts"]), (&json!("balance"), &json!(1)), "{answer}");
    let at =
        |value: &serde_json::Value| value.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let wait = at(&refused["next_attempt_at"]) - at(&refused["last_attempt_at"]);
    assert!((48..=72).contains(&wait.num_minutes()), "an hour, give or take a fifth: {wait}");

    // Not before its time.
    stack.chain.increase_time(Duration::from_secs(30 * 60)).await;
    stack.chain.mine(1).await;
    stack.synced().await;
    stack.chain.increase_time(Duration::from_secs(60 * 60)).await;
    stack.chain.mine(1).await;
    is_refused(&stack, id, "balance", 2).await;

    // Topped up within grace, it is charged at the next attempt, and for the same period.
    stack.chain.fund(&payer).await;
    stack.chain.increase_time(Duration::from_secs(3 * 3_600)).await;
    stack.chain.mine(1).await;
    stack.charges_become(payer.address(), 2).await;
    eventually(SOON, "the account is active again", || async {
        let answer = stack.api.entitlements(account.id).await;
        let well = answer["status"] == "active" && answer["renewal"]["refused"].is_null();
        if well { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    let rows = stack.ledger.transactions(payer.address()).await;
    assert_eq!(rows[1].start, rows[0].end);

    // The other one lapses, and nothing revives it.
    stack.chain.increase_time(Duration::from_secs(7 * 86_400)).await;
    stack.chain.mine(1).await;
    stack.synced().await;
    stack.chain.approve(&lapsing, 100_000_000).await;
    stack.chain.increase_time(Duration::from_secs(86_400)).await;
    stack.chain.mine(1).await;
    stack.synced().await;
    assert_eq!(stack.keeper_plan().await.found.ready(), 0);
    assert_eq!(stack.ledger.transactions(lapsing.address()).await.len(), 1);
    keeper.stop().await;
}
