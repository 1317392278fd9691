//! An embedded anvil: the chain of the devnet and of tests.

mod state;

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::{
    files::remove_tree_if_there,
    port,
    process::{Process, ProcessError, ProcessOptions, Signal},
    rpc::{self, RpcError},
};

/// Older blocks of a running chain, which anvil moves out of memory. A killed one leaves them behind.
const CACHE: &str = "anvil-cache";
const POLL: Duration = Duration::from_millis(20);
const CALL_WITHIN: Duration = Duration::from_secs(5);
/// A long chain takes a while to serialise.
const DUMP_WITHIN: Duration = Duration::from_secs(120);

/// How to run an anvil.
#[derive(Debug, Clone)]
pub struct AnvilOptions {
    /// The program; see [`crate::tools::anvil`].
    pub program: PathBuf,
    /// The chain id.
    pub chain_id: u64,
    /// The TCP port on 127.0.0.1; a free one by default.
    pub port: Option<u16>,
    /// Seconds between blocks. Without it, each transaction gets a block at once.
    pub block_time: Option<u64>,
    /// The chain as last saved: loaded at the start if it is there, written by [`Anvil::save_state`].
    pub state_file: Option<PathBuf>,
    /// Where the log goes, and what anvil keeps on the disk while it runs.
    pub log_dir: PathBuf,
    /// More arguments for anvil.
    pub extra_args: Vec<OsString>,
    /// How long it may take to answer, the loading of the state included.
    pub ready_within: Duration,
}

impl AnvilOptions {
    /// A chain without a saved state, on a free port, with a block per transaction.
    pub fn new(program: impl Into<PathBuf>, chain_id: u64, log_dir: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            chain_id,
            port: None,
            block_time: None,
            state_file: None,
            log_dir: log_dir.into(),
            extra_args: Vec::new(),
            ready_within: Duration::from_secs(60),
        }
    }
}

/// A running anvil that answers, with its well-known accounts.
#[derive(Debug)]
pub struct Anvil {
    process: Process,
    port: u16,
    state_file: Option<PathBuf>,
    resumed: bool,
}

/// What went wrong with anvil.
#[derive(Debug, thiserror::Error)]
pub enum AnvilError {
    /// It could not be started, or has ended by itself.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The operating system has no free port.
    #[error("the operating system gave no port")]
    NoPort(#[source] io::Error),
    /// The wanted port is in use.
    #[error("port {port} of 127.0.0.1 is in use")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// It did not answer in time.
    #[error("anvil does not answer after {waited:?}; see {}", log.display())]
    NotReady {
        /// How long it was given.
        waited: Duration,
        /// Its log.
        log: PathBuf,
    },
    /// A call failed.
    #[error("anvil did not do what it was asked")]
    Rpc(#[from] RpcError),
    /// The dump of the state is not what it should be.
    #[error("anvil's dump of its state cannot be read")]
    BadDump,
    /// The state file could not be read or written.
    #[error("cannot use {}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl Anvil {
    /// Starts anvil and waits until it answers with its chain id.
    ///
    /// # Errors
    /// See [`AnvilError`].
    pub async fn start(options: AnvilOptions) -> Result<Self, AnvilError> {
        let resumed = match options.state_file.clone() {
            Some(file) => state::is_usable(file).await?,
            None => false,
        };
        let cache = options.log_dir.join(CACHE);
        remove_tree_if_there(&cache).map_err(|source| AnvilError::State { path: cache, source })?;
        let mut attempts = port::ATTEMPTS;
        loop {
            attempts = attempts.saturating_sub(1);
            match launch(&options, resumed).await {
                Err(AnvilError::PortTaken { .. }) if options.port.is_none() && attempts > 0 => {}
                launched => {
                    let (process, port) = launched?;
                    return Ok(Self { process, port, state_file: options.state_file, resumed });
                }
            }
        }
    }

    /// Where it answers.
    pub fn rpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id, until it has ended.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// The log file.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// Whether the chain goes on from a saved state; otherwise it is new and empty.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Saves blocks, transactions, receipts and accounts to [`AnvilOptions::state_file`], which is whole at any
    /// moment. Does nothing without one. State as of earlier blocks is not kept: after a restart, calls at older
    /// blocks fail, and so do reorganisations below the restart.
    ///
    /// # Errors
    /// When anvil does not answer or the file cannot be written; the earlier file then stays.
    pub async fn save_state(&self) -> Result<(), AnvilError> {
        let Some(file) = self.state_file.clone() else { return Ok(()) };
        let dump = rpc::call(self.port, "anvil_dumpState", json!([]), DUMP_WITHIN).await?;
        state::save(file, dump).await
    }

    /// Waits until anvil ends by itself, and says how. Can be cancelled and called again.
    pub async fn wait(&mut self) -> ProcessError {
        self.process.unexpected_exit().await
    }

    /// Stops anvil. What [`Anvil::save_state`] has not saved is lost.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn stop(self) -> Result<ExitStatus, AnvilError> {
        Ok(self.process.stop().await?)
    }
}

async fn launch(options: &AnvilOptions, resumed: bool) -> Result<(Process, u16), AnvilError> {
    let port = match options.port {
        Some(port) => port,
        None => port::free_port().map_err(AnvilError::NoPort)?,
    };
    if port::is_taken(port) {
        return Err(AnvilError::PortTaken { port });
    }
    let mut process = Process::spawn(ProcessOptions {
        name: "anvil",
        program: options.program.clone(),
        args: arguments(options, port, resumed)?,
        dir: "/".into(),
        log_dir: options.log_dir.clone(),
        user: None,
        stop: vec![(Signal::Terminate, Duration::from_secs(5))],
        death: Signal::Kill,
    })
    .await?;
    let wanted = format!("{:#x}", options.chain_id);
    let ready = async {
        while !rpc::call(port, "eth_chainId", json!([]), CALL_WITHIN)
            .await
            .is_ok_and(|id| id == wanted.as_str())
        {
            sleep(POLL).await;
        }
    };
    let outcome = tokio::select! {
        error = process.unexpected_exit() => Err(error),
        ready = timeout(options.ready_within, ready) => Ok(ready),
    };
    match outcome {
        Ok(Ok(())) => Ok((process, port)),
        Ok(Err(_elapsed)) => {
            let log = process.log().to_owned();
            process.stop().await?;
            Err(AnvilError::NotReady { waited: options.ready_within, log })
        }
        Err(ProcessError::Exited { tail, .. }) if port::log_says_taken(&tail) => {
            Err(AnvilError::PortTaken { port })
        }
        Err(error) => Err(error.into()),
    }
}

fn arguments(options: &AnvilOptions, port: u16, resumed: bool) -> Result<Vec<OsString>, AnvilError> {
    // The child has another working directory.
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|source| AnvilError::State { path: path.to_owned(), source })
    };
    let mut arguments: Vec<OsString> = ["--quiet", "--host", "127.0.0.1", "--port"].map(Into::into).into();
    arguments.extend([port.to_string().into(), "--chain-id".into(), options.chain_id.to_string().into()]);
    arguments.extend(["--cache-path".into(), absolute(&options.log_dir)?.join(CACHE).into()]);
    if let Some(seconds) = options.block_time {
        arguments.extend(["--block-time".into(), seconds.to_string().into()]);
    }
    if let Some(file) = options.state_file.as_deref().filter(|_| resumed) {
        arguments.extend(["--load-state".into(), absolute(file)?.into()]);
    }
    arguments.extend(options.extra_args.iter().cloned());
    Ok(arguments)
}
