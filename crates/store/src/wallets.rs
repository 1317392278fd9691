//! Wallets: addresses that belong to accounts, and the claim of what an unknown wallet paid.

use alloy_primitives::Address;
use chrono::{DateTime, Utc};
use dues_domain::ids::AccountId;
use serde_json::json;
use sqlx::PgConnection;

use crate::{Actor, SpentChallenge, Store, StoreError, audit, challenges, convert, sessions};

/// How a wallet came to its account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalletProof {
    /// The platform's server vouches for it.
    Platform,
    /// It paid with an unknown reference and got the account.
    Payment,
    /// Whoever has it has signed that it is this account's.
    Signature,
}

/// A wallet of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wallet {
    /// Its address.
    pub address: Address,
    /// How it came to the account.
    pub proof: WalletProof,
    /// Since when.
    pub linked_at: DateTime<Utc>,
}

/// What linking a wallet did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalletLinked {
    /// It had no account before.
    New,
    /// It was linked to this account already.
    Already,
    /// It had paid before it was known: its subscriptions and transactions moved to this account.
    Claimed,
}

impl Store {
    /// The wallets of `account`, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn wallets(&self, account: AccountId) -> Result<Vec<Wallet>, StoreError> {
        sqlx::query!(
            "SELECT address, proof, linked_at FROM ledger.wallets WHERE account_id = $1 ORDER BY linked_at, address",
            account.as_uuid(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            let proof = match row.proof.as_str() {
                "platform" => WalletProof::Platform,
                "payment" => WalletProof::Payment,
                "signature" => WalletProof::Signature,
                _ => return Err(StoreError::Inconsistent("a wallet's proof is unknown")),
            };
            Ok(Wallet { address: convert::address(&row.address)?, proof, linked_at: row.linked_at })
        })
        .collect()
    }

    /// Links `wallet` to `account` on the word of `actor`. A wallet that has paid before it was known brings
    /// what it paid for along.
    ///
    /// # Errors
    /// [`StoreError::UnknownAccount`]; [`StoreError::WalletTaken`] where it belongs to another account of the
    /// platform. Either changes nothing.
    pub async fn link_wallet(
        &self,
        account: AccountId,
        wallet: Address,
        actor: Actor,
    ) -> Result<WalletLinked, StoreError> {
        let mut tx = self.pool.begin().await?;
        let outcome = link(&mut tx, account, wallet, "platform", actor).await?;
        tx.commit().await?;
        Ok(outcome)
    }

    /// The same where `wallet` has signed `challenge`, which has its effect with this.
    ///
    /// # Errors
    /// As [`link_wallet`](Self::link_wallet); [`StoreError::ChallengeSpent`].
    pub async fn link_proven_wallet(
        &self,
        account: AccountId,
        wallet: Address,
        challenge: SpentChallenge,
        now: DateTime<Utc>,
        actor: Actor,
    ) -> Result<WalletLinked, StoreError> {
        let mut tx = self.pool.begin().await?;
        challenges::spend(&mut tx, challenge, now).await?;
        let outcome = link(&mut tx, account, wallet, "signature", actor).await?;
        tx.commit().await?;
        Ok(outcome)
    }

    /// Takes `wallet` from `account`, on the word of `actor` or, with a `challenge`, also on the wallet's own. What was
    /// paid with it stays with the account; whoever is signed in with it is not any more.
    ///
    /// # Errors
    /// [`StoreError::UnknownAccount`]; [`StoreError::UnknownWallet`] where it is not this account's;
    /// [`StoreError::WalletNeeded`] where the account was made for it; [`StoreError::ChallengeSpent`]. Each changes
    /// nothing.
    pub async fn unlink_wallet(
        &self,
        account: AccountId,
        wallet: Address,
        challenge: Option<SpentChallenge>,
        now: DateTime<Utc>,
        actor: Actor,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        if let Some(challenge) = challenge {
            challenges::spend(&mut tx, challenge, now).await?;
        }
        let origin =
            sqlx::query_scalar!("SELECT origin FROM ledger.accounts WHERE id = $1", account.as_uuid())
                .fetch_optional(&mut *tx)
                .await?
                .ok_or(StoreError::UnknownAccount)?;
        let unlinked = sqlx::query!(
            "DELETE FROM ledger.wallets WHERE address = $1 AND account_id = $2",
            wallet.as_slice(),
            account.as_uuid(),
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if unlinked == 0 {
            return Err(StoreError::UnknownWallet);
        }
        if origin == "wallet" {
            return Err(StoreError::WalletNeeded);
        }
        sessions::end_of_wallet(&mut tx, account, wallet, now).await?;
        let detail = json!({ "wallet": wallet, "signed": challenge.is_some() });
        audit::record(&mut tx, actor, "wallet.unlink", &account.to_string(), detail).await?;
        tx.commit().await?;
        Ok(())
    }
}

async fn link(
    tx: &mut PgConnection,
    account: AccountId,
    wallet: Address,
    proof: &str,
    actor: Actor,
) -> Result<WalletLinked, StoreError> {
    sqlx::query!("SELECT id FROM ledger.accounts WHERE id = $1 FOR KEY SHARE", account.as_uuid())
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::UnknownAccount)?;
    // One that is unlinked at this very moment is there for the insert, and gone for the look at its owner.
    let (inserted, owner) = loop {
        let inserted = sqlx::query!(
            "INSERT INTO ledger.wallets (address, account_id, proof) VALUES ($1, $2, $3)
             ON CONFLICT (address) DO NOTHING",
            wallet.as_slice(),
            account.as_uuid(),
            proof,
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if inserted == 1 {
            break (true, account.as_uuid());
        }
        // The wallet first: whoever waits for it sees the owner of then, not the one that was claimed meanwhile.
        let owner = sqlx::query_scalar!(
            "SELECT account_id FROM ledger.wallets WHERE address = $1 FOR UPDATE",
            wallet.as_slice(),
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(owner) = owner {
            break (false, owner);
        }
    };
    let outcome = if inserted {
        WalletLinked::New
    } else {
        // Then its owner: the indexer cannot give it another subscription meanwhile.
        let owner = sqlx::query!("SELECT id, origin FROM ledger.accounts WHERE id = $1 FOR UPDATE", owner)
            .fetch_one(&mut *tx)
            .await?;
        match AccountId::from_uuid(owner.id) {
            id if id == account => WalletLinked::Already,
            id if owner.origin == "wallet" => {
                claim(tx, id, account, proof).await?;
                WalletLinked::Claimed
            }
            _ => return Err(StoreError::WalletTaken),
        }
    };
    // What was signed stands above the platform's word.
    let stronger = outcome == WalletLinked::Already && proof == "signature" && {
        let proven = sqlx::query!(
            "UPDATE ledger.wallets SET proof = $2 WHERE address = $1 AND proof <> $2",
            wallet.as_slice(),
            proof,
        );
        proven.execute(&mut *tx).await?.rows_affected() == 1
    };
    if outcome != WalletLinked::Already || stronger {
        let detail = json!({ "wallet": wallet, "claimed": outcome == WalletLinked::Claimed, "proof": proof });
        audit::record(tx, actor, "wallet.link", &account.to_string(), detail).await?;
    }
    Ok(outcome)
}

/// Moves everything of the anonymous account `from` to `to`, and removes what is left of it.
async fn claim(tx: &mut PgConnection, from: AccountId, to: AccountId, proof: &str) -> Result<(), StoreError> {
    let (from, to) = (from.as_uuid(), to.as_uuid());
    sqlx::query!(
        "UPDATE ledger.wallets SET account_id = $2, proof = $3 WHERE account_id = $1",
        from,
        to,
        proof,
    )
    .execute(&mut *tx)
    .await?;
    // In the same order as the indexer, so that neither waits for what the other one has.
    sqlx::query!("SELECT id FROM ledger.subscriptions WHERE account_id = $1 ORDER BY id FOR UPDATE", from)
        .fetch_all(&mut *tx)
        .await?;
    // Money that moved for them goes with them (transactions_subscription_fkey).
    sqlx::query!(
        "UPDATE ledger.subscriptions SET account_id = $2, updated_at = now() WHERE account_id = $1",
        from,
        to
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("UPDATE ledger.relay_intents SET account_id = $2 WHERE account_id = $1", from, to)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("DELETE FROM ledger.accounts WHERE id = $1", from).execute(&mut *tx).await?;
    Ok(())
}
