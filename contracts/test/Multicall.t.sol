// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {ISelf} from "./utils/ISelf.sol";
import {Signing} from "./utils/Signing.sol";
import {Errors} from "@openzeppelin/contracts/utils/Errors.sol";

// multicall
// ├── it makes the calls in order, as the caller, and returns what they return
// ├── when one fails: all is undone, and it reverts with that call's error
// ├── a multicall in a multicall does the same
// ├── it gives nobody a right that it does not have: neither a payer's, nor the contract's own
// └── it takes no ETH
contract MulticallTest is Signing {
    function testFuzz_makesTheCallsAsTheCaller(address caller) public {
        vm.assume(caller != address(0) && caller != address(dues) && caller != address(token));
        bytes[] memory calls = new bytes[](3);
        IDues.PlanTerms memory terms = _terms();
        calls[0] = abi.encodeCall(IDues.createPlan, (terms));
        terms.trial = 7 days;
        calls[1] = abi.encodeCall(IDues.createPlan, (terms));
        calls[2] = abi.encodeCall(IDues.subscribe, (2, REF));
        vm.expectEmit(address(dues));
        emit IDues.PlanCreated(
            1, caller, address(token), payee, PRICE, IDues.IntervalUnit.Month, 1, 0, uint32(GRACE), 0
        );
        vm.expectEmit(address(dues));
        emit IDues.PlanCreated(
            2, caller, address(token), payee, PRICE, IDues.IntervalUnit.Month, 1, 7 days, uint32(GRACE), 0
        );
        vm.expectEmit(address(dues));
        emit IDues.Subscribed(1, 2, caller, REF, uint40(START + 7 days), uint64(START + 7 days));
        vm.prank(caller);
        bytes[] memory results = dues.multicall(calls);
        assertEq(results.length, 3);
        assertEq(results[0], abi.encode(1));
        assertEq(results[1], abi.encode(2));
        assertEq(results[2], abi.encode(1));
        assertEq(dues.plan(1).merchant, caller);
        assertEq(dues.subscription(1).payer, caller);
    }

    function test_returnsWhatViewsReturn() public {
        uint256 id = _subscribe();
        bytes[] memory calls = new bytes[](3);
        calls[0] = abi.encodeCall(IDues.paidThrough, (id));
        calls[1] = abi.encodeCall(IDues.cancel, (id));
        calls[2] = abi.encodeCall(IDues.subscription, (id));
        vm.prank(payer);
        bytes[] memory results = dues.multicall(calls);
        assertEq(results[0], abi.encode(_month(1)));
        assertEq(results[1], "");
        assertEq(results[2], abi.encode(IDues.Subscription(payer, 1, uint40(START), 1, 1)));
    }

    function test_undoesAllWhenOneFails() public {
        uint32 planId = _createPlan();
        bytes[] memory calls = new bytes[](3);
        calls[0] = abi.encodeCall(IDues.subscribe, (planId, REF));
        calls[1] = abi.encodeCall(IDues.cancelNow, (1));
        calls[2] = abi.encodeCall(IDues.resume, (1));
        vm.expectRevert(abi.encodeWithSelector(IDues.AlreadyEnded.selector, 1, _month(1)));
        vm.prank(payer);
        dues.multicall(calls);
        assertEq(dues.subscriptionCount(), 0);
        assertEq(token.balanceOf(payee), 0);
        assertEq(token.allowance(payer, address(dues)), 1000 * uint256(PRICE));
    }

    function test_onePeriodIsChargedOnceHere() public {
        uint256 id = _subscribe();
        vm.warp(_month(1));
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(IDues.chargeOne, (id));
        calls[1] = abi.encodeCall(IDues.chargeOne, (id));
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id, IDues.Reason.NotDue));
        dues.multicall(calls);
        assertEq(token.balanceOf(payee), PRICE);
        calls[1] = abi.encodeCall(IDues.chargeBatch, (_ids(id, id)));
        bytes[] memory results = dues.multicall(calls);
        assertEq(results[1], abi.encode(0));
        assertEq(token.balanceOf(payee), 2 * uint256(PRICE));
    }

    function test_aCallOfNothingThatThereIsFails() public {
        bytes[] memory calls = _one(abi.encodeWithSignature("nothing()"));
        vm.expectRevert(Errors.FailedCall.selector);
        dues.multicall(calls);
        calls = _one("");
        vm.expectRevert(Errors.FailedCall.selector);
        dues.multicall(calls);
    }

    function test_noCallsDoNothing() public {
        vm.recordLogs();
        assertEq(dues.multicall(new bytes[](0)).length, 0);
        assertEq(_countLogs(), 0);
    }

    function test_aMulticallInAMulticallIsTheCallersToo() public {
        uint32 planId = _createPlan();
        bytes[] memory inner = _one(abi.encodeCall(IDues.subscribe, (planId, REF)));
        bytes[] memory outer = new bytes[](2);
        outer[0] = abi.encodeCall(IDues.multicall, (inner));
        outer[1] = abi.encodeCall(IDues.cancel, (1));
        vm.prank(payer);
        bytes[] memory results = dues.multicall(outer);
        assertEq(results[0], abi.encode(_one(abi.encode(1))));
        _assertSame(dues.subscription(1), IDues.Subscription(payer, planId, uint40(START), 1, 1));
    }

    // RIGHTS

    /// @dev An item of a batch is the contract's own business: not through here either, however deep.
    function testFuzz_doesNotReachTheItemsOfABatch(address caller) public {
        vm.assume(caller != address(dues));
        uint256 id = _subscribe();
        vm.warp(_month(1));
        bytes[] memory calls = _one(abi.encodeCall(ISelf.chargeItem, (id)));
        vm.startPrank(caller);
        vm.expectRevert(abi.encodeWithSelector(ISelf.NotSelf.selector, caller));
        dues.multicall(calls);
        calls = _one(abi.encodeCall(IDues.multicall, (calls)));
        vm.expectRevert(abi.encodeWithSelector(ISelf.NotSelf.selector, caller));
        dues.multicall(calls);
        vm.expectRevert(abi.encodeWithSelector(ISelf.NotSelf.selector, caller));
        ISelf(address(dues)).chargeItem(id);
        vm.stopPrank();
        assertEq(dues.subscription(id).periods, 1);
    }

    function test_whoSendsASignatureActsForItselfInAllElse() public {
        IDues.SubscribeIntent memory intent = IDues.SubscribeIntent(signer, _createPlan(), REF, 0, true, 0, START);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(IDues.subscribeFor, (intent, _sign(intent)));
        calls[1] = abi.encodeCall(IDues.cancel, (1));
        vm.expectRevert(abi.encodeWithSelector(IDues.NotParty.selector, 1, keeper));
        vm.prank(keeper);
        dues.multicall(calls);

        calls[1] = abi.encodeCall(IDues.prepay, (1, 1));
        vm.expectRevert(abi.encodeWithSelector(IDues.NotPayer.selector, 1, keeper));
        vm.prank(keeper);
        dues.multicall(calls);
        vm.prank(signer);
        dues.multicall(calls);
        assertEq(dues.subscription(1).periods, 2);
    }

    function test_aSignatureIsGoodOnceHere() public {
        IDues.SubscribeIntent memory intent = IDues.SubscribeIntent(signer, _createPlan(), REF, 0, true, 0, START);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(IDues.subscribeFor, (intent, _sign(intent)));
        calls[1] = calls[0];
        vm.expectRevert(abi.encodeWithSelector(IDues.NonceSpent.selector, signer, 0));
        dues.multicall(calls);
        assertEq(dues.subscriptionCount(), 0);
    }

    function test_takesNoEth() public {
        vm.deal(payer, 1 ether);
        vm.startPrank(payer);
        (bool ok,) = address(dues).call{value: 1}(abi.encodeCall(IDues.multicall, (new bytes[](0))));
        assertFalse(ok);
        (ok,) = address(dues).call{value: 1}("");
        assertFalse(ok);
        assertEq(address(dues).balance, 0);
    }

    function _one(bytes memory data) private pure returns (bytes[] memory calls) {
        calls = new bytes[](1);
        calls[0] = data;
    }
}
