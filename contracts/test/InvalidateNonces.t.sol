// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Signing} from "./utils/Signing.sol";

// invalidateNonces
// ├── it uses up those of the caller that are in the mask, and no others
// ├── it emits NoncesSpent with those that were unused
// ├── given they are all used: it succeeds and emits nothing
// └── what was signed with them is void, and what was signed with others is not
contract InvalidateNoncesTest is Signing {
    function testFuzz_usesUpTheNoncesOfTheCaller(address caller, uint256 word, uint256 mask, uint256 more) public {
        mask |= 1;
        vm.startPrank(caller);
        vm.expectEmit(address(dues));
        emit IDues.NoncesSpent(caller, word, mask);
        dues.invalidateNonces(word, mask);
        assertEq(dues.spentNonces(caller, word), mask);

        vm.recordLogs();
        if (more & ~mask != 0) {
            vm.expectEmit(address(dues));
            emit IDues.NoncesSpent(caller, word, more & ~mask);
        }
        dues.invalidateNonces(word, more);
        assertEq(_countLogs(), more & ~mask != 0 ? 1 : 0);
        assertEq(dues.spentNonces(caller, word), mask | more);
        // Neither of other words nor of other accounts.
        assertEq(dues.spentNonces(caller, word ^ 1), 0);
        assertEq(dues.spentNonces(address(uint160(caller) ^ 1), word), 0);
    }

    function testFuzz_emitsNothingWhenThereIsNothingToUseUp(uint256 word, uint256 mask) public {
        vm.startPrank(payer);
        dues.invalidateNonces(word, mask);
        vm.recordLogs();
        dues.invalidateNonces(word, mask);
        dues.invalidateNonces(word, 0);
        assertEq(_countLogs(), 0);
        assertEq(dues.spentNonces(payer, word), mask);
    }

    function testFuzz_voidsExactlyWhatWasSignedWithThem(uint256 word, uint8 bit, uint8 other, uint256 mask) public {
        vm.assume(bit != other);
        word = bound(word, 0, type(uint248).max);
        mask = (mask | uint256(1) << bit) & ~(uint256(1) << other);
        IDues.SubscribeIntent memory intent =
            IDues.SubscribeIntent(signer, _createPlan(), REF, 0, true, word * 256 + bit, START);
        bytes memory voided = _sign(intent);
        vm.prank(signer);
        dues.invalidateNonces(word, mask);
        vm.expectRevert(abi.encodeWithSelector(IDues.NonceSpent.selector, signer, intent.nonce));
        dues.subscribeFor(intent, voided);

        intent.nonce = word * 256 + other;
        dues.subscribeFor(intent, _sign(intent));
        assertEq(dues.spentNonces(signer, word), mask | uint256(1) << other);
    }

    function test_doesNotTouchWhatOthersSigned() public {
        IDues.SubscribeIntent memory intent = IDues.SubscribeIntent(signer, _createPlan(), REF, 0, true, 0, START);
        bytes memory signature = _sign(intent);
        vm.prank(payer);
        dues.invalidateNonces(0, type(uint256).max);
        dues.subscribeFor(intent, signature);
    }

    function test_aUsedNonceIsNotEmittedAgain() public {
        IDues.SubscribeIntent memory intent = IDues.SubscribeIntent(signer, _createPlan(), REF, 0, true, 5, START);
        dues.subscribeFor(intent, _sign(intent));
        vm.expectEmit(address(dues));
        emit IDues.NoncesSpent(signer, 0, 0xff & ~uint256(0x20));
        vm.prank(signer);
        dues.invalidateNonces(0, 0xff);
        assertEq(dues.spentNonces(signer, 0), 0xff);
    }
}
