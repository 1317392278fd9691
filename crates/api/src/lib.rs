//! The REST API: accounts, wallets, entitlements
