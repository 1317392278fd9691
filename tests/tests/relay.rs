//! What payers without ether sign is sent for them, once, and only where the contract takes it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, U256},
    signers::local::PrivateKeySigner,
};
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use dues_chain::contract::{Dues, IDues};
use dues_keeper::KeeperConfig;
use dues_tests::{Account, Answer, RunningKeeper, SOON, Stack, eventually, keeper_config, relay_limits};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use url::Url;

/// An account, and a wallet with dollars, no ether and no allowance.
async fn penniless(stack: &Stack, number: u64) -> (Account, PrivateKeySigner) {
    let account = stack.api.account(&format!("customer-{number}")).await;
    let payer = stack.chain.wallet(number).await;
    stack.chain.set_ether(payer.address(), 0).await;
    stack.chain.fund_from(&stack.chain.merchant_wallet(), payer.address()).await;
    (account, payer)
}

/// A request that subscribes such a wallet, with a permit for ten periods.
async fn subscribe(
    stack: &Stack,
    payer: &PrivateKeySigner,
    account: Account,
    plan: &str,
    nonce: u64,
) -> Value {
    let plan = stack.plan(plan);
    let mut body = stack.chain.relayed_subscribe(payer, plan.onchain_id, account.reference, nonce).await;
    body["permit"] = stack.chain.relayed_permit(payer, plan.onchain_id, 10 * plan.price).await;
    body
}

async fn keeper(stack: &Stack, config: KeeperConfig) -> RunningKeeper {
    let signer = stack.keeper_signer(100).await;
    RunningKeeper::start(stack.keeper(config, &signer).await)
}

async fn id_of(stack: &Stack, payer: Address) -> U256 {
    let rows = stack.ledger.subscriptions(payer).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    U256::from(rows[0].onchain_id.unwrap())
}

async fn refused(stack: &Stack, body: &Value, reason: &str) {
    let answer = stack.api.relay(body).await;
    answer.assert_problem(reason, 422, "relay_refused");
    assert_eq!(answer.body["reason"], reason, "{answer:?}");
    let row = stack.relayed_becomes(&answer, "refused").await;
    assert_eq!((&row["reason"], &row["tx_hash"]), (&json!(reason), &Value::Null));
}

fn intents() -> &'static str {
    "SELECT count(*) FROM ledger.relay_intents"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_without_ether_subscribes_changes_and_cancels_and_the_entitlement_follows() {
    let stack = Stack::start().await;
    let (account, payer) = penniless(&stack, 1).await;
    let keeper = keeper(&stack, keeper_config(&stack)).await;
    let row = stack.relay(&subscribe(&stack, &payer, account, "basic-month", 0).await).await;
    assert_eq!((&row["account_id"], &row["reason"]), (&json!(account.id), &Value::Null));
    let receipt = stack.chain.receipt(row["tx_hash"].as_str().unwrap().parse().unwrap()).await;
    assert_eq!(row["block_hash"], json!(receipt.block_hash));
    assert_eq!(row["gas_used"], receipt.gas_used);
    let fee = u128::from(receipt.gas_used) * receipt.effective_gas_price;
    assert_eq!(row["fee_wei"], fee.to_string());
    stack.tier_becomes(account.id, "basic").await;

    let id = id_of(&stack, payer.address()).await;
    let (basic, premium) = (stack.plan("basic-month"), stack.plan("premium-month"));
    stack.relay(&stack.chain.relayed_change(&payer, id, premium.onchain_id, 1, 1).await).await;
    stack.tier_becomes(account.id, "premium").await;
    let downgrade = stack.chain.relayed_change(&payer, id, basic.onchain_id, 0, 2).await;
    stack.relay(&downgrade).await;
    eventually(SOON, "the change is scheduled", || async {
        let answer = stack.api.entitlements(account.id).await;
        if answer["scheduled_plan"]["plan"] == "basic-month" { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    stack.relay(&stack.chain.relayed_cancel(&payer, id, false, 3)).await;
    eventually(SOON, "it ends with the paid time", || async {
        let answer = stack.api.entitlements(account.id).await;
        if answer["cancel_at_period_end"] == true { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    stack.relay(&stack.chain.relayed_cancel(&payer, id, true, 4)).await;
    stack.tier_becomes(account.id, "free").await;
    assert_eq!(stack.chain.ether(payer.address()).await, U256::ZERO);
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_intent_again_is_the_same_row_and_one_transaction() {
    let stack = Stack::start().await;
    let (account, payer) = penniless(&stack, 1).await;
    let body = subscribe(&stack, &payer, account, "basic-month", 7).await;
    let (one, two) = tokio::join!(stack.api.relay_and_go(&body), stack.api.relay_and_go(&body));
    assert_eq!((one.status, two.status), (202, 202), "{one:?} {two:?}");
    assert_eq!(one.body["id"], two.body["id"]);
    assert_eq!(one.body["status"], "queued", "nobody is there to take it");
    // Another one with the nonce is another matter.
    let other = subscribe(&stack, &payer, account, "premium-month", 7).await;
    stack.api.relay(&other).await.assert_problem("another intent", 409, "nonce_taken");

    let keeper = keeper(&stack, keeper_config(&stack)).await;
    stack.relayed_becomes(&one, "mined").await;
    let again = stack.api.relay(&body).await;
    assert_eq!(
        (again.status, &again.body["id"], &again.body["status"]),
        (200, &one.body["id"], &json!("mined"))
    );
    stack.api.relay(&other).await.assert_problem("another intent", 409, "nonce_taken");
    stack.tier_becomes(account.id, "basic").await;
    assert_eq!(stack.ledger.count(intents()).await, 1);
    assert_eq!(stack.keeper_rows().await.len(), 1);
    assert_eq!(stack.ledger.transactions(payer.address()).await.len(), 1);
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_contract_would_not_take_is_not_sent_and_its_reason_is_the_answer() {
    let stack = Stack::start().await;
    let (account, payer) = penniless(&stack, 1).await;
    let (_, stranger) = penniless(&stack, 2).await;
    let mut config = keeper_config(&stack);
    let keeper = {
        config.relay = Some(relay_limits());
        keeper(&stack, config).await
    };
    let basic = stack.plan("basic-month");

    // Another one's signature, and one of other terms.
    let mut forged = subscribe(&stack, &stranger, account, "basic-month", 0).await;
    forged["intent"]["payer"] = json!(payer.address());
    refused(&stack, &forged, "invalid_signature").await;
    let mut altered = stack.chain.relayed_subscribe(&payer, basic.onchain_id, account.reference, 0).await;
    altered["intent"]["count"] = json!(12);
    refused(&stack, &altered, "invalid_signature").await;
    // Without the permit there is no allowance; with it, and without the money, no balance. Each is another try.
    let body = stack.chain.relayed_subscribe(&payer, basic.onchain_id, account.reference, 0).await;
    refused(&stack, &body, "allowance").await;
    let (_, poor) = (0, stack.chain.wallet(3).await);
    stack.chain.set_ether(poor.address(), 0).await;
    let poor_account = stack.api.account("customer-3").await;
    let body = subscribe(&stack, &poor, poor_account, "basic-month", 0).await;
    refused(&stack, &body, "balance").await;
    stack.chain.fund_from(&stack.chain.merchant_wallet(), poor.address()).await;
    stack.relay(&body).await;
    stack.tier_becomes(poor_account.id, "basic").await;
    let id = id_of(&stack, poor.address()).await;

    let to_itself = stack.chain.relayed_change(&poor, id, basic.onchain_id, 1, 1).await;
    refused(&stack, &to_itself, "plans_unrelated").await;
    stack.relay(&stack.chain.relayed_cancel(&poor, id, true, 1)).await;
    let premium = stack.plan("premium-month").onchain_id;
    let ended = stack.chain.relayed_change(&poor, id, premium, 1, 2).await;
    refused(&stack, &ended, "not_changeable").await;

    let sent = stack.keeper_rows().await;
    assert_eq!(sent.len(), 2, "{sent:?}");
    let kept = "SELECT count(*) FROM ledger.relay_intents WHERE status = 'refused' AND (signature IS NOT NULL OR permit IS NOT NULL)";
    assert_eq!(stack.ledger.count(kept).await, 0, "nobody is to send them later");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_that_the_payer_has_spent_otherwise_and_a_deadline_that_is_over_are_refused() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let basic = stack.plan("basic-month").onchain_id;
    let keeper = keeper(&stack, keeper_config(&stack)).await;
    let void = Dues::invalidateNoncesCall { word: U256::ZERO, mask: U256::from(0b11) };
    stack.chain.execute(&payer, stack.chain.contract, &void).await;
    let body = stack.chain.relayed_subscribe(&payer, basic, account.reference, 1).await;
    refused(&stack, &body, "nonce_spent").await;
    // By the machine's clock it is not over; by the chain's it is.
    let now = dues_tests::now().timestamp();
    let deadline = U256::from(u64::try_from(now).unwrap() + 600);
    let intent =
        IDues::SubscribeIntent { deadline, ..dues_tests::Chain::intent(basic, account.reference, 2) };
    let body = stack.chain.relayed(&payer, intent).await;
    stack.chain.next_block_at(now + 3_600).await;
    stack.chain.mine(1).await;
    let answer = stack.api.relay(&body).await;
    // Whose clock says so first is not the point.
    let is = (answer.status, answer.body["code"].as_str().unwrap(), answer.body["reason"].as_str());
    assert!(
        matches!(is, (422, "relay_refused", Some("expired")) | (422, "intent_expired", None)),
        "{answer:?}"
    );
    let past = IDues::SubscribeIntent {
        deadline: U256::from(u64::try_from(now).unwrap() - 600),
        ..dues_tests::Chain::intent(basic, account.reference, 3)
    };
    let body = stack.chain.relayed(&payer, past).await;
    stack.api.relay(&body).await.assert_problem("over by every clock", 422, "intent_expired");
    assert_eq!(stack.keeper_rows().await, []);
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_that_nobody_sends_expires_and_can_be_handed_in_again() {
    let stack = Stack::start().await;
    let (account, payer) = penniless(&stack, 1).await;
    let body = subscribe(&stack, &payer, account, "basic-month", 0).await;
    let first = stack.api.relay_and_go(&body).await;
    assert_eq!((first.status, &first.body["status"]), (202, &json!("queued")));
    sqlx::query("UPDATE ledger.relay_intents SET expires_at = now()")
        .execute(stack.ledger.pool())
        .await
        .unwrap();
    stack.relayed_becomes(&first, "expired").await;
    // Who comes too late sends nothing.
    let keeper = keeper(&stack, keeper_config(&stack)).await;
    eventually(SOON, "it is noted", || async {
        let noted =
            "SELECT count(*) FROM ledger.relay_intents WHERE status = 'expired' AND signature IS NULL";
        if stack.ledger.count(noted).await == 1 { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;
    assert_eq!(stack.keeper_rows().await, []);
    let row = stack.relay(&body).await;
    assert_ne!(row["id"], first.body["id"]);
    stack.tier_becomes(account.id, "basic").await;
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_and_a_payer_have_so_many_a_day() {
    let stack = Stack::start().await;
    let (account, payer) = penniless(&stack, 1).await;
    let (other, _) = penniless(&stack, 2).await;
    let basic = stack.plan("basic-month").onchain_id;
    let limit = u64::from(relay_limits().per_account_per_day);
    for nonce in 0..limit {
        let body = stack.chain.relayed_subscribe(&payer, basic, account.reference, nonce).await;
        assert_eq!(stack.api.relay_and_go(&body).await.status, 202, "{nonce}");
    }
    let over = |answer: Answer, case: &str| {
        answer.assert_problem(case, 429, "relay_limit_reached");
        let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((86_000..=86_401).contains(&wait), "{wait}");
    };
    stack.synced().await;
    let before = stack.ledger.digest().await;
    let body = stack.chain.relayed_subscribe(&payer, basic, account.reference, limit).await;
    over(stack.api.relay(&body).await, "one more");
    // Not by naming somebody else either, nor by another wallet for the same account.
    let body = stack.chain.relayed_subscribe(&payer, basic, other.reference, limit).await;
    over(stack.api.relay(&body).await, "the payer for another account");
    let second = stack.chain.wallet(9).await;
    let body = stack.chain.relayed_subscribe(&second, basic, account.reference, 0).await;
    over(stack.api.relay(&body).await, "another payer for the account");
    assert_eq!(stack.ledger.digest().await, before);
    // What is there already is not one more.
    let body = stack.chain.relayed_subscribe(&payer, basic, account.reference, 0).await;
    assert_eq!(stack.api.relay_and_go(&body).await.status, 202);
    let body = stack.chain.relayed_subscribe(&second, basic, other.reference, 0).await;
    assert_eq!(stack.api.relay_and_go(&body).await.status, 202, "others have their own");
    // A day later there is room again.
    sqlx::query(
        "UPDATE ledger.relay_intents SET created_at = created_at - interval '24 hours' WHERE nonce = 0",
    )
    .execute(stack.ledger.pool())
    .await
    .unwrap();
    let body = stack.chain.relayed_subscribe(&payer, basic, account.reference, limit).await;
    assert_eq!(stack.api.relay_and_go(&body).await.status, 202);
    let body = stack.chain.relayed_subscribe(&payer, basic, account.reference, limit + 1).await;
    over(stack.api.relay(&body).await, "and no more than one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_sign_in_a_payers_name_uses_up_their_limit_and_not_the_payers() {
    let stack = Stack::start().await;
    let (account, victim) = penniless(&stack, 1).await;
    let (other, _) = penniless(&stack, 2).await;
    let stranger = stack.chain.wallet(3).await;
    let basic = stack.plan("basic-month").onchain_id;
    let keeper = keeper(&stack, keeper_config(&stack)).await;
    for nonce in 0..relay_limits().per_account_per_day.into() {
        let mut forged = stack.chain.relayed_subscribe(&stranger, basic, other.reference, nonce).await;
        forged["intent"]["payer"] = json!(victim.address());
        refused(&stack, &forged, "invalid_signature").await;
    }
    let more = stack.chain.relayed_subscribe(&stranger, basic, other.reference, 9).await;
    stack.api.relay(&more).await.assert_problem("one more", 429, "relay_limit_reached");
    stack.relay(&subscribe(&stack, &victim, account, "basic-month", 0).await).await;
    stack.tier_becomes(account.id, "basic").await;
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_refuses_a_row_that_says_two_things() {
    let stack = Stack::start().await;
    let (account, payer) = penniless(&stack, 1).await;
    let body = subscribe(&stack, &payer, account, "basic-month", 0).await;
    assert_eq!(stack.api.relay_and_go(&body).await.status, 202);
    for (change, constraint) in [
        ("status = 'sent'", "relay_intents_status_known"),
        ("status = 'refused'", "relay_intents_reason_if_refused"),
        ("reason = 'balance'", "relay_intents_reason_if_refused"),
        ("signature = NULL", "relay_intents_signature_kept"),
        ("status = 'sending'", "relay_intents_sent"),
        ("sent_at = now()", "relay_intents_sent"),
        ("gas_used = 1", "relay_intents_in_a_block"),
        (
            "status = 'mined', sent_at = now(), tx_hash = decode(repeat('11', 32), 'hex'), gas_limit = 1",
            "relay_intents_in_a_block",
        ),
        ("nonce = -1", "relay_intents_numbers"),
        ("payer = decode('11', 'hex')", "relay_intents_widths"),
        ("kind = 'call'", "relay_intents_kind_known"),
        ("account_id = gen_random_uuid()", "relay_intents_account_id_fkey"),
    ] {
        let sql = sqlx::AssertSqlSafe(format!("UPDATE ledger.relay_intents SET {change}"));
        let error = sqlx::query(sql).execute(stack.ledger.pool()).await.unwrap_err();
        let refused_by = error.as_database_error().unwrap().constraint().unwrap_or_default().to_owned();
        assert_eq!(refused_by, constraint, "{change}");
    }
    let twice = "INSERT INTO ledger.relay_intents (id, account_id, chain_id, contract, payer, kind, nonce, intent, signature,
                                                   expires_at)
                 SELECT gen_random_uuid(), account_id, chain_id, contract, payer, kind, nonce, intent, signature, expires_at
                 FROM ledger.relay_intents";
    let error = sqlx::query(twice).execute(stack.ledger.pool()).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().constraint(), Some("relay_intents_nonce_once"));
}

#[tokio::test(flavor = "multi_thread")]
async fn gas_is_spent_up_to_the_budget_and_an_intent_gets_no_more_than_it_may() {
    let stack = Stack::start().await;
    let mut config = keeper_config(&stack);
    let mut limits = relay_limits();
    limits.max_gas_per_intent = 60_000;
    config.relay = Some(limits);
    let narrow = keeper(&stack, config.clone()).await;
    let (account, payer) = penniless(&stack, 1).await;
    let body = subscribe(&stack, &payer, account, "basic-month", 0).await;
    refused(&stack, &body, "gas_above_limit").await;
    narrow.stop().await;

    // Enough for one, not for two.
    limits.max_gas_per_intent = 300_000;
    limits.gas_budget_per_day = 300_000;
    config.relay = Some(limits);
    let poor = keeper(&stack, config).await;
    stack.relay(&body).await;
    let (other, second) = penniless(&stack, 2).await;
    let body = subscribe(&stack, &second, other, "basic-month", 0).await;
    let answer = stack.api.relay(&body).await;
    answer.assert_problem("above the keeper's budget", 503, "relay_budget_spent");
    assert_eq!(stack.keeper_rows().await.len(), 1);
    poor.stop().await;

    // The API knows when there is nothing left, and hands nothing in then.
    sqlx::query("UPDATE ledger.relay_intents SET gas_used = 20000000 WHERE status = 'mined'")
        .execute(stack.ledger.pool())
        .await
        .unwrap();
    stack.synced().await;
    let before = stack.ledger.digest().await;
    let answer = stack.api.relay(&body).await;
    answer.assert_problem("above the API's budget", 503, "relay_budget_spent");
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((86_000..=86_401).contains(&wait), "{wait}");
    assert_eq!(stack.ledger.digest().await, before);
    sqlx::query(
        "UPDATE ledger.relay_intents SET sent_at = sent_at - interval '24 hours' WHERE status = 'mined'",
    )
    .execute(stack.ledger.pool())
    .await
    .unwrap();
    assert_eq!(stack.api.relay_and_go(&body).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reverts_in_its_block_is_refused_with_the_reason_and_counts() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let body = stack
        .chain
        .relayed_subscribe(&payer, stack.plan("basic-month").onchain_id, account.reference, 0)
        .await;
    stack.chain.automine(false).await;
    let keeper = keeper(&stack, keeper_config(&stack)).await;
    let answer = stack.api.relay(&body).await;
    assert_eq!((answer.status, &answer.body["status"]), (202, &json!("sending")), "{answer:?}");
    stack.chain.pending_becomes(1).await;
    // A payer that means ill is faster: its own transaction pays the miner more.
    let void = Dues::invalidateNoncesCall { word: U256::ZERO, mask: U256::ONE };
    let tx = stack.chain.sign(&payer, stack.chain.contract, &void).await;
    stack.chain.send(&tx).await;
    stack.chain.pending_becomes(2).await;
    stack.chain.mine(1).await;
    assert_eq!(stack.chain.receipt(tx.hash).await.transaction_index, Some(0), "it was before ours");
    let row = stack.relayed_becomes(&answer, "refused").await;
    assert_eq!(row["reason"], "nonce_spent");
    assert!(row["gas_used"].as_u64().unwrap() > 20_000 && row["tx_hash"].is_string(), "{row}");
    let counted = "SELECT count(*) FROM ledger.relay_intents WHERE gas_used > 20000 AND sent_at IS NOT NULL";
    assert_eq!(stack.ledger.count(counted).await, 1);
    assert_eq!(stack.keeper_rows().await[0].succeeded, Some(false));
    assert_eq!(stack.api.entitlements(account.id).await["tier"], "free");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_intents_of_one_payer_go_one_after_the_other() {
    let stack = Stack::start().await;
    let (account, payer) = penniless(&stack, 1).await;
    let (gift, _) = penniless(&stack, 2).await;
    // Enough for one of them.
    let basic = stack.plan("basic-month");
    stack.chain.set_ether(payer.address(), 10_u128.pow(18)).await;
    stack.chain.approve(&payer, basic.price + 1).await;
    stack.chain.set_ether(payer.address(), 0).await;
    let one = stack.chain.relayed_subscribe(&payer, basic.onchain_id, account.reference, 0).await;
    let two = stack.chain.relayed_subscribe(&payer, basic.onchain_id, gift.reference, 1).await;
    let (one, two) = (stack.api.relay_and_go(&one).await, stack.api.relay_and_go(&two).await);
    let keeper = keeper(&stack, keeper_config(&stack)).await;
    stack.relayed_becomes(&one, "mined").await;
    let second = stack.relayed_becomes(&two, "refused").await;
    assert_eq!(second["reason"], "allowance");
    assert_eq!(stack.keeper_rows().await.len(), 1, "no gas was burnt");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_keepers_one_sends_and_the_other_takes_over() {
    let stack = Stack::start().await;
    let (one_signer, two_signer) = (stack.keeper_signer(100).await, stack.keeper_signer(101).await);
    let one = RunningKeeper::start(stack.keeper(keeper_config(&stack), &one_signer).await);
    let two = RunningKeeper::start(stack.keeper(keeper_config(&stack), &two_signer).await);
    for number in 1..=4 {
        let (account, payer) = penniless(&stack, number).await;
        stack.relay(&subscribe(&stack, &payer, account, "basic-month", 0).await).await;
        stack.tier_becomes(account.id, "basic").await;
    }
    assert_eq!(stack.keeper_rows().await.len(), 4);
    one.kill().await;
    let (account, payer) = penniless(&stack, 5).await;
    stack.relay(&subscribe(&stack, &payer, account, "basic-month", 0).await).await;
    assert_eq!(stack.keeper_rows().await.len(), 5);
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_sent_beside_renewals_and_before_them() {
    let stack = Stack::start().await;
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=3).await;
    let ids: Vec<_> = payers.iter().map(|(_, id)| *id).collect();
    stack.fall_due(&ids).await;
    let (account, payer) = penniless(&stack, 10).await;
    let body = subscribe(&stack, &payer, account, "basic-month", 0).await;
    let answer = stack.api.relay_and_go(&body).await;
    let keeper = keeper(&stack, keeper_config(&stack)).await;
    stack.relayed_becomes(&answer, "mined").await;
    stack.each_has_paid(&payers, 2).await;
    let rows = stack.keeper_rows().await;
    assert_eq!((rows.len(), rows[0].onchain_ids.len()), (2, 0), "{rows:?}");
    keeper.stop().await;
}

/// A node in front of the chain that takes transactions and loses them.
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
        let request = node.client.post(node.to.clone()).header("content-type", "application/json").body(body);
        (StatusCode::OK, request.send().await.unwrap().bytes().await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_record_and_the_node_it_is_sent_once() {
    let stack = Stack::start().await;
    let (account, payer) = penniless(&stack, 1).await;
    let signer = stack.keeper_signer(100).await;
    let (node, url) = Lossy::start(stack.node()).await;
    let keeper = RunningKeeper::start(stack.keeper_at(url, keeper_config(&stack), &signer).await);
    let body = subscribe(&stack, &payer, account, "basic-month", 0).await;
    let answer = stack.api.relay(&body).await;
    assert_eq!(answer.body["status"], "sending", "{answer:?}");
    eventually(SOON, "a transaction is lost on the way", || async {
        if node.lost.load(Ordering::SeqCst) > 0 { Ok(()) } else { Err("none is".to_owned()) }
    })
    .await;
    keeper.kill().await;
    let recorded = stack.keeper_rows().await;
    assert_eq!((recorded.len(), recorded[0].status.as_str()), (1, "open"));
    assert_eq!(stack.api.relay(&body).await.body["id"], answer.body["id"], "handed in again, it is the same");

    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    let row = stack.relayed_becomes(&answer, "mined").await;
    assert_eq!(row["tx_hash"], answer.body["tx_hash"], "the very same bytes");
    stack.tier_becomes(account.id, "basic").await;
    assert_eq!(stack.keeper_rows().await.len(), 1);
    assert_eq!(stack.chain.pending_nonce(signer.address()).await, 1, "gas was paid once");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_intent_is_replaced_by_itself_with_higher_fees() {
    const GWEI: u64 = 1_000_000_000;
    let stack = Stack::start().await;
    let (account, payer) = penniless(&stack, 1).await;
    stack.chain.automine(false).await;
    stack.chain.base_fee(GWEI).await;
    stack.chain.mine(1).await;
    let keeper = keeper(&stack, keeper_config(&stack)).await;
    let answer = stack.api.relay(&subscribe(&stack, &payer, account, "basic-month", 0).await).await;
    assert_eq!(answer.body["status"], "sending", "{answer:?}");
    eventually(SOON, "it is replaced", || async {
        stack.chain.base_fee(30 * GWEI).await;
        stack.chain.mine(1).await;
        let rows = stack.keeper_rows().await;
        if rows.len() > 1 { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
    eventually(SOON, "it is in a block", || async {
        stack.chain.base_fee(20 * GWEI).await;
        stack.chain.mine(1).await;
        let row = stack.api.get(answer.headers["location"].to_str().unwrap()).await.ok();
        if row["status"] == "mined" && row["tx_hash"] != answer.body["tx_hash"] {
            Ok(())
        } else {
            Err(row.to_string())
        }
    })
    .await;
    stack.tier_becomes(account.id, "basic").await;
    assert_eq!(stack.ledger.transactions(payer.address()).await.len(), 1);
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_of_the_keepers_that_somebody_else_has_used_does_not_lose_the_intent() {
    let stack = Stack::start().await;
    let (account, payer) = penniless(&stack, 1).await;
    let wallet = stack.chain.wallet(100).await;
    let signer = dues_tests::signer(&wallet);
    stack.chain.automine(false).await;
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    let answer = stack.api.relay(&subscribe(&stack, &payer, account, "basic-month", 0).await).await;
    stack.chain.pending_becomes(1).await;
    keeper.kill().await;
    stack.chain.rpc("anvil_dropAllTransactions", json!([])).await;
    stack.chain.automine(true).await;
    stack.chain.approve(&wallet, 1).await;
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    eventually(SOON, "it is sent with another nonce", || async {
        stack.chain.mine(1).await;
        let rows = stack.keeper_rows().await;
        if rows[0].status == "superseded" { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
    stack.relayed_becomes(&answer, "mined").await;
    stack.tier_becomes(account.id, "basic").await;
    let nonces: Vec<_> = stack.keeper_rows().await.iter().map(|row| row.nonce).collect();
    assert_eq!(nonces, [0, 1]);
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reorganisation_takes_away_is_under_way_again() {
    let stack = Stack::start().await;
    let (account, payer) = penniless(&stack, 1).await;
    let before = stack.chain.head().await.header.number;
    let keeper = keeper(&stack, keeper_config(&stack)).await;
    let body = subscribe(&stack, &payer, account, "basic-month", 0).await;
    let answer = stack.api.relay(&body).await;
    let first = stack.relayed_becomes(&answer, "mined").await;
    stack.chain.mine(2).await;
    stack.synced().await;
    stack.chain.reorg_from(before + 1, &[]).await;
    stack.chain.mine(1).await;
    eventually(SOON, "it is in another block", || async {
        let row = stack.api.get(answer.headers["location"].to_str().unwrap()).await.ok();
        let again = row["status"] == "mined" && row["block_hash"] != first["block_hash"];
        if again { Ok(()) } else { Err(row.to_string()) }
    })
    .await;
    stack.tier_becomes(account.id, "basic").await;
    assert_eq!(stack.keeper_rows().await.len(), 1);
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_money_for_gas_it_waits_and_goes_on_afterwards() {
    let stack = Stack::start().await;
    let (account, payer) = penniless(&stack, 1).await;
    let signer = stack.keeper_signer(100).await;
    stack.chain.set_ether(signer.address(), 0).await;
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    let body = subscribe(&stack, &payer, account, "basic-month", 0).await;
    let request = stack.api.request(reqwest::Method::POST, "/v1/relay").header("prefer", "wait=1");
    let answer = Answer::to(request.bearer_auth(stack.api.key()).json(&body)).await;
    assert_eq!((answer.status, &answer.body["status"]), (202, &json!("queued")), "{answer:?}");
    assert_eq!(stack.keeper_rows().await, []);
    stack.chain.set_ether(signer.address(), 10_u128.pow(18)).await;
    stack.relayed_becomes(&answer, "mined").await;
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_is_taken_up_when_it_is_handed_in_and_not_at_the_next_look() {
    let stack = Stack::start().await;
    let (account, payer) = penniless(&stack, 1).await;
    let mut config = keeper_config(&stack);
    config.poll_interval = Duration::from_secs(3_600);
    let keeper = keeper(&stack, config).await;
    eventually(SOON, "somebody listens", || async {
        let listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        if stack.ledger.count(listening).await == 1 { Ok(()) } else { Err("nobody does".to_owned()) }
    })
    .await;
    let answer = stack.api.relay(&subscribe(&stack, &payer, account, "basic-month", 0).await).await;
    assert_eq!(answer.body["status"], "sending", "{answer:?}");
    keeper.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_wallet_brings_its_intents_along() {
    let stack = Stack::start().await;
    let (account, payer) = penniless(&stack, 1).await;
    let keeper = keeper(&stack, keeper_config(&stack)).await;
    // A wallet that has paid for nobody gets an account, and names it the next time by itself.
    let plan = stack.plan("basic-month").onchain_id;
    let nobody = B256::repeat_byte(9);
    let mut body = stack.chain.relayed_subscribe(&payer, plan, nobody, 0).await;
    stack.api.relay(&body).await.assert_problem("nobody's", 404, "account_not_found");
    let direct = stack.chain.payer(5).await;
    stack.chain.subscribe(&direct, plan, nobody).await;
    stack.synced().await;
    body = stack.chain.relayed_subscribe(&direct, plan, nobody, 0).await;
    let row = stack.relay(&body).await;
    assert_eq!(stack.api.link(account.id, direct.address()).await.status, 201);
    let row = stack.api.get(&format!("/v1/relay/{}", row["id"].as_str().unwrap())).await.ok();
    assert_eq!(row["account_id"], json!(account.id));
    keeper.stop().await;
}
