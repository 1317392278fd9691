//! What a person sees: the table at the start, then a line per event.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use dues_api::clock::Clock as _;
use dues_domain::{
    catalogue::{Catalogue, Tier},
    chain::Party,
    entitlement::{Entitlement, entitlement},
    ids::AccountId,
    subscription::SubscriptionStatus,
};
use dues_indexer::{LedgerChange, LedgerChangeKind};
use dues_store::{Account, Grants, Store};
use tokio::sync::{Notify, mpsc};

use crate::{clock::ChainClock, manifest::Manifest};

/// How often is looked at what time alone has changed.
const TIME_PASSES_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Narrator {
    store: Store,
    catalogue: Arc<Catalogue>,
    clock: ChainClock,
    manifest: Manifest,
    path: PathBuf,
    last: HashMap<AccountId, Answer>,
}

/// The part of an entitlement that is worth a line when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    tier: Tier,
    status: Option<SubscriptionStatus>,
    ending: bool,
    until: Option<DateTime<Utc>>,
}

impl Narrator {
    pub(crate) fn new(
        store: Store,
        catalogue: Arc<Catalogue>,
        clock: ChainClock,
        manifest: Manifest,
        path: PathBuf,
    ) -> Self {
        Self { store, catalogue, clock, manifest, path, last: HashMap::new() }
    }

    /// Prints the table and an example to copy.
    pub(crate) fn introduce(&self) {
        let m = &self.manifest;
        let mut text = String::new();
        let mut row = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<12} {value}");
        };
        row("API", &m.api_url);
        row("API docs", &format!("{}/docs", m.api_url));
        row("API key", &m.api_key);
        row("chain RPC", &format!("{} (chain id {})", m.rpc_url, m.chain_id));
        row("contract", &m.contract);
        row("token", &format!("{} (a test dollar that anybody may mint)", m.token));
        row("merchant", &m.merchant);
        row("PostgreSQL", &m.database_url);
        row("all of it in", &self.path.display().to_string());
        let _ = writeln!(text, "\n  {:<18} {:>16}   on-chain id", "plan", "price");
        for plan in &m.plans {
            let _ = writeln!(text, "  {:<18} {:>16}   {}", plan.id, plan.price, plan.onchain_id);
        }
        let _ = writeln!(text, "\n  {:<13} {:<36} wallet", "account", "id");
        for wallet in &m.wallets {
            let _ = writeln!(text, "  {:<13} {} {}", wallet.external_id, wallet.account_id, wallet.address);
        }
        if let (Some(wallet), Some(plan)) = (m.wallets.last(), m.plans.first()) {
            let reference = wallet.account_id.replace('-', "");
            let _ = write!(
                text,
                "\nTry it: {name} pays for {plan_id} with a wallet, and the API says so a second later.\n
  export ETH_RPC_URL={rpc} KEY={key}
  npx cast send --private-key $KEY {token} 'approve(address,uint256)' {contract} 1000000000
  npx cast send --private-key $KEY {contract} 'subscribe(uint32,bytes32)' {onchain} 0x{reference:0>64}
  curl -s -H 'Authorization: Bearer {api_key}' {api}/v1/accounts/{id}/entitlements\n
Ctrl-C stops everything. The next start goes on from here; --reset begins anew.\n\n",
                name = wallet.external_id,
                plan_id = plan.id,
                rpc = m.rpc_url,
                key = wallet.private_key,
                token = m.token,
                contract = m.contract,
                onchain = plan.onchain_id,
                api_key = m.api_key,
                api = m.api_url,
                id = wallet.account_id,
            );
        }
        print(&format!("\nDues devnet is ready.\n\n{text}"));
    }

    /// Prints a line per change, and tells `changed` of them. Where the indexer stops, it says so and why: the API
    /// goes on answering from what is in the ledger.
    pub(crate) async fn follow(
        &mut self,
        changes: &mut mpsc::UnboundedReceiver<LedgerChange>,
        indexer: impl Future<Output = anyhow::Error>,
        changed: &Notify,
    ) -> Infallible {
        let mut together = Vec::new();
        let mut ticks = tokio::time::interval(TIME_PASSES_EVERY);
        loop {
            let told = tokio::select! {
                count = changes.recv_many(&mut together, 100) => {
                    if count == 0 {
                        break;
                    }
                    changed.notify_one();
                    self.tell(&together).await
                }
                _ = ticks.tick() => self.tell_what_time_changed().await,
            };
            if let Err(error) = told {
                tracing::warn!(error = &*error, "a change could not be told");
            }
            together.clear();
        }
        let error = indexer.await;
        print(&format!(
            "\n{error:#}.\nThe API goes on with what is in the ledger; nothing new gets there.\n\n"
        ));
        std::future::pending().await
    }

    /// First what happened, then what came of it.
    async fn tell(
        &mut self,
        changes: &[LedgerChange],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let now = self.clock.now();
        let mut accounts = BTreeMap::new();
        for change in changes {
            let Some(account) = self.store.account(change.account).await? else { continue };
            print(&format!(
                "{}  block {:<6} {}\n",
                self.time(now),
                change.block.number,
                event(change, &account)
            ));
            accounts.insert(account.id, account);
        }
        for account in accounts.values() {
            self.tell_entitlement(account, now).await?;
        }
        Ok(())
    }

    /// What no event has changed: access that has ended, or that goes on although it was not paid for.
    async fn tell_what_time_changed(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let now = self.clock.now();
        let over = |answer: &Answer| answer.until.is_some_and(|until| until <= now);
        let accounts: Vec<_> =
            self.last.iter().filter(|(_, answer)| over(answer)).map(|(account, _)| *account).collect();
        for account in accounts {
            if let Some(account) = self.store.account(account).await? {
                self.tell_entitlement(&account, now).await?;
            }
        }
        Ok(())
    }

    /// The time of a line; with the day, where days pass.
    fn time(&self, now: DateTime<Utc>) -> impl std::fmt::Display {
        now.format(if self.clock.is_fast() { "%Y-%m-%d %H:%M" } else { "%H:%M:%S" })
    }

    async fn tell_entitlement(
        &mut self,
        account: &Account,
        now: DateTime<Utc>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let facts = self.store.subscription_facts(account.id, &Grants::at_once()).await?;
        let answer = Answer::from(&entitlement(&facts, account.created_at, &self.catalogue, now));
        let before = self.last.insert(account.id, answer);
        if before != Some(answer) {
            let until = answer
                .until
                .map_or_else(String::new, |at| format!(" until {}", at.format("%Y-%m-%d %H:%M UTC")));
            let ending = if answer.ending { ", then it ends" } else { "" };
            let tier = answer.tier.as_str().to_uppercase();
            let unpaid = if answer.status == Some(SubscriptionStatus::PastDue) { ", past due" } else { "" };
            let (time, name) = (self.time(now), name(account));
            print(&format!(
                "{time}  {:<12} entitlement changed: {name} is {tier}{unpaid}{until}{ending}\n",
                ""
            ));
        }
        Ok(())
    }
}

impl From<&Entitlement> for Answer {
    fn from(entitlement: &Entitlement) -> Self {
        let Entitlement { tier, status, cancel_at_period_end, valid_until, .. } = entitlement;
        Self { tier: *tier, status: *status, ending: *cancel_at_period_end, until: *valid_until }
    }
}

fn event(change: &LedgerChange, account: &Account) -> String {
    let (id, name) = (change.onchain_id, name(account));
    match &change.kind {
        LedgerChangeKind::Subscribed => format!("subscription {id} of {name} began"),
        LedgerChangeKind::Charged(money) => {
            format!("payment seen: {name} paid {money} for subscription {id}")
        }
        LedgerChangeKind::ChargeFailed(reason) => {
            format!("charge of subscription {id} of {name} failed: {reason:?}")
        }
        LedgerChangeKind::PlanChanged { from, to } => {
            format!("subscription {id} of {name} changed from on-chain plan {from} to {to}")
        }
        LedgerChangeKind::ChangeScheduled { to, by } => format!(
            "subscription {id} of {name} will be on on-chain plan {to} from its next period on{}",
            said_by(*by)
        ),
        LedgerChangeKind::ChangeRevoked => format!("subscription {id} of {name} stays on its plan"),
        LedgerChangeKind::CancelScheduled(by) => {
            format!("subscription {id} of {name} will end with its paid period{}", said_by(*by))
        }
        LedgerChangeKind::Cancelled(by) => format!("subscription {id} of {name} was ended{}", said_by(*by)),
        LedgerChangeKind::UsageCharged(money) => {
            format!("usage paid: {name} paid {money} for usage of subscription {id}")
        }
        LedgerChangeKind::Refunded(money) => {
            format!("refund seen: {name} got {money} back for subscription {id}")
        }
        LedgerChangeKind::Resumed => format!("subscription {id} of {name} goes on"),
        LedgerChangeKind::Reorganised => {
            format!(
                "the chain was reorganised above this block: events of subscription {id} of {name} are gone"
            )
        }
    }
}

/// Nothing where it was the payer, who usually does it.
const fn said_by(party: Party) -> &'static str {
    match party {
        Party::Payer => "",
        Party::Merchant => ", by the merchant",
    }
}

fn name(account: &Account) -> String {
    account.external_id.clone().unwrap_or_else(|| format!("an unknown wallet's account {}", account.id))
}

/// To the terminal; a closed one is no reason to stop.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
