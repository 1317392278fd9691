//! What the database tells of its own changes, as it commits them (migration 60 has the messages).

use dues_domain::{chain::ChainSource, ids::AccountId};
use sqlx::postgres::{PgListener, PgPoolOptions};
use uuid::Uuid;

use crate::{Store, StoreError};

const CHANNEL: &str = "dues_ledger";

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// What the ledger says of these accounts may be another.
    Accounts(Vec<AccountId>),
    /// What it says of any account may be another. Also where something may have been missed: the connection was lost and
    /// is there again.
    Everything,
    /// A chain is final up to this block.
    Final(ChainSource, u64),
    /// API keys have changed.
    Keys,
    /// A [beat](Store::beat): everything that was committed before it has been told.
    Beat(Uuid),
}

impl Change {
    /// What a message says. One that is not understood may have meant anything.
    fn read(message: &str) -> Self {
        Self::parse(message).unwrap_or(Self::Everything)
    }

    fn parse(message: &str) -> Option<Self> {
        let (word, rest) = message.split_once(' ').unwrap_or((message, ""));
        match word {
            "accounts" => rest
                .split(',')
                .map(|id| id.parse().ok().map(AccountId::from_uuid))
                .collect::<Option<_>>()
                .map(Self::Accounts),
            "final" => {
                let mut words = rest.split(' ');
                let chain_id = words.next()?.parse().ok()?;
                let contract = words.next()?.parse().ok()?;
                Some(Self::Final(ChainSource { chain_id, contract }, words.next()?.parse().ok()?))
            }
            "keys" => Some(Self::Keys),
            "beat" => rest.parse().ok().map(Self::Beat),
            _ => None,
        }
    }
}

/// The changes from now on, on a connection of their own.
#[derive(Debug)]
pub struct Changes {
    listener: PgListener,
}

impl Changes {
    /// The next change, in the order of commits. Safe to drop while it waits.
    ///
    /// # Errors
    /// [`StoreError::Database`] where the server does not answer: the next call tries again.
    pub async fn next(&mut self) -> Result<Change, StoreError> {
        Ok(match self.listener.try_recv().await? {
            Some(notification) => Change::read(notification.payload()),
            // It was lost, and is there again by now.
            None => Change::Everything,
        })
    }
}

impl Store {
    /// Listens for changes.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn changes(&self) -> Result<Changes, StoreError> {
        let options = self.pool.connect_options().as_ref().clone();
        let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(Changes { listener })
    }

    /// Has every listener told `beat`, after everything that was committed before.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn beat(&self, beat: Uuid) -> Result<(), StoreError> {
        sqlx::query!("SELECT pg_notify($1, $2)", CHANNEL, format!("beat {beat}")).execute(&self.pool).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;

    use super::*;

    #[test]
    fn messages_are_read_and_what_is_not_understood_may_mean_anything() {
        let id = AccountId::generate();
        let source = ChainSource { chain_id: 8453, contract: Address::repeat_byte(0xab) };
        let beat = Uuid::from_u128(7);
        for (message, change) in [
            (format!("accounts {id},{id}"), Change::Accounts(vec![id, id])),
            (format!("final 8453 {} 17", "ab".repeat(20)), Change::Final(source, 17)),
            ("keys".into(), Change::Keys),
            (format!("beat {beat}"), Change::Beat(beat)),
            ("everything".into(), Change::Everything),
            ("accounts ".into(), Change::Everything),
            (format!("accounts {id},nobody"), Change::Everything),
            ("final 8453".into(), Change::Everything),
            ("plans 1".into(), Change::Everything),
            (String::new(), Change::Everything),
        ] {
            assert_eq!(Change::read(&message), change, "{message}");
        }
    }
}
