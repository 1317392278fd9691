//! Charges what is due, so that recurring payments recur.
//!
//! Charging is permissionless, and the contract takes a period once, when it is due, at the plan's price: a keeper can be
//! late, and waste its own gas, and nothing else. What it does here is to be on time and to waste little. It never writes
//! money: what it has charged, the indexer learns from the contract's events, as with anybody's charge.
//!
//! A round looks at the head, finds out what became of what was sent ([`flight`](self) below), gives stuck transactions
//! a push, asks the ledger what is due by the chain's clock, has the contract say which of that would fail, and sends the
//! rest in batches. Each transaction is recorded before it is sent.
//!
//! * `find`: what to charge now; `batch`: what goes together, and with how much gas.
//! * `flight`: nonces, transactions that got lost, got stuck, were reorganised away.
//! * `relay`: what payers signed for others to send, simulated first.
//! * `sending`, `fees`: what is signed, and what is offered for gas; `signer`: whose gas it is.
//! * `runway`: for how long payers' means last; `pace`: how often that, and what is due, is asked for.
//! * [`merchant`], [`plans`]: what a merchant does with a key of its own, which is not the keeper's business but is done with
//!   the same care.

mod batch;
mod error;
mod fees;
mod find;
mod flight;
pub mod merchant;
mod pace;
pub mod plans;
mod relay;
mod runway;
mod sending;
mod signer;
mod telemetry;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use alloy::primitives::{Address, B256, U256};
use chrono::TimeDelta;
use dues_chain::source::{GasPrices, RpcSource, WakeUps};
use dues_domain::{
    chain::{BlockHeader, ChainSource, ChargeFailure, OnchainSubscriptionId},
    dunning::RetrySchedule,
    ids::RelayIntentId,
    relay::RelayLimits,
};
use dues_store::{
    Store,
    keeper::{Charge, KeeperLead, Refused},
    relay::RelayWakeUps,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use batch::{Batch, BatchLimits};
pub use error::KeeperError;
pub use fees::FeeLimits;
pub use find::Found;
pub use signer::{KeeperSigner, SignerError};
pub use telemetry::describe_metrics;

use crate::{error::chain, flight::Flight, pace::Pace, sending::Work, telemetry::Telemetry};

/// How long a standby waits before it tries to take the lead again.
const STANDBY_INTERVAL: Duration = Duration::from_secs(1);
/// The longest wait after a failure.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// The longest that a round may take.
const ROUND_TIMEOUT: Duration = Duration::from_secs(120);
/// How often the purse is looked at where nothing is sent.
const PURSE_INTERVAL: Duration = Duration::from_secs(30);
/// How often the same trouble is said again.
const SAY_AGAIN: Duration = Duration::from_secs(600);
/// What one charge takes in a batch, about: for saying how many a purse is good for.
const GAS_PER_CHARGE: u64 = 25_000;
/// The most charges that are looked at for a dry run.
const DRY_RUN_MOST: usize = 10_000;

/// What to charge, and how.
#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// The contract.
    pub source: ChainSource,
    /// Whose plans.
    pub merchant: Address,
    /// The token that is known to behave. Charges in any other one get far more gas, which is not spent where it does.
    pub token: Address,
    /// How often to look.
    pub poll_interval: Duration,
    /// How much at once, at what price, and how patiently.
    pub limits: KeeperLimits,
    /// How much of what payers signed is sent; `None` for nothing.
    pub relay: Option<RelayLimits>,
}

/// How much a keeper does at once, at what price, and how patiently: the same for all chains, mostly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeeperLimits {
    /// How large batches are, and how many go at once.
    pub batches: BatchLimits,
    /// The most that gas may cost.
    pub fees: FeeLimits,
    /// After how many blocks a transaction that is in none of them counts as stuck.
    pub stuck_after_blocks: u64,
    /// When to try again what was refused.
    pub retry: RetrySchedule,
    /// For how many charges the signer's balance should last.
    pub low_balance_charges: u64,
    /// How old, by the chain's clock, what is known of a payer's means may become.
    pub runway_interval: TimeDelta,
}

/// What holds charges back that could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBack {
    /// Gas costs more than the cap.
    FeeAboveCap,
    /// The signer cannot pay for the gas.
    Purse,
    /// As many transactions wait for a block as may.
    Limits,
}

/// What a round came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round {
    /// Transactions sent for the first time.
    pub sent: usize,
    /// Charges in them.
    pub charges: usize,
    /// Charges that were refused before they were sent.
    pub refused: usize,
    /// Transactions that wait for a block.
    pub waiting: usize,
    /// Why there are charges that were not sent.
    pub held_back: Option<HeldBack>,
    /// Whether more may be due.
    pub more: bool,
}

/// What a keeper would do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The head that it was looked at from.
    pub head: BlockHeader,
    /// What would be charged, and what not.
    pub found: Found,
    /// What gas costs.
    pub prices: GasPrices,
    /// Wei per unit of gas that it would offer; `None` where the cap forbids it.
    pub max_fee: Option<u64>,
}

/// The keeper of one contract.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    rpc: RpcSource,
    config: KeeperConfig,
    signer: KeeperSigner,
    telemetry: Telemetry,
    memory: Memory,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

/// What a keeper can do without after a restart.
#[derive(Debug, Default)]
struct Memory {
    /// Charges in a batch that was reverted: given gas as if nobody knew their token.
    doubted: HashSet<OnchainSubscriptionId>,
    /// The head when a transaction was sent again.
    given: HashMap<B256, u64>,
    /// The head when a nonce was first seen to be used up by none of ours.
    lost: HashMap<u64, u64>,
    /// The number of the highest head that was seen.
    head: u64,
    purse_looked_at: Option<Instant>,
    /// How often a simulation of an intent failed.
    faults: HashMap<RelayIntentId, u8>,
    due: Pace,
    means: Pace,
    /// Since when trouble was last said.
    said_low: Option<Instant>,
    said_fee: Option<Instant>,
}

impl Keeper {
    /// A keeper of what `config` says, that pays with `signer`.
    #[must_use]
    pub fn new(store: Store, rpc: RpcSource, config: KeeperConfig, signer: KeeperSigner) -> Self {
        let telemetry = Telemetry::new(config.source);
        Self { store, rpc, config, signer, telemetry, memory: Memory::default() }
    }

    /// Runs until `shutdown`. What may pass (a node or a database that is down, another keeper in the lead) is waited for.
    ///
    /// # Errors
    /// What does not pass by itself: the wrong chain, a ledger that contradicts itself.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), KeeperError> {
        let (chain_id, address) = (self.config.source.chain_id, self.signer.address());
        tracing::info!(chain_id, signer = %address, "the keeper charges what is due");
        let mut backoff = self.config.poll_interval;
        let heads = self.rpc.wake_ups();
        loop {
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                outcome = self.lead(&mut backoff, &heads) => outcome,
            };
            let Err(error) = outcome;
            self.telemetry.interrupted();
            if !error.is_transient() {
                return Err(error);
            }
            tracing::warn!(error = %chain(&error), retry_in = ?backoff, "charging was interrupted");
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(backoff) => {}
            }
            backoff = backoff.saturating_mul(2).min(MAX_BACKOFF.max(self.config.poll_interval));
        }
    }

    /// Charges what is due now and waits until that is in blocks; gives the last round, and how much was charged in all.
    ///
    /// # Errors
    /// [`KeeperError::NotLeading`] where another keeper is at work; otherwise as a round.
    pub async fn once(mut self, shutdown: CancellationToken) -> Result<(Round, usize), KeeperError> {
        self.rpc.verify_chain().await?;
        let lead = self.store.lead_keeper(self.config.source, self.signer.address()).await?;
        let mut lead = lead.ok_or(KeeperError::NotLeading)?;
        let mut charges = 0_usize;
        loop {
            let round = self.round(&mut lead).await?;
            charges = charges.saturating_add(round.charges);
            let blocked = matches!(round.held_back, Some(HeldBack::FeeAboveCap | HeldBack::Purse));
            let done = round.waiting == 0 && round.sent == 0 && !round.more;
            if done || blocked || shutdown.is_cancelled() {
                lead.release().await?;
                return Ok((round, charges));
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(self.config.poll_interval) => {}
            }
        }
    }

    /// Takes the lead and keeps it until something fails.
    async fn lead(
        &mut self,
        backoff: &mut Duration,
        heads: &WakeUps,
    ) -> Result<std::convert::Infallible, KeeperError> {
        self.rpc.verify_chain().await?;
        let mut lead = self.wait_for_lead().await?;
        self.telemetry.leads(true);
        let mut handed_in = match self.config.relay {
            Some(_) => Some(self.store.relay_wake_ups().await?),
            None => None,
        };
        loop {
            let round = tokio::time::timeout(ROUND_TIMEOUT, self.round(&mut lead))
                .await
                .map_err(|_| KeeperError::Stuck)??;
            *backoff = self.config.poll_interval;
            // There is more, and room for it.
            if round.sent > 0 && round.more && round.held_back.is_none() {
                continue;
            }
            tokio::select! {
                () = heads.next() => {}
                told = next(&mut handed_in) => told?,
                () = tokio::time::sleep(self.config.poll_interval) => {}
            }
        }
    }

    async fn wait_for_lead(&self) -> Result<KeeperLead, KeeperError> {
        let mut said = false;
        loop {
            if let Some(lead) = self.store.lead_keeper(self.config.source, self.signer.address()).await? {
                return Ok(lead);
            }
            self.telemetry.leads(false);
            if !std::mem::replace(&mut said, true) {
                tracing::info!("another process charges for this contract, or with this signer; standing by");
            }
            tokio::time::sleep(STANDBY_INTERVAL).await;
        }
    }

    /// One look at everything.
    async fn round(&mut self, lead: &mut KeeperLead) -> Result<Round, KeeperError> {
        let head = self.rpc.head(self.memory.head).await?;
        self.memory.head = head.block.number;
        let mut flight = self.settle(lead, &head).await?;
        let mut round = Round::default();
        // Somebody waits for an answer.
        self.relay(lead, &head, &mut flight, &mut round).await?;
        let (slots, gas) = self.room(&flight);
        let most = slots.saturating_mul(self.config.limits.batches.items);
        let has_room = most > 0 && gas > 0;
        let looks = has_room && self.memory.due.is_due(Instant::now());
        let found = if looks {
            let signer = Some(self.signer.address());
            let found =
                find::find(&self.store, &self.rpc, &self.config, &head, signer, most, &self.memory.doubted)
                    .await?;
            self.memory.due.took(Instant::now(), found.asked_for, found.more);
            found
        } else {
            Found { more: !has_room, ..Found::default() }
        };
        round.more = found.more;
        round.refused = found.refused.len();
        self.refused(lead, &head, found.refused).await?;
        let idle = flight.waiting.is_empty() && found.batches.is_empty();
        let purse_is_fresh =
            self.memory.purse_looked_at.is_some_and(|looked| looked.elapsed() < PURSE_INTERVAL);
        if !(idle && purse_is_fresh) {
            let prices = self.rpc.gas_prices().await?;
            self.push(lead, &head, &prices, &mut flight).await?;
            let balance = self.purse(&prices).await?;
            if looks {
                self.charge(lead, &head, &prices, balance, &mut flight, found.batches, &mut round).await?;
            }
        } else if looks {
            self.telemetry.backlog(0, 0);
        }
        if idle && self.memory.means.is_due(Instant::now()) {
            self.look_at_means(lead, &head).await?;
        }
        if !has_room {
            round.held_back = round.held_back.or(Some(HeldBack::Limits));
        }
        round.waiting = flight.waiting.len();
        self.telemetry.in_flight(round.waiting);
        Ok(round)
    }

    /// How many more transactions may wait for a block, and how much gas they may have.
    fn room(&self, flight: &Flight) -> (usize, u64) {
        let limits = self.config.limits.batches;
        let charging = flight.waiting.len().saturating_sub(flight.relayed());
        let slots = limits.in_flight.saturating_sub(charging);
        (slots, limits.gas_per_block.saturating_sub(flight.gas()))
    }

    /// Sends `batches`, as far as there is room and money for them.
    #[expect(clippy::too_many_arguments, reason = "the whole of a round comes together here")]
    async fn charge(
        &mut self,
        lead: &mut KeeperLead,
        head: &BlockHeader,
        prices: &GasPrices,
        balance: U256,
        flight: &mut Flight,
        batches: Vec<Batch>,
        round: &mut Round,
    ) -> Result<(), KeeperError> {
        let mut left: usize = batches.iter().map(|batch| batch.charges.len()).sum();
        let oldest = batches.iter().flat_map(|batch| &batch.charges).map(|charge| charge.grace.from).min();
        let fees = self.config.limits.fees.fresh(prices);
        self.mind_the_cap(fees.is_none(), prices, left);
        for mut batch in batches {
            let Some(fees) = fees else {
                round.held_back = Some(HeldBack::FeeAboveCap);
                break;
            };
            let (slots, gas) = self.room(flight);
            // One that is larger than all that a block may be asked for goes alone.
            let fits = batch.gas_limit() <= gas || flight.waiting.is_empty();
            if slots == 0 || !fits {
                round.held_back = Some(HeldBack::Limits);
                break;
            }
            // Nodes want all of the limit covered, though little of it is spent.
            let purse = balance.saturating_sub(flight.cost()).checked_div(U256::from(fees.max_fee));
            let affordable = u64::try_from(purse.unwrap_or_default()).unwrap_or(u64::MAX);
            if !batch.shrink_to(affordable) {
                round.held_back = Some(HeldBack::Purse);
                break;
            }
            let transaction =
                self.sign(flight.next_nonce(), 0, Work::charges(batch.ids()), batch.gas_limit(), fees, head)?;
            lead.record(&transaction).await?;
            self.telemetry.sent.increment(1);
            tracing::info!(
                hash = %transaction.hash, nonce = transaction.nonce, charges = batch.charges.len(),
                gas_limit = transaction.gas_limit, max_fee = transaction.max_fee, "a batch is sent"
            );
            self.send(&transaction).await?;
            flight.add(transaction);
            left = left.saturating_sub(batch.charges.len());
            round.sent = round.sent.saturating_add(1);
            round.charges = round.charges.saturating_add(batch.charges.len());
        }
        let due_for = oldest.map_or(0, |oldest| head.timestamp.signed_duration_since(oldest).num_seconds());
        self.telemetry.backlog(left, u64::try_from(due_for).unwrap_or_default());
        if round.held_back == Some(HeldBack::Purse) {
            self.say_low(balance, 0, left);
        }
        round.more |= left > 0;
        Ok(())
    }

    /// Notes refusals, each with the time of its next attempt.
    async fn refused(
        &self,
        lead: &mut KeeperLead,
        head: &BlockHeader,
        refused: Vec<(Charge, ChargeFailure)>,
    ) -> Result<(), KeeperError> {
        if refused.is_empty() {
            return Ok(());
        }
        let at = head.timestamp;
        let notes: Vec<_> = refused
            .into_iter()
            .map(|(charge, reason)| {
                let attempts = charge.attempts.saturating_add(1);
                let next = self.config.limits.retry.next(attempts, at, charge.grace, fastrand::u32(..));
                let (id, next_attempt) = (charge.onchain_id, next.map(|next| next.to_rfc3339()));
                let reason_code = reason.as_str();
                tracing::info!(
                    subscription = id,
                    reason = reason_code,
                    attempts,
                    next_attempt,
                    "a charge is refused"
                );
                self.telemetry.refused(reason);
                Refused { charge, reason, at, next_attempt_at: next }
            })
            .collect();
        Ok(lead.refused(&notes).await?)
    }

    /// What the signer has, with an alarm where that is little.
    async fn purse(&mut self, prices: &GasPrices) -> Result<U256, KeeperError> {
        let balance = self.rpc.native_balance(self.signer.address()).await?;
        self.memory.purse_looked_at = Some(Instant::now());
        let price = prices.next_base_fee.saturating_add(prices.usual_tip).max(1);
        let each = U256::from(price).saturating_mul(U256::from(GAS_PER_CHARGE));
        let affordable = balance.checked_div(each).unwrap_or_default();
        let affordable = u64::try_from(affordable).unwrap_or(u64::MAX);
        let low = affordable < self.config.limits.low_balance_charges;
        self.telemetry.purse(balance, affordable, low);
        if low {
            self.say_low(balance, affordable, 0);
        } else if self.memory.said_low.take().is_some() {
            tracing::info!(signer = %self.signer.address(), affordable, "the signer has enough for gas again");
        }
        Ok(balance)
    }

    fn say_low(&mut self, balance: U256, affordable: u64, held_back: usize) {
        if self.memory.said_low.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.memory.said_low = Some(Instant::now());
            tracing::warn!(
                signer = %self.signer.address(), balance_wei = %balance, affordable, held_back,
                "the signer is running out of money for gas: send it some of the chain's currency"
            );
        }
    }

    fn mind_the_cap(&mut self, above: bool, prices: &GasPrices, held_back: usize) {
        self.telemetry.fee_above_cap(above);
        if above && held_back > 0 {
            if self.memory.said_fee.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                self.memory.said_fee = Some(Instant::now());
                let (base_fee, cap) = (prices.next_base_fee, self.config.limits.fees.max_fee);
                tracing::warn!(base_fee, cap, held_back, "gas costs more than the cap; charging waits");
            }
        } else if !above && self.memory.said_fee.take().is_some() {
            tracing::info!("gas costs less than the cap again; charging goes on");
        }
    }
}

/// Waits for the next intent; for ever where there are none.
async fn next(handed_in: &mut Option<RelayWakeUps>) -> Result<(), KeeperError> {
    match handed_in {
        Some(wake_ups) => Ok(wake_ups.next().await?),
        None => std::future::pending().await,
    }
}

/// What a keeper would do now. Sends nothing and writes nothing; needs no signer.
///
/// # Errors
/// [`KeeperError::Store`], [`KeeperError::Source`].
pub async fn plan(store: &Store, rpc: &RpcSource, config: &KeeperConfig) -> Result<Plan, KeeperError> {
    rpc.verify_chain().await?;
    let head = rpc.head(0).await?;
    let found = find::find(store, rpc, config, &head, None, DRY_RUN_MOST, &HashSet::new()).await?;
    let prices = rpc.gas_prices().await?;
    let max_fee = config.limits.fees.fresh(&prices).map(|fees| fees.max_fee);
    Ok(Plan { head, found, prices, max_fee })
}
