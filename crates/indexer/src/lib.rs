//! Mirrors the contract's events into the ledger: backfill, head, reorganisations
