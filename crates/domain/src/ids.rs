//! One type per id, so that an account can never be passed where a subscription is meant.

use std::{fmt, str::FromStr};

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new, time-ordered id (UUIDv7, RFC 9562).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id that a stored or received UUID stands for.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID itself, for storage.
            #[must_use]
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            /// Accepts the hyphenated form only: an id has one spelling.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                uuid::fmt::Hyphenated::from_str(text).map(|id| Self(id.into_uuid()))
            }
        }
    };
}

uuid_id!(
    /// A user of the platform, as Dues knows it.
    AccountId
);
uuid_id!(
    /// One account's agreement to one plan on one rail.
    SubscriptionId
);
uuid_id!(
    /// One money movement in the ledger.
    TransactionId
);
uuid_id!(
    /// One immutable version of a plan of the catalogue.
    PlanVersionId
);
uuid_id!(
    /// A hold on a quota, for usage whose size is not known yet.
    ReservationId
);
uuid_id!(
    /// An API key (the record, not the secret).
    ApiKeyId
);
uuid_id!(
    /// Something that the merchant does on a chain.
    ActId
);
uuid_id!(
    /// A signed intent that the relay was given.
    RelayIntentId
);
uuid_id!(
    /// A session of an end user (the record, not the token).
    SessionId
);

impl AccountId {
    /// The `bytes32` that a subscription carries on chain to name this account: the UUID, left-padded with zeros.
    #[must_use]
    pub fn to_reference(self) -> B256 {
        B256::left_padding_from(self.0.as_bytes())
    }

    /// The account that an on-chain reference names, or `None` where it is not a left-padded, non-nil UUID.
    #[must_use]
    pub fn from_reference(reference: B256) -> Option<Self> {
        let (padding, id) = reference.as_slice().split_at_checked(16)?;
        let uuid = Uuid::from_slice(id).ok()?;
        (padding.iter().all(|byte| *byte == 0) && !uuid.is_nil()).then_some(Self(uuid))
    }
}

/// A plan's name in the catalogue, stable across versions: `basic-month`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PlanKey(String);

/// A plan key that is not made of 1 to 64 lower-case letters, digits and hyphens.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a plan key has 1 to 64 characters of a-z, 0-9 and '-'")]
pub struct InvalidPlanKey;

impl PlanKey {
    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PlanKey {
    type Err = InvalidPlanKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        fits.then(|| Self(text.to_owned())).ok_or(InvalidPlanKey)
    }
}

impl fmt::Display for PlanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reference_that_is_not_a_padded_uuid_names_no_account() {
        assert_eq!(AccountId::from_reference(B256::ZERO), None);
        assert_eq!(AccountId::from_reference(B256::repeat_byte(1)), None);
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id = AccountId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.as_uuid().simple().to_string().parse::<AccountId>().is_err());
        assert!(format!("{{{id}}}").parse::<AccountId>().is_err());
    }

    #[test]
    fn plan_keys_are_plain() {
        assert!("basic-month".parse::<PlanKey>().is_ok());
        for bad in ["", "Basic", "a b", "é", &"x".repeat(65)] {
            assert_eq!(bad.parse::<PlanKey>(), Err(InvalidPlanKey), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_reference_leads_back_to_its_account(bytes in any::<[u8; 16]>()) {
            let id = AccountId::from_uuid(Uuid::from_bytes(bytes));
            prop_assume!(!id.as_uuid().is_nil());
            prop_assert_eq!(AccountId::from_reference(id.to_reference()), Some(id));
        }
    }
}
