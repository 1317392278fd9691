// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../../src/IDues.sol";
import {TestUSD} from "../doubles/TestUSD.sol";
import {PlainCalendar} from "./PlainCalendar.sol";
import {World} from "./World.sol";

/// @notice A model of Dues, from the words of `IDues` and with plain arithmetic. Functions that begin with `_predict`
/// say with which error a call will fail; or none, and then the model has made the step already.
abstract contract Shadow is World {
    struct Sub {
        address payer;
        uint32 planId;
        /// The plan that the payer agreed to last. The present one is nowhere worse.
        uint32 agreed;
        /// The plan that is scheduled, and whether its merchant did that.
        uint32 next;
        bool nextByMerchant;
        bool endsByPayer;
        bool endsByMerchant;
        bool ended;
        uint256 anchor;
        uint256 periods;
        /// How many of these are of an earlier plan.
        uint256 before;
        uint256 end;
        uint256 usage;
        uint256 refunded;
        uint256 credits;
        /// What had been charged for usage in the second of the last change, and so counts for its first period, too.
        uint256 carried;
        /// The number of the last period that the payer paid by an act of its own.
        uint256 chosen;
        /// What the periods of earlier plans were worth: those that were paid, and those that had started or were
        /// chosen.
        uint256 worth;
        uint256 justified;
    }

    struct Proposal {
        address payee;
        uint256 from;
    }

    uint256 internal constant MAX_PERIODS = 65_535;

    IDues.Plan[] internal plans;
    Sub[] internal subs;
    mapping(uint32 planId => Proposal) internal proposals;
    mapping(address merchant => mapping(address => bool)) public operates;
    mapping(address merchant => mapping(address payer => bool)) public trialUsed;
    mapping(address payer => mapping(uint256 nonce => bool)) internal nonceSpent;
    mapping(uint256 id => mapping(bytes32 key => bool)) internal keySpent;
    mapping(uint256 id => mapping(uint256 start => uint256)) internal usage;

    /// @dev To which plans each account has ever agreed.
    mapping(address payer => mapping(uint32 planId => bool)) public hasAgreed;

    mapping(bytes32 => uint256) private _months;

    // READING

    function subscriptionCount() public view returns (uint256) {
        return subs.length;
    }

    function planCount() external view returns (uint256) {
        return plans.length;
    }

    function shadow(uint256 id) external view returns (Sub memory) {
        return subs[id - 1];
    }

    function shadowPlan(uint32 planId) external view returns (IDues.Plan memory) {
        return plans[planId - 1];
    }

    function _exists(uint256 id) internal view returns (bool) {
        return id != 0 && id <= subs.length;
    }

    function _planExists(uint256 planId) internal view returns (bool) {
        return planId != 0 && planId <= plans.length;
    }

    function _sub(uint256 id) internal view returns (Sub storage) {
        return subs[id - 1];
    }

    function _plan(uint256 planId) internal view returns (IDues.Plan storage) {
        return plans[planId - 1];
    }

    function _token(uint256 planId) internal view returns (TestUSD) {
        return TestUSD(_plan(planId).token);
    }

    function _merchantOf(uint256 id) internal view returns (address) {
        return _exists(id) ? _plan(_sub(id).planId).merchant : address(0);
    }

    function _payerOf(uint256 id) internal view returns (address) {
        return _exists(id) ? _sub(id).payer : address(0);
    }

    function paid(uint256 id) public view returns (uint256) {
        Sub storage s = _sub(id);
        return s.worth + _plan(s.planId).price * (s.periods - s.before) - s.credits + s.usage;
    }

    /// @dev The end of period n, counted by hand. Counting months is slow, so it is done once.
    function _endOf(uint256 planId, uint256 anchor, uint256 n) internal returns (uint256) {
        IDues.Plan storage p = _plan(planId);
        if (p.unit == IDues.IntervalUnit.Day) return anchor + p.count * n * 1 days;
        bytes32 key = keccak256(abi.encode(anchor, p.count * n));
        if (_months[key] == 0) _months[key] = PlainCalendar.addMonths(anchor, p.count * n);
        return _months[key];
    }

    function _startOf(uint256 id, uint256 n) internal returns (uint256) {
        return _endOf(_sub(id).planId, _sub(id).anchor, n - 1);
    }

    /// @dev How many of the paid periods have started: the number of the running one, while one is.
    function started(uint256 id) public returns (uint256 n) {
        n = _sub(id).periods;
        while (n != 0 && _startOf(id, n) > time) {
            // Periods of days, of which there may be thousands ahead, are all equally long.
            uint256 length = _startOf(id, n + 1) - _startOf(id, n);
            bool month = _plan(_sub(id).planId).unit == IDues.IntervalUnit.Month;
            uint256 ahead = month ? 1 : (_startOf(id, n) - time + length - 1) / length;
            n = ahead < n ? n - ahead : 0;
        }
    }

    /// @dev Rule (b): the price of all periods that had started or that the payer chose to prepay.
    function justified(uint256 id) external returns (uint256) {
        Sub storage s = _sub(id);
        return s.justified + _justified(id, s);
    }

    function standing(uint256 id) public view returns (IDues.Reason) {
        if (!_exists(id)) return IDues.Reason.UnknownSubscription;
        Sub storage s = _sub(id);
        if (s.ended) return IDues.Reason.Cancelled;
        if (time < s.end) return IDues.Reason.NotDue;
        if (s.endsByPayer || s.endsByMerchant) return IDues.Reason.Cancelled;
        if (s.periods == MAX_PERIODS || time >= s.end + graceOf(id)) return IDues.Reason.Lapsed;
        return IDues.Reason.None;
    }

    function status(uint256 id) public view returns (IDues.Status) {
        IDues.Reason reason = standing(id);
        if (reason == IDues.Reason.UnknownSubscription) return IDues.Status.None;
        if (reason == IDues.Reason.Cancelled) return IDues.Status.Cancelled;
        if (reason == IDues.Reason.Lapsed) return IDues.Status.Lapsed;
        if (reason == IDues.Reason.None) return IDues.Status.PastDue;
        return time < _sub(id).anchor ? IDues.Status.Trialing : IDues.Status.Active;
    }

    function preview(uint256 id) public view returns (IDues.Reason reason) {
        reason = standing(id);
        if (reason != IDues.Reason.None) return reason;
        uint32 planId = _nextPlanId(_sub(id));
        (reason,) = _obstacle(_token(planId), _sub(id).payer, _plan(planId).price);
    }

    /// @dev The shorter one, if the next period is of another plan.
    function graceOf(uint256 id) public view returns (uint256) {
        (uint256 now_, uint256 next) = (_plan(_sub(id).planId).grace, _plan(_nextPlanId(_sub(id))).grace);
        return now_ < next ? now_ : next;
    }

    function _nextPlanId(Sub storage s) internal view returns (uint32) {
        return s.next != 0 ? s.next : s.planId;
    }

    // PREDICTING

    /// @param count Periods to pay now; 0 for a trial, or for one if there is none.
    function _predictSubscribe(address payer, uint256 planId, uint256 count, bool renews)
        internal
        returns (bytes memory err, uint256 events)
    {
        if (!_planExists(planId)) return (_error(IDues.UnknownPlan.selector, planId), 0);
        IDues.Plan storage p = _plan(planId);
        if (p.retired) return (_error(IDues.RetiredPlan.selector, planId), 0);

        bool trial = count == 0 && p.trial != 0 && !trialUsed[p.merchant][payer];
        if (!trial && count == 0) count = 1;
        if (!trial) {
            IDues.Reason reason = _pull(_token(planId), payer, p.payee, p.price * count);
            if (reason != IDues.Reason.None) return (_error(IDues.ChargeRefused.selector, subs.length + 1, reason), 0);
        }

        if (trial) trialUsed[p.merchant][payer] = true;
        hasAgreed[payer][uint32(planId)] = true;
        Sub storage s = subs.push();
        (s.payer, s.planId, s.agreed) = (payer, uint32(planId), uint32(planId));
        (s.anchor, s.periods, s.chosen) = (trial ? time + p.trial : time, count, count);
        s.end = _endOf(planId, s.anchor, count);
        s.endsByPayer = !renews;
        events = (trial ? 1 : 2) + (renews ? 0 : 1);
    }

    function _predictCharge(uint256 id) internal returns (IDues.Reason reason, uint256 events) {
        reason = standing(id);
        if (reason != IDues.Reason.None) return (reason, 0);
        Sub storage s = _sub(id);
        uint32 planId = _nextPlanId(s);
        IDues.Plan storage p = _plan(planId);
        reason = _pull(_token(planId), s.payer, p.payee, p.price);
        if (reason != IDues.Reason.None) return (reason, 0);

        events = 1;
        if (s.next != 0) {
            events = 2;
            ++reached[s.nextByMerchant ? bytes32("scheduled by the merchant") : bytes32("scheduled by the payer")];
            bool counted = _sameInterval(s.planId, planId);
            if (!s.nextByMerchant) s.agreed = planId;
            _move(id, s, planId, counted ? s.anchor : s.end, counted ? s.periods : 0);
        }
        ++s.periods;
        s.end = _endOf(planId, s.anchor, s.periods);
    }

    function _predictPrepay(uint256 id, uint256 count) internal returns (bytes memory err) {
        Sub storage s = _sub(id);
        err = _changeable(id, s);
        if (err.length != 0) return err;
        if (s.next != 0) return _error(IDues.ChangePending.selector, id);
        if (count == 0 || s.periods + count > MAX_PERIODS) {
            return _error(IDues.InvalidCount.selector, count, MAX_PERIODS - s.periods);
        }
        IDues.Plan storage p = _plan(s.planId);
        IDues.Reason reason = _pull(_token(s.planId), s.payer, p.payee, p.price * count);
        if (reason != IDues.Reason.None) return _error(IDues.ChargeRefused.selector, id, reason);

        s.periods += count;
        s.chosen = s.periods;
        s.end = _endOf(s.planId, s.anchor, s.periods);
    }

    /// @dev What a change at once costs, without making it.
    function _quote(uint256 id, uint256 planId, uint256 count)
        internal
        returns (bytes memory err, uint256 amount, uint256 credit)
    {
        Sub storage s = _sub(id);
        err = _related(s.planId, planId);
        if (err.length != 0) return (err, 0, 0);
        err = _changeable(id, s);
        if (err.length != 0) return (err, 0, 0);
        if (standing(id) == IDues.Reason.None) {
            return (_error(IDues.NotChangeable.selector, id, IDues.Reason.None), 0, 0);
        }
        IDues.Plan storage q = _plan(planId);
        if (q.price * _length(s.planId) < _plan(s.planId).price * _length(planId)) {
            return (_error(IDues.NotAnUpgrade.selector, s.planId, planId), 0, 0);
        }
        if (count == 0) return (_error(IDues.InvalidCount.selector, 0, MAX_PERIODS), 0, 0);
        credit = _credit(id);
        if (credit > q.price * count) {
            return (_error(IDues.CreditExceedsPrice.selector, credit, q.price * count), 0, 0);
        }
        amount = q.price * count - credit;
    }

    function _predictChangeNow(uint256 id, uint256 planId, uint256 count, uint256 maxAmount)
        internal
        returns (bytes memory err, uint256 events)
    {
        (bytes memory wrong, uint256 amount, uint256 credit) = _quote(id, planId, count);
        if (wrong.length != 0) return (wrong, 0);
        if (amount > maxAmount) return (_error(IDues.AmountExceedsMax.selector, amount, maxAmount), 0);
        Sub storage s = _sub(id);
        if (amount != 0) {
            IDues.Reason reason = _pull(_token(planId), s.payer, _plan(planId).payee, amount);
            if (reason != IDues.Reason.None) return (_error(IDues.ChargeRefused.selector, id, reason), 0);
        }

        if (amount == 0) ++reached["change for nothing"];
        hasAgreed[s.payer][uint32(planId)] = true;
        s.agreed = uint32(planId);
        _move(id, s, planId, time, 0);
        s.credits += credit;
        (s.periods, s.chosen) = (count, count);
        s.end = _endOf(planId, time, count);
        events = amount == 0 ? 1 : 2;
    }

    function _predictSchedule(uint256 id, uint256 planId) internal returns (bytes memory err) {
        err = _predictNext(id, planId, false);
        if (err.length == 0) hasAgreed[_sub(id).payer][uint32(planId)] = true;
    }

    function _predictMigrate(uint256 id, uint256 planId) internal returns (bytes memory err) {
        Sub storage s = _sub(id);
        if (s.next != 0) return _error(IDues.ChangePending.selector, id);
        err = _related(s.planId, planId);
        if (err.length != 0) return err;
        if (!_mayMigrate(s.planId, planId)) return _error(IDues.NotFavourable.selector, s.planId, planId);
        return _predictNext(id, planId, true);
    }

    function _predictNext(uint256 id, uint256 planId, bool byMerchant) private returns (bytes memory err) {
        Sub storage s = _sub(id);
        err = _related(s.planId, planId);
        if (err.length == 0) err = _changeable(id, s);
        if (err.length != 0) return err;
        // Not if it would lapse by this.
        if (time >= s.end + _plan(planId).grace) {
            return _error(IDues.NotChangeable.selector, id, IDues.Reason.Lapsed);
        }
        (s.next, s.nextByMerchant) = (uint32(planId), byMerchant);
    }

    function _predictRevoke(uint256 id) internal returns (bytes memory err) {
        Sub storage s = _sub(id);
        err = s.next == 0 ? _error(IDues.NothingScheduled.selector, id) : _changeable(id, s);
        if (err.length == 0) s.next = 0;
    }

    /// @return Whether it changes anything.
    function _predictCancel(uint256 id, bool byMerchant, bool atOnce) internal returns (bool) {
        Sub storage s = _sub(id);
        if (s.ended) return false;
        if (atOnce) {
            s.ended = true;
        } else if (byMerchant) {
            if (s.endsByMerchant) return false;
            s.endsByMerchant = true;
        } else {
            if (s.endsByMerchant || s.endsByPayer) return false;
            s.endsByPayer = true;
        }
        return true;
    }

    // RULES

    function favourable(uint256 from, uint256 to) external view returns (bool) {
        return _favourable(from, to);
    }

    function _favourable(uint256 from, uint256 to) internal view returns (bool) {
        (IDues.Plan storage p, IDues.Plan storage q) = (_plan(from), _plan(to));
        return _sameInterval(from, to) && q.price <= p.price && q.usageCap <= p.usageCap && q.grace >= p.grace;
    }

    /// @dev Nor may it lead the money elsewhere without notice.
    function _mayMigrate(uint256 from, uint256 to) internal view returns (bool) {
        return
            _favourable(from, to) && _plan(from).payee == _plan(to).payee && proposals[uint32(to)].payee == address(0);
    }

    function _sameInterval(uint256 from, uint256 to) internal view returns (bool) {
        return _plan(from).unit == _plan(to).unit && _plan(from).count == _plan(to).count;
    }

    function _related(uint256 from, uint256 to) internal view returns (bytes memory) {
        if (!_planExists(to)) return _error(IDues.UnknownPlan.selector, to);
        (IDues.Plan storage p, IDues.Plan storage q) = (_plan(from), _plan(to));
        if (q.retired) return _error(IDues.RetiredPlan.selector, to);
        if (from == to || p.merchant != q.merchant || p.token != q.token) {
            return _error(IDues.PlansUnrelated.selector, from, to);
        }
        return "";
    }

    function _changeable(uint256 id, Sub storage s) internal view returns (bytes memory) {
        IDues.Reason reason = s.endsByPayer || s.endsByMerchant ? IDues.Reason.Cancelled : standing(id);
        if (reason == IDues.Reason.None || reason == IDues.Reason.NotDue) return "";
        return _error(IDues.NotChangeable.selector, id, reason);
    }

    /// @dev The mean length of a period; a month is a twelfth of the 146,097 days in 400 years.
    function _length(uint256 planId) private view returns (uint256) {
        IDues.Plan storage p = _plan(planId);
        uint256 month = uint256(146_097 days) / 4800;
        return p.count * (p.unit == IDues.IntervalUnit.Day ? 1 days : month);
    }

    function _credit(uint256 id) private returns (uint256 credit) {
        Sub storage s = _sub(id);
        uint256 price = _plan(s.planId).price;
        uint256 running = started(id);
        credit = (s.periods - running) * price;
        if (running != 0) {
            uint256 end = _startOf(id, running + 1);
            credit += price * (end - time) / (end - _startOf(id, running));
        }
        uint256 kept = paid(id) - s.refunded;
        if (credit > kept) {
            credit = kept;
            ++reached["credit is all that was kept"];
        }
    }

    /// @dev Onto another plan, of which nothing is paid yet.
    function _move(uint256 id, Sub storage s, uint256 planId, uint256 anchor, uint256 periods) private {
        s.justified += _justified(id, s);
        s.worth += _plan(s.planId).price * (s.periods - s.before);
        (s.planId, s.next, s.anchor) = (uint32(planId), 0, anchor);
        (s.periods, s.before, s.chosen) = (periods, periods, periods);
        s.carried = usage[id][anchor];
    }

    function _justified(uint256 id, Sub storage s) private returns (uint256) {
        uint256 n = started(id);
        if (s.chosen > n) n = s.chosen;
        return _plan(s.planId).price * (n - s.before);
    }
}
