//! The real programs, started, killed and started again.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed helper fails its test")]

mod anvil;
mod postgres;
mod with_postgres;

use std::{fs::Permissions, future::Future, os::unix::fs::PermissionsExt as _, time::Duration};

use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use tempfile::TempDir;

/// A directory that the user `nobody` can enter, too.
fn open_dir() -> TempDir {
    let permissions = Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("dues-embedded-").permissions(permissions).tempdir().unwrap()
}

/// Waits for a condition, for at most a minute.
async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let met = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), met).await.is_ok(), "never happened: {what}");
}

fn pid(id: Option<u32>) -> Pid {
    Pid::from_raw(id.unwrap().try_into().unwrap())
}

fn is_gone(pid: Pid) -> bool {
    kill(pid, None) == Err(Errno::ESRCH)
}
