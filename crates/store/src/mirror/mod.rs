//! The indexer's side of the ledger: one leader per contract, one transaction per step.
//!
//! A [`Mirror`] owns one connection, and on it the contract's advisory lock. Each step of the indexer is one
//! [`Step`]: blocks, raw events, their projection and the checkpoint land together or not at all, and the
//! checkpoint moves only from where this writer saw it (compare and swap), so that even a second writer that
//! got past the lock could not write anything twice.

mod accounts;
mod audit;
mod events;
mod movements;
mod repair;
mod rows;
mod step;
mod subscriptions;
mod unwind;

use alloy_primitives::{Address, B256};
use dues_domain::chain::{BlockRef, ChainSource, EventPosition};
use sqlx::{Connection, PgConnection};

pub use audit::{AuditedMovement, AuditedPlan, AuditedSubscription, Scope, Snapshot};
pub use events::NewEvent;
pub use movements::{NewMovement, Purpose};
pub use repair::{Beginning, NOT_ON_CHAIN, Rebuild, Rebuilt, Repairer, TableChanges};
pub use step::Step;
pub use subscriptions::{Begun, MirroredSubscription, Origin};
pub(crate) use unwind::EventRow;
pub use unwind::{TouchedPlan, TouchedSubscription, Unwound};

use crate::{Store, StoreError, convert};

/// How far the mirror has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last block that is in the ledger.
    pub block: BlockRef,
    /// The highest block that cannot change any more.
    pub final_number: u64,
}

/// A raw event, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Where it stands.
    pub at: EventPosition,
    /// Indexed parameters, the event's signature first.
    pub topics: Vec<B256>,
    /// The other parameters, ABI-encoded.
    pub data: Vec<u8>,
}

/// What of a contract is mirrored. It cannot change later: what was left out before would stay out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorScope {
    /// Whose plans are ours.
    pub merchant: Address,
    /// The first block that is read.
    pub start_block: u64,
}

/// The leader's handle on one contract's part of the ledger.
#[derive(Debug)]
pub struct Mirror {
    connection: PgConnection,
    source: Source,
    scope: MirrorScope,
}

/// A [`ChainSource`] as the database spells it.
#[derive(Debug, Clone)]
struct Source {
    chain_id: i64,
    contract: Vec<u8>,
}

impl Store {
    /// Takes the lead for `source`, or gives `None` where another process has it.
    ///
    /// # Errors
    /// [`StoreError::Database`]; [`StoreError::OtherScope`] where the ledger was begun for another merchant or from
    /// a later block.
    pub async fn lead(&self, source: ChainSource, scope: MirrorScope) -> Result<Option<Mirror>, StoreError> {
        let name = format!("dues:indexer:{}:{}", source.chain_id, source.contract);
        let Some(mut connection) = self.exclusive(&[&name], &[]).await? else { return Ok(None) };
        let source =
            Source { chain_id: convert::to_i64(source.chain_id)?, contract: source.contract.to_vec() };
        let begun = sqlx::query!(
            "SELECT merchant, start_block FROM ledger.chain_checkpoints WHERE chain_id = $1 AND contract = $2",
            source.chain_id,
            source.contract,
        )
        .fetch_optional(&mut connection)
        .await?;
        if let Some(begun) = begun {
            let start_block: u64 = convert::unsigned(begun.start_block)?;
            if convert::address(&begun.merchant)? != scope.merchant || scope.start_block < start_block {
                return Err(StoreError::OtherScope);
            }
        }
        Ok(Some(Mirror { connection, source, scope }))
    }

    /// How far the mirror of `source` has come; `None` before its first step.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn checkpoint(&self, source: ChainSource) -> Result<Option<Checkpoint>, StoreError> {
        let source =
            Source { chain_id: convert::to_i64(source.chain_id)?, contract: source.contract.to_vec() };
        let mut connection = self.pool.acquire().await?;
        checkpoint(&mut connection, &source).await
    }
}

impl Mirror {
    /// How far the mirror has come; `None` before its first step.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn checkpoint(&mut self) -> Result<Option<Checkpoint>, StoreError> {
        checkpoint(&mut self.connection, &self.source).await
    }

    /// The blocks that are remembered, from the checkpoint down to finality.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Inconsistent`].
    pub async fn recent_blocks(&mut self) -> Result<Vec<BlockRef>, StoreError> {
        sqlx::query!(
            "SELECT number, hash FROM ledger.chain_blocks WHERE chain_id = $1 AND contract = $2 ORDER BY number DESC",
            self.source.chain_id,
            self.source.contract,
        )
        .fetch_all(&mut self.connection)
        .await?
        .into_iter()
        .map(|row| convert::block_ref(row.number, &row.hash))
        .collect()
    }

    /// Begins a step. What it does is undone unless it is committed.
    ///
    /// It waits for a rebuild of the ledger that is under way, and lets none begin before its own end.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn begin(&mut self) -> Result<Step<'_>, StoreError> {
        let mut tx = self.connection.begin().await?;
        lock_checkpoint(&mut tx, &self.source).await?;
        Ok(Step { tx, source: self.source.clone(), scope: self.scope })
    }

    /// Gives the lead back.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn release(self) -> Result<(), StoreError> {
        Ok(self.connection.close().await?)
    }
}

/// Whoever writes to the mirror holds its checkpoint's row from its beginning to its end.
async fn lock_checkpoint(connection: &mut PgConnection, source: &Source) -> Result<(), StoreError> {
    sqlx::query!(
        "SELECT block_number FROM ledger.chain_checkpoints WHERE chain_id = $1 AND contract = $2 FOR UPDATE",
        source.chain_id,
        source.contract,
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

async fn checkpoint(
    connection: &mut PgConnection,
    source: &Source,
) -> Result<Option<Checkpoint>, StoreError> {
    sqlx::query!(
        "SELECT block_number, block_hash, final_number FROM ledger.chain_checkpoints
         WHERE chain_id = $1 AND contract = $2",
        source.chain_id,
        source.contract,
    )
    .fetch_optional(connection)
    .await?
    .map(|row| {
        Ok(Checkpoint {
            block: convert::block_ref(row.block_number, &row.block_hash)?,
            final_number: convert::unsigned(row.final_number)?,
        })
    })
    .transpose()
}
