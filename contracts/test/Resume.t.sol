// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// resume
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the caller is not the payer: it reverts with NotPayer
// ├── given it was ended by cancelNow: it reverts with AlreadyEnded
// ├── given it was not cancelled: it reverts with NothingToResume
// ├── when the paid time or the trial is over: it reverts with AlreadyEnded
// └── when all is well
//     ├── it emits Resumed
//     └── the next period is charged as if nothing had happened
contract ResumeTest is Base {
    function testFuzz_withdrawsTheCancelWhileThePaidTimeRuns(uint256 time) public {
        uint256 id = _subscribe();
        IDues.Subscription memory before = dues.subscription(id);
        _cancel(id);
        vm.warp(bound(time, START, _month(1) - 1));
        vm.expectEmit(address(dues));
        emit IDues.Resumed(id, 1, payer, uint64(_month(1)));
        vm.prank(payer);
        dues.resume(id);
        _assertSame(dues.subscription(id), before);

        vm.warp(_month(1));
        dues.charge(id);
        assertEq(dues.paidThrough(id), _month(2));
    }

    function test_withdrawsTheCancelDuringTheTrial() public {
        uint256 id = _subscribe(payer, _createTrialPlan(7 days));
        _cancel(id);
        vm.expectEmit(address(dues));
        emit IDues.Resumed(id, 1, payer, uint64(START + 7 days));
        vm.prank(payer);
        dues.resume(id);
        _assertStatus(id, IDues.Status.Trialing);
        vm.warp(START + 7 days);
        dues.charge(id);
    }

    function testFuzz_revertsWhenThePaidTimeIsOver(uint256 time) public {
        uint256 id = _subscribe();
        _cancel(id);
        vm.warp(bound(time, _month(1), type(uint40).max));
        vm.expectRevert(abi.encodeWithSelector(IDues.AlreadyEnded.selector, id, _month(1)));
        vm.prank(payer);
        dues.resume(id);
    }

    function test_revertsAfterCancelNow() public {
        uint256 id = _subscribe();
        _cancel(id);
        vm.startPrank(payer);
        dues.cancelNow(id);
        vm.expectRevert(abi.encodeWithSelector(IDues.AlreadyEnded.selector, id, _month(1)));
        dues.resume(id);
    }

    function test_revertsWhenNotCancelled() public {
        uint256 id = _subscribe();
        vm.expectRevert(abi.encodeWithSelector(IDues.NothingToResume.selector, id));
        vm.prank(payer);
        dues.resume(id);
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
        _cancel(id);
        vm.expectRevert(abi.encodeWithSelector(IDues.NotPayer.selector, id, caller));
        vm.prank(caller);
        dues.resume(id);
    }

    function _cancel(uint256 id) private {
        vm.prank(payer);
        dues.cancel(id);
    }
}
