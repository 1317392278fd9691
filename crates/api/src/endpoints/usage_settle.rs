//! `POST /v1/usage/reservations/{id}/settle`

use axum::{Json, extract::State};
use dues_store::usage::Act;
use serde::Deserialize;
use utoipa::ToSchema;

use super::usage::{self, Entitled, ReservationAnswer};
use crate::{
    AppState,
    auth::{Caller, UsageWrite},
    extract::{Body, ReservationPath},
    problem::{BodyProblems, CallerProblems, Code, Problem, ProblemBody},
};

/// What was used of a reservation: less, as much or more. Nothing is a quantity, too.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settle {
    #[schema(example = 1, maximum = 1_000_000_000)]
    requests: u64,
    #[schema(example = 523, maximum = 1_000_000_000)]
    tokens: u64,
    /// Counted for statistics only.
    #[serde(default)]
    #[schema(example = 0, maximum = 1_000_000_000)]
    conversations: u64,
}

/// Count what was used, in place of what was held
///
/// It has happened, so it is never refused: what was held counts in any case; what is beyond counts as far as the hard limit
/// goes; the rest is kept as `excess`, which is in the statistics but in no quota. After its time a reservation holds nothing
/// any more; all that is settled then is beyond.
#[utoipa::path(
    post, path = "/v1/usage/reservations/{id}/settle", tag = "usage", security(("api_key" = ["usage:write"])),
    params(("id" = String, Path, description = "The reservation's id", pattern = "^rsv_[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$")),
    request_body = Settle,
    responses(
        (status = 200, description = "It is counted, now or before", body = ReservationAnswer),
        (status = 400, description = "`invalid_id` or `invalid_json`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`reservation_not_found`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`reservation_ended` where it was released; `event_id_conflict` where it was settled with something else", body = ProblemBody, content_type = "application/problem+json"),
        BodyProblems,
    ),
)]
pub(crate) async fn settle_reservation(
    _: Caller<UsageWrite>,
    State(state): State<AppState>,
    ReservationPath(account, id): ReservationPath,
    Body(body): Body<Settle>,
) -> Result<Json<ReservationAnswer>, Problem> {
    let actual = usage::quantity(body.requests, body.tokens, body.conversations)?;
    let known = state.snapshot.account(account).await?.ok_or(Code::ReservationNotFound)?;
    let entitled = Entitled::of(&state, &known);
    let outcome = state.usage.act(entitled.order(Act::Settle { id, actual })).await?;
    let receipt = entitled.receipt(&state, actual, outcome)?;
    Ok(Json(ReservationAnswer::new(&entitled, receipt)?))
}
