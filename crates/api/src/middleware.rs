//! What every request passes through: ids, limits, logs.

use std::{any::Any, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request},
    http::{HeaderName, HeaderValue, Method, Response, StatusCode, header},
    middleware::{self, Next},
    response::IntoResponse,
};
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
    trace::TraceLayer,
};
use tracing::{Span, field};
use uuid::Uuid;

use crate::{
    limits,
    problem::{Code, Problem},
};

/// The largest body that any endpoint takes.
const BODY_LIMIT: usize = 64 * 1024;
/// The longest that a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Names a request in answers and logs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A caller's name for a request that it may repeat.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

pub(crate) fn layer(router: Router) -> Router {
    router.layer(
        ServiceBuilder::new()
            .map_request(|mut request: Request| {
                // A caller's id could be anything, and would be written to our logs.
                request.headers_mut().remove(REQUEST_ID);
                request
            })
            .layer(SetRequestIdLayer::new(REQUEST_ID, FreshRequestId))
            .layer(
                TraceLayer::new_for_http()
                    .make_span_with(|request: &Request| span(request))
                    .on_request(())
                    .on_response(|response: &Response<_>, latency: Duration, span: &Span| {
                        span.record("status", response.status().as_u16());
                        tracing::debug!(parent: span, ?latency, "answered");
                    })
                    .on_failure(()),
            )
            .layer(PropagateRequestIdLayer::new(REQUEST_ID))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(middleware::from_fn(headers_and_timeout))
            .layer(DefaultBodyLimit::max(BODY_LIMIT)),
    )
}

/// The path's pattern and not the path: ids, addresses and queries are people's data.
fn span(request: &Request) -> Span {
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    tracing::info_span!("request", method = %request.method(), path, id, status = field::Empty)
}

async fn headers_and_timeout(mut request: Request, next: Next) -> axum::response::Response {
    let word = limits::Word::default();
    request.extensions_mut().insert(word.clone());
    let mut response = if has_bad_idempotency_key(&request) {
        Problem::new(Code::InvalidIdempotencyKey).into_response()
    } else {
        within_time(request, next).await
    };
    if response.headers().get(header::CONTENT_TYPE).is_none() {
        // What others than our handlers answer (the page's files, say) has no body where it fails.
        response = match response.status() {
            StatusCode::NOT_FOUND => Problem::new(Code::RouteNotFound).into_response(),
            StatusCode::METHOD_NOT_ALLOWED => Problem::new(Code::MethodNotAllowed).into_response(),
            _ => response,
        };
    }
    let headers = response.headers_mut();
    word.tell(headers);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Answers are about one account at one instant: nobody in between may keep them.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn within_time(request: Request, next: Next) -> axum::response::Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(Code::Timeout).into_response(),
    }
}

/// Every POST is safe to repeat by what it names (an external id, a wallet, an event, a reservation, an intent's nonce), so
/// that nothing has to be remembered by this header. A client that sends one may do so; a broken one is a client's fault that
/// it should hear of.
fn has_bad_idempotency_key(request: &Request) -> bool {
    let good =
        |key: &HeaderValue| (1..=255).contains(&key.len()) && key.as_bytes().iter().all(u8::is_ascii_graphic);
    let mut keys = request.headers().get_all(IDEMPOTENCY_KEY).iter();
    request.method() == Method::POST && (keys.next().is_some_and(|key| !good(key)) || keys.next().is_some())
}

fn panicked(_: Box<dyn Any + Send>) -> axum::response::Response {
    tracing::error!("a handler panicked");
    Problem::new(Code::Internal).into_response()
}

/// A time-ordered id for each request.
#[derive(Debug, Clone, Copy)]
struct FreshRequestId;

impl MakeRequestId for FreshRequestId {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        HeaderValue::from_str(&Uuid::now_v7().to_string()).ok().map(RequestId::new)
    }
}
