// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../../src/IDues.sol";
import {PlainCalendar} from "./PlainCalendar.sol";
import {Vm} from "forge-std/Vm.sol";

/// @notice What the events say: a fold over the logs, as an indexer does it, without ever reading the contract.
/// @dev Reverts where an event contradicts those before it, or the safety rules.
contract Ledger {
    struct Proposal {
        address payee;
        uint64 acceptableFrom;
    }

    /// @dev Flags of `Subscription`.
    uint8 private constant ENDS_BY_PAYER = 1;
    uint8 private constant ENDED = 2;
    uint8 private constant ENDS_BY_MERCHANT = 4;
    uint8 private constant CHANGE_SCHEDULED = 8;

    uint32 public planCount;
    uint256 public subscriptionCount;
    mapping(uint32 planId => IDues.Plan) private _plans;
    mapping(uint32 planId => Proposal) public proposedPayee;
    mapping(address merchant => mapping(address operator => bool)) public isOperator;
    mapping(address merchant => mapping(address payer => bool)) public hasUsedTrial;
    mapping(address payer => mapping(uint256 word => uint256)) public spentNonces;

    mapping(uint256 id => IDues.Subscription) private _subscriptions;
    mapping(uint256 id => uint64) public paidThrough;
    mapping(uint256 id => uint32) public scheduled;
    mapping(uint256 id => uint256) public debitedForPeriods;
    mapping(uint256 id => uint256) public debitedForUsage;
    mapping(uint256 id => uint256) public credited;
    mapping(uint256 id => uint256) public refunded;
    mapping(uint256 id => mapping(uint256 periodStart => uint256)) private _usage;
    mapping(uint256 id => mapping(bytes32 key => bool)) public isKeySpent;

    /// @dev What each account received less what it paid.
    mapping(address token => mapping(address account => int256)) public flow;

    /// @dev What the change of plan in this transaction costs.
    mapping(uint256 id => uint256) private _owed;
    mapping(uint256 id => uint256) private _changedIn;
    uint256 private _transactions;

    function plan(uint32 planId) external view returns (IDues.Plan memory) {
        return _plans[planId];
    }

    function subscription(uint256 id) external view returns (IDues.Subscription memory) {
        return _subscriptions[id];
    }

    function usageOf(uint256 id, uint16 period) external view returns (uint256) {
        return _usage[id][_start(id, period)];
    }

    /// @param logs Those of one transaction.
    /// @return count How many of them are of this emitter.
    function fold(Vm.Log[] calldata logs, address emitter) external returns (uint256 count) {
        ++_transactions;
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter != emitter || _undone(logs, i, emitter)) continue;
            ++count;
            _fold(logs[i]);
        }
    }

    /// @dev Also the logs of what was reverted are recorded; no chain has them. Of a transaction that went through,
    /// these are the changes of plan that a batch could not charge.
    function _undone(Vm.Log[] calldata logs, uint256 i, address emitter) private pure returns (bool) {
        if (logs[i].topics[0] != IDues.PlanChanged.selector) return false;
        for (++i; i < logs.length; ++i) {
            if (logs[i].emitter == emitter) return logs[i].topics[0] == IDues.ChargeFailed.selector;
        }
        return false;
    }

    function _fold(Vm.Log calldata log) private {
        bytes32 kind = log.topics[0];
        if (kind == IDues.PlanCreated.selector) return _planCreated(log);
        if (kind == IDues.PlanRetired.selector || kind == IDues.PayeeProposed.selector) return _planEvent(log);
        if (kind == IDues.PayeeChanged.selector) return _planEvent(log);
        if (kind == IDues.OperatorSet.selector) {
            isOperator[_address(log.topics[1])][_address(log.topics[2])] = abi.decode(log.data, (bool));
            return;
        }
        if (kind == IDues.NoncesSpent.selector) {
            (uint256 word, uint256 mask) = abi.decode(log.data, (uint256, uint256));
            address account = _address(log.topics[1]);
            require(mask != 0 && spentNonces[account][word] & mask == 0, "nonce spent twice");
            spentNonces[account][word] |= mask;
            return;
        }
        if (kind == IDues.Subscribed.selector) return _subscribed(log);

        uint256 id = uint256(log.topics[1]);
        IDues.Subscription storage s = _subscriptions[id];
        require(s.payer != address(0), "event before Subscribed");
        require(_address(log.topics[3]) == s.payer, "another payer");
        if (kind == IDues.PlanChanged.selector) return _planChanged(id, s, log);
        require(uint256(log.topics[2]) == s.planId, "another plan");

        if (kind == IDues.Charged.selector) return _charged(id, s, log);
        if (kind == IDues.UsageCharged.selector) return _usageCharged(id, s, log);
        if (kind == IDues.Refunded.selector) return _refunded(id, s, log);
        if (kind == IDues.ChargeFailed.selector) {
            uint8 reason = abi.decode(log.data, (uint8));
            require(reason >= uint8(IDues.Reason.Allowance) && reason <= uint8(IDues.Reason.Token), "no failure");
            require(block.timestamp >= paidThrough[id] && s.flags & ~CHANGE_SCHEDULED == 0, "not due");
        } else if (kind == IDues.ChangeScheduled.selector) {
            require(s.flags & ~CHANGE_SCHEDULED == 0, "change after cancel");
            s.flags |= CHANGE_SCHEDULED;
            (scheduled[id],) = abi.decode(log.data, (uint32, bool));
        } else if (kind == IDues.ChangeRevoked.selector) {
            require(s.flags & CHANGE_SCHEDULED != 0, "nothing to revoke");
            s.flags &= ~CHANGE_SCHEDULED;
            scheduled[id] = 0;
        } else if (kind == IDues.CancelScheduled.selector) {
            uint8 flag = abi.decode(log.data, (bool)) ? ENDS_BY_MERCHANT : ENDS_BY_PAYER;
            require(s.flags & (flag | ENDED) == 0, "event without a change");
            s.flags |= flag;
        } else if (kind == IDues.Cancelled.selector) {
            abi.decode(log.data, (bool));
            require(s.flags & ENDED == 0, "event without a change");
            s.flags |= ENDED;
        } else if (kind == IDues.Resumed.selector) {
            require(abi.decode(log.data, (uint64)) == paidThrough[id], "paidThrough of Resumed");
            require(s.flags & ~CHANGE_SCHEDULED == ENDS_BY_PAYER, "resumed what the payer has not cancelled");
            s.flags &= ~ENDS_BY_PAYER;
        } else {
            revert("unknown event");
        }
    }

    function _planCreated(Vm.Log calldata log) private {
        require(uint256(log.topics[1]) == ++planCount, "gap in plan ids");
        IDues.Plan storage p = _plans[planCount];
        p.merchant = _address(log.topics[2]);
        p.token = _address(log.topics[3]);
        (p.payee, p.price, p.unit, p.count) = abi.decode(log.data, (address, uint96, IDues.IntervalUnit, uint16));
        (p.trial, p.grace, p.usageCap) = abi.decode(log.data[4 * 32:], (uint32, uint32, uint96));
    }

    function _planEvent(Vm.Log calldata log) private {
        uint32 planId = uint32(uint256(log.topics[1]));
        IDues.Plan storage p = _plans[planId];
        Proposal storage proposal = proposedPayee[planId];
        require(p.merchant != address(0), "event before PlanCreated");
        if (log.topics[0] == IDues.PlanRetired.selector) {
            require(!p.retired, "event without a change");
            p.retired = true;
        } else if (log.topics[0] == IDues.PayeeProposed.selector) {
            (proposal.payee, proposal.acceptableFrom) = (_address(log.topics[2]), abi.decode(log.data, (uint64)));
        } else {
            p.payee = _address(log.topics[2]);
            require(p.payee == proposal.payee && block.timestamp >= proposal.acceptableFrom, "payee without notice");
            delete proposedPayee[planId];
        }
    }

    function _subscribed(Vm.Log calldata log) private {
        require(uint256(log.topics[1]) == ++subscriptionCount, "gap in subscription ids");
        uint256 id = subscriptionCount;
        (, uint40 anchor, uint64 end) = abi.decode(log.data, (bytes32, uint40, uint64));
        require(end == anchor && anchor >= block.timestamp, "anchor");
        IDues.Subscription storage s = _subscriptions[id];
        (s.payer, s.planId, s.anchor) = (_address(log.topics[3]), uint32(uint256(log.topics[2])), anchor);
        paidThrough[id] = end;
        if (anchor > block.timestamp) hasUsedTrial[_plans[s.planId].merchant][s.payer] = true;
    }

    function _charged(uint256 id, IDues.Subscription storage s, Vm.Log calldata log) private {
        (uint16 periods, uint64 end, uint128 amount) = abi.decode(log.data, (uint16, uint64, uint128));
        require(s.flags & ~CHANGE_SCHEDULED == 0, "debit after cancel");
        if (_changedIn[id] == _transactions) {
            require(periods == s.periods && end == paidThrough[id], "not what PlanChanged says");
            require(amount == _owed[id] && amount != 0, "amount of a change");
        } else {
            require(s.flags == 0, "the old plan's period charged");
            require(periods > s.periods && end > paidThrough[id], "period repeated");
            require(amount == uint256(_plans[s.planId].price) * (periods - s.periods), "amount");
            (s.periods, paidThrough[id]) = (periods, end);
        }
        delete _changedIn[id];
        debitedForPeriods[id] += amount;
        _move(s, s.payer, _plans[s.planId].payee, amount);
    }

    function _planChanged(uint256 id, IDues.Subscription storage s, Vm.Log calldata log) private {
        (uint32 from, uint40 anchor, uint16 periods, uint64 end, uint128 credit) =
            abi.decode(log.data, (uint32, uint40, uint16, uint64, uint128));
        require(from == s.planId, "fromPlanId");
        require(s.flags & ~CHANGE_SCHEDULED == 0, "change after cancel");
        // Before the end of the paid time, it is the payer's act, and all periods are new. After that, one is, and all
        // is as scheduled.
        bool due = block.timestamp >= paidThrough[id];
        uint32 planId = uint32(uint256(log.topics[2]));
        if (due) {
            require(s.flags & CHANGE_SCHEDULED != 0 && planId == scheduled[id] && credit == 0, "not as scheduled");
            require(periods == (anchor == s.anchor ? s.periods : 0) + 1, "more than one period");
        } else {
            require(anchor == block.timestamp, "anchor of a change at once");
        }
        _owed[id] = uint256(_plans[planId].price) * (due ? 1 : periods) - credit;
        _changedIn[id] = _transactions;
        (s.planId, s.anchor, s.periods) = (planId, anchor, periods);
        paidThrough[id] = end;
        s.flags &= ~CHANGE_SCHEDULED;
        scheduled[id] = 0;
        credited[id] += credit;
    }

    function _usageCharged(uint256 id, IDues.Subscription storage s, Vm.Log calldata log) private {
        (bytes32 key, uint16 period, uint96 amount, uint96 total) =
            abi.decode(log.data, (bytes32, uint16, uint96, uint96));
        require(s.flags & ENDED == 0, "debit after end");
        require(s.flags & ~CHANGE_SCHEDULED == 0 || block.timestamp < paidThrough[id], "debit after cancel");
        uint256 start = _start(id, period);
        _usage[id][start] += amount;
        require(total == _usage[id][start], "total of usage");
        require(total <= _plans[s.planId].usageCap && amount != 0, "more than the cap");
        require(period != 0 && period <= s.periods && block.timestamp >= start, "usage of no paid period");
        _spend(id, key);
        debitedForUsage[id] += amount;
        _move(s, s.payer, _plans[s.planId].payee, amount);
    }

    function _refunded(uint256 id, IDues.Subscription storage s, Vm.Log calldata log) private {
        (bytes32 key, address from, uint128 amount, uint128 total) =
            abi.decode(log.data, (bytes32, address, uint128, uint128));
        refunded[id] += amount;
        require(total == refunded[id] && amount != 0, "total of refunds");
        require(total <= debitedForPeriods[id] + debitedForUsage[id], "more than was paid");
        _spend(id, key);
        _move(s, from, s.payer, amount);
    }

    function _spend(uint256 id, bytes32 key) private {
        require(!isKeySpent[id][key], "key spent twice");
        isKeySpent[id][key] = true;
    }

    function _move(IDues.Subscription storage s, address from, address to, uint256 amount) private {
        mapping(address => int256) storage flows = flow[_plans[s.planId].token];
        flows[from] -= int256(amount);
        flows[to] += int256(amount);
    }

    /// @dev When a period starts, counted by hand.
    function _start(uint256 id, uint256 period) private view returns (uint256) {
        IDues.Subscription storage s = _subscriptions[id];
        if (period == 0) return 0;
        IDues.Plan storage p = _plans[s.planId];
        uint256 units = p.count * (period - 1);
        return p.unit == IDues.IntervalUnit.Month ? PlainCalendar.addMonths(s.anchor, units) : s.anchor + units * 1 days;
    }

    function _address(bytes32 topic) private pure returns (address) {
        return address(uint160(uint256(topic)));
    }
}
