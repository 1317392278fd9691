//! The commands that do one thing and end.

use std::fs;

use dues_tests::{Database, Ledger, Stack};
use secrecy::ExposeSecret as _;

use crate::{run, scratch};

const URL: &str = "DUES__DATABASE__URL";

#[tokio::test(flavor = "multi_thread")]
async fn a_created_key_is_printed_once_and_may_do_what_its_scopes_say() {
    let (stack, dir) = (Stack::start().await, scratch());
    let environment = [(URL, stack.site().database.url().expose_secret())];
    let args = ["key", "create", "--name", "reader", "--scope", "accounts:read", "--expires", "1d"];
    let made = run(dir.path(), &args, &environment).await;
    assert_eq!((made.code, made.stderr.as_str()), (Some(0), ""), "{made:?}");
    let api = stack.api.with_key(made.stdout.strip_suffix('\n').unwrap());
    let account = stack.api.account("somebody").await.id;
    assert_eq!(api.get(&format!("/v1/accounts/{account}")).await.status, 200);
    let refused = api.get(&format!("/v1/accounts/{account}/entitlements")).await;
    refused.assert_problem("a scope that it lacks", 403, "insufficient_scope");

    let count = "SELECT count(*) FROM ledger.api_keys";
    let before = stack.ledger.count(count).await;
    let long = "x".repeat(101);
    for wrong in [
        &["--name", "k", "--scope", "accounts:delete"][..],
        &["--name", "k", "--scope", "accounts:read", "--scope", ""],
        &["--name", "k"],
        &["--scope", "accounts:read"],
        &["--name", "", "--scope", "accounts:read"],
        &["--name", &long, "--scope", "accounts:read"],
        &["--name", "k", "--scope", "accounts:read", "--expires", "0d"],
    ] {
        let refused = run(dir.path(), &[&["key", "create"], wrong].concat(), &environment).await;
        assert!(refused.code.is_some_and(|code| code != 0), "{wrong:?}: {refused:?}");
        assert_eq!(refused.stdout, "", "{wrong:?}");
        assert!(!refused.stderr.is_empty(), "{wrong:?}");
    }
    let unknown = run(dir.path(), &["key", "create", "--name", "k", "--scope", "all"], &environment).await;
    assert!(unknown.stderr.contains("accounts:read, accounts:write, entitlements:read"), "{unknown:?}");
    assert_eq!(stack.ledger.count(count).await, before);
}

#[tokio::test]
async fn a_database_without_the_schema_is_said_in_one_line_and_migrate_mends_it() {
    let (database, dir) = (Database::fresh().await, scratch());
    let environment = [(URL, database.url().expose_secret()), ("DUES__SERVER__LISTEN", "127.0.0.1:0")];
    let key = ["key", "create", "--name", "k", "--scope", "accounts:read"];
    for args in [&key[..], &["api"]] {
        let refused = run(dir.path(), args, &environment).await;
        assert!(refused.explanation().contains("dues migrate"), "{refused:?}");
    }
    for _ in 0..2 {
        let migrated = run(dir.path(), &["migrate"], &environment).await;
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
    }
    assert_eq!(run(dir.path(), &key, &environment).await.code, Some(0));
    assert_eq!(Ledger::new(&database).count("SELECT count(*) FROM ledger.api_keys").await, 1);
}

#[tokio::test]
async fn a_database_that_is_not_there_is_said_in_one_line_without_its_password() {
    let dir = scratch();
    let port = dues_embedded::free_port().unwrap();
    let url = format!("postgres://dues:hunter2@127.0.0.1:{port}/dues");
    let refused = run(dir.path(), &["migrate"], &[(URL, &url)]).await;
    let line = refused.explanation();
    assert!(line.starts_with("dues: ") && !line.contains("hunter2"), "{line}");
    assert!(line.to_lowercase().contains("refused"), "it says why: {line}");
}

#[tokio::test]
async fn a_database_url_that_is_not_postgresqls_is_refused_before_anything_is_tried() {
    let dir = scratch();
    for url in ["mysql://dues:hunter2@localhost/dues", "dues:hunter2@localhost"] {
        for args in [&["migrate"][..], &["config", "check"]] {
            let refused = run(dir.path(), args, &[(URL, url)]).await;
            assert!(refused.code.is_some_and(|code| code != 0), "{args:?} {url}: {refused:?}");
            assert!(refused.stderr.contains("postgres://"), "{args:?} {url}: {refused:?}");
            assert!(!refused.stderr.contains("hunter2"), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn config_check_lists_every_fault_at_once() {
    let dir = scratch();
    let good = run(dir.path(), &["config", "check"], &[]).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    let text = "[database]\nmax_connections = 0\nurl = \"postgres://u:hunter2@h/d\"\n\
        [plans.basic-month]\nprice = \"0.0000001\"\n[plans.basic-year]\ninterval = \"fortnight\"\n\
        [tiers.free]\nrequests = \"lots\"\n[chains.base]\nchain_id = 8453\nfinality = \"soon\"\n\
        merchant = \"0x70997970C51812dc3A010C7d01b50e0d17dc79C8\"\ntoken = \"0x70997970C51812dc3A010C7d01b50e0d17dc79C8\"\n";
    fs::write(dir.path().join("dues.toml"), text).unwrap();
    fs::write(dir.path().join("other.toml"), text).unwrap();
    let here = run(dir.path(), &["config", "check"], &[]).await;
    let named = run(dir.path(), &["config", "check", "--config", "other.toml"], &[]).await;
    let by_environment = run(dir.path(), &["config", "check"], &[("DUES_CONFIG", "other.toml")]).await;
    for outcome in [here, named, by_environment] {
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
        for part in [
            "database.max_connections",
            "database.url: belongs into the environment",
            "plans.basic-month.price",
            "plans.basic-year.interval",
            "tiers.free.requests",
            "chains.base.rpc_url: is missing",
            "chains.base.finality",
        ] {
            let lines = outcome.stderr.lines().filter(|line| line.contains(part)).count();
            assert_eq!(lines, 1, "{part} is to be in one line of {}", outcome.stderr);
        }
        assert!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
    }
    let missing = run(dir.path(), &["config", "check", "--config", "missing.toml"], &[]).await;
    assert!(missing.explanation().contains("missing.toml"), "{missing:?}");
}

#[tokio::test]
async fn every_command_explains_itself() {
    let dir = scratch();
    for command in [
        "",
        "dev",
        "run",
        "api",
        "index",
        "migrate",
        "key",
        "key create",
        "key list",
        "key revoke",
        "key rotate",
        "merchant",
        "merchant refund",
        "merchant usage-charge",
        "merchant retire",
        "merchant migrate",
        "merchant cancel",
        "merchant payee",
        "merchant operator",
        "merchant resume",
        "plans map",
        "plans sync",
        "config",
        "config check",
        "openapi",
    ] {
        let args: Vec<_> = command.split_whitespace().chain(["--help"]).collect();
        let help = run(dir.path(), &args, &[]).await;
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{command}: {help:?}");
        assert!(help.stdout.contains("Usage: dues"), "{command}: {help:?}");
    }
    assert_eq!(run(dir.path(), &["--version"], &[]).await.code, Some(0));
    assert_eq!(run(dir.path(), &[], &[]).await.code, Some(2));
    assert_eq!(run(dir.path(), &["pay"], &[]).await.code, Some(2));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "help does nothing");
}

#[tokio::test]
async fn openapi_prints_the_committed_document() {
    let printed = run(scratch().path(), &["openapi"], &[]).await;
    assert_eq!(printed.code, Some(0));
    assert_eq!(printed.stdout, include_str!("../../../../docs/openapi.json"));
}
