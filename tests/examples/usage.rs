//! `script/bench usage`: how much usage can be checked and counted in a second, beside a transaction for each request.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Datelike as _, Utc};
use clap::Parser;
use dues_api::clock::{Clock as _, SystemClock};
use dues_domain::{
    catalogue::Quota,
    ids::AccountId,
    usage::{Allowance, Quantity},
};
use dues_embedded::{Durability, Postgres, PostgresOptions, tools};
use dues_store::usage::{Act, Event, Order, UsageConfig, UsageStore};
use futures::future::join_all;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::time::Instant;
use uuid::Uuid;

/// How much usage is checked and counted durably in a second, by callers of which each waits for its answer before it
/// asks again. Beside it, in the same run on the same PostgreSQL (fsync on): the same statements in a transaction for each
/// request, and the least that could be: one statement for each request, which commits by itself.
#[derive(Parser)]
struct Arguments {
    /// Seconds for each figure
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Callers at once
    #[arg(long, default_value_t = 512)]
    callers: u64,
    /// Accounts that the requests are spread over
    #[arg(long, default_value_t = 10_000)]
    accounts: u128,
    /// Transactions at once of the group commit; 2 is what dues.toml has
    #[arg(long, default_value_t = 2)]
    writers: u32,
    /// The most requests in one of them
    #[arg(long, default_value_t = UsageConfig::default().batch)]
    batch: usize,
    /// Connections of a transaction for each request
    #[arg(long, default_value_t = 32)]
    connections: u32,
}

/// How requests are counted.
#[derive(Clone)]
enum Way {
    Store(UsageStore),
    Statement(PgPool),
}

/// One statement, as short as it can be, with all that the rules need: not counted before, within the limits, all meters or
/// none, with statistics. It cannot open a window or tell why it refuses.
const STATEMENT: &str = "
    WITH counted AS (
        UPDATE usage.windows w SET requests_used = requests_used + 1, tokens_used = tokens_used + $3
        WHERE account_id = $1 AND ended_at > $4 AND requests_used + requests_reserved + 1 <= 1000000000
          AND tokens_used + tokens_reserved + $3 <= 1000000000000
          AND NOT EXISTS (SELECT FROM usage.events e WHERE e.account_id = $1 AND e.event_id = $2 AND e.month = ANY ($6))
        RETURNING ended_at, requests_used, tokens_used
    ), days AS (
        INSERT INTO usage.stats AS s (account_id, day, requests, conversations, tokens)
        SELECT $1, $4::date, 1, 0, $3 FROM counted
        ON CONFLICT (account_id, day) DO UPDATE
        SET requests = s.requests + 1, tokens = s.tokens + excluded.tokens
    )
    INSERT INTO usage.events (account_id, event_id, month, recorded_at, occurred_at, requests, tokens, conversations,
        window_ended_at, requests_used, tokens_used, requests_limit, tokens_limit, requests_hard_limit, tokens_hard_limit)
    SELECT $1, $2, $5, $4, $4, 1, $3::integer, 0, ended_at, requests_used, tokens_used, 1000000000, 1000000000000,
           1000000000, 1000000000000
    FROM counted";

const TOKENS: u32 = 523;

impl Way {
    async fn count(&self, account: Uuid, event: String, now: DateTime<Utc>) {
        match self {
            Self::Store(usage) => {
                let quantity = Quantity { requests: 1, tokens: TOKENS, conversations: 0 };
                let act = Act::Consume(Event { id: event, occurred_at: None, quantity });
                let allowance = Allowance {
                    requests: Quota::Limited(1_000_000_000),
                    tokens: Quota::Limited(1_000_000_000_000),
                    anchor: DateTime::UNIX_EPOCH,
                };
                let order = Order { account: AccountId::from_uuid(account), allowance, now, act };
                usage.act(order).await.unwrap().unwrap();
            }
            Self::Statement(pool) => {
                let month = now.date_naive().with_day(1).unwrap();
                let months = [month - chrono::Months::new(1), month];
                let done = sqlx::query(STATEMENT)
                    .bind(account)
                    .bind(event)
                    .bind(i64::from(TOKENS))
                    .bind(now)
                    .bind(month)
                    .bind(months)
                    .execute(pool)
                    .await
                    .unwrap();
                assert_eq!(done.rows_affected(), 1);
            }
        }
    }
}

/// What was measured.
struct Figure {
    per_second: f64,
    p50: Duration,
    p99: Duration,
    per_transaction: f64,
}

impl Figure {
    fn print(&self, what: &str) {
        println!(
            "  {what:<34} {:>8.0} requests/s   p50 {:>7.1} ms   p99 {:>7.1} ms   {:>6.1} requests a transaction",
            self.per_second,
            self.p50.as_secs_f64() * 1_000.0,
            self.p99.as_secs_f64() * 1_000.0,
            self.per_transaction,
        );
    }
}

/// Transactions that the server has committed.
async fn commits(pool: &PgPool) -> i64 {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(pool).await.unwrap();
    let query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

async fn measure(way: &Way, phase: u128, accounts: u128, args: &Arguments, pool: &PgPool) -> Figure {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let before = commits(pool).await;
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let begun = Instant::now();
    let callers = (0..args.callers).map(|_| {
        let way = way.clone();
        tokio::spawn(async move {
            let mut took = Vec::new();
            while Instant::now() < end {
                let account = Uuid::from_u128((phase << 64) + fastrand::u128(0..accounts));
                // As a platform names its requests: in no order.
                let event =
                    format!("req-{:016x}-{}", fastrand::u64(..), NEXT.fetch_add(1, Ordering::Relaxed));
                let asked = Instant::now();
                way.count(account, event, SystemClock.now()).await;
                took.push(asked.elapsed());
            }
            took
        })
    });
    let mut took: Vec<Duration> = join_all(callers).await.into_iter().flat_map(Result::unwrap).collect();
    let elapsed = begun.elapsed();
    let transactions = commits(pool).await - before;
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() * percent).div_ceil(100).max(1) - 1];
    let count = f64::from(u32::try_from(took.len()).unwrap());
    Figure {
        per_second: count / elapsed.as_secs_f64(),
        p50: at(50),
        p99: at(99),
        per_transaction: count / f64::from(u32::try_from(transactions.max(1)).unwrap()),
    }
}

/// Gives each account its window, so that no figure has the cost of first times in it.
async fn open(usage: &UsageStore, phase: u128, accounts: u128) {
    let way = Way::Store(usage.clone());
    for first in (0..accounts).step_by(2_000) {
        let calls = (first..(first + 2_000).min(accounts))
            .map(|n| way.count(Uuid::from_u128((phase << 64) + n), "first".into(), SystemClock.now()));
        join_all(calls).await;
    }
}

async fn store(url: &SecretString, writers: u32, batch: usize) -> UsageStore {
    let config = UsageConfig { writers, max_connections: writers + 1, batch, ..UsageConfig::default() };
    UsageStore::connect(url, config).await.unwrap()
}

#[tokio::main]
async fn main() {
    let args = Arguments::parse();
    let open_dir = Permissions::from_mode(0o755);
    let dir = tempfile::Builder::new().prefix("dues-bench-").permissions(open_dir).tempdir().unwrap();
    let postgres = Postgres::start(PostgresOptions {
        durability: Durability::Durable,
        settings: vec![("max_connections".to_owned(), (args.connections * 2 + 40).to_string())],
        ..PostgresOptions::new(tools::postgres().unwrap(), dir.path().join("postgres"))
    })
    .await
    .unwrap();
    let url = postgres.create_database("bench").await.unwrap();
    let pool = PgPoolOptions::new()
        .min_connections(args.connections)
        .max_connections(args.connections)
        .acquire_timeout(Duration::from_secs(60))
        .connect(url.expose_secret())
        .await
        .unwrap();
    let grouped = store(&url, args.writers, args.batch).await;
    grouped.migrate().await.unwrap();
    let fsync: String = sqlx::query_scalar("SHOW fsync").fetch_one(&pool).await.unwrap();
    let synchronous: String = sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&pool).await.unwrap();
    println!(
        "fsync {fsync}, synchronous_commit {synchronous}; {} callers, each waits for its answer",
        args.callers
    );
    let single = store(&url, args.connections, 1).await;
    let ways = Arc::new([
        ("group commit", Way::Store(grouped.clone())),
        ("a transaction for each request", Way::Store(single.clone())),
        ("one statement for each request", Way::Statement(pool.clone())),
    ]);
    let mut phase = 0;
    for (what, accounts) in [("spread over the accounts", args.accounts), ("one hot account", 1)] {
        println!("{what}: {accounts}");
        let mut figures = Vec::new();
        for (name, way) in ways.iter() {
            phase += 1;
            open(&grouped, phase, accounts).await;
            let figure = measure(way, phase, accounts, &args, &pool).await;
            figure.print(name);
            figures.push(figure.per_second);
            // A counter that is not what was answered makes any figure worthless.
            let lost: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM usage.windows w
                 WHERE requests_used <> (SELECT count(*) FROM usage.events e WHERE e.account_id = w.account_id)",
            )
            .fetch_one(&pool)
            .await
            .unwrap();
            assert_eq!(lost, 0, "accounts whose counter is not the sum of their events");
        }
        println!(
            "  group commit is {:.1} times a transaction for each request, {:.1} times one statement for each",
            figures[0] / figures[1],
            figures[0] / figures[2],
        );
    }
    grouped.stop().await;
    single.stop().await;
    pool.close().await;
    postgres.stop().await.unwrap();
}
