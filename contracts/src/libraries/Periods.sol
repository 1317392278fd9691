// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../IDues.sol";
import {DateTimeLib} from "solady/utils/DateTimeLib.sol";

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
        returns (uint256 end, uint256 nextEnd)
    {
        unchecked {
            if (unit == IDues.IntervalUnit.Day) {
                end = anchor + count * periods * 1 days;
                return (end, end + count * 1 days);
            }
            // Quarter days, for the centuries of 36,524.25 days and the years of 365.25; the 3 makes short ones last.
            uint256 rest = (anchor / 1 days + DAYS_TO_1970) * 4 + 3;
            uint256 year = rest / DAYS_IN_400_YEARS * 100;
            rest = rest % DAYS_IN_400_YEARS | 3;
            year += rest / DAYS_IN_4_YEARS;
            // Fifths of days, for the months of 30.6 days; the 2 makes February last.
            rest = rest % DAYS_IN_4_YEARS / 4 * 5 + 2;
            uint256 month = year * 12 + rest / 153 + count * periods;
            uint256 day = rest % 153 / 5;

            // Below zero, and then wrapping back, for what is before 1970.
            uint256 origin = anchor % 1 days - DAYS_TO_1970 * 1 days;
            end = origin + _clamped(month, day) * 1 days;
            nextEnd = origin + _clamped(month + count, day) * 1 days;
        }
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
                uint256 length = month == 11 ? (DateTimeLib.isLeapYear(year + 1) ? 29 : 28) : 31 - month % 5 % 2;
                if (day >= length) day = length - 1;
            }
            return year * DAYS_IN_4_YEARS / 4 - century + century / 4 + (month * 153 + 2) / 5 + day;
        }
    }
}
