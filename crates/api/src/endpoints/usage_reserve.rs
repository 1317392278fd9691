//! `POST /v1/usage/reservations`

use axum::{Json, extract::State, http::StatusCode};
use chrono::TimeDelta;
use dues_domain::{ids::ReservationId, usage::Quantity};
use dues_store::usage::Act;
use serde::Deserialize;
use utoipa::ToSchema;

use super::usage::{self, Entitled, Named, QuotaExceededBody, ReservationAnswer};
use crate::{
    AppState,
    auth::{Caller, UsageWrite},
    extract::Body,
    problem::{BodyProblems, CallerProblems, Problem, ProblemBody},
};

/// How long a reservation holds where nothing else is said, and at most, in seconds.
const HOLDS: u32 = 300;
const HOLDS_AT_MOST: u32 = 86_400;

/// What an account is about to use, at most. Exactly one of `account_id`, `external_id` and `wallet` names it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewReservation {
    /// Our id of the account.
    account_id: Option<String>,
    /// The platform's id of its user.
    #[schema(example = "user-42")]
    external_id: Option<String>,
    /// A wallet of the account.
    wallet: Option<String>,
    /// The platform's name for it, once per account, of 1 to 128 characters, apart from the ids of events. The same again
    /// gives the same reservation.
    #[schema(example = "req-7f3b", min_length = 1, max_length = 128)]
    event_id: String,
    #[serde(default)]
    #[schema(example = 1, maximum = 1_000_000_000)]
    requests: u64,
    #[serde(default)]
    #[schema(example = 4_000, maximum = 1_000_000_000)]
    tokens: u64,
    /// After how many seconds it ends by itself, 1 to 86,400; 300 where it is not given.
    #[schema(example = 300, minimum = 1, maximum = 86_400)]
    expires_in_seconds: Option<u32>,
}

/// Hold a quantity, for usage whose size is not known yet
///
/// What is held counts against the quotas until it is settled, released, or its time is over. What is used within the hold is
/// counted in any case when it is settled.
#[utoipa::path(
    post, path = "/v1/usage/reservations", tag = "usage", security(("api_key" = ["usage:write"])),
    request_body(content = NewReservation, example = json!({ "external_id": "user-42", "event_id": "req-7f3b", "tokens": 4_000, "expires_in_seconds": 300 })),
    responses(
        (status = 201, description = "It is held", body = ReservationAnswer),
        (status = 200, description = "It was made before; it is given as it is now", body = ReservationAnswer),
        (status = 400, description = "`invalid_json` or `invalid_address`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 402, description = "`quota_exceeded`: nothing is held", body = QuotaExceededBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`event_id_conflict`: the id was used with other quantities", body = ProblemBody, content_type = "application/problem+json"),
        BodyProblems,
    ),
)]
pub(crate) async fn reserve_usage(
    _: Caller<UsageWrite>,
    State(state): State<AppState>,
    Body(body): Body<NewReservation>,
) -> Result<(StatusCode, Json<ReservationAnswer>), Problem> {
    usage::event_id(&body.event_id)?;
    let quantity = usage::quantity(body.requests, body.tokens, 0)?;
    if quantity == Quantity::default() {
        return Err(usage::invalid("a reservation must hold something"));
    }
    let seconds = body.expires_in_seconds.unwrap_or(HOLDS);
    if !(1..=HOLDS_AT_MOST).contains(&seconds) {
        return Err(usage::invalid("expires_in_seconds must be 1 to 86,400"));
    }
    let named = Named { account_id: body.account_id, external_id: body.external_id, wallet: body.wallet };
    let known = named.known(&state).await?;
    let entitled = Entitled::of(&state, &known);
    let expires_at = entitled
        .now
        .checked_add_signed(TimeDelta::seconds(seconds.into()))
        .ok_or_else(|| Problem::internal(&dues_domain::calendar::OutsideCalendar))?;
    let act = Act::Reserve { id: ReservationId::generate(), event_id: body.event_id, quantity, expires_at };
    let outcome = state.usage.act(entitled.order(act)).await?;
    let receipt = entitled.receipt(&state, quantity, outcome)?;
    let status = if receipt.repeated { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(ReservationAnswer::new(&entitled, receipt)?)))
}
