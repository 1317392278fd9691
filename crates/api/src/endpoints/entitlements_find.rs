//! `GET /v1/entitlements?external_id=…` or `?wallet=…`

use axum::{Json, extract::State};

use super::{entitlements_get::answer, find::Find};
use crate::{
    AppState,
    auth::{Caller, EntitlementsRead},
    dto::EntitlementsBody,
    extract::QueryString,
    problem::{CallerProblems, Problem, ProblemBody},
};

/// What may the account with this external id, or with this wallet, do right now?
#[utoipa::path(
    get, path = "/v1/entitlements", tag = "entitlements", security(("api_key" = ["entitlements:read"])),
    params(Find),
    responses(
        (status = 200, description = "Tier, features, limits, and what they rest on", body = EntitlementsBody),
        (status = 400, description = "`invalid_query` or `invalid_address`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn find_entitlements(
    _: Caller<EntitlementsRead>,
    State(state): State<AppState>,
    QueryString(find): QueryString<Find>,
) -> Result<Json<EntitlementsBody>, Problem> {
    let known = find.known(&state.snapshot).await?;
    answer(&state, &known).await.map(Json)
}
