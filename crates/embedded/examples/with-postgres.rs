//! `with-postgres [--migrations DIR] -- CMD ARGS…`: runs a command with a scratch PostgreSQL beside it.
//!
//! The command finds a database in `DATABASE_URL` and `DUES_TEST_DATABASE_URL`: empty, or with the schema of the
//! migrations in DIR. Everything is removed afterwards, and the command's exit code is this program's.

use std::{
    env,
    fs::Permissions,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
};

use anyhow::Context as _;
use dues_embedded::{Durability, Postgres, PostgresOptions, Signal, spawn_bound, tools};
use nix::{sys::signal, unistd::Pid};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{Connection as _, PgConnection, migrate::Migrator};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal as on},
};

const USAGE: &str = "usage: with-postgres [--migrations DIR] -- CMD [ARGS…]";
/// Test processes run side by side, each with a pool per test.
const MAX_CONNECTIONS: &str = "400";

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = env::args_os().skip(1).peekable();
    let migrations = match arguments.next_if(|argument| argument == "--migrations") {
        Some(_) => Some(PathBuf::from(arguments.next().context(USAGE)?)),
        None => None,
    };
    let mut arguments = arguments.skip_while(|argument| argument == "--");
    let program = arguments.next().context(USAGE)?;
    let mut command = Command::new(program);
    command.args(arguments);

    // Open to the user that PostgreSQL runs as when this is root.
    let dir = tempfile::Builder::new()
        .prefix("dues-postgres-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir()
        .context("no temporary directory")?;
    let postgres = Postgres::start(PostgresOptions {
        durability: Durability::Scratch,
        settings: vec![("max_connections".to_owned(), MAX_CONNECTIONS.to_owned())],
        ..PostgresOptions::new(tools::postgres()?, dir.path())
    })
    .await?;
    let base = postgres.base_dir().to_owned();
    let result = beside(command, migrations.as_deref(), postgres).await;
    if base != dir.path() {
        std::fs::remove_dir_all(&base).with_context(|| format!("cannot remove {}", base.display()))?;
    }
    Ok(exit_code(result?))
}

async fn beside(
    command: Command,
    migrations: Option<&Path>,
    mut postgres: Postgres,
) -> anyhow::Result<ExitStatus> {
    let url = postgres.create_database("scratch").await?;
    if let Some(dir) = migrations {
        let mut connection = PgConnection::connect(url.expose_secret()).await?;
        Migrator::new(dir).await?.run(&mut connection).await?;
        connection.close().await?;
    }
    let result = tokio::select! {
        status = run(command, &url) => status,
        error = postgres.wait() => return Err(error.into()),
    };
    postgres.stop().await?;
    result
}

async fn run(mut command: Command, url: &SecretString) -> anyhow::Result<ExitStatus> {
    for variable in ["DATABASE_URL", "DUES_TEST_DATABASE_URL"] {
        command.env(variable, url.expose_secret());
    }
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut terminate = on(SignalKind::terminate())?;
    command.kill_on_drop(true);
    let mut child = spawn_bound(command, Signal::Kill).await.context("cannot start the command")?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?),
            _ = interrupt.recv() => forward(&child, signal::Signal::SIGINT),
            _ = terminate.recv() => forward(&child, signal::Signal::SIGTERM),
        }
    }
}

fn forward(child: &Child, signal: signal::Signal) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // An error means that it has ended already.
        let _ = signal::kill(Pid::from_raw(pid), signal);
    }
}

/// As a shell reports it: 128 and the number of the signal.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| signal.saturating_add(128)));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
