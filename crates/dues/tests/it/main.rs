//! The binary as a process: started, asked, stopped and killed.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what was not expected fails the test"
)]

mod audit;
mod commands;
mod crash;
mod devnet_process;
mod fast_time;
mod keeper;
mod keys;
mod merchant;
mod plans;
mod reindex;
mod repair;
mod run_process;
mod usage;

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use dues_tests::{Api, SOON, eventually};
use nix::{sys::signal, unistd::Pid};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

pub(crate) use nix::sys::signal::Signal;

/// A start may have to make a database cluster first, beside other tests that do the same.
const START: Duration = Duration::from_secs(120);

/// A directory to work in, which the user that runs PostgreSQL can enter.
fn scratch() -> TempDir {
    let open = Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("dues-process-").permissions(open).tempdir().unwrap()
}

/// What a command came to.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// `dues` in `dir`, with no environment of the test's own but `environment`.
fn command(dir: &Path, args: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dues"));
    command.args(args).current_dir(dir).env_clear().kill_on_drop(true).stdin(Stdio::null());
    for kept in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command.envs(environment.iter().copied());
    command
}

/// Runs a command to its end.
async fn run(dir: &Path, args: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let output = command(dir, args, environment).output();
    let output = tokio::time::timeout(START, output).await.unwrap().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Outcome {
    /// The one line that a failure is explained with.
    fn explanation(&self) -> &str {
        assert!(self.code.is_some_and(|code| code != 0), "{self:?}");
        let lines: Vec<_> = self.stderr.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        lines[0]
    }
}

/// A process of another program, told apart from a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Descendant {
    pid: i32,
    name: String,
    started: String,
}

/// Number, name, state, parent and start of a process.
fn stat(pid: i32) -> Option<(String, String, i32, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<_> = tail.split_whitespace().collect();
    Some((name, fields[0].to_owned(), fields[1].parse().ok()?, fields[19].to_owned()))
}

/// Every process below `root`.
fn descendants(root: i32) -> Vec<Descendant> {
    let numbers =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let all: Vec<(i32, String, i32, String)> = numbers
        .filter_map(|pid| stat(pid).map(|(name, _, parent, started)| (pid, name, parent, started)))
        .collect();
    let (mut found, mut parents) = (Vec::new(), vec![root]);
    while let Some(of) = parents.pop() {
        for (pid, name, _, started) in all.iter().filter(|(_, _, parent, _)| *parent == of) {
            parents.push(*pid);
            found.push(Descendant { pid: *pid, name: name.clone(), started: started.clone() });
        }
    }
    found
}

/// Waits until none of them is left. A zombie has ended; whether anybody reaps it is not ours to say.
async fn gone(of: &[Descendant]) {
    eventually(SOON, "no child is left", || async {
        let left: Vec<_> = of
            .iter()
            .filter(|d| {
                stat(d.pid).is_some_and(|(_, state, _, started)| state != "Z" && started == d.started)
            })
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

/// A running `dues`.
struct Dues {
    child: Child,
    pid: i32,
    dir: PathBuf,
}

impl Dues {
    /// Starts it in `dir`, with what it prints in `dir/stdout` and `dir/stderr`.
    fn start(dir: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let file = |name| File::options().create(true).append(true).open(dir.join(name)).unwrap();
        let mut command = command(dir, args, environment);
        let child = command.stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        let pid = child.id().unwrap().try_into().unwrap();
        Self { child, pid, dir: dir.to_owned() }
    }

    /// Starts a devnet and waits until it is up.
    async fn devnet(dir: &Path) -> (Self, Value) {
        let mut dues = Self::start(dir, &["dev"], &[]);
        let manifest = dues.manifest(START).await;
        (dues, manifest)
    }

    /// What `devnet.json` of this very start says.
    async fn manifest(&mut self, within: Duration) -> Value {
        let dues = std::cell::RefCell::new(self);
        eventually(within, "devnet.json is there", || async {
            let mut dues = dues.borrow_mut();
            if let Some(status) = dues.child.try_wait().unwrap() {
                panic!("it ended: {status}\n{}", dues.printed());
            }
            let file = fs::read(dues.dir.join(".dues/devnet.json")).map_err(|error| error.to_string())?;
            let manifest: Value = serde_json::from_slice(&file).unwrap();
            // One that a killed predecessor left behind leads nowhere.
            let port = manifest["api_url"].as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
            std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
            Ok(manifest)
        })
        .await
    }

    fn printed(&self) -> String {
        let read = |name| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        format!("{}\n{}", read("stdout"), read("stderr"))
    }

    fn signal(&self, signal: Signal) {
        signal::kill(Pid::from_raw(self.pid), signal).unwrap();
    }

    async fn ended(mut self) -> ExitStatus {
        let ended = tokio::time::timeout(SOON, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it goes on\n{}", self.printed())).unwrap()
    }

    /// Signals it, waits for its end, and for that of all that was below it.
    async fn stop(self, signal: Signal) -> ExitStatus {
        let children = descendants(self.pid);
        assert!(!children.is_empty());
        self.signal(signal);
        let status = self.ended().await;
        gone(&children).await;
        status
    }
}

fn api(manifest: &Value) -> Api {
    Api::new(manifest["api_url"].as_str().unwrap(), manifest["api_key"].as_str().unwrap())
}
