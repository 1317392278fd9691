//! `dues migrate`

use super::Ledger;
use crate::config::Config;

pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let ledger = Ledger::open(&config.database).await?;
    ledger.store.migrate().await?;
    if config.usage.database.url.is_some() {
        let usage = ledger.usage(&config.usage).await?;
        usage.migrate().await?;
        usage.stop().await;
    }
    println!("The schema is up to date.");
    ledger.close().await
}
