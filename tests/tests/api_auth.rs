//! Who may call what. The table below must name every endpoint of the OpenAPI document.

use std::collections::BTreeSet;

use alloy::primitives::Address;
use chrono::{DateTime, Utc};
use dues_api::auth::ApiKeySecret;
use dues_store::{Actor, NewApiKey, Scope, Store};
use dues_tests::{Account, Answer, SOON, Stack, eventually};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

/// An endpoint that needs a key, and a request that would succeed with one of `scope`.
struct Endpoint {
    method: Method,
    /// As the OpenAPI document has it.
    path: &'static str,
    query: &'static str,
    body: Option<Value>,
    scope: Scope,
}

fn endpoints() -> Vec<Endpoint> {
    let get = |path, query, scope| Endpoint { method: Method::GET, path, query, body: None, scope };
    let to = |path, body, scope| Endpoint { method: Method::POST, path, query: "", body: Some(body), scope };
    let post = |path, body| to(path, body, Scope::AccountsWrite);
    let count = |path, body| to(path, body, Scope::UsageWrite);
    let event = json!({ "external_id": "customer-1", "event_id": "once", "requests": 1, "tokens": 2 });
    let settled = json!({ "requests": 1, "tokens": 2 });
    // Nobody is there to send it.
    let relay = json!({
        "intent": {
            "kind": "subscribe", "payer": Address::repeat_byte(0x66), "onchain_plan_id": "1", "reference": "{reference}",
            "count": 0, "renews": true, "nonce": "0", "deadline": "99999999999",
        },
        "signature": "0x00",
    });
    vec![
        post("/v1/accounts", json!({ "external_id": "customer-1", "email": "new@example.org" })),
        post("/v1/accounts/{id}/wallets", json!({ "address": Address::repeat_byte(0x77) })),
        post(
            "/v1/accounts/{id}/wallets/challenge",
            json!({ "address": Address::repeat_byte(0x77), "chain_id": 1 }),
        ),
        Endpoint { method: Method::DELETE, body: None, ..post(UNLINK, Value::Null) },
        Endpoint {
            scope: Scope::SessionsWrite,
            ..post("/v1/accounts/{id}/sessions", json!({ "ttl_seconds": 60 }))
        },
        Endpoint {
            method: Method::DELETE,
            body: None,
            scope: Scope::SessionsWrite,
            ..post("/v1/accounts/{id}/sessions", Value::Null)
        },
        get("/v1/plans", "", Scope::EntitlementsRead),
        get("/v1/accounts", "?external_id=customer-1", Scope::AccountsRead),
        get("/v1/accounts/{id}", "", Scope::AccountsRead),
        get("/v1/accounts/{id}/transactions", "", Scope::AccountsRead),
        get("/v1/accounts/{id}/entitlements", "", Scope::EntitlementsRead),
        get("/v1/entitlements", "?external_id=customer-1", Scope::EntitlementsRead),
        Endpoint {
            scope: Scope::EntitlementsRead,
            ..post("/v1/entitlements/batch", json!({ "accounts": [{ "external_id": "customer-1" }] }))
        },
        count("/v1/usage", event.clone()),
        count("/v1/usage/batch", json!({ "events": [event] })),
        count("/v1/usage/reservations", event),
        count("/v1/usage/reservations/{id}/settle", settled),
        Endpoint { body: None, ..count("/v1/usage/reservations/{id}/release", Value::Null) },
        get("/v1/accounts/{id}/usage", "", Scope::UsageRead),
        Endpoint { scope: Scope::RelayWrite, ..post("/v1/relay", relay) },
        get("/v1/relay/{relay_id}", "", Scope::RelayWrite),
    ]
}

/// Done once, there is nothing left to do.
const UNLINK: &str = "/v1/accounts/{id}/wallets/{address}";
/// An intent that is there to be read.
const RELAY_ID: Uuid = Uuid::from_u128(7);

/// Endpoints that need none.
const PUBLIC: [(&str, &str); 5] = [
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/api/plans"),
    ("post", "/api/session/challenge"),
    ("post", "/api/session"),
];

/// Endpoints that need a session instead: see `identity.rs`.
const OF_END_USERS: [(&str, &str); 3] =
    [("delete", "/api/session"), ("get", "/api/subscription"), ("get", "/api/usage")];

/// Reservations to be settled and released.
struct Holds {
    settled: String,
    released: String,
}

impl Holds {
    async fn new(stack: &Stack) -> Self {
        let hold = async |name: &str| {
            let body = json!({ "external_id": "customer-1", "event_id": name, "requests": 1, "tokens": 2 });
            let answer = stack.api.post("/v1/usage/reservations", &body).await.ok();
            answer["reservation"]["id"].as_str().unwrap().to_owned()
        };
        Self { settled: hold("settled").await, released: hold("released").await }
    }
}

impl Endpoint {
    fn request(&self, stack: &Stack, account: Account, holds: &Holds) -> RequestBuilder {
        let id = match self.path {
            "/v1/usage/reservations/{id}/settle" => holds.settled.clone(),
            "/v1/usage/reservations/{id}/release" => holds.released.clone(),
            _ => account.id.to_string(),
        };
        let path = self.path.replace("{id}", &id);
        let path = path.replace("{relay_id}", &RELAY_ID.to_string());
        let path = path.replace("{address}", &Address::repeat_byte(0x77).to_string());
        let request = stack.api.request(self.method.clone(), &format!("{path}{}", self.query));
        let request = request.header("prefer", "wait=0");
        let reference = account.reference.to_string();
        match &self.body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(body.to_string().replace("{reference}", &reference)),
            None => request,
        }
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

async fn key(store: &Store, name: &str, scopes: &[Scope], expires_at: Option<DateTime<Utc>>) -> String {
    let secret = ApiKeySecret::generate().unwrap();
    let key = NewApiKey {
        name: name.into(),
        prefix: secret.prefix().into(),
        hash: secret.hash(),
        scopes: scopes.to_vec(),
        expires_at,
    };
    store.create_api_key(&key, Actor::Operator).await.unwrap();
    secret.expose().to_owned()
}

async fn relayed(stack: &Stack, account: Account) {
    sqlx::query(
        "INSERT INTO ledger.relay_intents (id, account_id, chain_id, contract, payer, kind, nonce, intent, status, expires_at)
         VALUES ($1, $2, 1, $3, $3, 'cancel', 0,
                 '{\"kind\": \"cancel\", \"id\": 1, \"at_once\": false, \"nonce\": \"0x0\", \"deadline\": \"0x0\"}',
                 'expired', now())",
    )
    .bind(RELAY_ID)
    .bind(account.id)
    .bind(Address::ZERO.as_slice())
    .execute(stack.ledger.pool())
    .await
    .unwrap();
}

fn instant(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_of_the_openapi_document_is_in_this_files_table() {
    let stack = Stack::start().await;
    let document = Answer::to(stack.api.request(Method::GET, "/openapi.json")).await.ok();
    let (mut protected, mut public, mut of_end_users) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = format!("{method} {path}");
            match &operation["security"][0]["api_key"] {
                Value::Array(scopes) => protected.insert(format!("{name} {scopes:?}")),
                _ if operation["security"][0]["session"].is_array() => of_end_users.insert(name),
                _ => public.insert(name),
            };
        }
    }
    let name = |e: &Endpoint| {
        format!("{} {} {:?}", e.method.as_str().to_lowercase(), e.path, [json!(e.scope.as_str())])
    };
    assert_eq!(protected, endpoints().iter().map(name).collect());
    let named =
        |list: &[(&str, &str)]| list.iter().map(|(method, path)| format!("{method} {path}")).collect();
    assert_eq!(public, named(&PUBLIC));
    assert_eq!(of_end_users, named(&OF_END_USERS));
    for (_, path) in PUBLIC.into_iter().filter(|(method, _)| *method == "get") {
        assert_eq!(Answer::to(stack.api.request(Method::GET, path)).await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_valid_key_is_refused_and_writes_nothing() {
    let stack = Stack::start().await;
    let (account, _) = stack.customer(1).await;
    let holds = Holds::new(&stack).await;
    let store = stack.site().database.store().await;
    let expired = key(&store, "expired", &Scope::ALL, Some(instant("2020-01-01T00:00:00Z"))).await;
    let revoked = key(&store, "revoked", &Scope::ALL, None).await;
    assert_eq!(store.revoke_api_keys("revoked", instant("2026-01-01T00:00:00Z")).await.unwrap(), 1);
    let valid = stack.api.key();
    let stranger = ApiKeySecret::generate().unwrap();
    let headers = [
        ("no key", None),
        ("an empty header", Some(String::new())),
        ("no key after the scheme", Some("Bearer ".into())),
        ("the key without a scheme", Some(valid.to_owned())),
        ("another scheme", Some(format!("Basic {valid}"))),
        ("an unknown key", Some(format!("Bearer {}", stranger.expose()))),
        ("a key and something behind it", Some(format!("Bearer {valid}x"))),
        ("a key that lacks its end", Some(format!("Bearer {}", &valid[..valid.len() - 1]))),
        ("a key in upper case", Some(format!("Bearer {}", valid.to_uppercase()))),
        ("an endless key", Some(format!("Bearer dues_sk_{}", "x".repeat(4_000)))),
        ("an expired key", Some(format!("Bearer {expired}"))),
        ("a revoked key", Some(format!("Bearer {revoked}"))),
    ];
    stack.synced().await;
    let before = stack.ledger.digest().await;
    for endpoint in endpoints() {
        for (name, header) in &headers {
            let case = format!("{} with {name}", endpoint.name());
            let mut request = endpoint.request(&stack, account, &holds);
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            let answer = Answer::to(request).await;
            answer.assert_problem(&case, 401, "unauthenticated");
            assert_eq!(answer.headers["www-authenticate"], "Bearer", "{case}");
            // Whether the account exists is nobody's business without a key.
            let nobody = Account { id: uuid::Uuid::nil(), reference: account.reference };
            Answer::to(endpoint.request(&stack, nobody, &holds)).await.assert_problem(
                &case,
                401,
                "unauthenticated",
            );
        }
    }
    assert_eq!(stack.ledger.digest().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_the_scope_is_refused_and_writes_nothing_and_one_with_only_it_is_enough() {
    let stack = Stack::start().await;
    let (account, _) = stack.customer(1).await;
    let holds = Holds::new(&stack).await;
    relayed(&stack, account).await;
    let store = stack.site().database.store().await;
    let mut keys = Vec::new();
    for scope in Scope::ALL {
        let others: Vec<_> = Scope::ALL.into_iter().filter(|other| *other != scope).collect();
        let far = Some(instant("2126-01-01T00:00:00Z"));
        keys.push((
            scope,
            key(&store, "one", &[scope], far).await,
            key(&store, "others", &others, None).await,
        ));
    }
    let keys_of = |scope| keys.iter().find(|(of, ..)| *of == scope).unwrap();
    stack.synced().await;
    let before = stack.ledger.digest().await;
    for endpoint in endpoints() {
        let (scope, _, others) = keys_of(endpoint.scope);
        let answer = Answer::to(endpoint.request(&stack, account, &holds).bearer_auth(others)).await;
        answer.assert_problem(&endpoint.name(), 403, "insufficient_scope");
        assert!(answer.body["detail"].as_str().unwrap().contains(scope.as_str()), "{answer:?}");
    }
    assert_eq!(stack.ledger.digest().await, before);
    for endpoint in endpoints() {
        let (_, only, _) = keys_of(endpoint.scope);
        let answer = Answer::to(endpoint.request(&stack, account, &holds).bearer_auth(only)).await;
        assert!(matches!(answer.status, 200..=202), "{}: {answer:?}", endpoint.name());
        // The scheme's name has no case (RFC 9110).
        let request =
            endpoint.request(&stack, account, &holds).header("authorization", format!("bEARER {only}"));
        let again = Answer::to(request).await;
        if endpoint.path == UNLINK {
            again.assert_problem(&endpoint.name(), 404, "wallet_not_found");
        } else {
            let due = match endpoint.path {
                "/v1/relay" => 202,
                "/v1/accounts/{id}/sessions" if endpoint.method == Method::POST => 201,
                _ => 200,
            };
            assert_eq!(again.status, due, "{}", endpoint.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_stored_as_a_hash_and_its_use_is_noted() {
    let stack = Stack::start().await;
    let (account, _) = stack.customer(1).await;
    let store = stack.site().database.store().await;
    let secret = key(&store, "noted", &Scope::ALL, None).await;
    let unused = "SELECT count(*) FROM ledger.api_keys WHERE name = 'noted' AND last_used_at IS NULL";
    assert_eq!(stack.ledger.count(unused).await, 1);
    let used = stack.api.with_key(&secret).get(&format!("/v1/accounts/{}", account.id)).await;
    assert_eq!(used.status, 200);
    eventually(SOON, "its use is noted", || async {
        if stack.ledger.count(unused).await == 0 { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;
    let rows: Vec<String> = sqlx::query_scalar("SELECT k::text FROM ledger.api_keys k")
        .fetch_all(stack.ledger.pool())
        .await
        .unwrap();
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(rows.iter().all(|row| !row.contains(&secret) && !row.contains(&hex)));
    let audit: Vec<String> = sqlx::query_scalar("SELECT a::text FROM ledger.audit_log a")
        .fetch_all(stack.ledger.pool())
        .await
        .unwrap();
    assert!(audit.iter().any(|row| row.contains("api_key.create") && row.contains("noted")));
    assert!(audit.iter().all(|row| !row.contains(&secret)));
}
