//! Figures of the nodes, for whoever watches over them.
//!
//! Every name begins with `dues_rpc_`; labels are `chain` (its id) and `endpoint` (its host: URLs hold keys).

use std::sync::Arc;

use metrics::{Gauge, Label, SharedString, counter, describe_counter, describe_gauge, gauge};

use super::failure::Failure;

const REQUESTS: &str = "dues_rpc_requests_total";
const FAILURES: &str = "dues_rpc_failures_total";
const RESTING: &str = "dues_rpc_resting";

/// Says what each figure means, for a recorder that is installed already.
pub fn describe_metrics() {
    describe_counter!(REQUESTS, "JSON-RPC requests sent, by method; a batch has several");
    describe_counter!(FAILURES, "Answers that were none, or could not be believed, by kind");
    describe_gauge!(RESTING, "1 where the endpoint is not asked for a while after failures, 0 otherwise");
}

/// The figures of one endpoint.
pub(super) struct Telemetry {
    chain: SharedString,
    endpoint: SharedString,
    resting: Gauge,
}

impl Telemetry {
    pub(super) fn new(chain_id: u64, endpoint: &str) -> Self {
        let chain = SharedString::from_shared(Arc::<str>::from(chain_id.to_string()));
        let endpoint = SharedString::from_shared(Arc::<str>::from(endpoint));
        let resting = gauge!(RESTING, of(&chain, &endpoint));
        Self { chain, endpoint, resting }
    }

    pub(super) fn asked(&self, method: &'static str, requests: usize) {
        let mut labels = of(&self.chain, &self.endpoint);
        labels.push(Label::new("method", method));
        counter!(REQUESTS, labels).increment(u64::try_from(requests).unwrap_or(u64::MAX));
    }

    pub(super) fn failed(&self, failure: &Failure) {
        self.count(failure.kind());
    }

    /// Its head was behind others' heads, or did not move.
    pub(super) fn lagged(&self) {
        self.count("lagging");
    }

    /// What it said cannot be, going by the ledger.
    pub(super) fn distrusted(&self) {
        self.count("impossible");
    }

    pub(super) fn rests(&self, rests: bool) {
        self.resting.set(f64::from(u8::from(rests)));
    }

    fn count(&self, kind: &'static str) {
        let mut labels = of(&self.chain, &self.endpoint);
        labels.push(Label::new("kind", kind));
        counter!(FAILURES, labels).increment(1);
    }
}

fn of(chain: &SharedString, endpoint: &SharedString) -> Vec<Label> {
    vec![Label::new("chain", chain.clone()), Label::new("endpoint", endpoint.clone())]
}
