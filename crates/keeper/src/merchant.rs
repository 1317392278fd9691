//! What a merchant, or its operator, does on a chain: refunds, usage charges, plans.
//!
//! The key here is another one than the keeper's: it can take money from subscribers up to what they agreed to, and give
//! money back. An act is recorded before it is sent, with the very bytes, so that a process that is killed at any instant
//! leaves a trace, and the next one finds out what became of it instead of doing it again. Only one process acts with a
//! signer at a time ([`MerchantLead`]).
//!
//! Nothing here writes money into the ledger: what moved, the indexer learns from the contract's events.

use std::time::Duration;

use alloy::{
    consensus::TxEip1559,
    primitives::{Address, B256, Bytes, TxKind, U256, aliases::U96, keccak256},
    sol_types::SolCall as _,
};
use dues_chain::{
    contract::{Dues, IDues},
    refusals::{self, ContractError},
    source::{BlockTag, Call, CallRefused, GasPrices, RpcSource, Sent, SourceError},
};
use dues_domain::{
    chain::{BlockHeader, ChainSource, ChargeFailure, OnchainPlanId, OnchainSubscriptionId},
    ids::{ActId, PlanKey},
    money::BaseUnits,
};
use dues_store::{
    Store, StoreError,
    keeper::MinedAt,
    merchant::{MerchantLead, NewAct, RecordedAct},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{FeeLimits, KeeperSigner, SignerError, fees::Fees};

/// Gas on top of an estimate and a quarter of it: what is not used is not spent.
const SPARE_GAS: u64 = 20_000;
/// What speaks against an act whose nonce is used up.
const TAKEN: &str = "another transaction of this account has its nonce; whether it can still happen is known once that is final";

mod token {
    alloy::sol! {
        function approve(address spender, uint256 value) external returns (bool);
    }
}

/// Something that a merchant does.
#[derive(Debug, Clone)]
pub enum Act {
    /// Sends money of the signer back to a subscription's payer.
    Refund {
        /// The subscription.
        subscription: OnchainSubscriptionId,
        /// How much.
        amount: BaseUnits,
        /// What makes it happen once.
        key: B256,
        /// Whether somebody has chosen that key, so that another key means another refund.
        key_was_given: bool,
    },
    /// Charges usage of a period.
    ChargeUsage {
        /// The subscription.
        subscription: OnchainSubscriptionId,
        /// The period, from 1, counted from the subscription's present anchor.
        period: u16,
        /// How much.
        amount: BaseUnits,
        /// What makes it happen once.
        key: B256,
    },
    /// Closes a plan to new subscribers, for ever.
    Retire {
        /// The plan.
        plan: OnchainPlanId,
    },
    /// Has a subscription's next period be one of a plan that is nowhere worse for its payer.
    Migrate {
        /// The subscription.
        subscription: OnchainSubscriptionId,
        /// The plan.
        to: OnchainPlanId,
    },
    /// Ends a subscription, with its paid time or at once.
    Cancel {
        /// The subscription.
        subscription: OnchainSubscriptionId,
        /// Whether at once.
        at_once: bool,
    },
    /// Creates a plan.
    CreatePlan {
        /// The plan of the catalogue that it is to sell.
        sells: PlanKey,
        /// Its terms.
        terms: IDues::PlanTerms,
    },
    /// Proposes that a plan's payments go to another account, which can accept after two days; zero withdraws that.
    ProposePayee {
        /// The plan.
        plan: OnchainPlanId,
        /// That account.
        payee: Address,
    },
    /// Lets an account charge usage and refund for the signer's plans, or stops that.
    SetOperator {
        /// That account.
        operator: Address,
        /// Whether it may.
        approved: bool,
    },
    /// Lets the contract take so much of a token from the signer: what a refund needs.
    Approve {
        /// The token.
        token: Address,
        /// How much, in place of what was allowed before.
        amount: BaseUnits,
    },
}

impl Act {
    /// What is done, in one word.
    #[must_use]
    pub const fn action(&self) -> &'static str {
        match self {
            Self::Refund { .. } => "refund",
            Self::ChargeUsage { .. } => "usage_charge",
            Self::Retire { .. } => "retire",
            Self::Migrate { .. } => "migrate",
            Self::Cancel { at_once: false, .. } => "cancel",
            Self::Cancel { at_once: true, .. } => "cancel_now",
            Self::CreatePlan { .. } => "create_plan",
            Self::ProposePayee { .. } => "propose_payee",
            Self::SetOperator { approved: true, .. } => "allow_operator",
            Self::SetOperator { approved: false, .. } => "stop_operator",
            Self::Approve { .. } => "approve",
        }
    }

    /// To what.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::Refund { subscription, .. }
            | Self::ChargeUsage { subscription, .. }
            | Self::Migrate { subscription, .. }
            | Self::Cancel { subscription, .. } => format!("subscription:{subscription}"),
            Self::Retire { plan } | Self::ProposePayee { plan, .. } => format!("plan:{plan}"),
            Self::SetOperator { operator, .. } => format!("operator:{operator}"),
            Self::CreatePlan { sells, .. } => format!("catalogue:{sells}"),
            Self::Approve { token, .. } => format!("token:{token}"),
        }
    }

    /// How much, where that is part of it.
    #[must_use]
    pub const fn amount(&self) -> Option<BaseUnits> {
        match self {
            Self::Refund { amount, .. } | Self::ChargeUsage { amount, .. } | Self::Approve { amount, .. } => {
                Some(*amount)
            }
            _ => None,
        }
    }

    /// The contract's idempotency key, where it has one.
    #[must_use]
    pub const fn key(&self) -> Option<B256> {
        match self {
            Self::Refund { key, .. } | Self::ChargeUsage { key, .. } => Some(*key),
            _ => None,
        }
    }

    /// Whether the amount is beyond the 96 bits that the contract takes of usage.
    fn is_too_large(&self) -> bool {
        matches!(self, Self::ChargeUsage { amount, .. } if U96::try_from(amount.get()).is_err())
    }

    /// Whether what was begun before is this very act, and not another one of the same kind.
    #[must_use]
    pub fn is_same_as(&self, other: &NewAct) -> bool {
        let same_key = match self {
            Self::Refund { key_was_given: false, .. } => true,
            _ => self.key() == other.key,
        };
        same_key
            && self.action() == other.action
            && self.subject() == other.subject
            && self.amount() == other.amount
    }

    /// What is called, and with what.
    fn call(&self, source: ChainSource) -> (Address, Bytes) {
        let input = match self {
            Self::Refund { subscription, amount, key, .. } => {
                let (id, amount) = (U256::from(*subscription), amount.get());
                Dues::refundCall { id, amount, key: *key }.abi_encode()
            }
            Self::ChargeUsage { subscription, period, amount, key } => {
                let id = U256::from(*subscription);
                // One that does not fit is refused before it is sent.
                let amount = amount.get().try_into().unwrap_or(U96::MAX);
                Dues::chargeUsageCall { id, period: *period, amount, key: *key }.abi_encode()
            }
            Self::Retire { plan } => Dues::retirePlanCall { planId: *plan }.abi_encode(),
            Self::Migrate { subscription, to } => {
                Dues::migrateCall { id: U256::from(*subscription), planId: *to }.abi_encode()
            }
            Self::Cancel { subscription, at_once: false } => {
                Dues::cancelCall { id: U256::from(*subscription) }.abi_encode()
            }
            Self::Cancel { subscription, at_once: true } => {
                Dues::cancelNowCall { id: U256::from(*subscription) }.abi_encode()
            }
            Self::CreatePlan { terms, .. } => Dues::createPlanCall { terms: terms.clone() }.abi_encode(),
            Self::ProposePayee { plan, payee } => {
                Dues::proposePayeeCall { planId: *plan, payee: *payee }.abi_encode()
            }
            Self::SetOperator { operator, approved } => {
                Dues::setOperatorCall { operator: *operator, approved: *approved }.abi_encode()
            }
            Self::Approve { token, amount } => {
                let value = U256::from(amount.get());
                let approve = token::approveCall { spender: source.contract, value };
                return (*token, approve.abi_encode().into());
            }
        };
        (source.contract, input.into())
    }

    /// What the audit log says beyond action, subject, amount and key.
    fn detail(&self) -> Value {
        match self {
            Self::ChargeUsage { period, .. } => json!({ "period": period }),
            Self::Migrate { to, .. } => json!({ "to_plan": to }),
            Self::ProposePayee { payee, .. } => json!({ "payee": payee }),
            Self::CreatePlan { terms, .. } => json!({
                "token": terms.token,
                "payee": terms.payee,
                "price": terms.price.to_string(),
                "unit": terms.unit,
                "count": terms.count,
                "trial": terms.trial,
                "grace": terms.grace,
                "usage_cap": terms.usageCap.to_string(),
            }),
            _ => Value::Null,
        }
    }
}

/// The contract's key for what people call a usage charge or a refund: 32 bytes in hexadecimal with `0x` as they are, any
/// other text by its keccak-256.
#[must_use]
pub fn spent_key(text: &str) -> B256 {
    let bytes = text.strip_prefix("0x").filter(|digits| digits.len() == 64);
    bytes.and_then(|_| text.parse().ok()).unwrap_or_else(|| keccak256(text))
}

/// A key that nobody has used.
#[must_use]
pub fn fresh_key() -> B256 {
    keccak256(format!("dues act {}", ActId::generate()))
}

/// Why an act would not go through, or did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In words.
    pub words: String,
    /// Whether it was done before, or something else was, with the same key.
    pub key_was_spent: bool,
    /// Why the token did not move the money, where that is it.
    pub reason: Option<ChargeFailure>,
}

impl From<CallRefused> for Refusal {
    fn from(refused: CallRefused) -> Self {
        let error = refused.data.as_ref().and_then(|data| refusals::decode(data));
        match error {
            Some(error) => Self {
                words: refusals::explain(&error),
                key_was_spent: matches!(error, ContractError::KeySpent(_)),
                reason: refusals::failure(&error),
            },
            None => Self { words: refused.reason, key_was_spent: false, reason: None },
        }
    }
}

/// What an act would do now.
#[derive(Debug, Clone)]
pub struct Rehearsal {
    /// The head that it was tried at.
    pub head: BlockHeader,
    /// The gas that it takes, or why it would not go through.
    pub verdict: Result<u64, Refusal>,
    /// What gas costs.
    pub prices: GasPrices,
    /// The most wei per unit of gas that would be offered; none where the cap forbids it.
    pub max_fee: Option<u64>,
    /// What the signer has for gas, in wei.
    pub balance: U256,
}

/// What became of an act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in a block, and was carried out.
    Mined {
        /// The transaction.
        hash: B256,
        /// The block, and what it took.
        at: MinedAt,
    },
    /// It is in a block, and was refused there: nothing happened but that gas was spent.
    Reverted {
        /// The transaction.
        hash: B256,
        /// The block, and what it took.
        at: MinedAt,
    },
    /// Its key was spent before: it was done, or something else was with that key. Nothing was sent.
    KeySpent,
    /// It would not go through. Nothing was sent.
    Refused(Refusal),
    /// It was sent, and is in no block yet. Doing the same again goes on with it.
    Waiting {
        /// The transaction.
        hash: B256,
        /// What speaks against it: what the node last said, say.
        against: Option<String>,
    },
    /// Another transaction of the account has taken its nonce, in a final block: it never happens.
    Superseded {
        /// The transaction.
        hash: B256,
    },
}

/// Why nothing could be done, or found out.
#[derive(Debug, thiserror::Error)]
pub enum MerchantError {
    /// The chain could not be asked.
    #[error("the chain could not be asked")]
    Source(#[from] SourceError),
    /// The ledger could not be read or written.
    #[error("the ledger could not be read or written")]
    Store(#[from] StoreError),
    /// Nothing could be signed.
    #[error("nothing could be signed")]
    Signer(#[from] SignerError),
    /// Another process acts with this account on this chain.
    #[error(
        "another process is acting with {0} on this chain; try again when it has ended (a keeper must have another key)"
    )]
    NotLeading(Address),
    /// Something else was begun, and it is not known what became of it.
    #[error(
        "{action} of {subject} was begun before and is in no block yet (transaction {hash}): see `dues merchant resume`"
    )]
    Unfinished {
        /// What was begun.
        action: String,
        /// With what.
        subject: String,
        /// The transaction.
        hash: B256,
    },
    /// Gas costs more than the cap.
    #[error("gas costs {base_fee} wei a unit at the moment, more than the cap of {cap} allows")]
    FeeAboveCap {
        /// Of the next block.
        base_fee: u128,
        /// What is configured.
        cap: u64,
    },
    /// The signer cannot pay for the gas.
    #[error("{signer} has {balance} wei for gas; {needed} are needed")]
    Purse {
        /// The account.
        signer: Address,
        /// What it has.
        balance: U256,
        /// What a node wants covered.
        needed: U256,
    },
}

/// How to act on one chain.
#[derive(Debug, Clone, Copy)]
pub struct MerchantConfig {
    /// The contract.
    pub source: ChainSource,
    /// The most that gas may cost.
    pub fees: FeeLimits,
    /// How often to look for a transaction's block.
    pub poll_interval: Duration,
    /// For how long.
    pub patience: Duration,
}

/// Somebody who acts for a merchant on one chain.
#[derive(Debug, Clone)]
pub struct Merchant {
    store: Store,
    rpc: RpcSource,
    config: MerchantConfig,
    signer: KeeperSigner,
}

impl Merchant {
    /// One who signs with `signer`.
    #[must_use]
    pub const fn new(store: Store, rpc: RpcSource, config: MerchantConfig, signer: KeeperSigner) -> Self {
        Self { store, rpc, config, signer }
    }

    /// The account that acts.
    #[must_use]
    pub fn address(&self) -> Address {
        self.signer.address()
    }

    /// Becomes the one who acts with this account on this chain.
    ///
    /// # Errors
    /// [`MerchantError::NotLeading`] where another process does.
    pub async fn lead(&self) -> Result<MerchantLead, MerchantError> {
        self.rpc.verify_chain().await?;
        let lead = self.store.lead_merchant(self.config.source, self.address()).await?;
        lead.ok_or(MerchantError::NotLeading(self.address()))
    }

    /// What `act` would do now. Sends nothing and writes nothing.
    ///
    /// # Errors
    /// [`MerchantError::Source`].
    pub async fn rehearse(&self, act: &Act) -> Result<Rehearsal, MerchantError> {
        self.rpc.verify_chain().await?;
        let head = self.rpc.head(0).await?;
        let (to, input) = act.call(self.config.source);
        let call = Call { from: self.address(), to, input };
        let verdict = if self.is_spent(&head, act).await? {
            // The contract looks at caps and periods first, and what was done may be what has used them up.
            let words = "the key was used before".to_owned();
            Err(Refusal { words, key_was_spent: true, reason: None })
        } else {
            match self.rpc.rehearse(head.block, &call).await? {
                _ if act.is_too_large() => {
                    let words = "the contract takes no such amount".to_owned();
                    Err(Refusal { words, key_was_spent: false, reason: None })
                }
                Ok(_) => self.rpc.estimate(&call).await?.map_err(Refusal::from),
                Err(refused) => Err(refused.into()),
            }
        };
        let prices = self.rpc.gas_prices().await?;
        let max_fee = self.config.fees.fresh(&prices).map(|fees| fees.max_fee);
        let balance = self.rpc.native_balance(self.address()).await?;
        Ok(Rehearsal { head, verdict, prices, max_fee, balance })
    }

    /// Finds out what became of what was begun before. Gives what is known now, and what is in no block yet.
    ///
    /// # Errors
    /// [`MerchantError::Source`], [`MerchantError::Store`].
    pub async fn settle(
        &self,
        lead: &mut MerchantLead,
    ) -> Result<(Vec<(NewAct, Outcome)>, Vec<RecordedAct>), MerchantError> {
        let (mut settled, mut open) = (Vec::new(), Vec::new());
        for recorded in lead.unsettled().await? {
            let found = self.look_for(&recorded.act).await?;
            match (found, recorded.mined) {
                (Some(at), before) => {
                    if before != Some(at) {
                        lead.mined(&recorded.act, &at).await?;
                    }
                    if before.is_none() {
                        let outcome = ended(recorded.act.hash, at);
                        settled.push((recorded.act, outcome));
                    }
                }
                (None, Some(_)) => {
                    lead.reopened(&recorded.act).await?;
                    open.push(RecordedAct { mined: None, ..recorded });
                }
                (None, None) => open.push(recorded),
            }
        }
        Ok((settled, open))
    }

    /// What became of `act` where it was begun before: sends it again, the very same bytes, and waits for it. `None`
    /// where nothing of it is under way.
    ///
    /// # Errors
    /// [`MerchantError::Unfinished`] where something else is.
    pub async fn resume(&self, lead: &mut MerchantLead, act: &Act) -> Result<Option<Outcome>, MerchantError> {
        let (settled, open) = self.settle(lead).await?;
        if let Some((_, outcome)) = settled.into_iter().find(|(done, _)| act.is_same_as(done)) {
            return Ok(Some(outcome));
        }
        match open.into_iter().next() {
            None => Ok(None),
            Some(RecordedAct { act: begun, .. }) if act.is_same_as(&begun) => {
                self.finish(lead, &begun).await.map(Some)
            }
            Some(RecordedAct { act: NewAct { action, subject, hash, .. }, .. }) => {
                Err(MerchantError::Unfinished { action, subject, hash })
            }
        }
    }

    /// Does `act`, once: where it was begun before, that is finished instead.
    ///
    /// # Errors
    /// Where nothing was sent, or where it is not known what became of it: then it is on record.
    pub async fn perform(&self, lead: &mut MerchantLead, act: &Act) -> Result<Outcome, MerchantError> {
        if let Some(outcome) = self.resume(lead, act).await? {
            return Ok(outcome);
        }
        let Rehearsal { verdict, prices, balance, .. } = self.rehearse(act).await?;
        let gas = match verdict {
            Ok(gas) => gas,
            Err(refusal) if refusal.key_was_spent => return Ok(Outcome::KeySpent),
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        let gas_limit = gas.saturating_add(gas / 4).saturating_add(SPARE_GAS);
        let fees = self.config.fees.fresh(&prices).ok_or(MerchantError::FeeAboveCap {
            base_fee: prices.next_base_fee,
            cap: self.config.fees.max_fee,
        })?;
        let needed = U256::from(gas_limit).saturating_mul(U256::from(fees.max_fee));
        if balance < needed {
            return Err(MerchantError::Purse { signer: self.address(), balance, needed });
        }
        let new = self.sign(act, gas_limit, fees).await?;
        lead.record(&new, &act.detail()).await?;
        tracing::info!(action = new.action, subject = new.subject, hash = %new.hash, "an act is sent");
        self.finish(lead, &new).await
    }

    /// Charges usage to a period of a subscription, once for each `key`.
    ///
    /// # Errors
    /// As [`perform`](Self::perform).
    pub async fn charge_usage(
        &self,
        lead: &mut MerchantLead,
        subscription: OnchainSubscriptionId,
        period: u16,
        amount: BaseUnits,
        key: B256,
    ) -> Result<Outcome, MerchantError> {
        self.perform(lead, &Act::ChargeUsage { subscription, period, amount, key }).await
    }

    /// Sends what is recorded, as often as it takes, and waits until it is known what became of it, for as long as
    /// configured.
    ///
    /// # Errors
    /// [`MerchantError::Source`], [`MerchantError::Store`]: it stays on record.
    pub async fn finish(&self, lead: &mut MerchantLead, act: &NewAct) -> Result<Outcome, MerchantError> {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.look_for(act).await? {
                lead.mined(act, &at).await?;
                return Ok(ended(act.hash, at));
            }
            let head = self.rpc.head(0).await?;
            let mut against = None;
            if self.rpc.transaction_count(self.address(), head.block).await? > act.nonce {
                // Or it came into a block between the two questions, or a node lags.
                if self.is_lost(act).await? {
                    lead.superseded(act).await?;
                    return Ok(Outcome::Superseded { hash: act.hash });
                }
                against = Some(TAKEN.to_owned());
            } else if !self.rpc.knows(act.hash).await?
                && let Sent::Refused(reason) = self.rpc.send(&act.raw).await?
            {
                against = Some(reason);
            }
            if begun.elapsed() >= self.config.patience {
                return Ok(Outcome::Waiting { hash: act.hash, against });
            }
            tokio::time::sleep(self.config.poll_interval).await;
        }
    }

    /// Whether another transaction has taken the nonce of `act` for good: in a final block, so that no reorganisation brings
    /// it back, and no node is behind by that much.
    async fn is_lost(&self, act: &NewAct) -> Result<bool, MerchantError> {
        let checkpoint = self.store.checkpoint(self.config.source).await?;
        let tag = checkpoint.map_or(BlockTag::Finalized, |known| BlockTag::Number(known.final_number));
        let Some(last) = self.rpc.header(tag).await? else { return Ok(false) };
        let taken = self.rpc.transaction_count(self.address(), last.block).await? > act.nonce;
        Ok(taken && self.look_for(act).await?.is_none())
    }

    async fn is_spent(&self, head: &BlockHeader, act: &Act) -> Result<bool, MerchantError> {
        let (Act::Refund { subscription, key, .. } | Act::ChargeUsage { subscription, key, .. }) = act else {
            return Ok(false);
        };
        Ok(self.rpc.is_key_spent(head.block, *subscription, *key).await?)
    }

    async fn look_for(&self, act: &NewAct) -> Result<Option<MinedAt>, MerchantError> {
        let inclusion = self.rpc.inclusion(act.hash).await?;
        Ok(inclusion.map(|inclusion| MinedAt {
            block: inclusion.block,
            succeeded: inclusion.succeeded,
            gas_used: inclusion.gas_used,
            gas_price: u64::try_from(inclusion.gas_price).unwrap_or(u64::MAX >> 1),
        }))
    }

    async fn sign(&self, act: &Act, gas_limit: u64, fees: Fees) -> Result<NewAct, MerchantError> {
        let nonce = self.rpc.next_nonce(self.address()).await?;
        let (to, input) = act.call(self.config.source);
        let (hash, raw) = self.signer.sign(TxEip1559 {
            chain_id: self.config.source.chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas: fees.max_fee.into(),
            max_priority_fee_per_gas: fees.priority_fee.into(),
            to: TxKind::Call(to),
            value: U256::ZERO,
            access_list: alloy::eips::eip2930::AccessList::default(),
            input,
        })?;
        Ok(NewAct {
            id: ActId::generate(),
            action: act.action().to_owned(),
            subject: act.subject(),
            amount: act.amount(),
            key: act.key(),
            nonce,
            hash,
            raw,
        })
    }
}

const fn ended(hash: B256, at: MinedAt) -> Outcome {
    if at.succeeded { Outcome::Mined { hash, at } } else { Outcome::Reverted { hash, at } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_32_bytes_is_taken_as_it_is_and_any_other_text_is_hashed() {
        let hexadecimal = format!("0x{}", "ab".repeat(32));
        assert_eq!(spent_key(&hexadecimal), B256::repeat_byte(0xab));
        assert_eq!(spent_key("invoice-7"), keccak256("invoice-7"));
        for text in ["", "0x", &hexadecimal[2..], &format!("0x{}", "zz".repeat(32)), "0xab"] {
            assert_eq!(spent_key(text), keccak256(text), "{text}");
        }
        assert_ne!(fresh_key(), fresh_key());
    }

    #[test]
    fn a_refund_is_the_one_that_was_begun_unless_somebody_chose_another_key() {
        let act = |key: B256, key_was_given| Act::Refund {
            subscription: 7,
            amount: BaseUnits::new(5),
            key,
            key_was_given,
        };
        let begun = NewAct {
            id: ActId::generate(),
            action: "refund".into(),
            subject: "subscription:7".into(),
            amount: Some(BaseUnits::new(5)),
            key: Some(B256::repeat_byte(1)),
            nonce: 0,
            hash: B256::ZERO,
            raw: Vec::new(),
        };
        assert!(act(B256::repeat_byte(2), false).is_same_as(&begun));
        assert!(act(B256::repeat_byte(1), true).is_same_as(&begun));
        assert!(!act(B256::repeat_byte(2), true).is_same_as(&begun));
        let other = NewAct { amount: Some(BaseUnits::new(6)), ..begun };
        assert!(!act(B256::repeat_byte(2), false).is_same_as(&other));
    }
}
