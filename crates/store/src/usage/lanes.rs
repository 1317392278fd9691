//! Group commit.

use std::{
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    sync::Arc,
};

use metrics::{counter, describe_counter};
use sqlx::PgPool;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Order, Outcome, UsageConfig,
    commit::{Rules, commit},
};
use crate::StoreError;

/// Orders that wait in one lane. Where there are more, the service is overloaded, and says so at once.
const WAITING: usize = 10_000;
/// How often a transaction is tried that failed for a reason that passes.
const TRIES: usize = 3;

const ORDERS: &str = "dues_usage_orders_total";
const TRANSACTIONS: &str = "dues_usage_transactions_total";
const FAILURES: &str = "dues_usage_failures_total";

/// Says what each figure means, for a recorder that is installed already.
pub fn describe_metrics() {
    describe_counter!(ORDERS, "Requests that were decided: counted, repeated or refused");
    describe_counter!(TRANSACTIONS, "Transactions that it took to decide them");
    describe_counter!(
        FAILURES,
        "Requests that could not be decided, or of which nobody knows whether they were"
    );
}

/// An order and who waits for its outcome.
struct Pending {
    order: Order,
    answer: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// The lanes in which orders wait: each with one transaction at a time. An account has one lane of this process's, so that a
/// process never waits for itself.
#[derive(Debug, Clone)]
pub(super) struct Lanes {
    lanes: Arc<[mpsc::Sender<Pending>]>,
    stop: CancellationToken,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Lanes {
    pub(super) fn start(pool: &PgPool, config: &UsageConfig) -> Self {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let rules = Rules { late: config.late };
        let batch = config.batch.max(1);
        let lanes = (0..config.writers.max(1)).map(|_| {
            let (sender, receiver) = mpsc::channel(WAITING);
            tasks.spawn(lane(pool.clone(), receiver, rules, batch, stop.clone()));
            sender
        });
        let lanes = lanes.collect();
        Self { lanes, stop, tasks: Arc::new(Mutex::new(tasks)) }
    }

    /// Puts `order` in its lane; the future waits for its outcome.
    pub(super) fn send(
        &self,
        order: Order,
    ) -> Result<impl Future<Output = Result<Outcome, StoreError>> + use<>, StoreError> {
        let not_counted = StoreError::NotCounted { transient: true };
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(order.account);
        let count = u64::try_from(self.lanes.len()).unwrap_or(u64::MAX);
        let lane = hash.checked_rem(count).and_then(|lane| self.lanes.get(usize::try_from(lane).ok()?));
        let Some(lane) = lane else { return Err(not_counted) };
        let (answer, answered) = oneshot::channel();
        lane.try_send(Pending { order, answer }).map_err(|_| not_counted)?;
        Ok(async move { answered.await.unwrap_or(Err(StoreError::NotCounted { transient: true })) })
    }

    /// Takes no more orders, and returns when all that were taken are answered.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        let mut tasks = self.tasks.lock().await;
        while tasks.join_next().await.is_some() {}
    }
}

async fn lane(
    pool: PgPool,
    mut orders: mpsc::Receiver<Pending>,
    rules: Rules,
    most: usize,
    stop: CancellationToken,
) {
    let mut gathered = Vec::with_capacity(most);
    loop {
        // Whatever has come while the last transaction was under way. Nobody waits for more to come.
        let taken = tokio::select! {
            biased;
            taken = orders.recv_many(&mut gathered, most) => taken,
            () = stop.cancelled(), if !orders.is_closed() => {
                orders.close();
                continue;
            }
        };
        if taken == 0 {
            return;
        }
        let (orders, answers): (Vec<_>, Vec<_>) =
            gathered.drain(..).map(|pending| (pending.order, pending.answer)).unzip();
        for (outcome, answer) in carry_out(&pool, &orders, rules).await.into_iter().zip(answers) {
            // Whoever asked may have gone; what was done is done.
            let _ = answer.send(outcome);
        }
    }
}

/// Carries out `orders`, all of them in one transaction. Where that fails for a reason that lies in one of them, the others
/// are none the worse for it: halves are tried, down to the one.
async fn carry_out(pool: &PgPool, orders: &[Order], rules: Rules) -> Vec<Result<Outcome, StoreError>> {
    let mut outcomes = Vec::with_capacity(orders.len());
    let mut parts = vec![orders];
    while let Some(part) = parts.pop() {
        match with_retries(pool, part, rules).await {
            Ok(of_part) => {
                counter!(TRANSACTIONS).increment(1);
                counter!(ORDERS).increment(u64::try_from(part.len()).unwrap_or(u64::MAX));
                outcomes.extend(of_part.into_iter().map(Ok));
            }
            Err(error) if error.is_transient() || part.len() == 1 => {
                let transient = error.is_transient();
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    orders = part.len(),
                    "usage was not counted"
                );
                counter!(FAILURES).increment(u64::try_from(part.len()).unwrap_or(u64::MAX));
                outcomes.extend(part.iter().map(|_| Err(StoreError::NotCounted { transient })));
            }
            Err(_) => {
                let (first, second) = part.split_at(part.len() / 2);
                // The last one is the next one.
                parts.extend([second, first]);
            }
        }
    }
    outcomes
}

/// Trying again is safe also where a connection was lost in the middle of a commit: what was counted is found by its id.
async fn with_retries(pool: &PgPool, orders: &[Order], rules: Rules) -> Result<Vec<Outcome>, StoreError> {
    let mut tried = 1;
    loop {
        match commit(pool, orders, rules).await {
            Err(error) if tried < TRIES && error.is_transient() => {
                tracing::warn!(error = &error as &dyn std::error::Error, "counting is tried again");
                tried = tried.saturating_add(1);
            }
            done => return done,
        }
    }
}
