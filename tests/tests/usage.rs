//! What is used is counted exactly: whoever counts, however many of them, and however often they ask.

use std::collections::BTreeSet;

use dues_tests::{Answer, Api, ApiServer, Database, Ledger, MovableClock, Stack};
use futures::future::join_all;
use serde_json::{Value, json};

/// `POST /v1/usage` of one account.
async fn consume(api: &Api, event: &str, requests: u64, tokens: u64) -> Answer {
    let body = json!({ "external_id": "user-42", "event_id": event, "requests": requests, "tokens": tokens });
    api.post("/v1/usage", &body).await
}

async fn sum(ledger: &Ledger, what: &'static str) -> i64 {
    ledger.count(what).await
}

const USED: &str = "SELECT sum(requests_used)::bigint FROM usage.windows";
const EVENTS: &str = "SELECT coalesce(sum(requests), 0)::bigint FROM usage.events";
const STATS: &str = "SELECT coalesce(sum(requests), 0)::bigint FROM usage.stats";

/// An event is counted in the counters, as an event and in the statistics, or nowhere.
async fn counted(database: &Database) -> i64 {
    let ledger = Ledger::new(database);
    let (used, events, stats) =
        (sum(&ledger, USED).await, sum(&ledger, EVENTS).await, sum(&ledger, STATS).await);
    assert_eq!((used, used), (events, stats));
    used
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_used_to_the_last_one_and_the_answer_says_what_would_help() {
    let database = Database::fresh().await;
    let clock = MovableClock::at("2027-03-10T10:00:00Z");
    let server = ApiServer::at(&database, &clock).await;
    let account = server.api.account("user-42").await;
    let first = consume(&server.api, "1", 1, 9_000).await.ok();
    assert_eq!(first["allowed"], true);
    let resets_at = first["meters"]["tokens"]["resets_at"].clone();
    assert_eq!(
        first["meters"]["tokens"],
        json!({ "limit": 10_000, "used": 9_000, "reserved": 0, "remaining": 1_000, "hard_limit": 10_000,
                "overage": 0, "resets_at": resets_at })
    );
    let refused = consume(&server.api, "2", 1, 1_001).await;
    refused.assert_problem("too many tokens", 402, "quota_exceeded");
    assert_eq!(refused.body["meter"], "tokens");
    assert_eq!(refused.body["upgrade_to"], json!(["basic", "premium", "enterprise"]));
    assert_eq!(refused.body["meters"], first["meters"], "all meters or none");
    let refused = consume(&server.api, "2", 1, 600_000).await;
    assert_eq!(refused.body["upgrade_to"], json!(["premium", "enterprise"]));
    let refused = consume(&server.api, "2", 200, 600_000).await;
    assert_eq!(refused.body["meter"], "requests", "the first one that has no room");
    // What was refused is not remembered, and the last one fits.
    let last = consume(&server.api, "2", 1, 1_000).await.ok();
    assert_eq!(last["meters"]["tokens"]["remaining"], 0);
    assert_eq!(consume(&server.api, "3", 0, 1).await.status, 402);
    assert_eq!(consume(&server.api, "3", 1, 0).await.status, 200, "the other meter has room");
    let entitled = server.api.entitlements(account.id).await;
    assert_eq!(entitled["meters"]["requests"]["used"], 3);
    assert_eq!(entitled["meters"]["tokens"]["used"], 10_000);
    assert_eq!(entitled["meters"]["tokens"]["resets_at"], resets_at);
    assert_eq!(counted(&database).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_servers_that_consume_one_account_never_pass_its_limit_by_one() {
    let database = Database::fresh().await;
    let servers = [
        ApiServer::start(&database).await,
        ApiServer::start(&database).await,
        ApiServer::start(&database).await,
    ];
    servers[0].api.account("user-42").await;
    // 100 requests are free; each server is asked for 80, all at once.
    let calls = (0..240).map(|n| {
        let api = &servers[n % 3].api;
        async move { consume(api, &format!("e{n}"), 1, 1).await.status }
    });
    let statuses = join_all(calls).await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 100, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 200 | 402)), "{statuses:?}");
    assert_eq!(counted(&database).await, 100);
    // The next one that asks is refused wherever it asks.
    for server in &servers {
        assert_eq!(consume(&server.api, "late", 1, 0).await.status, 402);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_counted_once_wherever_and_however_often_it_is_sent() {
    let database = Database::fresh().await;
    let clock = MovableClock::at("2027-03-10T10:00:00Z");
    let servers = [ApiServer::at(&database, &clock).await, ApiServer::at(&database, &clock).await];
    servers[0].api.account("user-42").await;
    // 20 events, each six times, over both servers at once.
    let calls = (0..120).map(|n| {
        let api = &servers[n % 2].api;
        async move { (n / 6, consume(api, &format!("e{}", n / 6), 1, 7).await) }
    });
    let answers = join_all(calls).await;
    assert_eq!(counted(&database).await, 20);
    for event in 0..20 {
        let of_event: Vec<_> = answers.iter().filter(|(of, _)| *of == event).map(|(_, a)| a).collect();
        let bodies: BTreeSet<_> = of_event.iter().map(|a| a.body.to_string()).collect();
        assert_eq!(bodies.len(), 1, "one answer: {bodies:?}");
        let first = of_event.iter().filter(|a| !a.headers.contains_key("idempotent-replayed"));
        assert_eq!(first.count(), 1, "one of them counted it");
        assert!(of_event.iter().all(|a| a.status == 200));
    }
    // Its answer stays what it was, whatever is used after it.
    let answer = consume(&servers[0].api, "x", 1, 1).await.ok();
    assert_eq!(consume(&servers[0].api, "y", 5, 5).await.status, 200);
    clock.move_to("2027-03-10T18:00:00Z");
    assert_eq!(consume(&servers[1].api, "x", 1, 1).await.ok(), answer);
    // Another quantity under the same id is no repetition.
    consume(&servers[1].api, "x", 2, 1).await.assert_problem("another quantity", 409, "event_id_conflict");
    assert_eq!(counted(&database).await, 26);
    // Another account's events are its own.
    servers[0].api.account("user-43").await;
    let other = json!({ "external_id": "user-43", "event_id": "x", "requests": 9 });
    assert_eq!(servers[0].api.post("/v1/usage", &other).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_repeated_in_the_next_month_is_counted_once() {
    let database = Database::fresh().await;
    let clock = MovableClock::at("2027-03-31T23:59:59.900Z");
    let server = ApiServer::at(&database, &clock).await;
    server.api.account("user-42").await;
    let answer = consume(&server.api, "1", 1, 1).await.ok();
    clock.move_to("2027-04-30T23:00:00Z");
    assert_eq!(consume(&server.api, "1", 1, 1).await.ok(), answer);
    // Also by a server whose clock is still in the month before.
    assert_eq!(consume(&server.api, "2", 1, 1).await.status, 200);
    let behind = MovableClock::at("2027-03-31T23:59:59.950Z");
    let slow = ApiServer::at(&database, &behind).await;
    assert_eq!(consume(&slow.api, "1", 1, 1).await.ok(), answer);
    assert_eq!(sum(&Ledger::new(&database), EVENTS).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_keeps_the_window_and_what_was_used_in_it() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let event =
        |id: &str, requests: u64| json!({ "account_id": account.id, "event_id": id, "requests": requests });
    let used = stack.api.post("/v1/usage", &event("1", 90)).await.ok();
    assert_eq!(stack.api.post("/v1/usage", &event("2", 90)).await.status, 402);
    stack.chain.subscribe(&payer, stack.plan("basic-month").onchain_id, account.reference).await;
    let entitled = stack.tier_becomes(account.id, "basic").await;
    let meter = &entitled["meters"]["requests"];
    assert_eq!((&meter["used"], &meter["limit"]), (&json!(90), &json!(5_000)));
    assert_eq!(meter["resets_at"], used["meters"]["requests"]["resets_at"], "the window goes on");
    // What was refused before the upgrade is not remembered.
    let used = stack.api.post("/v1/usage", &event("2", 90)).await.ok();
    assert_eq!(used["meters"]["requests"]["used"], 180);
    // A wallet names its account.
    assert_eq!(stack.api.link(account.id, payer.address()).await.status, 201);
    let by_wallet = json!({ "wallet": payer.address(), "event_id": "3", "tokens": 5 });
    assert_eq!(stack.api.post("/v1/usage", &by_wallet).await.ok()["meters"]["tokens"]["used"], 5);
}

fn window<'a>(answer: &'a Value, index: usize, field: &str) -> &'a Value {
    &answer["windows"][index][field]
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_follow_each_other_and_what_was_used_is_told_by_window_and_day() {
    let database = Database::fresh().await;
    let clock = MovableClock::at("2027-03-10T10:00:00Z");
    let server = ApiServer::at(&database, &clock).await;
    let account = server.api.account("user-42").await;
    // Windows of the free tier are counted from here.
    sqlx::query("UPDATE ledger.accounts SET created_at = '2027-01-31T08:00:00Z'")
        .execute(Ledger::new(&database).pool())
        .await
        .unwrap();
    let first = consume(&server.api, "1", 60, 10).await.ok();
    let end = first["meters"]["requests"]["resets_at"].as_str().unwrap().to_owned();
    assert_eq!(consume(&server.api, "2", 60, 10).await.status, 402);
    assert_eq!(end, "2027-03-31T08:00:00Z");
    // To the millisecond, the window is half-open.
    let before = (end.parse::<chrono::DateTime<chrono::Utc>>().unwrap() - chrono::TimeDelta::milliseconds(1))
        .to_rfc3339();
    clock.move_to(&before);
    assert_eq!(consume(&server.api, "2", 60, 10).await.status, 402);
    clock.move_to(&end);
    let usage = server.api.get(&format!("/v1/accounts/{}/usage", account.id)).await.ok();
    assert_eq!(usage["current"]["meters"]["requests"]["used"], 0);
    assert_eq!(window(&usage, 0, "ended_at"), &json!(end), "over, if nobody has closed it yet");
    let second = consume(&server.api, "2", 60, 10).await.ok();
    assert_eq!(second["meters"]["requests"]["used"], 60);
    let body = json!({ "external_id": "user-42", "event_id": "3", "conversations": 2, "tokens": 1 });
    assert_eq!(server.api.post("/v1/usage", &body).await.status, 200);
    let path = format!("/v1/accounts/{}/usage?from=2027-03-01&to=2027-04-30", account.id);
    let usage = server.api.get(&path).await.ok();
    assert_eq!(usage["windows"].as_array().unwrap().len(), 1, "{usage}");
    assert_eq!(window(&usage, 0, "requests"), &json!({ "used": 60, "overage": 0, "excess": 0 }));
    assert_eq!(usage["current"]["started_at"], json!(end));
    assert_eq!(
        usage["days"],
        json!([
            { "day": "2027-03-10", "requests": 60, "conversations": 0, "tokens": 10 },
            { "day": end[..10], "requests": 60, "conversations": 2, "tokens": 11 },
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_another_time_counts_now_and_appears_on_its_day() {
    let database = Database::fresh().await;
    let clock = MovableClock::at("2027-03-10T10:00:00Z");
    let server = ApiServer::at(&database, &clock).await;
    let account = server.api.account("user-42").await;
    let event = |id: &str, at: &str| json!({ "external_id": "user-42", "event_id": id, "requests": 1, "occurred_at": at });
    let send = async |id: &str, at: &str| server.api.post("/v1/usage", &event(id, at)).await;
    send("1", "2027-03-09T09:59:59.999Z").await.assert_problem("too late", 422, "event_too_late");
    send("1", "2027-03-10T10:05:00.001Z").await.assert_problem("too early", 422, "event_too_early");
    let answer = send("1", "2027-03-09T12:00:00+02:00").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    send("1", "2027-03-09T12:00:00Z").await.assert_problem("another time", 409, "event_id_conflict");
    // A repetition is one also when a first report would be too late.
    clock.move_to("2027-03-12T10:00:00Z");
    assert_eq!(send("1", "2027-03-09T10:00:00Z").await.status, 200);
    let days = server.api.get(&format!("/v1/accounts/{}/usage", account.id)).await.ok()["days"].clone();
    assert_eq!(days, json!([{ "day": "2027-03-09", "requests": 1, "conversations": 0, "tokens": 0 }]));
}

async fn reserve(api: &Api, event: &str, tokens: u64, seconds: u64) -> Answer {
    let body = json!({ "external_id": "user-42", "event_id": event, "requests": 1, "tokens": tokens,
                       "expires_in_seconds": seconds });
    api.post("/v1/usage/reservations", &body).await
}

fn id(answer: &Answer) -> String {
    answer.body["reservation"]["id"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

async fn settle(api: &Api, id: &str, tokens: u64) -> Answer {
    let path = format!("/v1/usage/reservations/{id}/settle");
    api.post(&path, &json!({ "requests": 1, "tokens": tokens })).await
}

async fn release(api: &Api, id: &str) -> Answer {
    api.post(&format!("/v1/usage/reservations/{id}/release"), &Value::Null).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_holds_until_it_is_settled_released_or_over() {
    let database = Database::fresh().await;
    let clock = MovableClock::at("2027-03-10T10:00:00Z");
    let server = ApiServer::at(&database, &clock).await;
    let api = &server.api;
    let account = api.account("user-42").await;
    let tokens = async || api.entitlements(account.id).await["meters"]["tokens"].clone();
    let (held, other) = (reserve(api, "1", 6_000, 60).await, reserve(api, "2", 3_000, 120).await);
    assert_eq!((held.status, other.status), (201, 201));
    let again = reserve(api, "1", 6_000, 60).await;
    assert_eq!((again.status, id(&again)), (200, id(&held)));
    reserve(api, "1", 6_001, 60).await.assert_problem("another quantity", 409, "event_id_conflict");
    assert_eq!(tokens().await["reserved"], 9_000);
    assert_eq!(tokens().await["remaining"], 1_000);
    assert_eq!(consume(api, "3", 1, 1_001).await.status, 402);
    let refused = reserve(api, "3", 1_001, 60).await;
    refused.assert_problem("no room", 402, "quota_exceeded");
    assert_eq!(refused.body["upgrade_to"][0], "basic");
    // Less than was held.
    let settled = settle(api, &id(&held), 500).await.ok();
    assert_eq!(settled["reservation"]["state"], "settled");
    assert_eq!(settled["meters"]["tokens"]["used"], 500);
    assert_eq!(settle(api, &id(&held), 500).await.ok(), settled, "again");
    settle(api, &id(&held), 501).await.assert_problem("something else", 409, "event_id_conflict");
    release(api, &id(&held)).await.assert_problem("settled", 409, "reservation_ended");
    // Its time is over, and nobody does anything: to the millisecond.
    clock.move_to("2027-03-10T10:01:59.999Z");
    assert_eq!(tokens().await["reserved"], 3_000);
    assert_eq!(consume(api, "4", 1, 6_501).await.status, 402);
    clock.move_to("2027-03-10T10:02:00Z");
    assert_eq!(tokens().await["reserved"], 0);
    assert_eq!(consume(api, "4", 1, 9_000).await.status, 200);
    // What was used is told late: as far as there is room it counts, and the rest is not lost.
    let late = settle(api, &id(&other), 2_000).await.ok();
    assert_eq!(late["reservation"]["settled"]["excess_tokens"], 1_500);
    assert_eq!(late["meters"]["tokens"]["used"], 10_000);
    let day = api.get(&format!("/v1/accounts/{}/usage", account.id)).await.ok()["days"][0].clone();
    assert_eq!(day["tokens"], 500 + 9_000 + 2_000);
    assert_eq!(reserve(api, "5", 1, 60).await.status, 402);
    let ledger = Ledger::new(&database);
    assert_eq!(
        sum(&ledger, "SELECT sum(tokens_reserved + requests_reserved)::bigint FROM usage.windows").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_released_is_free_again_and_more_than_was_held_counts_up_to_the_limit() {
    let database = Database::fresh().await;
    let server = ApiServer::start(&database).await;
    let api = &server.api;
    api.account("user-42").await;
    let held = reserve(api, "1", 10_000, 60).await;
    assert_eq!(consume(api, "2", 0, 1).await.status, 402);
    assert_eq!(release(api, &id(&held)).await.ok()["meters"]["tokens"]["reserved"], 0);
    assert_eq!(release(api, &id(&held)).await.ok()["reservation"]["state"], "released");
    settle(api, &id(&held), 1).await.assert_problem("released", 409, "reservation_ended");
    let held = reserve(api, "3", 4_000, 60).await;
    assert_eq!(consume(api, "4", 1, 5_000).await.status, 200);
    let settled = settle(api, &id(&held), 5_500).await.ok();
    assert_eq!(settled["meters"]["tokens"]["used"], 10_000);
    assert_eq!(settled["reservation"]["settled"]["excess_tokens"], 500);
    let unknown = "rsv_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    settle(api, unknown, 1).await.assert_problem("unknown", 404, "reservation_not_found");
    release(api, unknown).await.assert_problem("unknown", 404, "reservation_not_found");
    release(api, "rsv_x").await.assert_problem("no id", 400, "invalid_id");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_of_a_batch_has_its_own_result() {
    let database = Database::fresh().await;
    let server = ApiServer::start(&database).await;
    let api = &server.api;
    api.account("user-42").await;
    api.account("user-43").await;
    let event = |who: &str, id: &str, requests: i64| json!({ "external_id": who, "event_id": id, "requests": requests });
    let events = json!({ "events": [
        event("user-42", "1", 60), event("user-42", "2", 60), event("user-42", "3", 40), event("user-43", "1", 100),
        event("user-42", "1", 60), event("nobody", "1", 1), event("user-42", "4", -1), 5, event("user-42", "1", 61),
    ]});
    let answer = api.post("/v1/usage/batch", &events).await.ok();
    let results = answer["results"].as_array().unwrap();
    let codes: Vec<_> = results.iter().map(|r| (r["status"].as_u64().unwrap(), r["code"].as_str())).collect();
    assert_eq!(
        codes,
        [
            (200, None),
            (402, Some("quota_exceeded")),
            (200, None),
            (200, None),
            (200, None),
            (404, Some("account_not_found")),
            (422, Some("invalid_body")),
            (422, Some("invalid_body")),
            (409, Some("event_id_conflict")),
        ],
        "{answer}"
    );
    assert_eq!((&results[0]["repeated"], &results[4]["repeated"]), (&json!(false), &json!(true)));
    assert_eq!(results[4]["meters"], results[0]["meters"]);
    assert_eq!(results[1]["upgrade_to"][0], "basic");
    assert_eq!(counted(&database).await, 200);
    // A thousand with long ids fit into one body; one more is too many.
    let many = |count: usize| {
        let id = |n: usize| format!("{n:0>120}");
        json!({ "events": (0..count).map(|n| json!({ "external_id": "user-43", "event_id": id(n), "tokens": 1 })).collect::<Vec<_>>() })
    };
    let answer = api.post("/v1/usage/batch", &many(1_000)).await.ok();
    assert!(answer["results"].as_array().unwrap().iter().all(|r| r["allowed"] == true));
    api.post("/v1/usage/batch", &many(1_001)).await.assert_problem("too many", 422, "invalid_body");
    api.post("/v1/usage/batch", &json!({ "events": [] })).await.assert_problem("none", 422, "invalid_body");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_may_be_in_a_database_of_its_own() {
    let (ledger, usage) = (Database::fresh().await, Database::fresh().await);
    let clock = std::sync::Arc::new(MovableClock::at("2027-03-10T10:00:00Z"));
    let server = ApiServer::with(&ledger, &usage, clock, dues_tests::catalogue()).await;
    server.api.account("user-42").await;
    assert_eq!(consume(&server.api, "1", 100, 1).await.status, 200);
    assert_eq!(consume(&server.api, "2", 1, 1).await.status, 402);
    assert_eq!(counted(&usage).await, 100);
    assert_eq!(sum(&Ledger::new(&ledger), "SELECT count(*) FROM usage.windows").await, 0);
    assert_eq!(sum(&Ledger::new(&usage), "SELECT count(*) FROM ledger.accounts").await, 0);
    server.stop().await;
}
