// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../IDues.sol";

/// @title Periods
/// @notice When periods end. Pure arithmetic, in UTC.
/// @dev The calendar counts years from 1 March of the year 0, so that a leap day is the last day of its year, and the
/// lengths of the months repeat every five: 153 days. It gives what `DateTimeLib.addMonths` of Solady gives, and the
/// tests compare the two; it is here because a charge needs two ends, and one look at the anchor for both costs less gas.
library Periods {
    /// @dev From 1 March of the year 0 to 1 January 1970.
    uint256 private constant DAYS_TO_1970 = 719_468;

    /// @dev In 400 years, and so four times what is in an average century.
    uint256 private constant DAYS_IN_400_YEARS = 146_097;

    /// @dev In 4 years, and so four times what is in an average year.
    uint256 private constant DAYS_IN_4_YEARS = 1461;

    /// @notice The end of period number `periods`, counted from `anchor` (the anchor itself for 0), and the end of the
    /// period after it.
    /// @dev Month ends are always counted from the anchor and clamped to the month's last day, so that 31 January is
    /// followed by 28 February and then 31 March. Adding month by month would stay on the 28th.
    ///
    /// Nothing overflows, and the results fit far into 64 bits: an anchor is below 2^40, and 65,536 periods of at most
    /// 120 months (or 3660 days) are below 2^45 seconds.
    function ends(uint256 anchor, IDues.IntervalUnit unit, uint256 count, uint256 periods)
        internal
        pure
        returns (uint256 current, uint256 next)
    {
        unchecked {
            if (unit == IDues.IntervalUnit.Day) {
                current = anchor + count * periods * 1 days;
                return (current, current + count * 1 days);
            }
            // Whole years, months and days are what the divisions are for.
            // slither-disable-start divide-before-multiply
            // Quarter days, for the centuries of 36,524.25 days and the years of 365.25; the 3 makes short ones last.
            uint256 rest = (anchor / 1 days + DAYS_TO_1970) * 4 + 3;
            uint256 year = rest / DAYS_IN_400_YEARS * 100;
            rest = rest % DAYS_IN_400_YEARS | 3;
            year += rest / DAYS_IN_4_YEARS;
            // Fifths of days, for the months of 30.6 days; the 2 makes February last.
            rest = rest % DAYS_IN_4_YEARS / 4 * 5 + 2;
            uint256 month = year * 12 + rest / 153 + count * periods;
            uint256 day = rest % 153 / 5;
            // slither-disable-end divide-before-multiply

            // Below zero, and then wrapping back, for what is before 1970.
            uint256 origin = anchor % 1 days - DAYS_TO_1970 * 1 days;
            current = origin + _clamped(month, day) * 1 days;
            next = origin + _clamped(month + count, day) * 1 days;
        }
    }

    /// @notice The end of period number `periods`, counted from `anchor`; the anchor itself for 0.
    function end(uint256 anchor, IDues.IntervalUnit unit, uint256 count, uint256 periods)
        internal
        pure
        returns (uint256 result)
    {
        (result,) = ends(anchor, unit, count, periods);
    }

    /// @notice The period that runs at `time`, which is not before `anchor`: its number (from 1), start and end.
    function locate(uint256 anchor, IDues.IntervalUnit unit, uint256 count, uint256 time)
        internal
        pure
        returns (uint256 number, uint256 start, uint256 stop)
    {
        // Month ends stray from their mean by a few days, and so by less than a period: one less than the mean says is
        // never too late, and a few steps early at most.
        number = (time - anchor) / nominal(unit, count);
        if (number != 0) --number;
        (start, stop) = ends(anchor, unit, count, number);
        while (stop <= time) {
            ++number;
            (start, stop) = ends(anchor, unit, count, number);
        }
        ++number;
    }

    /// @notice How long `count` units last on average, in seconds: a month is a twelfth of a Gregorian year.
    function nominal(IDues.IntervalUnit unit, uint256 count) internal pure returns (uint256) {
        return count * (unit == IDues.IntervalUnit.Month ? 2_629_746 : 1 days);
    }

    /// @notice The shortest time that `count` units can last. A month has at least 28 days, also when clamped.
    function shortest(IDues.IntervalUnit unit, uint256 count) internal pure returns (uint256) {
        return count * (unit == IDues.IntervalUnit.Month ? 28 days : 1 days);
    }

    /// @dev Days from 1 March of the year 0 to a day (from 0) of the month that is `month` months later, or to that
    /// month's last day if it is shorter.
    function _clamped(uint256 month, uint256 day) private pure returns (uint256) {
        unchecked {
            uint256 year = month / 12;
            uint256 century = year / 100;
            month %= 12;
            if (day > 27) {
                // February, which belongs to the calendar year after, or the pattern 31, 30, 31, 30, 31.
                assembly ("memory-safe") {
                    let last := sub(30, and(mod(month, 5), 1))
                    if eq(month, 11) {
                        let y := add(year, 1)
                        // `DateTimeLib.isLeapYear` of Solady, which costs a jump when it is called.
                        last := add(27, iszero(and(add(mul(iszero(mod(y, 25)), 12), 3), y)))
                    }
                    if gt(day, last) { day := last }
                }
            }
            // slither-disable-next-line divide-before-multiply
            return year * DAYS_IN_4_YEARS / 4 - century + century / 4 + (month * 153 + 2) / 5 + day;
        }
    }
}
