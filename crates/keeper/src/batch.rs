//! Which charges go together, and with how much gas.
//!
//! A batch of 50 costs 24,300 gas an item and one of 100 hardly less, so that larger ones only put more at stake. What is
//! sent along is far more, and is not spent: the contract believes a token's refusal only where the token had all the gas
//! that it is entitled to, up to the very last item, and reverts the whole batch otherwise.

use std::collections::HashSet;

use alloy::primitives::Address;
use dues_domain::chain::OnchainSubscriptionId;
use dues_store::keeper::Charge;

/// The whole transaction's own.
const BASE: u64 = 60_000;
/// An item in a token that is known to behave: four times what it takes, for a scheduled change of plan, a token behind a
/// proxy, an account that has no tokens yet.
const KNOWN_ITEM: u64 = 90_000;
/// What must be left for the last item where a known token refuses it.
const KNOWN_RESERVE: u64 = 800_000;
/// An item in a token that may burn whatever it is given (see `chargeBatch` in the contract's interface).
const UNKNOWN_ITEM: u64 = 1_100_000;

/// How large batches are, and how many go at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Charges in one transaction, at most.
    pub items: usize,
    /// Gas of one transaction, at most. Chains have a limit of their own: 16,777,216 on Ethereum (EIP-7825).
    pub gas_per_transaction: u64,
    /// Gas of all transactions that wait for a block, at most: what one block may be asked to hold.
    pub gas_per_block: u64,
    /// Transactions that wait for a block, at most.
    pub in_flight: usize,
}

/// Charges that are sent together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The charges, the longest due first.
    pub charges: Vec<Charge>,
    /// Whether their tokens are known to behave.
    pub known: bool,
}

impl Batch {
    /// The most gas that it is given.
    #[must_use]
    pub fn gas_limit(&self) -> u64 {
        gas_limit(self.known, self.charges.len())
    }

    /// Keeps as many of its charges as `gas` suffices for, the longest due; says whether any are left.
    pub(crate) fn shrink_to(&mut self, gas: u64) -> bool {
        let fits = |items: &usize| gas_limit(self.known, *items) <= gas;
        let items = (1..=self.charges.len()).rev().find(fits).unwrap_or_default();
        self.charges.truncate(items);
        items > 0
    }

    /// The contract's numbers of what it charges.
    #[must_use]
    pub fn ids(&self) -> Vec<OnchainSubscriptionId> {
        self.charges.iter().map(|charge| charge.onchain_id).collect()
    }
}

/// The most gas that a batch of so many items is given.
pub(crate) fn gas_limit(known: bool, items: usize) -> u64 {
    let items = u64::try_from(items).unwrap_or(u64::MAX);
    if known {
        BASE.saturating_add(KNOWN_RESERVE).saturating_add(items.saturating_mul(KNOWN_ITEM))
    } else {
        BASE.saturating_add(items.saturating_mul(UNKNOWN_ITEM))
    }
}

impl BatchLimits {
    /// How many items one batch may have, at least one.
    pub(crate) fn items(&self, known: bool) -> usize {
        let fits = |items: usize| gas_limit(known, items) <= self.gas_per_transaction;
        (1..=self.items.max(1)).rev().find(|items| fits(*items)).unwrap_or(1)
    }

    /// The charges in batches. Those whose tokens are not known to behave are kept apart, so that they cannot even make
    /// the others wait.
    pub(crate) fn split(
        &self,
        charges: Vec<Charge>,
        known_token: Address,
        doubted: &HashSet<OnchainSubscriptionId>,
    ) -> Vec<Batch> {
        let is_known = |charge: &Charge| charge.token == known_token && !doubted.contains(&charge.onchain_id);
        let (known, unknown): (Vec<_>, Vec<_>) = charges.into_iter().partition(is_known);
        let batches = |charges: Vec<Charge>, known: bool| {
            let size = self.items(known);
            let chunks: Vec<_> =
                charges.chunks(size).map(|chunk| Batch { charges: chunk.to_vec(), known }).collect();
            chunks
        };
        let mut all = batches(known, true);
        all.extend(batches(unknown, false));
        all
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use dues_domain::{dunning::GraceWindow, ids::SubscriptionId};

    use super::*;

    const LIMITS: BatchLimits =
        BatchLimits { items: 50, gas_per_transaction: 15_000_000, gas_per_block: 20_000_000, in_flight: 8 };

    fn charge(onchain_id: u64, token: u8) -> Charge {
        let at = DateTime::from_timestamp(0, 0).unwrap();
        Charge {
            subscription: SubscriptionId::generate(),
            onchain_id,
            token: Address::repeat_byte(token),
            grace: GraceWindow { from: at, until: at },
            attempts: 0,
        }
    }

    #[test]
    fn a_token_that_nobody_knows_gets_gas_to_burn_and_batches_of_its_own() {
        assert_eq!(LIMITS.items(true), 50);
        assert_eq!(LIMITS.items(false), 13);
        let mut charges: Vec<_> = (1..=60).map(|id| charge(id, 1)).collect();
        charges.insert(3, charge(99, 2));
        let batches = LIMITS.split(charges, Address::repeat_byte(1), &HashSet::from([60]));
        let sizes: Vec<_> = batches.iter().map(|batch| (batch.known, batch.charges.len())).collect();
        assert_eq!(sizes, [(true, 50), (true, 9), (false, 2)]);
        assert_eq!(batches[2].ids(), [99, 60]);
        assert_eq!(batches[2].gas_limit(), 2_260_000);
    }

    #[test]
    fn a_batch_shrinks_to_the_gas_that_can_be_paid_for() {
        let whole = Batch { charges: (1..=3).map(|id| charge(id, 1)).collect(), known: true };
        let left = |gas| {
            let mut batch = whole.clone();
            (batch.shrink_to(gas), batch.ids())
        };
        assert_eq!(left(u64::MAX), (true, vec![1, 2, 3]));
        assert_eq!(left(1_040_000), (true, vec![1, 2]));
        assert_eq!(left(1_039_999), (true, vec![1]));
        assert_eq!(left(949_999), (false, vec![]));
    }

    #[test]
    fn a_limit_that_nothing_fits_still_lets_one_through() {
        let narrow = BatchLimits { gas_per_transaction: 1, ..LIMITS };
        assert_eq!((narrow.items(true), narrow.items(false)), (1, 1));
    }
}
