//! Accounts: the platform's users, and those that a paying wallet got.

use alloy_primitives::Address;
use chrono::{DateTime, Utc};
use dues_domain::ids::AccountId;
use uuid::Uuid;

use crate::{Store, StoreError};

/// Where an account came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountOrigin {
    /// The platform upserted it.
    Platform,
    /// A wallet paid with an unknown reference; a platform account claims it by linking that wallet.
    Wallet,
}

/// A user of the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Our id.
    pub id: AccountId,
    /// The platform's id.
    pub external_id: Option<String>,
    /// Where receipts go.
    pub email: Option<String>,
    /// Where it came from.
    pub origin: AccountOrigin,
    /// Since when it exists.
    pub created_at: DateTime<Utc>,
}

/// The outcome of an upsert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upserted {
    /// The account as it is now.
    pub account: Account,
    /// Whether it did not exist before.
    pub created: bool,
}

struct AccountRow {
    id: Uuid,
    external_id: Option<String>,
    email: Option<String>,
    origin: String,
    created_at: DateTime<Utc>,
}

impl TryFrom<AccountRow> for Account {
    type Error = StoreError;

    fn try_from(row: AccountRow) -> Result<Self, StoreError> {
        let origin = match row.origin.as_str() {
            "platform" => AccountOrigin::Platform,
            "wallet" => AccountOrigin::Wallet,
            _ => return Err(StoreError::Inconsistent("an account's origin is unknown")),
        };
        Ok(Self {
            id: AccountId::from_uuid(row.id),
            external_id: row.external_id,
            email: row.email,
            origin,
            created_at: row.created_at,
        })
    }
}

impl Store {
    /// The account with the platform's `external_id`, made where there is none. A given `email` replaces the
    /// one before; `None` leaves it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn upsert_account(
        &self,
        external_id: &str,
        email: Option<&str>,
    ) -> Result<Upserted, StoreError> {
        let row = sqlx::query!(
            r#"INSERT INTO ledger.accounts AS a (id, external_id, email, origin) VALUES ($1, $2, $3, 'platform')
               ON CONFLICT (external_id) DO UPDATE SET email = coalesce(excluded.email, a.email), updated_at = now()
               RETURNING id, external_id, email, origin, created_at, (xmax = 0) AS "created!""#,
            AccountId::generate().as_uuid(),
            external_id,
            email,
        )
        .fetch_one(&self.pool)
        .await?;
        let account = AccountRow {
            id: row.id,
            external_id: row.external_id,
            email: row.email,
            origin: row.origin,
            created_at: row.created_at,
        };
        Ok(Upserted { account: account.try_into()?, created: row.created })
    }

    /// The account with our `id`.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn account(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        sqlx::query_as!(
            AccountRow,
            "SELECT id, external_id, email, origin, created_at FROM ledger.accounts WHERE id = $1",
            id.as_uuid(),
        )
        .fetch_optional(&self.pool)
        .await?
        .map(TryInto::try_into)
        .transpose()
    }

    /// The account with the platform's `external_id`.
    ///
    /// # Errors
    /// As [`account`](Self::account).
    pub async fn account_by_external_id(&self, external_id: &str) -> Result<Option<Account>, StoreError> {
        sqlx::query_as!(
            AccountRow,
            "SELECT id, external_id, email, origin, created_at FROM ledger.accounts WHERE external_id = $1",
            external_id,
        )
        .fetch_optional(&self.pool)
        .await?
        .map(TryInto::try_into)
        .transpose()
    }

    /// The account that `wallet` belongs to.
    ///
    /// # Errors
    /// As [`account`](Self::account).
    pub async fn account_by_wallet(&self, wallet: Address) -> Result<Option<Account>, StoreError> {
        sqlx::query_as!(
            AccountRow,
            "SELECT a.id, a.external_id, a.email, a.origin, a.created_at
             FROM ledger.accounts a JOIN ledger.wallets w ON w.account_id = a.id WHERE w.address = $1",
            wallet.as_slice(),
        )
        .fetch_optional(&self.pool)
        .await?
        .map(TryInto::try_into)
        .transpose()
    }
}
