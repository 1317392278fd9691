//! Figures for Prometheus: counted wherever something happens, told on an address of their own.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::{Router, http::header, routing::get};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The text format of Prometheus.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Collects from now on, and answers `GET /metrics` at `listen` until `shutdown`. Not on the API's address: that one
/// faces the platform, and these figures are the operator's.
///
/// # Errors
/// Where the address cannot be listened on, or something else collects already.
pub(crate) async fn serve(
    listen: SocketAddr,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>>> {
    let handle = PrometheusBuilder::new().install_recorder().context("cannot collect metrics")?;
    dues_indexer::describe_metrics();
    dues_chain::source::describe_metrics();
    dues_keeper::describe_metrics();
    dues_store::usage::describe_metrics();
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen} for metrics"))?;
    tracing::info!(address = %listener.local_addr()?, "metrics are at /metrics");
    Ok(async move {
        let serving = axum::serve(listener, router(handle));
        Ok(serving.with_graceful_shutdown(shutdown.cancelled_owned()).await?)
    })
}

fn router(handle: PrometheusHandle) -> Router {
    let render = move || async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], handle.render()) };
    Router::new().route("/metrics", get(render))
}
