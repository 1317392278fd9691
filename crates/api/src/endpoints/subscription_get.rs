//! `GET /api/subscription`

use std::collections::HashMap;

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use dues_domain::{
    catalogue::Tier, entitlement::Rail, entitlement::SubscriptionFacts, subscription::SubscriptionStatus,
};
use dues_store::PaidBy;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::entitlements_get::answer;
use crate::{
    AppState,
    dto::EntitlementsBody,
    problem::{Code, Problem, SessionProblems},
    session::EndUser,
};

/// What the user has, and what it is paid with.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OwnSubscription {
    /// What the user may do right now, and why.
    entitlements: EntitlementsBody,
    /// Every subscription of the account, those that have ended included; the one that lasts longest first.
    subscriptions: Vec<OwnedSubscription>,
}

/// A subscription, as its account sees it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Subscription)]
struct OwnedSubscription {
    id: Uuid,
    #[schema(value_type = String, example = "chain")]
    rail: Rail,
    #[schema(value_type = String, example = "active")]
    status: SubscriptionStatus,
    /// The catalogue's name of its plan; `null` where the catalogue does not sell it.
    #[schema(example = "basic-month")]
    plan: Option<String>,
    /// What the plan gives; `null` where the catalogue does not sell it.
    #[schema(value_type = Option<String>, example = "basic")]
    tier: Option<Tier>,
    /// The end of the last paid period.
    paid_through: DateTime<Utc>,
    cancel_at_period_end: bool,
    chain_id: u64,
    contract: String,
    /// The contract's own number for it: what `cancel` takes.
    onchain_id: String,
    /// The wallet that it is charged to, and that can cancel it; `null` for a moment while it changes.
    payer: Option<String>,
}

impl OwnedSubscription {
    fn new(facts: &SubscriptionFacts, paid_by: Option<&PaidBy>, now: DateTime<Utc>) -> Self {
        let SubscriptionFacts { id, rail, tier, term, evidence, .. } = facts;
        Self {
            id: id.as_uuid(),
            rail: *rail,
            status: term.status_at(now),
            plan: paid_by.and_then(|paid| paid.plan.as_ref()).map(|key| key.as_str().to_owned()),
            tier: *tier,
            paid_through: term.paid_through,
            cancel_at_period_end: term.cancel_at_period_end,
            chain_id: evidence.source.chain_id,
            contract: evidence.source.contract.to_string(),
            onchain_id: evidence.onchain_id.to_string(),
            payer: paid_by.map(|paid| paid.payer.to_string()),
        }
    }
}

/// What do I have?
///
/// The entitlements of the session's account, and its subscriptions.
#[utoipa::path(
    get, path = "/api/subscription", tag = "sessions", security(("session" = [])),
    responses(
        (status = 200, description = "Entitlements and subscriptions", body = OwnSubscription),
        SessionProblems,
    ),
)]
pub(crate) async fn own_subscription(
    user: EndUser,
    State(state): State<AppState>,
) -> Result<Json<OwnSubscription>, Problem> {
    // An account that another one has claimed is gone, and its sessions with it.
    let known = state.snapshot.account(user.account()).await?.ok_or(Code::NoSession)?;
    let paid_by = state.store.paid_by(user.account()).await?;
    let paid_by: HashMap<_, _> = paid_by.iter().map(|paid| (paid.subscription, paid)).collect();
    let now = state.clock.now();
    let mut facts: Vec<_> = known.subscriptions.iter().collect();
    facts.sort_by_key(|facts| (std::cmp::Reverse(facts.term.paid_through), facts.id));
    let subscriptions = facts
        .into_iter()
        .map(|facts| OwnedSubscription::new(facts, paid_by.get(&facts.id).copied(), now))
        .collect();
    Ok(Json(OwnSubscription { entitlements: answer(&state, &known).await?, subscriptions }))
}
