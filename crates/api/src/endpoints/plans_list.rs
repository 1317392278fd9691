//! `GET /v1/plans` and `GET /api/plans`

use std::collections::BTreeSet;

use axum::{Json, extract::State};
use dues_domain::{
    calendar::{Interval, IntervalUnit},
    catalogue::{PlanOffer, Tier},
    money::{Asset, Money},
};
use dues_store::PlanSale;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    AppState,
    auth::{Caller, EntitlementsRead},
    dto::MoneyBody,
    problem::{CallerProblems, Problem, PublicProblems},
};

/// What is sold.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Catalogue)]
pub(crate) struct CatalogueBody {
    /// Ascending, `free` first, which nobody has to buy.
    tiers: Vec<TierBody>,
    /// By tier, then by price.
    plans: Vec<PlanBody>,
}

/// What a tier gives.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tier)]
struct TierBody {
    #[schema(value_type = String, example = "basic")]
    tier: Tier,
    /// Those of the tiers below it included.
    features: BTreeSet<String>,
    quotas: Quotas,
}

/// How much a month holds; `null` means unlimited.
#[derive(Debug, Serialize, ToSchema)]
struct Quotas {
    requests: Option<u64>,
    tokens: Option<u64>,
}

/// A plan.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Plan)]
struct PlanBody {
    #[schema(example = "basic-month")]
    id: String,
    #[schema(value_type = String, example = "basic")]
    tier: Tier,
    /// What one period costs.
    price: MoneyBody,
    interval: IntervalBody,
    /// Where a wallet can subscribe to it; empty where it is not sold on any chain yet.
    chains: Vec<SaleBody>,
}

/// How long a period is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Interval)]
struct IntervalBody {
    /// `day` or `month`. A year is twelve months.
    #[schema(example = "month")]
    unit: &'static str,
    #[schema(example = 1)]
    count: u16,
}

/// An on-chain plan that takes new subscribers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChainPlan)]
struct SaleBody {
    #[schema(example = 8453)]
    chain_id: u64,
    /// What `subscribe(plan, ref)` is called on.
    contract: String,
    /// The contract's number for the plan.
    #[schema(example = "1")]
    onchain_id: String,
    /// The ERC-20 that it is paid in.
    token: String,
    /// Who is paid.
    payee: String,
    /// How long it is free of charge at first, once per payer and merchant.
    trial_seconds: u32,
    /// How long a renewal is tried, and access kept.
    grace_seconds: u32,
    /// The most that may be charged for usage in a period, beside the price.
    usage_cap: MoneyBody,
}

impl From<Interval> for IntervalBody {
    fn from(interval: Interval) -> Self {
        let unit = match interval.unit {
            IntervalUnit::Day => "day",
            IntervalUnit::Month => "month",
        };
        Self { unit, count: interval.count }
    }
}

impl SaleBody {
    fn new(sale: &PlanSale, asset: &Asset) -> Self {
        Self {
            chain_id: sale.source.chain_id,
            contract: sale.source.contract.to_string(),
            onchain_id: sale.onchain_id.to_string(),
            token: sale.token.to_string(),
            payee: sale.payee.to_string(),
            trial_seconds: sale.trial_seconds,
            grace_seconds: sale.grace_seconds,
            usage_cap: Money { amount: sale.usage_cap, asset: asset.clone() }.into(),
        }
    }
}

/// What is sold, and on which chains
#[utoipa::path(
    get, path = "/v1/plans", tag = "plans", security(("api_key" = ["entitlements:read"])),
    responses(
        (status = 200, description = "Tiers and plans", body = CatalogueBody),
        CallerProblems,
    ),
)]
pub(crate) async fn list_plans(
    _: Caller<EntitlementsRead>,
    State(state): State<AppState>,
) -> Result<Json<CatalogueBody>, Problem> {
    catalogue(&state).await.map(Json)
}

/// What is sold, and on which chains, for everybody to see
///
/// Who wants to subscribe has no account yet, and needs none to look.
#[utoipa::path(
    get, path = "/api/plans", tag = "plans", security(),
    responses(
        (status = 200, description = "Tiers and plans", body = CatalogueBody),
        PublicProblems,
    ),
)]
pub(crate) async fn see_plans(State(state): State<AppState>) -> Result<Json<CatalogueBody>, Problem> {
    catalogue(&state).await.map(Json)
}

async fn catalogue(state: &AppState) -> Result<CatalogueBody, Problem> {
    let sales = state.store.plan_sales(state.catalogue.plans()).await?;
    let tiers = Tier::ALL
        .into_iter()
        .map(|tier| {
            let terms = state.catalogue.terms(tier);
            let quotas = Quotas { requests: terms.requests.limit(), tokens: terms.tokens.limit() };
            TierBody { tier, features: terms.features, quotas }
        })
        .collect();
    let mut offers: Vec<&PlanOffer> = state.catalogue.plans().collect();
    offers.sort_by_key(|offer| (offer.tier, offer.price.amount, &offer.key));
    let plans = offers
        .into_iter()
        .map(|offer| PlanBody {
            id: offer.key.as_str().to_owned(),
            tier: offer.tier,
            price: offer.price.clone().into(),
            interval: offer.interval.into(),
            chains: sales
                .iter()
                .filter(|sale| sale.key == offer.key)
                .map(|sale| SaleBody::new(sale, &offer.price.asset))
                .collect(),
        })
        .collect();
    Ok(CatalogueBody { tiers, plans })
}
