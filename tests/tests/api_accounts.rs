//! Accounts and wallets over the API: repeating is safe, at once or one after the other.

use std::collections::BTreeSet;

use alloy::primitives::Address;
use dues_tests::Stack;
use futures::future::join_all;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn an_upsert_can_be_repeated_and_changes_only_what_it_names() {
    let stack = Stack::start().await;
    let made =
        stack.api.post("/v1/accounts", &json!({ "external_id": "ada-2", "email": "a@example.org" })).await;
    assert_eq!(made.status, 201);
    let again = stack.api.post("/v1/accounts", &json!({ "external_id": "ada-2" })).await;
    assert_eq!((again.status, &again.body), (200, &made.body));
    let changed =
        stack.api.post("/v1/accounts", &json!({ "external_id": "ada-2", "email": "b@example.org" })).await;
    assert_eq!((changed.status, &changed.body["email"]), (200, &json!("b@example.org")));
    assert_eq!(changed.body["id"], made.body["id"]);
    let id = made.body["id"].as_str().unwrap();
    assert_eq!(stack.api.get(&format!("/v1/accounts/{id}")).await.ok(), changed.body);
    assert_eq!(stack.api.get("/v1/accounts?external_id=ada-2").await.ok(), changed.body);
    // Ids are the platform's: any text, told apart to the letter.
    for other in ["ADA-2", "ada-2 ", "ада-2", &"x".repeat(255), &"é".repeat(255)] {
        let other = stack.api.post("/v1/accounts", &json!({ "external_id": other })).await;
        assert_eq!(other.status, 201, "{other:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_upserts_of_one_external_id_at_once_make_one_account() {
    let stack = Stack::start().await;
    let before = stack.ledger.count("SELECT count(*) FROM ledger.accounts").await;
    let body = json!({ "external_id": "crowd", "email": "crowd@example.org" });
    let answers = join_all((0..50).map(|_| stack.api.post("/v1/accounts", &body))).await;
    let ids: BTreeSet<String> =
        answers.iter().map(|answer| answer.body["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 1);
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!((statuses[0], statuses[48], statuses[49]), (200, 200, 201), "made once, found 49 times");
    assert_eq!(stack.ledger.count("SELECT count(*) FROM ledger.accounts").await, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_accounts_that_link_one_wallet_at_once_exactly_one_wins() {
    let stack = Stack::start().await;
    let (one, two) = (stack.api.account("one").await, stack.api.account("two").await);
    for round in 1..=20 {
        let wallet = Address::with_last_byte(round);
        let (first, second) = tokio::join!(stack.api.link(one.id, wallet), stack.api.link(two.id, wallet));
        let (winner, loser) = if first.status == 201 { (&first, &second) } else { (&second, &first) };
        assert_eq!(winner.status, 201, "{first:?} {second:?}");
        loser.assert_problem("the loser", 409, "wallet_taken");
        let found = stack.api.get(&format!("/v1/accounts?wallet={wallet}")).await.ok();
        assert_eq!(found["id"], winner.body["id"]);
    }
    let links =
        "SELECT count(*) FROM ledger.audit_log WHERE action = 'wallet.link' AND actor LIKE 'api_key:%'";
    assert_eq!(stack.ledger.count(links).await, 20, "one entry per link, none per refusal");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_accounts_that_claim_a_paying_wallet_at_once_exactly_one_gets_it_all() {
    const ROUNDS: u64 = 10;
    let stack = Stack::start().await;
    let plan = stack.plan("premium-month").onchain_id;
    let mut payers = Vec::new();
    for round in 1..=ROUNDS {
        let payer = stack.chain.payer(round).await;
        for _ in 0..2 {
            stack.chain.subscribe(&payer, plan, alloy::primitives::B256::ZERO).await;
        }
        payers.push(payer.address());
    }
    stack.synced().await;
    for (round, payer) in payers.into_iter().enumerate() {
        let one = stack.api.account(&format!("one-{round}")).await;
        let two = stack.api.account(&format!("two-{round}")).await;
        let (first, second) = tokio::join!(stack.api.link(one.id, payer), stack.api.link(two.id, payer));
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409], "round {round}: {first:?} {second:?}");
        let (winner, loser) = if first.status == 201 { (one, two) } else { (two, one) };
        assert_eq!(stack.api.entitlements(winner.id).await["tier"], "premium");
        assert_eq!(stack.api.transactions(winner.id).await.len(), 2);
        assert_eq!(stack.api.entitlements(loser.id).await["tier"], "free");
    }
    let left = "SELECT count(*) FROM ledger.accounts WHERE origin = 'wallet'";
    assert_eq!(stack.ledger.count(left).await, 0, "the anonymous accounts are gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_is_found_in_any_spelling_and_an_account_has_many() {
    let stack = Stack::start().await;
    let account = stack.api.account("many").await;
    let wallets = [Address::repeat_byte(0xab), Address::repeat_byte(0xcd)];
    for wallet in wallets {
        let lower = json!({ "address": wallet.to_string().to_lowercase() });
        let linked = stack.api.post(&format!("/v1/accounts/{}/wallets", account.id), &lower).await;
        assert_eq!(linked.status, 201);
    }
    let digits = wallets[0].to_string()[2..].to_owned();
    for spelling in [digits.clone(), digits.to_lowercase(), digits.to_uppercase()] {
        let found = stack.api.get(&format!("/v1/accounts?wallet=0x{spelling}")).await.ok();
        let addresses: Vec<&Value> =
            found["wallets"].as_array().unwrap().iter().map(|wallet| &wallet["address"]).collect();
        assert_eq!(addresses, [&json!(wallets[0].to_string()), &json!(wallets[1].to_string())]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_transactions_are_complete_and_in_order() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let plan = stack.plan("basic-month").onchain_id;
    // Several in a block, so that they share an instant.
    for _ in 0..3 {
        stack.chain.automine(false).await;
        for _ in 0..2 {
            let tx = stack.chain.sign_subscribe(&payer, plan, account.reference).await;
            stack.chain.send(&tx).await;
        }
        stack.chain.mine(1).await;
    }
    stack.chain.automine(true).await;
    stack.synced().await;
    let whole = stack.api.transactions(account.id).await;
    assert_eq!(whole.len(), 6);
    let times: Vec<_> = whole.iter().map(|t| t["occurred_at"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    for limit in [1, 2, 4, 5, 6] {
        let (mut paged, mut cursor) = (Vec::new(), Value::Null);
        loop {
            let mut path = format!("/v1/accounts/{}/transactions?limit={limit}", account.id);
            if let Some(cursor) = cursor.as_str() {
                path.push_str(&format!("&cursor={cursor}"));
            }
            let page = stack.api.get(&path).await.ok();
            assert!(page["data"].as_array().unwrap().len() <= limit);
            paged.extend(page["data"].as_array().unwrap().clone());
            cursor = page["next_cursor"].clone();
            if cursor.is_null() {
                break;
            }
        }
        assert_eq!(paged, whole, "by {limit}");
    }
}
