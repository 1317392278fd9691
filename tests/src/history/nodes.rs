//! The nodes of a history: fault proxies between the indexer and the chain's own node.

use std::{collections::BTreeMap, time::Duration};

use rand::{
    RngExt as _,
    rngs::StdRng,
    seq::{IndexedRandom as _, IteratorRandom as _},
};
use tokio::time::{Instant, sleep};
use url::Url;

use crate::{Fault, FaultProxy, Faults};

/// How long is waited for an indexer that asks nothing.
const PATIENCE: Duration = Duration::from_millis(150);
const POLL: Duration = Duration::from_millis(2);

/// What looks like an answer and is none. Everything else ends in a repetition of the question; one of these is always
/// there.
const LIES: [Fault; 8] = [
    Fault::MissingLogs,
    Fault::SomeLogs,
    Fault::InventedLog,
    Fault::WrongForkLogs,
    Fault::StaleHead,
    Fault::WrongFork,
    Fault::NullBlock,
    Fault::Cached,
];

/// One endpoint, or two. Nothing is wrong with them until something is drawn.
#[derive(Debug)]
pub(super) struct Nodes {
    proxies: Vec<FaultProxy>,
    /// Whether the last one never errs: then the others may do so every time.
    refuge: bool,
}

impl Nodes {
    pub(super) async fn start(rng: &mut StdRng, upstream: &Url) -> Self {
        let (count, refuge) = *[(1, false), (1, false), (2, false), (2, true)].choose(rng).unwrap();
        let mut proxies = Vec::new();
        for _ in 0..count {
            proxies.push(FaultProxy::start(upstream.clone(), rng.random()).await);
        }
        Self { proxies, refuge }
    }

    pub(super) fn urls(&self) -> Vec<Url> {
        self.proxies.iter().map(FaultProxy::url).collect()
    }

    /// What went wrong so far, and how often.
    pub(super) fn injected(&self) -> BTreeMap<Fault, u64> {
        let mut all = BTreeMap::new();
        for (fault, times) in self.proxies.iter().flat_map(|proxy| proxy.counters().injected) {
            *all.entry(fault).or_default() += times;
        }
        all
    }

    fn requests(&self) -> u64 {
        self.proxies.iter().map(|proxy| proxy.counters().requests).sum()
    }

    /// Lets the indexer go on until it has asked so many times more. Whoever rests, or is just being started, asks less.
    pub(super) async fn are_asked(&self, times: u64) {
        let (goal, end) = (self.requests() + times, Instant::now() + PATIENCE);
        while self.requests() < goal && Instant::now() < end {
            sleep(POLL).await;
        }
    }

    /// From now on all of them are right.
    pub(super) fn mend(&self) {
        for proxy in &self.proxies {
            proxy.set(Faults::none());
            proxy.kill(false);
        }
    }

    /// Something else goes wrong from now on at one of them, or nothing any more. Gives what, in words.
    pub(super) fn err(&self, rng: &mut StdRng, head: u64) -> String {
        let may_err = self.proxies.len() - usize::from(self.refuge);
        let place = rng.random_range(0..may_err);
        let proxy = &self.proxies[place];
        proxy.kill(false);
        if rng.random_bool(0.1) {
            proxy.set(Faults::none());
            return format!("endpoint {place} is well");
        }
        if rng.random_bool(0.1) {
            proxy.kill(true);
            return format!("endpoint {place} is dead");
        }
        let mut faults = Faults::none();
        let besides = rng.random_range(0..=2);
        let besides = Fault::ALL.into_iter().sample(rng, besides);
        for fault in LIES.choose(rng).copied().into_iter().chain(besides) {
            faults = faults.with(fault, self.chance(rng, fault));
        }
        if rng.random_bool(0.15) {
            faults.range_limit = Some(rng.random_range(1..4));
        }
        if rng.random_bool(0.1) {
            faults.frozen_at = Some(head);
        }
        // Where all were of another chain, the indexer would rightly end.
        if (place > 0 || self.refuge) && rng.random_bool(0.05) {
            faults.chain_id = Some(1);
        }
        proxy.set(faults.clone());
        format!("endpoint {place}: {faults:?}")
    }

    /// How often something goes wrong. Where there is nobody else to ask, it must go right now and then.
    fn chance(&self, rng: &mut StdRng, fault: Fault) -> f64 {
        let chances: &[f64] = match fault {
            // Each costs a second, in which nothing else happens.
            Fault::RateLimit => &[0.02],
            Fault::Delay => &[0.1],
            // These can only happen where a range has logs, which few have.
            Fault::MissingLogs | Fault::SomeLogs | Fault::InventedLog | Fault::WrongForkLogs
                if !self.refuge =>
            {
                &[0.3, 0.6]
            }
            _ if self.refuge => &[0.1, 0.4, 1.0],
            _ => &[0.05, 0.15, 0.3],
        };
        *chances.choose(rng).unwrap()
    }
}
