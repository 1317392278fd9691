//! What can go wrong with the embedded PostgreSQL.

use std::{io, path::PathBuf, time::Duration};

use crate::{lock::LockError, placement::PlacementError, process::ProcessError};

/// What went wrong with the embedded PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No place that the server's user can reach.
    #[error("no place for PostgreSQL")]
    Placement(#[from] PlacementError),
    /// Another Dues uses this data directory.
    #[error("the PostgreSQL data directory is locked")]
    Lock(#[from] LockError),
    /// A file of the cluster could not be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A cluster is there, but not its password.
    #[error("{} is missing, without which the database beside it cannot be opened", path.display())]
    NoPassword {
        /// The password file.
        path: PathBuf,
    },
    /// The operating system gave no random bytes or no port.
    #[error("the operating system gave no {what}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Its reason.
        #[source]
        source: io::Error,
    },
    /// The server, or the program that makes the cluster, failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The wanted port is in use.
    #[error("port {port} of 127.0.0.1 is in use")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// The server did not accept connections in time.
    #[error("PostgreSQL does not accept connections after {waited:?}; see {}", log.display())]
    NotReady {
        /// How long it was given.
        waited: Duration,
        /// Its log.
        log: PathBuf,
    },
    /// A server left over from before does not end.
    #[error("another PostgreSQL (pid {pid}) runs on {} and does not end", data.display())]
    StillRunning {
        /// One of its processes.
        pid: i32,
        /// The data directory.
        data: PathBuf,
    },
    /// Not a name for a database here.
    #[error("{0:?} is no database name: use a-z, 0-9 and _, at most 63 of them")]
    BadName(String),
    /// A statement failed.
    #[error("the embedded PostgreSQL refused a statement")]
    Sql(#[from] sqlx::Error),
}
