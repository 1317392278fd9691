//! The harness of the end-to-end tests: a whole Dues on a chain, a database and ports of its own, per test.
//!
//! * [`Stack`]: a devnet that runs in the test's own process, with everything to talk to it. [`Stack::stop`] gives
//!   the [`Site`] (data directory, database and, where it is not the devnet's, chain), from which the next
//!   [`Stack`] goes on.
//! * [`Chain`]: wallets, the contract's calls, and what only a test may do to a chain (reorganise it, say).
//! * [`Api`]: the HTTP side, as the platform's server sees it.
//! * [`ApiServer`]: an API on a database alone, for what needs no chain.
//! * [`FaultProxy`]: a node that fails, lags and lies, in front of one that does not.
//! * [`Ledger`]: PostgreSQL, for looking at rows.
//! * [`RunningKeeper`]: whoever charges what is due.
//! * [`history`]: whatever can happen, at random.
//! * [`eventually`]: waiting for a condition, with a deadline and without sleeping for luck.
//!
//! The chain has no clock: each transaction gets a block at once, and nothing else makes blocks, so that a test
//! says when time passes. Set `DUES_TEST_DATABASE_URL` to a PostgreSQL server in which databases may be made, as
//! `script/test` does; without it, every test starts a PostgreSQL of its own, which takes longer.

mod api;
mod catalogue;
mod chain;
mod changes;
mod database;
mod fault_proxy;
pub mod history;
mod intents;
mod keeper;
mod ledger;
mod relay;
mod reorg;
mod server;
mod stack;
mod wait;
mod wallets;

pub use api::{Account, Answer, Api};
pub use catalogue::catalogue;
pub use chain::{Chain, Permit, SignedTx, Token, event};
pub use database::Database;
pub use fault_proxy::{Counters, Fault, FaultProxy, Faults};
pub use keeper::{
    BlocklistToken, KeeperRow, MoodyToken, RunningKeeper, keeper_config, keeper_limits, now, relay_limits,
    signer,
};
pub use ledger::{Ledger, SubscriptionRow, TransactionRow};
pub use server::{ApiServer, MovableClock};
pub use stack::{FINALITY_DEPTH, GRACE_SECONDS, Options, Plan, Site, Stack, asset, synced};
pub use wait::{SOON, eventually};
pub use wallets::{OddWallet, sign_message, with_high_s};
