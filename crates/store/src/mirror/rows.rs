//! Many rows into one table, the fastest way for their number.
//!
//! Many go by COPY, in its binary format. Few go by INSERT, which takes one message each way: a COPY ends with a small
//! message behind another small one, which on TCP waits for the first one's acknowledgement (Nagle's algorithm), 40 ms
//! with a server that has nothing to say yet, and a payment at the head of the chain is not to wait for that.
//!
//! Either way every constraint is checked. What an INSERT can do beyond that (look first, take over a row that is there)
//! the callers do for all rows of a step at once.

use alloy_primitives::B256;
use chrono::{DateTime, Utc};
use dues_domain::money::BaseUnits;
use sqlx::{
    AssertSqlSafe, Encode, PgConnection, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgCopyIn, PgTypeInfo, types::Oid},
};
use uuid::Uuid;

use crate::StoreError;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// How much is gathered before it is sent: enough to make few system calls, and little to hold.
const CHUNK: usize = 256 * 1024;
/// How many rows, at most, are inserted rather than copied.
const FEW: usize = 128;
/// How many rows one INSERT takes at most. Each power of two up to it is a statement that is prepared once.
const ROWS_AT_ONCE: usize = 32;
/// PostgreSQL counts its instants from 2000-01-01, in microseconds; this is that day from 1970.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// A digit of a binary `numeric`.
const NUMERIC_BASE: u128 = 10_000;
const TOO_LARGE: StoreError = StoreError::Inconsistent("a value is too large for a row");
const MALFORMED: StoreError = StoreError::Inconsistent("a row is not as it was written");

/// Where rows go.
#[derive(Debug)]
pub(super) struct Target<const FIELDS: usize> {
    pub(super) table: &'static str,
    pub(super) columns: [&'static str; FIELDS],
}

/// Rows on their way into a table. They must be [finished](Self::finish); dropped before, none is written.
pub(super) struct Rows<'c, const FIELDS: usize> {
    target: &'static Target<FIELDS>,
    way: Way<'c>,
    /// Rows that are not sent, as COPY has them.
    row: Row,
    gathered: usize,
}

enum Way<'c> {
    /// Nothing is sent.
    Open(&'c mut PgConnection),
    Copy(PgCopyIn<&'c mut PgConnection>),
}

/// The fields of rows, encoded.
pub(super) struct Row {
    buffer: Vec<u8>,
}

impl<'c, const FIELDS: usize> Rows<'c, FIELDS> {
    pub(super) fn new(connection: &'c mut PgConnection, target: &'static Target<FIELDS>) -> Self {
        Self { target, way: Way::Open(connection), row: Row { buffer: Vec::new() }, gathered: 0 }
    }

    /// Adds a row, whose fields `write` writes in the order of the target's columns.
    pub(super) async fn add(
        mut self,
        write: impl FnOnce(&mut Row) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        let fields = i16::try_from(FIELDS).map_err(|_| TOO_LARGE)?;
        self.row.buffer.extend_from_slice(&fields.to_be_bytes());
        write(&mut self.row)?;
        self.gathered = self.gathered.saturating_add(1);
        if self.row.buffer.len() >= CHUNK { self.copy().await } else { Ok(self) }
    }

    /// Writes what is not written yet.
    pub(super) async fn finish(self) -> Result<(), StoreError> {
        match self.way {
            Way::Open(connection) if self.gathered <= FEW => {
                insert(connection, self.target, self.gathered, &self.row.buffer).await
            }
            _ => {
                let Self { way, mut row, .. } = self.copy().await?;
                if let Way::Copy(mut sink) = way {
                    row.buffer.extend_from_slice(&(-1_i16).to_be_bytes());
                    sink.send(row.buffer.as_slice()).await?;
                    sink.finish().await?;
                }
                Ok(())
            }
        }
    }

    /// Sends what was gathered, by COPY.
    async fn copy(mut self) -> Result<Self, StoreError> {
        let mut sink = match self.way {
            Way::Copy(sink) => sink,
            Way::Open(connection) => {
                let Target { table, columns } = self.target;
                let columns = columns.join(", ");
                let mut sink = connection
                    .copy_in_raw(&format!("COPY {table} ({columns}) FROM STDIN (FORMAT binary)"))
                    .await?;
                // No flags, no extension of the header.
                sink.send([SIGNATURE, &[0; 8]].concat()).await?;
                sink
            }
        };
        sink.send(self.row.buffer.as_slice()).await?;
        self.row.buffer.clear();
        self.gathered = 0;
        self.way = Way::Copy(sink);
        Ok(self)
    }
}

/// Inserts the `count` rows that are in `buffer`.
async fn insert<const FIELDS: usize>(
    connection: &mut PgConnection,
    target: &'static Target<FIELDS>,
    mut count: usize,
    mut buffer: &[u8],
) -> Result<(), StoreError> {
    while count > 0 {
        let rows = ROWS_AT_ONCE.min(1 << count.ilog2());
        let mut query = sqlx::query(AssertSqlSafe(insert_statement(target, rows)));
        for _ in 0..rows {
            buffer.split_off(..2).ok_or(MALFORMED)?;
            for _ in 0..FIELDS {
                query = query.bind(Field(take_field(&mut buffer)?));
            }
        }
        query.execute(&mut *connection).await?;
        count = count.saturating_sub(rows);
    }
    if buffer.is_empty() { Ok(()) } else { Err(MALFORMED) }
}

fn insert_statement<const FIELDS: usize>(target: &Target<FIELDS>, rows: usize) -> String {
    let mut number = 0_usize;
    let mut row = || {
        let fields = [(); FIELDS].map(|()| {
            number = number.saturating_add(1);
            format!("${number}")
        });
        format!("({})", fields.join(", "))
    };
    let values: Vec<_> = (0..rows).map(|_| row()).collect();
    format!("INSERT INTO {} ({}) VALUES {}", target.table, target.columns.join(", "), values.join(", "))
}

/// The next field of a row in COPY's format, `None` where it is NULL.
fn take_field<'b>(buffer: &mut &'b [u8]) -> Result<Option<&'b [u8]>, StoreError> {
    let length = buffer.split_off(..4).ok_or(MALFORMED)?;
    let length = i32::from_be_bytes(length.try_into().map_err(|_| MALFORMED)?);
    match usize::try_from(length) {
        Ok(length) => buffer.split_off(..length).ok_or(MALFORMED).map(Some),
        Err(_) => Ok(None),
    }
}

/// A field that is encoded already. Its type is its column's: none is named.
struct Field<'b>(Option<&'b [u8]>);

impl Type<Postgres> for Field<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Field<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match self.0 {
            Some(bytes) => {
                buffer.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
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
