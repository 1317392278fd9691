//! Finding an account by another name than its id.

use dues_store::{Account, Store};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    extract,
    problem::{Code, Problem},
};

/// Exactly one of the two.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Find {
    /// The platform's id of its user.
    #[param(example = "user-42")]
    external_id: Option<String>,
    /// A wallet of the account.
    #[param(example = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8")]
    wallet: Option<String>,
}

impl Find {
    pub(super) async fn account(self, store: &Store) -> Result<Account, Problem> {
        let found = match (self.external_id, self.wallet) {
            // PostgreSQL's text cannot hold a NUL, so no account has one in its id.
            (Some(external_id), None) if external_id.contains('\0') => None,
            (Some(external_id), None) => store.account_by_external_id(&external_id).await?,
            (None, Some(wallet)) => store.account_by_wallet(extract::address(&wallet)?).await?,
            _ => {
                let problem = Problem::new(Code::InvalidQuery);
                return Err(problem.with_detail("exactly one of external_id and wallet is needed"));
            }
        };
        found.ok_or_else(|| Code::AccountNotFound.into())
    }
}
