// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @title Dues: subscriptions paid by ERC-20 allowance
/// @notice A merchant publishes a plan, a payer subscribes to it, and from then on anyone may trigger the charge of
/// each period, exactly when it is due. Every charge is one `transferFrom` from the payer to the plan's payee.
/// @dev This interface is the specification; `Dues` implements it and nothing else.
///
/// # Who can do what
///
/// - **Payer** (the account that subscribed): subscribes, cancels at the period's end or at once, resumes. Nobody else
///   can do any of these for it.
/// - **Merchant** (the account that created the plan): creates plans and retires them. Cannot change the token, the
///   price, the interval, the trial, the grace or the payee of a plan, cannot subscribe anybody, cannot charge early,
///   late or twice, cannot stop a payer from cancelling.
/// - **Keeper** (anybody): calls `charge` and `chargeBatch`. Decides only when, within grace, a due period is charged;
///   the amount, the receiver and the period's end are the same whoever calls and whenever.
/// - **Deployer**: nothing. There is no owner, pause, upgrade, fee or setting.
///
/// # Safety rules
///
/// (a) No debit without the consent of this payer to this plan. An allowance alone is not consent.
/// (b) At most one debit per period: the sum of debits is at most the price times the periods started.
/// (c) Every debit equals the plan's price.
/// (d) The payer's cancel always succeeds and ends debits: it makes no external call and looks at nothing but the
///     subscription's own slot. (From inside a token call that this contract is making, every function that changes
///     state is refused, `cancel` included.)
/// (e) This contract holds no token: no call to it changes its balance of any token. It accepts no native currency.
/// (f) *Refunds never exceed what was paid*: arrives together with refunds. Here the contract never pays anybody.
/// (g) The terms of an existing subscription never change. (Plan changes by the payer arrive later.)
/// (h) Folding the events gives the storage: ids are sequential from 1 without gaps, and every event carries the
///     resulting value of whatever it changed.
///
/// # Time
///
/// Period n of a subscription ends at `anchor + n × interval`, where the anchor is the instant of subscribing, or the
/// end of the trial. A month is a calendar month: the same day and time of day in UTC, clamped to the last day of
/// shorter months, and always counted from the anchor: 31 January, 28 February, 31 March. Late charges never move
/// later periods. `paidThrough` is the end of the last paid period (the anchor while none is paid).
///
/// A charge is due when `paidThrough <= now < paidThrough + grace`, and pays for exactly one period. Because grace is
/// never longer than the shortest possible interval, a charge always ends in the future, and there is never a backlog.
/// After grace the subscription has lapsed: nothing revives it, the payer may subscribe again.
///
/// # Warnings
///
/// - Warning: the merchant chooses the token, and this contract trusts a token's word that it moved the money. A plan
///   is as good as its token: check it before subscribing or before granting anything for a subscription.
/// - Warning: the payer is debited the price. A token that takes a fee on transfer gives the payee less.
/// - Warning: all subscriptions of a payer in one token share one allowance; whichever is charged first uses it.
/// - Warning: a chain reorganisation can give a fresh plan id to another plan. Subscribe to plans whose creation is
///   final.
/// - Warning: while this contract is inside a token call, functions that change state and the views of subscriptions
///   revert with `ReentrancyGuardReentrantCall`, so that no caller acts on a payment that has not happened yet.
/// - Warning: in the log of a transaction, the token's `Transfer` comes before its `Charged`.
///
/// @custom:security-contact The security contact in the repository's README.
interface IDues {
    // TYPES

    /// @notice What an interval counts: days of 86,400 seconds or calendar months.
    enum IntervalUnit {
        Day,
        Month
    }

    /// @notice Where a subscription stands at this instant.
    /// @dev
    /// - None: no such subscription.
    /// - Trialing: in its trial; nothing is paid yet.
    /// - Active: a paid period is running. Stays so until its end after `cancel`.
    /// - PastDue: the last period is over, the next one is not paid, grace is running.
    /// - Lapsed: grace is over, or all 65,535 periods are paid. Final, but for a cancel that comes later.
    /// - Cancelled: ended by `cancelNow`, or by `cancel` once the paid time is over. Final.
    enum Status {
        None,
        Trialing,
        Active,
        PastDue,
        Lapsed,
        Cancelled
    }

    /// @notice Why a charge does not happen.
    /// @dev
    /// - None: nothing stands in the way.
    /// - UnknownSubscription: no such subscription.
    /// - NotDue: the trial or the paid time is still running.
    /// - Cancelled, Lapsed: as in `Status`.
    /// - Allowance: the payer's allowance to this contract is less than the price.
    /// - Balance: the allowance suffices, the payer's balance does not.
    /// - Token: any other refusal of the token (blocklist, pause, a bug), or a token that does not answer.
    enum Reason {
        None,
        UnknownSubscription,
        NotDue,
        Cancelled,
        Lapsed,
        Allowance,
        Balance,
        Token
    }

    /// @notice What a merchant asks for when creating a plan.
    /// @param token The ERC-20 token that the plan is paid in.
    /// @param price The price of one period, in the token's base units.
    /// @param payee The account that receives every payment.
    /// @param unit What the interval counts.
    /// @param count How many of them make one period.
    /// @param trial Seconds before the first period, free of charge; 0 for none.
    /// @param grace Seconds after a period's end within which the next one can still be charged.
    struct PlanTerms {
        address token;
        uint96 price;
        address payee;
        IntervalUnit unit;
        uint16 count;
        uint32 trial;
        uint32 grace;
    }

    /// @notice A plan: its terms, whether it is closed to new subscribers, and who created it.
    /// @dev The order makes three storage slots: two that charging reads, and one that it does not. The free 96 bits
    /// beside `merchant` are reserved for a usage cap.
    struct Plan {
        address token;
        uint96 price;
        address payee;
        IntervalUnit unit;
        uint16 count;
        uint32 trial;
        uint32 grace;
        bool retired;
        address merchant;
    }

    /// @notice A subscription, in one storage slot.
    /// @param payer The account that subscribed and pays.
    /// @param planId The plan that it subscribed to.
    /// @param anchor The instant that periods are counted from.
    /// @param periods How many periods are paid.
    /// @param flags Bit 0: ends with its paid time (`cancel`). Bit 1: ended (`cancelNow`). Bits 2 and 3 are reserved
    /// for plan changes (first period credited; change scheduled), the others are unused.
    struct Subscription {
        address payer;
        uint32 planId;
        uint40 anchor;
        uint16 periods;
        uint8 flags;
    }

    // EVENTS

    /// @notice A plan was created; these are its terms for ever.
    event PlanCreated(
        uint32 indexed planId,
        address indexed merchant,
        address indexed token,
        address payee,
        uint96 price,
        IntervalUnit unit,
        uint16 count,
        uint32 trial,
        uint32 grace
    );

    /// @notice A plan accepts no new subscribers any more, for ever.
    event PlanRetired(uint32 indexed planId);

    /// @notice A payer subscribed.
    /// @dev `paidThrough` equals `anchor` here: the end of the trial, or this instant when there is none. In the second
    /// case the `Charged` of the first period follows in the same transaction.
    /// @param ref What the payer says the subscription is for. Only here, not in storage.
    event Subscribed(
        uint256 indexed id, uint32 indexed planId, address indexed payer, bytes32 ref, uint40 anchor, uint64 paidThrough
    );

    /// @notice A period was paid. Every debit that this contract makes emits exactly one of these.
    /// @param periods How many periods are paid now; the number of the period that this debit paid.
    /// @param paidThrough The end of that period.
    /// @param amount The price that was debited.
    event Charged(
        uint256 indexed id,
        uint32 indexed planId,
        address indexed payer,
        uint16 periods,
        uint64 paidThrough,
        uint96 amount
    );

    /// @notice An item of a batch was due and could not be charged, and its subscription is unchanged.
    /// @dev Warning: the next attempt within grace may succeed, and anybody can make one at any time.
    /// @param reason `Allowance`, `Balance` or `Token`.
    event ChargeFailed(uint256 indexed id, uint32 indexed planId, address indexed payer, Reason reason);

    /// @notice A subscription will end with its paid time (at once, if that is already over).
    /// @dev Changes nothing else: the paid time is the one of the last `Charged` or `Subscribed`.
    event CancelScheduled(uint256 indexed id, uint32 indexed planId, address indexed payer);

    /// @notice A subscription has ended.
    event Cancelled(uint256 indexed id, uint32 indexed planId, address indexed payer);

    /// @notice A scheduled end was withdrawn.
    event Resumed(uint256 indexed id, uint32 indexed planId, address indexed payer, uint64 paidThrough);

    // ERRORS

    /// @notice The token has no code, or is this contract.
    error InvalidToken(address token);

    /// @notice The price is zero.
    error InvalidPrice();

    /// @notice The payee is zero, this contract or the token.
    error InvalidPayee(address payee);

    /// @notice The interval's count is outside 1 to `max`.
    error InvalidCount(uint16 count, uint256 max);

    /// @notice The trial is longer than `max` seconds.
    error InvalidTrial(uint32 trial, uint256 max);

    /// @notice The grace is outside `min` to `max` seconds.
    error InvalidGrace(uint32 grace, uint256 min, uint256 max);

    /// @notice There is no such plan.
    error UnknownPlan(uint32 planId);

    /// @notice The plan takes no new subscribers.
    error RetiredPlan(uint32 planId);

    /// @notice The caller is not the plan's merchant.
    error NotMerchant(uint32 planId, address caller);

    /// @notice There is no such subscription.
    error UnknownSubscription(uint256 id);

    /// @notice The caller is not the subscription's payer.
    error NotPayer(uint256 id, address caller);

    /// @notice The subscription cannot be charged now.
    error ChargeRefused(uint256 id, Reason reason);

    /// @notice There is no scheduled end to withdraw.
    error NothingToResume(uint256 id);

    /// @notice The subscription has ended: by `cancelNow`, or because its paid time was over at `paidThrough`.
    error AlreadyEnded(uint256 id, uint64 paidThrough);

    /// @notice A token call failed, or a token did not answer, and the gas left for it was too little to know that the
    /// token is the cause.
    error InsufficientGas(uint256 available, uint256 required);

    // PLANS

    /// @notice Creates a plan. The caller is its merchant, its terms never change.
    /// @dev Requirements:
    /// 1. `token` has code and is not this contract.
    /// 2. `price` is not zero.
    /// 3. `payee` is not zero, not this contract and not the token. It may be the merchant or anybody else.
    /// 4. `count` is 1 to 3660 days or 1 to 120 months.
    /// 5. `trial` is at most 366 days.
    /// 6. `grace` is at least 1 hour and at most the shortest time that a period can last: `count` times 1 day, or
    ///    `count` times 28 days. With no grace at all a period could never be charged, as it is due from its start.
    ///
    /// Emits `PlanCreated`.
    /// @return planId The plan's id: one more than that of the plan created before.
    function createPlan(PlanTerms calldata terms) external returns (uint32 planId);

    /// @notice Closes a plan to new subscribers, for ever. Existing subscriptions are not affected.
    /// @dev Requirements:
    /// 1. The plan exists.
    /// 2. The caller is its merchant.
    ///
    /// Emits `PlanRetired`; for a plan that is already retired, succeeds and emits nothing.
    function retirePlan(uint32 planId) external;

    // SUBSCRIBING

    /// @notice Subscribes the caller to a plan. The call is the caller's consent to be debited the plan's price for
    /// every period, until cancelled.
    /// @dev If the plan has a trial and the caller never had one with this merchant: periods start after the trial, and
    /// nothing is charged now. Otherwise: periods start now, and the first is charged in this call.
    ///
    /// Requirements:
    /// 1. The plan exists.
    /// 2. The plan is not retired.
    /// 3. Without a trial, the first charge succeeds; else everything reverts with `ChargeRefused`, or with
    ///    `InsufficientGas` where the token failed and the gas does not suffice to know why.
    ///
    /// Emits `Subscribed`, and without a trial `Charged`.
    ///
    /// Warning: a payer may subscribe to one plan several times; each is a subscription of its own and is charged.
    /// Warning: a trial does not look at the allowance. If there is none when the trial ends, the first charge fails.
    /// Warning: a trial is used up by subscribing, also when it is cancelled at once.
    /// @param ref Anything that tells the merchant what the subscription is for. Public; put nothing personal here.
    /// @return id The subscription's id: one more than that of the subscription created before.
    function subscribe(uint32 planId, bytes32 ref) external returns (uint256 id);

    /// @notice `subscribe`, after trying the caller's EIP-2612 permit on the plan's token.
    /// @dev Requirements: those of `subscribe`.
    ///
    /// Warning: a permit that fails (used already by somebody else, expired, unknown to the token) is ignored, and one
    /// that succeeds proves nothing. The allowance that is there afterwards decides, and the caller is the payer.
    /// @param value The allowance that the permit grants to this contract, for all subscriptions in this token.
    /// @param deadline The permit's deadline.
    function subscribeWithPermit(
        uint32 planId,
        bytes32 ref,
        uint256 value,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external returns (uint256 id);

    // CHARGING

    /// @notice Charges one due period of a subscription. Anybody may call.
    /// @dev Requirements:
    /// 1. The subscription is past due; else reverts with `ChargeRefused` and the reason.
    /// 2. The token moves the money and says so; else reverts with `ChargeRefused` and the reason.
    /// 3. If the token call fails, the gas left for it was enough; else reverts with `InsufficientGas`.
    ///
    /// Emits `Charged`.
    function charge(uint256 id) external;

    /// @notice Charges one due period of each of several subscriptions, each on its own: whatever a token does, in the
    /// items before and after it the outcome is the same as if that item were not in the batch. Anybody may call.
    /// @dev A token is given at most 300,000 gas to move the money and, if it does not, at most 100,000 for each of two
    /// questions about the cause; of what it returns, 32 bytes are looked at. An id that is not due
    /// (unknown, paid, cancelled, lapsed, or charged by an earlier item) is passed over without an event.
    ///
    /// Requirements:
    /// 1. For every failed token call, the gas left for it was enough; else reverts with `InsufficientGas`.
    ///
    /// Emits `Charged` or `ChargeFailed` for each id that is due, in the given order.
    ///
    /// Warning: never reverts because of an item, so look at the events, or at the return value.
    /// Warning: this holds as long as the gas suffices. A token can behave while a node estimates and burn its gas on
    /// chain: send 550,000 for each item whose token you do not know, or one bad item makes all of them revert.
    /// @return charged How many were charged.
    function chargeBatch(uint256[] calldata ids) external returns (uint256 charged);

    // CANCELLING

    /// @notice Ends the caller's subscription with its paid time (or trial): no charge from now on, access until then.
    /// @dev Requirements:
    /// 1. The subscription exists.
    /// 2. The caller is its payer.
    ///
    /// Emits `CancelScheduled`; if it is already cancelled in either way, succeeds and emits nothing.
    ///
    /// Warning: past due, there is no paid time left, and the subscription ends at once.
    function cancel(uint256 id) external;

    /// @notice Ends the caller's subscription at once: no charge and no access from now on. Paid time is forfeited.
    /// @dev Requirements:
    /// 1. The subscription exists.
    /// 2. The caller is its payer.
    ///
    /// Emits `Cancelled`; if it is already ended in this way, succeeds and emits nothing.
    function cancelNow(uint256 id) external;

    /// @notice Withdraws the caller's `cancel`.
    /// @dev Requirements:
    /// 1. The subscription exists.
    /// 2. The caller is its payer.
    /// 3. It was not ended by `cancelNow`; else reverts with `AlreadyEnded`.
    /// 4. It was cancelled; else reverts with `NothingToResume`.
    /// 5. Its paid time is not over; else reverts with `AlreadyEnded`.
    ///
    /// Emits `Resumed`.
    function resume(uint256 id) external;

    // VIEWS

    /// @notice A plan; all zero if there is no such plan.
    function plan(uint32 planId) external view returns (Plan memory);

    /// @notice A subscription as stored; all zero if there is no such subscription.
    /// @dev Warning: time passes without changing it. `statusOf` says where it stands.
    function subscription(uint256 id) external view returns (Subscription memory);

    /// @notice Up to `count` subscriptions from `fromId` on, for audits: element i has the id `fromId + i`.
    /// @dev Clamped to those that exist: ids start at 1 (also for `fromId` 0), and there is nothing after the last.
    function subscriptions(uint256 fromId, uint256 count) external view returns (Subscription[] memory);

    /// @notice The end of the last paid period; the anchor while none is paid; 0 if there is no such subscription.
    /// @dev Warning: `cancelNow` does not change it. `statusOf` says whether there is access.
    function paidThrough(uint256 id) external view returns (uint64);

    /// @notice Where a subscription stands at this instant.
    function statusOf(uint256 id) external view returns (Status);

    /// @notice Why `charge` would fail now; `None` if nothing that can be seen beforehand stands in the way.
    /// @dev The same reasons as in `ChargeFailed`. Does not revert for whatever the token does; reverts with
    /// `InsufficientGas` rather than blame a token that had too little gas to answer.
    ///
    /// Warning: `None` is no promise. A blocklist or pause of the token shows only when it is charged. `Token` is no proof
    /// either: a token that answers no questions may still pay.
    function previewCharge(uint256 id) external view returns (Reason);

    /// @notice Whether a payer has had a trial with a merchant; if so, subscribing charges at once.
    function hasUsedTrial(address merchant, address payer) external view returns (bool);

    /// @notice How many plans exist: the id of the last.
    function planCount() external view returns (uint32);

    /// @notice How many subscriptions exist: the id of the last.
    function subscriptionCount() external view returns (uint256);
}
