//! `POST /v1/usage`

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue},
};
use chrono::{DateTime, SubsecRound as _, Utc};
use dues_domain::usage::Quantity;
use dues_store::usage::{Act, Event};
use serde::Deserialize;
use utoipa::ToSchema;

use super::usage::{self, Entitled, Named, QuotaExceededBody, UsageAnswer};
use crate::{
    AppState,
    auth::{Caller, UsageWrite},
    extract::Body,
    problem::{CallerProblems, Problem, ProblemBody},
};

/// Says that an answer is that of an earlier request.
pub(super) const REPLAYED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("idempotent-replayed"), HeaderValue::from_static("true"));

/// Something that an account uses. Exactly one of `account_id`, `external_id` and `wallet` names it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsageEvent {
    /// Our id of the account.
    account_id: Option<String>,
    /// The platform's id of its user.
    #[schema(example = "user-42")]
    external_id: Option<String>,
    /// A wallet of the account.
    wallet: Option<String>,
    /// The platform's name for this event, once per account, of 1 to 128 characters. Whatever is sent again with the same
    /// id within the month or the month after is counted once, and gets the same answer.
    #[schema(example = "req-7f3a", min_length = 1, max_length = 128)]
    event_id: String,
    /// At most 1,000,000,000, as for each of the three.
    #[serde(default)]
    #[schema(example = 1, maximum = 1_000_000_000)]
    requests: u64,
    #[serde(default)]
    #[schema(example = 523, maximum = 1_000_000_000)]
    tokens: u64,
    /// Counted for statistics only.
    #[serde(default)]
    #[schema(example = 0, maximum = 1_000_000_000)]
    conversations: u64,
    /// When it happened, where that is not now: at most 24 hours ago, where the operator has not set it otherwise. It is
    /// checked and counted in the window that runs now, and appears in the statistics of the day on which it happened.
    occurred_at: Option<DateTime<Utc>>,
}

impl UsageEvent {
    pub(super) fn checked(self) -> Result<(Named, Event), Problem> {
        usage::event_id(&self.event_id)?;
        let quantity = usage::quantity(self.requests, self.tokens, self.conversations)?;
        if quantity == Quantity::default() {
            return Err(usage::invalid("an event must count something"));
        }
        let occurred_at = self.occurred_at.map(|at| at.trunc_subsecs(3));
        let named = Named { account_id: self.account_id, external_id: self.external_id, wallet: self.wallet };
        Ok((named, Event { id: self.event_id, occurred_at, quantity }))
    }
}

/// Check and count usage, in one step
///
/// All of it is counted, or nothing. Never beyond a hard limit, whatever else is counted at the same time. The answer is
/// durable. A refused event is not remembered: the same one may succeed after an upgrade.
#[utoipa::path(
    post, path = "/v1/usage", tag = "usage", security(("api_key" = ["usage:write"])),
    request_body(content = UsageEvent, example = json!({ "external_id": "user-42", "event_id": "req-7f3a", "requests": 1, "tokens": 523 })),
    responses(
        (status = 200, description = "It was counted, now or (with the header `Idempotent-Replayed: true`) before; the meters are those after it", body = UsageAnswer),
        (status = 400, description = "`invalid_json` or `invalid_address`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 402, description = "`quota_exceeded`: nothing was counted", body = QuotaExceededBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`event_id_conflict`: the id was used with other quantities, or at another time", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "`body_too_large`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported_media_type`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_body`, `event_too_late` or `event_too_early`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn consume_usage(
    _: Caller<UsageWrite>,
    State(state): State<AppState>,
    Body(body): Body<UsageEvent>,
) -> Result<(HeaderMap, Json<UsageAnswer>), Problem> {
    let (named, event) = body.checked()?;
    let known = named.known(&state).await?;
    let entitled = Entitled::of(&state, &known);
    let asked = event.quantity;
    let outcome = state.usage.act(entitled.order(Act::Consume(event))).await?;
    let receipt = entitled.receipt(&state, asked, outcome)?;
    let headers = receipt.repeated.then_some(REPLAYED).into_iter().collect();
    Ok((headers, Json(receipt.meters.into())))
}
