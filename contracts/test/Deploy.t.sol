// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Deploy} from "../../script/Deploy.s.sol";
import {IDues} from "../src/IDues.sol";
import {Test} from "forge-std/Test.sol";

// Deploy
// ├── it deploys Dues at the predicted address
// ├── given it is there already: it does nothing
// └── when the chain has no deterministic deployer: it reverts with NoDeployer
contract DeployTest is Test {
    /// @dev Changes with every change of the bytecode, knowingly: the address is where merchants and payers look.
    address private constant EXPECTED = 0x86794F332c99820B6a26Ed7C80f2835D1f66A461;

    /// @dev The deterministic deployer's runtime code.
    bytes private constant DEPLOYER_CODE =
        hex"7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf3";

    Deploy private script;

    function setUp() public {
        script = new Deploy();
        vm.etch(script.DEPLOYER(), DEPLOYER_CODE);
    }

    function test_theAddressIsTheExpectedOne() public view {
        assertEq(script.predict(), EXPECTED);
        assertEq(
            script.predict(),
            vm.computeCreate2Address(
                script.SALT(), keccak256(vm.getCode("contracts/src/Dues.sol:Dues")), script.DEPLOYER()
            )
        );
    }

    function test_deploysAtThePredictedAddress() public {
        address dues = script.run();
        assertEq(dues, script.predict());
        assertEq(dues.code, deployCode("contracts/src/Dues.sol:Dues").code);
        assertEq(IDues(dues).planCount(), 0);
    }

    function test_doesNothingWhereItIsDeployedAlready() public {
        address dues = script.run();
        uint64 nonce = vm.getNonce(script.DEPLOYER());
        assertEq(script.run(), dues);
        assertEq(vm.getNonce(script.DEPLOYER()), nonce);
    }

    function test_revertsWhereThereIsNoDeployer() public {
        vm.etch(script.DEPLOYER(), "");
        vm.expectRevert(abi.encodeWithSelector(Deploy.NoDeployer.selector, block.chainid));
        script.run();
    }
}
