// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../../src/IDues.sol";
import {Vm} from "forge-std/Vm.sol";

/// @notice What the events say: a fold over the logs, as an indexer does it, without ever reading the contract.
contract Ledger {
    uint32 public planCount;
    uint256 public subscriptionCount;
    mapping(uint32 planId => IDues.Plan) private _plans;
    mapping(uint256 id => IDues.Subscription) private _subscriptions;
    mapping(uint256 id => uint64) public paidThrough;
    mapping(uint256 id => uint256) public debited;
    mapping(address merchant => mapping(address payer => bool)) public hasUsedTrial;

    function plan(uint32 planId) external view returns (IDues.Plan memory) {
        return _plans[planId];
    }

    function subscription(uint256 id) external view returns (IDues.Subscription memory) {
        return _subscriptions[id];
    }

    function fold(Vm.Log calldata log) external {
        bytes32 kind = log.topics[0];
        if (kind == IDues.PlanCreated.selector) return _planCreated(log);
        if (kind == IDues.PlanRetired.selector) {
            _plans[uint32(uint256(log.topics[1]))].retired = true;
            return;
        }
        if (kind == IDues.Subscribed.selector) return _subscribed(log);

        uint256 id = uint256(log.topics[1]);
        IDues.Subscription storage s = _subscriptions[id];
        if (kind == IDues.ChargeFailed.selector) {
            // Changes nothing. Names plan and payer, or neither if there is no such subscription.
            require(uint256(log.topics[2]) == s.planId && _address(log.topics[3]) == s.payer, "names");
            return;
        }
        require(s.payer != address(0), "event before Subscribed");
        require(uint256(log.topics[2]) == s.planId && _address(log.topics[3]) == s.payer, "names");

        if (kind == IDues.Charged.selector) {
            (uint16 periods, uint64 end, uint96 amount) = abi.decode(log.data, (uint16, uint64, uint96));
            require(s.flags == 0, "debit after cancel");
            require(periods == s.periods + 1, "period skipped or repeated");
            require(amount == _plans[s.planId].price, "amount");
            require(end > paidThrough[id], "end");
            s.periods = periods;
            paidThrough[id] = end;
            debited[id] += amount;
        } else if (kind == IDues.CancelScheduled.selector) {
            s.flags |= 1;
        } else if (kind == IDues.Cancelled.selector) {
            s.flags |= 2;
        } else if (kind == IDues.Resumed.selector) {
            require(abi.decode(log.data, (uint64)) == paidThrough[id], "paidThrough");
            s.flags &= ~uint8(1);
        } else {
            revert("unknown event");
        }
    }

    function _planCreated(Vm.Log calldata log) private {
        require(uint256(log.topics[1]) == ++planCount, "gap in plan ids");
        IDues.Plan storage p = _plans[planCount];
        p.merchant = _address(log.topics[2]);
        p.token = _address(log.topics[3]);
        (p.payee, p.price, p.unit, p.count, p.trial, p.grace) =
            abi.decode(log.data, (address, uint96, IDues.IntervalUnit, uint16, uint32, uint32));
    }

    function _subscribed(Vm.Log calldata log) private {
        require(uint256(log.topics[1]) == ++subscriptionCount, "gap in subscription ids");
        uint256 id = subscriptionCount;
        (, uint40 anchor, uint64 end) = abi.decode(log.data, (bytes32, uint40, uint64));
        require(end == anchor, "paidThrough is not the anchor");
        _subscriptions[id] = IDues.Subscription(_address(log.topics[3]), uint32(uint256(log.topics[2])), anchor, 0, 0);
        paidThrough[id] = end;
        if (anchor > block.timestamp) {
            hasUsedTrial[_plans[_subscriptions[id].planId].merchant][_subscriptions[id].payer] = true;
        }
    }

    function _address(bytes32 topic) private pure returns (address) {
        return address(uint160(uint256(topic)));
    }
}
