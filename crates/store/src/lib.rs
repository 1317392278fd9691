//! The ledger in PostgreSQL: the only place with SQL
