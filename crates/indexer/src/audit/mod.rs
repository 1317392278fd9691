//! Whether the ledger is what the chain says.
//!
//! One snapshot of the ledger is compared with the chain at the very block that it stands at, while everybody else goes
//! on:
//!
//! * `storage`: plans and subscriptions with the contract's storage; subscriptions and money with the fold of the
//!   stored events;
//! * `events`: the stored events with the contract's logs, from the first block to the last;
//! * `transfers`: money with the tokens' own `Transfer` logs.
//!
//! Storage comes first: many nodes keep it for some minutes only.

mod events;
mod findings;
mod storage;
mod transfers;

use std::time::Duration;

use dues_chain::source::{BlockTag, RpcSource, SourceError};
use dues_domain::chain::BlockRef;
use dues_store::{
    Store, StoreError,
    mirror::{Scope, Snapshot},
};

use crate::IndexerConfig;

pub use findings::{Checked, Difference, What};

use findings::Findings;

/// How often an audit begins again where the chain was reorganised meanwhile.
const ATTEMPTS: u32 = 4;
/// The wait before: the indexer follows the reorganisation.
const WAIT: Duration = Duration::from_secs(2);

/// Why a ledger could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The ledger stands at a block that the chain does not have.
    #[error(
        "the ledger stands at block {number} ({hash}), which the chain does not have any more: if the indexer does not \
         follow by itself, the chain was reorganised below finality, and the ledger has to be repaired"
    )]
    BlockGone {
        /// Its height.
        number: u64,
        /// Its hash.
        hash: alloy_primitives::B256,
    },
    /// The node does not have what the ledger has.
    #[error("the node is behind: it does not have block {0} yet, where the ledger stands")]
    NodeBehind(u64),
    /// The ledger is another merchant's.
    #[error("the ledger is of another merchant than the configuration says")]
    OtherMerchant,
    /// The chain could not be read.
    #[error("the chain could not be read")]
    Source(#[from] SourceError),
    /// The ledger could not be read.
    #[error("the ledger could not be read")]
    Store(#[from] StoreError),
    /// A log of the chain is no event of the contract.
    #[error("a log in block {block} is no event of the contract")]
    Decode {
        /// Height of the block.
        block: u64,
        /// Why.
        #[source]
        source: dues_chain::contract::DecodeError,
    },
}

/// What an audit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// The block that the ledger stood at.
    pub block: BlockRef,
    /// What is not as the chain has it.
    pub differences: Vec<Difference>,
    /// How many more there are.
    pub omitted: u64,
    /// What was compared.
    pub checked: Checked,
}

impl AuditReport {
    /// Whether the ledger is what the chain says.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.differences.is_empty()
    }
}

/// What an audit is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Comparing with the contract's storage.
    Storage,
    /// Reading the contract's logs.
    Events,
    /// Reading the tokens' logs.
    Transfers,
}

/// Told how far an audit is: the stage, what is done of it, and how much there is.
type Progress<'a> = dyn FnMut(Stage, u64, u64) + Send + 'a;

/// One audit's means.
struct Audit<'a> {
    rpc: &'a RpcSource,
    config: &'a IndexerConfig,
    snapshot: Snapshot,
    scope: Scope,
    findings: Findings,
}

/// Compares what `config` has mirrored into `store` with the chain behind `rpc`.
///
/// # Errors
/// [`AuditError`] where it could not be checked.
pub async fn audit(
    store: &Store,
    rpc: &RpcSource,
    config: &IndexerConfig,
    progress: &mut Progress<'_>,
) -> Result<AuditReport, AuditError> {
    rpc.verify_chain().await?;
    let mut attempt = 1;
    loop {
        let tried = audit_once(store, rpc, config, progress).await;
        match tried {
            Err(AuditError::BlockGone { .. } | AuditError::NodeBehind(_) | AuditError::Source(_))
                if attempt < ATTEMPTS =>
            {
                attempt = attempt.saturating_add(1);
                tokio::time::sleep(WAIT).await;
            }
            done => return done,
        }
    }
}

async fn audit_once(
    store: &Store,
    rpc: &RpcSource,
    config: &IndexerConfig,
    progress: &mut Progress<'_>,
) -> Result<AuditReport, AuditError> {
    let mut snapshot = store.snapshot(config.source).await?;
    let scope = snapshot.scope().await?;
    if scope.mirrored.merchant != config.scope.merchant {
        return Err(AuditError::OtherMerchant);
    }
    let mut audit = Audit { rpc, config, snapshot, scope, findings: Findings::default() };
    audit.verify_block().await?;
    audit.storage(progress).await?;
    audit.events(progress).await?;
    audit.transfers(progress).await?;
    // Whatever was read by height or by transaction was read from the chain that has this block.
    audit.verify_block().await?;
    let Findings { differences, omitted, checked } = audit.findings;
    audit.snapshot.close().await?;
    Ok(AuditReport { block: scope.checkpoint.block, differences, omitted, checked })
}

impl Audit<'_> {
    const fn block(&self) -> BlockRef {
        self.scope.checkpoint.block
    }

    async fn verify_block(&self) -> Result<(), AuditError> {
        let BlockRef { number, hash } = self.block();
        match self.rpc.header(BlockTag::Number(number)).await? {
            None => Err(AuditError::NodeBehind(number)),
            Some(there) if there.block.hash != hash => Err(AuditError::BlockGone { number, hash }),
            Some(_) => Ok(()),
        }
    }
}
