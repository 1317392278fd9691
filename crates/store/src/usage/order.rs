//! What can be asked of the counters, and what comes of it.

use chrono::{DateTime, Utc};
use dues_domain::{
    ids::{AccountId, ReservationId},
    usage::{Allowance, MeterName, Meters, Quantity, Usage},
};

/// One act on one account's counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Whose.
    pub account: AccountId,
    /// What its entitlement lets it use.
    pub allowance: Allowance,
    /// The instant of the request.
    pub now: DateTime<Utc>,
    /// What is to be done.
    pub act: Act,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Count an event, if there is room for all of it.
    Consume(Event),
    /// Hold a quantity until `expires_at`, if there is room for all of it.
    Reserve {
        /// The id that the reservation gets, if it is a new one.
        id: ReservationId,
        /// The platform's name for it, once per account.
        event_id: String,
        /// How much, at most.
        quantity: Quantity,
        /// When the hold ends by itself.
        expires_at: DateTime<Utc>,
    },
    /// Count what was used in place of what a reservation holds.
    Settle {
        /// The reservation.
        id: ReservationId,
        /// What was used.
        actual: Quantity,
    },
    /// End a hold.
    Release {
        /// The reservation.
        id: ReservationId,
    },
}

/// Something that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The platform's name for it, once per account.
    pub id: String,
    /// When it happened, where that is not now. To the millisecond.
    pub occurred_at: Option<DateTime<Utc>>,
    /// How much.
    pub quantity: Quantity,
}

/// What an order came to.
pub type Outcome = Result<Receipt, Refusal>;

/// An order was carried out, now or before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The meters after it. Of an event that had been counted before: as they were then.
    pub meters: Meters,
    /// Whether it had been carried out before, and nothing was done now.
    pub repeated: bool,
    /// The reservation, where it was about one.
    pub reservation: Option<Reservation>,
}

/// Why an order was not carried out. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It would have passed a hard limit.
    Quota {
        /// Which; the first one of those that there are.
        meter: MeterName,
        /// The counters.
        usage: Box<Usage>,
        /// The same, as the platform sees it.
        meters: Box<Meters>,
    },
    /// The event id, or the reservation's, was used with something else.
    OtherWithSameId,
    /// The event is older than events may be.
    TooLate,
    /// The event is of the future.
    TooEarly,
    /// The account has no such reservation.
    UnknownReservation,
    /// The reservation has ended in another way.
    ReservationEnded(ReservationState),
    /// The account's quota window has no name.
    OutsideCalendar,
}

/// Where a reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReservationState {
    /// It holds its quantity.
    Held,
    /// What was used is counted.
    Settled,
    /// It was given back.
    Released,
    /// Its time is over, and it holds nothing any more. What was used may be told still.
    Expired,
}

impl ReservationState {
    /// The state as the API and the database spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Settled => "settled",
            Self::Released => "released",
            Self::Expired => "expired",
        }
    }
}

/// A hold on a quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Its id.
    pub id: ReservationId,
    /// The platform's name for it.
    pub event_id: String,
    /// How much it holds, or held.
    pub quantity: Quantity,
    /// When it was made.
    pub made_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_at: DateTime<Utc>,
    /// Where it stands.
    pub state: ReservationState,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// What was used in the end.
    pub settled: Option<Settlement>,
}

/// What was used of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement {
    /// All of it.
    pub actual: Quantity,
    /// The part that no meter counts: beyond the reservation and beyond the hard limit.
    pub excess: Quantity,
}
