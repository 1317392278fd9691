// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Preinstalls} from "@eth-optimism/contracts-bedrock/src/libraries/Preinstalls.sol";

/// @notice The code of Permit2 as it is deployed, for this chain. A contract of its own, which tests load when they
/// run: 20 KB of bytecode would otherwise be compiled into each of them.
contract Permit2Code {
    function get() external view returns (bytes memory) {
        return Preinstalls.getPermit2Code(block.chainid);
    }
}
