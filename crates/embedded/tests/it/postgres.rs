//! The server: first start, restart, crash, leftovers, refusals.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};

use dues_embedded::{Durability, LockError, Postgres, PostgresError, PostgresOptions, tools};
use nix::{
    sys::signal::{Signal, kill},
    unistd::geteuid,
};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::{eventually, is_gone, open_dir, pid};

fn options(dir: &Path) -> PostgresOptions {
    PostgresOptions {
        durability: Durability::Scratch,
        shared_dir: dir.join("shared"),
        ..PostgresOptions::new(tools::postgres().unwrap(), dir.join("postgres"))
    }
}

async fn execute(url: &SecretString, sql: &str) {
    let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn count(url: &SecretString) -> i64 {
    let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn data_outlives_a_stop_and_secrets_stay_inside() {
    let dir = open_dir();
    let postgres = Postgres::start(options(dir.path())).await.unwrap();
    let url = postgres.create_database("shop").await.unwrap();
    execute(&url, "CREATE TABLE t (i int); INSERT INTO t VALUES (1), (2)").await;

    let password = fs::read_to_string(postgres.base_dir().join("password")).unwrap();
    assert_eq!(password.len(), 64);
    assert!(!format!("{postgres:?}").contains(&password));
    assert!(!fs::read_to_string(postgres.log()).unwrap().contains(&password));
    let mode =
        |name: &str| fs::metadata(postgres.base_dir().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("password"), mode("data")), (0o600, 0o700));

    let server = pid(postgres.id());
    assert!(postgres.stop().await.unwrap().success());
    assert!(is_gone(server));

    let postgres = Postgres::start(options(dir.path())).await.unwrap();
    let url = postgres.create_database("shop").await.unwrap();
    assert_eq!(count(&url).await, 2);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn nobody_comes_in_without_the_password() {
    let dir = open_dir();
    let postgres = Postgres::start(options(dir.path())).await.unwrap();
    for user in ["dues", "dues:wrong", "postgres"] {
        let url = format!("postgres://{user}@127.0.0.1:{}/postgres", postgres.port());
        assert!(PgConnection::connect(&url).await.is_err(), "{user}");
    }
    let bad = postgres.create_database("x\"; DROP DATABASE postgres; --").await;
    assert!(matches!(bad, Err(PostgresError::BadName(_))));
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_server_is_noticed_and_recovers() {
    let dir = open_dir();
    let mut postgres = Postgres::start(options(dir.path())).await.unwrap();
    let url = postgres.create_database("shop").await.unwrap();
    execute(&url, "CREATE TABLE t (i int); INSERT INTO t VALUES (1)").await;
    kill(pid(postgres.id()), Signal::SIGKILL).unwrap();
    let error = postgres.wait().await.to_string();
    assert!(error.contains("signal: 9") && error.contains("ready to accept connections"), "{error}");
    drop(postgres);

    let postgres = Postgres::start(options(dir.path())).await.unwrap();
    assert_eq!(count(&postgres.url("shop")).await, 1);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_pid_file_of_somebody_else_is_no_obstacle() {
    let dir = open_dir();
    let postgres = Postgres::start(options(dir.path())).await.unwrap();
    let pid_file = postgres.base_dir().join("data/postmaster.pid");
    let text = fs::read_to_string(&pid_file).unwrap();
    let (first_line, rest) = text.split_once('\n').unwrap();
    assert_eq!(first_line, postgres.id().unwrap().to_string());
    postgres.stop().await.unwrap();

    // The process id has been reused, by a program of the same user; and: it belongs to nobody.
    let mut other = std::process::Command::new("sleep");
    if geteuid().is_root() {
        let data = fs::metadata(pid_file.parent().unwrap()).unwrap();
        std::os::unix::process::CommandExt::uid(&mut other, data.uid());
    }
    let mut other = other.arg("60").spawn().unwrap();
    for stale in [other.id(), 0x3fff_ffff] {
        fs::write(&pid_file, format!("{stale}\n{rest}")).unwrap();
        Postgres::start(options(dir.path())).await.unwrap().stop().await.unwrap();
    }
    assert!(other.try_wait().unwrap().is_none(), "the other program was left in peace");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_is_no_obstacle() {
    let dir = open_dir();
    let base = dir.path().join("postgres");
    fs::create_dir_all(base.join("data.new-0/base")).unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(base.join("data.new-0/PG_VERSION"), "18").unwrap();
    fs::write(base.join("password.new"), "ha").unwrap();
    Postgres::start(options(dir.path())).await.unwrap().stop().await.unwrap();
    assert!(!base.join("data.new-0").exists());
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused() {
    let dir = open_dir();
    let first = Postgres::start(options(dir.path())).await.unwrap();
    let second = Postgres::start(options(dir.path())).await.unwrap_err();
    assert!(matches!(second, PostgresError::Lock(LockError::Held { .. })), "{second}");
    first.stop().await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_said() {
    let dir = open_dir();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let error =
        Postgres::start(PostgresOptions { port: Some(port), ..options(dir.path()) }).await.unwrap_err();
    assert!(matches!(error, PostgresError::PortTaken { port: taken } if taken == port), "{error}");
}

#[tokio::test]
async fn a_lost_password_is_said_and_nothing_is_made_anew() {
    let dir = open_dir();
    let postgres = Postgres::start(options(dir.path())).await.unwrap();
    let password = postgres.base_dir().join("password");
    postgres.stop().await.unwrap();
    fs::remove_file(&password).unwrap();
    let error = Postgres::start(options(dir.path())).await.unwrap_err();
    assert!(matches!(error, PostgresError::NoPassword { .. }), "{error}");
    assert!(!password.exists());
}

#[tokio::test]
async fn dropping_takes_the_server_down() {
    let dir = open_dir();
    let postgres = Postgres::start(options(dir.path())).await.unwrap();
    let server = pid(postgres.id());
    drop(postgres);
    eventually("the server ends", || async { is_gone(server) }).await;
}

#[tokio::test]
async fn root_drops_to_nobody_and_moves_private_data() {
    if !geteuid().is_root() {
        return;
    }
    let dir = open_dir();
    let private = dir.path().join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let options = PostgresOptions {
        data_dir: private.join("postgres"),
        log_dir: private.join("logs"),
        ready_within: Duration::from_secs(60),
        ..options(dir.path())
    };
    let postgres = Postgres::start(options.clone()).await.unwrap();
    assert!(postgres.base_dir().starts_with(dir.path().join("shared")));
    assert!(postgres.log().starts_with(&private));
    let status = fs::read_to_string(format!("/proc/{}/status", postgres.id().unwrap())).unwrap();
    let line = |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(!line("Uid:").split_whitespace().any(|uid| uid == "0"), "{status}");
    assert!(!line("Gid:").split_whitespace().any(|gid| gid == "0"), "{status}");
    assert_eq!(line("Groups:").trim(), "Groups:");
    let url = postgres.create_database("shop").await.unwrap();
    execute(&url, "CREATE TABLE t (i int)").await;
    postgres.stop().await.unwrap();
    let postgres = Postgres::start(options).await.unwrap();
    assert_eq!(count(&postgres.url("shop")).await, 0);
    postgres.stop().await.unwrap();
}
