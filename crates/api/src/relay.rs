//! Signed intents as callers write them.

use std::fmt;

use alloy_primitives::{B256, Bytes, U128, U256, hex};
use chrono::{DateTime, Utc};
use dues_domain::{
    chain::ChainSource,
    relay::{
        CancelIntent, ChangeIntent, Consent, Intent, Permit, RelayLimits, RelayRefusal, SubscribeIntent,
    },
};
use dues_store::relay::RelayIntent;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    extract,
    problem::{Code, Problem},
};

/// The longest signature: those of accounts with code (ERC-1271) have any length.
const LONGEST_SIGNATURE: usize = 4_096;

/// What is relayed, and where to.
#[derive(Debug, Clone)]
pub struct Relay {
    /// The contracts. Nothing is ever sent to another one.
    pub targets: Vec<ChainSource>,
    /// How much.
    pub limits: RelayLimits,
}

impl Relay {
    /// The contract that a caller means.
    pub(crate) fn target(
        &self,
        chain_id: Option<u64>,
        contract: Option<&str>,
    ) -> Result<ChainSource, Problem> {
        let contract = contract.map(extract::address).transpose()?;
        let meant: Vec<_> = self
            .targets
            .iter()
            .filter(|target| chain_id.is_none_or(|chain_id| target.chain_id == chain_id))
            .filter(|target| contract.is_none_or(|contract| target.contract == contract))
            .collect();
        match meant.as_slice() {
            [target] => Ok(**target),
            [] => Err(Code::UnknownChain.into()),
            _ => Err(invalid("there are several chains or contracts: chain_id, or contract, is needed")),
        }
    }
}

/// A whole number of up to 256 bits: decimal digits, or a JSON number where that is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, example = "1798761600", pattern = "^[0-9]{1,78}$")]
pub(crate) struct Uint(U256);

impl<'de> Deserialize<'de> for Uint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Uint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of up to 256 bits in decimal digits")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Uint, E> {
                Ok(Uint(U256::from(number)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Uint, E> {
                let digits = (1..=78).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
                let number = digits.then(|| U256::from_str_radix(text, 10).ok()).flatten();
                number.map(Uint).ok_or_else(|| E::invalid_value(de::Unexpected::Str("other text"), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Uint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl Uint {
    fn to<T: TryFrom<U256>>(self, name: &str) -> Result<T, Problem> {
        T::try_from(self.0).map_err(|_| invalid(&format!("{name} is too large")))
    }
}

/// An intent to be sent, by its `kind`. The fields are those that the payer has signed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[schema(as = Intent)]
pub(crate) enum IntentBody {
    /// `Subscribe`
    Subscribe(SubscribeBody),
    /// `Change`
    Change(ChangeBody),
    /// `Cancel`
    Cancel(CancelBody),
}

/// To subscribe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SubscribeIntent)]
pub(crate) struct SubscribeBody {
    /// Who pays and has signed.
    #[schema(example = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8")]
    payer: String,
    /// `planId`: the contract's number of the plan.
    onchain_plan_id: Uint,
    /// `ref`: an account's `reference`.
    #[schema(example = "0x000000000000000000000000000000000192d5e0c6f87d0eb6f2a5d3a1b2c3d4")]
    reference: String,
    /// Periods to pay now; 0 for one, or for the plan's trial.
    count: u16,
    /// Whether periods after that may be charged.
    renews: bool,
    /// A number that the payer has not used for another intent.
    nonce: Uint,
    /// The last second in which the signature is good.
    deadline: Uint,
}

/// To change a subscription's plan.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChangeIntent)]
pub(crate) struct ChangeBody {
    /// `id`: the contract's number of the subscription.
    onchain_id: Uint,
    /// `planId`: the contract's number of the plan to change to.
    onchain_plan_id: Uint,
    /// Periods to pay now; 0 to change with the next period.
    count: u16,
    /// `maxAmount`: the most that may be debited now, in base units; of no meaning with `count` 0.
    max_amount: Uint,
    /// A number that the payer has not used for another intent.
    nonce: Uint,
    /// The last second in which the signature is good.
    deadline: Uint,
}

/// To cancel a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CancelIntent)]
pub(crate) struct CancelBody {
    /// `id`: the contract's number of the subscription.
    onchain_id: Uint,
    /// `atOnce`: at once, forfeiting the paid time, or with it.
    at_once: bool,
    /// A number that the payer has not used for another intent.
    nonce: Uint,
    /// The last second in which the signature is good.
    deadline: Uint,
}

impl IntentBody {
    pub(crate) fn read(self) -> Result<Intent, Problem> {
        Ok(match self {
            Self::Subscribe(body) => Intent::Subscribe(SubscribeIntent {
                payer: extract::address(&body.payer)?,
                plan: body.onchain_plan_id.to("onchain_plan_id")?,
                reference: word(&body.reference).ok_or_else(|| invalid("reference is not 32 bytes"))?,
                count: body.count,
                renews: body.renews,
                nonce: body.nonce.0,
                deadline: body.deadline.0,
            }),
            Self::Change(body) => Intent::Change(ChangeIntent {
                id: body.onchain_id.to("onchain_id")?,
                plan: body.onchain_plan_id.to("onchain_plan_id")?,
                count: body.count,
                max_amount: U128::from(body.max_amount.to::<u128>("max_amount")?),
                nonce: body.nonce.0,
                deadline: body.deadline.0,
            }),
            Self::Cancel(body) => Intent::Cancel(CancelIntent {
                id: body.onchain_id.to("onchain_id")?,
                at_once: body.at_once,
                nonce: body.nonce.0,
                deadline: body.deadline.0,
            }),
        })
    }
}

impl From<Intent> for IntentBody {
    fn from(intent: Intent) -> Self {
        let number = |number: u64| Uint(U256::from(number));
        match intent {
            Intent::Subscribe(intent) => Self::Subscribe(SubscribeBody {
                payer: intent.payer.to_string(),
                onchain_plan_id: number(intent.plan.into()),
                reference: intent.reference.to_string(),
                count: intent.count,
                renews: intent.renews,
                nonce: Uint(intent.nonce),
                deadline: Uint(intent.deadline),
            }),
            Intent::Change(intent) => Self::Change(ChangeBody {
                onchain_id: number(intent.id),
                onchain_plan_id: number(intent.plan.into()),
                count: intent.count,
                max_amount: Uint(U256::from(intent.max_amount)),
                nonce: Uint(intent.nonce),
                deadline: Uint(intent.deadline),
            }),
            Intent::Cancel(intent) => Self::Cancel(CancelBody {
                onchain_id: number(intent.id),
                at_once: intent.at_once,
                nonce: Uint(intent.nonce),
                deadline: Uint(intent.deadline),
            }),
        }
    }
}

/// An allowance of the payer's to Dues by signature, in the plan's token, by its `kind`. One that fails is ignored, and the
/// allowance that is there decides.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[schema(as = Permit)]
pub(crate) enum PermitBody {
    /// The token's own (EIP-2612).
    Eip2612(Eip2612Body),
    /// Through Permit2.
    Permit2(Permit2Body),
}

/// A token's own permit (EIP-2612).
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Eip2612Permit)]
pub(crate) struct Eip2612Body {
    /// Base units.
    value: Uint,
    deadline: Uint,
    /// 65 bytes.
    #[schema(example = "0x…", pattern = "^0x[0-9a-fA-F]{130}$")]
    signature: String,
}

/// A permit of Permit2 (`PermitSingle`).
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Permit2Permit)]
pub(crate) struct Permit2Body {
    /// Base units, of 160 bits.
    value: Uint,
    /// When the allowance ends, of 48 bits. It has to outlast the subscription's charges.
    expiration: Uint,
    /// Permit2's own count, of 48 bits.
    nonce: Uint,
    /// `sigDeadline`
    signature_deadline: Uint,
    #[schema(example = "0x…")]
    signature: String,
}

impl PermitBody {
    pub(crate) fn read(self) -> Result<Permit, Problem> {
        match self {
            Self::Eip2612(body) => {
                let bytes = signature("permit.signature", &body.signature)?;
                let malformed = || malformed("permit.signature", "is not 65 bytes of an ECDSA signature");
                let (Some((r, rest)), 65) = (bytes.split_at_checked(32), bytes.len()) else {
                    return Err(malformed());
                };
                let (s, v) = rest.split_at_checked(32).ok_or_else(malformed)?;
                let v = match v {
                    [0 | 27] => 27,
                    [1 | 28] => 28,
                    _ => return Err(malformed()),
                };
                let (r, s) = (B256::from_slice(r), B256::from_slice(s));
                Ok(Permit::Eip2612 { value: body.value.0, deadline: body.deadline.0, v, r, s })
            }
            Self::Permit2(body) => {
                let fits = |number: Uint, bits: usize, name: &str| {
                    let fits = number.0.bit_len() <= bits;
                    if fits { Ok(number) } else { Err(invalid(&format!("{name} is too large"))) }
                };
                Ok(Permit::Permit2 {
                    value: fits(body.value, 160, "permit.value")?.0,
                    expiration: fits(body.expiration, 48, "permit.expiration")?.to("permit.expiration")?,
                    nonce: fits(body.nonce, 48, "permit.nonce")?.to("permit.nonce")?,
                    signature_deadline: body.signature_deadline.0,
                    signature: signature("permit.signature", &body.signature)?,
                })
            }
        }
    }
}

/// The signature of an intent.
pub(crate) fn consent(text: &str) -> Result<Consent, Problem> {
    signature("signature", text).map(Consent)
}

// What was sent is not repeated: it is a signature, if a broken one.
fn signature(name: &str, text: &str) -> Result<Bytes, Problem> {
    let bytes = text.strip_prefix("0x").and_then(|digits| hex::decode(digits).ok());
    let bytes = bytes.ok_or_else(|| malformed(name, "is not 0x and pairs of hexadecimal digits"))?;
    if bytes.len() > LONGEST_SIGNATURE {
        return Err(malformed(name, "is longer than 4096 bytes"));
    }
    Ok(bytes.into())
}

fn word(text: &str) -> Option<B256> {
    let bytes = hex::decode(text.strip_prefix("0x")?).ok()?;
    B256::try_from(bytes.as_slice()).ok()
}

fn malformed(name: &str, why: &str) -> Problem {
    Problem::new(Code::MalformedSignature).with_detail(format!("{name} {why}"))
}

fn invalid(why: &str) -> Problem {
    Problem::new(Code::InvalidBody).with_detail(why)
}

/// A signed intent, and where it stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RelayedIntent)]
pub(crate) struct RelayBody {
    id: Uuid,
    /// Whom it is for, and whose limit it counts for.
    account_id: Uuid,
    /// `queued`, `sending` once it has passed the simulation, `mined` once it was carried out in a block; `refused`, with a
    /// `reason`, where the contract does not take it; `expired` where nobody sent it in time.
    #[schema(example = "mined")]
    status: &'static str,
    /// Why it was refused.
    #[schema(example = json!(null))]
    reason: Option<&'static str>,
    chain_id: u64,
    contract: String,
    /// Who signed it.
    payer: String,
    intent: IntentBody,
    /// The transaction that carries it. May change until it is in a block: what is stuck is replaced.
    #[schema(value_type = Option<String>)]
    tx_hash: Option<B256>,
    block_number: Option<u64>,
    #[schema(value_type = Option<String>)]
    block_hash: Option<B256>,
    gas_used: Option<u64>,
    /// What the relay has paid for the gas, in wei.
    #[schema(example = "175223000000000")]
    fee_wei: Option<String>,
    /// Until when it waits to be sent.
    expires_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<RelayIntent> for RelayBody {
    fn from(row: RelayIntent) -> Self {
        Self {
            id: row.id.as_uuid(),
            account_id: row.account.as_uuid(),
            status: row.status.as_str(),
            reason: row.refusal.map(RelayRefusal::as_str),
            chain_id: row.source.chain_id,
            contract: row.source.contract.to_string(),
            payer: row.payer.to_string(),
            intent: row.intent.into(),
            tx_hash: row.tx_hash,
            block_number: row.mined.map(|mined| mined.block.number),
            block_hash: row.mined.map(|mined| mined.block.hash),
            gas_used: row.mined.map(|mined| mined.gas_used),
            fee_wei: row.mined.map(|mined| {
                U256::from(mined.gas_used).saturating_mul(U256::from(mined.gas_price)).to_string()
            }),
            expires_at: row.expires_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;
    use chrono::TimeDelta;
    use serde_json::json;

    use super::*;

    fn target(chain_id: u64, contract: u8) -> ChainSource {
        ChainSource { chain_id, contract: Address::repeat_byte(contract) }
    }

    #[test]
    fn the_contract_is_the_only_one_that_fits() {
        let limits = RelayLimits {
            per_account_per_day: 1,
            gas_budget_per_day: 1,
            max_gas_per_intent: 1,
            longest_wait: TimeDelta::hours(1),
        };
        let one = Relay { targets: vec![target(1, 1)], limits };
        assert_eq!(one.target(None, None).unwrap(), target(1, 1));
        assert!(one.target(Some(2), None).is_err());
        assert!(one.target(Some(1), Some(&Address::repeat_byte(2).to_string())).is_err());
        let two = Relay { targets: vec![target(1, 1), target(2, 1)], limits };
        assert!(two.target(None, None).is_err());
        assert_eq!(two.target(Some(2), None).unwrap(), target(2, 1));
    }

    #[test]
    fn a_number_is_exact_or_refused() {
        let read = |value| serde_json::from_value::<Uint>(value).ok().map(|number| number.0);
        assert_eq!(read(json!(7)), Some(U256::from(7)));
        assert_eq!(read(json!(U256::MAX.to_string())), Some(U256::MAX));
        for wrong in [
            json!(-1),
            json!(1.5),
            json!(1e3),
            json!(""),
            json!("0x1"),
            json!("-1"),
            json!("1e3"),
            json!(null),
        ] {
            assert_eq!(read(wrong.clone()), None, "{wrong}");
        }
        let beyond = format!("{}0", U256::MAX);
        assert_eq!(read(json!(beyond)), None);
        assert_eq!(read(json!("9".repeat(78))), None);
    }

    #[test]
    fn an_intent_reads_as_it_is_written() {
        let subscribe = json!({
            "kind": "subscribe", "payer": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "onchain_plan_id": "3",
            "reference": B256::repeat_byte(1), "count": 0, "renews": true, "nonce": "4", "deadline": "5",
        });
        let change = json!({
            "kind": "change", "onchain_id": "8", "onchain_plan_id": "3", "count": 1,
            "max_amount": u128::MAX.to_string(), "nonce": U256::MAX.to_string(), "deadline": "5",
        });
        let cancel =
            json!({ "kind": "cancel", "onchain_id": "8", "at_once": true, "nonce": "4", "deadline": "5" });
        for written in [subscribe, change.clone(), cancel.clone()] {
            let intent = serde_json::from_value::<IntentBody>(written.clone()).unwrap().read().unwrap();
            assert_eq!(serde_json::to_value(IntentBody::from(intent)).unwrap(), written);
        }
        for (mut wrong, field, value) in [
            (change.clone(), "max_amount", json!(U256::MAX.to_string())),
            (change, "onchain_plan_id", json!("4294967296")),
            (cancel, "onchain_id", json!("18446744073709551616")),
        ] {
            wrong[field] = value;
            assert!(serde_json::from_value::<IntentBody>(wrong).unwrap().read().is_err(), "{field}");
        }
    }

    #[test]
    fn a_permits_signature_is_taken_apart() {
        let permit = |signature: String| {
            let body = json!({ "kind": "eip2612", "value": "1", "deadline": "2", "signature": signature });
            serde_json::from_value::<PermitBody>(body).unwrap().read()
        };
        let rs = format!("{}{}", "01".repeat(32), "02".repeat(32));
        for (last, expected) in [("1b", 27), ("1c", 28), ("00", 27), ("01", 28)] {
            let Ok(Permit::Eip2612 { v, r, s, .. }) = permit(format!("0x{rs}{last}")) else {
                panic!("{last}")
            };
            assert_eq!((v, r, s), (expected, B256::repeat_byte(1), B256::repeat_byte(2)));
        }
        for wrong in
            [format!("0x{rs}"), format!("0x{rs}1b00"), format!("0x{rs}05"), format!("{rs}1b"), "0x".into()]
        {
            assert!(permit(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
