//! API keys: only their hashes are here.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use dues_domain::ids::ApiKeyId;
use serde_json::json;
use sqlx::{PgConnection, PgPool};

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
    /// Read what was used.
    UsageRead,
    /// Count usage.
    UsageWrite,
    /// Have signed intents sent, and see what became of them.
    RelayWrite,
    /// Sign end users in.
    SessionsWrite,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 7] = [
        Self::AccountsRead,
        Self::AccountsWrite,
        Self::EntitlementsRead,
        Self::UsageRead,
        Self::UsageWrite,
        Self::RelayWrite,
        Self::SessionsWrite,
    ];

    /// The scope as it is spelled.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccountsRead => "accounts:read",
            Self::AccountsWrite => "accounts:write",
            Self::EntitlementsRead => "entitlements:read",
            Self::UsageRead => "usage:read",
            Self::UsageWrite => "usage:write",
            Self::RelayWrite => "relay:write",
            Self::SessionsWrite => "sessions:write",
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
#[error(
    "a scope is one of accounts:read, accounts:write, entitlements:read, usage:read, usage:write, \
     relay:write, sessions:write"
)]
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
    /// How it begins, so that people can tell keys apart: far too little of it to guess the rest.
    pub prefix: String,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key as people look at it. The key itself is nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// Its id, which may be shown.
    pub id: ApiKeyId,
    /// What it is for.
    pub name: String,
    /// How it begins; unknown of old ones.
    pub prefix: Option<String>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was used last, within a minute or so.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was ended.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A key as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id, which may be shown.
    pub id: ApiKeyId,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

/// How stale `last_used_at` may be: one write a minute and key, not one a request.
const LAST_USED_GRAIN: TimeDelta = TimeDelta::minutes(1);

/// When this process noted the last use of each key.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastUsed(Arc<Mutex<HashMap<ApiKeyId, DateTime<Utc>>>>);

impl LastUsed {
    /// Whether the use of `key` at `now` is to be noted. If so, nobody else is told to until it is stale again.
    fn is_stale(&self, key: ApiKeyId, now: DateTime<Utc>) -> bool {
        // Nothing that panics is done under the lock.
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = now.checked_sub_signed(LAST_USED_GRAIN);
        match noted.entry(key) {
            Entry::Occupied(at) if stale.is_none_or(|stale| *at.get() >= stale) => false,
            entry => {
                entry.insert_entry(now);
                true
            }
        }
    }
}

impl Store {
    /// Makes a key.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn create_api_key(&self, key: &NewApiKey, actor: Actor) -> Result<ApiKeyId, StoreError> {
        let mut tx = self.pool.begin().await?;
        let (id, scopes) = insert(&mut tx, key).await?;
        let detail = json!({ "name": key.name, "scopes": scopes, "expires_at": key.expires_at });
        audit::record(&mut tx, actor, "api_key.create", &id.to_string(), detail).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Every key that there ever was, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn api_keys(&self) -> Result<Vec<ApiKeyRecord>, StoreError> {
        sqlx::query!(
            "SELECT id, name, prefix, scopes, created_at, last_used_at, expires_at, revoked_at FROM ledger.api_keys
             ORDER BY created_at, id"
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(ApiKeyRecord {
                id: ApiKeyId::from_uuid(row.id),
                name: row.name,
                prefix: row.prefix,
                scopes: scopes(&row.scopes)?,
                created_at: row.created_at,
                last_used_at: row.last_used_at,
                expires_at: row.expires_at,
                revoked_at: row.revoked_at,
            })
        })
        .collect()
    }

    /// Ends a key at `now`; gives whether it was not ended so before.
    ///
    /// # Errors
    /// [`StoreError::UnknownApiKey`].
    pub async fn revoke_api_key(
        &self,
        id: ApiKeyId,
        now: DateTime<Utc>,
        actor: Actor,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let row = sqlx::query!(
            "SELECT name, revoked_at FROM ledger.api_keys WHERE id = $1 FOR UPDATE",
            id.as_uuid()
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::UnknownApiKey)?;
        if row.revoked_at.is_some() {
            return Ok(false);
        }
        sqlx::query!("UPDATE ledger.api_keys SET revoked_at = $2 WHERE id = $1", id.as_uuid(), now)
            .execute(&mut *tx)
            .await?;
        audit::record(&mut tx, actor, "api_key.revoke", &id.to_string(), json!({ "name": row.name })).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Makes a key of `hash` and `prefix` in place of the key `id`: of the same name and scopes, and for as long as that
    /// one was made for, counted from `now`. The old one ends at `until`, or sooner where it would end sooner. Gives the new
    /// one's id, and when each of them ends.
    ///
    /// # Errors
    /// [`StoreError::UnknownApiKey`]; [`StoreError::ApiKeyEnded`] where there is nothing to go on with.
    pub async fn rotate_api_key(
        &self,
        id: ApiKeyId,
        (hash, prefix): ([u8; 32], String),
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        actor: Actor,
    ) -> Result<(ApiKeyRecord, DateTime<Utc>), StoreError> {
        let mut tx = self.pool.begin().await?;
        let old = sqlx::query!(
            "SELECT name, scopes, created_at, expires_at, revoked_at FROM ledger.api_keys WHERE id = $1 FOR UPDATE",
            id.as_uuid()
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::UnknownApiKey)?;
        if old.revoked_at.is_some() || old.expires_at.is_some_and(|expires| expires <= now) {
            return Err(StoreError::ApiKeyEnded);
        }
        let lifetime = old.expires_at.map(|expires| expires.signed_duration_since(old.created_at));
        let expires_at = lifetime.and_then(|lifetime| now.checked_add_signed(lifetime));
        let key = NewApiKey { name: old.name, prefix, hash, scopes: scopes(&old.scopes)?, expires_at };
        let (new, names) = insert(&mut tx, &key).await?;
        let until = old.expires_at.map_or(until, |expires| expires.min(until));
        sqlx::query!("UPDATE ledger.api_keys SET expires_at = $2 WHERE id = $1", id.as_uuid(), until)
            .execute(&mut *tx)
            .await?;
        let detail = json!({
            "name": key.name, "scopes": names, "expires_at": expires_at, "new": new, "old_expires_at": until,
        });
        audit::record(&mut tx, actor, "api_key.rotate", &id.to_string(), detail).await?;
        tx.commit().await?;
        let record = ApiKeyRecord {
            id: new,
            name: key.name,
            prefix: Some(key.prefix),
            scopes: key.scopes,
            created_at: now,
            last_used_at: None,
            expires_at,
            revoked_at: None,
        };
        Ok((record, until))
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
            "SELECT id, scopes, expires_at FROM ledger.api_keys
             WHERE key_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)",
            hash,
            now,
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = found else { return Ok(None) };
        let id = ApiKeyId::from_uuid(row.id);
        self.note_use(id, now);
        Ok(Some(ApiKey { id, scopes: scopes(&row.scopes)?, expires_at: row.expires_at }))
    }

    /// Notes that a key was used: in time, for people to look at, and at most once a minute and process.
    pub fn note_use(&self, key: ApiKeyId, now: DateTime<Utc>) {
        if self.last_used.is_stale(key, now) {
            // Nobody waits for it.
            tokio::spawn(note_use(self.pool.clone(), key, now));
        }
    }
}

/// Notes that a key was used. For people to look at: a ledger that can only be read at the moment refuses nobody for it.
async fn note_use(pool: PgPool, id: ApiKeyId, now: DateTime<Utc>) {
    let noted = sqlx::query!(
        "UPDATE ledger.api_keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)",
        id.as_uuid(),
        now
    );
    if let Err(error) = noted.execute(&pool).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "an API key's last use was not noted");
    }
}

async fn insert(tx: &mut PgConnection, key: &NewApiKey) -> Result<(ApiKeyId, Vec<&'static str>), StoreError> {
    let id = ApiKeyId::generate();
    let scopes: Vec<_> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    let owned: Vec<String> = scopes.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "INSERT INTO ledger.api_keys (id, name, prefix, key_hash, scopes, expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
        id.as_uuid(),
        key.name,
        key.prefix,
        &key.hash,
        &owned,
        key.expires_at,
    )
    .execute(tx)
    .await?;
    Ok((id, scopes))
}

fn scopes(names: &[String]) -> Result<Vec<Scope>, StoreError> {
    let unknown = |_| StoreError::Inconsistent("a key's scope is unknown");
    names.iter().map(|scope| scope.parse().map_err(unknown)).collect()
}
