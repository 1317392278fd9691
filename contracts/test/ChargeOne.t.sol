// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import "./doubles/Tokens.sol" as Doubles;
import {Base} from "./utils/Base.sol";

// chargeOne
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the trial or the paid time (also of prepaid periods) is not over: it reverts with NotDue
// ├── when grace is over, or the counter of periods is full: it reverts with Lapsed
// ├── when cancelled, by the payer or the merchant: it reverts with Cancelled
// ├── when the token does not move the money
// │   ├── given too small an allowance: it reverts with Allowance
// │   ├── given too small a balance: it reverts with Balance
// │   ├── given neither: it reverts with Token
// │   └── given too little gas to know: it reverts with InsufficientGas
// ├── when past due
// │   ├── it moves the price from the payer to the payee, whoever calls
// │   ├── it pays one period, whose end depends on the anchor only
// │   └── it emits Charged
// └── when past due and a change is scheduled
//     ├── the price is the new plan's, and the shorter grace of the two counts
//     ├── given equal intervals: periods are counted on from the old anchor
//     ├── given others: they are counted from the end of the paid time
//     ├── it emits PlanChanged, then Charged
//     └── when the charge fails: the change stays scheduled
contract ChargeOneTest is Base {
    function testFuzz_anyoneChargesExactlyThePrice(address caller, FuzzedTerms memory fuzzed, uint256 late) public {
        IDues.PlanTerms memory terms = _terms(fuzzed);
        uint32 planId = _createPlan(terms);
        deal(address(token), payer, 2 * uint256(terms.price));
        vm.prank(payer);
        token.approve(address(dues), type(uint256).max);
        uint256 id = _subscribe(payer, planId);
        IDues.Subscription memory s = dues.subscription(id);
        uint256 before = token.balanceOf(payer);
        uint256 due = dues.paidThrough(id);
        uint256 next = _end(s.anchor, terms.unit, terms.count, s.periods + 1);

        vm.warp(due + bound(late, 0, terms.grace - 1));
        vm.expectEmit(address(dues));
        emit IDues.Charged(id, planId, payer, s.periods + 1, uint64(next), terms.price);
        vm.prank(caller);
        dues.chargeOne(id);

        assertEq(before - token.balanceOf(payer), terms.price);
        s.periods += 1;
        _assertSame(dues.subscription(id), s);
        assertEq(dues.paidThrough(id), next);
        _assertStatus(id, IDues.Status.Active);
        assertEq(_record(id).paid, uint256(s.periods) * terms.price);
        assertEq(token.balanceOf(address(dues)), 0);
    }

    function testFuzz_lateChargesNeverMoveLaterPeriods(uint256[24] memory late) public {
        uint256 id = _subscribe();
        for (uint256 n = 1; n <= late.length; ++n) {
            vm.warp(_month(n) + bound(late[n - 1], 0, GRACE - 1));
            dues.chargeOne(id);
            assertEq(dues.paidThrough(id), _month(n + 1));
        }
        assertEq(token.balanceOf(payee), (late.length + 1) * PRICE);
    }

    function testFuzz_31JanuaryIsFollowedByTheEndOfFebruaryAnd31March(uint256 year, uint256 late1, uint256 late2)
        public
    {
        year = bound(year, 2026, 2126);
        vm.warp(_january31(year));
        IDues.PlanTerms memory terms = _terms();
        terms.grace = 28 days;
        uint256 id = _subscribe(payer, _createPlan(terms));
        uint256 february = year % 4 == 0 && year % 100 != 0 ? 29 days : 28 days;
        assertEq(dues.paidThrough(id), _january31(year) + february);
        vm.warp(dues.paidThrough(id) + bound(late1, 0, 28 days - 1));
        dues.chargeOne(id);
        assertEq(dues.paidThrough(id), _january31(year) + february + 31 days);
        vm.warp(dues.paidThrough(id) + bound(late2, 0, 28 days - 1));
        dues.chargeOne(id);
        assertEq(dues.paidThrough(id), _january31(year) + february + 31 days + 30 days);
    }

    function test_aPeriodIsChargedOnce() public {
        uint256 id = _subscribe();
        vm.warp(_month(1));
        dues.chargeOne(id);
        _assertRefused(id, IDues.Reason.NotDue);
    }

    function testFuzz_chargesTheFirstPeriodAfterATrial(uint32 trial, uint256 late) public {
        trial = uint32(bound(trial, 1, 366 days));
        uint256 id = _subscribe(payer, _createTrialPlan(trial));
        vm.warp(START + trial - 1);
        _assertRefused(id, IDues.Reason.NotDue);
        vm.warp(START + trial + bound(late, 0, GRACE - 1));
        dues.chargeOne(id);
        assertEq(dues.paidThrough(id), _end(START + trial, IDues.IntervalUnit.Month, 1, 1));
    }

    function test_isDueFromTheSecondThatThePaidTimeEnds() public {
        uint256 id = _subscribe();
        vm.warp(_month(1) - 1);
        _assertRefused(id, IDues.Reason.NotDue);
        vm.warp(_month(1));
        dues.chargeOne(id);
    }

    function testFuzz_prepaidPeriodsAreNotChargedAgain(uint16 count) public {
        count = uint16(bound(count, 1, 500));
        uint256 id = _subscribePrepaid(_createPlan(), count);
        vm.warp(_month(count) - 1);
        _assertRefused(id, IDues.Reason.NotDue);
        vm.warp(_month(count));
        dues.chargeOne(id);
        assertEq(dues.paidThrough(id), _month(uint256(count) + 1));
    }

    function test_isPossibleUntilTheLastSecondOfGrace() public {
        uint256 id = _subscribe();
        vm.warp(_month(1) + GRACE);
        _assertRefused(id, IDues.Reason.Lapsed);
        vm.warp(_month(1) + GRACE - 1);
        dues.chargeOne(id);
    }

    function testFuzz_thereIsNeverABacklog(uint256 time) public {
        uint256 id = _subscribe();
        vm.warp(bound(time, _month(1) + GRACE, type(uint40).max));
        _assertRefused(id, IDues.Reason.Lapsed);
        assertEq(token.balanceOf(payee), PRICE);
    }

    function testFuzz_endsInTheFutureEvenWithTheLongestGrace(bool month, uint16 count, uint256 periods) public {
        IDues.PlanTerms memory terms = _terms();
        terms.unit = month ? IDues.IntervalUnit.Month : IDues.IntervalUnit.Day;
        terms.count = uint16(bound(count, 1, month ? 120 : 3660));
        terms.grace = uint32(terms.count * (month ? 28 days : uint256(1 days)));
        uint256 id = _subscribe(payer, _createPlan(terms));
        periods = bound(periods, 1, 5);
        for (uint256 i = 0; i < periods; ++i) {
            vm.warp(dues.paidThrough(id) + terms.grace - 1);
            dues.chargeOne(id);
            assertGt(dues.paidThrough(id), block.timestamp);
        }
    }

    function testFuzz_theSubscriptionEndsWhenTheCounterOfPeriodsIsFull(bool changes) public {
        uint256 id = _subscribePrepaid(_createPlan(1, IDues.IntervalUnit.Day, 1), type(uint16).max - 1);
        vm.warp(dues.paidThrough(id));
        dues.chargeOne(id);
        assertEq(dues.subscription(id).periods, type(uint16).max);
        _assertStatus(id, IDues.Status.Active);
        // Not even the period of another plan is charged.
        if (changes) _scheduleChange(id, _createPlan());
        uint8 flags = dues.subscription(id).flags;
        vm.warp(dues.paidThrough(id));
        _assertRefused(id, IDues.Reason.Lapsed);
        assertEq(dues.subscription(id).flags, flags);
    }

    function test_cancellingOneSubscriptionLeavesTheOther() public {
        uint256 first = _subscribe();
        uint256 second = _subscribe(payer, 1);
        vm.prank(payer);
        dues.cancelNow(first);
        vm.warp(_month(1));
        _assertRefused(first, IDues.Reason.Cancelled);
        dues.chargeOne(second);
    }

    function test_twoSubscriptionsShareOneAllowance() public {
        uint256 first = _subscribe();
        uint256 second = _subscribe(payer, 1);
        vm.prank(payer);
        token.approve(address(dues), PRICE);
        vm.warp(_month(1));
        dues.chargeOne(second);
        _assertRefused(first, IDues.Reason.Allowance);
    }

    function testFuzz_revertsWhenThereIsNoSuchSubscription(uint256 id) public {
        vm.assume(id != 1);
        _subscribe();
        _assertRefused(id, IDues.Reason.UnknownSubscription);
    }

    function testFuzz_revertsAfterCancelOnceThePaidTimeIsOver(bool byMerchant, uint256 time) public {
        uint256 id = _subscribe();
        vm.prank(byMerchant ? merchant : payer);
        dues.cancel(id);
        vm.warp(_month(1) - 1);
        _assertRefused(id, IDues.Reason.NotDue);
        vm.warp(_month(1));
        _assertRefused(id, IDues.Reason.Cancelled);
        vm.warp(bound(time, _month(1), type(uint40).max));
        _assertRefused(id, IDues.Reason.Cancelled);
    }

    function testFuzz_revertsAfterCancelNowForEver(bool byMerchant, uint256 time) public {
        uint256 id = _subscribe();
        vm.prank(byMerchant ? merchant : payer);
        dues.cancelNow(id);
        vm.warp(bound(time, START, type(uint40).max));
        _assertRefused(id, IDues.Reason.Cancelled);
    }

    function testFuzz_revertsWhenTheAllowanceIsTooSmall(uint256 allowance, uint256 balance) public {
        uint256 id = _subscribe();
        vm.warp(_month(1));
        vm.prank(payer);
        token.approve(address(dues), bound(allowance, 0, PRICE - 1));
        // Also if the balance is too small at the same time.
        deal(address(token), payer, bound(balance, 0, 2 * uint256(PRICE)));
        _assertRefused(id, IDues.Reason.Allowance);
    }

    function testFuzz_revertsWhenTheBalanceIsTooSmall(uint256 balance) public {
        uint256 id = _subscribe();
        vm.warp(_month(1));
        deal(address(token), payer, bound(balance, 0, PRICE - 1));
        _assertRefused(id, IDues.Reason.Balance);
    }

    function test_revertsWhenTheTokenRefusesInWhateverWay() public {
        Doubles.BreakableToken[7] memory tokens = [
            Doubles.BreakableToken(new Doubles.FalseToken()),
            new Doubles.TwoToken(),
            new Doubles.ShortToken(),
            new Doubles.RevertingToken(),
            new Doubles.BurningToken(),
            new Doubles.BombToken(),
            new Doubles.RevertingBombToken()
        ];
        for (uint256 i = 0; i < tokens.length; ++i) {
            vm.warp(START);
            _fund(tokens[i], payer);
            uint256 id = _subscribe(payer, _createPlanIn(tokens[i]));
            vm.warp(_month(1));
            tokens[i].setBroken(true);
            _assertRefused(id, IDues.Reason.Token);
            tokens[i].setBroken(false);
            dues.chargeOne(id);
        }
    }

    function test_aTokenMayNeedMoreGasThanAnItemOfABatchIsGiven() public {
        Doubles.DearToken dear = new Doubles.DearToken();
        _fund(dear, payer);
        uint256 id = _subscribe(payer, _createPlanIn(dear));
        vm.warp(_month(1));
        dues.chargeOne(id);
        assertEq(dues.paidThrough(id), _month(2));
    }

    function test_revertsWhenTheTokenHasNoCodeAnyMore() public {
        uint256 id = _subscribe();
        vm.warp(_month(1));
        vm.etch(address(token), "");
        _assertRefused(id, IDues.Reason.Token);
    }

    function test_revertsRatherThanBlameTheTokenForALackOfGas() public {
        Doubles.RevertingToken broken = new Doubles.RevertingToken();
        _fund(broken, payer);
        uint256 id = _subscribe(payer, _createPlanIn(broken));
        broken.setBroken(true);
        vm.warp(_month(1));
        vm.expectPartialRevert(IDues.InsufficientGas.selector);
        dues.chargeOne{gas: 250_000}(id);
    }

    function _january31(uint256 year) private pure returns (uint256 time) {
        time = START;
        for (uint256 y = 2026; y < year; ++y) {
            // The leap day of a year lies between its 31 January and the next.
            time += y % 4 == 0 && y % 100 != 0 ? 366 days : 365 days;
        }
    }

    function _assertRefused(uint256 id, IDues.Reason reason) private {
        IDues.Subscription memory before = dues.subscription(id);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id, reason));
        vm.prank(keeper);
        // Enough to find out why, even where the token burns all that it is given.
        dues.chargeOne{gas: 20_000_000}(id);
        _assertSame(dues.subscription(id), before);
    }
}

contract ChargeOneOfAScheduledChangeTest is Base {
    uint96 private constant DEARER = 3 * PRICE;
    uint32 private constant SHORT_GRACE = 1 hours;

    uint256 private id;

    function setUp() public override {
        super.setUp();
        id = _subscribe();
    }

    function testFuzz_withAnEqualIntervalPeriodsAreCountedOn(uint96 price, uint16 before, uint256 late) public {
        price = uint96(bound(price, 1, type(uint96).max));
        before = uint16(bound(before, 0, 24));
        if (before != 0) _prepay(before);
        _fundWithoutLimit(token, payer);
        uint32 planId = _createPlan(price, IDues.IntervalUnit.Month, 1);
        _scheduleChange(id, planId);
        uint16 periods = before + 2;

        vm.warp(_month(before + 1) + bound(late, 0, GRACE - 1));
        _charge(planId, uint40(START), periods, _month(periods), price);
        assertEq(_record(id).paid, uint256(before + 1) * PRICE + price);
        vm.warp(_month(periods));
        dues.chargeOne(id);
        assertEq(dues.paidThrough(id), _month(uint256(periods) + 1));
        assertEq(_record(id).paid, uint256(before + 1) * PRICE + 2 * uint256(price));
    }

    function testFuzz_withAnotherIntervalTheyAreCountedFromTheEndOfThePaidTime(bool month, uint16 count, uint256 late)
        public
    {
        count = uint16(bound(count, month ? 2 : 1, month ? 120 : 3660));
        IDues.IntervalUnit unit = month ? IDues.IntervalUnit.Month : IDues.IntervalUnit.Day;
        uint32 planId = _createPlan(DEARER, unit, count);
        _scheduleChange(id, planId);
        vm.warp(_month(1) + bound(late, 0, dues.plan(planId).grace - 1));
        // Not from 31 January: the new anchor is 28 February.
        _charge(planId, uint40(_month(1)), 1, _end(_month(1), unit, count, 1), DEARER);
        assertEq(_record(id).paid, uint256(PRICE) + DEARER);
        vm.warp(_end(_month(1), unit, count, 1));
        dues.chargeOne(id);
        assertEq(dues.paidThrough(id), _end(_month(1), unit, count, 2));
        assertEq(_record(id).paid, uint256(PRICE) + 2 * uint256(DEARER));
    }

    function test_aMonthIsNeverEqualToADay() public {
        // Both have a count of one.
        uint32 planId = _createPlan(PRICE, IDues.IntervalUnit.Day, 1);
        _scheduleChange(id, planId);
        vm.warp(_month(1));
        _charge(planId, uint40(_month(1)), 1, _month(1) + 1 days, PRICE);
    }

    function test_inATrialTheFirstPeriodIsOneOfTheNewPlan() public {
        uint256 trial = _subscribe(payer, _createTrialPlan(7 days));
        uint32 planId = _createPlan(DEARER, IDues.IntervalUnit.Month, 1);
        _scheduleChange(trial, planId);
        vm.warp(START + 7 days - 1);
        _assertRefused(trial, IDues.Reason.NotDue);
        vm.warp(START + 7 days);
        dues.chargeOne(trial);
        _assertSame(dues.subscription(trial), IDues.Subscription(payer, planId, uint40(START + 7 days), 1, 0));
        assertEq(_record(trial).paid, DEARER);
    }

    function test_isDueFromTheSecondThatThePaidTimeEnds() public {
        _scheduleChange(id, _createPlan());
        vm.warp(_month(1) - 1);
        _assertRefused(id, IDues.Reason.NotDue);
        vm.warp(_month(1));
        dues.chargeOne(id);
    }

    function test_aShorterGraceCounts() public {
        IDues.PlanTerms memory terms = _terms();
        terms.grace = SHORT_GRACE;
        _scheduleChange(id, _createPlan(terms));
        vm.warp(_month(1) + SHORT_GRACE);
        _assertRefused(id, IDues.Reason.Lapsed);
        vm.warp(_month(1) + SHORT_GRACE - 1);
        dues.chargeOne(id);
    }

    function test_aLongerGraceDoesNotCount() public {
        IDues.PlanTerms memory terms = _terms();
        terms.grace = 28 days;
        _scheduleChange(id, _createPlan(terms));
        vm.warp(_month(1) + GRACE);
        _assertRefused(id, IDues.Reason.Lapsed);
        vm.warp(_month(1) + GRACE - 1);
        dues.chargeOne(id);
    }

    function testFuzz_endsInTheFutureWithWhateverGraces(bool[2] memory month, uint16[2] memory count) public {
        uint32[2] memory plans;
        uint256 shorter = type(uint256).max;
        for (uint256 i = 0; i < 2; ++i) {
            IDues.PlanTerms memory terms = _terms();
            terms.unit = month[i] ? IDues.IntervalUnit.Month : IDues.IntervalUnit.Day;
            terms.count = uint16(bound(count[i], 1, month[i] ? 120 : 3660));
            terms.grace = uint32(terms.count * (month[i] ? 28 days : uint256(1 days)));
            if (terms.grace < shorter) shorter = terms.grace;
            plans[i] = _createPlan(terms);
        }
        uint256 first = _subscribe(payer, plans[0]);
        _scheduleChange(first, plans[1]);
        vm.warp(dues.paidThrough(first) + shorter - 1);
        dues.chargeOne(first);
        assertGt(dues.paidThrough(first), block.timestamp);
    }

    function test_whatWasRevokedDoesNotHappen() public {
        _scheduleChange(id, _createPlan(DEARER, IDues.IntervalUnit.Month, 1));
        vm.prank(payer);
        dues.revokeChange(id);
        vm.warp(_month(1));
        dues.chargeOne(id);
        _assertSame(dues.subscription(id), IDues.Subscription(payer, 1, uint40(START), 2, 0));
        assertEq(_record(id).paid, 2 * uint256(PRICE));
    }

    function test_thePayeeIsTheOneOfTheNewPlan() public {
        IDues.PlanTerms memory terms = _terms();
        terms.payee = makeAddr("another payee");
        _scheduleChange(id, _createPlan(terms));
        vm.warp(_month(1));
        dues.chargeOne(id);
        assertEq(token.balanceOf(payee), PRICE);
        assertEq(token.balanceOf(terms.payee), PRICE);
    }

    function testFuzz_whenTheMoneyIsMissingTheChangeStaysScheduled(uint256 money, bool balance) public {
        uint32 planId = _createPlan(DEARER, IDues.IntervalUnit.Month, 1);
        _scheduleChange(id, planId);
        vm.warp(_month(1));
        // Also where it suffices for the old price.
        money = bound(money, 0, DEARER - 1);
        if (balance) deal(address(token), payer, money);
        vm.prank(payer);
        token.approve(address(dues), balance ? DEARER : money);
        _assertRefused(id, balance ? IDues.Reason.Balance : IDues.Reason.Allowance);
        assertEq(_record(id).scheduledPlanId, planId);
        assertEq(_record(id).paid, PRICE);
        _fund(token, payer);
        dues.chargeOne(id);
        assertEq(_record(id).paid, uint256(PRICE) + DEARER);
    }

    function test_aChangeToACheaperPlanKeepsWhatWasPaid() public {
        _prepay(9);
        uint32 planId = _createPlan(1, IDues.IntervalUnit.Month, 1);
        _scheduleChange(id, planId);
        vm.warp(_month(10));
        dues.chargeOne(id);
        assertEq(_record(id).paid, 10 * uint256(PRICE) + 1);
        // And back again.
        _scheduleChange(id, 1);
        vm.warp(_month(11));
        dues.chargeOne(id);
        assertEq(_record(id).paid, 11 * uint256(PRICE) + 1);
        assertEq(dues.paidThrough(id), _month(12));
    }

    function _prepay(uint16 count) private {
        vm.prank(payer);
        dues.prepay(id, count);
    }

    function _charge(uint32 planId, uint40 anchor, uint16 periods, uint256 end, uint96 price) private {
        uint32 from = dues.subscription(id).planId;
        uint256 before = token.balanceOf(payer);
        vm.expectEmit(address(dues));
        emit IDues.PlanChanged(id, planId, payer, from, anchor, periods, uint64(end), 0);
        vm.expectEmit(address(dues));
        emit IDues.Charged(id, planId, payer, periods, uint64(end), price);
        vm.prank(keeper);
        dues.chargeOne(id);
        assertEq(before - token.balanceOf(payer), price);
        _assertSame(dues.subscription(id), IDues.Subscription(payer, planId, anchor, periods, 0));
        assertEq(dues.paidThrough(id), end);
        assertEq(_record(id).scheduledPlanId, 0);
        _assertStatus(id, IDues.Status.Active);
    }

    function _assertRefused(uint256 id_, IDues.Reason reason) private {
        IDues.Subscription memory before = dues.subscription(id_);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id_, reason));
        dues.chargeOne(id_);
        _assertSame(dues.subscription(id_), before);
    }
}
