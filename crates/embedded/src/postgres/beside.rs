//! A server that another process runs: its port is in `postmaster.pid`, its password beside the data.

use std::{fs, io, path::Path};

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::Connection as _;

use super::{PostgresError, PostgresOptions, connect, place, url};
use crate::lock::{DirLock, LockError};

/// A running server that belongs to another process. It is left running.
#[derive(Debug)]
pub struct RunningPostgres {
    port: u16,
    password: SecretString,
}

impl RunningPostgres {
    /// The server of another process on the data directory of `options`; `None` where no process has it.
    ///
    /// # Errors
    /// [`PostgresError::Lock`] where a process has it, but no server of it answers (yet, or any more).
    pub async fn find(options: &PostgresOptions) -> Result<Option<Self>, PostgresError> {
        let place = place(options).await?;
        let held = match DirLock::acquire(&place.base) {
            Ok(_) => return Ok(None),
            Err(held @ LockError::Held { .. }) => held,
            Err(error) => return Err(error.into()),
        };
        let read = |path: &Path| match fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PostgresError::Io { path: path.to_owned(), source }),
        };
        let port = read(&place.data().join("postmaster.pid"))?.and_then(|text| port(&text));
        let password = read(&place.base.join("password"))?;
        let Some((port, password)) = port.zip(password) else { return Err(held.into()) };
        let password = SecretString::from(password);
        // Only the server that this password is of answers to it.
        match connect(port, &password).await {
            Ok(connection) => connection.close().await?,
            Err(_) => return Err(held.into()),
        }
        Ok(Some(Self { port, password }))
    }

    /// The connection URL of a database of this server.
    pub fn url(&self, database: &str) -> SecretString {
        url(self.password.expose_secret(), self.port, database)
    }
}

/// The fourth line.
fn port(postmaster_pid: &str) -> Option<u16> {
    postmaster_pid.lines().nth(3)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_the_fourth_line() {
        let file = "4711\n/var/lib/dues/data\n1790000000\n54321\n\n127.0.0.1\n  1234  5\nready   \n";
        assert_eq!(port(file), Some(54_321));
        // A server that has only begun to start.
        assert_eq!(port("4711\n/var/lib/dues/data\n"), None);
    }
}
