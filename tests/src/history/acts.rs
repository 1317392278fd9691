//! What can happen.

use alloy::{
    primitives::{Address, B256, U256, aliases::U96},
    signers::local::PrivateKeySigner,
    sol_types::SolCall,
};
use dues_chain::contract::{Dues, IDues};
use rand::{
    RngExt as _,
    rngs::StdRng,
    seq::{IndexedRandom as _, SliceRandom as _},
};

use super::{DEPTH, FUNDS, Sent, World, mirror::IndexerProcess};
use crate::{Chain, SignedTx, Token};

const DAY: u64 = 86_400;
/// Plenty for anything but a batch.
const GAS: u64 = 1_000_000;

/// What can happen, and how often in a hundred times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Somebody signs a transaction, and it is mined at once.
    Transact,
    /// Several share a block.
    Crowd,
    /// Time passes; everybody who is due is charged in one batch.
    Renew,
    /// Blocks without anything of ours.
    Idle,
    /// The last blocks are replaced. Some of their transactions are mined again, in another order.
    Reorganise,
    /// The last blocks vanish, and others come.
    RollBack,
    /// The indexer is killed and started again.
    Kill,
    /// A second indexer is started; or one of two is killed.
    Second,
    /// Something else goes wrong at a node from now on, or nothing any more.
    Err,
}

const WEIGHTS: [(Act, u32); 9] = [
    (Act::Transact, 40),
    (Act::Crowd, 10),
    (Act::Renew, 10),
    (Act::Idle, 8),
    (Act::Reorganise, 15),
    (Act::RollBack, 4),
    (Act::Kill, 9),
    (Act::Second, 4),
    (Act::Err, 20),
];

/// A call, and whose.
struct Call {
    what: &'static str,
    from: PrivateKeySigner,
    to: Address,
    data: Vec<u8>,
}

/// A subscription of this history as the contract has it.
struct Known {
    id: U256,
    payer: Address,
    periods: u16,
    paid_through: u64,
}

/// A plan that may have been any merchant's.
pub(super) fn terms(rng: &mut StdRng, chain: &Chain) -> IDues::PlanTerms {
    let month = rng.random_bool(0.3);
    IDues::PlanTerms {
        unit: u8::from(month),
        count: if month { 1 } else { rng.random_range(1..40) },
        trial: if rng.random_bool(0.2) { 3 * 86_400 } else { 0 },
        grace: 86_400,
        usageCap: U96::from(rng.random_range(0..5_000_000_u64)),
        ..chain.monthly(rng.random_range(1..20_000_000), Address::repeat_byte(rng.random_range(0xa0..0xa3)))
    }
}

impl World {
    /// Does one random thing.
    pub async fn act(&mut self) {
        let mut draw = self.rng.random_range(0..WEIGHTS.iter().map(|(_, weight)| weight).sum());
        let (act, _) = WEIGHTS
            .iter()
            .find(|(_, weight)| match draw.checked_sub(*weight) {
                Some(left) => {
                    draw = left;
                    false
                }
                None => true,
            })
            .unwrap();
        match act {
            Act::Transact => self.transact(1).await,
            Act::Crowd => {
                let count = self.rng.random_range(2..6);
                self.transact(count).await;
            }
            Act::Renew => self.renew().await,
            Act::Idle => {
                let blocks = self.rng.random_range(1..DEPTH + 2);
                self.note(format!("{blocks} blocks"));
                self.chain.mine(blocks).await;
            }
            Act::Reorganise => self.reorganise().await,
            Act::RollBack => self.roll_back().await,
            Act::Kill => {
                self.note("kill");
                self.indexers.clear();
                self.indexers.push(IndexerProcess::start(&self.mirrored));
            }
            Act::Second => {
                let second = (self.indexers.len() == 1).then(|| IndexerProcess::start(&self.mirrored));
                self.note(if second.is_some() { "a second indexer" } else { "the first of two is killed" });
                match second {
                    Some(second) => self.indexers.push(second),
                    None => drop(self.indexers.remove(0)),
                }
            }
            Act::Err => self.err().await,
        }
        // Else the next thing would have happened before the indexer saw anything of this one.
        if self.rng.random_bool(0.6) {
            let times = self.rng.random_range(1..=8);
            self.nodes.are_asked(times).await;
        }
        self.highest = self.highest.max(self.chain.head().await.header.number);
    }

    pub(super) async fn err(&mut self) {
        let head = self.chain.head().await.header.number;
        let what = self.nodes.err(&mut self.rng, head);
        self.note(what);
    }

    async fn transact(&mut self, count: usize) {
        self.chain.automine(false).await;
        let mut sent = Vec::new();
        for _ in 0..count {
            let Call { what, from, to, data } = self.call().await;
            let nonce = self.chain.pending_nonce(from.address()).await;
            let tx = self.chain.sign_input(&from, to, data, nonce, GAS).await;
            self.chain.send(&tx).await;
            self.note(format!("{what} {}", tx.hash));
            sent.push((from.address(), tx));
        }
        self.chain.mine(1).await;
        self.chain.automine(true).await;
        let mut placed = Vec::new();
        for (from, tx) in sent {
            let receipt = self.chain.receipt(tx.hash).await;
            let index = receipt.transaction_index.unwrap();
            placed.push((index, Sent { block: receipt.block_number.unwrap(), from, tx }));
        }
        placed.sort_by_key(|(index, _)| *index);
        self.sent.extend(placed.into_iter().map(|(_, sent)| sent));
    }

    async fn renew(&mut self) {
        let known = self.known().await;
        let now = self.chain.head().await.header.timestamp;
        let due = known.iter().map(|s| s.paid_through).filter(|end| *end > now).min().unwrap_or(now + DAY);
        // Now and then so late that grace is over.
        let late = self.rng.random_range(0..DAY * 5 / 4);
        self.chain.next_block_at((due + late).try_into().unwrap()).await;
        let call = Dues::chargeBatchCall { ids: known.iter().map(|s| s.id).collect() };
        let keeper = self.merchant.clone();
        let nonce = self.chain.pending_nonce(keeper.address()).await;
        let tx = self.chain.sign_as(&keeper, self.chain.contract, &call, nonce, 15_000_000).await;
        self.note(format!("renewal of {} at {} {}", known.len(), due + late, tx.hash));
        self.chain.send(&tx).await;
        let block = self.chain.receipt(tx.hash).await.block_number.unwrap();
        self.sent.push(Sent { block, from: keeper.address(), tx });
    }

    async fn reorganise(&mut self) {
        let Some(from) = self.fork().await else { return };
        let head = self.chain.head().await.header.number;
        let (kept, gone): (Vec<_>, Vec<_>) = self.sent.drain(..).partition(|sent| sent.block < from);
        self.sent = kept;
        // A transaction needs all earlier ones of its sender.
        let (mut dropped, mut again) = (Vec::new(), Vec::new());
        for sent in gone {
            if dropped.contains(&sent.from) || self.rng.random_bool(0.3) {
                dropped.push(sent.from);
            } else {
                again.push(sent);
            }
        }
        self.shuffle(&mut again);
        let mut places: Vec<u64> = again.iter().map(|_| self.rng.random_range(0..=head - from)).collect();
        places.sort_unstable();
        self.note(format!("reorganisation from {from} to {head}; again: {:?}", hashes(&again)));
        let txs: Vec<(&SignedTx, u64)> = again.iter().map(|sent| &sent.tx).zip(places).collect();
        self.chain.reorg_from(from, &txs).await;
        for mut sent in again {
            sent.block = self.chain.receipt(sent.tx.hash).await.block_number.unwrap();
            self.sent.push(sent);
        }
    }

    async fn roll_back(&mut self) {
        let Some(from) = self.fork().await else { return };
        let head = self.chain.head().await.header.number;
        self.note(format!("rollback from {from} to {head}"));
        let taken = self.chain.block(from.into()).await;
        self.chain.rollback_from(from).await;
        self.sent.retain(|sent| sent.block < from);
        // An empty block at the same second would be the same block again, and the chain no other one.
        self.chain.next_block_at((taken.header.timestamp + 1).try_into().unwrap()).await;
        // Somewhat short of the old head, or beyond it: a lower head alone is no reorganisation.
        let blocks = self.rng.random_range(1..=head - from + 2);
        self.chain.mine(blocks).await;
    }

    /// The first block of a reorganisation: never one that is final.
    async fn fork(&mut self) -> Option<u64> {
        let head = self.chain.head().await.header.number;
        let lowest = self.highest - DEPTH + 1;
        (lowest <= head).then(|| self.rng.random_range(lowest..=head))
    }

    /// Another order, in which each sender's transactions follow each other as before.
    fn shuffle(&mut self, sent: &mut [Sent]) {
        let mut senders: Vec<Address> = sent.iter().map(|sent| sent.from).collect();
        senders.shuffle(&mut self.rng);
        let before = sent.to_vec();
        let mut used = vec![false; before.len()];
        for (place, sender) in sent.iter_mut().zip(senders) {
            let next = (0..before.len()).find(|i| !used[*i] && before[*i].from == sender).unwrap();
            used[next] = true;
            *place = before[next].clone();
        }
    }

    /// The subscriptions of this history's merchant.
    async fn known(&self) -> Vec<Known> {
        let records = self.records().await.into_iter();
        records
            .map(|(id, IDues::Record { subscription, paidThrough, .. })| Known {
                id,
                payer: subscription.payer,
                periods: subscription.periods,
                paid_through: paidThrough,
            })
            .collect()
    }

    /// What somebody may want to do. It may well be refused.
    async fn call(&mut self) -> Call {
        let known = self.known().await;
        let subscription = known.choose(&mut self.rng);
        let plan = *self.plans.choose(&mut self.rng).unwrap();
        let dues = self.chain.contract;
        let Some(subscription) = subscription.filter(|_| self.rng.random_bool(0.7)) else {
            return self.newcomer(plan);
        };
        let id = subscription.id;
        let payer = self.payers.iter().find(|wallet| wallet.address() == subscription.payer).unwrap().clone();
        let merchant = self.merchant.clone();
        let key = self.key();
        let count = self.rng.random_range(1..4);
        let (what, from, data) = match self.rng.random_range(0..13) {
            0 => ("cancel", payer, Dues::cancelCall { id }.abi_encode()),
            1 => ("cancelNow", payer, Dues::cancelNowCall { id }.abi_encode()),
            2 | 3 => ("resume", payer, Dues::resumeCall { id }.abi_encode()),
            4 => ("merchant's cancel", merchant, Dues::cancelCall { id }.abi_encode()),
            5 | 6 => {
                let call = Dues::changeNowCall { id, planId: plan, count, maxAmount: u128::MAX };
                ("changeNow", payer, call.abi_encode())
            }
            7 => ("scheduleChange", payer, Dues::scheduleChangeCall { id, planId: plan }.abi_encode()),
            8 => ("revokeChange", payer, Dues::revokeChangeCall { id }.abi_encode()),
            9 => ("prepay", payer, Dues::prepayCall { id, count }.abi_encode()),
            10 | 11 => {
                let (period, amount) =
                    (subscription.periods, U96::from(self.rng.random_range(1..900_000_u64)));
                ("chargeUsage", merchant, Dues::chargeUsageCall { id, period, amount, key }.abi_encode())
            }
            _ => {
                let amount = self.rng.random_range(1..3_000_000);
                ("refund", merchant, Dues::refundCall { id, amount, key }.abi_encode())
            }
        };
        Call { what, from, to: dues, data }
    }

    fn newcomer(&mut self, plan: u32) -> Call {
        let payer = self.payers.choose(&mut self.rng).unwrap().clone();
        let reference = if self.rng.random_bool(0.5) { B256::ZERO } else { self.key() };
        let (dues, token) = (self.chain.contract, self.chain.token);
        let (what, to, data) = match self.rng.random_range(0..10) {
            0 => {
                let call =
                    Dues::subscribePrepaidCall { planId: plan, r#ref: reference, count: 3, renews: true };
                ("subscribePrepaid", dues, call.abi_encode())
            }
            // Two equal ones in one transaction.
            1 => {
                let one = Dues::subscribeCall { planId: plan, r#ref: reference }.abi_encode();
                let call = Dues::multicallCall { calls: vec![one.clone().into(), one.into()] };
                ("subscribe twice", dues, call.abi_encode())
            }
            2 => {
                let value = U256::from(if self.rng.random_bool(0.5) { 0 } else { FUNDS });
                ("approve", token, Token::approveCall { spender: dues, value }.abi_encode())
            }
            _ => ("subscribe", dues, Dues::subscribeCall { planId: plan, r#ref: reference }.abi_encode()),
        };
        Call { what, from: payer, to, data }
    }
}

fn hashes(sent: &[Sent]) -> Vec<B256> {
    sent.iter().map(|sent| sent.tx.hash).collect()
}
