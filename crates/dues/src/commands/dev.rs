//! `dues dev`

use std::path::PathBuf;

use clap::Args as ClapArgs;
use dues_devnet::{Devnet, DevnetOptions, Ports};
use url::Url;

use crate::{config::Config, shutdown};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Where everything is kept, devnet.json included.
    #[arg(long, default_value = ".dues", value_name = "DIR")]
    data_dir: PathBuf,
    /// Begin with a new chain and a new ledger.
    #[arg(long, conflicts_with = "rpc_url")]
    reset: bool,
    /// Port of the API on 127.0.0.1; a free one by default.
    #[arg(long, value_name = "PORT")]
    api_port: Option<u16>,
    /// Port of anvil on 127.0.0.1; a free one by default.
    #[arg(long, value_name = "PORT", conflicts_with = "rpc_url")]
    rpc_port: Option<u16>,
    /// Port of PostgreSQL on 127.0.0.1; a free one by default.
    #[arg(long, value_name = "PORT")]
    database_port: Option<u16>,
    /// Use this anvil (or a node on which anvil's accounts have funds) instead of starting one.
    #[arg(long, value_name = "URL")]
    rpc_url: Option<Url>,
    /// Seconds between blocks.
    #[arg(long, default_value_t = 1, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    block_time: u64,
    /// Let a month pass in so many seconds, to see renewals.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "60",
          value_parser = clap::value_parser!(u64).range(5..=86_400), conflicts_with = "rpc_url")]
    fast_time: Option<u64>,
    /// How many blocks below the head count as final: until then a payment is pending, and may be reorganised.
    #[arg(long, default_value_t = 32, value_name = "BLOCKS")]
    finality_depth: u64,
}

pub(crate) async fn run(args: Args, config: Config) -> anyhow::Result<()> {
    anyhow::ensure!(
        !args.reset || config.database.url.is_none(),
        "--reset begins with a new ledger, but DUES__DATABASE__URL names a database that is not the devnet's to empty"
    );
    let shutdown = shutdown::on_signals()?;
    let options = DevnetOptions {
        data_dir: args.data_dir,
        reset: args.reset,
        catalogue: config.catalogue,
        asset: config.asset,
        sale: config.sale,
        rpc_url: args.rpc_url,
        database_url: config.database.url,
        ports: Ports { api: args.api_port, rpc: args.rpc_port, database: args.database_port },
        block_time: args.block_time,
        month_in: args.fast_time,
        finality_depth: args.finality_depth,
        keeper: Some(config.keeper.limits),
        relay: config.relay,
    };
    let devnet = tokio::select! {
        devnet = Devnet::up(options) => devnet?,
        // What was started is dropped, and ends.
        () = shutdown.cancelled() => return Ok(()),
    };
    devnet.run(shutdown).await
}
