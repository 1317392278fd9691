//! Why an indexer stops, or has to try again.

use dues_chain::source::SourceError;
use dues_domain::fold::FoldError;
use dues_store::StoreError;

/// Why the indexer stopped, or could not take a step.
#[derive(Debug, thiserror::Error)]
pub enum IndexerError {
    /// The chain could not be read.
    #[error("the chain could not be read")]
    Source(#[from] SourceError),
    /// A step did not end.
    #[error("a step took longer than a minute: the node or the database does not answer")]
    Stuck,
    /// The ledger could not be written.
    #[error("the ledger could not be written")]
    Store(#[from] StoreError),
    /// A log is no event of the contract.
    #[error("a log in block {block} is no event of the contract")]
    Decode {
        /// Height of the block.
        block: u64,
        /// Why.
        #[source]
        source: dues_chain::contract::DecodeError,
    },
    /// The events are no history that the contract can have.
    #[error("the events contradict the contract")]
    Fold(#[from] FoldError),
    /// The chain was reorganised below what it had promised to be final.
    #[error(
        "the chain was reorganised below block {final_number}, which had been final; nothing was changed, and nothing is \
         indexed. Check that the node is right: with one that is, indexing goes on by itself. If the chain did change, run \
         `{repair}`: indexing goes on by itself after it"
    )]
    ReorganisedBelowFinality {
        /// The block that had been final.
        final_number: u64,
        /// The command that repairs the ledger.
        repair: String,
    },
}

impl IndexerError {
    /// Whether trying again may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Source(
                SourceError::WrongChain { .. } | SourceError::Client(_) | SourceError::NoToken(_),
            ) => false,
            Self::Source(_) | Self::Stuck => true,
            // A moved checkpoint or a lost race for a wallet is read again; so is a lost connection.
            Self::Store(
                StoreError::OtherScope
                | StoreError::Inconsistent(_)
                | StoreError::SchemaOutOfDate
                | StoreError::Url,
            ) => false,
            Self::Store(_) => true,
            Self::Decode { .. } | Self::Fold(_) | Self::ReorganisedBelowFinality { .. } => false,
        }
    }

    /// Whether it is what a node said that cannot be: another node may say something else.
    pub(crate) fn is_of_the_answers(&self) -> bool {
        matches!(self, Self::Decode { .. } | Self::Fold(_) | Self::ReorganisedBelowFinality { .. })
    }
}

/// An error and its causes in one line: for logs, at the edge.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}
