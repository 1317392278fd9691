//! `POST /api/session/challenge`

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    AppState,
    challenge::{self, Purpose},
    dto::ChallengeBody,
    extract::{self, Body},
    problem::{BodyProblems, Problem, ProblemBody, PublicProblems},
};

/// Who wants to sign in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChallengeSignIn {
    /// The wallet: `0x` and 40 hexadecimal digits; mixed case must be a right EIP-55 checksum.
    #[schema(example = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", pattern = "^0x[0-9a-fA-F]{40}$")]
    address: String,
    /// The chain that the wallet is on. A contract is asked there whether it has signed.
    #[schema(example = 8453)]
    chain_id: u64,
}

/// Get a message to sign in with
///
/// An EIP-4361 message, to be signed within ten minutes and used once. Anybody may ask for any address, and learns nothing
/// of whether it is known. Nothing is stored.
#[utoipa::path(
    post, path = "/api/session/challenge", tag = "sessions", security(),
    request_body = ChallengeSignIn,
    responses(
        (status = 200, description = "What to sign", body = ChallengeBody),
        (status = 400, description = "`invalid_address` or `invalid_json`", body = ProblemBody, content_type = "application/problem+json"),
        PublicProblems,
        BodyProblems,
    ),
)]
pub(crate) async fn challenge_sign_in(
    State(state): State<AppState>,
    Body(body): Body<ChallengeSignIn>,
) -> Result<Json<ChallengeBody>, Problem> {
    let signer = (extract::address(&body.address)?, extract::chain_id(body.chain_id)?);
    let key = state.store.challenge_key().await?;
    let now = state.clock.now();
    let (message, expires_at) = challenge::issue(&key, &state.site, Purpose::SignIn, signer, now)?;
    Ok(Json(ChallengeBody { message, expires_at }))
}
