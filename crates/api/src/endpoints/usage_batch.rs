//! `POST /v1/usage/batch`

use std::collections::HashMap;

use axum::{Json, extract::State};
use dues_domain::usage::Quantity;
use dues_store::usage::{Act, Event, Order};
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    usage::{self, Entitled, Named, UsageAnswer},
    usage_consume::UsageEvent,
};
use crate::{
    AppState,
    auth::{Caller, UsageWrite},
    extract::LargeBody,
    problem::{BodyProblems, CallerProblems, Problem, ProblemBody},
};

/// The most events in one request.
const MOST_EVENTS: usize = 1_000;
/// Accounts that are looked up at once.
const LOOKUPS: usize = 4;

/// Several events at once.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsageEvents {
    /// 1 to 1,000 of them. Each is checked and counted by itself; those of one account in this order.
    #[schema(value_type = Vec<UsageEvent>, min_items = 1, max_items = 1_000)]
    events: Vec<Value>,
}

/// What became of each event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageResults {
    /// In the order of the events.
    #[schema(value_type = Vec<UsageResult>)]
    results: Vec<Value>,
}

/// What became of one event.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "for the OpenAPI document: problems are written by their own type")]
pub(crate) enum UsageResult {
    /// It was counted.
    Counted(CountedResult),
    /// It was not: the problem that `POST /v1/usage` would have answered with.
    Problem(ProblemBody),
}

/// An event that was counted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CountedResult {
    #[schema(example = 200)]
    status: u16,
    #[serde(flatten)]
    answer: UsageAnswer,
    /// Whether it had been counted before.
    repeated: bool,
}

/// Check and count up to 1,000 events
///
/// Each for itself, as `POST /v1/usage` would; the answer is 200 whatever became of them.
#[utoipa::path(
    post, path = "/v1/usage/batch", tag = "usage", security(("api_key" = ["usage:write"])),
    request_body(content = UsageEvents, example = json!({ "events": [{ "external_id": "user-42", "event_id": "req-7f3c", "requests": 1, "tokens": 80 }] })),
    responses(
        (status = 200, description = "What became of each event", body = UsageResults),
        (status = 400, description = "`invalid_json`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        BodyProblems,
    ),
)]
pub(crate) async fn consume_usage_batch(
    _: Caller<UsageWrite>,
    State(state): State<AppState>,
    LargeBody(body): LargeBody<UsageEvents>,
) -> Result<Json<UsageResults>, Problem> {
    if !(1..=MOST_EVENTS).contains(&body.events.len()) {
        return Err(usage::invalid("events must have 1 to 1,000 parts"));
    }
    let events: Vec<_> = body.events.into_iter().map(parse).collect();
    let accounts = look_up(&state, &events).await;
    // What can be an order is one; the others have their problems already.
    let mut orders: Vec<Order> = Vec::new();
    let placed: Vec<Result<(Entitled, Quantity), Value>> = events
        .into_iter()
        .map(|event| {
            let (named, event) = event.map_err(Problem::into_value)?;
            let entitled = match accounts.get(&named) {
                Some(Ok(entitled)) => entitled.clone(),
                Some(Err(problem)) => return Err(problem.clone()),
                None => return Err(usage::invalid("the account was not looked for").into_value()),
            };
            let asked = event.quantity;
            orders.push(entitled.order(Act::Consume(event)));
            Ok((entitled, asked))
        })
        .collect();
    let mut outcomes = state.usage.act_all(orders).await.into_iter();
    let results = placed.into_iter().map(|placed| {
        let (entitled, asked) = placed?;
        let outcome = outcomes.next().unwrap_or(Err(dues_store::StoreError::NotCounted { transient: true }));
        let receipt = outcome
            .map_err(Problem::from)
            .and_then(|outcome| entitled.receipt(&state, asked, outcome))
            .map_err(Problem::into_value)?;
        let result = CountedResult { status: 200, answer: receipt.meters.into(), repeated: receipt.repeated };
        Ok(serde_json::to_value(result).unwrap_or_default())
    });
    let results =
        results.map(|result: Result<Value, Value>| result.unwrap_or_else(|problem| problem)).collect();
    Ok(Json(UsageResults { results }))
}

fn parse(event: Value) -> Result<(Named, Event), Problem> {
    if !event.is_object() {
        return Err(usage::invalid("an object is needed"));
    }
    UsageEvent::deserialize(event).map_err(|error| usage::invalid(&error.to_string()))?.checked()
}

/// Each account once, however many events it has.
async fn look_up(
    state: &AppState,
    events: &[Result<(Named, Event), Problem>],
) -> HashMap<Named, Result<Entitled, Value>> {
    let mut names: Vec<Named> = events.iter().flatten().map(|(named, _)| named.clone()).collect();
    names.sort_unstable();
    names.dedup();
    let found = stream::iter(names).map(|named| async move {
        let known = named.known(state).await.map_err(Problem::into_value);
        let entitled = known.map(|known| Entitled::of(state, &known));
        (named, entitled)
    });
    found.buffer_unordered(LOOKUPS).collect().await
}
