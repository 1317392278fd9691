//! The ledger in PostgreSQL: the only place with SQL.
//!
//! Methods are whole transactions: what must land together is one call. Four kinds of writers exist:
//!
//! * [`Store`], for the API and the commands: accounts, wallets, API keys, the catalogue;
//! * [`mirror::Mirror`], for the indexer, which holds the chain's leader lock on the very connection that it
//!   writes with, so that a lost connection loses the lock and the open transaction together;
//! * [`keeper::KeeperLead`], for the keeper, in the same way; it writes its own tables, and never money;
//! * [`merchant::MerchantLead`], for the merchant's acts, likewise.
//!
//! What is used is counted by [`usage::UsageStore`], in a schema of its own and by connections of its own: no transaction
//! spans the two.
//!
//! The database enforces the rules (see `migrations/`); a violated constraint reaches the caller as a typed
//! error by the constraint's name, and a row that no rule allows is [`StoreError::Inconsistent`], never a panic.
//!
//! Queries are checked at compile time against `.sqlx/`; `script/sqlx` renews it after a change.

mod accounts;
mod api_keys;
mod audit;
mod catalogue;
mod challenges;
mod changes;
mod convert;
mod entitlements;
mod error;
mod exclusive;
pub mod keeper;
pub mod merchant;
pub mod mirror;
mod overage;
pub mod relay;
mod sales;
mod sessions;
mod transactions;
pub mod usage;
mod wallets;

use std::{str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use api_keys::LastUsed;

pub use accounts::{Account, AccountOrigin, Upserted};
pub use api_keys::{ApiKey, ApiKeyRecord, NewApiKey, Scope, UnknownScope};
pub use audit::Actor;
pub use catalogue::{ChainPlanMapping, OnchainTerms, StoredPlan};
pub use challenges::{ChallengeKey, SpentChallenge};
pub use changes::{Change, Changes};
pub use entitlements::{AccountSubscriptions, Fold, Grants};
pub use error::StoreError;
pub use overage::Billable;
pub use sales::{PaidBy, PlanSale};
pub use sessions::{Session, SignedIn};
pub use transactions::{Transaction, TransactionKind, TransactionStatus};
pub use wallets::{Wallet, WalletLinked, WalletProof};

/// The schema's history.
static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// How long a caller waits for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A handle on the ledger; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    last_used: LastUsed,
}

impl Store {
    /// Connects to the PostgreSQL server that `url` names, with at most `max_connections` connections.
    ///
    /// # Errors
    /// [`StoreError::Url`] where `url` is none, [`StoreError::Database`] where the server does not answer.
    pub async fn connect(url: &SecretString, max_connections: u32) -> Result<Self, StoreError> {
        let pool = connect(url, max_connections, &[]).await?;
        Ok(Self { pool, last_used: LastUsed::default() })
    }

    /// Whether `url` is one of PostgreSQL, without asking the server.
    ///
    /// # Errors
    /// [`StoreError::Url`] where it is not.
    pub fn check_url(url: &SecretString) -> Result<(), StoreError> {
        options(url).map(drop)
    }

    /// Brings the schema up to date; safe to run from several processes at once.
    ///
    /// # Errors
    /// [`StoreError::Migrate`] where a migration fails or the database is of a newer release.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        migrate(&self.pool).await
    }

    /// Checks that the database answers and that its schema is this release's.
    ///
    /// # Errors
    /// [`StoreError::SchemaOutOfDate`] where a migration has not been applied, [`StoreError::Database`] where
    /// the server does not answer.
    pub async fn check(&self) -> Result<(), StoreError> {
        schema_is_current(&self.pool).await
    }

    /// Ends every connection of the pool, after the statements that are under way.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A pool for `url`, with `settings` of PostgreSQL's beside those that every connection has.
async fn connect(
    url: &SecretString,
    max_connections: u32,
    settings: &[(&str, &str)],
) -> Result<PgPool, StoreError> {
    let options = options(url)?
        .application_name("dues")
        // Statements at the debug level only: their parameters are people's data.
        .log_statements(tracing::log::LevelFilter::Trace)
        .options([("statement_timeout", "10s"), ("idle_in_transaction_session_timeout", "60s")])
        .options(settings.iter().copied());
    // The pool would only say that it timed out; a connection of its own says why.
    let first = tokio::time::timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(&options));
    first.await.map_err(|_| StoreError::Database(sqlx::Error::PoolTimedOut))??.close().await?;
    let pool = PgPoolOptions::new().max_connections(max_connections).acquire_timeout(ACQUIRE_TIMEOUT);
    Ok(pool.connect_with(options).await?)
}

async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
    let mut connection = PgConnection::connect_with(&pool.connect_options()).await?;
    // A long index build, or waiting for another process's migrations, is no runaway statement.
    sqlx::query("SET statement_timeout = 0").execute(&mut connection).await?;
    MIGRATIONS.run(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

async fn schema_is_current(pool: &PgPool) -> Result<(), StoreError> {
    let applied: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(pool)
        .await
        .or_else(|error| match error {
            // 42P01: the table of migrations does not exist, so none was applied.
            sqlx::Error::Database(ref e) if e.code().as_deref() == Some("42P01") => Ok(None),
            error => Err(error),
        })?;
    let newest = MIGRATIONS.iter().map(|migration| migration.version).max();
    if applied == newest { Ok(()) } else { Err(StoreError::SchemaOutOfDate) }
}

fn options(url: &SecretString) -> Result<PgConnectOptions, StoreError> {
    let url = url.expose_secret();
    // sqlx takes any scheme.
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(StoreError::Url);
    }
    PgConnectOptions::from_str(url).map_err(|_| StoreError::Url)
}
