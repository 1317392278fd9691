//! `GET /v1/accounts/{id}/transactions`

use alloy_primitives::B256;
use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use dues_domain::ids::TransactionId;
use dues_store::{Transaction, TransactionKind, TransactionStatus};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    AppState,
    auth::{AccountsRead, Caller},
    dto::MoneyBody,
    extract::{AccountPath, QueryString},
    problem::{CallerProblems, Code, Problem, ProblemBody},
};

/// The largest page.
const MAX_LIMIT: u32 = 100;

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// `next_cursor` of the page before.
    cursor: Option<Uuid>,
    /// How many, 1 to 100; 20 where it is not given.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<u32>,
}

/// A page of transactions, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TransactionPage {
    data: Vec<TransactionBody>,
    /// Asks for the next page; `null` on the last one.
    next_cursor: Option<Uuid>,
}

/// One money movement.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Transaction)]
struct TransactionBody {
    id: Uuid,
    subscription_id: Uuid,
    /// `charge` for periods, `usage` beside the price, `refund` back to the payer.
    #[schema(example = "charge")]
    kind: &'static str,
    /// `pending` while its block may be reorganised away, then `completed`; `failed` where it was.
    #[schema(example = "completed")]
    status: &'static str,
    failure_reason: Option<String>,
    /// Always positive; `kind` says which way it went.
    money: MoneyBody,
    /// Start of the time that it pays for; `null` of a refund.
    period_start: Option<DateTime<Utc>>,
    /// End of the time that it pays for, which may be several periods; `null` of a refund.
    period_end: Option<DateTime<Utc>>,
    /// The merchant's idempotency key of usage and refunds, as it is on the chain; `null` of a charge.
    #[schema(value_type = Option<String>)]
    key: Option<B256>,
    chain_id: u64,
    contract: String,
    /// Whose money it was: of a refund, the merchant's or an operator's.
    payer: String,
    /// Who got it.
    payee: String,
    #[schema(value_type = String)]
    tx_hash: B256,
    block_number: u64,
    #[schema(value_type = String)]
    block_hash: B256,
    log_index: u64,
    /// Time of the block.
    occurred_at: DateTime<Utc>,
}

impl From<Transaction> for TransactionBody {
    fn from(t: Transaction) -> Self {
        Self {
            id: t.id.as_uuid(),
            subscription_id: t.subscription.as_uuid(),
            kind: match t.kind {
                TransactionKind::Charge => "charge",
                TransactionKind::Usage => "usage",
                TransactionKind::Refund => "refund",
            },
            status: match t.status {
                TransactionStatus::Pending => "pending",
                TransactionStatus::Completed => "completed",
                TransactionStatus::Failed => "failed",
            },
            failure_reason: t.failure_reason,
            money: t.money.into(),
            period_start: t.period.map(|span| span.start),
            period_end: t.period.map(|span| span.end),
            key: t.key,
            chain_id: t.source.chain_id,
            contract: t.source.contract.to_string(),
            payer: t.payer.to_string(),
            payee: t.payee.to_string(),
            tx_hash: t.tx_hash,
            block_number: t.block.number,
            block_hash: t.block.hash,
            log_index: t.log_index,
            occurred_at: t.occurred_at,
        }
    }
}

/// Read an account's money movements
#[utoipa::path(
    get, path = "/v1/accounts/{id}/transactions", tag = "accounts", security(("api_key" = ["accounts:read"])),
    params(("id" = Uuid, Path, description = "Our id of the account"), Page),
    responses(
        (status = 200, description = "Newest first", body = TransactionPage),
        (status = 400, description = "`invalid_id` or `invalid_query`", body = ProblemBody, content_type = "application/problem+json"),
        CallerProblems,
        (status = 404, description = "`account_not_found`", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn list_transactions(
    _: Caller<AccountsRead>,
    State(state): State<AppState>,
    AccountPath(id): AccountPath,
    QueryString(page): QueryString<Page>,
) -> Result<Json<TransactionPage>, Problem> {
    let limit = page.limit.unwrap_or(20);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::new(Code::InvalidQuery).with_detail("limit must be 1 to 100"));
    }
    state.store.account(id).await?.ok_or(Code::AccountNotFound)?;
    let cursor = page.cursor.map(TransactionId::from_uuid);
    // One more than asked for tells whether there is another page.
    let mut rows = state.store.transactions(id, cursor, limit.saturating_add(1)).await?;
    let more = u32::try_from(rows.len()).is_ok_and(|found| found > limit);
    if more {
        rows.pop();
    }
    let next_cursor = rows.last().filter(|_| more).map(|last| last.id.as_uuid());
    Ok(Json(TransactionPage { data: rows.into_iter().map(TransactionBody::from).collect(), next_cursor }))
}
