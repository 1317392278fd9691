//! The counters below the API: batches, faults, overage, partitions, stopping.

use std::sync::Arc;

use alloy::primitives::B256;
use chrono::{DateTime, TimeDelta, Utc};
use dues_domain::{
    catalogue::Quota,
    ids::{AccountId, ReservationId},
    usage::{Allowance, MeterName, Quantity},
};
use dues_store::usage::{
    Act, Billing, Event, Order, Refusal, ReservationState, Retention, UsageConfig, UsageStore,
};
use dues_tests::{Database, Ledger};
use futures::future::join_all;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use uuid::Uuid;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn account(number: u128) -> AccountId {
    AccountId::from_uuid(Uuid::from_u128(number))
}

fn hard(requests: u64, tokens: u64) -> Allowance {
    let anchor = at("2027-01-31T10:00:00Z");
    Allowance { requests: Quota::Limited(requests), tokens: Quota::Limited(tokens), anchor }
}

const fn some(requests: u32, tokens: u32) -> Quantity {
    Quantity { requests, tokens, conversations: 0 }
}

fn consume(of: AccountId, allowance: Allowance, now: DateTime<Utc>, id: &str, quantity: Quantity) -> Order {
    let act = Act::Consume(Event { id: id.to_owned(), occurred_at: None, quantity });
    Order { account: of, allowance, now, act }
}

async fn open(database: &Database, writers: u32, batch: usize) -> UsageStore {
    let config = UsageConfig { writers, batch, max_connections: writers + 1, ..UsageConfig::default() };
    let usage = UsageStore::connect(database.url(), config).await.unwrap();
    usage.migrate().await.unwrap();
    usage
}

/// Every row of the counters. Before which instant no hold expires may be known less exactly by one than by the other.
async fn rows(database: &Database) -> Vec<String> {
    let ledger = Ledger::new(database);
    let mut all = Vec::new();
    for table in ["windows", "closed_windows", "events", "stats", "reservations"] {
        let query = sqlx::AssertSqlSafe(format!(
            "SELECT '{table} ' || (to_jsonb(t) - 'hold_expires_at')::text AS row FROM usage.{table} t ORDER BY row"
        ));
        all.extend(sqlx::query_scalar::<_, String>(query).fetch_all(ledger.pool()).await.unwrap());
    }
    all
}

/// Whatever can be ordered, at random: few accounts, ids that come again, time that passes over the end of a window.
fn orders(seed: u64, count: usize) -> Vec<Order> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut now = at("2027-02-20T10:00:00Z");
    let mut made: Vec<(AccountId, ReservationId)> = Vec::new();
    let mut orders = Vec::with_capacity(count);
    for _ in 0..count {
        now += TimeDelta::minutes(rng.random_range(0..240));
        let of = account(rng.random_range(1..4));
        let quantity = some(rng.random_range(0..4), rng.random_range(0..40));
        let soft = Quota::Soft { included: 60, hard: Some(200) };
        let allowance = match rng.random_range(0..4) {
            0 => Allowance { tokens: soft, ..hard(15, 0) },
            1 => hard(100, 10),
            _ => hard(30, 300),
        };
        // Few ids: each is ordered several times, now and then with something else.
        let name = format!("e{}", rng.random_range(0..count / 2));
        let act = match rng.random_range(0..10) {
            0..=4 => Act::Consume(Event { id: name, occurred_at: None, quantity }),
            5 | 6 => {
                let id = ReservationId::from_uuid(Uuid::from_u128(rng.random()));
                made.push((of, id));
                let expires_at = now + TimeDelta::minutes(rng.random_range(1..600));
                Act::Reserve { id, event_id: name, quantity, expires_at }
            }
            _ if made.is_empty() => Act::Release { id: ReservationId::from_uuid(Uuid::nil()) },
            kind => {
                let (of, id) = made[rng.random_range(0..made.len())];
                let act = if kind == 7 { Act::Release { id } } else { Act::Settle { id, actual: quantity } };
                orders.push(Order { account: of, allowance, now, act });
                continue;
            }
        };
        orders.push(Order { account: of, allowance, now, act });
    }
    orders
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_any_size_come_to_the_same_as_one_order_after_the_other() {
    for seed in 0..6 {
        let orders = orders(seed, 250);
        let (alone, together) = (Database::fresh().await, Database::fresh().await);
        let (one, many) = (open(&alone, 1, 1).await, open(&together, 1, 1_000).await);
        let mut expected = Vec::new();
        for order in &orders {
            expected.push(one.act(order.clone()).await.unwrap());
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut found, mut rest) = (Vec::new(), orders.as_slice());
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(rng.random_range(1..=rest.len().min(90)));
            found.extend(many.act_all(batch.to_vec()).await.into_iter().map(Result::unwrap));
            rest = after;
        }
        assert_eq!(found, expected, "seed {seed}");
        assert_eq!(rows(&together).await, rows(&alone).await, "seed {seed}");
        let (counted, refused) =
            (found.iter().flatten().count(), found.iter().filter(|o| o.is_err()).count());
        assert!(counted > 40 && refused > 20, "{counted} {refused}");
        one.stop().await;
        many.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_writers_on_the_same_accounts_are_exact_and_never_wait_in_a_circle() {
    const LIMIT: u64 = 333;
    let database = Database::fresh().await;
    let stores = [open(&database, 2, 50).await, open(&database, 2, 50).await, open(&database, 2, 50).await];
    let now = at("2027-02-20T10:00:00Z");
    // Ten accounts, each asked for 500 by each of three processes; every order of accounts in every batch.
    let calls = stores.iter().enumerate().map(|(process, store)| async move {
        let mut rng = StdRng::seed_from_u64(u64::try_from(process).unwrap());
        let calls = (0..5_000).map(|n| {
            let order = consume(
                account(rng.random_range(0..10)),
                hard(LIMIT, 0),
                now,
                &format!("{process}-{n}"),
                some(1, 0),
            );
            store.act(order)
        });
        join_all(calls.collect::<Vec<_>>()).await
    });
    let outcomes: Vec<_> = join_all(calls).await.into_iter().flatten().map(Result::unwrap).collect();
    let refused = outcomes.iter().flat_map(|o| o.as_ref().err());
    let mut full = 0;
    for refusal in refused {
        assert!(matches!(refusal, Refusal::Quota { meter: MeterName::Requests, .. }), "{refusal:?}");
        full += 1;
    }
    let counted = outcomes.len() - full;
    assert_eq!(u64::try_from(counted).unwrap(), 10 * LIMIT);
    let ledger = Ledger::new(&database);
    let exact = "SELECT count(*) FROM usage.windows w WHERE requests_used = 333 AND 333 = (
                 SELECT count(*) FROM usage.events e WHERE e.account_id = w.account_id)";
    assert_eq!(ledger.count(exact).await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_stored_harms_no_other() {
    let database = Database::fresh().await;
    let usage = open(&database, 1, 1_000).await;
    let now = at("2027-02-20T10:00:00Z");
    let mut batch: Vec<_> =
        (0_u128..20).map(|n| consume(account(n), hard(5, 5), now, "e", some(1, 0))).collect();
    // A limit that no bigint holds; the configuration does not let one through.
    batch[7].allowance.requests = Quota::Limited(u64::MAX);
    let outcomes = usage.act_all(batch).await;
    let failed: Vec<_> = outcomes.iter().enumerate().filter(|(_, o)| o.is_err()).map(|(n, _)| n).collect();
    assert_eq!(failed, [7], "{outcomes:?}");
    assert_eq!(Ledger::new(&database).count("SELECT count(*) FROM usage.events").await, 19);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_finishes_what_is_gathered_and_takes_no_more() {
    let database = Database::fresh().await;
    let usage = Arc::new(open(&database, 1, 10).await);
    let now = at("2027-02-20T10:00:00Z");
    let mut waiting = Vec::new();
    for n in 0..500 {
        let order = consume(account(1), hard(1_000, 0), now, &format!("e{n}"), some(1, 0));
        let usage = usage.clone();
        // Sent with its first poll.
        let mut call = Box::pin(async move { usage.act(order).await });
        assert!(futures::poll!(&mut call).is_pending());
        waiting.push(call);
    }
    usage.stop().await;
    for outcome in join_all(waiting).await {
        assert!(outcome.unwrap().is_ok());
    }
    assert_eq!(
        Ledger::new(&database).count("SELECT sum(requests_used)::bigint FROM usage.windows").await,
        500
    );
    let late = usage.act(consume(account(1), hard(1_000, 0), now, "late", some(1, 0))).await;
    assert!(late.is_err_and(|error| error.is_transient()));
}

#[tokio::test(flavor = "multi_thread")]
async fn overage_is_let_in_up_to_its_limit_and_billed_once_by_one_key() {
    let database = Database::fresh().await;
    let usage = open(&database, 1, 10).await;
    let soft = Allowance { tokens: Quota::Soft { included: 100, hard: Some(150) }, ..hard(1_000, 0) };
    let (now, of) = (at("2027-02-20T10:00:00Z"), account(1));
    let send =
        async |id: &str, now, tokens| usage.act(consume(of, soft, now, id, some(1, tokens))).await.unwrap();
    let meters = send("1", now, 130).await.unwrap().meters.tokens;
    assert_eq!(
        (meters.overage, meters.remaining(), meters.limit, meters.hard_limit),
        (30, Some(0), Some(100), Some(150))
    );
    assert!(matches!(send("2", now, 21).await, Err(Refusal::Quota { meter: MeterName::Tokens, .. })));
    assert!(send("2", now, 20).await.is_ok());
    // Somebody who stays within what is included has nothing to pay.
    usage.act(consume(account(2), soft, now, "1", some(1, 100))).await.unwrap().unwrap();

    let end = at("2027-02-28T10:00:00Z");
    assert_eq!(usage.unbilled_overage(end - TimeDelta::milliseconds(1), 10).await.unwrap(), []);
    let unbilled = usage.unbilled_overage(end, 10).await.unwrap();
    assert_eq!(unbilled.len(), 1, "{unbilled:?}");
    let window = unbilled[0];
    assert_eq!((window.account, window.tokens, window.requests, window.window.end), (of, 50, 0, end));
    assert_eq!(usage.unbilled_overage(end, 10).await.unwrap(), unbilled);
    // Closed: the next window starts with nothing, and the same window is not closed twice.
    assert_eq!(send("3", end, 1).await.unwrap().meters.tokens.used, 1);
    assert_eq!(usage.closed_windows(of, 10).await.unwrap().len(), 1);

    let start = window.window.start;
    assert!(!usage.end_billing(of, start, Billing::Billed, end).await.unwrap(), "it was not begun");
    let (key, other) = (B256::repeat_byte(1), B256::repeat_byte(2));
    assert_eq!(usage.begin_billing(of, start, key, end).await.unwrap(), Some(key));
    assert_eq!(usage.begin_billing(of, start, other, end).await.unwrap(), Some(key), "the key stays");
    assert_eq!(usage.unbilled_overage(end, 10).await.unwrap()[0].key, Some(key));
    assert!(usage.end_billing(of, start, Billing::Billed, end).await.unwrap());
    assert!(!usage.end_billing(of, start, Billing::Waived, end).await.unwrap());
    assert_eq!(usage.begin_billing(of, start, other, end).await.unwrap(), None);
    assert_eq!(usage.unbilled_overage(end, 10).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_made_ahead_by_anybody_and_old_ones_are_dropped() {
    let database = Database::fresh().await;
    let stores = [open(&database, 1, 10).await, open(&database, 1, 10).await];
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'usage.events'::regclass";
    let ledger = Ledger::new(&database);
    let keep = Retention { event_months: 2, reservations: TimeDelta::days(1) };
    // Nobody has tidied up yet: whoever counts makes its month's.
    assert_eq!(ledger.count(partitions).await, 0);
    let november = at("2026-11-20T10:00:00Z");
    let calls = (0_u128..20).map(|n| {
        let store = &stores[usize::try_from(n % 2).unwrap()];
        store.act(consume(account(n), hard(5, 5), november, "e", some(1, 0)))
    });
    assert!(join_all(calls).await.into_iter().all(|outcome| outcome.unwrap().is_ok()));
    assert_eq!(ledger.count(partitions).await, 1);
    let held = Act::Reserve {
        id: ReservationId::generate(),
        event_id: "old".into(),
        quantity: some(1, 1),
        expires_at: november + TimeDelta::minutes(1),
    };
    let order = Order { act: held, ..consume(account(1), hard(5, 5), november, "", some(0, 0)) };
    let made = stores[0].act(order.clone()).await.unwrap().unwrap().reservation.unwrap();
    assert_eq!(made.state, ReservationState::Held);
    let release = Order { act: Act::Release { id: made.id }, ..order };
    stores[0].act(release).await.unwrap().unwrap();

    let tidied = join_all(stores.iter().map(|store| store.tidy(at("2027-01-15T00:00:00Z"), keep))).await;
    let tidied: Vec<_> = tidied.into_iter().map(Result::unwrap).collect();
    assert_eq!(tidied.iter().map(|t| t.made).sum::<u64>(), 2, "this month's and the next: {tidied:?}");
    assert_eq!(tidied.iter().map(|t| t.dropped).sum::<u64>(), 0);
    assert_eq!(tidied.iter().map(|t| t.reservations).sum::<u64>(), 1);
    assert_eq!(ledger.count(partitions).await, 3);
    let later = stores[1].tidy(at("2027-02-01T00:00:00Z"), keep).await.unwrap();
    assert_eq!((later.made, later.dropped), (1, 1), "November's is gone: {later:?}");
    assert_eq!(ledger.count("SELECT count(*) FROM usage.events").await, 0);
    assert_eq!(
        ledger.count("SELECT sum(requests)::bigint FROM usage.stats").await,
        20,
        "what it came to stays"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_itself_refuses_what_no_counter_can_be() {
    let database = Database::fresh().await;
    let usage = open(&database, 1, 10).await;
    let now = at("2027-02-20T10:00:00Z");
    usage.act(consume(account(1), hard(5, 5), now, "e", some(1, 0))).await.unwrap().unwrap();
    let ledger = Ledger::new(&database);
    for (statement, rule) in [
        ("UPDATE usage.windows SET requests_used = -1", "windows_count_up"),
        ("UPDATE usage.windows SET tokens_reserved = -1", "windows_count_up"),
        ("UPDATE usage.windows SET started_at = ended_at + interval '1 day'", "windows_are_spans"),
        (
            "INSERT INTO usage.events SELECT * FROM usage.events",
            "events_2027_02_pkey",
        ),
        (
            "INSERT INTO usage.closed_windows (account_id, started_at, ended_at, requests_used, tokens_used,
                 requests_excess, tokens_excess, requests_included, tokens_included, billing)
             SELECT account_id, started_at, ended_at, 9, 0, 0, 0, 5, 0, 'none' FROM usage.windows",
            "closed_windows_bill_overage",
        ),
        (
            "INSERT INTO usage.closed_windows (account_id, started_at, ended_at, requests_used, tokens_used,
                 requests_excess, tokens_excess, requests_included, tokens_included, billing)
             SELECT account_id, started_at, ended_at, 9, 0, 0, 0, 5, 0, 'billed' FROM usage.windows",
            "closed_windows_key",
        ),
        (
            "INSERT INTO usage.reservations (account_id, id, event_id, requests, tokens, made_at, expires_at, state)
             SELECT account_id, account_id, 'e', 1, 1, now(), now(), 'settled' FROM usage.windows",
            "reservations_end",
        ),
    ] {
        let refused = sqlx::query(statement).execute(ledger.pool()).await.unwrap_err();
        let by = refused.as_database_error().and_then(|e| e.constraint()).map(ToOwned::to_owned);
        assert_eq!(by.as_deref(), Some(rule), "{statement}: {refused}");
    }
}
