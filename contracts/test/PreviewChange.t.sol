// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {BurningToken} from "./doubles/Tokens.sol";
import {Changing} from "./utils/Changing.sol";

// previewChange
// ├── it says what changeNow debits, the credit in that, and the end of what is paid then
// ├── it looks neither at the caller nor at the payer's money nor at the token
// ├── it changes nothing
// └── it reverts as changeNow
contract PreviewChangeTest is Changing {
    uint32 private basic;
    uint32 private pro;

    function setUp() public override {
        super.setUp();
        basic = _monthly(BASIC);
        pro = _monthly(PRO);
    }

    function test_saysWhatFifteenOfTwentyEightDaysAreWorth() public {
        uint256 id = _subscribe(payer, basic);
        vm.warp(START + 13 days);
        (uint128 amount, uint128 credit, uint64 end) = dues.previewChange(id, pro, 1);
        assertEq(amount, 41_000_000);
        assertEq(credit, 15_000_000);
        assertEq(end, START + 13 days + 28 days);
    }

    function testFuzz_saysWhatChangeNowDoes(uint256 time, uint96 price, uint16 periods, uint16 count, uint256 refunded)
        public
    {
        price = uint96(bound(price, BASIC, 1e12));
        periods = uint16(bound(periods, 1, 12));
        count = uint16(bound(count, 12, 500));
        deal(address(token), payer, 1e18);
        vm.startPrank(payer);
        token.approve(address(dues), 1e18);
        uint256 id = dues.subscribePrepaid(basic, REF, periods, true);
        vm.stopPrank();
        refunded = bound(refunded, 0, uint256(BASIC) * periods);
        if (refunded != 0) _refund(id, uint128(refunded), "");
        uint32 to = _monthly(price);
        time = bound(time, START, _month(periods) - 1);
        vm.warp(time);

        (uint128 amount, uint128 credit, uint64 end) = dues.previewChange(id, to, count);
        uint256 before = token.balanceOf(payer);
        vm.expectEmit(address(dues));
        emit IDues.PlanChanged(id, to, payer, basic, uint40(time), count, end, credit);
        _changeNow(id, to, count, amount);
        assertEq(before - token.balanceOf(payer), amount);
        assertEq(uint256(amount) + credit, uint256(price) * count);
        assertEq(dues.paidThrough(id), end);
    }

    function testFuzz_looksNeitherAtTheCallerNorAtTheMoney(address caller) public {
        BurningToken burning = new BurningToken();
        _fund(burning, payer);
        uint256 id = _subscribe(payer, _createPlanIn(burning));
        uint32 to = _createPlanIn(burning);
        burning.setBroken(true);
        vm.prank(payer);
        burning.approve(address(dues), 0);
        deal(address(burning), payer, 0);
        vm.expectCall(address(burning), "", 0);
        vm.prank(caller);
        (uint128 amount, uint128 credit, uint64 end) = dues.previewChange(id, to, 2);
        assertEq(amount, PRICE);
        assertEq(credit, PRICE);
        assertEq(end, _month(2));
    }

    function test_theLargestValuesAreNotTruncated() public {
        IDues.PlanTerms memory terms = _terms();
        (terms.price, terms.count, terms.trial) = (type(uint96).max, 120, 1);
        uint256 id = _subscribe(payer, _createPlan(terms));
        (uint128 amount, uint128 credit, uint64 end) = dues.previewChange(id, _createPlan(terms), type(uint16).max);
        assertEq(amount, uint256(type(uint96).max) * type(uint16).max);
        assertEq(credit, 0);
        // 655,350 years of 365.2425 days, but for the day that the last of them lacks.
        assertApproxEqAbs(end, START + 655_350 * uint256(365.2425 days), 2 days);
    }

    function test_revertsAsChangeNow() public {
        uint256 id = _subscribe(payer, basic);
        uint32 cheaper = _monthly(BASIC - 1);
        uint32 retired = _monthly(PRO);
        vm.prank(merchant);
        dues.retirePlan(retired);

        _assertSameRefusal(id + 1, pro, 1, abi.encodeWithSelector(IDues.UnknownSubscription.selector, id + 1));
        _assertSameRefusal(id, 99, 1, abi.encodeWithSelector(IDues.UnknownPlan.selector, 99));
        _assertSameRefusal(id, retired, 1, abi.encodeWithSelector(IDues.RetiredPlan.selector, retired));
        _assertSameRefusal(id, basic, 1, _unrelated(basic, basic));
        _assertSameRefusal(id, cheaper, 2, abi.encodeWithSelector(IDues.NotAnUpgrade.selector, basic, cheaper));
        _assertSameRefusal(id, pro, 0, abi.encodeWithSelector(IDues.InvalidCount.selector, 0, 65_535));
        vm.warp(_month(1));
        _assertSameRefusal(id, pro, 1, _notChangeable(id, IDues.Reason.None));
        vm.warp(_month(1) + GRACE);
        _assertSameRefusal(id, pro, 1, _notChangeable(id, IDues.Reason.Lapsed));
    }

    function test_revertsAsChangeNowOnceCancelled() public {
        uint256 id = _subscribe(payer, basic);
        vm.prank(merchant);
        dues.cancel(id);
        _assertSameRefusal(id, pro, 1, _notChangeable(id, IDues.Reason.Cancelled));
        vm.prank(payer);
        dues.cancelNow(id);
        _assertSameRefusal(id, pro, 1, _notChangeable(id, IDues.Reason.Cancelled));
    }

    function test_revertsAsChangeNowWhenTheCreditIsMoreThanThePrice() public {
        vm.prank(payer);
        uint256 id = dues.subscribePrepaid(basic, REF, 3, true);
        bytes memory reason = abi.encodeWithSelector(IDues.CreditExceedsPrice.selector, 84_000_000, 56_000_000);
        _assertSameRefusal(id, pro, 1, reason);
    }

    function _assertSameRefusal(uint256 id, uint32 planId, uint16 count, bytes memory reason) private {
        vm.expectRevert(reason);
        dues.previewChange(id, planId, count);
        vm.expectRevert(reason);
        vm.prank(payer);
        dues.changeNow(id, planId, count, type(uint128).max);
    }
}
