//! `POST /v1/accounts/{id}/wallets`

use axum::{Json, extract::State, http::StatusCode};
use dues_store::WalletLinked;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    AppState,
    auth::{AccountsWrite, Caller},
    challenge::{self, Purpose},
    dto::AccountBody,
    extract::{self, AccountPath, Body},
    problem::{BodyProblems, CallerProblems, Code, Problem, ProblemBody},
};

/// A wallet to be linked: either its address alone, or what it has signed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinkWallet {
    /// `0x` and 40 hexadecimal digits; mixed case must be a right EIP-55 checksum.
    #[schema(example = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", pattern = "^0x[0-9a-fA-F]{40}$")]
    address: Option<String>,
    /// The message of `wallets/challenge`, to the letter.
    message: Option<String>,
    /// `0x…`: 65 bytes of a key, or whatever the contract at the address accepts (ERC-1271).
    signature: Option<String>,
}

/// Link a wallet to an account
///
/// With an `address`, the caller vouches that the wallet is the account's. With `message` and `signature`, whoever has the
/// wallet has proven it. Linking by address is safe to repeat. A wallet that paid before anybody knew it brings what it paid
/// for along.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/wallets", tag = "accounts", security(("api_key" = ["accounts:write"])),
    params(("id" = Uuid, Path, description = "Our id of the account")),
    request_body = LinkWallet,
    responses(
        (status = 201, description = "Linked", body = AccountBody),
        (status = 200, description = "Was linked to this account already", body = AccountBody),
        (status = 400, description = "`invalid_id`, `invalid_address` or `invalid_json`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`wallet_taken` or `challenge_spent`", body = ProblemBody, content_type = "application/problem+json"),
        BodyProblems,
        (status = 422, description = "`invalid_body`, `challenge_invalid`, `challenge_expired`, `invalid_signature` or `signature_not_verifiable`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn link_wallet(
    caller: Caller<AccountsWrite>,
    State(state): State<AppState>,
    AccountPath(id): AccountPath,
    Body(body): Body<LinkWallet>,
) -> Result<(StatusCode, Json<AccountBody>), Problem> {
    let linked = match (body.address, body.message, body.signature) {
        (Some(address), None, None) => {
            let wallet = extract::address(&address)?;
            state.store.link_wallet(id, wallet, caller.actor()).await?
        }
        (None, Some(message), Some(signature)) => {
            let now = state.clock.now();
            let key = state.store.challenge_key().await?;
            let given = challenge::read(&key, &state.site, Purpose::Link(id), &message, now)?;
            state.contract_wallets.check(given.address, given.chain_id, &message, &signature).await?;
            let (wallet, spent) = (given.address, given.spent);
            state.store.link_proven_wallet(id, wallet, spent, now, caller.actor()).await?
        }
        _ => {
            let problem = Problem::new(Code::InvalidBody);
            return Err(problem.with_detail("either address alone, or message and signature are needed"));
        }
    };
    state.snapshot.changed(id);
    let account = state.store.account(id).await?.ok_or(Code::AccountNotFound)?;
    let wallets = state.store.wallets(id).await?;
    let status = match linked {
        WalletLinked::New | WalletLinked::Claimed => StatusCode::CREATED,
        WalletLinked::Already => StatusCode::OK,
    };
    Ok((status, Json(AccountBody::new(account, wallets))))
}
