//! `dues run`, `dues api` and `dues index`: the parts of the service, together or each alone.

use std::{sync::Arc, time::Duration};

use alloy_primitives::Address;
use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use dues_api::{
    AppState, clock::SystemClock, counters::Counters, limits::RateLimiter, proof::ContractWallets,
    readiness::Probe, site::Site, snapshot::Snapshot, upkeep,
};
use dues_chain::source::{RpcSource, SourceError};
use dues_domain::overage::OveragePrices;
use dues_indexer::Indexer;
use dues_keeper::{
    Keeper, KeeperSigner,
    merchant::{Merchant, MerchantConfig},
    overage::{OverageCollector, OverageConfig},
};
use dues_store::{
    Store,
    usage::{Retention, UsageStore},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::Ledger;
use crate::{config::Config, metrics, progress, shutdown};

/// How long to wait for a node that does not answer at boot.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// How often is looked for overage to be charged.
const OVERAGE_INTERVAL: Duration = Duration::from_secs(30);
/// How long a charge of overage is waited for before the next round looks for it again.
const ACT_PATIENCE: Duration = Duration::from_secs(60);

/// What one process does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    api: bool,
    indexer: bool,
    /// Where there is a key.
    keeper: bool,
}

impl Parts {
    pub(crate) const ALL: Self = Self { api: true, indexer: true, keeper: true };
    pub(crate) const API: Self = Self { api: true, indexer: false, keeper: false };
    pub(crate) const INDEXER: Self = Self { api: false, indexer: true, keeper: false };
}

/// The token that stands for the catalogue's currency.
#[derive(Debug, Clone, Copy)]
struct Token {
    address: Address,
    /// The decimals that the prices have.
    exponent: u8,
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
    let usage = if parts.api { Some(open_usage(&config, parts, &ledger).await?) } else { None };
    let served = serve(config, parts, &ledger.store, usage.as_ref(), &shutdown).await;
    shutdown.cancel();
    if let Some(usage) = usage {
        // What is gathered is finished, also where nobody waits for the answer any more.
        usage.stop().await;
    }
    ledger.close().await?;
    served
}

async fn open_usage(config: &Config, parts: Parts, ledger: &Ledger) -> anyhow::Result<UsageStore> {
    let usage = ledger.usage(&config.usage).await?;
    if parts.indexer {
        usage.migrate().await?;
    } else {
        usage.check().await.context("the usage database")?;
    }
    Ok(usage)
}

async fn serve(
    config: Config,
    parts: Parts,
    store: &Store,
    usage: Option<&UsageStore>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let mut probes = Vec::new();
    let grants = dues_indexer::grants(config.grants_once_final());
    let relay = config.relay();
    // Before anything that counts.
    if let Some(listen) = config.metrics.listen {
        tasks.spawn(metrics::serve(listen, shutdown.clone()).await?);
    }
    let collecting = collecting(&config, parts, usage)?;
    let signer = if parts.keeper { config.keeper.signer()? } else { None };
    if parts.keeper && signer.is_none() {
        tracing::info!("the keeper has no key: what is due is charged by others, or not at all");
    }
    // With nodes of their own: what strangers have them asked does not wear out the indexer's patience.
    let nodes =
        config.chains.values().map(|chain| RpcSource::new(chain.endpoints.clone(), chain.indexer.source));
    let contract_wallets = ContractWallets::new(nodes.collect::<Result<Vec<_>, _>>()?);
    if parts.indexer {
        for (name, chain) in config.chains {
            store.sync_plans(config.catalogue.plans(), chain.indexer.source).await?;
            let rpc = RpcSource::new(chain.endpoints.clone(), chain.indexer.source)?;
            let indexer = Indexer::new(store.clone(), rpc.clone(), chain.indexer.clone())
                .repaired_by(format!("dues reindex --chain {name}"));
            probes.push(Probe { name: format!("indexer of {name}"), check: Box::new(indexer.readiness()) });
            tasks.spawn(progress::watch(name.clone(), indexer.health()));
            let token = Token { address: chain.token, exponent: config.asset.exponent };
            if let Some(signer) = &signer {
                let keeper_config = config.keeper.config(&chain);
                let keeper = Keeper::new(store.clone(), rpc.clone(), keeper_config, signer.clone());
                tasks.spawn(keep(name.clone(), keeper, shutdown.clone()));
            }
            if let Some((prices, signer, usage)) = &collecting {
                let merchant_config = MerchantConfig {
                    source: chain.indexer.source,
                    fees: config.keeper.fees(&chain),
                    poll_interval: chain.indexer.poll_interval,
                    patience: ACT_PATIENCE,
                };
                let merchant = Merchant::new(store.clone(), rpc.clone(), merchant_config, signer.clone());
                let overage_config = OverageConfig {
                    source: chain.indexer.source,
                    prices: *prices,
                    poll_interval: OVERAGE_INTERVAL,
                };
                let (usage, shutdown) = (usage.clone(), shutdown.clone());
                let collector =
                    OverageCollector::new(store.clone(), usage, rpc.clone(), merchant, overage_config);
                tasks.spawn(async move {
                    collector.run(shutdown).await;
                    Ok(())
                });
            }
            tasks.spawn(index(name, rpc, token, indexer, parts, shutdown.clone()));
        }
    }
    if let Some(usage) = usage {
        let retention = Retention {
            event_months: config.usage.keep_events_months,
            reservations: TimeDelta::days(config.usage.keep_reservations_days.into()),
        };
        let (usage, clock, shutdown) = (usage.clone(), Arc::new(SystemClock), shutdown.clone());
        tasks.spawn(async move {
            upkeep::keep_tidy(usage, clock, retention, shutdown).await;
            Ok(())
        });
    }
    if let Some(usage) = usage {
        let listener = TcpListener::bind(config.server.listen)
            .await
            .with_context(|| format!("cannot listen on {}", config.server.listen))?;
        let address = listener.local_addr()?;
        if config.site.is_none() && address.ip().is_unspecified() {
            tracing::warn!("server.public_url is not set: no browser can sign in");
        }
        let site = config.site.unwrap_or_else(|| Site::at(address));
        tracing::info!(%address, public_url = site.origin(), "the API listens");
        let snapshot = Snapshot::new(store.clone(), grants, config.server.snapshot_accounts);
        let counters = Counters::new(usage.clone(), config.server.snapshot_accounts);
        let state = AppState {
            store: store.clone(),
            snapshot: snapshot.clone(),
            usage: counters.clone(),
            catalogue: Arc::new(config.catalogue),
            clock: Arc::new(SystemClock),
            site: Arc::new(site),
            contract_wallets,
            probes: probes.into(),
            rate_limiter: config.server.rate_limit().map(RateLimiter::new),
            relay,
        };
        let serving = dues_api::serve(listener, dues_api::router(state), shutdown.clone());
        tasks.spawn(async move {
            let _following = (snapshot.follow(), counters.follow(Arc::new(SystemClock)));
            Ok(serving.await?)
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// What overage costs, who charges it, and where it is counted; `None` where it is not charged here.
fn collecting(
    config: &Config,
    parts: Parts,
    usage: Option<&UsageStore>,
) -> anyhow::Result<Option<(OveragePrices, KeeperSigner, UsageStore)>> {
    let (Some(prices), Some(usage), true) = (config.overage, usage, parts.keeper) else { return Ok(None) };
    let Some(key) = &config.merchant else {
        tracing::warn!("overage has a price, but [merchant] has no key: it is counted and not charged");
        return Ok(None);
    };
    Ok(Some((prices, key.signer()?, usage.clone())))
}

/// Indexes one chain until `shutdown`. Where that fails for good, an API in the same process goes on answering
/// from what is in the ledger, and `/readyz` says what happened; without one, the process ends.
async fn index(
    name: String,
    rpc: RpcSource,
    token: Token,
    indexer: Indexer,
    parts: Parts,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let indexed = async {
        tokio::select! {
            checked = check_token(&rpc, token) => checked?,
            () = shutdown.cancelled() => return Ok(()),
        }
        Ok(indexer.run(shutdown.clone()).await?)
    };
    let indexed: anyhow::Result<()> = indexed.await;
    if let Err(error) = indexed {
        if !parts.api {
            return Err(error.context(format!("indexing of chain {name} stopped")));
        }
        tracing::error!(chain = name, error = format!("{error:#}"), "indexing stopped");
        shutdown.cancelled().await;
    }
    Ok(())
}

/// Charges what is due on one chain until `shutdown`. Where that fails for good, the rest goes on: renewals can be charged
/// by anybody.
async fn keep(name: String, keeper: Keeper, shutdown: CancellationToken) -> anyhow::Result<()> {
    if let Err(error) = keeper.run(shutdown.clone()).await {
        tracing::error!(chain = name, error = &error as &dyn std::error::Error, "charging stopped");
        shutdown.cancelled().await;
    }
    Ok(())
}

/// A token whose decimals are not those of the prices would be charged a wrong amount by some power of ten.
async fn check_token(rpc: &RpcSource, token: Token) -> anyhow::Result<()> {
    let decimals = loop {
        match rpc.token_decimals(token.address).await {
            Ok(decimals) => break decimals,
            Err(
                error @ (SourceError::Rpc { .. } | SourceError::Resting(_) | SourceError::Inconsistent(_)),
            ) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the node does not answer");
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    ensure!(
        decimals == token.exponent,
        "the token has {decimals} decimals, the catalogue's prices have {}",
        token.exponent
    );
    Ok(())
}
