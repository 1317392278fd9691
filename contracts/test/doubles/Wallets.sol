// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @notice A contract account: says whether it signed something (ERC-1271).
abstract contract Wallet {
    bytes4 internal constant MAGIC = 0x1626ba7e;

    function isValidSignature(bytes32 hash, bytes calldata signature) external view virtual returns (bytes4);
}

/// @notice Accepts what its owner's key signed, of whatever is signed: the hash does not have to name this wallet. So do
/// Safes of old, and two such wallets of one owner accept each other's signatures.
contract OwnedWallet is Wallet {
    address public immutable OWNER;

    constructor(address owner) {
        OWNER = owner;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view override returns (bytes4) {
        return ECDSA.recover(hash, signature) == OWNER ? MAGIC : bytes4(0xffffffff);
    }
}

/// @notice Accepts everything or nothing, by its mood.
contract FickleWallet is Wallet {
    bool public accepts;

    function setAccepts(bool value) external {
        accepts = value;
    }

    function isValidSignature(bytes32, bytes calldata) external view override returns (bytes4) {
        return accepts ? MAGIC : bytes4(0);
    }
}

/// @notice Answers in ways that mean no, and in one that means yes.
contract OddWallet is Wallet {
    enum Answer {
        /// The right word, and then much more: it counts.
        Long,
        Zero,
        Garbage,
        /// As a boolean.
        One,
        /// The right four bytes at the wrong end.
        Right,
        /// The right four bytes, and then not only zeros.
        Dirty,
        Nothing,
        /// The right word, but for its last byte.
        Short,
        /// The right word, as an error.
        Revert,
        Burn
    }

    Answer public answer;

    function set(Answer answer_) external {
        answer = answer_;
    }

    function isValidSignature(bytes32 hash, bytes calldata) external view override returns (bytes4) {
        Answer a = answer;
        bytes32 word = bytes32(MAGIC);
        uint256 size = 32;
        if (a == Answer.Long) size = 4096;
        else if (a == Answer.Zero) word = 0;
        else if (a == Answer.Garbage) word = hash;
        else if (a == Answer.One) word = bytes32(uint256(1));
        else if (a == Answer.Right) word = word >> 224;
        else if (a == Answer.Dirty) word |= bytes32(uint256(1));
        else if (a == Answer.Nothing) size = 0;
        else if (a == Answer.Short) size = 31;
        assembly ("memory-safe") {
            if eq(a, 9) { invalid() }
            mstore(0, word)
            if eq(a, 8) { revert(0, size) }
            return(0, size)
        }
    }
}

/// @notice Uses being asked about a signature to call back. Accepts only if every call was refused by the guard.
contract ReenteringWallet is Wallet {
    address private _target;
    bytes[] private _calls;

    function arm(address target, bytes[] calldata calls) external {
        _target = target;
        delete _calls;
        for (uint256 i = 0; i < calls.length; ++i) {
            _calls.push(calls[i]);
        }
    }

    function isValidSignature(bytes32, bytes calldata) external view override returns (bytes4) {
        require(_calls.length != 0, "not armed");
        for (uint256 i = 0; i < _calls.length; ++i) {
            (bool ok, bytes memory returned) = _target.staticcall(_calls[i]);
            bool guarded = returned.length == 4
                && bytes4(returned) == ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector;
            if (ok || !guarded) return 0;
        }
        return MAGIC;
    }
}
