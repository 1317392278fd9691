//! What has to be done from time to time so that usage can be counted: partitions ahead, and what is old removed.

use std::{sync::Arc, time::Duration};

use dues_store::usage::{Retention, Tidied, UsageStore};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// Often enough for a new month, as partitions are made one ahead.
const INTERVAL: Duration = Duration::from_secs(3_600);

/// Tidies at once and then every hour, until `shutdown`. Any number of processes may. Where it fails, counting goes on: a
/// partition that is missing is made by whoever needs it.
pub async fn keep_tidy(
    usage: UsageStore,
    clock: Arc<dyn Clock>,
    retention: Retention,
    shutdown: CancellationToken,
) {
    loop {
        match usage.tidy(clock.now(), retention).await {
            Ok(tidied) if tidied == Tidied::default() => {}
            Ok(Tidied { made, dropped, reservations }) => {
                tracing::info!(made, dropped, reservations, "usage is tidied up");
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "usage could not be tidied up");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}
