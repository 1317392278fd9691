//! What is used: counters, events and reservations, in a schema (and where wanted on a server) of their own.
//!
//! Everything that counts is an [`Order`] for one account. The orders of a process are gathered: while one transaction is
//! under way, the next one's orders come together, and each order is answered once the transaction that it was in is
//! durable (`lanes`). A transaction locks its accounts' rows, in the order of their ids, so that two processes cannot
//! wait for each other in a circle; reads what is known of its orders; lets the domain's rules decide one order after the
//! other; and writes what came of it (`commit`). Whoever else counts for one of these accounts waits for the lock and
//! sees all of it: no number of processes passes a limit.

mod commit;
mod lanes;
mod order;
mod overage;
mod partitions;
mod read;
mod rows;

use chrono::TimeDelta;
use secrecy::SecretString;
use sqlx::PgPool;

use self::lanes::Lanes;
use crate::{StoreError, connect, migrate, schema_is_current};

pub use lanes::describe_metrics;
pub use order::{Act, Event, Order, Outcome, Receipt, Refusal, Reservation, ReservationState, Settlement};
pub use overage::{Billing, Overage};
pub use partitions::{Retention, Tidied};
pub use read::{ClosedMeter, ClosedWindow, DayStats};

/// How events are counted.
#[derive(Debug, Clone)]
pub struct UsageConfig {
    /// Transactions that are under way at once.
    pub writers: u32,
    /// Connections in all; at least one more than writers, for whoever reads.
    pub max_connections: u32,
    /// How old an event may be that is reported.
    pub late: TimeDelta,
    /// The most orders in one transaction; 1 is a transaction for each.
    pub batch: usize,
}

impl Default for UsageConfig {
    fn default() -> Self {
        Self { writers: 2, max_connections: 6, late: TimeDelta::hours(24), batch: 1_000 }
    }
}

/// A handle on what is used; cheap to clone. [`stop`](Self::stop) lets gathered orders finish.
#[derive(Debug, Clone)]
pub struct UsageStore {
    pool: PgPool,
    lanes: Lanes,
}

impl UsageStore {
    /// Connects to the PostgreSQL server that `url` names, and begins to take orders.
    ///
    /// # Errors
    /// [`StoreError::Url`] where `url` is none, [`StoreError::Database`] where the server does not answer.
    pub async fn connect(url: &SecretString, config: UsageConfig) -> Result<Self, StoreError> {
        let settings = [
            // Every statement here finds its rows by an index, in tables that grow by the hour. The statements are such that
            // a plan that was made while a table was empty is right for ever; none has to be made again.
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("jit", "off"),
            ("plan_cache_mode", "force_generic_plan"),
        ];
        let pool = connect(url, config.max_connections, &settings).await?;
        Ok(Self { lanes: Lanes::start(&pool, &config), pool })
    }

    /// Brings the schema up to date on this server, which may be another one than the ledger's; the ledger's tables stay
    /// empty here then.
    ///
    /// # Errors
    /// As [`Store::migrate`](crate::Store::migrate).
    pub async fn migrate(&self) -> Result<(), StoreError> {
        migrate(&self.pool).await
    }

    /// Checks that the database answers and that its schema is this release's.
    ///
    /// # Errors
    /// As [`Store::check`](crate::Store::check).
    pub async fn check(&self) -> Result<(), StoreError> {
        schema_is_current(&self.pool).await
    }

    /// Carries out `order`; the outcome is durable.
    ///
    /// # Errors
    /// [`StoreError::NotCounted`] where it could not be, or where nobody knows: the same order again tells.
    pub async fn act(&self, order: Order) -> Result<Outcome, StoreError> {
        self.lanes.send(order)?.await
    }

    /// As [`act`](Self::act), for many orders: those of one account are carried out in this order.
    ///
    /// # Errors
    /// Each its own, as there.
    pub async fn act_all(&self, orders: Vec<Order>) -> Vec<Result<Outcome, StoreError>> {
        let answers: Vec<_> = orders.into_iter().map(|order| self.lanes.send(order)).collect();
        let mut outcomes = Vec::with_capacity(answers.len());
        for answer in answers {
            outcomes.push(match answer {
                Ok(answer) => answer.await,
                Err(error) => Err(error),
            });
        }
        outcomes
    }

    /// Takes no more orders, finishes those that are gathered, and ends the connections.
    pub async fn stop(&self) {
        self.lanes.stop().await;
        self.pool.close().await;
    }
}
