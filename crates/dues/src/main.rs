//! `dues`: the one binary.

mod commands;
mod config;
mod logging;
mod metrics;
mod progress;
mod shutdown;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::config::Config;

/// Subscriptions paid on chain, and what they entitle to: a self-hosted payments stack.
#[derive(Debug, Parser)]
#[command(name = "dues", version)]
struct Cli {
    /// The configuration file; `dues.toml` in the working directory by default, if it is there.
    #[arg(long, global = true, env = "DUES_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a local devnet: anvil, PostgreSQL, contract, API, indexer and keeper, with demo accounts.
    Dev(commands::dev::Args),
    /// Run the API, the indexer and, where it has a key, the keeper in one process.
    Run,
    /// Run the API alone.
    Api,
    /// Run the indexer alone.
    Index,
    Keeper(commands::keeper::Args),
    /// Bring the database's schema up to date.
    Migrate,
    Audit(commands::audit::Args),
    Reindex(commands::reindex::Args),
    #[command(subcommand)]
    Merchant(commands::merchant::Command),
    /// Make, list, end and rotate API keys.
    #[command(subcommand)]
    Key(commands::key::Command),
    /// Create plans on chains, and say where plans are sold.
    #[command(subcommand)]
    Plans(commands::plans::Command),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the API's OpenAPI document.
    Openapi,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Report everything that is wrong with the configuration.
    Check,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let failure = match cli.command {
        // Its 1 is a finding.
        Command::Audit(_) => commands::audit::UNCHECKED.into(),
        _ => ExitCode::FAILURE,
    };
    run(cli).unwrap_or_else(|error| {
        // The whole chain of causes, once: this is the edge.
        eprintln!("dues: {error:#}");
        failure
    })
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if matches!(cli.command, Command::Openapi) {
        print!("{}", dues_api::openapi::document()?);
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::load(cli.config.as_deref())?;
    let quiet = matches!(
        cli.command,
        Command::Dev(_) | Command::Audit(_) | Command::Reindex(_) | Command::Merchant(_) | Command::Plans(_)
    );
    logging::start(&config.log, quiet)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        match cli.command {
            Command::Audit(args) => return commands::audit::run(args, config).await,
            Command::Merchant(command) => return commands::merchant::run(command, config).await,
            Command::Plans(command) => return commands::plans::run(command, config).await,
            Command::Dev(args) => commands::dev::run(args, config).await,
            Command::Run => commands::serve::run(config, commands::serve::Parts::ALL).await,
            Command::Api => commands::serve::run(config, commands::serve::Parts::API).await,
            Command::Index => commands::serve::run(config, commands::serve::Parts::INDEXER).await,
            Command::Keeper(args) => commands::keeper::run(args, config).await,
            Command::Migrate => commands::migrate::run(config).await,
            Command::Reindex(args) => commands::reindex::run(args, config).await,
            Command::Key(command) => commands::key::run(command, config).await,
            Command::Config(ConfigCommand::Check) => {
                println!("The configuration is good: {}", config.summary());
                Ok(())
            }
            Command::Openapi => Ok(()),
        }
        .map(|()| ExitCode::SUCCESS)
    })
}
