//! An API on a database alone: no chain, several beside each other, and a clock that the test moves.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use dues_api::{
    AppState,
    auth::ApiKeySecret,
    clock::{Clock, SystemClock},
    counters::Counters,
    limits::{RateLimit, RateLimiter},
    proof::ContractWallets,
    site::Site,
    snapshot::Snapshot,
};
use dues_domain::catalogue::Catalogue;
use dues_store::{
    Actor, Grants, NewApiKey, Scope, Store,
    usage::{UsageConfig, UsageStore},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{Api, Database, catalogue};

/// A clock that stands still until it is moved. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct MovableClock(Arc<Mutex<DateTime<Utc>>>);

impl MovableClock {
    /// At `instant`, as RFC 3339 has it.
    #[must_use]
    pub fn at(instant: &str) -> Self {
        Self(Arc::new(Mutex::new(instant.parse().unwrap())))
    }

    /// To `instant`.
    pub fn move_to(&self, instant: &str) {
        *self.0.lock().unwrap() = instant.parse().unwrap();
    }
}

impl Clock for MovableClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

/// A server with pools of its own, as another process has them.
#[derive(Debug)]
pub struct ApiServer {
    /// Its API, with a key for everything.
    pub api: Api,
    /// Its ledger.
    pub store: Store,
    /// What it counts with.
    pub usage: UsageStore,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl ApiServer {
    /// On `database`, by the machine's clock, with the default catalogue.
    pub async fn start(database: &Database) -> Self {
        Self::with(database, database, Arc::new(SystemClock), catalogue()).await
    }

    /// On `database`, by `clock`, with the default catalogue.
    pub async fn at(database: &Database, clock: &MovableClock) -> Self {
        Self::with(database, database, Arc::new(clock.clone()), catalogue()).await
    }

    /// With what is used in a database of its own.
    pub async fn with(
        database: &Database,
        of_usage: &Database,
        clock: Arc<dyn Clock>,
        catalogue: Catalogue,
    ) -> Self {
        Self::limited(database, of_usage, clock, catalogue, None).await
    }

    /// With a limit of requests.
    pub async fn limited(
        database: &Database,
        of_usage: &Database,
        clock: Arc<dyn Clock>,
        catalogue: Catalogue,
        rate_limit: Option<RateLimit>,
    ) -> Self {
        let store = database.store().await;
        let usage = UsageStore::connect(of_usage.url(), UsageConfig::default()).await.unwrap();
        usage.migrate().await.unwrap();
        let secret = ApiKeySecret::generate().unwrap();
        let key = NewApiKey {
            name: "test".into(),
            prefix: secret.prefix().into(),
            hash: secret.hash(),
            scopes: Scope::ALL.to_vec(),
            expires_at: None,
        };
        store.create_api_key(&key, Actor::Operator).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://{address}");
        let snapshot = Snapshot::new(store.clone(), Grants::at_once(), 1_000);
        let counters = Counters::new(usage.clone(), 1_000);
        let state = AppState {
            store: store.clone(),
            usage: counters.clone(),
            snapshot: snapshot.clone(),
            catalogue: Arc::new(catalogue),
            clock: Arc::clone(&clock),
            site: Arc::new(Site::at(address)),
            contract_wallets: ContractWallets::new([]),
            rate_limiter: rate_limit.map(RateLimiter::new),
            relay: None,
            probes: Arc::from([]),
        };
        let stop = CancellationToken::new();
        let serving = dues_api::serve(listener, dues_api::router(state), stop.clone());
        let serving = tokio::spawn(async move {
            let _following = (snapshot.follow(), counters.follow(clock));
            serving.await.unwrap();
        });
        Self { api: Api::new(&url, secret.expose()), store, usage, stop, serving }
    }

    /// Stops it in order.
    pub async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
        self.usage.stop().await;
        self.store.close().await;
    }
}
