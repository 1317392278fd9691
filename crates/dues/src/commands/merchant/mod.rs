//! `dues merchant`: what the merchant does on a chain, one act at a time.

pub(crate) mod desk;
mod name;

use std::process::ExitCode;

use alloy_primitives::{Address, U256};
use anyhow::ensure;
use clap::{Args, Subcommand};
use dues_chain::source::{ContractPlan, ContractSubscription};
use dues_domain::{
    chain::{BlockHeader, ChargeFailure, OnchainPlanId, Party},
    money::BaseUnits,
};
use dues_keeper::merchant::{Act, Outcome, fresh_key, spent_key};
use dues_store::{TransactionKind, merchant::MerchantLead};
use rust_decimal::Decimal;

use self::{
    desk::{Desk, End, Hall, Options, Story},
    name::{Catalogue, FoundSubscription, PlanName, SubscriptionName},
};
use super::ask;
use crate::config::Config;

/// Refund, charge usage, retire plans, move and end subscriptions.
///
/// Each says first what would happen and tries it against the chain, asks, and then does it once: an act stands in the
/// ledger before it is sent, and the same command again goes on with it where it was interrupted. Money rows are
/// written by the indexer alone, from the contract's events.
///
/// Exit codes: 0 where it is done (with --dry-run: where it would go through); 1 where it was refused, and nothing
/// happened; 2 where the arguments are wrong; 3 where it was sent and is in no block yet.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send money back to a subscription's payer, from the account of the merchant's key.
    Refund(Refund),
    /// Charge usage to a period of a subscription, beside its price, within the plan's cap.
    UsageCharge(UsageCharge),
    /// Close a plan to new subscribers, for ever.
    Retire(Retire),
    /// Have a subscription's next period be one of a plan that is nowhere worse for its payer.
    Migrate(Migrate),
    /// End a subscription with its paid time. Its payer cannot resume it.
    Cancel(Cancel),
    /// Propose that a plan's payments go to another account. That one has to accept, two days later or more.
    Payee(Payee),
    /// Let an account charge usage and refund for the merchant, or stop that.
    Operator(Operator),
    /// Find out what became of acts that were interrupted, and go on with them.
    Resume(Resume),
}

#[derive(Debug, Args)]
pub(crate) struct Refund {
    /// The id of a subscription or of one of its transactions, or a chain and the contract's number, as in base:7.
    of: SubscriptionName,
    /// How much, as in 5.00; all of it by default where a transaction is named.
    #[arg(long)]
    amount: Option<Decimal>,
    /// What makes the refund happen once, however often it is asked for: 32 bytes in hexadecimal, or any text.
    #[arg(long)]
    key: Option<String>,
    /// Refund, though exactly this amount was refunded before.
    #[arg(long)]
    again: bool,
    /// Where the contract may not take the amount from your account, let it take exactly that, first.
    #[arg(long)]
    approve: bool,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
pub(crate) struct UsageCharge {
    /// The subscription's id, or a chain and the contract's number, as in base:7.
    of: SubscriptionName,
    /// How much, as in 1.23.
    #[arg(long)]
    amount: Decimal,
    /// What makes the charge happen once, however often it is asked for: 32 bytes in hexadecimal, or any text.
    #[arg(long)]
    key: String,
    /// The period, from 1, counted from the subscription's anchor; the running one by default.
    #[arg(long)]
    period: Option<u16>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
pub(crate) struct Retire {
    /// A plan of the catalogue, or a chain and the contract's number, as in base:7.
    plan: PlanName,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// The subscription's id, or a chain and the contract's number, as in base:7.
    of: SubscriptionName,
    /// The plan of its next period: one of the catalogue, or the contract's number.
    #[arg(long)]
    to: PlanName,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The subscription's id, or a chain and the contract's number, as in base:7.
    of: SubscriptionName,
    /// At once, and not with its paid time.
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
pub(crate) struct Payee {
    /// A plan of the catalogue, or a chain and the contract's number, as in base:7.
    plan: PlanName,
    /// The account that is to be paid; zero withdraws what was proposed.
    payee: Address,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
pub(crate) struct Operator {
    /// The account.
    operator: Address,
    /// Stop it, and do not let it.
    #[arg(long)]
    stop: bool,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    options: Options,
}

pub(crate) async fn run(command: Command, config: Config) -> anyhow::Result<ExitCode> {
    match command {
        Command::Refund(args) => refund(args, config).await,
        Command::UsageCharge(args) => usage_charge(args, config).await,
        Command::Retire(args) => retire(args, config).await,
        Command::Migrate(args) => migrate(args, config).await,
        Command::Cancel(args) => cancel(args, config).await,
        Command::Payee(args) => payee(args, config).await,
        Command::Operator(args) => operator(args, config).await,
        Command::Resume(args) => resume(args, config).await,
    }
    .map(ExitCode::from)
}

/// A subscription, and all that is told of it.
struct Case {
    hall: Hall,
    desk: Desk,
    head: BlockHeader,
    found: FoundSubscription,
    subscription: ContractSubscription,
    plan: ContractPlan,
    role: &'static str,
}

impl Case {
    async fn open(
        of: SubscriptionName,
        options: Options,
        config: Config,
        operators_may: bool,
    ) -> anyhow::Result<Self> {
        let mut hall = Hall::open(options, config).await?;
        let chains = std::mem::take(&mut hall.chains);
        let (chain, found) = of.find(&hall.ledger.store, chains).await?;
        let desk = hall.desk(chain)?;
        let head = desk.head().await?;
        let subscription = desk.subscription(&head, found.id).await?;
        let plan = desk.plan(&head, subscription.plan).await?;
        let role = desk.role(&head, &plan, operators_may).await?;
        Ok(Self { hall, desk, head, found, subscription, plan, role })
    }

    /// What the subscription is called: `subscription 7 (019…)`.
    fn called(&self) -> String {
        match self.found.ours {
            Some((ours, _)) => format!("subscription {} ({ours})", self.found.id),
            None => format!("subscription {} (not in the ledger yet)", self.found.id),
        }
    }

    async fn plan_called(&self, id: OnchainPlanId) -> anyhow::Result<String> {
        Ok(match self.desk.sells(id).await? {
            Some(key) => format!("plan {id} ({key})"),
            None => format!("plan {id}"),
        })
    }

    async fn story(&self, what: &str) -> anyhow::Result<Story> {
        let plan = self.plan_called(self.subscription.plan).await?;
        let mut story = Story::new(format!("{}: {what} {}, on {plan}", self.desk.name, self.called()));
        story.field("onchain_id", self.found.id.to_string());
        story.field("plan", self.subscription.plan);
        story.field("payer", self.subscription.payer.to_string());
        story.field("role", self.role);
        if let Some((subscription, account)) = self.found.ours {
            story.field("subscription_id", subscription.to_string());
            story.field("account_id", account.to_string());
        }
        Ok(story)
    }
}

async fn refund(args: Refund, config: Config) -> anyhow::Result<End> {
    let case = Case::open(args.of, args.options, config, true).await?;
    let amount = match (&case.found.movement, args.amount) {
        (Some(movement), amount) => {
            ensure!(
                movement.kind != TransactionKind::Refund && !movement.failed,
                "transaction {} is no payment that stands",
                movement.id
            );
            let amount = amount.map(|amount| case.desk.amount(&case.plan, amount)).transpose()?;
            let amount = amount.unwrap_or(movement.amount);
            ensure!(
                amount <= movement.amount,
                "transaction {} was {}, which is less",
                movement.id,
                case.desk.money(movement.amount)
            );
            amount
        }
        (None, Some(amount)) => case.desk.amount(&case.plan, amount)?,
        (None, None) => anyhow::bail!("say how much, by --amount"),
    };
    let (key, key_was_given) =
        args.key.as_deref().map_or_else(|| (fresh_key(), false), |text| (spent_key(text), true));
    let act = Act::Refund { subscription: case.found.id, amount, key, key_was_given };
    let desk = &case.desk;
    let lead = match desk.begin(&act).await? {
        Ok(lead) => lead,
        Err(end) => return case.hall.close(end).await,
    };
    let equal = desk.store().equal_refund(desk.chain.indexer.source, case.found.id, amount).await?;
    if let Some((hash, at)) = equal
        && !key_was_given
    {
        ensure!(
            args.again,
            "{} were refunded for {} before, at {} in {hash}: give --again if another refund is meant, or --key",
            desk.money(amount),
            case.called(),
            at.to_rfc3339()
        );
    }
    let mut story = case.story(&format!("refund {} for", desk.money(amount))).await?;
    let signer = desk.merchant.address();
    story.line(format!(
        "from {signer}, the {}, through the contract to its payer {}",
        case.role, case.subscription.payer
    ));
    let (paid, refunded) = (case.subscription.paid, case.subscription.refunded);
    let left = paid.saturating_sub(refunded);
    story.line(format!(
        "paid so far {}, refunded before {}: at most {} can go back",
        desk.money_u256(paid),
        desk.money_u256(refunded),
        desk.money_u256(left)
    ));
    story.line(format!("key: {key}"));
    story.field("amount", desk.amount_document(amount));
    story.field("key", key.to_string());
    let end = if args.approve {
        approve_and_refund(&case, lead, act, amount, story).await?
    } else {
        desk.conduct(lead, act, story).await?
    };
    case.hall.close(end).await
}

/// A refund, and the approval that it needs where it needs one.
async fn approve_and_refund(
    case: &Case,
    lead: Option<MerchantLead>,
    act: Act,
    amount: BaseUnits,
    mut story: Story,
) -> anyhow::Result<End> {
    let desk = &case.desk;
    let rehearsal = desk.merchant.rehearse(&act).await?;
    let lacks_allowance =
        rehearsal.verdict.as_ref().is_err_and(|refusal| refusal.reason == Some(ChargeFailure::Allowance));
    if !lacks_allowance {
        return desk.conduct(lead, act, story).await;
    }
    let signer = desk.merchant.address();
    let token = case.plan.plan.token;
    let means = desk.rpc.means(case.head.block, &[(signer, token)]).await?;
    let balance = means.into_iter().flatten().next().unwrap_or_default().balance;
    ensure!(
        balance >= U256::from(amount.get()),
        "{signer} has {}, which is less than {}",
        desk.money_u256(balance),
        desk.money(amount)
    );
    let approve = Act::Approve { token, amount };
    story.line(format!(
        "before that, {signer} allows the contract to take exactly {}, in place of what it allowed before",
        desk.money(amount)
    ));
    story.field("approve", true);
    let rehearsal = desk.merchant.rehearse(&approve).await?;
    desk.price(&rehearsal, &mut story);
    let Some(mut lead) = lead else {
        story.line("the refund itself can be tried only once that is done");
        return desk.tell_rehearsal(&approve, story, rehearsal).await;
    };
    if !desk.agreed(&mut story)? {
        lead.release().await?;
        return Ok(End::Badly);
    }
    let end = match desk.merchant.perform(&mut lead, &approve).await? {
        Outcome::Mined { hash, .. } => {
            story.line(format!("the approval is in a block, by transaction {hash}"));
            story.field("approval", hash.to_string());
            let outcome = desk.merchant.perform(&mut lead, &act).await?;
            desk.tell(&act, story, outcome).await?
        }
        outcome => desk.tell(&approve, story, outcome).await?,
    };
    lead.release().await?;
    Ok(end)
}

async fn usage_charge(args: UsageCharge, config: Config) -> anyhow::Result<End> {
    let case = Case::open(args.of, args.options, config, true).await?;
    let (desk, subscription) = (&case.desk, &case.subscription);
    let amount = desk.amount(&case.plan, args.amount)?;
    let key = spent_key(&args.key);
    let period = match args.period {
        Some(period) => period,
        None => running_period(&case)?,
    };
    let act = Act::ChargeUsage { subscription: case.found.id, period, amount, key };
    let lead = match desk.begin(&act).await? {
        Ok(lead) => lead,
        Err(end) => return case.hall.close(end).await,
    };
    let mut story = case.story(&format!("charge {} of usage to", desk.money(amount))).await?;
    story.line(format!(
        "from its payer {} to the payee {}, by {}, the {}",
        subscription.payer,
        case.plan.plan.payee,
        desk.merchant.address(),
        case.role
    ));
    let span = case.plan.plan.interval.period(subscription.anchor, period.into());
    story.line(format!(
        "for period {period}, from {} to {}; the plan allows {} in a period",
        span.start.to_rfc3339(),
        span.end.to_rfc3339(),
        desk.money(case.plan.plan.usage_cap)
    ));
    story.line(format!("key: {key}"));
    story.field("amount", desk.amount_document(amount));
    story.field("period", period);
    story.field("payee", case.plan.plan.payee.to_string());
    story.field("key", key.to_string());
    let end = desk.conduct(lead, act, story).await?;
    case.hall.close(end).await
}

/// The number of the paid period that is running by the chain's clock; after its end, that of the last one.
fn running_period(case: &Case) -> anyhow::Result<u16> {
    let (subscription, now) = (&case.subscription, case.head.timestamp);
    let interval = case.plan.plan.interval;
    // Ends ascend.
    let (mut low, mut high) = (1_u16, subscription.periods);
    ensure!(high > 0, "no period of subscription {} was paid yet", subscription.id);
    while low < high {
        let middle = low.midpoint(high);
        if interval.period(subscription.anchor, middle.into()).end > now {
            high = middle;
        } else {
            low = middle.saturating_add(1);
        }
    }
    Ok(low)
}

async fn retire(args: Retire, config: Config) -> anyhow::Result<End> {
    let catalogue = Catalogue::of(&config);
    let mut hall = Hall::open(args.options, config).await?;
    let chains = std::mem::take(&mut hall.chains);
    let (chain, id) = args.plan.find(&hall.ledger.store, &catalogue, chains).await?;
    let desk = hall.desk(chain)?;
    let head = desk.head().await?;
    let plan = desk.plan(&head, id).await?;
    desk.role(&head, &plan, false).await?;
    let act = Act::Retire { plan: id };
    let lead = match desk.begin(&act).await? {
        Ok(lead) => lead,
        Err(end) => return hall.close(end).await,
    };
    let sells = desk.sells(id).await?;
    let called = sells.as_ref().map_or_else(|| format!("plan {id}"), |key| format!("plan {id} ({key})"));
    let mut story = Story::new(format!("{}: retire {called}", desk.name));
    story.field("plan", id);
    story.field("sells", sells.as_ref().map(ToString::to_string));
    story.line("nobody can subscribe to it any more, for ever; those who have go on as before");
    if let Some(key) = sells {
        story
            .line(format!("{key} is then sold on {} only after it has another price or interval", desk.name));
    }
    let end = if plan.retired {
        nothing_to_do(&desk, &act, story, "it is retired already")?
    } else {
        desk.conduct(lead, act, story).await?
    };
    hall.close(end).await
}

async fn migrate(args: Migrate, config: Config) -> anyhow::Result<End> {
    let catalogue = Catalogue::of(&config);
    let case = Case::open(args.of, args.options, config, false).await?;
    let desk = &case.desk;
    let to = args.to.on(desk.store(), &catalogue, &desk.name, &desk.chain).await?;
    let new = desk.plan(&case.head, to).await?;
    let act = Act::Migrate { subscription: case.found.id, to };
    let lead = match desk.begin(&act).await? {
        Ok(lead) => lead,
        Err(end) => return case.hall.close(end).await,
    };
    let mut story = case.story("move").await?;
    story.line(format!(
        "to {} from {} on, for {} a period instead of {}; its payer {} can take that back",
        case.plan_called(to).await?,
        case.subscription.paid_through.to_rfc3339(),
        desk.money(new.plan.price),
        desk.money(case.plan.plan.price),
        case.subscription.payer
    ));
    story.field("to_plan", to);
    let end = if case.subscription.scheduled_plan == Some(to) {
        nothing_to_do(desk, &act, story, "that change is scheduled already")?
    } else {
        desk.conduct(lead, act, story).await?
    };
    case.hall.close(end).await
}

async fn cancel(args: Cancel, config: Config) -> anyhow::Result<End> {
    let case = Case::open(args.of, args.options, config, false).await?;
    let (desk, subscription) = (&case.desk, &case.subscription);
    let act = Act::Cancel { subscription: case.found.id, at_once: args.now };
    let lead = match desk.begin(&act).await? {
        Ok(lead) => lead,
        Err(end) => return case.hall.close(end).await,
    };
    let mut story = case.story("cancel").await?;
    let paid_through = subscription.paid_through.to_rfc3339();
    if args.now {
        story.line(format!(
            "it ends at once, though it is paid until {paid_through}; a refund is another act"
        ));
    } else {
        story.line(format!("it ends at {paid_through}, with its paid time, and is not charged any more"));
    }
    story.line(format!("its payer {} cannot resume it", subscription.payer));
    let done = subscription.ended || !args.now && subscription.cancel_scheduled_by == Some(Party::Merchant);
    let end = if done {
        nothing_to_do(desk, &act, story, "it is cancelled already")?
    } else {
        desk.conduct(lead, act, story).await?
    };
    case.hall.close(end).await
}

async fn payee(args: Payee, config: Config) -> anyhow::Result<End> {
    let catalogue = Catalogue::of(&config);
    let mut hall = Hall::open(args.options, config).await?;
    let chains = std::mem::take(&mut hall.chains);
    let (chain, id) = args.plan.find(&hall.ledger.store, &catalogue, chains).await?;
    let desk = hall.desk(chain)?;
    let head = desk.head().await?;
    let plan = desk.plan(&head, id).await?;
    desk.role(&head, &plan, false).await?;
    let act = Act::ProposePayee { plan: id, payee: args.payee };
    let lead = match desk.begin(&act).await? {
        Ok(lead) => lead,
        Err(end) => return hall.close(end).await,
    };
    let mut story = Story::new(format!("{}: propose another payee of plan {id}", desk.name));
    story.field("plan", id);
    story.field("payee", args.payee.to_string());
    let now = plan.plan.payee;
    story.line(if args.payee.is_zero() {
        format!("what was proposed before is withdrawn; {now} is paid as before")
    } else {
        format!("{} can accept two days later; until it does, {now} is paid", args.payee)
    });
    let end = desk.conduct(lead, act, story).await?;
    hall.close(end).await
}

async fn operator(args: Operator, config: Config) -> anyhow::Result<End> {
    let mut hall = Hall::open(args.options, config).await?;
    let chains = std::mem::take(&mut hall.chains);
    let desk = hall.desk(name::pick(chains, None)?)?;
    let (head, merchant) = (desk.head().await?, desk.chain.indexer.scope.merchant);
    let signer = desk.merchant.address();
    ensure!(signer == merchant, "{signer} is not the merchant of {}, which is {merchant}", desk.name);
    let act = Act::SetOperator { operator: args.operator, approved: !args.stop };
    let lead = match desk.begin(&act).await? {
        Ok(lead) => lead,
        Err(end) => return hall.close(end).await,
    };
    let operator = args.operator;
    let mut story = Story::new(format!("{}: operators of {merchant}", desk.name));
    story.field("operator", operator.to_string());
    story.line(if args.stop {
        format!("{operator} may not charge usage and refund any more")
    } else {
        format!(
            "{operator} may charge usage of every subscriber, up to the cap of its plan and to its payee, and refund \
             from its own account"
        )
    });
    let may = desk.rpc.is_operator(head.block, merchant, operator).await?;
    let end = if may != args.stop {
        nothing_to_do(&desk, &act, story, if may { "it may already" } else { "it may not as it is" })?
    } else {
        desk.conduct(lead, act, story).await?
    };
    hall.close(end).await
}

async fn resume(args: Resume, config: Config) -> anyhow::Result<End> {
    let mut hall = Hall::open(args.options, config).await?;
    let chains = std::mem::take(&mut hall.chains);
    let mut end = End::Well;
    for chain in chains {
        let desk = hall.desk(chain)?;
        let signer = desk.merchant.address();
        if desk.options.dry_run {
            for (of, begun) in desk.store().open_acts(desk.chain.indexer.source).await? {
                let (act, at) = (begun.act, begun.at.to_rfc3339());
                let (action, subject, hash, nonce) = (act.action, act.subject, act.hash, act.nonce);
                println!("{}: {action} of {subject}, begun {at} with {of}: {hash}, nonce {nonce}", desk.name);
            }
            continue;
        }
        let mut lead = desk.merchant.lead().await?;
        let (mut ended, open) = desk.merchant.settle(&mut lead).await?;
        let agreed = open.is_empty() || desk.options.yes() || {
            for begun in &open {
                let (act, at) = (&begun.act, begun.at.to_rfc3339());
                eprintln!("{}: {} of {}, begun {at}", desk.name, act.action, act.subject);
            }
            ask::confirm("Send the same transactions again, and wait for them?")?
        };
        for begun in open.into_iter().filter(|_| agreed) {
            let outcome = desk.merchant.finish(&mut lead, &begun.act).await?;
            ended.push((begun.act, outcome));
        }
        lead.release().await?;
        if !agreed {
            eprintln!("Nothing was sent.");
            end = End::Waiting;
        } else if ended.is_empty() {
            println!("{}: nothing of {signer} is under way", desk.name);
        }
        for (act, outcome) in ended {
            let (word, badly) = match outcome {
                Outcome::Mined { at, .. } => (format!("done, in block {}", at.block.number), None),
                Outcome::Reverted { at, .. } => {
                    (format!("refused in block {}: nothing happened", at.block.number), Some(End::Badly))
                }
                Outcome::Superseded { .. } => {
                    ("never done: another transaction has taken its place".to_owned(), Some(End::Badly))
                }
                Outcome::Waiting { .. } => ("in no block yet".to_owned(), Some(End::Waiting)),
                Outcome::KeySpent | Outcome::Refused(_) => ("not sent".to_owned(), Some(End::Badly)),
            };
            println!("{}: {} of {} ({}) is {word}", desk.name, act.action, act.subject, act.hash);
            end = badly.unwrap_or(end);
        }
    }
    hall.close(end).await
}

fn nothing_to_do(desk: &Desk, act: &Act, mut story: Story, why: &str) -> anyhow::Result<End> {
    story.line(format!("{why}; nothing was sent"));
    story.field("outcome", "already_done");
    desk.print(act, story, End::Well)
}
