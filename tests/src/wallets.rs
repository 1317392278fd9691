//! Wallets that sign, and contracts that say whether they have.

use alloy::{
    primitives::{Address, U256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::SolConstructor as _,
};

use crate::Chain;

#[expect(missing_docs, reason = "generated from the wallets' artifacts")]
mod bindings {
    alloy::sol!(
        #[sol(rpc)]
        #[derive(Debug)]
        OwnedWallet,
        "abi/OwnedWallet.json"
    );
    alloy::sol!(
        #[sol(rpc)]
        #[derive(Debug)]
        OddWallet,
        "abi/OddWallet.json"
    );
}
pub use bindings::OddWallet;
use bindings::OwnedWallet;

/// What a wallet's software gives for a message (`personal_sign`).
#[must_use]
pub fn sign_message(wallet: &PrivateKeySigner, message: &str) -> String {
    wallet.sign_message_sync(message.as_bytes()).unwrap().to_string()
}

/// The same signature with the other s and v (EIP-2).
#[must_use]
pub fn with_high_s(signature: &str) -> String {
    let signature: alloy::primitives::Signature = signature.parse().unwrap();
    let order = U256::from_str_radix("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16);
    let other =
        alloy::primitives::Signature::new(signature.r(), order.unwrap() - signature.s(), !signature.v());
    other.to_string()
}

impl Chain {
    /// A contract account that accepts what `owner` signs, of whatever is signed.
    pub async fn owned_wallet(&self, owner: Address) -> Address {
        let arguments = OwnedWallet::constructorCall { owner }.abi_encode();
        self.create([OwnedWallet::BYTECODE.to_vec(), arguments].concat()).await
    }

    /// A contract account that answers in an odd way.
    pub async fn odd_wallet(&self) -> Address {
        self.create(OddWallet::BYTECODE.to_vec()).await
    }
}
