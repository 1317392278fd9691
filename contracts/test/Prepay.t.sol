// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// prepay
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the caller is not the payer: it reverts with NotPayer
// ├── given cancelled by the payer or the merchant, ended, or lapsed: it reverts with NotChangeable
// ├── given a change is scheduled: it reverts with ChangePending
// ├── when the count is zero, or more than the counter of periods has room for: it reverts with InvalidCount
// ├── when the charge fails: it reverts with ChargeRefused, and nothing is left
// └── when all is well: in the trial, in the paid time and past due
//     ├── it moves the price of all periods in one debit
//     ├── it counts them on from the anchor
//     ├── it emits one Charged
//     ├── what is prepaid is not charged again
//     └── what is prepaid keeps its worth, whatever the merchant does
contract PrepayTest is Base {
    function testFuzz_countsOnFromTheAnchor(FuzzedTerms memory fuzzed, uint16 count, uint256 time) public {
        IDues.PlanTerms memory terms = _terms(fuzzed);
        count = uint16(bound(count, 1, 4000));
        uint32 planId = _createPlan(terms);
        _fundWithoutLimit(token, payer);
        uint256 id = _subscribe(payer, planId);
        uint16 before = dues.subscription(id).periods;
        // Before the end of the trial or the paid time, or within grace after it.
        vm.warp(bound(time, START, dues.paidThrough(id) + terms.grace - 1));
        _prepay(id, count, terms);

        uint256 end = dues.paidThrough(id);
        vm.warp(end - 1);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id, IDues.Reason.NotDue));
        dues.chargeOne(id);
        vm.warp(end);
        dues.chargeOne(id);
        assertEq(dues.subscription(id).periods, before + count + 1);
    }

    function testFuzz_manyTimesPaysWhatOnceDoes(uint8[6] memory counts) public {
        uint256 id = _subscribe();
        uint256 periods = 1;
        for (uint256 i = 0; i < counts.length; ++i) {
            uint16 count = uint16(bound(counts[i], 1, 100));
            vm.prank(payer);
            dues.prepay(id, count);
            periods += count;
            assertEq(dues.paidThrough(id), _month(periods));
        }
        assertEq(token.balanceOf(payee), periods * PRICE);
        assertEq(_record(id).paid, periods * PRICE);
    }

    function test_pastDuePaysForThePeriodThatRuns() public {
        uint256 id = _subscribe();
        vm.warp(_month(1) + GRACE - 1);
        _prepay(id, 1, _terms());
        _assertStatus(id, IDues.Status.Active);
        assertEq(dues.paidThrough(id), _month(2));
    }

    function test_inATrialPaysForPeriodsAfterIt() public {
        uint256 id = _subscribe(payer, _createTrialPlan(7 days));
        vm.warp(START + 1 days);
        _prepay(id, 2, _terms());
        _assertStatus(id, IDues.Status.Trialing);
        assertEq(dues.paidThrough(id), _end(START + 7 days, IDues.IntervalUnit.Month, 1, 2));
    }

    function test_whatIsPrepaidKeepsItsWorthWhenTheMerchantMigrates() public {
        uint256 id = _subscribe();
        _prepay(id, 11, _terms());
        uint32 upgrade = _createPlan(20 * PRICE, IDues.IntervalUnit.Month, 1);
        (, uint128 before,) = dues.previewChange(id, upgrade, 1);
        assertEq(before, 12 * PRICE);
        uint32 cheap = _createPlan(1, IDues.IntervalUnit.Month, 1);
        vm.prank(merchant);
        dues.migrate(id, cheap);
        (, uint128 credit,) = dues.previewChange(id, upgrade, 1);
        assertGe(credit, before);
    }

    function test_isPossibleOnARetiredPlan() public {
        uint256 id = _subscribe();
        vm.prank(merchant);
        dues.retirePlan(1);
        _prepay(id, 1, _terms());
    }

    function testFuzz_fillsTheCounterOfPeriods(uint16 before) public {
        before = uint16(bound(before, 1, type(uint16).max));
        uint256 id = _subscribePrepaid(_createPlan(1, IDues.IntervalUnit.Day, 1), before);
        uint16 room = type(uint16).max - before;
        _assertInvalid(id, 0, room);
        if (room != type(uint16).max) _assertInvalid(id, room + 1, room);
        _assertInvalid(id, type(uint16).max, room);
        if (room == 0) return;
        vm.prank(payer);
        dues.prepay(id, room);
        _assertSame(dues.subscription(id), IDues.Subscription(payer, 1, uint40(START), type(uint16).max, 0));
        assertEq(dues.paidThrough(id), START + uint256(type(uint16).max) * 1 days);
    }

    function test_revertsWhenTheCountIsZero() public {
        uint256 id = _subscribe();
        _assertInvalid(id, 0, type(uint16).max - 1);
    }

    function testFuzz_revertsWhenTheMoneyIsTooLittle(uint16 count, uint256 money, bool balance) public {
        count = uint16(bound(count, 1, 1000));
        uint256 id = _subscribe();
        IDues.Subscription memory before = dues.subscription(id);
        uint256 amount = uint256(PRICE) * count;
        money = bound(money, 0, amount - 1);
        if (balance) deal(address(token), payer, money);
        vm.prank(payer);
        token.approve(address(dues), balance ? amount : money);
        IDues.Reason reason = balance ? IDues.Reason.Balance : IDues.Reason.Allowance;
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id, reason));
        vm.prank(payer);
        dues.prepay(id, count);
        _assertSame(dues.subscription(id), before);
    }

    function testFuzz_revertsWhenCancelled(bool byMerchant) public {
        uint256 id = _subscribe();
        vm.prank(byMerchant ? merchant : payer);
        dues.cancel(id);
        // The paid time still runs.
        _assertNotChangeable(id, IDues.Reason.Cancelled);
    }

    function testFuzz_revertsWhenEnded(bool byMerchant) public {
        uint256 id = _subscribe();
        vm.prank(byMerchant ? merchant : payer);
        dues.cancelNow(id);
        _assertNotChangeable(id, IDues.Reason.Cancelled);
    }

    function test_revertsWithoutRenewalUntilResumed() public {
        uint32 planId = _createPlan();
        vm.prank(payer);
        uint256 id = dues.subscribePrepaid(planId, REF, 1, false);
        _assertNotChangeable(id, IDues.Reason.Cancelled);
        vm.prank(payer);
        dues.resume(id);
        _prepay(id, 1, _terms());
    }

    function testFuzz_revertsWhenLapsed(uint256 time) public {
        uint256 id = _subscribe();
        vm.warp(_month(1) + GRACE);
        _assertNotChangeable(id, IDues.Reason.Lapsed);
        vm.warp(bound(time, _month(1) + GRACE, type(uint40).max));
        _assertNotChangeable(id, IDues.Reason.Lapsed);
    }

    function test_revertsWhenAChangeIsScheduledUntilRevoked() public {
        uint256 id = _subscribe();
        _scheduleChange(id, _createPlan());
        vm.expectRevert(abi.encodeWithSelector(IDues.ChangePending.selector, id));
        vm.prank(payer);
        dues.prepay(id, 1);
        vm.prank(payer);
        dues.revokeChange(id);
        _prepay(id, 1, _terms());
    }

    function testFuzz_revertsWhenThereIsNoSuchSubscription(uint256 id) public {
        vm.assume(id != 1);
        _subscribe();
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownSubscription.selector, id));
        vm.prank(payer);
        dues.prepay(id, 1);
    }

    function testFuzz_revertsWhenTheCallerIsNotThePayer(address caller) public {
        vm.assume(caller != payer);
        uint256 id = _subscribe();
        vm.expectRevert(abi.encodeWithSelector(IDues.NotPayer.selector, id, caller));
        vm.prank(caller);
        dues.prepay(id, 1);
    }

    function _prepay(uint256 id, uint16 count, IDues.PlanTerms memory terms) private {
        IDues.Subscription memory s = dues.subscription(id);
        s.periods += count;
        uint256 amount = uint256(terms.price) * count;
        uint256 paid = _record(id).paid;
        uint256 end = _end(s.anchor, terms.unit, terms.count, s.periods);
        (uint256 ofPayer, uint256 ofPayee) = (token.balanceOf(payer), token.balanceOf(terms.payee));

        vm.expectEmit(address(dues));
        emit IDues.Charged(id, s.planId, payer, s.periods, uint64(end), uint128(amount));
        vm.prank(payer);
        dues.prepay(id, count);

        _assertSame(dues.subscription(id), s);
        assertEq(dues.paidThrough(id), end);
        assertEq(ofPayer - token.balanceOf(payer), amount);
        assertEq(token.balanceOf(terms.payee) - ofPayee, amount);
        assertEq(_record(id).paid, paid + amount);
    }

    function _assertInvalid(uint256 id, uint16 count, uint256 room) private {
        vm.expectRevert(abi.encodeWithSelector(IDues.InvalidCount.selector, count, room));
        vm.prank(payer);
        dues.prepay(id, count);
    }

    function _assertNotChangeable(uint256 id, IDues.Reason standing) private {
        vm.expectRevert(abi.encodeWithSelector(IDues.NotChangeable.selector, id, standing));
        vm.prank(payer);
        dues.prepay(id, 1);
    }
}
