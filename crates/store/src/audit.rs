//! Who did what, in the same transaction as the deed.

use std::fmt;

use dues_domain::ids::ApiKeyId;
use serde_json::Value;
use sqlx::PgConnection;

use crate::StoreError;

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// A caller of the API, by its key.
    ApiKey(ApiKeyId),
    /// Somebody with a shell on the server.
    Operator,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiKey(id) => write!(f, "api_key:{id}"),
            Self::Operator => f.write_str("operator"),
        }
    }
}

pub(crate) async fn record(
    connection: &mut PgConnection,
    actor: Actor,
    action: &str,
    subject: &str,
    detail: Value,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO ledger.audit_log (actor, action, subject, detail) VALUES ($1, $2, $3, $4)",
        actor.to_string(),
        action,
        subject,
        detail,
    )
    .execute(connection)
    .await?;
    Ok(())
}
