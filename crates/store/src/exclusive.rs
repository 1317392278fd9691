//! What one process at a time may do.

use sqlx::{Connection as _, PgConnection};

use crate::{Store, StoreError};

/// A holder whose machine vanished must not hold for as long as TCP would by default.
const KEEPALIVES: [(&str, &str); 3] =
    [("tcp_keepalives_idle", "10"), ("tcp_keepalives_interval", "5"), ("tcp_keepalives_count", "3")];

impl Store {
    /// A connection that holds the advisory locks `names` for as long as it lasts, or `None` where another one holds one of
    /// them. `settings` are PostgreSQL's, for this connection.
    pub(crate) async fn exclusive(
        &self,
        names: &[&str],
        settings: &[(&str, &str)],
    ) -> Result<Option<PgConnection>, StoreError> {
        let options = (*self.pool.connect_options()).clone();
        let options = options.options(KEEPALIVES).options(settings.iter().copied());
        let mut connection = PgConnection::connect_with(&options).await?;
        for name in names {
            let held = sqlx::query_scalar!(
                r#"SELECT pg_try_advisory_lock(hashtextextended($1, 0)) AS "held!""#,
                *name
            )
            .fetch_one(&mut connection)
            .await?;
            if !held {
                // Which gives back those before, too.
                connection.close().await?;
                return Ok(None);
            }
        }
        Ok(Some(connection))
    }
}
