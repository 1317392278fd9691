//! The ledger's rows.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256};
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgPool, Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::Database;

/// PostgreSQL, past all of Dues.
#[derive(Debug, Clone)]
pub struct Ledger {
    pool: PgPool,
}

/// A row of `ledger.transactions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionRow {
    /// Our id.
    pub id: Uuid,
    /// Whose.
    pub account: Uuid,
    /// For which subscription.
    pub subscription: Uuid,
    /// Where it stands.
    pub status: String,
    /// Why it failed.
    pub failure_reason: Option<String>,
    /// Base units.
    pub amount: String,
    /// Which period, from 1.
    pub period: i32,
    /// Its start.
    pub start: DateTime<Utc>,
    /// Its end.
    pub end: DateTime<Utc>,
    /// The transaction on the chain.
    pub tx_hash: B256,
    /// The block's number.
    pub block_number: u64,
    /// The block's hash.
    pub block_hash: B256,
    /// The log's index in the block.
    pub log_index: u64,
}

/// A row of `ledger.subscriptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionRow {
    /// Our id.
    pub id: Uuid,
    /// Whose.
    pub account: Uuid,
    /// As of the last event.
    pub status: String,
    /// The contract's id, while it is on the chain.
    pub onchain_id: Option<i64>,
    /// The contract's plan, while it is on the chain.
    pub onchain_plan: Option<i64>,
    /// Periods paid.
    pub periods: i32,
    /// End of the last paid period.
    pub paid_through: DateTime<Utc>,
    /// Whether it ends with it.
    pub cancel_at_period_end: bool,
}

impl Ledger {
    /// The ledger in `database`.
    #[must_use]
    pub fn new(database: &Database) -> Self {
        Self { pool: database.pool() }
    }

    /// Connections, for a test's own statements.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Every money movement that `payer` made, oldest block first.
    pub async fn transactions(&self, payer: Address) -> Vec<TransactionRow> {
        sqlx::query(
            "SELECT id, account_id, subscription_id, status, failure_reason, amount::text AS amount, period,
                    period_start, period_end, tx_hash, block_number, block_hash, log_index
             FROM ledger.transactions WHERE payer = $1 ORDER BY block_number, log_index, id",
        )
        .bind(payer.to_vec())
        .fetch_all(&self.pool)
        .await
        .unwrap()
        .iter()
        .map(|row| TransactionRow {
            id: row.get("id"),
            account: row.get("account_id"),
            subscription: row.get("subscription_id"),
            status: row.get("status"),
            failure_reason: row.get("failure_reason"),
            amount: row.get("amount"),
            period: row.get("period"),
            start: row.get("period_start"),
            end: row.get("period_end"),
            tx_hash: hash(row, "tx_hash"),
            block_number: number(row, "block_number"),
            block_hash: hash(row, "block_hash"),
            log_index: number(row, "log_index"),
        })
        .collect()
    }

    /// Every subscription that `payer` pays, oldest first.
    pub async fn subscriptions(&self, payer: Address) -> Vec<SubscriptionRow> {
        sqlx::query(
            "SELECT id, account_id, status, onchain_id, onchain_plan_id, periods, paid_through, cancel_at_period_end
             FROM ledger.subscriptions WHERE payer = $1 ORDER BY created_at, id",
        )
        .bind(payer.to_vec())
        .fetch_all(&self.pool)
        .await
        .unwrap()
        .iter()
        .map(|row| SubscriptionRow {
            id: row.get("id"),
            account: row.get("account_id"),
            status: row.get("status"),
            onchain_id: row.get("onchain_id"),
            onchain_plan: row.get("onchain_plan_id"),
            periods: row.get("periods"),
            paid_through: row.get("paid_through"),
            cancel_at_period_end: row.get("cancel_at_period_end"),
        })
        .collect()
    }

    /// A number that a query without parameters gives.
    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    /// The last block that the indexer has written, by its hash.
    pub async fn checkpoint(&self) -> Option<B256> {
        let row = sqlx::query("SELECT block_hash FROM ledger.chain_checkpoints");
        row.fetch_optional(&self.pool).await.unwrap().map(|row| hash(&row, "block_hash"))
    }

    /// A digest of every table's rows, so that "nothing was written" means just that. Left out is only when an API
    /// key was last used.
    pub async fn digest(&self) -> BTreeMap<String, String> {
        let tables: Vec<String> =
            sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'ledger'")
                .fetch_all(&self.pool)
                .await
                .unwrap();
        assert!(tables.len() > 8, "the ledger's tables are not where they are looked for: {tables:?}");
        let mut digests = BTreeMap::new();
        for table in tables {
            let query = AssertSqlSafe(format!(
                "SELECT count(*) || ' ' || coalesce(md5(string_agg(row::text, ',' ORDER BY row::text)), '')
                 FROM (SELECT to_jsonb(t) - 'last_used_at' AS row FROM ledger.{table} t) rows"
            ));
            let digest = sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap();
            digests.insert(table, digest);
        }
        digests
    }
}

fn hash(row: &PgRow, column: &str) -> B256 {
    B256::from_slice(row.get::<&[u8], _>(column))
}

fn number(row: &PgRow, column: &str) -> u64 {
    row.get::<i64, _>(column).try_into().unwrap()
}
