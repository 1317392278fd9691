//! Building the mirror anew, in one transaction: readers see the old ledger until the new one is complete.
//!
//! A [`Repairer`] is the one process that repairs a contract's part of the ledger. Its [`Rebuild`] holds the
//! checkpoint's row, so that no step of the indexer lies across it, takes everything back, lets the caller project
//! the chain's events again through the same [`Step`] as the indexer, and says what is different afterwards.
//!
//! Rows of subscriptions and money are never deleted. They are found again by what names them on the chain, and keep
//! their ids, accounts and times; what the chain does not know ends `failed` ([`NOT_ON_CHAIN`]), or detached.

use alloy_primitives::{Address, B256};
use dues_domain::chain::{ChainSource, OnchainPlanId, OnchainSubscriptionId};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::{Checkpoint, MirrorScope, Source, Step, checkpoint, lock_checkpoint};
use crate::{Actor, Store, StoreError, audit, convert};

/// Why a money movement failed that the chain does not have.
pub const NOT_ON_CHAIN: &str = "not_on_chain";

/// The one process that may rebuild a contract's part of the ledger.
#[derive(Debug)]
pub struct Repairer {
    connection: PgConnection,
    source: Source,
    scope: MirrorScope,
}

/// How a subscription began, as the chain has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// The contract's number for it.
    pub onchain_id: OnchainSubscriptionId,
    /// The transaction.
    pub tx_hash: B256,
    /// Who subscribed.
    pub payer: Address,
    /// To which plan.
    pub plan: OnchainPlanId,
    /// For whom.
    pub reference: B256,
    /// How many equal ones are before it in its transaction.
    pub ordinal: u32,
}

/// An open rebuild. Dropping it undoes everything.
#[derive(Debug)]
pub struct Rebuild<'a> {
    step: Step<'a>,
    before: Checkpoint,
}

/// What is different in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableChanges {
    /// The table.
    pub table: &'static str,
    /// Rows that it has now.
    pub rows: u64,
    /// Rows that it did not have.
    pub added: u64,
    /// Rows that are different from before.
    pub changed: u64,
    /// Rows that it has no more: never of subscriptions or money.
    pub removed: u64,
}

/// What a rebuild has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The checkpoint that was found.
    pub before: Checkpoint,
    /// The checkpoint that is left.
    pub after: Checkpoint,
    /// By table.
    pub tables: Vec<TableChanges>,
    /// Money movements that failed because the chain does not have them. They are among those that changed.
    pub not_on_chain: u64,
}

impl Rebuilt {
    /// Whether the ledger was right before.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        let same = |table: &TableChanges| (table.added, table.changed, table.removed) == (0, 0, 0);
        self.before == self.after && self.tables.iter().all(same)
    }
}

impl Store {
    /// Takes the right to rebuild what is mirrored of `source`, or gives `None` where another process has it.
    ///
    /// # Errors
    /// [`StoreError::NotMirrored`] where nothing is mirrored yet, [`StoreError::OtherScope`] where it is another
    /// merchant's.
    pub async fn repair(
        &self,
        source: ChainSource,
        scope: MirrorScope,
    ) -> Result<Option<Repairer>, StoreError> {
        let name = format!("dues:reindex:{}:{}", source.chain_id, source.contract);
        // One statement may well write the whole ledger. If this process is gone, the lock must be, too.
        let settings = [
            ("statement_timeout", "0"),
            ("idle_in_transaction_session_timeout", "600s"),
            ("client_connection_check_interval", "2s"),
        ];
        let Some(mut connection) = self.exclusive(&[&name], &settings).await? else { return Ok(None) };
        let source =
            Source { chain_id: convert::to_i64(source.chain_id)?, contract: source.contract.to_vec() };
        let begun = sqlx::query!(
            "SELECT merchant, start_block FROM ledger.chain_checkpoints WHERE chain_id = $1 AND contract = $2",
            source.chain_id,
            source.contract,
        )
        .fetch_optional(&mut connection)
        .await?
        .ok_or(StoreError::NotMirrored)?;
        if convert::address(&begun.merchant)? != scope.merchant {
            return Err(StoreError::OtherScope);
        }
        // What was left out at the beginning can be read now, but nothing that was read may be left out.
        let start_block = scope.start_block.min(convert::unsigned(begun.start_block)?);
        Ok(Some(Repairer { connection, source, scope: MirrorScope { start_block, ..scope } }))
    }
}

impl Repairer {
    /// What is to be read again.
    #[must_use]
    pub const fn scope(&self) -> MirrorScope {
        self.scope
    }

    /// How far the mirror has come.
    ///
    /// # Errors
    /// [`StoreError::NotMirrored`] where nothing is mirrored any more.
    pub async fn checkpoint(&mut self) -> Result<Checkpoint, StoreError> {
        checkpoint(&mut self.connection, &self.source).await?.ok_or(StoreError::NotMirrored)
    }

    /// Begins a rebuild: waits for the step of the indexer that is under way, and holds up the next.
    ///
    /// # Errors
    /// [`StoreError::NotMirrored`] where nothing is mirrored any more.
    pub async fn begin(&mut self) -> Result<Rebuild<'_>, StoreError> {
        let mut tx = self.connection.begin().await?;
        lock_checkpoint(&mut tx, &self.source).await?;
        let before = checkpoint(&mut tx, &self.source).await?.ok_or(StoreError::NotMirrored)?;
        let step = Step { tx, source: self.source.clone(), scope: self.scope };
        Ok(Rebuild { step, before })
    }
}

/// The tables that are compared, and by which columns their rows are the same ones.
const TABLES: [(&str, &str); 4] = [
    ("chain_events", "block_number, log_index"),
    ("chain_plans", "onchain_plan_id"),
    ("subscriptions", "id"),
    ("transactions", "id"),
];

impl<'a> Rebuild<'a> {
    /// How far the mirror had come.
    #[must_use]
    pub const fn checkpoint(&self) -> Checkpoint {
        self.before
    }

    /// The step to project the chain's events with, once everything is taken back.
    pub const fn step(&mut self) -> &mut Step<'a> {
        &mut self.step
    }

    /// Takes everything back. `beginnings` are those of the chain: a row whose name was damaged is given it again.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn take_back(&mut self, beginnings: &[Beginning]) -> Result<(), StoreError> {
        self.remember().await?;
        for some in beginnings.chunks(1_000) {
            self.name_again(some).await?;
        }
        let Step { tx, source, .. } = &mut self.step;
        sqlx::query!(
            "DELETE FROM ledger.chain_events WHERE chain_id = $1 AND contract = $2",
            source.chain_id,
            source.contract,
        )
        .execute(&mut **tx)
        .await?;
        sqlx::query!(
            "UPDATE ledger.transactions SET status = 'failed', failure_reason = $3, settled_at = NULL, updated_at = now()
             WHERE chain_id = $1 AND contract = $2 AND status <> 'failed'",
            source.chain_id,
            source.contract,
            NOT_ON_CHAIN,
        )
        .execute(&mut **tx)
        .await?;
        sqlx::query!(
            "UPDATE ledger.subscriptions SET onchain_id = NULL, onchain_plan_id = NULL, scheduled_plan_id = NULL,
                 status = 'incomplete', confirmed = false, periods = 0, paid_through = anchor, plan_changes = 0,
                 cancel_at_period_end = false, cancel_scheduled_by = NULL, ended_at = NULL, ended_by = NULL,
                 updated_at = now()
             WHERE chain_id = $1 AND contract = $2 AND onchain_id IS NOT NULL",
            source.chain_id,
            source.contract,
        )
        .execute(&mut **tx)
        .await?;
        sqlx::query!(
            "DELETE FROM ledger.chain_plans WHERE chain_id = $1 AND contract = $2",
            source.chain_id,
            source.contract,
        )
        .execute(&mut **tx)
        .await?;
        sqlx::query!(
            "DELETE FROM ledger.chain_blocks WHERE chain_id = $1 AND contract = $2",
            source.chain_id,
            source.contract,
        )
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    /// Copies of the tables as they are, to compare with. They vanish with the transaction.
    async fn remember(&mut self) -> Result<(), StoreError> {
        let Step { tx, source, .. } = &mut self.step;
        for (table, _) in TABLES {
            // The names are the constants above. A temporary table cannot be known when queries are checked.
            let create = format!("CREATE TEMP TABLE before_{table} (LIKE ledger.{table}) ON COMMIT DROP");
            sqlx::query(AssertSqlSafe(create)).execute(&mut **tx).await?;
            let copy = format!(
                "INSERT INTO pg_temp.before_{table} SELECT * FROM ledger.{table} WHERE chain_id = $1 AND contract = $2"
            );
            sqlx::query(AssertSqlSafe(copy))
                .bind(source.chain_id)
                .bind(&source.contract)
                .execute(&mut **tx)
                .await?;
        }
        Ok(())
    }

    /// A row is found again by the transaction that it began in, its payer, plan, reference and ordinal. Where the
    /// contract's number and the transaction say which one it is, and just one of the others was damaged, it is mended
    /// instead of being left behind. (After a reorganisation the number may be another subscription's: that one
    /// differs in more than one of them, or has a row of its own.)
    async fn name_again(&mut self, beginnings: &[Beginning]) -> Result<(), StoreError> {
        let Step { tx, source, .. } = &mut self.step;
        let ids = beginnings.iter().map(|b| convert::to_i64(b.onchain_id)).collect::<Result<Vec<_>, _>>()?;
        let ordinals =
            beginnings.iter().map(|b| convert::unsigned(b.ordinal)).collect::<Result<Vec<i32>, _>>()?;
        let txs: Vec<Vec<u8>> = beginnings.iter().map(|b| b.tx_hash.to_vec()).collect();
        let payers: Vec<Vec<u8>> = beginnings.iter().map(|b| b.payer.to_vec()).collect();
        let plans: Vec<i64> = beginnings.iter().map(|b| b.plan.into()).collect();
        let references: Vec<Vec<u8>> = beginnings.iter().map(|b| b.reference.to_vec()).collect();
        sqlx::query!(
            "UPDATE ledger.subscriptions s SET payer = b.payer, origin_plan_id = b.plan, reference = b.reference,
                 origin_ordinal = b.ordinal
             FROM unnest($3::bigint[], $4::bytea[], $5::bytea[], $6::bigint[], $7::bytea[], $8::integer[])
                 AS b (onchain_id, tx, payer, plan, reference, ordinal)
             WHERE s.chain_id = $1 AND s.contract = $2 AND s.onchain_id = b.onchain_id AND s.origin_tx = b.tx
               AND (s.payer <> b.payer)::integer + (s.origin_plan_id <> b.plan)::integer
                   + (s.reference <> b.reference)::integer + (s.origin_ordinal <> b.ordinal)::integer = 1
               AND NOT EXISTS (
                   SELECT FROM ledger.subscriptions o
                   WHERE (o.chain_id, o.contract, o.origin_tx, o.payer, o.origin_plan_id, o.reference, o.origin_ordinal)
                       = ($1, $2, b.tx, b.payer, b.plan, b.reference, b.ordinal))",
            source.chain_id,
            source.contract,
            &ids,
            &txs,
            &payers,
            &plans,
            &references,
            &ordinals,
        )
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    /// Moves the checkpoint to `next`, and gives rows that are as they were their times again. Nothing is durable yet.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn finish(&mut self, next: Checkpoint) -> Result<Rebuilt, StoreError> {
        self.step.advance(Some(self.before), next).await?;
        let Step { tx, source, scope } = &mut self.step;
        sqlx::query!(
            "UPDATE ledger.chain_checkpoints SET start_block = $3 WHERE chain_id = $1 AND contract = $2",
            source.chain_id,
            source.contract,
            convert::to_i64(scope.start_block)?,
        )
        .execute(&mut **tx)
        .await?;
        // What was settled before was settled then, even where something else of the row was wrong.
        sqlx::query(
            "UPDATE ledger.transactions t SET settled_at = b.settled_at FROM pg_temp.before_transactions b
             WHERE t.id = b.id AND t.status = 'completed' AND b.status = 'completed'",
        )
        .execute(&mut **tx)
        .await?;
        for table in ["transactions", "subscriptions"] {
            let restore = format!(
                "UPDATE ledger.{table} t SET updated_at = b.updated_at FROM pg_temp.before_{table} b
                 WHERE t.id = b.id AND t.updated_at <> b.updated_at
                   AND to_jsonb(t) - 'updated_at' = to_jsonb(b) - 'updated_at'"
            );
            sqlx::query(AssertSqlSafe(restore)).execute(&mut **tx).await?;
        }
        let mut tables = Vec::new();
        for (table, key) in TABLES {
            tables.push(compare(tx, source, table, key).await?);
        }
        let not_on_chain = sqlx::query_scalar(
            "SELECT count(*) FROM ledger.transactions t JOIN pg_temp.before_transactions b USING (id)
             WHERE t.failure_reason = $1 AND b.status <> 'failed'",
        )
        .bind(NOT_ON_CHAIN)
        .fetch_one(&mut **tx)
        .await?;
        let not_on_chain = convert::unsigned::<i64, _>(not_on_chain)?;
        Ok(Rebuilt { before: self.before, after: next, tables, not_on_chain })
    }

    /// Makes the rebuild durable, and visible to everybody at once.
    ///
    /// # Errors
    /// [`StoreError::Database`]; the checkpoint tells whether it is durable then.
    pub async fn commit(mut self, rebuilt: &Rebuilt) -> Result<(), StoreError> {
        let tables: serde_json::Map<_, _> = rebuilt
            .tables
            .iter()
            .map(|t| {
                let counts = json!({ "added": t.added, "changed": t.changed, "removed": t.removed });
                (t.table.to_owned(), counts)
            })
            .collect();
        let block = |c: Checkpoint| json!({ "number": c.block.number, "hash": c.block.hash });
        let detail = json!({
            "tables": tables, "not_on_chain": rebuilt.not_on_chain,
            "before": block(rebuilt.before), "after": block(rebuilt.after),
        });
        let source = &self.step.source;
        let subject = format!("{}:{}", source.chain_id, convert::address(&source.contract)?);
        audit::record(&mut self.step.tx, Actor::Operator, "ledger.reindex", &subject, detail).await?;
        self.step.commit().await
    }

    /// Undoes everything.
    ///
    /// # Errors
    /// [`StoreError::Database`]; nothing is durable then either.
    pub async fn roll_back(self) -> Result<(), StoreError> {
        Ok(self.step.tx.rollback().await?)
    }
}

async fn compare(
    tx: &mut PgConnection,
    source: &Source,
    table: &'static str,
    key: &str,
) -> Result<TableChanges, StoreError> {
    // A row and its copy are of two types to PostgreSQL; as anonymous rows they can be compared.
    let query = format!(
        "SELECT count(a.chain_id) AS rows,
                count(*) FILTER (WHERE b.chain_id IS NULL) AS added,
                count(*) FILTER (WHERE a.chain_id IS NULL) AS removed,
                count(*) FILTER (WHERE a.chain_id IS NOT NULL AND b.chain_id IS NOT NULL
                                   AND ROW(a.*) IS DISTINCT FROM ROW(b.*)) AS changed
         FROM (SELECT * FROM ledger.{table} WHERE chain_id = $1 AND contract = $2) a
         FULL JOIN pg_temp.before_{table} b USING ({key})"
    );
    let row =
        sqlx::query(AssertSqlSafe(query)).bind(source.chain_id).bind(&source.contract).fetch_one(tx).await?;
    let count = |column: &str| convert::unsigned::<i64, u64>(row.try_get(column)?);
    Ok(TableChanges {
        table,
        rows: count("rows")?,
        added: count("added")?,
        changed: count("changed")?,
        removed: count("removed")?,
    })
}
