//! Intents that the keeper sends for their payers.

use alloy_primitives::{Address, Bytes};
use dues_domain::{
    ids::RelayIntentId,
    relay::{Consent, Intent, Permit, RelayRefusal},
};

use super::KeeperLead;
use crate::{
    StoreError, convert,
    relay::{gas_spent, intent},
};

/// An intent that waits to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedIntent {
    /// Its id.
    pub id: RelayIntentId,
    /// Who signed it.
    pub payer: Address,
    /// What the payer wants.
    pub intent: Intent,
    /// The payer's signature.
    pub consent: Consent,
    /// An allowance to go before it.
    pub permit: Option<Permit>,
}

impl KeeperLead {
    /// Ends what nobody has sent in time; gives how many that were.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn expire_intents(&mut self) -> Result<u64, StoreError> {
        let expired = sqlx::query!(
            "UPDATE ledger.relay_intents SET status = 'expired', signature = NULL, permit = NULL, updated_at = now()
             WHERE chain_id = $1 AND contract = $2 AND status = 'queued' AND expires_at <= now()",
            self.chain_id,
            self.contract,
        )
        .execute(&mut self.connection)
        .await?;
        Ok(expired.rows_affected())
    }

    /// What waits to be sent at the head `head_number`, the oldest first, `limit` at most. One of each payer: the next
    /// one has to be simulated on what the one before has left.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn queued_intents(
        &mut self,
        head_number: u64,
        limit: u32,
    ) -> Result<Vec<QueuedIntent>, StoreError> {
        sqlx::query!(
            r#"SELECT q.id, q.payer, q.intent, q.signature AS "signature!", q.permit FROM (
                   SELECT DISTINCT ON (payer) * FROM ledger.relay_intents
                   WHERE chain_id = $1 AND contract = $2 AND status = 'queued' AND expires_at > now()
                   ORDER BY payer, created_at, id
               ) q
               WHERE NOT EXISTS (
                   SELECT FROM ledger.relay_intents o
                   WHERE o.chain_id = $1 AND o.contract = $2 AND o.payer = q.payer
                     AND (o.status = 'sending' OR o.status = 'mined' AND o.block_number > $3))
               ORDER BY q.created_at, q.id LIMIT $4"#,
            self.chain_id,
            self.contract,
            convert::to_i64(head_number)?,
            i64::from(limit),
        )
        .fetch_all(&mut self.connection)
        .await?
        .into_iter()
        .map(|row| {
            let permit = row.permit.map(serde_json::from_value).transpose();
            Ok(QueuedIntent {
                id: RelayIntentId::from_uuid(row.id),
                payer: convert::address(&row.payer)?,
                intent: intent(row.intent)?,
                consent: Consent(Bytes::from(row.signature)),
                permit: permit.map_err(|_| StoreError::Inconsistent("a relayed intent's permit is none"))?,
            })
        })
        .collect()
    }

    /// How many intents wait to be sent.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn count_queued_intents(&mut self) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM ledger.relay_intents
               WHERE chain_id = $1 AND contract = $2 AND status = 'queued'"#,
            self.chain_id,
            self.contract,
        )
        .fetch_one(&mut self.connection)
        .await?;
        convert::unsigned(count)
    }

    /// Gas that relaying has taken on this chain within 24 hours, and that what is under way may take.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn relay_gas_spent(&mut self) -> Result<u64, StoreError> {
        Ok(gas_spent(&mut self.connection, self.chain_id).await?.gas)
    }

    /// Notes that an intent is not sent, and why. Its signature is forgotten.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn refuse_intent(
        &mut self,
        id: RelayIntentId,
        refusal: RelayRefusal,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE ledger.relay_intents
             SET status = 'refused', reason = $2, signature = NULL, permit = NULL, updated_at = now()
             WHERE id = $1 AND status = 'queued'",
            id.as_uuid(),
            refusal.as_str(),
        )
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }
}
