//! Whether the service should be sent traffic.

use std::fmt;

use tokio::sync::watch;

/// A part whose state decides `/readyz`: `Err` says why it is not ready, in words for an operator.
pub struct Probe {
    /// The part's name.
    pub name: &'static str,
    /// Its latest state.
    pub state: watch::Receiver<Result<(), String>>,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("name", &self.name).finish_non_exhaustive()
    }
}
