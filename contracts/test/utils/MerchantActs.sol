// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../../src/IDues.sol";
import {Shadow} from "./Shadow.sol";

/// @notice What merchants, their operators and payees do.
abstract contract MerchantActs is Shadow {
    uint256 private constant MAX_PLANS = 14;

    /// @dev The hash of each plan's terms when it was created.
    mapping(uint256 planId => bytes32) public firstTerms;

    // PLANS

    function createPlan(uint256 who, uint256 like, uint256 price, uint256 interval, uint256 seed) external act {
        address merchant = merchants[who % merchants.length];
        IDues.PlanTerms memory terms;
        if (plans.length != 0 && like % 4 != 0) {
            merchant = _plan(1 + like / 4 % plans.length).merchant;
            terms = _similar(_plan(1 + like / 4 % plans.length), seed);
        } else {
            terms = _terms(who, price, interval, seed);
        }
        bytes memory err;
        // There is something wrong with every fourth, and with all that are too many.
        if (plans.length >= MAX_PLANS || seed >> 200 & 3 == 0) err = _spoil(terms, seed >> 204);
        _create(merchant, terms, err);
    }

    function retirePlan(uint256 who, uint256 which) external act {
        uint256 planId = _pickPlan(which);
        // Seldom, as it is for ever.
        address caller = who % 4 == 0 ? _rightful(planId) : _somebody(who / 4);
        bytes memory err = _notMerchant(planId, caller);
        bool already = err.length == 0 && _plan(planId).retired;
        if (err.length == 0) _plan(planId).retired = true;
        _do(caller, abi.encodeCall(IDues.retirePlan, (uint32(planId))), err, already ? 0 : 1);
    }

    function proposePayee(uint256 who, uint256 which, uint256 whom) external act {
        uint256 planId = _pickPlan(which);
        address caller = _mostly(_rightful(planId), who);
        address payee = _somebody(whom >> 8);
        if (whom % 8 == 0) payee = address(0);
        if (whom % 16 == 1) payee = address(DUES);
        if (whom % 16 == 2) payee = _planExists(planId) ? _plan(planId).token : payee;

        bytes memory err = _notMerchant(planId, caller);
        if (err.length == 0 && (payee == address(DUES) || payee == _plan(planId).token)) {
            err = _error(IDues.InvalidPayee.selector, uint160(payee));
        }
        if (err.length == 0) proposals[uint32(planId)] = Proposal(payee, payee == address(0) ? 0 : time + 2 days);
        _do(caller, abi.encodeCall(IDues.proposePayee, (uint32(planId), payee)), err, 1);
    }

    function acceptPayee(uint256 who, uint256 which, uint256 wait) external act {
        uint256 planId = _pickPlan(which);
        for (uint256 i = 1; i <= plans.length && which % 8 != 0; ++i) {
            if (proposals[uint32(planId)].payee == address(0)) planId = i;
        }
        Proposal memory proposal = proposals[uint32(planId)];
        // To the second, or one before it.
        if (wait % 4 < 3 && proposal.from > time) _warp(proposal.from - (wait % 4 == 0 ? 1 : 0));
        address caller = _mostly(proposal.payee, who);
        bytes memory err;
        if (caller != proposal.payee) {
            err = _error(IDues.NotProposedPayee.selector, planId, caller);
        } else if (time < proposal.from) {
            err = _error(IDues.TooEarly.selector, planId, proposal.from);
        } else {
            _plan(planId).payee = caller;
            delete proposals[uint32(planId)];
        }
        _do(caller, abi.encodeCall(IDues.acceptPayee, (uint32(planId))), err, 1);
    }

    function setOperator(uint256 who, uint256 whom, uint256 how) external act {
        bool approved = how % 2 == 0;
        address caller = who % 2 == 0 ? merchants[who / 2 % merchants.length] : _somebody(who / 2);
        address account = whom % 4 != 0 ? operator : _somebody(whom / 4);
        operates[caller][account] = approved;
        _do(caller, abi.encodeCall(IDues.setOperator, (account, approved)), "", 1);
    }

    // SUBSCRIPTIONS

    function chargeUsage(uint256 who, uint256 which, uint256 when, uint256 amount, uint256 key) external act {
        uint256 id = _pick(which);
        address caller = _mostly(who % 2 == 0 ? operator : _merchantOf(id), who / 2);
        uint256 period = when >> 8 & 0xffff;
        if (_exists(id) && when % 16 != 0) {
            // The last that has started, at times one beside it.
            period = started(id);
            if (when % 16 == 1 && period != MAX_PERIODS) ++period;
            if (when % 16 == 2 && period != 0) --period;
        }
        uint256 cap = _exists(id) ? _plan(_sub(id).planId).usageCap : 0;
        uint256 used = _exists(id) && period != 0 ? usage[id][_startOf(id, period)] : 0;
        // At times all that is left, or one more than that.
        uint256 value = amount % 5 == 0 ? cap - (used < cap ? used : cap) + amount / 5 % 2 : 1 + amount % 20;
        if (amount % 32 == 1) value = 0;
        if (value > type(uint96).max) value = type(uint96).max;
        bytes32 k = _key(key);

        bytes memory err = _predictUsage(id, caller, period, value, k);
        _do(caller, abi.encodeCall(IDues.chargeUsage, (id, uint16(period), uint96(value), k)), err, 1);
        if (err.length == 0) assertEq(DUES.usageOf(id, uint16(period)), used + value, "usageOf");
    }

    function refund(uint256 who, uint256 which, uint256 amount, uint256 key) external act {
        uint256 id = _pick(which);
        address caller = _mostly(who % 2 == 0 ? operator : _merchantOf(id), who / 2);
        if (caller == bystander) return;
        uint256 left = _exists(id) ? paid(id) - _sub(id).refunded : 0;
        uint256 value = amount % 4 == 0 ? left + amount / 4 % 2 : 1 + amount % 200;
        if (amount % 32 == 1) value = 0;
        bytes32 k = _key(key);

        bytes memory err = _predictRefund(id, caller, value, k);
        _do(caller, abi.encodeCall(IDues.refund, (id, uint128(value), k)), err, 1);
    }

    function migrate(uint256 who, uint256 which, uint256 to) external act {
        uint256 id = _pick(which);
        address caller = _mostly(_merchantOf(id), who);
        uint256 planId = _target(id, to, to % 2 == 0);
        bytes memory err;
        if (!_exists(id)) err = _error(IDues.UnknownSubscription.selector, id);
        else if (caller != _merchantOf(id)) err = _error(IDues.NotMerchant.selector, _sub(id).planId, caller);
        else err = _predictMigrate(id, planId);
        _do(caller, abi.encodeCall(IDues.migrate, (id, uint32(planId))), err, 1);
        _watch(id);
    }

    // CHOICES

    /// @dev One of few, so that keys meet again.
    function _key(uint256 r) internal pure returns (bytes32) {
        return bytes32(r % 12);
    }

    /// @dev A subscription: mostly one that is not over, at times one that there is not.
    function _pick(uint256 r) internal view returns (uint256) {
        return _pick(r, _goesOn);
    }

    function _pick(uint256 r, function(uint256) view returns (bool) wanted) internal view returns (uint256) {
        uint256 n = subs.length;
        if (n == 0 || r % 32 == 0) return r / 32 % 2 * (n + 1);
        uint256 first = r / 32 % n;
        for (uint256 i = 0; i < n && r % 8 != 1; ++i) {
            uint256 id = 1 + (first + i) % n;
            if (wanted(id)) return id;
        }
        return 1 + first;
    }

    function _goesOn(uint256 id) internal view returns (bool) {
        return standing(id) <= IDues.Reason.NotDue && !_sub(id).endsByPayer && !_sub(id).endsByMerchant;
    }

    function _ends(uint256 id) internal view returns (bool) {
        return standing(id) == IDues.Reason.NotDue && _sub(id).endsByPayer;
    }

    function _isDue(uint256 id) internal view returns (bool) {
        return standing(id) == IDues.Reason.None;
    }

    function _changes(uint256 id) internal view returns (bool) {
        return _sub(id).next != 0;
    }

    function _pickPlan(uint256 r) internal view returns (uint256) {
        uint256 n = plans.length;
        return r % 32 == 0 ? r / 32 % 2 * (n + 1) : 1 + r / 32 % n;
    }

    /// @dev A plan to change to: mostly one that is possible.
    function _target(uint256 id, uint256 r, bool wanted) internal view returns (uint256) {
        uint256 n = plans.length;
        if (_exists(id) && r % 8 != 0) {
            uint256 from = _sub(id).planId;
            for (uint256 i = 0; i < n; ++i) {
                uint256 to = 1 + (r / 8 % n + i) % n;
                if (_related(from, to).length == 0 && (!wanted || _mayMigrate(from, to))) return to;
            }
        }
        return _pickPlan(r / 8);
    }

    function _rightful(uint256 planId) internal view returns (address) {
        return _planExists(planId) ? _plan(planId).merchant : address(0);
    }

    /// @dev The terms of a plan, as payers sign them.
    function _hash(uint32 planId) internal view virtual returns (bytes32);

    function _warp(uint256 to) internal virtual;

    /// @dev Looks at where a subscription stands now, and how it got there.
    function _watch(uint256 id) internal virtual;

    // TERMS

    function _terms(uint256 which, uint256 price, uint256 interval, uint256 seed)
        private
        view
        returns (IDues.PlanTerms memory terms)
    {
        uint256 t = which / 8 % tokens.length;
        bool month = interval % 2 == 0;
        terms.token = address(tokens[t]);
        // Where balances have no limit, at times as much as there can be.
        bool dear = t == 0 && price % 3 == 0;
        terms.price = uint96(dear ? type(uint96).max - price / 3 % 2 : 1 + price % 1000);
        terms.payee = payees[seed % payees.length];
        terms.unit = month ? IDues.IntervalUnit.Month : IDues.IntervalUnit.Day;
        terms.count = uint16(1 + interval / 2 % (month ? 3 : 40));
        if (seed >> 16 & 3 == 0) terms.count = month ? 120 : 3660;
        if (seed >> 16 & 3 == 1) terms.count = 1;
        terms.trial = uint32(seed >> 24 & 1 == 0 ? (seed >> 32) % 30 days : 0);
        uint256 longest = uint256(terms.count) * (month ? 28 days : 1 days);
        terms.grace = uint32(1 hours + (seed >> 64) % (longest - 1 hours + 1));
        terms.usageCap = uint96(seed >> 96 & 1 == 0 ? 0 : dear ? type(uint96).max : (seed >> 104) % 200);
    }

    /// @dev A plan to change to and from.
    function _similar(IDues.Plan memory p, uint256 seed) private view returns (IDues.PlanTerms memory terms) {
        terms = _terms(0, 1, seed >> 8, seed);
        (terms.token, terms.price) = (p.token, p.price);
        if (seed % 4 != 0) (terms.unit, terms.count, terms.grace) = (p.unit, p.count, p.grace);
        if (seed % 4 == 1) {
            // Better in everything, or as good.
            terms.payee = p.payee;
            terms.price -= uint96((seed >> 8) % p.price / 2);
            terms.usageCap = uint96((seed >> 16) % (uint256(p.usageCap) + 1));
        } else {
            uint256 price = seed >> 128 & 1 == 0 ? p.price - (seed >> 136) % p.price : p.price + (seed >> 136) % 500;
            terms.price = price > type(uint96).max ? type(uint96).max : uint96(price);
        }
    }

    function _spoil(IDues.PlanTerms memory terms, uint256 r) private view returns (bytes memory) {
        uint256 longest = uint256(terms.count) * (terms.unit == IDues.IntervalUnit.Month ? 28 days : 1 days);
        uint256 most = terms.unit == IDues.IntervalUnit.Month ? 120 : 3660;
        r %= 11;
        if (r < 3) {
            terms.token = r == 0 ? payers[0] : r == 1 ? address(DUES) : address(PERMIT2);
            return _error(IDues.InvalidToken.selector, uint160(terms.token));
        }
        if (r == 3) {
            terms.price = 0;
            return _error(IDues.InvalidPrice.selector);
        }
        if (r < 7) {
            terms.payee = r == 4 ? address(0) : r == 5 ? address(DUES) : terms.token;
            return _error(IDues.InvalidPayee.selector, uint160(terms.payee));
        }
        if (r < 9) {
            terms.count = r == 7 ? 0 : uint16(most + 1);
            return _error(IDues.InvalidCount.selector, terms.count, most);
        }
        if (r == 9) {
            terms.trial = 366 days + 1;
            return _error(IDues.InvalidTrial.selector, terms.trial, 366 days);
        }
        terms.grace = terms.trial % 2 == 0 ? 1 hours - 1 : uint32(longest + 1);
        return _error(IDues.InvalidGrace.selector, terms.grace, 1 hours, longest);
    }

    function _create(address merchant, IDues.PlanTerms memory terms, bytes memory err) internal {
        if (err.length == 0) {
            IDues.Plan storage p = plans.push();
            (p.token, p.price, p.payee, p.unit, p.count) =
            (terms.token, terms.price, terms.payee, terms.unit, terms.count);
            (p.trial, p.grace, p.merchant, p.usageCap) = (terms.trial, terms.grace, merchant, terms.usageCap);
        }
        bytes memory result = _do(merchant, abi.encodeCall(IDues.createPlan, (terms)), err, 1);
        if (err.length != 0) return;
        assertEq(abi.decode(result, (uint32)), plans.length, "planId");
        firstTerms[plans.length] = DUES.termsHash(uint32(plans.length));
        assertEq(firstTerms[plans.length], _hash(uint32(plans.length)), "termsHash");
    }

    // PREDICTING

    function _notMerchant(uint256 planId, address caller) internal view returns (bytes memory) {
        if (!_planExists(planId)) return _error(IDues.UnknownPlan.selector, planId);
        if (_plan(planId).merchant != caller) return _error(IDues.NotMerchant.selector, planId, caller);
        return "";
    }

    function _notOperator(uint256 id, address caller) internal view returns (bytes memory) {
        if (!_exists(id)) return _error(IDues.UnknownSubscription.selector, id);
        address merchant = _merchantOf(id);
        if (caller == merchant || operates[merchant][caller]) return "";
        return _error(IDues.NotMerchant.selector, _sub(id).planId, caller);
    }

    function _predictUsage(uint256 id, address caller, uint256 period, uint256 amount, bytes32 key)
        private
        returns (bytes memory err)
    {
        err = _notOperator(id, caller);
        if (err.length != 0) return err;
        if (amount == 0) return _error(IDues.InvalidAmount.selector);
        if (keySpent[id][key]) return _error(IDues.KeySpent.selector, id, uint256(key));
        Sub storage s = _sub(id);
        IDues.Plan storage p = _plan(s.planId);
        bool open = period > s.before && period <= s.periods && !s.ended;
        uint256 start = open ? _startOf(id, period) : 0;
        open = open && time >= start && time < _startOf(id, period + 1) + p.grace;
        if ((s.endsByPayer || s.endsByMerchant) && time >= s.end) open = false;
        if (!open) return _error(IDues.PeriodClosed.selector, id, period);
        uint256 total = usage[id][start] + amount;
        if (total > p.usageCap) return _error(IDues.UsageCapExceeded.selector, id, total, p.usageCap);
        IDues.Reason reason = _pull(_token(s.planId), s.payer, p.payee, amount);
        if (reason != IDues.Reason.None) return _error(IDues.ChargeRefused.selector, id, reason);

        keySpent[id][key] = true;
        usage[id][start] = total;
        s.usage += amount;
    }

    function _predictRefund(uint256 id, address caller, uint256 amount, bytes32 key)
        private
        returns (bytes memory err)
    {
        err = _notOperator(id, caller);
        if (err.length != 0) return err;
        if (amount == 0) return _error(IDues.InvalidAmount.selector);
        if (keySpent[id][key]) return _error(IDues.KeySpent.selector, id, uint256(key));
        Sub storage s = _sub(id);
        uint256 total = s.refunded + amount;
        if (total > paid(id)) return _error(IDues.RefundExceedsPaid.selector, id, total, paid(id));
        IDues.Reason reason = _pull(_token(s.planId), caller, s.payer, amount);
        if (reason != IDues.Reason.None) return _error(IDues.RefundRefused.selector, id, reason);

        keySpent[id][key] = true;
        s.refunded = total;
    }
}
