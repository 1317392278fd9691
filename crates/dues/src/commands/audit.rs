//! `dues audit`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use dues_indexer::audit::{self, AuditError, AuditReport, Stage};
use dues_store::Store;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::target::{self, Target};
use crate::config::{Chain, Config};

/// The ledger is not what the chain says.
const DIFFERENT: u8 = 1;
/// Whether it is could not be found out.
pub(crate) const UNCHECKED: u8 = 2;

/// Compare the ledger with the chain.
///
/// Plans and subscriptions are compared with the contract's storage at the block that the ledger
/// stands at, stored events with the contract's logs, money with the tokens' own Transfer logs. Nothing is changed, and
/// nobody is held up.
///
/// Exit codes: 0 where the ledger is what the chain says; 1 where it is not, with a line per difference; 2 where that
/// could not be found out.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Print one JSON document instead of lines.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: Config) -> anyhow::Result<ExitCode> {
    let (ledger, chains) = args.target.open(config).await?;
    let mut documents = Vec::new();
    let (mut different, mut unchecked) = (false, false);
    for (name, chain) in chains {
        let audited = audit_chain(&ledger.store, &name, &chain).await;
        match &audited {
            Ok(report) => different |= !report.is_clean(),
            Err(_) => unchecked = true,
        }
        if args.json {
            documents.push(document(&name, &audited));
        } else {
            print(&name, &audited);
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "chains": documents }))?);
    }
    ledger.close().await?;
    // What is known to be wrong matters more than what is not known.
    Ok(match (different, unchecked) {
        (true, _) => DIFFERENT.into(),
        (false, true) => UNCHECKED.into(),
        (false, false) => ExitCode::SUCCESS,
    })
}

async fn audit_chain(store: &Store, name: &str, chain: &Chain) -> anyhow::Result<AuditReport> {
    let rpc = target::node(chain)?;
    let bar = target::bar()?;
    let audited = audit::audit(store, &rpc, &chain.indexer, &mut |stage, done, all| {
        show(&bar, name, stage, done, all);
    })
    .await;
    bar.finish_and_clear();
    audited.map_err(|error| match error {
        AuditError::BlockGone { .. } => {
            anyhow::Error::new(error).context(format!("if it stays so, run `dues reindex --chain {name}`"))
        }
        error => error.into(),
    })
}

fn show(bar: &ProgressBar, name: &str, stage: Stage, done: u64, all: u64) {
    bar.set_message(match stage {
        Stage::Storage => format!("{name}: subscriptions"),
        Stage::Events => format!("{name}: blocks"),
        Stage::Transfers => format!("{name}: transactions"),
    });
    bar.set_length(all);
    if bar.position() > done {
        // Another stage has begun.
        bar.reset();
    }
    bar.set_position(done);
}

fn print(name: &str, audited: &anyhow::Result<AuditReport>) {
    let report = match audited {
        Ok(report) => report,
        Err(error) => {
            eprintln!("dues: {name} could not be checked: {error:#}");
            return;
        }
    };
    for difference in &report.differences {
        println!("{name}: {difference}");
    }
    if report.omitted > 0 {
        println!("{name}: and {} more differences", report.omitted);
    }
    let checked = report.checked;
    let verdict = match report.differences.len() {
        0 => "the ledger is what the chain says".to_owned(),
        1 => "1 difference".to_owned(),
        number => format!("{number} differences"),
    };
    println!(
        "{name}: {verdict}, at block {} ({}); compared: {} plans, {} subscriptions, {} events in {} blocks, {} \
         transactions, transfers of {} transactions on the chain",
        report.block.number,
        report.block.hash,
        checked.plans,
        checked.subscriptions,
        checked.events,
        checked.blocks,
        checked.transactions,
        checked.transfers,
    );
}

fn document(name: &str, audited: &anyhow::Result<AuditReport>) -> Value {
    match audited {
        Ok(report) => json!({
            "chain": name,
            "block": { "number": report.block.number, "hash": report.block.hash },
            "clean": report.is_clean(),
            "differences": report.differences,
            "omitted": report.omitted,
            "checked": report.checked,
        }),
        Err(error) => json!({ "chain": name, "error": format!("{error:#}") }),
    }
}
