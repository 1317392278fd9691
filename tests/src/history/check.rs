//! What the ledger must be, from the chain itself: its logs and the contract's storage.

use std::collections::BTreeMap;

use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::Log,
    sol_types::SolEventInterface as _,
};
use chrono::{DateTime, Utc};
use dues_chain::{
    contract::{Dues, IDues},
    source::RpcSource,
};
use dues_indexer::audit::{Checked, audit};
use dues_store::Store;
use sqlx::Row as _;

use super::{DEPTH, World};
use crate::{SOON, eventually};

const ENDS_BY_PAYER: u8 = 1;
const ENDED: u8 = 2;
const ENDS_BY_MERCHANT: u8 = 4;

/// Where a log stands: block, index in it, the block's hash.
type Place = (u64, u64, B256);

/// A money movement: place, transaction, kind, base units, status.
type Movement = (Place, B256, &'static str, String, &'static str);

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subscription {
    plan: u32,
    payer: Address,
    anchor: DateTime<Utc>,
    periods: u16,
    paid_through: DateTime<Utc>,
    scheduled: Option<u32>,
    /// What matters once both have cancelled is the merchant's word.
    ends_by: Option<&'static str>,
    ended: bool,
}

impl World {
    /// Mends the nodes, lets the indexer catch up, and compares.
    ///
    /// # Panics
    /// Where anything differs.
    pub async fn check(&mut self) {
        self.note("check");
        self.nodes.mend();
        let head = eventually(SOON, "the indexer catches up", || async {
            let (head, checkpoint) = (self.chain.head().await.header, self.ledger.checkpoint().await);
            if checkpoint == Some(head.hash) {
                Ok(head)
            } else {
                let (known, number, hash) = (self.known_blocks().await, head.number, head.hash);
                Err(format!(
                    "the ledger has {checkpoint:?}, of blocks {known:?}; the head is {number}, {hash}"
                ))
            }
        })
        .await;
        self.indexers.iter_mut().for_each(super::IndexerProcess::assert_alive);
        self.highest = self.highest.max(head.number);
        let final_number = self.final_number(head.number).await;
        let logs = self.logs(head.number).await;
        let places: Vec<Place> = logs.iter().map(|(log, _)| place(log)).collect();
        self.equal("events", &self.stored_events().await, &places);
        self.equal("movements", &self.stored_movements().await, &movements(&logs, final_number));
        self.equal("subscriptions", &self.stored_subscriptions().await, &self.subscriptions().await);
        self.equal("plans", &self.stored_plans().await, &self.plans_on_chain().await);
        // What is not on the chain is there no more than as a record of what failed.
        let stray = "SELECT count(*) FROM ledger.transactions WHERE status = 'failed'
                     AND failure_reason IS DISTINCT FROM 'reorganised'";
        self.equal("other failures", &self.ledger.count(stray).await, &0);
        let granted =
            "SELECT count(*) FROM ledger.subscriptions WHERE onchain_id IS NULL AND status <> 'incomplete'";
        self.equal("detached subscriptions that give access", &self.ledger.count(granted).await, &0);
        let doubled = "SELECT count(*) FROM (
                SELECT 1 FROM ledger.transactions GROUP BY subscription_id, kind, coalesce(spent_key, tx_hash),
                    CASE WHEN spent_key IS NULL THEN period END, ordinal
                HAVING count(*) > 1) doubled";
        self.equal("rows of the same movement", &self.ledger.count(doubled).await, &0);
        self.sent.retain(|sent| sent.block > self.highest - DEPTH);
    }

    /// By height, those that the indexer remembers.
    async fn known_blocks(&self) -> BTreeMap<u64, B256> {
        let rows = sqlx::query("SELECT number, hash FROM ledger.chain_blocks");
        let rows = rows.fetch_all(self.ledger.pool()).await.unwrap();
        rows.iter().map(|row| (unsigned(row.get(0)), B256::from_slice(row.get(1)))).collect()
    }

    /// Up to where the ledger takes the chain for final: by a head that there is, or one that there was.
    async fn final_number(&self, head: u64) -> u64 {
        let query = "SELECT final_number FROM ledger.chain_checkpoints";
        let number = u64::try_from(self.ledger.count(query).await).unwrap();
        let possible = head - DEPTH..=self.highest - DEPTH;
        assert!(possible.contains(&number), "{number} cannot be final, but {possible:?}");
        number
    }

    /// Has the product's own audit compare the ledger with the chain.
    ///
    /// # Panics
    /// Where it finds anything, or cannot look.
    pub async fn audit(&mut self) {
        self.note("audit");
        let config = self.mirrored.config();
        let store = Store::connect(self.database.url(), 2).await.unwrap();
        // What the ledger is compared with is what the chain says, not what its nodes do.
        let rpc = RpcSource::new(self.node.clone(), config.source).unwrap();
        let report = audit(&store, &rpc, &config, &mut |_, _, _| {}).await;
        store.close().await;
        let report = report.unwrap_or_else(|error| panic!("no audit: {error:?}"));
        let findings: Vec<String> = report.differences.iter().map(ToString::to_string).collect();
        assert!(report.is_clean(), "the audit found:\n{}", findings.join("\n"));
        let Checked { plans, events, .. } = report.checked;
        assert!(plans > 0 && events > 0, "the audit looked at nothing: {:?}", report.checked);
    }

    #[track_caller]
    fn equal<T: PartialEq + std::fmt::Debug>(&self, what: &str, ledger: &T, chain: &T) {
        let seed = self.seed;
        assert!(ledger == chain, "seed {seed}: {what} differ\nledger: {ledger:#?}\nchain: {chain:#?}");
    }

    /// Every event of this history's merchant.
    async fn logs(&self, head: u64) -> Vec<(Log, Dues::DuesEvents)> {
        let logs = self.chain.logs(self.mirrored.start_block, head).await;
        let decoded = logs.into_iter().filter_map(|log| {
            let event = Dues::DuesEvents::decode_log(&log.inner).unwrap().data;
            let ours = match &event {
                Dues::DuesEvents::PlanCreated(e) => e.merchant == self.merchant.address(),
                Dues::DuesEvents::OperatorSet(_) | Dues::DuesEvents::NoncesSpent(_) => false,
                Dues::DuesEvents::PlanRetired(e) => self.plans.contains(&e.planId),
                Dues::DuesEvents::PayeeProposed(e) => self.plans.contains(&e.planId),
                Dues::DuesEvents::PayeeChanged(e) => self.plans.contains(&e.planId),
                // Of a subscription: number, plan and payer are its topics.
                _ => self.plans.contains(&U256::from_be_bytes(log.topics()[2].0).to()),
            };
            ours.then_some((log, event))
        });
        decoded.collect()
    }

    async fn stored_events(&self) -> Vec<Place> {
        sqlx::query("SELECT block_number, log_index, block_hash FROM ledger.chain_events ORDER BY 1, 2")
            .fetch_all(self.ledger.pool())
            .await
            .unwrap()
            .iter()
            .map(|row| (unsigned(row.get(0)), unsigned(row.get(1)), B256::from_slice(row.get(2))))
            .collect()
    }

    async fn stored_movements(&self) -> Vec<Movement> {
        let rows = sqlx::query(
            "SELECT block_number, log_index, block_hash, tx_hash, kind, amount::text, status
             FROM ledger.transactions WHERE status <> 'failed' ORDER BY 1, 2",
        );
        let known = |word: String| {
            let words = ["charge", "usage", "refund", "pending", "completed"];
            *words.iter().find(|known| **known == word).unwrap_or_else(|| panic!("{word}"))
        };
        let rows = rows.fetch_all(self.ledger.pool()).await.unwrap();
        let movement = |row: &sqlx::postgres::PgRow| {
            let place = (unsigned(row.get(0)), unsigned(row.get(1)), B256::from_slice(row.get(2)));
            (place, B256::from_slice(row.get(3)), known(row.get(4)), row.get(5), known(row.get(6)))
        };
        rows.iter().map(movement).collect()
    }

    /// The subscriptions of this history's merchant, as the contract has them.
    pub(super) async fn records(&self) -> Vec<(U256, IDues::Record)> {
        let records = self.chain.dues().subscriptions(self.first_id, U256::MAX).call().await.unwrap();
        let ids = (0_u64..).map(|i| self.first_id + U256::from(i));
        ids.zip(records).filter(|(_, record)| self.plans.contains(&record.subscription.planId)).collect()
    }

    async fn subscriptions(&self) -> BTreeMap<U256, Subscription> {
        let records = self.records().await.into_iter();
        records
            .map(|(id, IDues::Record { subscription: s, paidThrough, scheduledPlanId, .. })| {
                let subscription = Subscription {
                    plan: s.planId,
                    payer: s.payer,
                    anchor: instant(s.anchor.to()),
                    periods: s.periods,
                    paid_through: instant(paidThrough),
                    scheduled: (scheduledPlanId != 0).then_some(scheduledPlanId),
                    ends_by: match s.flags {
                        flags if flags & ENDS_BY_MERCHANT != 0 => Some("merchant"),
                        flags if flags & ENDS_BY_PAYER != 0 => Some("payer"),
                        _ => None,
                    },
                    ended: s.flags & ENDED != 0,
                };
                (id, subscription)
            })
            .collect()
    }

    async fn stored_subscriptions(&self) -> BTreeMap<U256, Subscription> {
        let rows = sqlx::query(
            "SELECT onchain_id, onchain_plan_id, payer, anchor, periods, paid_through, scheduled_plan_id,
                    cancel_scheduled_by, ended_at FROM ledger.subscriptions WHERE onchain_id IS NOT NULL",
        );
        let rows = rows.fetch_all(self.ledger.pool()).await.unwrap();
        let entry = |row: &sqlx::postgres::PgRow| {
            let subscription = Subscription {
                plan: row.get::<i64, _>(1).try_into().unwrap(),
                payer: Address::from_slice(row.get(2)),
                anchor: row.get(3),
                periods: row.get::<i32, _>(4).try_into().unwrap(),
                paid_through: row.get(5),
                scheduled: row.get::<Option<i64>, _>(6).map(|plan| plan.try_into().unwrap()),
                ends_by: row
                    .get::<Option<&str>, _>(7)
                    .map(|by| if by == "payer" { "payer" } else { "merchant" }),
                ended: row.get::<Option<DateTime<Utc>>, _>(8).is_some(),
            };
            (U256::from(unsigned(row.get(0))), subscription)
        };
        rows.iter().map(entry).collect()
    }

    /// By number: payee, and whether it is retired.
    async fn plans_on_chain(&self) -> BTreeMap<u32, (Address, bool)> {
        let mut plans = BTreeMap::new();
        for plan in &self.plans {
            let stored = self.chain.dues().plan(*plan).call().await.unwrap();
            plans.insert(*plan, (stored.payee, stored.retired));
        }
        plans
    }

    async fn stored_plans(&self) -> BTreeMap<u32, (Address, bool)> {
        let rows =
            sqlx::query("SELECT onchain_plan_id, payee, retired_block IS NOT NULL FROM ledger.chain_plans");
        let rows = rows.fetch_all(self.ledger.pool()).await.unwrap();
        let entry = |row: &sqlx::postgres::PgRow| {
            (row.get::<i64, _>(0).try_into().unwrap(), (Address::from_slice(row.get(1)), row.get(2)))
        };
        rows.iter().map(entry).collect()
    }
}

fn movements(logs: &[(Log, Dues::DuesEvents)], final_number: u64) -> Vec<Movement> {
    let movement = |(log, event): &(Log, Dues::DuesEvents)| {
        let (kind, amount) = match event {
            Dues::DuesEvents::Charged(e) => ("charge", U256::from(e.amount)),
            Dues::DuesEvents::UsageCharged(e) => ("usage", U256::from(e.amount)),
            Dues::DuesEvents::Refunded(e) => ("refund", U256::from(e.amount)),
            _ => return None,
        };
        let place = place(log);
        let status = if place.0 <= final_number { "completed" } else { "pending" };
        Some((place, log.transaction_hash.unwrap(), kind, amount.to_string(), status))
    };
    logs.iter().filter_map(movement).collect()
}

fn place(log: &Log) -> Place {
    (log.block_number.unwrap(), log.log_index.unwrap(), log.block_hash.unwrap())
}

fn instant(seconds: u64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds.try_into().unwrap(), 0).unwrap()
}

fn unsigned(number: i64) -> u64 {
    number.try_into().unwrap()
}
