//! Where an act is told, tried, asked about, done, and told again.

use std::{process::ExitCode, time::Duration};

use alloy_primitives::{Address, B256, U256, utils::format_ether};
use anyhow::{Context as _, bail, ensure};
use clap::Args as ClapArgs;
use dues_chain::source::{ContractPlan, ContractSubscription, RpcSource};
use dues_domain::{
    chain::{BlockHeader, ChargeFailure, OnchainPlanId, OnchainSubscriptionId},
    ids::PlanKey,
    money::{Asset, BaseUnits, Money},
};
use dues_keeper::{
    KeeperSigner,
    merchant::{Act, Merchant, MerchantConfig, Outcome, Rehearsal},
};
use dues_store::{
    Store, TransactionKind,
    keeper::MinedAt,
    merchant::{MerchantLead, Movement},
};
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};

use super::name::Named;
use crate::{
    commands::{
        Ledger, ask,
        target::{self, Target},
    },
    config::{Chain, Config, KeeperSettings, Key},
};

/// It was sent, and is in no block yet.
const WAITING: u8 = 3;
/// How often to look for a transaction's block.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// For how long the ledger is given to learn what a key was spent for.
const LEDGER_LOOKS: u32 = 20;

/// What all acts have.
#[derive(Debug, ClapArgs)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    shown: Shown,
    /// For how many seconds to wait for a block.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    wait: u64,
}

/// What is told, asked and done.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub(crate) struct Shown {
    /// Say what would happen, try it against the chain, and send nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Print one JSON document instead of lines.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Options {
    pub(crate) const fn shown(&self) -> Shown {
        self.shown
    }
}

impl Shown {
    /// Whether nobody is to be asked.
    pub(crate) const fn yes(self) -> bool {
        self.yes
    }

    /// Refuses where it would have to ask and nobody is there.
    fn check(self) -> anyhow::Result<()> {
        ensure!(
            self.dry_run || self.yes || ask::somebody_is_there(),
            "nobody is there to be asked: give --yes to do it without, or --dry-run to look only"
        );
        Ok(())
    }
}

/// What is at hand before it is known which chain is meant.
pub(crate) struct Hall {
    pub(in crate::commands) ledger: Ledger,
    pub(crate) chains: Vec<Named>,
    signer: KeeperSigner,
    keeper: KeeperSettings,
    asset: Asset,
    pub(crate) options: Options,
}

impl Hall {
    pub(crate) async fn open(options: Options, config: Config) -> anyhow::Result<Self> {
        options.shown.check()?;
        let key = match (config.merchant.clone(), options.target.devnet_merchant_key()?) {
            (Some(key), _) => key,
            (None, Some(key)) => Key::Given(key),
            (None, None) => bail!("the merchant has no key: see [merchant] in dues.toml"),
        };
        let signer = key.signer()?;
        let (keeper, asset) = (config.keeper.clone(), config.asset.clone());
        let (ledger, chains) = options.target.clone().open(config).await?;
        Ok(Self { ledger, chains, signer, keeper, asset, options })
    }

    /// The desk of one chain.
    pub(crate) fn desk(&self, (name, chain): Named) -> anyhow::Result<Desk> {
        let rpc = target::node(&chain)?;
        let config = MerchantConfig {
            source: chain.indexer.source,
            fees: self.keeper.fees(&chain),
            poll_interval: LOOK_EVERY,
            patience: Duration::from_secs(self.options.wait),
        };
        let store = self.ledger.store.clone();
        let merchant = Merchant::new(store.clone(), rpc.clone(), config, self.signer.clone());
        let (asset, options) = (self.asset.clone(), self.options.shown);
        Ok(Desk { store, name, chain, rpc, merchant, asset, options })
    }
}

impl Hall {
    pub(crate) async fn close(self, end: End) -> anyhow::Result<End> {
        self.ledger.close().await.context("what was done is done, but the ledger was not closed in order")?;
        Ok(end)
    }
}

/// One chain, and who acts on it.
pub(crate) struct Desk {
    store: Store,
    pub(crate) name: String,
    pub(crate) chain: Chain,
    pub(crate) rpc: RpcSource,
    pub(crate) merchant: Merchant,
    pub(crate) asset: Asset,
    pub(crate) options: Shown,
}

/// What an act is, in words and for programs.
#[derive(Debug, Default)]
pub(crate) struct Story {
    lines: Vec<String>,
    document: Map<String, Value>,
}

impl Story {
    pub(crate) fn new(what: String) -> Self {
        Self { lines: vec![what], document: Map::new() }
    }

    pub(crate) fn line(&mut self, line: impl Into<String>) {
        self.lines.push(format!("  {}", line.into()));
    }

    pub(crate) fn field(&mut self, name: &str, value: impl Into<Value>) {
        self.document.insert(name.to_owned(), value.into());
    }
}

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Well,
    Badly,
    Waiting,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        match end {
            End::Well => Self::SUCCESS,
            End::Badly => Self::FAILURE,
            End::Waiting => WAITING.into(),
        }
    }
}

impl Desk {
    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) async fn head(&self) -> anyhow::Result<BlockHeader> {
        self.rpc.verify_chain().await?;
        Ok(self.rpc.head(0).await?)
    }

    /// The subscription as the contract has it.
    pub(super) async fn subscription(
        &self,
        head: &BlockHeader,
        id: OnchainSubscriptionId,
    ) -> anyhow::Result<ContractSubscription> {
        let (_, count) = self.rpc.counts(head.block).await?;
        ensure!((1..=count).contains(&id), "there is no subscription {id} on {}", self.name);
        let found = self.rpc.subscriptions(head.block, id, id).await?.into_iter().next();
        found.with_context(|| format!("there is no subscription {id} on {}", self.name))
    }

    /// The plan as the contract has it.
    pub(super) async fn plan(&self, head: &BlockHeader, id: OnchainPlanId) -> anyhow::Result<ContractPlan> {
        let (count, _) = self.rpc.counts(head.block).await?;
        ensure!((1..=count).contains(&id), "there is no plan {id} on {}", self.name);
        let found = self.rpc.plans(head.block, id, id).await?.into_iter().next();
        found.with_context(|| format!("there is no plan {id} on {}", self.name))
    }

    /// In which role the signer may act for a plan.
    pub(super) async fn role(
        &self,
        head: &BlockHeader,
        plan: &ContractPlan,
        operators_may: bool,
    ) -> anyhow::Result<&'static str> {
        let (signer, merchant) = (self.merchant.address(), plan.plan.merchant);
        if signer == merchant {
            return Ok("merchant");
        }
        if operators_may && self.rpc.is_operator(head.block, merchant, signer).await? {
            return Ok("operator");
        }
        let or_operator = if operators_may { ", nor an operator of it" } else { "" };
        bail!(
            "{signer} may not do this: plan {} is of the merchant {merchant}, and the key given is not its{or_operator}",
            plan.plan.id
        )
    }

    /// The plan of the catalogue that a plan sells.
    pub(super) async fn sells(&self, plan: OnchainPlanId) -> anyhow::Result<Option<PlanKey>> {
        Ok(self.store().mapped_plans(self.chain.indexer.source).await?.remove(&plan))
    }

    /// What people wrote as an amount of a plan's token.
    pub(super) fn amount(&self, plan: &ContractPlan, amount: Decimal) -> anyhow::Result<BaseUnits> {
        ensure!(
            plan.plan.token == self.chain.token,
            "plan {} is paid in {}, and not in the token of {}",
            plan.plan.id,
            plan.plan.token,
            self.name
        );
        let units = BaseUnits::from_decimal(amount, self.asset.exponent)
            .with_context(|| format!("--amount {amount} is no amount of {}", self.asset.code))?;
        ensure!(units.get() > 0, "an amount of nothing");
        Ok(units)
    }

    pub(super) fn money(&self, amount: BaseUnits) -> String {
        format!("{} {}", amount.decimal(self.asset.exponent), self.asset.code)
    }

    pub(super) fn money_u256(&self, amount: U256) -> String {
        u128::try_from(amount)
            .map_or_else(|_| "more than all".to_owned(), |units| self.money(BaseUnits::new(units)))
    }

    pub(super) fn amount_document(&self, amount: BaseUnits) -> Value {
        let money = Money { amount, asset: self.asset.clone() };
        json!({
            "amount": money.decimal(),
            "currency": self.asset.code,
            "base_units": amount.to_string(),
            "exponent": self.asset.exponent,
        })
    }

    /// Goes on with `act` where it was begun before. Tells how that ended, and gives the lead otherwise. A dry run only
    /// says what was begun, and leads nothing.
    pub(super) async fn begin(&self, act: &Act) -> anyhow::Result<Result<Option<MerchantLead>, End>> {
        if self.options.dry_run {
            for (signer, begun) in self.store().open_acts(self.chain.indexer.source).await? {
                let act = begun.act;
                eprintln!(
                    "{}: {} of {} was begun with {signer}, and is in no block yet (transaction {})",
                    self.name, act.action, act.subject, act.hash
                );
            }
            return Ok(Ok(None));
        }
        let mut lead = self.merchant.lead().await?;
        match self.merchant.resume(&mut lead, act).await? {
            None => Ok(Ok(Some(lead))),
            Some(outcome) => {
                let mut story = Story::new(format!(
                    "{}: this was begun before, and is not done a second time",
                    self.name
                ));
                story.field("resumed", true);
                let end = self.tell(act, story, outcome).await?;
                lead.release().await?;
                Ok(Err(end))
            }
        }
    }

    /// Tells and tries `act`, asks, and does it.
    pub(super) async fn conduct(
        &self,
        lead: Option<MerchantLead>,
        act: Act,
        mut story: Story,
    ) -> anyhow::Result<End> {
        let rehearsal = self.merchant.rehearse(&act).await?;
        self.price(&rehearsal, &mut story);
        let Some(mut lead) = lead else {
            return self.tell_rehearsal(&act, story, rehearsal).await;
        };
        if rehearsal.verdict.is_err() {
            let end = self.tell_rehearsal(&act, story, rehearsal).await?;
            lead.release().await?;
            return Ok(end);
        }
        if !self.agreed(&mut story)? {
            lead.release().await?;
            return Ok(End::Badly);
        }
        let outcome = self.merchant.perform(&mut lead, &act).await?;
        let end = self.tell(&act, story, outcome).await?;
        lead.release().await?;
        Ok(end)
    }

    /// Whether somebody agrees with what was told so far.
    pub(super) fn agreed(&self, story: &mut Story) -> anyhow::Result<bool> {
        if self.options.yes {
            return Ok(true);
        }
        for line in story.lines.drain(..) {
            eprintln!("{line}");
        }
        let agreed = ask::confirm("Do this?")?;
        if !agreed {
            eprintln!("Nothing was sent.");
        }
        Ok(agreed)
    }

    /// What it takes.
    pub(super) fn price(&self, rehearsal: &Rehearsal, story: &mut Story) {
        let Rehearsal { head, verdict, max_fee, balance, .. } = rehearsal;
        story.field("block", json!({ "number": head.block.number, "hash": head.block.hash }));
        let signer = self.merchant.address();
        if let Ok(gas) = verdict {
            let most = max_fee.map(|fee| U256::from(fee).saturating_mul(U256::from(*gas)));
            let cost = most.map_or_else(
                || "but gas costs more than the cap at the moment".to_owned(),
                |most| format!("at most {} of the chain's currency", format_ether(most)),
            );
            story.line(format!("gas: about {gas} units, {cost}; {signer} has {}", format_ether(*balance)));
            story.field(
                "gas",
                json!({
                    "estimate": gas,
                    "max_fee_per_gas": max_fee,
                    "max_cost_wei": most.map(|most| most.to_string()),
                    "balance_wei": balance.to_string(),
                }),
            );
        }
    }

    pub(super) async fn tell_rehearsal(
        &self,
        act: &Act,
        mut story: Story,
        rehearsal: Rehearsal,
    ) -> anyhow::Result<End> {
        match rehearsal.verdict {
            Ok(_) => {
                let block = rehearsal.head.block.number;
                story.line(format!("at block {block} it would go through; nothing was sent"));
                story.field("outcome", "would_go_through");
                self.print(act, story, End::Well)
            }
            Err(refusal) if refusal.key_was_spent => self.tell(act, story, Outcome::KeySpent).await,
            Err(refusal) => self.tell(act, story, Outcome::Refused(refusal)).await,
        }
    }

    /// Tells what became of an act.
    pub(super) async fn tell(&self, act: &Act, mut story: Story, outcome: Outcome) -> anyhow::Result<End> {
        let end = match outcome {
            Outcome::Mined { hash, at } => {
                self.mined(&mut story, hash, &at);
                story.field("outcome", "done");
                End::Well
            }
            Outcome::Reverted { hash, at } => {
                self.mined(&mut story, hash, &at);
                story.line("it was refused there: nothing happened but that gas was spent");
                story.field("outcome", "reverted");
                End::Badly
            }
            Outcome::Waiting { hash, against } => {
                story.line(format!(
                    "transaction {hash} is in no block yet; the same command again goes on with it"
                ));
                if let Some(against) = &against {
                    story.line(format!("against it speaks: {against}"));
                }
                story.field("outcome", "waiting");
                story.field("transaction", json!({ "hash": hash }));
                story.field("reason", against);
                End::Waiting
            }
            Outcome::Superseded { hash } => {
                story.line(format!(
                    "transaction {hash} will never be in a block: another transaction of {} has taken its place; \
                     nothing was done",
                    self.merchant.address()
                ));
                story.field("outcome", "superseded");
                story.field("transaction", json!({ "hash": hash }));
                End::Badly
            }
            Outcome::KeySpent => self.key_spent(act, &mut story).await?,
            Outcome::Refused(refusal) => {
                story.line(format!("it would not go through: {}; nothing was sent", refusal.words));
                if refusal.reason == Some(ChargeFailure::Allowance) && matches!(act, Act::Refund { .. }) {
                    story.line(
                        "give --approve to let the contract take exactly this amount from your account first",
                    );
                }
                story.field("outcome", "refused");
                story.field("reason", refusal.words);
                End::Badly
            }
        };
        self.print(act, story, end)
    }

    fn mined(&self, story: &mut Story, hash: B256, at: &MinedAt) {
        let fee = U256::from(at.gas_price).saturating_mul(U256::from(at.gas_used));
        story.line(format!(
            "transaction {hash} is in block {} ({}); it used {} gas for {} of the chain's currency",
            at.block.number,
            at.block.hash,
            at.gas_used,
            format_ether(fee)
        ));
        story.field(
            "transaction",
            json!({
                "hash": hash,
                "block_number": at.block.number,
                "block_hash": at.block.hash,
                "gas_used": at.gas_used,
                "fee_wei": fee.to_string(),
            }),
        );
    }

    /// What a key was spent for: this very act is as good as done.
    async fn key_spent(&self, act: &Act, story: &mut Story) -> anyhow::Result<End> {
        let (kind, id, key) = match act {
            Act::Refund { subscription, key, .. } => (TransactionKind::Refund, *subscription, *key),
            Act::ChargeUsage { subscription, key, .. } => (TransactionKind::Usage, *subscription, *key),
            _ => bail!("a key was spent that the act does not have"),
        };
        let Some(movement) = self.spent_for(id, key).await? else {
            story.line(
                "the key was spent before, and the ledger does not know yet what for: look again when the indexer \
                 has caught up; nothing was sent",
            );
            story.field("outcome", "key_spent");
            return Ok(End::Badly);
        };
        story.field("transaction", json!({ "hash": movement.tx_hash }));
        let what = match movement.kind {
            TransactionKind::Usage => "charged",
            TransactionKind::Refund | TransactionKind::Charge => "refunded",
        };
        let (amount, hash) = (self.money(movement.amount), movement.tx_hash);
        if movement.kind == kind && Some(movement.amount) == act.amount() {
            story.line(format!("{amount} were already {what} with this key in {hash}; nothing was sent"));
            story.field("outcome", "already_done");
            return Ok(End::Well);
        }
        story.line(format!(
            "the key was spent for something else: {amount} were {what} with it in {hash}; nothing was sent"
        ));
        story.field("outcome", "key_spent");
        Ok(End::Badly)
    }

    async fn spent_for(&self, id: OnchainSubscriptionId, key: B256) -> anyhow::Result<Option<Movement>> {
        for _ in 0..LEDGER_LOOKS {
            let found = self.store().movement_by_key(self.chain.indexer.source, id, key).await?;
            if found.is_some() {
                return Ok(found);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(None)
    }

    pub(super) fn print(&self, act: &Act, story: Story, end: End) -> anyhow::Result<End> {
        if self.options.json {
            let mut document = Map::new();
            let signer: Address = self.merchant.address();
            document.insert("act".into(), act.action().into());
            document.insert("chain".into(), self.name.clone().into());
            document.insert("subject".into(), act.subject().into());
            document.insert("signer".into(), json!(signer));
            document.insert("dry_run".into(), self.options.dry_run.into());
            document.extend(story.document);
            println!("{}", serde_json::to_string_pretty(&document)?);
        } else {
            for line in story.lines {
                println!("{line}");
            }
        }
        Ok(end)
    }
}
