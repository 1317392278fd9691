//! `GET /v1/relay/{relay_id}`

use axum::{Json, extract::State};

use crate::{
    AppState,
    auth::{Caller, RelayWrite},
    extract::RelayPath,
    problem::{CallerProblems, Code, Problem, ProblemBody},
    relay::RelayBody,
};

/// See what became of a signed intent
///
/// `mined` says that the contract has taken it. What it entitles to follows from the contract's events, usually at once:
/// ask for the entitlements.
#[utoipa::path(
    get, path = "/v1/relay/{relay_id}", tag = "relay", security(("api_key" = ["relay:write"])),
    params(("relay_id" = Uuid, Path, description = "The id that it was given")),
    responses(
        (status = 200, description = "The intent", body = RelayBody),
        (status = 400, description = "`invalid_id`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`relay_not_found`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get_relayed(
    _: Caller<RelayWrite>,
    State(state): State<AppState>,
    RelayPath(id): RelayPath,
) -> Result<Json<RelayBody>, Problem> {
    let row = state.store.relay_intent(id).await?.ok_or(Code::RelayNotFound)?;
    Ok(Json(row.into()))
}
