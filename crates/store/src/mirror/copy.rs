//! Rows in PostgreSQL's binary COPY format, by far the fastest way in.
//!
//! Rows go straight into the table, with every constraint checked as by an INSERT. What an INSERT can do beyond that
//! (look first, take over a row that is there) the callers do for all rows of a step at once.

use alloy_primitives::B256;
use chrono::{DateTime, Utc};
use dues_domain::money::BaseUnits;
use sqlx::{PgConnection, postgres::PgCopyIn};
use uuid::Uuid;

use crate::StoreError;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// How much is gathered before it is sent: enough to make few system calls, and little to hold.
const CHUNK: usize = 256 * 1024;
/// PostgreSQL counts its instants from 2000-01-01, in microseconds; this is that day from 1970.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// A digit of a binary `numeric`.
const NUMERIC_BASE: u128 = 10_000;
const TOO_LARGE: StoreError = StoreError::Inconsistent("a value is too large for a row");

/// A COPY that is under way. It must be [finished](Self::finish); dropped before, it is undone.
pub(super) struct Copy<'c> {
    sink: PgCopyIn<&'c mut PgConnection>,
    row: Row,
}

/// The fields of rows, encoded.
pub(super) struct Row {
    buffer: Vec<u8>,
}

impl<'c> Copy<'c> {
    /// Begins what `statement` says: `COPY table (columns) FROM STDIN (FORMAT binary)`.
    pub(super) async fn begin(connection: &'c mut PgConnection, statement: &str) -> Result<Self, StoreError> {
        let sink = connection.copy_in_raw(statement).await?;
        let mut buffer = Vec::with_capacity(CHUNK);
        buffer.extend_from_slice(SIGNATURE);
        // No flags, no extension of the header.
        buffer.extend_from_slice(&[0; 8]);
        Ok(Self { sink, row: Row { buffer } })
    }

    /// Adds a row of `fields` fields, which `write` writes in the order of the statement's columns.
    pub(super) fn row(
        &mut self,
        fields: i16,
        write: impl FnOnce(&mut Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.row.buffer.extend_from_slice(&fields.to_be_bytes());
        write(&mut self.row)
    }

    /// Sends what was gathered, where that is enough.
    pub(super) async fn send_if_full(&mut self) -> Result<(), StoreError> {
        if self.row.buffer.len() >= CHUNK { self.send().await } else { Ok(()) }
    }

    /// Ends it, and gives the number of rows that were written.
    pub(super) async fn finish(mut self) -> Result<u64, StoreError> {
        self.row.buffer.extend_from_slice(&(-1_i16).to_be_bytes());
        self.send().await?;
        Ok(self.sink.finish().await?)
    }

    async fn send(&mut self) -> Result<(), StoreError> {
        self.sink.send(self.row.buffer.as_slice()).await?;
        self.row.buffer.clear();
        Ok(())
    }
}

impl Row {
    pub(super) fn null(&mut self) {
        self.buffer.extend_from_slice(&(-1_i32).to_be_bytes());
    }

    pub(super) fn bytes(&mut self, value: &[u8]) -> Result<(), StoreError> {
        let length = i32::try_from(value.len()).map_err(|_| TOO_LARGE)?;
        self.buffer.extend_from_slice(&length.to_be_bytes());
        self.buffer.extend_from_slice(value);
        Ok(())
    }

    pub(super) fn text(&mut self, value: &str) -> Result<(), StoreError> {
        self.bytes(value.as_bytes())
    }

    pub(super) fn i16(&mut self, value: i16) -> Result<(), StoreError> {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn i32(&mut self, value: i32) -> Result<(), StoreError> {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn i64(&mut self, value: i64) -> Result<(), StoreError> {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn bool(&mut self, value: bool) -> Result<(), StoreError> {
        self.bytes(&[u8::from(value)])
    }

    pub(super) fn uuid(&mut self, value: Uuid) -> Result<(), StoreError> {
        self.bytes(value.as_bytes())
    }

    pub(super) fn instant(&mut self, value: DateTime<Utc>) -> Result<(), StoreError> {
        self.i64(value.timestamp_micros().checked_sub(EPOCH_MICROS).ok_or(TOO_LARGE)?)
    }

    /// A `numeric` without decimal places.
    pub(super) fn amount(&mut self, value: BaseUnits) -> Result<(), StoreError> {
        let (digits, weight) = numeric_digits(value)?;
        let count = i16::try_from(digits.len()).map_err(|_| TOO_LARGE)?;
        let length =
            i32::try_from(digits.len().saturating_mul(2).saturating_add(8)).map_err(|_| TOO_LARGE)?;
        self.buffer.extend_from_slice(&length.to_be_bytes());
        // Number of digits, exponent of the first, positive, no decimal places.
        for part in [count, weight, 0, 0] {
            self.buffer.extend_from_slice(&part.to_be_bytes());
        }
        for digit in digits {
            self.buffer.extend_from_slice(&digit.to_be_bytes());
        }
        Ok(())
    }

    /// A `bytea[]`.
    pub(super) fn hashes(&mut self, values: &[B256]) -> Result<(), StoreError> {
        const BYTEA: i32 = 17;
        const ELEMENT: usize = 4 + 32;
        // An empty array has no dimension.
        let dimensions = i32::from(!values.is_empty());
        let shape = if values.is_empty() { 0 } else { 8 };
        let length = values.len().saturating_mul(ELEMENT).saturating_add(12).saturating_add(shape);
        self.buffer.extend_from_slice(&i32::try_from(length).map_err(|_| TOO_LARGE)?.to_be_bytes());
        // Dimensions, no NULLs among the elements, their type.
        for part in [dimensions, 0, BYTEA] {
            self.buffer.extend_from_slice(&part.to_be_bytes());
        }
        if !values.is_empty() {
            let count = i32::try_from(values.len()).map_err(|_| TOO_LARGE)?;
            // How many, counted from 1.
            for part in [count, 1] {
                self.buffer.extend_from_slice(&part.to_be_bytes());
            }
        }
        for value in values {
            self.bytes(value.as_slice())?;
        }
        Ok(())
    }

    /// `value` as `write` writes it, or NULL.
    pub(super) fn optional<T>(
        &mut self,
        value: Option<T>,
        write: impl FnOnce(&mut Self, T) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match value {
            Some(value) => write(self, value),
            None => {
                self.null();
                Ok(())
            }
        }
    }
}

/// The digits of `value` to the base 10,000, the most significant first, and the exponent of that one.
fn numeric_digits(value: BaseUnits) -> Result<(Vec<i16>, i16), StoreError> {
    let mut rest = value.get();
    let mut digits = Vec::with_capacity(10);
    while rest > 0 {
        digits.push(i16::try_from(rest % NUMERIC_BASE).map_err(|_| TOO_LARGE)?);
        rest /= NUMERIC_BASE;
    }
    let weight = i16::try_from(digits.len().saturating_sub(1)).map_err(|_| TOO_LARGE)?;
    digits.reverse();
    Ok((digits, weight))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn digits_are_the_amount_again(amount: u128) {
            let (digits, weight) = numeric_digits(BaseUnits::new(amount)).unwrap();
            let back = digits.iter().fold(0_u128, |sum, digit| {
                sum * NUMERIC_BASE + u128::try_from(*digit).unwrap()
            });
            prop_assert_eq!(back, amount);
            prop_assert_eq!(usize::try_from(weight).unwrap(), digits.len().saturating_sub(1));
            prop_assert!(digits.first().is_none_or(|digit| *digit > 0));
        }
    }
}
