//! The local devnet: everything that Dues needs, in one process tree, from one command.
//!
//! [`Devnet::up`] starts anvil and PostgreSQL (or uses those that it is pointed at), puts the contract and a
//! test token on the chain, creates the catalogue's plans, demo accounts with funded wallets and some history,
//! and then the indexer, the API and the keeper. [`Devnet::run`] tells what happens until it is stopped.
//!
//! Everything lives in one data directory and is taken up again by the next start, whatever ended the last one.

mod chain;
mod clock;
mod demo;
mod manifest;
mod narrate;
mod server;
mod services;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context as _;
use dues_domain::{catalogue::Catalogue, ids::PlanKey, money::Asset, relay::RelayLimits};
use dues_keeper::{KeeperLimits, plans::SaleTerms};
use secrecy::SecretString;
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    chain::DevChain,
    clock::{ChainClock, TimePace},
    manifest::{Manifest, WrittenManifest},
    narrate::Narrator,
    server::Server,
    services::Services,
};

pub use crate::demo::DEMO_ACCOUNTS;

/// How a devnet is run.
#[derive(Debug, Clone)]
pub struct DevnetOptions {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Forget what the data directory holds, and start anew.
    pub reset: bool,
    /// What is sold, and what tiers give.
    pub catalogue: Catalogue,
    /// The currency that the catalogue's prices are in: the test token stands for it.
    pub asset: Asset,
    /// What a plan's sale on the chain has beyond the catalogue, where that is not what is usual.
    pub sale: BTreeMap<PlanKey, SaleTerms>,
    /// A node to use instead of an anvil of our own: one whose anvil accounts are funded.
    pub rpc_url: Option<Url>,
    /// A database to use instead of a PostgreSQL of our own.
    pub database_url: Option<SecretString>,
    /// Ports on 127.0.0.1; free ones by default.
    pub ports: Ports,
    /// Seconds between blocks of our own anvil.
    pub block_time: u64,
    /// Seconds that a month takes on our own anvil; `None` where its time is the machine's.
    pub month_in: Option<u64>,
    /// Blocks below the head that count as final.
    pub finality_depth: u64,
    /// How the keeper charges; `None` for none, where charging is somebody else's business.
    pub keeper: Option<KeeperLimits>,
    /// How much of what payers sign the keeper sends; `None` for nothing.
    pub relay: Option<RelayLimits>,
}

/// Ports on 127.0.0.1; a free one where none is given.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ports {
    /// Of the API.
    pub api: Option<u16>,
    /// Of anvil.
    pub rpc: Option<u16>,
    /// Of PostgreSQL.
    pub database: Option<u16>,
}

/// A running devnet.
#[derive(Debug)]
pub struct Devnet {
    services: Services,
    server: Server,
    narrator: Narrator,
    manifest: WrittenManifest,
}

impl Devnet {
    /// Brings everything up; returns when the API answers and the demo's history is in the ledger.
    ///
    /// # Errors
    /// Where a part cannot be started: the error says which, and what to do.
    pub async fn up(options: DevnetOptions) -> anyhow::Result<Self> {
        // Bound first: a port that is taken is said before anything is started.
        let listener = bind(options.ports.api).await?;
        let services = Services::start(&options).await?;
        let store = services.store().clone();

        let chain = DevChain::connect(services.rpc_url().clone(), services.controls_time())?;
        chain.take_up_time().await?;
        let contract = chain.deploy().await.context("the contracts could not be deployed")?;
        let stored = store.sync_plans(options.catalogue.plans(), contract.source).await?;
        let plans = chain
            .create_plans(&store, contract, stored, &options.sale)
            .await
            .context("the plans could not be created on chain")?;
        let mut accounts = demo::accounts(&store).await?;
        demo::history(&chain, contract, &plans, &accounts).await.context("the demo's history failed")?;
        demo::newcomers(&store, &chain, contract, &mut accounts).await?;
        services.save().await;
        let pace = TimePace::new(options.block_time, options.month_in);
        chain.go_live(pace).await?;

        let clock = ChainClock::new(pace);
        let server = Server::start(&options, &services, contract, listener, clock.clone()).await?;
        let api_key = server::issue_key(&store).await?;
        let manifest = Manifest::new(&services, &server, contract, &plans, &accounts, &api_key);
        let written = manifest.write(&options.data_dir)?;
        let narrator =
            Narrator::new(store, Arc::new(options.catalogue), clock, manifest, written.path().to_owned());
        Ok(Self { services, server, narrator, manifest: written })
    }

    /// Prints the table of URLs and keys and then a line per event, until `shutdown` or until a part ends by
    /// itself; then stops everything in order and saves the chain.
    ///
    /// # Errors
    /// Where a part ended by itself, after everything else was stopped.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        self.narrator.introduce();
        let Self { services, server, narrator, .. } = &mut self;
        let (changes, indexer, api) = server.watch();
        let changed = Notify::new();
        let (stop, failed) = (CancellationToken::new(), CancellationToken::new());
        let events = async {
            let ended = tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                () = failed.cancelled() => Ok(()),
                error = api => Err(error),
                never = narrator.follow(changes, indexer, &changed) => match never {},
            };
            stop.cancel();
            ended
        };
        // Not part of the select: a save that is under way is waited for, or it could overwrite the last one.
        let services = async {
            let ended = services.watch(&changed, &stop).await;
            failed.cancel();
            ended
        };
        let (events, services) = tokio::join!(events, services);
        drop(self.manifest);
        self.server.stop().await;
        self.services.stop().await?;
        services.and(events)
    }
}

async fn bind(port: Option<u16>) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.unwrap_or(0)));
    TcpListener::bind(address).await.with_context(|| {
        format!("the API cannot listen on {address}: is another devnet running? see --api-port")
    })
}
