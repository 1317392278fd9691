// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Periods} from "../src/libraries/Periods.sol";
import {PlainCalendar} from "./utils/PlainCalendar.sol";
import {Test} from "forge-std/Test.sol";
import {DateTimeLib} from "solady/utils/DateTimeLib.sol";

// Periods.ends
// ├── given days
// │   └── it adds count times periods days to the anchor
// └── given months
//     ├── it agrees with a calendar counted by hand
//     ├── it agrees with Solady
//     ├── it clamps to the last day of the month, and goes back to the anchor's day after
//     └── it keeps the time of day
// Periods.shortest
// └── it is never longer than a period
contract PeriodsTest is Test {
    IDues.IntervalUnit private constant DAY = IDues.IntervalUnit.Day;
    IDues.IntervalUnit private constant MONTH = IDues.IntervalUnit.Month;
    /// @dev 31 January 2027, 10:00:01 UTC.
    uint256 private constant JANUARY_31 = 1_801_389_601;

    function testFuzz_aDayIs86400Seconds(uint40 anchor, uint16 count, uint16 periods) public pure {
        (uint256 end, uint256 nextEnd) = Periods.ends(anchor, DAY, count, periods);
        assertEq(end, uint256(anchor) + uint256(count) * periods * 86_400);
        assertEq(nextEnd, uint256(anchor) + uint256(count) * (uint256(periods) + 1) * 86_400);
    }

    /// forge-config: default.fuzz.runs = 1024
    function testFuzz_aMonthIsACalendarMonth(uint256 anchor, uint256 count, uint256 periods) public pure {
        // From 1970 to 2400, and up to forty years further.
        anchor = bound(anchor, 0, 13_569_465_600);
        count = bound(count, 1, 120);
        periods = bound(periods, 0, 480 / count);
        (uint256 end, uint256 nextEnd) = Periods.ends(anchor, MONTH, count, periods);
        assertEq(end, PlainCalendar.addMonths(anchor, count * periods));
        assertEq(nextEnd, PlainCalendar.addMonths(anchor, count * (periods + 1)));
    }

    /// forge-config: default.fuzz.runs = 4096
    function testFuzz_everyAnchorAndCountAgreesWithSolady(uint40 anchor, uint256 count, uint16 periods) public pure {
        count = bound(count, 1, 120);
        (uint256 end, uint256 nextEnd) = Periods.ends(anchor, MONTH, count, periods);
        assertEq(end, DateTimeLib.addMonths(anchor, count * periods));
        assertEq(nextEnd, DateTimeLib.addMonths(anchor, count * (uint256(periods) + 1)));
        assertLt(nextEnd, type(uint64).max);
    }

    function test_everyDayOfFourCenturiesAgreesWithSolady() public pure {
        for (uint256 day = 0; day < 146_097; day += 1) {
            uint256 anchor = day * 1 days + day % 1 days;
            (uint256 end, uint256 nextEnd) = Periods.ends(anchor, MONTH, 1, day % 14);
            assertTrue(end == DateTimeLib.addMonths(anchor, day % 14));
            assertTrue(nextEnd == DateTimeLib.addMonths(anchor, day % 14 + 1));
        }
    }

    function test_31JanuaryIsFollowedBy28FebruaryAnd31March() public pure {
        _assertDate(1, 2027, 2, 28);
        _assertDate(2, 2027, 3, 31);
        _assertDate(3, 2027, 4, 30);
        _assertDate(12, 2028, 1, 31);
        _assertDate(13, 2028, 2, 29);
        _assertDate(14, 2028, 3, 31);
    }

    function test_29FebruaryComesBackInLeapYears() public pure {
        (uint256 anchor,) = Periods.ends(JANUARY_31, MONTH, 1, 13);
        (uint256 first, uint256 second) = Periods.ends(anchor, MONTH, 12, 1);
        assertEq(first, DateTimeLib.dateTimeToTimestamp(2029, 2, 28, 10, 0, 1));
        assertEq(second, DateTimeLib.dateTimeToTimestamp(2030, 2, 28, 10, 0, 1));
        (first,) = Periods.ends(anchor, MONTH, 12, 4);
        assertEq(first, DateTimeLib.dateTimeToTimestamp(2032, 2, 29, 10, 0, 1));
    }

    /// forge-config: default.fuzz.runs = 1024
    function testFuzz_noPeriodIsShorterThanTheShortest(uint40 anchor, bool month, uint256 count, uint16 periods)
        public
        pure
    {
        IDues.IntervalUnit unit = month ? MONTH : DAY;
        count = bound(count, 1, month ? 120 : 3660);
        (uint256 end, uint256 nextEnd) = Periods.ends(anchor, unit, count, periods);
        assertGe(nextEnd - end, Periods.shortest(unit, count));
    }

    function test_theShortestMonthIsAFebruary() public pure {
        (uint256 end, uint256 nextEnd) = Periods.ends(JANUARY_31, MONTH, 1, 0);
        assertEq(nextEnd - end, Periods.shortest(MONTH, 1));
    }

    function _assertDate(uint256 periods, uint256 year, uint256 month, uint256 day) private pure {
        (uint256 end,) = Periods.ends(JANUARY_31, MONTH, 1, periods);
        assertEq(end, DateTimeLib.dateTimeToTimestamp(year, month, day, 10, 0, 1));
    }
}
