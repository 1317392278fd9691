//! Where the chain that was read and the chain that is there part.

use dues_chain::source::{RpcSource, SourceError};
use dues_domain::chain::{BlockHeader, BlockRef};
use dues_store::mirror::{Checkpoint, Mirror};

use crate::IndexerError;

/// The last block that `from` and the node's chain share: the checkpoint itself where nothing was reorganised.
/// `None` where the node is merely behind: a lower head is no reorganisation, only another hash is.
pub(crate) async fn find(
    rpc: &RpcSource,
    mirror: &mut Mirror,
    from: Checkpoint,
    head: &BlockHeader,
    repair: &str,
) -> Result<Option<BlockRef>, IndexerError> {
    if head.parent_hash == from.block.hash || head.block == from.block {
        return Ok(Some(from.block));
    }
    if head.block.number >= from.block.number && canonical(rpc, from.block).await? {
        return Ok(Some(from.block));
    }
    let recent = mirror.recent_blocks().await?;
    if head.block.number < from.block.number {
        let known = recent.iter().find(|block| block.number == head.block.number);
        if known.is_none_or(|known| known.hash == head.block.hash) {
            return Ok(None);
        }
    }
    for block in recent.into_iter().filter(|block| block.number <= head.block.number) {
        if canonical(rpc, block).await? {
            return Ok(Some(block));
        }
    }
    Err(IndexerError::ReorganisedBelowFinality { final_number: from.final_number, repair: repair.to_owned() })
}

async fn canonical(rpc: &RpcSource, block: BlockRef) -> Result<bool, SourceError> {
    let there = rpc.header(block.number.into()).await?;
    // A node that has a higher head but not this block answers from somewhere else: no verdict.
    there
        .map(|header| header.block.hash == block.hash)
        .ok_or(SourceError::Inconsistent("a block below the head is missing"))
}
