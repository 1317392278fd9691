//! What is offered for gas (EIP-1559), and never more than the cap.

use dues_chain::source::GasPrices;

/// What is offered at least to whoever builds the block, in wei: a thousandth of a gwei. Nobody takes nothing.
const MIN_TIP: u64 = 1_000_000;

/// The most that gas may cost, in wei per unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeeLimits {
    /// All in all. Where the chain asks for more, charging waits.
    pub max_fee: u64,
    /// For whoever builds the block, where a transaction is not stuck.
    pub max_priority_fee: u64,
}

/// What a transaction offers, in wei per unit of gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fees {
    pub(crate) max_fee: u64,
    pub(crate) priority_fee: u64,
}

impl FeeLimits {
    /// For a new transaction: room for the base fee to double. `None` where not even the next block is within the cap.
    pub(crate) fn fresh(&self, prices: &GasPrices) -> Option<Fees> {
        let base = u64::try_from(prices.next_base_fee).ok()?;
        let usual = u64::try_from(prices.usual_tip).unwrap_or(u64::MAX);
        let priority_fee = usual.min(self.max_priority_fee).max(MIN_TIP.min(self.max_fee));
        let least = base.checked_add(priority_fee).filter(|least| *least <= self.max_fee)?;
        let max_fee = base.saturating_add(least).min(self.max_fee);
        Some(Fees { max_fee, priority_fee })
    }

    /// For a transaction in place of one with `old`: an eighth more of both, as nodes want a tenth more before they forget
    /// the old one, and what the chain asks for now. `None` where the cap does not allow that, or would not help.
    pub(crate) fn replacing(&self, old: Fees, prices: &GasPrices) -> Option<Fees> {
        let fresh = self.fresh(prices)?;
        let max_fee = fresh.max_fee.max(more(old.max_fee, 8)).min(self.max_fee);
        // The cap, but enough above the old one to count as a replacement.
        if max_fee < more(old.max_fee, 10) {
            return None;
        }
        let priority_fee = fresh.priority_fee.max(more(old.priority_fee, 8));
        (priority_fee <= max_fee).then_some(Fees { max_fee, priority_fee })
    }
}

/// `wei` and one part in `parts` of it, rounded up.
fn more(wei: u64, parts: u64) -> u64 {
    wei.saturating_add(wei.checked_div(parts).unwrap_or(wei)).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GWEI: u64 = 1_000_000_000;
    const LIMITS: FeeLimits = FeeLimits { max_fee: 50 * GWEI, max_priority_fee: 2 * GWEI };

    fn prices(base: u64, tip: u64) -> GasPrices {
        GasPrices { next_base_fee: base.into(), usual_tip: tip.into() }
    }

    #[test]
    fn there_is_room_for_the_base_fee_to_double_below_the_cap() {
        let fees = LIMITS.fresh(&prices(10 * GWEI, GWEI)).unwrap();
        assert_eq!(fees, Fees { max_fee: 21 * GWEI, priority_fee: GWEI });
        let fees = LIMITS.fresh(&prices(40 * GWEI, 9 * GWEI)).unwrap();
        assert_eq!(fees, Fees { max_fee: 50 * GWEI, priority_fee: 2 * GWEI });
        assert_eq!(LIMITS.fresh(&prices(0, 0)).unwrap(), Fees { max_fee: MIN_TIP, priority_fee: MIN_TIP });
    }

    #[test]
    fn above_the_cap_nothing_is_offered() {
        assert_eq!(LIMITS.fresh(&prices(49 * GWEI, 2 * GWEI)), None);
        assert_eq!(LIMITS.fresh(&prices(u64::MAX, 0)), None);
        let old = Fees { max_fee: 20 * GWEI, priority_fee: GWEI };
        assert_eq!(LIMITS.replacing(old, &prices(60 * GWEI, GWEI)), None);
        let at_the_cap = Fees { max_fee: 48 * GWEI, priority_fee: GWEI };
        assert_eq!(LIMITS.replacing(at_the_cap, &prices(GWEI, GWEI)), None);
    }

    proptest! {
        #[test]
        fn fees_are_within_the_cap_and_replacements_are_a_tenth_higher(
            base: u64, tip: u64, later_base: u64, later_tip: u64, max_fee: u64, max_priority_fee: u64,
        ) {
            let limits = FeeLimits { max_fee, max_priority_fee };
            let (before, after) = (prices(base, tip), prices(later_base, later_tip));
            if let Some(old) = limits.fresh(&before) {
                prop_assert!(old.max_fee <= max_fee && old.priority_fee <= old.max_fee);
                prop_assert!(old.max_fee - old.priority_fee >= base);
                if let Some(new) = limits.replacing(old, &after) {
                    prop_assert!(new.max_fee <= max_fee && new.priority_fee <= new.max_fee);
                    prop_assert!(u128::from(new.max_fee) * 10 >= u128::from(old.max_fee) * 11);
                    prop_assert!(u128::from(new.priority_fee) * 10 >= u128::from(old.priority_fee) * 11);
                    prop_assert!(new.max_fee >= later_base);
                }
            }
        }
    }
}
