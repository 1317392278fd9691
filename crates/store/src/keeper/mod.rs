//! The keeper's side of the ledger: what is due, what was tried, what was sent.
//!
//! Nothing here is money. What was paid is what the contract's events say, and the indexer alone writes it; the keeper
//! keeps its own notes, and a charge that they do not know of is as good as one that they do.
//!
//! A [`KeeperLead`] owns one connection with two advisory locks on it: one keeper per contract, and one per signer, whose
//! nonces are a single sequence. Everything is written over that connection, so that a keeper that has lost the lead
//! without noticing can record nothing, and what is not recorded is not sent.

mod due;
mod relay;
mod transactions;

use alloy_primitives::Address;
use dues_domain::chain::ChainSource;
use sqlx::{Connection, PgConnection};

pub(crate) use due::failure;
pub use due::{After, Charge, DueQuery, Refused, RunwaySubject};
pub use relay::QueuedIntent;
pub use transactions::{KeeperTransaction, MinedAt, NewKeeperTransaction};

use crate::{Store, StoreError, convert};

/// The one keeper of a contract, as long as its connection lasts.
#[derive(Debug)]
pub struct KeeperLead {
    connection: PgConnection,
    chain_id: i64,
    contract: Vec<u8>,
    signer: Vec<u8>,
}

impl Store {
    /// Takes the lead in charging for `source` with `signer`, or gives `None` where another process charges for this
    /// contract, or with this signer on this chain.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn lead_keeper(
        &self,
        source: ChainSource,
        signer: Address,
    ) -> Result<Option<KeeperLead>, StoreError> {
        let of_contract = format!("dues:keeper:{}:{}", source.chain_id, source.contract);
        let of_signer = format!("dues:keeper-signer:{}:{signer}", source.chain_id);
        let Some(connection) = self.exclusive(&[&of_contract, &of_signer], &[]).await? else {
            return Ok(None);
        };
        Ok(Some(KeeperLead {
            connection,
            chain_id: convert::to_i64(source.chain_id)?,
            contract: source.contract.to_vec(),
            signer: signer.to_vec(),
        }))
    }
}

impl KeeperLead {
    /// Gives the lead back.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn release(self) -> Result<(), StoreError> {
        Ok(self.connection.close().await?)
    }
}
