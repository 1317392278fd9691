//! `dues keeper`: charges what is due.

use alloy_primitives::utils::format_units;
use anyhow::{Context as _, ensure};
use clap::Args as ClapArgs;
use dues_keeper::{HeldBack, Keeper, KeeperSigner, Plan};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Ledger,
    target::{Target, node},
};
use crate::{
    config::{Chain, Config, KeeperSettings},
    metrics, shutdown,
};

/// Charge what is due, for as long as it runs.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Say what would be charged and what would be refused; send nothing. Needs no key.
    #[arg(long, conflicts_with = "once")]
    dry_run: bool,
    /// Charge what is due now, wait until that is in blocks, and end.
    #[arg(long)]
    once: bool,
}

pub(crate) async fn run(args: Args, config: Config) -> anyhow::Result<()> {
    let settings = config.keeper.clone();
    let signer = if args.dry_run { None } else { settings.signer()? };
    ensure!(
        args.dry_run || signer.is_some(),
        "the keeper has no key: see [keeper] in dues.toml, or look what it would do with --dry-run"
    );
    let listen = config.metrics.listen.filter(|_| !args.dry_run && !args.once);
    let shutdown = shutdown::on_signals()?;
    let (ledger, chains) = args.target.open(config).await?;
    let done = match signer {
        None => dry_run(&ledger, &settings, &chains).await,
        Some(signer) if args.once => once(&ledger, &settings, &chains, &signer, &shutdown).await,
        Some(signer) => {
            let mut tasks = JoinSet::new();
            // Before anything that counts.
            if let Some(listen) = listen {
                tasks.spawn(metrics::serve(listen, shutdown.clone()).await?);
            }
            for (name, chain) in chains {
                let keeper = keeper(&ledger, &settings, &chain, &signer)?;
                let shutdown = shutdown.clone();
                tasks.spawn(async move {
                    keeper.run(shutdown).await.with_context(|| format!("charging on {name} stopped"))
                });
            }
            until_one_fails(tasks).await
        }
    };
    shutdown.cancel();
    ledger.close().await?;
    done
}

async fn until_one_fails(mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

fn keeper(
    ledger: &Ledger,
    settings: &KeeperSettings,
    chain: &Chain,
    signer: &KeeperSigner,
) -> anyhow::Result<Keeper> {
    Ok(Keeper::new(ledger.store.clone(), node(chain)?, settings.config(chain), signer.clone()))
}

async fn once(
    ledger: &Ledger,
    settings: &KeeperSettings,
    chains: &[(String, Chain)],
    signer: &KeeperSigner,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    for (name, chain) in chains {
        let keeper = keeper(ledger, settings, chain, signer)?;
        let (round, charges) =
            keeper.once(shutdown.clone()).await.with_context(|| format!("chain {name}"))?;
        println!("{name}: {charges} charges sent, {} transactions wait for a block", round.waiting);
        match round.held_back {
            Some(HeldBack::FeeAboveCap) => {
                anyhow::bail!("{name}: gas costs more than keeper.max_fee_gwei; more is due")
            }
            Some(HeldBack::Purse) => {
                anyhow::bail!("{name}: {} cannot pay for the gas; more is due", signer.address())
            }
            Some(HeldBack::Limits) | None => {}
        }
    }
    Ok(())
}

async fn dry_run(
    ledger: &Ledger,
    settings: &KeeperSettings,
    chains: &[(String, Chain)],
) -> anyhow::Result<()> {
    for (name, chain) in chains {
        let config = settings.config(chain);
        let plan = dues_keeper::plan(&ledger.store, &node(chain)?, &config)
            .await
            .with_context(|| format!("chain {name}"))?;
        print(name, &plan)?;
    }
    Ok(())
}

fn print(name: &str, plan: &Plan) -> anyhow::Result<()> {
    let Plan { head, found, prices, max_fee } = plan;
    println!(
        "{name}: at block {} ({}), gas costs {} gwei",
        head.block.number,
        head.timestamp.to_rfc3339(),
        format_units(prices.next_base_fee.saturating_add(prices.usual_tip), "gwei")?,
    );
    println!("  {} charges would go through, {} would be refused", found.ready(), found.refused.len());
    match max_fee {
        Some(max_fee) => println!("  at most {} gwei would be offered", format_units(*max_fee, "gwei")?),
        None => println!("  but gas costs more than the cap: they would wait"),
    }
    for batch in &found.batches {
        let ids: Vec<_> = batch.ids().iter().map(ToString::to_string).collect();
        println!("  charge {} with a gas limit of {}: {}", ids.len(), batch.gas_limit(), ids.join(" "));
    }
    for (charge, reason) in &found.refused {
        println!(
            "  leave out {}: {}, {} attempts before, grace ends {}",
            charge.onchain_id,
            reason.as_str(),
            charge.attempts,
            charge.grace.until.to_rfc3339()
        );
    }
    Ok(())
}
