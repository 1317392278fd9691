//! Money as integers in base units; decimals exist only at the edges, floats nowhere.

use std::fmt;

use rust_decimal::Decimal;
use serde::Serialize;

/// An amount in an asset's smallest unit (29.99 of a 6-decimal stablecoin is 29,990,000).
///
/// Bounded to 128 bits, as the contract's amounts are: a price has 96 bits, and several periods paid at once cost
/// more than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseUnits(u128);

/// Why a number is not an amount.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MoneyError {
    /// More than 2^128 - 1 base units.
    #[error("the amount does not fit 128 bits")]
    TooLarge,
    /// A negative decimal.
    #[error("the amount is negative")]
    Negative,
    /// More decimal places than the asset has: the amount would be rounded.
    #[error("the amount has more than {exponent} decimal places")]
    TooPrecise {
        /// Decimal places of the asset.
        exponent: u8,
    },
}

impl BaseUnits {
    /// An amount of `units`.
    #[must_use]
    pub const fn new(units: u128) -> Self {
        Self(units)
    }

    /// The number of base units.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0
    }

    /// The amount that `decimal` of an asset with `exponent` decimal places is, exactly.
    ///
    /// # Errors
    /// Where it is negative, too large, or would have to be rounded.
    pub fn from_decimal(decimal: Decimal, exponent: u8) -> Result<Self, MoneyError> {
        if decimal.is_sign_negative() && !decimal.is_zero() {
            return Err(MoneyError::Negative);
        }
        let exact = decimal.normalize();
        let places =
            u32::from(exponent).checked_sub(exact.scale()).ok_or(MoneyError::TooPrecise { exponent })?;
        let mantissa = u128::try_from(exact.mantissa()).map_err(|_| MoneyError::Negative)?;
        let factor = 10_u128.checked_pow(places).ok_or(MoneyError::TooLarge)?;
        mantissa.checked_mul(factor).map(Self).ok_or(MoneyError::TooLarge)
    }

    /// The amount as an exact decimal of an asset with `exponent` decimal places, as people write it: with two
    /// places at least where the asset has them, and no more than needed (`29990000`, 6 → `29.99`).
    #[must_use]
    pub fn decimal(self, exponent: u8) -> String {
        let exponent = usize::from(exponent);
        // One digit more than places, so that there is always one before the point.
        let digits = format!("{:0>width$}", self.0, width = exponent.saturating_add(1));
        let (whole, places) = digits.split_at(digits.len().saturating_sub(exponent));
        let needed = places.trim_end_matches('0').len().max(exponent.min(2));
        match places.get(..needed) {
            Some(places) if needed > 0 => format!("{whole}.{places}"),
            _ => whole.to_owned(),
        }
    }
}

impl fmt::Display for BaseUnits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an amount is counted in: its code and its decimal places.
///
/// Amounts of different assets are never added.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Asset {
    /// `USDC`, or a CAIP-19 name for a token that the configuration does not know.
    pub code: String,
    /// Decimal places of one whole unit.
    pub exponent: u8,
}

/// An amount of an asset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Money {
    /// How much, in base units.
    pub amount: BaseUnits,
    /// Of what.
    pub asset: Asset,
}

impl Money {
    /// The amount as an exact decimal, as people write it: `29.99`.
    #[must_use]
    pub fn decimal(&self) -> String {
        self.amount.decimal(self.asset.exponent)
    }
}

impl fmt::Display for Money {
    /// `29.99 USDC`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.decimal(), self.asset.code)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn a_price_becomes_base_units_exactly() {
        assert_eq!(BaseUnits::from_decimal(decimal("29.99"), 6), Ok(BaseUnits::new(29_990_000)));
        assert_eq!(BaseUnits::from_decimal(decimal("4999.990"), 2), Ok(BaseUnits::new(499_999)));
        assert_eq!(BaseUnits::from_decimal(decimal("0"), 0), Ok(BaseUnits::new(0)));
    }

    #[test]
    fn nothing_is_rounded_negative_or_too_large() {
        assert_eq!(BaseUnits::from_decimal(decimal("0.001"), 2), Err(MoneyError::TooPrecise { exponent: 2 }));
        assert_eq!(BaseUnits::from_decimal(decimal("-1"), 2), Err(MoneyError::Negative));
        assert_eq!(BaseUnits::from_decimal(Decimal::MAX, 10), Err(MoneyError::TooLarge));
    }

    #[test]
    fn money_is_shown_with_cents_and_no_needless_zeros() {
        let show = |units, exponent| {
            let asset = Asset { code: "USDC".into(), exponent };
            Money { amount: BaseUnits::new(units), asset }.to_string()
        };
        assert_eq!(show(29_990_000, 6), "29.99 USDC");
        assert_eq!(show(30_000_000, 6), "30.00 USDC");
        assert_eq!(show(1, 6), "0.000001 USDC");
        assert_eq!(show(5, 0), "5 USDC");
        assert_eq!(show(50, 1), "5.0 USDC");
        assert_eq!(show(0, 6), "0.00 USDC");
        assert_eq!(show(u128::MAX, 18), "340282366920938463463.374607431768211455 USDC");
    }

    proptest! {
        #[test]
        fn decimals_and_base_units_agree_in_both_directions(units in 0..1_u128 << 96, exponent in 0_u8..=28) {
            let amount = BaseUnits::new(units);
            prop_assert_eq!(BaseUnits::from_decimal(decimal(&amount.decimal(exponent)), exponent), Ok(amount));
        }
    }
}
