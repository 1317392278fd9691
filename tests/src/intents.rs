//! What payers sign instead of sending it.

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::{SolStruct, eip712_domain},
};
use dues_chain::contract::{Dues, IDues};

use crate::Chain;

mod bindings {
    alloy::sol! {
        #[derive(Debug)]
        struct Terms {
            address merchant;
            address token;
            uint96 price;
            uint8 unit;
            uint16 count;
            uint32 trial;
            uint32 grace;
            uint96 usageCap;
        }

        #[derive(Debug)]
        struct Subscribe {
            address payer;
            uint32 planId;
            Terms terms;
            bytes32 ref;
            uint16 count;
            bool renews;
            uint256 nonce;
            uint256 deadline;
        }

        #[derive(Debug)]
        struct Change {
            address payer;
            uint256 id;
            uint32 planId;
            Terms terms;
            uint16 count;
            uint128 maxAmount;
            uint256 nonce;
            uint256 deadline;
        }

        #[derive(Debug)]
        struct Cancel {
            address payer;
            uint256 id;
            bool atOnce;
            uint256 nonce;
            uint256 deadline;
        }
    }
}

/// EIP-712's hash of what is signed, as the contract has it. The bindings escape the name of the field `ref`, which is a
/// word of Rust.
fn content_of(message: &impl SolStruct) -> B256 {
    let kind = type_of(message).replace("r#ref", "ref");
    keccak256([keccak256(kind).as_slice(), &message.eip712_encode_data()].concat())
}

fn type_of<S: SolStruct>(_: &S) -> std::borrow::Cow<'static, str> {
    S::eip712_encode_type()
}

impl Chain {
    /// `signer`'s consent to what `intent` says; the payer is the signer.
    pub async fn sign_intent(
        &self,
        signer: &PrivateKeySigner,
        intent: IDues::SubscribeIntent,
    ) -> Dues::subscribeForCall {
        let intent = IDues::SubscribeIntent { payer: signer.address(), ..intent };
        let message = bindings::Subscribe {
            payer: intent.payer,
            planId: intent.planId,
            terms: self.terms(intent.planId).await,
            r#ref: intent.r#ref,
            count: intent.count,
            renews: intent.renews,
            nonce: intent.nonce,
            deadline: intent.deadline,
        };
        let signature = self.sign_message(signer, &message);
        Dues::subscribeForCall { intent, signature }
    }

    /// `signer`'s consent to a change of its subscription.
    pub async fn sign_change(
        &self,
        signer: &PrivateKeySigner,
        intent: IDues::ChangeIntent,
    ) -> Dues::changeForCall {
        let message = bindings::Change {
            payer: signer.address(),
            id: intent.id,
            planId: intent.planId,
            terms: self.terms(intent.planId).await,
            count: intent.count,
            maxAmount: intent.maxAmount,
            nonce: intent.nonce,
            deadline: intent.deadline,
        };
        let signature = self.sign_message(signer, &message);
        Dues::changeForCall { intent, signature }
    }

    /// `signer`'s consent to the end of its subscription.
    #[must_use]
    pub fn sign_cancel(&self, signer: &PrivateKeySigner, intent: IDues::CancelIntent) -> Dues::cancelForCall {
        let IDues::CancelIntent { id, atOnce, nonce, deadline } = intent;
        let message = bindings::Cancel { payer: signer.address(), id, atOnce, nonce, deadline };
        let signature = self.sign_message(signer, &message);
        Dues::cancelForCall { intent, signature }
    }

    async fn terms(&self, plan: u32) -> bindings::Terms {
        let plan = self.dues().plan(plan).call().await.unwrap();
        bindings::Terms {
            merchant: plan.merchant,
            token: plan.token,
            price: plan.price,
            unit: plan.unit,
            count: plan.count,
            trial: plan.trial,
            grace: plan.grace,
            usageCap: plan.usageCap,
        }
    }

    fn sign_message(&self, signer: &PrivateKeySigner, message: &impl SolStruct) -> Bytes {
        let domain = eip712_domain! {
            name: "Dues", version: "1", chain_id: self.id, verifying_contract: self.contract,
        };
        let content = content_of(message);
        let digest = keccak256([&[0x19, 0x01], domain.separator().as_slice(), content.as_slice()].concat());
        signer.sign_hash_sync(&digest).unwrap().as_bytes().into()
    }

    /// What `subscribe` would do, to be signed.
    #[must_use]
    pub fn intent(plan: u32, reference: B256, nonce: u64) -> IDues::SubscribeIntent {
        IDues::SubscribeIntent {
            payer: Address::ZERO,
            planId: plan,
            r#ref: reference,
            count: 0,
            renews: true,
            nonce: U256::from(nonce),
            deadline: U256::MAX,
        }
    }
}
