// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Dues} from "../contracts/src/Dues.sol";
import {Script} from "forge-std/Script.sol";
import {console} from "forge-std/console.sol";

/// @notice Deploys Dues at the same address on every chain, through the deterministic deployer. `script/deploy` runs it
/// and says how.
contract Deploy is Script {
    /// @dev The deterministic deployment proxy: takes a salt and initcode, and gives both to CREATE2.
    /// https://github.com/Arachnid/deterministic-deployment-proxy
    address public constant DEPLOYER = 0x4e59b44847b379578588920cA78FbF26c0B4956C;
    bytes32 public constant SALT = "dues.v1";

    error NoDeployer(uint256 chainId);
    error NotDeployed(address expected);
    error OtherCode(address dues, bytes32 actual, bytes32 expected);

    /// @notice Deploys where it is not deployed already, whoever did that: the address depends on the code and the salt
    /// alone.
    function run() external returns (address dues) {
        dues = predict();
        if (dues.code.length == 0) {
            if (DEPLOYER.code.length == 0) revert NoDeployer(block.chainid);
            // A key in the environment is on no command line, where other users of the machine could read it.
            uint256 key = vm.envOr("DEPLOYER_KEY", uint256(0));
            if (key == 0) vm.broadcast();
            else vm.broadcast(key);
            (bool ok,) = DEPLOYER.call(abi.encodePacked(SALT, type(Dues).creationCode));
            if (!ok) revert NotDeployed(dues);
        }
        check();
    }

    /// @notice Where it is, or will be.
    function predict() public view returns (address) {
        bytes32 initcodeHash = keccak256(type(Dues).creationCode);
        return address(uint160(uint256(keccak256(abi.encodePacked(hex"ff", DEPLOYER, SALT, initcodeHash)))));
    }

    /// @notice Reverts unless the code on this chain is, byte for byte, what this source compiles to. (It has no
    /// immutables, and so is the same everywhere.)
    function check() public view returns (address dues) {
        dues = predict();
        if (dues.code.length == 0) revert NotDeployed(dues);
        bytes32 expected = keccak256(vm.getDeployedCode("contracts/src/Dues.sol:Dues"));
        if (dues.codehash != expected) revert OtherCode(dues, dues.codehash, expected);
        console.log("Dues:", dues);
    }
}
