//! Signed intents on their way to the chain: the API puts them here, the keeper takes them (`keeper::relay`).

use alloy_primitives::{Address, B256, U256};
use chrono::{DateTime, Utc};
use dues_domain::{
    chain::{BlockRef, ChainSource},
    ids::{AccountId, RelayIntentId},
    relay::{Consent, Intent, Permit, RelayLimits, RelayRefusal, RelayStatus},
};
use sqlx::{
    PgConnection,
    postgres::{PgListener, PgPoolOptions},
};

use crate::{Store, StoreError, convert};

/// Where new intents are told of.
const CHANNEL: &str = "dues_relay";

/// An intent to be relayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRelayIntent {
    /// To which contract.
    pub source: ChainSource,
    /// What the payer wants.
    pub intent: Intent,
    /// The payer's signature.
    pub consent: Consent,
    /// An allowance to go before it.
    pub permit: Option<Permit>,
    /// When it is, by the clock that deadlines are compared with.
    pub now: DateTime<Utc>,
}

/// What became of an intent that was handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// It is queued.
    New(RelayIntent),
    /// It was handed in before, and this is where it stands.
    Known(RelayIntent),
    /// Another intent with the payer's nonce is under way, or was carried out.
    NonceTaken,
    /// It is for no account of ours.
    UnknownAccount,
    /// The ledger knows no such subscription on the chain.
    UnknownSubscription,
    /// The plan sells nothing of the catalogue.
    PlanNotSold,
    /// The account, or the payer, has had what it may have today.
    AccountLimit {
        /// In how many seconds it may have more.
        seconds: u64,
    },
    /// The gas for today is spent.
    BudgetSpent {
        /// In how many seconds there is more.
        seconds: u64,
    },
}

/// An intent that was handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayIntent {
    /// Its id.
    pub id: RelayIntentId,
    /// Whom it is for.
    pub account: AccountId,
    /// To which contract.
    pub source: ChainSource,
    /// Who signed it.
    pub payer: Address,
    /// What the payer wants.
    pub intent: Intent,
    /// Where it stands.
    pub status: RelayStatus,
    /// Why it was refused.
    pub refusal: Option<RelayRefusal>,
    /// The transaction that carries it, the last one where there were several.
    pub tx_hash: Option<B256>,
    /// Where that is, and what it took.
    pub mined: Option<RelayMined>,
    /// From when on nobody sends it any more.
    pub expires_at: DateTime<Utc>,
    /// When it was handed in.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// Where an intent is on the chain, and what that took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayMined {
    /// The block.
    pub block: BlockRef,
    /// Units of gas.
    pub gas_used: u64,
    /// Wei for each of them.
    pub gas_price: u64,
}

/// Tells of intents that were handed in.
#[derive(Debug)]
pub struct RelayWakeUps {
    listener: PgListener,
}

impl RelayWakeUps {
    /// Returns when an intent for any contract was handed in, or when the connection was lost and is there again. May be
    /// dropped and called again: what was told meanwhile is not lost.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn next(&mut self) -> Result<(), StoreError> {
        // Nothing is told while the connection is down: `None` then says to look.
        self.listener.try_recv().await?;
        // Many at once are one reason to look.
        while self.listener.next_buffered().is_some() {}
        Ok(())
    }
}

impl Store {
    /// Listens for intents that are handed in, on a connection of its own.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn relay_wake_ups(&self) -> Result<RelayWakeUps, StoreError> {
        let options = (*self.pool.connect_options()).clone();
        let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
        let mut listener = PgListener::connect_with(&pool.connect_with(options).await?).await?;
        listener.listen(CHANNEL).await?;
        Ok(RelayWakeUps { listener })
    }

    /// Queues an intent, once: the same one again is the same row. What was refused or has expired may be handed in again,
    /// and is another try.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn submit_relay_intent(
        &self,
        new: &NewRelayIntent,
        limits: &RelayLimits,
    ) -> Result<Submitted, StoreError> {
        let (chain_id, contract) = (convert::to_i64(new.source.chain_id)?, new.source.contract);
        let mut tx = self.pool.begin().await?;
        let (payer, account) = match party(&mut tx, new).await? {
            Ok(party) => party,
            Err(submitted) => return Ok(submitted),
        };
        // Two of one payer, or for one account, are counted one after the other.
        sqlx::query!(
            r#"SELECT pg_advisory_xact_lock(hashtextextended($1, 0)) AS "locked!: ()""#,
            format!("dues:relay:{chain_id}:{payer}"),
        )
        .fetch_one(&mut *tx)
        .await?;
        let account_row =
            sqlx::query!("SELECT id FROM ledger.accounts WHERE id = $1 FOR NO KEY UPDATE", account.as_uuid());
        if account_row.fetch_optional(&mut *tx).await?.is_none() {
            return Ok(Submitted::UnknownAccount);
        }

        let nonce = new.intent.nonce().to_string();
        sqlx::query!(
            "UPDATE ledger.relay_intents SET status = 'expired', signature = NULL, permit = NULL, updated_at = now()
             WHERE chain_id = $1 AND contract = $2 AND payer = $3 AND nonce = ($4::text)::numeric
               AND status = 'queued' AND expires_at <= now()",
            chain_id,
            contract.as_slice(),
            payer.as_slice(),
            nonce,
        )
        .execute(&mut *tx)
        .await?;
        let before = sqlx::query_scalar!(
            "SELECT id FROM ledger.relay_intents
             WHERE chain_id = $1 AND contract = $2 AND payer = $3 AND nonce = ($4::text)::numeric
               AND status IN ('queued', 'sending', 'mined')",
            chain_id,
            contract.as_slice(),
            payer.as_slice(),
            nonce,
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(before) = before {
            let before = read(&mut tx, RelayIntentId::from_uuid(before)).await?.ok_or(GONE)?;
            tx.commit().await?;
            let same = before.intent == new.intent;
            return Ok(if same { Submitted::Known(before) } else { Submitted::NonceTaken });
        }
        if let Some(plan) = new.intent.plan()
            && !is_sold(&mut tx, new.source, plan).await?
        {
            return Ok(Submitted::PlanNotSold);
        }
        if let Some(over) = over_limit(&mut tx, chain_id, account, payer, limits).await? {
            return Ok(over);
        }

        let id = RelayIntentId::generate();
        sqlx::query!(
            "INSERT INTO ledger.relay_intents (id, account_id, chain_id, contract, payer, kind, nonce, intent, signature,
                                               permit, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, ($7::text)::numeric, $8, $9, $10, now() + $11::bigint * interval '1 second')",
            id.as_uuid(),
            account.as_uuid(),
            chain_id,
            contract.as_slice(),
            payer.as_slice(),
            new.intent.kind(),
            nonce,
            serde_json::to_value(&new.intent).map_err(|_| UNWRITABLE)?,
            new.consent.0.as_ref(),
            new.permit.as_ref().map(serde_json::to_value).transpose().map_err(|_| UNWRITABLE)?,
            i64::from(wait(&new.intent, new.now, limits)),
        )
        .execute(&mut *tx)
        .await?;
        // Told when this is committed, and not before.
        sqlx::query!(r#"SELECT pg_notify($1, '') AS "told!: ()""#, CHANNEL).fetch_one(&mut *tx).await?;
        let queued = read(&mut tx, id).await?.ok_or(GONE)?;
        tx.commit().await?;
        Ok(Submitted::New(queued))
    }

    /// The intent with `id`.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn relay_intent(&self, id: RelayIntentId) -> Result<Option<RelayIntent>, StoreError> {
        read(&mut *self.pool.acquire().await?, id).await
    }
}

const GONE: StoreError = StoreError::Inconsistent("a relayed intent is gone");
const UNWRITABLE: StoreError = StoreError::Inconsistent("an intent cannot be written as JSON");

/// For how many seconds an intent may wait: until its deadline, and not for ever.
fn wait(intent: &Intent, now: DateTime<Utc>, limits: &RelayLimits) -> u32 {
    let longest = u32::try_from(limits.longest_wait.num_seconds()).unwrap_or(u32::MAX);
    let now = U256::from(u64::try_from(now.timestamp()).unwrap_or_default());
    // Its deadline is the last second in which it is good.
    let left = intent.deadline().saturating_add(U256::ONE).saturating_sub(now);
    u32::try_from(left).unwrap_or(u32::MAX).min(longest)
}

/// Who signed an intent, and whom it is for: the account that the reference names, else the one that the payer's wallet
/// belongs to, as the indexer finds it.
async fn party(
    tx: &mut PgConnection,
    new: &NewRelayIntent,
) -> Result<Result<(Address, AccountId), Submitted>, StoreError> {
    let id = match &new.intent {
        Intent::Subscribe(intent) => {
            let named = AccountId::from_reference(intent.reference).map(AccountId::as_uuid);
            let account = sqlx::query_scalar!(
                r#"SELECT coalesce((SELECT id FROM ledger.accounts WHERE id = $1),
                                   (SELECT account_id FROM ledger.wallets WHERE address = $2)) AS account"#,
                named,
                intent.payer.as_slice(),
            )
            .fetch_one(&mut *tx)
            .await?;
            let account = account.map(AccountId::from_uuid).ok_or(Submitted::UnknownAccount);
            return Ok(account.map(|account| (intent.payer, account)));
        }
        Intent::Change(intent) => intent.id,
        Intent::Cancel(intent) => intent.id,
    };
    // The contract counts from 1, and never so far.
    let Ok(id) = i64::try_from(id) else { return Ok(Err(Submitted::UnknownSubscription)) };
    let found = sqlx::query!(
        "SELECT payer, account_id FROM ledger.subscriptions
         WHERE chain_id = $1 AND contract = $2 AND onchain_id = $3 AND confirmed",
        convert::to_i64(new.source.chain_id)?,
        new.source.contract.as_slice(),
        id,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(found) = found else { return Ok(Err(Submitted::UnknownSubscription)) };
    Ok(Ok((convert::address(&found.payer)?, AccountId::from_uuid(found.account_id))))
}

/// Whether the contract's plan sells one of the catalogue, and takes subscribers.
async fn is_sold(tx: &mut PgConnection, source: ChainSource, plan: u32) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM ledger.chain_plans cp
               JOIN ledger.plan_prices pp USING (chain_id, contract, onchain_plan_id, token)
               JOIN ledger.plans p ON p.id = pp.plan_id
                   AND (p.price, p.interval_unit, p.interval_count) = (cp.price, cp.interval_unit, cp.interval_count)
               WHERE cp.chain_id = $1 AND cp.contract = $2 AND cp.onchain_plan_id = $3 AND cp.retired_block IS NULL
           ) AS "sold!""#,
        convert::to_i64(source.chain_id)?,
        source.contract.as_slice(),
        i64::from(plan),
    )
    .fetch_one(tx)
    .await?)
}

/// The limit that another intent would be over.
async fn over_limit(
    tx: &mut PgConnection,
    chain_id: i64,
    account: AccountId,
    payer: Address,
    limits: &RelayLimits,
) -> Result<Option<Submitted>, StoreError> {
    // The one whose leaving the window makes room.
    let in_the_way = sqlx::query_scalar!(
        r#"SELECT ceil(extract(epoch FROM created_at + interval '24 hours' - now()))::bigint AS "seconds!"
           FROM ledger.relay_intents
           -- What somebody else has signed in a payer's name is not the payer's doing.
           WHERE (account_id = $1 OR payer = $2 AND reason IS DISTINCT FROM 'invalid_signature')
             AND created_at > now() - interval '24 hours'
           ORDER BY created_at DESC OFFSET $3 LIMIT 1"#,
        account.as_uuid(),
        payer.as_slice(),
        i64::from(limits.per_account_per_day.saturating_sub(1)),
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(seconds) = in_the_way {
        return Ok(Some(Submitted::AccountLimit { seconds: convert::unsigned(seconds)? }));
    }
    let spent = gas_spent(&mut *tx, chain_id).await?;
    if spent.gas >= limits.gas_budget_per_day {
        return Ok(Some(Submitted::BudgetSpent { seconds: spent.seconds }));
    }
    Ok(None)
}

/// What relaying on a chain took within 24 hours.
pub(crate) struct GasSpent {
    /// What was used, and of what is not in a block yet, what it may use.
    pub(crate) gas: u64,
    /// In how many seconds the oldest of it is not counted any more.
    seconds: u64,
}

pub(crate) async fn gas_spent(connection: &mut PgConnection, chain_id: i64) -> Result<GasSpent, StoreError> {
    let row = sqlx::query!(
        r#"SELECT coalesce(sum(coalesce(gas_used, gas_limit)), 0)::bigint AS "gas!",
                  coalesce(ceil(extract(epoch FROM min(sent_at) + interval '24 hours' - now())), 0)::bigint AS "seconds!"
           FROM ledger.relay_intents WHERE chain_id = $1 AND sent_at > now() - interval '24 hours'"#,
        chain_id,
    )
    .fetch_one(connection)
    .await?;
    Ok(GasSpent { gas: convert::unsigned(row.gas)?, seconds: convert::unsigned(row.seconds)? })
}

async fn read(connection: &mut PgConnection, id: RelayIntentId) -> Result<Option<RelayIntent>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT account_id, chain_id, contract, payer, intent, reason, tx_hash, block_number, block_hash, gas_used,
                  gas_price, expires_at, created_at, updated_at,
                  -- Also where no keeper is there to note it.
                  CASE WHEN status = 'queued' AND expires_at <= now() THEN 'expired' ELSE status END AS "status!"
           FROM ledger.relay_intents WHERE id = $1"#,
        id.as_uuid(),
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mined = match (row.block_number, row.block_hash, row.gas_used, row.gas_price) {
        (Some(number), Some(hash), Some(gas_used), Some(gas_price)) => Some(RelayMined {
            block: convert::block_ref(number, &hash)?,
            gas_used: convert::unsigned(gas_used)?,
            gas_price: convert::unsigned(gas_price)?,
        }),
        _ => None,
    };
    Ok(Some(RelayIntent {
        id,
        account: AccountId::from_uuid(row.account_id),
        source: convert::chain_source(row.chain_id, &row.contract)?,
        payer: convert::address(&row.payer)?,
        intent: intent(row.intent)?,
        status: row
            .status
            .parse()
            .map_err(|_| StoreError::Inconsistent("a relayed intent's status is unknown"))?,
        refusal: row
            .reason
            .map(|reason| reason.parse())
            .transpose()
            .map_err(|_| StoreError::Inconsistent("a relayed intent's reason is unknown"))?,
        tx_hash: row.tx_hash.as_deref().map(convert::hash).transpose()?,
        mined,
        expires_at: row.expires_at,
        created_at: row.created_at,
        updated_at: row.updated_at,
    }))
}

pub(crate) fn intent(json: serde_json::Value) -> Result<Intent, StoreError> {
    serde_json::from_value(json).map_err(|_| StoreError::Inconsistent("a relayed intent is none"))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use dues_domain::relay::CancelIntent;

    use super::*;

    #[test]
    fn an_intent_waits_until_its_deadline_and_not_for_ever() {
        let limits = RelayLimits {
            per_account_per_day: 1,
            gas_budget_per_day: 1,
            max_gas_per_intent: 1,
            longest_wait: TimeDelta::minutes(60),
        };
        let now = DateTime::from_timestamp(1_000, 500_000_000).unwrap();
        let waits = |deadline| {
            let intent = CancelIntent { id: 1, at_once: false, nonce: U256::ZERO, deadline };
            wait(&Intent::Cancel(intent), now, &limits)
        };
        assert_eq!(waits(U256::from(1_000)), 1);
        assert_eq!(waits(U256::from(1_059)), 60);
        assert_eq!(waits(U256::from(999)), 0);
        assert_eq!(waits(U256::MAX), 3_600);
    }
}
