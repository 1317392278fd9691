//! One file per endpoint.

pub(crate) mod accounts_find;
pub(crate) mod accounts_get;
pub(crate) mod accounts_upsert;
pub(crate) mod entitlements_find;
pub(crate) mod entitlements_get;
mod find;
pub(crate) mod health;
pub(crate) mod relay_get;
pub(crate) mod relay_post;
pub(crate) mod transactions_list;
pub(crate) mod wallets_link;
