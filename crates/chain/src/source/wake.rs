//! New heads over WebSocket: that there is one, nothing more. Events are always read over HTTP, from the checkpoint,
//! so what a lost connection does not tell costs time and nothing else.

use std::{sync::Arc, time::Duration};

use alloy::{
    providers::{Provider as _, ProviderBuilder, WsConnect},
    transports::TransportError,
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep},
};
use url::Url;

use super::endpoints;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// A connection that lived this long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(60);
/// How long a connection and its subscription may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Told of new heads, while it lives. Connections come back by themselves.
#[derive(Debug)]
pub struct WakeUps {
    notify: Arc<Notify>,
    // They end with this.
    _connections: JoinSet<()>,
}

impl WakeUps {
    /// Listens at `urls`; with none, it never wakes anybody.
    pub(super) fn listen(urls: &[Url]) -> Self {
        let notify = Arc::new(Notify::new());
        let mut connections = JoinSet::new();
        for (url, name) in urls.iter().zip(endpoints::names(urls)) {
            connections.spawn(keep_listening(url.clone(), name, notify.clone()));
        }
        Self { notify, _connections: connections }
    }

    /// Waits for a head that was not waited for before. One that came in the meantime counts.
    pub async fn next(&self) {
        self.notify.notified().await;
    }
}

async fn keep_listening(url: Url, name: String, notify: Arc<Notify>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        match listen(&url, &name, &notify).await {
            Ok(()) => tracing::info!(endpoint = name, "new heads are polled for: the WebSocket closed"),
            // alloy's own text may hold the URL.
            Err(_) => {
                tracing::debug!(endpoint = name, "new heads are polled for: the WebSocket does not connect");
            }
        }
        if begun.elapsed() >= GOOD_AFTER {
            pause = FIRST_PAUSE;
        }
        let jitter = Duration::from_millis(fastrand::u64(0..=250));
        sleep(pause.saturating_add(jitter)).await;
        pause = pause.saturating_mul(2).min(MAX_PAUSE);
    }
}

/// Until the connection ends.
async fn listen(url: &Url, name: &str, notify: &Notify) -> Result<(), TransportError> {
    // Reconnecting is done above: alloy gives up after a while.
    let connect = WsConnect::new(url.as_str()).with_max_retries(0);
    let subscribed = async {
        let provider = ProviderBuilder::new().disable_recommended_fillers().connect_ws(connect).await?;
        let heads = provider.subscribe_blocks().await?;
        Ok::<_, TransportError>((provider, heads))
    };
    let Ok(subscribed) = tokio::time::timeout(CONNECT_TIMEOUT, subscribed).await else { return Ok(()) };
    let (_provider, mut heads) = subscribed?;
    tracing::debug!(endpoint = name, "new heads are told of over WebSocket");
    // There may have been some while nobody listened.
    notify.notify_one();
    loop {
        match heads.recv_any().await {
            Ok(_) => notify.notify_one(),
            Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => notify.notify_one(),
            Err(tokio::sync::broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}
