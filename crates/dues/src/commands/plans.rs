//! `dues plans`

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use dues_domain::{chain::OnchainPlanId, ids::PlanKey};
use dues_store::ChainPlanMapping;

use super::{Ledger, sync};
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say which on-chain plan sells a plan of the catalogue. The indexer must have seen it, and its terms must be
    /// the same.
    Map(Map),
    Sync(sync::Args),
}

#[derive(Debug, Args)]
pub(crate) struct Map {
    /// The plan of the catalogue, as in `basic-month`.
    plan: PlanKey,
    /// The contract's number for the plan.
    onchain_plan_id: OnchainPlanId,
    /// The chain, by its name in the configuration.
    #[arg(long)]
    chain: String,
    /// Only say whether it could be done.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(command: Command, config: Config) -> anyhow::Result<ExitCode> {
    match command {
        Command::Map(args) => map(args, config).await.map(|()| ExitCode::SUCCESS),
        Command::Sync(args) => sync::run(args, config).await,
    }
}

async fn map(args: Map, config: Config) -> anyhow::Result<()> {
    let chain =
        config.chains.get(&args.chain).with_context(|| format!("there is no chain {}", args.chain))?;
    let offer = config
        .catalogue
        .plans()
        .find(|offer| offer.key == args.plan)
        .with_context(|| format!("there is no plan {}", args.plan))?;
    let source = chain.indexer.source;
    let ledger = Ledger::open(&config.database).await?;
    ledger.store.check().await?;

    let id = args.onchain_plan_id;
    let terms = ledger.store.onchain_terms(source, id).await?.with_context(|| {
        format!("plan {id} of the contract is not in the ledger: is the indexer running, and is it our merchant's?")
    })?;
    ensure!(terms.token == chain.token, "plan {id} is paid in {}, not in {}", terms.token, chain.token);
    ensure!(
        terms.price == offer.price.amount,
        "plan {id} costs {} base units, {} costs {}",
        terms.price,
        args.plan,
        offer.price.amount
    );
    ensure!(terms.interval == offer.interval, "plan {id} has another interval than {}", args.plan);
    if args.dry_run {
        println!("Plan {id} has the terms of {} and could sell it.", args.plan);
    } else {
        let stored = ledger.store.sync_plans([offer], source).await?;
        let plan = stored.first().context("the plan was not stored")?.id;
        let mapping = ChainPlanMapping { plan, onchain_plan_id: id, token: chain.token };
        ledger.store.map_plan(source, mapping).await?;
        println!("Plan {id} on {} sells {} from now on.", args.chain, args.plan);
    }
    ledger.close().await
}
