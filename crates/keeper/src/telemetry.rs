//! Figures of a keeper, for whoever watches over it.
//!
//! Every name begins with `dues_keeper_`, or `dues_relay_` for what payers signed; labels are `chain` (its id), `contract`, and for refusals `reason`.

use alloy::primitives::U256;
use dues_domain::{
    chain::{ChainSource, ChargeFailure},
    relay::RelayRefusal,
};
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

const CHARGES: &str = "dues_keeper_charges_total";
const REFUSALS: &str = "dues_keeper_refusals_total";
const GAS: &str = "dues_keeper_gas_used_total";
const SPENT: &str = "dues_keeper_spent_gwei_total";
const SENT: &str = "dues_keeper_transactions_sent_total";
const RESENT: &str = "dues_keeper_transactions_resent_total";
const REPLACED: &str = "dues_keeper_transactions_replaced_total";
const REVERTED: &str = "dues_keeper_transactions_reverted_total";
const INTERRUPTIONS: &str = "dues_keeper_interruptions_total";
const IN_FLIGHT: &str = "dues_keeper_transactions_in_flight";
const BACKLOG: &str = "dues_keeper_backlog";
const OLDEST: &str = "dues_keeper_oldest_due_seconds";
const BALANCE: &str = "dues_keeper_signer_balance_gwei";
const AFFORDABLE: &str = "dues_keeper_charges_affordable";
const LOW: &str = "dues_keeper_signer_low";
const FEE_HIGH: &str = "dues_keeper_fee_above_cap";
const LEADING: &str = "dues_keeper_leading";
const RELAY_QUEUED: &str = "dues_relay_queued";
const RELAY_SENT: &str = "dues_relay_sent_total";
const RELAY_MINED: &str = "dues_relay_mined_total";
const RELAY_REFUSED: &str = "dues_relay_refused_total";
const RELAY_REVERTED: &str = "dues_relay_reverted_total";
const RELAY_EXPIRED: &str = "dues_relay_expired_total";
const RELAY_GAS: &str = "dues_relay_gas_used_total";

/// Says what each figure means, for a recorder that is installed already.
pub fn describe_metrics() {
    describe_counter!(CHARGES, "Charges made by transactions of this keeper");
    describe_counter!(REFUSALS, "Charges refused, before they were sent or on chain, by reason");
    describe_counter!(GAS, "Gas used by transactions of this keeper; divided by the charges, what one takes");
    describe_counter!(SPENT, "What that gas cost, in gwei");
    describe_counter!(SENT, "Transactions sent for the first time");
    describe_counter!(RESENT, "Times that a node had lost a transaction and was sent the same again");
    describe_counter!(REPLACED, "Stuck transactions replaced by one with higher fees");
    describe_counter!(REVERTED, "Transactions that were in a block and reverted");
    describe_counter!(INTERRUPTIONS, "Times that the keeper failed and began again");
    describe_gauge!(IN_FLIGHT, "Transactions that wait for a block");
    describe_gauge!(
        BACKLOG,
        "Charges that could be made and were not, when last looked: by cap, limits or purse"
    );
    describe_gauge!(OLDEST, "For how long the first of them has been due, by the chain's clock");
    describe_gauge!(BALANCE, "What the signer has for gas, in gwei");
    describe_gauge!(AFFORDABLE, "For how many charges that lasts at the present price of gas");
    describe_gauge!(LOW, "1 where that is less than configured");
    describe_gauge!(FEE_HIGH, "1 where charging waits because gas costs more than the cap");
    describe_gauge!(RELAY_QUEUED, "Intents that wait to be sent");
    describe_counter!(RELAY_SENT, "Intents sent");
    describe_counter!(RELAY_MINED, "Intents carried out in a block");
    describe_counter!(RELAY_REFUSED, "Intents refused, before they were sent or on chain, by reason");
    describe_counter!(
        RELAY_REVERTED,
        "Intents of those that were sent and reverted in their block: gas for nothing"
    );
    describe_counter!(RELAY_EXPIRED, "Intents that nobody sent in time");
    describe_counter!(RELAY_GAS, "Gas used by intents; counted among the keeper's spending, too");
    describe_gauge!(LEADING, "1 where this process charges, 0 where it stands by or is interrupted");
}

/// The figures of one contract.
pub(crate) struct Telemetry {
    labels: [(&'static str, String); 2],
    pub(crate) charges: Counter,
    gas: Counter,
    spent: Counter,
    pub(crate) sent: Counter,
    pub(crate) resent: Counter,
    pub(crate) replaced: Counter,
    pub(crate) reverted: Counter,
    interruptions: Counter,
    in_flight: Gauge,
    backlog: Gauge,
    oldest: Gauge,
    balance: Gauge,
    affordable: Gauge,
    low: Gauge,
    fee_high: Gauge,
    leading: Gauge,
    relay_queued: Gauge,
    pub(crate) relay_sent: Counter,
    pub(crate) relay_mined: Counter,
    pub(crate) relay_reverted: Counter,
    pub(crate) relay_expired: Counter,
    pub(crate) relay_gas: Counter,
}

impl Telemetry {
    pub(crate) fn new(source: ChainSource) -> Self {
        let labels = [("chain", source.chain_id.to_string()), ("contract", source.contract.to_string())];
        Self {
            charges: counter!(CHARGES, &labels),
            gas: counter!(GAS, &labels),
            spent: counter!(SPENT, &labels),
            sent: counter!(SENT, &labels),
            resent: counter!(RESENT, &labels),
            replaced: counter!(REPLACED, &labels),
            reverted: counter!(REVERTED, &labels),
            interruptions: counter!(INTERRUPTIONS, &labels),
            in_flight: gauge!(IN_FLIGHT, &labels),
            backlog: gauge!(BACKLOG, &labels),
            oldest: gauge!(OLDEST, &labels),
            balance: gauge!(BALANCE, &labels),
            affordable: gauge!(AFFORDABLE, &labels),
            low: gauge!(LOW, &labels),
            fee_high: gauge!(FEE_HIGH, &labels),
            leading: gauge!(LEADING, &labels),
            relay_queued: gauge!(RELAY_QUEUED, &labels),
            relay_sent: counter!(RELAY_SENT, &labels),
            relay_mined: counter!(RELAY_MINED, &labels),
            relay_reverted: counter!(RELAY_REVERTED, &labels),
            relay_expired: counter!(RELAY_EXPIRED, &labels),
            relay_gas: counter!(RELAY_GAS, &labels),
            labels,
        }
    }

    pub(crate) fn refused(&self, reason: ChargeFailure) {
        let [chain, contract] = self.labels.clone();
        counter!(REFUSALS, &[chain, contract, ("reason", reason.as_str().to_owned())]).increment(1);
    }

    pub(crate) fn relay_refused(&self, refusal: RelayRefusal) {
        let [chain, contract] = self.labels.clone();
        counter!(RELAY_REFUSED, &[chain, contract, ("reason", refusal.as_str().to_owned())]).increment(1);
    }

    pub(crate) fn relay_queued(&self, intents: u64) {
        set(&self.relay_queued, intents);
    }

    /// What a transaction in a block took.
    pub(crate) fn spent(&self, gas_used: u64, gas_price: u128) {
        self.gas.increment(gas_used);
        let wei = gas_price.saturating_mul(gas_used.into());
        self.spent.increment(u64::try_from(wei / WEI_PER_GWEI).unwrap_or(u64::MAX));
    }

    pub(crate) fn in_flight(&self, transactions: usize) {
        set(&self.in_flight, u64::try_from(transactions).unwrap_or(u64::MAX));
    }

    /// What could be charged and is not yet, and for how long the first of it has been due.
    pub(crate) fn backlog(&self, charges: usize, oldest_seconds: u64) {
        set(&self.backlog, u64::try_from(charges).unwrap_or(u64::MAX));
        set(&self.oldest, oldest_seconds);
    }

    pub(crate) fn purse(&self, balance: U256, affordable: u64, low: bool) {
        let gwei = balance.wrapping_div(U256::from(WEI_PER_GWEI));
        set(&self.balance, u64::try_from(gwei).unwrap_or(u64::MAX));
        set(&self.affordable, affordable);
        set(&self.low, low.into());
    }

    pub(crate) fn fee_above_cap(&self, above: bool) {
        set(&self.fee_high, above.into());
    }

    pub(crate) fn leads(&self, leads: bool) {
        set(&self.leading, leads.into());
    }

    pub(crate) fn interrupted(&self) {
        self.interruptions.increment(1);
        self.leads(false);
    }
}

pub(crate) const WEI_PER_GWEI: u128 = 1_000_000_000;

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus has nothing but floats; these are figures to look at"
)]
fn set(gauge: &Gauge, value: u64) {
    gauge.set(value as f64);
}
