// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @notice Calendar months as one would count them on paper: year by year, month by month. Slow, and obviously right.
library PlainCalendar {
    function addMonths(uint256 timestamp, uint256 months) internal pure returns (uint256) {
        (uint256 year, uint256 month, uint256 day) = toDate(timestamp / 1 days);
        for (; months >= 12; months -= 12) {
            ++year;
        }
        for (; months > 0; --months) {
            if (month == 12) (year, month) = (year + 1, 1);
            else ++month;
        }
        uint256 last = daysInMonth(year, month);
        if (day > last) day = last;
        return toDays(year, month, day) * 1 days + timestamp % 1 days;
    }

    function toDate(uint256 epochDay) internal pure returns (uint256 year, uint256 month, uint256 day) {
        (year, month) = (1970, 1);
        for (; epochDay >= daysInYear(year); ++year) {
            epochDay -= daysInYear(year);
        }
        for (; epochDay >= daysInMonth(year, month); ++month) {
            epochDay -= daysInMonth(year, month);
        }
        day = epochDay + 1;
    }

    function toDays(uint256 year, uint256 month, uint256 day) internal pure returns (uint256 epochDay) {
        for (uint256 y = 1970; y < year; ++y) {
            epochDay += daysInYear(y);
        }
        for (uint256 m = 1; m < month; ++m) {
            epochDay += daysInMonth(year, m);
        }
        epochDay += day - 1;
    }

    function daysInYear(uint256 year) internal pure returns (uint256) {
        return isLeap(year) ? 366 : 365;
    }

    function daysInMonth(uint256 year, uint256 month) internal pure returns (uint256) {
        if (month == 2) return isLeap(year) ? 29 : 28;
        if (month == 4 || month == 6 || month == 9 || month == 11) return 30;
        return 31;
    }

    function isLeap(uint256 year) internal pure returns (bool) {
        if (year % 400 == 0) return true;
        if (year % 100 == 0) return false;
        return year % 4 == 0;
    }
}
