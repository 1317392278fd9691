//! What a contract says of a signature (ERC-1271).

use std::sync::Arc;

use alloy::{
    eips::BlockNumberOrTag,
    primitives::{Address, B256, Bytes},
    rpc::types::{TransactionInput, TransactionRequest},
    sol_types::SolCall as _,
};

use super::{Endpoint, Prefer, RpcSource, SourceError};

alloy::sol! {
    function isValidSignature(bytes32 hash, bytes signature) external view returns (bytes4);
}

/// Plenty for a passkey that is checked without a precompile, and little enough for a node.
const GAS: u64 = 5_000_000;

impl RpcSource {
    /// Whether the contract at `wallet` accepts `signature` of `hash` at the head; `None` where there is no contract.
    /// Whatever it answers but the right word is a no, and so is a call that is not carried out.
    ///
    /// The answer of one node is believed here, as that of a wallet's own software would be.
    ///
    /// # Errors
    /// [`SourceError`] where no node answers.
    pub async fn accepts_signature(
        &self,
        wallet: Address,
        hash: B256,
        signature: &Bytes,
    ) -> Result<Option<bool>, SourceError> {
        let input = isValidSignatureCall { hash, signature: signature.clone() }.abi_encode();
        let input = TransactionInput::new(input.into());
        let request =
            &TransactionRequest { to: Some(wallet.into()), input, gas: Some(GAS), ..Default::default() };
        let ask = |endpoint: Arc<Endpoint>| async move {
            let latest = BlockNumberOrTag::Latest;
            let code: Bytes = endpoint.call("eth_getCode", (wallet, latest)).await?;
            if code.is_empty() {
                return Ok(None);
            }
            let answer = endpoint.answer::<_, Bytes>("eth_call", (request, latest)).await?;
            Ok(Some(answer.is_ok_and(|answer| is_yes(&answer))))
        };
        self.read(Prefer::Current, ask).await.map(|(_, answer)| answer)
    }
}

/// The function's selector, then zeros up to 32 bytes.
fn is_yes(answer: &[u8]) -> bool {
    let yes = B256::right_padding_from(&isValidSignatureCall::SELECTOR);
    answer.get(..32) == Some(yes.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_word_is_a_yes() {
        let yes = [&[0x16, 0x26, 0xba, 0x7e][..], &[0; 28]].concat();
        assert!(is_yes(&yes) && is_yes(&[&yes[..], &[7; 100]].concat()));
        let dirty = [&yes[..31], &[1]].concat();
        let right = [&[0; 28][..], &[0x16, 0x26, 0xba, 0x7e]].concat();
        for no in [&[][..], &yes[..4], &yes[..31], &dirty, &right, &[0; 32], &[0xff; 32]] {
            assert!(!is_yes(no), "{no:?}");
        }
    }
}
