//! `dues keeper` as an operator runs it, and as it is killed.

use std::{collections::BTreeSet, fs, os::unix::process::ExitStatusExt as _};

use alloy::{primitives::U256, signers::local::PrivateKeySigner};
use dues_tests::{FINALITY_DEPTH, SOON, Stack, eventually};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use crate::{Dues, Signal, run, scratch};

/// Of anvil's account 9, with the password "hunter2".
const KEYSTORE: &str = include_str!("../../../keeper/src/signer/keystore.json");
const KEY: &str = "0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6";

struct Keeper {
    dir: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Keeper {
    /// With `settings` in its `[keeper]`.
    fn of(stack: &Stack, settings: &str) -> Self {
        let dir = scratch();
        let chain = &stack.chain;
        let config = format!(
            "[chains.dev]\nchain_id = {}\nmerchant = \"{}\"\ntoken = \"{}\"\nstart_block = 1\n\
             finality = {FINALITY_DEPTH}\npoll_interval_ms = 20\n[keeper]\n{settings}\n",
            chain.id, chain.merchant, chain.token
        );
        fs::write(dir.path().join("dues.toml"), config).unwrap();
        let environment = vec![
            ("DUES__DATABASE__URL", stack.site().database.url().expose_secret().to_owned()),
            ("DUES__CHAINS__DEV__RPC_URL", stack.node().to_string()),
        ];
        Self { dir, environment }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    async fn run(&self, args: &[&str]) -> crate::Outcome {
        run(self.dir.path(), args, &self.environment()).await
    }
}

async fn due(stack: &Stack, numbers: std::ops::RangeInclusive<u64>) -> Vec<(PrivateKeySigner, U256)> {
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, numbers).await;
    let ids: Vec<_> = payers.iter().map(|(_, id)| *id).collect();
    stack.fall_due(&ids).await;
    payers
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_looks_first_and_then_charges_with_a_keystore() {
    let stack = Stack::start().await;
    let payers = due(&stack, 1..=3).await;
    stack.chain.approve(&payers[0].0, 0).await;
    stack.synced().await;

    let without = Keeper::of(&stack, "");
    let refused = without.run(&["keeper"]).await;
    assert!(refused.explanation().contains("has no key"), "{refused:?}");
    let dry = without.run(&["keeper", "--dry-run"]).await;
    assert_eq!(dry.code, Some(0), "{dry:?}");
    for part in ["2 charges would go through, 1 would be refused", "leave out", "allowance"] {
        assert!(dry.stdout.contains(part), "{part}: {dry:?}");
    }
    stack.each_has_paid(&payers, 1).await;
    assert_eq!(stack.keeper_rows().await, []);

    let settings = "keystore = \"keeper.json\"\nkeystore_password_file = \"password\"";
    let keeper = Keeper::of(&stack, settings);
    fs::write(keeper.dir.path().join("keeper.json"), KEYSTORE).unwrap();
    fs::write(keeper.dir.path().join("password"), "hunter3\n").unwrap();
    let wrong = keeper.run(&["keeper", "--once"]).await;
    assert!(wrong.explanation().contains("wrong password"), "{wrong:?}");
    assert!(!wrong.stderr.contains("hunter3"), "{wrong:?}");
    fs::write(keeper.dir.path().join("password"), "hunter2\n").unwrap();
    let once = keeper.run(&["keeper", "--once"]).await;
    assert_eq!(once.code, Some(0), "{once:?}");
    assert!(once.stdout.contains("2 charges sent, 0 transactions wait"), "{once:?}");
    stack.each_has_paid(&payers[1..], 2).await;
    stack.each_has_paid(&payers[..1], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_instant_it_charges_each_once_and_pays_for_gas_once() {
    const PAYERS: u64 = 24;
    let stack = Stack::start().await;
    let payers = due(&stack, 1..=PAYERS).await;
    let settings = "batch_size = 2\nmax_in_flight = 4\nstuck_after_blocks = 1000";
    let keeper = Keeper::of(&stack, settings).with("DUES__KEEPER__PRIVATE_KEY", KEY);
    stack.chain.automine(false).await;
    stack.chain.interval_mining(1).await;
    let renewals = "SELECT count(*) FROM ledger.transactions WHERE period = 2 AND status <> 'failed'";
    let mut kills = 0;
    while stack.ledger.count(renewals).await < PAYERS.try_into().unwrap() {
        let before = stack.keeper_rows().await.len();
        let dues = Dues::start(keeper.dir.path(), &["keeper"], &keeper.environment());
        // As soon as it has written something down: what it has written last is sent, or it is not.
        eventually(SOON, "it goes on", || async {
            let done = stack.ledger.count(renewals).await == i64::try_from(PAYERS).unwrap();
            let rows = stack.keeper_rows().await.len();
            if done || rows > before { Ok(()) } else { Err(dues.printed()) }
        })
        .await;
        assert!(!dues.printed().contains(&KEY[2..]));
        dues.signal(Signal::SIGKILL);
        assert_eq!(dues.ended().await.signal(), Some(9));
        kills += 1;
    }
    assert!(kills >= 3, "it was killed {kills} times only");
    stack.each_has_paid(&payers, 2).await;
    // All of them print to the same file.
    let starts = |text: &str| text.matches("the keeper charges what is due").count();
    let before = starts(&fs::read_to_string(keeper.dir.path().join("stderr")).unwrap());
    // A last one finds out what became of everything, and does nothing.
    let last = Dues::start(keeper.dir.path(), &["keeper"], &keeper.environment());
    let rows = stack
        .keeper_rows_become("everything is in a block", |rows| rows.iter().all(|row| row.status != "open"));
    let rows = rows.await;
    let charged: Vec<_> = rows.iter().flat_map(|row| row.onchain_ids.clone()).collect();
    let once: BTreeSet<_> = charged.iter().collect();
    assert_eq!(charged.len(), once.len(), "nothing was sent in two transactions: {rows:?}");
    let nonces: Vec<_> = rows.iter().map(|row| row.nonce).collect();
    assert_eq!(nonces, (0..i64::try_from(rows.len()).unwrap()).collect::<Vec<_>>(), "{rows:?}");
    let signer: PrivateKeySigner = KEY.parse().unwrap();
    let sent = stack.chain.pending_nonce(signer.address()).await;
    assert_eq!(sent, u64::try_from(rows.len()).unwrap(), "every transaction of the signer is on record");
    eventually(SOON, "the last one is up", || async {
        let printed = last.printed();
        if starts(&printed) > before { Ok(()) } else { Err(printed) }
    })
    .await;
    last.signal(Signal::SIGTERM);
    assert_eq!(last.ended().await.code(), Some(0));
}
