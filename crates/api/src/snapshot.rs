//! What the ledger says of accounts, kept in memory so that the question of every request needs no query.
//!
//! An account is read when it is first asked for, and kept until the database tells that something which it rests on has
//! changed ([`Changes`]): by whatever process, or by hand. What is kept is used only while it is known to be fresh. A beat is
//! sent through the database several times a second and comes back after everything that was committed before it was sent; so
//! an answer is never further behind than [`FRESH_FOR`]. Where no beat comes back (the connection is lost, the server is
//! down), every request reads the database itself, and fails where that does.

use std::{
    borrow::Borrow,
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy_primitives::Address;
use chrono::{DateTime, Utc};
use dues_domain::{chain::ChainSource, entitlement::SubscriptionFacts, ids::AccountId};
use dues_store::{Account, AccountSubscriptions, ApiKey, Change, Changes, Grants, Store, StoreError};
use quick_cache::sync::Cache;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// How far behind the ledger an answer from memory may be.
pub const FRESH_FOR: Duration = Duration::from_secs(1);
/// How many API keys are kept.
const KEYS: usize = 1_000;
/// How often a beat is sent.
const BEAT_EVERY: Duration = Duration::from_millis(250);
/// A listener that has told nothing for this long, although beats are sent, is given up for a new one.
const DEAF_AFTER: Duration = Duration::from_secs(5);
/// How long to wait after a listener could not be had.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What is known of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The account.
    pub account: Account,
    /// Its subscriptions.
    pub subscriptions: Vec<SubscriptionFacts>,
    wallets: Vec<Address>,
    until_final: Vec<(ChainSource, u64)>,
}

/// Accounts in memory; cheap to clone. Without [`follow`](Self::follow) it is never fresh, and reads the database.
#[derive(Clone)]
pub struct Snapshot {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    grants: Grants,
    accounts: Cache<AccountId, Arc<Known>>,
    /// Where accounts were found by another name. What is found there is looked at again.
    by_external_id: Cache<Box<str>, AccountId>,
    by_wallet: Cache<Address, AccountId>,
    /// API keys, by the hashes of their secrets.
    keys: Cache<[u8; 32], Arc<ApiKey>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the last beat that came back was sent.
    beat: Option<Instant>,
    finals: HashMap<ChainSource, u64>,
    /// Accounts that are being read, how many times, and whether they have changed meanwhile.
    reading: HashMap<AccountId, Reading>,
    /// How often keys have changed.
    keys_changed: u64,
}

impl State {
    fn is_fresh(&self) -> bool {
        self.beat.is_some_and(|beat| beat.elapsed() < FRESH_FOR)
    }
}

#[derive(Default)]
struct Reading {
    readers: usize,
    changed: bool,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("accounts", &self.shared.accounts.len()).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Keeps at most `capacity` accounts, the ones that are asked for most.
    #[must_use]
    pub fn new(store: Store, grants: Grants, capacity: usize) -> Self {
        let shared = Shared {
            store,
            grants,
            accounts: Cache::new(capacity),
            by_external_id: Cache::new(capacity),
            by_wallet: Cache::new(capacity),
            keys: Cache::new(KEYS),
            state: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The account with our `id`.
    ///
    /// # Errors
    /// As [`Store::account`].
    pub async fn account(&self, id: AccountId) -> Result<Option<Arc<Known>>, StoreError> {
        if let Some(known) = self.shared.recall(id) {
            return Ok(Some(known));
        }
        self.read(id).await
    }

    /// The account with the platform's `external_id`.
    ///
    /// # Errors
    /// As [`Store::account`].
    pub async fn by_external_id(&self, external_id: &str) -> Result<Option<Arc<Known>>, StoreError> {
        let is_it = |known: &Known| known.account.external_id.as_deref() == Some(external_id);
        if let Some(known) = self.shared.recall_by(&self.shared.by_external_id, external_id, is_it) {
            return Ok(Some(known));
        }
        let found = self.shared.store.account_by_external_id(external_id).await?;
        let Some(account) = found else { return Ok(None) };
        self.shared.by_external_id.insert(external_id.into(), account.id);
        self.account(account.id).await
    }

    /// The account that `wallet` belongs to.
    ///
    /// # Errors
    /// As [`Store::account`].
    pub async fn by_wallet(&self, wallet: Address) -> Result<Option<Arc<Known>>, StoreError> {
        let is_it = |known: &Known| known.wallets.contains(&wallet);
        if let Some(known) = self.shared.recall_by(&self.shared.by_wallet, &wallet, is_it) {
            return Ok(Some(known));
        }
        let found = self.shared.store.account_by_wallet(wallet).await?;
        let Some(account) = found else { return Ok(None) };
        self.shared.by_wallet.insert(wallet, account.id);
        self.account(account.id).await
    }

    /// The API key with `hash`, where it exists, has not expired by `now` and is not revoked.
    ///
    /// # Errors
    /// As [`Store::authenticate`].
    pub async fn authenticate(
        &self,
        hash: &[u8; 32],
        now: DateTime<Utc>,
    ) -> Result<Option<Arc<ApiKey>>, StoreError> {
        let Shared { store, keys, state, .. } = &*self.shared;
        let (is_fresh, keys_changed) = {
            let state = lock(state);
            (state.is_fresh(), state.keys_changed)
        };
        if is_fresh && let Some(key) = keys.get(hash) {
            if key.expires_at.is_some_and(|expires_at| expires_at <= now) {
                return Ok(None);
            }
            store.note_use(key.id, now);
            return Ok(Some(key));
        }
        let Some(key) = store.authenticate(hash, now).await?.map(Arc::new) else { return Ok(None) };
        let state = lock(state);
        if state.keys_changed == keys_changed {
            keys.insert(*hash, Arc::clone(&key));
        }
        Ok(Some(key))
    }

    /// Forgets `account`, which this process has just changed: its own caller sees that at once.
    pub fn changed(&self, account: AccountId) {
        self.shared.forget(&[account]);
    }

    /// Keeps what is known fresh for as long as the handle is held.
    pub fn follow(&self) -> AbortOnDropHandle<()> {
        let snapshot = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let beating = Beating::default();
            tokio::select! {
                never = snapshot.send_beats(&beating) => match never {},
                never = snapshot.listen(&beating) => match never {},
            }
        }))
    }

    async fn send_beats(&self, beating: &Beating) -> std::convert::Infallible {
        let mut ticks = tokio::time::interval(BEAT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (beat, sent) = (Uuid::now_v7(), Instant::now());
            *lock(&beating.sent) = Some((beat, sent));
            // Where it fails, none comes back.
            if let Err(error) = self.shared.store.beat(beat).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a beat could not be sent");
            }
        }
    }

    async fn listen(&self, beating: &Beating) -> std::convert::Infallible {
        loop {
            match self.shared.store.changes().await {
                Ok(mut changes) => {
                    // What was committed before is missed.
                    self.shared.forget_everything();
                    let error = self.hear(&mut changes, beating).await;
                    tracing::warn!(
                        error,
                        "changes of the ledger are not heard for the moment: every request reads it"
                    );
                }
                Err(error) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "changes of the ledger cannot be heard"
                    );
                }
            }
            self.shared.forget_everything();
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Hears changes until that fails; says why.
    async fn hear(&self, changes: &mut Changes, beating: &Beating) -> String {
        loop {
            match tokio::time::timeout(DEAF_AFTER, changes.next()).await {
                Ok(Ok(Change::Beat(beat))) => {
                    if let Some((sent, at)) = *lock(&beating.sent)
                        && sent == beat
                    {
                        lock(&self.shared.state).beat = Some(at);
                    }
                }
                Ok(Ok(Change::Accounts(accounts))) => self.shared.forget(&accounts),
                Ok(Ok(Change::Everything)) => self.shared.forget_everything(),
                Ok(Ok(Change::Final(source, number))) => {
                    lock(&self.shared.state).finals.insert(source, number);
                }
                Ok(Ok(Change::Keys)) => self.shared.forget_keys(),
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return format!("nothing was heard for {DEAF_AFTER:?}"),
            }
        }
    }

    /// Reads an account, and keeps it unless it has changed meanwhile.
    async fn read(&self, id: AccountId) -> Result<Option<Arc<Known>>, StoreError> {
        let reading = AccountReading::begin(&self.shared, id);
        let Shared { store, grants, .. } = &*self.shared;
        let (account, wallets, subscriptions) =
            tokio::try_join!(store.account(id), store.wallets(id), store.account_subscriptions(id, grants))?;
        let Some(account) = account else { return Ok(None) };
        let AccountSubscriptions { facts, until_final } = subscriptions;
        let wallets = wallets.into_iter().map(|wallet| wallet.address).collect();
        let known = Arc::new(Known { account, subscriptions: facts, wallets, until_final });
        reading.keep(&known);
        Ok(Some(known))
    }
}

impl Shared {
    /// What is known of `id`, where that is fresh.
    fn recall(&self, id: AccountId) -> Option<Arc<Known>> {
        let known = self.accounts.get(&id)?;
        let state = lock(&self.state);
        let is_over = |(source, number): &(ChainSource, u64)| {
            state.finals.get(source).is_some_and(|last| last >= number)
        };
        (state.is_fresh() && !known.until_final.iter().any(is_over)).then_some(known)
    }

    /// The same by a name of it, where `is_it` still says so.
    fn recall_by<K, Q>(
        &self,
        names: &Cache<K, AccountId>,
        name: &Q,
        is_it: impl FnOnce(&Known) -> bool,
    ) -> Option<Arc<Known>>
    where
        K: Borrow<Q> + Eq + Hash,
        Q: Eq + Hash + ?Sized,
    {
        self.recall(names.get(name)?).filter(|known| is_it(known))
    }

    fn forget(&self, accounts: &[AccountId]) {
        let mut state = lock(&self.state);
        for id in accounts {
            if let Some(reading) = state.reading.get_mut(id) {
                reading.changed = true;
            }
            // Under the lock, so that no reader puts it back in between.
            self.accounts.remove(id);
        }
    }

    fn forget_everything(&self) {
        let mut state = lock(&self.state);
        for reading in state.reading.values_mut() {
            reading.changed = true;
        }
        self.accounts.clear();
        drop(state);
        self.forget_keys();
    }

    fn forget_keys(&self) {
        let mut state = lock(&self.state);
        state.keys_changed = state.keys_changed.wrapping_add(1);
        self.keys.clear();
    }
}

/// When the last beat was sent, and which.
#[derive(Debug, Default)]
struct Beating {
    sent: Mutex<Option<(Uuid, Instant)>>,
}

/// An account that is being read.
struct AccountReading<'s> {
    shared: &'s Shared,
    id: AccountId,
}

impl<'s> AccountReading<'s> {
    fn begin(shared: &'s Shared, id: AccountId) -> Self {
        let mut state = lock(&shared.state);
        let reading = state.reading.entry(id).or_default();
        reading.readers = reading.readers.saturating_add(1);
        drop(state);
        Self { shared, id }
    }

    fn keep(&self, known: &Arc<Known>) {
        let state = lock(&self.shared.state);
        if state.reading.get(&self.id).is_some_and(|reading| !reading.changed) {
            self.shared.accounts.insert(self.id, Arc::clone(known));
        }
    }
}

impl Drop for AccountReading<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        if let Some(reading) = state.reading.get_mut(&self.id) {
            reading.readers = reading.readers.saturating_sub(1);
            if reading.readers == 0 {
                state.reading.remove(&self.id);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
