//! Whether a wallet has signed something: by its key, or by what its contract says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes, Signature, eip191_hash_message, hex};
use dues_chain::source::{RpcSource, SourceError};
use tokio::sync::Semaphore;

use crate::{
    challenge::Given,
    problem::{Code, Problem},
};

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

    /// Checks that who has to sign `message` has signed it with `signature`, `0x…`.
    ///
    /// The key's signature counts first, whether or not there is a contract at the address (EIP-7702 puts one where a key
    /// stays in charge). A contract's counts where every contract at that address accepts it, on whatever chain that is
    /// known here, that of the message among them: somebody else may have put a contract of his own to the same address on
    /// another chain, and a wallet stands for the address on all of them.
    pub(crate) async fn check(&self, given: &Given, message: &str, signature: &str) -> Result<(), Problem> {
        let signature = decode(signature)?;
        let hash = eip191_hash_message(message);
        if signed_by_key(&signature, hash) == Some(given.address) {
            return Ok(());
        }
        if !self.chains.contains_key(&given.chain_id) {
            return Err(Code::SignatureNotVerifiable.into());
        }
        let permit = tokio::time::timeout(PATIENCE, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(Code::Unavailable.into()) };
        let signature = Bytes::from(signature);
        for (chain_id, source) in self.chains.iter() {
            let accepted = source.accepts_signature(given.address, hash, &signature).await;
            let accepted = accepted.map_err(|error| unavailable(*chain_id, &error))?;
            let good = match accepted {
                Some(accepted) => accepted,
                None => *chain_id != given.chain_id,
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
