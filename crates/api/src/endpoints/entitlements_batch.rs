//! `POST /v1/entitlements/batch`

use std::collections::HashMap;

use axum::{Json, extract::State};
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    entitlements_get::answer,
    usage::{self, Named},
};
use crate::{
    AppState,
    auth::{Caller, EntitlementsRead},
    dto::EntitlementsBody,
    extract::LargeBody,
    problem::{BodyProblems, CallerProblems, Problem, ProblemBody},
};

/// The most accounts in one request.
const MOST_ACCOUNTS: usize = 1_000;
/// Accounts that are looked up at once, where they are not in memory.
const LOOKUPS: usize = 4;

/// Several accounts at once.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EntitlementsOf {
    /// 1 to 1,000 of them.
    #[schema(value_type = Vec<AccountToAsk>, min_items = 1, max_items = 1_000)]
    accounts: Vec<Value>,
}

/// An account by exactly one of its names.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountToAsk {
    /// Our id of the account.
    account_id: Option<String>,
    /// The platform's id of its user.
    #[schema(example = "user-42")]
    external_id: Option<String>,
    /// A wallet of the account.
    wallet: Option<String>,
}

/// What each account may do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EntitlementsResults {
    /// In the order of the accounts.
    #[schema(value_type = Vec<EntitlementsResult>)]
    results: Vec<Value>,
}

/// What one account may do.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "for the OpenAPI document: both are written as values, once for each account")]
pub(crate) enum EntitlementsResult {
    /// As it is answered for this account alone.
    Entitlements(Box<EntitlementsBody>),
    /// The problem that this account alone would have been answered with.
    Problem(ProblemBody),
}

/// What may each of up to 1,000 accounts do right now?
///
/// Each for itself, as `GET /v1/entitlements` would say; the answer is 200 whatever became of them.
#[utoipa::path(
    post, path = "/v1/entitlements/batch", tag = "entitlements", security(("api_key" = ["entitlements:read"])),
    request_body(content = EntitlementsOf, example = json!({ "accounts": [{ "external_id": "user-42" }] })),
    responses(
        (status = 200, description = "What each account may do", body = EntitlementsResults),
        (status = 400, description = "`invalid_json`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        BodyProblems,
    ),
)]
pub(crate) async fn entitlements_batch(
    _: Caller<EntitlementsRead>,
    State(state): State<AppState>,
    LargeBody(body): LargeBody<EntitlementsOf>,
) -> Result<Json<EntitlementsResults>, Problem> {
    if !(1..=MOST_ACCOUNTS).contains(&body.accounts.len()) {
        return Err(usage::invalid("accounts must have 1 to 1,000 parts"));
    }
    let asked: Vec<_> = body.accounts.into_iter().map(parse).collect();
    // Each once, however often it is asked for.
    let mut names: Vec<Named> = asked.iter().flatten().cloned().collect();
    names.sort_unstable();
    names.dedup();
    let state = &state;
    let known = stream::iter(names).map(|named| async move {
        let known = named.known(state).await;
        (named, known)
    });
    let known: Vec<_> = known.buffer_unordered(LOOKUPS).collect().await;
    let accounts: Vec<_> =
        known.iter().filter_map(|(_, known)| Some(known.as_ref().ok()?.account.id)).collect();
    // The counters that are not in memory: all in one query.
    state.usage.prepare(&accounts, state.clock.now()).await?;
    let mut answers = HashMap::with_capacity(known.len());
    for (named, known) in known {
        let answered = match known {
            Ok(known) => answer(state, &known).await,
            Err(problem) => Err(problem),
        };
        let value = match answered {
            Ok(body) => serde_json::to_value(body).map_err(|error| Problem::internal(&error))?,
            Err(problem) => problem.into_value(),
        };
        answers.insert(named, value);
    }
    let result = |asked: Result<Named, Problem>| match asked {
        Ok(named) => answers.get(&named).cloned().unwrap_or_default(),
        Err(problem) => problem.into_value(),
    };
    Ok(Json(EntitlementsResults { results: asked.into_iter().map(result).collect() }))
}

fn parse(account: Value) -> Result<Named, Problem> {
    if !account.is_object() {
        return Err(usage::invalid("an object is needed"));
    }
    let account = AccountToAsk::deserialize(account).map_err(|error| usage::invalid(&error.to_string()))?;
    let AccountToAsk { account_id, external_id, wallet } = account;
    Ok(Named { account_id, external_id, wallet })
}
