//! Plans and subscriptions, with the contract's storage; subscriptions and money, with the fold of the stored events.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use alloy_primitives::{Address, B256, U256};
use chrono::{DateTime, Utc};
use dues_chain::{
    contract,
    source::{ContractPlan, ContractSubscription},
};
use dues_domain::{
    calendar::Interval,
    chain::{ContractEvent, EventPosition, OnchainPlanId, OnchainSubscriptionId, Party},
    fold::{ChainSubscription, MovementKind},
    ids::SubscriptionId,
    money::BaseUnits,
};
use dues_store::{
    TransactionKind, TransactionStatus,
    mirror::{AuditedMovement, AuditedPlan, AuditedSubscription, StoredEvent},
};

use super::{Audit, AuditError, Progress, Stage, What};

/// Plans of one call.
const PLANS: OnchainPlanId = 100;
/// Subscriptions of one call, and rows that are held at once.
const SUBSCRIPTIONS: OnchainSubscriptionId = 250;

/// What names a movement of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Name {
    Charge { tx_hash: B256, period: Option<u16>, ordinal: Option<u32> },
    Keyed { kind: TransactionKind, key: Option<B256> },
}

impl Name {
    const fn of(row: &AuditedMovement) -> Self {
        match row.kind {
            TransactionKind::Charge => {
                Self::Charge { tx_hash: row.at.tx_hash, period: row.period, ordinal: row.ordinal }
            }
            kind => Self::Keyed { kind, key: row.key },
        }
    }
}

/// A row of money as it follows from the events.
#[derive(Debug)]
struct Expected {
    name: Name,
    amount: BaseUnits,
    currency: String,
    exponent: u8,
    plan: OnchainPlanId,
    plan_changes: Option<u32>,
    period: Option<u16>,
    start: Option<DateTime<Utc>>,
    end: Option<DateTime<Utc>>,
    token: Address,
    payer: Address,
    payee: Address,
    at: EventPosition,
}

/// What the ledger has of some subscriptions.
struct Page {
    rows: HashMap<OnchainSubscriptionId, AuditedSubscription>,
    histories: HashMap<OnchainSubscriptionId, Vec<StoredEvent>>,
    movements: HashMap<SubscriptionId, Vec<AuditedMovement>>,
}

/// Whom a plan pays, and the block and log index since when.
type Since = ((u64, u64), Address);

/// The plans of our merchant, and whom each has paid when.
struct Plans {
    ours: BTreeMap<OnchainPlanId, ContractPlan>,
    payees: HashMap<OnchainPlanId, Vec<Since>>,
}

impl Plans {
    /// Who was paid for `plan` by an event at `at`.
    fn payee(&self, plan: &ContractPlan, at: EventPosition) -> Address {
        let history = self.payees.get(&plan.plan.id).map(Vec::as_slice).unwrap_or_default();
        let place = (at.block.number, at.log_index);
        let known = history.iter().rev().find(|(since, _)| *since <= place);
        known.map_or(plan.plan.payee, |(_, payee)| *payee)
    }
}

/// A subscription's name: the contract's number and our id.
struct Named(OnchainSubscriptionId, SubscriptionId);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0, self.1)
    }
}

fn interval(interval: Interval) -> String {
    format!("{} {:?}", interval.count, interval.unit).to_lowercase()
}

const fn party(party: Party) -> &'static str {
    match party {
        Party::Payer => "payer",
        Party::Merchant => "merchant",
    }
}

const fn status(status: TransactionStatus) -> &'static str {
    match status {
        TransactionStatus::Pending => "pending",
        TransactionStatus::Completed => "completed",
        TransactionStatus::Failed => "failed",
    }
}

const fn kind(kind: TransactionKind) -> &'static str {
    match kind {
        TransactionKind::Charge => "charge",
        TransactionKind::Usage => "usage",
        TransactionKind::Refund => "refund",
    }
}

impl Audit<'_> {
    pub(super) async fn storage(&mut self, progress: &mut Progress<'_>) -> Result<(), AuditError> {
        let (plans, count) = self.rpc.counts(self.block()).await?;
        let plans = self.plans(plans).await?;
        let mut first = 1;
        while first <= count {
            let last = first.saturating_add(SUBSCRIPTIONS).saturating_sub(1).min(count);
            let page = self.page(first, last).await?;
            let stored = self.rpc.subscriptions(self.block(), first, last).await?;
            self.subscriptions(&plans, &stored, page).await?;
            progress(Stage::Storage, last, count);
            first = last.saturating_add(1);
        }
        for (onchain_id, id) in self.snapshot.subscriptions_beyond(count).await? {
            self.findings.surplus(What::Subscription, Named(onchain_id, id));
        }
        for row in self.snapshot.stray_movements(count).await? {
            self.findings.surplus(What::Transaction, row.id);
        }
        Ok(())
    }

    async fn plans(&mut self, count: OnchainPlanId) -> Result<Plans, AuditError> {
        let mut ours = BTreeMap::new();
        let mut first = 1;
        while first <= count {
            let last = first.saturating_add(PLANS).saturating_sub(1).min(count);
            for plan in self.rpc.plans(self.block(), first, last).await? {
                if plan.plan.merchant == self.scope.mirrored.merchant {
                    ours.insert(plan.plan.id, plan);
                }
            }
            first = last.saturating_add(1);
        }
        let mut rows: BTreeMap<_, _> =
            self.snapshot.plans().await?.into_iter().map(|row| (row.plan.id, row)).collect();
        for (id, plan) in &ours {
            match rows.remove(id) {
                Some(row) => self.compare_plan(&row, plan),
                None => self.findings.missing(What::Plan, id),
            }
            self.findings.checked.plans = self.findings.checked.plans.saturating_add(1);
        }
        for id in rows.keys() {
            self.findings.surplus(What::Plan, id);
        }
        let mut payees: HashMap<_, Vec<_>> = HashMap::new();
        for event in self.snapshot.plan_events().await? {
            let since = (event.at.block.number, event.at.log_index);
            match contract::decode(event.topics, event.data) {
                Ok(ContractEvent::PlanCreated(plan)) => {
                    payees.entry(plan.id).or_default().push((since, plan.payee));
                }
                Ok(ContractEvent::PayeeChanged { plan, payee }) => {
                    payees.entry(plan).or_default().push((since, payee));
                }
                // What is no event is told of where the events are compared.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(Plans { ours, payees })
    }

    fn compare_plan(&mut self, row: &AuditedPlan, stored: &ContractPlan) {
        let (ledger, chain) = (&row.plan, &stored.plan);
        let mut subject = self.findings.of(What::Plan, &chain.id);
        subject.field("merchant", ledger.merchant, chain.merchant);
        subject.field("token", ledger.token, chain.token);
        subject.field("payee", ledger.payee, chain.payee);
        subject.field("price", ledger.price, chain.price);
        subject.field("interval", interval(ledger.interval), interval(chain.interval));
        subject.field("trial", ledger.trial_seconds, chain.trial_seconds);
        subject.field("grace", ledger.grace_seconds, chain.grace_seconds);
        subject.field("usage cap", ledger.usage_cap, chain.usage_cap);
        subject.field("retired", row.retired_block.is_some(), stored.retired);
    }

    async fn page(
        &mut self,
        first: OnchainSubscriptionId,
        last: OnchainSubscriptionId,
    ) -> Result<Page, AuditError> {
        let rows = self.snapshot.subscriptions(first, last).await?;
        let ids: Vec<_> = rows.iter().map(|row| row.row.id).collect();
        let mut histories: HashMap<_, Vec<_>> = HashMap::new();
        for (id, event) in self.snapshot.histories(first, last).await? {
            histories.entry(id).or_default().push(event);
        }
        let mut movements: HashMap<_, Vec<_>> = HashMap::new();
        for row in self.snapshot.movements(&ids).await? {
            movements.entry(row.subscription).or_default().push(row);
        }
        let rows = rows.into_iter().map(|row| (row.row.state.id, row)).collect();
        Ok(Page { rows, histories, movements })
    }

    async fn subscriptions(
        &mut self,
        plans: &Plans,
        stored: &[ContractSubscription],
        mut page: Page,
    ) -> Result<(), AuditError> {
        for chain in stored {
            let row = page.rows.remove(&chain.id);
            match (plans.ours.contains_key(&chain.plan), row) {
                (true, Some(row)) => {
                    let movements = page.movements.remove(&row.row.id).unwrap_or_default();
                    let history = page.histories.remove(&chain.id).unwrap_or_default();
                    self.compare_with_storage(&row, chain, &movements);
                    self.compare_with_fold(plans, &row, chain, history, movements).await?;
                }
                (true, None) => self.findings.missing(What::Subscription, chain.id),
                (false, Some(row)) => {
                    self.findings.surplus(What::Subscription, Named(chain.id, row.row.id));
                    for movement in page.movements.remove(&row.row.id).unwrap_or_default() {
                        self.findings.surplus(What::Transaction, movement.id);
                    }
                }
                (false, None) => continue,
            }
            self.findings.checked.subscriptions = self.findings.checked.subscriptions.saturating_add(1);
        }
        Ok(())
    }

    fn compare_with_storage(
        &mut self,
        row: &AuditedSubscription,
        chain: &ContractSubscription,
        movements: &[AuditedMovement],
    ) {
        let sum = |refunds: bool| {
            let rows = movements.iter().filter(|row| (row.kind == TransactionKind::Refund) == refunds);
            rows.fold(U256::ZERO, |sum, row| sum.saturating_add(U256::from(row.amount.get())))
        };
        let (paid, refunded) = (sum(false), sum(true));
        let name = Named(chain.id, row.row.id);
        let ledger = &row.row.state;
        let mut subject = self.findings.of(What::Subscription, &name);
        subject.field("plan", ledger.plan, chain.plan);
        subject.optional("scheduled plan", ledger.scheduled_plan, chain.scheduled_plan);
        subject.field("payer", ledger.payer, chain.payer);
        subject.field("anchor", ledger.anchor, chain.anchor);
        subject.field("periods", ledger.periods, chain.periods);
        subject.field("paid through", ledger.paid_through, chain.paid_through);
        let by = |by: Option<Party>| by.map(party);
        subject.optional(
            "ends with its paid time, by",
            by(ledger.cancel_scheduled_by),
            by(chain.cancel_scheduled_by),
        );
        subject.field("ended", ledger.ended.is_some(), chain.ended);
        subject.field("paid", paid, chain.paid);
        subject.field("refunded", refunded, chain.refunded);
    }

    async fn compare_with_fold(
        &mut self,
        plans: &Plans,
        row: &AuditedSubscription,
        chain: &ContractSubscription,
        history: Vec<StoredEvent>,
        movements: Vec<AuditedMovement>,
    ) -> Result<(), AuditError> {
        let name = Named(chain.id, row.row.id);
        let first = history.first().map(|event| event.at.tx_hash);
        match self.fold(plans, history) {
            Ok((Some(folded), expected)) => {
                self.compare_state(row, chain, &folded.state, first, folded.origin_plan);
                self.compare_movements(row, expected, movements).await?;
            }
            Ok((None, _)) => {
                let mut subject = self.findings.of(What::Subscription, &name);
                subject.field("events", "none", "it began");
            }
            Err(why) => {
                let mut subject = self.findings.of(What::Subscription, &name);
                subject.field("events", why, "a history of the contract");
            }
        }
        Ok(())
    }

    /// What the storage does not say is compared with the fold of the events; and the fold with the storage.
    fn compare_state(
        &mut self,
        row: &AuditedSubscription,
        chain: &ContractSubscription,
        folded: &ChainSubscription,
        origin_tx: Option<B256>,
        origin_plan: OnchainPlanId,
    ) {
        let name = Named(chain.id, row.row.id);
        let ledger = &row.row.state;
        let mut subject = self.findings.of(What::Subscription, &name);
        subject.field("status", &row.status, folded.recorded_status().as_str());
        subject.field("reference", ledger.reference, folded.reference);
        subject.field("confirmed", ledger.confirmed, folded.confirmed);
        subject.field("plan changes", ledger.plan_changes, folded.plan_changes);
        subject.optional("ended at", ledger.ended.map(|end| end.at), folded.ended.map(|end| end.at));
        subject.optional(
            "ended by",
            ledger.ended.map(|end| party(end.by)),
            folded.ended.map(|end| party(end.by)),
        );
        subject.optional("first transaction", Some(row.origin_tx), origin_tx);
        subject.field("first plan", row.origin_plan, origin_plan);
        let (has, should) = (ledger.evidence, folded.evidence);
        subject.field("evidence's block", has.block.number, should.block.number);
        subject.field("evidence's block hash", has.block.hash, should.block.hash);
        subject.field("evidence's log", has.log_index, should.log_index);
        subject.field("evidence's transaction", has.tx_hash, should.tx_hash);
        subject.field("evidence's time", has.timestamp, should.timestamp);

        subject.field("plan by its events", folded.plan, chain.plan);
        subject.optional("scheduled plan by its events", folded.scheduled_plan, chain.scheduled_plan);
        subject.field("payer by its events", folded.payer, chain.payer);
        subject.field("anchor by its events", folded.anchor, chain.anchor);
        subject.field("periods by its events", folded.periods, chain.periods);
        subject.field("paid through by its events", folded.paid_through, chain.paid_through);
        subject.optional(
            "end with its paid time by its events, by",
            folded.cancel_scheduled_by.map(party),
            chain.cancel_scheduled_by.map(party),
        );
        subject.field("ended by its events", folded.ended.is_some(), chain.ended);
    }

    /// The state and the money that the events amount to, or why they amount to nothing.
    fn fold(
        &self,
        plans: &Plans,
        history: Vec<StoredEvent>,
    ) -> Result<(Option<Folded>, Vec<Expected>), String> {
        let mut expected = Vec::new();
        let mut folded: Option<Folded> = None;
        let mut ordinals: HashMap<(B256, u16), u32> = HashMap::new();
        for StoredEvent { at, topics, data } in history {
            let event = contract::decode(topics, data).map_err(|error| error.to_string())?;
            let ContractEvent::Subscription(event) = event else {
                return Err("an event of a plan".to_owned());
            };
            let origin_plan = folded.as_ref().map_or(event.plan, |before| before.origin_plan);
            let before = folded.take().map(|before| before.state);
            let (state, movement) =
                ChainSubscription::apply(before, &event, at).map_err(|error| error.to_string())?;
            if let Some(movement) = movement {
                let plan = plans.ours.get(&state.plan).ok_or("on a plan of somebody else")?;
                let ordinal = match movement.kind {
                    MovementKind::Charge { period, .. } => {
                        let next = ordinals.entry((at.tx_hash, period)).or_default();
                        let ordinal = *next;
                        *next = next.saturating_add(1);
                        ordinal
                    }
                    MovementKind::Usage { .. } | MovementKind::Refund { .. } => 0,
                };
                expected.push(self.expected(
                    plans,
                    plan,
                    &state,
                    (movement.kind, movement.amount),
                    ordinal,
                    at,
                ));
            }
            folded = Some(Folded { state, origin_plan });
        }
        Ok((folded, expected))
    }

    fn expected(
        &self,
        plans: &Plans,
        plan: &ContractPlan,
        state: &ChainSubscription,
        (kind, amount): (MovementKind, BaseUnits),
        ordinal: u32,
        at: EventPosition,
    ) -> Expected {
        let token = plan.plan.token;
        let asset = self.config.asset(token);
        let payee = plans.payee(plan, at);
        let charged = Expected {
            name: Name::Keyed { kind: TransactionKind::Usage, key: None },
            amount,
            currency: asset.code,
            exponent: asset.exponent,
            plan: plan.plan.id,
            plan_changes: None,
            period: None,
            start: None,
            end: None,
            token,
            payer: state.payer,
            payee,
            at,
        };
        match kind {
            MovementKind::Charge { period, span } => Expected {
                name: Name::Charge { tx_hash: at.tx_hash, period: Some(period), ordinal: Some(ordinal) },
                plan_changes: Some(state.plan_changes),
                period: Some(period),
                start: Some(span.start),
                end: Some(span.end),
                ..charged
            },
            MovementKind::Usage { key, period } => {
                let span = plan.plan.interval.period(state.anchor, period.into());
                Expected {
                    name: Name::Keyed { kind: TransactionKind::Usage, key: Some(key) },
                    period: Some(period),
                    start: Some(span.start),
                    end: Some(span.end),
                    ..charged
                }
            }
            MovementKind::Refund { key, from } => Expected {
                name: Name::Keyed { kind: TransactionKind::Refund, key: Some(key) },
                payer: from,
                payee: state.payer,
                ..charged
            },
        }
    }

    async fn compare_movements(
        &mut self,
        row: &AuditedSubscription,
        expected: Vec<Expected>,
        movements: Vec<AuditedMovement>,
    ) -> Result<(), AuditError> {
        let mut rows: BTreeMap<_, _> = movements.into_iter().map(|row| (row.id.as_uuid(), row)).collect();
        for expected in expected {
            self.findings.checked.transactions = self.findings.checked.transactions.saturating_add(1);
            let found = rows.values().find(|row| Name::of(row) == expected.name).map(|row| row.id.as_uuid());
            let found = match found {
                Some(id) => rows.remove(&id),
                None => {
                    let failed = self.snapshot.failed_movements(expected.at.tx_hash, row.row.id).await?;
                    failed.into_iter().find(|row| Name::of(row) == expected.name)
                }
            };
            match found {
                Some(found) => self.compare_movement(row, &found, &expected),
                None => {
                    let Expected { amount, at, .. } = expected;
                    let subscription = Named(row.row.state.id, row.row.id);
                    let id = format!("of {amount} for subscription {subscription} in {}", at.tx_hash);
                    self.findings.missing(What::Transaction, id);
                }
            }
        }
        for surplus in rows.into_values() {
            self.findings.checked.transactions = self.findings.checked.transactions.saturating_add(1);
            self.findings.surplus(What::Transaction, surplus.id);
        }
        Ok(())
    }

    fn compare_movement(
        &mut self,
        subscription: &AuditedSubscription,
        row: &AuditedMovement,
        expected: &Expected,
    ) {
        let is_final = expected.at.block.number <= self.scope.checkpoint.final_number;
        let standing = if is_final { TransactionStatus::Completed } else { TransactionStatus::Pending };
        let mut subject = self.findings.of(What::Transaction, &row.id);
        if let Name::Keyed { kind: should, .. } = expected.name {
            subject.field("kind", kind(row.kind), kind(should));
        }
        subject.field("status", status(row.status), status(standing));
        subject.field("amount", row.amount, expected.amount);
        subject.field("currency", &row.currency, &expected.currency);
        subject.field("exponent", row.exponent, expected.exponent);
        subject.field("plan", row.plan, expected.plan);
        subject.optional("plan changes", row.plan_changes, expected.plan_changes);
        subject.optional("period", row.period, expected.period);
        subject.optional("start", row.period_start, expected.start);
        subject.optional("end", row.period_end, expected.end);
        subject.field("token", row.token, expected.token);
        subject.field("payer", row.payer, expected.payer);
        subject.field("payee", row.payee, expected.payee);
        subject.field("transaction", row.at.tx_hash, expected.at.tx_hash);
        subject.field("block", row.at.block.number, expected.at.block.number);
        subject.field("block hash", row.at.block.hash, expected.at.block.hash);
        subject.field("log", row.at.log_index, expected.at.log_index);
        subject.field("time", row.at.timestamp, expected.at.timestamp);
        subject.field("account", row.account, subscription.row.account);
    }
}

/// What events amount to.
struct Folded {
    state: ChainSubscription,
    origin_plan: OnchainPlanId,
}
