//! Mirrors the contract's events into the ledger.
//!
//! One loop serves backfill and head alike: look at the head, find out whether the chain still stands where the
//! checkpoint says, read the next verified stretch, and write everything that follows from it in one
//! transaction. Killed at any instant, it continues without a gap or a double, because the checkpoint moves in
//! the same transaction as what it covers.
//!
//! * [`Indexer`]: the loop, the lead, retries, health.
//! * `ahead`: the next stretch is read while one is written.
//! * `progress`: how fast that goes, and for how much longer.
//! * `fork`: where the chain that was read and the chain that is there part.
//! * `projection`: from events to subscriptions and transactions.
//! * [`audit`]: whether the ledger is what the chain says; [`reindex`]: making it so.

mod ahead;
pub mod audit;
mod change;
mod error;
mod fork;
mod health;
mod progress;
mod projection;
mod refold;
mod reindex;
mod scan;
mod telemetry;

use std::{collections::HashMap, time::Duration};

use alloy_primitives::Address;
use dues_chain::source::{BlockTag, RpcSource, SourceError, WakeUps};
use dues_domain::{
    chain::{BlockHeader, ChainSource},
    money::Asset,
};
use dues_store::{
    Store,
    mirror::{Checkpoint, Mirror, MirrorScope},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

pub use change::{LedgerChange, LedgerChangeKind};
pub use error::IndexerError;
pub use health::{IndexerHealth, Role};
pub use progress::Pace;
pub use refold::grants;
pub use reindex::{Reading, ReindexError, reindex};
pub use telemetry::describe_metrics;

use crate::{
    ahead::{Ahead, Stretch},
    error::chain,
    progress::Backfill,
    telemetry::Telemetry,
};

/// How long a standby waits before it tries to take the lead again.
const STANDBY_INTERVAL: Duration = Duration::from_secs(1);
/// The longest wait after a failure.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// The longest that a step may take: a connection that is dead without anybody saying so ends with it.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// After how long without a look at the head the indexer counts as not ready.
const STALE_AFTER: Duration = Duration::from_secs(30);
/// How often an indexer that was stopped by its chain looks whether the ledger was repaired.
const REPAIR_INTERVAL: Duration = Duration::from_secs(1);
/// After how long it looks at the chain again, which may be the right one by then, and says what happened once more.
const REPAIR_RETRY: Duration = Duration::from_secs(60);

/// When a block counts as unchangeable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalityPolicy {
    /// This many blocks below the head.
    Depth(u64),
    /// The node's `safe` block.
    Safe,
    /// The node's `finalized` block.
    Finalized,
}

/// What to mirror, and how.
#[derive(Debug, Clone)]
pub struct IndexerConfig {
    /// The contract.
    pub source: ChainSource,
    /// Whose plans are ours, and where to begin. Everybody else's events are left alone.
    pub scope: MirrorScope,
    /// When a block counts as unchangeable.
    pub finality: FinalityPolicy,
    /// How often the head is looked at.
    pub poll_interval: Duration,
    /// The tokens that are known by a currency code.
    pub assets: HashMap<Address, Asset>,
}

impl IndexerConfig {
    /// What a token is. One that the configuration does not know is named in full (CAIP-19) and counted in base units.
    pub(crate) fn asset(&self, token: Address) -> Asset {
        self.assets.get(&token).cloned().unwrap_or_else(|| Asset {
            code: format!("eip155:{}/erc20:{token}", self.source.chain_id),
            exponent: 0,
        })
    }
}

/// Told of every change after it was committed.
type Observer = Box<dyn Fn(LedgerChange) + Send + Sync>;

/// The mirror of one contract.
pub struct Indexer {
    store: Store,
    rpc: RpcSource,
    config: IndexerConfig,
    observer: Observer,
    repair: String,
    health: watch::Sender<IndexerHealth>,
    telemetry: Telemetry,
    ahead: Ahead,
    backfill: Backfill,
}

impl std::fmt::Debug for Indexer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Indexer")
            .field("config", &self.config)
            .field("ahead", &self.ahead)
            .finish_non_exhaustive()
    }
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// There is more to read.
    Behind,
    /// The ledger has everything that the head has.
    AtHead,
}

impl Indexer {
    /// An indexer of what `config` says, read from `rpc` and written to `store`.
    #[must_use]
    pub fn new(store: Store, rpc: RpcSource, config: IndexerConfig) -> Self {
        let (health, telemetry) = (watch::Sender::default(), Telemetry::new(config.source));
        let repair = "dues reindex".to_owned();
        let observer = Box::new(|_| {});
        let (ahead, backfill) = (Ahead::new(), Backfill::begin());
        Self { store, rpc, config, observer, repair, health, telemetry, ahead, backfill }
    }

    /// Names the command that repairs the ledger where the chain breaks its promise of finality.
    #[must_use]
    pub fn repaired_by(mut self, command: impl Into<String>) -> Self {
        self.repair = command.into();
        self
    }

    /// Tells `observer` of every change after it was committed.
    #[must_use]
    pub fn on_change(mut self, observer: impl Fn(LedgerChange) + Send + Sync + 'static) -> Self {
        self.observer = Box::new(observer);
        self
    }

    /// How it is doing, from now on.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<IndexerHealth> {
        self.health.subscribe()
    }

    /// Tells at any time whether the ledger is up to date: `Err` says why not, for an operator.
    pub fn readiness(&self) -> impl Fn() -> Result<(), String> + Send + Sync + 'static {
        let health = self.health.subscribe();
        let stale_after = STALE_AFTER.max(self.config.poll_interval.saturating_mul(3));
        move || {
            if health.has_changed().is_err() {
                return Err("has stopped".into());
            }
            health.borrow().readiness(stale_after)
        }
    }

    /// Runs until `shutdown`. What may pass (a node that is down, a lost connection) is waited for; another
    /// process in the lead is waited for, too.
    ///
    /// After a reorganisation below finality it writes nothing more, says so, and goes on by itself once the ledger was
    /// repaired, or once the node is on the right chain again.
    ///
    /// # Errors
    /// What does not pass by itself: the wrong chain, an impossible event. The ledger is as the last step left it.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), IndexerError> {
        let mut backoff = self.config.poll_interval;
        let heads = self.rpc.wake_ups();
        loop {
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                outcome = self.lead(&mut backoff, &heads) => outcome,
            };
            let Err(error) = outcome;
            self.telemetry.interrupted();
            self.ahead.forget();
            self.health.send_modify(|health| {
                health.role = Role::Starting;
                health.problem = Some(error.to_string());
            });
            // What one node says and cannot be may be that node's fault: it is believed where no other one is left
            // that has not said so, too.
            let doubtful = error.is_of_the_answers() && self.rpc.distrust();
            if !doubtful && matches!(error, IndexerError::ReorganisedBelowFinality { .. }) {
                tracing::error!(error = %chain(&error), "indexing stopped");
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    () = self.repaired() => continue,
                }
            }
            if !error.is_transient() && !doubtful {
                return Err(error);
            }
            tracing::warn!(error = %chain(&error), retry_in = ?backoff, "indexing was interrupted");
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(backoff) => {}
            }
            backoff = backoff.saturating_mul(2).min(MAX_BACKOFF.max(self.config.poll_interval));
        }
    }

    /// Waits until the checkpoint was moved, or for some time.
    async fn repaired(&self) {
        let begun = Instant::now();
        let mut stuck_at = None;
        while begun.elapsed() < REPAIR_RETRY {
            // A database that does not answer has not been repaired yet.
            if let Ok(checkpoint) = self.store.checkpoint(self.config.source).await
                && *stuck_at.get_or_insert(checkpoint) != checkpoint
            {
                return;
            }
            tokio::time::sleep(REPAIR_INTERVAL).await;
        }
    }

    /// Takes the lead and keeps it until something fails.
    async fn lead(
        &mut self,
        backoff: &mut Duration,
        heads: &WakeUps,
    ) -> Result<std::convert::Infallible, IndexerError> {
        self.rpc.verify_chain().await?;
        let mut mirror = self.wait_for_lead().await?;
        let mut checkpoint = mirror.checkpoint().await?;
        self.backfill = Backfill::begin();
        loop {
            let progress = tokio::time::timeout(STEP_TIMEOUT, self.step(&mut mirror, &mut checkpoint))
                .await
                .map_err(|_| IndexerError::Stuck)??;
            *backoff = self.config.poll_interval;
            match progress {
                Progress::AtHead => {
                    tokio::select! {
                        () = heads.next() => {}
                        () = tokio::time::sleep(self.config.poll_interval) => {}
                    }
                    self.backfill = Backfill::begin();
                }
                Progress::Behind if self.backfill.is_to_be_told() => self.tell_progress(),
                Progress::Behind => {}
            }
        }
    }

    fn tell_progress(&self) {
        let IndexerHealth { checkpoint, head, pace, .. } = self.health.borrow().clone();
        tracing::info!(
            chain = self.config.source.chain_id,
            block = checkpoint,
            head,
            events_per_second = pace.map(|pace| pace.events_per_second),
            seconds_left = pace.and_then(|pace| pace.seconds_left),
            "catching up"
        );
    }

    async fn wait_for_lead(&self) -> Result<Mirror, IndexerError> {
        loop {
            if let Some(mirror) = self.store.lead(self.config.source, self.config.scope).await? {
                return Ok(mirror);
            }
            self.telemetry.leads(false);
            self.health
                .send_modify(|health| *health = IndexerHealth { role: Role::Standby, ..Default::default() });
            tracing::debug!("another process indexes this contract; standing by");
            tokio::time::sleep(STANDBY_INTERVAL).await;
        }
    }

    async fn step(
        &mut self,
        mirror: &mut Mirror,
        checkpoint: &mut Option<Checkpoint>,
    ) -> Result<Progress, IndexerError> {
        let head = self.rpc.head(checkpoint.map_or(0, |c| c.block.number)).await?;
        let final_number = final_number(&self.rpc, self.config.finality, &head).await?;
        let fork = match *checkpoint {
            Some(from) => match fork::find(&self.rpc, mirror, from, &head, &self.repair).await? {
                Some(fork) => Some(fork),
                // The node is behind what is already in the ledger: that is no reorganisation.
                None => {
                    self.report(*checkpoint, &head, Some("the node is behind the ledger"));
                    return Ok(Progress::AtHead);
                }
            },
            None => None,
        };
        let from = fork.map_or(self.config.scope.start_block, |fork| fork.number.saturating_add(1));
        let last_final = checkpoint.map_or(0, |c| c.final_number);
        if from > head.block.number {
            // Nothing new, but what is there may have become final.
            if let Some(current) = *checkpoint {
                let next = Checkpoint {
                    final_number: final_number.min(current.block.number).max(last_final),
                    ..current
                };
                if next != current {
                    let mut step = mirror.begin().await?;
                    step.advance(Some(current), next).await?;
                    step.commit().await?;
                    *checkpoint = Some(next);
                }
            }
            self.report(*checkpoint, &head, None);
            return Ok(Progress::AtHead);
        }

        let unwind_to = fork.filter(|fork| checkpoint.is_some_and(|c| c.block != *fork));
        // What replaces reorganised blocks is read whole, so that nobody loses access in between.
        let replaced = checkpoint.filter(|_| unwind_to.is_some()).map_or(0, |c| c.block.number);
        let parent = fork.map(|fork| fork.hash);
        let to = self.ahead.end(&self.rpc, from, parent).max(replaced).min(head.block.number);
        let segment = self.ahead.segment(&self.rpc, Stretch { from, to, parent }).await?;
        self.ahead.read(&self.rpc, segment.last, head.block.number);

        let next = Checkpoint { block: segment.last, final_number: final_number.min(to).max(last_final) };
        // From here on the connection may be left inside a transaction; after an error the caller drops it.
        let mut step = mirror.begin().await?;
        let changes =
            projection::apply(&mut step, &self.config, unwind_to, &segment, next.final_number).await?;
        step.advance(*checkpoint, next).await?;
        step.commit().await?;
        if let Some((fork, from)) = unwind_to.zip(*checkpoint) {
            self.telemetry.reorganised(from.block.number.saturating_sub(fork.number));
        }
        let (blocks, events) = (counted(segment.headers.len()), counted(segment.logs.len()));
        self.telemetry.read(blocks, events);
        self.backfill.read(blocks, events);
        *checkpoint = Some(next);
        if let Some(fork) = unwind_to {
            tracing::warn!(fork = fork.number, head = head.block.number, "the chain was reorganised");
        }
        for change in changes {
            (self.observer)(change);
        }
        self.report(*checkpoint, &head, None);
        Ok(if to < head.block.number { Progress::Behind } else { Progress::AtHead })
    }

    fn report(&self, checkpoint: Option<Checkpoint>, head: &BlockHeader, problem: Option<&str>) {
        self.telemetry.leads(true);
        if let Some(Checkpoint { block, final_number }) = checkpoint {
            self.telemetry.stands(block.number, final_number, head.block.number);
        }
        let left = checkpoint.map_or(0, |c| head.block.number.saturating_sub(c.block.number));
        let pace = (left > 0).then(|| self.backfill.pace(left));
        self.health.send_if_modified(|health| {
            let now = IndexerHealth {
                looked_at: Some(Instant::now()),
                role: Role::Leading,
                checkpoint: checkpoint.map(|c| c.block.number),
                head: Some(head.block.number),
                pace,
                problem: problem.map(Into::into),
            };
            let changed = IndexerHealth { looked_at: now.looked_at, ..health.clone() } != now;
            *health = now;
            changed
        });
    }
}

fn counted(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}

/// The highest block that cannot change any more, where `head` is the highest.
async fn final_number(
    rpc: &RpcSource,
    finality: FinalityPolicy,
    head: &BlockHeader,
) -> Result<u64, SourceError> {
    let tag = match finality {
        FinalityPolicy::Depth(depth) => return Ok(head.block.number.saturating_sub(depth)),
        FinalityPolicy::Safe => BlockTag::Safe,
        FinalityPolicy::Finalized => BlockTag::Finalized,
    };
    // A young chain has no such block yet: then nothing is final.
    Ok(rpc.header(tag).await?.map_or(0, |header| header.block.number))
}
