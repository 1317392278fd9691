//! What payers signed and cannot pay the gas for.
//!
//! Before anything is sent it is simulated, and the contract's word is the answer. What goes through in a simulation and
//! not in its block (somebody was faster, the payer has moved its money) burns gas of ours: it is counted, as whatever else
//! was sent, for the day's budget and for its account.

use alloy::primitives::{Bytes, U256};
use dues_chain::source::{BlockTag, SourceError, intent_call};
use dues_domain::{
    chain::BlockHeader,
    ids::RelayIntentId,
    relay::{RelayLimits, RelayRefusal},
};
use dues_store::keeper::{KeeperLead, QueuedIntent};

use crate::{HeldBack, Keeper, KeeperError, Round, error::chain, flight::Flight, sending::Work};

/// Transactions with intents that wait for a block, beside those with charges: neither waits for the other. Nodes keep 16
/// of one account, by default.
const AT_ONCE: usize = 8;
/// Intents that are looked at in one round.
const PER_ROUND: usize = 32;
/// What is added to an estimate, in parts of it and in gas: the chain may have moved on when it is in a block.
const MARGIN_PART: u64 = 4;
const MARGIN: u64 = 20_000;
/// How often a simulation may fail, which is no answer, before that is taken for one.
const MOST_FAULTS: u8 = 3;

/// What to do after one intent.
enum Next {
    /// Look at the next one.
    GoOn,
    /// The same, and at this one again in the next round.
    LookAgain,
    /// None of them can be sent now.
    Wait,
}

impl Keeper {
    /// Sends what waits to be sent and goes through, and says why of the rest.
    pub(crate) async fn relay(
        &mut self,
        lead: &mut KeeperLead,
        head: &BlockHeader,
        flight: &mut Flight,
        round: &mut Round,
    ) -> Result<(), KeeperError> {
        let Some(limits) = self.config.relay else { return Ok(()) };
        let expired = lead.expire_intents().await?;
        if expired > 0 {
            tracing::info!(expired, "intents were not sent in time");
            self.telemetry.relay_expired.increment(expired);
        }
        let mut looked_at = 0_usize;
        while looked_at < PER_ROUND && flight.relayed() < AT_ONCE {
            let room = AT_ONCE.saturating_sub(flight.relayed());
            let queued =
                lead.queued_intents(head.block.number, u32::try_from(room).unwrap_or(u32::MAX)).await?;
            if queued.is_empty() {
                break;
            }
            looked_at = looked_at.saturating_add(queued.len());
            // One that is younger than they are: a payer may have topped up its wallet just before it handed in.
            let newer = self.rpc.header(BlockTag::Latest).await?;
            let head = newer.filter(|newer| newer.block.number >= head.block.number).unwrap_or(*head);
            let mut again = true;
            for queued in queued {
                match self.relay_one(lead, &head, limits, queued, flight, round).await? {
                    Next::GoOn => {}
                    Next::LookAgain => again = false,
                    Next::Wait => {
                        again = false;
                        break;
                    }
                }
            }
            if !again {
                break;
            }
        }
        self.telemetry.relay_queued(lead.count_queued_intents().await?);
        Ok(())
    }

    /// Sends one intent, or notes why not.
    async fn relay_one(
        &mut self,
        lead: &mut KeeperLead,
        head: &BlockHeader,
        limits: RelayLimits,
        queued: QueuedIntent,
        flight: &mut Flight,
        round: &mut Round,
    ) -> Result<Next, KeeperError> {
        let QueuedIntent { id, payer, intent, consent, permit } = queued;
        let call = intent_call(payer, &intent, &consent, permit.as_ref());
        let gas_limit = match self.gas_limit(head, limits, call.clone()).await {
            Ok(Ok(gas_limit)) => gas_limit,
            Ok(Err(refusal)) => return self.refuse(lead, id, refusal).await,
            // Whatever is wrong with this call, or with the node: charges do not wait for it, nor do other intents.
            Err(error) => {
                let faults = self.memory.faults.entry(id).or_default();
                *faults = faults.saturating_add(1);
                tracing::warn!(%id, error = %chain(&error), "a simulation of an intent failed");
                if *faults < MOST_FAULTS {
                    return Ok(Next::LookAgain);
                }
                return self.refuse(lead, id, RelayRefusal::Reverted).await;
            }
        };
        let spent = lead.relay_gas_spent().await?;
        if spent.saturating_add(gas_limit) > limits.gas_budget_per_day {
            let budget = limits.gas_budget_per_day;
            tracing::warn!(%id, spent, budget, "the relay's gas for 24 hours is spent");
            return self.refuse(lead, id, RelayRefusal::GasBudgetExhausted).await;
        }
        // What follows is no fault of the intent's: it waits.
        let prices = self.rpc.gas_prices().await?;
        let fees = self.config.limits.fees.fresh(&prices);
        self.mind_the_cap(fees.is_none(), &prices, 1);
        let Some(fees) = fees else {
            round.held_back = Some(HeldBack::FeeAboveCap);
            return Ok(Next::Wait);
        };
        let balance = self.rpc.native_balance(self.signer.address()).await?;
        let cost = U256::from(gas_limit).saturating_mul(U256::from(fees.max_fee));
        if balance < flight.cost().saturating_add(cost) {
            self.say_low(balance, 0, 1);
            round.held_back = Some(HeldBack::Purse);
            return Ok(Next::Wait);
        }
        let work = Work { onchain_ids: Vec::new(), relay: Some(id), call };
        let transaction = self.sign(flight.next_nonce(), 0, work, gas_limit, fees, head)?;
        lead.record(&transaction).await?;
        self.telemetry.relay_sent.increment(1);
        tracing::info!(
            %id, kind = intent.kind(), hash = %transaction.hash, nonce = transaction.nonce, gas_limit,
            max_fee = fees.max_fee, "an intent is sent"
        );
        self.send(&transaction).await?;
        flight.add(transaction);
        round.sent = round.sent.saturating_add(1);
        self.memory.faults.remove(&id);
        Ok(Next::GoOn)
    }

    /// How much gas a call is given, or why it is not sent.
    async fn gas_limit(
        &self,
        head: &BlockHeader,
        limits: RelayLimits,
        call: Bytes,
    ) -> Result<Result<u64, RelayRefusal>, SourceError> {
        let most = limits.max_gas_per_intent;
        if let Some(refusal) = self.rpc.refuses(head.block, call.clone(), most).await? {
            return Ok(Err(refusal));
        }
        let estimate = self.rpc.estimate_intent(self.signer.address(), call, most).await?;
        Ok(estimate.map(|gas| with_margin(gas).min(most)))
    }

    async fn refuse(
        &mut self,
        lead: &mut KeeperLead,
        id: RelayIntentId,
        refusal: RelayRefusal,
    ) -> Result<Next, KeeperError> {
        lead.refuse_intent(id, refusal).await?;
        self.memory.faults.remove(&id);
        self.telemetry.relay_refused(refusal);
        tracing::info!(%id, reason = refusal.as_str(), "an intent is refused");
        Ok(Next::GoOn)
    }
}

fn with_margin(gas: u64) -> u64 {
    gas.saturating_add(gas.checked_div(MARGIN_PART).unwrap_or_default()).saturating_add(MARGIN)
}
