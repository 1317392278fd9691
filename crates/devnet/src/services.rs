//! The chain and the database underneath: our own processes, or those that the options point at.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use dues_api::clock::{Clock, SystemClock};
use dues_chain::source::Endpoints;
use dues_embedded::{Anvil, AnvilOptions, DirLock, Durability, Postgres, PostgresOptions, tools};
use dues_store::{
    Store,
    usage::{UsageConfig, UsageStore},
};
use secrecy::SecretString;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{DevnetOptions, chain, manifest};

/// The devnet's chain id (anvil's own).
pub(crate) const CHAIN_ID: u64 = 31_337;
/// How far back the demo's history reaches.
pub(crate) const HISTORY: Duration = Duration::from_secs(11 * 86_400);
/// How often the chain is saved where nothing of ours happened.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);
const POOL: u32 = 10;

#[derive(Debug)]
pub(crate) struct Services {
    anvil: Option<Anvil>,
    postgres: Option<Postgres>,
    store: Store,
    usage: UsageStore,
    rpc_url: Url,
    database_url: SecretString,
    _lock: DirLock,
}

impl Services {
    pub(crate) async fn start(options: &DevnetOptions) -> anyhow::Result<Self> {
        let data = &options.data_dir;
        std::fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
        let lock = DirLock::acquire(data).context("another devnet runs in this data directory")?;
        manifest::remove_stale(data);
        if options.reset {
            remove(&state_file(data))?;
        }
        let anvil = match options.rpc_url {
            Some(_) => None,
            None => Some(start_anvil(options).await?),
        };
        let rpc_url = match (&options.rpc_url, &anvil) {
            (Some(url), _) => url.clone(),
            (None, Some(anvil)) => anvil.rpc_url().parse()?,
            (None, None) => anyhow::bail!("there is no chain"),
        };
        let (postgres, database_url) = match &options.database_url {
            Some(url) => (None, url.clone()),
            None => {
                let postgres = start_postgres(options).await?;
                // The ledger follows the chain: a new chain gets a ledger of its own.
                let name = chain::name(rpc_url.clone()).await?;
                let url = postgres.create_database(&format!("dues_{name}")).await?;
                (Some(postgres), url)
            }
        };
        let store = Store::connect(&database_url, POOL).await?;
        store.migrate().await?;
        let usage = UsageStore::connect(&database_url, UsageConfig::default()).await?;
        Ok(Self { anvil, postgres, store, usage, rpc_url, database_url, _lock: lock })
    }

    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) const fn usage(&self) -> &UsageStore {
        &self.usage
    }

    pub(crate) const fn rpc_url(&self) -> &Url {
        &self.rpc_url
    }

    /// Where the chain is read: our own anvil also tells of its blocks as they come.
    pub(crate) fn endpoints(&self) -> anyhow::Result<Endpoints> {
        let Some(anvil) = &self.anvil else { return Ok(self.rpc_url.clone().into()) };
        let http = anvil.rpc_url();
        Ok(format!("{http} {}", http.replacen("http:", "ws:", 1)).parse()?)
    }

    pub(crate) const fn database_url(&self) -> &SecretString {
        &self.database_url
    }

    /// Whether the chain is our own, so that its clock and its blocks are ours to set.
    pub(crate) const fn controls_time(&self) -> bool {
        self.anvil.is_some()
    }

    /// Saves the chain whenever `changed` says so, and every few seconds: a `kill -9` of everything then loses at
    /// most a few empty blocks. Returns after `stop`, or with the reason when one of our processes has ended.
    pub(crate) async fn watch(&mut self, changed: &Notify, stop: &CancellationToken) -> anyhow::Result<()> {
        loop {
            let ended = async {
                tokio::select! {
                    error = or_never(self.anvil.as_mut().map(Anvil::wait)) => error,
                    error = or_never(self.postgres.as_mut().map(Postgres::wait)) => error,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                error = ended => return Err(error.into()),
                () = changed.notified() => {}
                () = tokio::time::sleep(SAVE_INTERVAL) => {}
            }
            self.save().await;
        }
    }

    /// Saves the chain, where it is our own.
    pub(crate) async fn save(&self) {
        if let Some(anvil) = &self.anvil
            && let Err(error) = anvil.save_state().await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the chain could not be saved");
        }
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.save().await;
        self.usage.stop().await;
        self.store.close().await;
        if let Some(anvil) = self.anvil {
            anvil.stop().await?;
        }
        if let Some(postgres) = self.postgres {
            postgres.stop().await?;
        }
        Ok(())
    }
}

async fn or_never<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn state_file(data: &Path) -> std::path::PathBuf {
    data.join("anvil-state.json")
}

async fn start_anvil(options: &DevnetOptions) -> anyhow::Result<Anvil> {
    let data = &options.data_dir;
    let now = SystemClock.now().timestamp();
    let genesis = now.saturating_sub_unsigned(HISTORY.as_secs());
    let anvil = AnvilOptions {
        // No blocks but those that the set-up asks for, until the demo's history is written.
        extra_args: vec!["--no-mining".into(), "--timestamp".into(), genesis.to_string().into()],
        port: options.ports.rpc,
        state_file: Some(state_file(data)),
        ..AnvilOptions::new(tools::anvil()?, CHAIN_ID, data.join("logs"))
    };
    Anvil::start(anvil).await.context("anvil did not start")
}

async fn start_postgres(options: &DevnetOptions) -> anyhow::Result<Postgres> {
    let data = &options.data_dir;
    let postgres = PostgresOptions {
        port: options.ports.database,
        durability: Durability::Scratch,
        log_dir: data.join("logs"),
        ..PostgresOptions::new(tools::postgres()?, data.join("postgres"))
    };
    Postgres::start(postgres).await.context("PostgreSQL did not start")
}

fn remove(file: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}
