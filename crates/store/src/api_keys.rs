//! API keys: only their hashes are here.

use std::{fmt, str::FromStr};

use chrono::{DateTime, TimeDelta, Utc};
use dues_domain::ids::ApiKeyId;
use serde_json::json;

use crate::{Actor, Store, StoreError, audit};

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Read accounts, their wallets and transactions.
    AccountsRead,
    /// Make accounts and link wallets.
    AccountsWrite,
    /// Ask what an account may do.
    EntitlementsRead,
    /// Have signed intents sent, and see what became of them.
    RelayWrite,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] =
        [Self::AccountsRead, Self::AccountsWrite, Self::EntitlementsRead, Self::RelayWrite];

    /// The scope as it is spelled.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccountsRead => "accounts:read",
            Self::AccountsWrite => "accounts:write",
            Self::EntitlementsRead => "entitlements:read",
            Self::RelayWrite => "relay:write",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no scope.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a scope is one of accounts:read, accounts:write, entitlements:read, relay:write")]
pub struct UnknownScope;

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(UnknownScope)
    }
}

/// A key to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewApiKey {
    /// What it is for, as people read it.
    pub name: String,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id, which may be shown.
    pub id: ApiKeyId,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

/// How stale `last_used_at` may be: one write a minute and key, not one a request.
const LAST_USED_GRAIN: TimeDelta = TimeDelta::minutes(1);

impl Store {
    /// Makes a key.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn create_api_key(&self, key: &NewApiKey, actor: Actor) -> Result<ApiKeyId, StoreError> {
        let id = ApiKeyId::generate();
        let scopes: Vec<String> = key.scopes.iter().map(ToString::to_string).collect();
        let mut tx = self.pool.begin().await?;
        sqlx::query!(
            "INSERT INTO ledger.api_keys (id, name, key_hash, scopes, expires_at) VALUES ($1, $2, $3, $4, $5)",
            id.as_uuid(),
            key.name,
            &key.hash,
            &scopes,
            key.expires_at,
        )
        .execute(&mut *tx)
        .await?;
        let detail = json!({ "name": key.name, "scopes": scopes });
        audit::record(&mut tx, actor, "api_key.create", &id.to_string(), detail).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Ends every key called `name` at `now`.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn revoke_api_keys(&self, name: &str, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let revoked = sqlx::query!(
            "UPDATE ledger.api_keys SET revoked_at = $2 WHERE name = $1 AND revoked_at IS NULL",
            name,
            now
        )
        .execute(&self.pool)
        .await?;
        Ok(revoked.rows_affected())
    }

    /// The key with `hash`, where it exists, has not expired by `now` and is not revoked.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn authenticate(
        &self,
        hash: &[u8; 32],
        now: DateTime<Utc>,
    ) -> Result<Option<ApiKey>, StoreError> {
        let found = sqlx::query!(
            "SELECT id, scopes, last_used_at FROM ledger.api_keys
             WHERE key_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)",
            hash,
            now,
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = found else { return Ok(None) };
        let stale = now.checked_sub_signed(LAST_USED_GRAIN);
        if row.last_used_at.is_none_or(|used| stale.is_some_and(|stale| used < stale)) {
            let touched =
                sqlx::query!("UPDATE ledger.api_keys SET last_used_at = $2 WHERE id = $1", row.id, now)
                    .execute(&self.pool)
                    .await;
            // For people to look at: a ledger that can only be read at the moment must not refuse callers for it.
            if let Err(error) = touched {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "an API key's last use was not noted"
                );
            }
        }
        let scopes = row
            .scopes
            .iter()
            .map(|scope| scope.parse().map_err(|_| StoreError::Inconsistent("a key's scope is unknown")))
            .collect::<Result<_, _>>()?;
        Ok(Some(ApiKey { id: ApiKeyId::from_uuid(row.id), scopes }))
    }
}
