//! What a backfill cannot be faster than without doing less: reading the logs, and writing the rows.

use std::time::{Duration, Instant};

use alloy::{
    primitives::Address,
    providers::{Provider as _, ProviderBuilder},
    rpc::types::Filter,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgPoolCopyExt as _};

/// What an indexing writes, in an order in which it can be.
const TABLES: [&str; 6] =
    ["accounts", "wallets", "audit_log", "subscriptions", "chain_events", "transactions"];
const SENT_AT_ONCE: usize = 256 * 1024;

/// `eth_getLogs` of the whole range, in chunks of so many blocks with so many requests in flight.
pub(crate) struct Reading {
    pub chunk: u64,
    pub in_flight: usize,
    pub logs: usize,
    pub took: Duration,
}

/// The best way to read the logs of `contract` in `start..=head`, by trying.
pub(crate) async fn read(rpc: &str, contract: Address, start: u64, head: u64) -> Reading {
    let mut best: Option<Reading> = None;
    for (chunk, in_flight) in [(25, 1), (100, 1), (500, 1), (2_001, 1), (25, 2), (100, 2), (500, 2), (100, 4)]
    {
        let reading = read_in(rpc, contract, start, head, chunk, in_flight).await;
        eprintln!("eth_getLogs by {chunk} blocks, {in_flight} in flight: {:.2?}", reading.took);
        if best.as_ref().is_none_or(|best| reading.took < best.took) {
            best = Some(reading);
        }
    }
    best.unwrap()
}

async fn read_in(
    rpc: &str,
    contract: Address,
    start: u64,
    head: u64,
    chunk: u64,
    in_flight: usize,
) -> Reading {
    let provider = ProviderBuilder::new().disable_recommended_fillers().connect_http(rpc.parse().unwrap());
    let began = Instant::now();
    let ranges = (start..=head).step_by(usize::try_from(chunk).unwrap());
    let logs = stream::iter(ranges)
        .map(|from| {
            let filter =
                Filter::new().address(contract).from_block(from).to_block((from + chunk - 1).min(head));
            let provider = &provider;
            async move { provider.get_logs(&filter).await.map(|logs| logs.len()) }
        })
        .buffered(in_flight)
        .try_fold(0, async |sum, logs| Ok(sum + logs))
        .await
        .unwrap();
    Reading { chunk, in_flight, logs, took: began.elapsed() }
}

/// What the rows are written into.
#[derive(Clone, Copy)]
pub(crate) enum Keys {
    /// The same columns, checks, unique keys and indexes.
    Unique,
    /// And the same foreign keys.
    Foreign,
}

/// How long it takes to COPY the rows that are in `database` into tables like theirs, in one transaction.
pub(crate) async fn write(database: &SecretString, keys: Keys) -> Duration {
    let pool = sqlx::PgPool::connect(database.expose_secret()).await.unwrap();
    let mut rows = Vec::new();
    for table in TABLES {
        let statement = format!("COPY ledger.{table} TO STDOUT (FORMAT binary)");
        let data = pool.copy_out_raw(&statement).await.unwrap();
        let data = data.try_fold(Vec::new(), async |mut all, part| {
            all.extend_from_slice(&part);
            Ok(all)
        });
        rows.push((table, data.await.unwrap()));
    }
    pool.close().await;

    let mut connection = PgConnection::connect(database.expose_secret()).await.unwrap();
    let mut ddl = "DROP SCHEMA IF EXISTS floor CASCADE; CREATE SCHEMA floor;".to_owned();
    for table in TABLES {
        ddl += &format!("CREATE TABLE floor.{table} (LIKE ledger.{table} INCLUDING ALL);");
    }
    if matches!(keys, Keys::Foreign) {
        ddl += "
            CREATE TABLE floor.chain_plans (LIKE ledger.chain_plans INCLUDING ALL);
            INSERT INTO floor.chain_plans SELECT * FROM ledger.chain_plans;
            ALTER TABLE floor.wallets ADD FOREIGN KEY (account_id) REFERENCES floor.accounts;
            ALTER TABLE floor.subscriptions ADD FOREIGN KEY (account_id) REFERENCES floor.accounts,
                ADD FOREIGN KEY (chain_id, contract, onchain_plan_id) REFERENCES floor.chain_plans,
                ADD FOREIGN KEY (chain_id, contract, scheduled_plan_id) REFERENCES floor.chain_plans;
            ALTER TABLE floor.transactions ADD FOREIGN KEY (account_id) REFERENCES floor.accounts,
                ADD FOREIGN KEY (subscription_id) REFERENCES floor.subscriptions;";
    }
    sqlx::raw_sql(AssertSqlSafe(ddl)).execute(&mut connection).await.unwrap();
    sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await.unwrap();
    let began = Instant::now();
    let mut tx = connection.begin().await.unwrap();
    for (table, data) in &rows {
        let statement = format!("COPY floor.{table} FROM STDIN (FORMAT binary)");
        let mut copy = tx.copy_in_raw(&statement).await.unwrap();
        for part in data.chunks(SENT_AT_ONCE) {
            copy.send(part).await.unwrap();
        }
        copy.finish().await.unwrap();
    }
    tx.commit().await.unwrap();
    let took = began.elapsed();
    sqlx::raw_sql("DROP SCHEMA floor CASCADE; CHECKPOINT").execute(&mut connection).await.unwrap();
    took
}
