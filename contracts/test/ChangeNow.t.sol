// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {TestUSD} from "./doubles/TestUSD.sol";
import {Changing} from "./utils/Changing.sol";
import {PlainCalendar} from "./utils/PlainCalendar.sol";

// changeNow
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the caller is not the payer: it reverts with NotPayer
// ├── when the new plan does not exist or is retired: it reverts with UnknownPlan or RetiredPlan
// ├── when it is the same plan, or one of another merchant or token: it reverts with PlansUnrelated
// ├── when past due, cancelled, ended or lapsed: it reverts with NotChangeable
// ├── when the new plan costs less for the same time: it reverts with NotAnUpgrade
// ├── when count is zero: it reverts with InvalidCount
// ├── when the credit is more than the price: it reverts with CreditExceedsPrice
// ├── when the difference is more than the caller allows: it reverts with AmountExceedsMax
// ├── when the charge fails: it reverts with ChargeRefused
// └── when all is well
//     ├── it debits the new price less the credit, or nothing, and emits PlanChanged and Charged
//     ├── the credit is the whole periods ahead and the rest of the running one, rounded down
//     ├── the credit is never more than what was paid and not refunded
//     ├── periods start now, also in a trial, and the new plan's trial is not given
//     └── a scheduled change is not scheduled any more
contract ChangeNowTest is Changing {
    uint32 private basic;
    uint32 private pro;

    function setUp() public override {
        super.setUp();
        basic = _monthly(BASIC);
        pro = _monthly(PRO);
    }

    // CREDIT

    function test_creditsFifteenOfTwentyEightDays() public {
        uint256 id = _subscribe(payer, basic);
        uint256 now_ = START + 13 days;
        vm.warp(now_);
        uint256 before = token.balanceOf(payer);
        vm.expectEmit(address(dues));
        emit IDues.PlanChanged(id, pro, payer, basic, uint40(now_), 1, uint64(now_ + 28 days), 15_000_000);
        vm.expectEmit(address(dues));
        emit IDues.Charged(id, pro, payer, 1, uint64(now_ + 28 days), 41_000_000);
        vm.recordLogs();
        _changeNow(id, pro, 1, 41_000_000);
        assertEq(_countLogs(), 2);
        assertEq(before - token.balanceOf(payer), 41_000_000);
        assertEq(token.balanceOf(payee), 28_000_000 + 41_000_000);
        _assertOn(id, pro, now_, 1, now_ + 28 days, 69_000_000);
    }

    function test_roundsTheCreditDown() public {
        // One second of 2,419,200 is gone: 99,989,958.67 are left.
        uint256 id = _subscribe(payer, _createPlan());
        uint32 dear = _monthly(2 * PRICE);
        vm.warp(START + 1);
        _assertAmount(id, dear, 2 * uint256(PRICE) - 99_989_958, 99_989_958);
    }

    function test_theLastSecondIsCreditedAndTheNextPeriodIsNot() public {
        uint256 id = _subscribe(payer, basic);
        vm.warp(_month(1) - 1);
        // 28,000,000 / 2,419,200 = 11.57
        _assertAmount(id, pro, PRO - 11, 11);
    }

    function test_creditsTheWholePriceInTheSameSecond() public {
        uint256 id = _subscribe(payer, basic);
        _assertAmount(id, pro, PRO - BASIC, BASIC);
    }

    function test_creditsPeriodsAheadWholeAndTheRunningOneInPart() public {
        vm.prank(payer);
        uint256 id = dues.subscribePrepaid(basic, REF, 3, true);
        // The second period has 31 days; half of it is left, and the third.
        vm.warp(_month(1) + 15.5 days);
        _assertAmount(id, pro, PRO - 42_000_000, 42_000_000);
    }

    function test_aPeriodBeginsInTheSecondThatTheOneBeforeEnds() public {
        vm.prank(payer);
        uint256 id = dues.subscribePrepaid(basic, REF, 3, true);
        uint256 snapshot = vm.snapshotState();
        vm.warp(_month(1));
        _assertAmount(id, pro, 0, 56_000_000);
        vm.revertToState(snapshot);
        vm.warp(_month(1) - 1);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(IDues.CreditExceedsPrice.selector, 56_000_011, 56_000_000));
        dues.changeNow(id, pro, 1, type(uint128).max);
    }

    function test_creditsAPeriodThatIsCountedFromTheAnchor() public {
        uint256 id = _subscribe(payer, basic);
        vm.warp(_month(1) + GRACE - 1);
        dues.chargeOne(id);
        // 31 days from 28 February: lateness has given nothing.
        vm.warp(_month(1) + 24 days);
        _assertAmount(id, pro, PRO - 6_322_580, 6_322_580);
    }

    function testFuzz_creditsByTheCalendar(uint96 price, uint16 count, uint16 periods, uint256 time, bool month)
        public
    {
        IDues.PlanTerms memory terms = _terms();
        terms.price = uint96(bound(price, 1, type(uint96).max));
        terms.unit = month ? IDues.IntervalUnit.Month : IDues.IntervalUnit.Day;
        terms.count = uint16(bound(count, 1, month ? 14 : 400));
        terms.grace = 1 hours;
        periods = uint16(bound(periods, 1, 6));
        uint256 id = _rich(_createPlan(terms), periods);
        uint32 to = _createPlan(terms);
        time = bound(time, START, _end(START, terms.unit, terms.count, periods) - 1);
        vm.warp(time);
        uint256 whole = uint256(terms.price) * periods;
        uint256 amount = whole - _creditByHand(terms, periods);
        _changeNow(id, to, periods, uint128(amount));
        uint256 end = _end(time, terms.unit, terms.count, periods);
        _assertOn(id, to, time, periods, end, whole + amount);
    }

    // TRIALS

    function testFuzz_aTrialHasNoCreditAndEnds(uint256 time) public {
        IDues.PlanTerms memory terms = _terms();
        (terms.price, terms.trial) = (BASIC, 14 days);
        uint256 id = _subscribe(payer, _createPlan(terms));
        terms.price = PRO;
        uint32 to = _createPlan(terms);
        time = bound(time, START, START + 14 days - 1);
        vm.warp(time);
        uint64 end = uint64(_monthAfter(time));
        vm.expectEmit(address(dues));
        emit IDues.PlanChanged(id, to, payer, 3, uint40(time), 1, end, 0);
        vm.expectEmit(address(dues));
        emit IDues.Charged(id, to, payer, 1, end, PRO);
        _changeNow(id, to, 1, PRO);
        _assertOn(id, to, time, 1, end, PRO);
        _assertStatus(id, IDues.Status.Active);
    }

    function test_aTrialThatIsOverIsPastDue() public {
        uint256 id = _subscribe(payer, _createTrialPlan(14 days));
        uint32 to = _monthly(PRICE + 1);
        vm.warp(START + 14 days);
        _assertRefuses(id, _call(id, to), _notChangeable(id, IDues.Reason.None));
    }

    function test_creditsWhatWasPrepaidInATrial() public {
        IDues.PlanTerms memory terms = _terms();
        (terms.price, terms.trial) = (BASIC, 14 days);
        uint256 id = _subscribe(payer, _createPlan(terms));
        _prepay(id, 2);
        uint256 snapshot = vm.snapshotState();
        vm.warp(START + 14 days - 1);
        _assertAmount(id, pro, 0, 56_000_000);

        // The first of 28 days that begin on 14 February.
        vm.revertToState(snapshot);
        vm.warp(START + 15 days);
        _assertAmount(id, pro, 1_000_000, 55_000_000);
    }

    // REFUNDED MONEY

    function test_doesNotCreditWhatWasRefunded() public {
        uint256 id = _subscribe(payer, basic);
        _refund(id, 20_000_000, "");
        _assertAmount(id, pro, PRO - 8_000_000, 8_000_000);
    }

    function test_aRefundOfTheTimeThatIsGoneCostsNoCredit() public {
        uint256 id = _subscribe(payer, basic);
        _refund(id, 13_000_000, "");
        vm.warp(START + 13 days);
        uint256 snapshot = vm.snapshotState();
        _assertAmount(id, pro, PRO - 15_000_000, 15_000_000);
        vm.revertToState(snapshot);
        _refund(id, 1, "one more");
        _assertAmount(id, pro, PRO - 14_999_999, 14_999_999);
    }

    function test_doesNotCreditAnythingAfterAFullRefund() public {
        uint256 id = _subscribe(payer, basic);
        _refund(id, BASIC, "");
        _assertAmount(id, pro, PRO, 0);
    }

    function test_usageIsNoTimeToBeCredited() public {
        IDues.PlanTerms memory terms = _terms();
        (terms.price, terms.usageCap) = (BASIC, 1_000_000);
        uint256 id = _subscribe(payer, _createPlan(terms));
        vm.prank(merchant);
        dues.chargeUsage(id, 1, 1_000_000, "usage");
        _assertAmount(id, pro, PRO - BASIC, BASIC);
        assertEq(_record(id).paid, PRO + 1_000_000);
    }

    // THE PRICE OF THE CHANGE

    function test_revertsWhenTheCreditIsMoreThanThePrice() public {
        vm.prank(payer);
        uint256 id = dues.subscribePrepaid(basic, REF, 3, true);
        uint32 nearly = _monthly(41_999_999);
        bytes memory reason = abi.encodeWithSelector(IDues.CreditExceedsPrice.selector, 84_000_000, 83_999_998);
        _assertRefuses(id, abi.encodeCall(IDues.changeNow, (id, nearly, 2, type(uint128).max)), reason);
    }

    function test_aCreditThatIsAsMuchAsThePriceCostsNothing() public {
        vm.prank(payer);
        uint256 id = dues.subscribePrepaid(basic, REF, 3, true);
        uint32 to = _monthly(42_000_000);
        // Nothing is debited, so nothing is needed, and the token is not asked.
        vm.prank(payer);
        token.approve(address(dues), 0);
        vm.expectCall(address(token), "", 0);
        uint64 end = uint64(_month(2));
        vm.expectEmit(address(dues));
        emit IDues.PlanChanged(id, to, payer, basic, uint40(START), 2, end, 84_000_000);
        vm.recordLogs();
        _changeNow(id, to, 2, 0);
        assertEq(_countLogs(), 1);
        _assertOn(id, to, START, 2, end, 84_000_000);
    }

    function testFuzz_revertsWhenTheDifferenceIsMoreThanTheCallerAllows(uint128 maxAmount) public {
        uint256 id = _subscribe(payer, basic);
        maxAmount = uint128(bound(maxAmount, 0, PRO - BASIC - 1));
        bytes memory reason = abi.encodeWithSelector(IDues.AmountExceedsMax.selector, PRO - BASIC, maxAmount);
        _assertRefuses(id, abi.encodeCall(IDues.changeNow, (id, pro, 1, maxAmount)), reason);
        _changeNow(id, pro, 1, PRO - BASIC);
    }

    function test_paysForSeveralPeriodsAtOnce() public {
        uint256 id = _subscribe(payer, basic);
        vm.warp(START + 13 days);
        _changeNow(id, pro, 12, 12 * uint128(PRO) - 15_000_000);
        uint256 end = PlainCalendar.addMonths(START + 13 days, 12);
        _assertOn(id, pro, START + 13 days, 12, end, BASIC + 12 * uint256(PRO) - 15_000_000);
    }

    function test_revertsWhenNoPeriodIsPaid() public {
        uint256 id = _subscribe(payer, basic);
        bytes memory reason = abi.encodeWithSelector(IDues.InvalidCount.selector, 0, type(uint16).max);
        _assertRefuses(id, abi.encodeCall(IDues.changeNow, (id, pro, 0, type(uint128).max)), reason);
    }

    function test_theLargestPriceAndCountAreNotTruncated() public {
        IDues.PlanTerms memory terms = _terms();
        (terms.price, terms.count) = (type(uint96).max, 120);
        (uint32 from, uint32 to) = (_createPlan(terms), _createPlan(terms));
        uint256 id = _rich(from, type(uint16).max);
        uint256 whole = uint256(type(uint96).max) * type(uint16).max;
        // Half of the first period: 120 months from 31 January 2026 have 3,652 days.
        vm.warp(START + 1826 days);
        uint256 half = uint256(type(uint96).max) / 2 + 1;
        _changeNow(id, to, type(uint16).max, uint128(half));
        IDues.Record memory r = _record(id);
        assertEq(r.paid, whole + half);
        assertEq(r.subscription.periods, type(uint16).max);
        assertEq(r.subscription.anchor, START + 1826 days);
        assertEq(token.balanceOf(payee), whole + half);
    }

    // UPGRADES ONLY

    function test_revertsWhenTheNewPlanIsCheaperByTheLeastUnit() public {
        uint256 id = _subscribe(payer, basic);
        uint32 cheaper = _monthly(BASIC - 1);
        uint32 equal = _monthly(BASIC);
        _assertRefuses(id, _call(id, cheaper), abi.encodeWithSelector(IDues.NotAnUpgrade.selector, basic, cheaper));
        _changeNow(id, equal, 1, 0);
        _assertOn(id, equal, START, 1, _month(1), BASIC);
    }

    /// @dev By whole units per second both cost 3: dividing first takes one for the other.
    function test_comparesRatesWithoutDividing() public {
        uint32 cheap = _daily(7_800_000, 30);
        uint32 dear = _daily(10_300_000, 30);
        uint256 id = _subscribe(payer, dear);
        _assertRefuses(id, _call(id, cheap), abi.encodeWithSelector(IDues.NotAnUpgrade.selector, dear, cheap));
        id = _subscribe(payer, cheap);
        uint256 before = token.balanceOf(payer);
        _changeNow(id, dear, 1, 2_500_000);
        assertEq(before - token.balanceOf(payer), 2_500_000);
        _assertOn(id, dear, START, 1, START + 30 days, 10_300_000);
    }

    function test_aMonthIsATwelfthOfAGregorianYear() public {
        uint32 month = _monthly(2_629_746);
        uint32 day = _daily(86_400, 1);
        uint32 cheaperDay = _daily(86_399, 1);
        uint32 cheaperMonth = _monthly(2_629_745);
        uint256 id = _subscribe(payer, month);
        bytes memory reason = abi.encodeWithSelector(IDues.NotAnUpgrade.selector, month, cheaperDay);
        _assertRefuses(id, abi.encodeCall(IDues.changeNow, (id, cheaperDay, 31, type(uint128).max)), reason);
        _changeNow(id, day, 31, 86_400 * 31 - 2_629_746);

        id = _subscribe(payer, day);
        reason = abi.encodeWithSelector(IDues.NotAnUpgrade.selector, day, cheaperMonth);
        _assertRefuses(id, _call(id, cheaperMonth), reason);
        _changeNow(id, month, 1, 2_629_746 - 86_400);
    }

    function testFuzz_isAnUpgradeExactlyIfTheSameTimeCostsNoLess(
        uint96[2] memory price,
        uint16[2] memory count,
        bool[2] memory month
    ) public {
        uint32[2] memory plans;
        uint256[2] memory seconds_;
        for (uint256 i = 0; i < 2; ++i) {
            IDues.PlanTerms memory terms = _terms();
            price[i] = uint96(bound(price[i], 1, 1e9));
            terms.count = uint16(bound(count[i], 1, month[i] ? 120 : 3660));
            terms.unit = month[i] ? IDues.IntervalUnit.Month : IDues.IntervalUnit.Day;
            (terms.price, terms.grace) = (price[i], 1 hours);
            plans[i] = _createPlan(terms);
            seconds_[i] = terms.count * (month[i] ? uint256(365.2425 days) / 12 : 1 days);
        }
        uint256 id = _subscribe(payer, plans[0]);
        if (uint256(price[1]) * seconds_[0] >= uint256(price[0]) * seconds_[1]) {
            uint16 periods = uint16((price[0] + price[1] - 1) / price[1]);
            _changeNow(id, plans[1], periods, uint128(periods * uint256(price[1]) - price[0]));
        } else {
            bytes memory reason = abi.encodeWithSelector(IDues.NotAnUpgrade.selector, plans[0], plans[1]);
            _assertRefuses(id, abi.encodeCall(IDues.changeNow, (id, plans[1], 65_535, type(uint128).max)), reason);
        }
    }

    // REFUSALS

    function testFuzz_revertsWhenThereIsNoSuchSubscription(uint256 id) public {
        vm.assume(id != 1);
        _subscribe(payer, basic);
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownSubscription.selector, id));
        _changeNow(id, pro, 1, PRO);
    }

    function testFuzz_revertsWhenTheCallerIsNotThePayer(address caller) public {
        vm.assume(caller != payer);
        uint256 id = _subscribe(payer, basic);
        _assertRefuses(caller, id, _call(id, pro), abi.encodeWithSelector(IDues.NotPayer.selector, id, caller));
    }

    function testFuzz_revertsWhenTheNewPlanDoesNotExist(uint32 planId) public {
        vm.assume(planId == 0 || planId > 2);
        uint256 id = _subscribe(payer, basic);
        _assertRefuses(id, _call(id, planId), abi.encodeWithSelector(IDues.UnknownPlan.selector, planId));
    }

    function test_revertsWhenTheNewPlanIsRetired() public {
        uint256 id = _subscribe(payer, basic);
        vm.prank(merchant);
        dues.retirePlan(pro);
        _assertRefuses(id, _call(id, pro), abi.encodeWithSelector(IDues.RetiredPlan.selector, pro));
    }

    function test_revertsWhenThePlansAreUnrelated() public {
        uint256 id = _subscribe(payer, basic);
        _assertRefuses(id, _call(id, basic), _unrelated(basic, basic));

        IDues.PlanTerms memory terms = _terms();
        vm.prank(keeper);
        uint32 foreign = dues.createPlan(terms);
        _assertRefuses(id, _call(id, foreign), _unrelated(basic, foreign));

        uint32 elsewhere = _createPlanIn(new TestUSD());
        _assertRefuses(id, _call(id, elsewhere), _unrelated(basic, elsewhere));
    }

    function testFuzz_revertsWhenPastDue(uint256 late) public {
        uint256 id = _subscribe(payer, basic);
        vm.warp(_month(1) + bound(late, 0, GRACE - 1));
        _assertRefuses(id, _call(id, pro), _notChangeable(id, IDues.Reason.None));
        dues.chargeOne(id);
        _changeNow(id, pro, 1, PRO);
    }

    function testFuzz_revertsWhenLapsed(uint256 time) public {
        uint256 id = _subscribe(payer, basic);
        vm.warp(bound(time, _month(1) + GRACE, type(uint40).max));
        _assertRefuses(id, _call(id, pro), _notChangeable(id, IDues.Reason.Lapsed));
    }

    function test_revertsWhenCancelledByWhomeverAndHowever() public {
        address[2] memory parties = [payer, merchant];
        for (uint256 i = 0; i < 2; ++i) {
            uint256 id = _subscribe(payer, basic);
            vm.prank(parties[i]);
            dues.cancel(id);
            _assertRefuses(id, _call(id, pro), _notChangeable(id, IDues.Reason.Cancelled));
            id = _subscribe(payer, basic);
            vm.prank(parties[i]);
            dues.cancelNow(id);
            _assertRefuses(id, _call(id, pro), _notChangeable(id, IDues.Reason.Cancelled));
        }
    }

    function test_revertsWhenTheChargeFails() public {
        uint256 id = _subscribe(payer, basic);
        vm.prank(payer);
        token.approve(address(dues), PRO - BASIC - 1);
        bytes memory reason = abi.encodeWithSelector(IDues.ChargeRefused.selector, id, IDues.Reason.Allowance);
        _assertRefuses(id, _call(id, pro), reason);
        vm.prank(payer);
        token.approve(address(dues), PRO - BASIC);
        _changeNow(id, pro, 1, PRO);
    }

    // AFTERWARDS

    function test_endsAScheduledChange() public {
        uint256 id = _subscribe(payer, basic);
        _schedule(id, _monthly(1));
        _changeNow(id, pro, 1, PRO);
        _assertOn(id, pro, START, 1, _month(1), PRO);
        vm.warp(_month(1));
        dues.chargeOne(id);
        _assertOn(id, pro, START, 2, _month(2), 2 * uint256(PRO));
    }

    function test_paysThePayeeOfTheNewPlan() public {
        IDues.PlanTerms memory terms = _terms();
        terms.payee = keeper;
        uint256 id = _subscribe(payer, basic);
        _changeNow(id, _createPlan(terms), 1, PRICE);
        assertEq(token.balanceOf(keeper), PRICE - BASIC);
        assertEq(token.balanceOf(payee), BASIC);
    }

    function test_anAccountThatChangesBackAndForthInOneSecondPaysNothing() public {
        uint32 equal = _monthly(BASIC);
        uint256 id = _subscribe(payer, basic);
        for (uint256 i = 0; i < 10; ++i) {
            _changeNow(id, equal, 1, 0);
            _changeNow(id, basic, 1, 0);
        }
        _assertOn(id, basic, START, 1, _month(1), BASIC);
    }

    /// @dev In one second, the way through any plans between costs what the direct way costs.
    function testFuzz_splittingAChangeNeverPays(uint96[4] memory price, uint256 time) public {
        uint256 id = _subscribe(payer, basic);
        uint256 last = BASIC;
        vm.warp(bound(time, START, _month(1) - 1));
        uint32[4] memory plans;
        for (uint256 i = 0; i < 4; ++i) {
            last = bound(price[i], last, last + 1e9);
            plans[i] = _monthly(uint96(last));
        }
        (uint128 direct,,) = dues.previewChange(id, plans[3], 1);
        uint256 before = token.balanceOf(payer);
        for (uint256 i = 0; i < 4; ++i) {
            _changeNow(id, plans[i], 1, type(uint128).max);
        }
        assertEq(before - token.balanceOf(payer), direct);
    }

    function _call(uint256 id, uint32 planId) private pure returns (bytes memory) {
        return abi.encodeCall(IDues.changeNow, (id, planId, 1, type(uint128).max));
    }

    /// @dev Changes to `planId` for one period, and sees what that debits and what it says.
    function _assertAmount(uint256 id, uint32 planId, uint256 amount, uint256 credit) private {
        uint32 from = dues.subscription(id).planId;
        uint256 now_ = vm.getBlockTimestamp();
        uint256 before = token.balanceOf(payer);
        vm.expectEmit(address(dues));
        emit IDues.PlanChanged(id, planId, payer, from, uint40(now_), 1, uint64(_monthAfter(now_)), uint128(credit));
        _changeNow(id, planId, 1, uint128(amount));
        assertEq(before - token.balanceOf(payer), amount, "amount");
    }

    /// @dev A prepaid subscription of a payer that has whatever it needs.
    function _rich(uint32 planId, uint16 periods) private returns (uint256) {
        deal(address(token), payer, type(uint128).max);
        vm.startPrank(payer);
        token.approve(address(dues), type(uint256).max);
        uint256 id = dues.subscribePrepaid(planId, REF, periods, true);
        vm.stopPrank();
        return id;
    }

    /// @dev What is left now of a subscription that began at START.
    function _creditByHand(IDues.PlanTerms memory terms, uint256 periods) private view returns (uint256 credit) {
        for (uint256 n = 1; n <= periods; ++n) {
            uint256 start = _end(START, terms.unit, terms.count, n - 1);
            uint256 end = _end(START, terms.unit, terms.count, n);
            if (block.timestamp < start) credit += terms.price;
            else if (block.timestamp < end) credit += terms.price * (end - block.timestamp) / (end - start);
        }
    }
}
