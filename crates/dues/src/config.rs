//! The configuration: `dues.toml` with its defaults, and the environment.

mod keeper;
mod key;
mod quota;
mod relay;
mod sections;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    path::Path,
    time::Duration,
};

use ::config::{Environment, File, FileFormat};
use alloy_primitives::Address;
use anyhow::{Context as _, bail};
use dues_api::{relay::Relay, site::Site};
use dues_chain::{deploy::contract_address, source::Endpoints};
use dues_domain::{
    calendar::{Interval, IntervalUnit},
    catalogue::{Catalogue, PlanOffer, Quota, Tier, TierTerms},
    chain::ChainSource,
    ids::PlanKey,
    money::{Asset, BaseUnits, Money},
    overage::OveragePrices,
    relay::RelayLimits,
};
use dues_indexer::{FinalityPolicy, IndexerConfig};
use dues_keeper::plans::{SaleTerms, plan_terms};
use dues_store::{Store, mirror::MirrorScope};
use rust_decimal::Decimal;
use secrecy::{ExposeSecret as _, SecretString};

pub(crate) use keeper::KeeperSettings;
pub(crate) use key::Key;
use key::KeySettings;
use sections::{ChainSection, FinalitySetting, OverageSection, PlanSection, Root};
pub(crate) use sections::{
    DatabaseSection, GrantSetting, LogFormat, LogSection, MetricsSection, ServerSection, UsageSection,
};

/// Every setting with its default: the commented file at the root of the repository.
const DEFAULTS: &str = include_str!("../../../dues.toml");
const FILE: &str = "dues.toml";

/// The configuration, checked.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) server: ServerSection,
    /// Where browsers reach the API, where that is given.
    pub(crate) site: Option<Site>,
    pub(crate) database: DatabaseSection,
    pub(crate) log: LogSection,
    pub(crate) metrics: MetricsSection,
    pub(crate) keeper: KeeperSettings,
    pub(crate) usage: UsageSection,
    /// What overage costs; `None` where it is not charged.
    pub(crate) overage: Option<OveragePrices>,
    /// The key that the merchant acts with, on all chains.
    pub(crate) merchant: Option<Key>,
    /// How much is relayed; `None` for nothing.
    pub(crate) relay: Option<RelayLimits>,
    pub(crate) chains: BTreeMap<String, Chain>,
    pub(crate) asset: Asset,
    pub(crate) catalogue: Catalogue,
    /// What each plan's sale on a chain has beyond the catalogue.
    pub(crate) sale: BTreeMap<PlanKey, SaleTerms>,
}

/// A chain to be mirrored.
#[derive(Debug)]
pub(crate) struct Chain {
    /// The nodes. Their URLs may hold providers' keys; they do not print.
    pub(crate) endpoints: Endpoints,
    /// When a payment on it gives access.
    pub(crate) grant: GrantSetting,
    /// The token that stands for the catalogue's currency.
    pub(crate) token: Address,
    /// Who is paid by plans that are created.
    pub(crate) payee: Address,
    /// The most that the keeper pays for gas here, in wei per unit, where that is not what it is elsewhere.
    pub(crate) max_fee: Option<u64>,
    /// What the indexer is to do.
    pub(crate) indexer: IndexerConfig,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, fault: impl fmt::Display) {
        self.0.push(fault.to_string());
    }

    /// The value, or its fault noted.
    fn take<T, E: fmt::Display>(&mut self, at: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.add(format_args!("{at}: {error}"))).ok()
    }

    fn report(self) -> anyhow::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        bail!("the configuration is not valid:\n  - {}", self.0.join("\n  - "))
    }
}

impl Config {
    /// Reads the defaults, `file` (or `dues.toml` where there is one) and the environment, in that order.
    ///
    /// # Errors
    /// Every fault together.
    pub(crate) fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let text = match file {
            Some(path) => Some(
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
            ),
            None => match std::fs::read_to_string(FILE) {
                Ok(text) => Some(text),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(error).with_context(|| format!("cannot read {FILE}")),
            },
        };
        Self::parse(text.as_deref(), None)
    }

    /// As [`load`](Self::load), with the file's text and, for tests, the environment given.
    fn parse(text: Option<&str>, environment: Option<HashMap<String, String>>) -> anyhow::Result<Self> {
        let mut faults = Faults::default();
        if let Some(text) = text {
            refuse_secrets(text, &mut faults)?;
        }
        let mut layers = ::config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(text) = text {
            layers = layers.add_source(File::from_str(text, FileFormat::Toml));
        }
        // As they are: what looks like a number would be read as one, and "0123" is another password than "123".
        let secret = |name: &str| match &environment {
            Some(given) => given.get(name).cloned(),
            None => std::env::var(name).ok(),
        };
        let private_key = secret("DUES__KEEPER__PRIVATE_KEY").map(SecretString::from);
        let keystore_password = secret("DUES__KEEPER__KEYSTORE_PASSWORD").map(SecretString::from);
        let merchant_key = secret("DUES__MERCHANT__PRIVATE_KEY").map(SecretString::from);
        let merchant_password = secret("DUES__MERCHANT__KEYSTORE_PASSWORD").map(SecretString::from);
        let environment = Environment::with_prefix("DUES")
            .prefix_separator("__")
            .separator("__")
            .try_parsing(true)
            .source(environment);
        let mut root: Root = layers
            .add_source(environment)
            .build()
            .and_then(::config::Config::try_deserialize)
            .context("the configuration cannot be read")?;
        root.keeper.private_key = private_key;
        root.keeper.keystore_password = keystore_password;
        root.merchant.private_key = merchant_key;
        root.merchant.keystore_password = merchant_password;
        Self::check(root, faults)
    }

    fn check(root: Root, mut faults: Faults) -> anyhow::Result<Self> {
        let asset = Asset { code: root.catalogue.currency, exponent: root.catalogue.exponent };
        if let Some(url) = &root.database.url {
            faults.take("database.url", Store::check_url(url));
        }
        let site = root.server.public_url.as_deref();
        let site = site.and_then(|url| faults.take("server.public_url", Site::parse(url)));
        if root.database.max_connections == 0 {
            faults.add("database.max_connections: at least 1 is needed");
        }
        if let Some(url) = &root.usage.database.url {
            faults.take("usage.database.url", Store::check_url(url));
        }
        if root.usage.writers == 0 {
            faults.add("usage.writers: at least 1 is needed");
        }
        if root.usage.database.max_connections <= root.usage.writers {
            faults.add("usage.database.max_connections: more than usage.writers are needed");
        }
        if root.usage.keep_events_months == 0 {
            faults.add("usage.keep_events_months: at least 1 is needed");
        }
        let catalogue = catalogue(root.tiers, root.plans, &asset, &mut faults);
        if root.server.requests_per_second > 0 && root.server.burst == 0 {
            faults.add("server.burst: at least 1 is needed where requests are limited");
        }
        let relay = relay::check(&root.relay, &mut faults);
        let keeper = KeeperSettings::check(root.keeper, relay, &mut faults);
        let overage = overage_prices(&root.overage, &asset, &mut faults);
        let merchant = KeySettings {
            private_key: root.merchant.private_key,
            keystore: root.merchant.keystore,
            keystore_password: root.merchant.keystore_password,
            keystore_password_file: root.merchant.keystore_password_file,
        };
        let merchant = Key::check("merchant", merchant, &mut faults);
        let keepers = keeper.as_ref().and_then(|keeper| keeper.key.as_ref());
        if let Some((merchant, keepers)) = merchant.as_ref().zip(keepers)
            && merchant.is(keepers)
        {
            faults.add("merchant: has the keeper's key; give each of them one of its own");
        }
        let mut chains = BTreeMap::new();
        let mut sources = HashMap::new();
        for (name, section) in root.chains {
            if name.to_lowercase() != name {
                // The environment's names are read in lower case and would never meet it.
                faults.add(format_args!("chains.{name}: the name must be in lower case"));
            }
            let source = (section.chain_id, section.contract);
            if let Some(other) = sources.insert(source, name.clone()) {
                faults.add(format_args!("chains.{name}: is the same chain and contract as chains.{other}"));
            }
            if let Some(chain) = chain(&name, section, &asset, &mut faults) {
                chains.insert(name, chain);
            }
        }
        faults.report()?;
        let (catalogue, sale) = catalogue.context("the catalogue is not valid")?;
        let keeper = keeper.context("the keeper's settings are not valid")?;
        let (server, database, usage) = (root.server, root.database, root.usage);
        let (log, metrics) = (root.log, root.metrics);
        Ok(Self {
            server,
            site,
            database,
            log,
            metrics,
            keeper,
            relay,
            usage,
            merchant,
            overage,
            chains,
            asset,
            catalogue,
            sale,
        })
    }

    /// The chains on which a payment gives access only once its block is final.
    pub(crate) fn grants_once_final(&self) -> HashSet<ChainSource> {
        let chains = self.chains.values().filter(|chain| chain.grant == GrantSetting::Final);
        chains.map(|chain| chain.indexer.source).collect()
    }

    /// What signed intents the API takes; `None` for none.
    pub(crate) fn relay(&self) -> Option<Relay> {
        let targets: Vec<_> = self.chains.values().map(|chain| chain.indexer.source).collect();
        self.relay.filter(|_| !targets.is_empty()).map(|limits| Relay { targets, limits })
    }

    /// In one line.
    pub(crate) fn summary(&self) -> String {
        let chains: Vec<_> = self.chains.keys().map(String::as_str).collect();
        let chains = if chains.is_empty() { "none".to_owned() } else { chains.join(", ") };
        let database = if self.database.url.is_some() { "a server of yours" } else { "its own PostgreSQL" };
        let keeper = if self.keeper.has_signer() { "charges" } else { "has no key, and charges nothing" };
        let plans = self.catalogue.plans().count();
        format!("{plans} plans; chains: {chains}; database: {database}; the keeper {keeper}")
    }
}

/// A password in a file ends up in backups and repositories.
fn refuse_secrets(text: &str, faults: &mut Faults) -> anyhow::Result<()> {
    // toml's own error quotes the offending line, which may be the very secret.
    let file: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        anyhow::anyhow!("the configuration file is not TOML: {}", error.message())
    })?;
    if file.get("database").and_then(|section| section.get("url")).is_some() {
        faults.add("database.url: belongs into the environment, as DUES__DATABASE__URL");
    }
    let usage = file.get("usage").and_then(|section| section.get("database"));
    if usage.and_then(|section| section.get("url")).is_some() {
        faults.add("usage.database.url: belongs into the environment, as DUES__USAGE__DATABASE__URL");
    }
    for (section, name) in ["keeper", "merchant"]
        .into_iter()
        .flat_map(|section| [(section, "private_key"), (section, "keystore_password")])
    {
        if file.get(section).and_then(|section| section.get(name)).is_some() {
            let variable = format!("{section}__{name}").to_uppercase();
            faults.add(format_args!("{section}.{name}: belongs into the environment, as DUES__{variable}"));
        }
    }
    for (name, section) in file.get("chains").and_then(toml::Value::as_table).into_iter().flatten() {
        if section.get("rpc_url").is_some() {
            let variable = name.to_uppercase();
            faults.add(format_args!(
                "chains.{name}.rpc_url: belongs into the environment, as DUES__CHAINS__{variable}__RPC_URL"
            ));
        }
    }
    Ok(())
}

fn catalogue(
    tiers: BTreeMap<Tier, sections::TierSection>,
    plans: BTreeMap<String, PlanSection>,
    asset: &Asset,
    faults: &mut Faults,
) -> Option<(Catalogue, BTreeMap<PlanKey, SaleTerms>)> {
    let tiers = tiers
        .into_iter()
        .map(|(tier, section)| {
            let mut quota = |setting, meter: &str| {
                let quota = faults.take(&format!("tiers.{tier}.{meter}"), quota::check(setting));
                quota.unwrap_or(Quota::Limited(0))
            };
            let (requests, tokens) = (quota(section.requests, "requests"), quota(section.tokens, "tokens"));
            (tier, TierTerms { requests, tokens, features: section.features })
        })
        .collect();
    let (mut offers, mut sale) = (BTreeMap::new(), BTreeMap::new());
    for (name, section) in plans {
        let at = |field: &str| format!("plans.{name}{field}");
        let key = faults.take(&at(""), name.parse::<PlanKey>());
        let amount = faults.take(&at(".price"), BaseUnits::from_decimal(section.price, asset.exponent));
        let interval = faults.take(&at(".interval"), parse_interval(&section.interval));
        if let (Some(key), Some(amount), Some(interval)) = (key, amount, interval) {
            let price = Money { amount, asset: asset.clone() };
            let mut terms = SaleTerms::usual(interval);
            if let Some(text) = &section.trial {
                terms.trial_seconds = faults.take(&at(".trial"), parse_seconds(text)).unwrap_or_default();
            }
            if let Some(text) = &section.grace {
                let grace = faults.take(&at(".grace"), parse_seconds(text));
                terms.grace_seconds = grace.unwrap_or(terms.grace_seconds);
            }
            if let Some(cap) = section.usage_cap {
                let cap = faults.take(&at(".usage_cap"), BaseUnits::from_decimal(cap, asset.exponent));
                terms.usage_cap = cap.unwrap_or(terms.usage_cap);
            }
            let offer = PlanOffer { key: key.clone(), tier: section.tier, price, interval };
            if interval.count > 0 {
                faults.take(&at(""), plan_terms(&offer, terms, Address::ZERO, Address::ZERO));
            }
            sale.insert(key.clone(), terms);
            offers.insert(key, offer);
        }
    }
    match Catalogue::new(tiers, offers) {
        Ok(catalogue) => Some((catalogue, sale)),
        Err(found) => {
            for fault in found {
                faults.add(fault);
            }
            None
        }
    }
}

/// A time as people write it, in seconds.
fn parse_seconds(text: &str) -> Result<u32, &'static str> {
    const FORM: &str = "a number of hours or days is needed, as in \"72 hours\" or \"14 days\"";
    let (count, unit) = text.split_once(' ').ok_or(FORM)?;
    let count: u32 = count.parse().map_err(|_| FORM)?;
    let seconds = match unit.trim_end_matches('s') {
        "hour" => 3_600,
        "day" => 86_400,
        _ => return Err(FORM),
    };
    count.checked_mul(seconds).ok_or("too long")
}

fn parse_interval(text: &str) -> Result<Interval, &'static str> {
    const FORM: &str = "\"month\", \"year\", or a number of days or months is needed, as in \"30 days\"";
    let (count, unit) = match text.split_once(' ') {
        Some((count, unit)) => (count.parse().map_err(|_| FORM)?, unit.trim_end_matches('s')),
        None => (1, text),
    };
    match (count, unit) {
        (0, _) => Err("an interval of nothing"),
        (count, "day") => Ok(Interval { unit: IntervalUnit::Day, count }),
        (count, "month") => Ok(Interval { unit: IntervalUnit::Month, count }),
        (count, "year") => {
            let months = count.checked_mul(12).ok_or("too many years")?;
            Ok(Interval { unit: IntervalUnit::Month, count: months })
        }
        _ => Err(FORM),
    }
}

fn chain(name: &str, section: ChainSection, asset: &Asset, faults: &mut Faults) -> Option<Chain> {
    let urls = section.rpc_url.or_else(|| {
        faults.add(format_args!(
            "chains.{name}.rpc_url: is missing; give DUES__CHAINS__{}__RPC_URL",
            name.to_uppercase()
        ));
        None
    });
    let at = format!("chains.{name}.rpc_url");
    let endpoints = urls.and_then(|urls| faults.take(&at, urls.expose_secret().parse::<Endpoints>()));
    let finality = match section.finality {
        FinalitySetting::Depth(depth) => Some(FinalityPolicy::Depth(depth)),
        FinalitySetting::Named(word) => match word.as_str() {
            "latest" => Some(FinalityPolicy::Depth(0)),
            "safe" => Some(FinalityPolicy::Safe),
            "finalized" => Some(FinalityPolicy::Finalized),
            _ => {
                faults.add(format_args!(
                    "chains.{name}.finality: \"finalized\", \"safe\", \"latest\" or a number of blocks is needed"
                ));
                None
            }
        },
    };
    if section.poll_interval_ms == 0 {
        faults.add(format_args!("chains.{name}.poll_interval_ms: at least 1 is needed"));
    }
    let max_fee = section
        .max_fee_gwei
        .and_then(|gwei| faults.take(&format!("chains.{name}.max_fee_gwei"), keeper::wei(gwei)));
    let source = ChainSource {
        chain_id: section.chain_id,
        contract: section.contract.unwrap_or_else(contract_address),
    };
    Some(Chain {
        endpoints: endpoints?,
        grant: section.grant,
        token: section.token,
        payee: section.payee.unwrap_or(section.merchant),
        max_fee,
        indexer: IndexerConfig {
            source,
            scope: MirrorScope { merchant: section.merchant, start_block: section.start_block },
            finality: finality?,
            poll_interval: Duration::from_millis(section.poll_interval_ms),
            assets: HashMap::from([(section.token, asset.clone())]),
        },
    })
}

/// What overage costs, where a price is given.
fn overage_prices(section: &OverageSection, asset: &Asset, faults: &mut Faults) -> Option<OveragePrices> {
    let mut price = |name: &str, price: Option<Decimal>| {
        let price = BaseUnits::from_decimal(price.unwrap_or_default(), asset.exponent);
        faults.take(&format!("overage.{name}"), price).unwrap_or(BaseUnits::new(0))
    };
    let prices = OveragePrices {
        per_1000_requests: price("per_1000_requests", section.per_1000_requests),
        per_1000_tokens: price("per_1000_tokens", section.per_1000_tokens),
    };
    (prices.per_1000_requests.get() > 0 || prices.per_1000_tokens.get() > 0).then_some(prices)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, environment: &[(&str, &str)]) -> anyhow::Result<Config> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::parse(Some(text), Some(environment))
    }

    const CHAIN: &str = "[chains.base]\nchain_id = 8453\n\
        merchant = \"0x70997970C51812dc3A010C7d01b50e0d17dc79C8\"\n\
        token = \"0x70997970C51812dc3A010C7d01b50e0d17dc79C8\"\n";

    #[test]
    fn the_defaults_are_valid_and_hold_the_whole_catalogue() {
        let config = parse("", &[]).unwrap();
        assert_eq!(config.catalogue.plans().count(), 6);
        assert_eq!(config.catalogue.terms(Tier::Enterprise).requests, Quota::Unlimited);
        let month = config.catalogue.plans().find(|plan| plan.key.as_str() == "basic-month").unwrap();
        assert_eq!(month.price.amount.get(), 29_990_000);
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
        let config = parse(
            &format!("[server]\nlisten = \"127.0.0.1:1\"\n{CHAIN}"),
            &[
                ("DUES__SERVER__LISTEN", "127.0.0.1:2"),
                ("DUES__CHAINS__BASE__RPC_URL", "http://127.0.0.1:8545"),
            ],
        )
        .unwrap();
        assert_eq!(config.server.listen.port(), 2);
        let chain = &config.chains["base"];
        assert_eq!(chain.indexer.finality, FinalityPolicy::Finalized);
        assert_eq!(chain.indexer.source.contract, contract_address());
    }

    #[test]
    fn all_faults_are_reported_together() {
        let text = format!(
            "[server]\npublic_url = \"http://billing.example.org\"\n[database]\nmax_connections = 0\nurl = \"postgres://u:hunter2@h/d\"\n\
             [plans.basic-month]\nprice = \"0.0000001\"\n[plans.basic-year]\ninterval = \"fortnight\"\n\
             [tiers.free]\nrequests = \"lots\"\n{CHAIN}finality = \"soon\"\n"
        );
        let error = format!("{:#}", parse(&text, &[]).unwrap_err());
        for part in [
            "server.public_url: http is for this machine only",
            "database.max_connections",
            "database.url: belongs into the environment",
            "plans.basic-month.price",
            "plans.basic-year.interval",
            "tiers.free.requests",
            "chains.base.rpc_url: is missing",
            "chains.base.finality",
        ] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
        assert!(!error.contains("hunter2"));
    }

    #[test]
    fn a_quota_may_let_more_be_used_than_is_included() {
        let config = parse(
            "[tiers.basic]\ntokens = { included = 500, limit = 800 }\nrequests = { included = 5, limit = \"unlimited\" }\n",
            &[],
        );
        let terms = config.unwrap().catalogue.terms(Tier::Basic);
        assert_eq!(terms.tokens, Quota::Soft { included: 500, hard: Some(800) });
        assert_eq!(terms.requests, Quota::Soft { included: 5, hard: None });
        let error =
            format!("{:#}", parse("[tiers.basic]\ntokens = { included = 5, limit = 4 }\n", &[]).unwrap_err());
        assert!(error.contains("tiers.basic.tokens: the limit must be above what is included"), "{error}");
        let error =
            format!("{:#}", parse("[tiers.free]\ntokens = 9_000_000_000_000_000_000\n", &[]).unwrap_err());
        assert!(error.contains("tiers.free.tokens: at most"), "{error}");
    }

    #[test]
    fn usage_may_have_a_server_of_its_own() {
        let url = ("DUES__USAGE__DATABASE__URL", "postgres://dues:hunter2@usage.example/dues");
        let config = parse("", &[url]).unwrap();
        assert!(config.usage.database.url.is_some() && !format!("{config:?}").contains("hunter2"));
        let text = "[usage]\nwriters = 6\nkeep_events_months = 0\n[usage.database]\nurl = \"postgres://u:hunter2@h/d\"\n";
        let error = format!("{:#}", parse(text, &[]).unwrap_err());
        for part in ["usage.database.url: belongs", "max_connections: more than", "keep_events_months"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
        assert!(!error.contains("hunter2"));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(format!("{:#}", parse("[server]\nlissen = 1\n", &[]).unwrap_err()).contains("lissen"));
    }

    #[test]
    fn secrets_never_show_in_the_debug_form() {
        let config = parse(
            CHAIN,
            &[
                ("DUES__CHAINS__BASE__RPC_URL", "https://node.example/v2/hunter2"),
                ("DUES__DATABASE__URL", "postgres://dues:hunter2@localhost/dues"),
            ],
        )
        .unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn the_keepers_key_comes_from_the_environment_and_stays_out_of_sight() {
        const KEY: &str = "0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6";
        let config = parse("", &[("DUES__KEEPER__PRIVATE_KEY", KEY)]).unwrap();
        let signer = config.keeper.signer().unwrap().unwrap();
        assert_eq!(signer.address().to_string(), "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720");
        assert!(!format!("{config:?}").contains(&KEY[2..]));
        let fault = |text: &str, environment: &[(&str, &str)]| {
            let error = format!("{:#}", parse(text, environment).unwrap_err());
            assert!(!error.contains("2a871d07") && !error.contains("hunter2"), "{error}");
            error
        };
        let text = format!("[keeper]\nprivate_key = \"{KEY}\"\nkeystore_password = \"hunter2\"\n");
        let error = fault(&text, &[]);
        assert!(
            error.contains("DUES__KEEPER__PRIVATE_KEY") && error.contains("KEYSTORE_PASSWORD"),
            "{error}"
        );
        let broken = &KEY[..60];
        assert!(fault("", &[("DUES__KEEPER__PRIVATE_KEY", broken)]).contains("keeper.private_key"));
        assert!(fault("[keeper]\nkeystore = \"a.json\"\n", &[]).contains("its password is needed"));
        let error = fault(
            "[keeper]\nkeystore = \"a.json\"\nmax_fee_gwei = \"0\"\nbatch_size = 0\n",
            &[("DUES__KEEPER__PRIVATE_KEY", KEY)],
        );
        for part in ["give one of them", "keeper.max_fee_gwei", "keeper.batch_size"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
        // A password that looks like a number is taken as it is.
        let config =
            parse("[keeper]\nkeystore = \"a\"", &[("DUES__KEEPER__KEYSTORE_PASSWORD", "007")]).unwrap();
        assert!(config.keeper.has_signer() && !format!("{config:?}").contains("007"));
        assert!(!parse("", &[]).unwrap().keeper.has_signer());
    }

    #[test]
    fn requests_are_limited_and_need_not_be() {
        let limit = |text: &str| parse(text, &[]).map(|config| config.server.rate_limit());
        let default = limit("").unwrap().unwrap();
        assert_eq!((default.per_second.get(), default.burst.get()), (10_000, 20_000));
        assert_eq!(limit("[server]\nrequests_per_second = 0\n").unwrap(), None);
        let nothing_at_once = limit("[server]\nburst = 0\n");
        assert!(format!("{:#}", nothing_at_once.unwrap_err()).contains("server.burst"));
    }

    #[test]
    fn what_is_relayed_is_limited_and_can_be_nothing() {
        let rpc = ("DUES__CHAINS__BASE__RPC_URL", "http://127.0.0.1:8545");
        let config = parse(CHAIN, &[rpc]).unwrap();
        let relay = config.relay().unwrap();
        assert_eq!(relay.targets, [config.chains["base"].indexer.source]);
        assert_eq!(config.keeper.config(&config.chains["base"]).relay, Some(relay.limits));
        let off = parse(&format!("{CHAIN}[relay]\nenabled = false\n"), &[rpc]).unwrap();
        assert!(off.relay().is_none() && off.keeper.config(&off.chains["base"]).relay.is_none());
        assert!(parse("", &[]).unwrap().relay().is_none(), "there is no chain");
        let text = "[relay]\nper_account_per_day = 0\nmax_gas_per_intent = 30_000_000\n";
        let error = format!("{:#}", parse(text, &[]).unwrap_err());
        assert!(
            error.contains("relay.per_account_per_day") && error.contains("relay.gas_budget_per_day"),
            "{error}"
        );
    }

    #[test]
    fn a_chain_can_have_its_own_cap_on_what_gas_costs() {
        let rpc = ("DUES__CHAINS__BASE__RPC_URL", "http://127.0.0.1:8545");
        let config = parse(&format!("{CHAIN}max_fee_gwei = \"0.05\"\n"), &[rpc]).unwrap();
        assert_eq!(config.keeper.config(&config.chains["base"]).limits.fees.max_fee, 50_000_000);
        let config = parse(CHAIN, &[rpc, ("DUES__KEEPER__MAX_FEE_GWEI", "7")]).unwrap();
        assert_eq!(config.keeper.config(&config.chains["base"]).limits.fees.max_fee, 7_000_000_000);
    }

    #[test]
    fn a_chain_may_have_several_nodes_and_a_fault_is_named_by_its_place() {
        let urls = |text: &str| parse(CHAIN, &[("DUES__CHAINS__BASE__RPC_URL", text)]);
        let config =
            urls("https://a.example/v2/hunter2, http://b.example:8545 wss://a.example/v2/hunter2").unwrap();
        let printed = format!("{:?}", config.chains["base"].endpoints);
        assert_eq!(printed, r#"Endpoints { http: ["a.example", "b.example:8545"], ws: ["a.example"] }"#);
        for (text, fault) in [
            ("https://a.example hunter2", "chains.base.rpc_url: number 2 is no URL"),
            ("wss://a.example/hunter2", "chains.base.rpc_url: there is no http or https URL"),
        ] {
            let error = format!("{:#}", urls(text).unwrap_err());
            assert!(error.contains(fault) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_terms_of_a_plans_sale_have_defaults_and_are_checked_as_the_contract_would() {
        let config = parse(
            "[plans.basic-month]\ntrial = \"14 days\"\ngrace = \"72 hours\"\nusage_cap = \"10.5\"\n",
            &[],
        )
        .unwrap();
        let terms = |key: &str| config.sale[&key.parse::<PlanKey>().unwrap()];
        let sale = SaleTerms {
            trial_seconds: 14 * 86_400,
            grace_seconds: 259_200,
            usage_cap: BaseUnits::new(10_500_000),
        };
        assert_eq!(terms("basic-month"), sale);
        assert_eq!(terms("basic-year"), SaleTerms::usual(Interval::YEAR));
        for (setting, fault) in [
            ("trial = \"a fortnight\"", "plans.basic-month.trial: a number of hours or days"),
            ("trial = \"367 days\"", "plans.basic-month: a trial is at most 366 days"),
            ("grace = \"0 hours\"", "plans.basic-month: grace is at least an hour"),
            ("grace = \"29 days\"", "plans.basic-month: grace is at least an hour"),
            ("grace = \"99999 days\"", "plans.basic-month.grace: too long"),
            ("usage_cap = \"0.0000001\"", "plans.basic-month.usage_cap: the amount has more than 6"),
        ] {
            let error =
                format!("{:#}", parse(&format!("[plans.basic-month]\n{setting}\n"), &[]).unwrap_err());
            assert!(error.contains(fault), "{fault} is not in {error}");
        }
    }

    #[test]
    fn the_merchants_key_is_its_own() {
        const KEY: &str = "0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6";
        let config = parse("", &[("DUES__MERCHANT__PRIVATE_KEY", KEY)]).unwrap();
        let signer = config.merchant.as_ref().unwrap().signer().unwrap();
        assert_eq!(signer.address().to_string(), "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720");
        assert!(!format!("{config:?}").contains(&KEY[2..]));
        let both = [("DUES__MERCHANT__PRIVATE_KEY", KEY), ("DUES__KEEPER__PRIVATE_KEY", KEY)];
        let error = format!("{:#}", parse("", &both).unwrap_err());
        assert!(error.contains("has the keeper's key") && !error.contains("2a871d07"), "{error}");
        let text = format!("[merchant]\nprivate_key = \"{KEY}\"\n");
        let error = format!("{:#}", parse(&text, &[]).unwrap_err());
        assert!(error.contains("DUES__MERCHANT__PRIVATE_KEY") && !error.contains("2a871d07"), "{error}");
    }

    #[test]
    fn intervals_are_read_as_people_write_them() {
        assert_eq!(parse_interval("month"), Ok(Interval::MONTH));
        assert_eq!(parse_interval("year"), Ok(Interval::YEAR));
        assert_eq!(parse_interval("30 days"), Ok(Interval { unit: IntervalUnit::Day, count: 30 }));
        for bad in ["", "0 days", "week", "-1 days", "9999 years"] {
            assert!(parse_interval(bad).is_err(), "{bad:?}");
        }
    }
}
