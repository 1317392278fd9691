//! The rules of Dues, without I/O and without a clock.
//!
//! Everything here is a pure function of its arguments: an instant is always passed in, nothing is read from
//! the network, a file or the machine's time. The other crates bring facts (ledger rows, chain events) and ask.
//!
//! | module | rule it holds |
//! |---|---|
//! | [`ids`] | one type per id; an account's on-chain reference |
//! | [`money`] | integers in base units, decimals only at the edge |
//! | [`calendar`] | period *n* ends at *anchor + n intervals*, never chained |
//! | [`catalogue`] | tiers, quotas, features, plans |
//! | [`fold`] | what a subscription's on-chain events amount to, and the money that moved |
//! | [`subscription`] | its status at an instant |
//! | [`dunning`] | when a refused renewal is tried again |
//! | [`relay`] | what payers sign for others to send |
//! | [`entitlement`] | what an account may do at an instant, and on what evidence |
//! | [`usage`] | quota windows, and what may still be used in them |
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

pub mod calendar;
pub mod catalogue;
pub mod chain;
pub mod dunning;
pub mod entitlement;
pub mod fold;
pub mod ids;
pub mod money;
pub mod relay;
pub mod subscription;
pub mod usage;
