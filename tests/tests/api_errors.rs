//! What is wrong with a request is said by status and code, and a wrong request writes nothing.

use alloy::primitives::Address;
use dues_tests::{Answer, Stack};
use reqwest::{Method, RequestBuilder, header::CONTENT_TYPE};
use serde_json::{Value, json};
use uuid::Uuid;

struct Case {
    name: String,
    request: RequestBuilder,
    status: u16,
    code: &'static str,
}

/// Requests with the devnet's key.
struct Cases<'a> {
    stack: &'a Stack,
    cases: Vec<Case>,
}

impl Cases<'_> {
    fn add(&mut self, name: &str, request: RequestBuilder, status: u16, code: &'static str) {
        self.cases.push(Case { name: name.to_owned(), request, status, code });
    }

    fn keyed(&self, method: Method, path: &str) -> RequestBuilder {
        self.stack.api.request(method, path).bearer_auth(self.stack.api.key())
    }

    fn get(&mut self, path: &str, status: u16, code: &'static str) {
        let request = self.keyed(Method::GET, path);
        self.add(&format!("GET {path}"), request, status, code);
    }

    fn post(&mut self, path: &str, body: &Value, status: u16, code: &'static str) {
        let request = self.keyed(Method::POST, path).json(body);
        let shown: String = body.to_string().chars().take(80).collect();
        self.add(&format!("POST {path} {shown}"), request, status, code);
    }

    /// What every endpoint with a body refuses about the body itself.
    fn bodies(&mut self, path: &str, good: &Value) {
        let post = |stack: &Stack| stack.api.request(Method::POST, path).bearer_auth(stack.api.key());
        let json =
            |stack: &Stack, body: String| post(stack).header(CONTENT_TYPE, "application/json").body(body);
        let stack = self.stack;
        let text = good.to_string();
        let cases = [
            ("no content type", post(stack).body(text.clone()), 415, "unsupported_media_type"),
            (
                "a form",
                post(stack).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(text.clone()),
                415,
                "unsupported_media_type",
            ),
            (
                "plain text",
                post(stack).header(CONTENT_TYPE, "text/plain").body(text.clone()),
                415,
                "unsupported_media_type",
            ),
            ("no body", json(stack, String::new()), 400, "invalid_json"),
            ("half a body", json(stack, text[..text.len() - 1].to_owned()), 400, "invalid_json"),
            ("two bodies", json(stack, format!("{text}{text}")), 400, "invalid_json"),
            (
                "no UTF-8",
                post(stack).header(CONTENT_TYPE, "application/json").body(vec![b'"', 0xff, b'"']),
                400,
                "invalid_json",
            ),
            ("null", json(stack, "null".into()), 422, "invalid_body"),
            ("a number", json(stack, "1".into()), 422, "invalid_body"),
            ("an empty object", json(stack, "{}".into()), 422, "invalid_body"),
            ("an array of its values", json(stack, json!(["array", null]).to_string()), 422, "invalid_body"),
            (
                "an array of one value",
                json(stack, json!([Address::repeat_byte(3)]).to_string()),
                422,
                "invalid_body",
            ),
            (
                "an unknown field",
                json(stack, text.replacen('{', r#"{"admin":true,"#, 1)),
                422,
                "invalid_body",
            ),
            ("too much", json(stack, format!("{text}{}", " ".repeat(64 * 1024))), 413, "body_too_large"),
        ];
        for (name, request, status, code) in cases {
            self.add(&format!("POST {path} with {name}"), request, status, code);
        }
    }
}

fn all(stack: &Stack, account: Uuid, taken: Address) -> Vec<Case> {
    let mut cases = Cases { stack, cases: Vec::new() };
    let unknown = Uuid::now_v7();
    let accounts = "/v1/accounts";
    cases.bodies(accounts, &json!({ "external_id": "never-made" }));
    for body in [
        json!({ "external_id": null }),
        json!({ "external_id": 42 }),
        json!({ "external_id": "" }),
        json!({ "external_id": "x".repeat(256) }),
        json!({ "external_id": "é".repeat(256) }),
        json!({ "external_id": "nul\u{0}" }),
        json!({ "external_id": "line\nbreak" }),
        json!({ "external_id": "ok", "email": 1 }),
        json!({ "external_id": "ok", "email": "" }),
        json!({ "external_id": "ok", "email": "no-at-sign" }),
        json!({ "external_id": "ok", "email": "a b@example.org" }),
        json!({ "external_id": "ok", "email": format!("{}@example.org", "x".repeat(320)) }),
        json!({ "external_id": "ok", "email": "a@example.org\r\nBcc: b@example.org" }),
        json!({ "email": "ada@example.org" }),
    ] {
        cases.post(accounts, &body, 422, "invalid_body");
    }

    let wallets = format!("/v1/accounts/{account}/wallets");
    let good = json!({ "address": Address::repeat_byte(9) });
    cases.bodies(&wallets, &good);
    for address in [
        "",
        "0x",
        "ada.eth",
        "70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "0X70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "0x70997970C51812dc3A010C7d01b50e0d17dc79",
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C8C8",
        "0x70997970C51812dc3A010C7d01b50e0d17dc79Cg",
        " 0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        // One letter's case is wrong: the checksum does not match.
        "0x70997970c51812dc3A010C7d01b50e0d17dc79C8",
        "0x0000000000000000000000000000000000000000",
    ] {
        cases.post(&wallets, &json!({ "address": address }), 400, "invalid_address");
    }
    cases.post(&wallets, &json!({ "address": 5 }), 422, "invalid_body");
    cases.post(&wallets, &json!({ "address": taken }), 409, "wallet_taken");
    cases.post(&format!("/v1/accounts/{unknown}/wallets"), &good, 404, "account_not_found");
    let both = json!({ "address": taken });
    cases.post(&format!("/v1/accounts/{unknown}/wallets"), &both, 404, "account_not_found");
    cases.post("/v1/accounts/nobody/wallets", &good, 400, "invalid_id");

    let challenge = format!("{wallets}/challenge");
    let asked = json!({ "address": Address::repeat_byte(9), "chain_id": 31_337 });
    for path in [&challenge, "/api/session/challenge"] {
        cases.bodies(path, &asked);
        for address in ["", "ada.eth", "0x70997970c51812dc3A010C7d01b50e0d17dc79C8"] {
            cases.post(path, &json!({ "address": address, "chain_id": 1 }), 400, "invalid_address");
        }
        for chain_id in [json!(null), json!(-1), json!("1"), json!(1.5), json!("0x1")] {
            let body = json!({ "address": taken, "chain_id": chain_id });
            cases.post(path, &body, 422, "invalid_body");
        }
    }
    let other_purpose = json!({ "address": taken, "chain_id": 1, "purpose": "sign_in" });
    cases.post(&challenge, &other_purpose, 422, "invalid_body");
    cases.post(&format!("/v1/accounts/{unknown}/wallets/challenge"), &asked, 404, "account_not_found");
    cases.post("/v1/accounts/nobody/wallets/challenge", &asked, 400, "invalid_id");

    let signed = json!({ "message": "I am Ada", "signature": "0x00" });
    cases.post(&wallets, &signed, 422, "challenge_invalid");
    cases.post(
        "/api/session",
        &json!({ "message": "I am Ada", "signature": "0x00", "delivery": "token" }),
        422,
        "challenge_invalid",
    );
    cases.post("/api/session", &signed, 403, "cross_site");
    cases.bodies("/api/session", &signed);
    for body in [
        json!({ "message": "I am Ada" }),
        json!({ "signature": "0x00" }),
        json!({ "address": taken, "message": "I am Ada", "signature": "0x00" }),
        json!({ "message": 1, "signature": "0x00" }),
        json!({ "message": null, "signature": null }),
    ] {
        cases.post(&wallets, &body, 422, "invalid_body");
    }
    cases.post(
        "/api/session",
        &json!({ "message": "", "signature": "", "delivery": "mail" }),
        422,
        "invalid_body",
    );

    let sessions = format!("/v1/accounts/{account}/sessions");
    for ttl in [json!(0), json!(-1), json!(86_401), json!("900"), json!(1.5), json!(99_999_999_999_u64)] {
        cases.post(&sessions, &json!({ "ttl_seconds": ttl }), 422, "invalid_body");
    }
    cases.post(&sessions, &json!({ "wallet": taken }), 422, "invalid_body");
    cases.post(&format!("/v1/accounts/{unknown}/sessions"), &json!({}), 404, "account_not_found");
    cases.post("/v1/accounts/nobody/sessions", &json!({}), 400, "invalid_id");

    for (path, status, code) in [
        (format!("{wallets}/{}", Address::repeat_byte(9)), 404, "wallet_not_found"),
        (format!("{wallets}/{taken}"), 404, "wallet_not_found"),
        (format!("{wallets}/ada"), 400, "invalid_address"),
        (format!("{wallets}/%FF"), 400, "invalid_id"),
        (format!("/v1/accounts/{unknown}/wallets/{taken}"), 404, "account_not_found"),
        (format!("/v1/accounts/nobody/wallets/{taken}"), 400, "invalid_id"),
    ] {
        let request = cases.keyed(Method::DELETE, &path);
        cases.add(&format!("DELETE {path}"), request, status, code);
    }
    for (body, status, code) in [
        (signed, 422, "challenge_invalid"),
        (json!({}), 422, "invalid_body"),
        (json!([]), 422, "invalid_body"),
    ] {
        let path = format!("{wallets}/{}", Address::repeat_byte(9));
        let request = cases.keyed(Method::DELETE, &path).json(&body);
        cases.add(&format!("DELETE {path} {body}"), request, status, code);
    }
    cases.get("/api/subscription", 401, "no_session");
    let request = cases.keyed(Method::DELETE, "/api/session");
    cases.add("DELETE /api/session with an API key", request, 401, "no_session");

    let simple = account.simple().to_string();
    let bad_ids = ["nobody", "1", "00000000-0000-0000-0000-00000000000g", "%00", "%FF", "..%2f..", &simple];
    for tail in ["", "/transactions", "/entitlements"] {
        for id in bad_ids {
            cases.get(&format!("/v1/accounts/{id}{tail}"), 400, "invalid_id");
        }
        cases.get(&format!("/v1/accounts/{unknown}{tail}"), 404, "account_not_found");
        cases.get(&format!("/v1/accounts/{}{tail}", Uuid::nil()), 404, "account_not_found");
    }

    for page in [
        "limit=0",
        "limit=101",
        "limit=-1",
        "limit=ten",
        "limit=",
        "limit=1.5",
        "limit=99999999999",
        "cursor=here",
        "cursor=",
        "page=2",
        "limit=1&limit=2",
    ] {
        cases.get(&format!("/v1/accounts/{account}/transactions?{page}"), 400, "invalid_query");
    }

    for find in ["/v1/accounts", "/v1/entitlements"] {
        for query in [
            "",
            "?",
            "?name=ada",
            "?external_id=ada&limit=1",
            "?external_id=a&external_id=b",
            "?external_id=ada&wallet=0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        ] {
            cases.get(&format!("{find}{query}"), 400, "invalid_query");
        }
        for wallet in [
            "",
            "ada",
            "0x1",
            "0x0000000000000000000000000000000000000000",
            "0x70997970c51812dc3A010C7d01b50e0d17dc79C8",
        ] {
            cases.get(&format!("{find}?wallet={wallet}"), 400, "invalid_address");
        }
        for nobody in [
            "external_id=nobody",
            "external_id=",
            "external_id=%00",
            "external_id=%FF",
            "wallet=0x1111111111111111111111111111111111111111",
        ] {
            cases.get(&format!("{find}?{nobody}"), 404, "account_not_found");
        }
    }

    let account = account.to_string();
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/nothing",
        "/v1/accounts/",
        "/v2/accounts",
        "/V1/accounts",
        "//v1/accounts",
        &format!("/v1/accounts/{account}/"),
        &format!("/v1/accounts/{account}/wallets/x/y"),
        "/api",
        "/api/nothing",
        "/docs/nothing",
    ] {
        cases.get(path, 404, "route_not_found");
    }
    let nothing = stack.api.request(Method::GET, "/v1/nothing");
    cases.add("an unknown path without a key", nothing, 404, "route_not_found");
    for (method, path) in [
        (Method::DELETE, "/v1/accounts"),
        (Method::PUT, "/v1/accounts"),
        (Method::PATCH, &*format!("/v1/accounts/{account}")),
        (Method::DELETE, &format!("/v1/accounts/{account}")),
        (Method::GET, &format!("/v1/accounts/{account}/wallets")),
        (Method::POST, &format!("/v1/accounts/{account}/entitlements")),
        (Method::POST, &format!("/v1/accounts/{account}/transactions")),
        (Method::GET, &format!("/v1/accounts/{account}/wallets/x")),
        (Method::GET, "/api/session"),
        (Method::POST, "/api/plans"),
        (Method::POST, "/v1/entitlements"),
        (Method::OPTIONS, "/v1/accounts"),
        (Method::POST, "/healthz"),
        (Method::POST, "/readyz"),
        (Method::POST, "/openapi.json"),
    ] {
        let request = cases.keyed(method.clone(), path);
        cases.add(&format!("{method} {path}"), request, 405, "method_not_allowed");
    }
    cases.cases
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_request_is_answered_with_its_problem_and_writes_nothing() {
    let stack = Stack::start().await;
    let (account, _) = stack.customer(1).await;
    let (_, other) = stack.customer(2).await;
    let owner = stack.api.account("customer-2").await;
    assert_eq!(stack.api.link(owner.id, other.address()).await.status, 201);
    stack.synced().await;
    let mut before = stack.ledger.digest().await;
    let mut wrong = Vec::new();
    for Case { name, request, status, code } in all(&stack, account.id, other.address()) {
        let answer = Answer::to(request).await;
        // All of them together: a table is mended in one go.
        if (answer.status, answer.body["code"].as_str()) != (status, Some(code))
            || answer.content_type() != "application/problem+json"
        {
            let Answer { status: found, body, .. } = &answer;
            wrong.push(format!(
                "{name}: {status} {code} was due, there is {found} {} {body}",
                answer.content_type()
            ));
        } else {
            answer.assert_problem(&name, status, code);
        }
        let after = stack.ledger.digest().await;
        if after != before {
            wrong.push(format!("{name}: it wrote something"));
            before = after;
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_never_tells_of_the_inside_and_is_never_cached() {
    let stack = Stack::start().await;
    let answer = stack.api.post("/v1/accounts", &json!({ "external_id": 42 })).await;
    answer.assert_problem("a number for a text", 422, "invalid_body");
    let text = answer.body.to_string();
    for inside in ["serde", "axum", "sqlx", "UpsertAccount", "dues_api", "target type"] {
        assert!(!text.contains(inside), "{inside} is in {text}");
    }
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requests_id_is_ours_whatever_the_caller_sends() {
    let stack = Stack::start().await;
    let request = stack.api.request(Method::GET, "/healthz").header("x-request-id", "mine");
    let id = Answer::to(request).await.headers["x-request-id"].to_str().unwrap().to_owned();
    assert!(id.parse::<Uuid>().is_ok(), "{id} would be written to our logs");
}
