//! Raw events.

use alloy_primitives::B256;
use dues_domain::chain::{EventPosition, OnchainSubscriptionId};

use super::{
    Step,
    rows::{Rows, Target},
};
use crate::{StoreError, convert};

static ROWS: Target<10> = Target {
    table: "ledger.chain_events",
    columns: [
        "chain_id",
        "contract",
        "block_number",
        "log_index",
        "block_hash",
        "block_time",
        "tx_hash",
        "onchain_id",
        "topics",
        "data",
    ],
};

/// A raw event to be kept.
#[derive(Debug, Clone, Copy)]
pub struct NewEvent<'a> {
    /// Where it stands.
    pub at: EventPosition,
    /// Indexed parameters, the event's signature first.
    pub topics: &'a [B256],
    /// The other parameters, ABI-encoded.
    pub data: &'a [u8],
    /// In whose history it is, where it is in one.
    pub subscription: Option<OnchainSubscriptionId>,
}

impl Step<'_> {
    /// Keeps raw events.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn record_events(&mut self, events: &[NewEvent<'_>]) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let source = &self.source;
        let mut rows = Rows::new(&mut self.tx, &ROWS);
        for event in events {
            let at = &event.at;
            rows = rows
                .add(|row| {
                    row.i64(source.chain_id)?;
                    row.bytes(&source.contract)?;
                    row.i64(convert::to_i64(at.block.number)?)?;
                    row.i64(convert::to_i64(at.log_index)?)?;
                    row.bytes(at.block.hash.as_slice())?;
                    row.instant(at.timestamp)?;
                    row.bytes(at.tx_hash.as_slice())?;
                    row.optional(event.subscription, |row, id| row.i64(convert::to_i64(id)?))?;
                    row.hashes(event.topics)?;
                    row.bytes(event.data)
                })
                .await?;
        }
        rows.finish().await
    }
}
