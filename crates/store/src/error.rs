//! What can go wrong with the ledger.

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The configured URL is not one of PostgreSQL. The URL itself is not repeated: it holds a password.
    #[error("the database URL is not of the form postgres://user:password@host:port/name")]
    Url,
    /// The server failed or did not answer.
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
    /// A migration failed.
    #[error("the schema could not be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The schema is of another release.
    #[error("the schema is not of this release: run `dues migrate`")]
    SchemaOutOfDate,
    /// A row or a set of rows that the rules do not allow.
    #[error("the ledger contradicts itself: {0}")]
    Inconsistent(&'static str),
    /// No such account.
    #[error("no such account")]
    UnknownAccount,
    /// No such transaction of this account.
    #[error("no such transaction")]
    UnknownTransaction,
    /// No such API key.
    #[error("no such API key")]
    UnknownApiKey,
    /// The API key has ended: it was revoked, or it has expired.
    #[error("the API key was revoked, or has expired")]
    ApiKeyEnded,
    /// It is not known yet what became of the same act, begun before.
    #[error("the same was begun before, with another key, and it is not known yet what became of it")]
    ActUnresolved,
    /// The wallet belongs to another account of the platform.
    #[error("the wallet belongs to another account")]
    WalletTaken,
    /// The wallet does not belong to this account.
    #[error("the wallet does not belong to this account")]
    UnknownWallet,
    /// The account was made for this wallet, and has nobody without it.
    #[error("the account was made for this wallet, and would be nobody's without it")]
    WalletNeeded,
    /// The signed challenge has had its effect already.
    #[error("what was signed has had its effect already")]
    ChallengeSpent,
    /// The ledger was begun for another merchant, or from a later block.
    #[error(
        "this contract was indexed for another merchant or from a later start_block: what was left out then would \
         stay out; give the former settings, or another database"
    )]
    OtherScope,
    /// Nothing of the contract is in the ledger.
    #[error("nothing of this contract is in the ledger yet: the indexer has to run first")]
    NotMirrored,
    /// Usage was not counted, or nobody knows whether it was: the same again tells, as it is counted once. What happened is
    /// in the log.
    #[error("the usage was not counted")]
    NotCounted {
        /// Whether it may well be counted the next time.
        transient: bool,
    },
    /// The checkpoint is not where this writer left it: another writer was here.
    #[error("the checkpoint was moved by another indexer")]
    CheckpointMoved,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let constraint = match &error {
            sqlx::Error::Database(cause) => cause.constraint(),
            _ => None,
        };
        match constraint {
            Some(
                "wallets_account_id_fkey"
                | "subscriptions_account_id_fkey"
                | "relay_intents_account_id_fkey"
                | "sessions_account_id_fkey",
            ) => Self::UnknownAccount,
            Some("spent_challenges_pkey") => Self::ChallengeSpent,
            Some("merchant_acts_open_once") => Self::ActUnresolved,
            // The contract cannot cause these. Whoever gets here has projected something wrongly, and must not go on.
            Some("transactions_transfer_key" | "transactions_spent_key_key") => {
                Self::Inconsistent("a money movement was to be written twice")
            }
            Some("transactions_period_paid_once") => Self::Inconsistent("a period was to be paid twice"),
            Some("transactions_key_spent_once") => Self::Inconsistent("a key was to be spent twice"),
            Some("transactions_event_once") => Self::Inconsistent("an event was to be two money movements"),
            Some("subscriptions_onchain_plan_fkey" | "subscriptions_scheduled_plan_fkey") => {
                Self::Inconsistent("a subscription is on, or changes to, a plan that is not known")
            }
            _ => Self::Database(error),
        }
    }
}

impl StoreError {
    /// Whether the same call may succeed later without anybody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(cause)) => {
                // Class 08 connection, 40 rollback (deadlock, serialisation), 53 resources, 57 intervention.
                cause.code().is_some_and(|code| ["08", "40", "53", "57"].iter().any(|c| code.starts_with(c)))
            }
            Self::NotCounted { transient } => *transient,
            Self::Database(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed) => true,
            _ => false,
        }
    }
}
