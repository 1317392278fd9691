//! Finding an account by another name than its id.

use std::sync::Arc;

use alloy_primitives::Address;
use dues_store::{Account, Store};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    extract,
    problem::{Code, Problem},
    snapshot::{Known, Snapshot},
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

/// A name of an account other than its id.
enum Name {
    ExternalId(String),
    Wallet(Address),
}

impl Find {
    pub(super) async fn account(self, store: &Store) -> Result<Account, Problem> {
        let found = match self.name()? {
            Name::ExternalId(external_id) => store.account_by_external_id(&external_id).await?,
            Name::Wallet(wallet) => store.account_by_wallet(wallet).await?,
        };
        found.ok_or_else(|| Code::AccountNotFound.into())
    }

    /// The same from memory.
    pub(super) async fn known(self, snapshot: &Snapshot) -> Result<Arc<Known>, Problem> {
        let found = match self.name()? {
            Name::ExternalId(external_id) => snapshot.by_external_id(&external_id).await?,
            Name::Wallet(wallet) => snapshot.by_wallet(wallet).await?,
        };
        found.ok_or_else(|| Code::AccountNotFound.into())
    }

    fn name(self) -> Result<Name, Problem> {
        match (self.external_id, self.wallet) {
            // PostgreSQL's text cannot hold a NUL, so no account has one in its id.
            (Some(external_id), None) if external_id.contains('\0') => Err(Code::AccountNotFound.into()),
            (Some(external_id), None) => Ok(Name::ExternalId(external_id)),
            (None, Some(wallet)) => Ok(Name::Wallet(extract::address(&wallet)?)),
            _ => {
                let problem = Problem::new(Code::InvalidQuery);
                Err(problem.with_detail("exactly one of external_id and wallet is needed"))
            }
        }
    }
}
