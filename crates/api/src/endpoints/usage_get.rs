//! `GET /v1/accounts/{id}/usage` and `GET /api/usage`

use axum::{Json, extract::State};
use chrono::{DateTime, Days, NaiveDate, SubsecRound as _, Utc};
use dues_domain::ids::AccountId;
use dues_store::usage::{ClosedMeter, ClosedWindow, DayStats};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::entitlements_get::entitled;
use crate::{
    AppState,
    auth::{Caller, UsageRead},
    dto::{AccountName, MetersBody},
    extract::{AccountPath, QueryString},
    problem::{CallerProblems, Code, Problem, ProblemBody, SessionProblems},
    session::EndUser,
};

/// The most days in one answer.
const MOST_DAYS: u64 = 366;
/// Days before the last one, where nothing is said.
const DAYS: u64 = 30;
/// Windows that are over in one answer.
const WINDOWS: u32 = 24;

/// Which days.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Range {
    /// The first UTC day; 30 days before the last one where it is not given.
    #[param(example = "2026-11-01")]
    from: Option<NaiveDate>,
    /// The last UTC day; today where it is not given. At most 366 days after the first one.
    #[param(example = "2026-11-30")]
    to: Option<NaiveDate>,
}

/// What an account uses, and has used.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Usage)]
pub(crate) struct UsageBody {
    account: AccountName,
    current: CurrentWindow,
    /// The windows before, newest first: the last 24 in which anything was used.
    windows: Vec<WindowBody>,
    /// The days on which anything was used, oldest first.
    days: Vec<DayBody>,
    /// The instant that this answer is about.
    as_of: DateTime<Utc>,
}

/// The window that runs.
#[derive(Debug, Serialize, ToSchema)]
struct CurrentWindow {
    started_at: DateTime<Utc>,
    ends_at: DateTime<Utc>,
    meters: MetersBody,
}

/// A window that is over.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ClosedWindow)]
struct WindowBody {
    started_at: DateTime<Utc>,
    ended_at: DateTime<Utc>,
    requests: ClosedMeterBody,
    tokens: ClosedMeterBody,
}

/// What a meter counted in a window that is over.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ClosedMeter)]
struct ClosedMeterBody {
    used: u64,
    /// The part of it that was not included.
    overage: u64,
    /// Used as well, beyond a reservation and beyond the hard limit.
    excess: u64,
}

/// What was used on a UTC day.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageDay)]
struct DayBody {
    day: NaiveDate,
    requests: u64,
    conversations: u64,
    tokens: u64,
}

impl From<ClosedMeter> for ClosedMeterBody {
    fn from(ClosedMeter { used, overage, excess }: ClosedMeter) -> Self {
        Self { used, overage, excess }
    }
}

impl From<ClosedWindow> for WindowBody {
    fn from(closed: ClosedWindow) -> Self {
        Self {
            started_at: closed.window.start,
            ended_at: closed.window.end,
            requests: closed.requests.into(),
            tokens: closed.tokens.into(),
        }
    }
}

impl From<DayStats> for DayBody {
    fn from(DayStats { day, requests, conversations, tokens }: DayStats) -> Self {
        Self { day, requests, conversations, tokens }
    }
}

/// What does this account use, and what has it used?
#[utoipa::path(
    get, path = "/v1/accounts/{id}/usage", tag = "usage", security(("api_key" = ["usage:read"])),
    params(("id" = Uuid, Path, description = "Our id of the account"), Range),
    responses(
        (status = 200, description = "The window that runs, those before, and the days", body = UsageBody),
        (status = 400, description = "`invalid_id` or `invalid_query`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get_usage(
    _: Caller<UsageRead>,
    State(state): State<AppState>,
    AccountPath(id): AccountPath,
    QueryString(range): QueryString<Range>,
) -> Result<Json<UsageBody>, Problem> {
    usage_of(&state, id, &range, Code::AccountNotFound).await.map(Json)
}

/// What do I use, and what have I used?
#[utoipa::path(
    get, path = "/api/usage", tag = "sessions", security(("session" = [])),
    params(Range),
    responses(
        (status = 200, description = "The window that runs, those before, and the days", body = UsageBody),
        (status = 400, description = "`invalid_query`", body = ProblemBody, content_type = "application/problem+json"),
        SessionProblems,
    ),
)]
pub(crate) async fn own_usage(
    user: EndUser,
    State(state): State<AppState>,
    QueryString(range): QueryString<Range>,
) -> Result<Json<UsageBody>, Problem> {
    // An account that another one has claimed is gone, and its sessions with it.
    usage_of(&state, user.account(), &range, Code::NoSession).await.map(Json)
}

async fn usage_of(
    state: &AppState,
    id: AccountId,
    range: &Range,
    unknown: Code,
) -> Result<UsageBody, Problem> {
    let now = state.clock.now().trunc_subsecs(3);
    let (from, to) = days(range, now)?;
    let known = state.snapshot.account(id).await?.ok_or(unknown)?;
    let entitlement = entitled(state, &known, now);
    let usage = state.usage.usage(id, now).await?;
    let closed = state.usage.store().closed_windows(id, WINDOWS).await?;
    let days = state.usage.store().days(id, from, to).await?;
    let (current, over) =
        usage.at(entitlement.allowance.anchor, now).map_err(|error| Problem::internal(&error))?;
    // One that is over may not have been closed yet, or have been closed between the two reads.
    let over = over.filter(|over| closed.first().is_none_or(|newest| newest.window != over.window));
    let windows = over.map(ClosedWindow::from).into_iter().chain(closed).map(Into::into).collect();
    Ok(UsageBody {
        account: (&known.account).into(),
        current: CurrentWindow {
            started_at: current.window.start,
            ends_at: current.window.end,
            meters: current.meters(&entitlement.allowance).into(),
        },
        windows,
        days: days.into_iter().map(Into::into).collect(),
        as_of: now,
    })
}

fn days(range: &Range, now: DateTime<Utc>) -> Result<(NaiveDate, NaiveDate), Problem> {
    let invalid = |detail| Problem::new(Code::InvalidQuery).with_detail(detail);
    let to = range.to.unwrap_or_else(|| now.date_naive());
    let from = match range.from {
        Some(from) => from,
        None => to.checked_sub_days(Days::new(DAYS)).ok_or_else(|| invalid("to is outside the calendar"))?,
    };
    // What PostgreSQL and RFC 3339 can name.
    let named = |day: NaiveDate| (0..=9999).contains(&chrono::Datelike::year(&day));
    if !named(from) || !named(to) {
        return Err(invalid("from and to must be days of the years 0 to 9999"));
    }
    let length = to.signed_duration_since(from).num_days();
    if !u64::try_from(length).is_ok_and(|length| length <= MOST_DAYS) {
        return Err(invalid("to must be from on, and at most 366 days after it"));
    }
    Ok((from, to))
}
