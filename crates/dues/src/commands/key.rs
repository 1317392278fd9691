//! `dues key`

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand};
use dues_api::{
    auth::ApiKeySecret,
    clock::{Clock, SystemClock},
};
use dues_domain::ids::ApiKeyId;
use dues_store::{Actor, ApiKeyRecord, NewApiKey, Scope};
use serde_json::json;

use super::Ledger;
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a key. It is printed once, and only its hash is kept.
    Create(Create),
    /// Say which keys there are: never the keys themselves.
    List(List),
    /// End a key at once.
    Revoke(Revoke),
    /// Make a new key of the same name and scopes in place of one that goes on for a while. The new one is printed once.
    Rotate(Rotate),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What the key is for.
    #[arg(long)]
    name: String,
    /// What it may do: accounts:read, accounts:write, entitlements:read, usage:read, usage:write, relay:write. May be
    /// repeated.
    #[arg(long = "scope", required = true, value_name = "SCOPE")]
    scopes: Vec<Scope>,
    /// After how long it ends by itself, as in 90d, 12h or 30m; never by default.
    #[arg(long, value_name = "TIME", value_parser = span)]
    expires: Option<TimeDelta>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print one JSON document instead of lines.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// The key's id, as `dues key list` says it.
    id: ApiKeyId,
}

#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// The key's id, as `dues key list` says it.
    id: ApiKeyId,
    /// For how long the old key goes on beside the new one, as in 24h.
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = overlap)]
    overlap: TimeDelta,
}

pub(crate) async fn run(command: Command, config: Config) -> anyhow::Result<()> {
    match command {
        Command::Create(args) => create(args, config).await,
        Command::List(args) => list(&args, config).await,
        Command::Revoke(args) => revoke(&args, config).await,
        Command::Rotate(args) => rotate(&args, config).await,
    }
}

async fn open(config: &Config) -> anyhow::Result<Ledger> {
    let ledger = Ledger::open_beside(&config.database).await?;
    ledger.store.check().await?;
    Ok(ledger)
}

async fn create(args: Create, config: Config) -> anyhow::Result<()> {
    anyhow::ensure!((1..=100).contains(&args.name.chars().count()), "a name has 1 to 100 characters");
    let expires_at = args.expires.map(|time| from_now(time, SystemClock.now())).transpose()?;
    let secret = ApiKeySecret::generate()?;
    let key = NewApiKey {
        name: args.name,
        prefix: secret.prefix().to_owned(),
        hash: secret.hash(),
        scopes: args.scopes,
        expires_at,
    };
    let ledger = open(&config).await?;
    ledger.store.create_api_key(&key, Actor::Operator).await?;
    println!("{}", secret.expose());
    ledger.close().await
}

async fn list(args: &List, config: Config) -> anyhow::Result<()> {
    let ledger = open(&config).await?;
    let keys = ledger.store.api_keys().await?;
    let now = SystemClock.now();
    if args.json {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| {
                json!({
                    "id": key.id,
                    "name": key.name,
                    "prefix": key.prefix,
                    "scopes": scopes(key),
                    "state": state(key, now),
                    "created_at": key.created_at,
                    "last_used_at": key.last_used_at,
                    "expires_at": key.expires_at,
                    "revoked_at": key.revoked_at,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&json!({ "keys": keys }))?);
    } else {
        for key in &keys {
            println!("{}", line(key, now));
        }
        if keys.is_empty() {
            eprintln!("There are no keys: make one with `dues key create`.");
        }
    }
    ledger.close().await
}

async fn revoke(args: &Revoke, config: Config) -> anyhow::Result<()> {
    let ledger = open(&config).await?;
    let revoked = ledger.store.revoke_api_key(args.id, SystemClock.now(), Actor::Operator).await?;
    println!("{}", if revoked { "The key has ended." } else { "The key had been revoked before." });
    ledger.close().await
}

async fn rotate(args: &Rotate, config: Config) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let until = from_now(args.overlap, now)?;
    let secret = ApiKeySecret::generate()?;
    let ledger = open(&config).await?;
    let new = (secret.hash(), secret.prefix().to_owned());
    let (key, until) = ledger.store.rotate_api_key(args.id, new, now, until, Actor::Operator).await?;
    // Alone on standard output, for scripts.
    println!("{}", secret.expose());
    eprintln!("This is the new key, {}; the old one ends {}.", key.id, time(until));
    ledger.close().await
}

fn line(key: &ApiKeyRecord, now: DateTime<Utc>) -> String {
    let at = |instant: Option<DateTime<Utc>>| instant.map_or_else(|| "never".to_owned(), time);
    let mut line = format!(
        "{}  {}…  {}  {}  [{}]  created {}, last used {}, expires {}",
        key.id,
        key.prefix.as_deref().unwrap_or("dues_sk_"),
        state(key, now),
        key.name,
        scopes(key).join(" "),
        time(key.created_at),
        at(key.last_used_at),
        at(key.expires_at),
    );
    if let Some(revoked) = key.revoked_at {
        line.push_str(", revoked ");
        line.push_str(&time(revoked));
    }
    line
}

fn state(key: &ApiKeyRecord, now: DateTime<Utc>) -> &'static str {
    match (key.revoked_at, key.expires_at) {
        (Some(_), _) => "revoked",
        (None, Some(expires)) if expires <= now => "expired",
        _ => "good",
    }
}

fn scopes(key: &ApiKeyRecord) -> Vec<&'static str> {
    key.scopes.iter().map(|scope| scope.as_str()).collect()
}

fn time(instant: DateTime<Utc>) -> String {
    instant.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn from_now(time: TimeDelta, now: DateTime<Utc>) -> anyhow::Result<DateTime<Utc>> {
    now.checked_add_signed(time).filter(|at| *at <= dues_domain::calendar::LATEST).context("too long a time")
}

/// A time of more than nothing.
fn span(text: &str) -> Result<TimeDelta, &'static str> {
    overlap(text).and_then(|time| if time.is_zero() { Err("a time of nothing") } else { Ok(time) })
}

/// A time as people write it: `90d`, `12h`, `30m`; `0h` is one, too.
fn overlap(text: &str) -> Result<TimeDelta, &'static str> {
    const FORM: &str = "a number of days, hours or minutes is needed, as in 90d, 12h or 30m";
    let unit = text.chars().next_back().ok_or(FORM)?;
    let count: u32 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| FORM)?;
    let time = match unit {
        'd' => TimeDelta::try_days(count.into()),
        'h' => TimeDelta::try_hours(count.into()),
        'm' => TimeDelta::try_minutes(count.into()),
        _ => return Err(FORM),
    };
    time.ok_or("too long a time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(span("90d"), Ok(TimeDelta::days(90)));
        assert_eq!(span("12h"), Ok(TimeDelta::hours(12)));
        assert_eq!(span("30m"), Ok(TimeDelta::minutes(30)));
        assert_eq!(overlap("0h"), Ok(TimeDelta::zero()));
        for bad in ["", "d", "90", "90 d", "-1d", "1w", "1é", "0d", "1.5h", "99999999999d", "1dd"] {
            assert!(span(bad).is_err(), "{bad:?}");
        }
    }
}
