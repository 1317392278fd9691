//! The accounts that new subscriptions are for.

use std::collections::{HashMap, HashSet};

use alloy_primitives::Address;
use dues_domain::ids::AccountId;
use serde_json::json;

use super::{Origin, Step};
use crate::{StoreError, convert};

impl Step<'_> {
    /// The account of each of `origins`, in their order: the one that its reference names, else the one that its payer's
    /// wallet belongs to, else a new one for that wallet.
    pub(super) async fn resolve_accounts(
        &mut self,
        origins: &[&Origin],
    ) -> Result<Vec<AccountId>, StoreError> {
        if origins.is_empty() {
            return Ok(Vec::new());
        }
        // Wallets before accounts, as whoever links a wallet does: neither waits for what the other one has.
        let mut owners = self.wallet_owners(origins).await?;
        let named = self.named_accounts(origins).await?;
        let mut new = Vec::new();
        let mut accounts = Vec::with_capacity(origins.len());
        for origin in origins {
            let named = AccountId::from_reference(origin.reference).filter(|account| named.contains(account));
            accounts.push(named.unwrap_or_else(|| {
                *owners.entry(origin.payer).or_insert_with(|| {
                    let account = AccountId::generate();
                    new.push((origin.payer, account));
                    account
                })
            }));
        }
        self.accounts_for_wallets(&new).await?;
        Ok(accounts)
    }

    async fn wallet_owners(
        &mut self,
        origins: &[&Origin],
    ) -> Result<HashMap<Address, AccountId>, StoreError> {
        let payers: HashSet<Address> = origins.iter().map(|origin| origin.payer).collect();
        let payers: Vec<Vec<u8>> = payers.into_iter().map(|payer| payer.to_vec()).collect();
        sqlx::query!(
            "SELECT address, account_id FROM ledger.wallets WHERE address = ANY($1) ORDER BY address FOR KEY SHARE",
            &payers,
        )
        .fetch_all(&mut *self.tx)
        .await?
        .into_iter()
        .map(|row| Ok((convert::address(&row.address)?, AccountId::from_uuid(row.account_id))))
        .collect()
    }

    async fn named_accounts(&mut self, origins: &[&Origin]) -> Result<HashSet<AccountId>, StoreError> {
        let named: HashSet<_> = origins
            .iter()
            .filter_map(|origin| AccountId::from_reference(origin.reference))
            .map(AccountId::as_uuid)
            .collect();
        if named.is_empty() {
            return Ok(HashSet::new());
        }
        let named: Vec<_> = named.into_iter().collect();
        let known = sqlx::query_scalar!(
            "SELECT id FROM ledger.accounts WHERE id = ANY($1) ORDER BY id FOR KEY SHARE",
            &named,
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Ok(known.into_iter().map(AccountId::from_uuid).collect())
    }

    async fn accounts_for_wallets(&mut self, new: &[(Address, AccountId)]) -> Result<(), StoreError> {
        if new.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = new.iter().map(|(_, id)| id.as_uuid()).collect();
        sqlx::query!(
            "INSERT INTO ledger.accounts (id, origin) SELECT id, 'wallet' FROM unnest($1::uuid[]) AS n (id)",
            &ids,
        )
        .execute(&mut *self.tx)
        .await?;
        // Where the platform links one of these wallets at the same moment, the insert fails, the step is undone, and
        // the next try finds the owner.
        let wallets: Vec<Vec<u8>> = new.iter().map(|(wallet, _)| wallet.to_vec()).collect();
        sqlx::query!(
            "INSERT INTO ledger.wallets (address, account_id, proof)
             SELECT address, account_id, 'payment' FROM unnest($1::bytea[], $2::uuid[]) AS n (address, account_id)",
            &wallets,
            &ids,
        )
        .execute(&mut *self.tx)
        .await?;
        let subjects: Vec<String> = new.iter().map(|(_, id)| id.to_string()).collect();
        let details: Vec<_> = new.iter().map(|(wallet, _)| json!({ "wallet": wallet })).collect();
        sqlx::query!(
            "INSERT INTO ledger.audit_log (actor, action, subject, detail)
             SELECT 'indexer', 'account.create_for_wallet', subject, detail
             FROM unnest($1::text[], $2::jsonb[]) AS n (subject, detail)",
            &subjects,
            &details,
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}
