// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {FickleWallet, OwnedWallet} from "./doubles/Wallets.sol";
import {Signing} from "./utils/Signing.sol";

// changeFor
// ├── when the subscription does not exist: it reverts with UnknownSubscription
// ├── when the plan does not exist: it reverts with UnknownPlan
// ├── when the deadline is over: it reverts with Expired
// ├── when the nonce is used or invalidated: it reverts with NonceSpent
// ├── when the subscription's payer did not sign exactly this: it reverts with InvalidSignature
// ├── when the change is refused (retired plan, too dear, ...): it reverts as changeNow or scheduleChange
// └── when all is well
//     ├── with a count it does what changeNow does, whoever sends it
//     ├── without it does what scheduleChange does
//     └── it emits NoncesSpent before
contract ChangeForTest is Signing {
    uint32 private basic;
    uint32 private pro;
    uint256 private id;

    function setUp() public override {
        super.setUp();
        basic = _createPlan();
        IDues.PlanTerms memory terms = _terms();
        terms.price = 2 * PRICE;
        pro = _createPlan(terms);
        id = _subscribe(signer, basic);
    }

    // WHAT IT DOES

    function testFuzz_changesAtOnceWithACount(address relayer, uint16 count, uint256 nonce, uint256 time) public {
        count = uint16(bound(count, 1, 100));
        time = bound(time, START, _month(1) - 1);
        vm.warp(time);
        (uint128 amount, uint128 credit, uint64 end) = dues.previewChange(id, pro, count);
        IDues.ChangeIntent memory intent = _intent();
        (intent.count, intent.maxAmount, intent.nonce, intent.deadline) = (count, amount, nonce, time);
        bytes memory signature = _sign(intent);
        uint256 before = token.balanceOf(signer);
        vm.recordLogs();
        vm.expectEmit(address(dues));
        emit IDues.NoncesSpent(signer, nonce / 256, _bit(nonce));
        vm.expectEmit(address(dues));
        emit IDues.PlanChanged(id, pro, signer, basic, uint40(time), count, end, credit);
        vm.expectEmit(address(dues));
        emit IDues.Charged(id, pro, signer, count, end, amount);
        vm.prank(relayer);
        dues.changeFor(intent, signature);
        assertEq(_countLogs(), 3);
        _assertSame(dues.subscription(id), IDues.Subscription(signer, pro, uint40(time), count, 0));
        assertEq(before - token.balanceOf(signer), amount);
        assertTrue(_isSpent(signer, nonce));
    }

    function testFuzz_schedulesWithoutACount(address relayer, uint128 maxAmount) public {
        IDues.ChangeIntent memory intent = _intent();
        (intent.count, intent.maxAmount) = (0, maxAmount);
        bytes memory signature = _sign(intent);
        vm.recordLogs();
        vm.expectEmit(address(dues));
        emit IDues.NoncesSpent(signer, 0, 1);
        vm.expectEmit(address(dues));
        emit IDues.ChangeScheduled(id, basic, signer, pro, false);
        vm.prank(relayer);
        dues.changeFor(intent, signature);
        assertEq(_countLogs(), 2);
        _assertSame(dues.subscription(id), IDues.Subscription(signer, basic, uint40(START), 1, 8));
        assertEq(dues.subscriptions(id, 1)[0].scheduledPlanId, pro);
    }

    // REFUSALS, IN THEIR ORDER

    function testFuzz_revertsWhenTheSubscriptionDoesNotExist(uint256 unknown) public {
        vm.assume(unknown != id);
        IDues.ChangeIntent memory intent = _intent();
        bytes memory signature = _sign(intent);
        (intent.id, intent.planId, intent.deadline) = (unknown, 99, 0);
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.UnknownSubscription.selector, unknown));
    }

    function testFuzz_revertsWhenThePlanDoesNotExist(uint32 unknown) public {
        vm.assume(unknown == 0 || unknown > pro);
        IDues.ChangeIntent memory intent = _intent();
        bytes memory signature = _sign(intent);
        (intent.planId, intent.deadline) = (unknown, 0);
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.UnknownPlan.selector, unknown));
    }

    function testFuzz_revertsWhenTheDeadlineIsOver(uint256 deadline) public {
        IDues.ChangeIntent memory intent = _intent();
        intent.deadline = bound(deadline, START, _month(1) - 2);
        bytes memory signature = _sign(intent);
        vm.warp(intent.deadline + 1);
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.Expired.selector, intent.deadline));
        vm.warp(intent.deadline);
        dues.changeFor(intent, signature);
    }

    function test_isNoConsentToChangeAgain() public {
        IDues.ChangeIntent memory intent = _intent();
        intent.count = 0;
        bytes memory signature = _sign(intent);
        dues.changeFor(intent, signature);
        vm.prank(signer);
        dues.revokeChange(id);
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.NonceSpent.selector, signer, 0));
    }

    function testFuzz_revertsWhenTheNonceIsInvalidated(uint256 nonce) public {
        IDues.ChangeIntent memory intent = _intent();
        intent.nonce = nonce;
        bytes memory signature = _sign(intent);
        vm.prank(signer);
        dues.invalidateNonces(nonce / 256, _bit(nonce));
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.NonceSpent.selector, signer, nonce));
    }

    function testFuzz_revertsWhenAnythingElseWasSigned(uint256 which, uint256 change) public {
        uint256 second = _subscribe(signer, basic);
        IDues.ChangeIntent memory intent = _intent();
        bytes memory signature = _sign(intent);
        which = bound(which, 0, 5);
        change = bound(change, 1, type(uint64).max);
        if (which == 0) intent.id = second;
        else if (which == 1) intent.planId = _createPlan();
        else if (which == 2) intent.count = change % 2 == 0 ? 0 : 2;
        else if (which == 3) intent.maxAmount -= uint128(change);
        else if (which == 4) intent.nonce = change;
        else intent.deadline += change;
        _assertRefused(intent, signature, _invalid(signer));
    }

    function test_revertsWhenTheSignatureNamesAnotherPayer() public {
        IDues.ChangeIntent memory intent = _intent();
        _assertRefused(intent, _sign(key, _digest(_hash(intent, payer))), _invalid(signer));
        // Of somebody else's subscription.
        intent.id = _subscribe(payer, basic);
        _assertRefused(intent, _sign(intent), _invalid(payer));
        _assertRefused(intent, _sign(key, _digest(_hash(intent, payer))), _invalid(payer));
    }

    function testFuzz_revertsWhenSomebodyElseSigned(uint256 other) public {
        IDues.ChangeIntent memory intent = _intent();
        bytes memory signature = _sign(bound(other, 1, 1e30), _digest(_hash(intent, signer)));
        _assertRefused(intent, signature, _invalid(signer));
    }

    function testFuzz_revertsOnAnotherChainAndForAnotherContract(uint64 chainId) public {
        vm.assume(chainId != 0 && chainId != block.chainid);
        IDues.ChangeIntent memory intent = _intent();
        bytes32 hash = _hash(intent, signer);
        bytes memory signature = _sign(intent);
        _assertRefused(intent, _sign(key, _digest(hash, chainId, address(dues))), _invalid(signer));
        IDues other = IDues(deployCode("contracts/src/Dues.sol:Dues"));
        _assertRefused(intent, _sign(key, _digest(hash, block.chainid, address(other))), _invalid(signer));
        vm.chainId(chainId);
        _assertRefused(intent, signature, _invalid(signer));
    }

    function test_revertsWhenTheSignatureIsSpelledOtherwise() public {
        IDues.ChangeIntent memory intent = _intent();
        bytes[] memory others = _malleated(_sign(intent));
        for (uint256 i = 0; i < others.length; ++i) {
            _assertRefused(intent, others[i], _invalid(signer));
        }
    }

    function test_revertsWhenAnotherTypeWasSigned() public {
        IDues.ChangeIntent memory intent = _intent();
        IDues.SubscribeIntent memory subscribe =
            IDues.SubscribeIntent(signer, pro, bytes32(id), intent.count, true, 0, START);
        _assertRefused(intent, _sign(subscribe), _invalid(signer));
        _assertRefused(intent, _sign(IDues.CancelIntent(id, false, 0, START)), _invalid(signer));
    }

    function testFuzz_revertsWhenAnotherPlanCameUnderTheSameId(uint96 price) public {
        vm.assume(price != 0 && price != 2 * PRICE);
        uint256 fork = vm.snapshotState();
        IDues.PlanTerms memory terms = _terms();
        terms.price = 2 * PRICE;
        uint32 wanted = _createPlan(terms);
        IDues.ChangeIntent memory intent = _intent();
        intent.planId = wanted;
        bytes memory signature = _sign(intent);
        vm.revertToState(fork);
        terms.price = price;
        assertEq(_createPlan(terms), wanted);
        _assertRefused(intent, signature, _invalid(signer));
    }

    // WHAT THE FUNCTION MEANT REFUSES

    function testFuzz_revertsWhenThePlanIsRetired(uint16 count) public {
        IDues.ChangeIntent memory intent = _intent();
        intent.count = count;
        bytes memory signature = _sign(intent);
        vm.prank(merchant);
        dues.retirePlan(pro);
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.RetiredPlan.selector, pro));
    }

    function test_revertsWhenItCostsMoreThanWasSigned() public {
        IDues.ChangeIntent memory intent = _intent();
        intent.maxAmount = PRICE - 1;
        bytes memory signature = _sign(intent);
        bytes memory reason = abi.encodeWithSelector(IDues.AmountExceedsMax.selector, PRICE, PRICE - 1);
        _assertRefused(intent, signature, reason);
        intent.maxAmount = PRICE;
        dues.changeFor(intent, _sign(intent));
    }

    function test_revertsWhenTheChargeFailsAndTheSignatureStaysGood() public {
        IDues.ChangeIntent memory intent = _intent();
        bytes memory signature = _sign(intent);
        vm.prank(signer);
        token.approve(address(dues), 0);
        bytes memory reason = abi.encodeWithSelector(IDues.ChargeRefused.selector, id, IDues.Reason.Allowance);
        _assertRefused(intent, signature, reason);
        vm.prank(signer);
        token.approve(address(dues), PRICE);
        dues.changeFor(intent, signature);
    }

    function testFuzz_revertsWhenCancelled(uint16 count) public {
        IDues.ChangeIntent memory intent = _intent();
        intent.count = count;
        bytes memory signature = _sign(intent);
        vm.prank(signer);
        dues.cancel(id);
        bytes memory reason = abi.encodeWithSelector(IDues.NotChangeable.selector, id, IDues.Reason.Cancelled);
        _assertRefused(intent, signature, reason);
    }

    // ACCOUNTS WITH CODE

    function test_aWalletChangesByItsOwnersSignature() public {
        (OwnedWallet wallet, OwnedWallet sibling) = (new OwnedWallet(signer), new OwnedWallet(signer));
        IDues.ChangeIntent memory intent = _intent();
        intent.id = _subscribeWallet(address(wallet));
        bytes memory forSibling = _sign(key, _digest(_hash(intent, address(sibling))));
        _assertRefused(intent, forSibling, _invalid(address(wallet)));
        _assertRefused(intent, _sign(intent), _invalid(address(wallet)));
        dues.changeFor(intent, _sign(key, _digest(_hash(intent, address(wallet)))));
        assertEq(dues.subscription(intent.id).planId, pro);
    }

    function test_theKeysSignatureIsGoodWithCode() public {
        IDues.ChangeIntent memory intent = _intent();
        bytes memory signature = _sign(intent);
        vm.signAndAttachDelegation(address(new FickleWallet()), key);
        dues.changeFor(intent, signature);
        assertEq(signer.code.length, 23);
        assertEq(dues.subscription(id).planId, pro);
    }

    function _subscribeWallet(address wallet) private returns (uint256) {
        _fund(token, wallet);
        return _subscribe(wallet, basic);
    }

    /// @dev A change of the signer's subscription for one period, good in this second.
    function _intent() private view returns (IDues.ChangeIntent memory) {
        return
            IDues.ChangeIntent({id: id, planId: pro, count: 1, maxAmount: type(uint128).max, nonce: 0, deadline: START});
    }

    function _assertRefused(IDues.ChangeIntent memory intent, bytes memory signature, bytes memory reason) private {
        bytes32 before = keccak256(abi.encode(dues.subscriptions(0, 10)));
        bool spent = _isSpent(signer, intent.nonce);
        vm.prank(keeper);
        (bool ok, bytes memory returned) = address(dues).call(abi.encodeCall(IDues.changeFor, (intent, signature)));
        assertFalse(ok, "not refused");
        assertEq(returned, reason, "reason");
        assertEq(keccak256(abi.encode(dues.subscriptions(0, 10))), before, "subscriptions changed");
        assertEq(_isSpent(signer, intent.nonce), spent, "nonce");
    }
}
