//! `DELETE /api/session`

use axum::{
    extract::State,
    http::{StatusCode, header::SET_COOKIE},
    response::{AppendHeaders, IntoResponse},
};

use crate::{
    AppState,
    problem::{Problem, SessionProblems},
    session::{self, EndUser},
};

/// Sign out
#[utoipa::path(
    delete, path = "/api/session", tag = "sessions", security(("session" = [])),
    responses(
        (status = 204, description = "The session has ended"),
        SessionProblems,
    ),
)]
pub(crate) async fn sign_out(
    user: EndUser,
    State(state): State<AppState>,
) -> Result<impl IntoResponse, Problem> {
    state.store.end_session(user.session(), state.clock.now()).await?;
    let cookie = session::no_cookie(&state.site).map_err(|error| Problem::internal(&error))?;
    Ok((StatusCode::NO_CONTENT, AppendHeaders([(SET_COOKIE, cookie)])))
}
