// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../../src/IDues.sol";
import {TestUSD} from "../doubles/TestUSD.sol";
import {MerchantActs} from "./MerchantActs.sol";

/// @notice What payers do by transactions of their own, and both parties when they cancel.
abstract contract PayerActs is MerchantActs {
    uint256 private constant MAX_SUBSCRIPTIONS = 24;

    modifier unlessFull() {
        if (subs.length < MAX_SUBSCRIPTIONS) _;
    }

    // SUBSCRIBING

    function subscribe(uint256 who, uint256 which, bytes32 ref) external act unlessFull {
        address payer = payers[who % payers.length];
        uint256 planId = _pickPlan(which);
        (bytes memory err, uint256 events) = _predictSubscribe(payer, planId, 0, true);
        _subscribed(err, _do(payer, abi.encodeCall(IDues.subscribe, (uint32(planId), ref)), err, events));
    }

    function subscribeWithPermit(uint256 who, uint256 which, uint256 value, uint256 how) external act unlessFull {
        address payer = payers[who % payers.length];
        uint256 planId = _pickPlan(which);
        value %= 2000;
        (bool valid, uint8 v, bytes32 r, bytes32 s) = _permit(planId, payer, value, how);
        TestUSD token = _planExists(planId) ? _token(planId) : TestUSD(address(0));
        uint256 before = allowed[token][payer][address(DUES)];
        if (valid) allowed[token][payer][address(DUES)] = value;
        (bytes memory err, uint256 events) = _predictSubscribe(payer, planId, 0, true);
        // With everything else, also the permit is undone.
        if (err.length != 0) allowed[token][payer][address(DUES)] = before;
        else if (valid) ++permitNonces[token][payer];
        bytes memory call =
            abi.encodeCall(IDues.subscribeWithPermit, (uint32(planId), bytes32(how), value, time, v, r, s));
        _subscribed(err, _do(payer, call, err, events));
    }

    function subscribePrepaid(uint256 who, uint256 which, uint256 count, uint256 how) external act unlessFull {
        bool renews = how % 4 != 0;
        address payer = payers[who % payers.length];
        uint256 planId = _pickPlan(which);
        count = _count(planId, count, MAX_PERIODS);
        if (!_planExists(planId) && count == 0) count = 1;
        bytes memory err;
        uint256 events;
        if (count == 0) err = _error(IDues.InvalidCount.selector, 0, MAX_PERIODS);
        else (err, events) = _predictSubscribe(payer, planId, count, renews);
        bytes memory call =
            abi.encodeCall(IDues.subscribePrepaid, (uint32(planId), bytes32(who), uint16(count), renews));
        _subscribed(err, _do(payer, call, err, events));
    }

    function prepay(uint256 who, uint256 which, uint256 count) external act {
        uint256 id = _pick(which);
        address caller = _mostly(_payerOf(id), who);
        count = _exists(id) ? _count(_sub(id).planId, count, MAX_PERIODS - _sub(id).periods) : 1;
        bytes memory err = _notPayer(id, caller);
        if (err.length == 0) err = _predictPrepay(id, count);
        _do(caller, abi.encodeCall(IDues.prepay, (id, uint16(count))), err, 1);
        _watch(id);
    }

    // CHANGING

    function changeNow(uint256 who, uint256 which, uint256 to, uint256 count, uint256 most) external act {
        uint256 id = _pick(which);
        address caller = _mostly(_payerOf(id), who);
        uint256 planId = _target(id, to, false);
        (uint256 periods, uint256 maxAmount) = _ask(id, planId, count, most);
        bytes memory err = _notPayer(id, caller);
        uint256 events;
        if (err.length == 0) (err, events) = _predictChangeNow(id, planId, periods, maxAmount);
        bytes memory call = abi.encodeCall(IDues.changeNow, (id, uint32(planId), uint16(periods), uint128(maxAmount)));
        _do(caller, call, err, events);
        _watch(id);
    }

    function scheduleChange(uint256 who, uint256 which, uint256 to) external act {
        uint256 id = _pick(which);
        address caller = _mostly(_payerOf(id), who);
        uint256 planId = _target(id, to, false);
        bytes memory err = _notPayer(id, caller);
        if (err.length == 0) err = _predictSchedule(id, planId);
        _do(caller, abi.encodeCall(IDues.scheduleChange, (id, uint32(planId))), err, 1);
        _watch(id);
    }

    function revokeChange(uint256 who, uint256 which) external act {
        uint256 id = _pick(which, _changes);
        address caller = _mostly(_payerOf(id), who);
        bytes memory err = _notPayer(id, caller);
        if (err.length == 0) err = _predictRevoke(id);
        _do(caller, abi.encodeCall(IDues.revokeChange, (id)), err, 1);
        _watch(id);
    }

    // CANCELLING

    function cancel(uint256 who, uint256 which) external act {
        _cancelAs(who, _pick(which), false);
    }

    function cancelNow(uint256 who, uint256 which) external act {
        // Seldom, as it is final.
        if (who % 3 == 0) _cancelAs(who / 3, _pick(which), true);
    }

    function resume(uint256 who, uint256 which) external act {
        uint256 id = _pick(which, _ends);
        address caller = _mostly(_payerOf(id), who);
        bytes memory err = _notPayer(id, caller);
        if (err.length == 0) err = _predictResume(id);
        _do(caller, abi.encodeCall(IDues.resume, (id)), err, 1);
        _watch(id);
    }

    function _cancelAs(uint256 who, uint256 id, bool atOnce) private {
        // The payer, but one time in four the merchant.
        address caller = _mostly(who % 4 != 0 ? _payerOf(id) : _merchantOf(id), who / 4);
        bytes memory err;
        bool changes;
        if (!_exists(id)) {
            err = _error(IDues.UnknownSubscription.selector, id);
        } else if (caller == _payerOf(id) || caller == _merchantOf(id)) {
            changes = _predictCancel(id, caller != _payerOf(id), atOnce);
        } else {
            err = _error(IDues.NotParty.selector, id, caller);
        }
        bytes memory call = atOnce ? abi.encodeCall(IDues.cancelNow, (id)) : abi.encodeCall(IDues.cancel, (id));
        _do(caller, call, err, changes ? 1 : 0);
        _watch(id);
    }

    // SEVERAL CALLS

    function multicall(uint256 who, uint256 which, uint256 what, uint256 count) external act unlessFull {
        uint256 id = _pick(which);
        address caller = what % 4 == 0 ? payers[who % payers.length] : _mostly(_payerOf(id), who);
        uint256 planId = _exists(id) ? _sub(id).planId : _pickPlan(which);
        bytes[] memory calls = new bytes[](2);
        bytes memory err;
        uint256 events;
        // What the first call does counts only if the second one succeeds, here as there.
        uint256 snapshot = vm.snapshotState();
        if (what % 4 == 0) {
            bytes32 terms = _planExists(planId) ? DUES.termsHash(uint32(planId)) : bytes32(0);
            bool other = what / 4 % 4 == 0 && _planExists(planId);
            calls[0] = abi.encodeCall(IDues.requireTerms, (uint32(planId), other ? bytes32(what) : terms));
            calls[1] = abi.encodeCall(IDues.subscribe, (uint32(planId), bytes32(who)));
            if (other) err = _error(IDues.OtherTerms.selector, planId, uint256(terms));
            else (err, events) = _predictSubscribe(caller, planId, 0, true);
        } else if (what % 4 == 1) {
            count = _exists(id) ? _count(_sub(id).planId, count, MAX_PERIODS - _sub(id).periods) : 1;
            calls[0] = abi.encodeCall(IDues.prepay, (id, uint16(count)));
            calls[1] = abi.encodeCall(IDues.cancel, (id));
            err = _notPayer(id, caller);
            if (err.length == 0) err = _predictPrepay(id, count);
            if (err.length == 0) events = _predictCancel(id, false, false) ? 2 : 1;
        } else if (what % 4 == 2) {
            calls[0] = abi.encodeCall(IDues.cancel, (id));
            calls[1] = abi.encodeCall(IDues.resume, (id));
            err = _notPayer(id, caller);
            if (_exists(id) && caller != _payerOf(id) && caller != _merchantOf(id)) {
                err = _error(IDues.NotParty.selector, id, caller);
            }
            if (err.length == 0) {
                events = _predictCancel(id, false, false) ? 2 : 1;
                err = _predictResume(id);
            }
        } else {
            calls[0] = abi.encodeCall(IDues.cancelNow, (id));
            calls[1] = abi.encodeCall(IDues.chargeOne, (id));
            err = _error(IDues.ChargeRefused.selector, id, IDues.Reason.Cancelled);
            if (!_exists(id)) {
                err = _error(IDues.UnknownSubscription.selector, id);
            } else if (caller != _payerOf(id) && caller != _merchantOf(id)) {
                err = _error(IDues.NotParty.selector, id, caller);
            }
        }
        if (err.length != 0) vm.revertToState(snapshot);
        _do(caller, abi.encodeCall(IDues.multicall, (calls)), err, events);
        _watch(id);
        _watch(subs.length);
    }

    // CHOICES

    /// @dev How many periods: few, at times none, the most or one too many. Never so many months that counting them by
    /// hand takes for ever.
    function _count(uint256 planId, uint256 r, uint256 max) internal view returns (uint256) {
        if (r % 16 == 0) return 0;
        if (r % 16 == 1 && max != MAX_PERIODS) return max + 1;
        if (r % 16 == 2 && _planExists(planId) && _plan(planId).unit == IDues.IntervalUnit.Day) return max;
        return 1 + r / 16 % 3;
    }

    /// @dev Periods and limit for a change: mostly as many as the credit pays for, or one more or less; and as much as
    /// it costs, or one less.
    function _ask(uint256 id, uint256 planId, uint256 count, uint256 most)
        internal
        returns (uint256 periods, uint256 maxAmount)
    {
        maxAmount = type(uint128).max;
        periods = 1 + count % 2;
        if (!_exists(id)) return (periods, maxAmount);
        bytes memory err;
        uint256 amount;
        uint256 credit;
        if (count % 16 == 0) {
            periods = 0;
        } else if (_planExists(planId)) {
            (, amount, credit) = _quote(id, planId, MAX_PERIODS);
            uint256 enough = (credit + _plan(planId).price - 1) / _plan(planId).price;
            bool countable = _plan(planId).unit == IDues.IntervalUnit.Day || enough * _plan(planId).count < 2000;
            if (count % 16 < 10 && countable) periods = enough + count % 2;
            if (count % 16 > 9 && countable && enough > 1) periods = enough - 1;
        }
        (err, amount, credit) = _quote(id, planId, periods);
        if (most % 8 == 0) maxAmount = most / 8;
        if (most % 8 > 3) maxAmount = amount;
        if (most % 8 == 7 && amount != 0) --maxAmount;
        maxAmount = uint128(maxAmount);
        _previewed(id, planId, periods, err, amount, credit);
    }

    /// @dev The preview looks neither at the caller nor at the money.
    function _previewed(uint256 id, uint256 planId, uint256 periods, bytes memory err, uint256 amount, uint256 credit)
        private
    {
        bytes memory call = abi.encodeCall(IDues.previewChange, (id, uint32(planId), uint16(periods)));
        (bool ok, bytes memory result) = address(DUES).staticcall(call);
        bytes memory quote = err;
        if (err.length == 0) quote = abi.encode(amount, credit, _endOf(planId, time, periods));
        assertEq(result, quote, "previewChange");
        assertEq(ok, err.length == 0, "previewChange succeeds");
    }

    // PREDICTING

    function _notPayer(uint256 id, address caller) internal view returns (bytes memory) {
        if (!_exists(id)) return _error(IDues.UnknownSubscription.selector, id);
        if (_payerOf(id) != caller) return _error(IDues.NotPayer.selector, id, caller);
        return "";
    }

    function _predictResume(uint256 id) private returns (bytes memory) {
        Sub storage s = _sub(id);
        if (s.ended || s.endsByMerchant) return _error(IDues.AlreadyEnded.selector, id, s.end);
        if (!s.endsByPayer) return _error(IDues.NothingToResume.selector, id);
        if (time >= s.end) return _error(IDues.AlreadyEnded.selector, id, s.end);
        s.endsByPayer = false;
        return "";
    }

    function _subscribed(bytes memory err, bytes memory result) internal {
        if (err.length == 0) assertEq(abi.decode(result, (uint256)), subs.length, "id");
        _watch(subs.length);
    }

    /// @dev A permit that the token accepts, or not.
    function _permit(uint256 planId, address owner, uint256 value, uint256 how)
        internal
        virtual
        returns (bool valid, uint8 v, bytes32 r, bytes32 s);
}
