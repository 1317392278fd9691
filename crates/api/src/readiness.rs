//! Whether the service should be sent traffic.

use std::fmt;

/// A part whose state decides `/readyz`.
pub struct Probe {
    /// The part's name.
    pub name: String,
    /// Its state at the moment: `Err` says why it is not ready, in words for an operator.
    pub check: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("name", &self.name).finish_non_exhaustive()
    }
}
