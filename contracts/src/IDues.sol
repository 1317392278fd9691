// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @title Dues: subscriptions paid by ERC-20 allowance
/// @notice A merchant publishes a plan, a payer subscribes to it, and from then on anyone may trigger the charge of
/// each period, exactly when it is due. Every debit is one transfer straight from the payer to the plan's payee.
/// @dev This interface is the specification. `Dues` has one more function, `chargeItem`, which only itself can call.
///
/// # Who can do what
///
/// - **Payer** (the account that subscribed): subscribes, prepays, changes to another plan of the merchant, cancels at
///   the period's end or at once, resumes, takes back signatures that nobody has used. Each by its own transaction;
///   subscribing, changing and cancelling also by a signature that anybody may send for it.
/// - **Merchant** (the account that created the plan): creates plans and retires them; proposes another payee; names
///   operators; cancels a subscription; refunds; charges usage, up to the plan's cap; has a subscription renew into a
///   plan that is nowhere worse for its payer. Cannot change the token, the price, the interval, the trial, the grace or the
///   usage cap of a plan, cannot subscribe anybody, cannot charge early, late or twice, cannot stop a payer from
///   cancelling.
/// - **Operator** (an account that a merchant has named): charges usage and refunds, for all plans of the merchant;
///   refunds come from its own balance.
/// - **Payee** (the account that receives): accepts to be the payee of a plan. Nothing else.
/// - **Keeper** (anybody): calls `chargeOne` and `chargeBatch`, and sends what payers have signed. Decides only when,
///   within grace, a due period is charged; the amount, the receiver and the period's end are the same whoever calls
///   and whenever.
/// - **Beneficiary** (whom the payer's `ref` means): no rights here. The payer pays and cancels. A beneficiary who
///   wants none of it asks the merchant, who can cancel and refund.
/// - **Deployer**: nothing. There is no owner, pause, upgrade, fee or setting.
///
/// # Safety rules
///
/// (a) No debit without the consent of this payer to this plan, or to one that is nowhere better: its own call, or its
///     signature over the plan's terms. An allowance or a permit alone is not consent.
/// (b) At most one debit per period: the sum of debits for periods is at most the price times the periods that have
///     started or that the payer itself chose to prepay.
/// (c) Every debit for periods equals the plan's price times the periods paid, less the credit of a change. Debits for
///     usage stay, summed over a period, within the plan's usage cap.
/// (d) The payer's `cancel` and `cancelNow` always succeed: they make no external call and look at nothing but the
///     subscription's own slot. After `cancel` no period is debited any more, and no usage beyond the paid time; after
///     `cancelNow`, nothing. (From inside a call that this contract is making, every function that changes state is
///     refused, these included.)
/// (e) This contract holds no token: no call to it changes its balance of any token. It accepts no native currency.
/// (f) Refunds never exceed what was paid: their sum over a subscription is at most the sum of its debits.
/// (g) The terms of an existing subscription change only by its payer's act, or in its favour. The one exception is the
///     payee, which moves with two days' notice, and never the amount.
/// (h) Folding the events gives the storage: ids are sequential from 1 without gaps, and every event carries the
///     resulting value of whatever it changed. (That a trial was used shows in `Subscribed`: its anchor is later than
///     its block. How much was paid is the sum of `Charged` and `UsageCharged`. Of the periods that `PlanChanged`
///     counts, those since a new anchor are all of the new plan; with the old anchor, the last one alone is.)
///
/// # Time
///
/// Period n of a subscription ends at `anchor + n × interval`, where the anchor is the instant of subscribing, the end
/// of the trial, or the instant of a change. A month is a calendar month: the same day and time of day in UTC, clamped
/// to the last day of shorter months, and always counted from the anchor: 31 January, 28 February, 31 March. Late
/// charges never move later periods. `paidThrough` is the end of the last paid period (the anchor while none is paid).
///
/// A charge is due when `paidThrough <= now < paidThrough + grace`, and pays for exactly one period. Because grace is
/// never longer than the shortest possible interval, a charge always ends in the future, and there is never a backlog.
/// After grace the subscription has lapsed: nothing revives it, the payer may subscribe again.
///
/// # How money is pulled
///
/// With the payer's allowance to this contract; where that is less than the amount, with its allowance through Permit2
/// (at its canonical address), if that suffices. In both cases the token moves once, from payer to payee.
///
/// # Signatures
///
/// EIP-712, domain `Dues`, version `1`, this chain and this contract (`eip712Domain`):
///
/// - `Subscribe(address payer,uint32 planId,Terms terms,bytes32 ref,uint16 count,bool renews,uint256 nonce,uint256 deadline)`
/// - `Change(address payer,uint256 id,uint32 planId,Terms terms,uint16 count,uint128 maxAmount,uint256 nonce,uint256 deadline)`
/// - `Cancel(address payer,uint256 id,bool atOnce,uint256 nonce,uint256 deadline)`
/// - with `Terms(address merchant,address token,uint96 price,uint8 unit,uint16 count,uint32 trial,uint32 grace,uint96 usageCap)`
///
/// The terms are the plan's as stored, so that a wallet shows what is signed, and a signature is void for any other
/// plan that a reorganisation might put under the same id. Accepted is the ECDSA signature of the payer's key (also
/// when the account has code, EIP-7702), or what a contract account accepts (ERC-1271). Nonces are bits, in any order;
/// each is good for one signature. A deadline is the last second.
///
/// # Warnings
///
/// - Warning: the merchant chooses the token, and this contract trusts a token's word that it moved the money. A plan
///   is as good as its token: check it before subscribing or before granting anything for a subscription.
/// - Warning: the payer is debited the price. A token that takes a fee on transfer gives the payee less, and a refund
///   in it gives the payer less.
/// - Warning: all subscriptions of a payer in one token share one allowance; whichever is charged first uses it.
/// - Warning: a chain reorganisation can give a fresh plan id to another plan. Subscribe to plans whose creation is
///   final, or put `requireTerms` before it in one `multicall`, or sign.
/// - Warning: while this contract is inside a call (of a token, or of a wallet about a signature), functions that change
///   state and the views of subscriptions revert with `ReentrancyGuardReentrantCall`, so that no caller acts on a
///   payment that has not happened yet. Views of plans, trials and counts answer.
/// - Warning: a merchant's account cannot be replaced. A thief of its key can cancel its subscriptions, for good.
/// - Warning: a payee that is blocklisted can be replaced after two days; a shorter grace does not outlast that.
/// - Warning: in the log of a transaction, the token's `Transfer` comes before its `Charged`.
/// - Warning: tokens sent to this contract are lost. Nothing here can move them.
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
    /// - Trialing: in its trial; the first period has not begun.
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
    /// - Allowance: neither the payer's allowance to this contract nor the one through Permit2 reaches the amount.
    /// - Balance: an allowance suffices, the payer's balance does not.
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
    /// @param usageCap The most that may be charged for usage in one period, beside the price, in base units; 0 for
    /// none.
    struct PlanTerms {
        address token;
        uint96 price;
        address payee;
        IntervalUnit unit;
        uint16 count;
        uint32 trial;
        uint32 grace;
        uint96 usageCap;
    }

    /// @notice A plan: its terms, whether it is closed to new subscribers, and who created it.
    /// @dev The order makes three storage slots: two that charging reads, and one that it does not.
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
        uint96 usageCap;
    }

    /// @notice A subscription, in one storage slot.
    /// @param payer The account that subscribed and pays.
    /// @param planId The plan that it is on.
    /// @param anchor The instant that periods are counted from.
    /// @param periods How many periods are paid since the anchor.
    /// @param flags Bit 0: ends with its paid time, by its payer's `cancel`. Bit 1: ended (`cancelNow`). Bit 2: ends
    /// with its paid time, by its merchant's `cancel`. Bit 3: a change of plan is scheduled.
    struct Subscription {
        address payer;
        uint32 planId;
        uint40 anchor;
        uint16 periods;
        uint8 flags;
    }

    /// @notice Everything there is to know about a subscription, for audits.
    /// @param subscription As stored.
    /// @param status Where it stands at this instant.
    /// @param paidThrough The end of its last paid period.
    /// @param scheduledPlanId The plan of its next period; 0 if no change is scheduled.
    /// @param paid The sum of all its debits.
    /// @param refunded The sum of all its refunds.
    struct Record {
        Subscription subscription;
        Status status;
        uint64 paidThrough;
        uint32 scheduledPlanId;
        uint256 paid;
        uint256 refunded;
    }

    /// @notice What a payer signs to subscribe. The plan's terms are signed with it: see the section on signatures.
    /// @param payer The account that subscribes and pays.
    /// @param count Periods to pay now; 0 for what `subscribe` does.
    /// @param renews Whether periods after that may be charged.
    /// @param nonce A number of the payer's choice that it has not used.
    /// @param deadline The last second in which the signature is good.
    struct SubscribeIntent {
        address payer;
        uint32 planId;
        bytes32 ref;
        uint16 count;
        bool renews;
        uint256 nonce;
        uint256 deadline;
    }

    /// @notice What a payer signs to change a subscription's plan. The new plan's terms are signed with it.
    /// @param id The subscription.
    /// @param planId The plan to change to.
    /// @param count Periods to pay now, as in `changeNow`; 0 to change with the next period, as in `scheduleChange`.
    /// @param maxAmount The most that may be debited now; of no meaning with `count` 0.
    /// @param nonce A number of the payer's choice that it has not used.
    /// @param deadline The last second in which the signature is good.
    struct ChangeIntent {
        uint256 id;
        uint32 planId;
        uint16 count;
        uint128 maxAmount;
        uint256 nonce;
        uint256 deadline;
    }

    /// @notice What a payer signs to cancel.
    /// @param id The subscription.
    /// @param atOnce Whether to end at once, as `cancelNow`, or with the paid time, as `cancel`.
    /// @param nonce A number of the payer's choice that it has not used.
    /// @param deadline The last second in which the signature is good.
    struct CancelIntent {
        uint256 id;
        bool atOnce;
        uint256 nonce;
        uint256 deadline;
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
        uint32 grace,
        uint96 usageCap
    );

    /// @notice A plan accepts no new subscribers any more, for ever.
    event PlanRetired(uint32 indexed planId);

    /// @notice A merchant wants a plan's payments to go to another account.
    /// @param payee That account; zero if the proposal was withdrawn.
    /// @param acceptableFrom When it can accept; 0 if the proposal was withdrawn.
    event PayeeProposed(uint32 indexed planId, address indexed payee, uint64 acceptableFrom);

    /// @notice From now on a plan's payments go to another account, which has accepted.
    event PayeeChanged(uint32 indexed planId, address indexed payee);

    /// @notice An account may now, or may no longer, charge usage and refund for a merchant.
    event OperatorSet(address indexed merchant, address indexed operator, bool approved);

    /// @notice A payer subscribed.
    /// @dev `paidThrough` equals `anchor` here: the end of the trial, or this instant when there is none. In the second
    /// case the `Charged` of what was paid follows in the same transaction.
    /// @param ref What the payer says the subscription is for. Only here, not in storage.
    event Subscribed(
        uint256 indexed id, uint32 indexed planId, address indexed payer, bytes32 ref, uint40 anchor, uint64 paidThrough
    );

    /// @notice Periods were paid. Every debit for periods emits exactly one of these.
    /// @param periods How many periods are paid now, since the anchor; the number of the last one that this debit paid.
    /// @param paidThrough The end of that period.
    /// @param amount What was debited.
    event Charged(
        uint256 indexed id,
        uint32 indexed planId,
        address indexed payer,
        uint16 periods,
        uint64 paidThrough,
        uint128 amount
    );

    /// @notice An item of a batch was due and could not be charged, and its subscription is unchanged.
    /// @dev Warning: the next attempt within grace may succeed, and anybody can make one at any time, also from inside a
    /// token's own call while the token is locked. Ask `previewCharge` before acting on one.
    /// @param planId The plan that the subscription is on, also if the period would be one of a scheduled plan.
    /// @param reason `Allowance`, `Balance` or `Token`.
    event ChargeFailed(uint256 indexed id, uint32 indexed planId, address indexed payer, Reason reason);

    /// @notice A subscription is on another plan now. A change that was scheduled is not scheduled any more.
    /// @dev The values are those after the payment, if there is one; its `Charged` follows in the same transaction.
    /// @param planId The plan that it is on now.
    /// @param fromPlanId The plan that it was on.
    /// @param anchor The instant that periods are counted from now.
    /// @param periods How many periods are paid since then.
    /// @param paidThrough The end of the last of them.
    /// @param credit What the unused rest of the old plan's paid time was worth, and was taken off the payment.
    event PlanChanged(
        uint256 indexed id,
        uint32 indexed planId,
        address indexed payer,
        uint32 fromPlanId,
        uint40 anchor,
        uint16 periods,
        uint64 paidThrough,
        uint128 credit
    );

    /// @notice The next period of a subscription will be one of another plan. Replaces what was scheduled before.
    /// @param toPlanId That plan.
    /// @param byMerchant Whether the merchant did this (`migrate`), or the payer.
    event ChangeScheduled(
        uint256 indexed id, uint32 indexed planId, address indexed payer, uint32 toPlanId, bool byMerchant
    );

    /// @notice The next period of a subscription will be one of its present plan after all.
    event ChangeRevoked(uint256 indexed id, uint32 indexed planId, address indexed payer);

    /// @notice A subscription will end with its paid time (at once, if that is already over).
    /// @dev Changes nothing else: the paid time is the one of the event before that has one.
    /// @param byMerchant Whether the merchant did this, which the payer cannot undo, or the payer.
    event CancelScheduled(uint256 indexed id, uint32 indexed planId, address indexed payer, bool byMerchant);

    /// @notice A subscription has ended.
    /// @param byMerchant Whether the merchant did this, or the payer.
    event Cancelled(uint256 indexed id, uint32 indexed planId, address indexed payer, bool byMerchant);

    /// @notice A scheduled end was withdrawn.
    event Resumed(uint256 indexed id, uint32 indexed planId, address indexed payer, uint64 paidThrough);

    /// @notice Usage was charged. Every debit for usage emits exactly one of these.
    /// @param key The merchant's idempotency key, spent for this subscription.
    /// @param period The number of the period that it was charged to.
    /// @param amount What was debited.
    /// @param total What has been charged to that period now, with this.
    event UsageCharged(
        uint256 indexed id,
        uint32 indexed planId,
        address indexed payer,
        bytes32 key,
        uint16 period,
        uint96 amount,
        uint96 total
    );

    /// @notice Money went back to a payer.
    /// @param key The merchant's idempotency key, spent for this subscription.
    /// @param from Whose money it was: the merchant's or an operator's.
    /// @param amount What was sent.
    /// @param total What has been refunded for this subscription now, with this.
    event Refunded(
        uint256 indexed id,
        uint32 indexed planId,
        address indexed payer,
        bytes32 key,
        address from,
        uint128 amount,
        uint128 total
    );

    /// @notice Nonces of a payer are used up, by a signature or by `invalidateNonces`.
    /// @param word The nonces divided by 256.
    /// @param mask The bits, of those 256, that were unused before.
    event NoncesSpent(address indexed payer, uint256 word, uint256 mask);

    // ERRORS

    /// @notice The token has no code, or is this contract or Permit2.
    error InvalidToken(address token);

    /// @notice The price is zero.
    error InvalidPrice();

    /// @notice The payee is zero, this contract or the token.
    error InvalidPayee(address payee);

    /// @notice A count (of an interval's units, or of periods) is outside 1 to `max`.
    error InvalidCount(uint16 count, uint256 max);

    /// @notice The trial is longer than `max` seconds.
    error InvalidTrial(uint32 trial, uint256 max);

    /// @notice The grace is outside `min` to `max` seconds.
    error InvalidGrace(uint32 grace, uint256 min, uint256 max);

    /// @notice There is no such plan.
    error UnknownPlan(uint32 planId);

    /// @notice The plan takes no new subscribers.
    error RetiredPlan(uint32 planId);

    /// @notice The plan's terms have another hash.
    error OtherTerms(uint32 planId, bytes32 actual);

    /// @notice The caller is not the plan's merchant (nor, where operators may call, its operator).
    error NotMerchant(uint32 planId, address caller);

    /// @notice The caller is not the account that the plan's payments were proposed to go to.
    error NotProposedPayee(uint32 planId, address caller);

    /// @notice The proposed payee cannot accept before this time.
    error TooEarly(uint32 planId, uint64 acceptableFrom);

    /// @notice There is no such subscription.
    error UnknownSubscription(uint256 id);

    /// @notice The caller is not the subscription's payer.
    error NotPayer(uint256 id, address caller);

    /// @notice The caller is neither the subscription's payer nor its merchant.
    error NotParty(uint256 id, address caller);

    /// @notice The subscription cannot be charged now.
    error ChargeRefused(uint256 id, Reason reason);

    /// @notice The refund did not go through: the caller's allowance, its balance, or the token.
    error RefundRefused(uint256 id, Reason reason);

    /// @notice The subscription cannot be changed, prepaid or moved now: it has ended, will end or has lapsed; or, for
    /// a change at once, it is past due (`None`) and its next period has to be paid first.
    error NotChangeable(uint256 id, Reason standing);

    /// @notice A change of plan is scheduled, and has to be revoked first.
    error ChangePending(uint256 id);

    /// @notice No change of plan is scheduled.
    error NothingScheduled(uint256 id);

    /// @notice The two plans have different merchants or tokens, or are the same.
    error PlansUnrelated(uint32 fromPlanId, uint32 toPlanId);

    /// @notice The new plan costs less for the same time. Such a change waits for the next period.
    error NotAnUpgrade(uint32 fromPlanId, uint32 toPlanId);

    /// @notice The new plan is worse for the payer in price, interval, grace or usage cap, or pays, or may soon pay,
    /// another account. It takes the payer's act.
    error NotFavourable(uint32 fromPlanId, uint32 toPlanId);

    /// @notice What is left of the old plan is worth more than the periods asked for. Ask for more of them.
    error CreditExceedsPrice(uint256 credit, uint256 price);

    /// @notice The change would debit more than the payer allows.
    error AmountExceedsMax(uint256 amount, uint256 max);

    /// @notice There is no scheduled end to withdraw.
    error NothingToResume(uint256 id);

    /// @notice The subscription has ended, or the merchant has cancelled it: its paid time ends at `paidThrough`.
    error AlreadyEnded(uint256 id, uint64 paidThrough);

    /// @notice An amount of zero.
    error InvalidAmount();

    /// @notice Usage cannot be charged to this period now: it is not paid, has not started, or is over for too long, or
    /// the subscription was cancelled.
    error PeriodClosed(uint256 id, uint16 period);

    /// @notice More usage than the plan allows in one period.
    error UsageCapExceeded(uint256 id, uint256 total, uint256 cap);

    /// @notice More refunds than payments.
    error RefundExceedsPaid(uint256 id, uint256 total, uint256 paid);

    /// @notice The key was used for this subscription before.
    error KeySpent(uint256 id, bytes32 key);

    /// @notice The deadline of what was signed is over.
    error Expired(uint256 deadline);

    /// @notice The nonce was used or invalidated before.
    error NonceSpent(address payer, uint256 nonce);

    /// @notice The payer did not sign this, on this chain, for this contract, with these terms of the plan.
    error InvalidSignature(address payer);

    /// @notice A token call failed, or a token did not answer, and the gas left for it was too little to know that the
    /// token is the cause.
    error InsufficientGas(uint256 available, uint256 required);

    // PLANS

    /// @notice Creates a plan. The caller is its merchant, its terms never change.
    /// @dev Requirements:
    /// 1. `token` has code and is not this contract or Permit2.
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

    /// @notice Closes a plan to new subscribers, for ever. Existing subscriptions are not affected, nor are changes to it
    /// that were scheduled before.
    /// @dev Requirements:
    /// 1. The plan exists.
    /// 2. The caller is its merchant.
    ///
    /// Emits `PlanRetired`; for a plan that is already retired, succeeds and emits nothing.
    function retirePlan(uint32 planId) external;

    /// @notice Proposes that a plan's payments go to another account, which can accept after two days. Replaces an
    /// earlier proposal; zero withdraws it.
    /// @dev The delay is the time in which a merchant can notice a stolen key and undo what was done with it.
    ///
    /// Requirements:
    /// 1. The plan exists.
    /// 2. The caller is its merchant.
    /// 3. `payee` is not this contract and not the plan's token.
    ///
    /// Emits `PayeeProposed`.
    function proposePayee(uint32 planId, address payee) external;

    /// @notice Makes the caller the payee of a plan, for all payments from now on.
    /// @dev Requirements:
    /// 1. The caller is the account that was proposed last.
    /// 2. Two days have passed since the proposal.
    ///
    /// Emits `PayeeChanged`.
    function acceptPayee(uint32 planId) external;

    /// @notice Lets an account charge usage and refund for all plans of the caller, or stops that.
    /// @dev Emits `OperatorSet`, also if nothing changes.
    ///
    /// Warning: an operator can charge every subscriber of the caller up to the usage cap of its plan. The money goes to
    /// the plan's payee.
    function setOperator(address operator, bool approved) external;

    // SUBSCRIBING

    /// @notice Subscribes the caller to a plan. The call is the caller's consent to be debited the plan's price for
    /// every period, and for usage up to the plan's cap, until cancelled.
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
    /// Warning: where the trial was used meanwhile, the first period is charged at once. `hasUsedTrial` tells.
    /// Warning: a trial does not look at the allowance. If there is none when the trial ends, the first charge fails.
    /// Warning: a trial is used up by subscribing, also when it is cancelled at once.
    /// @param ref Anything that tells the merchant what, or whom, the subscription is for: also somebody else (a gift).
    /// Public; put nothing personal here.
    /// @return id The subscription's id: one more than that of the subscription created before.
    function subscribe(uint32 planId, bytes32 ref) external returns (uint256 id);

    /// @notice `subscribe`, after trying the caller's EIP-2612 permit on the plan's token.
    /// @dev The same as a `multicall` of `permit` and `subscribe`, for less gas. Requirements: those of `subscribe`.
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

    /// @notice Subscribes the caller to a plan and pays for several periods now; if it does not renew, for these only.
    /// @dev There is no trial, and none is used up. Without renewal the subscription is cancelled from the start, as by
    /// `cancel`: the whole of a gift. Its payer can `resume` it.
    ///
    /// Requirements:
    /// 1. The plan exists.
    /// 2. The plan is not retired.
    /// 3. `count` is not zero.
    /// 4. The charge succeeds; else everything reverts as in `subscribe`.
    ///
    /// Emits `Subscribed`, `Charged` for all periods together, and without renewal `CancelScheduled`.
    function subscribePrepaid(uint32 planId, bytes32 ref, uint16 count, bool renews) external returns (uint256 id);

    /// @notice Pays for `count` further periods of the caller's subscription now.
    /// @dev Requirements:
    /// 1. The subscription exists.
    /// 2. The caller is its payer.
    /// 3. It is not cancelled and has not lapsed; else reverts with `NotChangeable`.
    /// 4. No change is scheduled; else reverts with `ChangePending`.
    /// 5. `count` is not zero, and no more than 65,535 periods are paid with it.
    /// 6. The charge succeeds; else reverts as `chargeOne`.
    ///
    /// Emits `Charged`, for all periods together.
    ///
    /// Warning: nobody pays prepaid periods back but the merchant, if it refunds.
    /// Warning: past due, the first of them is the due one, unless a keeper has charged that a moment before.
    function prepay(uint256 id, uint16 count) external;

    // CHARGING

    /// @notice Charges one due period of a subscription. Anybody may call.
    /// @dev If a change is scheduled, the period is the first one of the new plan: at that plan's price, within the
    /// shorter grace of the two. If the two intervals are equal, periods are counted on from the old anchor; otherwise from the end
    /// of the paid time.
    ///
    /// Requirements:
    /// 1. The subscription is past due; else reverts with `ChargeRefused` and the reason.
    /// 2. The token moves the money and says so; else reverts with `ChargeRefused` and the reason.
    /// 3. If the token call fails, the gas left for it was enough; else reverts with `InsufficientGas`.
    ///
    /// Emits `Charged`, and before it `PlanChanged` if a change was scheduled.
    function chargeOne(uint256 id) external;

    /// @notice Charges one due period of each of several subscriptions, each on its own: whatever a token does, in the
    /// items before and after it the outcome is the same as if that item were not in the batch. Anybody may call.
    /// @dev A token is given at most 300,000 gas to move the money and, if it does not, at most 100,000 for each of
    /// three questions about the cause; of what it returns, 32 bytes are looked at. Through Permit2 it is given 350,000
    /// once more. (A token that needs more than that can be charged by `chargeOne`, which has no such limits.) An id that is not due (unknown, paid, cancelled, lapsed, or charged by an earlier item) is passed over
    /// without an event.
    ///
    /// Requirements:
    /// 1. For every failed token call, the gas left for it was enough; else reverts with `InsufficientGas`.
    ///
    /// Emits what `chargeOne` emits, or `ChargeFailed`, for each id that is due, in the given order.
    ///
    /// Warning: never reverts because of an item, so look at the events, or at the return value.
    /// Warning: this holds as long as the gas suffices. A token can behave while a node estimates and burn its gas on
    /// chain: send 1,100,000 for each item whose token you do not know, or one bad item makes all of them revert.
    /// @return charged How many were charged.
    function chargeBatch(uint256[] calldata ids) external returns (uint256 charged);

    /// @notice Charges usage of the service to a period of a subscription, beside the price.
    /// @dev A period is open to this from its start until grace after its end, if it is paid; for a cancelled
    /// subscription, until the end of the paid time; for one that was ended at once, not at all. The number of a period
    /// counts from the subscription's present anchor, and what was charged counts from the period's start: a change of
    /// plan opens a new period.
    ///
    /// Requirements:
    /// 1. The subscription exists.
    /// 2. The caller is its plan's merchant or an operator of that merchant.
    /// 3. `amount` is not zero.
    /// 4. The period is open; else reverts with `PeriodClosed`.
    /// 5. The sum of usage charged to the period stays within the plan's cap; else reverts with `UsageCapExceeded`.
    /// 6. `key` was not used for this subscription, neither here nor in `refund`; else reverts with `KeySpent`.
    /// 7. The token moves the money and says so; else reverts with `ChargeRefused` and the reason.
    ///
    /// Emits `UsageCharged`.
    ///
    /// Warning: usage that is not charged before a change of plan takes effect, or before the subscription is ended,
    /// cannot be charged any more.
    /// @param period The number of the period, from 1.
    /// @param key What makes this charge happen once, however often it is sent.
    function chargeUsage(uint256 id, uint16 period, uint96 amount, bytes32 key) external;

    // CHANGING

    /// @notice Moves the caller's subscription to a dearer plan of the same merchant at once. Periods of the new plan
    /// start now; the unused rest of the paid time counts towards their price.
    /// @dev The credit is the old price times the whole periods ahead, plus its part for the rest of the running one,
    /// by seconds and rounded down; the trial itself is worth nothing; and it is never more than what was paid and not
    /// refunded.
    /// So no sequence of changes gives more time than was paid for.
    ///
    /// Requirements:
    /// 1. The subscription exists.
    /// 2. The caller is its payer.
    /// 3. The new plan exists and is not retired.
    /// 4. It is another plan of the same merchant in the same token; else reverts with `PlansUnrelated`.
    /// 5. The trial or the paid time is running and not cancelled; else reverts with `NotChangeable`.
    /// 6. The new plan does not cost less for the same time, with a month counted as 2,629,746 seconds; else reverts with
    ///    `NotAnUpgrade`.
    /// 7. `count` is not zero, and `count` periods of the new plan cost at least the credit; else reverts with
    ///    `CreditExceedsPrice`. This contract never pays out.
    /// 8. The difference is at most `maxAmount`; else reverts with `AmountExceedsMax`.
    /// 9. The charge succeeds; else reverts as `chargeOne`.
    ///
    /// Emits `PlanChanged`, and `Charged` unless the difference is zero. Ends a scheduled change.
    ///
    /// Warning: a trial ends with this, and the new plan's is not given.
    /// @param count Periods of the new plan to pay now: usually 1.
    /// @param maxAmount The most that may be debited.
    function changeNow(uint256 id, uint32 planId, uint16 count, uint128 maxAmount) external;

    /// @notice Makes the next period of the caller's subscription one of another plan of the same merchant, cheaper or
    /// dearer. Replaces an earlier schedule.
    /// @dev Requirements:
    /// 1. The subscription exists.
    /// 2. The caller is its payer.
    /// 3. The new plan exists and is not retired.
    /// 4. It is another plan of the same merchant in the same token; else reverts with `PlansUnrelated`.
    /// 5. The subscription is not cancelled and has not lapsed, and does not lapse by this; else reverts with
    ///    `NotChangeable`.
    ///
    /// Emits `ChangeScheduled`.
    ///
    /// Warning: past due, what is due from now on is the new plan's price, within the shorter grace of the two.
    function scheduleChange(uint256 id, uint32 planId) external;

    /// @notice Takes back what `scheduleChange` or `migrate` did.
    /// @dev Requirements:
    /// 1. The subscription exists.
    /// 2. The caller is its payer.
    /// 3. A change is scheduled; else reverts with `NothingScheduled`.
    /// 4. The subscription is not cancelled and has not lapsed; else reverts with `NotChangeable`.
    ///
    /// Emits `ChangeRevoked`.
    function revokeChange(uint256 id) external;

    /// @notice Makes the next period of a subscription one of a plan that is nowhere worse for its payer: a lower price
    /// for those who are there already. Paid time, and what it is worth in a change, stay as they are.
    /// @dev Requirements:
    /// 1. The subscription exists.
    /// 2. The caller is its plan's merchant.
    /// 3. No change is scheduled; else reverts with `ChangePending`.
    /// 4. The new plan exists and is not retired.
    /// 5. It is another plan of the same merchant in the same token; else reverts with `PlansUnrelated`.
    /// 6. The interval and the payee are equal and no other payee is proposed, the price and the usage cap are not
    ///    higher, the grace is not shorter; else reverts with `NotFavourable`. (With another payee, this would be a
    ///    payee move without its delay.)
    /// 7. The subscription is not cancelled and has not lapsed; else reverts with `NotChangeable`.
    ///
    /// Emits `ChangeScheduled`. The payer can `revokeChange`, or replace it.
    function migrate(uint256 id, uint32 planId) external;

    // CANCELLING

    /// @notice Ends a subscription with its paid time (or trial): no charge from now on, access until then. For its
    /// payer, who can `resume`, and for its merchant, whose word is final.
    /// @dev Requirements:
    /// 1. The subscription exists.
    /// 2. The caller is its payer or its plan's merchant.
    ///
    /// Emits `CancelScheduled`; if it changes nothing, succeeds and emits nothing. A scheduled change stays scheduled,
    /// and has an effect only after `resume`.
    ///
    /// Warning: past due, there is no paid time left, and the subscription ends at once.
    function cancel(uint256 id) external;

    /// @notice Ends a subscription at once: no charge and no access from now on. For its payer, who forfeits the paid
    /// time, and for its merchant.
    /// @dev Requirements:
    /// 1. The subscription exists.
    /// 2. The caller is its payer or its plan's merchant.
    ///
    /// Emits `Cancelled`; if it is already ended in this way, succeeds and emits nothing.
    ///
    /// Warning: a merchant that ends a paid period owes its payer; `refund` is its own step.
    function cancelNow(uint256 id) external;

    /// @notice Withdraws the caller's `cancel`.
    /// @dev Requirements:
    /// 1. The subscription exists.
    /// 2. The caller is its payer.
    /// 3. It was not ended by `cancelNow` nor cancelled by its merchant; else reverts with `AlreadyEnded`.
    /// 4. It was cancelled; else reverts with `NothingToResume`.
    /// 5. Its paid time is not over; else reverts with `AlreadyEnded`.
    ///
    /// Emits `Resumed`.
    function resume(uint256 id) external;

    // REFUNDING

    /// @notice Sends money of the caller back to a subscription's payer. Changes nothing else about the subscription.
    /// @dev Through this contract for the cap and the record. The caller's allowance to it is used as a payer's is.
    ///
    /// Requirements:
    /// 1. The subscription exists.
    /// 2. The caller is its plan's merchant or an operator of that merchant.
    /// 3. `amount` is not zero.
    /// 4. The sum of refunds is at most the sum of debits of this subscription; else reverts with `RefundExceedsPaid`.
    /// 5. `key` was not used for this subscription, neither here nor in `chargeUsage`; else reverts with `KeySpent`.
    /// 6. The token moves the money and says so; else reverts with `RefundRefused` and the reason.
    ///
    /// Emits `Refunded`.
    ///
    /// Warning: the refunded time goes on, and counts as credit in a change as far as anything paid is left. To end it,
    /// `cancelNow` in the same `multicall`.
    function refund(uint256 id, uint128 amount, bytes32 key) external;

    // SIGNED BY THE PAYER, SENT BY ANYBODY

    /// @notice `subscribe` or `subscribePrepaid` for the payer who signed it.
    /// @dev Requirements:
    /// 1. The plan exists.
    /// 2. The deadline is not over; else reverts with `Expired`.
    /// 3. The nonce is unused; else reverts with `NonceSpent`.
    /// 4. The signature is the payer's; else reverts with `InvalidSignature`.
    /// 5. Those of `subscribe`, or with a `count` those of `subscribePrepaid`.
    ///
    /// Emits `NoncesSpent` and what those emit; without renewal `CancelScheduled`, also where a trial comes first.
    /// @return id The subscription's id.
    function subscribeFor(SubscribeIntent calldata intent, bytes calldata signature) external returns (uint256 id);

    /// @notice `changeNow`, or with `count` 0 `scheduleChange`, for the payer who signed it.
    /// @dev Requirements: the subscription and the plan exist; 2 to 4 of `subscribeFor`; those of the function meant.
    ///
    /// Emits `NoncesSpent` and what those emit.
    function changeFor(ChangeIntent calldata intent, bytes calldata signature) external;

    /// @notice `cancel` or `cancelNow` for the payer who signed it.
    /// @dev Requirements: the subscription exists; 2 to 4 of `subscribeFor`.
    ///
    /// Emits `NoncesSpent` and what those emit.
    function cancelFor(CancelIntent calldata intent, bytes calldata signature) external;

    /// @notice Uses up nonces of the caller, so that what it signed with them is void.
    /// @dev Emits `NoncesSpent` with those that were unused; if there are none, succeeds and emits nothing.
    /// @param word The nonces divided by 256.
    /// @param mask Which of those 256.
    function invalidateNonces(uint256 word, uint256 mask) external;

    // IN FRONT OF ANOTHER CALL

    /// @notice Makes several calls to this contract, as the caller, all or none.
    /// @dev For example `permit` and then `subscribeFor`. Reverts with the error of the call that fails.
    ///
    /// Warning: anybody can send a part of it before. Then the rest is still good alone.
    function multicall(bytes[] calldata calls) external returns (bytes[] memory results);

    /// @notice Tries an account's EIP-2612 permit for this contract on a plan's token.
    /// @dev Warning: a permit that fails (used already by somebody else, expired, unknown to the token) is ignored, and
    /// one that succeeds proves nothing. The allowance that is there afterwards decides.
    function permit(uint32 planId, address owner, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external;

    /// @notice Tries an account's Permit2 permit for this contract and a plan's token; ignored if it fails, as above.
    /// @param expiration When the allowance through Permit2 ends. It has to outlast the subscription's charges.
    /// @param nonce Permit2's own nonce of the account, this token and this contract.
    /// @param signatureDeadline The last second in which the signature is good.
    function permit2(
        uint32 planId,
        address owner,
        uint160 value,
        uint48 expiration,
        uint48 nonce,
        uint256 signatureDeadline,
        bytes calldata signature
    ) external;

    /// @notice Reverts with `OtherTerms` unless the hash of a plan's terms is this one.
    function requireTerms(uint32 planId, bytes32 terms) external view;

    // VIEWS

    /// @notice A plan; all zero if there is no such plan.
    function plan(uint32 planId) external view returns (Plan memory);

    /// @notice The EIP-712 hash of a plan's `Terms`, as signatures contain it; reverts with `UnknownPlan`.
    function termsHash(uint32 planId) external view returns (bytes32);

    /// @notice Who is proposed as a plan's payee, and from when on it can accept; zero if nobody is.
    function proposedPayee(uint32 planId) external view returns (address payee, uint64 acceptableFrom);

    /// @notice Whether an account may charge usage and refund for a merchant.
    function isOperator(address merchant, address operator) external view returns (bool);

    /// @notice A subscription as stored; all zero if there is no such subscription.
    /// @dev Warning: time passes without changing it. `statusOf` says where it stands.
    function subscription(uint256 id) external view returns (Subscription memory);

    /// @notice Up to `count` subscriptions from `fromId` on, for audits: element i has the id `fromId + i`.
    /// @dev Clamped to those that exist: ids start at 1 (also for `fromId` 0), and there is nothing after the last.
    function subscriptions(uint256 fromId, uint256 count) external view returns (Record[] memory);

    /// @notice The end of the last paid period; the anchor while none is paid; 0 if there is no such subscription.
    /// @dev Warning: `cancelNow` does not change it. `statusOf` says whether there is access.
    function paidThrough(uint256 id) external view returns (uint64);

    /// @notice Where a subscription stands at this instant.
    function statusOf(uint256 id) external view returns (Status);

    /// @notice Why `chargeOne` would fail now; `None` if nothing that can be seen beforehand stands in the way.
    /// @dev The same reasons as in `ChargeFailed`. Does not revert for whatever the token does; reverts with
    /// `InsufficientGas` rather than blame a token that had too little gas to answer.
    ///
    /// Warning: `None` is no promise. A blocklist or pause of the token shows only when it is charged. `Token` is no proof
    /// either: a token that answers no questions may still pay.
    function previewCharge(uint256 id) external view returns (Reason);

    /// @notice What `changeNow` would debit at this instant, the credit in it, and the end of what would be paid then.
    /// @dev Reverts as that function, but looks neither at the caller nor at the payer's money.
    function previewChange(uint256 id, uint32 planId, uint16 count)
        external
        view
        returns (uint128 amount, uint128 credit, uint64 newPaidThrough);

    /// @notice The usage charged to a period of a subscription, in base units.
    function usageOf(uint256 id, uint16 period) external view returns (uint96);

    /// @notice Whether an idempotency key was used for a subscription, by `chargeUsage` or `refund`.
    function isKeySpent(uint256 id, bytes32 key) external view returns (bool);

    /// @notice Whether a payer has had a trial with a merchant; if so, subscribing charges at once.
    function hasUsedTrial(address merchant, address payer) external view returns (bool);

    /// @notice Which of 256 nonces of a payer are used up, as bits.
    /// @param word The nonces divided by 256.
    function spentNonces(address payer, uint256 word) external view returns (uint256);

    /// @notice How many plans exist: the id of the last.
    function planCount() external view returns (uint32);

    /// @notice How many subscriptions exist: the id of the last.
    function subscriptionCount() external view returns (uint256);

    /// @notice The EIP-712 domain of the signatures, as ERC-5267 has it.
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
        );
}
