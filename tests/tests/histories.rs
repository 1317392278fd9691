//! Whatever merchant, payers, keeper, chain, nodes and operator do, the ledger ends as the chain is: random histories.
//!
//! `DUES_HISTORIES` says how many (200 by default, split over the tests here) and `DUES_HISTORIES_FROM` with which seed
//! they begin (1 by default); `DUES_HISTORY_SEED` has one of them lived alone.

use std::env;

use dues_tests::{Options, Site, history::World};

const SHARDS: u64 = 4;
const ACTS: u32 = 30;
/// How many histories share a chain. Anvil keeps fewer and fewer states the longer a chain gets; after some 900 blocks it
/// loses those that a reorganisation needs.
const PER_CHAIN: usize = 12;

fn number(variable: &str) -> Option<u64> {
    env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}: {text} is no number")))
}

async fn live(shard: u64) {
    let seeds: Vec<u64> = match number("DUES_HISTORY_SEED") {
        Some(seed) => [seed].into_iter().filter(|seed| seed % SHARDS == shard).collect(),
        None => {
            let first = number("DUES_HISTORIES_FROM").unwrap_or(1);
            let count = number("DUES_HISTORIES").unwrap_or(200);
            (first..first + count).filter(|seed| seed % SHARDS == shard).collect()
        }
    };
    for seeds in seeds.chunks(PER_CHAIN) {
        let stack = Site::new(Options { external_chain: true, ..Options::default() }).await.start().await;
        let chain = stack.chain.clone();
        let site = stack.stop().await;
        for seed in seeds {
            let mut world = World::new(*seed, chain.clone(), site.rpc_url()).await;
            world.live(ACTS).await;
            println!("{}", world.summary().await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_is_what_the_chain_is_whatever_happens_0() {
    live(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_is_what_the_chain_is_whatever_happens_1() {
    live(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_is_what_the_chain_is_whatever_happens_2() {
    live(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_is_what_the_chain_is_whatever_happens_3() {
    live(3).await;
}
