//! Whether a wallet has signed something: by its key, or by what its contract says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes, Signature, eip191_hash_message, hex};
use dues_chain::source::{RpcSource, SourceError};
use tokio::sync::Semaphore;

use crate::problem::{Code, Problem};

/// Longer than any contract's signature that is known: several keys, or a passkey.
const MAX_SIGNATURE: usize = 8 * 1024;
/// So many contracts are asked about at once, whoever asks: anybody may have nodes asked, and providers count.
const ASKED_AT_ONCE: usize = 4;
/// How long somebody waits for that.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks contracts whether they have signed something; cheap to clone.
#[derive(Debug, Clone)]
pub struct ContractWallets {
    chains: Arc<BTreeMap<u64, RpcSource>>,
    permits: Arc<Semaphore>,
}

impl ContractWallets {
    /// Asks on the chains of `sources`. They should be used for nothing else: what strangers have them asked must not wear
    /// out the patience that others need.
    #[must_use]
    pub fn new(sources: impl IntoIterator<Item = RpcSource>) -> Self {
        let chains = sources.into_iter().map(|source| (source.source().chain_id, source)).collect();
        Self { chains: Arc::new(chains), permits: Arc::new(Semaphore::new(ASKED_AT_ONCE)) }
    }

    /// Checks that `wallet`, which is on the chain `chain_id`, has signed `message` with `signature`, `0x…`.
    ///
    /// The key's signature counts first, whether or not there is a contract at the address (EIP-7702 puts one where a key
    /// stays in charge). A contract's counts where every contract at that address accepts it, on whatever chain that is
    /// known here, `chain_id` among them: somebody else may have put a contract of his own to the same address on another
    /// chain, and a wallet stands for the address on all of them.
    ///
    /// # Errors
    /// The problem that the caller is told.
    pub async fn check(
        &self,
        wallet: Address,
        chain_id: u64,
        message: &str,
        signature: &str,
    ) -> Result<(), Problem> {
        let signature = decode(signature)?;
        let hash = eip191_hash_message(message);
        if signed_by_key(&signature, hash) == Some(wallet) {
            return Ok(());
        }
        if !self.chains.contains_key(&chain_id) {
            return Err(Code::SignatureNotVerifiable.into());
        }
        let permit = tokio::time::timeout(PATIENCE, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(Code::Unavailable.into()) };
        let signature = Bytes::from(signature);
        for (known, source) in self.chains.iter() {
            let accepted = source.accepts_signature(wallet, hash, &signature).await;
            let accepted = accepted.map_err(|error| unavailable(*known, &error))?;
            let good = match accepted {
                Some(accepted) => accepted,
                None => *known != chain_id,
            };
            if !good {
                return Err(Code::InvalidSignature.into());
            }
        }
        Ok(())
    }
}

fn unavailable(chain_id: u64, error: &SourceError) -> Problem {
    tracing::warn!(chain_id, error = error as &dyn std::error::Error, "a contract could not be asked");
    Problem::new(Code::Unavailable)
}

fn decode(signature: &str) -> Result<Vec<u8>, Problem> {
    let digits = signature.strip_prefix("0x").filter(|digits| digits.len() <= 2 * MAX_SIGNATURE);
    digits.and_then(|digits| hex::decode(digits).ok()).ok_or_else(|| {
        Problem::new(Code::InvalidSignature)
            .with_detail("a signature is 0x and an even number of hexadecimal digits, at most 16,384")
    })
}

/// Whose key has signed `hash`, where `signature` is one of a key: r, s of the lower half (EIP-2), and v as 0, 1, 27 or 28.
fn signed_by_key(signature: &[u8], hash: B256) -> Option<Address> {
    let v = signature.get(64)?;
    if signature.len() != 65 || ![0, 1, 27, 28].contains(v) {
        return None;
    }
    let signature = Signature::from_raw(signature).ok()?;
    if signature.normalize_s().is_some() {
        return None;
    }
    signature.recover_address_from_prehash(&hash).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `personal_sign` of "hello" by anvil's account 0, as `cast wallet sign` gives it.
    const SIGNED: &str = "0xf16ea9a3478698f695fd1401bfe27e9e4a7e8e3da94aa72b021125e31fa899cc573c48ea3fe1d4ab61a9db10c19032026e3ed2dbccba5a178235ac27f94504311c";
    const SIGNER: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

    fn signer(signature: &[u8]) -> Option<String> {
        signed_by_key(signature, eip191_hash_message("hello")).map(|address| address.to_string())
    }

    #[test]
    fn a_keys_signature_counts_in_either_spelling_of_v() {
        let bytes = decode(SIGNED).unwrap();
        assert_eq!(signer(&bytes).as_deref(), Some(SIGNER));
        let (rest, v) = bytes.split_at(64);
        assert_eq!(signer(&[rest, &[v[0] - 27]].concat()).as_deref(), Some(SIGNER));
        // The other parity is another key's.
        assert_ne!(signer(&[rest, &[55 - v[0]]].concat()).as_deref(), Some(SIGNER));
        for wrong in [2, 26, 29, 35, 37, 38, 255] {
            assert_eq!(signer(&[rest, &[wrong]].concat()), None, "{wrong}");
        }
    }

    #[test]
    fn a_signature_has_one_form() {
        let bytes = decode(SIGNED).unwrap();
        let signature = Signature::from_raw(&bytes).unwrap();
        let order = alloy_primitives::U256::from_be_slice(
            &hex::decode("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141").unwrap(),
        );
        let high = Signature::new(signature.r(), order - signature.s(), !signature.v());
        assert_eq!(
            high.recover_address_from_prehash(&eip191_hash_message("hello")).unwrap().to_string(),
            SIGNER,
            "it is good for whoever does not look"
        );
        assert_eq!(signer(&high.as_bytes()), None);
        for len in [0, 1, 32, 64] {
            assert_eq!(signer(&bytes[..len]), None);
        }
        assert_eq!(signer(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(signer(&[0; 65]), None);
        assert_eq!(signer(&[0xff; 65]), None);
    }

    #[test]
    fn text_that_is_no_signature_is_said_to_be_none() {
        for bad in ["", "0", "0x0", "0xzz", "1234", &format!("0x{}", "00".repeat(MAX_SIGNATURE + 1))] {
            assert_eq!(decode(bad).unwrap_err().code(), Code::InvalidSignature, "{bad}");
        }
        assert_eq!(decode("0x").unwrap(), [0_u8; 0]);
    }
}
