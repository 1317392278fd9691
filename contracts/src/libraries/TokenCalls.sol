// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../IDues.sol";
import {IPermit2} from "../interfaces/IPermit2.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";

/// @title Token calls
/// @notice Calls to tokens that nobody vouches for. No call reverts because of what the token does, none in a batch
/// spends more gas than its cap, and of the returned data at most 32 bytes are copied.
/// @dev Why not a library for safe transfers: those revert, forward all gas, and cannot tell a token's failure from a
/// caller's that sent too little gas.
///
/// EIP-150 lets a call have at most 63/64 of the gas that is left, silently less than asked for. So a caller could make
/// a healthy token run out of gas and have that recorded as the payer's failure. Therefore a failed call counts only if
/// the token had its full cap; otherwise everything reverts with `InsufficientGas`. A call that succeeds needs no such
/// margin.
library TokenCalls {
    /// @notice Permit2, which has this address wherever it exists: https://github.com/Uniswap/permit2.
    IPermit2 internal constant PERMIT2 = IPermit2(0x000000000022D473030F116dDEE9F6B43aC78BA3);

    /// @dev For calls that change state. Three times what a transfer of an upgradeable, blocklisting stablecoin needs.
    uint256 private constant CALL_GAS = 300_000;

    /// @dev For the same through Permit2, which does some work of its own.
    uint256 private constant PERMIT2_GAS = 350_000;

    /// @dev For a permit of Permit2, which may ask a contract account about its signature (ERC-1271).
    uint256 private constant PERMIT2_PERMIT_GAS = 1_000_000;

    /// @dev For views.
    uint256 private constant VIEW_GAS = 100_000;

    /// @dev Covers what a call costs before the 63/64 apply: 2,600 for a cold account, as much again for the code that an
    /// account delegates to (EIP-7702), and some to spare for the repricings that an immutable contract will see.
    uint256 private constant OVERHEAD = 10_000;

    /// @notice Moves `amount` from `payer` to `payee`: by the payer's allowance to this contract, or, where that is too
    /// small, by its allowance through Permit2.
    /// @return reason Why not, or `None` if the token says that it did.
    function pull(address token, address payer, address payee, uint256 amount) internal returns (IDues.Reason reason) {
        bool moved;
        bytes4 selector = IERC20.transferFrom.selector;
        uint256 available = gasleft();
        uint256 limit = _limit(available, CALL_GAS);
        assembly ("memory-safe") {
            let data := mload(0x40)
            mstore(data, selector)
            mstore(add(data, 0x04), shr(96, shl(96, payer)))
            mstore(add(data, 0x24), shr(96, shl(96, payee)))
            mstore(add(data, 0x44), amount)
            moved := call(limit, token, 0, data, 0x64, 0x00, 0x20)
            // Tokens return `true`, or nothing at all. An account without code returns nothing, too.
            switch returndatasize()
            case 0 { moved := and(moved, iszero(iszero(extcodesize(token)))) }
            default { moved := and(moved, and(gt(returndatasize(), 31), eq(mload(0x00), 1))) }
        }
        if (moved) return IDues.Reason.None;

        _requireGas(available, CALL_GAS);
        bool throughPermit2;
        (reason, throughPermit2) = _obstacle(token, payer, amount);
        if (reason != IDues.Reason.None) return reason;
        // Allowance and balance suffice, and the token refused nevertheless.
        if (!throughPermit2) return IDues.Reason.Token;

        available = gasleft();
        // Safe cast: no more than Permit2's allowance, which has 160 bits.
        // forge-lint: disable-next-line(unsafe-typecast)
        try PERMIT2.transferFrom{gas: _limit(available, PERMIT2_GAS)}(payer, payee, uint160(amount), token) {
            return IDues.Reason.None;
        } catch {
            _requireGas(available, PERMIT2_GAS);
            return IDues.Reason.Token;
        }
    }

    /// @notice What can be seen to stand in the way of `pull`, without trying it; `None` if nothing can.
    function obstacle(address token, address payer, uint256 amount) internal view returns (IDues.Reason reason) {
        (reason,) = _obstacle(token, payer, amount);
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

    /// @notice Tries a Permit2 permit of `owner` for this contract. Its outcome is of no interest either.
    function permit2(
        address token,
        address owner,
        uint160 value,
        uint48 expiration,
        uint48 nonce,
        uint256 signatureDeadline,
        bytes calldata signature
    ) internal {
        if (address(PERMIT2).code.length == 0) return;
        IPermit2.PermitDetails memory details = IPermit2.PermitDetails(token, value, expiration, nonce);
        IPermit2.PermitSingle memory single = IPermit2.PermitSingle(details, address(this), signatureDeadline);
        try PERMIT2.permit{gas: PERMIT2_PERMIT_GAS}(owner, single, signature) {} catch {}
    }

    /// @dev Items of a batch, which this contract calls itself, are held to `cap`. Who calls for one subscription alone
    /// spends its own gas, and so a token that becomes dearer than any cap foresaw can still be paid in.
    function _limit(uint256 available, uint256 cap) private view returns (uint256) {
        return msg.sender == address(this) ? cap : available;
    }

    /// @dev What stands in the way, and, if nothing does, whether the money has to be moved through Permit2.
    function _obstacle(address token, address payer, uint256 amount)
        private
        view
        returns (IDues.Reason reason, bool throughPermit2)
    {
        (bool answered, uint256 value) = _ask(token, abi.encodeCall(IERC20.allowance, (payer, address(this))));
        if (!answered) return (IDues.Reason.Token, false);
        if (value < amount) {
            throughPermit2 = _permit2Allows(token, payer, amount);
            if (!throughPermit2) return (IDues.Reason.Allowance, false);
        }
        (answered, value) = _ask(token, abi.encodeCall(IERC20.balanceOf, (payer)));
        if (!answered) return (IDues.Reason.Token, false);
        if (value < amount) return (IDues.Reason.Balance, false);
    }

    /// @dev Whether the payer lets Permit2 take the amount from the token, and this contract from Permit2.
    function _permit2Allows(address token, address payer, uint256 amount) private view returns (bool) {
        if (address(PERMIT2).code.length == 0) return false;
        // The third is a nonce.
        // slither-disable-next-line unused-return
        (uint160 allowed, uint48 expiration,) = PERMIT2.allowance(payer, token, address(this));
        if (allowed < amount || block.timestamp > expiration) return false;
        (bool answered, uint256 value) = _ask(token, abi.encodeCall(IERC20.allowance, (payer, address(PERMIT2))));
        return answered && value >= amount;
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
