//! What usage beyond what is included costs.

use crate::money::BaseUnits;

/// Prices of overage, in base units of the catalogue's currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OveragePrices {
    /// Of a thousand requests.
    pub per_1000_requests: BaseUnits,
    /// Of a thousand tokens.
    pub per_1000_tokens: BaseUnits,
}

impl OveragePrices {
    /// What `requests` and `tokens` cost together, rounded down: nobody pays for a part of a base unit that was not used.
    #[must_use]
    pub fn of(&self, requests: u64, tokens: u64) -> BaseUnits {
        let cost = |count: u64, price: BaseUnits| u128::from(count).saturating_mul(price.get());
        let thousandths =
            cost(requests, self.per_1000_requests).saturating_add(cost(tokens, self.per_1000_tokens));
        BaseUnits::new(thousandths / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_less_than_a_base_unit_costs_nothing() {
        let prices = OveragePrices {
            per_1000_requests: BaseUnits::new(500_000),
            per_1000_tokens: BaseUnits::new(20_000),
        };
        assert_eq!(prices.of(0, 0).get(), 0);
        assert_eq!(prices.of(1, 0).get(), 500);
        assert_eq!(prices.of(1_000, 1_000).get(), 520_000);
        let cheap =
            OveragePrices { per_1000_requests: BaseUnits::new(1), per_1000_tokens: BaseUnits::new(0) };
        assert_eq!((cheap.of(999, 0).get(), cheap.of(1_000, u64::MAX).get()), (0, 1));
    }

    proptest! {
        #[test]
        fn parts_never_cost_more_than_the_whole(
            a in 0_u64..1 << 40, b in 0_u64..1 << 40, requests in 0_u128..1 << 40, tokens in 0_u128..1 << 40,
        ) {
            let prices = OveragePrices {
                per_1000_requests: BaseUnits::new(requests),
                per_1000_tokens: BaseUnits::new(tokens),
            };
            let parts = prices.of(a, 0).get() + prices.of(0, b).get();
            let whole = prices.of(a, b).get();
            prop_assert!(parts <= whole && whole - parts <= 1);
        }
    }
}
