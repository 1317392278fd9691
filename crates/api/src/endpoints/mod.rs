//! One file per endpoint.

pub(crate) mod accounts_find;
pub(crate) mod accounts_get;
pub(crate) mod accounts_upsert;
pub(crate) mod entitlements_batch;
pub(crate) mod entitlements_find;
pub(crate) mod entitlements_get;
mod find;
pub(crate) mod health;
pub(crate) mod plans_list;
pub(crate) mod relay_get;
pub(crate) mod relay_post;
pub(crate) mod session_challenge;
pub(crate) mod session_create;
pub(crate) mod session_end;
pub(crate) mod sessions_end;
pub(crate) mod sessions_mint;
pub(crate) mod subscription_get;
pub(crate) mod transactions_list;
mod usage;
pub(crate) mod usage_batch;
pub(crate) mod usage_consume;
pub(crate) mod usage_get;
pub(crate) mod usage_release;
pub(crate) mod usage_reserve;
pub(crate) mod usage_settle;
pub(crate) mod wallets_challenge;
pub(crate) mod wallets_link;
pub(crate) mod wallets_unlink;

pub(crate) use usage::parse_reservation_id;
