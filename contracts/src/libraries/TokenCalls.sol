// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../IDues.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";

/// @title Token calls
/// @notice Calls to tokens that nobody vouches for. No call reverts because of what the token does, none spends more
/// gas than its cap, and of the returned data at most 32 bytes are copied.
/// @dev Why not a library for safe transfers: those revert, forward all gas, and cannot tell a token's failure from a
/// caller's that sent too little gas.
///
/// EIP-150 lets a call have at most 63/64 of the gas that is left, silently less than asked for. So a caller could make
/// a healthy token run out of gas and have that recorded as the payer's failure. Therefore a failed call counts only if
/// the token had its full cap; otherwise everything reverts with `InsufficientGas`. A call that succeeds needs no such
/// margin.
library TokenCalls {
    /// @dev For calls that change state. Three times what a transfer of an upgradeable, blocklisting stablecoin needs.
    uint256 private constant CALL_GAS = 300_000;

    /// @dev For views.
    uint256 private constant VIEW_GAS = 100_000;

    /// @dev Covers what a call costs before the 63/64 apply: 2,600 for a cold account, as much again for the code that an
    /// account delegates to (EIP-7702), and some to spare for the repricings that an immutable contract will see.
    uint256 private constant OVERHEAD = 10_000;

    /// @notice Moves `amount` from `payer` to `payee` by allowance.
    /// @return moved Whether the token says that it did.
    /// @return available The gas that was left for it, for `refusal`.
    function transfer(address token, address payer, address payee, uint256 amount)
        internal
        returns (bool moved, uint256 available)
    {
        bytes4 selector = IERC20.transferFrom.selector;
        available = gasleft();
        assembly ("memory-safe") {
            let data := mload(0x40)
            mstore(data, selector)
            mstore(add(data, 0x04), shr(96, shl(96, payer)))
            mstore(add(data, 0x24), shr(96, shl(96, payee)))
            mstore(add(data, 0x44), amount)
            moved := call(CALL_GAS, token, 0, data, 0x64, 0x00, 0x20)
            // Tokens return `true`, or nothing at all. An account without code returns nothing, too.
            switch returndatasize()
            case 0 { moved := and(moved, iszero(iszero(extcodesize(token)))) }
            default { moved := and(moved, and(gt(returndatasize(), 31), eq(mload(0x00), 1))) }
        }
    }

    /// @notice Why a transfer that found `available` gas was refused.
    function refusal(address token, address payer, uint256 amount, uint256 available)
        internal
        view
        returns (IDues.Reason reason)
    {
        _requireGas(available, CALL_GAS);
        reason = obstacle(token, payer, amount);
        // Allowance and balance suffice, and the token refused nevertheless.
        if (reason == IDues.Reason.None) reason = IDues.Reason.Token;
    }

    /// @notice What can be seen to stand in the way of a transfer, without trying it; `None` if nothing can.
    function obstacle(address token, address payer, uint256 amount) internal view returns (IDues.Reason) {
        (bool answered, uint256 value) = _ask(token, abi.encodeCall(IERC20.allowance, (payer, address(this))));
        if (!answered) return IDues.Reason.Token;
        if (value < amount) return IDues.Reason.Allowance;

        (answered, value) = _ask(token, abi.encodeCall(IERC20.balanceOf, (payer)));
        if (!answered) return IDues.Reason.Token;
        return value < amount ? IDues.Reason.Balance : IDues.Reason.None;
    }

    /// @notice Tries an EIP-2612 permit of `owner` for this contract. Its outcome is of no interest: see
    /// `IDues.subscribeWithPermit`.
    function permit(address token, address owner, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        internal
    {
        bytes memory data = abi.encodeCall(IERC20Permit.permit, (owner, address(this), value, deadline, v, r, s));
        assembly ("memory-safe") {
            pop(call(CALL_GAS, token, 0, add(data, 0x20), mload(data), 0x00, 0x00))
        }
    }

    /// @dev Asks a view for one word. An account without code does not answer.
    function _ask(address token, bytes memory data) private view returns (bool answered, uint256 value) {
        uint256 available = gasleft();
        assembly ("memory-safe") {
            answered := staticcall(VIEW_GAS, token, add(data, 0x20), mload(data), 0x00, 0x20)
            answered := and(answered, gt(returndatasize(), 31))
            value := mload(0x00)
        }
        if (!answered) _requireGas(available, VIEW_GAS);
    }

    /// @dev Reverts if a call that found `available` gas may have been given less than `cap`.
    function _requireGas(uint256 available, uint256 cap) private pure {
        uint256 required = cap + cap / 63 + OVERHEAD;
        if (available < required) revert IDues.InsufficientGas(available, required);
    }
}
