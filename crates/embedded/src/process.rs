//! One child process: started, watched, stopped.

mod error;

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{sys::signal, unistd::Pid};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

pub use error::ProcessError;

use crate::{spawner, user::ChildUser};

/// What of the owner's environment a child inherits.
const INHERITED: [&str; 4] = ["HOME", "LD_LIBRARY_PATH", "PATH", "TMPDIR"];
/// How much of a log's end belongs to an error.
const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 12;
/// A process that got SIGKILL is gone in no time, unless it hangs in the kernel.
const KILL_GRACE: Duration = Duration::from_secs(10);

/// The signals that Dues sends to its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// SIGQUIT.
    Quit,
    /// SIGKILL.
    Kill,
}

impl Signal {
    pub(crate) fn system(self) -> signal::Signal {
        match self {
            Self::Terminate => signal::Signal::SIGTERM,
            Self::Interrupt => signal::Signal::SIGINT,
            Self::Quit => signal::Signal::SIGQUIT,
            Self::Kill => signal::Signal::SIGKILL,
        }
    }
}

/// What to run, and how it ends.
#[derive(Debug, Clone)]
pub struct ProcessOptions {
    /// Names the child in errors and its log file `<name>.log`.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its arguments. They are visible to every user of the machine: no secrets.
    pub args: Vec<OsString>,
    /// The working directory; the user must be able to enter it.
    pub dir: PathBuf,
    /// Where the log goes. The log of the run before is kept as `<name>.log.1`.
    pub log_dir: PathBuf,
    /// The user to drop to, if any.
    pub user: Option<ChildUser>,
    /// How to stop: each signal with the time it gets. SIGKILL follows by itself.
    pub stop: Vec<(Signal, Duration)>,
    /// Sent when the owner drops the process or dies.
    pub death: Signal,
}

/// A running child in its own process group, with its output in a log file and nothing to read from.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    stop: Vec<(Signal, Duration)>,
    death: Signal,
}

impl Process {
    /// Starts the child. Can be called from any thread of the runtime.
    ///
    /// # Errors
    /// When the program, its user or its log file cannot be used.
    pub async fn spawn(options: ProcessOptions) -> Result<Self, ProcessError> {
        let ProcessOptions { name, program, args, dir, log_dir, user, stop, death } = options;
        let fail = |source| ProcessError::Spawn { name, program: program.clone(), source };
        let log = log_dir.join(format!("{name}.log"));
        let (out, err) = open_log(&log).map_err(fail)?;

        let mut command = Command::new(&program);
        command.args(args).current_dir(dir).process_group(0);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC");
        command.envs(INHERITED.iter().filter_map(|key| Some((key, std::env::var_os(key)?))));
        if let Some(user) = user {
            // std clears the supplementary groups when it changes the user as root.
            command.uid(user.uid).gid(user.gid).env("HOME", "/nonexistent");
        }
        let child = spawner::spawn_bound(command, death).await.map_err(fail)?;
        tracing::debug!(name, pid = child.id(), log = %log.display(), "child started");
        Ok(Self { name, child, log, stop, death })
    }

    /// The process id, until it has ended.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits for the end. Can be cancelled and called again.
    ///
    /// # Errors
    /// When the system cannot wait for it.
    pub async fn wait(&mut self) -> Result<ExitStatus, ProcessError> {
        self.child.wait().await.map_err(|source| ProcessError::Wait { name: self.name, source })
    }

    /// Waits for an end that nobody asked for and gives it as an error with the last log lines. Can be cancelled
    /// and called again.
    pub async fn unexpected_exit(&mut self) -> ProcessError {
        match self.wait().await {
            Ok(status) => {
                let tail = tail(&self.log).unwrap_or_default();
                ProcessError::Exited { name: self.name, status, log: self.log.clone(), tail }
            }
            Err(error) => error,
        }
    }

    /// Signals the child, and with [`Signal::Kill`] its whole group. A child that has ended is left in peace.
    pub fn signal(&self, signal: Signal) {
        // An error means that it has ended in between.
        let _ = match (self.pid(), signal) {
            (None, _) => Ok(()),
            (Some(group), Signal::Kill) => signal::killpg(group, signal::Signal::SIGKILL),
            (Some(pid), _) => signal::kill(pid, signal.system()),
        };
    }

    /// Stops the child: each signal of [`ProcessOptions::stop`] in turn, then SIGKILL to its whole group.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn stop(mut self) -> Result<ExitStatus, ProcessError> {
        for (signal, grace) in std::mem::take(&mut self.stop) {
            self.signal(signal);
            if let Ok(status) = timeout(grace, self.wait()).await {
                return status;
            }
            tracing::warn!(name = self.name, ?signal, ?grace, "child does not stop in time");
        }
        self.signal(Signal::Kill);
        let ended = timeout(KILL_GRACE, self.wait()).await;
        ended.unwrap_or(Err(ProcessError::Immortal { name: self.name }))
    }

    /// Known only until the end has been seen, so that it never means another process.
    fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The runtime reaps it.
        self.signal(self.death);
    }
}

fn open_log(log: &Path) -> io::Result<(File, File)> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir)?;
    }
    if log.exists() {
        fs::rename(log, log.with_added_extension("1"))?;
    }
    // Appending: two handles, and children of the child, must not overwrite one another.
    let file = File::options().create(true).append(true).open(log)?;
    Ok((file.try_clone()?, file))
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    Ok(lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(dir: &Path, script: &str) -> Process {
        Process::spawn(ProcessOptions {
            name: "shell",
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            dir: "/".into(),
            log_dir: dir.into(),
            user: None,
            stop: vec![(Signal::Terminate, Duration::from_millis(300))],
            death: Signal::Kill,
        })
        .await
        .unwrap()
    }

    async fn log_says(process: &Process, text: &str) {
        let seen = async {
            while !fs::read_to_string(process.log()).unwrap().contains(text) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), seen).await.unwrap();
    }

    #[tokio::test]
    async fn an_exit_comes_with_the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = shell(dir.path(), "seq 1 100; echo last words >&2; exit 3").await;
        let error = process.unexpected_exit().await.to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("\n100\nlast words"), "{error}");
        assert!(!error.contains("\n50\n"));
        assert_eq!(process.id(), None);
    }

    #[tokio::test]
    async fn the_environment_is_clean_and_the_log_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        shell(dir.path(), "echo first").await.wait().await.unwrap();
        let mut process = shell(dir.path(), "env").await;
        assert!(process.wait().await.unwrap().success());
        let log = fs::read_to_string(process.log()).unwrap();
        assert!(log.contains("LC_ALL=C") && !log.contains("CARGO"), "{log}");
        assert_eq!(fs::read_to_string(dir.path().join("shell.log.1")).unwrap(), "first\n");
    }

    #[tokio::test]
    async fn a_deaf_child_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell(dir.path(), "trap '' TERM; echo ready; while :; do sleep 1; done").await;
        log_says(&process, "ready").await;
        let status = process.stop().await.unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }

    #[tokio::test]
    async fn dropping_kills() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell(dir.path(), "echo ready; exec sleep 60").await;
        log_says(&process, "ready").await;
        let pid = process.pid().unwrap();
        drop(process);
        let gone = async {
            while signal::kill(pid, None).is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.unwrap();
    }
}
