//! `dues plans sync`: the catalogue's plans on the chains.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args as ClapArgs;
use dues_domain::{catalogue::PlanOffer, chain::OnchainPlanId, ids::PlanKey};
use dues_keeper::{
    merchant::{Act, Outcome},
    plans::{SaleTerms, Standing, Surveyed, plan_terms, plans_of, survey},
};
use dues_store::{ChainPlanMapping, merchant::MerchantLead};
use serde_json::{Value, json};

use super::{
    ask,
    merchant::desk::{Desk, End, Hall, Options},
};
use crate::config::Config;

/// Create the catalogue's plans on the chains where they are not sold yet.
///
/// Each plan of the catalogue is looked for on each chain: a plan that sells it is left as it is, and told where its
/// terms are others; a plan of exactly its terms that sells nothing yet (a run was interrupted) is mapped; otherwise one
/// is created with the merchant's key and mapped. Run twice, the second run finds nothing to do.
///
/// Exit codes: 0 where everything is sold; 1 where something failed, or is not what the catalogue says; 3 where a plan was
/// sent and is in no block yet.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    options: Options,
}

/// What the catalogue says.
struct Wanted {
    offers: Vec<(PlanOffer, SaleTerms)>,
}

pub(crate) async fn run(args: Args, config: Config) -> anyhow::Result<ExitCode> {
    let offers = config
        .catalogue
        .plans()
        .map(|offer| {
            let sale = config.sale.get(&offer.key).copied();
            (offer.clone(), sale.unwrap_or_else(|| SaleTerms::usual(offer.interval)))
        })
        .collect();
    let wanted = Wanted { offers };
    let mut hall = Hall::open(args.options, config).await?;
    let chains = std::mem::take(&mut hall.chains);
    let (mut end, mut documents) = (End::Well, Vec::new());
    for chain in chains {
        let name = chain.0.clone();
        let desk = hall.desk(chain)?;
        let (of_chain, document) = sync(&desk, &wanted).await.with_context(|| format!("chain {name}"))?;
        documents.push(document);
        if of_chain != End::Well {
            end = of_chain;
        }
    }
    if hall.options.shown().json {
        println!("{}", serde_json::to_string_pretty(&json!({ "chains": documents }))?);
    }
    hall.close(end).await.map(ExitCode::from)
}

async fn sync(desk: &Desk, wanted: &Wanted) -> anyhow::Result<(End, Value)> {
    let shown = desk.options;
    let mut lead = if shown.dry_run { None } else { Some(desk.merchant.lead().await?) };
    // A run that was interrupted: what it sent may be in a block soon, and must not be sent again.
    if let Some(lead) = &mut lead {
        let (_, open) = desk.merchant.settle(lead).await?;
        for begun in open {
            let act = begun.act;
            eprintln!("{}: {} of {} was begun before; waiting for it", desk.name, act.action, act.subject);
            if let Outcome::Waiting { hash, .. } = desk.merchant.finish(lead, &act).await? {
                eprintln!("{}: transaction {hash} is in no block yet", desk.name);
                return Ok((End::Waiting, json!({ "chain": desk.name, "waiting": hash })));
            }
        }
    }
    let surveyed = look(desk, wanted).await?;
    let mut rows: Vec<_> = surveyed.iter().map(Row::of).collect();
    let to_do = surveyed
        .iter()
        .filter(|plan| matches!(plan.standing, Standing::Missing | Standing::Unmapped { .. }))
        .count();
    if !shown.json {
        print(desk, &rows);
    }
    if let Some(lead) = &mut lead
        && to_do > 0
        && agreed(desk, &surveyed)?
    {
        for (plan, row) in surveyed.iter().zip(&mut rows) {
            carry_out(desk, lead, plan, row).await?;
            if !shown.json && row.done.is_some() {
                println!("{}: {}", desk.name, row.line());
            }
            if matches!(row.end, End::Waiting) {
                break;
            }
        }
    } else if lead.is_some() && to_do > 0 {
        rows.iter_mut().for_each(|row| row.end = End::Badly);
    }
    if let Some(lead) = lead {
        lead.release().await?;
    }
    let ends = |end| rows.iter().any(|row| row.end == end);
    let end = match (ends(End::Waiting), ends(End::Badly)) {
        (true, _) => End::Waiting,
        (false, true) => End::Badly,
        (false, false) => End::Well,
    };
    let plans: Vec<_> = rows.iter().map(Row::document).collect();
    Ok((end, json!({ "chain": desk.name, "dry_run": shown.dry_run, "plans": plans })))
}

/// Where everything stands now. Writes nothing.
async fn look(desk: &Desk, wanted: &Wanted) -> anyhow::Result<Vec<Surveyed>> {
    let source = desk.chain.indexer.source;
    let head = desk.head().await?;
    let onchain = plans_of(&desk.rpc, head.block, desk.chain.indexer.scope.merchant).await?;
    let stored = desk.store().stored_plans(wanted.offers.iter().map(|(offer, _)| offer), source).await?;
    let offers = wanted.offers.iter().zip(stored).map(|((offer, sale), stored)| {
        let terms = plan_terms(offer, *sale, desk.chain.token, desk.chain.payee)
            .with_context(|| format!("{} cannot be sold on chain", offer.key))?;
        anyhow::Ok((offer.clone(), terms, stored))
    });
    let offers = offers.collect::<Result<_, _>>()?;
    Ok(survey(offers, &desk.store().mapped_plans(source).await?, &onchain))
}

fn agreed(desk: &Desk, surveyed: &[Surveyed]) -> anyhow::Result<bool> {
    if desk.options.yes() {
        return Ok(true);
    }
    let missing = surveyed.iter().filter(|plan| plan.standing == Standing::Missing).count();
    let question = format!(
        "Create {missing} plans on {} with {}, for ever, and map what is not mapped?",
        desk.name,
        desk.merchant.address()
    );
    let agreed = ask::confirm(&question)?;
    if !agreed {
        eprintln!("Nothing was sent.");
    }
    Ok(agreed)
}

async fn carry_out(
    desk: &Desk,
    lead: &mut MerchantLead,
    plan: &Surveyed,
    row: &mut Row,
) -> anyhow::Result<()> {
    let id = match plan.standing {
        Standing::Sold { .. } | Standing::Gone { .. } => return Ok(()),
        Standing::Unmapped { id } => id,
        Standing::Missing => {
            let act = Act::CreatePlan { sells: plan.offer.key.clone(), terms: plan.terms.clone() };
            match desk.merchant.perform(lead, &act).await? {
                Outcome::Mined { hash, at } => {
                    let created = desk.rpc.created_plan(hash).await?;
                    let id =
                        created.context("the transaction has created no plan; look again with --dry-run")?;
                    row.transaction = Some(json!({
                        "hash": hash,
                        "block_number": at.block.number,
                        "gas_used": at.gas_used,
                    }));
                    id
                }
                Outcome::Waiting { hash, .. } => {
                    row.end(format!("transaction {hash} is in no block yet; run this again"), End::Waiting);
                    return Ok(());
                }
                Outcome::Refused(refusal) => {
                    row.end(format!("would not go through: {}", refusal.words), End::Badly);
                    return Ok(());
                }
                Outcome::Reverted { hash, .. } | Outcome::Superseded { hash } => {
                    row.end(format!("transaction {hash} did not create it; run this again"), End::Badly);
                    return Ok(());
                }
                Outcome::KeySpent => return Ok(()),
            }
        }
    };
    let source = desk.chain.indexer.source;
    let stored = desk.store().sync_plans([&plan.offer], source).await?;
    let version = stored.first().context("the plan was not stored")?.id;
    let mapping = ChainPlanMapping { plan: version, onchain_plan_id: id, token: desk.chain.token };
    desk.store().map_plan(source, mapping).await?;
    row.onchain_id = Some(id);
    row.state = if plan.standing == Standing::Missing { "created" } else { "mapped" };
    row.end(format!("plan {id} sells it from now on"), End::Well);
    Ok(())
}

/// A line of the table.
#[derive(Debug)]
struct Row {
    plan: PlanKey,
    price: String,
    state: &'static str,
    onchain_id: Option<OnchainPlanId>,
    notes: Vec<String>,
    done: Option<String>,
    transaction: Option<Value>,
    end: End,
}

impl Row {
    fn of(surveyed: &Surveyed) -> Self {
        let (state, onchain_id, notes, end) = match &surveyed.standing {
            Standing::Sold { id, retired, differences } => {
                let mut notes: Vec<_> = differences
                    .iter()
                    .map(|d| format!("{} is {} on chain, configured is {}", d.term, d.onchain, d.configured))
                    .collect();
                if *retired {
                    notes.push("it takes no new subscribers".to_owned());
                }
                let state = match (retired, differences.is_empty()) {
                    (true, _) => "retired",
                    (false, true) => "sold",
                    (false, false) => "differs",
                };
                let end = if notes.is_empty() { End::Well } else { End::Badly };
                (state, Some(*id), notes, end)
            }
            Standing::Gone { id } => {
                ("gone", Some(*id), vec!["the chain has no such plan of the merchant".to_owned()], End::Badly)
            }
            Standing::Unmapped { id } => ("to_map", Some(*id), Vec::new(), End::Well),
            Standing::Missing => ("to_create", None, Vec::new(), End::Well),
        };
        let offer = &surveyed.offer;
        let price = format!("{} {}", offer.price.decimal(), offer.price.asset.code);
        Self { plan: offer.key.clone(), price, state, onchain_id, notes, done: None, transaction: None, end }
    }

    fn end(&mut self, what: String, end: End) {
        self.done = Some(what);
        self.end = end;
    }

    fn line(&self) -> String {
        let id = self.onchain_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let mut line = format!("{:<20} {:>16}  {:<9} plan {id}", self.plan.as_str(), self.price, self.state);
        for note in self.done.iter().chain(&self.notes) {
            line.push_str("; ");
            line.push_str(note);
        }
        line
    }

    fn document(&self) -> Value {
        json!({
            "plan": self.plan,
            "state": self.state,
            "onchain_id": self.onchain_id,
            "notes": self.notes,
            "outcome": self.done,
            "transaction": self.transaction,
        })
    }
}

fn print(desk: &Desk, rows: &[Row]) {
    for row in rows {
        println!("{}: {}", desk.name, row.line());
    }
}
