// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {BlocklistToken} from "./doubles/Tokens.sol";
import {Base} from "./utils/Base.sol";

// cancel
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the caller is not the payer: it reverts with NotPayer
// ├── given it is cancelled already, in either way: it succeeds and emits nothing
// └── when all is well
//     ├── it emits CancelScheduled
//     ├── it keeps the status until the paid time or the trial is over
//     ├── it ends debits
//     └── it succeeds whatever the token, the payee, the plan and the time
contract CancelTest is Base {
    function test_keepsThePaidTimeAndEndsWithIt() public {
        uint256 id = _subscribe();
        _cancel(id);
        assertEq(dues.subscription(id).flags, 1);
        _assertStatus(id, IDues.Status.Active);
        vm.warp(_month(1) - 1);
        _assertStatus(id, IDues.Status.Active);
        vm.warp(_month(1));
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function test_keepsTheTrialAndEndsWithIt() public {
        uint256 id = _subscribe(payer, _createTrialPlan(7 days));
        _cancel(id);
        _assertStatus(id, IDues.Status.Trialing);
        vm.warp(START + 7 days);
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function testFuzz_endsDebitsForEver(uint256 cancelled, uint256 charged) public {
        uint256 id = _subscribe();
        vm.warp(bound(cancelled, START, type(uint40).max));
        _cancel(id);
        vm.warp(bound(charged, block.timestamp, type(uint40).max));
        assertEq(dues.chargeBatch(_ids(id)), 0);
        assertEq(token.balanceOf(payee), PRICE);
    }

    function test_duringGraceEndsAtOnce() public {
        uint256 id = _subscribe();
        vm.warp(_month(1) + 1);
        _cancel(id);
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function test_needsNothingFromTokenPlanOrPayee() public {
        BlocklistToken usdc = new BlocklistToken();
        _fund(usdc, payer);
        uint256 id = _subscribe(payer, _createPlanIn(usdc));
        vm.prank(merchant);
        dues.retirePlan(1);
        usdc.setBlocked(payer, true);
        usdc.setBlocked(payee, true);
        deal(address(usdc), payer, 0);
        vm.etch(address(usdc), hex"fe");
        _cancel(id);
    }

    function test_aSecondTimeSucceedsAndEmitsNothing() public {
        uint256 id = _subscribe();
        vm.startPrank(payer);
        dues.cancel(id);
        vm.recordLogs();
        dues.cancel(id);
        assertEq(_countLogs(), 0);
    }

    function test_afterCancelNowSucceedsAndChangesNothing() public {
        uint256 id = _subscribe();
        vm.startPrank(payer);
        dues.cancelNow(id);
        vm.recordLogs();
        dues.cancel(id);
        assertEq(_countLogs(), 0);
        assertEq(dues.subscription(id).flags, 2);
    }

    function testFuzz_revertsWhenThereIsNoSuchSubscription(uint256 id) public {
        vm.assume(id != 1);
        _subscribe();
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownSubscription.selector, id));
        vm.prank(payer);
        dues.cancel(id);
    }

    function testFuzz_revertsWhenTheCallerIsNotThePayer(address caller) public {
        vm.assume(caller != payer);
        uint256 id = _subscribe();
        vm.expectRevert(abi.encodeWithSelector(IDues.NotPayer.selector, id, caller));
        vm.prank(caller);
        dues.cancel(id);
    }

    function _cancel(uint256 id) private {
        IDues.Subscription memory s = dues.subscription(id);
        vm.expectEmit(address(dues));
        emit IDues.CancelScheduled(id, s.planId, payer);
        vm.prank(payer);
        dues.cancel(id);
        s.flags |= 1;
        _assertSame(dues.subscription(id), s);
    }
}
