//! `dues dev --fast-time`.

use chrono::{DateTime, TimeDelta, Utc};
use dues_tests::eventually;
use serde_json::Value;

use crate::{Dues, START, Signal, api, scratch};

fn instant(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

/// A month in 20 seconds: grace is four blocks, so a keeper that is slow for once makes nobody lapse.
#[tokio::test]
async fn months_pass_in_seconds_renewals_are_charged_and_the_next_start_goes_on_from_there() {
    let dir = scratch();
    let mut dues = Dues::start(dir.path(), &["dev", "--fast-time=20"], &[]);
    let manifest = dues.manifest(START).await;
    let ada = manifest["wallets"][0]["account_id"].as_str().unwrap().parse().unwrap();
    let (first, server) = (api(&manifest).entitlements(ada).await, api(&manifest));
    let charged = eventually(START, "two renewals are charged", || async {
        let mut rows = server.transactions(ada).await;
        rows.retain(|row| row["kind"] == "charge");
        if rows.len() >= 3 { Ok(rows) } else { Err(format!("{rows:?}")) }
    })
    .await;
    let mut ends: Vec<_> = charged.iter().map(|row| instant(&row["period_end"])).collect();
    let mut starts: Vec<_> = charged.iter().map(|row| instant(&row["period_start"])).collect();
    ends.sort();
    starts.sort();
    assert_eq!(starts[1..], ends[..ends.len() - 1], "each begins where the one before has ended");
    let last = server.entitlements(ada).await;
    assert_eq!((&last["tier"], &last["status"]), (&"premium".into(), &"active".into()));
    assert!(instant(&last["as_of"]) > instant(&first["as_of"]) + TimeDelta::days(40), "{last}");
    assert_eq!(dues.stop(Signal::SIGTERM).await.code(), Some(0));

    // The next one takes the chain up at its head, less than a block (1.55 days) before, although its time passes slowly.
    let (dues, manifest) = Dues::devnet(dir.path()).await;
    let later = api(&manifest).entitlements(ada).await;
    assert!(instant(&later["as_of"]) + TimeDelta::days(2) > instant(&last["as_of"]), "{later}");
    assert_eq!(dues.stop(Signal::SIGTERM).await.code(), Some(0));
}
