//! `POST /v1/usage/reservations/{id}/release`

use axum::{Json, extract::State};
use dues_domain::usage::Quantity;
use dues_store::usage::Act;

use super::usage::{Entitled, ReservationAnswer};
use crate::{
    AppState,
    auth::{Caller, UsageWrite},
    extract::ReservationPath,
    problem::{CallerProblems, Code, Problem, ProblemBody},
};

/// End a hold of which nothing was used
///
/// Takes no body. Safe to repeat, and after its time.
#[utoipa::path(
    post, path = "/v1/usage/reservations/{id}/release", tag = "usage", security(("api_key" = ["usage:write"])),
    params(("id" = String, Path, description = "The reservation's id", pattern = "^rsv_[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$")),
    responses(
        (status = 200, description = "It holds nothing any more", body = ReservationAnswer),
        (status = 400, description = "`invalid_id`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`reservation_not_found`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`reservation_ended`: it was settled", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn release_reservation(
    _: Caller<UsageWrite>,
    State(state): State<AppState>,
    ReservationPath(account, id): ReservationPath,
) -> Result<Json<ReservationAnswer>, Problem> {
    let known = state.snapshot.account(account).await?.ok_or(Code::ReservationNotFound)?;
    let entitled = Entitled::of(&state, &known);
    let outcome = state.usage.act(entitled.order(Act::Release { id })).await?;
    let receipt = entitled.receipt(&state, Quantity::default(), outcome)?;
    Ok(Json(ReservationAnswer::new(&entitled, receipt)?))
}
