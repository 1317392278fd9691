//! One file per command.

mod ask;
pub(crate) mod audit;
pub(crate) mod dev;
pub(crate) mod keeper;
pub(crate) mod key;
pub(crate) mod merchant;
pub(crate) mod migrate;
pub(crate) mod plans;
pub(crate) mod reindex;
pub(crate) mod serve;
mod sync;
mod target;

use chrono::TimeDelta;
use dues_embedded::{Durability, Postgres, PostgresOptions, RunningPostgres, tools};
use dues_store::{
    Store,
    usage::{UsageConfig, UsageStore},
};
use secrecy::SecretString;

use crate::config::{DatabaseSection, UsageSection};

/// The database in a PostgreSQL of our own.
const DATABASE: &str = "dues";

/// The ledger, and the PostgreSQL of our own underneath where no server was named.
struct Ledger {
    store: Store,
    url: SecretString,
    postgres: Option<Postgres>,
}

impl Ledger {
    async fn open(section: &DatabaseSection) -> anyhow::Result<Self> {
        let (postgres, url) = match &section.url {
            Some(url) => (None, url.clone()),
            None => start_own(section).await?,
        };
        Self::connect(&url, section, postgres).await
    }

    /// The same beside a process that may run our own PostgreSQL already.
    async fn open_beside(section: &DatabaseSection) -> anyhow::Result<Self> {
        if section.url.is_none()
            && let Some(running) = RunningPostgres::find(&own_options(section)?).await?
        {
            return Self::connect(&running.url(DATABASE), section, None).await;
        }
        Self::open(section).await
    }

    async fn connect(
        url: &SecretString,
        section: &DatabaseSection,
        postgres: Option<Postgres>,
    ) -> anyhow::Result<Self> {
        let store = Store::connect(url, section.max_connections).await?;
        Ok(Self { store, url: url.clone(), postgres })
    }

    /// What is used: on a server of its own, or on the ledger's.
    async fn usage(&self, section: &UsageSection) -> anyhow::Result<UsageStore> {
        let url = section.database.url.as_ref().unwrap_or(&self.url);
        let config = UsageConfig {
            writers: section.writers,
            max_connections: section.database.max_connections,
            late: TimeDelta::hours(section.late_hours.into()),
            ..UsageConfig::default()
        };
        Ok(UsageStore::connect(url, config).await?)
    }

    async fn close(self) -> anyhow::Result<()> {
        self.store.close().await;
        if let Some(postgres) = self.postgres {
            postgres.stop().await?;
        }
        Ok(())
    }
}

fn own_options(section: &DatabaseSection) -> anyhow::Result<PostgresOptions> {
    let data = &section.data_dir;
    Ok(PostgresOptions {
        durability: Durability::Durable,
        log_dir: data.join("logs"),
        ..PostgresOptions::new(tools::postgres()?, data.join("postgres"))
    })
}

async fn start_own(section: &DatabaseSection) -> anyhow::Result<(Option<Postgres>, SecretString)> {
    let postgres = Postgres::start(own_options(section)?).await?;
    let url = postgres.create_database(DATABASE).await?;
    Ok((Some(postgres), url))
}
