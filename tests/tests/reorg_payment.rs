//! Reorganisations that take a payment away, and what brings it back.

use alloy::{primitives::B256, signers::local::PrivateKeySigner};
use dues_chain::contract::Dues;
use dues_tests::{Account, FINALITY_DEPTH, SignedTx, Stack, TransactionRow};
use serde_json::Value;

/// A payment in a block above which there are three more.
struct Paid {
    stack: Stack,
    account: Account,
    payer: PrivateKeySigner,
    tx: SignedTx,
    block: u64,
    row: TransactionRow,
}

async fn paid() -> Paid {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let plan = stack.plan("premium-month").onchain_id;
    let tx = stack.chain.sign_subscribe(&payer, plan, account.reference).await;
    stack.chain.send(&tx).await;
    let block = stack.chain.receipt(tx.hash).await.block_number.unwrap();
    stack.chain.mine(3).await;
    stack.tier_becomes(account.id, "premium").await;
    stack.synced().await;
    let row = stack.ledger.transactions(payer.address()).await.remove(0);
    Paid { stack, account, payer, tx, block, row }
}

impl Paid {
    async fn rows(&self) -> Vec<TransactionRow> {
        self.stack.ledger.transactions(self.payer.address()).await
    }

    /// The account is free and the row failed because of the reorganisation.
    async fn assert_gone(&self) {
        self.stack.synced().await;
        let answer = self.stack.api.entitlements(self.account.id).await;
        assert_eq!((&answer["tier"], &answer["source"]), (&"free".into(), &Value::Null));
        let rows = self.rows().await;
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].id, rows[0].status.as_str()), (self.row.id, "failed"));
        assert_eq!(rows[0].failure_reason.as_deref(), Some("reorganised"));
        let listed = &self.stack.api.transactions(self.account.id).await[0];
        assert_eq!((&listed["status"], &listed["failure_reason"]), (&"failed".into(), &"reorganised".into()));
        let subscription = &self.stack.ledger.subscriptions(self.payer.address()).await[0];
        assert_eq!((subscription.status.as_str(), subscription.onchain_id), ("incomplete", None));
    }

    /// The very same row is back, with the evidence of the block that it is in now, and completes.
    async fn assert_revived(&self) {
        let answer = self.stack.tier_becomes(self.account.id, "premium").await;
        self.stack.synced().await;
        let receipt = self.stack.chain.receipt(self.tx.hash).await;
        assert_eq!(answer["source"]["block_hash"], serde_json::json!(receipt.block_hash));
        assert_ne!(receipt.block_hash, Some(self.row.block_hash));
        let rows = self.rows().await;
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!((rows[0].id, rows[0].status.as_str()), (self.row.id, "pending"));
        assert_eq!((Some(rows[0].block_hash), &rows[0].failure_reason), (receipt.block_hash, &None));
        let subscriptions = self.stack.ledger.subscriptions(self.payer.address()).await;
        assert_eq!((subscriptions.len(), subscriptions[0].id), (1, self.row.subscription));
        self.assert_completes(&[self.row.id]).await;
    }

    /// Once its block is final, `ids` are the completed rows, and nothing else changed.
    async fn assert_completes(&self, ids: &[uuid::Uuid]) {
        self.stack.chain.mine(FINALITY_DEPTH).await;
        self.stack.synced().await;
        let rows = self.rows().await;
        let live: Vec<_> = rows.iter().filter(|row| row.status != "failed").collect();
        assert!(live.iter().all(|row| row.status == "completed"), "{live:?}");
        assert_eq!(live.iter().map(|row| row.id).collect::<Vec<_>>(), ids);
        let answer = self.stack.api.entitlements(self.account.id).await;
        assert_eq!((&answer["tier"], &answer["source"]["finality"]), (&"premium".into(), &"final".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_is_reorganised_away_and_sent_again_revives_its_row() {
    let paid = paid().await;
    paid.stack.chain.reorg_from(paid.block, &[]).await;
    paid.assert_gone().await;
    paid.stack.chain.send(&paid.tx).await;
    paid.assert_revived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_the_reorganisation_itself_mines_again_keeps_its_row() {
    let paid = paid().await;
    paid.stack.chain.reorg_from(paid.block, &[(&paid.tx, 2)]).await;
    paid.stack.synced().await;
    assert_eq!(paid.rows().await[0].block_number, paid.block + 2);
    paid.assert_revived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_is_mined_again_but_refused_on_the_new_fork_is_gone() {
    let paid = paid().await;
    // The fork begins a block below, which was the approval's: without it the payment stands at its old height,
    // reverted.
    paid.stack.chain.reorg_from(paid.block - 1, &[(&paid.tx, 1)]).await;
    let dropped = paid.stack.chain.try_receipt(paid.tx.hash).await;
    assert!(dropped.is_none_or(|receipt| !receipt.status()));
    paid.assert_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_transaction_after_a_reorganisation_is_a_new_row_and_the_old_one_stays_failed() {
    let paid = paid().await;
    paid.stack.chain.reorg_from(paid.block, &[]).await;
    paid.assert_gone().await;
    let plan = paid.stack.plan("premium-month").onchain_id;
    let call = Dues::subscribeCall { planId: plan, r#ref: paid.account.reference };
    // Same nonce, other gas limit: another transaction, and the first can never be mined again.
    let nonce = paid.stack.chain.pending_nonce(paid.payer.address()).await;
    let other = paid.stack.chain.sign_as(&paid.payer, paid.stack.chain.contract, &call, nonce, 400_000).await;
    paid.stack.chain.send(&other).await;
    paid.stack.tier_becomes(paid.account.id, "premium").await;
    paid.stack.synced().await;
    let rows = paid.rows().await;
    let by_hash = |hash: B256| rows.iter().find(|row| row.tx_hash == hash).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((by_hash(paid.tx.hash).id, by_hash(paid.tx.hash).status.as_str()), (paid.row.id, "failed"));
    assert_eq!(by_hash(other.hash).status, "pending");
    paid.assert_completes(&[by_hash(other.hash).id]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_payment_is_gone_as_soon_as_the_chain_goes_on_without_it() {
    let paid = paid().await;
    paid.stack.chain.rollback_from(paid.block).await;
    // A node whose head is lower may merely lag: nothing is taken back on that alone.
    paid.stack.chain.mine(1).await;
    paid.assert_gone().await;
    paid.stack.chain.send(&paid.tx).await;
    paid.assert_revived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_survives_any_number_of_reorganisations() {
    let paid = paid().await;
    for place in [0, 2, 1, 3] {
        paid.stack.chain.reorg_from(paid.block, &[(&paid.tx, place)]).await;
        paid.stack.synced().await;
        assert_eq!(paid.rows().await[0].block_number, paid.block + place);
        paid.stack.chain.reorg_from(paid.block, &[]).await;
        paid.assert_gone().await;
    }
    paid.stack.chain.send(&paid.tx).await;
    paid.assert_revived().await;
}
