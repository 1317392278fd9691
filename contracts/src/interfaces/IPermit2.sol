// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title Permit2, the part that allowances need
/// @notice As Uniswap's `IAllowanceTransfer` has it: one approval of a token to Permit2, and from then on allowances to
/// others by signature, with an end. See https://docs.uniswap.org/contracts/permit2/reference/allowance-transfer.
interface IPermit2 {
    /// @notice What is allowed for one token.
    struct PermitDetails {
        address token;
        uint160 amount;
        uint48 expiration;
        uint48 nonce;
    }

    /// @notice What an owner signs.
    struct PermitSingle {
        PermitDetails details;
        address spender;
        uint256 sigDeadline;
    }

    function permit(address owner, PermitSingle calldata permitSingle, bytes calldata signature) external;

    function transferFrom(address from, address to, uint160 amount, address token) external;

    /// @return amount What is left; the maximum stands for no limit.
    /// @return expiration The last second in which it is good.
    function allowance(address owner, address token, address spender)
        external
        view
        returns (uint160 amount, uint48 expiration, uint48 nonce);
}
