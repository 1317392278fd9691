//! The REST API: accounts, wallets, entitlements, usage.
//!
//! * one file per endpoint in `endpoints`, each with its request, its errors and its documentation;
//! * [`problem`]: every error is an RFC 9457 problem with a stable `code`;
//! * [`auth`]: API keys, of which only hashes are kept; `session`: tokens and cookies of end users, likewise;
//! * `challenge`, [`proof`]: what wallets sign, and whether they have;
//! * [`snapshot`]: accounts and their subscriptions in memory, for the question of every request;
//! * [`counters`]: what is used, in memory, for the answers that only tell of it;
//! * [`limits`]: how many requests a key may make;
//! * [`upkeep`]: what has to be done from time to time so that usage can be counted;
//! * [`openapi`]: the OpenAPI 3.1 document, made from the handlers; committed as `docs/openapi.json`.

pub mod auth;
mod challenge;
pub mod clock;
pub mod counters;
mod dto;
mod endpoints;
mod etag;
mod extract;
pub mod limits;
mod middleware;
pub mod openapi;
pub mod problem;
pub mod proof;
pub mod readiness;
pub mod relay;
mod session;
pub mod site;
pub mod snapshot;
pub mod upkeep;

use std::{sync::Arc, time::Duration};

use axum::Router;
use dues_domain::catalogue::Catalogue;
use dues_store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

use crate::{
    clock::Clock, counters::Counters, endpoints as e, limits::RateLimiter, proof::ContractWallets,
    readiness::Probe, relay::Relay, site::Site, snapshot::Snapshot,
};

/// How long requests that are under way may take after the order to stop.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// What the handlers work with; cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState {
    /// The ledger.
    pub store: Store,
    /// What it says of accounts, in memory.
    pub snapshot: Snapshot,
    /// What is used.
    pub usage: Counters,
    /// What the tiers give.
    pub catalogue: Arc<Catalogue>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where browsers reach this service.
    pub site: Arc<Site>,
    /// What asks contracts about signatures.
    pub contract_wallets: ContractWallets,
    /// What else must be well for `/readyz` to say so.
    pub probes: Arc<[Probe]>,
    /// How many requests each API key may make; `None` for any number.
    pub rate_limiter: Option<RateLimiter>,
    /// What signed intents are taken; `None` for none.
    pub relay: Option<Relay>,
}

/// Every endpoint, in one list.
fn endpoints() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(e::accounts_upsert::upsert_account, e::accounts_find::find_account))
        .routes(routes!(e::accounts_get::get_account))
        .routes(routes!(e::wallets_challenge::challenge_wallet))
        .routes(routes!(e::wallets_link::link_wallet))
        .routes(routes!(e::wallets_unlink::unlink_wallet))
        .routes(routes!(e::sessions_mint::mint_session, e::sessions_end::end_sessions))
        .routes(routes!(e::session_challenge::challenge_sign_in))
        .routes(routes!(e::session_create::sign_in, e::session_end::sign_out))
        .routes(routes!(e::subscription_get::own_subscription))
        .routes(routes!(e::usage_get::own_usage))
        .routes(routes!(e::plans_list::list_plans))
        .routes(routes!(e::plans_list::see_plans))
        .routes(routes!(e::entitlements_get::get_entitlements))
        .routes(routes!(e::entitlements_find::find_entitlements))
        .routes(routes!(e::entitlements_batch::entitlements_batch))
        .routes(routes!(e::transactions_list::list_transactions))
        .routes(routes!(e::usage_consume::consume_usage))
        .routes(routes!(e::usage_batch::consume_usage_batch))
        .routes(routes!(e::usage_reserve::reserve_usage))
        .routes(routes!(e::usage_settle::settle_reservation))
        .routes(routes!(e::usage_release::release_reservation))
        .routes(routes!(e::usage_get::get_usage))
        .routes(routes!(e::relay_post::relay_intent))
        .routes(routes!(e::relay_get::get_relayed))
        .routes(routes!(e::health::healthz))
        .routes(routes!(e::health::readyz))
}

/// The whole service: endpoints, `/openapi.json` and the page `/docs`.
pub fn router(state: AppState) -> Router {
    let (router, document) = endpoints().split_for_parts();
    let router = router
        .fallback(problem::route_not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .with_state(state)
        .merge(SwaggerUi::new("/docs").url("/openapi.json", openapi::finished(document)));
    middleware::layer(router)
}

/// Serves `router` until `shutdown`, then lets requests that are under way finish for at most ten seconds.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_TIME).await;
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        served = serving => served,
        () = drained => {
            tracing::warn!("requests were still under way ten seconds after the order to stop");
            Ok(())
        }
    }
}
