//! The life of API keys, as an operator leads it.

use dues_tests::{SOON, Stack, eventually};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Outcome, run, scratch};

const URL: &str = "DUES__DATABASE__URL";

struct Keys {
    stack: Stack,
    dir: TempDir,
}

impl Keys {
    async fn new() -> Self {
        Self { stack: Stack::start().await, dir: scratch() }
    }

    async fn key(&self, args: &[&str]) -> Outcome {
        let url = self.stack.site().database.url().expose_secret();
        run(self.dir.path(), &[&["key"], args].concat(), &[(URL, url)]).await
    }

    /// The secret of a new key, and its id.
    async fn create(&self, name: &str, args: &[&str]) -> (String, String) {
        let args = [&["create", "--name", name, "--scope", "accounts:read"], args].concat();
        let made = self.key(&args).await;
        assert_eq!(made.code, Some(0), "{made:?}");
        let id = self.of(name).await.pop().unwrap()["id"].as_str().unwrap().to_owned();
        (made.stdout.trim_end().to_owned(), id)
    }

    /// What the list says of the keys of a name, oldest first.
    async fn of(&self, name: &str) -> Vec<Value> {
        let listed = self.key(&["list", "--json"]).await;
        let document: Value = serde_json::from_str(&listed.stdout).unwrap();
        let keys = document["keys"].as_array().unwrap();
        keys.iter().filter(|key| key["name"] == name).cloned().collect()
    }

    async fn works(&self, secret: &str) -> bool {
        let account = self.stack.api.account("somebody").await.id;
        let answer = self.stack.api.with_key(secret).get(&format!("/v1/accounts/{account}")).await;
        match answer.status {
            200 => true,
            401 => {
                answer.assert_problem("an ended key", 401, "unauthenticated");
                false
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_without_their_secrets_and_end_when_they_are_revoked() {
    let keys = Keys::new().await;
    let (secret, id) = keys.create("reader", &["--expires", "90d"]).await;
    let listed = keys.of("reader").await.remove(0);
    assert_eq!(listed["last_used_at"], Value::Null);
    assert!(keys.works(&secret).await);
    // Noted beside the request, not in its way.
    eventually(SOON, "its use is noted", || async {
        let listed = keys.of("reader").await.remove(0);
        if listed["last_used_at"].is_string() { Ok(()) } else { Err(listed.to_string()) }
    })
    .await;
    assert_eq!(
        (&listed["state"], &listed["scopes"]),
        (&"good".into(), &serde_json::json!(["accounts:read"]))
    );
    assert!(secret.starts_with(listed["prefix"].as_str().unwrap()));
    let lines = keys.key(&["list"]).await;
    assert!(lines.stdout.contains(&id) && lines.stdout.contains("good  reader"), "{lines:?}");
    for shown in [lines.stdout, keys.key(&["list", "--json"]).await.stdout] {
        assert!(!shown.contains(&secret[16..]), "{shown}");
    }

    assert_eq!(keys.key(&["revoke", &id]).await.code, Some(0));
    assert!(!keys.works(&secret).await);
    assert_eq!(keys.of("reader").await[0]["state"], "revoked");
    let again = keys.key(&["revoke", &id]).await;
    assert!(again.code == Some(0) && again.stdout.contains("before"), "{again:?}");
    let unknown = keys.key(&["revoke", "0198c0de-0000-7000-8000-000000000007"]).await;
    assert!(unknown.explanation().contains("no such API key"), "{unknown:?}");
    let over = keys.key(&["rotate", &id]).await;
    assert!(over.explanation().contains("was revoked"), "{over:?}");
    let audited =
        keys.stack.ledger.count("SELECT count(*) FROM ledger.audit_log WHERE action = 'api_key.revoke'");
    assert_eq!(audited.await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_goes_on_for_the_overlap_and_the_new_one_has_its_scopes() {
    let keys = Keys::new().await;
    let (old, id) = keys.create("server", &["--expires", "90d"]).await;
    let made = keys.key(&["rotate", &id]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let new = made.stdout.trim_end().to_owned();
    assert!(old != new && keys.works(&old).await && keys.works(&new).await);
    let listed = keys.of("server").await;
    assert_eq!((listed.len(), &listed[1]["scopes"]), (2, &listed[0]["scopes"]));
    let time = |value: &Value| value.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let created = time(&listed[1]["created_at"]);
    assert_eq!((time(&listed[0]["expires_at"]) - created).num_hours(), 23, "a day, less a moment");
    assert_eq!(
        (time(&listed[1]["expires_at"]) - created).num_days(),
        89,
        "as long as the old one was made for"
    );
    // Without an overlap, at once.
    let third = keys.key(&["rotate", listed[1]["id"].as_str().unwrap(), "--overlap", "0h"]).await;
    assert!(!keys.works(&new).await && keys.works(third.stdout.trim_end()).await);
    assert_eq!(keys.of("server").await[1]["state"], "expired");
    // A rotation does not lengthen the life of the old one.
    let later = keys.key(&["rotate", &id, "--overlap", "3000d"]).await;
    assert_eq!(later.code, Some(0), "{later:?}");
    assert_eq!(keys.of("server").await[0]["expires_at"], listed[0]["expires_at"]);
}
