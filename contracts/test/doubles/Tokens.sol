// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {TestUSD} from "./TestUSD.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice A token that works until it is broken, each kind in its own way.
abstract contract BreakableToken is TestUSD {
    bool public broken;

    function setBroken(bool value) external {
        broken = value;
    }

    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        if (broken) return _misbehave();
        return super.transferFrom(from, to, value);
    }

    function _misbehave() internal virtual returns (bool);
}

/// @notice Moves the money and returns nothing, like USDT.
contract NoReturnToken is TestUSD {
    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        super.transferFrom(from, to, value);
        assembly ("memory-safe") {
            return(0, 0)
        }
    }
}

contract FalseToken is BreakableToken {
    function _misbehave() internal pure override returns (bool) {
        return false;
    }
}

/// @notice Answers with a number that is no boolean.
contract TwoToken is BreakableToken {
    function _misbehave() internal pure override returns (bool) {
        assembly ("memory-safe") {
            mstore(0, 2)
            return(0, 32)
        }
    }
}

/// @notice Returns a word that is one byte too short. All zero, so that what was in memory before decides how it looks.
contract ShortToken is BreakableToken {
    function _misbehave() internal pure override returns (bool) {
        assembly ("memory-safe") {
            mstore(0, 0)
            return(0, 31)
        }
    }
}

/// @notice Moves the money, and says so in more than one word.
contract LongToken is TestUSD {
    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        super.transferFrom(from, to, value);
        assembly ("memory-safe") {
            mstore(0x00, 1)
            mstore(0x20, not(0))
            return(0, 0x40)
        }
    }
}

/// @notice Moves the money, and says that it did not.
contract DenyingToken is TestUSD {
    bool public denies;

    function setDenies(bool denies_) external {
        denies = denies_;
    }

    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        return super.transferFrom(from, to, value) && !denies;
    }
}

contract RevertingToken is BreakableToken {
    function _misbehave() internal pure override returns (bool) {
        revert("paused");
    }
}

/// @notice Uses up all the gas that it is given.
contract BurningToken is BreakableToken {
    function _misbehave() internal pure override returns (bool) {
        assembly ("memory-safe") {
            invalid()
        }
    }
}

/// @notice Returns as much as it can afford.
contract BombToken is BreakableToken {
    function _misbehave() internal pure override returns (bool) {
        assembly ("memory-safe") {
            return(0, 300000)
        }
    }
}

/// @notice Reverts with as much as it can afford.
contract RevertingBombToken is BreakableToken {
    function _misbehave() internal pure override returns (bool) {
        assembly ("memory-safe") {
            revert(0, 300000)
        }
    }
}

contract BlocklistToken is TestUSD {
    mapping(address => bool) public blocked;

    function setBlocked(address account, bool value) external {
        blocked[account] = value;
    }

    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        require(!blocked[from] && !blocked[to], "blocked");
        return super.transferFrom(from, to, value);
    }
}

/// @notice Answers no questions, in a way that can be chosen. Burns its gas when broken.
contract MuteToken is BurningToken {
    enum Silence {
        None,
        Revert,
        Burn,
        Empty
    }

    Silence public allowanceSilence;
    Silence public balanceSilence;

    function setSilence(Silence allowance_, Silence balance_) external {
        (allowanceSilence, balanceSilence) = (allowance_, balance_);
    }

    function allowance(address owner, address spender) public view override returns (uint256) {
        _keep(allowanceSilence);
        return super.allowance(owner, spender);
    }

    function balanceOf(address account) public view override returns (uint256) {
        _keep(balanceSilence);
        return super.balanceOf(account);
    }

    function _keep(Silence silence) private pure {
        if (silence == Silence.Revert) revert("silence");
        assembly ("memory-safe") {
            if eq(silence, 2) { invalid() }
            if eq(silence, 3) { return(0, 0) }
        }
    }
}

/// @notice Needs more gas for a transfer than an item of a batch is given.
contract DearToken is TestUSD {
    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        uint256 end = gasleft() - 500_000;
        while (gasleft() > end) {}
        return super.transferFrom(from, to, value);
    }
}

/// @notice Answers questions with a mountain, when broken.
contract BombViewsToken is RevertingToken {
    function allowance(address owner, address spender) public view override returns (uint256) {
        _explode();
        return super.allowance(owner, spender);
    }

    function balanceOf(address account) public view override returns (uint256) {
        _explode();
        return super.balanceOf(account);
    }

    function _explode() private view {
        if (!broken) return;
        assembly ("memory-safe") {
            // The first word is not zero, so that the answer looks like a large number.
            mstore(0x00, not(0))
            return(0, 150000)
        }
    }
}

/// @notice Refuses at once, and cheaply, where it is given less than nearly all of the gas that a transfer may use.
contract CautiousToken is TestUSD {
    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        require(gasleft() >= 299_000, "too little gas");
        return super.transferFrom(from, to, value);
    }
}

/// @notice Keeps a hundredth of what it moves.
contract FeeToken is TestUSD {
    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        super.transferFrom(from, to, value);
        _burn(to, value / 100);
        return true;
    }
}

/// @notice Can be told to keep a part of what it moves, like USDT.
contract FeeSwitchToken is TestUSD {
    uint256 public basisPoints;

    function setFee(uint256 basisPoints_) external {
        basisPoints = basisPoints_;
    }

    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        super.transferFrom(from, to, value);
        _burn(to, value * basisPoints / 10_000);
        return true;
    }
}

/// @notice All balances grow and shrink together, without a transfer.
contract RebasingToken is TestUSD {
    uint256 public percent = 100;

    function rebase(uint256 percent_) external {
        percent = percent_;
    }

    function parts(address account) external view returns (uint256) {
        return super.balanceOf(account);
    }

    function balanceOf(address account) public view override returns (uint256) {
        return super.balanceOf(account) * percent / 100;
    }

    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        _spendAllowance(from, msg.sender, value);
        _transfer(from, to, value * 100 / percent);
        return true;
    }
}

/// @notice Changes an allowance only from or to zero, and returns nothing, like USDT.
contract ApproveFromZeroToken is NoReturnToken {
    function approve(address spender, uint256 value) public override returns (bool) {
        require(value == 0 || allowance(msg.sender, spender) == 0, "not from zero");
        super.approve(spender, value);
        assembly ("memory-safe") {
            return(0, 0)
        }
    }
}

/// @notice Counts down an allowance without limit, too.
contract CountingToken is TestUSD {
    function _spendAllowance(address owner, address spender, uint256 value) internal override {
        uint256 current = allowance(owner, spender);
        require(current >= value, "allowance");
        _approve(owner, spender, current - value, false);
    }
}

/// @notice Refuses to move nothing.
contract NoZeroToken is TestUSD {
    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        require(value != 0, "zero");
        return super.transferFrom(from, to, value);
    }
}

/// @notice Things instead of amounts, like ERC-721: the same `transferFrom`, but nobody has an allowance.
contract ThingToken {
    mapping(uint256 thing => address) public ownerOf;
    mapping(uint256 thing => address) public getApproved;
    mapping(address => uint256) public balanceOf;

    function mint(address to, uint256 thing) external {
        ownerOf[thing] = to;
        ++balanceOf[to];
    }

    function approve(address to, uint256 thing) external {
        require(msg.sender == ownerOf[thing], "not the owner");
        getApproved[thing] = to;
    }

    function transferFrom(address from, address to, uint256 thing) external {
        require(from == ownerOf[thing] && msg.sender == getApproved[thing], "not approved");
        (ownerOf[thing], getApproved[thing]) = (to, address(0));
        --balanceOf[from];
        ++balanceOf[to];
    }
}

/// @notice Calls back before it moves the money, as a token with hooks lets payer and payee do.
contract ReenteringToken is TestUSD {
    address public target;
    bytes[] private _calls;

    bool[] public succeeded;
    bytes[] public returned;

    function arm(address target_, bytes[] calldata calls) external {
        target = target_;
        delete _calls;
        for (uint256 i = 0; i < calls.length; ++i) {
            _calls.push(calls[i]);
        }
        delete succeeded;
        delete returned;
    }

    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        for (uint256 i = 0; i < _calls.length; ++i) {
            (bool ok, bytes memory data) = target.call(_calls[i]);
            succeeded.push(ok);
            returned.push(data);
        }
        return super.transferFrom(from, to, value);
    }
}

/// @notice Its permit uses up all the gas that it is given.
contract BurningPermitToken is TestUSD {
    function permit(address, address, uint256, uint256, uint8, bytes32, bytes32) public pure override {
        assembly ("memory-safe") {
            invalid()
        }
    }
}

/// @notice Its permit returns as much as it can afford.
contract BombPermitToken is TestUSD {
    function permit(address, address, uint256, uint256, uint8, bytes32, bytes32) public pure override {
        assembly ("memory-safe") {
            return(0, 240000)
        }
    }
}

/// @notice No permit, and a fallback that accepts anything, like WETH.
contract PhantomPermitToken is ERC20 {
    constructor() ERC20("Phantom", "PHNT") {}

    fallback() external {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}
