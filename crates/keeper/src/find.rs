//! What to charge now: what the ledger says is due, less what the contract says would fail.
//!
//! First `previewCharge` sorts out those without money or consent, fifty in a call. A preview sees no blocklist and no
//! pause, so each batch is then carried out by `eth_call`; where it would not charge all of its items, each is tried
//! alone. What is left goes through, unless something happens before its block.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use alloy::primitives::Address;
use dues_chain::source::{RpcSource, Simulated};
use dues_domain::chain::{BlockHeader, ChargeFailure, OnchainSubscriptionId};
use dues_store::{
    Store,
    keeper::{Charge, DueQuery},
};
use tokio::time::Instant;

use crate::{
    KeeperConfig, KeeperError,
    batch::{Batch, gas_limit},
};

/// The most charges that are read from the ledger at once.
const PAGE: usize = 500;

/// What to charge, and what not to.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// What would go through, in batches.
    pub batches: Vec<Batch>,
    /// What would not, and why.
    pub refused: Vec<(Charge, ChargeFailure)>,
    /// How many are not due any more, though the ledger does not know it yet.
    pub passed_over: usize,
    /// Whether there may be more.
    pub more: bool,
    /// How long the ledger took to say what is due.
    pub asked_for: Duration,
}

impl Found {
    /// How many charges would go through.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.batches.iter().map(|batch| batch.charges.len()).sum()
    }
}

/// Looks for up to `most` charges that go through at `head`. `doubted` are those whose tokens are given gas as if nobody
/// knew them; `signer` is whose transactions under way are not to be sent again.
///
/// # Errors
/// [`KeeperError::Store`], [`KeeperError::Source`].
pub(crate) async fn find(
    store: &Store,
    rpc: &RpcSource,
    config: &KeeperConfig,
    head: &BlockHeader,
    signer: Option<Address>,
    most: usize,
    doubted: &HashSet<OnchainSubscriptionId>,
) -> Result<Found, KeeperError> {
    let mut found = Found::default();
    let mut after = None;
    while found.ready() < most {
        let limit = most.saturating_sub(found.ready()).min(PAGE);
        let query = DueQuery {
            source: config.source,
            merchant: config.merchant,
            signer,
            now: head.timestamp,
            after,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let asked = Instant::now();
        let page = store.due_charges(query).await?;
        found.asked_for = found.asked_for.saturating_add(asked.elapsed());
        found.more = page.len() >= limit;
        after = page.last().map(|last| (last.grace.from, last.subscription));
        let promising = previewed(rpc, head, page, &mut found).await?;
        for batch in config.limits.batches.split(promising, config.token, doubted) {
            if let Some(batch) = simulated(rpc, head, batch, &mut found).await? {
                found.batches.push(batch);
            }
        }
        if !found.more {
            break;
        }
    }
    Ok(found)
}

/// Those in whose way nothing can be seen.
async fn previewed(
    rpc: &RpcSource,
    head: &BlockHeader,
    page: Vec<Charge>,
    found: &mut Found,
) -> Result<Vec<Charge>, KeeperError> {
    let ids: Vec<_> = page.iter().map(|charge| charge.onchain_id).collect();
    let previews = rpc.preview_charges(head.block, &ids).await?;
    let mut promising = Vec::new();
    for (charge, preview) in page.into_iter().zip(previews) {
        match preview {
            // A token that answers no questions may still pay.
            None | Some(ChargeFailure::Token) => promising.push(charge),
            Some(reason @ (ChargeFailure::Allowance | ChargeFailure::Balance)) => {
                found.refused.push((charge, reason));
            }
            // The chain is ahead of the ledger: somebody has charged, or the payer has cancelled.
            Some(
                ChargeFailure::UnknownSubscription
                | ChargeFailure::NotDue
                | ChargeFailure::Cancelled
                | ChargeFailure::Lapsed,
            ) => found.passed_over = found.passed_over.saturating_add(1),
        }
    }
    Ok(promising)
}

/// The batch without what would fail; `None` where nothing is left of it.
async fn simulated(
    rpc: &RpcSource,
    head: &BlockHeader,
    mut batch: Batch,
    found: &mut Found,
) -> Result<Option<Batch>, KeeperError> {
    let mut tried_alone = false;
    while !batch.charges.is_empty() {
        let ids = batch.ids();
        let simulated = rpc.simulate_batch(head.block, &ids, batch.gas_limit()).await?;
        if simulated == Simulated::Charged(ids.len()) {
            return Ok(Some(batch));
        }
        if !tried_alone {
            tried_alone = true;
            let gas = gas_limit(batch.known, 1);
            let reasons: HashMap<_, _> = rpc.refusals(head.block, &ids, gas).await?.into_iter().collect();
            let mut left = Vec::with_capacity(batch.charges.len());
            for charge in batch.charges {
                match reasons.get(&charge.onchain_id) {
                    None => left.push(charge),
                    Some(
                        reason @ (ChargeFailure::Allowance | ChargeFailure::Balance | ChargeFailure::Token),
                    ) => found.refused.push((charge, *reason)),
                    Some(_) => found.passed_over = found.passed_over.saturating_add(1),
                }
            }
            batch.charges = left;
            continue;
        }
        // Each goes through alone, and they do not go through together: two of one payer, who has enough for one of
        // them. The rest is left for the next round, which sees what is left after these.
        let half = batch.charges.len() / 2;
        found.more |= half > 0;
        batch.charges.truncate(half);
    }
    Ok(None)
}
