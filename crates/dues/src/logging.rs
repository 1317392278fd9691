//! Logs go to standard error, so that standard output stays for what a command prints.

use std::io::{IsTerminal as _, stderr};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::{
    config::{LogFormat, LogSection},
    progress::AboveLines,
};

/// Starts logging; `quiet` keeps it to warnings unless `RUST_LOG` says otherwise.
pub(crate) fn start(section: &LogSection, quiet: bool) -> anyhow::Result<()> {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(filter) => filter,
        Err(_) if quiet => "warn".into(),
        Err(_) => section.filter.clone(),
    };
    // These write what they were configured with, a provider's or a database's secrets included.
    let filter = format!("{filter},alloy_transport_http=off,sqlx_postgres::options=off");
    let filter = EnvFilter::try_new(filter).context("the log filter is not valid")?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| AboveLines);
    match section.format {
        LogFormat::Text => subscriber.with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}
