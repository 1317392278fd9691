//! `POST /v1/accounts`

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    AppState,
    auth::{AccountsWrite, Caller},
    dto::AccountBody,
    extract::Body,
    problem::{BodyProblems, CallerProblems, Code, Problem, ProblemBody},
};

/// An account to be made or brought up to date.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpsertAccount {
    /// The platform's own id of its user: 1 to 255 characters.
    #[schema(example = "user-42", min_length = 1, max_length = 255)]
    external_id: String,
    /// Where receipts go. Leaves the one before where it is not given.
    #[schema(example = "ada@example.org", min_length = 3, max_length = 320)]
    email: Option<String>,
}

/// Make an account, or bring it up to date
///
/// Safe to repeat: an `external_id` has one account.
#[utoipa::path(
    post, path = "/v1/accounts", tag = "accounts", security(("api_key" = ["accounts:write"])),
    request_body = UpsertAccount,
    responses(
        (status = 201, description = "Made", body = AccountBody),
        (status = 200, description = "Existed, brought up to date", body = AccountBody),
        (status = 400, description = "`invalid_json`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        BodyProblems,
    ),
)]
pub(crate) async fn upsert_account(
    _: Caller<AccountsWrite>,
    State(state): State<AppState>,
    Body(body): Body<UpsertAccount>,
) -> Result<(StatusCode, Json<AccountBody>), Problem> {
    if !is_text(&body.external_id, 1, 255) {
        let problem = Problem::new(Code::InvalidBody);
        return Err(problem
            .with_detail("external_id must have 1 to 255 characters, none of them a control character"));
    }
    if let Some(email) = &body.email
        && !(is_text(email, 3, 320) && email.contains('@') && !email.contains(char::is_whitespace))
    {
        return Err(Problem::new(Code::InvalidBody).with_detail("email is not an address"));
    }
    let upserted = state.store.upsert_account(&body.external_id, body.email.as_deref()).await?;
    state.snapshot.changed(upserted.account.id);
    let wallets = state.store.wallets(upserted.account.id).await?;
    let status = if upserted.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(AccountBody::new(upserted.account, wallets))))
}

fn is_text(text: &str, least: usize, most: usize) -> bool {
    (least..=most).contains(&text.chars().count()) && !text.contains(char::is_control)
}
