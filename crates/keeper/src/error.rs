//! Why the keeper stops, or has to try again.

use dues_chain::source::SourceError;
use dues_store::StoreError;

use crate::signer::SignerError;

/// Why the keeper stopped, or could not do a round.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The chain could not be asked.
    #[error("the chain could not be asked")]
    Source(#[from] SourceError),
    /// The ledger could not be read or written.
    #[error("the ledger could not be read or written")]
    Store(#[from] StoreError),
    /// Nothing could be signed.
    #[error("nothing could be signed")]
    Signer(#[from] SignerError),
    /// A round did not end.
    #[error("a round took longer than two minutes: the node or the database does not answer")]
    Stuck,
    /// Another process charges for this contract, or with this signer.
    #[error("another keeper is at work for this contract, or with this signer")]
    NotLeading,
}

impl KeeperError {
    /// Whether trying again may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Source(
                SourceError::WrongChain { .. } | SourceError::Client(_) | SourceError::NoToken(_),
            ) => false,
            Self::Store(StoreError::Inconsistent(_) | StoreError::SchemaOutOfDate | StoreError::Url) => false,
            Self::Source(_) | Self::Store(_) | Self::Stuck | Self::NotLeading => true,
            Self::Signer(_) => false,
        }
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
