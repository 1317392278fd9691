//! However a history is cut into segments, the ledger is the same, row for row.

use std::{collections::HashMap, time::Duration};

use alloy::{
    primitives::{U256, aliases::U40, aliases::U96, keccak256},
    sol_types::SolEvent,
};
use alloy_primitives::{Address, B256};
use chrono::{DateTime, Utc};
use dues_chain::{
    contract::Dues,
    source::{RawLog, Segment},
};
use dues_domain::{
    chain::{BlockHeader, BlockRef, ChainSource, EventPosition},
    money::Asset,
};
use dues_store::{
    Store,
    mirror::{Checkpoint, MirrorScope},
};
use dues_tests::{Database, Ledger};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::apply;
use crate::{FinalityPolicy, IndexerConfig};

const START: u64 = 1_769_853_600;
const MONTH: u64 = 30 * 86_400;
const MERCHANT: Address = Address::repeat_byte(0x11);
const OTHER: Address = Address::repeat_byte(0x99);
const TOKEN: Address = Address::repeat_byte(0x22);
/// Plans 1 to 3 are ours, 4 is another merchant's.
const PLANS: u32 = 4;

/// Something that a transaction does, if it can; numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Act {
    Subscribe { payer: u8, plan: u32, reference: u8, trial: bool },
    Charge(usize),
    ChargeFails(usize),
    Change { of: usize, to: u32, free: bool },
    Schedule { of: usize, to: u32 },
    Revoke(usize),
    Cancel { of: usize, now: bool, by_merchant: bool },
    Resume(usize),
    Use { of: usize, key: u8 },
    Refund { of: usize, key: u8 },
    NewPlan,
    Retire(u32),
    Pay { plan: u32, payee: u8 },
    Allow,
}

/// An act, whether it is in the transaction of the act before, whether in its block, and whether it is left out after the
/// reorganisation.
#[derive(Debug, Clone)]
struct Deed {
    act: Act,
    same_tx: bool,
    same_block: bool,
    dropped: bool,
}

/// A history, a fork of it, and cuts.
#[derive(Debug, Clone)]
struct Case {
    deeds: Vec<Deed>,
    /// Where the fork parts from the first history, in percent of its blocks.
    fork: u64,
    /// Where segments end, one for each block.
    cuts: Vec<bool>,
    /// In percent of the blocks of the fork.
    finality: u64,
}

fn act() -> impl Strategy<Value = Act> {
    let of = 0..64_usize;
    let plan = 1..=PLANS;
    prop_oneof![
        4 => (0..5_u8, plan.clone(), 0..4_u8, any::<bool>())
            .prop_map(|(payer, plan, reference, trial)| Act::Subscribe { payer, plan, reference, trial }),
        6 => of.clone().prop_map(Act::Charge),
        1 => of.clone().prop_map(Act::ChargeFails),
        2 => (of.clone(), 1..PLANS, any::<bool>()).prop_map(|(of, to, free)| Act::Change { of, to, free }),
        1 => (of.clone(), 1..PLANS).prop_map(|(of, to)| Act::Schedule { of, to }),
        1 => of.clone().prop_map(Act::Revoke),
        1 => (of.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(of, now, by_merchant)| Act::Cancel { of, now, by_merchant }),
        1 => of.clone().prop_map(Act::Resume),
        2 => (of.clone(), 0..4_u8).prop_map(|(of, key)| Act::Use { of, key }),
        2 => (of, 0..4_u8).prop_map(|(of, key)| Act::Refund { of, key }),
        1 => Just(Act::NewPlan),
        1 => plan.clone().prop_map(Act::Retire),
        1 => (plan, 0..3_u8).prop_map(|(plan, payee)| Act::Pay { plan, payee }),
        1 => Just(Act::Allow),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let deed = (act(), prop::bool::weighted(0.3), any::<bool>(), prop::bool::weighted(0.2))
        .prop_map(|(act, same_tx, same_block, dropped)| Deed { act, same_tx, same_block, dropped });
    let deeds = prop::collection::vec(deed, 1..60);
    (deeds, 0..=100_u64, prop::collection::vec(any::<bool>(), 80), 0..=100_u64)
        .prop_map(|(deeds, fork, cuts, finality)| Case { deeds, fork, cuts, finality })
}

#[derive(Debug, Clone)]
struct Subscription {
    plan: u32,
    scheduled: Option<u32>,
    payer: Address,
    anchor: u64,
    periods: u16,
    paid_through: u64,
    cancelled: bool,
    ended: bool,
    keys: Vec<u8>,
}

/// The contract, as far as its events depend on its state.
#[derive(Debug, Clone, Default)]
struct Contract {
    subscriptions: Vec<Subscription>,
    plans: u32,
    number: u64,
    blocks: Vec<(BlockHeader, Vec<RawLog>)>,
    tx: u64,
}

fn word(what: &str, number: u64) -> B256 {
    keccak256([what.as_bytes(), &number.to_be_bytes()].concat())
}

fn reference(number: u8) -> B256 {
    // The first is an account that the platform knows.
    if number == 0 { B256::left_padding_from(&known_account()) } else { word("reference", number.into()) }
}

fn known_account() -> [u8; 16] {
    [1, 0x9b, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 0x0a]
}

impl Contract {
    fn now(&self) -> u64 {
        START + self.number * 3_600
    }

    fn block(&mut self, fork: &str) {
        self.number += 1;
        let block = BlockRef { number: self.number, hash: word(fork, self.number) };
        let header = BlockHeader { block, parent_hash: B256::ZERO, timestamp: instant(self.now()) };
        self.blocks.push((header, Vec::new()));
    }

    fn emit(&mut self, event: &impl SolEvent) {
        let data = event.encode_log_data();
        let tx_hash = word("tx", self.tx);
        let (header, logs) = self.blocks.last_mut().unwrap();
        let log_index = logs.len().try_into().unwrap();
        let at = EventPosition { block: header.block, log_index, tx_hash, timestamp: header.timestamp };
        logs.push(RawLog { at, topics: data.topics().to_vec(), data: data.data.to_vec() });
    }

    fn plan(&mut self, merchant: Address) {
        self.plans += 1;
        self.emit(&Dues::PlanCreated {
            planId: self.plans,
            merchant,
            token: TOKEN,
            payee: merchant,
            price: U96::from(1_000 * self.plans),
            unit: 1,
            count: 1,
            trial: 0,
            grace: 3_600,
            usageCap: U96::from(1_000_000),
        });
    }

    fn charged(&mut self, of: usize, amount: u128) {
        let Subscription { plan, payer, periods, paid_through, .. } = self.subscriptions[of];
        let id = id(of);
        self.emit(&Dues::Charged { id, planId: plan, payer, periods, paidThrough: paid_through, amount });
    }

    fn act(&mut self, act: &Act) {
        let count = self.subscriptions.len();
        let now = self.now();
        match *act {
            Act::Subscribe { payer, plan, reference: number, trial } => {
                let payer = Address::repeat_byte(0xa0 + payer);
                let anchor = if trial { now + 86_400 } else { now };
                self.subscriptions.push(Subscription {
                    plan,
                    scheduled: None,
                    payer,
                    anchor,
                    periods: 0,
                    paid_through: anchor,
                    cancelled: false,
                    ended: false,
                    keys: Vec::new(),
                });
                self.emit(&Dues::Subscribed {
                    id: id(count),
                    planId: plan,
                    payer,
                    r#ref: reference(number),
                    anchor: U40::from(anchor),
                    paidThrough: anchor,
                });
                if !trial {
                    self.pay(count);
                }
            }
            Act::NewPlan => self.plan(MERCHANT),
            Act::Retire(plan) => self.emit(&Dues::PlanRetired { planId: plan }),
            Act::Pay { plan, payee } => {
                let payee = Address::repeat_byte(0xd0 + payee);
                self.emit(&Dues::PayeeProposed { planId: plan, payee, acceptableFrom: now });
                self.emit(&Dues::PayeeChanged { planId: plan, payee });
            }
            Act::Allow => {
                self.emit(&Dues::OperatorSet { merchant: MERCHANT, operator: OTHER, approved: true });
            }
            _ if count == 0 => {}
            Act::Charge(of) => self.pay(of % count),
            Act::ChargeFails(of) => {
                let Subscription { plan, payer, .. } = self.subscriptions[of % count];
                self.emit(&Dues::ChargeFailed { id: id(of % count), planId: plan, payer, reason: 5 });
            }
            Act::Change { of, to, free } => self.change(of % count, to, free),
            Act::Schedule { of, to } => {
                let of = of % count;
                let Subscription { plan, payer, ended, .. } = self.subscriptions[of];
                // Another merchant's plans are not for ours to change to.
                if !ended && to != plan && plan != PLANS {
                    self.subscriptions[of].scheduled = Some(to);
                    let event = Dues::ChangeScheduled {
                        id: id(of),
                        planId: plan,
                        payer,
                        toPlanId: to,
                        byMerchant: false,
                    };
                    self.emit(&event);
                }
            }
            Act::Revoke(of) => {
                let of = of % count;
                let Subscription { plan, payer, .. } = self.subscriptions[of];
                if self.subscriptions[of].scheduled.take().is_some() {
                    self.emit(&Dues::ChangeRevoked { id: id(of), planId: plan, payer });
                }
            }
            Act::Cancel { of, now, by_merchant } => self.cancel(of % count, now, by_merchant),
            Act::Resume(of) => {
                let of = of % count;
                let Subscription { plan, payer, cancelled, ended, paid_through, .. } = self.subscriptions[of];
                if cancelled && !ended {
                    self.subscriptions[of].cancelled = false;
                    self.emit(&Dues::Resumed { id: id(of), planId: plan, payer, paidThrough: paid_through });
                }
            }
            Act::Use { of, key } => {
                let of = of % count;
                let Subscription { plan, payer, periods, ended, .. } = self.subscriptions[of];
                if !ended && periods > 0 && self.spend(of, key) {
                    let (amount, total) = (U96::from(3), U96::from(9));
                    let key = word("key", key.into());
                    let event = Dues::UsageCharged {
                        id: id(of),
                        planId: plan,
                        payer,
                        key,
                        period: periods,
                        amount,
                        total,
                    };
                    self.emit(&event);
                }
            }
            Act::Refund { of, key } => {
                let of = of % count;
                let Subscription { plan, payer, .. } = self.subscriptions[of];
                if self.spend(of, key) {
                    let (id, key, from) = (id(of), word("key", key.into()), MERCHANT);
                    self.emit(&Dues::Refunded { id, planId: plan, payer, key, from, amount: 2, total: 8 });
                }
            }
        }
    }

    fn pay(&mut self, of: usize) {
        let subscription = &mut self.subscriptions[of];
        if !subscription.ended {
            subscription.periods += 1;
            subscription.paid_through += MONTH;
            self.charged(of, u128::MAX - 7);
        }
    }

    fn change(&mut self, of: usize, to: u32, free: bool) {
        let now = self.now();
        let Subscription { plan: from, payer, ended, .. } = self.subscriptions[of];
        if ended || from == to || from == PLANS {
            return;
        }
        let subscription = &mut self.subscriptions[of];
        (subscription.plan, subscription.scheduled) = (to, None);
        (subscription.anchor, subscription.periods, subscription.paid_through) = (now, 1, now + MONTH);
        self.emit(&Dues::PlanChanged {
            id: id(of),
            planId: to,
            payer,
            fromPlanId: from,
            anchor: U40::from(now),
            periods: 1,
            paidThrough: now + MONTH,
            credit: 1,
        });
        if !free {
            self.charged(of, 77);
        }
    }

    fn cancel(&mut self, of: usize, at_once: bool, by_merchant: bool) {
        let Subscription { plan, payer, cancelled, ended, .. } = self.subscriptions[of];
        let id = id(of);
        if at_once && !ended {
            self.subscriptions[of].ended = true;
            self.emit(&Dues::Cancelled { id, planId: plan, payer, byMerchant: by_merchant });
        } else if !cancelled && !ended {
            self.subscriptions[of].cancelled = true;
            self.emit(&Dues::CancelScheduled { id, planId: plan, payer, byMerchant: by_merchant });
        }
    }

    fn spend(&mut self, of: usize, key: u8) -> bool {
        let keys = &mut self.subscriptions[of].keys;
        let fresh = !keys.contains(&key);
        keys.push(key);
        fresh
    }

    fn begin() -> Self {
        let mut contract = Self::default();
        contract.block("first");
        for _ in 1..PLANS {
            contract.plan(MERCHANT);
        }
        contract.plan(OTHER);
        contract
    }

    /// The chain after `deeds`, each numbered by its place in the whole history, so that a transaction has the same hash
    /// on both forks; `kept` is the chain as of each block.
    fn run(&mut self, fork: &str, deeds: &[(usize, &Deed)], snapshots: &mut Vec<(usize, Self)>) {
        for (place, (number, deed)) in deeds.iter().enumerate() {
            if place == 0 || !(deed.same_tx || deed.same_block) {
                snapshots.push((*number, self.clone()));
                self.block(fork);
            }
            if place == 0 || !deed.same_tx {
                self.tx = u64::try_from(*number).unwrap() + 1;
            }
            self.act(&deed.act);
        }
    }
}

fn id(index: usize) -> U256 {
    U256::from(index + 1)
}

fn instant(seconds: u64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds.try_into().unwrap(), 0).unwrap()
}

/// Two chains that share their blocks up to `fork`.
#[derive(Debug)]
struct Histories {
    first: Vec<(BlockHeader, Vec<RawLog>)>,
    second: Vec<(BlockHeader, Vec<RawLog>)>,
    /// How many blocks they share.
    shared: usize,
}

fn histories(case: &Case) -> Histories {
    let deeds: Vec<_> = case.deeds.iter().enumerate().collect();
    let (mut first, mut snapshots) = (Contract::begin(), Vec::new());
    first.run("first", &deeds, &mut snapshots);
    let place = usize::try_from(case.fork).unwrap() * (snapshots.len() - 1) / 100;
    let (from, mut second) = snapshots.swap_remove(place);
    let shared = second.blocks.len();
    let rest: Vec<_> = deeds.into_iter().skip(from).filter(|(_, deed)| !deed.dropped).collect();
    second.run("second", &rest, &mut Vec::new());
    // The fork that wins is the longer one.
    while second.blocks.len() <= first.blocks.len() {
        second.block("second");
    }
    Histories { first: first.blocks, second: second.blocks, shared }
}

fn config() -> IndexerConfig {
    IndexerConfig {
        source: ChainSource { chain_id: 1, contract: Address::repeat_byte(0xcc) },
        scope: MirrorScope { merchant: MERCHANT, start_block: 1 },
        finality: FinalityPolicy::Depth(0),
        poll_interval: Duration::from_secs(1),
        assets: HashMap::from([(TOKEN, Asset { code: "USDC".into(), exponent: 6 })]),
    }
}

/// Mirrors both histories, one after the other, with segments that end where `cut` says.
async fn mirror(store: &Store, case: &Case, histories: &Histories, cut: impl Fn(usize) -> bool) {
    let Histories { first, second, shared } = histories;
    let config = config();
    let mut mirror = store.lead(config.source, config.scope).await.unwrap().unwrap();
    let mut checkpoint: Option<Checkpoint> = None;
    let last_final = u64::try_from(second.len()).unwrap() * case.finality / 100;
    let fork = second[*shared - 1].0.block;
    for (blocks, from, unwind, most_final) in [
        (first, 0, None, fork.number.min(last_final)),
        (second, *shared, Some(fork).filter(|_| first.len() > *shared), last_final),
    ] {
        let mut unwind = unwind;
        let mut segment = Segment { headers: Vec::new(), last: fork, logs: Vec::new() };
        for (place, (header, logs)) in blocks.iter().enumerate().skip(from) {
            segment.headers.push(*header);
            segment.last = header.block;
            segment.logs.extend(logs.iter().cloned());
            if !cut(place) && place + 1 < blocks.len() {
                continue;
            }
            let final_number = most_final.min(segment.last.number);
            let next = Checkpoint { block: segment.last, final_number };
            let mut step = mirror.begin().await.unwrap();
            apply(&mut step, &config, unwind.take(), &segment, final_number).await.unwrap();
            step.advance(checkpoint, next).await.unwrap();
            step.commit().await.unwrap();
            checkpoint = Some(next);
            (segment.headers, segment.logs) = (Vec::new(), Vec::new());
        }
    }
    mirror.release().await.unwrap();
}

/// Every row, but for ids that are made up and times of the machine's clock; accounts by their wallets.
async fn rows(ledger: &Ledger) -> Vec<String> {
    sqlx::query_scalar(
        "WITH named AS (
             SELECT a.id, a.origin || coalesce(a.external_id, '') || coalesce(string_agg(encode(w.address, 'hex'), ','), '')
                 AS name
             FROM ledger.accounts a LEFT JOIN ledger.wallets w ON w.account_id = a.id GROUP BY a.id
         ), agreed AS (
             SELECT s.id, concat_ws(' ', s.origin_tx, s.payer, s.origin_plan_id, s.reference, s.origin_ordinal) AS name
             FROM ledger.subscriptions s
         )
         SELECT 'account ' || name AS row FROM named
         UNION ALL
         SELECT concat('subscription ', n.name, to_jsonb(s) - '{id,account_id,created_at,updated_at}'::text[])
             FROM ledger.subscriptions s JOIN named n ON n.id = s.account_id
         UNION ALL
         SELECT concat('transaction ', n.name, g.name, t.settled_at IS NULL,
                       to_jsonb(t) - '{id,account_id,subscription_id,settled_at,created_at,updated_at}'::text[])
             FROM ledger.transactions t JOIN named n ON n.id = t.account_id JOIN agreed g ON g.id = t.subscription_id
         UNION ALL
         SELECT concat('event ', to_jsonb(e)) FROM ledger.chain_events e
         UNION ALL
         SELECT concat('plan ', to_jsonb(p)) FROM ledger.chain_plans p
         UNION ALL
         SELECT concat('block ', to_jsonb(b)) FROM ledger.chain_blocks b
         UNION ALL
         SELECT concat('checkpoint ', to_jsonb(c) - 'updated_at') FROM ledger.chain_checkpoints c
         UNION ALL
         SELECT concat('audit ', to_jsonb(a) - '{id,at,subject}'::text[]) FROM ledger.audit_log a
         ORDER BY row",
    )
    .fetch_all(ledger.pool())
    .await
    .unwrap()
}

/// An empty ledger with one account of the platform. The triggers would keep the audit log.
async fn reset(ledger: &Ledger) {
    sqlx::raw_sql(
        "SET session_replication_role = replica;
         TRUNCATE ledger.accounts, ledger.wallets, ledger.subscriptions, ledger.transactions, ledger.chain_events,
             ledger.chain_plans, ledger.chain_blocks, ledger.chain_checkpoints, ledger.audit_log,
             ledger.charge_attempts, ledger.charge_runways CASCADE;
         RESET session_replication_role;
         INSERT INTO ledger.accounts (id, external_id, origin)
             VALUES ('019b0000-0000-7000-8000-00000000000a', 'ada', 'platform')",
    )
    .execute(ledger.pool())
    .await
    .unwrap();
}

#[test]
fn any_cut_of_a_history_into_segments_gives_the_same_ledger() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (database, store, ledger) = runtime.block_on(async {
        let database = Database::fresh().await;
        let (store, ledger) = (database.store().await, Ledger::new(&database));
        (database, store, ledger)
    });
    // Each case goes through some fifty transactions: fewer of them than usual, and more by PROPTEST_CASES.
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(16);
    let mut runner = TestRunner::new(Config { cases, max_shrink_iters: 200, ..Config::default() });
    let outcome = runner.run(&case(), |case| {
        runtime.block_on(async {
            let histories = histories(&case);
            reset(&ledger).await;
            mirror(&store, &case, &histories, |_| true).await;
            let by_block = rows(&ledger).await;
            reset(&ledger).await;
            mirror(&store, &case, &histories, |place| case.cuts[place % case.cuts.len()]).await;
            let by_cuts = rows(&ledger).await;
            reset(&ledger).await;
            mirror(&store, &case, &histories, |_| false).await;
            let whole = rows(&ledger).await;
            prop_assert_eq!(&by_block, &by_cuts);
            prop_assert_eq!(&by_block, &whole);
            prop_assert!(!by_block.is_empty());
            Ok(())
        })
    });
    runtime.block_on(store.close());
    drop(database);
    outcome.unwrap();
}
