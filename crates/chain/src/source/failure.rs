//! What went wrong with one request, and what follows from it.

use std::time::Duration;

use alloy::{
    rpc::json_rpc::ErrorPayload,
    transports::{RpcError, TransportError, TransportErrorKind, http::reqwest},
};

use super::{
    SourceError,
    transport::{BodyTooLarge, OtherAnswer},
    wording::{Meaning, meaning},
};

/// Of what a provider says, this much is repeated.
const MAX_REASON: usize = 200;

/// Why an endpoint gave no answer that could be believed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It was asked too often.
    RateLimited { method: &'static str, wait: Option<Duration>, reason: String },
    /// The question was too large; so many blocks would not have been.
    TooLarge { method: &'static str, fitting: Option<u64>, reason: String },
    /// It does not take batches, or only smaller ones.
    Batch { method: &'static str, most: Option<u64>, reason: String },
    /// It took too long.
    TimedOut { method: &'static str },
    /// Anything else.
    Broken { method: &'static str, reason: String },
    /// Its answers contradict each other.
    Inconsistent(&'static str),
    /// It is of another chain.
    WrongChain { expected: u64, found: u64 },
}

impl Failure {
    /// Its name among the figures.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::RateLimited { .. } => "rate_limited",
            Self::TooLarge { .. } => "too_large",
            Self::Batch { .. } => "batch_refused",
            Self::TimedOut { .. } => "timed_out",
            Self::Broken { .. } => "broken",
            Self::Inconsistent(_) => "inconsistent",
            Self::WrongChain { .. } => "wrong_chain",
        }
    }

    /// What a caller is told. `endpoint` is a name, no URL; `secrets` are taken out of what the provider said.
    pub(super) fn into_error(self, endpoint: &str, secrets: &[String]) -> SourceError {
        let (method, reason) = match self {
            Self::Inconsistent(why) => return SourceError::Inconsistent(why),
            Self::WrongChain { expected, found } => return SourceError::WrongChain { expected, found },
            Self::TimedOut { method } => (method, "timed out".to_owned()),
            Self::RateLimited { method, reason, .. }
            | Self::TooLarge { method, reason, .. }
            | Self::Batch { method, reason, .. }
            | Self::Broken { method, reason } => (method, reason),
        };
        SourceError::Rpc { endpoint: endpoint.to_owned(), method, reason: redact(&reason, secrets) }
    }

    /// What follows from alloy's error, without any URL: reqwest's own texts have it.
    pub(super) fn of(method: &'static str, error: &TransportError) -> Self {
        match error {
            RpcError::ErrorResp(answer) => Self::of_payload(method, answer),
            RpcError::Transport(kind) => Self::of_transport(method, kind),
            RpcError::DeserError { .. } => {
                Self::Broken { method, reason: "the answer is not what the method returns".into() }
            }
            RpcError::NullResp => Self::Broken { method, reason: "no answer".into() },
            _ => Self::Broken { method, reason: "the request failed".into() },
        }
    }

    fn of_transport(method: &'static str, kind: &TransportErrorKind) -> Self {
        if let Some(answer) = kind.as_http_error() {
            let reason = format!("HTTP {}", answer.status);
            let said = match answer.status {
                429 => Meaning::RateLimited(None),
                413 => Meaning::TooLarge(None),
                // A status with Retry-After is a quota by another name.
                503 if kind.retry_after().is_some() => Meaning::RateLimited(None),
                _ => meaning(0, &answer.body),
            };
            return match said {
                Meaning::RateLimited(wait) => {
                    Self::RateLimited { method, wait: kind.retry_after().or(wait), reason }
                }
                Meaning::TooLarge(fitting) => Self::TooLarge { method, fitting, reason },
                Meaning::Batch(most) => Self::Batch { method, most, reason },
                Meaning::Other => Self::Broken { method, reason },
            };
        }
        if matches!(kind, TransportErrorKind::MissingBatchResponse(_)) {
            return Self::Batch { method, most: None, reason: "a part of a batch was not answered".into() };
        }
        let Some(cause) = kind.as_custom() else {
            return Self::Broken { method, reason: "the request failed".into() };
        };
        if cause.is::<BodyTooLarge>() || cause.is::<OtherAnswer>() {
            let reason = cause.to_string();
            return if cause.is::<BodyTooLarge>() {
                Self::TooLarge { method, fitting: None, reason }
            } else {
                Self::Broken { method, reason }
            };
        }
        match cause.downcast_ref::<reqwest::Error>() {
            Some(cause) if cause.is_timeout() => Self::TimedOut { method },
            Some(cause) if cause.is_connect() => Self::Broken { method, reason: "could not connect".into() },
            Some(cause) if cause.is_body() || cause.is_decode() => {
                Self::Broken { method, reason: "the answer broke off".into() }
            }
            _ => Self::Broken { method, reason: "the request failed".into() },
        }
    }

    fn of_payload(method: &'static str, answer: &ErrorPayload) -> Self {
        let reason = format!("error {}: {}", answer.code, answer.message);
        match meaning(answer.code, &answer.message) {
            Meaning::RateLimited(wait) => Self::RateLimited { method, wait, reason },
            Meaning::TooLarge(fitting) => Self::TooLarge { method, fitting, reason },
            Meaning::Batch(most) => Self::Batch { method, most, reason },
            Meaning::Other => Self::Broken { method, reason },
        }
    }
}

/// A provider's words without what they repeat of the URL, and not many of them.
pub(super) fn redact(reason: &str, secrets: &[String]) -> String {
    let mut reason: String = reason.chars().take(MAX_REASON).collect();
    for secret in secrets {
        reason = reason.replace(secret.as_str(), "…");
    }
    let words = reason.split_whitespace().map(|word| if word.contains("://") { "<url>" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_a_provider_repeats_is_taken_out() {
        let failure = Failure::Broken {
            method: "eth_call",
            reason: "error 1: app hunter2hunter2 is unknown, see https://p.example/hunter2hunter2".into(),
        };
        let said = failure.into_error("p.example", &["hunter2hunter2".into()]).to_string();
        assert_eq!(said, "p.example failed to answer eth_call: error 1: app … is unknown, see <url>");
    }

    #[test]
    fn a_quota_by_status_carries_the_time_to_wait() {
        let wait = Duration::from_secs(7);
        for status in [429, 503] {
            let error = TransportErrorKind::http_error_with_retry_after(status, "no".into(), Some(wait));
            let failure = Failure::of("eth_getLogs", &error);
            assert!(
                matches!(failure, Failure::RateLimited { wait: Some(w), .. } if w == wait),
                "{failure:?}"
            );
        }
        let error = TransportErrorKind::http_error(503, "no".into());
        assert!(matches!(Failure::of("eth_getLogs", &error), Failure::Broken { .. }));
    }

    #[test]
    fn a_body_with_an_http_error_is_read_as_words() {
        let error = TransportErrorKind::http_error(400, "block range is too wide".into());
        assert!(matches!(Failure::of("eth_getLogs", &error), Failure::TooLarge { .. }));
        let error = TransportErrorKind::http_error(413, String::new());
        assert!(matches!(Failure::of("eth_getLogs", &error), Failure::TooLarge { .. }));
    }
}
