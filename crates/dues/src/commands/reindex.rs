//! `dues reindex`

use clap::Args as ClapArgs;
use dues_indexer::reindex;
use dues_store::{Store, mirror::Rebuilt};
use serde_json::{Value, json};

use super::{
    ask,
    target::{self, Target},
};
use crate::config::{Chain, Config};

/// Rebuild the ledger from the chain.
///
/// Plans, subscriptions, transactions and raw events are built anew from what the chain says. The new ledger takes the
/// place of the old one in one moment; until then everybody reads the old one, and a running indexer waits. Rows that
/// are right stay as they are, the others keep their ids and accounts; money that the chain does not know ends `failed`
/// with the reason `not_on_chain`, and is never deleted. This is also the repair after a reorganisation below finality.
///
/// Exit codes: 0 where the ledger is what the chain says now; 1 where nothing was changed because it failed; 2 where
/// the arguments are wrong.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Only say what would be changed.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document instead of lines.
    #[arg(long)]
    json: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(args: Args, config: Config) -> anyhow::Result<()> {
    let (ledger, chains) = args.target.open(config).await?;
    if !args.yes && !args.dry_run {
        let names: Vec<_> = chains.iter().map(|(name, _)| name.as_str()).collect();
        anyhow::ensure!(ask::somebody_is_there(), "give --yes to rebuild without being asked, or --dry-run");
        let names = names.join(", ");
        if !ask::confirm(&format!(
            "Rebuild the ledger of {names} from the chain? A running indexer waits meanwhile."
        ))? {
            eprintln!("Nothing was changed.");
            return ledger.close().await;
        }
    }
    let mut documents = Vec::new();
    for (name, chain) in chains {
        let rebuilt = reindex_chain(&ledger.store, &name, &chain, args.dry_run).await;
        let rebuilt = rebuilt.map_err(|error| error.context(format!("{name}: nothing was changed")))?;
        if args.json {
            documents.push(document(&name, &rebuilt, args.dry_run));
        } else {
            print(&name, &rebuilt, args.dry_run);
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "chains": documents }))?);
    }
    ledger.close().await
}

async fn reindex_chain(store: &Store, name: &str, chain: &Chain, dry_run: bool) -> anyhow::Result<Rebuilt> {
    let rpc = target::node(chain)?;
    let bar = target::bar()?;
    let rebuilt = reindex(store, &rpc, &chain.indexer, dry_run, |reading| {
        bar.set_message(format!("{name}: {} events, blocks", reading.events));
        bar.set_length(reading.blocks);
        bar.set_position(reading.done);
    })
    .await;
    bar.finish_and_clear();
    Ok(rebuilt?)
}

fn print(name: &str, rebuilt: &Rebuilt, dry_run: bool) {
    let block = rebuilt.after.block;
    if rebuilt.is_unchanged() {
        println!(
            "{name}: the ledger is what the chain says, at block {} ({}); nothing was changed",
            block.number, block.hash
        );
        return;
    }
    let would = if dry_run { "would be " } else { "" };
    for t in &rebuilt.tables {
        println!(
            "{name}: {} of {} rows: {would}{} added, {} changed, {} removed",
            t.table, t.rows, t.added, t.changed, t.removed
        );
    }
    if rebuilt.not_on_chain > 0 {
        println!("{name}: of the transactions, {} {would}failed: not_on_chain", rebuilt.not_on_chain);
    }
    let done =
        if dry_run { "nothing was changed, as you asked" } else { "the ledger is what the chain says now" };
    println!("{name}: {done}, at block {} ({})", block.number, block.hash);
}

fn document(name: &str, rebuilt: &Rebuilt, dry_run: bool) -> Value {
    let tables: serde_json::Map<_, _> = rebuilt
        .tables
        .iter()
        .map(|t| {
            let counts =
                json!({ "rows": t.rows, "added": t.added, "changed": t.changed, "removed": t.removed });
            (t.table.to_owned(), counts)
        })
        .collect();
    let block = |block: dues_domain::chain::BlockRef| json!({ "number": block.number, "hash": block.hash });
    json!({
        "chain": name,
        "dry_run": dry_run,
        "unchanged": rebuilt.is_unchanged(),
        "before": block(rebuilt.before.block),
        "after": block(rebuilt.after.block),
        "tables": tables,
        "not_on_chain": rebuilt.not_on_chain,
    })
}
