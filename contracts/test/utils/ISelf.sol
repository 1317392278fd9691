// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @notice What `Dues` lets nobody call but itself, and so leaves out of `IDues`.
interface ISelf {
    error NotSelf(address caller);

    function chargeItem(uint256 id) external;
}
