//! One file per command.

pub(crate) mod dev;
pub(crate) mod key;
pub(crate) mod migrate;
pub(crate) mod plans;
pub(crate) mod serve;

use dues_embedded::{Durability, Postgres, PostgresOptions, tools};
use dues_store::Store;

use crate::config::DatabaseSection;

/// The ledger, and the PostgreSQL of our own underneath where no server was named.
struct Ledger {
    store: Store,
    postgres: Option<Postgres>,
}

impl Ledger {
    async fn open(section: &DatabaseSection) -> anyhow::Result<Self> {
        let (postgres, url) = match &section.url {
            Some(url) => (None, url.clone()),
            None => {
                let data = &section.data_dir;
                let options = PostgresOptions {
                    durability: Durability::Durable,
                    log_dir: data.join("logs"),
                    ..PostgresOptions::new(tools::postgres()?, data.join("postgres"))
                };
                let postgres = Postgres::start(options).await?;
                let url = postgres.create_database("dues").await?;
                (Some(postgres), url)
            }
        };
        let store = Store::connect(&url, section.max_connections).await?;
        Ok(Self { store, postgres })
    }

    async fn close(self) -> anyhow::Result<()> {
        self.store.close().await;
        if let Some(postgres) = self.postgres {
            postgres.stop().await?;
        }
        Ok(())
    }
}
