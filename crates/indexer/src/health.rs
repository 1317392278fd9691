//! How an indexer is doing.

use std::time::Duration;

use tokio::time::Instant;

use crate::Pace;

/// What an indexer does at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// It has not looked at the chain yet, or has lost the lead to a failure.
    #[default]
    Starting,
    /// Another process writes; this one takes over when that one ends.
    Standby,
    /// It writes.
    Leading,
}

/// How the indexer is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexerHealth {
    /// What it does.
    pub role: Role,
    /// The last block in the ledger.
    pub checkpoint: Option<u64>,
    /// The node's head when it was last looked at.
    pub head: Option<u64>,
    /// How fast it reads, while there is more to read.
    pub pace: Option<Pace>,
    /// When the head was looked at.
    pub looked_at: Option<Instant>,
    /// What stands in the way at the moment.
    pub problem: Option<String>,
}

impl IndexerHealth {
    pub(crate) fn readiness(&self, stale_after: Duration) -> Result<(), String> {
        match self {
            Self { problem: Some(problem), .. } => Err(problem.clone()),
            // The ledger is the other process's to keep up to date; answers from it are as good as that one's.
            Self { role: Role::Standby, .. } => Ok(()),
            Self { looked_at: Some(at), .. } if at.elapsed() > stale_after => {
                Err(format!("has not seen the chain's head for {} seconds", at.elapsed().as_secs()))
            }
            Self { head: None, .. } => Err("has not looked at the chain yet".into()),
            health if health.is_caught_up() => Ok(()),
            Self { checkpoint, head, .. } => Err(format!(
                "catching up: block {} of {}",
                checkpoint.unwrap_or_default(),
                head.unwrap_or_default()
            )),
        }
    }

    /// Whether the ledger holds everything that the node's head has.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.problem.is_none() && self.head.is_some() && self.checkpoint >= self.head
    }
}
