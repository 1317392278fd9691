//! What a command is about: chains of the configuration, or a running devnet.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use alloy_primitives::Address;
use anyhow::Context as _;
use clap::Args;
use dues_chain::source::RpcSource;
use dues_domain::chain::ChainSource;
use dues_indexer::{FinalityPolicy, IndexerConfig};
use dues_store::mirror::MirrorScope;
use indicatif::ProgressBar;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::Ledger;
use crate::{
    config::{Chain, Config, DatabaseSection, GrantSetting},
    progress,
};

/// Which of the chains.
#[derive(Debug, Clone, Args)]
pub(super) struct Target {
    /// The chain, by its name in the configuration; all of them by default.
    #[arg(long, value_name = "NAME", conflicts_with = "devnet")]
    chain: Option<String>,
    /// The devnet that runs in this directory (`dues dev --data-dir`), instead of a chain of the configuration.
    #[arg(long, value_name = "DIR")]
    devnet: Option<PathBuf>,
}

/// What of a running devnet's `devnet.json` is needed.
#[derive(Deserialize)]
struct Manifest {
    rpc_url: SecretString,
    chain_id: u64,
    contract: Address,
    token: Address,
    merchant: Address,
    merchant_private_key: SecretString,
    finality_depth: u64,
    database_url: SecretString,
}

impl Manifest {
    fn read(dir: &Path) -> anyhow::Result<Self> {
        let file = dir.join("devnet.json");
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}: is the devnet running?", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not of this release", file.display()))
    }
}

impl Target {
    /// The key of a devnet's merchant, which protects nothing.
    pub(super) fn devnet_merchant_key(&self) -> anyhow::Result<Option<SecretString>> {
        let manifest = self.devnet.as_deref().map(Manifest::read).transpose()?;
        Ok(manifest.map(|manifest| manifest.merchant_private_key))
    }

    /// The chains that are meant, and the ledger that mirrors them.
    pub(super) async fn open(self, mut config: Config) -> anyhow::Result<(Ledger, Vec<(String, Chain)>)> {
        if let Some(dir) = &self.devnet {
            let manifest = Manifest::read(dir)?;
            let section = DatabaseSection { url: Some(manifest.database_url.clone()), ..config.database };
            let ledger = Ledger::open_beside(&section).await?;
            let endpoints = manifest.rpc_url.expose_secret().parse().context("the devnet's rpc_url")?;
            let chain = Chain {
                indexer: IndexerConfig {
                    source: ChainSource { chain_id: manifest.chain_id, contract: manifest.contract },
                    // As the devnet begins.
                    scope: MirrorScope { merchant: manifest.merchant, start_block: 1 },
                    finality: FinalityPolicy::Depth(manifest.finality_depth),
                    poll_interval: Duration::from_secs(1),
                    assets: HashMap::from([(manifest.token, config.asset)]),
                },
                endpoints,
                grant: GrantSetting::Latest,
                token: manifest.token,
                payee: manifest.merchant,
                max_fee: None,
            };
            return Ok((ledger, vec![("devnet".to_owned(), chain)]));
        }
        let chains = match &self.chain {
            Some(name) => {
                let (name, chain) =
                    config.chains.remove_entry(name).with_context(|| format!("there is no chain {name}"))?;
                vec![(name, chain)]
            }
            None => config.chains.into_iter().collect(),
        };
        anyhow::ensure!(!chains.is_empty(), "there is no chain: see [chains] in dues.toml, or --devnet");
        let ledger = Ledger::open_beside(&config.database).await?;
        ledger.store.check().await?;
        Ok((ledger, chains))
    }
}

/// The node of a chain.
pub(super) fn node(chain: &Chain) -> anyhow::Result<RpcSource> {
    Ok(RpcSource::new(chain.endpoints.clone(), chain.indexer.source)?)
}

/// A bar with the time left, on a terminal; nothing otherwise.
pub(super) fn bar() -> anyhow::Result<ProgressBar> {
    progress::line("{msg} {wide_bar} {human_pos} of {human_len}, {eta} left")
}
