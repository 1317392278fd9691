//! A database per test.

use std::{env, fs::Permissions, os::unix::fs::PermissionsExt as _, process};

use dues_embedded::{Durability, Postgres, PostgresOptions, tools};
use dues_store::Store;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{AssertSqlSafe, ConnectOptions as _, postgres::PgConnectOptions};
use tempfile::TempDir;
use uuid::Uuid;

/// An empty database of this test's own.
#[derive(Debug)]
pub struct Database {
    url: SecretString,
    /// The server, where none is shared. It ends with this.
    _own: Option<(Postgres, TempDir)>,
}

impl Database {
    /// Makes one in the server that `DUES_TEST_DATABASE_URL` names, or in one that is started for it.
    pub async fn fresh() -> Self {
        let name = format!("t{}_{}", process::id(), Uuid::now_v7().simple());
        match env::var("DUES_TEST_DATABASE_URL") {
            Ok(server) => Self { url: create(&server, &name).await, _own: None },
            Err(_) => {
                let dir = scratch_dir();
                let options = PostgresOptions {
                    durability: Durability::Scratch,
                    ..PostgresOptions::new(tools::postgres().unwrap(), dir.path().join("postgres"))
                };
                let postgres = Postgres::start(options).await.unwrap();
                let url = postgres.create_database(&name).await.unwrap();
                Self { url, _own: Some((postgres, dir)) }
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &SecretString {
        &self.url
    }

    /// The ledger in it, with the schema brought up to date.
    pub async fn store(&self) -> Store {
        let store = Store::connect(&self.url, 10).await.unwrap();
        store.migrate().await.unwrap();
        store
    }
}

async fn create(server: &str, name: &str) -> SecretString {
    let options: PgConnectOptions = server.parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::raw_sql(create).execute(&mut connection).await.unwrap();
    let mut url: url::Url = server.parse().unwrap();
    url.set_path(name);
    url.to_string().into()
}

/// A directory that the user that runs PostgreSQL can reach when the tests run as root.
pub(crate) fn scratch_dir() -> TempDir {
    let open = Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("dues-test-").permissions(open).tempdir().unwrap()
}

impl Database {
    /// A connection pool for looking at it.
    pub(crate) fn pool(&self) -> sqlx::PgPool {
        let options: PgConnectOptions = self.url.expose_secret().parse().unwrap();
        sqlx::postgres::PgPoolOptions::new().max_connections(4).connect_lazy_with(options)
    }
}
