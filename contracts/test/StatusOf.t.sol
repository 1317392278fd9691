// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// statusOf
// ├── when there is no such subscription: None
// ├── given ended by cancelNow: Cancelled
// ├── given the trial runs: Trialing
// ├── given the paid time runs, also that of prepaid periods: Active
// └── given the paid time or trial is over
//     ├── given cancelled, by the payer, the merchant or both: Cancelled
//     ├── given all 65,535 periods are paid: Lapsed
//     ├── given grace runs, the shorter one of the two where a change is scheduled: PastDue
//     └── given that grace is over: Lapsed
contract StatusOfTest is Base {
    function testFuzz_followsTheClock(FuzzedTerms memory fuzzed, uint256 time, uint8 cancelled) public {
        IDues.PlanTerms memory terms = _terms(fuzzed);
        deal(address(token), payer, terms.price);
        vm.prank(payer);
        token.approve(address(dues), terms.price);
        uint256 id = _subscribe(payer, _createPlan(terms));
        cancelled %= 4;
        if (cancelled & 1 != 0) _cancel(id, payer);
        if (cancelled & 2 != 0) _cancel(id, merchant);
        uint256 end = terms.trial != 0 ? START + terms.trial : _end(START, terms.unit, terms.count, 1);

        time = bound(time, START, end + 2 * uint256(terms.grace));
        vm.warp(time);
        if (time < end) _assertStatus(id, terms.trial != 0 ? IDues.Status.Trialing : IDues.Status.Active);
        else if (cancelled != 0) _assertStatus(id, IDues.Status.Cancelled);
        else _assertStatus(id, time < end + terms.grace ? IDues.Status.PastDue : IDues.Status.Lapsed);
    }

    function test_changesAtTheExactSecond() public {
        uint256 id = _subscribe(payer, _createTrialPlan(7 days));
        vm.warp(START + 7 days - 1);
        _assertStatus(id, IDues.Status.Trialing);
        vm.warp(START + 7 days);
        _assertStatus(id, IDues.Status.PastDue);
        dues.chargeOne(id);
        _assertStatus(id, IDues.Status.Active);
        uint256 end = dues.paidThrough(id);
        vm.warp(end - 1);
        _assertStatus(id, IDues.Status.Active);
        vm.warp(end);
        _assertStatus(id, IDues.Status.PastDue);
        vm.warp(end + GRACE - 1);
        _assertStatus(id, IDues.Status.PastDue);
        vm.warp(end + GRACE);
        _assertStatus(id, IDues.Status.Lapsed);
    }

    function testFuzz_prepaidPeriodsAreActive(uint16 count, uint256 time) public {
        count = uint16(bound(count, 1, 1000));
        uint256 id = _subscribePrepaid(_createPlan(), count);
        vm.warp(bound(time, START, _month(count) - 1));
        _assertStatus(id, IDues.Status.Active);
        vm.warp(_month(count));
        _assertStatus(id, IDues.Status.PastDue);
    }

    function test_prepaidInATrialItIsTrialingUntilItsEnd() public {
        uint256 id = _subscribe(payer, _createTrialPlan(7 days));
        vm.prank(payer);
        dues.prepay(id, 1);
        _assertStatus(id, IDues.Status.Trialing);
        vm.warp(START + 7 days - 1);
        _assertStatus(id, IDues.Status.Trialing);
        vm.warp(START + 7 days);
        _assertStatus(id, IDues.Status.Active);
    }

    function testFuzz_countsTheShorterGraceWhereAChangeIsScheduled(uint32 grace) public {
        IDues.PlanTerms memory terms = _terms();
        terms.grace = uint32(bound(grace, 1 hours, 28 days));
        uint256 id = _subscribe();
        _scheduleChange(id, _createPlan(terms));
        uint256 shorter = terms.grace < GRACE ? terms.grace : GRACE;
        vm.warp(_month(1) + shorter - 1);
        _assertStatus(id, IDues.Status.PastDue);
        vm.warp(_month(1) + shorter);
        _assertStatus(id, IDues.Status.Lapsed);
    }

    function test_aLapseIsFinal() public {
        uint256 id = _subscribe();
        uint32 planId = _createPlan();
        vm.warp(_month(1) + GRACE);
        vm.startPrank(payer);
        bytes memory lapsed = abi.encodeWithSelector(IDues.NotChangeable.selector, id, IDues.Reason.Lapsed);
        vm.expectRevert(lapsed);
        dues.prepay(id, 1);
        vm.expectRevert(lapsed);
        dues.scheduleChange(id, planId);
        vm.expectRevert(lapsed);
        dues.changeNow(id, planId, 1, type(uint128).max);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id, IDues.Reason.Lapsed));
        dues.chargeOne(id);
        // But the payer subscribes again.
        _assertStatus(dues.subscribe(1, REF), IDues.Status.Active);
    }

    function test_isLapsedAtOnceWhenTheCounterOfPeriodsIsFull() public {
        uint256 id = _subscribePrepaid(_createPlan(1, IDues.IntervalUnit.Day, 1), type(uint16).max);
        vm.warp(START + uint256(type(uint16).max) * 1 days - 1);
        _assertStatus(id, IDues.Status.Active);
        vm.warp(START + uint256(type(uint16).max) * 1 days);
        _assertStatus(id, IDues.Status.Lapsed);
        vm.prank(payer);
        dues.cancel(id);
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function testFuzz_isNoneForWhatDoesNotExist(uint256 id) public {
        vm.assume(id != 1);
        _subscribe();
        _assertStatus(id, IDues.Status.None);
    }

    function testFuzz_isCancelledForEverAfterCancelNow(bool byMerchant, uint256 time) public {
        uint256 id = _subscribe();
        vm.prank(byMerchant ? merchant : payer);
        dues.cancelNow(id);
        vm.warp(bound(time, START, type(uint40).max));
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function _cancel(uint256 id, address caller) private {
        vm.prank(caller);
        dues.cancel(id);
    }
}
