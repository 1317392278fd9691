//! Figures of an indexer, for whoever watches over it.
//!
//! Every name begins with `dues_indexer_`; labels are `chain` (its id) and `contract`.

use dues_domain::chain::ChainSource;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

const HEAD: &str = "dues_indexer_head_block";
const CHECKPOINT: &str = "dues_indexer_checkpoint_block";
const FINAL: &str = "dues_indexer_final_block";
const LAG: &str = "dues_indexer_lag_blocks";
const LEADING: &str = "dues_indexer_leading";
const BLOCKS: &str = "dues_indexer_blocks_total";
const EVENTS: &str = "dues_indexer_events_total";
const REORGANISATIONS: &str = "dues_indexer_reorganisations_total";
const REORGANISED_BLOCKS: &str = "dues_indexer_reorganised_blocks_total";
const DEEPEST: &str = "dues_indexer_last_reorganisation_blocks";
const INTERRUPTIONS: &str = "dues_indexer_interruptions_total";

/// Says what each figure means, for a recorder that is installed already.
pub fn describe_metrics() {
    describe_gauge!(HEAD, "The node's head when it was last looked at");
    describe_gauge!(CHECKPOINT, "The last block that is in the ledger");
    describe_gauge!(FINAL, "The highest block that cannot change any more");
    describe_gauge!(LAG, "Blocks between the head and the ledger");
    describe_gauge!(LEADING, "1 where this process writes, 0 where it stands by or is interrupted");
    describe_counter!(BLOCKS, "Blocks read into the ledger");
    describe_counter!(EVENTS, "Logs of the contract read, ours and others'");
    describe_counter!(REORGANISATIONS, "Reorganisations followed");
    describe_counter!(REORGANISED_BLOCKS, "Blocks that reorganisations took back");
    describe_gauge!(DEEPEST, "How many blocks the last reorganisation took back");
    describe_counter!(INTERRUPTIONS, "Times that indexing failed and was begun again");
}

/// The figures of one contract.
pub(crate) struct Telemetry {
    head: Gauge,
    checkpoint: Gauge,
    final_block: Gauge,
    lag: Gauge,
    leading: Gauge,
    blocks: Counter,
    events: Counter,
    reorganisations: Counter,
    reorganised_blocks: Counter,
    deepest: Gauge,
    interruptions: Counter,
}

impl Telemetry {
    pub(crate) fn new(source: ChainSource) -> Self {
        let labels = [("chain", source.chain_id.to_string()), ("contract", source.contract.to_string())];
        Self {
            head: gauge!(HEAD, &labels),
            checkpoint: gauge!(CHECKPOINT, &labels),
            final_block: gauge!(FINAL, &labels),
            lag: gauge!(LAG, &labels),
            leading: gauge!(LEADING, &labels),
            blocks: counter!(BLOCKS, &labels),
            events: counter!(EVENTS, &labels),
            reorganisations: counter!(REORGANISATIONS, &labels),
            reorganised_blocks: counter!(REORGANISED_BLOCKS, &labels),
            deepest: gauge!(DEEPEST, &labels),
            interruptions: counter!(INTERRUPTIONS, &labels),
        }
    }

    /// Where the ledger stands, and where the chain.
    pub(crate) fn stands(&self, checkpoint: u64, final_number: u64, head: u64) {
        set(&self.head, head);
        set(&self.checkpoint, checkpoint);
        set(&self.final_block, final_number);
        set(&self.lag, head.saturating_sub(checkpoint));
    }

    pub(crate) fn leads(&self, leads: bool) {
        set(&self.leading, leads.into());
    }

    /// What a committed step has read.
    pub(crate) fn read(&self, blocks: u64, events: u64) {
        self.blocks.increment(blocks);
        self.events.increment(events);
    }

    pub(crate) fn reorganised(&self, depth: u64) {
        self.reorganisations.increment(1);
        self.reorganised_blocks.increment(depth);
        set(&self.deepest, depth);
    }

    pub(crate) fn interrupted(&self) {
        self.interruptions.increment(1);
        self.leads(false);
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus has nothing but floats; heights are far below 2^53"
)]
fn set(gauge: &Gauge, value: u64) {
    gauge.set(value as f64);
}
