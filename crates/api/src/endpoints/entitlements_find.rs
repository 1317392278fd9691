//! `GET /v1/entitlements?external_id=…` or `?wallet=…`

use axum::{extract::State, http::HeaderMap, response::Response};

use super::{entitlements_get::answer, find::Find};
use crate::{
    AppState,
    auth::{Caller, EntitlementsRead},
    dto::EntitlementsBody,
    etag::{self, IfNoneMatch},
    extract::QueryString,
    problem::{CallerProblems, Problem, ProblemBody},
};

/// What may the account with this external id, or with this wallet, do right now?
#[utoipa::path(
    get, path = "/v1/entitlements", tag = "entitlements", security(("api_key" = ["entitlements:read"])),
    params(Find, IfNoneMatch),
    responses(
        (status = 200, description = "Tier, features, limits, and what they rest on", body = EntitlementsBody,
            headers(("ETag" = String, description = "Of everything but `as_of`"))),
        (status = 304, description = "The caller has it already: see `If-None-Match`"),
        (status = 400, description = "`invalid_query` or `invalid_address`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn find_entitlements(
    _: Caller<EntitlementsRead>,
    State(state): State<AppState>,
    headers: HeaderMap,
    QueryString(find): QueryString<Find>,
) -> Result<Response, Problem> {
    let known = find.known(&state.snapshot).await?;
    etag::tagged(&headers, answer(&state, &known).await?)
}
