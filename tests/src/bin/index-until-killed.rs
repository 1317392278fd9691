//! An indexer in a process of its own, for the tests that kill it.

use dues_chain::source::RpcSource;
use dues_indexer::Indexer;
use dues_store::Store;
use dues_tests::history::Mirrored;
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // Shown after a failure.
    tracing_subscriber::fmt()
        .with_env_filter("info,dues_chain=debug,dues_indexer=debug")
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let what = Mirrored::from_env();
    let config = what.config();
    let store = Store::connect(&what.database_url, 2).await.unwrap();
    let rpc = RpcSource::new(what.endpoints(), config.source).unwrap();
    let ended = Indexer::new(store, rpc, config).run(CancellationToken::new()).await;
    panic!("the indexer ended by itself: {ended:?}");
}
