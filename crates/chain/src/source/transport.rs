//! JSON-RPC over HTTP.
//!
//! alloy's own transport names the whole URL in its spans, keys included, reads answers of any size, and takes an
//! answer for that of another question; hence this one.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use alloy::{
    rpc::json_rpc::{RequestPacket, ResponsePacket},
    transports::{
        TransportError, TransportErrorKind, TransportFut, TransportResult,
        http::reqwest::{self, StatusCode, header::RETRY_AFTER},
    },
};
use tower::Service;
use url::Url;

/// More than this is no answer that anybody should hold in memory; providers stop far below.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// Of an error's text, this much is kept.
const MAX_ERROR: usize = 2_000;

/// The answer is too large to be held in memory.
#[derive(Debug, thiserror::Error)]
#[error("the answer is larger than {MAX_BODY} bytes")]
pub(super) struct BodyTooLarge;

/// The answer is to another question: something on the way repeats itself.
#[derive(Debug, thiserror::Error)]
#[error("the answer is to another question")]
pub(super) struct OtherAnswer;

/// Requests to one URL.
#[derive(Debug, Clone)]
pub(super) struct HttpTransport {
    client: reqwest::Client,
    url: Url,
}

impl HttpTransport {
    pub(super) const fn new(client: reqwest::Client, url: Url) -> Self {
        Self { client, url }
    }

    async fn exchange(self, request: RequestPacket) -> TransportResult<ResponsePacket> {
        let sent = self.client.post(self.url).json(&request).headers(request.headers()).send();
        let mut response = sent.await.map_err(TransportErrorKind::custom)?;
        let status = response.status();
        // Only in its form of seconds; the other one, a date, is not in use with providers.
        let retry_after = response.headers().get(RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);

        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(TransportErrorKind::custom)? {
            if body.len().saturating_add(chunk.len()) > MAX_BODY {
                return Err(TransportErrorKind::custom(BodyTooLarge));
            }
            body.extend_from_slice(&chunk);
        }

        let answer = serde_json::from_slice::<ResponsePacket>(&body);
        let quota = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        match answer {
            // The status says more than the body of a quota, and has the time to wait beside it.
            Ok(answer) if status.is_success() || (answer.is_error() && !quota) => matching(&request, answer),
            Err(error) if status.is_success() => Err(TransportError::deser_err(error, "")),
            _ => {
                let text: String = String::from_utf8_lossy(&body).chars().take(MAX_ERROR).collect();
                Err(TransportErrorKind::http_error_with_retry_after(status.as_u16(), text, retry_after))
            }
        }
    }
}

/// A batch is put together by ids later on; a single answer is checked here.
fn matching(request: &RequestPacket, answer: ResponsePacket) -> TransportResult<ResponsePacket> {
    match (request, &answer) {
        (RequestPacket::Single(request), ResponsePacket::Single(single)) => {
            // An error that does not know its question's id is still one.
            if single.id == *request.id() || single.payload.is_error() {
                Ok(answer)
            } else {
                Err(TransportErrorKind::custom(OtherAnswer))
            }
        }
        (RequestPacket::Single(_), ResponsePacket::Batch(_)) => Err(TransportErrorKind::custom(OtherAnswer)),
        // A batch that is refused as a whole.
        (RequestPacket::Batch(_), ResponsePacket::Single(single)) => match single.payload.as_error() {
            Some(error) => Err(TransportError::ErrorResp(error.clone())),
            None => Err(TransportErrorKind::custom(OtherAnswer)),
        },
        (RequestPacket::Batch(_), ResponsePacket::Batch(_)) => Ok(answer),
    }
}

impl Service<RequestPacket> for HttpTransport {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        Box::pin(self.clone().exchange(request))
    }
}
