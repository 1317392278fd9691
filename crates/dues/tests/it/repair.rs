//! `dues audit` and `dues reindex` beside a running Dues.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use alloy::{
    primitives::{B256, U256, aliases::U96},
    signers::local::PrivateKeySigner,
};
use chrono::{DateTime, Utc};
use dues_chain::contract::{Dues, IDues};
use dues_domain::catalogue::Tier;
use dues_tests::{Account, FINALITY_DEPTH, Options, Site, Stack, event};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use sqlx::AssertSqlSafe;
use tempfile::TempDir;

use crate::{Dues as Process, Outcome, run, scratch};

/// A running Dues, and the place that the commands are run in.
pub(crate) struct Shop {
    pub(crate) stack: Stack,
    pub(crate) account: Account,
    pub(crate) payer: PrivateKeySigner,
    dir: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Shop {
    /// One that has sold nothing to anybody but the demo's accounts.
    pub(crate) async fn quiet() -> Self {
        let stack = Site::new(Options { external_chain: true, ..Options::default() }).await.start().await;
        let (account, payer) = stack.customer(1).await;
        let dir = scratch();
        let config = format!(
            "[chains.dev]\nchain_id = {}\nmerchant = \"{}\"\ntoken = \"{}\"\nstart_block = 1\n\
             finality = {FINALITY_DEPTH}\n",
            stack.chain.id, stack.chain.merchant, stack.chain.token
        );
        fs::write(dir.path().join("dues.toml"), config).unwrap();
        let environment = vec![
            ("DUES__DATABASE__URL", stack.site().database.url().expose_secret().to_owned()),
            ("DUES__CHAINS__DEV__RPC_URL", stack.site().rpc_url().to_string()),
        ];
        Self { stack, account, payer, dir, environment }
    }

    /// One with something of everything, the newest of it not final.
    pub(crate) async fn busy() -> Self {
        let shop = Self::quiet().await;
        let (stack, chain, payer) = (&shop.stack, &shop.stack.chain, &shop.payer);
        let merchant = chain.merchant_wallet();
        let terms = IDues::PlanTerms {
            usageCap: U96::from(50_000_000),
            ..chain.monthly(99_990_000, stack.chain.merchant)
        };
        let metered = stack.sell("premium-metered", Tier::Premium, terms).await;
        let (basic, enterprise) =
            (stack.plan("basic-month").onchain_id, stack.plan("enterprise-month").onchain_id);
        chain.approve(&merchant, 1_000_000_000).await;

        let receipt = chain.subscribe(payer, metered, shop.account.reference).await;
        let id = event::<Dues::Subscribed>(&receipt).id;
        chain.charge_usage(id, 1, 1_230_000, B256::repeat_byte(1)).await;
        chain.refund(id, 5_000_000, B256::repeat_byte(2)).await;
        chain.renew(id, Duration::from_secs(60)).await;
        chain.prepay(payer, id, 2).await;
        chain.schedule_change(payer, id, basic).await;
        // Without an account of the platform's; it changes at once, and ends.
        let wallet = chain.payer(2).await;
        let receipt = chain.subscribe(&wallet, basic, B256::ZERO).await;
        let id = event::<Dues::Subscribed>(&receipt).id;
        chain.change_now(&wallet, id, enterprise).await;
        chain.cancel(&wallet, id).await;
        chain.cancel_now(&merchant, id).await;
        // Somebody else's business on the same contract.
        let other = chain.payer(3).await;
        let theirs = chain.create_plan(&other, &chain.monthly(1_000_000, other.address())).await;
        chain.subscribe(&wallet, theirs, B256::ZERO).await;
        chain.execute(&merchant, chain.contract, &Dues::retirePlanCall { planId: metered }).await;
        chain.mine(FINALITY_DEPTH).await;
        // Two of one batch, and one that has only begun.
        let third = chain.payer(4).await;
        let receipt = chain.subscribe_prepaid(&third, basic, B256::ZERO, 2, false).await;
        let first = event::<Dues::Subscribed>(&receipt).id;
        let receipt = chain.subscribe(&third, basic, B256::ZERO).await;
        let second: U256 = event::<Dues::Subscribed>(&receipt).id;
        chain.next_block_at((chain.paid_through(second).await + Duration::from_secs(9)).timestamp()).await;
        chain.charge_batch(&[first, second]).await;
        chain.mine(3).await;
        stack.synced().await;
        shop
    }

    pub(crate) fn environment(&self) -> Vec<(&str, &str)> {
        self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) async fn dues(&self, args: &[&str]) -> Outcome {
        run(self.dir.path(), args, &self.environment()).await
    }

    /// The same with something else in the environment besides.
    pub(crate) async fn dues_with(&self, more: &[(&str, &str)], args: &[&str]) -> Outcome {
        run(self.dir.path(), args, &[&self.environment(), more].concat()).await
    }

    pub(crate) fn dues_beside(&self, args: &[&str]) -> Process {
        Process::start(self.dir.path(), args, &self.environment())
    }

    /// What an audit finds, in lines; it must have been able to look.
    pub(crate) async fn audit(&self) -> Vec<String> {
        let outcome = self.dues(&["audit", "--chain", "dev"]).await;
        let mut lines: Vec<_> = outcome.stdout.lines().map(str::to_owned).collect();
        let summary = lines.pop().unwrap_or_default();
        assert!(summary.contains("compared: "), "{outcome:?}");
        let code = if lines.is_empty() { 0 } else { 1 };
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        lines
    }

    /// The document that a rebuild prints.
    pub(crate) async fn reindex(&self, args: &[&str]) -> Value {
        let args: Vec<_> = ["reindex", "--chain", "dev", "--json"].iter().chain(args).copied().collect();
        let outcome = self.dues(&args).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let document: Value = serde_json::from_str(&outcome.stdout).unwrap();
        document["chains"][0].clone()
    }

    /// Past all of Dues; gives how many rows it touched.
    pub(crate) async fn sql(&self, statement: impl Into<String>) -> u64 {
        let statement = AssertSqlSafe(statement.into());
        sqlx::query(statement).execute(self.stack.ledger.pool()).await.unwrap().rows_affected()
    }

    /// The database's time.
    pub(crate) async fn now(&self) -> DateTime<Utc> {
        sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(self.stack.ledger.pool()).await.unwrap()
    }

    /// How many rows of a table were written since `at`.
    pub(crate) async fn written_since(&self, table: &str, at: DateTime<Utc>) -> i64 {
        let query = format!("SELECT count(*) FROM ledger.{table} WHERE updated_at >= $1");
        let query = sqlx::query_scalar(AssertSqlSafe(query)).bind(at);
        query.fetch_one(self.stack.ledger.pool()).await.unwrap()
    }

    /// Every row, but for when it was written last, and those that say when something was repaired.
    pub(crate) async fn digest(&self) -> BTreeMap<String, String> {
        let mut digests = BTreeMap::new();
        for table in self.stack.ledger.digest().await.into_keys().filter(|table| table != "audit_log") {
            let full = if table.contains('.') { table.clone() } else { format!("ledger.{table}") };
            let query = AssertSqlSafe(format!(
                "SELECT count(*) || ' ' || coalesce(md5(string_agg(row::text, ',' ORDER BY row::text)), '')
                 FROM (SELECT to_jsonb(t) - 'last_used_at' - 'updated_at' AS row FROM {full} t) rows"
            ));
            let digest = sqlx::query_scalar(query).fetch_one(self.stack.ledger.pool()).await.unwrap();
            digests.insert(table, digest);
        }
        digests
    }
}
