// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title DevUSD
/// @notice A dollar stablecoin to play with on a development chain: six decimals, EIP-2612 permits, and anybody can
/// mint. Not part of the product and worth nothing.
contract DevUSD is ERC20Permit {
    constructor() ERC20("Dev USD", "dUSD") ERC20Permit("Dev USD") {}

    /// @notice Gives `to` as much as it likes.
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function decimals() public pure override returns (uint8) {
        return 6;
    }
}
