//! An embedded PostgreSQL server.

mod beside;
mod cluster;
mod error;
mod orphan;

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::time::{sleep, timeout};

pub use beside::RunningPostgres;
pub use error::PostgresError;

use crate::{
    lock::DirLock,
    placement::Placement,
    port,
    process::{Process, ProcessError, ProcessOptions, Signal},
    user::ChildUser,
};

/// The superuser of the cluster.
const USER: &str = "dues";
const POLL: Duration = Duration::from_millis(20);

/// What the server owes to a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Every commit is on the disk before it is acknowledged.
    Durable,
    /// Nothing is synced: fast. Commits outlive the server and Dues, but not the machine.
    Scratch,
}

/// How to run a server.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The installation; see [`crate::tools::postgres`].
    pub install: PathBuf,
    /// Where the cluster lives; made on first use.
    pub data_dir: PathBuf,
    /// Where the logs go.
    pub log_dir: PathBuf,
    /// The TCP port on 127.0.0.1; a free one by default.
    pub port: Option<u16>,
    /// What the server owes to a power cut.
    pub durability: Durability,
    /// More settings of `postgresql.conf`, which win over those of Dues.
    pub settings: Vec<(String, String)>,
    /// For root only: where programs and data go that the user `nobody` cannot reach otherwise.
    pub shared_dir: PathBuf,
    /// How long the server may take to accept connections; recovery after a crash is part of it.
    pub ready_within: Duration,
}

impl PostgresOptions {
    /// Durable, on a free port, with the logs in the data directory.
    pub fn new(install: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            install: install.into(),
            log_dir: data_dir.clone(),
            data_dir,
            port: None,
            durability: Durability::Durable,
            settings: Vec::new(),
            shared_dir: "/var/lib/dues".into(),
            ready_within: Duration::from_secs(90),
        }
    }
}

/// A running server that accepts connections.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    port: u16,
    password: SecretString,
    base: PathBuf,
    _lock: DirLock,
}

impl Postgres {
    /// Starts the server on its data directory, which is made on first use, and waits until it accepts connections.
    /// What a killed predecessor has left does not stand in the way.
    ///
    /// # Errors
    /// See [`PostgresError`].
    pub async fn start(options: PostgresOptions) -> Result<Self, PostgresError> {
        let place = place(&options).await?;
        let lock = DirLock::acquire(&place.base)?;
        orphan::clear(&place).await?;
        let password = cluster::ensure(&place, &options).await?;
        let mut attempts = port::ATTEMPTS;
        let (process, port) = loop {
            attempts = attempts.saturating_sub(1);
            match launch(&place, &options, &password).await {
                Err(PostgresError::PortTaken { .. }) if options.port.is_none() && attempts > 0 => {}
                other => break other?,
            }
        };
        Ok(Self { process, port, password, base: place.base, _lock: lock })
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id, until it has ended.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// The server's log file.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// The directory with everything of this cluster. As root it can be another one than
    /// [`PostgresOptions::data_dir`].
    pub fn base_dir(&self) -> &Path {
        &self.base
    }

    /// The connection URL of a database of this server.
    pub fn url(&self, database: &str) -> SecretString {
        url(self.password.expose_secret(), self.port, database)
    }

    /// Makes a database unless it is there, and gives its connection URL.
    ///
    /// # Errors
    /// When the name is not a plain one, or the server refuses.
    pub async fn create_database(&self, name: &str) -> Result<SecretString, PostgresError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || name.len() > 63 || !name.chars().all(plain) {
            return Err(PostgresError::BadName(name.to_owned()));
        }
        let mut connection = connect(self.port, &self.password).await?;
        let exists = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1").bind(name);
        if exists.fetch_optional(&mut connection).await?.is_none() {
            // The name is plain, as checked above.
            sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE \"{name}\"")))
                .execute(&mut connection)
                .await?;
        }
        connection.close().await?;
        Ok(self.url(name))
    }

    /// Waits until the server ends by itself, and says how. Can be cancelled and called again.
    pub async fn wait(&mut self) -> ProcessError {
        self.process.unexpected_exit().await
    }

    /// Stops the server: sessions are cut, data is written out; if that takes too long, it stops as in a crash,
    /// which the next start recovers from.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn stop(self) -> Result<ExitStatus, PostgresError> {
        Ok(self.process.stop().await?)
    }
}

fn url(password: &str, port: u16, database: &str) -> SecretString {
    format!("postgres://{USER}:{password}@127.0.0.1:{port}/{database}?sslmode=disable").into()
}

async fn place(options: &PostgresOptions) -> Result<Placement, PostgresError> {
    let PostgresOptions { install, data_dir, shared_dir, .. } = options.clone();
    let found = tokio::task::spawn_blocking(move || {
        Placement::find(&install, &data_dir, &shared_dir, ChildUser::unless_root())
    });
    let gone = |error| PostgresError::System { what: "thread", source: io::Error::other(error) };
    Ok(found.await.map_err(gone)??)
}

async fn launch(
    place: &Placement,
    options: &PostgresOptions,
    password: &SecretString,
) -> Result<(Process, u16), PostgresError> {
    let port = match options.port {
        Some(port) => port,
        None => port::free_port().map_err(|source| PostgresError::System { what: "port", source })?,
    };
    if port::is_taken(port) {
        return Err(PostgresError::PortTaken { port });
    }
    let mut process = Process::spawn(ProcessOptions {
        name: "postgres",
        program: place.install.join("bin/postgres"),
        args: arguments(place, options, port),
        dir: place.base.clone(),
        log_dir: options.log_dir.clone(),
        user: place.user,
        stop: vec![(Signal::Interrupt, Duration::from_secs(20)), (Signal::Quit, Duration::from_secs(5))],
        // SIGQUIT takes the server's own children along at once; SIGKILL would leave busy ones behind for a while.
        death: Signal::Quit,
    })
    .await?;
    let ready = async {
        // Only our server knows the password, so an answer cannot come from another one on this port.
        while connect(port, password).await.is_err() {
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
            Err(PostgresError::NotReady { waited: options.ready_within, log })
        }
        Err(ProcessError::Exited { tail, .. }) if port::log_says_taken(&tail) => {
            Err(PostgresError::PortTaken { port })
        }
        Err(error) => Err(error.into()),
    }
}

fn arguments(place: &Placement, options: &PostgresOptions, port: u16) -> Vec<OsString> {
    let data = place.data();
    let port = port.to_string();
    let name = orphan::cluster_name(&data);
    let ours = [
        ("port", port.as_str()),
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("cluster_name", name.as_str()),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        // A failing statement may hold customer data; the client is told anyway.
        ("log_min_error_statement", "panic"),
        ("log_checkpoints", "off"),
    ];
    let unsafe_but_fast = [("fsync", "off"), ("full_page_writes", "off")];
    let scratch = unsafe_but_fast.into_iter().filter(|_| options.durability == Durability::Scratch);
    let own = ours.into_iter().chain(scratch);
    let given = options.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let mut arguments = vec![OsString::from("-D"), data.into_os_string()];
    for (key, value) in own.chain(given) {
        arguments.extend(["-c".into(), format!("{key}={value}").into()]);
    }
    arguments
}

async fn connect(port: u16, password: &SecretString) -> Result<PgConnection, sqlx::Error> {
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username(USER)
        .password(password.expose_secret())
        .database("postgres")
        .ssl_mode(PgSslMode::Disable)
        .connect()
        .await
}
