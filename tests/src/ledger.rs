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
    /// `charge`, `usage` or `refund`.
    pub kind: String,
    /// Where it stands.
    pub status: String,
    /// Why it failed.
    pub failure_reason: Option<String>,
    /// Base units.
    pub amount: String,
    /// The contract's plan that it was for.
    pub plan: i64,
    /// Which period, from 1; none of a refund.
    pub period: Option<i32>,
    /// The start of what it pays for.
    pub start: Option<DateTime<Utc>>,
    /// The end of what it pays for.
    pub end: Option<DateTime<Utc>>,
    /// The merchant's key of usage and refunds.
    pub key: Option<B256>,
    /// Who paid.
    pub payer: Address,
    /// Who was paid.
    pub payee: Address,
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
    /// The contract's plan of the next period, where that is another one.
    pub scheduled_plan: Option<i64>,
    /// From where periods are counted.
    pub anchor: DateTime<Utc>,
    /// Periods paid.
    pub periods: i32,
    /// End of the last paid period.
    pub paid_through: DateTime<Utc>,
    /// Whether it ends with it.
    pub cancel_at_period_end: bool,
    /// Whose word that is.
    pub cancel_scheduled_by: Option<String>,
    /// Who ended it at once.
    pub ended_by: Option<String>,
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
        self.transactions_where("payer = $1", payer.as_slice()).await
    }

    /// Every money movement of a payer's subscriptions, whichever way it went, oldest block first.
    pub async fn movements(&self, payer: Address) -> Vec<TransactionRow> {
        let of = "subscription_id IN (SELECT id FROM ledger.subscriptions WHERE payer = $1)";
        self.transactions_where(of, payer.as_slice()).await
    }

    async fn transactions_where(&self, condition: &str, parameter: &[u8]) -> Vec<TransactionRow> {
        sqlx::query(AssertSqlSafe(format!(
            "SELECT id, account_id, subscription_id, kind, status, failure_reason, amount::text AS amount,
                    onchain_plan_id, period, period_start, period_end, spent_key, payer, payee, tx_hash,
                    block_number, block_hash, log_index
             FROM ledger.transactions WHERE {condition} ORDER BY block_number, log_index, id",
        )))
        .bind(parameter)
        .fetch_all(&self.pool)
        .await
        .unwrap()
        .iter()
        .map(|row| TransactionRow {
            id: row.get("id"),
            account: row.get("account_id"),
            subscription: row.get("subscription_id"),
            kind: row.get("kind"),
            status: row.get("status"),
            failure_reason: row.get("failure_reason"),
            amount: row.get("amount"),
            plan: row.get("onchain_plan_id"),
            period: row.get("period"),
            start: row.get("period_start"),
            end: row.get("period_end"),
            key: row.get::<Option<&[u8]>, _>("spent_key").map(B256::from_slice),
            payer: Address::from_slice(row.get("payer")),
            payee: Address::from_slice(row.get("payee")),
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
            "SELECT id, account_id, status, onchain_id, onchain_plan_id, scheduled_plan_id, anchor, periods,
                    paid_through, cancel_at_period_end, cancel_scheduled_by, ended_by
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
            scheduled_plan: row.get("scheduled_plan_id"),
            anchor: row.get("anchor"),
            periods: row.get("periods"),
            paid_through: row.get("paid_through"),
            cancel_at_period_end: row.get("cancel_at_period_end"),
            cancel_scheduled_by: row.get("cancel_scheduled_by"),
            ended_by: row.get("ended_by"),
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

    /// All that the chain has brought about, row by row, without what is this database's own (ids, and when it was
    /// that a row was written). Two ledgers of the same chain are equal in this.
    pub async fn mirror(&self) -> Vec<String> {
        const OWN: &str =
            "'{id,account_id,subscription_id,plan_id,created_at,updated_at,settled_at}'::text[]";
        let mut rows = Vec::new();
        for table in ["chain_events", "chain_checkpoints", "chain_blocks", "subscriptions", "transactions"] {
            let query = AssertSqlSafe(format!(
                "SELECT '{table} ' || (to_jsonb(t) - {OWN})::text AS row FROM ledger.{table} t ORDER BY row"
            ));
            rows.extend(sqlx::query_scalar::<_, String>(query).fetch_all(&self.pool).await.unwrap());
        }
        rows
    }

    /// A digest of every table's rows, so that "nothing was written" means just that. Left out is only when an API
    /// key was last used.
    pub async fn digest(&self) -> BTreeMap<String, String> {
        let tables: Vec<(String, String)> = sqlx::query_as(
            "SELECT schemaname::text, tablename::text FROM pg_tables WHERE schemaname IN ('ledger', 'usage')",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        assert!(tables.len() > 13, "the ledger's tables are not where they are looked for: {tables:?}");
        let mut digests = BTreeMap::new();
        for (schema, table) in tables {
            let query = AssertSqlSafe(format!(
                "SELECT count(*) || ' ' || coalesce(md5(string_agg(row::text, ',' ORDER BY row::text)), '')
                 FROM (SELECT to_jsonb(t) - 'last_used_at' AS row FROM {schema}.{table} t) rows"
            ));
            let digest = sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap();
            let name = if schema == "ledger" { table } else { format!("{schema}.{table}") };
            digests.insert(name, digest);
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
