//! The API, as the platform's server sees it.

use alloy::primitives::{Address, B256};
use reqwest::{
    Method, RequestBuilder,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde_json::{Value, json};
use uuid::Uuid;

/// A client with a key.
#[derive(Debug, Clone)]
pub struct Api {
    url: String,
    key: String,
    client: reqwest::Client,
}

/// An account of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: Uuid,
    /// What a subscription carries on chain to name it.
    pub reference: B256,
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; a string where it is no JSON, null where it is empty.
    pub body: Value,
}

impl Answer {
    /// Sends `request`.
    pub async fn to(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = match serde_json::from_str(&text) {
            Ok(body) => body,
            Err(_) if text.is_empty() => Value::Null,
            Err(_) => Value::String(text),
        };
        Self { status, headers, body }
    }

    /// The `Content-Type`.
    #[must_use]
    pub fn content_type(&self) -> &str {
        self.headers.get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap())
    }

    /// The body of a 200 or 201.
    #[must_use]
    pub fn ok(self) -> Value {
        assert!(matches!(self.status, 200 | 201), "{self:?}");
        self.body
    }

    /// Panics unless this is the problem of `status` and `code`, in the right shape. `case` says which one it was.
    pub fn assert_problem(&self, case: &str, status: u16, code: &str) {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{case}: {self:?}");
        assert_eq!(self.content_type(), "application/problem+json", "{case}");
        assert_eq!(self.body["status"], status, "{case}");
        assert!(self.body["title"].is_string() && self.body["type"].is_string(), "{case}: {self:?}");
        assert!(self.headers.contains_key("x-request-id"), "{case}: {self:?}");
    }
}

impl Api {
    /// A client of the API at `url` with `key`.
    #[must_use]
    pub fn new(url: &str, key: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url: url.to_owned(), key: key.to_owned(), client }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The same with another key.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// A request without a key, for the test to complete.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// `GET`, with the key.
    pub async fn get(&self, path: &str) -> Answer {
        Answer::to(self.request(Method::GET, path).bearer_auth(&self.key)).await
    }

    /// `POST` of JSON, with the key.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::to(self.request(Method::POST, path).bearer_auth(&self.key).json(body)).await
    }

    /// The account with `external_id`, made where there is none.
    pub async fn account(&self, external_id: &str) -> Account {
        let body = self.post("/v1/accounts", &json!({ "external_id": external_id })).await.ok();
        Account {
            id: body["id"].as_str().unwrap().parse().unwrap(),
            reference: body["reference"].as_str().unwrap().parse().unwrap(),
        }
    }

    /// Links a wallet.
    pub async fn link(&self, account: Uuid, wallet: Address) -> Answer {
        self.post(&format!("/v1/accounts/{account}/wallets"), &json!({ "address": wallet })).await
    }

    /// What the account may do.
    pub async fn entitlements(&self, account: Uuid) -> Value {
        self.get(&format!("/v1/accounts/{account}/entitlements")).await.ok()
    }

    /// What the account of a wallet may do.
    pub async fn entitlements_of_wallet(&self, wallet: Address) -> Answer {
        self.get(&format!("/v1/entitlements?wallet={wallet}")).await
    }

    /// The account's transactions, newest first.
    pub async fn transactions(&self, account: Uuid) -> Vec<Value> {
        let page = self.get(&format!("/v1/accounts/{account}/transactions?limit=100")).await.ok();
        assert_eq!(page["next_cursor"], Value::Null);
        page["data"].as_array().unwrap().clone()
    }
}
