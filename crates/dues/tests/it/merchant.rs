//! `dues merchant`: what it does, what it refuses, and what is left of it when it is killed.

use std::{fs::File, io::Write as _, os::unix::process::ExitStatusExt as _};

use alloy::{
    primitives::{B256, U256, aliases::U96, keccak256},
    signers::local::PrivateKeySigner,
};
use axum::{Router, body::Bytes, routing::post};
use dues_chain::contract::{Dues as Contract, IDues};
use dues_domain::catalogue::Tier;
use dues_tests::{FINALITY_DEPTH, SOON, TransactionRow, event, eventually};
use nix::pty::openpty;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use url::Url;

use crate::{Dues, Outcome, Signal, command, repair::Shop};

const KEY: &str = "DUES__MERCHANT__PRIVATE_KEY";
const RPC: &str = "DUES__CHAINS__DEV__RPC_URL";

fn text(key: &PrivateKeySigner) -> String {
    key.to_bytes().to_string()
}

impl Shop {
    /// `dues merchant …` with the merchant's key.
    async fn act(&self, args: &[&str]) -> Outcome {
        self.act_as(&self.stack.chain.merchant_wallet(), args).await
    }

    async fn act_as(&self, key: &PrivateKeySigner, args: &[&str]) -> Outcome {
        let outcome = self.dues_with(&[(KEY, &text(key))], &[&["merchant"], args].concat()).await;
        for shown in [&outcome.stdout, &outcome.stderr] {
            assert!(!shown.contains(&text(key)[2..]), "the key is shown: {outcome:?}");
        }
        outcome
    }

    /// A subscription to a plan of 99.99 with a cap of 50.00 on usage.
    async fn metered(&self) -> (U256, String) {
        let chain = &self.stack.chain;
        let terms =
            IDues::PlanTerms { usageCap: U96::from(50_000_000), ..chain.monthly(99_990_000, chain.merchant) };
        let plan = self.stack.sell("premium-metered", Tier::Premium, terms).await;
        self.subscribed(plan).await
    }

    async fn subscribed(&self, plan: u32) -> (U256, String) {
        let receipt = self.stack.chain.subscribe(&self.payer, plan, self.account.reference).await;
        self.stack.synced().await;
        let id = event::<Contract::Subscribed>(&receipt).id;
        (id, format!("dev:{id}"))
    }

    async fn moved(&self, kind: &str) -> Vec<TransactionRow> {
        self.stack.synced().await;
        let mut rows = self.stack.ledger.movements(self.payer.address()).await;
        rows.retain(|row| row.kind == kind);
        rows
    }

    /// What a test of "nothing happened" compares: the head, how many the merchant has sent, and every row.
    async fn standing(&self) -> (B256, u64, std::collections::BTreeMap<String, String>) {
        let chain = &self.stack.chain;
        self.stack.synced().await;
        let head = chain.head().await.header.hash;
        (head, chain.pending_nonce(chain.merchant).await, self.stack.ledger.digest().await)
    }

    async fn count(&self, query: &'static str) -> i64 {
        self.stack.ledger.count(query).await
    }
}

fn done(outcome: &Outcome) -> Value {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn refused(outcome: &Outcome, why: &str) {
    assert_eq!(outcome.code, Some(1), "{why}: {outcome:?}");
    assert!(outcome.stdout.contains(why) || outcome.stderr.contains(why), "{why}: {outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_is_told_first_done_once_and_one_row_of_the_ledger() {
    let shop = Shop::quiet().await;
    let (id, of) = shop.subscribed(shop.stack.plan("premium-month").onchain_id).await;
    let before = shop.standing().await;

    // Nobody is there to be asked, and looking changes nothing.
    refused(&shop.act(&["refund", &of, "--amount", "5.00"]).await, "give --yes");
    refused(&shop.act(&["refund", &of, "--amount", "5.00", "--dry-run"]).await, "RefundRefused");
    let told = shop.act(&["refund", &of, "--amount", "5.00", "--dry-run", "--approve"]).await;
    assert_eq!(told.code, Some(0), "{told:?}");
    for part in ["refund 5.00 USDC", "premium-month", "exactly 5.00", "nothing was sent", "at most 99.99"] {
        assert!(told.stdout.contains(part), "{part}: {told:?}");
    }
    for wrong in ["0", "-1", "5.0000001", "5,00", "99999999999999999999999999999"] {
        let outcome = shop.act(&["refund", &of, "--yes", &format!("--amount={wrong}")]).await;
        assert!(outcome.code.is_some_and(|code| code != 0), "{wrong}: {outcome:?}");
    }
    refused(&shop.act(&["refund", &of, "--yes"]).await, "--amount");
    refused(&shop.act(&["refund", "dev:99", "--amount", "1", "--yes"]).await, "no subscription 99");
    assert_eq!(shop.standing().await, before, "nothing has happened");

    let document =
        done(&shop.act(&["refund", &of, "--amount", "5.00", "--approve", "--yes", "--json"]).await);
    assert_eq!((&document["outcome"], &document["act"]), (&"done".into(), &"refund".into()), "{document}");
    let rows = shop.moved("refund").await;
    assert_eq!((rows.len(), rows[0].amount.as_str()), (1, "5000000"), "{rows:?}");
    assert_eq!(document["transaction"]["hash"], rows[0].tx_hash.to_string());
    assert_eq!(document["transaction"]["block_number"], rows[0].block_number);
    assert_eq!(rows[0].payee, shop.payer.address());
    let written = "SELECT count(*) FROM ledger.audit_log WHERE actor = 'operator' AND action = 'merchant.refund'
        AND subject LIKE 'subscription:%' AND detail->>'outcome' IN ('intended', 'done')
        AND detail->>'tx_hash' = (SELECT '0x' || encode(tx_hash, 'hex') FROM ledger.transactions WHERE kind = 'refund')";
    assert_eq!(shop.count(written).await, 2);
    assert_eq!(
        shop.count("SELECT count(*) FROM ledger.audit_log WHERE action = 'merchant.approve'").await,
        2
    );

    // The same again is asked about; more than was paid is refused, by the contract.
    let again = ["refund", &of, "--amount", "5.00", "--approve", "--yes"];
    refused(&shop.act(&again).await, "--again");
    shop.stack.chain.approve(&shop.stack.chain.merchant_wallet(), 1_000_000_000).await;
    let much = shop.act(&["refund", &of, "--amount", "95", "--yes"]).await;
    refused(&much, "RefundExceedsPaid");
    assert!(much.stdout.contains("at most 94.99 USDC can go back"), "{much:?}");
    done(&shop.act(&[&again[..], &["--again", "--json"]].concat()).await);
    assert_eq!(shop.moved("refund").await.len(), 2);

    // By a transaction's id: all of it by default, and no more than it was.
    let charge = shop.moved("charge").await.remove(0);
    let (of_charge, ours) = (charge.id.to_string(), charge.subscription.to_string());
    refused(
        &shop.act(&["refund", &of_charge, "--amount", "100", "--yes"]).await,
        "99.99 USDC, which is less",
    );
    refused(&shop.act(&["refund", &of_charge, "--yes"]).await, "RefundExceedsPaid");
    let document = done(&shop.act(&["refund", &ours, "--amount", "89.99", "--yes", "--json"]).await);
    assert_eq!(document["subscription_id"], ours);
    let record = shop.stack.chain.dues().subscriptions(id, U256::ONE).call().await.unwrap().remove(0);
    assert_eq!((record.paid, record.refunded), (U256::from(99_990_000), U256::from(99_990_000)));
    assert!(shop.audit().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_it_asks_and_takes_anything_but_yes_for_no() {
    let (shop, of) = refundable().await;
    let (before, key) = (shop.standing().await, text(&shop.stack.chain.merchant_wallet()));
    let environment = [&shop.environment()[..], &[(KEY, &key)]].concat();
    let answered = async |answer: &str| {
        let terminal = openpty(None, None).unwrap();
        let mut dues = command(shop.dir(), &["merchant", "refund", &of, "--amount", "5"], &environment);
        let dues = dues.stdin(terminal.slave).output();
        // It waits there until it is read.
        File::from(terminal.master.try_clone().unwrap()).write_all(answer.as_bytes()).unwrap();
        let output = tokio::time::timeout(SOON, dues).await.unwrap().unwrap();
        drop(terminal.master);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for no in ["\n", "n\n", "yess\n", "5\n"] {
        let (code, told) = answered(no).await;
        assert_eq!(code, Some(1), "{no:?}: {told}");
        assert!(told.contains("refund 5.00 USDC") && told.contains("[y/N]"), "{told}");
        assert!(told.contains("Nothing was sent."), "{told}");
    }
    assert_eq!(shop.standing().await, before);
    assert_eq!(answered("y\n").await.0, Some(0));
    assert_eq!(shop.moved("refund").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_a_refund_is_good_for_one() {
    let shop = Shop::quiet().await;
    let (_, of) = shop.subscribed(shop.stack.plan("basic-month").onchain_id).await;
    shop.stack.chain.approve(&shop.stack.chain.merchant_wallet(), 1_000_000_000).await;
    let args = ["refund", &of, "--amount", "5", "--key", "complaint-1", "--yes", "--json"];
    let document = done(&shop.act(&args).await);
    assert_eq!(document["key"], keccak256("complaint-1").to_string());
    let again = done(&shop.act(&args).await);
    assert_eq!(again["outcome"], "already_done");
    assert_eq!(again["transaction"]["hash"], document["transaction"]["hash"]);
    let other = shop.act(&["refund", &of, "--amount", "6", "--key", "complaint-1", "--yes"]).await;
    refused(&other, "the key was spent for something else: 5.00 USDC were refunded");
    // Another key is another refund.
    done(&shop.act(&["refund", &of, "--amount", "5", "--key", "complaint-2", "--yes", "--json"]).await);
    assert_eq!(shop.moved("refund").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_merchants_key_and_for_money_its_operators_are_taken() {
    let shop = Shop::quiet().await;
    let chain = &shop.stack.chain;
    let (_, of) = shop.metered().await;
    let somebody = chain.payer(8).await;
    let before = shop.standing().await;
    let commands: [&[&str]; 5] = [
        &["refund", &of, "--amount", "1", "--yes"],
        &["usage-charge", &of, "--amount", "1", "--key", "k", "--yes"],
        &["retire", "basic-month", "--yes"],
        &["migrate", &of, "--to", "basic-month", "--yes"],
        &["cancel", &of, "--yes"],
    ];
    for args in commands {
        let outcome = shop.act_as(&somebody, args).await;
        refused(&outcome, &format!("{} may not do this", somebody.address()));
        assert!(outcome.stderr.contains(&chain.merchant.to_string()), "{outcome:?}");
    }
    refused(&shop.dues(&["merchant", "cancel", &of, "--yes"]).await, "the merchant has no key");
    let broken = shop.dues_with(&[(KEY, "0x12")], &["merchant", "cancel", &of, "--yes"]).await;
    refused(&broken, "merchant.private_key");
    assert_eq!(shop.standing().await, before);

    let operator = ["operator", &somebody.address().to_string(), "--yes", "--json"];
    refused(&shop.act_as(&somebody, &operator).await, "is not the merchant of dev");
    assert_eq!(done(&shop.act(&operator).await)["outcome"], "done");
    assert_eq!(done(&shop.act(&operator).await)["outcome"], "already_done");
    for args in &commands[..2] {
        let outcome = shop.act_as(&somebody, args).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stdout.contains("operator"), "{outcome:?}");
    }
    for args in &commands[2..] {
        refused(&shop.act_as(&somebody, args).await, "may not do this");
    }
    let (refunds, usage) = (shop.moved("refund").await, shop.moved("usage").await);
    assert_eq!((refunds.len(), refunds[0].payer), (1, somebody.address()), "from the operator's own account");
    assert_eq!((usage.len(), usage[0].payee), (1, chain.merchant), "to the plan's payee");
    done(&shop.act(&[&operator[..], &["--stop"]].concat()).await);
    let late = ["refund", &of, "--amount", "2", "--yes"];
    refused(&shop.act_as(&somebody, &late).await, "may not do this");
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_charged_once_for_a_key_and_within_the_cap() {
    let shop = Shop::quiet().await;
    let (_, of) = shop.metered().await;
    let charge = ["usage-charge", &of, "--amount", "30.5", "--key", "invoice-7", "--yes", "--json"];
    let before = shop.standing().await;
    let told = done(&shop.act(&[&charge[..], &["--dry-run"]].concat()).await);
    assert_eq!((&told["outcome"], &told["period"]), (&"would_go_through".into(), &1.into()), "{told}");
    assert_eq!(shop.standing().await, before);

    let first = done(&shop.act(&charge).await);
    assert_eq!(first["outcome"], "done");
    let rows = shop.moved("usage").await;
    assert_eq!((rows.len(), rows[0].amount.as_str()), (1, "30500000"));
    assert_eq!((rows[0].key, rows[0].period), (Some(keccak256("invoice-7")), Some(1)));
    // Though it would be above the cap by now, it was done; and another one is above the cap.
    for dry in [&[][..], &["--dry-run"]] {
        let again = done(&shop.act(&[&charge[..], dry].concat()).await);
        assert_eq!(again["outcome"], "already_done", "{again}");
        assert_eq!(again["transaction"]["hash"], rows[0].tx_hash.to_string());
    }
    let other = ["usage-charge", &of, "--amount", "30.5", "--key", "invoice-8", "--yes"];
    refused(&shop.act(&other).await, "UsageCapExceeded");
    let second = [&other[..], &["--period", "2"]].concat();
    refused(&shop.act(&second).await, "PeriodClosed");
    // As it is, where it is 32 bytes.
    let key = B256::repeat_byte(7).to_string();
    done(&shop.act(&["usage-charge", &of, "--amount", "1.23", "--key", &key, "--yes", "--json"]).await);
    let rows = shop.moved("usage").await;
    assert_eq!((rows.len(), rows[1].key), (2, Some(B256::repeat_byte(7))));
    assert!(shop.audit().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_are_retired_and_subscriptions_moved_and_ended() {
    let shop = Shop::quiet().await;
    let (chain, stack) = (&shop.stack.chain, &shop.stack);
    let basic = stack.plan("basic-month").onchain_id;
    let cheaper = stack.sell("basic-cheaper", Tier::Basic, chain.monthly(19_990_000, chain.merchant)).await;
    let (id, of) = shop.subscribed(basic).await;

    let to = cheaper.to_string();
    let moved = shop.act(&["migrate", &of, "--to", &to, "--yes"]).await;
    assert_eq!(moved.code, Some(0), "{moved:?}");
    assert!(moved.stdout.contains("for 19.99 USDC a period instead of 29.99"), "{moved:?}");
    shop.stack.synced().await;
    let row = stack.ledger.subscriptions(shop.payer.address()).await.remove(0);
    assert_eq!(row.scheduled_plan, Some(cheaper.into()));
    let again = done(&shop.act(&["migrate", &of, "--to", &format!("dev:{to}"), "--yes", "--json"]).await);
    assert_eq!(again["outcome"], "already_done");
    let worse = shop.act(&["migrate", &of, "--to", "premium-month", "--yes"]).await;
    refused(&worse, "ChangePending");
    chain.execute(&shop.payer, chain.contract, &Contract::revokeChangeCall { id }).await;
    refused(&shop.act(&["migrate", &of, "--to", "premium-month", "--yes"]).await, "NotFavourable");

    let retired = shop.act(&["retire", "basic-month", "--yes"]).await;
    assert_eq!(retired.code, Some(0), "{retired:?}");
    assert!(chain.dues().plan(basic).call().await.unwrap().retired);
    assert_eq!(
        done(&shop.act(&["retire", "basic-month", "--yes", "--json"]).await)["outcome"],
        "already_done"
    );
    refused(&shop.act(&["retire", "dev:99", "--yes"]).await, "no plan 99");
    refused(&shop.act(&["retire", "base:1", "--yes"]).await, "no chain base");

    let payee = shop.payer.address().to_string();
    done(&shop.act(&["payee", "premium-month", &payee, "--yes", "--json"]).await);
    let premium = stack.plan("premium-month").onchain_id;
    let proposed = chain.dues().proposedPayee(premium).call().await.unwrap();
    assert_eq!(proposed.payee, shop.payer.address());
    assert_eq!(
        chain.dues().plan(premium).call().await.unwrap().payee,
        chain.merchant,
        "not before it accepts"
    );

    let ends = shop.act(&["cancel", &row.id.to_string(), "--yes"]).await;
    assert_eq!(ends.code, Some(0), "{ends:?}");
    shop.stack.synced().await;
    let row = stack.ledger.subscriptions(shop.payer.address()).await.remove(0);
    assert_eq!((row.cancel_at_period_end, row.cancel_scheduled_by.as_deref()), (true, Some("merchant")));
    assert_eq!(done(&shop.act(&["cancel", &of, "--yes", "--json"]).await)["outcome"], "already_done");
    done(&shop.act(&["cancel", &of, "--now", "--yes", "--json"]).await);
    shop.stack.synced().await;
    let row = stack.ledger.subscriptions(shop.payer.address()).await.remove(0);
    assert_eq!(row.ended_by.as_deref(), Some("merchant"));
    assert!(shop.audit().await.is_empty());
}

/// Runs an act until it stands in the ledger and, if so wanted, waits for a block; then kills it.
async fn killed(shop: &Shop, rpc: &str, args: &[&str], when_sent: bool) {
    let (chain, key) = (&shop.stack.chain, text(&shop.stack.chain.merchant_wallet()));
    let environment = [&shop.environment()[..], &[(KEY, key.as_str()), (RPC, rpc)]].concat();
    let dues = Dues::start(shop.dir(), &[&["merchant"], args].concat(), &environment);
    eventually(SOON, "it has begun", || async {
        let open = shop.count("SELECT count(*) FROM ledger.merchant_acts WHERE status = 'open'").await;
        let mined = chain.rpc("eth_getTransactionCount", json!([chain.merchant, "latest"])).await;
        let mined: U256 = mined.as_str().unwrap().parse().unwrap();
        let sent = U256::from(chain.pending_nonce(chain.merchant).await) > mined;
        if open == 1 && sent == when_sent { Ok(()) } else { Err(dues.printed()) }
    })
    .await;
    dues.signal(Signal::SIGKILL);
    assert_eq!(dues.ended().await.signal(), Some(9));
    // The server notices that nobody is there any more.
    eventually(SOON, "its lock is gone", || async {
        let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database =
                    (SELECT oid FROM pg_database WHERE datname = current_database())";
        // One is the indexer's.
        match shop.count(held).await {
            1 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
}

/// A shop with a subscription, whose merchant may refund.
async fn refundable() -> (Shop, String) {
    let shop = Shop::quiet().await;
    let (_, of) = shop.subscribed(shop.stack.plan("basic-month").onchain_id).await;
    shop.stack.chain.approve(&shop.stack.chain.merchant_wallet(), 1_000_000_000).await;
    (shop, of)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_it_was_sent_an_act_is_found_and_not_done_again() {
    let (shop, of) = refundable().await;
    let (chain, rpc) = (&shop.stack.chain, shop.stack.site().rpc_url());
    let refund = ["refund", &of, "--amount", "5", "--yes", "--json"];
    let nonce = chain.pending_nonce(chain.merchant).await;
    chain.automine(false).await;
    killed(&shop, rpc.as_str(), &refund, true).await;
    // Nothing else is begun before it is known what became of it; and it is told.
    let other = shop.act(&["cancel", &of, "--yes"]).await;
    refused(&other, "refund of subscription:");
    let told = shop.act(&["resume", "--dry-run"]).await;
    assert_eq!((told.code, told.stdout.lines().count()), (Some(0), 1), "{told:?}");
    // Still in no block.
    let waiting = shop.act(&[&refund[..], &["--wait", "1"]].concat()).await;
    assert_eq!(waiting.code, Some(3), "{waiting:?}");
    chain.automine(true).await;
    chain.mine(1).await;
    let document = done(&shop.act(&refund).await);
    assert_eq!((&document["outcome"], &document["resumed"]), (&"done".into(), &true.into()), "{document}");
    assert_eq!(shop.moved("refund").await.len(), 1);
    assert_eq!(chain.pending_nonce(chain.merchant).await, nonce + 1);
    refused(&shop.act(&refund).await, "--again");
    let nothing = shop.act(&["resume", "--yes"]).await;
    assert!(nothing.stdout.contains("under way"), "{nothing:?}");
}

/// A node that takes everything but transactions: it never answers to one.
async fn deaf(node: Url) -> String {
    let http = reqwest::Client::new();
    let router = Router::new().route(
        "/",
        post(move |body: Bytes| {
            let (http, node) = (http.clone(), node.clone());
            async move {
                if String::from_utf8_lossy(&body).contains("eth_sendRawTransaction") {
                    std::future::pending::<()>().await;
                }
                let request = http.post(node).header("content-type", "application/json").body(body);
                request.send().await.unwrap().bytes().await.unwrap()
            }
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_it_was_sent_the_very_same_transaction_is_sent() {
    let (shop, of) = refundable().await;
    let chain = &shop.stack.chain;
    let refund = ["refund", &of, "--amount", "5", "--yes", "--json"];
    let nonce = chain.pending_nonce(chain.merchant).await;
    let deaf = deaf(shop.stack.site().rpc_url()).await;
    killed(&shop, &deaf, &refund, false).await;
    assert_eq!(shop.moved("refund").await.len(), 0);
    let recorded: Vec<u8> = sqlx::query_scalar("SELECT tx_hash FROM ledger.merchant_acts")
        .fetch_one(shop.stack.ledger.pool())
        .await
        .unwrap();
    let document = done(&shop.act(&refund).await);
    assert_eq!(document["resumed"], true);
    assert_eq!(document["transaction"]["hash"], B256::from_slice(&recorded).to_string());
    assert_eq!(shop.moved("refund").await.len(), 1);
    assert_eq!(chain.pending_nonce(chain.merchant).await, nonce + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_whose_place_another_transaction_has_taken_is_said_never_to_happen() {
    let (shop, of) = refundable().await;
    let chain = &shop.stack.chain;
    let refund = ["refund", &of, "--amount", "5", "--yes", "--json", "--wait", "1"];
    chain.automine(false).await;
    let nonce = chain.pending_nonce(chain.merchant).await;
    let waiting = shop.act(&refund).await;
    assert_eq!(waiting.code, Some(3), "{waiting:?}");
    let retire = Contract::retirePlanCall { planId: 1 };
    let other = chain.sign_as(&chain.merchant_wallet(), chain.contract, &retire, nonce, 500_000).await;
    chain.send(&other).await;
    chain.automine(true).await;
    chain.mine(1).await;
    // Which may be taken back, as long as it is not final: nothing else is begun.
    let waiting = shop.act(&refund).await;
    assert_eq!(waiting.code, Some(3), "{waiting:?}");
    assert!(waiting.stdout.contains("another transaction of this account has its nonce"), "{waiting:?}");
    chain.mine(FINALITY_DEPTH).await;
    shop.stack.synced().await;
    refused(&shop.act(&refund).await, "\"superseded\"");
    assert_eq!(shop.moved("refund").await.len(), 0);
    let document = done(&shop.act(&refund).await);
    assert_eq!(document["resumed"], Value::Null);
    assert_eq!(shop.moved("refund").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_with_one_key_do_not_meet() {
    let (shop, of) = refundable().await;
    let chain = &shop.stack.chain;
    chain.automine(false).await;
    let (key, mut environment) = (text(&chain.merchant_wallet()), shop.environment());
    environment.push((KEY, &key));
    let args = ["merchant", "refund", &of, "--amount", "5", "--yes"];
    let first = Dues::start(shop.dir(), &args, &environment);
    eventually(SOON, "the first has begun", || async {
        match shop.count("SELECT count(*) FROM ledger.merchant_acts").await {
            1 => Ok(()),
            other => Err(format!("{other} {}", first.printed())),
        }
    })
    .await;
    refused(&shop.act(&args[1..]).await, "another process is acting with");
    chain.automine(true).await;
    chain.mine(1).await;
    assert_eq!(first.ended().await.code(), Some(0));
    assert_eq!(shop.moved("refund").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_devnet_is_acted_on_with_its_own_merchants_key() {
    let shop = Shop::quiet().await;
    let (_, of) = shop.subscribed(shop.stack.plan("basic-month").onchain_id).await;
    let dir = shop.stack.site().data_dir();
    let args = [
        "merchant",
        "refund",
        &of.replace("dev:", "devnet:"),
        "--amount",
        "1",
        "--approve",
        "--yes",
        "--json",
    ];
    let outcome = shop.dues(&[&args[..], &["--devnet", dir.to_str().unwrap()]].concat()).await;
    assert_eq!(done(&outcome)["chain"], "devnet");
    assert_eq!(shop.moved("refund").await.len(), 1);
}
