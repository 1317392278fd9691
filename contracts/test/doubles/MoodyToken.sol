// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {TestUSD} from "./TestUSD.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @notice All kinds of tokens in one, which it is in turn: what happens to a subscription must not depend on how its
/// token has behaved before.
contract MoodyToken is TestUSD {
    /// @dev The first five move the money, the others do not.
    /// - NoReturn: says nothing about it.
    /// - Fee: burns a hundredth of what the receiver gets.
    /// - Reenter: makes the calls of `arm` first, all of which must be refused as reentrant.
    /// - Mute: does not tell Dues who has and allows what.
    /// - Deny: moves the money and says that it did not.
    enum Mood {
        Well,
        NoReturn,
        Fee,
        Reenter,
        Mute,
        False,
        Revert,
        Burn,
        Deny
    }

    address private immutable DUES;
    Mood public mood;
    bytes[] private _calls;
    bool private _moving;

    constructor(address dues) {
        DUES = dues;
    }

    function setMood(Mood mood_) external {
        mood = mood_;
    }

    function arm(bytes[] calldata calls) external {
        delete _calls;
        for (uint256 i = 0; i < calls.length; ++i) {
            _calls.push(calls[i]);
        }
    }

    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        if (mood == Mood.False) return false;
        if (mood == Mood.Revert) revert("paused");
        if (mood == Mood.Burn) {
            assembly ("memory-safe") {
                invalid()
            }
        }
        if (mood == Mood.Reenter) _reenter();
        _moving = true;
        super.transferFrom(from, to, value);
        _moving = false;
        if (mood == Mood.Fee) _burn(to, value / 100);
        if (mood == Mood.NoReturn) {
            assembly ("memory-safe") {
                return(0, 0)
            }
        }
        return mood != Mood.Deny;
    }

    function allowance(address owner, address spender) public view override returns (uint256) {
        _answer();
        return super.allowance(owner, spender);
    }

    function balanceOf(address account) public view override returns (uint256) {
        _answer();
        return super.balanceOf(account);
    }

    function _answer() private view {
        require(mood != Mood.Mute || msg.sender != DUES || _moving, "mute");
    }

    function _reenter() private {
        for (uint256 i = 0; i < _calls.length; ++i) {
            (bool ok, bytes memory data) = DUES.call(_calls[i]);
            bool refused = !ok && bytes4(data) == ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector;
            require(refused, "reentered");
        }
    }
}
