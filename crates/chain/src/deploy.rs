//! Where the contract is: the same CREATE2 address on every chain.

use alloy::primitives::{Address, B256, Bytes, address, b256};

use crate::contract::Dues;

/// The deterministic deployment proxy that exists at this address on nearly every chain
/// (`github.com/Arachnid/deterministic-deployment-proxy`). Its calldata is a salt followed by creation code.
pub const CREATE2_DEPLOYER: Address = address!("4e59b44847b379578588920cA78FbF26c0B4956C");

/// The salt that `script/Deploy.s.sol` uses: `dues.v1`.
pub const SALT: B256 = b256!("647565732e763100000000000000000000000000000000000000000000000000");

/// The contract's address on every chain: EIP-1014 over the deployer, the salt and the creation code.
#[must_use]
pub fn contract_address() -> Address {
    CREATE2_DEPLOYER.create2_from_code(SALT, &Dues::BYTECODE)
}

/// Calldata for [`CREATE2_DEPLOYER`] that deploys `creation_code` with [`SALT`].
#[must_use]
pub fn create2_calldata(creation_code: &Bytes) -> Bytes {
    [SALT.as_slice(), creation_code].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_one_that_the_deployment_script_predicts() {
        // The same literal stands in contracts/test/Deploy.t.sol.
        let script = include_str!("../../../contracts/test/Deploy.t.sol");
        assert!(script.contains(&contract_address().to_string()));
    }

    #[test]
    fn the_salt_is_spelled_as_in_the_deployment_script() {
        assert!(SALT.starts_with(b"dues.v1\0"));
    }
}
