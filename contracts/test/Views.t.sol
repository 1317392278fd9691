// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// plan, proposedPayee, isOperator, subscription, paidThrough, isKeySpent, hasUsedTrial, spentNonces
// └── when there is no such thing: zero
// subscriptions
// ├── it lists consecutive ids from the given one
// ├── it is clamped to what exists
// └── each element has everything there is to know at this instant
contract ViewsTest is Base {
    function testFuzz_whatDoesNotExistIsZero(uint32 planId, uint256 id, address merchant_, address payer_, bytes32 key)
        public
    {
        vm.assume(planId != 1 && id != 1);
        _subscribe();
        vm.prank(merchant);
        dues.proposePayee(1, keeper);
        IDues.Plan memory noPlan;
        IDues.Subscription memory none;
        assertEq(abi.encode(dues.plan(planId)), abi.encode(noPlan));
        (address proposed, uint64 acceptableFrom) = dues.proposedPayee(planId);
        assertEq(proposed, address(0));
        assertEq(acceptableFrom, 0);
        assertFalse(dues.isOperator(merchant_, payer_));
        _assertSame(dues.subscription(id), none);
        assertEq(dues.paidThrough(id), 0);
        assertFalse(dues.isKeySpent(id, key));
        assertFalse(dues.isKeySpent(1, key));
        assertFalse(dues.hasUsedTrial(merchant_, payer_));
        assertEq(dues.spentNonces(payer_, uint256(key)), 0);
    }

    function testFuzz_subscriptionsListsWhatExists(uint8 existing, uint256 fromId, uint256 count) public {
        existing = uint8(bound(existing, 0, 12));
        if (fromId % 4 != 0) fromId = bound(fromId, 0, 14);
        if (count % 4 != 0) count = bound(count, 0, 14);
        uint32 planId = _createPlan();
        for (uint256 i = 0; i < existing; ++i) {
            _subscribe(payer, planId);
            // So that no two are the same.
            vm.warp(START + (i + 1) * 1 hours);
        }

        IDues.Record[] memory list = dues.subscriptions(fromId, count);
        uint256 n = 0;
        for (uint256 id = 1; id <= existing; ++id) {
            if (id < fromId || n == count) continue;
            _assertSame(list[n++].subscription, dues.subscription(id));
        }
        assertEq(list.length, n);
    }

    function test_subscriptionsTakesTheLargestNumbers() public {
        _subscribe();
        assertEq(dues.subscriptions(0, type(uint256).max).length, 1);
        assertEq(dues.subscriptions(1, type(uint256).max).length, 1);
        assertEq(dues.subscriptions(type(uint256).max, type(uint256).max).length, 0);
    }

    function test_theSameAsTheOtherViewsForEveryStatus() public {
        // In the order of `Status`, from Trialing on.
        IDues.PlanTerms memory terms = _terms();
        (terms.trial, terms.usageCap) = (40 days, 100);
        uint32 withTrial = _createPlan(terms);
        uint32 planId = _createUsagePlan(100);
        uint32 other = _createPlan(2 * PRICE, IDues.IntervalUnit.Month, 1);
        uint256 trialing = _subscribe(payer, withTrial);
        uint256 active = _subscribePrepaid(planId, 3);
        uint256 pastDue = _subscribe(payer, planId);
        uint256 cancelled = _subscribePrepaid(planId, 2);
        vm.startPrank(merchant);
        dues.chargeUsage(pastDue, 1, 30, "usage");
        token.mint(merchant, 1000);
        token.approve(address(dues), 1000);
        dues.refund(pastDue, 7, "refund");
        dues.refund(cancelled, 1, "refund");
        dues.cancelNow(cancelled);
        vm.stopPrank();
        _scheduleChange(active, other);
        vm.warp(_month(1) + GRACE - 1);

        IDues.Record[] memory list = dues.subscriptions(1, 4);
        _assertRecord(list[0], trialing, IDues.Status.Trialing, 0, 0, 0);
        _assertRecord(list[1], active, IDues.Status.Active, other, 3 * uint256(PRICE), 0);
        _assertRecord(list[2], pastDue, IDues.Status.PastDue, 0, uint256(PRICE) + 30, 7);
        _assertRecord(list[3], cancelled, IDues.Status.Cancelled, 0, 2 * uint256(PRICE), 1);
        vm.warp(_month(1) + GRACE);
        _assertRecord(_record(pastDue), pastDue, IDues.Status.Lapsed, 0, uint256(PRICE) + 30, 7);
    }

    function test_aScheduledPlanIsThereUntilItIsRevokedOrHappens() public {
        uint256 id = _subscribe();
        uint32 planId = _createPlan();
        assertEq(_record(id).scheduledPlanId, 0);
        _scheduleChange(id, planId);
        assertEq(_record(id).scheduledPlanId, planId);
        vm.prank(payer);
        dues.revokeChange(id);
        assertEq(_record(id).scheduledPlanId, 0);
        _scheduleChange(id, planId);
        vm.warp(_month(1));
        assertEq(_record(id).scheduledPlanId, planId);
        dues.chargeOne(id);
        assertEq(_record(id).scheduledPlanId, 0);
    }

    function _assertRecord(
        IDues.Record memory record,
        uint256 id,
        IDues.Status status,
        uint32 scheduledPlanId,
        uint256 paid,
        uint256 refunded
    ) private view {
        _assertStatus(id, status);
        IDues.Record memory expected = IDues.Record({
            subscription: dues.subscription(id),
            status: status,
            paidThrough: dues.paidThrough(id),
            scheduledPlanId: scheduledPlanId,
            paid: paid,
            refunded: refunded
        });
        assertEq(abi.encode(record), abi.encode(expected));
    }
}
