// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../../src/IDues.sol";
import {Base} from "./Base.sol";
import {PlainCalendar} from "./PlainCalendar.sol";

/// @notice What the tests of changes between plans share: plans by price and interval, and what is known of a
/// subscription's money.
abstract contract Changing is Base {
    /// @dev Divisible by 28, so that days of a February cost whole units.
    uint96 internal constant BASIC = 28_000_000;
    uint96 internal constant PRO = 56_000_000;

    function _monthly(uint96 price) internal returns (uint32) {
        IDues.PlanTerms memory terms = _terms();
        terms.price = price;
        return _createPlan(terms);
    }

    function _daily(uint96 price, uint16 count) internal returns (uint32) {
        return _createPlan(_dailyTerms(price, count));
    }

    function _dailyTerms(uint96 price, uint16 count) internal view returns (IDues.PlanTerms memory terms) {
        terms = _terms();
        (terms.price, terms.unit, terms.count) = (price, IDues.IntervalUnit.Day, count);
        if (terms.grace > count * 1 days) terms.grace = count * 1 days;
    }

    function _changeNow(uint256 id, uint32 planId, uint16 count, uint128 maxAmount) internal {
        vm.prank(payer);
        dues.changeNow(id, planId, count, maxAmount);
    }

    function _schedule(uint256 id, uint32 planId) internal {
        vm.prank(payer);
        dues.scheduleChange(id, planId);
    }

    function _prepay(uint256 id, uint16 count) internal {
        vm.prank(payer);
        dues.prepay(id, count);
    }

    /// @dev By the merchant, with money of its own.
    function _refund(uint256 id, uint128 amount, bytes32 key) internal {
        token.mint(merchant, amount);
        vm.startPrank(merchant);
        token.approve(address(dues), amount);
        dues.refund(id, amount, key);
        vm.stopPrank();
    }

    /// @dev Everything that is stored of a subscription that is on a plan and neither cancelled nor about to change.
    function _assertOn(uint256 id, uint32 planId, uint256 anchor, uint16 periods, uint256 paidThrough, uint256 paid)
        internal
        view
    {
        IDues.Record memory r = _record(id);
        _assertSame(
            r.subscription,
            IDues.Subscription({payer: payer, planId: planId, anchor: uint40(anchor), periods: periods, flags: 0})
        );
        assertEq(r.paidThrough, paidThrough, "paid through");
        assertEq(r.scheduledPlanId, 0, "scheduled plan");
        assertEq(r.paid, paid, "paid");
    }

    /// @dev Runs a changing call of the payer that must be refused and leave everything as it was.
    function _assertRefuses(uint256 id, bytes memory data, bytes memory reason) internal {
        _assertRefuses(payer, id, data, reason);
    }

    function _assertRefuses(address caller, uint256 id, bytes memory data, bytes memory reason) internal {
        bytes32 before = keccak256(abi.encode(dues.subscriptions(id, 1)));
        vm.prank(caller);
        (bool ok, bytes memory returned) = address(dues).call(data);
        assertFalse(ok, "not refused");
        assertEq(returned, reason, "reason");
        assertEq(keccak256(abi.encode(dues.subscriptions(id, 1))), before, "subscription changed");
    }

    function _notChangeable(uint256 id, IDues.Reason standing) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IDues.NotChangeable.selector, id, standing);
    }

    function _unrelated(uint32 fromPlanId, uint32 toPlanId) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IDues.PlansUnrelated.selector, fromPlanId, toPlanId);
    }

    /// @dev A month after `time`, on paper.
    function _monthAfter(uint256 time) internal pure returns (uint256) {
        return PlainCalendar.addMonths(time, 1);
    }
}
