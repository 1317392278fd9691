// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "./IDues.sol";
import {Intents} from "./libraries/Intents.sol";
import {Periods} from "./libraries/Periods.sol";
import {TokenCalls} from "./libraries/TokenCalls.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

/// @title Dues
/// @notice The implementation of `IDues`, which is where everything is specified.
/// @dev Effects come before token calls, and the guard is on every function that changes state. The guard is also on
/// the views of subscriptions: during a token call, storage already shows the period as paid.
contract Dues is IDues, Multicall, ReentrancyGuardTransient {
    using SafeCast for uint256;
    using SafeCast for int256;

    // CONSTANTS

    uint256 private constant MAX_DAYS = 3660;
    uint256 private constant MAX_MONTHS = 120;
    uint256 private constant MAX_TRIAL = 366 days;
    uint256 private constant MIN_GRACE = 1 hours;
    uint256 private constant MAX_PERIODS = 65_535;
    uint256 private constant PAYEE_DELAY = 2 days;

    /// @dev Bits of `Subscription.flags`.
    uint8 private constant ENDS_BY_PAYER = 1 << 0;
    uint8 private constant ENDED = 1 << 1;
    uint8 private constant ENDS_BY_MERCHANT = 1 << 2;
    uint8 private constant CHANGE_SCHEDULED = 1 << 3;
    uint8 private constant ENDS_WITH_PAID_TIME = ENDS_BY_PAYER | ENDS_BY_MERCHANT;

    /// @dev Where `Subscription.periods` and `flags` sit in the slot: above the payer, the plan id and the anchor.
    uint256 private constant PERIODS_OFFSET = 232;
    uint256 private constant FLAGS_OFFSET = 248;

    /// @dev Somebody else than this contract has called `chargeItem`.
    error NotSelf(address caller);

    // STORAGE

    struct PayeeProposal {
        address payee;
        uint64 acceptableFrom;
    }

    /// @dev What a subscription's own slot does not tell about its money. Written when something else than a renewal
    /// happens, so that a renewal need not pay for it.
    /// @param adjustment What was paid beyond the price of all its periods: `paid = price * periods + adjustment`.
    /// @param refunded The sum of refunds.
    /// @param periodsBefore How many of its periods were of an earlier plan.
    struct Totals {
        int120 adjustment;
        uint120 refunded;
        uint16 periodsBefore;
    }

    /// @dev The ids that come next, in one slot. They start at 1, so that the slot is never zero and the first plan
    /// costs no more than the others.
    uint32 private _nextPlanId = 1;
    uint224 private _nextId = 1;

    mapping(uint32 planId => Plan) private _plans;

    mapping(uint256 id => Subscription) private _subscriptions;

    // Slither does not see writes through a pointer.
    // slither-disable-next-line uninitialized-state
    mapping(uint256 id => Totals) private _totals;

    /// @dev Of a subscription with `CHANGE_SCHEDULED`: the plan of its next period.
    mapping(uint256 id => uint32 planId) private _scheduled;

    /// @dev By the start of the period, which a change of plan does not give a second time.
    mapping(uint256 id => mapping(uint256 periodStart => uint96)) private _usage;

    mapping(uint256 id => mapping(bytes32 key => bool)) private _keySpent;

    mapping(uint32 planId => PayeeProposal) private _proposals;

    mapping(address merchant => mapping(address operator => bool)) private _operators;

    // slither-disable-next-line uninitialized-state
    mapping(address merchant => mapping(address payer => bool)) private _trialUsed;

    mapping(address payer => mapping(uint256 word => uint256)) private _nonces;

    // PLANS

    /// @inheritdoc IDues
    function createPlan(PlanTerms calldata terms) external nonReentrant returns (uint32 planId) {
        if (terms.token.code.length == 0 || terms.token == address(this) || terms.token == address(TokenCalls.PERMIT2)) revert InvalidToken(terms.token);
        if (terms.price == 0) revert InvalidPrice();
        if (terms.payee == address(0)) revert InvalidPayee(terms.payee);
        _requirePossiblePayee(terms.payee, terms.token);
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
            merchant: msg.sender,
            usageCap: terms.usageCap
        });
        emit PlanCreated(
            planId,
            msg.sender,
            terms.token,
            terms.payee,
            terms.price,
            terms.unit,
            terms.count,
            terms.trial,
            terms.grace,
            terms.usageCap
        );
    }

    /// @inheritdoc IDues
    function retirePlan(uint32 planId) external nonReentrant {
        Plan storage p = _planOfCaller(planId);
        if (p.retired) return;

        p.retired = true;
        emit PlanRetired(planId);
    }

    /// @inheritdoc IDues
    function proposePayee(uint32 planId, address payee) external nonReentrant {
        Plan storage p = _planOfCaller(planId);
        _requirePossiblePayee(payee, p.token);

        // Safe cast: block timestamps stay below 2^40 for another 34,000 years.
        // forge-lint: disable-next-line(unsafe-typecast)
        uint64 acceptableFrom = payee == address(0) ? 0 : uint64(block.timestamp + PAYEE_DELAY);
        _proposals[planId] = PayeeProposal(payee, acceptableFrom);
        emit PayeeProposed(planId, payee, acceptableFrom);
    }

    /// @inheritdoc IDues
    function acceptPayee(uint32 planId) external nonReentrant {
        PayeeProposal memory proposal = _proposals[planId];
        if (msg.sender != proposal.payee) revert NotProposedPayee(planId, msg.sender);
        if (block.timestamp < proposal.acceptableFrom) revert TooEarly(planId, proposal.acceptableFrom);

        delete _proposals[planId];
        _plans[planId].payee = msg.sender;
        emit PayeeChanged(planId, msg.sender);
    }

    /// @inheritdoc IDues
    function setOperator(address operator, bool approved) external nonReentrant {
        _operators[msg.sender][operator] = approved;
        emit OperatorSet(msg.sender, operator, approved);
    }

    // SUBSCRIBING

    /// @inheritdoc IDues
    function subscribe(uint32 planId, bytes32 ref) external nonReentrant returns (uint256 id) {
        return _subscribe(msg.sender, planId, ref, 0, true);
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
        return _subscribe(msg.sender, planId, ref, 0, true);
    }

    /// @inheritdoc IDues
    function subscribePrepaid(uint32 planId, bytes32 ref, uint16 count, bool renews)
        external
        nonReentrant
        returns (uint256 id)
    {
        if (count == 0) revert InvalidCount(0, MAX_PERIODS);
        return _subscribe(msg.sender, planId, ref, count, renews);
    }

    /// @inheritdoc IDues
    function prepay(uint256 id, uint16 count) external nonReentrant {
        Subscription storage s = _ofCaller(id);
        _requireChangeable(id, s);
        if (s.flags & CHANGE_SCHEDULED != 0) revert ChangePending(id);
        uint256 periods = s.periods;
        if (count == 0 || count > MAX_PERIODS - periods) revert InvalidCount(count, MAX_PERIODS - periods);

        periods += count;
        // Safe cast: just checked.
        // forge-lint: disable-next-line(unsafe-typecast)
        s.periods = uint16(periods);
        Plan storage p = _plans[s.planId];
        _collect(id, s.planId, s.payer, p.token, p.payee, uint256(p.price) * count, periods, _paidThrough(s));
    }

    /// @param count Periods to pay now, without a trial; 0 for the trial, or one period if there is none.
    function _subscribe(address payer, uint32 planId, bytes32 ref, uint256 count, bool renews)
        private
        returns (uint256 id)
    {
        Plan storage p = _plans[planId];
        if (p.token == address(0)) revert UnknownPlan(planId);
        if (p.retired) revert RetiredPlan(planId);

        uint256 trial = 0;
        if (count == 0) {
            trial = p.trial;
            if (trial != 0) {
                mapping(address => bool) storage used = _trialUsed[p.merchant];
                if (used[payer]) trial = 0;
                else used[payer] = true;
            }
            if (trial == 0) count = 1;
        }

        id = _nextId++;
        // Safe casts: block timestamps stay below 2^40 for another 34,000 years, and `count` was 16 bits wide.
        // forge-lint: disable-next-line(unsafe-typecast)
        uint40 anchor = uint40(block.timestamp + trial);
        _subscriptions[id] = Subscription({
            payer: payer,
            planId: planId,
            anchor: anchor,
            // forge-lint: disable-next-line(unsafe-typecast)
            periods: uint16(count),
            flags: renews ? 0 : ENDS_BY_PAYER
        });
        emit Subscribed(id, planId, payer, ref, anchor, anchor);

        if (count != 0) {
            uint256 end = Periods.end(anchor, p.unit, p.count, count);
            _collect(id, planId, payer, p.token, p.payee, uint256(p.price) * count, count, end);
        }
        if (!renews) emit CancelScheduled(id, planId, payer, false);
    }

    // CHARGING

    /// @inheritdoc IDues
    function chargeOne(uint256 id) external nonReentrant {
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

    /// @inheritdoc IDues
    function chargeUsage(uint256 id, uint16 period, uint96 amount, bytes32 key) external nonReentrant {
        Subscription storage s = _ofMerchant(id);
        Plan storage p = _plans[s.planId];
        if (amount == 0) revert InvalidAmount();
        _spendKey(id, key);
        uint256 start = _requireOpenPeriod(id, s, p, period);
        uint256 total = uint256(_usage[id][start]) + amount;
        if (total > p.usageCap) revert UsageCapExceeded(id, total, p.usageCap);

        // Safe cast: the cap has 96 bits.
        // forge-lint: disable-next-line(unsafe-typecast)
        _usage[id][start] = uint96(total);
        Totals storage t = _totals[id];
        t.adjustment = (int256(t.adjustment) + int256(uint256(amount))).toInt120();

        Reason reason = TokenCalls.pull(p.token, s.payer, p.payee, amount);
        if (reason != Reason.None) revert ChargeRefused(id, reason);
        // forge-lint: disable-next-line(unsafe-typecast)
        emit UsageCharged(id, s.planId, s.payer, key, period, amount, uint96(total));
    }

    /// @dev Charges in a call of its own; `None` if that went through.
    function _chargeAlone(uint256 id) private returns (Reason reason) {
        bytes4 item = this.chargeItem.selector;
        bytes4 refused = ChargeRefused.selector;
        bytes4 starved = InsufficientGas.selector;
        Reason other = Reason.Token;
        assembly ("memory-safe") {
            let data := mload(0x40)
            mstore(data, item)
            mstore(add(data, 0x04), id)
            if iszero(call(gas(), address(), 0, data, 0x24, data, 0x44)) {
                let selector := shr(224, mload(data))
                // A lack of gas, which is no failure of the item.
                if or(iszero(returndatasize()), eq(selector, shr(224, starved))) {
                    returndatacopy(data, 0, returndatasize())
                    revert(data, returndatasize())
                }
                // Refused; or, with sums that no real token has, too large for what counts them.
                switch eq(selector, shr(224, refused))
                case 1 { reason := mload(add(data, 0x24)) }
                default { reason := other }
            }
        }
    }

    /// @dev Reverts with `ChargeRefused` unless it charged.
    function _charge(uint256 id) private {
        Subscription storage s = _subscriptions[id];
        // The slot as one word, beside its fields: counting a period is one addition then.
        uint256 word = _word(s);
        (address payer, uint32 planId, uint16 periods) = (s.payer, s.planId, s.periods);
        Plan storage p = _plans[planId];
        (address token, uint96 price, address payee) = (p.token, p.price, p.payee);
        (uint256 end, uint256 nextEnd) = Periods.ends(s.anchor, p.unit, p.count, periods);

        if (!_pastDue(word, end, p.grace)) {
            if (word >> FLAGS_OFFSET != CHANGE_SCHEDULED) revert ChargeRefused(id, _standing(id, s));
            return _chargeScheduled(id, s, end);
        }

        unchecked {
            // Cannot overflow into the flags: a subscription with all its periods paid is not past due.
            word += 2 ** PERIODS_OFFSET;
            assembly ("memory-safe") {
                sstore(s.slot, word)
            }
            _collect(id, planId, payer, token, payee, price, uint256(periods) + 1, nextEnd);
        }
    }

    /// @dev Charges the first period of the plan that the payer scheduled. The paid time ends at `end`.
    function _chargeScheduled(uint256 id, Subscription storage s, uint256 end) private {
        Reason standing = _standing(id, s);
        if (standing != Reason.None) revert ChargeRefused(id, standing);

        uint32 planId = _scheduled[id];
        Plan storage q = _plans[planId];
        bool counted = _sameInterval(_plans[s.planId], q);
        uint256 before = counted ? s.periods : 0;
        uint256 anchor = counted ? s.anchor : end;
        uint256 nextEnd = Periods.end(anchor, q.unit, q.count, before + 1);

        _changePlan(id, s, planId, anchor, before, 1, nextEnd, 0, q.price);
    }

    /// @dev The only place that debits for periods, and the last thing that a function does.
    function _collect(
        uint256 id,
        uint32 planId,
        address payer,
        address token,
        address payee,
        uint256 amount,
        uint256 periods,
        uint256 end
    ) private {
        Reason reason = TokenCalls.pull(token, payer, payee, amount);
        if (reason != Reason.None) revert ChargeRefused(id, reason);
        // Safe casts: periods are counted in 16 bits, see `Periods.ends`, and a price has 96 bits.
        // forge-lint: disable-next-line(unsafe-typecast)
        emit Charged(id, planId, payer, uint16(periods), uint64(end), uint128(amount));
    }

    // CHANGING

    /// @inheritdoc IDues
    function changeNow(uint256 id, uint32 planId, uint16 count, uint128 maxAmount) external nonReentrant {
        _changeNow(id, _ofCaller(id), planId, count, maxAmount);
    }

    /// @inheritdoc IDues
    function scheduleChange(uint256 id, uint32 planId) external nonReentrant {
        _scheduleChange(id, _ofCaller(id), planId, false);
    }

    /// @inheritdoc IDues
    function revokeChange(uint256 id) external nonReentrant {
        Subscription storage s = _ofCaller(id);
        if (s.flags & CHANGE_SCHEDULED == 0) revert NothingScheduled(id);
        // A subscription that has lapsed under the new plan's grace must not come to life under the old one's.
        _requireChangeable(id, s);

        s.flags &= ~CHANGE_SCHEDULED;
        delete _scheduled[id];
        emit ChangeRevoked(id, s.planId, s.payer);
    }

    /// @inheritdoc IDues
    function migrate(uint256 id, uint32 planId) external nonReentrant {
        Subscription storage s = _existing(id);
        uint32 fromPlanId = s.planId;
        Plan storage p = _plans[fromPlanId];
        if (p.merchant != msg.sender) revert NotMerchant(fromPlanId, msg.sender);
        if (s.flags & CHANGE_SCHEDULED != 0) revert ChangePending(id);
        Plan storage q = _related(fromPlanId, planId);
        bool favourable = _sameInterval(p, q) && q.price <= p.price && q.usageCap <= p.usageCap && q.grace >= p.grace
            && q.payee == p.payee && _proposals[planId].payee == address(0);
        if (!favourable) revert NotFavourable(fromPlanId, planId);

        _scheduleChange(id, s, planId, true);
    }

    function _changeNow(uint256 id, Subscription storage s, uint32 planId, uint16 count, uint256 maxAmount) private {
        (uint256 amount, uint256 credit, uint256 end) = _quote(id, s, planId, count);
        if (amount > maxAmount) revert AmountExceedsMax(amount, maxAmount);

        _changePlan(id, s, planId, block.timestamp, 0, count, end, credit, amount);
    }

    function _scheduleChange(uint256 id, Subscription storage s, uint32 planId, bool byMerchant) private {
        _related(s.planId, planId);
        _requireChangeable(id, s);

        s.flags |= CHANGE_SCHEDULED;
        _scheduled[id] = planId;
        // Past due, the new plan's grace may be over already.
        _requireChangeable(id, s);
        emit ChangeScheduled(id, s.planId, s.payer, planId, byMerchant);
    }

    /// @dev Puts a subscription on another plan and debits `amount` for the first `count` periods of it.
    /// @param before How many periods of the old plan are counted since the anchor.
    /// @param end The end of the last period then.
    function _changePlan(
        uint256 id,
        Subscription storage s,
        uint32 planId,
        uint256 anchor,
        uint256 before,
        uint256 count,
        uint256 end,
        uint256 credit,
        uint256 amount
    ) private {
        Plan storage q = _plans[planId];
        (address payer, uint32 fromPlanId) = (s.payer, s.planId);
        uint256 periods = before + count;
        Totals storage t = _totals[id];
        int256 total = (_paid(id, s) + amount).toInt256();
        int256 regular = (uint256(q.price) * periods).toInt256();
        t.adjustment = (total - regular).toInt120();
        // Safe casts: periods are checked to be less than 2^16 by the callers, time is far below 2^40, and a credit is
        // less than what 2^16 periods cost.
        // forge-lint: disable-start(unsafe-typecast)
        t.periodsBefore = uint16(before);
        if (s.flags & CHANGE_SCHEDULED != 0) delete _scheduled[id];
        _subscriptions[id] =
            Subscription({payer: payer, planId: planId, anchor: uint40(anchor), periods: uint16(periods), flags: 0});
        emit PlanChanged(id, planId, payer, fromPlanId, uint40(anchor), uint16(periods), uint64(end), uint128(credit));
        // forge-lint: disable-end(unsafe-typecast)
        if (amount != 0) _collect(id, planId, payer, q.token, q.payee, amount, periods, end);
    }

    /// @dev What a change at once costs, the credit in that, and the end of what is paid then.
    function _quote(uint256 id, Subscription storage s, uint32 planId, uint16 count)
        private
        view
        returns (uint256 amount, uint256 credit, uint256 end)
    {
        uint32 fromPlanId = s.planId;
        Plan storage p = _plans[fromPlanId];
        Plan storage q = _related(fromPlanId, planId);
        if (_requireChangeable(id, s) != Reason.NotDue) revert NotChangeable(id, Reason.None);
        if (q.price * Periods.nominal(p.unit, p.count) < p.price * Periods.nominal(q.unit, q.count)) {
            revert NotAnUpgrade(fromPlanId, planId);
        }
        if (count == 0) revert InvalidCount(0, MAX_PERIODS);

        credit = _credit(id, s, p);
        uint256 price = uint256(q.price) * count;
        if (credit > price) revert CreditExceedsPrice(credit, price);
        return (price - credit, credit, Periods.end(block.timestamp, q.unit, q.count, count));
    }

    /// @dev What the rest of the paid time is worth, rounded down.
    function _credit(uint256 id, Subscription storage s, Plan storage p) private view returns (uint256 credit) {
        uint256 price = p.price;
        credit = price * s.periods;
        if (block.timestamp >= s.anchor) {
            (uint256 number, uint256 start, uint256 end) = Periods.locate(s.anchor, p.unit, p.count, block.timestamp);
            credit = credit - price * number + price * (end - block.timestamp) / (end - start);
        }
        uint256 kept = _paid(id, s) - _totals[id].refunded;
        if (credit > kept) credit = kept;
    }

    // CANCELLING

    /// @inheritdoc IDues
    function cancel(uint256 id) external nonReentrant {
        (uint256 word, bool byMerchant) = _ofParty(id);
        _cancel(id, word, byMerchant);
    }

    /// @inheritdoc IDues
    function cancelNow(uint256 id) external nonReentrant {
        (uint256 word, bool byMerchant) = _ofParty(id);
        _cancelNow(id, word, byMerchant);
    }

    /// @inheritdoc IDues
    function resume(uint256 id) external nonReentrant {
        Subscription storage s = _ofCaller(id);
        uint64 end = _paidThrough(s);
        if (s.flags & (ENDED | ENDS_BY_MERCHANT) != 0) revert AlreadyEnded(id, end);
        if (s.flags & ENDS_BY_PAYER == 0) revert NothingToResume(id);
        if (block.timestamp >= end) revert AlreadyEnded(id, end);

        s.flags &= ~ENDS_BY_PAYER;
        emit Resumed(id, s.planId, s.payer, end);
    }

    /// @param word The subscription's slot: one look at it suffices for a cancellation.
    function _cancel(uint256 id, uint256 word, bool byMerchant) private {
        // What the merchant did stands above what the payer did.
        uint256 already = byMerchant ? ENDED | ENDS_BY_MERCHANT : ENDED | ENDS_WITH_PAID_TIME;
        if (word >> FLAGS_OFFSET & already != 0) return;

        _setFlag(id, word, byMerchant ? ENDS_BY_MERCHANT : ENDS_BY_PAYER);
        emit CancelScheduled(id, _planIdIn(word), _payerIn(word), byMerchant);
    }

    function _cancelNow(uint256 id, uint256 word, bool byMerchant) private {
        if (word >> FLAGS_OFFSET & ENDED != 0) return;

        _setFlag(id, word, ENDED);
        emit Cancelled(id, _planIdIn(word), _payerIn(word), byMerchant);
    }

    // REFUNDING

    /// @inheritdoc IDues
    function refund(uint256 id, uint128 amount, bytes32 key) external nonReentrant {
        Subscription storage s = _ofMerchant(id);
        if (amount == 0) revert InvalidAmount();
        _spendKey(id, key);
        Totals storage t = _totals[id];
        (uint256 total, uint256 paid) = (uint256(t.refunded) + amount, _paid(id, s));
        if (total > paid) revert RefundExceedsPaid(id, total, paid);

        t.refunded = total.toUint120();
        Reason reason = TokenCalls.pull(_plans[s.planId].token, msg.sender, s.payer, amount);
        if (reason != Reason.None) revert RefundRefused(id, reason);
        // Safe cast: just checked to fit into fewer.
        // forge-lint: disable-next-line(unsafe-typecast)
        emit Refunded(id, s.planId, s.payer, key, msg.sender, amount, uint128(total));
    }

    // SIGNED BY THE PAYER, SENT BY ANYBODY

    /// @inheritdoc IDues
    function subscribeFor(SubscribeIntent calldata intent, bytes calldata signature)
        external
        nonReentrant
        returns (uint256 id)
    {
        bytes32 hash = Intents.hash(intent, _termsHash(intent.planId));
        _authorise(intent.payer, intent.nonce, intent.deadline, hash, signature);
        return _subscribe(intent.payer, intent.planId, intent.ref, intent.count, intent.renews);
    }

    /// @inheritdoc IDues
    function changeFor(ChangeIntent calldata intent, bytes calldata signature) external nonReentrant {
        Subscription storage s = _existing(intent.id);
        address payer = s.payer;
        bytes32 hash = Intents.hash(intent, payer, _termsHash(intent.planId));
        _authorise(payer, intent.nonce, intent.deadline, hash, signature);
        if (intent.count == 0) _scheduleChange(intent.id, s, intent.planId, false);
        else _changeNow(intent.id, s, intent.planId, intent.count, intent.maxAmount);
    }

    /// @inheritdoc IDues
    function cancelFor(CancelIntent calldata intent, bytes calldata signature) external nonReentrant {
        Subscription storage s = _existing(intent.id);
        address payer = s.payer;
        _authorise(payer, intent.nonce, intent.deadline, Intents.hash(intent, payer), signature);
        if (intent.atOnce) _cancelNow(intent.id, _word(s), false);
        else _cancel(intent.id, _word(s), false);
    }

    /// @inheritdoc IDues
    function invalidateNonces(uint256 word, uint256 mask) external nonReentrant {
        mask &= ~_nonces[msg.sender][word];
        if (mask == 0) return;

        _nonces[msg.sender][word] |= mask;
        emit NoncesSpent(msg.sender, word, mask);
    }

    /// @dev The payer's consent, used up before anybody is asked about it.
    function _authorise(address payer, uint256 nonce, uint256 deadline, bytes32 hash, bytes calldata signature)
        private
    {
        if (block.timestamp > deadline) revert Expired(deadline);
        // A bit of the word.
        // forge-lint: disable-next-line(incorrect-shift)
        (uint256 word, uint256 mask) = (nonce >> 8, 1 << (nonce & 0xff));
        if (_nonces[payer][word] & mask != 0) revert NonceSpent(payer, nonce);

        _nonces[payer][word] |= mask;
        emit NoncesSpent(payer, word, mask);
        if (!Intents.signedBy(payer, hash, signature)) revert InvalidSignature(payer);
    }

    // IN FRONT OF ANOTHER CALL

    /// @inheritdoc IDues
    function multicall(bytes[] calldata calls) public override(IDues, Multicall) returns (bytes[] memory) {
        return super.multicall(calls);
    }

    /// @inheritdoc IDues
    function permit(uint32 planId, address owner, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
        nonReentrant
    {
        TokenCalls.permit(_plans[planId].token, owner, value, deadline, v, r, s);
    }

    /// @inheritdoc IDues
    function permit2(
        uint32 planId,
        address owner,
        uint160 value,
        uint48 expiration,
        uint48 nonce,
        uint256 signatureDeadline,
        bytes calldata signature
    ) external nonReentrant {
        TokenCalls.permit2(_plans[planId].token, owner, value, expiration, nonce, signatureDeadline, signature);
    }

    /// @inheritdoc IDues
    function requireTerms(uint32 planId, bytes32 terms) external view {
        bytes32 actual = _termsHash(planId);
        if (actual != terms) revert OtherTerms(planId, actual);
    }

    // VIEWS

    /// @inheritdoc IDues
    function plan(uint32 planId) external view returns (Plan memory) {
        return _plans[planId];
    }

    /// @inheritdoc IDues
    function termsHash(uint32 planId) external view returns (bytes32) {
        return _termsHash(planId);
    }

    /// @inheritdoc IDues
    function proposedPayee(uint32 planId) external view returns (address payee, uint64 acceptableFrom) {
        PayeeProposal memory proposal = _proposals[planId];
        return (proposal.payee, proposal.acceptableFrom);
    }

    /// @inheritdoc IDues
    function isOperator(address merchant, address operator) external view returns (bool) {
        return _operators[merchant][operator];
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
        returns (Record[] memory list)
    {
        if (fromId == 0) fromId = 1;
        uint256 next = _nextId;
        if (fromId >= next) return list;
        if (count > next - fromId) count = next - fromId;
        list = new Record[](count);
        for (uint256 i = 0; i < count; ++i) {
            uint256 id = fromId + i;
            Subscription storage s = _subscriptions[id];
            list[i] = Record({
                subscription: s,
                status: _status(id, s),
                paidThrough: _paidThrough(s),
                scheduledPlanId: _scheduled[id],
                paid: _paid(id, s),
                refunded: _totals[id].refunded
            });
        }
    }

    /// @inheritdoc IDues
    function paidThrough(uint256 id) external view nonReentrantView returns (uint64) {
        return _paidThrough(_subscriptions[id]);
    }

    /// @inheritdoc IDues
    function statusOf(uint256 id) external view nonReentrantView returns (Status) {
        return _status(id, _subscriptions[id]);
    }

    /// @inheritdoc IDues
    function previewCharge(uint256 id) external view nonReentrantView returns (Reason reason) {
        Subscription storage s = _subscriptions[id];
        reason = _standing(id, s);
        if (reason != Reason.None) return reason;
        Plan storage p = _nextPlan(id, s);
        return TokenCalls.obstacle(p.token, s.payer, p.price);
    }

    /// @inheritdoc IDues
    function previewChange(uint256 id, uint32 planId, uint16 count)
        external
        view
        nonReentrantView
        returns (uint128 amount, uint128 credit, uint64 newPaidThrough)
    {
        (uint256 amount_, uint256 credit_, uint256 end) = _quote(id, _existing(id), planId, count);
        // Safe casts: less than what 2^16 periods cost; see `Periods.ends`.
        // forge-lint: disable-next-line(unsafe-typecast)
        return (uint128(amount_), uint128(credit_), uint64(end));
    }

    /// @inheritdoc IDues
    function usageOf(uint256 id, uint16 period) external view nonReentrantView returns (uint96) {
        Subscription storage s = _subscriptions[id];
        if (period == 0) return 0;
        Plan storage p = _plans[s.planId];
        return _usage[id][Periods.end(s.anchor, p.unit, p.count, period - 1)];
    }

    /// @inheritdoc IDues
    function isKeySpent(uint256 id, bytes32 key) external view nonReentrantView returns (bool) {
        return _keySpent[id][key];
    }

    /// @inheritdoc IDues
    function hasUsedTrial(address merchant, address payer) external view returns (bool) {
        return _trialUsed[merchant][payer];
    }

    /// @inheritdoc IDues
    function spentNonces(address payer, uint256 word) external view returns (uint256) {
        return _nonces[payer][word];
    }

    /// @inheritdoc IDues
    function planCount() external view returns (uint32) {
        return _nextPlanId - 1;
    }

    /// @inheritdoc IDues
    function subscriptionCount() external view returns (uint256) {
        return _nextId - 1;
    }

    /// @inheritdoc IDues
    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        )
    {
        // Everything but a salt and extensions.
        return (hex"0f", Intents.NAME, Intents.VERSION, block.chainid, address(this), bytes32(0), extensions);
    }

    // RULES

    /// @dev Subscription `id`, which must exist.
    function _existing(uint256 id) private view returns (Subscription storage s) {
        s = _subscriptions[id];
        if (s.payer == address(0)) revert UnknownSubscription(id);
    }

    /// @dev Subscription `id`, which must exist and belong to the caller.
    function _ofCaller(uint256 id) private view returns (Subscription storage s) {
        s = _existing(id);
        if (s.payer != msg.sender) revert NotPayer(id, msg.sender);
    }

    /// @dev Subscription `id`, which must exist and be of a plan for which the caller acts as merchant or operator.
    function _ofMerchant(uint256 id) private view returns (Subscription storage s) {
        s = _existing(id);
        address merchant = _plans[s.planId].merchant;
        if (msg.sender != merchant && !_operators[merchant][msg.sender]) revert NotMerchant(s.planId, msg.sender);
    }

    /// @dev Plan `planId`, which must exist and belong to the caller.
    function _planOfCaller(uint32 planId) private view returns (Plan storage p) {
        p = _plans[planId];
        address merchant = p.merchant;
        if (merchant == address(0)) revert UnknownPlan(planId);
        if (msg.sender != merchant) revert NotMerchant(planId, msg.sender);
    }

    /// @dev The slot of subscription `id`, which must exist, and whether the caller is its merchant or its payer; one of
    /// them it must be. Who is both is the payer.
    function _ofParty(uint256 id) private view returns (uint256 word, bool byMerchant) {
        word = _word(_subscriptions[id]);
        if (word == 0) revert UnknownSubscription(id);
        byMerchant = _payerIn(word) != msg.sender;
        if (byMerchant && _plans[_planIdIn(word)].merchant != msg.sender) revert NotParty(id, msg.sender);
    }

    function _requirePossiblePayee(address payee, address token) private view {
        if (payee == address(this) || payee == token) revert InvalidPayee(payee);
    }

    /// @dev A subscription that goes on: neither cancelled nor lapsed. `NotDue` or, past due, `None`.
    function _requireChangeable(uint256 id, Subscription storage s) private view returns (Reason standing) {
        standing = s.flags & ENDS_WITH_PAID_TIME != 0 ? Reason.Cancelled : _standing(id, s);
        if (standing != Reason.None && standing != Reason.NotDue) revert NotChangeable(id, standing);
    }

    /// @dev Plan `planId`, to which a subscription of plan `fromPlanId` may change.
    function _related(uint32 fromPlanId, uint32 planId) private view returns (Plan storage q) {
        q = _plans[planId];
        if (q.token == address(0)) revert UnknownPlan(planId);
        if (q.retired) revert RetiredPlan(planId);
        Plan storage p = _plans[fromPlanId];
        if (planId == fromPlanId || q.merchant != p.merchant || q.token != p.token) {
            revert PlansUnrelated(fromPlanId, planId);
        }
    }

    /// @dev The start of a period that usage can be charged to.
    function _requireOpenPeriod(uint256 id, Subscription storage s, Plan storage p, uint256 period)
        private
        view
        returns (uint256 start)
    {
        uint256 end;
        (start, end) = period == 0 ? (0, 0) : Periods.ends(s.anchor, p.unit, p.count, period - 1);
        bool open = period > _totals[id].periodsBefore && period <= s.periods && block.timestamp >= start
            && block.timestamp < end + p.grace && s.flags & ENDED == 0
            && (s.flags & ENDS_WITH_PAID_TIME == 0 || block.timestamp < _paidThrough(s));
        // Safe cast: the caller's argument has 16 bits.
        // forge-lint: disable-next-line(unsafe-typecast)
        if (!open) revert PeriodClosed(id, uint16(period));
    }

    function _spendKey(uint256 id, bytes32 key) private {
        if (_keySpent[id][key]) revert KeySpent(id, key);
        _keySpent[id][key] = true;
    }

    /// @dev The end of the last paid period. For an unknown subscription every part is zero, and so is the result.
    function _paidThrough(Subscription storage s) private view returns (uint64) {
        Plan storage p = _plans[s.planId];
        // Safe cast: see `Periods.ends`.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint64(Periods.end(s.anchor, p.unit, p.count, s.periods));
    }

    /// @dev The sum of all debits of a subscription. Never negative, although the adjustment may be.
    function _paid(uint256 id, Subscription storage s) private view returns (uint256) {
        uint256 regular = uint256(_plans[s.planId].price) * s.periods;
        return (regular.toInt256() + _totals[id].adjustment).toUint256();
    }

    /// @dev Whether a period of the present plan can be charged now, whatever the token does. False for an unknown
    /// subscription, which has no grace.
    /// @param word The subscription's slot.
    function _pastDue(uint256 word, uint256 end, uint256 grace) private view returns (bool pastDue) {
        // Before the end, the difference wraps around to more than any grace. The flags lie above the counter of periods:
        // all flags are clear and the counter is not full. (In assembly, as `&&` would jump.)
        assembly ("memory-safe") {
            pastDue := and(lt(sub(timestamp(), end), grace), lt(shr(PERIODS_OFFSET, word), MAX_PERIODS))
        }
    }

    /// @dev Why a period cannot be charged now, whatever the token does; `None` exactly when it is past due.
    function _standing(uint256 id, Subscription storage s) private view returns (Reason) {
        if (s.payer == address(0)) return Reason.UnknownSubscription;
        uint8 flags = s.flags;
        if (flags & ENDED != 0) return Reason.Cancelled;
        uint256 end = _paidThrough(s);
        if (block.timestamp < end) return Reason.NotDue;
        if (flags & ENDS_WITH_PAID_TIME != 0) return Reason.Cancelled;
        // The shorter of the two: a payer must not choose its own grace, and the next period must end in the future.
        uint256 grace = Math.min(_plans[s.planId].grace, _nextPlan(id, s).grace);
        bool over = s.periods == MAX_PERIODS || block.timestamp - end >= grace;
        return over ? Reason.Lapsed : Reason.None;
    }

    function _status(uint256 id, Subscription storage s) private view returns (Status) {
        Reason reason = _standing(id, s);
        if (reason == Reason.UnknownSubscription) return Status.None;
        if (reason == Reason.NotDue) return block.timestamp < s.anchor ? Status.Trialing : Status.Active;
        if (reason == Reason.None) return Status.PastDue;
        if (reason == Reason.Lapsed) return Status.Lapsed;
        return Status.Cancelled;
    }

    /// @dev The plan of the next period.
    function _nextPlan(uint256 id, Subscription storage s) private view returns (Plan storage) {
        return _plans[s.flags & CHANGE_SCHEDULED != 0 ? _scheduled[id] : s.planId];
    }

    function _sameInterval(Plan storage p, Plan storage q) private view returns (bool) {
        return p.unit == q.unit && p.count == q.count;
    }

    function _termsHash(uint32 planId) private view returns (bytes32) {
        if (_plans[planId].token == address(0)) revert UnknownPlan(planId);
        return Intents.hashTerms(_plans[planId]);
    }

    function _word(Subscription storage s) private view returns (uint256 word) {
        assembly ("memory-safe") {
            word := sload(s.slot)
        }
    }

    function _setFlag(uint256 id, uint256 word, uint256 flag) private {
        Subscription storage s = _subscriptions[id];
        assembly ("memory-safe") {
            sstore(s.slot, or(word, shl(FLAGS_OFFSET, flag)))
        }
    }

    function _payerIn(uint256 word) private pure returns (address) {
        // Safe cast: the lowest 160 bits are the payer.
        // forge-lint: disable-next-line(unsafe-typecast)
        return address(uint160(word));
    }

    function _planIdIn(uint256 word) private pure returns (uint32) {
        // Safe cast: the 32 bits above the payer are the plan.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint32(word >> 160);
    }
}
