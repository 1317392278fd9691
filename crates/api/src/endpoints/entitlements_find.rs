//! `GET /v1/entitlements?external_id=…` or `?wallet=…`

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::entitlements_get::answer;
use crate::{
    AppState,
    auth::{Caller, EntitlementsRead},
    dto::EntitlementsBody,
    extract::{self, QueryString},
    problem::{Code, Problem, ProblemBody},
};

/// Exactly one of the two.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Find {
    /// The platform's id of its user.
    #[param(example = "user-42")]
    external_id: Option<String>,
    /// A wallet of the account.
    #[param(example = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8")]
    wallet: Option<String>,
}

/// What may the account with this external id, or with this wallet, do right now?
#[utoipa::path(
    get, path = "/v1/entitlements", tag = "entitlements", security(("api_key" = ["entitlements:read"])),
    params(Find),
    responses(
        (status = 200, description = "Tier, features, limits, and what they rest on", body = EntitlementsBody),
        (status = 400, description = "`invalid_query` or `invalid_address`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "`unauthenticated`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "`insufficient_scope`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "`account_not_found`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn find_entitlements(
    _: Caller<EntitlementsRead>,
    State(state): State<AppState>,
    QueryString(find): QueryString<Find>,
) -> Result<Json<EntitlementsBody>, Problem> {
    let found = match (find.external_id, find.wallet) {
        // PostgreSQL's text cannot hold a NUL, so no account has one in its id.
        (Some(external_id), None) if external_id.contains('\0') => None,
        (Some(external_id), None) => state.store.account_by_external_id(&external_id).await?,
        (None, Some(wallet)) => state.store.account_by_wallet(extract::address(&wallet)?).await?,
        _ => {
            let problem = Problem::new(Code::InvalidQuery);
            return Err(problem.with_detail("exactly one of external_id and wallet is needed"));
        }
    };
    let account = found.ok_or(Code::AccountNotFound)?;
    answer(&state, &account).await.map(Json)
}
