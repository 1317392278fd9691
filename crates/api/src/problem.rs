//! Errors as the caller sees them: RFC 9457 problems with a stable `code`.
//!
//! The text of a problem is chosen here and never derived from an inner error: what went wrong inside is logged
//! once, with the request's id, and the caller gets the id.

use std::collections::BTreeMap;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::IntoResponse,
};
use dues_store::StoreError;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{Content, Ref, RefOr, Response, ResponseBuilder},
};

/// The media type of problems (RFC 9457).
const PROBLEM_JSON: &str = "application/problem+json";

/// Every problem that the API can answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[cfg_attr(test, derive(serde::Deserialize))]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The body is not JSON.
    InvalidJson,
    /// The body is JSON, but not what the endpoint takes.
    InvalidBody,
    /// The `Idempotency-Key` is not 1 to 255 visible ASCII characters.
    InvalidIdempotencyKey,
    /// An id in the path is none.
    InvalidId,
    /// An address is not 20 bytes of hexadecimal, or its EIP-55 checksum is wrong.
    InvalidAddress,
    /// A query parameter is missing, unknown or malformed.
    InvalidQuery,
    /// There is no API key, or it is unknown, expired or revoked.
    Unauthenticated,
    /// The API key has made too many requests.
    RateLimited,
    /// The API key lacks the endpoint's scope.
    InsufficientScope,
    /// No such account.
    AccountNotFound,
    /// No such path.
    RouteNotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The wallet belongs to another account.
    WalletTaken,
    /// The message is none that was given out here for this purpose, or it was changed.
    ChallengeInvalid,
    /// The message was not signed in time; ask for another one.
    ChallengeExpired,
    /// The message was used before; ask for another one.
    ChallengeSpent,
    /// The signature is not the wallet's own.
    InvalidSignature,
    /// The signature is not the key's of that address, and this service has no node of the message's chain to ask whether it is a
    /// contract's.
    SignatureNotVerifiable,
    /// There is no session, or it has ended.
    NoSession,
    /// The request was made with a cookie, and not by one of our own pages.
    CrossSite,
    /// The account has no such wallet.
    WalletNotFound,
    /// The account was made for this wallet, and would be nobody's without it.
    WalletNeeded,
    /// A quota has no room for it.
    QuotaExceeded,
    /// The event id was used for something else.
    EventIdConflict,
    /// The event is older than events may be.
    EventTooLate,
    /// The event is of the future.
    EventTooEarly,
    /// No such reservation.
    ReservationNotFound,
    /// The reservation has ended in another way.
    ReservationEnded,
    /// No such subscription on the chain.
    SubscriptionNotFound,
    /// No such signed intent.
    RelayNotFound,
    /// No contract of ours is on this chain.
    UnknownChain,
    /// The on-chain plan sells none of the catalogue, or takes no subscribers any more.
    PlanNotSold,
    /// A signature is none.
    MalformedSignature,
    /// The deadline of what was signed is over, or nobody sent it in time.
    IntentExpired,
    /// Another intent with the payer's nonce is under way, or was carried out.
    NonceTaken,
    /// The contract would not take the intent; `reason` says why.
    RelayRefused,
    /// The account has had as many intents sent as it may in 24 hours.
    RelayLimitReached,
    /// The gas for 24 hours is spent.
    RelayBudgetSpent,
    /// No signed intents are taken here.
    RelayDisabled,
    /// The body is larger than the endpoint takes.
    BodyTooLarge,
    /// The body's `Content-Type` is not `application/json`.
    UnsupportedMediaType,
    /// A fault of ours.
    Internal,
    /// A part of ours is down; try again.
    Unavailable,
    /// It took too long; try again.
    Timeout,
}

impl Code {
    /// The status that it is answered with.
    #[must_use]
    pub const fn http_status(self) -> StatusCode {
        match self {
            Self::InvalidJson
            | Self::InvalidId
            | Self::InvalidIdempotencyKey
            | Self::InvalidAddress
            | Self::InvalidQuery => StatusCode::BAD_REQUEST,
            Self::InvalidBody
            | Self::EventTooLate
            | Self::EventTooEarly
            | Self::UnknownChain
            | Self::PlanNotSold
            | Self::MalformedSignature
            | Self::IntentExpired
            | Self::RelayRefused
            | Self::ChallengeInvalid
            | Self::ChallengeExpired
            | Self::InvalidSignature
            | Self::SignatureNotVerifiable => StatusCode::UNPROCESSABLE_ENTITY,
            Self::QuotaExceeded => StatusCode::PAYMENT_REQUIRED,
            Self::Unauthenticated | Self::NoSession => StatusCode::UNAUTHORIZED,
            Self::InsufficientScope | Self::CrossSite => StatusCode::FORBIDDEN,
            Self::AccountNotFound
            | Self::WalletNotFound
            | Self::ReservationNotFound
            | Self::SubscriptionNotFound
            | Self::RelayNotFound
            | Self::RouteNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::WalletTaken
            | Self::WalletNeeded
            | Self::ChallengeSpent
            | Self::EventIdConflict
            | Self::ReservationEnded
            | Self::NonceTaken => StatusCode::CONFLICT,
            Self::RelayLimitReached | Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable | Self::Timeout | Self::RelayBudgetSpent | Self::RelayDisabled => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::InvalidJson => "The body is not valid JSON",
            Self::InvalidBody => "The body is not what this endpoint takes",
            Self::InvalidIdempotencyKey => "The Idempotency-Key is not valid",
            Self::InvalidId => "The id is not valid",
            Self::InvalidAddress => "The address is not valid",
            Self::InvalidQuery => "The query is not valid",
            Self::Unauthenticated => "A valid API key is needed",
            Self::RateLimited => "The API key has made too many requests",
            Self::InsufficientScope => "The API key lacks a scope",
            Self::AccountNotFound => "There is no such account",
            Self::RouteNotFound => "There is nothing at this path",
            Self::MethodNotAllowed => "The path does not take this method",
            Self::WalletTaken => "The wallet belongs to another account",
            Self::ChallengeInvalid => "The message is none that was given out for this",
            Self::ChallengeExpired => "The message has expired",
            Self::ChallengeSpent => "The message has had its effect already",
            Self::InvalidSignature => "The signature is not the wallet's",
            Self::SignatureNotVerifiable => {
                "The signature is no key's, and no contract can be asked on this chain"
            }
            Self::NoSession => "A valid session is needed",
            Self::CrossSite => "The request does not come from our own pages",
            Self::WalletNotFound => "The account has no such wallet",
            Self::WalletNeeded => "The account was made for this wallet",
            Self::QuotaExceeded => "A quota has no room for it",
            Self::EventIdConflict => "The event id was used for something else",
            Self::EventTooLate => "The event is too old to be counted",
            Self::EventTooEarly => "The event is of the future",
            Self::ReservationNotFound => "There is no such reservation",
            Self::ReservationEnded => "The reservation has ended already",
            Self::SubscriptionNotFound => "There is no such subscription",
            Self::RelayNotFound => "There is no such intent",
            Self::UnknownChain => "There is no such chain or contract here",
            Self::PlanNotSold => "The plan is not sold",
            Self::MalformedSignature => "A signature is not one",
            Self::IntentExpired => "The intent has expired",
            Self::NonceTaken => "Another intent has this nonce",
            Self::RelayRefused => "The contract does not take the intent",
            Self::RelayLimitReached => "The account has had its intents for today",
            Self::RelayBudgetSpent => "The gas for today is spent",
            Self::RelayDisabled => "Signed intents are not sent here",
            Self::BodyTooLarge => "The body is too large",
            Self::UnsupportedMediaType => "The body must be application/json",
            Self::Internal => "Something went wrong on our side",
            Self::Unavailable => "The service is not available at the moment",
            Self::Timeout => "The request took too long",
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::InvalidBody => "invalid_body",
            Self::InvalidIdempotencyKey => "invalid_idempotency_key",
            Self::InvalidId => "invalid_id",
            Self::InvalidAddress => "invalid_address",
            Self::InvalidQuery => "invalid_query",
            Self::Unauthenticated => "unauthenticated",
            Self::RateLimited => "rate_limited",
            Self::InsufficientScope => "insufficient_scope",
            Self::AccountNotFound => "account_not_found",
            Self::RouteNotFound => "route_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::WalletTaken => "wallet_taken",
            Self::ChallengeInvalid => "challenge_invalid",
            Self::ChallengeExpired => "challenge_expired",
            Self::ChallengeSpent => "challenge_spent",
            Self::InvalidSignature => "invalid_signature",
            Self::SignatureNotVerifiable => "signature_not_verifiable",
            Self::NoSession => "no_session",
            Self::CrossSite => "cross_site",
            Self::WalletNotFound => "wallet_not_found",
            Self::WalletNeeded => "wallet_needed",
            Self::QuotaExceeded => "quota_exceeded",
            Self::EventIdConflict => "event_id_conflict",
            Self::EventTooLate => "event_too_late",
            Self::EventTooEarly => "event_too_early",
            Self::ReservationNotFound => "reservation_not_found",
            Self::ReservationEnded => "reservation_ended",
            Self::SubscriptionNotFound => "subscription_not_found",
            Self::RelayNotFound => "relay_not_found",
            Self::UnknownChain => "unknown_chain",
            Self::PlanNotSold => "plan_not_sold",
            Self::MalformedSignature => "malformed_signature",
            Self::IntentExpired => "intent_expired",
            Self::NonceTaken => "nonce_taken",
            Self::RelayRefused => "relay_refused",
            Self::RelayLimitReached => "relay_limit_reached",
            Self::RelayBudgetSpent => "relay_budget_spent",
            Self::RelayDisabled => "relay_disabled",
            Self::BodyTooLarge => "body_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
        }
    }
}

/// An error on its way to the caller.
#[derive(Debug)]
pub struct Problem {
    code: Code,
    detail: Option<String>,
    /// What a program needs to know of this very problem beside the members that every one has (RFC 9457, 3.2).
    more: Option<Box<Map<String, Value>>>,
    reason: Option<&'static str>,
    /// In seconds.
    retry_after: Option<u64>,
}

/// A problem as it is written (RFC 9457, `application/problem+json`).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "urn:dues:problem:account_not_found", "title": "There is no such account", "status": 404,
    "code": "account_not_found", "detail": null
}))]
pub struct ProblemBody {
    /// Names the kind of problem; stable, and not an address to open: `docs/problems.md` has a section for each.
    r#type: String,
    /// What the kind of problem is, for people.
    title: &'static str,
    /// The status again.
    status: u16,
    /// Names the kind of problem, for programs. Stable.
    code: Code,
    /// What this very problem is, for people.
    detail: Option<String>,
    /// Of `relay_refused`: why, for programs. Stable.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// A problem with what it has beside.
#[derive(Serialize)]
struct Written {
    #[serde(flatten)]
    body: ProblemBody,
    #[serde(flatten)]
    more: Option<Map<String, Value>>,
}

/// What every endpoint with a key can answer, for the OpenAPI document.
pub(crate) struct CallerProblems;

impl IntoResponses for CallerProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        documented([
            ("401", "`unauthenticated`"),
            ("403", "`insufficient_scope`"),
            ("429", "`rate_limited`: see `Retry-After`"),
            ("500", "`internal`"),
            ("503", "`unavailable` or `timeout`"),
        ])
    }
}

/// What every endpoint with a session can answer, for the OpenAPI document.
pub(crate) struct SessionProblems;

impl IntoResponses for SessionProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        documented([
            ("401", "`no_session`"),
            ("403", "`cross_site`"),
            ("500", "`internal`"),
            ("503", "`unavailable` or `timeout`"),
        ])
    }
}

/// What every endpoint can answer that needs neither key nor session.
pub(crate) struct PublicProblems;

impl IntoResponses for PublicProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        documented([("500", "`internal`"), ("503", "`unavailable` or `timeout`")])
    }
}

/// What every endpoint with a body can answer as well.
pub(crate) struct BodyProblems;

impl IntoResponses for BodyProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        documented([
            ("413", "`body_too_large`"),
            ("415", "`unsupported_media_type`"),
            ("422", "`invalid_body`"),
        ])
    }
}

fn documented<const N: usize>(answers: [(&str, &str); N]) -> BTreeMap<String, RefOr<Response>> {
    let body = || Content::new(Some(Ref::from_schema_name("Problem")));
    let response = |description: &str| {
        ResponseBuilder::new().description(description).content(PROBLEM_JSON, body()).build().into()
    };
    answers.into_iter().map(|(status, description)| (status.to_owned(), response(description))).collect()
}

impl Problem {
    /// The problem that `code` names.
    #[must_use]
    pub const fn new(code: Code) -> Self {
        Self { code, detail: None, more: None, reason: None, retry_after: None }
    }

    /// Says why, for programs.
    #[must_use]
    pub const fn with_reason(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// Says in how many seconds it is worth another try.
    #[must_use]
    pub const fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Says what this very problem is. `detail` is shown to the caller.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds members of its own.
    #[must_use]
    pub fn with_members(mut self, members: Map<String, Value>) -> Self {
        self.more = Some(Box::new(members));
        self
    }

    /// The problem in a list of results, where it has no response of its own.
    #[must_use]
    pub fn into_value(self) -> Value {
        serde_json::to_value(self.into_written()).unwrap_or_default()
    }

    fn into_written(self) -> Written {
        let body = ProblemBody {
            r#type: format!("urn:dues:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.http_status().as_u16(),
            code: self.code,
            detail: self.detail,
            reason: self.reason,
        };
        Written { body, more: self.more.map(|more| *more) }
    }
}

impl Problem {
    /// What kind of problem it is.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::UnknownAccount => Self::new(Code::AccountNotFound),
            StoreError::UnknownTransaction => {
                Self::new(Code::InvalidQuery).with_detail("cursor is none that this list gave")
            }
            StoreError::WalletTaken => Self::new(Code::WalletTaken),
            StoreError::UnknownWallet => Self::new(Code::WalletNotFound),
            StoreError::WalletNeeded => Self::new(Code::WalletNeeded),
            StoreError::ChallengeSpent => Self::new(Code::ChallengeSpent),
            error if error.is_transient() => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the ledger is not available");
                Self::new(Code::Unavailable)
            }
            error => Self::internal(&error),
        }
    }
}

impl Problem {
    /// A fault of ours: logged here, once; the caller learns nothing of it.
    #[must_use]
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        Self::new(Code::Internal)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        let (code, status, retry_after) = (self.code, self.code.http_status(), self.retry_after);
        let mut response = (status, Json(self.into_written())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        match code {
            Code::Unauthenticated | Code::NoSession => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Code::Unavailable | Code::Timeout => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

pub(crate) async fn route_not_found() -> Problem {
    Problem::new(Code::RouteNotFound)
}

pub(crate) async fn method_not_allowed() -> Problem {
    Problem::new(Code::MethodNotAllowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code, as the OpenAPI document lists them.
    fn all() -> Vec<Code> {
        let document: Value = serde_json::from_str(&crate::openapi::document().unwrap()).unwrap();
        let names = document["components"]["schemas"]["Code"]["enum"].as_array().unwrap();
        names.iter().map(|name| serde_json::from_value(name.clone()).unwrap()).collect()
    }

    #[test]
    fn a_code_is_spelled_one_way() {
        for code in all() {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn every_code_has_its_section_in_the_catalogue_and_there_is_no_other() {
        let page = include_str!("../../../docs/problems.md");
        let sections: BTreeMap<&str, &str> = page
            .split("\n### ")
            .skip(1)
            .map(|section| {
                let (title, text) = section.split_once('\n').unwrap();
                (title.trim_matches('`'), text)
            })
            .collect();
        let codes: BTreeMap<_, _> = all().into_iter().map(|code| (code.as_str(), code)).collect();
        assert_eq!(sections.keys().collect::<Vec<_>>(), codes.keys().collect::<Vec<_>>());
        for (code, text) in sections {
            let status = codes[code].http_status().as_u16();
            assert!(text.starts_with(&format!("**{status}.** ")), "{code} is answered with {status}: {text}");
        }
    }

    #[test]
    fn a_fault_of_ours_tells_the_caller_nothing() {
        let problem = Problem::from(StoreError::Inconsistent("secret table"));
        assert_eq!((problem.code, problem.detail), (Code::Internal, None));
    }
}
