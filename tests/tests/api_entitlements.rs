//! Asking for many accounts at once, and asking again for what one has already.

use alloy::primitives::Address;
use dues_tests::{Answer, ApiServer, Database, SOON, Stack, eventually};
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use uuid::Uuid;

/// The answer, without the instant that it is about.
fn timeless(mut answer: Value) -> Value {
    assert!(answer.as_object_mut().unwrap().remove("as_of").is_some());
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_says_of_each_account_what_it_would_be_answered_alone() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let other = stack.api.account("customer-2").await;
    assert_eq!(stack.api.link(account.id, payer.address()).await.status, 201);
    stack.chain.subscribe(&payer, stack.plan("premium-month").onchain_id, account.reference).await;
    stack.tier_becomes(account.id, "premium").await;
    let event = json!({ "external_id": "customer-1", "event_id": "one", "requests": 1, "tokens": 523 });
    assert_eq!(stack.api.post("/v1/usage", &event).await.status, 200);

    let (nobody, mixed) = (Uuid::now_v7(), json!({ "external_id": "customer-1", "account_id": account.id }));
    let accounts = json!([
        { "external_id": "customer-1" },
        { "account_id": other.id },
        { "wallet": payer.address() },
        { "account_id": nobody },
        { "external_id": "customer-1" },
        { "external_id": "nul\u{0}" },
        { "wallet": "0x12" },
        { "wallet": Address::repeat_byte(0x55) },
        { "account_id": "customer-1" },
        {},
        mixed,
        { "external_id": 42 },
        { "external_id": "customer-1", "admin": true },
        "customer-1",
        null,
    ]);
    let batch = stack.api.post("/v1/entitlements/batch", &json!({ "accounts": accounts })).await.ok();
    let results = batch["results"].as_array().unwrap();
    assert_eq!(results.len(), accounts.as_array().unwrap().len());
    let alone = timeless(stack.api.entitlements(account.id).await);
    for index in [0, 2, 4] {
        assert_eq!(timeless(results[index].clone()), alone, "{index}");
    }
    assert_eq!(alone["meters"]["tokens"]["used"], 523);
    assert_eq!(timeless(results[1].clone()), timeless(stack.api.entitlements(other.id).await));
    let problems: Vec<_> =
        results.iter().map(|result| (result["status"].as_u64(), result["code"].as_str())).collect();
    for (index, status, code) in [
        (3, 404, "account_not_found"),
        (5, 404, "account_not_found"),
        (6, 400, "invalid_address"),
        (7, 404, "account_not_found"),
        (8, 422, "invalid_body"),
        (9, 422, "invalid_body"),
        (10, 422, "invalid_body"),
        (11, 422, "invalid_body"),
        (12, 422, "invalid_body"),
        (13, 422, "invalid_body"),
        (14, 422, "invalid_body"),
    ] {
        assert_eq!(problems[index], (Some(status), Some(code)), "{}: {}", accounts[index], results[index]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_accounts_are_answered_in_their_order() {
    let database = Database::fresh().await;
    let server = ApiServer::start(&database).await;
    sqlx::query(
        "INSERT INTO ledger.accounts (id, external_id, origin)
         SELECT gen_random_uuid(), 'user-' || n, 'platform' FROM generate_series(1, 1000) n",
    )
    .execute(dues_tests::Ledger::new(&database).pool())
    .await
    .unwrap();
    let names: Vec<String> = (1..=1_000).rev().map(|number| format!("user-{number}")).collect();
    let accounts: Vec<Value> = names.iter().map(|name| json!({ "external_id": name })).collect();
    for _ in 0..2 {
        let answer = server.api.post("/v1/entitlements/batch", &json!({ "accounts": accounts })).await.ok();
        let answered: Vec<_> = answer["results"].as_array().unwrap().iter().collect();
        assert_eq!(answered.len(), 1_000);
        for (result, name) in answered.iter().zip(&names) {
            assert_eq!(
                (result["account"]["external_id"].as_str(), &result["tier"]),
                (Some(&**name), &json!("free"))
            );
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_caller_has_is_not_sent_again_until_it_changes() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let paths = [
        format!("/v1/accounts/{}/entitlements", account.id),
        "/v1/entitlements?external_id=customer-1".into(),
    ];
    let ask = async |path: &str, tag: &str| {
        let request = stack.api.request(Method::GET, path).bearer_auth(stack.api.key());
        Answer::to(request.header("if-none-match", tag)).await
    };
    let tag = |headers: &HeaderMap| headers["etag"].to_str().unwrap().to_owned();

    let first = stack.api.get(&paths[0]).await;
    let free = tag(&first.headers);
    assert!(free.starts_with("W/\"") && first.headers["cache-control"] == "private, no-cache", "{first:?}");
    for path in &paths {
        let again = ask(path, &format!("\"other\", {free}")).await;
        assert_eq!(
            (again.status, &again.body, tag(&again.headers)),
            (304, &Value::Null, free.clone()),
            "{path}"
        );
        assert_eq!(again.headers["cache-control"], "private, no-cache");
        assert_eq!(ask(path, "\"other\"").await.status, 200);
    }
    // Whoever may not read it is not told that it has not changed, either.
    let request = stack.api.request(Method::GET, &paths[0]).header("if-none-match", &free);
    Answer::to(request).await.assert_problem("without a key", 401, "unauthenticated");

    // What is used changes it, and so does a payment.
    let event = json!({ "external_id": "customer-1", "event_id": "one", "requests": 1 });
    assert_eq!(stack.api.post("/v1/usage", &event).await.status, 200);
    let used = ask(&paths[0], &free).await;
    assert_eq!((used.status, &used.body["meters"]["requests"]["used"]), (200, &json!(1)));
    let used = tag(&used.headers);
    stack.chain.subscribe(&payer, stack.plan("basic-month").onchain_id, account.reference).await;
    eventually(SOON, "the tag changes with the tier", || async {
        let answer = ask(&paths[1], &used).await;
        if answer.status == 304 {
            return Err("not modified".to_owned());
        }
        assert_eq!((answer.status, answer.body["tier"].as_str()), (200, Some("basic")));
        assert_ne!(tag(&answer.headers), used);
        Ok(())
    })
    .await;
}
