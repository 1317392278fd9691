//! An indexer in a process of its own, for the tests that kill it.

use std::{collections::HashMap, time::Duration};

use dues_chain::source::RpcSource;
use dues_domain::chain::ChainSource;
use dues_indexer::{FinalityPolicy, Indexer, IndexerConfig};
use dues_store::{Store, mirror::MirrorScope};
use dues_tests::{asset, history::Mirrored};
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let what = Mirrored::from_env();
    let source = ChainSource { chain_id: what.chain_id, contract: what.contract };
    let config = IndexerConfig {
        source,
        scope: MirrorScope { merchant: what.merchant, start_block: what.start_block },
        finality: FinalityPolicy::Depth(what.finality_depth),
        poll_interval: Duration::from_millis(5),
        assets: HashMap::from([(what.token, asset())]),
    };
    let store = Store::connect(&what.database_url, 2).await.unwrap();
    let rpc = RpcSource::new(what.rpc_url, source).unwrap();
    let ended = Indexer::new(store, rpc, config).run(CancellationToken::new()).await;
    panic!("the indexer ended by itself: {ended:?}");
}
