//! Reorganisations that change something else than whether a payment is there.

use alloy::primitives::{B256, U256};
use dues_chain::contract::Dues;
use dues_domain::{
    catalogue::PlanOffer,
    money::{BaseUnits, Money},
};
use dues_store::ChainPlanMapping;
use dues_tests::{FINALITY_DEPTH, Options, SignedTx, Site, Stack, asset, catalogue, event};
use serde_json::json;

/// The debits of one transaction in their order, each with the tier that its subscription is to.
async fn debits(stack: &Stack, tx: &SignedTx) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT p.tier || ' ' || t.amount FROM ledger.transactions t
         JOIN ledger.subscriptions s ON s.id = t.subscription_id
         JOIN ledger.plan_prices pp ON pp.onchain_plan_id = s.onchain_plan_id
         JOIN ledger.plans p ON p.id = pp.plan_id
         WHERE t.tx_hash = $1 AND t.status <> 'failed' ORDER BY t.log_index",
    )
    .bind(tx.hash.to_vec())
    .fetch_all(stack.ledger.pool())
    .await
    .unwrap()
}

/// The number that the contract gave to the subscription which began in `tx`.
async fn subscription(stack: &Stack, tx: &SignedTx) -> U256 {
    event::<Dues::Subscribed>(&stack.chain.receipt(tx.hash).await).id
}

async fn mined(stack: &Stack, tx: &SignedTx) -> u64 {
    stack.chain.send(tx).await;
    stack.chain.receipt(tx.hash).await.block_number.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_is_reorganised_away_is_taken_back_and_the_payment_stays() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let receipt =
        stack.chain.subscribe(&payer, stack.plan("premium-month").onchain_id, account.reference).await;
    stack.synced().await;
    let paid = stack.api.entitlements(account.id).await;
    let cancelled = stack.chain.cancel(&payer, event::<Dues::Charged>(&receipt).id).await;
    stack.synced().await;
    assert_eq!(stack.api.entitlements(account.id).await["cancel_at_period_end"], true);

    stack.chain.reorg_from(cancelled.block_number.unwrap(), &[]).await;
    stack.synced().await;
    let mut answer = stack.api.entitlements(account.id).await;
    answer["as_of"] = paid["as_of"].clone();
    assert_eq!(answer, paid);
    assert_eq!(stack.ledger.transactions(payer.address()).await[0].status, "pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_is_reorganised_away_leaves_the_periods_before_it() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let receipt =
        stack.chain.subscribe(&payer, stack.plan("basic-month").onchain_id, account.reference).await;
    let id = event::<Dues::Charged>(&receipt).id;
    stack.synced().await;
    let before = stack.ledger.subscriptions(payer.address()).await;
    let due = stack.chain.dues().paidThrough(id).call().await.unwrap();
    stack.chain.next_block_at(due.try_into().unwrap()).await;
    let renewal = stack.chain.charge(id).await;
    stack.synced().await;
    assert_eq!(stack.ledger.subscriptions(payer.address()).await[0].periods, 2);

    stack.chain.reorg_from(renewal.block_number.unwrap(), &[]).await;
    stack.synced().await;
    assert_eq!(stack.ledger.subscriptions(payer.address()).await, before);
    let rows = stack.ledger.transactions(payer.address()).await;
    assert_eq!(rows.iter().map(|row| row.status.as_str()).collect::<Vec<_>>(), ["pending", "failed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_that_swap_their_numbers_on_the_chain_stay_with_their_accounts() {
    let stack = Stack::start().await;
    let ((one, payer_one), (two, payer_two)) = (stack.customer(1).await, stack.customer(2).await);
    let (basic, enterprise) =
        (stack.plan("basic-month").onchain_id, stack.plan("enterprise-month").onchain_id);
    let first = stack.chain.sign_subscribe(&payer_one, basic, one.reference).await;
    let second = stack.chain.sign_subscribe(&payer_two, enterprise, two.reference).await;
    let block = mined(&stack, &first).await;
    mined(&stack, &second).await;
    let before = [stack.tier_becomes(one.id, "basic").await, stack.tier_becomes(two.id, "enterprise").await];
    let mut rows_before = stack.ledger.transactions(payer_one.address()).await;
    rows_before.extend(stack.ledger.transactions(payer_two.address()).await);

    stack.chain.reorg_from(block, &[(&second, 0), (&first, 1)]).await;
    stack.synced().await;
    let after = [stack.tier_becomes(one.id, "basic").await, stack.tier_becomes(two.id, "enterprise").await];
    for (before, after) in [(&before[0], &after[1]), (&before[1], &after[0])] {
        assert_eq!(before["source"]["onchain_id"], after["source"]["onchain_id"], "they have swapped");
    }
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before["source"]["subscription_id"], after["source"]["subscription_id"]);
        assert_ne!(before["source"]["block_hash"], after["source"]["block_hash"]);
    }
    let mut rows = stack.ledger.transactions(payer_one.address()).await;
    rows.extend(stack.ledger.transactions(payer_two.address()).await);
    let essence = |rows: &[dues_tests::TransactionRow]| -> Vec<_> {
        rows.iter().map(|row| (row.id, row.account, row.subscription, row.amount.clone())).collect()
    };
    assert_eq!(essence(&rows), essence(&rows_before));
    assert!(rows.iter().all(|row| row.status == "pending"), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn charges_of_a_batch_follow_their_subscriptions_when_those_swap_their_numbers() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let (basic, premium) = (stack.plan("basic-month").onchain_id, stack.plan("premium-month").onchain_id);
    let sign = async |plan, nonce| {
        let call = Dues::subscribeCall { planId: plan, r#ref: account.reference };
        stack.chain.sign_as(&payer, stack.chain.contract, &call, nonce, 400_000).await
    };
    // One payer, so that only the order within the batch tells the two debits apart.
    let nonce = stack.chain.pending_nonce(payer.address()).await;
    let begun = [sign(basic, nonce).await, sign(premium, nonce + 1).await];
    let block = mined(&stack, &begun[0]).await;
    mined(&stack, &begun[1]).await;
    let ids = [subscription(&stack, &begun[0]).await, subscription(&stack, &begun[1]).await];
    let due: i64 = stack.chain.dues().paidThrough(ids[1]).call().await.unwrap().try_into().unwrap();
    stack.chain.next_block_at(due).await;
    let keeper = stack.chain.merchant_wallet();
    let batch = Dues::chargeBatchCall { ids: ids.to_vec() };
    let batch = stack.chain.sign(&keeper, stack.chain.contract, &batch).await;
    mined(&stack, &batch).await;
    stack.synced().await;
    let renewals = debits(&stack, &batch).await;
    assert_eq!(renewals, ["basic 29990000", "premium 99990000"]);

    // On the new fork the premium plan comes first, the batch is the very same transaction.
    let swapped = [sign(premium, nonce).await, sign(basic, nonce + 1).await];
    stack.chain.rollback_from(block).await;
    for tx in &swapped {
        mined(&stack, tx).await;
    }
    assert_eq!(subscription(&stack, &swapped[0]).await, ids[0], "they have swapped");
    stack.chain.next_block_at(due + 60).await;
    mined(&stack, &batch).await;
    stack.synced().await;
    let renewals = debits(&stack, &batch).await;
    assert_eq!(renewals, ["premium 99990000", "basic 29990000"]);
    let live = "SELECT count(*) FROM ledger.transactions WHERE status = 'pending' AND period = 2";
    assert_eq!(stack.ledger.count(live).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_is_claimed_between_a_reorganisation_and_the_next_block_keeps_its_payment() {
    let stack = Stack::start().await;
    let payer = stack.chain.payer(1).await;
    let plan = stack.plan("premium-month").onchain_id;
    let tx = stack.chain.sign_subscribe(&payer, plan, B256::repeat_byte(1)).await;
    let block = mined(&stack, &tx).await;
    stack.synced().await;
    let row = stack.ledger.transactions(payer.address()).await.remove(0);
    stack.chain.reorg_from(block, &[]).await;
    stack.synced().await;
    let account = stack.api.account("claims").await;
    assert_eq!(stack.api.link(account.id, payer.address()).await.status, 201);
    assert_eq!(stack.api.entitlements(account.id).await["tier"], "free");
    stack.chain.send(&tx).await;
    stack.tier_becomes(account.id, "premium").await;
    let rows = stack.ledger.transactions(payer.address()).await;
    assert_eq!((rows.len(), rows[0].id, rows[0].account), (1, row.id, account.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_while_dues_is_down_is_seen_at_the_next_start() {
    let stack = Site::new(Options { external_chain: true, ..Options::default() }).await.start().await;
    let ((gone, payer_gone), (moved, payer_moved)) = (stack.customer(1).await, stack.customer(2).await);
    let plan = stack.plan("premium-month").onchain_id;
    let first = stack.chain.sign_subscribe(&payer_gone, plan, gone.reference).await;
    let second = stack.chain.sign_subscribe(&payer_moved, plan, moved.reference).await;
    let block = mined(&stack, &first).await;
    mined(&stack, &second).await;
    stack.tier_becomes(gone.id, "premium").await;
    stack.tier_becomes(moved.id, "premium").await;
    let row = stack.ledger.transactions(payer_moved.address()).await.remove(0);
    let chain = stack.chain.clone();

    let site = stack.stop().await;
    chain.reorg_from(block, &[(&second, 1)]).await;
    chain.mine(2).await;
    let stack = site.start().await;
    stack.synced().await;
    assert_eq!(stack.api.entitlements(gone.id).await["tier"], "free");
    assert_eq!(stack.ledger.transactions(payer_gone.address()).await[0].status, "failed");
    let answer = stack.api.entitlements(moved.id).await;
    assert_eq!(answer["tier"], "premium");
    let rows = stack.ledger.transactions(payer_moved.address()).await;
    assert_eq!((rows.len(), rows[0].id, rows[0].status.as_str()), (1, row.id, "pending"));
    assert_eq!(answer["source"]["block_hash"], json!(rows[0].block_hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_reorganised_away_takes_its_subscriptions_along_and_nobody_inherits_them() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let (merchant, rival) = (stack.chain.merchant_wallet(), stack.chain.wallet(2).await);
    let terms = stack.chain.monthly(5_000_000, stack.chain.merchant);
    let create = Dues::createPlanCall { terms: terms.clone() };
    let created = stack.chain.execute(&merchant, stack.chain.contract, &create).await;
    let plan = event::<Dues::PlanCreated>(&created).planId;
    let tx = stack.chain.sign_subscribe(&payer, plan, account.reference).await;
    mined(&stack, &tx).await;
    stack.synced().await;
    assert_eq!(stack.ledger.transactions(payer.address()).await[0].status, "pending");

    // On the new fork a rival's plan has the number, and the very same subscription is to that one.
    let nonce = stack.chain.pending_nonce(rival.address()).await;
    let cheap = Dues::createPlanCall { terms: stack.chain.monthly(1, rival.address()) };
    let cheap = stack.chain.sign_as(&rival, stack.chain.contract, &cheap, nonce, 400_000).await;
    stack.chain.reorg_from(created.block_number.unwrap(), &[(&cheap, 0), (&tx, 1)]).await;
    stack.synced().await;
    assert_eq!(event::<Dues::PlanCreated>(&stack.chain.receipt(cheap.hash).await).planId, plan);
    assert!(stack.chain.receipt(tx.hash).await.status());
    let plans = "SELECT count(*) FROM ledger.chain_plans";
    assert_eq!(stack.ledger.count(plans).await, 6);
    let rows = stack.ledger.transactions(payer.address()).await;
    assert_eq!((rows.len(), rows[0].status.as_str()), (1, "failed"));
    assert_eq!(stack.api.entitlements(account.id).await["tier"], "free");

    // And the ledger goes on.
    stack.chain.subscribe(&payer, stack.plan("basic-month").onchain_id, account.reference).await;
    stack.tier_becomes(account.id, "basic").await;
    stack.chain.mine(FINALITY_DEPTH).await;
    stack.synced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_that_swap_their_numbers_on_the_chain_never_sell_a_dear_tier_for_a_low_price() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let merchant = stack.chain.merchant_wallet();
    // Two more plans of the catalogue, put on the chain and mapped as the devnet does it.
    let offer = |key: &str, like: &str, units| PlanOffer {
        key: key.parse().unwrap(),
        price: Money { amount: BaseUnits::new(units), asset: asset() },
        ..catalogue().plans().find(|plan| plan.key.as_str() == like).unwrap().clone()
    };
    let offers = [offer("cheap", "basic-month", 1_000_000), offer("dear", "enterprise-month", 900_000_000)];
    let store = stack.site().database.store().await;
    let stored = store.sync_plans(&offers, stack.source()).await.unwrap();
    let mut txs = Vec::new();
    let mut blocks = Vec::new();
    for (plan, price) in stored.iter().zip([1_000_000, 900_000_000]) {
        let terms = stack.chain.monthly(price, stack.chain.merchant);
        let tx = stack.chain.sign(&merchant, stack.chain.contract, &Dues::createPlanCall { terms }).await;
        blocks.push(mined(&stack, &tx).await);
        let onchain_plan_id = event::<Dues::PlanCreated>(&stack.chain.receipt(tx.hash).await).planId;
        store
            .map_plan(
                stack.source(),
                ChainPlanMapping { plan: plan.id, onchain_plan_id, token: stack.chain.token },
            )
            .await
            .unwrap();
        txs.push((tx, onchain_plan_id));
    }
    stack.synced().await;
    let dear = txs[1].1;

    // The merchant's transactions are mined again in the other order (with other nonces, so signed anew).
    let nonce = stack.chain.pending_nonce(merchant.address()).await - 2;
    let mut again = Vec::new();
    for (place, price) in [(0_u64, 900_000_000), (1, 1_000_000)] {
        let terms = stack.chain.monthly(price, stack.chain.merchant);
        let call = Dues::createPlanCall { terms };
        again.push(stack.chain.sign_as(&merchant, stack.chain.contract, &call, nonce + place, 400_000).await);
    }
    stack.chain.reorg_from(blocks[0], &[(&again[0], 0), (&again[1], 1)]).await;
    stack.synced().await;
    let plan = stack.chain.dues().plan(dear).call().await.unwrap();
    assert_eq!(plan.price, alloy::primitives::aliases::U96::from(1_000_000), "they have swapped");

    // Whoever pays one dollar for the number that was the dear plan's must not get the dear tier.
    stack.chain.subscribe(&payer, dear, account.reference).await;
    stack.synced().await;
    assert_eq!(stack.ledger.transactions(payer.address()).await[0].amount, "1000000");
    let tier = &stack.api.entitlements(account.id).await["tier"];
    assert!(tier == "free" || tier == "basic", "one dollar bought {tier}");
}
