//! Bodies that several endpoints share.

use std::collections::BTreeSet;

use alloy_primitives::B256;
use chrono::{DateTime, Utc};
use dues_domain::{
    catalogue::Tier,
    dunning::{Dunning, Runway},
    entitlement::{ChainEvidence, Entitlement, Finality, Rail, ScheduledPlan},
    money::Money,
    subscription::SubscriptionStatus,
    usage::{Meter, Meters},
};
use dues_store::{Account, AccountOrigin, Wallet, WalletProof};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// An account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Account)]
pub(crate) struct AccountBody {
    /// Our id. Its 16 bytes, left-padded to 32, are the reference that a subscription carries on chain.
    id: Uuid,
    /// The platform's id of its user.
    external_id: Option<String>,
    /// Where receipts go.
    email: Option<String>,
    /// The on-chain reference: what `subscribe(plan, ref)` takes.
    #[schema(value_type = String, example = "0x000000000000000000000000000000000192d5e0c6f87d0eb6f2a5d3a1b2c3d4")]
    reference: B256,
    /// `wallet` where a wallet paid before the platform knew it; linking that wallet claims what it paid for.
    origin: &'static str,
    /// The wallets that belong to it.
    wallets: Vec<WalletBody>,
    created_at: DateTime<Utc>,
}

impl AccountBody {
    pub(crate) fn new(account: Account, wallets: Vec<Wallet>) -> Self {
        Self {
            id: account.id.as_uuid(),
            external_id: account.external_id,
            email: account.email,
            reference: account.id.to_reference(),
            origin: match account.origin {
                AccountOrigin::Platform => "platform",
                AccountOrigin::Wallet => "wallet",
            },
            wallets: wallets.into_iter().map(WalletBody::from).collect(),
            created_at: account.created_at,
        }
    }
}

/// A wallet of an account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Wallet)]
pub(crate) struct WalletBody {
    /// With its EIP-55 checksum.
    #[schema(example = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8")]
    address: String,
    /// `signature` where whoever has it has signed so, `platform` where the platform vouches for it, `payment` where it
    /// paid before it was known.
    proof: &'static str,
    linked_at: DateTime<Utc>,
}

impl From<Wallet> for WalletBody {
    fn from(wallet: Wallet) -> Self {
        let proof = match wallet.proof {
            WalletProof::Platform => "platform",
            WalletProof::Payment => "payment",
            WalletProof::Signature => "signature",
        };
        Self { address: wallet.address.to_string(), proof, linked_at: wallet.linked_at }
    }
}

/// A message to be signed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Challenge)]
pub(crate) struct ChallengeBody {
    /// To be signed as it is (`personal_sign`, EIP-191), and sent back as it is. EIP-4361.
    pub(crate) message: String,
    /// Until when it is taken. Once.
    pub(crate) expires_at: DateTime<Utc>,
}

/// A message that was signed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Signed {
    /// As it was given out, to the letter.
    pub(crate) message: String,
    /// `0x…`: 65 bytes of a key, or whatever the contract at the address accepts (ERC-1271).
    pub(crate) signature: String,
}

/// An amount of money.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Money)]
pub(crate) struct MoneyBody {
    /// Exact decimal.
    #[schema(example = "29.99")]
    amount: String,
    #[schema(example = "USDC")]
    currency: String,
    /// The same in the currency's smallest unit.
    #[schema(example = "29990000")]
    base_units: String,
    /// Decimal places of the currency.
    #[schema(example = 6)]
    exponent: u8,
}

impl From<Money> for MoneyBody {
    fn from(money: Money) -> Self {
        Self {
            amount: money.decimal(),
            base_units: money.amount.to_string(),
            exponent: money.asset.exponent,
            currency: money.asset.code,
        }
    }
}

/// What an account may do right now, and why.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Entitlements)]
pub(crate) struct EntitlementsBody {
    account: AccountName,
    #[schema(value_type = String, example = "basic")]
    tier: Tier,
    /// Status of the subscription that gives the tier: `trialing`, `active` or `past_due`; `null` for `free`.
    #[schema(value_type = Option<String>, example = "active")]
    status: Option<SubscriptionStatus>,
    /// Whether that subscription ends with its paid period, whether the payer or the merchant wanted that.
    cancel_at_period_end: bool,
    /// The plan of that subscription's next period, where a change is scheduled. Takes effect with the renewal; not at
    /// all where the subscription ends before.
    scheduled_plan: Option<ScheduledPlanBody>,
    /// What is known of that subscription's next renewal; `null` where nothing is.
    renewal: Option<RenewalBody>,
    /// Everything that the tier includes.
    features: BTreeSet<String>,
    /// When this answer changes if nothing but time happens: the end of the paid period, or of the grace after
    /// it. `null` for `free`.
    valid_until: Option<DateTime<Utc>>,
    meters: MetersBody,
    /// What the tier rests on; `null` for `free`.
    source: Option<SourceBody>,
    /// The instant that this answer is about.
    pub(crate) as_of: DateTime<Utc>,
}

/// A plan that a subscription will be on.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScheduledPlan)]
struct ScheduledPlanBody {
    /// The catalogue's name for it; `null` where the catalogue does not sell it.
    #[schema(example = "basic-month")]
    plan: Option<String>,
    /// The tier that it gives; `null` where the catalogue does not sell it.
    #[schema(value_type = Option<String>, example = "basic")]
    tier: Option<Tier>,
    /// The contract's own number for it.
    onchain_id: String,
}

impl From<ScheduledPlan> for ScheduledPlanBody {
    fn from(scheduled: ScheduledPlan) -> Self {
        let (plan, tier) = scheduled.sold_as.map(|(key, tier)| (key.as_str().to_owned(), tier)).unzip();
        Self { plan, tier, onchain_id: scheduled.onchain_id.to_string() }
    }
}

/// What is known of a subscription's next renewal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Renewal)]
struct RenewalBody {
    /// For how many further periods the payer's balance and allowance last, whichever is less, as if this were its only
    /// subscription; `null` where nobody has looked yet.
    #[schema(example = 3)]
    renewals_left: Option<u32>,
    /// What runs out first: `balance` or `allowance`.
    #[schema(example = "allowance")]
    limited_by: Option<&'static str>,
    /// When that was looked at, by the chain's clock.
    means_as_of: Option<DateTime<Utc>>,
    /// Where the renewal is due and was refused: why, and when it is tried again.
    refused: Option<RefusedBody>,
}

/// A renewal that was tried and refused.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RefusedRenewal)]
struct RefusedBody {
    /// `allowance` (the payer lets us take too little), `balance` (it has too little), or `token` (the token refuses:
    /// a blocklist, a pause).
    #[schema(example = "balance")]
    reason: &'static str,
    /// How often it was tried.
    #[schema(example = 2)]
    attempts: u32,
    /// By the chain's clock.
    last_attempt_at: DateTime<Utc>,
    /// `null` where grace ends before.
    next_attempt_at: Option<DateTime<Utc>>,
}

impl RenewalBody {
    fn new(dunning: Option<Dunning>, runway: Option<Runway>) -> Option<Self> {
        (dunning.is_some() || runway.is_some()).then(|| Self {
            renewals_left: runway.map(|runway| runway.renewals),
            limited_by: runway.map(|runway| runway.limited_by.as_str()),
            means_as_of: runway.map(|runway| runway.as_of),
            refused: dunning.map(|dunning| RefusedBody {
                reason: dunning.reason.as_str(),
                attempts: dunning.attempts,
                last_attempt_at: dunning.last_attempt_at,
                next_attempt_at: dunning.next_attempt_at,
            }),
        })
    }
}

/// An account's names.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AccountName {
    id: Uuid,
    external_id: Option<String>,
}

impl From<&Account> for AccountName {
    fn from(account: &Account) -> Self {
        Self { id: account.id.as_uuid(), external_id: account.external_id.clone() }
    }
}

/// The quotas of the window that runs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Meters)]
pub(crate) struct MetersBody {
    requests: MeterBody,
    tokens: MeterBody,
}

impl From<Meters> for MetersBody {
    fn from(meters: Meters) -> Self {
        Self { requests: meters.requests.into(), tokens: meters.tokens.into() }
    }
}

/// A quota and its window.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Meter)]
struct MeterBody {
    /// How much is included in the window; `null` means unlimited.
    #[schema(example = 50_000)]
    limit: Option<u64>,
    /// How much of it is used.
    #[schema(example = 12)]
    used: u64,
    /// What reservations hold.
    #[schema(example = 0)]
    reserved: u64,
    /// What is left of `limit`; `null` means unlimited.
    #[schema(example = 49_988)]
    remaining: Option<u64>,
    /// What is never passed; `null` means nothing. Another one than `limit` where more may be used than is included.
    #[schema(example = 50_000)]
    hard_limit: Option<u64>,
    /// The part of `used` that was not included.
    #[schema(example = 0)]
    overage: u64,
    /// When the next window begins. An upgrade does not move it.
    resets_at: DateTime<Utc>,
}

impl From<Meter> for MeterBody {
    fn from(meter: Meter) -> Self {
        let remaining = meter.remaining();
        let Meter { limit, hard_limit, used, reserved, overage, resets_at } = meter;
        Self { limit, used, reserved, remaining, hard_limit, overage, resets_at }
    }
}

/// The subscription that gives the tier, and the event on the chain that it rests on.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Source)]
struct SourceBody {
    #[schema(value_type = String, example = "chain")]
    rail: Rail,
    subscription_id: Uuid,
    chain_id: u64,
    contract: String,
    /// The contract's own number for the subscription.
    onchain_id: String,
    block_number: u64,
    #[schema(value_type = String)]
    block_hash: B256,
    log_index: u64,
    /// `pending` while the block may still be reorganised away, then `final`.
    #[schema(value_type = String, example = "pending")]
    finality: Finality,
}

impl EntitlementsBody {
    pub(crate) fn new(
        account: &Account,
        entitlement: Entitlement,
        meters: Meters,
        as_of: DateTime<Utc>,
    ) -> Self {
        Self {
            account: account.into(),
            tier: entitlement.tier,
            status: entitlement.status,
            cancel_at_period_end: entitlement.cancel_at_period_end,
            scheduled_plan: entitlement.scheduled_plan.map(Into::into),
            renewal: RenewalBody::new(entitlement.dunning, entitlement.runway),
            features: entitlement.features,
            valid_until: entitlement.valid_until,
            meters: meters.into(),
            source: entitlement.source.map(|(subscription, rail, evidence)| {
                let ChainEvidence { source, onchain_id, block, log_index, finality } = evidence;
                SourceBody {
                    rail,
                    subscription_id: subscription.as_uuid(),
                    chain_id: source.chain_id,
                    contract: source.contract.to_string(),
                    onchain_id: onchain_id.to_string(),
                    block_number: block.number,
                    block_hash: block.hash,
                    log_index,
                    finality,
                }
            }),
            as_of,
        }
    }
}
