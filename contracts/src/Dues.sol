// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "./IDues.sol";
import {Periods} from "./libraries/Periods.sol";
import {TokenCalls} from "./libraries/TokenCalls.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @title Dues
/// @notice The implementation of `IDues`, which is where everything is specified.
/// @dev Effects come before token calls, and the guard is on every function that changes state. The guard is also on
/// the views of subscriptions: during a token call, storage already shows the period as paid.
contract Dues is IDues, ReentrancyGuardTransient {
    // CONSTANTS

    uint256 private constant MAX_DAYS = 3660;
    uint256 private constant MAX_MONTHS = 120;
    uint256 private constant MAX_TRIAL = 366 days;
    uint256 private constant MIN_GRACE = 1 hours;

    /// @dev Bits of `Subscription.flags`.
    uint8 private constant ENDS_WITH_PAID_TIME = 1 << 0;
    uint8 private constant ENDED = 1 << 1;

    /// @dev Where `Subscription.periods` sits in its slot: above the payer, the plan id and the anchor.
    uint256 private constant PERIODS_OFFSET = 232;

    /// @dev Somebody else than this contract has called `chargeItem`.
    error NotSelf(address caller);

    // STORAGE

    /// @dev The ids that come next, in one slot. They start at 1, so that the slot is never zero and the first plan
    /// costs no more than the others.
    uint32 private _nextPlanId = 1;
    uint224 private _nextId = 1;

    mapping(uint32 planId => Plan) private _plans;

    mapping(uint256 id => Subscription) private _subscriptions;

    mapping(address merchant => mapping(address payer => bool)) private _trialUsed;

    // PLANS

    /// @inheritdoc IDues
    function createPlan(PlanTerms calldata terms) external nonReentrant returns (uint32 planId) {
        if (terms.token.code.length == 0 || terms.token == address(this)) revert InvalidToken(terms.token);
        if (terms.price == 0) revert InvalidPrice();
        if (terms.payee == address(0) || terms.payee == address(this) || terms.payee == terms.token) {
            revert InvalidPayee(terms.payee);
        }
        uint256 maxCount = terms.unit == IntervalUnit.Month ? MAX_MONTHS : MAX_DAYS;
        if (terms.count == 0 || terms.count > maxCount) revert InvalidCount(terms.count, maxCount);
        if (terms.trial > MAX_TRIAL) revert InvalidTrial(terms.trial, MAX_TRIAL);
        uint256 maxGrace = Periods.shortest(terms.unit, terms.count);
        if (terms.grace < MIN_GRACE || terms.grace > maxGrace) revert InvalidGrace(terms.grace, MIN_GRACE, maxGrace);

        planId = _nextPlanId++;
        _plans[planId] = Plan({
            token: terms.token,
            price: terms.price,
            payee: terms.payee,
            unit: terms.unit,
            count: terms.count,
            trial: terms.trial,
            grace: terms.grace,
            retired: false,
            merchant: msg.sender
        });
        emit PlanCreated(
            planId, msg.sender, terms.token, terms.payee, terms.price, terms.unit, terms.count, terms.trial, terms.grace
        );
    }

    /// @inheritdoc IDues
    function retirePlan(uint32 planId) external nonReentrant {
        Plan storage p = _plans[planId];
        address merchant = p.merchant;
        if (merchant == address(0)) revert UnknownPlan(planId);
        if (msg.sender != merchant) revert NotMerchant(planId, msg.sender);
        if (p.retired) return;

        p.retired = true;
        emit PlanRetired(planId);
    }

    // SUBSCRIBING

    /// @inheritdoc IDues
    function subscribe(uint32 planId, bytes32 ref) external nonReentrant returns (uint256 id) {
        return _subscribe(planId, ref);
    }

    /// @inheritdoc IDues
    function subscribeWithPermit(
        uint32 planId,
        bytes32 ref,
        uint256 value,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant returns (uint256 id) {
        // Before any check or effect: nothing read so far can become stale. The token of an unknown plan is the zero
        // account, where the call does nothing.
        TokenCalls.permit(_plans[planId].token, msg.sender, value, deadline, v, r, s);
        return _subscribe(planId, ref);
    }

    function _subscribe(uint32 planId, bytes32 ref) private returns (uint256 id) {
        Plan storage p = _plans[planId];
        if (p.token == address(0)) revert UnknownPlan(planId);
        if (p.retired) revert RetiredPlan(planId);

        uint256 trial = p.trial;
        if (trial != 0) {
            mapping(address => bool) storage used = _trialUsed[p.merchant];
            if (used[msg.sender]) trial = 0;
            else used[msg.sender] = true;
        }

        id = _nextId++;
        // Safe cast: block timestamps stay below 2^40 for another 34,000 years.
        // forge-lint: disable-next-line(unsafe-typecast)
        uint40 anchor = uint40(block.timestamp + trial);
        _subscriptions[id] = Subscription({payer: msg.sender, planId: planId, anchor: anchor, periods: 0, flags: 0});
        emit Subscribed(id, planId, msg.sender, ref, anchor, anchor);

        if (trial == 0) _charge(id);
    }

    // CHARGING

    /// @inheritdoc IDues
    function charge(uint256 id) external nonReentrant {
        _charge(id);
    }

    /// @inheritdoc IDues
    function chargeBatch(uint256[] calldata ids) external nonReentrant returns (uint256 charged) {
        for (uint256 i = 0; i < ids.length; ++i) {
            uint256 id = ids[i];
            Reason reason = _chargeAlone(id);
            if (reason == Reason.None) {
                ++charged;
            } else if (reason >= Reason.Allowance) {
                // Due, tried and refused. An event for everything that is not due would let anybody fill the log.
                Subscription storage s = _subscriptions[id];
                emit ChargeFailed(id, s.planId, s.payer, reason);
            }
        }
    }

    /// @notice One item of a batch. Only this contract itself may call: what is refused in here is undone, whatever the
    /// token did and then denied.
    function chargeItem(uint256 id) external {
        if (msg.sender != address(this)) revert NotSelf(msg.sender);
        _charge(id);
    }

    /// @dev Charges in a call of its own; `None` if that went through.
    function _chargeAlone(uint256 id) private returns (Reason reason) {
        bytes4 item = this.chargeItem.selector;
        bytes4 refused = ChargeRefused.selector;
        assembly ("memory-safe") {
            let data := mload(0x40)
            mstore(data, item)
            mstore(add(data, 0x04), id)
            if iszero(call(gas(), address(), 0, data, 0x24, data, 0x44)) {
                // Whatever is not `ChargeRefused(id, reason)` is a lack of gas, which is no failure of the item.
                if iszero(and(eq(returndatasize(), 0x44), eq(shr(224, mload(data)), shr(224, refused)))) {
                    returndatacopy(data, 0, returndatasize())
                    revert(data, returndatasize())
                }
                reason := mload(add(data, 0x24))
            }
        }
    }

    /// @dev The only place that debits anybody. Reverts with `ChargeRefused` unless it did.
    function _charge(uint256 id) private {
        Subscription storage s = _subscriptions[id];
        // The slot as one word, beside its fields: counting a period is one addition then.
        uint256 word = _word(s);
        (address payer, uint32 planId, uint16 periods) = (s.payer, s.planId, s.periods);
        Plan storage p = _plans[planId];
        (address token, uint96 price, address payee) = (p.token, p.price, p.payee);
        (uint256 end, uint256 nextEnd) = Periods.ends(s.anchor, p.unit, p.count, periods);

        if (!_pastDue(word, end, p.grace)) revert ChargeRefused(id, _standing(s));

        assembly ("memory-safe") {
            // Cannot overflow into the flags: a subscription with all its periods paid is not past due.
            sstore(s.slot, add(word, shl(PERIODS_OFFSET, 1)))
        }
        (bool moved, uint256 available) = TokenCalls.transfer(token, payer, payee, price);
        if (!moved) revert ChargeRefused(id, TokenCalls.refusal(token, payer, price, available));
        unchecked {
            // Safe cast: see `Periods.ends`.
            // forge-lint: disable-next-line(unsafe-typecast)
            emit Charged(id, planId, payer, periods + 1, uint64(nextEnd), price);
        }
    }

    // CANCELLING

    /// @inheritdoc IDues
    function cancel(uint256 id) external nonReentrant {
        Subscription storage s = _ofCaller(id);
        if (s.flags & (ENDS_WITH_PAID_TIME | ENDED) != 0) return;

        s.flags |= ENDS_WITH_PAID_TIME;
        emit CancelScheduled(id, s.planId, s.payer);
    }

    /// @inheritdoc IDues
    function cancelNow(uint256 id) external nonReentrant {
        Subscription storage s = _ofCaller(id);
        if (s.flags & ENDED != 0) return;

        s.flags |= ENDED;
        emit Cancelled(id, s.planId, s.payer);
    }

    /// @inheritdoc IDues
    function resume(uint256 id) external nonReentrant {
        Subscription storage s = _ofCaller(id);
        uint64 end = _paidThrough(s);
        if (s.flags & ENDED != 0) revert AlreadyEnded(id, end);
        if (s.flags & ENDS_WITH_PAID_TIME == 0) revert NothingToResume(id);
        if (block.timestamp >= end) revert AlreadyEnded(id, end);

        s.flags &= ~ENDS_WITH_PAID_TIME;
        emit Resumed(id, s.planId, s.payer, end);
    }

    /// @dev Subscription `id`, which must exist and belong to the caller.
    function _ofCaller(uint256 id) private view returns (Subscription storage s) {
        s = _subscriptions[id];
        if (s.payer == address(0)) revert UnknownSubscription(id);
        if (s.payer != msg.sender) revert NotPayer(id, msg.sender);
    }

    // VIEWS

    /// @inheritdoc IDues
    function plan(uint32 planId) external view returns (Plan memory) {
        return _plans[planId];
    }

    /// @inheritdoc IDues
    function subscription(uint256 id) external view nonReentrantView returns (Subscription memory) {
        return _subscriptions[id];
    }

    /// @inheritdoc IDues
    function subscriptions(uint256 fromId, uint256 count)
        external
        view
        nonReentrantView
        returns (Subscription[] memory list)
    {
        if (fromId == 0) fromId = 1;
        uint256 next = _nextId;
        if (fromId >= next) return list;
        if (count > next - fromId) count = next - fromId;
        list = new Subscription[](count);
        for (uint256 i = 0; i < count; ++i) {
            list[i] = _subscriptions[fromId + i];
        }
    }

    /// @inheritdoc IDues
    function paidThrough(uint256 id) external view nonReentrantView returns (uint64) {
        return _paidThrough(_subscriptions[id]);
    }

    /// @inheritdoc IDues
    function statusOf(uint256 id) external view nonReentrantView returns (Status) {
        Subscription storage s = _subscriptions[id];
        Reason reason = _standing(s);
        if (reason == Reason.UnknownSubscription) return Status.None;
        if (reason == Reason.NotDue) return s.periods == 0 ? Status.Trialing : Status.Active;
        if (reason == Reason.None) return Status.PastDue;
        if (reason == Reason.Lapsed) return Status.Lapsed;
        return Status.Cancelled;
    }

    /// @inheritdoc IDues
    function previewCharge(uint256 id) external view nonReentrantView returns (Reason reason) {
        Subscription storage s = _subscriptions[id];
        reason = _standing(s);
        if (reason != Reason.None) return reason;
        Plan storage p = _plans[s.planId];
        return TokenCalls.obstacle(p.token, s.payer, p.price);
    }

    /// @inheritdoc IDues
    function hasUsedTrial(address merchant, address payer) external view returns (bool) {
        return _trialUsed[merchant][payer];
    }

    /// @inheritdoc IDues
    function planCount() external view returns (uint32) {
        return _nextPlanId - 1;
    }

    /// @inheritdoc IDues
    function subscriptionCount() external view returns (uint256) {
        return _nextId - 1;
    }

    // RULES

    /// @dev The end of the last paid period. For an unknown subscription every part is zero, and so is the result.
    function _paidThrough(Subscription storage s) private view returns (uint64) {
        Plan storage p = _plans[s.planId];
        (uint256 end,) = Periods.ends(s.anchor, p.unit, p.count, s.periods);
        // Safe cast: see `Periods.ends`.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint64(end);
    }

    /// @dev Whether a period can be charged now, whatever the token does. False for an unknown subscription, which has
    /// no grace.
    /// @param word The subscription's slot.
    function _pastDue(uint256 word, uint256 end, uint256 grace) private view returns (bool) {
        unchecked {
            // Before the end, the difference wraps around to more than any grace. The flags lie above the counter of
            // periods: both flags are clear and the counter is not full.
            return block.timestamp - end < grace && word >> PERIODS_OFFSET < type(uint16).max;
        }
    }

    /// @dev Why a period cannot be charged now, whatever the token does; `None` exactly when it is past due.
    function _standing(Subscription storage s) private view returns (Reason) {
        uint256 end = _paidThrough(s);
        if (_pastDue(_word(s), end, _plans[s.planId].grace)) return Reason.None;
        uint8 flags = s.flags;
        if (s.payer == address(0)) return Reason.UnknownSubscription;
        if (flags & ENDED != 0) return Reason.Cancelled;
        if (block.timestamp < end) return Reason.NotDue;
        return flags & ENDS_WITH_PAID_TIME != 0 ? Reason.Cancelled : Reason.Lapsed;
    }

    function _word(Subscription storage s) private view returns (uint256 word) {
        assembly ("memory-safe") {
            word := sload(s.slot)
        }
    }
}
