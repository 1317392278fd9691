//! `devnet.json`: where everything is, for programs.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use dues_api::auth::ApiKeySecret;
use dues_domain::calendar::{Interval, IntervalUnit};
use secrecy::ExposeSecret as _;
use serde::Serialize;

use crate::{
    chain::{Contracts, SoldPlan},
    demo::{DemoWallet, OPERATOR_KEY},
    server::Server,
    services::Services,
};

const FILE: &str = "devnet.json";

/// What the file says. Its keys are those of the test network alone, and protect nothing.
#[derive(Clone, Serialize)]
pub(crate) struct Manifest {
    pub(crate) rpc_url: String,
    pub(crate) chain_id: u64,
    pub(crate) finality_depth: u64,
    pub(crate) contract: String,
    pub(crate) token: String,
    pub(crate) merchant: String,
    pub(crate) merchant_private_key: &'static str,
    pub(crate) api_url: String,
    pub(crate) api_key: String,
    pub(crate) database_url: String,
    /// `null` as long as there is no Stripe rail.
    pub(crate) stripe_url: Option<String>,
    pub(crate) plans: Vec<ManifestPlan>,
    pub(crate) wallets: Vec<ManifestWallet>,
}

#[derive(Clone, Serialize)]
pub(crate) struct ManifestPlan {
    pub(crate) id: String,
    pub(crate) tier: &'static str,
    pub(crate) interval: String,
    pub(crate) onchain_id: u32,
    pub(crate) price_base_units: String,
    #[serde(skip)]
    pub(crate) price: String,
}

#[derive(Clone, Serialize)]
pub(crate) struct ManifestWallet {
    pub(crate) address: String,
    pub(crate) private_key: String,
    pub(crate) account_id: String,
    #[serde(skip)]
    pub(crate) external_id: String,
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manifest")
            .field("rpc_url", &self.rpc_url)
            .field("api_url", &self.api_url)
            .finish_non_exhaustive()
    }
}

impl Manifest {
    pub(crate) fn new(
        services: &Services,
        server: &Server,
        contracts: Contracts,
        plans: &[SoldPlan],
        wallets: &[DemoWallet],
        api_key: &ApiKeySecret,
    ) -> Self {
        Self {
            rpc_url: services.rpc_url().to_string().trim_end_matches('/').to_owned(),
            chain_id: contracts.source.chain_id,
            finality_depth: server.finality_depth,
            contract: contracts.source.contract.to_string(),
            token: contracts.token.to_string(),
            merchant: contracts.merchant.to_string(),
            merchant_private_key: OPERATOR_KEY,
            api_url: format!("http://{}", server.api),
            api_key: api_key.expose().to_owned(),
            database_url: services.database_url().expose_secret().to_owned(),
            stripe_url: None,
            plans: plans.iter().map(plan).collect(),
            wallets: wallets
                .iter()
                .map(|wallet| ManifestWallet {
                    address: wallet.address.to_string(),
                    private_key: wallet.private_key.clone(),
                    account_id: wallet.account.to_string(),
                    external_id: wallet.external_id.clone(),
                })
                .collect(),
        }
    }

    /// Writes the file for its owner's eyes only, whole or not at all.
    pub(crate) fn write(&self, data_dir: &Path) -> anyhow::Result<WrittenManifest> {
        let path = data_dir.join(FILE);
        let draft = data_dir.join(format!("{FILE}.new"));
        let write = || {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
            file.write_all(b"\n")?;
            fs::rename(&draft, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(WrittenManifest { path })
    }
}

fn plan(plan: &SoldPlan) -> ManifestPlan {
    ManifestPlan {
        id: plan.offer.key.to_string(),
        tier: plan.offer.tier.as_str(),
        interval: interval(plan.offer.interval),
        onchain_id: plan.onchain_id,
        price_base_units: plan.offer.price.amount.to_string(),
        price: plan.offer.price.to_string(),
    }
}

fn interval(interval: Interval) -> String {
    match interval {
        Interval::MONTH => "month".into(),
        Interval::YEAR => "year".into(),
        Interval { unit: IntervalUnit::Month, count } => format!("{count} months"),
        Interval { unit: IntervalUnit::Day, count: 1 } => "day".into(),
        Interval { unit: IntervalUnit::Day, count } => format!("{count} days"),
    }
}

/// The file, which goes when the devnet does.
#[derive(Debug)]
pub(crate) struct WrittenManifest {
    path: PathBuf,
}

impl WrittenManifest {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WrittenManifest {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what a killed predecessor left: its URLs and its key lead nowhere.
pub(crate) fn remove_stale(data_dir: &Path) {
    let _ = fs::remove_file(data_dir.join(FILE));
}
