// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {BurningToken} from "./doubles/Tokens.sol";
import {FickleWallet, OwnedWallet} from "./doubles/Wallets.sol";
import {Signing} from "./utils/Signing.sol";

// cancelFor
// ├── when the subscription does not exist: it reverts with UnknownSubscription
// ├── when the deadline is over: it reverts with Expired
// ├── when the nonce is used or invalidated: it reverts with NonceSpent, also after a resume
// ├── when the subscription's payer did not sign exactly this: it reverts with InvalidSignature
// └── when all is well
//     ├── it does what cancel does, or at once what cancelNow does, as the payer, whoever sends it
//     ├── it emits NoncesSpent before
//     └── whatever the token does, and in whatever state the subscription is
contract CancelForTest is Signing {
    uint256 private id;

    function setUp() public override {
        super.setUp();
        id = _subscribe(signer, _createPlan());
    }

    // WHAT IT DOES

    function testFuzz_cancelsWithThePaidTime(address relayer, uint256 nonce) public {
        IDues.CancelIntent memory intent = _intent(false);
        intent.nonce = nonce;
        bytes memory signature = _sign(intent);
        vm.recordLogs();
        vm.expectEmit(address(dues));
        emit IDues.NoncesSpent(signer, nonce / 256, _bit(nonce));
        vm.expectEmit(address(dues));
        emit IDues.CancelScheduled(id, 1, signer, false);
        vm.prank(relayer);
        dues.cancelFor(intent, signature);
        assertEq(_countLogs(), 2);
        _assertSame(dues.subscription(id), IDues.Subscription(signer, 1, uint40(START), 1, 1));
        _assertStatus(id, IDues.Status.Active);
        assertTrue(_isSpent(signer, nonce));
    }

    function testFuzz_endsAtOnce(address relayer) public {
        IDues.CancelIntent memory intent = _intent(true);
        bytes memory signature = _sign(intent);
        vm.recordLogs();
        vm.expectEmit(address(dues));
        emit IDues.NoncesSpent(signer, 0, 1);
        vm.expectEmit(address(dues));
        emit IDues.Cancelled(id, 1, signer, false);
        vm.prank(relayer);
        dues.cancelFor(intent, signature);
        assertEq(_countLogs(), 2);
        _assertSame(dues.subscription(id), IDues.Subscription(signer, 1, uint40(START), 1, 2));
        _assertStatus(id, IDues.Status.Cancelled);
    }

    /// @dev The payer's cancel, also when its merchant sends it: the payer can resume.
    function test_isThePayersAlsoWhenTheMerchantSendsIt() public {
        IDues.CancelIntent memory intent = _intent(false);
        bytes memory signature = _sign(intent);
        vm.prank(merchant);
        dues.cancelFor(intent, signature);
        vm.prank(signer);
        dues.resume(id);
        assertEq(dues.subscription(id).flags, 0);
    }

    function testFuzz_succeedsInAnyStateOfTheSubscription(uint256 time, bool atOnce) public {
        vm.warp(bound(time, START, type(uint40).max));
        IDues.CancelIntent memory intent = _intent(atOnce);
        intent.deadline = type(uint256).max;
        dues.cancelFor(intent, _sign(intent));
        assertEq(dues.subscription(id).flags, atOnce ? 2 : 1);
    }

    function test_whatIsCancelledAlreadyCostsANonceAndChangesNothing() public {
        vm.startPrank(signer);
        dues.cancel(id);
        dues.cancelNow(id);
        vm.stopPrank();
        for (uint256 i = 0; i < 2; ++i) {
            IDues.CancelIntent memory intent = _intent(i == 0);
            intent.nonce = i;
            vm.expectEmit(address(dues));
            emit IDues.NoncesSpent(signer, 0, 1 << i);
            bytes memory signature = _sign(intent);
            vm.recordLogs();
            dues.cancelFor(intent, signature);
            assertEq(_countLogs(), 1);
        }
        assertEq(dues.subscription(id).flags, 3);
    }

    function testFuzz_succeedsWhateverTheTokenDoes(bool atOnce) public {
        BurningToken burning = new BurningToken();
        _fund(burning, signer);
        id = _subscribe(signer, _createPlanIn(burning));
        burning.setBroken(true);
        IDues.CancelIntent memory intent = _intent(atOnce);
        bytes memory signature = _sign(intent);
        vm.expectCall(address(burning), "", 0);
        dues.cancelFor{gas: 100_000}(intent, signature);
        assertEq(dues.subscription(id).flags, atOnce ? 2 : 1);
    }

    // REFUSALS, IN THEIR ORDER

    function testFuzz_revertsWhenTheSubscriptionDoesNotExist(uint256 unknown) public {
        vm.assume(unknown != id);
        IDues.CancelIntent memory intent = _intent(true);
        bytes memory signature = _sign(intent);
        (intent.id, intent.deadline) = (unknown, 0);
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.UnknownSubscription.selector, unknown));
    }

    function testFuzz_revertsWhenTheDeadlineIsOver(uint256 deadline) public {
        IDues.CancelIntent memory intent = _intent(true);
        intent.deadline = bound(deadline, START, type(uint40).max);
        bytes memory signature = _sign(intent);
        vm.warp(intent.deadline + 1);
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.Expired.selector, intent.deadline));
        vm.warp(intent.deadline);
        dues.cancelFor(intent, signature);
    }

    function test_isGoodOnceAlsoAfterAResume() public {
        IDues.CancelIntent memory intent = _intent(false);
        bytes memory signature = _sign(intent);
        dues.cancelFor(intent, signature);
        vm.prank(signer);
        dues.resume(id);
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.NonceSpent.selector, signer, 0));
    }

    function testFuzz_revertsWhenTheNonceIsInvalidated(uint256 nonce) public {
        IDues.CancelIntent memory intent = _intent(true);
        intent.nonce = nonce;
        bytes memory signature = _sign(intent);
        vm.prank(signer);
        dues.invalidateNonces(nonce / 256, _bit(nonce));
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.NonceSpent.selector, signer, nonce));
    }

    function testFuzz_revertsWhenAnythingElseWasSigned(uint256 which, uint256 change) public {
        uint256 second = _subscribe(signer, 1);
        IDues.CancelIntent memory intent = _intent(false);
        bytes memory signature = _sign(intent);
        which = bound(which, 0, 3);
        if (which == 0) intent.id = second;
        else if (which == 1) intent.atOnce = true;
        else if (which == 2) intent.nonce = bound(change, 1, type(uint256).max);
        else intent.deadline = bound(change, START + 1, type(uint256).max);
        _assertRefused(intent, signature, _invalid(signer));
    }

    function test_revertsWhenTheSignatureNamesAnotherPayer() public {
        IDues.CancelIntent memory intent = _intent(true);
        _assertRefused(intent, _sign(key, _digest(_hash(intent, payer))), _invalid(signer));
        intent.id = _subscribe(payer, 1);
        _assertRefused(intent, _sign(intent), _invalid(payer));
        _assertRefused(intent, _sign(key, _digest(_hash(intent, payer))), _invalid(payer));
    }

    function testFuzz_revertsWhenSomebodyElseSigned(uint256 other) public {
        IDues.CancelIntent memory intent = _intent(true);
        bytes memory signature = _sign(bound(other, 1, 1e30), _digest(_hash(intent, signer)));
        _assertRefused(intent, signature, _invalid(signer));
    }

    function testFuzz_revertsOnAnotherChainAndForAnotherContract(uint64 chainId) public {
        vm.assume(chainId != 0 && chainId != block.chainid);
        IDues.CancelIntent memory intent = _intent(true);
        bytes32 hash = _hash(intent, signer);
        bytes memory signature = _sign(intent);
        _assertRefused(intent, _sign(key, _digest(hash, chainId, address(dues))), _invalid(signer));
        IDues other = IDues(deployCode("contracts/src/Dues.sol:Dues"));
        _assertRefused(intent, _sign(key, _digest(hash, block.chainid, address(other))), _invalid(signer));
        vm.chainId(chainId);
        _assertRefused(intent, signature, _invalid(signer));
    }

    function test_revertsWhenTheSignatureIsSpelledOtherwise() public {
        IDues.CancelIntent memory intent = _intent(true);
        bytes[] memory others = _malleated(_sign(intent));
        for (uint256 i = 0; i < others.length; ++i) {
            _assertRefused(intent, others[i], _invalid(signer));
        }
    }

    function test_revertsWhenAnotherTypeWasSigned() public {
        IDues.CancelIntent memory intent = _intent(true);
        _assertRefused(intent, _sign(IDues.ChangeIntent(id, 1, 0, 0, 0, START)), _invalid(signer));
        _assertRefused(intent, _sign(IDues.SubscribeIntent(signer, 1, "", 0, true, 0, START)), _invalid(signer));
    }

    // ACCOUNTS WITH CODE

    function test_aWalletCancelsByItsOwnersSignature() public {
        (OwnedWallet wallet, OwnedWallet sibling) = (new OwnedWallet(signer), new OwnedWallet(signer));
        _fund(token, address(wallet));
        IDues.CancelIntent memory intent = _intent(true);
        intent.id = _subscribe(address(wallet), 1);
        bytes memory forSibling = _sign(key, _digest(_hash(intent, address(sibling))));
        _assertRefused(intent, forSibling, _invalid(address(wallet)));
        _assertRefused(intent, _sign(intent), _invalid(address(wallet)));
        dues.cancelFor(intent, _sign(key, _digest(_hash(intent, address(wallet)))));
        _assertStatus(intent.id, IDues.Status.Cancelled);
    }

    function test_theKeysSignatureIsGoodWithCode() public {
        IDues.CancelIntent memory intent = _intent(true);
        bytes memory signature = _sign(intent);
        vm.signAndAttachDelegation(address(new FickleWallet()), key);
        dues.cancelFor(intent, signature);
        assertEq(signer.code.length, 23);
        _assertStatus(id, IDues.Status.Cancelled);
    }

    /// @dev A cancellation of the signer's subscription, good in the first second.
    function _intent(bool atOnce) private view returns (IDues.CancelIntent memory) {
        return IDues.CancelIntent({id: id, atOnce: atOnce, nonce: 0, deadline: START});
    }

    function _assertRefused(IDues.CancelIntent memory intent, bytes memory signature, bytes memory reason) private {
        bytes32 before = keccak256(abi.encode(dues.subscriptions(0, 10)));
        bool spent = _isSpent(signer, intent.nonce);
        vm.prank(keeper);
        (bool ok, bytes memory returned) = address(dues).call(abi.encodeCall(IDues.cancelFor, (intent, signature)));
        assertFalse(ok, "not refused");
        assertEq(returned, reason, "reason");
        assertEq(keccak256(abi.encode(dues.subscriptions(0, 10))), before, "subscriptions changed");
        assertEq(_isSpent(signer, intent.nonce), spent, "nonce");
    }
}
