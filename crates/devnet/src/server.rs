//! Dues itself: the indexer, the API and the keeper, in this process.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use chrono::TimeDelta;
use dues_api::{
    AppState,
    auth::ApiKeySecret,
    clock::{Clock, SystemClock},
    counters::Counters,
    proof::ContractWallets,
    readiness::Probe,
    relay::Relay,
    site::Site,
    snapshot::Snapshot,
    upkeep,
};
use dues_chain::source::RpcSource;
use dues_indexer::{FinalityPolicy, Indexer, IndexerConfig, LedgerChange};
use dues_keeper::{
    FeeLimits, Keeper, KeeperConfig, KeeperSigner,
    merchant::{Merchant, MerchantConfig},
    overage::{OverageCollector, OverageConfig},
};
use dues_store::{Actor, Grants, NewApiKey, Scope, Store, mirror::MirrorScope, usage::Retention};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{DevnetOptions, chain::Contracts, clock::ChainClock, demo::OPERATOR_KEY, services::Services};

/// The chain is on this machine: looking at it is cheap.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Twice in a block.
const KEEPER_INTERVAL: Duration = Duration::from_millis(500);
/// Charges what is due: anvil's account 9. Every anvil has this key and gives it funds; it protects nothing.
const KEEPER_KEY: &str = "0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6";
const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);
const KEY_NAME: &str = "devnet";
const SNAPSHOT_ACCOUNTS: usize = 10_000;
const OVERAGE_INTERVAL: Duration = Duration::from_secs(1);
const GWEI: u64 = 1_000_000_000;
const FEES: FeeLimits = FeeLimits { max_fee: 100 * GWEI, max_priority_fee: GWEI };

#[derive(Debug)]
pub(crate) struct Server {
    changes: mpsc::UnboundedReceiver<LedgerChange>,
    pub(crate) api: SocketAddr,
    pub(crate) finality_depth: u64,
    shutdown: CancellationToken,
    indexer: JoinHandle<anyhow::Result<()>>,
    serving: JoinHandle<anyhow::Result<()>>,
    keeper: Option<JoinHandle<anyhow::Result<()>>>,
    clock: JoinHandle<()>,
}

impl Server {
    /// Starts both, and returns when the ledger has everything that the chain has.
    pub(crate) async fn start(
        options: &DevnetOptions,
        services: &Services,
        contracts: Contracts,
        listener: TcpListener,
        clock: ChainClock,
    ) -> anyhow::Result<Self> {
        let shutdown = CancellationToken::new();
        let store = services.store().clone();
        let rpc = RpcSource::new(services.endpoints()?, contracts.source)?;
        let config = IndexerConfig {
            source: contracts.source,
            // Block 0 has no events, and an anvil that has loaded a saved chain may serve another one than before.
            scope: MirrorScope { merchant: contracts.merchant, start_block: 1 },
            finality: FinalityPolicy::Depth(options.finality_depth),
            poll_interval: POLL_INTERVAL,
            assets: HashMap::from([(contracts.token, options.asset.clone())]),
        };
        let (observer, changes) = mpsc::unbounded_channel();
        let repair = format!("dues reindex --devnet {}", options.data_dir.display());
        let clock_task = tokio::spawn(clock.clone().follow(rpc.clone(), shutdown.clone()));
        let (keeper_rpc, collector_rpc) = (rpc.clone(), rpc.clone());
        let indexer = Indexer::new(store.clone(), rpc, config).repaired_by(repair).on_change(move |change| {
            // Nobody listens any more only while everything stops.
            let _ = observer.send(change);
        });
        let mut health = indexer.health();
        let probe = Probe { name: "indexer".into(), check: Box::new(indexer.readiness()) };
        let mut indexer = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { indexer.run(shutdown).await.context("the indexer stopped") }
        });

        // On a devnet a payment shows at once.
        let snapshot = Snapshot::new(store.clone(), Grants::at_once(), SNAPSHOT_ACCOUNTS);
        let nodes = RpcSource::new(services.endpoints()?, contracts.source)?;
        let api = listener.local_addr()?;
        let counters = Counters::new(services.usage().clone(), SNAPSHOT_ACCOUNTS);
        let state = AppState {
            store: store.clone(),
            snapshot: snapshot.clone(),
            usage: counters.clone(),
            catalogue: Arc::new(options.catalogue.clone()),
            clock: Arc::new(clock.clone()),
            site: Arc::new(Site::at(api)),
            contract_wallets: ContractWallets::new([nodes]),
            probes: Arc::from([probe]),
            // Its key is for trying things out.
            rate_limiter: None,
            relay: options.relay.map(|limits| Relay { targets: vec![contracts.source], limits }),
        };
        // Nothing is removed.
        let retention =
            Retention { event_months: u32::from(u16::MAX), reservations: TimeDelta::days(36_500) };
        let tidying =
            upkeep::keep_tidy(services.usage().clone(), Arc::new(clock.clone()), retention, shutdown.clone());
        tokio::spawn(tidying);
        let serving = tokio::spawn({
            let (shutdown, clock) = (shutdown.clone(), clock.clone());
            async move {
                let _following = (snapshot.follow(), counters.follow(Arc::new(clock)));
                dues_api::serve(listener, dues_api::router(state), shutdown).await.context("the API stopped")
            }
        });
        let caught_up =
            tokio::time::timeout(CATCH_UP_WITHIN, health.wait_for(dues_indexer::IndexerHealth::is_caught_up));
        tokio::select! {
            outcome = caught_up => { outcome.context("the ledger did not catch up with the chain")??; }
            ended = &mut indexer => return Err(ended_early(ended)),
        }
        let keeper = match options.keeper {
            Some(limits) => {
                let config = KeeperConfig {
                    source: contracts.source,
                    merchant: contracts.merchant,
                    token: contracts.token,
                    poll_interval: KEEPER_INTERVAL,
                    limits,
                    relay: options.relay,
                };
                let signer = KeeperSigner::from_private_key(&KEEPER_KEY.into())?;
                let keeper = Keeper::new(store, keeper_rpc, config, signer);
                let shutdown = shutdown.clone();
                // Where it fails for good, the rest of the devnet goes on, and anybody can charge.
                Some(tokio::spawn(async move { keeper.run(shutdown).await.context("the keeper stopped") }))
            }
            None => None,
        };
        if let Some(prices) = options.overage {
            let source = contracts.source;
            let fees = options.keeper.map_or(FEES, |limits| limits.fees);
            let acting =
                MerchantConfig { source, fees, poll_interval: KEEPER_INTERVAL, patience: CATCH_UP_WITHIN };
            let signer = KeeperSigner::from_private_key(&OPERATOR_KEY.into())?;
            let merchant = Merchant::new(services.store().clone(), collector_rpc.clone(), acting, signer);
            let config = OverageConfig { source, prices, poll_interval: OVERAGE_INTERVAL };
            let usage = services.usage().clone();
            let collector =
                OverageCollector::new(services.store().clone(), usage, collector_rpc, merchant, config);
            tokio::spawn(collector.run(shutdown.clone()));
        }
        let finality_depth = options.finality_depth;
        Ok(Self { changes, api, finality_depth, shutdown, indexer, serving, keeper, clock: clock_task })
    }

    /// What the ledger goes through; why the indexer stopped; why the API stopped.
    pub(crate) fn watch(
        &mut self,
    ) -> (
        &mut mpsc::UnboundedReceiver<LedgerChange>,
        impl Future<Output = anyhow::Error>,
        impl Future<Output = anyhow::Error>,
    ) {
        let Self { changes, indexer, serving, .. } = self;
        (changes, async { ended_early(indexer.await) }, async { ended_early(serving.await) })
    }

    /// Lets requests that are under way finish, and the indexer its step.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        for task in [Some(self.indexer), Some(self.serving), self.keeper].into_iter().flatten() {
            // One that had ended before was told of, and its handle must not be asked twice.
            if !task.is_finished()
                && let Ok(Err(error)) = task.await
            {
                tracing::warn!(error = &*error, "a part did not stop cleanly");
            }
        }
        let _ = self.clock.await;
    }
}

fn ended_early(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow!("a part ended by itself"),
        Ok(Err(error)) => error,
        Err(error) => error.into(),
    }
}

/// A key for everything, in place of the one of the last start.
pub(crate) async fn issue_key(store: &Store) -> anyhow::Result<ApiKeySecret> {
    store.revoke_api_keys(KEY_NAME, SystemClock.now()).await?;
    let secret = ApiKeySecret::generate()?;
    let key = NewApiKey {
        name: KEY_NAME.into(),
        prefix: secret.prefix().into(),
        hash: secret.hash(),
        scopes: Scope::ALL.to_vec(),
        expires_at: None,
    };
    store.create_api_key(&key, Actor::Operator).await?;
    Ok(secret)
}
