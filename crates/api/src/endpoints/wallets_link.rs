//! `POST /v1/accounts/{id}/wallets`

use axum::{Json, extract::State, http::StatusCode};
use dues_store::WalletLinked;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    AppState,
    auth::{AccountsWrite, Caller},
    dto::AccountBody,
    extract::{self, AccountPath, Body},
    problem::{BodyProblems, CallerProblems, Code, Problem, ProblemBody},
};

/// A wallet to be linked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinkWallet {
    /// `0x` and 40 hexadecimal digits; mixed case must be a right EIP-55 checksum.
    #[schema(example = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", pattern = "^0x[0-9a-fA-F]{40}$")]
    address: String,
}

/// Link a wallet to an account
///
/// The caller vouches that the wallet is the account's. Safe to repeat. A wallet that paid before anybody knew
/// it brings what it paid for along.
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
        (status = 409, description = "`wallet_taken`", body = ProblemBody, content_type = "application/problem+json"),
        BodyProblems,
    ),
)]
pub(crate) async fn link_wallet(
    caller: Caller<AccountsWrite>,
    State(state): State<AppState>,
    AccountPath(id): AccountPath,
    Body(body): Body<LinkWallet>,
) -> Result<(StatusCode, Json<AccountBody>), Problem> {
    let wallet = extract::address(&body.address)?;
    let linked = state.store.link_wallet(id, wallet, caller.actor()).await?;
    state.snapshot.changed(id);
    let account = state.store.account(id).await?.ok_or(Code::AccountNotFound)?;
    let wallets = state.store.wallets(id).await?;
    let status = match linked {
        WalletLinked::New | WalletLinked::Claimed => StatusCode::CREATED,
        WalletLinked::Already => StatusCode::OK,
    };
    Ok((status, Json(AccountBody::new(account, wallets))))
}
