//! Challenges: what a wallet signs, once. They are not stored before that; see migration 70.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use crate::{Store, StoreError};

/// For how long after its end a spent challenge is kept: clocks of several processes may differ by less.
const KEPT: TimeDelta = TimeDelta::hours(1);
/// How many that have ended are swept away with each new one: more than come in, so that they do not pile up.
const SWEPT: i64 = 20;

/// The key of the codes in challenges, the same for all processes. It does not print.
pub struct ChallengeKey([u8; 32]);

impl fmt::Debug for ChallengeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChallengeKey")
    }
}

impl ChallengeKey {
    /// A key of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A challenge that was signed, and is to have its one effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpentChallenge {
    /// What tells it from all others.
    pub nonce: [u8; 16],
    /// When it would end unsigned.
    pub expires_at: DateTime<Utc>,
}

impl Store {
    /// The key of the codes in challenges. It is made with the schema, and never changes.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn challenge_key(&self) -> Result<ChallengeKey, StoreError> {
        let key =
            sqlx::query_scalar!("SELECT key FROM ledger.challenge_key").fetch_optional(&self.pool).await?;
        let key = key.ok_or(StoreError::Inconsistent("there is no key of challenges"))?;
        let key =
            key.try_into().map_err(|_| StoreError::Inconsistent("the key of challenges has not 32 bytes"))?;
        Ok(ChallengeKey(key))
    }
}

/// Notes that `challenge` has its effect with this transaction. Of two transactions at once, the second one waits for the
/// first, and fails where that one lands.
pub(crate) async fn spend(
    tx: &mut PgConnection,
    challenge: SpentChallenge,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO ledger.spent_challenges (nonce, expires_at) VALUES ($1, $2)",
        &challenge.nonce,
        challenge.expires_at,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "DELETE FROM ledger.spent_challenges WHERE nonce IN (
             SELECT nonce FROM ledger.spent_challenges WHERE expires_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
        now.checked_sub_signed(KEPT),
        SWEPT,
    )
    .execute(tx)
    .await?;
    Ok(())
}
