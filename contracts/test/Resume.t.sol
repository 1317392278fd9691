// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// resume
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the caller is not the payer: it reverts with NotPayer, also for the merchant
// ├── given it was ended by cancelNow, by whomever: it reverts with AlreadyEnded
// ├── given the merchant has cancelled, before or after the payer: it reverts with AlreadyEnded
// ├── given it was not cancelled: it reverts with NothingToResume
// ├── when the paid time or the trial is over: it reverts with AlreadyEnded
// └── when all is well
//     ├── it emits Resumed
//     ├── the next period is charged as if nothing had happened
//     └── a change that was scheduled happens
contract ResumeTest is Base {
    function testFuzz_withdrawsTheCancelWhileThePaidTimeRuns(uint256 time) public {
        uint256 id = _subscribe();
        IDues.Subscription memory before = dues.subscription(id);
        _cancel(id, payer);
        vm.warp(bound(time, START, _month(1) - 1));
        _resume(id, _month(1));
        _assertSame(dues.subscription(id), before);

        vm.warp(_month(1));
        dues.chargeOne(id);
        assertEq(dues.paidThrough(id), _month(2));
    }

    function test_isPossibleUntilTheLastSecondOfThePaidTime() public {
        uint256 id = _subscribe();
        _cancel(id, payer);
        vm.warp(_month(1));
        _assertEnded(id, _month(1));
        vm.warp(_month(1) - 1);
        _resume(id, _month(1));
    }

    function test_withdrawsTheCancelDuringTheTrial() public {
        uint256 id = _subscribe(payer, _createTrialPlan(7 days));
        _cancel(id, payer);
        _resume(id, START + 7 days);
        _assertStatus(id, IDues.Status.Trialing);
        vm.warp(START + 7 days);
        dues.chargeOne(id);
    }

    function test_makesASubscriptionWithoutRenewalRenew() public {
        uint32 planId = _createPlan();
        vm.prank(payer);
        uint256 id = dues.subscribePrepaid(planId, REF, 3, false);
        vm.warp(_month(3) - 1);
        _resume(id, _month(3));
        vm.warp(_month(3));
        dues.chargeOne(id);
        assertEq(dues.paidThrough(id), _month(4));
    }

    function test_aChangeThatWasScheduledHappens() public {
        uint256 id = _subscribe();
        uint32 planId = _createPlan();
        _scheduleChange(id, planId);
        _cancel(id, payer);
        _resume(id, _month(1));
        assertEq(dues.subscription(id).flags, 8);
        vm.warp(_month(1));
        dues.chargeOne(id);
        assertEq(dues.subscription(id).planId, planId);
    }

    function testFuzz_revertsWhenThePaidTimeIsOver(uint256 time) public {
        uint256 id = _subscribe();
        _cancel(id, payer);
        vm.warp(bound(time, _month(1), type(uint40).max));
        _assertEnded(id, _month(1));
    }

    function testFuzz_revertsAfterCancelNow(bool byMerchant) public {
        uint256 id = _subscribe();
        _cancel(id, payer);
        vm.prank(byMerchant ? merchant : payer);
        dues.cancelNow(id);
        _assertEnded(id, _month(1));
    }

    function testFuzz_revertsWhenTheMerchantHasCancelled(bool payerBefore, bool payerAfter) public {
        uint256 id = _subscribe();
        if (payerBefore) _cancel(id, payer);
        _cancel(id, merchant);
        if (payerAfter) _cancel(id, payer);
        _assertEnded(id, _month(1));
        vm.warp(_month(1));
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function test_aMerchantCanCancelAgainWhatWasResumed() public {
        uint256 id = _subscribe();
        _cancel(id, payer);
        _resume(id, _month(1));
        _cancel(id, merchant);
        _assertEnded(id, _month(1));
    }

    function testFuzz_revertsWhenNotCancelled(uint256 time) public {
        uint256 id = _subscribe();
        vm.warp(bound(time, START, type(uint40).max));
        _assertNothing(id);
    }

    function test_revertsASecondTime() public {
        uint256 id = _subscribe();
        _cancel(id, payer);
        _resume(id, _month(1));
        _assertNothing(id);
    }

    function testFuzz_revertsWhenThereIsNoSuchSubscription(uint256 id) public {
        vm.assume(id != 1);
        _subscribe();
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownSubscription.selector, id));
        vm.prank(payer);
        dues.resume(id);
    }

    function testFuzz_revertsWhenTheCallerIsNotThePayer(address caller) public {
        vm.assume(caller != payer);
        uint256 id = _subscribe();
        _cancel(id, payer);
        _assertNotPayer(id, caller);
        _assertNotPayer(id, merchant);
    }

    function _cancel(uint256 id, address caller) private {
        vm.prank(caller);
        dues.cancel(id);
    }

    function _resume(uint256 id, uint256 end) private {
        IDues.Subscription memory s = dues.subscription(id);
        vm.expectEmit(address(dues));
        emit IDues.Resumed(id, s.planId, payer, uint64(end));
        vm.prank(payer);
        dues.resume(id);
        s.flags &= ~uint8(1);
        _assertSame(dues.subscription(id), s);
    }

    function _assertNotPayer(uint256 id, address caller) private {
        vm.expectRevert(abi.encodeWithSelector(IDues.NotPayer.selector, id, caller));
        vm.prank(caller);
        dues.resume(id);
    }

    function _assertEnded(uint256 id, uint256 end) private {
        vm.expectRevert(abi.encodeWithSelector(IDues.AlreadyEnded.selector, id, end));
        vm.prank(payer);
        dues.resume(id);
    }

    function _assertNothing(uint256 id) private {
        vm.expectRevert(abi.encodeWithSelector(IDues.NothingToResume.selector, id));
        vm.prank(payer);
        dues.resume(id);
    }
}
