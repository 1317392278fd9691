//! Money, with the tokens' own logs.

use std::collections::{BTreeMap, HashSet};

use alloy_primitives::{Address, B256, U256};
use dues_chain::{
    contract::{self, Concerns},
    source::Receipt,
};
use dues_domain::chain::OnchainPlanId;
use dues_store::mirror::AuditedMovement;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Audit, AuditError, Progress, Stage, What};

/// Transactions whose rows are held at once.
const PAGE: u32 = 200;
/// Receipts that are asked for at once.
const CONCURRENT: usize = 16;

/// Token, whose it was, whose it became.
type Way = (Address, Address, Address);

impl Audit<'_> {
    pub(super) async fn transfers(&mut self, progress: &mut Progress<'_>) -> Result<(), AuditError> {
        let total = self.snapshot.transactions_with_money().await?;
        let ours: HashSet<OnchainPlanId> =
            self.snapshot.plans().await?.into_iter().map(|plan| plan.plan.id).collect();
        let mut after = None;
        loop {
            let rows = self.snapshot.movements_after(after, PAGE).await?;
            let mut by_tx: BTreeMap<B256, Vec<AuditedMovement>> = BTreeMap::new();
            for row in rows {
                by_tx.entry(row.at.tx_hash).or_default().push(row);
            }
            let Some(last) = by_tx.keys().next_back().copied() else { return Ok(()) };
            after = Some(last);
            let rpc = self.rpc;
            let receipts: Vec<(B256, Option<Receipt>)> = stream::iter(by_tx.keys().copied())
                .map(|hash| async move { Ok::<_, AuditError>((hash, rpc.receipt(hash).await?)) })
                .buffered(CONCURRENT)
                .try_collect()
                .await?;
            for (hash, receipt) in receipts {
                let rows = by_tx.remove(&hash).unwrap_or_default();
                self.compare_transfers(hash, &rows, receipt.as_ref(), &ours);
                self.findings.checked.transfers = self.findings.checked.transfers.saturating_add(1);
            }
            progress(Stage::Transfers, self.findings.checked.transfers, total);
        }
    }

    fn compare_transfers(
        &mut self,
        hash: B256,
        rows: &[AuditedMovement],
        receipt: Option<&Receipt>,
        ours: &HashSet<OnchainPlanId>,
    ) {
        let Some(receipt) = receipt.filter(|receipt| receipt.block.number <= self.block().number) else {
            self.findings.surplus(What::Transfer, format_args!("in transaction {hash}"));
            return;
        };
        let moving: Vec<bool> = receipt
            .events
            .iter()
            .filter(|topics| contract::moves_money(topics))
            .map(|topics| matches!(contract::concerns(topics), Some(Concerns::Plan(plan)) if ours.contains(&plan)))
            .collect();
        // Where the contract was called directly, and for nobody but our merchant, every token that moved is its doing.
        // Otherwise a wallet or another merchant may have moved more between the same two, and that is not our matter.
        let alone = receipt.to == Some(self.config.source.contract) && moving.iter().all(|ours| *ours);

        let mut ledger: BTreeMap<Way, U256> = BTreeMap::new();
        for row in rows {
            let sum = ledger.entry((row.token, row.payer, row.payee)).or_default();
            *sum = sum.saturating_add(U256::from(row.amount.get()));
        }
        let mut chain: BTreeMap<Way, U256> = BTreeMap::new();
        for transfer in &receipt.transfers {
            let sum = chain.entry((transfer.token, transfer.from, transfer.to)).or_default();
            *sum = sum.saturating_add(transfer.amount);
        }
        for (way, said) in ledger {
            let moved = chain.get(&way).copied().unwrap_or_default();
            if moved < said || (alone && moved > said) {
                let (token, from, to) = way;
                let id = format!("of {token} from {from} to {to} in transaction {hash}");
                self.findings.of(What::Transfer, &id).field("amount", said, moved);
            }
        }
        let debits = moving.iter().filter(|ours| **ours).count();
        let id = format!("in transaction {hash}");
        self.findings.of(What::Transfer, &id).field("number of payments", rows.len(), debits);
    }
}
