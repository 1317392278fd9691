//! The local devnet: anvil, PostgreSQL, contract, catalogue, demo accounts
