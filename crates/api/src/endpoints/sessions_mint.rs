//! `POST /v1/accounts/{id}/sessions`

use axum::{Json, extract::State, http::StatusCode};
use chrono::{DateTime, TimeDelta, Utc};
use dues_store::SignedIn;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    AppState,
    auth::{Caller, SessionsWrite},
    extract::{AccountPath, OptionalBody},
    problem::{BodyProblems, CallerProblems, Code, Problem, ProblemBody},
    session::SessionToken,
};

/// A quarter of an hour.
const DEFAULT_SECONDS: u32 = 900;
/// A day.
const MAX_SECONDS: u32 = 86_400;

/// How long the session is to last.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MintSession {
    /// 1 to 86,400; 900 where it is not given.
    #[schema(minimum = 1, maximum = 86_400, default = 900)]
    ttl_seconds: Option<u32>,
}

/// A session, and its token.
#[derive(Serialize, ToSchema)]
pub(crate) struct MintedSession {
    id: Uuid,
    account_id: Uuid,
    /// Shown this once. For `Authorization: Bearer …` on `/api`.
    #[schema(example = "dues_st_…")]
    token: String,
    expires_at: DateTime<Utc>,
}

/// Sign an end user in
///
/// The caller vouches that whoever gets the token is the account's user.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/sessions", tag = "sessions", security(("api_key" = ["sessions:write"])),
    params(("id" = Uuid, Path, description = "Our id of the account")),
    request_body = Option<MintSession>,
    responses(
        (status = 201, description = "Signed in", body = MintedSession),
        (status = 400, description = "`invalid_id` or `invalid_json`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found`", body = ProblemBody, content_type = "application/problem+json"),
        BodyProblems,
    ),
)]
pub(crate) async fn mint_session(
    _: Caller<SessionsWrite>,
    State(state): State<AppState>,
    AccountPath(id): AccountPath,
    OptionalBody(body): OptionalBody<MintSession>,
) -> Result<(StatusCode, Json<MintedSession>), Problem> {
    let seconds = body.and_then(|body| body.ttl_seconds).unwrap_or(DEFAULT_SECONDS);
    if !(1..=MAX_SECONDS).contains(&seconds) {
        return Err(Problem::new(Code::InvalidBody).with_detail("ttl_seconds must be 1 to 86400"));
    }
    let now = state.clock.now();
    let expires_at = now.checked_add_signed(TimeDelta::seconds(seconds.into())).unwrap_or(now);
    let token = SessionToken::generate()?;
    let session = state.store.create_session(SignedIn::ByPlatform(id), token.hash(), now, expires_at).await?;
    let minted = MintedSession {
        id: session.id.as_uuid(),
        account_id: session.account.as_uuid(),
        token: token.expose().to_owned(),
        expires_at,
    };
    Ok((StatusCode::CREATED, Json(minted)))
}
