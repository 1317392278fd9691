//! The nodes of a history: fault proxies between the indexer and the chain's own node.

use rand::{
    RngExt as _,
    rngs::StdRng,
    seq::{IndexedRandom as _, IteratorRandom as _},
};
use url::Url;

use crate::{Fault, FaultProxy, Faults};

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
        if rng.random_bool(0.2) {
            proxy.set(Faults::none());
            return format!("endpoint {place} is well");
        }
        if rng.random_bool(0.1) {
            proxy.kill(true);
            return format!("endpoint {place} is dead");
        }
        let mut faults = Faults::none();
        let count = rng.random_range(1..=3);
        for fault in Fault::ALL.into_iter().sample(rng, count) {
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
            _ if self.refuge => &[0.1, 0.4, 1.0],
            _ => &[0.05, 0.15, 0.3],
        };
        *chances.choose(rng).unwrap()
    }
}
