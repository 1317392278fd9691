//! `script/bench backfill`: how fast the indexer catches up, beside what nobody can be faster than.

mod fixture;
mod floors;

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use alloy::primitives::Address;
use clap::{Parser, Subcommand};
use dues_chain::source::{Endpoints, RpcSource};
use dues_domain::chain::ChainSource;
use dues_embedded::{Postgres, PostgresOptions, tools};
use dues_indexer::{FinalityPolicy, Indexer, IndexerConfig};
use dues_store::{Store, mirror::MirrorScope};
use dues_tests::asset;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{CHAIN_ID, EVENTS_PER_BLOCK, Fixture},
    floors::Keys,
};

/// How many blocks below the head are not final.
const DEPTH: u64 = 12;

/// How fast the indexer catches up, beside two floors that are measured in the same run: reading the logs with
/// eth_getLogs alone, and writing the very rows with COPY alone into tables with the same keys and indexes.
#[derive(Parser)]
struct Arguments {
    /// Blocks of a hundred events each
    #[arg(long, default_value_t = 2_000)]
    blocks: u64,
    /// How often to index; the best run counts, all are printed
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Where the chain is kept for the next time
    #[arg(long, default_value = "target/bench/backfill")]
    cache: PathBuf,
    /// Make the chain and index, without the floors
    #[arg(long)]
    no_floors: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Index once and print how it went: the process whose memory is measured
    #[command(hide = true)]
    Index { rpc: String, contract: Address, token: Address, merchant: Address, start: u64 },
}

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    match arguments.part {
        Some(Part::Index { rpc, contract, token, merchant, start }) => {
            index(&rpc, contract, token, merchant, start).await;
        }
        None => compare(arguments).await,
    }
}

/// Indexes from zero to the head. The database's URL is in the environment, as it holds a password.
async fn index(rpc: &str, contract: Address, token: Address, merchant: Address, start: u64) {
    let database = SecretString::from(std::env::var("DUES_BENCH_DATABASE_URL").unwrap());
    let store = Store::connect(&database, 4).await.unwrap();
    let source = ChainSource { chain_id: CHAIN_ID, contract };
    let config = IndexerConfig {
        source,
        scope: MirrorScope { merchant, start_block: start },
        finality: FinalityPolicy::Depth(DEPTH),
        poll_interval: Duration::from_millis(50),
        assets: HashMap::from([(token, asset())]),
    };
    let indexer =
        Indexer::new(store, RpcSource::new(rpc.parse::<Endpoints>().unwrap(), source).unwrap(), config);
    let mut health = indexer.health();
    let stop = CancellationToken::new();
    let began = Instant::now();
    let running = tokio::spawn(indexer.run(stop.clone()));
    health.wait_for(dues_indexer::IndexerHealth::is_caught_up).await.unwrap();
    let took = began.elapsed();
    stop.cancel();
    running.await.unwrap().unwrap();
    println!(
        "{}",
        json!({ "microseconds": u64::try_from(took.as_micros()).unwrap(), "peak_kib": peak_kib() })
    );
}

/// The most memory that this process has had resident, where the system tells.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

async fn compare(arguments: Arguments) {
    let Arguments { blocks, runs, cache, no_floors, .. } = arguments;
    assert!(blocks >= 20 && blocks.is_multiple_of(10), "blocks are at least 20, and a multiple of 10");
    let cache = std::path::absolute(cache).unwrap();
    let began = Instant::now();
    let chain = fixture::chain(cache, blocks).await;
    eprintln!("the chain is there after {:.1?}", began.elapsed());
    let dir = tempfile::tempdir().unwrap();
    let postgres = PostgresOptions::new(tools::postgres().unwrap(), dir.path().join("postgres"));
    let postgres = Postgres::start(postgres).await.unwrap();

    let mut indexed = Vec::new();
    let mut last = None;
    for run in 0..runs {
        let database = postgres.create_database(&format!("run{run}")).await.unwrap();
        indexed.push(run_once(&chain, &database, blocks).await);
        last = Some(database);
    }
    let events = blocks * EVENTS_PER_BLOCK;
    let line = |what: &str, took: Duration, more: &str| {
        println!("{what:<52} {:>7.2} s {:>9} events/s{more}", took.as_secs_f64(), per_second(events, took));
    };
    println!("{blocks} blocks, {events} events");
    for (took, peak_kib) in &indexed {
        line("indexed, from zero to the head", *took, &format!("   peak {} MiB", peak_kib / 1024));
    }
    let best = indexed.iter().map(|(took, _)| *took).min().unwrap();
    if !no_floors {
        let database = last.unwrap();
        let reading = floors::read(&chain.anvil.rpc_url(), chain.contract, chain.start, chain.head).await;
        assert!(u64::try_from(reading.logs).unwrap() >= events, "the floor read {} logs", reading.logs);
        let writing = floors::write(&database, Keys::Unique).await;
        let foreign = floors::write(&database, Keys::Foreign).await;
        let how =
            format!("floor 1: eth_getLogs by {} blocks, {} in flight", reading.chunk, reading.in_flight);
        line(&how, reading.took, "");
        line("floor 2: COPY, same unique keys and indexes", writing, "");
        line("         (the same with foreign keys, to compare)", foreign, "");
        let floor = reading.took + writing;
        line("sum of the floors", floor, "");
        println!("best run / sum of the floors: {:.2}", best.as_secs_f64() / floor.as_secs_f64());
    }
    postgres.stop().await.unwrap();
    chain.anvil.stop().await.unwrap();
}

async fn run_once(chain: &Fixture, database: &SecretString, blocks: u64) -> (Duration, u64) {
    let store = Store::connect(database, 2).await.unwrap();
    store.migrate().await.unwrap();
    store.close().await;
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["index", &chain.anvil.rpc_url(), &chain.contract.to_string(), &chain.token.to_string()])
        .args([&chain.merchant.to_string(), &chain.start.to_string()])
        .env("DUES_BENCH_DATABASE_URL", database.expose_secret())
        .stderr(std::process::Stdio::inherit())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "indexing failed: {}", output.status);
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    let pool = sqlx::PgPool::connect(database.expose_secret()).await.unwrap();
    let count = "SELECT count(*) FROM ledger.chain_events WHERE onchain_id IS NOT NULL";
    let written: i64 = sqlx::query_scalar(count).fetch_one(&pool).await.unwrap();
    pool.close().await;
    assert_eq!(u64::try_from(written).unwrap(), blocks * EVENTS_PER_BLOCK, "events in the ledger");
    (
        Duration::from_micros(outcome["microseconds"].as_u64().unwrap()),
        outcome["peak_kib"].as_u64().unwrap_or(0),
    )
}

fn per_second(events: u64, took: Duration) -> u128 {
    u128::from(events) * 1_000_000 / took.as_micros().max(1)
}
