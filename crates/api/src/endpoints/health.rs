//! `GET /healthz` and `GET /readyz`

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::AppState;

/// A process that answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    #[schema(example = "ok")]
    status: &'static str,
}

/// The parts that traffic depends on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// `ready` or `not_ready`.
    #[schema(example = "ready")]
    status: &'static str,
    /// `ok`, or what is wrong, by part.
    parts: BTreeMap<String, String>,
}

/// Is the process alive?
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, description = "Yes", body = Health)))]
pub(crate) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Should it be sent traffic?
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses(
        (status = 200, description = "Yes", body = Readiness),
        (status = 503, description = "No, and why", body = Readiness),
    ),
)]
pub(crate) async fn readyz(State(state): State<AppState>) -> (StatusCode, Json<Readiness>) {
    let database = state.store.check().await.map_err(|error| error.to_string());
    let usage = state.usage.store().check().await.map_err(|error| error.to_string());
    let mut parts = BTreeMap::from([("database".to_owned(), database), ("usage".to_owned(), usage)]);
    parts.extend(state.probes.iter().map(|probe| (probe.name.clone(), (probe.check)())));
    let ready = parts.values().all(Result::is_ok);
    let parts =
        parts.into_iter().map(|(name, state)| (name, state.err().unwrap_or_else(|| "ok".into()))).collect();
    if ready {
        (StatusCode::OK, Json(Readiness { status: "ready", parts }))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(Readiness { status: "not_ready", parts }))
    }
}
