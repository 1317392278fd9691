//! `POST /v1/relay`

use std::time::Duration;

use alloy_primitives::U256;
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};
use dues_domain::relay::{Intent, RelayRefusal, RelayStatus};
use dues_store::relay::{NewRelayIntent, RelayIntent, Submitted};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;

use crate::{
    AppState,
    auth::{Caller, RelayWrite},
    extract::Body,
    problem::{BodyProblems, CallerProblems, Code, Problem, ProblemBody},
    relay::{IntentBody, PermitBody, RelayBody, consent},
};

/// For how long an answer waits for the simulation's word, where the caller does not say.
const WAIT: Duration = Duration::from_secs(5);
/// The longest that a caller may want it to wait. Less than a request may take.
const LONGEST_WAIT: u64 = 10;
/// How often the word is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A signed intent to be sent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RelayIntentRequest {
    /// Which chain; need not be given where there is only one.
    #[schema(example = 8453)]
    chain_id: Option<u64>,
    /// Which contract; need not be given where the chain has only one.
    contract: Option<String>,
    intent: IntentBody,
    /// The payer's signature of the intent (EIP-712): 65 bytes, or what the account's code takes (ERC-1271).
    #[schema(example = "0x…")]
    signature: String,
    /// An allowance by signature, to go before it in the same transaction. Not with `cancel`.
    permit: Option<PermitBody>,
}

/// Have a signed intent sent
///
/// For payers without ether: the keeper sends it and pays for the gas. First it is simulated; what the contract would not
/// take is not sent, and the `reason` says why: `expired`, `nonce_spent`, `invalid_signature`, `unknown_plan`,
/// `retired_plan`, `unknown_subscription`, `allowance`, `balance`, `token`, `invalid_count`, `not_changeable`,
/// `plans_unrelated`, `not_an_upgrade`, `credit_exceeds_price`, `amount_exceeds_max`, `already_ended`, `gas_above_limit`,
/// `reverted`.
///
/// Safe to repeat: the same intent is the same row and one transaction. One that was refused or has expired may be sent
/// again, and is another try. The answer waits for the simulation, 5 seconds at most or as `Prefer: wait=0` to `wait=10`
/// says.
#[utoipa::path(
    post, path = "/v1/relay", tag = "relay", security(("api_key" = ["relay:write"])),
    request_body = RelayIntentRequest,
    params(("Prefer" = Option<String>, Header, example = "wait=5", description = "`wait=N`: for how many seconds to wait at most (RFC 7240)")),
    responses(
        (status = 202, description = "Under way; see `Location`", body = RelayBody),
        (status = 200, description = "In a block", body = RelayBody),
        (status = 400, description = "`invalid_json` or `invalid_address`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found` or `subscription_not_found`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`nonce_taken`", body = ProblemBody, content_type = "application/problem+json"),
        BodyProblems,
        (status = 422, description = "`invalid_body`, `malformed_signature`, `intent_expired`, `unknown_chain`, `plan_not_sold`, or `relay_refused` with a `reason`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 429, description = "`relay_limit_reached` or `rate_limited`: see `Retry-After`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "`relay_disabled`, `relay_budget_spent` (see `Retry-After`), `unavailable` or `timeout`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn relay_intent(
    _: Caller<RelayWrite>,
    State(state): State<AppState>,
    headers: HeaderMap,
    Body(body): Body<RelayIntentRequest>,
) -> Result<Response, Problem> {
    let relay = state.relay.as_ref().ok_or(Code::RelayDisabled)?;
    let wait = preferred_wait(&headers);
    let source = relay.target(body.chain_id, body.contract.as_deref())?;
    let intent = body.intent.read()?;
    let consent = consent(&body.signature)?;
    let permit = body.permit.map(PermitBody::read).transpose()?;
    if permit.is_some() && matches!(intent, Intent::Cancel(_)) {
        return Err(Problem::new(Code::InvalidBody).with_detail("a cancel needs no permit"));
    }
    let now = state.clock.now();
    if intent.deadline() < U256::from(u64::try_from(now.timestamp()).unwrap_or_default()) {
        return Err(Code::IntentExpired.into());
    }
    let new = NewRelayIntent { source, intent, consent, permit, now };
    let row = match state.store.submit_relay_intent(&new, &relay.limits).await? {
        Submitted::New(row) | Submitted::Known(row) => row,
        Submitted::NonceTaken => return Err(Code::NonceTaken.into()),
        Submitted::UnknownAccount => return Err(Code::AccountNotFound.into()),
        Submitted::UnknownSubscription => return Err(Code::SubscriptionNotFound.into()),
        Submitted::PlanNotSold => return Err(Code::PlanNotSold.into()),
        Submitted::AccountLimit { seconds } => {
            return Err(Problem::new(Code::RelayLimitReached).retry_after(seconds));
        }
        Submitted::BudgetSpent { seconds } => {
            return Err(Problem::new(Code::RelayBudgetSpent).retry_after(seconds));
        }
    };
    let row = decided(&state, row, wait).await?;
    Ok(answer(row))
}

/// The row once it is not only queued any more, or when `wait` is over.
async fn decided(state: &AppState, mut row: RelayIntent, wait: Duration) -> Result<RelayIntent, Problem> {
    let until = Instant::now().checked_add(wait);
    while row.status == RelayStatus::Queued && until.is_some_and(|until| Instant::now() < until) {
        sleep(LOOK_AGAIN).await;
        row = state.store.relay_intent(row.id).await?.ok_or(Code::RelayNotFound)?;
    }
    Ok(row)
}

fn answer(row: RelayIntent) -> Response {
    let location = HeaderValue::from_str(&format!("/v1/relay/{}", row.id));
    let mut response = match (row.status, row.refusal) {
        (RelayStatus::Queued | RelayStatus::Sending, _) => {
            (StatusCode::ACCEPTED, Json(RelayBody::from(row))).into_response()
        }
        (RelayStatus::Mined, _) => Json(RelayBody::from(row)).into_response(),
        (RelayStatus::Expired, _) => Problem::new(Code::IntentExpired).into_response(),
        (RelayStatus::Refused, Some(RelayRefusal::GasBudgetExhausted)) => {
            Problem::new(Code::RelayBudgetSpent).into_response()
        }
        (RelayStatus::Refused, refusal) => {
            let reason = refusal.unwrap_or(RelayRefusal::Reverted).as_str();
            Problem::new(Code::RelayRefused).with_reason(reason).into_response()
        }
    };
    if let Ok(location) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// What `Prefer: wait=N` asks for (RFC 7240), within bounds.
fn preferred_wait(headers: &HeaderMap) -> Duration {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut wanted = preferences
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| preference.trim().strip_prefix("wait="))
        .filter_map(|seconds| seconds.trim().parse::<u64>().ok());
    wanted.next().map_or(WAIT, |seconds| Duration::from_secs(seconds.min(LONGEST_WAIT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_may_wait_for_less_and_not_for_ever() {
        let wait = |text: &str| {
            let headers =
                HeaderMap::from_iter([("prefer".parse().unwrap(), HeaderValue::from_str(text).unwrap())]);
            preferred_wait(&headers).as_secs()
        };
        assert_eq!(wait("wait=0"), 0);
        assert_eq!(wait("respond-async, wait=2"), 2);
        assert_eq!(wait("wait=99999"), 10);
        assert_eq!((wait("wait=soon"), wait("return=minimal")), (5, 5));
        assert_eq!(preferred_wait(&HeaderMap::new()).as_secs(), 5);
    }
}
