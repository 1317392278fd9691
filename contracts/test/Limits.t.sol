// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";
import {DateTimeLib} from "solady/utils/DateTimeLib.sol";

// The largest value of everything that is kept in less than 256 bits
// ├── price: all periods that there can be, at the highest price, are paid, counted and refunded
// ├── usage: the highest cap is charged beside that
// ├── count of periods: at its end nothing flows into the flags
// ├── paid: right after a change between the lowest and the highest price, both ways
// └── time: after 2038, after 2106, and as far as 40 bits go
contract LimitsTest is Base {
    uint96 private constant MAX_PRICE = type(uint96).max;
    uint16 private constant MAX_PERIODS = type(uint16).max;
    uint256 private constant MAX_PAID = uint256(MAX_PRICE) * MAX_PERIODS;
    IDues.IntervalUnit private constant DAY = IDues.IntervalUnit.Day;
    IDues.IntervalUnit private constant MONTH = IDues.IntervalUnit.Month;

    function setUp() public override {
        super.setUp();
        _fundWithoutLimit(token, payer);
        _fundWithoutLimit(token, merchant);
    }

    function testFuzz_allPeriodsAtTheHighestPriceArePaidAtOnce(bool month) public {
        uint32 planId = _createPlan(MAX_PRICE, month ? MONTH : DAY, month ? 120 : 3660);
        uint256 end =
            month ? DateTimeLib.addMonths(START, 120 * uint256(MAX_PERIODS)) : START + 3660 days * uint256(MAX_PERIODS);
        vm.expectEmit(address(dues));
        emit IDues.Charged(1, planId, payer, MAX_PERIODS, uint64(end), uint128(MAX_PAID));
        uint256 id = _subscribePrepaid(planId, MAX_PERIODS);
        assertEq(token.balanceOf(payee), MAX_PAID);
        assertEq(dues.paidThrough(id), end);
        _assertAllRefundable(id, MAX_PAID);
    }

    function test_theHighestUsageIsChargedBesideTheHighestPrice() public {
        IDues.PlanTerms memory terms = _terms();
        (terms.price, terms.usageCap) = (MAX_PRICE, type(uint96).max);
        uint256 id = _subscribePrepaid(_createPlan(terms), MAX_PERIODS);
        vm.prank(merchant);
        dues.chargeUsage(id, 1, type(uint96).max, "first");
        vm.warp(_month(1));
        vm.prank(merchant);
        dues.chargeUsage(id, 2, type(uint96).max, "second");
        assertEq(dues.usageOf(id, 1), type(uint96).max);
        assertEq(dues.usageOf(id, 2), type(uint96).max);
        _assertAllRefundable(id, MAX_PAID + 2 * uint256(type(uint96).max));
    }

    function test_theLastPeriodIsOpenToUsageAndNothingFollows() public {
        IDues.PlanTerms memory terms = _terms();
        (terms.unit, terms.grace, terms.usageCap) = (DAY, 1 days, 5);
        uint256 id = _subscribePrepaid(_createPlan(terms), MAX_PERIODS);
        vm.warp(START + uint256(MAX_PERIODS - 1) * 1 days);
        vm.prank(merchant);
        dues.chargeUsage(id, MAX_PERIODS, 5, "key");
        vm.warp(START + uint256(MAX_PERIODS) * 1 days);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id, IDues.Reason.Lapsed));
        dues.chargeOne(id);
        _assertSame(dues.subscription(id), IDues.Subscription(payer, 1, uint40(START), MAX_PERIODS, 0));
    }

    function testFuzz_flagsAndPeriodsKeepApart(bool changes, uint8 cancels, uint16 count) public {
        count = uint16(bound(count, MAX_PERIODS - 1, MAX_PERIODS));
        uint256 id = _subscribePrepaid(_createPlan(1, DAY, 1), count);
        uint8 flags = 0;
        if (changes) {
            _scheduleChange(id, _createPlan());
            flags |= 8;
        }
        if (cancels & 1 != 0) {
            vm.prank(payer);
            dues.cancel(id);
            flags |= 1;
        }
        if (cancels & 4 != 0) {
            vm.prank(merchant);
            dues.cancel(id);
            flags |= 4;
        }
        if (cancels & 2 != 0) {
            vm.prank(payer);
            dues.cancelNow(id);
            flags |= 2;
        }
        _assertSame(dues.subscription(id), IDues.Subscription(payer, 1, uint40(START), count, flags));
    }

    function test_paidIsRightAfterAChangeFromTheLowestToTheHighestPrice() public {
        uint256 id = _subscribePrepaid(_createPlan(1, DAY, 1), MAX_PERIODS - 1);
        uint32 planId = _createPlan(MAX_PRICE, DAY, 1);
        _scheduleChange(id, planId);
        vm.warp(START + uint256(MAX_PERIODS - 1) * 1 days);
        dues.chargeOne(id);
        _assertSame(dues.subscription(id), IDues.Subscription(payer, planId, uint40(START), MAX_PERIODS, 0));
        _assertAllRefundable(id, MAX_PERIODS - 1 + uint256(MAX_PRICE));
    }

    function test_paidIsRightAfterAChangeFromTheHighestToTheLowestPrice() public {
        uint256 id = _subscribePrepaid(_createPlan(MAX_PRICE, DAY, 1), MAX_PERIODS - 1);
        _scheduleChange(id, _createPlan(1, DAY, 1));
        vm.warp(START + uint256(MAX_PERIODS - 1) * 1 days);
        dues.chargeOne(id);
        _assertAllRefundable(id, uint256(MAX_PRICE) * (MAX_PERIODS - 1) + 1);
    }

    function test_paidIsRightAfterAChangeAtOnceBetweenTheLargestSums() public {
        // All of it is left in the first second, and nothing has to be added.
        uint256 id = _subscribePrepaid(_createPlan(MAX_PRICE, DAY, 1), MAX_PERIODS);
        uint32 planId = _createPlan(MAX_PRICE, DAY, 1);
        vm.prank(payer);
        dues.changeNow(id, planId, MAX_PERIODS, 0);
        _assertSame(dues.subscription(id), IDues.Subscription(payer, planId, uint40(START), MAX_PERIODS, 0));
        _assertAllRefundable(id, MAX_PAID);
    }

    function testFuzz_timeGoesOnAfterWhat32BitsHold(uint256 time, bool trial) public {
        // The last anchor that is tried, and the trial before it, fit into 40 bits.
        time = bound(time, type(uint32).max - 1 days, type(uint40).max - 500 days);
        vm.warp(time);
        uint256 anchor = time + (trial ? 366 days : 0);
        uint256 id = _subscribe(payer, _createTrialPlan(trial ? 366 days : 0));
        if (trial) {
            vm.warp(anchor);
            dues.chargeOne(id);
        }
        assertEq(dues.subscription(id).anchor, anchor);
        uint256 end = dues.paidThrough(id);
        assertGe(end - anchor, 28 days);
        assertLe(end - anchor, 31 days);
        vm.warp(end - 1);
        _assertStatus(id, IDues.Status.Active);
        vm.warp(end);
        dues.chargeOne(id);
        assertGe(dues.paidThrough(id), end + 28 days);
        vm.prank(payer);
        dues.prepay(id, 1000);
        _assertStatus(id, IDues.Status.Active);
    }

    function testFuzz_aProposalAfterWhat32BitsHoldWaitsTwoDays(uint256 time) public {
        time = bound(time, type(uint32).max - 3 days, type(uint40).max);
        uint32 planId = _createPlan();
        vm.warp(time);
        vm.prank(merchant);
        dues.proposePayee(planId, keeper);
        vm.warp(time + 2 days - 1);
        vm.expectRevert(abi.encodeWithSelector(IDues.TooEarly.selector, planId, time + 2 days));
        vm.prank(keeper);
        dues.acceptPayee(planId);
        vm.warp(time + 2 days);
        vm.prank(keeper);
        dues.acceptPayee(planId);
    }

    function _assertAllRefundable(uint256 id, uint256 paid) private {
        assertEq(_record(id).paid, paid);
        vm.startPrank(merchant);
        vm.expectRevert(abi.encodeWithSelector(IDues.RefundExceedsPaid.selector, id, paid + 1, paid));
        dues.refund(id, uint128(paid + 1), "more");
        dues.refund(id, uint128(paid), "all");
        vm.stopPrank();
        assertEq(_record(id).refunded, paid);
        assertEq(_record(id).paid, paid);
    }
}
