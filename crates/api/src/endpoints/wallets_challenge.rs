//! `POST /v1/accounts/{id}/wallets/challenge`

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    AppState,
    auth::{AccountsWrite, Caller},
    challenge::{self, Purpose},
    dto::ChallengeBody,
    extract::{self, AccountPath, Body},
    problem::{BodyProblems, CallerProblems, Code, Problem, ProblemBody},
};

/// Who is to sign, and what for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChallengeWallet {
    /// The wallet: `0x` and 40 hexadecimal digits; mixed case must be a right EIP-55 checksum.
    #[schema(example = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", pattern = "^0x[0-9a-fA-F]{40}$")]
    address: String,
    /// The chain that the wallet is on. A contract is asked there whether it has signed.
    #[schema(example = 8453)]
    chain_id: u64,
    /// What for; `link` where it is not given.
    #[serde(default)]
    purpose: WalletPurpose,
}

/// What a wallet signs for.
#[derive(Debug, Default, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum WalletPurpose {
    /// It is to belong to the account.
    #[default]
    Link,
    /// It is not to any more.
    Unlink,
}

/// Get a message for a wallet to sign
///
/// An EIP-4361 message for this account, wallet and purpose alone, to be signed within ten minutes and used once. Nothing is
/// stored.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/wallets/challenge", tag = "accounts",
    security(("api_key" = ["accounts:write"])),
    params(("id" = Uuid, Path, description = "Our id of the account")),
    request_body = ChallengeWallet,
    responses(
        (status = 200, description = "What to sign", body = ChallengeBody),
        (status = 400, description = "`invalid_id`, `invalid_address` or `invalid_json`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found`", body = ProblemBody, content_type = "application/problem+json"),
        BodyProblems,
    ),
)]
pub(crate) async fn challenge_wallet(
    _: Caller<AccountsWrite>,
    State(state): State<AppState>,
    AccountPath(id): AccountPath,
    Body(body): Body<ChallengeWallet>,
) -> Result<Json<ChallengeBody>, Problem> {
    let wallet = extract::address(&body.address)?;
    state.store.account(id).await?.ok_or(Code::AccountNotFound)?;
    let purpose = match body.purpose {
        WalletPurpose::Link => Purpose::Link(id),
        WalletPurpose::Unlink => Purpose::Unlink(id),
    };
    let key = state.store.challenge_key().await?;
    let signer = (wallet, extract::chain_id(body.chain_id)?);
    let (message, expires_at) = challenge::issue(&key, &state.site, purpose, signer, state.clock.now())?;
    Ok(Json(ChallengeBody { message, expires_at }))
}
