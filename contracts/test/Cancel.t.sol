// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {BlocklistToken} from "./doubles/Tokens.sol";
import {Base} from "./utils/Base.sol";
import {Vm} from "forge-std/Vm.sol";

// cancel
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the caller is neither the payer nor the merchant: it reverts with NotParty
// ├── given it has ended at once: it succeeds and emits nothing
// ├── when the payer calls
// │   ├── given either of them has cancelled: it succeeds and emits nothing
// │   └── it emits CancelScheduled, by the payer; also if the payer is the merchant
// ├── when the merchant calls
// │   ├── given the merchant has cancelled: it succeeds and emits nothing
// │   └── it emits CancelScheduled, by the merchant; also after the payer's
// └── when all is well, whoever of them calls
//     ├── it keeps the status until the paid time or the trial is over
//     ├── it ends debits
//     ├── it keeps a scheduled change, without effect
//     ├── it succeeds whatever the token, the payee, the plan and the time
//     └── for the payer, it looks at nothing but the subscription's own slot, and calls nobody
contract CancelTest is Base {
    function testFuzz_keepsThePaidTimeAndEndsWithIt(bool byMerchant, uint16 count) public {
        count = uint16(bound(count, 1, 100));
        uint256 id = _subscribePrepaid(_createPlan(), count);
        _cancel(id, byMerchant);
        _assertStatus(id, IDues.Status.Active);
        vm.warp(_month(count) - 1);
        _assertStatus(id, IDues.Status.Active);
        vm.warp(_month(count));
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function testFuzz_keepsTheTrialAndEndsWithIt(bool byMerchant) public {
        uint256 id = _subscribe(payer, _createTrialPlan(7 days));
        _cancel(id, byMerchant);
        vm.warp(START + 7 days - 1);
        _assertStatus(id, IDues.Status.Trialing);
        vm.warp(START + 7 days);
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function testFuzz_endsDebitsForEver(bool byMerchant, uint256 cancelled, uint256 charged) public {
        uint256 id = _subscribe();
        vm.warp(bound(cancelled, START, type(uint40).max));
        _cancel(id, byMerchant);
        vm.warp(bound(charged, block.timestamp, type(uint40).max));
        assertEq(dues.chargeBatch(_ids(id)), 0);
        assertEq(token.balanceOf(payee), PRICE);
    }

    function testFuzz_duringGraceEndsAtOnce(bool byMerchant) public {
        uint256 id = _subscribe();
        vm.warp(_month(1));
        _cancel(id, byMerchant);
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function testFuzz_afterTheLapseEndsWhatHasLapsed(bool byMerchant) public {
        uint256 id = _subscribe();
        vm.warp(_month(1) + GRACE);
        _assertStatus(id, IDues.Status.Lapsed);
        _cancel(id, byMerchant);
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function testFuzz_keepsAScheduledChangeWithoutEffect(bool byMerchant) public {
        uint256 id = _subscribe();
        uint32 planId = _createPlan();
        _scheduleChange(id, planId);
        _cancel(id, byMerchant);
        assertEq(_record(id).scheduledPlanId, planId);
        vm.warp(_month(1));
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id, IDues.Reason.Cancelled));
        dues.chargeOne(id);
    }

    function testFuzz_needsNothingFromTokenPlanOrPayee(bool byMerchant) public {
        BlocklistToken usdc = new BlocklistToken();
        _fund(usdc, payer);
        uint256 id = _subscribe(payer, _createPlanIn(usdc));
        vm.prank(merchant);
        dues.retirePlan(1);
        usdc.setBlocked(payer, true);
        usdc.setBlocked(payee, true);
        deal(address(usdc), payer, 0);
        vm.etch(address(usdc), hex"fe");
        vm.etch(payee, hex"fe");
        _cancel(id, byMerchant);
    }

    function testFuzz_cancelsOneSubscriptionOnly(bool byMerchant) public {
        uint256 id = _subscribe();
        uint256 other = _subscribe(payer, 1);
        _cancel(id, byMerchant);
        vm.warp(_month(1));
        assertEq(dues.chargeBatch(_ids(id, other)), 1);
        assertEq(dues.paidThrough(other), _month(2));
    }

    function test_forThePayerLooksAtNothingButTheSubscriptionsOwnSlot() public {
        uint256 id = _subscribe();
        bytes32 slot = keccak256(abi.encode(id, uint256(2)));
        vm.startStateDiffRecording();
        vm.prank(payer);
        dues.cancel(id);
        Vm.AccountAccess[] memory calls = vm.stopAndReturnStateDiff();
        uint256 accesses = 0;
        for (uint256 i = 0; i < calls.length; ++i) {
            assertNotEq(calls[i].accessor, address(dues));
            if (calls[i].account != address(dues)) continue;
            for (uint256 j = 0; j < calls[i].storageAccesses.length; ++j) {
                assertEq(calls[i].storageAccesses[j].slot, slot);
                ++accesses;
            }
        }
        assertGt(accesses, 1);
    }

    function testFuzz_aSecondTimeSucceedsAndEmitsNothing(bool byMerchant) public {
        uint256 id = _subscribe();
        _cancel(id, byMerchant);
        _assertNothing(id, byMerchant);
    }

    function test_theMerchantStandsAboveThePayer() public {
        uint256 id = _subscribe();
        _cancel(id, false);
        _cancel(id, true);
        assertEq(dues.subscription(id).flags, 1 | 4);
        _assertNothing(id, false);
        _assertNothing(id, true);
    }

    function test_afterTheMerchantThePayerHasNothingToAdd() public {
        uint256 id = _subscribe();
        _cancel(id, true);
        _assertNothing(id, false);
        assertEq(dues.subscription(id).flags, 4);
    }

    function testFuzz_afterCancelNowSucceedsAndEmitsNothing(bool endedByMerchant, bool byMerchant) public {
        uint256 id = _subscribe();
        vm.prank(endedByMerchant ? merchant : payer);
        dues.cancelNow(id);
        _assertNothing(id, byMerchant);
        assertEq(dues.subscription(id).flags, 2);
    }

    function test_whoIsPayerAndMerchantIsThePayer() public {
        uint256 id = _subscribeMerchant();
        vm.expectEmit(address(dues));
        emit IDues.CancelScheduled(id, 1, merchant, false);
        vm.prank(merchant);
        dues.cancel(id);
        assertEq(dues.subscription(id).flags, 1);
        vm.prank(merchant);
        dues.resume(id);
        assertEq(dues.subscription(id).flags, 0);
    }

    function testFuzz_revertsWhenThereIsNoSuchSubscription(uint256 id) public {
        vm.assume(id != 1);
        _subscribe();
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownSubscription.selector, id));
        vm.prank(payer);
        dues.cancel(id);
    }

    function testFuzz_revertsWhenTheCallerIsNoParty(address caller) public {
        vm.assume(caller != payer && caller != merchant);
        uint256 id = _subscribe();
        _assertNotParty(id, caller);
    }

    function test_revertsForThePayeeAndOperatorsAndOtherMerchants() public {
        uint256 id = _subscribe();
        address operator = makeAddr("operator");
        vm.prank(merchant);
        dues.setOperator(operator, true);
        address other = makeAddr("another merchant");
        vm.prank(other);
        dues.createPlan(_terms());
        _assertNotParty(id, payee);
        _assertNotParty(id, operator);
        _assertNotParty(id, other);
    }

    function _subscribeMerchant() private returns (uint256) {
        _fund(token, merchant);
        return _subscribe(merchant, _createPlan());
    }

    function _assertNotParty(uint256 id, address caller) private {
        vm.expectRevert(abi.encodeWithSelector(IDues.NotParty.selector, id, caller));
        vm.prank(caller);
        dues.cancel(id);
    }

    function _assertNothing(uint256 id, bool byMerchant) private {
        IDues.Subscription memory before = dues.subscription(id);
        vm.recordLogs();
        vm.prank(byMerchant ? merchant : payer);
        dues.cancel(id);
        assertEq(_countLogs(), 0);
        _assertSame(dues.subscription(id), before);
    }

    function _cancel(uint256 id, bool byMerchant) private {
        IDues.Subscription memory s = dues.subscription(id);
        vm.expectEmit(address(dues));
        emit IDues.CancelScheduled(id, s.planId, payer, byMerchant);
        vm.prank(byMerchant ? merchant : payer);
        dues.cancel(id);
        s.flags |= byMerchant ? 4 : 1;
        _assertSame(dues.subscription(id), s);
    }
}
