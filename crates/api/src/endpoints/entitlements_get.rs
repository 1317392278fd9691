//! `GET /v1/accounts/{id}/entitlements`

use axum::{extract::State, http::HeaderMap, response::Response};
use chrono::{DateTime, SubsecRound, Utc};
use dues_domain::entitlement::{Entitlement, entitlement};

use crate::{
    AppState,
    auth::{Caller, EntitlementsRead},
    dto::EntitlementsBody,
    etag::{self, IfNoneMatch},
    extract::AccountPath,
    problem::{CallerProblems, Code, Problem, ProblemBody},
    snapshot::Known,
};

/// What may this account do right now?
#[utoipa::path(
    get, path = "/v1/accounts/{id}/entitlements", tag = "entitlements",
    security(("api_key" = ["entitlements:read"])),
    params(("id" = Uuid, Path, description = "Our id of the account"), IfNoneMatch),
    responses(
        (status = 200, description = "Tier, features, limits, and what they rest on", body = EntitlementsBody,
            headers(("ETag" = String, description = "Of everything but `as_of`"))),
        (status = 304, description = "The caller has it already: see `If-None-Match`"),
        (status = 400, description = "`invalid_id`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get_entitlements(
    _: Caller<EntitlementsRead>,
    State(state): State<AppState>,
    headers: HeaderMap,
    AccountPath(id): AccountPath,
) -> Result<Response, Problem> {
    let known = state.snapshot.account(id).await?.ok_or(Code::AccountNotFound)?;
    etag::tagged(&headers, answer(&state, &known).await?)
}

/// The answer for an account that was found, by whatever name.
pub(super) async fn answer(state: &AppState, known: &Known) -> Result<EntitlementsBody, Problem> {
    let now = state.clock.now().trunc_subsecs(3);
    let entitlement = entitled(state, known, now);
    let (usage, _) = state
        .usage
        .usage(known.account.id, now)
        .await?
        .at(entitlement.allowance.anchor, now)
        .map_err(|error| Problem::internal(&error))?;
    let meters = usage.meters(&entitlement.allowance);
    Ok(EntitlementsBody::new(&known.account, entitlement, meters, now))
}

/// What the ledger says of an account at `now`. Usage is decided by this, too.
pub(super) fn entitled(state: &AppState, known: &Known, now: DateTime<Utc>) -> Entitlement {
    entitlement(&known.subscriptions, known.account.created_at, &state.catalogue, now)
}
