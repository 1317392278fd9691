//! `DELETE /v1/accounts/{id}/wallets/{address}`

use axum::{Json, extract::State};

use crate::{
    AppState,
    auth::{AccountsWrite, Caller},
    challenge::{self, Purpose},
    dto::{AccountBody, Signed},
    extract::{OptionalBody, WalletPath},
    problem::{BodyProblems, CallerProblems, Code, Problem, ProblemBody},
};

/// Unlink a wallet from an account
///
/// On the caller's word or, with a body, also on the wallet's own. What was paid with it stays with the account, and its
/// subscriptions are renewed from it until somebody cancels them. Whoever is signed in with it is not any more. What it pays
/// for from now on is no business of this account, unless the reference names it.
#[utoipa::path(
    delete, path = "/v1/accounts/{id}/wallets/{address}", tag = "accounts",
    security(("api_key" = ["accounts:write"])),
    params(
        ("id" = Uuid, Path, description = "Our id of the account"),
        ("address" = String, Path, description = "The wallet"),
    ),
    request_body = Option<Signed>,
    responses(
        (status = 200, description = "The account without it", body = AccountBody),
        (status = 400, description = "`invalid_id`, `invalid_address` or `invalid_json`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found` or `wallet_not_found`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`wallet_needed` or `challenge_spent`", body = ProblemBody, content_type = "application/problem+json"),
        BodyProblems,
        (status = 422, description = "`invalid_body`, `challenge_invalid`, `challenge_expired`, `invalid_signature` or `signature_not_verifiable`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn unlink_wallet(
    caller: Caller<AccountsWrite>,
    State(state): State<AppState>,
    WalletPath(id, wallet): WalletPath,
    OptionalBody(signed): OptionalBody<Signed>,
) -> Result<Json<AccountBody>, Problem> {
    let now = state.clock.now();
    let spent = match signed {
        None => None,
        Some(Signed { message, signature }) => {
            let key = state.store.challenge_key().await?;
            let given = challenge::read(&key, &state.site, Purpose::Unlink(id), &message, now)?;
            if given.address != wallet {
                return Err(Code::ChallengeInvalid.into());
            }
            state.contract_wallets.check(given.address, given.chain_id, &message, &signature).await?;
            Some(given.spent)
        }
    };
    state.store.unlink_wallet(id, wallet, spent, now, caller.actor()).await?;
    state.snapshot.changed(id);
    let account = state.store.account(id).await?.ok_or(Code::AccountNotFound)?;
    let wallets = state.store.wallets(id).await?;
    Ok(Json(AccountBody::new(account, wallets)))
}
