//! `GET /v1/accounts?external_id=…` or `?wallet=…`

use axum::{Json, extract::State};

use super::find::Find;
use crate::{
    AppState,
    auth::{AccountsRead, Caller},
    dto::AccountBody,
    extract::QueryString,
    problem::{CallerProblems, Problem, ProblemBody},
};

/// Find an account by its external id or by a wallet
#[utoipa::path(
    get, path = "/v1/accounts", tag = "accounts", security(("api_key" = ["accounts:read"])),
    params(Find),
    responses(
        (status = 200, description = "The account with its wallets", body = AccountBody),
        (status = 400, description = "`invalid_query` or `invalid_address`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn find_account(
    _: Caller<AccountsRead>,
    State(state): State<AppState>,
    QueryString(find): QueryString<Find>,
) -> Result<Json<AccountBody>, Problem> {
    let account = find.account(&state.store).await?;
    let wallets = state.store.wallets(account.id).await?;
    Ok(Json(AccountBody::new(account, wallets)))
}
