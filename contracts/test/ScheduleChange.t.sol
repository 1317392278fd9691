// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {TestUSD} from "./doubles/TestUSD.sol";
import {BlocklistToken} from "./doubles/Tokens.sol";
import {Changing} from "./utils/Changing.sol";

/// @notice Whoever pays with it needs nothing.
contract FreeToken {
    function transferFrom(address, address, uint256) external pure returns (bool) {
        return true;
    }
}

// scheduleChange
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the caller is not the payer: it reverts with NotPayer
// ├── when the new plan does not exist or is retired: it reverts with UnknownPlan or RetiredPlan
// ├── when it is the same plan, or one of another merchant or token: it reverts with PlansUnrelated
// ├── when cancelled, ended or lapsed, or when it would lapse by this: it reverts with NotChangeable
// └── when all is well
//     ├── it emits ChangeScheduled, debits nothing, and replaces what was scheduled before
//     ├── prepay and migrate are refused until it has happened
//     ├── given it is cancelled then: nothing is charged, and after resume the change happens
//     └── when charged, alone or in a batch
//         ├── it emits PlanChanged, then Charged: one period, at the new price, to the new payee
//         ├── given an equal interval: it counts on from the anchor
//         ├── given another interval: it counts from the end of the paid time, however late
//         ├── within the shorter grace of the two plans, which also decides the status
//         ├── also if the new plan was retired after scheduling
//         └── given the token refuses: it stays scheduled
contract ScheduleChangeTest is Changing {
    uint32 private basic;
    uint32 private pro;
    uint256 private id;

    function setUp() public override {
        super.setUp();
        basic = _monthly(BASIC);
        pro = _monthly(PRO);
        id = _subscribe(payer, basic);
    }

    // SCHEDULING

    function testFuzz_changesNothingForTheTimeBeing(uint256 time) public {
        vm.warp(bound(time, START, _month(1) + GRACE - 1));
        uint256 before = token.balanceOf(payer);
        IDues.Record memory expected = _record(id);
        (expected.subscription.flags, expected.scheduledPlanId) = (8, pro);
        vm.expectEmit(address(dues));
        emit IDues.ChangeScheduled(id, basic, payer, pro, false);
        vm.recordLogs();
        _schedule(id, pro);
        assertEq(_countLogs(), 1);
        assertEq(abi.encode(_record(id)), abi.encode(expected));
        assertEq(token.balanceOf(payer), before);
    }

    function test_replacesWhatWasScheduledBefore() public {
        uint32 cheap = _monthly(1);
        _schedule(id, pro);
        vm.expectEmit(address(dues));
        emit IDues.ChangeScheduled(id, basic, payer, cheap, false);
        _schedule(id, cheap);
        assertEq(_record(id).scheduledPlanId, cheap);
        vm.warp(_month(1));
        dues.chargeOne(id);
        _assertOn(id, cheap, START, 2, _month(2), BASIC + 1);
    }

    function test_whatIsScheduledTwiceIsScheduled() public {
        _schedule(id, pro);
        _schedule(id, pro);
        assertEq(_record(id).subscription.flags, 8);
        assertEq(_record(id).scheduledPlanId, pro);
    }

    function test_prepayAndMigrateHaveToWait() public {
        uint32 better = _monthly(BASIC - 1);
        _schedule(id, pro);
        bytes memory reason = abi.encodeWithSelector(IDues.ChangePending.selector, id);
        _assertRefuses(id, abi.encodeCall(IDues.prepay, (id, 1)), reason);
        _assertRefuses(merchant, id, abi.encodeCall(IDues.migrate, (id, better)), reason);
        vm.warp(_month(1));
        dues.chargeOne(id);
        _prepay(id, 1);
        _assertOn(id, pro, START, 3, _month(3), BASIC + 2 * uint256(PRO));
    }

    // CHARGING

    function testFuzz_chargesTheFirstPeriodOfTheNewPlan(address caller, uint256 late) public {
        _schedule(id, pro);
        vm.warp(_month(1) + bound(late, 0, GRACE - 1));
        uint256 before = token.balanceOf(payer);
        vm.recordLogs();
        vm.expectEmit(address(dues));
        emit IDues.PlanChanged(id, pro, payer, basic, uint40(START), 2, uint64(_month(2)), 0);
        vm.expectEmit(address(dues));
        emit IDues.Charged(id, pro, payer, 2, uint64(_month(2)), PRO);
        vm.prank(caller);
        dues.chargeOne(id);
        assertEq(_countLogs(), 2);
        assertEq(before - token.balanceOf(payer), PRO);
        _assertOn(id, pro, START, 2, _month(2), BASIC + PRO);
        _assertStatus(id, IDues.Status.Active);
    }

    function test_anEqualIntervalKeepsTheLastDayOfTheMonth() public {
        uint32 cheap = _monthly(1);
        _schedule(id, pro);
        uint256[3] memory ends = [uint256(1_772_272_800), 1_774_951_200, 1_777_543_200];
        // 28 February, 31 March, 30 April, at 10:00.
        assertEq(dues.paidThrough(id), ends[0]);
        vm.warp(ends[0]);
        dues.chargeOne(id);
        assertEq(dues.paidThrough(id), ends[1]);
        _schedule(id, cheap);
        vm.warp(ends[1]);
        dues.chargeOne(id);
        _assertOn(id, cheap, START, 3, ends[2], BASIC + PRO + 1);
    }

    function testFuzz_anotherIntervalIsCountedFromTheEndOfThePaidTime(uint256 late, bool unit) public {
        // Another count, or another unit with the same count.
        IDues.PlanTerms memory terms = _dailyTerms(PRO, 1);
        if (!unit) (terms.unit, terms.count) = (IDues.IntervalUnit.Month, 2);
        uint32 to = _createPlan(terms);
        _schedule(id, to);
        uint256 anchor = _month(1);
        uint256 end = _end(anchor, terms.unit, terms.count, 1);
        vm.warp(anchor + bound(late, 0, terms.grace - 1));
        vm.expectEmit(address(dues));
        emit IDues.PlanChanged(id, to, payer, basic, uint40(anchor), 1, uint64(end), 0);
        vm.expectEmit(address(dues));
        emit IDues.Charged(id, to, payer, 1, uint64(end), PRO);
        dues.chargeOne(id);
        _assertOn(id, to, anchor, 1, end, BASIC + PRO);

        // From then on it is an ordinary subscription of the new plan.
        vm.warp(end);
        dues.chargeOne(id);
        _assertOn(id, to, anchor, 2, _end(anchor, terms.unit, terms.count, 2), BASIC + 2 * uint256(PRO));
    }

    function test_aBatchDoesTheSame() public {
        uint256 other = _subscribe(payer, basic);
        _schedule(id, pro);
        vm.warp(_month(1));
        vm.expectEmit(address(dues));
        emit IDues.PlanChanged(id, pro, payer, basic, uint40(START), 2, uint64(_month(2)), 0);
        vm.expectEmit(address(dues));
        emit IDues.Charged(id, pro, payer, 2, uint64(_month(2)), PRO);
        vm.expectEmit(address(dues));
        emit IDues.Charged(other, basic, payer, 2, uint64(_month(2)), BASIC);
        assertEq(dues.chargeBatch(_ids(id, other)), 2);
        _assertOn(id, pro, START, 2, _month(2), BASIC + PRO);
        assertEq(dues.chargeBatch(_ids(id)), 0);
    }

    function test_isNotDueBeforeThePaidTimeEnds() public {
        _schedule(id, pro);
        vm.warp(_month(1) - 1);
        _assertPreview(id, IDues.Reason.NotDue);
        _assertChargeRefused(IDues.Reason.NotDue);
    }

    function test_paysThePayeeOfTheNewPlan() public {
        IDues.PlanTerms memory terms = _terms();
        terms.payee = keeper;
        _schedule(id, _createPlan(terms));
        vm.warp(_month(1));
        dues.chargeOne(id);
        assertEq(token.balanceOf(keeper), PRICE);
        assertEq(token.balanceOf(payee), BASIC);
    }

    function test_happensAlsoIfTheNewPlanIsRetiredAfterwards() public {
        _schedule(id, pro);
        vm.prank(merchant);
        dues.retirePlan(pro);
        vm.warp(_month(1));
        dues.chargeOne(id);
        _assertOn(id, pro, START, 2, _month(2), BASIC + PRO);
    }

    function test_happensAfterTheLastOfSeveralPrepaidPeriods() public {
        _prepay(id, 2);
        _schedule(id, pro);
        vm.warp(_month(2));
        _assertChargeRefused(IDues.Reason.NotDue);
        vm.warp(_month(3));
        dues.chargeOne(id);
        _assertOn(id, pro, START, 4, _month(4), 3 * uint256(BASIC) + PRO);
    }

    function testFuzz_aTrialGoesOnAndIsNotGivenAgain(bool equal) public {
        uint256 trialling = _subscribe(payer, _createTrialPlan(14 days));
        IDues.PlanTerms memory terms = equal ? _terms() : _dailyTerms(PRICE, 7);
        (terms.price, terms.trial) = (PRO, 30 days);
        uint32 to = _createPlan(terms);
        _schedule(trialling, to);
        _assertStatus(trialling, IDues.Status.Trialing);
        uint256 anchor = START + 14 days;
        vm.warp(anchor);
        dues.chargeOne(trialling);
        uint256 end = equal ? _monthAfter(anchor) : anchor + 7 days;
        _assertOn(trialling, to, anchor, 1, end, PRO);
    }

    function test_usageOfTheOldPlansPeriodsIsClosedThen() public {
        IDues.PlanTerms memory terms = _terms();
        terms.usageCap = 10;
        uint32 metered = _createPlan(terms);
        _schedule(id, metered);
        vm.warp(_month(1));
        dues.chargeOne(id);
        bytes memory reason = abi.encodeWithSelector(IDues.PeriodClosed.selector, id, 1);
        _assertRefuses(merchant, id, abi.encodeCall(IDues.chargeUsage, (id, 1, 1, "")), reason);
        vm.prank(merchant);
        dues.chargeUsage(id, 2, 10, "");
        _assertOn(id, metered, START, 2, _month(2), BASIC + PRICE + 10);
    }

    // GRACE

    function test_theNewPlansShorterGraceDecides() public {
        _schedule(id, _withGrace(2 hours));
        vm.warp(_month(1) + 2 hours - 1);
        _assertPreview(id, IDues.Reason.None);
        _assertStatus(id, IDues.Status.PastDue);
        uint256 snapshot = vm.snapshotState();
        dues.chargeOne(id);
        vm.revertToState(snapshot);
        vm.warp(_month(1) + 2 hours);
        _assertPreview(id, IDues.Reason.Lapsed);
        _assertStatus(id, IDues.Status.Lapsed);
        _assertChargeRefused(IDues.Reason.Lapsed);
    }

    function test_theNewPlansLongerGraceCountsFromTheNextPeriodOn() public {
        _schedule(id, _withGrace(28 days));
        vm.warp(_month(1) + GRACE);
        _assertPreview(id, IDues.Reason.Lapsed);
        _assertStatus(id, IDues.Status.Lapsed);
        _assertChargeRefused(IDues.Reason.Lapsed);
        vm.warp(_month(1) + GRACE - 1);
        _assertPreview(id, IDues.Reason.None);
        _assertStatus(id, IDues.Status.PastDue);
        dues.chargeOne(id);
        vm.warp(_month(2) + 28 days);
        _assertStatus(id, IDues.Status.Lapsed);
        vm.warp(_month(2) + 28 days - 1);
        dues.chargeOne(id);
        assertEq(dues.paidThrough(id), _month(3));
    }

    function test_revertsWhenItWouldLapseByThis() public {
        uint32 strict = _withGrace(2 hours);
        vm.warp(_month(1) + 2 hours);
        _assertRefuses(id, _call(strict), _notChangeable(id, IDues.Reason.Lapsed));
        _assertStatus(id, IDues.Status.PastDue);
        // Also if it replaces a change that would not.
        _schedule(id, pro);
        _assertRefuses(id, _call(strict), _notChangeable(id, IDues.Reason.Lapsed));
        vm.warp(_month(1) + 2 hours - 1);
        _schedule(id, strict);
        dues.chargeOne(id);
        _assertOn(id, strict, START, 2, _month(2), BASIC + PRICE);
    }

    function test_revertsWhenItHasLapsedByTheChangeThatItWouldReplace() public {
        _schedule(id, _withGrace(2 hours));
        vm.warp(_month(1) + 2 hours);
        _assertRefuses(id, _call(pro), _notChangeable(id, IDues.Reason.Lapsed));
    }

    // MONEY

    function test_theNewPriceIsWhatThePayerMustHave() public {
        _schedule(id, pro);
        vm.warp(_month(1));
        vm.prank(payer);
        token.approve(address(dues), PRO - 1);
        _assertPreview(id, IDues.Reason.Allowance);
        _assertChargeRefused(IDues.Reason.Allowance);
        vm.prank(payer);
        token.approve(address(dues), PRO);
        deal(address(token), payer, PRO - 1);
        _assertPreview(id, IDues.Reason.Balance);
        _assertChargeRefused(IDues.Reason.Balance);
        deal(address(token), payer, PRO);
        _assertPreview(id, IDues.Reason.None);
        dues.chargeOne(id);
        assertEq(token.balanceOf(payer), 0);
    }

    function test_staysScheduledWhenTheTokenRefuses() public {
        BlocklistToken usdc = new BlocklistToken();
        _fund(usdc, payer);
        uint256 blocked = _subscribe(payer, _createPlanIn(usdc));
        _schedule(blocked, _createPlanIn(usdc));
        vm.warp(_month(1));
        usdc.setBlocked(payer, true);
        bytes32 before = keccak256(abi.encode(_record(blocked)));
        vm.expectEmit(address(dues));
        emit IDues.ChargeFailed(blocked, 3, payer, IDues.Reason.Token);
        assertEq(dues.chargeBatch(_ids(blocked)), 0);
        assertEq(keccak256(abi.encode(_record(blocked))), before);
        usdc.setBlocked(payer, false);
        dues.chargeOne(blocked);
        _assertOn(blocked, 4, START, 2, _month(2), 2 * uint256(PRICE));
    }

    // CANCELLING

    function test_aCancelStopsItAndAResumeBringsItBack() public {
        _schedule(id, pro);
        vm.prank(payer);
        dues.cancel(id);
        assertEq(_record(id).scheduledPlanId, pro);
        assertEq(_record(id).subscription.flags, 9);
        uint256 snapshot = vm.snapshotState();
        vm.warp(_month(1));
        _assertChargeRefused(IDues.Reason.Cancelled);
        assertEq(dues.chargeBatch(_ids(id)), 0);

        vm.revertToState(snapshot);
        vm.prank(payer);
        dues.resume(id);
        assertEq(_record(id).subscription.flags, 8);
        vm.warp(_month(1));
        dues.chargeOne(id);
        _assertOn(id, pro, START, 2, _month(2), BASIC + PRO);
    }

    function test_theMerchantsCancelStopsItToo() public {
        _schedule(id, pro);
        vm.prank(merchant);
        dues.cancel(id);
        vm.warp(_month(1));
        _assertChargeRefused(IDues.Reason.Cancelled);
    }

    function test_anEndAtOnceStopsIt() public {
        _schedule(id, pro);
        vm.prank(payer);
        dues.cancelNow(id);
        _assertChargeRefused(IDues.Reason.Cancelled);
        vm.warp(_month(1));
        _assertChargeRefused(IDues.Reason.Cancelled);
    }

    // THE LAST OF ALL PERIODS

    function test_theCounterOfPeriodsIsFullAlsoForTheNewPlan() public {
        IDues.PlanTerms memory terms = _dailyTerms(1, 1);
        uint32[2] memory daily = [_createPlan(terms), _createPlan(terms)];
        vm.prank(payer);
        uint256 full = dues.subscribePrepaid(daily[0], REF, type(uint16).max - 1, true);
        _schedule(full, daily[1]);
        vm.warp(START + 65_534 days);
        dues.chargeOne(full);
        _assertOn(full, daily[1], START, type(uint16).max, START + 65_535 days, 65_535);
        _schedule(full, basic);
        vm.warp(START + 65_535 days);
        _assertStatus(full, IDues.Status.Lapsed);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, full, IDues.Reason.Lapsed));
        dues.chargeOne(full);
    }

    /// @dev A token that costs nothing lets a merchant and a payer of one mind pay and refund without end, and so fill
    /// whatever the contract sums payments up in. That is no matter for the other items of a batch.
    function test_aSumOfPaymentsBeyondAllMeasureHarmsNoBatch() public {
        IDues.PlanTerms memory terms = _dailyTerms(type(uint96).max, 1);
        terms.token = address(new FreeToken());
        uint32[2] memory plans = [_createPlan(terms), _createPlan(terms)];
        terms.count = 2;
        uint32 other = _createPlan(terms);
        vm.prank(payer);
        uint256 full = dues.subscribePrepaid(plans[0], REF, type(uint16).max, true);
        uint256 periods = type(uint16).max;
        // Up to the last change that can be booked.
        for (uint256 i = 1; periods < 2 ** 23 + 1; ++i) {
            uint256 count = 2 ** 23 - periods;
            if (count == 0) count = 1;
            if (count > type(uint16).max) count = type(uint16).max;
            IDues.Record memory r = _record(full);
            vm.prank(merchant);
            dues.refund(full, uint128(r.paid - r.refunded), bytes32(i));
            _changeNow(full, plans[i % 2], uint16(count), type(uint128).max);
            periods += count;
        }
        _schedule(full, other);
        uint256 healthy = _subscribe(payer, _daily(1, 1));
        vm.warp(START + 1 days);
        vm.expectEmit(address(dues));
        emit IDues.ChargeFailed(full, dues.subscription(full).planId, payer, IDues.Reason.Token);
        vm.expectEmit(address(dues));
        emit IDues.Charged(healthy, 6, payer, 2, uint64(START + 2 days), 1);
        assertEq(dues.chargeBatch(_ids(full, healthy)), 1);
    }

    // REFUSALS

    function testFuzz_revertsWhenThereIsNoSuchSubscription(uint256 unknown) public {
        vm.assume(unknown != id);
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownSubscription.selector, unknown));
        _schedule(unknown, pro);
    }

    function testFuzz_revertsWhenTheCallerIsNotThePayer(address caller) public {
        vm.assume(caller != payer);
        _assertRefuses(caller, id, _call(pro), abi.encodeWithSelector(IDues.NotPayer.selector, id, caller));
    }

    function testFuzz_revertsWhenTheNewPlanDoesNotExist(uint32 planId) public {
        vm.assume(planId == 0 || planId > pro);
        _assertRefuses(id, _call(planId), abi.encodeWithSelector(IDues.UnknownPlan.selector, planId));
    }

    function test_revertsWhenTheNewPlanIsRetired() public {
        vm.prank(merchant);
        dues.retirePlan(pro);
        _assertRefuses(id, _call(pro), abi.encodeWithSelector(IDues.RetiredPlan.selector, pro));
    }

    function test_revertsWhenThePlansAreUnrelated() public {
        _assertRefuses(id, _call(basic), _unrelated(basic, basic));
        IDues.PlanTerms memory terms = _terms();
        vm.prank(keeper);
        uint32 foreign = dues.createPlan(terms);
        _assertRefuses(id, _call(foreign), _unrelated(basic, foreign));
        uint32 elsewhere = _createPlanIn(new TestUSD());
        _assertRefuses(id, _call(elsewhere), _unrelated(basic, elsewhere));
    }

    function test_revertsWhenCancelledByWhomeverAndHowever() public {
        address[2] memory parties = [payer, merchant];
        for (uint256 i = 0; i < 2; ++i) {
            uint256 snapshot = vm.snapshotState();
            vm.prank(parties[i]);
            dues.cancel(id);
            _assertRefuses(id, _call(pro), _notChangeable(id, IDues.Reason.Cancelled));
            vm.revertToState(snapshot);
            vm.prank(parties[i]);
            dues.cancelNow(id);
            _assertRefuses(id, _call(pro), _notChangeable(id, IDues.Reason.Cancelled));
            vm.revertToState(snapshot);
        }
    }

    function testFuzz_revertsWhenLapsed(uint256 time) public {
        vm.warp(bound(time, _month(1) + GRACE, type(uint40).max));
        _assertRefuses(id, _call(pro), _notChangeable(id, IDues.Reason.Lapsed));
    }

    function _call(uint32 planId) private view returns (bytes memory) {
        return abi.encodeCall(IDues.scheduleChange, (id, planId));
    }

    function _withGrace(uint32 grace) private returns (uint32) {
        IDues.PlanTerms memory terms = _terms();
        terms.grace = grace;
        return _createPlan(terms);
    }

    function _assertChargeRefused(IDues.Reason reason) private {
        bytes memory data = abi.encodeCall(IDues.chargeOne, (id));
        _assertRefuses(keeper, id, data, abi.encodeWithSelector(IDues.ChargeRefused.selector, id, reason));
    }
}
