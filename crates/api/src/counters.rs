//! What is used, kept in memory for the answers that only tell of it.
//!
//! Counting itself never looks here: limits are held by the database. What this process counts is seen at once; what others
//! count, within [`FRESH_FOR`]. Counters that are asked for are read again together, twice in that time, so that nobody waits
//! for it.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::BuildHasher as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use dues_domain::{ids::AccountId, usage::Usage};
use dues_store::{
    StoreError,
    usage::{Order, Outcome, UsageStore},
};
use quick_cache::sync::Cache;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use crate::{clock::Clock, snapshot::FRESH_FOR};

/// How often what is asked for is read again.
const READ_EVERY: Duration = Duration::from_millis(400);
/// Accounts in one query.
const AT_ONCE: usize = 1_000;
/// In how many parts accounts are told apart when one of them changes while it is read.
const PARTS: usize = 1_024;

/// Counters in memory, over those of the database; cheap to clone.
#[derive(Clone)]
pub struct Counters {
    store: UsageStore,
    shared: Arc<Shared>,
}

struct Shared {
    kept: Cache<AccountId, Arc<Kept>>,
    /// What was asked for since it was last read.
    asked: Mutex<Vec<AccountId>>,
    /// How often this process has changed one of the accounts of each part.
    changes: Vec<AtomicU64>,
    hasher: RandomState,
}

struct Kept {
    usage: Usage,
    read_at: Instant,
    asked: AtomicBool,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").field("accounts", &self.shared.kept.len()).finish_non_exhaustive()
    }
}

impl Counters {
    /// Keeps the counters of at most `capacity` accounts.
    #[must_use]
    pub fn new(store: UsageStore, capacity: usize) -> Self {
        let shared = Shared {
            kept: Cache::new(capacity),
            asked: Mutex::default(),
            changes: (0..PARTS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        };
        Self { store, shared: Arc::new(shared) }
    }

    /// The counters in the database.
    #[must_use]
    pub const fn store(&self) -> &UsageStore {
        &self.store
    }

    /// As [`UsageStore::act`].
    ///
    /// # Errors
    /// As there.
    pub async fn act(&self, order: Order) -> Result<Outcome, StoreError> {
        let account = order.account;
        let outcome = self.store.act(order).await;
        self.shared.changed(account);
        outcome
    }

    /// As [`UsageStore::act_all`].
    ///
    /// # Errors
    /// As there.
    pub async fn act_all(&self, orders: Vec<Order>) -> Vec<Result<Outcome, StoreError>> {
        let accounts: Vec<_> = orders.iter().map(|order| order.account).collect();
        let outcomes = self.store.act_all(orders).await;
        for account in accounts {
            self.shared.changed(account);
        }
        outcomes
    }

    /// The counters of `account`; at most [`FRESH_FOR`] old. See [`UsageStore::usage`].
    ///
    /// # Errors
    /// As there.
    pub async fn usage(&self, account: AccountId, now: DateTime<Utc>) -> Result<Usage, StoreError> {
        if let Some(kept) = self.shared.kept.get(&account)
            && kept.read_at.elapsed() < FRESH_FOR
        {
            if !kept.asked.swap(true, Ordering::Relaxed) {
                self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push(account);
            }
            return Ok(kept.usage);
        }
        let reading = self.shared.begin(account);
        let usage = self.store.usage(account, now).await?;
        self.shared.keep(account, usage, reading);
        Ok(usage)
    }

    /// Reads the counters of those of `accounts` that are not in memory, together.
    ///
    /// # Errors
    /// As [`UsageStore::usages`].
    pub async fn prepare(&self, accounts: &[AccountId], now: DateTime<Utc>) -> Result<(), StoreError> {
        let is_kept = |account: &&AccountId| {
            self.shared.kept.get(*account).is_some_and(|kept| kept.read_at.elapsed() < FRESH_FOR)
        };
        let missing: Vec<AccountId> = accounts.iter().filter(|account| !is_kept(account)).copied().collect();
        self.read(&missing, now).await
    }

    /// Reads what is asked for again and again, for as long as the handle is held.
    pub fn follow(&self, clock: Arc<dyn Clock>) -> AbortOnDropHandle<()> {
        let counters = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(READ_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if let Err(error) = counters.read_again(clock.now()).await {
                    // Whoever asks reads for itself, and is told.
                    tracing::debug!(error = &error as &dyn std::error::Error, "counters could not be read");
                }
            }
        }))
    }

    async fn read_again(&self, now: DateTime<Utc>) -> Result<(), StoreError> {
        let asked = std::mem::take(&mut *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner));
        self.read(&asked, now).await
    }

    async fn read(&self, accounts: &[AccountId], now: DateTime<Utc>) -> Result<(), StoreError> {
        for accounts in accounts.chunks(AT_ONCE) {
            let readings: Vec<_> = accounts.iter().map(|account| self.shared.begin(*account)).collect();
            let usages = self.store.usages(accounts, now).await?;
            for ((account, usage), reading) in accounts.iter().zip(usages).zip(readings) {
                self.shared.keep(*account, usage, reading);
            }
        }
        Ok(())
    }
}

/// When a reading began.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    changes: u64,
}

impl Shared {
    fn part(&self, account: AccountId) -> Option<&AtomicU64> {
        let hash = self.hasher.hash_one(account);
        self.changes.get(usize::try_from(hash).unwrap_or_default() % PARTS)
    }

    fn begin(&self, account: AccountId) -> Reading {
        let changes = self.part(account).map_or(0, |changes| changes.load(Ordering::SeqCst));
        Reading { at: Instant::now(), changes }
    }

    /// Keeps what was read, unless this process has changed it meanwhile.
    fn keep(&self, account: AccountId, usage: Usage, reading: Reading) {
        let kept = Kept { usage, read_at: reading.at, asked: AtomicBool::new(false) };
        self.kept.insert(account, Arc::new(kept));
        // After it is there, so that a change in between is either seen here or takes it away itself.
        if self.begin(account).changes != reading.changes {
            self.kept.remove(&account);
        }
    }

    fn changed(&self, account: AccountId) {
        if let Some(changes) = self.part(account) {
            changes.fetch_add(1, Ordering::SeqCst);
        }
        self.kept.remove(&account);
    }
}
