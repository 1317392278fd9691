//! Between PostgreSQL's types and the domain's. A value that does not fit is an inconsistency of the ledger.

use alloy_primitives::{Address, B256};
use dues_domain::{
    calendar::IntervalUnit,
    chain::{BlockRef, ChainSource, Party},
    money::BaseUnits,
};

use crate::StoreError;

pub(crate) fn address(bytes: &[u8]) -> Result<Address, StoreError> {
    Address::try_from(bytes).map_err(|_| StoreError::Inconsistent("an address has not 20 bytes"))
}

pub(crate) fn hash(bytes: &[u8]) -> Result<B256, StoreError> {
    B256::try_from(bytes).map_err(|_| StoreError::Inconsistent("a hash has not 32 bytes"))
}

/// An unsigned number as PostgreSQL's `bigint`.
pub(crate) fn to_i64(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::Inconsistent("a number is beyond 63 bits"))
}

/// A number of a column that holds no negative ones.
pub(crate) fn unsigned<T, U>(number: T) -> Result<U, StoreError>
where
    U: TryFrom<T>,
{
    U::try_from(number).map_err(|_| StoreError::Inconsistent("a number is outside its range"))
}

/// An amount as the text of a `numeric`, which has more digits than any number type that the driver knows.
pub(crate) fn numeric(amount: BaseUnits) -> String {
    amount.to_string()
}

/// The amount that the text of a `numeric` is.
pub(crate) fn base_units(amount: &str) -> Result<BaseUnits, StoreError> {
    amount.parse().map(BaseUnits::new).map_err(|_| StoreError::Inconsistent("an amount is no base units"))
}

pub(crate) const fn party_name(party: Party) -> &'static str {
    match party {
        Party::Payer => "payer",
        Party::Merchant => "merchant",
    }
}

pub(crate) fn party(name: &str) -> Result<Party, StoreError> {
    match name {
        "payer" => Ok(Party::Payer),
        "merchant" => Ok(Party::Merchant),
        _ => Err(StoreError::Inconsistent("a party is neither payer nor merchant")),
    }
}

pub(crate) fn block_ref(number: i64, hash_bytes: &[u8]) -> Result<BlockRef, StoreError> {
    Ok(BlockRef { number: unsigned(number)?, hash: hash(hash_bytes)? })
}

pub(crate) fn chain_source(chain_id: i64, contract: &[u8]) -> Result<ChainSource, StoreError> {
    Ok(ChainSource { chain_id: unsigned(chain_id)?, contract: address(contract)? })
}

pub(crate) const fn unit_name(unit: IntervalUnit) -> &'static str {
    match unit {
        IntervalUnit::Day => "day",
        IntervalUnit::Month => "month",
    }
}

pub(crate) fn unit(name: &str) -> Result<IntervalUnit, StoreError> {
    match name {
        "day" => Ok(IntervalUnit::Day),
        "month" => Ok(IntervalUnit::Month),
        _ => Err(StoreError::Inconsistent("an interval is neither day nor month")),
    }
}
