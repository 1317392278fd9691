//! The example program: its environment, exit codes and signals, and what a `kill -9` of it leaves.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{eventually, is_gone, open_dir};

/// Cargo builds the examples along with the tests, two folders up from them.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/with-postgres")
}

fn command(dir: &Path, script: &str) -> Command {
    let mut command = Command::new(program());
    command.args(["--", "sh", "-c", script]).env("TMPDIR", dir);
    command
}

/// A running example.
struct Running {
    dir: TempDir,
    owner: Child,
    command: Pid,
    server: Pid,
}

async fn running() -> Running {
    let dir = open_dir();
    let script = "trap 'exit 7' INT TERM; echo $$ > \"$TMPDIR/pid\"; while :; do sleep 0.05; done";
    let owner = command(dir.path(), script).spawn().unwrap();
    let pid_file = dir.path().join("pid");
    let written = || async { fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n')) };
    eventually("the command runs", written).await;
    let command = Pid::from_raw(fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap());
    let scratch =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir());
    let text = fs::read_to_string(scratch.unwrap().join("data/postmaster.pid")).unwrap();
    let server = Pid::from_raw(text.lines().next().unwrap().parse().unwrap());
    Running { dir, owner, command, server }
}

#[test]
fn the_command_gets_a_database_and_its_exit_code_is_passed_on() {
    let dir = open_dir();
    let script =
        "test -n \"$DATABASE_URL\" && test \"$DATABASE_URL\" = \"$DUES_TEST_DATABASE_URL\" && exit 42";
    assert_eq!(command(dir.path(), script).status().unwrap().code(), Some(42));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_missing_command_is_an_error() {
    let output = Command::new(program()).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage: with-postgres"));
}

#[tokio::test]
async fn signals_reach_the_command_and_everything_ends() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let Running { dir, mut owner, server, .. } = running().await;
        kill(Pid::from_raw(owner.id().try_into().unwrap()), signal).unwrap();
        let status = tokio::task::spawn_blocking(move || owner.wait().unwrap()).await.unwrap();
        assert_eq!(status.code(), Some(7));
        assert!(is_gone(server));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the mark of the command is left");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn killing_the_owner_leaves_nothing_running() {
    let Running { dir: _dir, mut owner, command, server } = running().await;
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually("server and command end", || async { is_gone(server) && is_gone(command) }).await;
}
