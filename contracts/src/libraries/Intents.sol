// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../IDues.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

/// @title Intents
/// @notice What payers sign, by EIP-712, and who signed it.
/// @dev The domain separator is computed when it is needed. Kept in an immutable, it would make the code of every chain
/// a different one, and a deployment could not be checked by its hash.
library Intents {
    string internal constant NAME = "Dues";
    string internal constant VERSION = "1";

    bytes32 private constant DOMAIN_TYPE =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    bytes private constant TERMS =
        "Terms(address merchant,address token,uint96 price,uint8 unit,uint16 count,uint32 trial,uint32 grace,uint96 usageCap)";

    bytes32 private constant TERMS_TYPE = keccak256(TERMS);

    bytes32 private constant SUBSCRIBE_TYPE = keccak256(
        abi.encodePacked(
            "Subscribe(address payer,uint32 planId,Terms terms,bytes32 ref,uint16 count,bool renews,uint256 nonce,uint256 deadline)",
            TERMS
        )
    );

    bytes32 private constant CHANGE_TYPE = keccak256(
        abi.encodePacked(
            "Change(address payer,uint256 id,uint32 planId,Terms terms,uint16 count,uint128 maxAmount,uint256 nonce,uint256 deadline)",
            TERMS
        )
    );

    bytes32 private constant CANCEL_TYPE =
        keccak256("Cancel(address payer,uint256 id,bool atOnce,uint256 nonce,uint256 deadline)");

    /// @notice The EIP-712 hash of a plan's terms. The payee is not among them: it may move.
    function hashTerms(IDues.Plan memory p) internal pure returns (bytes32) {
        return
            keccak256(
                abi.encode(TERMS_TYPE, p.merchant, p.token, p.price, p.unit, p.count, p.trial, p.grace, p.usageCap)
            );
    }

    function hash(IDues.SubscribeIntent calldata intent, bytes32 terms) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                SUBSCRIBE_TYPE,
                intent.payer,
                intent.planId,
                terms,
                intent.ref,
                intent.count,
                intent.renews,
                intent.nonce,
                intent.deadline
            )
        );
    }

    function hash(IDues.ChangeIntent calldata intent, address payer, bytes32 terms) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                CHANGE_TYPE,
                payer,
                intent.id,
                intent.planId,
                terms,
                intent.count,
                intent.maxAmount,
                intent.nonce,
                intent.deadline
            )
        );
    }

    function hash(IDues.CancelIntent calldata intent, address payer) internal pure returns (bytes32) {
        return keccak256(abi.encode(CANCEL_TYPE, payer, intent.id, intent.atOnce, intent.nonce, intent.deadline));
    }

    /// @notice Whether `payer` signed what has this hash, on this chain and for this contract.
    /// @dev The payer's own key first: an account keeps it, whatever code it delegates to (EIP-7702), and a contract has
    /// none. Then whatever the account's code accepts (ERC-1271). OpenZeppelin's `isValidSignatureNow` asks only one of
    /// the two, by whether there is code at this instant.
    function signedBy(address payer, bytes32 structHash, bytes calldata signature) internal view returns (bool) {
        bytes32 digest = MessageHashUtils.toTypedDataHash(_domainSeparator(), structHash);
        // The third says more about the error.
        // slither-disable-next-line unused-return
        (address signer, ECDSA.RecoverError err,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (err == ECDSA.RecoverError.NoError && signer == payer) return true;
        return SignatureChecker.isValidERC1271SignatureNowCalldata(payer, digest, signature);
    }

    function _domainSeparator() private view returns (bytes32) {
        return keccak256(
            abi.encode(DOMAIN_TYPE, keccak256(bytes(NAME)), keccak256(bytes(VERSION)), block.chainid, address(this))
        );
    }
}
