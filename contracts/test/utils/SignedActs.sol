// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../../src/IDues.sol";
import {TestUSD} from "../doubles/TestUSD.sol";
import {PayerActs} from "./PayerActs.sol";

/// @notice What payers sign and anybody sends. The types are written out here once more, as in `IDues`.
abstract contract SignedActs is PayerActs {
    string private constant TERMS =
        "Terms(address merchant,address token,uint96 price,uint8 unit,uint16 count,uint32 trial,uint32 grace,uint96 usageCap)";

    // INTENTS

    function subscribeFor(uint256 who, uint256 which, uint256 count, uint256 nonce, uint256 how)
        external
        act
        unlessFull
    {
        uint256 planId = _pickPlan(which);
        IDues.SubscribeIntent memory intent = IDues.SubscribeIntent({
            payer: payers[who % payers.length],
            planId: uint32(planId),
            ref: bytes32(which),
            count: uint16(count % 2 == 0 ? 0 : _count(planId, count / 2, MAX_PERIODS)),
            renews: count >> 128 & 3 != 0,
            nonce: _nonce(nonce),
            deadline: _deadline(how)
        });
        bytes memory err;
        if (!_planExists(planId)) err = _error(IDues.UnknownPlan.selector, planId);
        bytes32 hash = _hash(intent);
        bytes memory signature = _signature(intent.payer, hash, how);
        if (err.length == 0) err = _unauthorised(intent.payer, intent.nonce, intent.deadline, how);
        uint256 events;
        if (err.length == 0) {
            (err, events) = _predictSubscribe(intent.payer, planId, intent.count, intent.renews);
            if (err.length == 0) nonceSpent[intent.payer][intent.nonce] = true;
        }
        bytes memory call = abi.encodeCall(IDues.subscribeFor, (intent, signature));
        _subscribed(err, _do(_somebody(how >> 16), call, err, events + 1));
    }

    function changeFor(uint256 which, uint256 to, uint256 count, uint256 nonce, uint256 how) external act {
        uint256 id = _pick(which);
        uint256 planId = _target(id, to, false);
        (uint256 periods, uint256 maxAmount) = _ask(id, planId, count, to);
        if (count >> 128 & 1 == 0) periods = 0;
        IDues.ChangeIntent memory intent = IDues.ChangeIntent({
            id: id,
            planId: uint32(planId),
            count: uint16(periods),
            maxAmount: uint128(maxAmount),
            nonce: _nonce(nonce),
            deadline: _deadline(how)
        });
        address payer = _payerOf(id);
        bytes memory signature = _signature(payer, _hash(intent, payer), how);
        bytes memory err;
        if (!_exists(id)) err = _error(IDues.UnknownSubscription.selector, id);
        else if (!_planExists(planId)) err = _error(IDues.UnknownPlan.selector, planId);
        else err = _unauthorised(payer, intent.nonce, intent.deadline, how);
        uint256 events = 1;
        if (err.length == 0) {
            if (periods == 0) err = _predictSchedule(id, planId);
            else (err, events) = _predictChangeNow(id, planId, periods, maxAmount);
            if (err.length == 0) nonceSpent[payer][intent.nonce] = true;
        }
        _do(_somebody(how >> 16), abi.encodeCall(IDues.changeFor, (intent, signature)), err, events + 1);
        _watch(id);
    }

    function cancelFor(uint256 which, uint256 nonce, uint256 how) external act {
        uint256 id = _pick(which);
        IDues.CancelIntent memory intent =
            IDues.CancelIntent({id: id, atOnce: how >> 8 & 3 == 0, nonce: _nonce(nonce), deadline: _deadline(how)});
        address payer = _payerOf(id);
        bytes memory signature = _signature(payer, _hash(intent, payer), how);
        bytes memory err;
        if (!_exists(id)) err = _error(IDues.UnknownSubscription.selector, id);
        else err = _unauthorised(payer, intent.nonce, intent.deadline, how);
        uint256 events = 1;
        if (err.length == 0) {
            if (_predictCancel(id, false, intent.atOnce)) ++events;
            nonceSpent[payer][intent.nonce] = true;
        }
        _do(_somebody(how >> 16), abi.encodeCall(IDues.cancelFor, (intent, signature)), err, events);
        _watch(id);
    }

    function invalidateNonces(uint256 who, uint256 which, uint256 bits) external act {
        bits &= 0xff;
        address payer = _somebody(who);
        uint256 first = _nonce(which % 3 * 8);
        bool changes;
        for (uint256 i = 0; i < 8; ++i) {
            if (bits >> i & 1 == 0 || nonceSpent[payer][first + i]) continue;
            nonceSpent[payer][first + i] = true;
            changes = true;
        }
        uint256 mask = bits << (first & 0xff);
        _do(payer, abi.encodeCall(IDues.invalidateNonces, (first >> 8, mask)), "", changes ? 1 : 0);
    }

    // PERMITS

    function permit(uint256 who, uint256 which, uint256 value, uint256 how) external act {
        uint256 planId = _pickPlan(which);
        address owner = who % 8 == 0 ? bystander : payers[who / 8 % payers.length];
        value = owner == bystander ? type(uint256).max : value % 2000;
        (bool valid, uint8 v, bytes32 r, bytes32 s) = _permit(planId, owner, value, how);
        if (valid) {
            allowed[_token(planId)][owner][address(DUES)] = value;
            ++permitNonces[_token(planId)][owner];
        }
        _do(_somebody(how >> 16), abi.encodeCall(IDues.permit, (uint32(planId), owner, value, time, v, r, s)), "", 0);
    }

    function permit2(uint256 who, uint256 which, uint256 value, uint256 how) external act {
        uint256 planId = _pickPlan(which);
        address owner = who % 8 == 0 ? bystander : payers[who / 8 % payers.length];
        address token = _planExists(planId) ? _plan(planId).token : address(0);
        Through storage t = through[TestUSD(token)][owner];
        uint160 amount = value % 4 == 0 ? type(uint160).max : uint160(value % 2000);
        uint48 expiration = uint48(time + value % 60 days);
        uint48 nonce = uint48(t.nonce);
        bytes memory signature =
            _sign(how % 4 == 0 ? merchants[0] : owner, _permit2Digest(abi.encode(token, amount, expiration, nonce)));
        if (how % 4 != 0) (t.amount, t.expiration, t.nonce) = (amount, expiration, t.nonce + 1);
        bytes memory call =
            abi.encodeCall(IDues.permit2, (uint32(planId), owner, amount, expiration, nonce, time, signature));
        _do(_somebody(how >> 16), call, "", 0);
    }

    function _permit2Digest(bytes memory details) private view returns (bytes32) {
        bytes32 hashed = keccak256(
            bytes.concat(
                keccak256("PermitDetails(address token,uint160 amount,uint48 expiration,uint48 nonce)"), details
            )
        );
        bytes32 single = keccak256(
            abi.encode(
                keccak256(
                    "PermitSingle(PermitDetails details,address spender,uint256 sigDeadline)PermitDetails(address token,uint160 amount,uint48 expiration,uint48 nonce)"
                ),
                hashed,
                address(DUES),
                time
            )
        );
        return keccak256(abi.encodePacked(hex"1901", PERMIT2.DOMAIN_SEPARATOR(), single));
    }

    function _permit(uint256 planId, address owner, uint256 value, uint256 how)
        internal
        view
        override
        returns (bool valid, uint8 v, bytes32 r, bytes32 s)
    {
        if (!_planExists(planId)) return (false, 27, bytes32(how), bytes32(how));
        // The token knows no contract accounts.
        valid = how % 4 != 0 && owner.code.length == 0;
        bytes32 typed = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                owner,
                address(DUES),
                value,
                permitNonces[_token(planId)][owner],
                time
            )
        );
        bytes32 separator = _token(planId).DOMAIN_SEPARATOR();
        (v, r, s) =
            vm.sign(valid ? keys[owner] : keys[merchants[0]], keccak256(abi.encodePacked(hex"1901", separator, typed)));
    }

    // CHOICES

    /// @dev One of few, at both ends of three words.
    function _nonce(uint256 r) internal pure returns (uint256) {
        r %= 24;
        if (r < 8) return r;
        return r < 16 ? 5 * 256 + 240 + r : type(uint256).max - 23 + r;
    }

    /// @dev The last second that is good, the first one that is not, or later.
    function _deadline(uint256 how) private view returns (uint256) {
        if (how % 16 == 0) return time - 1;
        return how % 2 == 0 ? time : type(uint256).max;
    }

    /// @dev At times that of somebody else, of something else, or of nothing.
    function _signature(address payer, bytes32 hash, uint256 how) private view returns (bytes memory) {
        bytes32 separator = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Dues"),
                keccak256("1"),
                how % 16 == 4 ? block.chainid + 1 : block.chainid,
                how % 16 == 5 ? address(LEDGER) : address(DUES)
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", separator, hash));
        if (how % 16 == 1 || payer == address(0)) return _sign(merchants[0], digest);
        if (how % 16 == 2) return _sign(payer, hash);
        return how % 16 == 3 ? bytes("") : _sign(payer, digest);
    }

    function _unauthorised(address payer, uint256 nonce, uint256 deadline, uint256 how)
        private
        view
        returns (bytes memory)
    {
        if (deadline < time) return _error(IDues.Expired.selector, deadline);
        if (nonceSpent[payer][nonce]) return abi.encodeWithSelector(IDues.NonceSpent.selector, payer, nonce);
        if (how % 16 >= 1 && how % 16 <= 5) return _error(IDues.InvalidSignature.selector, uint160(payer));
        return "";
    }

    // HASHES

    function _hash(IDues.SubscribeIntent memory i) private view returns (bytes32) {
        string memory head =
            "Subscribe(address payer,uint32 planId,Terms terms,bytes32 ref,uint16 count,bool renews,uint256 nonce,uint256 deadline)";
        return keccak256(
            abi.encode(
                keccak256(abi.encodePacked(head, TERMS)),
                i.payer,
                i.planId,
                _hash(i.planId),
                i.ref,
                i.count,
                i.renews,
                i.nonce,
                i.deadline
            )
        );
    }

    function _hash(IDues.ChangeIntent memory i, address payer) private view returns (bytes32) {
        string memory head =
            "Change(address payer,uint256 id,uint32 planId,Terms terms,uint16 count,uint128 maxAmount,uint256 nonce,uint256 deadline)";
        return keccak256(
            abi.encode(
                keccak256(abi.encodePacked(head, TERMS)),
                payer,
                i.id,
                i.planId,
                _hash(i.planId),
                i.count,
                i.maxAmount,
                i.nonce,
                i.deadline
            )
        );
    }

    function _hash(IDues.CancelIntent memory i, address payer) private pure returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("Cancel(address payer,uint256 id,bool atOnce,uint256 nonce,uint256 deadline)"),
                payer,
                i.id,
                i.atOnce,
                i.nonce,
                i.deadline
            )
        );
    }

    /// @dev The terms of a plan.
    function _hash(uint32 planId) internal view override returns (bytes32) {
        if (!_planExists(planId)) return 0;
        IDues.Plan storage p = _plan(planId);
        return keccak256(
            abi.encode(
                keccak256(bytes(TERMS)), p.merchant, p.token, p.price, p.unit, p.count, p.trial, p.grace, p.usageCap
            )
        );
    }
}
