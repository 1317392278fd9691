//! What only a test does to a chain.

use serde_json::json;

use crate::{Chain, SignedTx};

impl Chain {
    /// Replaces every block from `from` to the head by as many others. `txs` are mined again, each in the block of
    /// that place among the new ones, the first being 0. Whatever else was in the old blocks is forgotten.
    pub async fn reorg_from(&self, from: u64, txs: &[(&SignedTx, u64)]) {
        let depth = self.head().await.header.number + 1 - from;
        let txs: Vec<_> = txs.iter().map(|(tx, place)| json!([tx.raw, place])).collect();
        self.rpc("anvil_reorg", json!([depth, txs])).await;
    }

    /// Takes every block from `from` to the head away. The chain is shorter then, until something is mined.
    pub async fn rollback_from(&self, from: u64) {
        let depth = self.head().await.header.number + 1 - from;
        self.rpc("anvil_rollback", json!([depth])).await;
    }
}
