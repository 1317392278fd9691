//! `GET /v1/accounts/{id}`

use axum::{Json, extract::State};

use crate::{
    AppState,
    auth::{AccountsRead, Caller},
    dto::AccountBody,
    extract::AccountPath,
    problem::{CallerProblems, Code, Problem, ProblemBody},
};

/// Read an account
#[utoipa::path(
    get, path = "/v1/accounts/{id}", tag = "accounts", security(("api_key" = ["accounts:read"])),
    params(("id" = Uuid, Path, description = "Our id of the account")),
    responses(
        (status = 200, description = "The account with its wallets", body = AccountBody),
        (status = 400, description = "`invalid_id`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get_account(
    _: Caller<AccountsRead>,
    State(state): State<AppState>,
    AccountPath(id): AccountPath,
) -> Result<Json<AccountBody>, Problem> {
    let account = state.store.account(id).await?.ok_or(Code::AccountNotFound)?;
    let wallets = state.store.wallets(id).await?;
    Ok(Json(AccountBody::new(account, wallets)))
}
