//! What a killed predecessor has left: processes that are still dying, and a `postmaster.pid`.
//!
//! The caller holds the lock on the cluster, so every PostgreSQL process of it is an orphan. They are told by their
//! command lines, which everybody may read: the server's has the data directory, and its children carry the cluster
//! name, which is derived from it.

use std::{path::Path, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{sleep, timeout};

use super::{POLL, PostgresError};
use crate::{
    files::{path_key, remove_if_there},
    placement::Placement,
};

/// How long orphans get to end by themselves, after SIGQUIT, and after SIGKILL.
const PATIENCE: [(Option<Signal>, Duration); 3] = [
    (None, Duration::from_secs(3)),
    (Some(Signal::SIGQUIT), Duration::from_secs(6)),
    (Some(Signal::SIGKILL), Duration::from_secs(6)),
];

/// In the titles of all processes of the cluster.
pub(super) fn cluster_name(data: &Path) -> String {
    format!("dues-{}", path_key(data))
}

/// Waits for orphans to end, ends them if they do not, and removes the `postmaster.pid` that stands for nobody.
/// PostgreSQL itself would refuse to start if its process id meanwhile belongs to some other program.
pub(super) async fn clear(place: &Placement) -> Result<(), PostgresError> {
    let data = place.data();
    let pid_file = data.join("postmaster.pid");
    if !pid_file.exists() {
        return Ok(());
    }
    for (signal, grace) in PATIENCE {
        if let Some(signal) = signal {
            for pid in running(&data) {
                tracing::warn!(%pid, ?signal, "ending a PostgreSQL that an earlier run has left");
                let _ = kill(pid, signal);
            }
        }
        let ended = async {
            while !running(&data).is_empty() {
                sleep(POLL).await;
            }
        };
        if timeout(grace, ended).await.is_ok() {
            let io = |source| PostgresError::Io { path: pid_file.clone(), source };
            return remove_if_there(&pid_file).map_err(io);
        }
    }
    let pid = running(&data).first().map_or(0, |pid| pid.as_raw());
    Err(PostgresError::StillRunning { pid, data })
}

/// The live processes of the cluster in `data`.
fn running(data: &Path) -> Vec<Pid> {
    let own = std::process::id();
    commands()
        .into_iter()
        .filter(|(_, command)| belongs_to(data, command))
        .filter_map(|(pid, _)| (u32::try_from(pid) != Ok(own)).then_some(Pid::from_raw(pid)))
        .collect()
}

fn belongs_to(data: &Path, command: &str) -> bool {
    let server = || command.contains(&format!("postgres -D {} ", data.display()));
    let child = || command.starts_with(&format!("postgres: {}: ", cluster_name(data)));
    server() || child()
}

/// Process ids with their command lines, arguments parted by spaces. A zombie has an empty one.
#[cfg(target_os = "linux")]
fn commands() -> Vec<(i32, String)> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let read = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let bytes = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&bytes).replace('\0', " ")))
    };
    processes.filter_map(read).collect()
}

/// Process ids with their command lines.
#[cfg(not(target_os = "linux"))]
fn commands() -> Vec<(i32, String)> {
    let output = std::process::Command::new("ps").args(["-axww", "-o", "pid=,command="]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let read = |line: &str| {
        let (pid, command) = line.trim().split_once(' ')?;
        Some((pid.parse().ok()?, format!("{} ", command.trim())))
    };
    text.lines().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_told_by_their_command_line() {
        let data = Path::new("/var/lib/x/data");
        let name = cluster_name(data);
        assert!(belongs_to(data, "/opt/bin/postgres -D /var/lib/x/data -c port=1 "));
        assert!(belongs_to(data, &format!("postgres: {name}: checkpointer ")));
        assert!(!belongs_to(data, "/opt/bin/postgres -D /var/lib/x/data2 -c port=1 "));
        assert!(!belongs_to(data, "postgres: checkpointer "));
        assert!(!belongs_to(data, "vim /var/lib/x/data/postmaster.pid "));
    }

    #[test]
    fn this_process_is_seen_and_not_an_orphan() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(commands().iter().any(|(pid, _)| *pid == own));
        assert!(running(Path::new("/var/lib/x/data")).is_empty());
    }
}
