//! What the endpoints that count share.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, SubsecRound as _, Utc};
use dues_domain::{
    catalogue::Tier,
    entitlement::Entitlement,
    ids::{AccountId, ReservationId},
    usage::{MOST, Meters, Quantity, Usage},
};
use dues_store::usage::{Act, Order, Outcome, Receipt, Refusal, Reservation, ReservationState};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::entitlements_get::entitled;
use crate::{
    AppState,
    dto::MetersBody,
    extract,
    problem::{Code, Problem},
    snapshot::Known,
};

/// What every reservation's id begins with.
const RESERVATION: &str = "rsv_";

/// The account that a body names: exactly one of the three.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Named {
    pub(super) account_id: Option<String>,
    pub(super) external_id: Option<String>,
    pub(super) wallet: Option<String>,
}

impl Named {
    pub(super) async fn known(&self, state: &AppState) -> Result<Arc<Known>, Problem> {
        let found = match (&self.account_id, &self.external_id, &self.wallet) {
            (Some(id), None, None) => {
                let id = id.parse().map_err(|_| invalid("account_id is no UUID"))?;
                state.snapshot.account(id).await?
            }
            // PostgreSQL's text cannot hold a NUL, so no account has one in its id.
            (None, Some(external_id), None) if external_id.contains('\0') => None,
            (None, Some(external_id), None) => state.snapshot.by_external_id(external_id).await?,
            (None, None, Some(wallet)) => state.snapshot.by_wallet(extract::address(wallet)?).await?,
            _ => return Err(invalid("exactly one of account_id, external_id and wallet is needed")),
        };
        found.ok_or_else(|| Code::AccountNotFound.into())
    }
}

/// An account and what it may use at an instant.
#[derive(Debug, Clone)]
pub(super) struct Entitled {
    pub(super) account: AccountId,
    entitlement: Entitlement,
    pub(super) now: DateTime<Utc>,
}

impl Entitled {
    pub(super) fn of(state: &AppState, known: &Known) -> Self {
        let now = state.clock.now().trunc_subsecs(3);
        Self { account: known.account.id, entitlement: entitled(state, known, now), now }
    }

    pub(super) fn order(&self, act: Act) -> Order {
        Order { account: self.account, allowance: self.entitlement.allowance, now: self.now, act }
    }

    /// The receipt, or the problem that a refusal is; `asked` is what there may have been no room for.
    pub(super) fn receipt(
        &self,
        state: &AppState,
        asked: Quantity,
        outcome: Outcome,
    ) -> Result<Receipt, Problem> {
        outcome.map_err(|refusal| match refusal {
            Refusal::Quota { meter, usage, meters } => {
                let mut members = Map::new();
                members.insert("meter".into(), meter.as_str().into());
                members.insert("meters".into(), value(&MetersBody::from(*meters)));
                members.insert("upgrade_to".into(), value(&self.upgrades(state, &usage, asked)));
                Problem::new(Code::QuotaExceeded)
                    .with_detail(format!("the account has no room for so many {}", meter.as_str()))
                    .with_members(members)
            }
            Refusal::OtherWithSameId => Code::EventIdConflict.into(),
            Refusal::TooLate => Code::EventTooLate.into(),
            Refusal::TooEarly => Code::EventTooEarly.into(),
            Refusal::UnknownReservation => Code::ReservationNotFound.into(),
            Refusal::ReservationEnded(state) => {
                Problem::new(Code::ReservationEnded).with_detail(format!("it is {}", state.as_str()))
            }
            Refusal::OutsideCalendar => Problem::internal(&dues_domain::calendar::OutsideCalendar),
        })
    }

    /// The tiers on sale in which there would be room for `asked`, lowest first.
    fn upgrades(&self, state: &AppState, usage: &Usage, asked: Quantity) -> Vec<&'static str> {
        let mut tiers: Vec<_> = state.catalogue.plans().map(|plan| plan.tier).collect();
        tiers.sort_unstable();
        tiers.dedup();
        tiers
            .into_iter()
            .filter(|tier| *tier > self.entitlement.tier)
            .filter(|tier| {
                let terms = state.catalogue.terms(*tier);
                usage.check(asked, terms.requests, terms.tokens).is_ok()
            })
            .map(Tier::as_str)
            .collect()
    }
}

/// Quota problems say what would be enough.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QuotaExceeded)]
pub(crate) struct QuotaExceededBody {
    r#type: String,
    title: String,
    #[schema(example = 402)]
    status: u16,
    #[schema(example = "quota_exceeded")]
    code: String,
    detail: Option<String>,
    /// Which quota: `requests` or `tokens`.
    #[schema(example = "tokens")]
    meter: String,
    meters: MetersBody,
    /// The tiers in which there would be room for it, lowest first.
    #[schema(example = json!(["premium"]))]
    upgrade_to: Vec<String>,
}

/// A hold on a quota.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Reservation)]
pub(crate) struct ReservationBody {
    #[schema(example = "rsv_AZq…")]
    id: String,
    event_id: String,
    /// What it holds, or held.
    requests: u32,
    tokens: u32,
    /// `held`, then `settled`, `released` or `expired`.
    #[schema(example = "held")]
    state: &'static str,
    made_at: DateTime<Utc>,
    /// When it ends by itself.
    expires_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    /// What was used, where that was told.
    settled: Option<SettlementBody>,
}

/// What was used of a reservation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Settlement)]
struct SettlementBody {
    requests: u32,
    tokens: u32,
    conversations: u32,
    /// The part that no meter counts: beyond the reservation and beyond the hard limit.
    excess_requests: u32,
    excess_tokens: u32,
}

impl ReservationBody {
    /// As it is at `now`: nobody may have noted yet that its time is over.
    pub(super) fn new(account: AccountId, reservation: Reservation, now: DateTime<Utc>) -> Self {
        let over = reservation.state == ReservationState::Held && reservation.expires_at <= now;
        let state = if over { ReservationState::Expired } else { reservation.state };
        Self {
            id: reservation_id(account, reservation.id),
            event_id: reservation.event_id,
            requests: reservation.quantity.requests,
            tokens: reservation.quantity.tokens,
            state: state.as_str(),
            made_at: reservation.made_at,
            expires_at: reservation.expires_at,
            ended_at: reservation.ended_at,
            settled: reservation.settled.map(|settled| SettlementBody {
                requests: settled.actual.requests,
                tokens: settled.actual.tokens,
                conversations: settled.actual.conversations,
                excess_requests: settled.excess.requests,
                excess_tokens: settled.excess.tokens,
            }),
        }
    }
}

/// A reservation and the meters now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReservationAnswer)]
pub(crate) struct ReservationAnswer {
    reservation: ReservationBody,
    meters: MetersBody,
}

impl ReservationAnswer {
    pub(super) fn new(entitled: &Entitled, receipt: Receipt) -> Result<Self, Problem> {
        let Receipt { meters, reservation, .. } = receipt;
        // Whatever is done to a reservation gives it back.
        let reservation = reservation.ok_or(Code::ReservationNotFound)?;
        let reservation = ReservationBody::new(entitled.account, reservation, entitled.now);
        Ok(Self { reservation, meters: meters.into() })
    }
}

/// Says that usage was let in.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageAnswer)]
pub(crate) struct UsageAnswer {
    /// Always `true`: what is not allowed is answered with a problem.
    allowed: bool,
    meters: MetersBody,
}

impl From<Meters> for UsageAnswer {
    fn from(meters: Meters) -> Self {
        Self { allowed: true, meters: meters.into() }
    }
}

/// A reservation's id outside: it names the account as well, by which everything is found.
fn reservation_id(account: AccountId, id: ReservationId) -> String {
    let bytes = [account.as_uuid().into_bytes(), id.as_uuid().into_bytes()].concat();
    format!("{RESERVATION}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// The account and the reservation that `text` names.
pub(crate) fn parse_reservation_id(text: &str) -> Result<(AccountId, ReservationId), Problem> {
    let parse = || {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.strip_prefix(RESERVATION)?).ok()?;
        let (account, id) = bytes.split_at_checked(16)?;
        let (account, id) = (Uuid::from_slice(account).ok()?, Uuid::from_slice(id).ok()?);
        Some((AccountId::from_uuid(account), ReservationId::from_uuid(id)))
    };
    parse().ok_or_else(|| Problem::new(Code::InvalidId).with_detail("it is no reservation's id"))
}

/// An event's id: 1 to 128 characters without control characters.
pub(super) fn event_id(id: &str) -> Result<(), Problem> {
    let fits = (1..=128).contains(&id.chars().count()) && !id.contains(char::is_control);
    if fits {
        Ok(())
    } else {
        Err(invalid("event_id must have 1 to 128 characters, none of them a control character"))
    }
}

/// A quantity that can be meant.
pub(super) fn quantity(requests: u64, tokens: u64, conversations: u64) -> Result<Quantity, Problem> {
    let part = |name: &str, number: u64| {
        u32::try_from(number)
            .ok()
            .filter(|number| *number <= MOST)
            .ok_or_else(|| invalid(&format!("{name} must be at most {MOST}")))
    };
    Ok(Quantity {
        requests: part("requests", requests)?,
        tokens: part("tokens", tokens)?,
        conversations: part("conversations", conversations)?,
    })
}

pub(super) fn invalid(detail: &str) -> Problem {
    Problem::new(Code::InvalidBody).with_detail(detail)
}

fn value(body: &impl Serialize) -> Value {
    serde_json::to_value(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservations_id_leads_back_to_its_account() {
        let (account, id) = (AccountId::generate(), ReservationId::generate());
        let text = reservation_id(account, id);
        assert_eq!(parse_reservation_id(&text).unwrap(), (account, id));
        for bad in [
            "",
            "rsv_",
            "rsv_AAAA",
            &text[4..],
            &text[..text.len() - 1],
            &format!("{text}A"),
            &text.to_uppercase(),
        ] {
            assert!(parse_reservation_id(bad).is_err(), "{bad:?}");
        }
    }
}
