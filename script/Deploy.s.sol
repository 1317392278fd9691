// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Dues} from "../contracts/src/Dues.sol";
import {Script} from "forge-std/Script.sol";
import {console} from "forge-std/console.sol";

/// @notice Deploys Dues at the same address on every chain, through the deterministic deployer.
///
///     forge script script/Deploy.s.sol --rpc-url <url> --private-key <key> --broadcast
///
/// Does nothing where it is deployed already, whoever did it: the address depends on the code and the salt alone.
contract Deploy is Script {
    /// @dev The deterministic deployment proxy: takes a salt and initcode, and gives both to CREATE2.
    address public constant DEPLOYER = 0x4e59b44847b379578588920cA78FbF26c0B4956C;
    bytes32 public constant SALT = "dues.v1";

    error NoDeployer(uint256 chainId);
    error NotDeployed(address expected);

    function run() external returns (address dues) {
        dues = predict();
        if (dues.code.length != 0) {
            console.log("Dues is deployed already:", dues);
            return dues;
        }
        if (DEPLOYER.code.length == 0) revert NoDeployer(block.chainid);

        vm.broadcast();
        (bool ok,) = DEPLOYER.call(abi.encodePacked(SALT, type(Dues).creationCode));
        if (!ok || dues.code.length == 0) revert NotDeployed(dues);
        console.log("Dues:", dues);
    }

    function predict() public pure returns (address) {
        bytes32 initcodeHash = keccak256(type(Dues).creationCode);
        return address(uint160(uint256(keccak256(abi.encodePacked(hex"ff", DEPLOYER, SALT, initcodeHash)))));
    }
}
