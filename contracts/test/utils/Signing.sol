// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../../src/IDues.sol";
import {TestUSD} from "../doubles/TestUSD.sol";
import {Base} from "./Base.sol";

/// @notice Signs as a wallet does that knows nothing but the documentation: the type strings are written out, so that
/// no change of the contract's can pass unseen.
abstract contract Signing is Base {
    bytes private constant DOMAIN =
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";
    bytes private constant TERMS =
        "Terms(address merchant,address token,uint96 price,uint8 unit,uint16 count,uint32 trial,uint32 grace,uint96 usageCap)";
    bytes private constant SUBSCRIBE =
        "Subscribe(address payer,uint32 planId,Terms terms,bytes32 ref,uint16 count,bool renews,uint256 nonce,uint256 deadline)Terms(address merchant,address token,uint96 price,uint8 unit,uint16 count,uint32 trial,uint32 grace,uint96 usageCap)";
    bytes private constant CHANGE =
        "Change(address payer,uint256 id,uint32 planId,Terms terms,uint16 count,uint128 maxAmount,uint256 nonce,uint256 deadline)Terms(address merchant,address token,uint96 price,uint8 unit,uint16 count,uint32 trial,uint32 grace,uint96 usageCap)";
    bytes private constant CANCEL = "Cancel(address payer,uint256 id,bool atOnce,uint256 nonce,uint256 deadline)";

    bytes private constant PERMIT =
        "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)";

    struct Permit {
        uint256 value;
        uint256 deadline;
        uint8 v;
        bytes32 r;
        bytes32 s;
    }

    /// @dev A payer that signs. Has no ETH.
    address internal signer;
    uint256 internal key;

    function setUp() public virtual override {
        super.setUp();
        (signer, key) = makeAddrAndKey("signer");
        _fund(token, signer);
    }

    // HASHES

    function _termsOf(uint32 planId) internal view returns (bytes32) {
        IDues.Plan memory p = dues.plan(planId);
        return keccak256(
            abi.encode(keccak256(TERMS), p.merchant, p.token, p.price, p.unit, p.count, p.trial, p.grace, p.usageCap)
        );
    }

    function _hash(IDues.SubscribeIntent memory i) internal view returns (bytes32) {
        bytes32 head = keccak256(SUBSCRIBE);
        return keccak256(
            abi.encode(head, i.payer, i.planId, _termsOf(i.planId), i.ref, i.count, i.renews, i.nonce, i.deadline)
        );
    }

    function _hash(IDues.ChangeIntent memory i, address payer_) internal view returns (bytes32) {
        bytes32 head = keccak256(CHANGE);
        bytes32 terms = _termsOf(i.planId);
        return keccak256(abi.encode(head, payer_, i.id, i.planId, terms, i.count, i.maxAmount, i.nonce, i.deadline));
    }

    function _hash(IDues.CancelIntent memory i, address payer_) internal pure returns (bytes32) {
        return keccak256(abi.encode(keccak256(CANCEL), payer_, i.id, i.atOnce, i.nonce, i.deadline));
    }

    function _digest(bytes32 hash, uint256 chainId, address verifier) internal pure returns (bytes32) {
        bytes32 separator =
            keccak256(abi.encode(keccak256(DOMAIN), keccak256("Dues"), keccak256("1"), chainId, verifier));
        return keccak256(abi.encodePacked(hex"1901", separator, hash));
    }

    function _digest(bytes32 hash) internal view returns (bytes32) {
        return _digest(hash, block.chainid, address(dues));
    }

    // SIGNATURES

    function _sign(uint256 key_, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key_, digest);
        return abi.encodePacked(r, s, v);
    }

    function _sign(IDues.SubscribeIntent memory intent) internal view returns (bytes memory) {
        return _sign(key, _digest(_hash(intent)));
    }

    function _sign(IDues.ChangeIntent memory intent) internal view returns (bytes memory) {
        return _sign(key, _digest(_hash(intent, signer)));
    }

    function _sign(IDues.CancelIntent memory intent) internal view returns (bytes memory) {
        return _sign(key, _digest(_hash(intent, signer)));
    }

    /// @dev Other spellings of a good signature of 65 bytes, none of which counts: with `s` in the upper half, compact
    /// (64 bytes, EIP-2098), with `v` from 0, cut, lengthened, empty.
    function _malleated(bytes memory signature) internal pure returns (bytes[] memory others) {
        others = new bytes[](6);
        (bytes32 r, bytes32 s, uint8 v) = _split(signature);
        uint256 order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
        others[0] = abi.encodePacked(r, order - uint256(s), v == 27 ? uint8(28) : uint8(27));
        others[1] = abi.encodePacked(r, s | bytes32(uint256(v - 27) << 255));
        others[2] = abi.encodePacked(r, s, v - 27);
        others[3] = abi.encodePacked(r, s);
        others[4] = abi.encodePacked(signature, uint8(0));
        others[5] = "";
    }

    function _split(bytes memory signature) private pure returns (bytes32 r, bytes32 s, uint8 v) {
        assembly ("memory-safe") {
            r := mload(add(signature, 0x20))
            s := mload(add(signature, 0x40))
            v := byte(0, mload(add(signature, 0x60)))
        }
    }

    /// @dev An EIP-2612 permit of the signer for Dues.
    function _permit(TestUSD token_, uint256 value, uint256 deadline) internal view returns (Permit memory) {
        bytes32 content = keccak256(abi.encode(keccak256(PERMIT), signer, dues, value, token_.nonces(signer), deadline));
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(key, keccak256(abi.encodePacked(hex"1901", token_.DOMAIN_SEPARATOR(), content)));
        return Permit(value, deadline, v, r, s);
    }

    // WHAT IS LOOKED AT

    function _bit(uint256 nonce) internal pure returns (uint256) {
        return uint256(1) << (nonce % 256);
    }

    function _isSpent(address account, uint256 nonce) internal view returns (bool) {
        return dues.spentNonces(account, nonce / 256) & _bit(nonce) != 0;
    }

    function _invalid(address payer_) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IDues.InvalidSignature.selector, payer_);
    }
}
