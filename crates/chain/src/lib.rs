//! The chain side: the contract's bindings and events, and a source of verified blocks and logs.
//!
//! * [`contract`]: typed bindings from the committed artifact, and logs decoded into
//!   [`dues_domain::chain::ContractEvent`]s.
//! * [`source`]: a range of the chain whose logs are checked against the headers that they claim to be in.
//! * [`refusals`]: what the contract refuses with, in words.
//! * [`deploy`]: the deterministic address of the contract and the transaction that puts it there.

pub mod contract;
pub mod deploy;
pub mod refusals;
pub mod source;
