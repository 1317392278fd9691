//! `POST /api/session`

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header::SET_COOKIE},
    response::{AppendHeaders, IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use dues_store::{SignedIn, StoreError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    AppState,
    challenge::{self, Purpose},
    extract::Body,
    problem::{BodyProblems, Code, Problem, ProblemBody, PublicProblems},
    session::{self, SessionToken},
};

/// How long a session lasts that a wallet has signed in to.
const LIFETIME: TimeDelta = TimeDelta::days(1);

/// A message that was signed, and how the session is to be handed over.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignIn {
    /// The message of `session/challenge`, to the letter.
    message: String,
    /// `0x…`: 65 bytes of a key, or whatever the contract at the address accepts (ERC-1271).
    signature: String,
    /// `cookie` where it is not given.
    #[serde(default)]
    delivery: Delivery,
}

/// How the session is handed over.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Delivery {
    /// In a cookie that scripts cannot read: for browsers.
    #[default]
    Cookie,
    /// In the body: for everything else.
    Token,
}

/// A session.
#[derive(Serialize, ToSchema)]
pub(crate) struct SessionBody {
    account_id: Uuid,
    expires_at: DateTime<Utc>,
    /// For `Authorization: Bearer …`, where `delivery` is `token`. Shown this once.
    #[schema(example = "dues_st_…")]
    token: Option<String>,
}

/// Sign in with a wallet
///
/// Whoever has the wallet gets a session of a day for the account that it belongs to, or of the account that it got by
/// paying. With a cookie, the request has to come from `server.public_url`.
#[utoipa::path(
    post, path = "/api/session", tag = "sessions", security(),
    request_body = SignIn,
    responses(
        (status = 201, description = "Signed in", body = SessionBody),
        (status = 400, description = "`invalid_json`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "`cross_site`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "`account_not_found`: the wallet has signed, and belongs to no account", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`challenge_spent`", body = ProblemBody, content_type = "application/problem+json"),
        PublicProblems,
        BodyProblems,
        (status = 422, description = "`invalid_body`, `challenge_invalid`, `challenge_expired`, `invalid_signature` or `signature_not_verifiable`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn sign_in(
    State(state): State<AppState>,
    headers: HeaderMap,
    Body(body): Body<SignIn>,
) -> Result<Response, Problem> {
    let SignIn { message, signature, delivery } = body;
    if delivery == Delivery::Cookie {
        // Or another site could sign its visitor in to an account of its own choice.
        session::require_same_origin(&headers, &state.site)?;
    }
    let now = state.clock.now();
    let key = state.store.challenge_key().await?;
    let given = challenge::read(&key, &state.site, Purpose::SignIn, &message, now)?;
    // Before anybody looks whether the wallet is known: who cannot sign for it learns nothing of that.
    state.contract_wallets.check(given.address, given.chain_id, &message, &signature).await?;
    let expires_at = now.checked_add_signed(LIFETIME).unwrap_or(now);
    let token = SessionToken::generate()?;
    let signed_in = SignedIn::ByWallet(given.address, given.spent);
    let created = state.store.create_session(signed_in, token.hash(), now, expires_at).await;
    let created = created.map_err(|error| match error {
        StoreError::UnknownAccount => Problem::new(Code::AccountNotFound)
            .with_detail("the wallet is linked to no account, and has paid for none"),
        error => error.into(),
    })?;
    let mut body = SessionBody { account_id: created.account.as_uuid(), expires_at, token: None };
    if delivery == Delivery::Token {
        body.token = Some(token.expose().to_owned());
        return Ok((StatusCode::CREATED, Json(body)).into_response());
    }
    let cookie = token.cookie(&state.site, LIFETIME).map_err(|error| Problem::internal(&error))?;
    Ok((StatusCode::CREATED, AppendHeaders([(SET_COOKIE, cookie)]), Json(body)).into_response())
}
