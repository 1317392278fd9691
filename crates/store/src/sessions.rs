//! Sessions of end users: only their tokens' hashes are here.

use alloy_primitives::Address;
use chrono::{DateTime, TimeDelta, Utc};
use dues_domain::ids::{AccountId, SessionId};
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use crate::{Actor, SpentChallenge, Store, StoreError, audit, challenges, convert};

/// For how long a session that has ended is kept, for people to look at.
const KEPT: TimeDelta = TimeDelta::days(7);
/// How many that have ended are swept away with each new one: more than come in, so that they do not pile up.
const SWEPT: i64 = 20;

/// A session that is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Its id, which may be shown.
    pub id: SessionId,
    /// Whose it is.
    pub account: AccountId,
    /// The wallet that was signed in with; `None` where the platform's server vouches.
    pub wallet: Option<Address>,
    /// When it ends by itself.
    pub expires_at: DateTime<Utc>,
}

/// How somebody was signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedIn {
    /// The platform's server vouches for whoever has the token to be this account.
    ByPlatform(AccountId),
    /// The wallet has signed the challenge.
    ByWallet(Address, SpentChallenge),
}

impl Store {
    /// Makes a session, with the token of `token_hash`, from `now` until `expires_at`.
    ///
    /// # Errors
    /// [`StoreError::UnknownAccount`] where there is no such account, or no account of that wallet;
    /// [`StoreError::ChallengeSpent`].
    pub async fn create_session(
        &self,
        signed_in: SignedIn,
        token_hash: [u8; 32],
        now: DateTime<Utc>,
        expires_at: DateTime<Utc>,
    ) -> Result<Session, StoreError> {
        let mut tx = self.pool.begin().await?;
        let (account, wallet) = match signed_in {
            SignedIn::ByPlatform(account) => (account, None),
            SignedIn::ByWallet(wallet, challenge) => {
                challenges::spend(&mut tx, challenge, now).await?;
                // Whoever unlinks it at this moment waits, and then finds the session.
                let account = sqlx::query_scalar!(
                    "SELECT account_id FROM ledger.wallets WHERE address = $1 FOR SHARE",
                    wallet.as_slice(),
                )
                .fetch_optional(&mut *tx)
                .await?
                .ok_or(StoreError::UnknownAccount)?;
                (AccountId::from_uuid(account), Some(wallet))
            }
        };
        let id = SessionId::generate();
        sqlx::query!(
            "INSERT INTO ledger.sessions (id, token_hash, account_id, how, wallet, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            id.as_uuid(),
            &token_hash,
            account.as_uuid(),
            if wallet.is_some() { "siwe" } else { "platform" },
            wallet.as_ref().map(|wallet| wallet.as_slice()),
            now,
            expires_at,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "DELETE FROM ledger.sessions WHERE id IN (
                 SELECT id FROM ledger.sessions WHERE expires_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
            now.checked_sub_signed(KEPT),
            SWEPT,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Session { id, account, wallet, expires_at })
    }

    /// The session with the token of `token_hash`, where it is live at `now`.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn session(
        &self,
        token_hash: &[u8; 32],
        now: DateTime<Utc>,
    ) -> Result<Option<Session>, StoreError> {
        let found = sqlx::query!(
            r#"SELECT id, account_id, wallet, expires_at,
                      (last_seen_at IS NULL OR last_seen_at + interval '1 minute' < $2) AS "stale!"
               FROM ledger.sessions WHERE token_hash = $1 AND revoked_at IS NULL AND expires_at > $2"#,
            token_hash,
            now,
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = found else { return Ok(None) };
        let id = SessionId::from_uuid(row.id);
        if row.stale {
            // One write a minute, and nobody waits for it.
            tokio::spawn(note_seen(self.pool.clone(), id, now));
        }
        Ok(Some(Session {
            id,
            account: AccountId::from_uuid(row.account_id),
            wallet: row.wallet.as_deref().map(convert::address).transpose()?,
            expires_at: row.expires_at,
        }))
    }

    /// Ends a session at `now`. One that has ended before stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn end_session(&self, id: SessionId, now: DateTime<Utc>) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE ledger.sessions SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL",
            id.as_uuid(),
            now
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Ends every live session of `account` at `now`, however it was signed in to; gives how many.
    ///
    /// # Errors
    /// [`StoreError::UnknownAccount`].
    pub async fn end_sessions(
        &self,
        account: AccountId,
        now: DateTime<Utc>,
        actor: Actor,
    ) -> Result<u64, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query_scalar!("SELECT id FROM ledger.accounts WHERE id = $1", account.as_uuid())
            .fetch_optional(&mut *tx)
            .await?
            .ok_or(StoreError::UnknownAccount)?;
        let ended = sqlx::query!(
            "UPDATE ledger.sessions SET revoked_at = $2
             WHERE account_id = $1 AND revoked_at IS NULL AND expires_at > $2",
            account.as_uuid(),
            now,
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if ended > 0 {
            let detail = json!({ "ended": ended });
            audit::record(&mut tx, actor, "sessions.end", &account.to_string(), detail).await?;
        }
        tx.commit().await?;
        Ok(ended)
    }
}

/// Ends what was signed in to with `wallet`, which does not belong to `account` any more.
pub(crate) async fn end_of_wallet(
    tx: &mut PgConnection,
    account: AccountId,
    wallet: Address,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE ledger.sessions SET revoked_at = $3 WHERE account_id = $1 AND wallet = $2 AND revoked_at IS NULL",
        account.as_uuid(),
        wallet.as_slice(),
        now,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// For people to look at: a ledger that can only be read at the moment refuses nobody for it.
async fn note_seen(pool: PgPool, id: SessionId, now: DateTime<Utc>) {
    let noted = sqlx::query!("UPDATE ledger.sessions SET last_seen_at = $2 WHERE id = $1", id.as_uuid(), now);
    if let Err(error) = noted.execute(&pool).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "a session's last use was not noted");
    }
}
