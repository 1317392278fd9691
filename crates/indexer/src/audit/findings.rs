//! What an audit found.

use std::fmt;

use serde::Serialize;

/// The most differences that are kept. Whoever has more has one cause for all of them.
const MOST: usize = 10_000;

/// What a difference is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A mirrored plan.
    Plan,
    /// A mirrored subscription.
    Subscription,
    /// A stored event.
    Event,
    /// A row of money.
    Transaction,
    /// Tokens that moved.
    Transfer,
}

/// One thing that the ledger and the chain do not agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What it is about.
    pub what: What,
    /// Which one.
    pub id: String,
    /// What of it.
    pub field: &'static str,
    /// What the ledger says.
    pub ledger: String,
    /// What the chain says.
    pub chain: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, id, field, ledger, chain } = self;
        write!(f, "{what} {id}: {field}: the ledger says {ledger}, the chain says {chain}")
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plan => "plan",
            Self::Subscription => "subscription",
            Self::Event => "event",
            Self::Transaction => "transaction",
            Self::Transfer => "transfer",
        })
    }
}

/// How many of what were compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Plans, with the contract's storage.
    pub plans: u64,
    /// Subscriptions, with the contract's storage and with the fold of their events.
    pub subscriptions: u64,
    /// Events, with the contract's logs.
    pub events: u64,
    /// Blocks whose logs were read.
    pub blocks: u64,
    /// Rows of money, with the events that they follow from.
    pub transactions: u64,
    /// Transactions of the chain, with the tokens' own logs.
    pub transfers: u64,
}

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) differences: Vec<Difference>,
    pub(crate) omitted: u64,
    pub(crate) checked: Checked,
}

impl Findings {
    fn add(&mut self, what: What, id: String, field: &'static str, ledger: String, chain: String) {
        if self.differences.len() < MOST {
            self.differences.push(Difference { what, id, field, ledger, chain });
        } else {
            self.omitted = self.omitted.saturating_add(1);
        }
    }

    /// The chain has it, the ledger does not.
    pub(crate) fn missing(&mut self, what: What, id: impl fmt::Display) {
        self.add(what, id.to_string(), "existence", "missing".into(), "there".into());
    }

    /// The ledger has it, the chain does not.
    pub(crate) fn surplus(&mut self, what: What, id: impl fmt::Display) {
        self.add(what, id.to_string(), "existence", "there".into(), "missing".into());
    }

    /// What is compared field by field.
    pub(crate) fn of<'a>(&'a mut self, what: What, id: &'a dyn fmt::Display) -> Subject<'a> {
        Subject { findings: self, what, id }
    }
}

/// Something that is compared field by field.
pub(crate) struct Subject<'a> {
    findings: &'a mut Findings,
    what: What,
    id: &'a dyn fmt::Display,
}

impl Subject<'_> {
    /// Compares a field, by how it is written.
    pub(crate) fn field(&mut self, field: &'static str, ledger: impl fmt::Display, chain: impl fmt::Display) {
        let (ledger, chain) = (ledger.to_string(), chain.to_string());
        if ledger != chain {
            self.findings.add(self.what, self.id.to_string(), field, ledger, chain);
        }
    }

    /// Compares a field that can be without a value.
    pub(crate) fn optional<T: fmt::Display>(
        &mut self,
        field: &'static str,
        ledger: Option<T>,
        chain: Option<T>,
    ) {
        self.field(field, or_none(ledger), or_none(chain));
    }
}

fn or_none(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}
