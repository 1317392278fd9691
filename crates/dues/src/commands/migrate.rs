//! `dues migrate`

use super::Ledger;
use crate::config::Config;

pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let ledger = Ledger::open(&config.database).await?;
    ledger.store.migrate().await?;
    println!("The schema is up to date.");
    ledger.close().await
}
