//! What is wrong with a request is said by status and code, and a wrong request writes nothing.

use std::{num::NonZeroU32, sync::Arc};

use alloy::primitives::Address;
use dues_api::{clock::SystemClock, limits::RateLimit};
use dues_tests::{Answer, ApiServer, Database, SOON, Stack, catalogue, eventually};
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

/// What is wrong with usage.
fn usage(cases: &mut Cases<'_>, account: Uuid) {
    let good = json!({ "external_id": "customer-1", "event_id": "never" });
    let with = |more: Value| {
        let mut body = good.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let (events, holds) = ("/v1/usage", "/v1/usage/reservations");
    for path in [events, holds] {
        cases.bodies(path, &with(json!({ "tokens": 1 })));
        for more in [
            // Nothing, less than nothing, and what nobody can mean.
            json!({}),
            json!({ "requests": 0, "tokens": 0 }),
            json!({ "requests": -1 }),
            json!({ "tokens": -523 }),
            json!({ "requests": 1, "tokens": -1 }),
            json!({ "requests": 1.5 }),
            json!({ "requests": "1" }),
            json!({ "requests": null, "tokens": 1 }),
            json!({ "requests": 1_000_000_001 }),
            json!({ "tokens": 4_294_967_297_u64 }),
            json!({ "tokens": u64::MAX }),
            json!({ "tokens": 1e30 }),
            json!({ "tokens": 1, "event_id": "" }),
            json!({ "tokens": 1, "event_id": "x".repeat(129) }),
            json!({ "tokens": 1, "event_id": "nul\u{0}" }),
            json!({ "tokens": 1, "event_id": "line\nbreak" }),
            json!({ "tokens": 1, "event_id": 5 }),
            json!({ "tokens": 1, "event_id": null }),
            // One name, and only one.
            json!({ "tokens": 1, "external_id": null }),
            json!({ "tokens": 1, "account_id": account }),
            json!({ "tokens": 1, "wallet": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8" }),
            json!({ "tokens": 1, "external_id": null, "account_id": "nobody" }),
            json!({ "tokens": 1, "external_id": null, "account_id": account.simple().to_string() }),
        ] {
            cases.post(path, &with(more), 422, "invalid_body");
        }
        for more in [
            json!({ "tokens": 1, "external_id": "nobody" }),
            json!({ "tokens": 1, "external_id": "nul\u{0}" }),
            json!({ "tokens": 1, "external_id": null, "account_id": Uuid::now_v7() }),
            json!({ "tokens": 1, "external_id": null, "wallet": Address::repeat_byte(0x55) }),
        ] {
            cases.post(path, &with(more), 404, "account_not_found");
        }
        let wallet = json!({ "tokens": 1, "external_id": null, "wallet": "0x12" });
        cases.post(path, &with(wallet), 400, "invalid_address");
        for more in
            [json!({ "requests": 101 }), json!({ "tokens": 10_001 }), json!({ "tokens": 1_000_000_000 })]
        {
            cases.post(path, &with(more), 402, "quota_exceeded");
        }
    }
    for at in ["yesterday", "2027-01-01", "2027-02-30T00:00:00Z", "2027-01-01T00:00:00"] {
        cases.post(events, &with(json!({ "tokens": 1, "occurred_at": at })), 422, "invalid_body");
    }
    for (at, code) in [
        ("1970-01-01T00:00:00Z", "event_too_late"),
        ("0001-01-01T00:00:00Z", "event_too_late"),
        ("9999-12-31T23:59:59Z", "event_too_early"),
    ] {
        cases.post(events, &with(json!({ "tokens": 1, "occurred_at": at })), 422, code);
    }
    for more in [json!({ "conversations": 1 }), json!({ "tokens": 1, "occurred_at": "2027-01-01T00:00:00Z" })]
    {
        cases.post(holds, &with(more), 422, "invalid_body");
    }
    for seconds in [json!(0), json!(-1), json!(86_401), json!("60"), json!(1.5)] {
        cases.post(holds, &with(json!({ "tokens": 1, "expires_in_seconds": seconds })), 422, "invalid_body");
    }
    let nobodys = "rsv_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let settled = json!({ "requests": 1, "tokens": 1 });
    cases.bodies(&format!("{holds}/{nobodys}/settle"), &settled);
    cases.post(&format!("{holds}/{nobodys}/settle"), &settled, 404, "reservation_not_found");
    cases.post(
        &format!("{holds}/{nobodys}/settle"),
        &json!({ "requests": -1, "tokens": 1 }),
        422,
        "invalid_body",
    );
    cases.post(&format!("{holds}/{nobodys}/release"), &json!({}), 404, "reservation_not_found");
    for id in ["x", "rsv_", &nobodys[..40], &format!("{nobodys}A"), &account.to_string(), "%FF"] {
        cases.post(&format!("{holds}/{id}/settle"), &settled, 400, "invalid_id");
        cases.post(&format!("{holds}/{id}/release"), &settled, 400, "invalid_id");
    }
    for events in [json!([]), json!({}), json!(null), json!(vec![json!({}); 1_001])] {
        cases.post("/v1/usage/batch", &json!({ "events": events }), 422, "invalid_body");
    }
    cases.post("/v1/usage/batch", &json!({ "events": [], "more": 1 }), 422, "invalid_body");
    let request = cases.keyed(Method::POST, "/v1/usage/batch").header(CONTENT_TYPE, "application/json");
    cases.add("a batch of a megabyte", request.body(" ".repeat(1_048_577)), 413, "body_too_large");
    for query in [
        "from=yesterday",
        "from=2027-13-01",
        "to=",
        "days=5",
        "from=2027-01-02&to=2027-01-01",
        "from=2026-01-01&to=2027-01-03",
        "from=-5000-01-01&to=-5000-01-02",
        "to=%2B99999-01-01",
    ] {
        cases.get(&format!("/v1/accounts/{account}/usage?{query}"), 400, "invalid_query");
    }
}

/// What is wrong with signed intents before anybody simulates them.
fn relay(cases: &mut Cases<'_>, account: Uuid) {
    let (path, unknown) = ("/v1/relay", Uuid::now_v7());
    for id in ["nobody", "1", "%00", &account.simple().to_string()] {
        cases.get(&format!("/v1/relay/{id}"), 400, "invalid_id");
    }
    for id in [unknown, account, Uuid::nil()] {
        cases.get(&format!("/v1/relay/{id}"), 404, "relay_not_found");
    }
    let named = |account: Uuid| format!("0x{:0>64}", account.simple().to_string());
    let subscribe = json!({
        "intent": {
            "kind": "subscribe", "payer": Address::repeat_byte(5), "onchain_plan_id": 1, "reference": named(account),
            "count": 0, "renews": true, "nonce": "0", "deadline": "99999999999",
        },
        "signature": format!("0x{}", "ab".repeat(65)),
    });
    let other = |kind: &str, fields: Value| {
        let mut intent = fields;
        intent["kind"] = json!(kind);
        intent["nonce"] = json!("0");
        intent["deadline"] = json!("99999999999");
        json!({ "intent": intent, "signature": "0x" })
    };
    let change =
        other("change", json!({ "onchain_id": 4000, "onchain_plan_id": 1, "count": 0, "max_amount": "0" }));
    let cancel = other("cancel", json!({ "onchain_id": "4000", "at_once": true }));
    cases.bodies(path, &subscribe);

    let permit = |value: &str, signature: String| json!({ "kind": "eip2612", "value": value, "deadline": "1", "signature": signature });
    let good = format!("0x{}1b", "ab".repeat(64));
    let permit2 = json!({
        "kind": "permit2", "value": "1", "expiration": "281474976710656", "nonce": "0", "signature_deadline": "1",
        "signature": "0x",
    });
    let with = |body: &Value, pointer: &str, value: Value| {
        let mut body = body.clone();
        match body.pointer_mut(pointer) {
            Some(old) => *old = value,
            None => body[pointer.trim_start_matches('/')] = value,
        }
        body
    };
    let far = "9".repeat(78);
    for (body, pointer, value, status, code) in [
        (&subscribe, "/intent", json!({}), 422, "invalid_body"),
        (&subscribe, "/intent", json!({ "kind": "call", "data": "0x" }), 422, "invalid_body"),
        (&subscribe, "/intent/kind", json!("cancel"), 422, "invalid_body"),
        (&subscribe, "/intent/payer", json!(5), 422, "invalid_body"),
        (&subscribe, "/intent/payer", json!("0x12"), 400, "invalid_address"),
        (&subscribe, "/intent/payer", json!(Address::ZERO), 400, "invalid_address"),
        (&subscribe, "/intent/onchain_plan_id", json!(-1), 422, "invalid_body"),
        (&subscribe, "/intent/onchain_plan_id", json!("4294967296"), 422, "invalid_body"),
        (&subscribe, "/intent/onchain_plan_id", json!("4294967295"), 422, "plan_not_sold"),
        (&subscribe, "/intent/onchain_plan_id", json!(0), 422, "plan_not_sold"),
        (&subscribe, "/intent/reference", json!("0x12"), 422, "invalid_body"),
        (&subscribe, "/intent/reference", json!(named(account)[2..]), 422, "invalid_body"),
        (&subscribe, "/intent/reference", json!(named(unknown)), 404, "account_not_found"),
        (&subscribe, "/intent/count", json!(65536), 422, "invalid_body"),
        (&subscribe, "/intent/count", json!("1"), 422, "invalid_body"),
        (&subscribe, "/intent/renews", json!("yes"), 422, "invalid_body"),
        (&subscribe, "/intent/nonce", json!(1.5), 422, "invalid_body"),
        (&subscribe, "/intent/nonce", json!("0x1"), 422, "invalid_body"),
        (&subscribe, "/intent/nonce", json!(far), 422, "invalid_body"),
        (&subscribe, "/intent/deadline", json!(null), 422, "invalid_body"),
        (&subscribe, "/intent/deadline", json!("1"), 422, "intent_expired"),
        (&subscribe, "/signature", json!("abab"), 422, "malformed_signature"),
        (&subscribe, "/signature", json!("0xab0"), 422, "malformed_signature"),
        (&subscribe, "/signature", json!("0xéé"), 422, "malformed_signature"),
        (&subscribe, "/signature", json!(format!("0x{}", "ab".repeat(4097))), 422, "malformed_signature"),
        (&subscribe, "/signature", json!(null), 422, "invalid_body"),
        (&subscribe, "/permit", json!({}), 422, "invalid_body"),
        (&subscribe, "/permit", permit("1", "0x".into()), 422, "malformed_signature"),
        (&subscribe, "/permit", permit("1", format!("0x{}05", "ab".repeat(64))), 422, "malformed_signature"),
        (&subscribe, "/permit", permit("-1", good.clone()), 422, "invalid_body"),
        (&subscribe, "/permit", permit2, 422, "invalid_body"),
        (&subscribe, "/chain_id", json!(1), 422, "unknown_chain"),
        (&subscribe, "/chain_id", json!("31337"), 422, "invalid_body"),
        (&subscribe, "/contract", json!(Address::repeat_byte(1)), 422, "unknown_chain"),
        (&subscribe, "/contract", json!("0x1"), 400, "invalid_address"),
        (&subscribe, "/to", json!(Address::repeat_byte(1)), 422, "invalid_body"),
        (&subscribe, "/data", json!("0x"), 422, "invalid_body"),
        (&change, "/signature", json!("0x"), 404, "subscription_not_found"),
        (
            &change,
            "/intent/max_amount",
            json!("340282366920938463463374607431768211456"),
            422,
            "invalid_body",
        ),
        (&cancel, "/signature", json!("0x"), 404, "subscription_not_found"),
        (&cancel, "/intent/onchain_id", json!(u64::MAX), 404, "subscription_not_found"),
        (&cancel, "/intent/onchain_id", json!(u64::MAX.to_string() + "0"), 422, "invalid_body"),
        (&cancel, "/permit", permit("1", good), 422, "invalid_body"),
    ] {
        let body = with(body, pointer, value);
        let shown: String = body.pointer(pointer).unwrap().to_string().chars().take(60).collect();
        let request = cases.keyed(Method::POST, path).json(&body);
        cases.add(&format!("POST {path} with {pointer} {shown}"), request, status, code);
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
        for chain_id in [json!(null), json!(-1), json!("1"), json!(1.5), json!("0x1"), json!(1_u64 << 63)] {
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
        (format!("/v1/accounts/{unknown}/sessions"), 404, "account_not_found"),
        ("/v1/accounts/nobody/sessions".to_owned(), 400, "invalid_id"),
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
    for tail in ["", "/transactions", "/entitlements", "/usage"] {
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

    let batch = "/v1/entitlements/batch";
    for accounts in [json!([]), json!({}), json!(null), json!(vec![json!({}); 1_001])] {
        cases.post(batch, &json!({ "accounts": accounts }), 422, "invalid_body");
    }
    cases.post(batch, &json!({ "accounts": [{ "external_id": "x" }], "more": 1 }), 422, "invalid_body");
    let request = cases.keyed(Method::POST, batch).header(CONTENT_TYPE, "application/json");
    cases.add("names of a megabyte", request.body(" ".repeat(1_048_577)), 413, "body_too_large");

    for (name, key) in [("empty", String::new()), ("long", "x".repeat(256)), ("spaced", "a b".into())] {
        let request = cases.keyed(Method::POST, accounts).header("idempotency-key", key);
        let request = request.json(&json!({ "external_id": "never-made" }));
        cases.add(&format!("{name} Idempotency-Key"), request, 400, "invalid_idempotency_key");
    }
    let request =
        cases.keyed(Method::POST, accounts).header("idempotency-key", "a").header("idempotency-key", "b");
    let request = request.json(&json!({ "external_id": "never-made" }));
    cases.add("two of Idempotency-Key", request, 400, "invalid_idempotency_key");

    usage(&mut cases, account);
    relay(&mut cases, account);

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
        (Method::GET, "/v1/entitlements/batch"),
        (Method::GET, "/v1/usage"),
        (Method::GET, "/v1/usage/batch"),
        (Method::POST, &format!("/v1/accounts/{account}/usage")),
        (Method::GET, "/v1/relay"),
        (Method::POST, &format!("/v1/relay/{unknown}")),
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
    // The first thing that is asked of an account opens its counters, also where it is refused.
    let first = json!({ "external_id": "customer-1", "event_id": "first", "conversations": 1 });
    assert_eq!(stack.api.post("/v1/usage", &first).await.status, 200);
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
async fn a_key_that_asks_too_much_is_told_when_to_go_on_and_others_are_not_held_up() {
    let database = Database::fresh().await;
    let number = |number| NonZeroU32::new(number).unwrap();
    let limit = RateLimit { per_second: number(1), burst: number(3) };
    let clock = Arc::new(SystemClock);
    let server = ApiServer::limited(&database, &database, clock.clone(), catalogue(), Some(limit)).await;
    let other = ApiServer::limited(&database, &database, clock, catalogue(), Some(limit)).await;
    let another_key = server.api.with_key(other.api.key());

    let body = json!({ "external_id": "customer-1" });
    let first = server.api.post("/v1/accounts", &body).await;
    assert_eq!(first.headers["ratelimit-policy"], "\"key\";q=3;w=3");
    assert_eq!(first.headers["ratelimit"], "\"key\";r=2;t=1");
    // Also a refused request takes a token: all that a key may do is asking.
    server.api.get("/v1/accounts/nobody").await.assert_problem("no id", 400, "invalid_id");
    let refused = eventually(SOON, "there is nothing left", || async {
        let answer = server.api.post("/v1/accounts", &json!({ "external_id": "too-much" })).await;
        if answer.status == 429 { Ok(answer) } else { Err(answer.status.to_string()) }
    })
    .await;
    refused.assert_problem("one too many", 429, "rate_limited");
    assert_eq!(refused.headers["retry-after"], "1");
    assert!(refused.headers["ratelimit"].to_str().unwrap().starts_with("\"key\";r=0;t="), "{refused:?}");
    assert_eq!(another_key.post("/v1/accounts", &body).await.status, 200);
    // Health is asked for without a key, as often as anybody likes.
    for _ in 0..10 {
        let answer = Answer::to(server.api.request(Method::GET, "/healthz")).await;
        assert!(answer.status == 200 && !answer.headers.contains_key("ratelimit"), "{answer:?}");
    }
    eventually(SOON, "a token comes back", || async {
        let answer = server.api.post("/v1/accounts", &body).await;
        if answer.status == 200 { Ok(()) } else { Err(answer.status.to_string()) }
    })
    .await;
    server.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requests_id_is_ours_whatever_the_caller_sends() {
    let stack = Stack::start().await;
    let request = stack.api.request(Method::GET, "/healthz").header("x-request-id", "mine");
    let id = Answer::to(request).await.headers["x-request-id"].to_str().unwrap().to_owned();
    assert!(id.parse::<Uuid>().is_ok(), "{id} would be written to our logs");
}
