//! `dues key create`

use anyhow::Context as _;
use chrono::TimeDelta;
use clap::{Args, Subcommand};
use dues_api::{
    auth::ApiKeySecret,
    clock::{Clock, SystemClock},
};
use dues_store::{Actor, NewApiKey, Scope};

use super::Ledger;
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a key. It is printed once, and only its hash is kept.
    Create(Create),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What the key is for.
    #[arg(long)]
    name: String,
    /// What it may do: accounts:read, accounts:write, entitlements:read, relay:write. May be repeated.
    #[arg(long = "scope", required = true, value_name = "SCOPE")]
    scopes: Vec<Scope>,
    /// After how many days it ends by itself; never by default.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    expires_in_days: Option<u16>,
}

pub(crate) async fn run(Command::Create(args): Command, config: Config) -> anyhow::Result<()> {
    anyhow::ensure!((1..=100).contains(&args.name.chars().count()), "a name has 1 to 100 characters");
    let expires_at = args
        .expires_in_days
        .map(|days| {
            SystemClock.now().checked_add_signed(TimeDelta::days(days.into())).context("too many days")
        })
        .transpose()?;
    let secret = ApiKeySecret::generate()?;
    let key = NewApiKey { name: args.name, hash: secret.hash(), scopes: args.scopes, expires_at };
    let ledger = Ledger::open(&config.database).await?;
    ledger.store.check().await?;
    ledger.store.create_api_key(&key, Actor::Operator).await?;
    println!("{}", secret.expose());
    ledger.close().await
}
