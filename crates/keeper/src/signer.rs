//! The key that pays for gas. It can charge what anybody can charge, and spend its own balance: nothing else of Dues
//! depends on it. Nevertheless it is in no error, log or debug output.

use std::{fmt, path::Path};

use alloy::{
    consensus::{SignableTransaction as _, TxEip1559, TxEnvelope},
    eips::eip2718::Encodable2718 as _,
    primitives::{Address, B256},
    signers::{SignerSync as _, local::PrivateKeySigner},
};
use secrecy::{ExposeSecret as _, SecretString};

/// Why there is no signer.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The key is none. It is not repeated.
    #[error("the private key is not 0x and 64 hexadecimal digits of a valid key")]
    PrivateKey,
    /// The keystore cannot be read.
    #[error("the keystore cannot be read")]
    Read(#[source] std::io::Error),
    /// The file is no keystore, or the password is wrong.
    #[error("the keystore cannot be decrypted: wrong password, or not a keystore (version 3)")]
    Keystore,
    /// The signature failed.
    #[error("the transaction could not be signed")]
    Sign(#[source] alloy::signers::Error),
}

/// Signs the keeper's transactions; with a key of the merchant's, the merchant's.
#[derive(Clone)]
pub struct KeeperSigner {
    key: PrivateKeySigner,
}

impl fmt::Debug for KeeperSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeeperSigner").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl KeeperSigner {
    /// From a private key in hexadecimal, with `0x`.
    ///
    /// # Errors
    /// [`SignerError::PrivateKey`].
    pub fn from_private_key(key: &SecretString) -> Result<Self, SignerError> {
        let digits = key.expose_secret().trim();
        if !digits.starts_with("0x") {
            return Err(SignerError::PrivateKey);
        }
        // alloy's error might repeat what it could not read.
        let key = digits.parse::<PrivateKeySigner>().map_err(|_| SignerError::PrivateKey)?;
        Ok(Self { key })
    }

    /// From an encrypted keystore (Web3 Secret Storage, version 3), as `cast wallet` and geth write it. Takes some
    /// seconds of work on purpose.
    ///
    /// # Errors
    /// [`SignerError::Read`], [`SignerError::Keystore`].
    pub fn from_keystore(file: &Path, password: &SecretString) -> Result<Self, SignerError> {
        // To tell a file that is not there from a wrong password.
        std::fs::File::open(file).map_err(SignerError::Read)?;
        let key = PrivateKeySigner::decrypt_keystore(file, password.expose_secret());
        Ok(Self { key: key.map_err(|_| SignerError::Keystore)? })
    }

    /// The account that pays for gas.
    #[must_use]
    pub fn address(&self) -> Address {
        self.key.address()
    }

    /// The signed transaction as it is sent, and its hash.
    pub(crate) fn sign(&self, transaction: TxEip1559) -> Result<(B256, Vec<u8>), SignerError> {
        let signature = self.key.sign_hash_sync(&transaction.signature_hash()).map_err(SignerError::Sign)?;
        let signed = TxEnvelope::from(transaction.into_signed(signature));
        Ok((*signed.tx_hash(), signed.encoded_2718()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Anvil's own; protects nothing.
    const KEY: &str = "0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6";
    const ADDRESS: &str = "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720";

    #[test]
    fn a_private_key_is_read_and_never_shown() {
        let signer = KeeperSigner::from_private_key(&KEY.into()).unwrap();
        assert_eq!(signer.address().to_string(), ADDRESS);
        assert!(!format!("{signer:?}").contains(&KEY[2..10]));
        for wrong in [
            "",
            "0x",
            &KEY[2..],
            &KEY[..60],
            "0xzz71d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6",
        ] {
            let error = KeeperSigner::from_private_key(&wrong.into()).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("71d0798f"), "{error:?}");
        }
    }

    #[test]
    fn a_keystore_is_opened_by_its_password_alone() {
        let dir = tempfile::tempdir().unwrap();
        // A keystore of `cast wallet import` for the key above, with the password "hunter2".
        let file = dir.path().join("keeper.json");
        std::fs::write(&file, include_str!("signer/keystore.json")).unwrap();
        let signer = KeeperSigner::from_keystore(&file, &"hunter2".into()).unwrap();
        assert_eq!(signer.address().to_string(), ADDRESS);
        let wrong = KeeperSigner::from_keystore(&file, &"hunter3".into());
        assert!(matches!(wrong, Err(SignerError::Keystore)));
        let none = KeeperSigner::from_keystore(&dir.path().join("none.json"), &"hunter2".into());
        assert!(matches!(none, Err(SignerError::Read(_))));
    }
}
