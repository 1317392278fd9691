// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// cancelNow
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the caller is not the payer: it reverts with NotPayer
// ├── given it is ended already: it succeeds and emits nothing
// └── when all is well
//     ├── it emits Cancelled
//     ├── it ends access and debits at once
//     └── it succeeds whatever the token and the time, also after cancel
contract CancelNowTest is Base {
    function testFuzz_endsAccessAndDebitsAtOnce(uint256 time) public {
        uint256 id = _subscribe();
        vm.warp(bound(time, START, type(uint40).max));
        _cancelNow(id);
        _assertStatus(id, IDues.Status.Cancelled);
        assertEq(dues.chargeBatch(_ids(id)), 0);
        // What was paid stays on record.
        assertEq(dues.paidThrough(id), _month(1));
    }

    function test_endsATrialAtOnce() public {
        uint256 id = _subscribe(payer, _createTrialPlan(7 days));
        _cancelNow(id);
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function test_afterCancelEndsAtOnce() public {
        uint256 id = _subscribe();
        vm.prank(payer);
        dues.cancel(id);
        _cancelNow(id);
        assertEq(dues.subscription(id).flags, 3);
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function test_needsNothingFromTheToken() public {
        uint256 id = _subscribe();
        vm.etch(address(token), hex"fe");
        _cancelNow(id);
    }

    function test_aSecondTimeSucceedsAndEmitsNothing() public {
        uint256 id = _subscribe();
        _cancelNow(id);
        vm.recordLogs();
        vm.prank(payer);
        dues.cancelNow(id);
        assertEq(_countLogs(), 0);
    }

    function testFuzz_revertsWhenThereIsNoSuchSubscription(uint256 id) public {
        vm.assume(id != 1);
        _subscribe();
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownSubscription.selector, id));
        vm.prank(payer);
        dues.cancelNow(id);
    }

    function testFuzz_revertsWhenTheCallerIsNotThePayer(address caller) public {
        vm.assume(caller != payer);
        uint256 id = _subscribe();
        vm.expectRevert(abi.encodeWithSelector(IDues.NotPayer.selector, id, caller));
        vm.prank(caller);
        dues.cancelNow(id);
    }

    function _cancelNow(uint256 id) private {
        IDues.Subscription memory s = dues.subscription(id);
        vm.expectEmit(address(dues));
        emit IDues.Cancelled(id, s.planId, payer);
        vm.prank(payer);
        dues.cancelNow(id);
        s.flags |= 2;
        _assertSame(dues.subscription(id), s);
    }
}
