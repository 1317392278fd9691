//! Answers that a caller need not read again where it has the same already (RFC 9110, 8.8.3 and 13.1.2).

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use utoipa::IntoParams;

use crate::{dto::EntitlementsBody, problem::Problem};

/// The header, for the OpenAPI document.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "for the OpenAPI document: lists and several headers are read by hand")]
pub(crate) struct IfNoneMatch {
    /// The `ETag` of an answer that the caller has.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
}

/// `body` with its tag; only the tag where `request` says that the caller has this answer. Two answers that differ in
/// nothing but the instant that they are about have the same tag, which is a weak one for that reason.
pub(crate) fn tagged(request: &HeaderMap, body: EntitlementsBody) -> Result<Response, Problem> {
    let (mut body, as_of) = (body, DateTime::<Utc>::UNIX_EPOCH);
    let as_of = std::mem::replace(&mut body.as_of, as_of);
    let timeless = serde_json::to_vec(&body).map_err(|error| Problem::internal(&error))?;
    body.as_of = as_of;
    let hash = Sha256::digest(&timeless);
    // 96 bits: nobody gains anything by an account whose two answers share a tag.
    let opaque = format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(hash.get(..12).unwrap_or_default()));
    let mut response = if is_known(request, &opaque) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Json(body).into_response()
    };
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&format!("W/{opaque}")) {
        headers.insert(header::ETAG, tag);
    }
    // The caller itself may keep it, and has to ask each time whether it still holds.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(response)
}

fn is_known(request: &HeaderMap, opaque: &str) -> bool {
    let given = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    // None of our tags has a comma.
    given
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == opaque)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_weakly_and_in_lists() {
        let request = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_NONE_MATCH, HeaderValue::from_str(value).unwrap());
            }
            headers
        };
        for known in [&["W/\"a\""][..], &["\"a\""], &["*"], &["\"b\" , W/\"a\""], &["\"b\"", "\"a\""]] {
            assert!(is_known(&request(known), "\"a\""), "{known:?}");
        }
        for unknown in [&[][..], &[""], &["a"], &["W/\"b\""], &["\"A\""], &["w/\"a\""], &["\"aa\""]] {
            assert!(!is_known(&request(unknown), "\"a\""), "{unknown:?}");
        }
    }
}
