//! The sections of `dues.toml` as they are written; see there for what each key means.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
};

use alloy_primitives::Address;
use dues_api::limits::RateLimit;
use dues_domain::catalogue::Tier;
use rust_decimal::Decimal;
use secrecy::SecretString;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Root {
    pub(super) server: ServerSection,
    pub(super) database: DatabaseSection,
    pub(super) log: LogSection,
    #[serde(default)]
    pub(super) metrics: MetricsSection,
    pub(super) keeper: KeeperSection,
    pub(super) usage: UsageSection,
    #[serde(default)]
    pub(super) merchant: MerchantSection,
    pub(super) relay: RelaySection,
    #[serde(default)]
    pub(super) overage: OverageSection,
    #[serde(default)]
    pub(super) chains: BTreeMap<String, ChainSection>,
    pub(super) catalogue: CatalogueSection,
    pub(super) tiers: BTreeMap<Tier, TierSection>,
    pub(super) plans: BTreeMap<String, PlanSection>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerSection {
    pub(crate) listen: SocketAddr,
    pub(crate) public_url: Option<String>,
    pub(crate) snapshot_accounts: usize,
    pub(super) requests_per_second: u32,
    pub(super) burst: u32,
}

impl ServerSection {
    /// How many requests each API key may make; `None` for any number.
    pub(crate) fn rate_limit(&self) -> Option<RateLimit> {
        let (per_second, burst) = (NonZeroU32::new(self.requests_per_second)?, NonZeroU32::new(self.burst)?);
        Some(RateLimit { per_second, burst })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DatabaseSection {
    pub(crate) url: Option<SecretString>,
    pub(crate) data_dir: PathBuf,
    pub(crate) max_connections: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsageSection {
    pub(crate) database: UsageDatabaseSection,
    pub(crate) writers: u32,
    pub(crate) late_hours: u32,
    pub(crate) keep_events_months: u32,
    pub(crate) keep_reservations_days: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsageDatabaseSection {
    pub(crate) url: Option<SecretString>,
    pub(crate) max_connections: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogSection {
    pub(crate) filter: String,
    pub(crate) format: LogFormat,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MetricsSection {
    pub(crate) listen: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChainSection {
    pub(super) rpc_url: Option<SecretString>,
    pub(super) chain_id: u64,
    pub(super) merchant: Address,
    pub(super) contract: Option<Address>,
    pub(super) token: Address,
    #[serde(default)]
    pub(super) payee: Option<Address>,
    #[serde(default)]
    pub(super) start_block: u64,
    #[serde(default)]
    pub(super) finality: FinalitySetting,
    #[serde(default)]
    pub(super) grant: GrantSetting,
    #[serde(default = "one_second")]
    pub(super) poll_interval_ms: u64,
    #[serde(default, with = "rust_decimal::serde::str_option")]
    pub(super) max_fee_gwei: Option<Decimal>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeeperSection {
    pub(super) private_key: Option<SecretString>,
    pub(super) keystore: Option<PathBuf>,
    pub(super) keystore_password: Option<SecretString>,
    pub(super) keystore_password_file: Option<PathBuf>,
    #[serde(with = "rust_decimal::serde::str")]
    pub(super) max_fee_gwei: Decimal,
    #[serde(with = "rust_decimal::serde::str")]
    pub(super) max_priority_fee_gwei: Decimal,
    pub(super) batch_size: usize,
    pub(super) max_gas_per_transaction: u64,
    pub(super) max_gas_per_block: u64,
    pub(super) max_in_flight: usize,
    pub(super) stuck_after_blocks: u64,
    pub(super) retry_first_minutes: u32,
    pub(super) retry_longest_hours: u32,
    pub(super) retry_jitter_percent: u8,
    pub(super) low_balance_charges: u64,
    pub(super) means_every_hours: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MerchantSection {
    pub(super) private_key: Option<SecretString>,
    pub(super) keystore: Option<PathBuf>,
    pub(super) keystore_password: Option<SecretString>,
    pub(super) keystore_password_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OverageSection {
    pub(super) per_1000_requests: Option<Decimal>,
    pub(super) per_1000_tokens: Option<Decimal>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RelaySection {
    pub(super) enabled: bool,
    pub(super) per_account_per_day: u32,
    pub(super) gas_budget_per_day: u64,
    pub(super) max_gas_per_intent: u64,
    pub(super) longest_wait_minutes: u32,
}

/// When a payment on a chain gives access.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum GrantSetting {
    /// As soon as it is in a block.
    #[default]
    Latest,
    /// Once that block is final.
    Final,
}

const fn one_second() -> u64 {
    1000
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum FinalitySetting {
    Depth(u64),
    Named(String),
}

impl Default for FinalitySetting {
    fn default() -> Self {
        Self::Named("finalized".into())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CatalogueSection {
    pub(super) currency: String,
    pub(super) exponent: u8,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TierSection {
    pub(super) requests: QuotaSetting,
    pub(super) tokens: QuotaSetting,
    pub(super) features: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum QuotaSetting {
    Limit(u64),
    Word(String),
    Soft(SoftQuota),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SoftQuota {
    pub(super) included: u64,
    pub(super) limit: HardLimit,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum HardLimit {
    Limit(u64),
    Word(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanSection {
    pub(super) tier: Tier,
    #[serde(with = "rust_decimal::serde::str")]
    pub(super) price: Decimal,
    pub(super) interval: String,
    #[serde(default)]
    pub(super) trial: Option<String>,
    #[serde(default)]
    pub(super) grace: Option<String>,
    #[serde(default, with = "rust_decimal::serde::str_option")]
    pub(super) usage_cap: Option<Decimal>,
}
