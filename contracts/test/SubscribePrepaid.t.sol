// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// subscribePrepaid
// ├── when the plan does not exist: it reverts with UnknownPlan
// ├── given the plan is retired: it reverts with RetiredPlan
// ├── when the count is zero: it reverts with InvalidCount
// ├── when the charge fails: it reverts with ChargeRefused, and nothing is left
// ├── it starts now with all periods paid in one debit, and neither gives nor uses up a trial
// ├── it emits Subscribed, then one Charged for all periods
// ├── given it renews: the period after the last is charged
// └── given it does not
//     ├── it emits CancelScheduled after the others
//     ├── it ends with the paid time
//     └── its payer can resume it
contract SubscribePrepaidTest is Base {
    function testFuzz_paysForAllPeriodsAtOnce(FuzzedTerms memory fuzzed, bytes32 ref, uint16 count, bool renews)
        public
    {
        count = uint16(bound(count, 1, 4000));
        IDues.PlanTerms memory terms = _terms(fuzzed);
        uint32 planId = _createPlan(terms);
        uint256 amount = uint256(terms.price) * count;
        deal(address(token), payer, amount);
        vm.prank(payer);
        token.approve(address(dues), amount);
        uint256 end = _end(START, terms.unit, terms.count, count);

        vm.expectEmit(address(dues));
        emit IDues.Subscribed(1, planId, payer, ref, uint40(START), uint64(START));
        vm.expectEmit(address(dues));
        emit IDues.Charged(1, planId, payer, count, uint64(end), uint128(amount));
        if (!renews) {
            vm.expectEmit(address(dues));
            emit IDues.CancelScheduled(1, planId, payer, false);
        }
        vm.recordLogs();
        vm.prank(payer);
        uint256 id = dues.subscribePrepaid(planId, ref, count, renews);

        assertEq(id, 1);
        assertEq(_countLogs(), renews ? 2 : 3);
        _assertSame(dues.subscription(id), IDues.Subscription(payer, planId, uint40(START), count, renews ? 0 : 1));
        assertEq(dues.paidThrough(id), end);
        _assertStatus(id, IDues.Status.Active);
        assertEq(token.balanceOf(payer), 0);
        assertEq(token.balanceOf(terms.payee), amount);
        assertEq(_record(id).paid, amount);
        assertFalse(dues.hasUsedTrial(merchant, payer));
    }

    function test_theTrialCanStillBeHadAfterwards() public {
        uint32 planId = _createTrialPlan(7 days);
        _subscribePrepaid(planId, 1);
        uint256 id = _subscribe(payer, planId);
        assertEq(dues.paidThrough(id), START + 7 days);
        // And one that was had is of no matter.
        assertEq(dues.paidThrough(_subscribePrepaid(planId, 2)), _month(2));
    }

    function testFuzz_renewsAfterTheLastPeriod(uint16 count) public {
        count = uint16(bound(count, 1, 300));
        uint256 id = _subscribePrepaid(_createPlan(), count);
        vm.warp(_month(count) - 1);
        _assertPreview(id, IDues.Reason.NotDue);
        vm.warp(_month(count));
        dues.chargeOne(id);
        assertEq(dues.paidThrough(id), _month(uint256(count) + 1));
    }

    function testFuzz_withoutRenewalEndsWithThePaidTime(uint16 count, uint256 time) public {
        count = uint16(bound(count, 1, 300));
        uint32 planId = _createPlan();
        vm.prank(payer);
        uint256 id = dues.subscribePrepaid(planId, REF, count, false);
        vm.warp(_month(count) - 1);
        _assertStatus(id, IDues.Status.Active);
        vm.warp(bound(time, _month(count), type(uint40).max));
        _assertStatus(id, IDues.Status.Cancelled);
        assertEq(dues.chargeBatch(_ids(id)), 0);
        assertEq(token.balanceOf(payee), count * uint256(PRICE));
    }

    function test_withoutRenewalItsPayerCanResumeIt() public {
        uint32 planId = _createPlan();
        vm.startPrank(payer);
        uint256 id = dues.subscribePrepaid(planId, REF, 2, false);
        dues.resume(id);
        vm.warp(_month(2));
        dues.chargeOne(id);
        _assertStatus(id, IDues.Status.Active);
    }

    function test_countsIdsOnWithSubscribe() public {
        uint32 planId = _createPlan();
        assertEq(_subscribePrepaid(planId, 1), 1);
        assertEq(_subscribe(payer, planId), 2);
        assertEq(_subscribePrepaid(planId, 1), 3);
    }

    function testFuzz_nobodySubscribesAnotherOnesWallet(address caller, uint16 count) public {
        vm.assume(caller != payer && caller != address(0) && count != 0);
        uint32 planId = _createPlan();
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Allowance));
        vm.prank(caller);
        dues.subscribePrepaid(planId, REF, count, true);
    }

    function testFuzz_revertsWhenTheMoneyIsTooLittle(uint16 count, uint256 money, bool balance) public {
        count = uint16(bound(count, 1, 1000));
        uint256 amount = uint256(PRICE) * count;
        uint32 planId = _createPlan();
        money = bound(money, 0, amount - 1);
        if (balance) deal(address(token), payer, money);
        vm.prank(payer);
        token.approve(address(dues), balance ? amount : money);
        IDues.Reason reason = balance ? IDues.Reason.Balance : IDues.Reason.Allowance;
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, reason));
        vm.prank(payer);
        dues.subscribePrepaid(planId, REF, count, true);
        assertEq(dues.subscriptionCount(), 0);
    }

    function test_revertsWhenTheCountIsZero() public {
        uint32 planId = _createTrialPlan(7 days);
        vm.expectRevert(abi.encodeWithSelector(IDues.InvalidCount.selector, 0, type(uint16).max));
        vm.prank(payer);
        dues.subscribePrepaid(planId, REF, 0, true);
        assertFalse(dues.hasUsedTrial(merchant, payer));
    }

    function testFuzz_revertsWhenThePlanDoesNotExist(uint32 planId) public {
        vm.assume(planId != 1);
        _createPlan();
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownPlan.selector, planId));
        vm.prank(payer);
        dues.subscribePrepaid(planId, REF, 1, true);
    }

    function testFuzz_revertsWhenThePlanIsRetired(bool renews) public {
        uint32 planId = _createPlan();
        vm.prank(merchant);
        dues.retirePlan(planId);
        vm.expectRevert(abi.encodeWithSelector(IDues.RetiredPlan.selector, planId));
        vm.prank(payer);
        dues.subscribePrepaid(planId, REF, 1, renews);
    }
}
