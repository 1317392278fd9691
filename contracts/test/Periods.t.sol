// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Periods} from "../src/libraries/Periods.sol";
import {PlainCalendar} from "./utils/PlainCalendar.sol";
import {stdMath} from "forge-std/StdMath.sol";
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
// Periods.end
// └── it is the first of the two
// Periods.locate
// ├── it gives the period that runs: from its first second to its last, never the one before or after
// └── it takes two steps at most, however many periods have passed
// Periods.nominal
// └── no end of a period strays from it by five days
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

    function testFuzz_endIsTheFirstOfTheTwoEnds(uint40 anchor, bool month, uint256 count, uint16 periods) public pure {
        IDues.IntervalUnit unit = month ? MONTH : DAY;
        count = bound(count, 1, month ? 120 : 3660);
        (uint256 end,) = Periods.ends(anchor, unit, count, periods);
        assertEq(Periods.end(anchor, unit, count, periods), end);
        assertEq(Periods.end(anchor, unit, count, 0), anchor);
    }

    /// forge-config: default.fuzz.runs = 4096
    function testFuzz_locatesThePeriodThatRuns(uint40 anchor, bool month, uint256 count, uint256 n, uint256 offset)
        public
        pure
    {
        count = bound(count, 1, month ? 120 : 3660);
        n = bound(n, 0, 60_000);
        // Of Solady, so that this does not take the word of what it tests.
        uint256 start = month ? DateTimeLib.addMonths(anchor, count * n) : anchor + count * n * 1 days;
        uint256 stop = month ? DateTimeLib.addMonths(anchor, count * (n + 1)) : start + count * 1 days;
        _assertLocated(anchor, month ? MONTH : DAY, count, start, n + 1, start, stop);
        _assertLocated(anchor, month ? MONTH : DAY, count, stop - 1, n + 1, start, stop);
        _assertLocated(anchor, month ? MONTH : DAY, count, bound(offset, start, stop - 1), n + 1, start, stop);
    }

    function testFuzz_locatesTheFirstPeriodsAsOneWouldByHand(uint256 anchor, uint256 time) public pure {
        anchor = bound(anchor, 0, 4_102_444_800);
        time = bound(time, anchor, anchor + 100 * 31 days);
        uint256 n = 0;
        while (PlainCalendar.addMonths(anchor, n + 1) <= time) ++n;
        _assertLocated(
            anchor, MONTH, 1, time, n + 1, PlainCalendar.addMonths(anchor, n), PlainCalendar.addMonths(anchor, n + 1)
        );
    }

    function test_locatesEveryBoundarySecondOfFourCenturies() public pure {
        uint256 start = JANUARY_31;
        for (uint256 n = 0; n < 4800; ++n) {
            uint256 stop = DateTimeLib.addMonths(JANUARY_31, n + 1);
            _assertLocated(JANUARY_31, MONTH, 1, start, n + 1, start, stop);
            _assertLocated(JANUARY_31, MONTH, 1, stop - 1, n + 1, start, stop);
            start = stop;
        }
    }

    /// forge-config: default.fuzz.runs = 4096
    function testFuzz_locatesInTwoStepsAtMost(uint40 anchor, bool month, uint256 count, uint256 n, uint256 offset)
        public
        view
    {
        IDues.IntervalUnit unit = month ? MONTH : DAY;
        count = bound(count, 1, month ? 120 : 3660);
        n = bound(n, 0, 60_000);
        (uint256 start, uint256 stop) = Periods.ends(anchor, unit, count, n);
        uint256 time = bound(offset, start, stop - 1);
        uint256 before = gasleft();
        Periods.locate(anchor, unit, count, time);
        assertLt(before - gasleft(), 3500);
        // It begins one period before the one that the mean says, and never behind what it looks for.
        uint256 mean = (time - anchor) / Periods.nominal(unit, count);
        assertLe(mean, n + 1);
        assertLe(n, mean + 1);
    }

    /// forge-config: default.fuzz.runs = 4096
    function testFuzz_noEndStraysFromTheMeanByFiveDays(uint40 anchor, uint256 count, uint16 periods) public pure {
        count = bound(count, 1, 120);
        uint256 mean = anchor + periods * Periods.nominal(MONTH, count);
        assertLt(stdMath.delta(Periods.end(anchor, MONTH, count, periods), mean), 5 days);
    }

    function testFuzz_theMeanMonthIsATwelfthOfAGregorianYear(uint16 count) public pure {
        assertEq(Periods.nominal(MONTH, 400 * 12), 146_097 days);
        assertEq(Periods.nominal(MONTH, count), count * Periods.nominal(MONTH, 1));
        assertEq(Periods.nominal(DAY, count), count * uint256(1 days));
    }

    function _assertLocated(
        uint256 anchor,
        IDues.IntervalUnit unit,
        uint256 count,
        uint256 time,
        uint256 number,
        uint256 start,
        uint256 stop
    ) private pure {
        (uint256 number_, uint256 start_, uint256 stop_) = Periods.locate(anchor, unit, count, time);
        assertEq(number_, number);
        assertEq(start_, start);
        assertEq(stop_, stop);
    }

    function _assertDate(uint256 periods, uint256 year, uint256 month, uint256 day) private pure {
        (uint256 end,) = Periods.ends(JANUARY_31, MONTH, 1, periods);
        assertEq(end, DateTimeLib.dateTimeToTimestamp(year, month, day, 10, 0, 1));
    }
}
