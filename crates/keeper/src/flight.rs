//! Transactions that were signed and are in no final block yet.
//!
//! A transaction is written down before it is sent. So whatever happens after that (a kill, a node that forgets, a
//! reorganisation), what is written down is the whole truth: a nonce is either free, or one of the transactions recorded
//! for it gets into a block, or somebody else's does.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use alloy::primitives::{B256, U256};
use dues_chain::source::{GasPrices, Inclusion, Sent};
use dues_domain::{
    chain::{BlockHeader, ChargeFailure, OnchainSubscriptionId, SubscriptionEventKind},
    relay::RelayRefusal,
};
use dues_store::keeper::{KeeperLead, KeeperTransaction, MinedAt, NewKeeperTransaction};

use crate::{Keeper, KeeperError, fees::Fees, sending::Work};

/// What waits for a block.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    /// How many transactions of the signer are in blocks: the nonce of the next one.
    count: u64,
    /// Nonces that a recorded transaction has.
    taken: BTreeSet<u64>,
    /// By nonce, what was recorded for it last, where that is in no block.
    pub(crate) waiting: BTreeMap<u64, NewKeeperTransaction>,
}

impl Flight {
    /// The lowest nonce that nothing was recorded for: one that somehow stayed free would block all those above it.
    pub(crate) fn next_nonce(&self) -> u64 {
        let mut nonce = self.count;
        while self.taken.contains(&nonce) {
            nonce = nonce.saturating_add(1);
        }
        nonce
    }

    pub(crate) fn add(&mut self, transaction: NewKeeperTransaction) {
        self.taken.insert(transaction.nonce);
        self.waiting.insert(transaction.nonce, transaction);
    }

    /// How many of those that wait for a block carry intents.
    pub(crate) fn relayed(&self) -> usize {
        self.waiting.values().filter(|waiting| waiting.relay.is_some()).count()
    }

    /// Gas that the blocks to come may have to hold.
    pub(crate) fn gas(&self) -> u64 {
        self.waiting.values().fold(0, |sum, waiting| sum.saturating_add(waiting.gas_limit))
    }

    /// What all of it may cost at worst, in wei.
    pub(crate) fn cost(&self) -> U256 {
        self.waiting
            .values()
            .fold(U256::ZERO, |sum, waiting| sum.saturating_add(worst(waiting.gas_limit, waiting.max_fee)))
    }
}

/// What so much gas may cost, in wei.
fn worst(gas_limit: u64, max_fee: u64) -> U256 {
    U256::from(gas_limit).saturating_mul(U256::from(max_fee))
}

impl Keeper {
    /// Finds out what became of everything that was sent.
    pub(crate) async fn settle(
        &mut self,
        lead: &mut KeeperLead,
        head: &BlockHeader,
    ) -> Result<Flight, KeeperError> {
        let unsettled = lead.unsettled().await?;
        let count = self.rpc.transaction_count(self.signer.address(), head.block).await?;
        let mut flight = Flight { count, ..Flight::default() };
        let mut in_a_block = BTreeSet::new();
        // Nonces below the count that none of ours is known to have taken.
        let mut lost = BTreeSet::new();
        for KeeperTransaction { signed, mined, reorganised, is_final } in unsettled {
            let nonce = signed.nonce;
            flight.taken.insert(nonce);
            let unclear = match mined {
                // Above the count, it can be in no block.
                None => nonce < count,
                Some(_) => reorganised || is_final,
            };
            if !unclear {
                match mined {
                    Some(_) => drop(in_a_block.insert(nonce)),
                    None => drop(flight.waiting.insert(nonce, signed)),
                }
                continue;
            }
            match self.rpc.inclusion(signed.hash).await? {
                Some(inclusion) => {
                    in_a_block.insert(nonce);
                    self.included(lead, head, &signed, &inclusion).await?;
                    if is_final && mined == Some(inclusion.block) {
                        lead.settled(nonce).await?;
                    }
                }
                None => {
                    if mined.is_some() {
                        tracing::warn!(hash = %signed.hash, nonce, "a transaction is in no block any more");
                        lead.reopened(signed.hash).await?;
                    }
                    if nonce < count {
                        lost.insert(nonce);
                    } else {
                        flight.waiting.insert(nonce, signed);
                    }
                }
            }
        }
        flight.waiting.retain(|nonce, _| !in_a_block.contains(nonce));
        lost.retain(|nonce| !in_a_block.contains(nonce));
        self.give_up(lead, head, &lost).await?;
        let waiting: BTreeSet<B256> = flight.waiting.values().map(|waiting| waiting.hash).collect();
        self.memory.given.retain(|hash, _| waiting.contains(hash));
        self.telemetry.in_flight(flight.waiting.len());
        Ok(flight)
    }

    /// Notes that a transaction is in a block, and what came of each charge in it.
    async fn included(
        &mut self,
        lead: &mut KeeperLead,
        head: &BlockHeader,
        signed: &NewKeeperTransaction,
        inclusion: &Inclusion,
    ) -> Result<(), KeeperError> {
        let at = MinedAt {
            block: inclusion.block,
            succeeded: inclusion.succeeded,
            gas_used: inclusion.gas_used,
            gas_price: u64::try_from(inclusion.gas_price).unwrap_or(u64::MAX >> 1),
        };
        let refusal = match signed.relay {
            Some(_) if !at.succeeded => self.why_reverted(signed, inclusion).await?,
            _ => None,
        };
        if !lead.mined(signed.hash, &at, refusal).await? {
            return Ok(());
        }
        if signed.relay.is_some() {
            self.relayed(signed, inclusion, refusal);
            return Ok(());
        }
        let mut charged = 0_u64;
        let mut failed = HashMap::new();
        for event in &inclusion.events {
            match event.kind {
                SubscriptionEventKind::Charged { .. } => charged = charged.saturating_add(1),
                SubscriptionEventKind::ChargeFailed { reason } => drop(failed.insert(event.id, reason)),
                _ => {}
            }
        }
        self.telemetry.charges.increment(charged);
        self.telemetry.spent(inclusion.gas_used, inclusion.gas_price);
        let (hash, gas, block) = (signed.hash, inclusion.gas_used, inclusion.block.number);
        if inclusion.succeeded {
            tracing::info!(%hash, block, charged, refused = failed.len(), gas, "a batch is in a block");
        } else {
            // The contract reverts a batch only where a token has burnt so much gas that the rest did not suffice.
            self.telemetry.reverted.increment(1);
            tracing::warn!(%hash, block, gas, "a batch was reverted; its items get more gas the next time");
            self.memory.doubted.extend(&signed.onchain_ids);
        }
        self.refused_on_chain(lead, head, &failed).await
    }

    /// Why an intent was not carried out in its block, as far as that shows after it.
    async fn why_reverted(
        &self,
        signed: &NewKeeperTransaction,
        inclusion: &Inclusion,
    ) -> Result<Option<RelayRefusal>, KeeperError> {
        let call = Work::of(signed)?.call;
        // A node that does not know the state of then any more is no reason to wait.
        Ok(self.rpc.refuses(inclusion.block, call, signed.gas_limit).await.unwrap_or_default())
    }

    fn relayed(&self, signed: &NewKeeperTransaction, inclusion: &Inclusion, refusal: Option<RelayRefusal>) {
        self.telemetry.spent(inclusion.gas_used, inclusion.gas_price);
        self.telemetry.relay_gas.increment(inclusion.gas_used);
        let (hash, gas, block) = (signed.hash, inclusion.gas_used, inclusion.block.number);
        let id = signed.relay.map(|id| id.to_string());
        if inclusion.succeeded {
            self.telemetry.relay_mined.increment(1);
            tracing::info!(id, %hash, block, gas, "an intent is in a block");
        } else {
            let refusal = refusal.unwrap_or(RelayRefusal::Reverted);
            self.telemetry.relay_refused(refusal);
            self.telemetry.relay_reverted.increment(1);
            let reason = refusal.as_str();
            tracing::warn!(id, %hash, block, gas, reason, "an intent went through in a simulation and reverted in its block");
        }
    }

    async fn refused_on_chain(
        &self,
        lead: &mut KeeperLead,
        head: &BlockHeader,
        failed: &HashMap<OnchainSubscriptionId, ChargeFailure>,
    ) -> Result<(), KeeperError> {
        if failed.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = failed.keys().copied().collect();
        let charges = self.store.charges_of(self.config.source, &ids).await?;
        let refused = charges
            .into_iter()
            .filter_map(|charge| failed.get(&charge.onchain_id).map(|reason| (charge, *reason)))
            // Somebody has charged it meanwhile.
            .filter(|(charge, _)| charge.grace.from <= head.timestamp)
            .collect();
        self.refused(lead, head, refused).await
    }

    /// Nonces that others have taken for good: the signer's key is used elsewhere, too.
    async fn give_up(
        &mut self,
        lead: &mut KeeperLead,
        head: &BlockHeader,
        lost: &BTreeSet<u64>,
    ) -> Result<(), KeeperError> {
        self.memory.lost.retain(|nonce, _| lost.contains(nonce));
        if lost.is_empty() {
            return Ok(());
        }
        let checkpoint = self.store.checkpoint(self.config.source).await?;
        let final_number = checkpoint.map_or(0, |checkpoint| checkpoint.final_number);
        for nonce in lost {
            // Where the block is final that it was missed at, a reorganisation cannot bring it back.
            if *self.memory.lost.entry(*nonce).or_insert(head.block.number) <= final_number {
                let signer = self.signer.address();
                tracing::warn!(
                    nonce, %signer,
                    "somebody else has used a nonce of the signer; its key should be the keeper's alone"
                );
                lead.settled(*nonce).await?;
            }
        }
        Ok(())
    }

    /// Sends again what the node does not know, and something dearer in place of what is stuck.
    pub(crate) async fn push(
        &mut self,
        lead: &mut KeeperLead,
        head: &BlockHeader,
        prices: &GasPrices,
        flight: &mut Flight,
    ) -> Result<(), KeeperError> {
        for waiting in flight.waiting.clone().into_values() {
            if !self.rpc.knows(waiting.hash).await? {
                if let Sent::Refused(reason) = self.rpc.send(&waiting.raw).await? {
                    tracing::debug!(hash = %waiting.hash, reason, "the node does not take a transaction for now");
                } else {
                    tracing::info!(hash = %waiting.hash, nonce = waiting.nonce, "a transaction was sent again");
                    self.telemetry.resent.increment(1);
                    // It has as long as a new one before it counts as stuck.
                    self.memory.given.insert(waiting.hash, head.block.number);
                    continue;
                }
            }
            let given = self.memory.given.get(&waiting.hash).copied().unwrap_or_default();
            let age = head.block.number.saturating_sub(given.max(waiting.head_number));
            if age < self.config.limits.stuck_after_blocks {
                continue;
            }
            let old = Fees { max_fee: waiting.max_fee, priority_fee: waiting.priority_fee };
            let Some(fees) = self.config.limits.fees.replacing(old, prices) else {
                tracing::debug!(hash = %waiting.hash, "a transaction is stuck, and the cap allows no more for it");
                continue;
            };
            let replacement = self.sign(
                waiting.nonce,
                waiting.replacement.saturating_add(1),
                Work::of(&waiting)?,
                waiting.gas_limit,
                fees,
                head,
            )?;
            tracing::info!(
                hash = %replacement.hash, replaces = %waiting.hash, nonce = waiting.nonce, max_fee = fees.max_fee,
                "a transaction is stuck, and another one takes its place"
            );
            lead.record(&replacement).await?;
            self.telemetry.replaced.increment(1);
            self.send(&replacement).await?;
            flight.add(replacement);
        }
        Ok(())
    }
}
