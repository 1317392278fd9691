//! `DELETE /v1/accounts/{id}/sessions`

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    AppState,
    auth::{Caller, SessionsWrite},
    extract::AccountPath,
    problem::{CallerProblems, Problem, ProblemBody},
};

/// What was ended.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EndedSessions {
    /// How many sessions were live.
    #[schema(example = 2)]
    ended: u64,
}

/// Sign an end user out, everywhere
///
/// Ends every session of the account, however it was signed in to. Who has one of its wallets can sign in again: unlink a
/// wallet that was lost.
#[utoipa::path(
    delete, path = "/v1/accounts/{id}/sessions", tag = "sessions", security(("api_key" = ["sessions:write"])),
    params(("id" = Uuid, Path, description = "Our id of the account")),
    responses(
        (status = 200, description = "Signed out", body = EndedSessions),
        (status = 400, description = "`invalid_id`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn end_sessions(
    caller: Caller<SessionsWrite>,
    State(state): State<AppState>,
    AccountPath(id): AccountPath,
) -> Result<Json<EndedSessions>, Problem> {
    let ended = state.store.end_sessions(id, state.clock.now(), caller.actor()).await?;
    Ok(Json(EndedSessions { ended }))
}
