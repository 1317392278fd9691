//! The indexer of a history, in a process that can be killed.

use std::{
    collections::HashMap,
    env, fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use alloy::primitives::Address;
use dues_chain::source::Endpoints;
use dues_domain::chain::ChainSource;
use dues_indexer::{FinalityPolicy, IndexerConfig};
use dues_store::mirror::MirrorScope;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use url::Url;

use crate::asset;

const VARIABLE: &str = "DUES_TEST_INDEXER";
/// So often that it sees the chain in between two acts, mostly.
const POLL: Duration = Duration::from_millis(5);
/// Of what an indexer has printed, this much is shown after a failure.
const LAST_LINES: usize = 40;

/// What an indexer is to mirror, and where.
#[derive(Debug, Clone)]
pub struct Mirrored {
    /// Where the ledger is.
    pub database_url: SecretString,
    /// Where the nodes are.
    pub rpc_urls: Vec<Url>,
    /// The chain.
    pub chain_id: u64,
    /// Dues.
    pub contract: Address,
    /// The test dollar.
    pub token: Address,
    /// Whose plans count.
    pub merchant: Address,
    /// Where to begin.
    pub start_block: u64,
    /// When a block is final.
    pub finality_depth: u64,
}

impl Mirrored {
    /// What the process that started this one wants.
    ///
    /// # Panics
    /// Where nobody said.
    #[must_use]
    pub fn from_env() -> Self {
        let text = env::var(VARIABLE).unwrap_or_else(|_| panic!("{VARIABLE} does not say what to mirror"));
        let value: Value = serde_json::from_str(&text).unwrap();
        let text = |key: &str| value[key].as_str().unwrap();
        let number = |key: &str| value[key].as_u64().unwrap();
        Self {
            database_url: text("database_url").into(),
            rpc_urls: serde_json::from_value(value["rpc_urls"].clone()).unwrap(),
            chain_id: number("chain_id"),
            contract: text("contract").parse().unwrap(),
            token: text("token").parse().unwrap(),
            merchant: text("merchant").parse().unwrap(),
            start_block: number("start_block"),
            finality_depth: number("finality_depth"),
        }
    }

    /// As the indexer is told of them.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn endpoints(&self) -> Endpoints {
        self.rpc_urls.iter().map(Url::as_str).collect::<Vec<_>>().join(" ").parse().unwrap()
    }

    /// As the indexer is configured.
    #[must_use]
    pub fn config(&self) -> IndexerConfig {
        IndexerConfig {
            source: ChainSource { chain_id: self.chain_id, contract: self.contract },
            scope: MirrorScope { merchant: self.merchant, start_block: self.start_block },
            finality: FinalityPolicy::Depth(self.finality_depth),
            poll_interval: POLL,
            assets: HashMap::from([(self.token, asset())]),
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "database_url": self.database_url.expose_secret(),
            "rpc_urls": self.rpc_urls,
            "chain_id": self.chain_id,
            "contract": self.contract,
            "token": self.token,
            "merchant": self.merchant,
            "start_block": self.start_block,
            "finality_depth": self.finality_depth,
        })
    }
}

/// A process that ends with this, by SIGKILL.
#[derive(Debug)]
pub(super) struct IndexerProcess {
    child: Child,
    errors: NamedTempFile,
}

impl IndexerProcess {
    pub(super) fn start(mirrored: &Mirrored) -> Self {
        let errors = NamedTempFile::new().unwrap();
        let child = Command::new(program())
            .env(VARIABLE, mirrored.to_json().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors.reopen().unwrap())
            .spawn()
            .unwrap();
        Self { child, errors }
    }

    /// Panics where it has ended by itself, which it never should.
    pub(super) fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the indexer ended with {status}: {}", self.printed());
        }
    }

    /// What it printed last.
    pub(super) fn printed(&self) -> String {
        let text = fs::read_to_string(self.errors.path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

impl Drop for IndexerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Beside the test that runs: `target/<profile>/deps/<test>` and `target/<profile>/index-until-killed`.
fn program() -> std::path::PathBuf {
    let test = env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("index-until-killed");
    assert!(program.exists(), "{} is not built", program.display());
    program
}
