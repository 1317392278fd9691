//! Money as integers in base units; decimals exist only at the edges, floats nowhere.

use std::fmt;

use rust_decimal::Decimal;
use serde::Serialize;

/// An amount in an asset's smallest unit (29.99 of a 6-decimal stablecoin is 29,990,000).
///
/// Bounded to 96 bits, the range of the contract's `uint96` and of [`Decimal`]'s mantissa, so that every value
/// has an exact decimal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseUnits(u128);

/// Why a number is not an amount.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MoneyError {
    /// More than 2^96 - 1 base units.
    #[error("the amount does not fit 96 bits")]
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
    /// The largest amount: 2^96 - 1.
    pub const MAX: Self = Self((1 << 96) - 1);

    /// An amount of `units`.
    ///
    /// # Errors
    /// [`MoneyError::TooLarge`] beyond 2^96 - 1.
    pub const fn new(units: u128) -> Result<Self, MoneyError> {
        if units > Self::MAX.0 { Err(MoneyError::TooLarge) } else { Ok(Self(units)) }
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
        Self::new(mantissa.checked_mul(factor).ok_or(MoneyError::TooLarge)?)
    }

    /// The amount as a decimal with all `exponent` places (`29990000`, 6 → `29.990000`).
    ///
    /// # Errors
    /// [`MoneyError::TooLarge`] where the asset has more places than a [`Decimal`] can hold (28).
    pub fn to_decimal(self, exponent: u8) -> Result<Decimal, MoneyError> {
        let mantissa = i128::try_from(self.0).map_err(|_| MoneyError::TooLarge)?;
        Decimal::try_from_i128_with_scale(mantissa, u32::from(exponent)).map_err(|_| MoneyError::TooLarge)
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
    /// The amount as an exact decimal, as people write it: `29.99`, with two places at least where the asset has
    /// them, and no more than needed.
    ///
    /// # Errors
    /// [`MoneyError::TooLarge`] where the asset has more places than a [`Decimal`] can hold (28).
    pub fn decimal(&self) -> Result<Decimal, MoneyError> {
        let mut short = self.amount.to_decimal(self.asset.exponent)?.normalize();
        let least = u32::from(self.asset.exponent.min(2));
        if short.scale() < least {
            short.rescale(least);
        }
        Ok(short)
    }
}

impl fmt::Display for Money {
    /// `29.99 USDC`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decimal() {
            Ok(decimal) => write!(f, "{decimal} {}", self.asset.code),
            Err(_) => write!(f, "{} base units of {}", self.amount, self.asset.code),
        }
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
        assert_eq!(BaseUnits::from_decimal(decimal("29.99"), 6), BaseUnits::new(29_990_000));
        assert_eq!(BaseUnits::from_decimal(decimal("4999.990"), 2), BaseUnits::new(499_999));
        assert_eq!(BaseUnits::from_decimal(decimal("0"), 0), BaseUnits::new(0));
    }

    #[test]
    fn nothing_is_rounded_negative_or_too_large() {
        assert_eq!(BaseUnits::from_decimal(decimal("0.001"), 2), Err(MoneyError::TooPrecise { exponent: 2 }));
        assert_eq!(BaseUnits::from_decimal(decimal("-1"), 2), Err(MoneyError::Negative));
        assert_eq!(BaseUnits::from_decimal(Decimal::MAX, 1), Err(MoneyError::TooLarge));
        assert_eq!(BaseUnits::new(1 << 96), Err(MoneyError::TooLarge));
    }

    #[test]
    fn money_is_shown_with_cents_and_no_needless_zeros() {
        let show = |units, exponent| {
            let asset = Asset { code: "USDC".into(), exponent };
            Money { amount: BaseUnits::new(units).unwrap(), asset }.to_string()
        };
        assert_eq!(show(29_990_000, 6), "29.99 USDC");
        assert_eq!(show(30_000_000, 6), "30.00 USDC");
        assert_eq!(show(1, 6), "0.000001 USDC");
        assert_eq!(show(5, 0), "5 USDC");
    }

    proptest! {
        #[test]
        fn decimals_and_base_units_agree_in_both_directions(units in 0..=BaseUnits::MAX.get(), exponent in 0_u8..=28) {
            let amount = BaseUnits::new(units).unwrap();
            prop_assert_eq!(BaseUnits::from_decimal(amount.to_decimal(exponent).unwrap(), exponent), Ok(amount));
        }
    }
}
