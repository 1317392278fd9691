//! What can go wrong with a child process.

use std::{io, path::PathBuf, process::ExitStatus};

/// What went wrong with a child process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("cannot start {name} ({})", program.display())]
    Spawn {
        /// Which child.
        name: &'static str,
        /// The program.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It ended by itself.
    #[error("{name} has ended by itself ({status}); the end of {}:\n{tail}", log.display())]
    Exited {
        /// Which child.
        name: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Its log file.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// It could not be waited for.
    #[error("cannot wait for {name}")]
    Wait {
        /// Which child.
        name: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It is there even after SIGKILL.
    #[error("{name} does not end, not even by SIGKILL")]
    Immortal {
        /// Which child.
        name: &'static str,
    },
}
