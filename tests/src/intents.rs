//! What payers sign instead of sending it.

use alloy::{
    primitives::{Address, B256, U256, keccak256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::{SolStruct as _, eip712_domain},
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
    }
}

/// EIP-712's type of what is signed, as the contract has it. The bindings escape the name of the field `ref`, which is
/// a word of Rust.
fn type_of_subscribe() -> String {
    bindings::Subscribe::eip712_encode_type().replace("r#ref", "ref")
}

impl Chain {
    /// `signer`'s consent to what `intent` says; the payer is the signer.
    pub async fn sign_intent(
        &self,
        signer: &PrivateKeySigner,
        intent: IDues::SubscribeIntent,
    ) -> Dues::subscribeForCall {
        let plan = self.dues().plan(intent.planId).call().await.unwrap();
        let intent = IDues::SubscribeIntent { payer: signer.address(), ..intent };
        let message = bindings::Subscribe {
            payer: intent.payer,
            planId: intent.planId,
            terms: bindings::Terms {
                merchant: plan.merchant,
                token: plan.token,
                price: plan.price,
                unit: plan.unit,
                count: plan.count,
                trial: plan.trial,
                grace: plan.grace,
                usageCap: plan.usageCap,
            },
            r#ref: intent.r#ref,
            count: intent.count,
            renews: intent.renews,
            nonce: intent.nonce,
            deadline: intent.deadline,
        };
        let domain = eip712_domain! {
            name: "Dues", version: "1", chain_id: self.id, verifying_contract: self.contract,
        };
        let content =
            keccak256([keccak256(type_of_subscribe()).as_slice(), &message.eip712_encode_data()].concat());
        let digest = keccak256([&[0x19, 0x01], domain.separator().as_slice(), content.as_slice()].concat());
        let signature = signer.sign_hash_sync(&digest).unwrap();
        Dues::subscribeForCall { intent, signature: signature.as_bytes().into() }
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
