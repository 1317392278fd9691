//! Waiting for a condition.

use std::{panic::Location, time::Duration};

use tokio::time::{Instant, sleep};

/// Long enough for anything that happens at all, on a machine that is busy with other things.
pub const SOON: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// Asks again and again until `check` gives `Ok`, and panics after `deadline` with what stood in the way last.
#[track_caller]
pub fn eventually<T, F, Fut>(deadline: Duration, what: &str, mut check: F) -> impl Future<Output = T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let caller = Location::caller();
    async move {
        let end = Instant::now() + deadline;
        loop {
            match check().await {
                Ok(value) => return value,
                Err(state) if Instant::now() >= end => {
                    panic!("{caller}: not within {deadline:?}: {what}. The last look found: {state}")
                }
                Err(_) => sleep(POLL).await,
            }
        }
    }
}
