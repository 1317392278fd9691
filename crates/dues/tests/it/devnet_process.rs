//! `dues dev` as a user starts it: in an empty directory, with everything of its own.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
};

use alloy::signers::local::PrivateKeySigner;
use dues_tests::{SOON, eventually};
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::{Dues, START, Signal, api, descendants, gone, run, scratch};

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn is_address(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() == 42 && text.parse::<alloy::primitives::Address>().is_ok())
}

/// DESIGN.md, section 11.
fn assert_shape(manifest: &Value) {
    let names = [
        "rpc_url",
        "chain_id",
        "contract",
        "token",
        "merchant",
        "merchant_private_key",
        "finality_depth",
        "api_url",
        "api_key",
        "database_url",
        "stripe_url",
        "plans",
        "wallets",
    ];
    assert_eq!(keys(manifest), BTreeSet::from(names));
    assert_eq!(manifest["chain_id"], 31_337);
    for address in ["contract", "token", "merchant"] {
        assert!(is_address(&manifest[address]), "{address}: {}", manifest[address]);
    }
    for (url, start) in
        [("rpc_url", "http://127.0.0.1:"), ("api_url", "http://127.0.0.1:"), ("database_url", "postgres://")]
    {
        assert!(manifest[url].as_str().unwrap().starts_with(start), "{url}: {}", manifest[url]);
    }
    assert!(!manifest["api_url"].as_str().unwrap().ends_with('/'));
    assert!(manifest["api_key"].as_str().unwrap().starts_with("dues_sk_"));
    assert_eq!(manifest["stripe_url"], Value::Null, "there is no Stripe rail yet");
    let plan = |id, tier, interval, onchain_id, price| json!({ "id": id, "tier": tier, "interval": interval, "onchain_id": onchain_id, "price_base_units": price });
    assert_eq!(
        manifest["plans"],
        json!([
            plan("basic-month", "basic", "month", 1, "29990000"),
            plan("basic-year", "basic", "year", 2, "299990000"),
            plan("premium-month", "premium", "month", 3, "99990000"),
            plan("premium-year", "premium", "year", 4, "999990000"),
            plan("enterprise-month", "enterprise", "month", 5, "499990000"),
            plan("enterprise-year", "enterprise", "year", 6, "4999990000"),
        ])
    );
    let wallets = manifest["wallets"].as_array().unwrap();
    assert!(!wallets.is_empty());
    for wallet in wallets {
        assert_eq!(keys(wallet), BTreeSet::from(["address", "private_key", "account_id"]));
        let key: PrivateKeySigner = wallet["private_key"].as_str().unwrap().parse().unwrap();
        assert_eq!(json!(key.address()), json!(wallet["address"].as_str().unwrap().to_lowercase()));
    }
}

async fn starts_and_stops(signal: Signal) {
    let dir = scratch();
    let (dues, manifest) = Dues::devnet(dir.path()).await;
    assert_shape(&manifest);
    let file = dir.path().join(".dues/devnet.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "it holds a key");

    let api = api(&manifest);
    assert_eq!(api.get("/readyz").await.status, 200);
    let ada = manifest["wallets"][0]["account_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(api.entitlements(ada).await["tier"], "premium");
    let database = manifest["database_url"].as_str().unwrap();
    sqlx::PgConnection::connect(database).await.unwrap().close().await.unwrap();
    let children: BTreeSet<_> = descendants(dues.pid).into_iter().map(|child| child.name).collect();
    for program in ["anvil", "postgres"] {
        assert!(children.contains(program), "{children:?}");
    }
    let printed = dues.printed();
    assert!(printed.contains(manifest["api_url"].as_str().unwrap()), "{printed}");

    let status = dues.stop(signal).await;
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    assert!(!file.exists());
    assert_eq!(fs::read_to_string(dir.path().join("stderr")).unwrap(), "");
}

#[tokio::test]
async fn a_devnet_says_where_everything_is_and_sigterm_stops_all_of_it() {
    starts_and_stops(Signal::SIGTERM).await;
}

#[tokio::test]
async fn a_devnet_says_where_everything_is_and_ctrl_c_stops_all_of_it() {
    starts_and_stops(Signal::SIGINT).await;
}

#[tokio::test]
async fn a_devnet_that_is_stopped_while_it_starts_leaves_nothing_behind() {
    let dir = scratch();
    let dues = Dues::start(dir.path(), &["dev"], &[]);
    let children = eventually(START, "a child is there", || async {
        let children = descendants(dues.pid);
        if children.is_empty() { Err("none".to_owned()) } else { Ok(children) }
    })
    .await;
    dues.signal(Signal::SIGTERM);
    let status = dues.ended().await;
    assert_eq!(status.code(), Some(0));
    gone(&children).await;
    assert!(!dir.path().join(".dues/devnet.json").exists());
    // And the next start is none the worse for it.
    let (dues, manifest) = Dues::devnet(dir.path()).await;
    assert_eq!(api(&manifest).get("/readyz").await.status, 200);
    assert_eq!(dues.stop(Signal::SIGTERM).await.code(), Some(0));
}

#[tokio::test]
async fn a_second_devnet_in_the_same_directory_is_refused_in_one_line_and_harms_nothing() {
    let dir = scratch();
    let (dues, manifest) = Dues::devnet(dir.path()).await;
    let second = run(dir.path(), &["dev"], &[]).await;
    let line = second.explanation();
    assert!(line.contains("another devnet runs in this data directory"), "{line}");
    assert!(line.contains(&dues.pid.to_string()), "it names the other one: {line}");
    assert_eq!(second.stdout, "");
    assert_eq!(api(&manifest).get("/readyz").await.status, 200);
    assert!(dir.path().join(".dues/devnet.json").exists());
    assert_eq!(dues.stop(Signal::SIGTERM).await.code(), Some(0));
}

#[tokio::test]
async fn a_taken_port_is_said_in_one_line_before_anything_is_started() {
    let dir = scratch();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let refused = run(dir.path(), &["dev", "--api-port", &port], &[]).await;
    let line = refused.explanation();
    assert!(line.contains(&port) && line.contains("--api-port"), "{line}");
    assert!(!dir.path().join(".dues").exists());
}

#[tokio::test]
async fn a_reset_begins_with_a_new_chain_and_a_new_ledger() {
    let dir = scratch();
    let (dues, manifest) = Dues::devnet(dir.path()).await;
    let body = json!({ "external_id": "of-the-old-ledger" });
    assert_eq!(api(&manifest).post("/v1/accounts", &body).await.status, 201);
    assert_eq!(dues.stop(Signal::SIGTERM).await.code(), Some(0));

    let mut dues = Dues::start(dir.path(), &["dev", "--reset"], &[]);
    let manifest = dues.manifest(START).await;
    let old = api(&manifest).get("/v1/accounts?external_id=of-the-old-ledger").await;
    old.assert_problem("an account of the old ledger", 404, "account_not_found");
    let ada = manifest["wallets"][0]["account_id"].as_str().unwrap().parse().unwrap();
    eventually(SOON, "the demo is there", || async {
        let answer = api(&manifest).entitlements(ada).await;
        if answer["tier"] == "premium" { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    assert_eq!(dues.stop(Signal::SIGTERM).await.code(), Some(0));
}
