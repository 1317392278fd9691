//! `dues run`, `dues api` and `dues index`: the parts of the service, together or each alone.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use dues_api::{AppState, clock::SystemClock, readiness::Probe};
use dues_chain::source::{self, RpcSource};
use dues_indexer::Indexer;
use dues_store::Store;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::Ledger;
use crate::{
    config::{Chain, Config},
    shutdown,
};

/// What one process does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    api: bool,
    indexer: bool,
}

impl Parts {
    pub(crate) const ALL: Self = Self { api: true, indexer: true };
    pub(crate) const API: Self = Self { api: true, indexer: false };
    pub(crate) const INDEXER: Self = Self { api: false, indexer: true };
}

pub(crate) async fn run(config: Config, parts: Parts) -> anyhow::Result<()> {
    ensure!(
        !parts.indexer || parts.api || !config.chains.is_empty(),
        "there is no chain to index: see [chains] in dues.toml"
    );
    let shutdown = shutdown::on_signals()?;
    let ledger = Ledger::open(&config.database).await?;
    if parts.api && parts.indexer {
        ledger.store.migrate().await?;
    } else {
        // Several processes share the schema: `dues migrate` is an act of its own there.
        ledger.store.check().await?;
    }
    let served = serve(config, parts, &ledger.store, &shutdown).await;
    shutdown.cancel();
    ledger.close().await?;
    served
}

async fn serve(
    config: Config,
    parts: Parts,
    store: &Store,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let mut probes = Vec::new();
    if parts.indexer {
        for (name, chain) in &config.chains {
            store.sync_plans(config.catalogue.plans(), chain.indexer.source).await?;
            let indexer = indexer(name, chain, store, config.asset.exponent).await?;
            probes.push(Probe { name: "indexer", state: indexer.readiness() });
            let (name, shutdown) = (name.clone(), shutdown.clone());
            tasks.spawn(async move {
                // The API keeps answering from what is in the ledger; `/readyz` says what happened.
                if let Err(error) = indexer.run(shutdown.clone()).await {
                    tracing::error!(
                        chain = name,
                        error = format!("{:#}", anyhow::Error::from(error)),
                        "indexing stopped"
                    );
                    shutdown.cancelled().await;
                }
                anyhow::Ok(())
            });
        }
    }
    if parts.api {
        let listener = TcpListener::bind(config.server.listen)
            .await
            .with_context(|| format!("cannot listen on {}", config.server.listen))?;
        tracing::info!(address = %listener.local_addr()?, "the API listens");
        let state = AppState {
            store: store.clone(),
            catalogue: Arc::new(config.catalogue),
            clock: Arc::new(SystemClock),
            probes: probes.into(),
        };
        let shutdown = shutdown.clone();
        tasks.spawn(async move { Ok(dues_api::serve(listener, dues_api::router(state), shutdown).await?) });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

async fn indexer(name: &str, chain: &Chain, store: &Store, exponent: u8) -> anyhow::Result<Indexer> {
    let decimals = source::token_decimals(chain.rpc_url()?, chain.token)
        .await
        .with_context(|| format!("the token of chain {name} does not say its decimals"))?;
    ensure!(
        decimals == exponent,
        "the token of chain {name} has {decimals} decimals, the catalogue's prices have {exponent}"
    );
    let rpc = RpcSource::new(chain.rpc_url()?, chain.indexer.source)?;
    Ok(Indexer::new(store.clone(), rpc, chain.indexer.clone()))
}
