//! `dues plans sync`: the catalogue's plans on a chain, once each.

use std::{fs, os::unix::process::ExitStatusExt as _};

use alloy::primitives::{U256, aliases::U96};
use dues_chain::contract::IDues;
use dues_tests::{SOON, eventually};
use serde_json::{Value, json};

use crate::{Dues, Outcome, Signal, repair::Shop};

const KEY: &str = "DUES__MERCHANT__PRIVATE_KEY";

impl Shop {
    fn merchant_key(&self) -> String {
        self.stack.chain.merchant_wallet().to_bytes().to_string()
    }

    async fn sync(&self, args: &[&str]) -> Outcome {
        let key = self.merchant_key();
        self.dues_with(&[(KEY, &key)], &[&["plans", "sync"], args].concat()).await
    }

    async fn plan_count(&self) -> u32 {
        self.stack.chain.dues().planCount().call().await.unwrap()
    }

    /// Adds `text` to the configuration.
    fn configure(&self, text: &str) {
        let file = self.dir().join("dues.toml");
        let before = fs::read_to_string(&file).unwrap();
        fs::write(file, format!("{before}{text}")).unwrap();
    }
}

fn states(outcome: &Outcome) -> Vec<(String, String)> {
    let document: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let plans = document["chains"][0]["plans"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    plans.iter().map(|plan| (text(&plan["plan"]), text(&plan["state"]))).collect()
}

fn others(outcome: &Outcome) -> Vec<(String, String)> {
    states(outcome).into_iter().filter(|(_, state)| state != "sold").collect()
}

fn pair(plan: &str, state: &str) -> (String, String) {
    (plan.to_owned(), state.to_owned())
}

const NEW: &str = "[plans.basic-quarter]\ntier = \"basic\"\nprice = \"79.99\"\ninterval = \"3 months\"\n\
    trial = \"14 days\"\ngrace = \"72 hours\"\nusage_cap = \"10\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_created_once_with_the_terms_of_the_catalogue() {
    let shop = Shop::quiet().await;
    let before = shop.plan_count().await;
    // The devnet has created the catalogue's plans with the very same code.
    let same = shop.sync(&["--yes", "--json"]).await;
    assert_eq!((same.code, others(&same)), (Some(0), vec![]), "{same:?}");
    shop.configure(NEW);
    let digest = shop.stack.ledger.digest().await;
    let told = shop.sync(&["--dry-run", "--json"]).await;
    assert_eq!((told.code, others(&told)), (Some(0), vec![pair("basic-quarter", "to_create")]), "{told:?}");
    let lines = shop.sync(&["--dry-run"]).await;
    assert!(lines.stdout.lines().any(|line| line.contains("basic-quarter") && line.contains("79.99 USDC")));
    let nobody = shop.sync(&[]).await;
    assert!(nobody.explanation().contains("give --yes"), "{nobody:?}");
    assert_eq!((shop.plan_count().await, shop.stack.ledger.digest().await), (before, digest));

    let created = shop.sync(&["--yes", "--json"]).await;
    assert_eq!(
        (created.code, others(&created)),
        (Some(0), vec![pair("basic-quarter", "created")]),
        "{created:?}"
    );
    assert_eq!(shop.plan_count().await, before + 1);
    let plan = shop.stack.chain.dues().plan(before + 1).call().await.unwrap();
    assert_eq!((plan.price, plan.unit, plan.count), (U96::from(79_990_000), 1, 3));
    assert_eq!((plan.trial, plan.grace, plan.usageCap), (14 * 86_400, 72 * 3_600, U96::from(10_000_000)));
    assert_eq!((plan.payee, plan.merchant), (shop.stack.chain.merchant, shop.stack.chain.merchant));
    for _ in 0..2 {
        let again = shop.sync(&["--yes", "--json"]).await;
        assert_eq!((again.code, others(&again)), (Some(0), vec![]), "{again:?}");
    }
    assert_eq!(shop.plan_count().await, before + 1);
    // Whoever pays for it has the tier, once the trial has begun.
    shop.stack.chain.subscribe(&shop.payer, before + 1, shop.account.reference).await;
    shop.stack.tier_becomes(shop.account.id, "basic").await;
    assert!(shop.audit().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_terms_on_the_chain_are_told_and_left_alone_and_another_price_is_another_plan() {
    let shop = Shop::quiet().await;
    let before = shop.plan_count().await;
    shop.configure("[plans.basic-month]\ngrace = \"72 hours\"\n");
    let told = shop.sync(&["--yes", "--json"]).await;
    assert_eq!((told.code, others(&told)), (Some(1), vec![pair("basic-month", "differs")]), "{told:?}");
    assert!(told.stdout.contains("grace is 604800 on chain, configured is 259200"), "{told:?}");
    assert_eq!(shop.plan_count().await, before);
    shop.configure("price = \"30.99\"\n");
    let created = shop.sync(&["--yes", "--json"]).await;
    assert_eq!(
        (created.code, others(&created)),
        (Some(0), vec![pair("basic-month", "created")]),
        "{created:?}"
    );
    assert_eq!(shop.plan_count().await, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_was_created_and_not_mapped_is_mapped_and_not_created_again() {
    let shop = Shop::quiet().await;
    let (chain, before) = (&shop.stack.chain, shop.plan_count().await);
    shop.configure(NEW);
    let terms = IDues::PlanTerms {
        price: U96::from(79_990_000),
        count: 3,
        trial: 14 * 86_400,
        grace: 72 * 3_600,
        usageCap: U96::from(10_000_000),
        ..chain.monthly(0, chain.merchant)
    };
    // One of other terms, one of somebody else, and the one.
    let dearer = IDues::PlanTerms { price: U96::from(79_990_001), ..terms.clone() };
    chain.create_plan(&chain.merchant_wallet(), &dearer).await;
    chain.create_plan(&chain.payer(5).await, &terms).await;
    let right = chain.create_plan(&chain.merchant_wallet(), &terms).await;
    let mapped = shop.sync(&["--yes", "--json"]).await;
    assert_eq!(
        (mapped.code, others(&mapped)),
        (Some(0), vec![pair("basic-quarter", "mapped")]),
        "{mapped:?}"
    );
    assert_eq!(shop.plan_count().await, before + 3);
    let sold = shop.stack.ledger.count(
        "SELECT onchain_plan_id FROM ledger.plan_prices pp JOIN ledger.plans p ON p.id = pp.plan_id
         WHERE p.key = 'basic-quarter'",
    );
    assert_eq!(sold.await, i64::from(right));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_sending_and_mapping_it_creates_each_plan_once() {
    let shop = Shop::quiet().await;
    let (chain, before) = (&shop.stack.chain, shop.plan_count().await);
    shop.configure(NEW);
    chain.automine(false).await;
    let key = shop.merchant_key();
    let environment = [&shop.environment()[..], &[(KEY, &key)]].concat();
    let dues = Dues::start(shop.dir(), &["plans", "sync", "--yes"], &environment);
    eventually(SOON, "it has sent one", || async {
        let mined = chain.rpc("eth_getTransactionCount", json!([chain.merchant, "latest"])).await;
        let mined: U256 = mined.as_str().unwrap().parse().unwrap();
        let sent = U256::from(chain.pending_nonce(chain.merchant).await) > mined;
        if sent { Ok(()) } else { Err(dues.printed()) }
    })
    .await;
    dues.signal(Signal::SIGKILL);
    assert_eq!(dues.ended().await.signal(), Some(9));
    chain.automine(true).await;
    chain.mine(1).await;
    // The killed one's lock goes when the server notices.
    let outcome = eventually(SOON, "another run may begin", || async {
        let outcome = shop.sync(&["--yes", "--json"]).await;
        if outcome.code == Some(0) { Ok(outcome) } else { Err(format!("{outcome:?}")) }
    })
    .await;
    assert_eq!(others(&outcome), [pair("basic-quarter", "mapped")], "{outcome:?}");
    assert_eq!(shop.plan_count().await, before + 1);
}
