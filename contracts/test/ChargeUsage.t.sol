// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {RevertingToken} from "./doubles/Tokens.sol";
import {Base} from "./utils/Base.sol";

/// @notice A month plan with a usage cap, and a subscription of `payer` to it.
abstract contract UsageBase is Base {
    uint96 internal constant CAP = 1000;

    address internal operator = makeAddr("operator");
    uint256 internal id;
    uint256 private _keys;

    function setUp() public virtual override {
        super.setUp();
        id = _subscribe(payer, _createUsagePlan(CAP));
        vm.prank(merchant);
        dues.setOperator(operator, true);
    }

    /// @dev Charges with a fresh key, and looks at everything that this changes.
    function _use(uint16 period, uint96 amount) internal {
        _use(id, merchant, period, amount, _freshKey());
    }

    function _use(uint256 id_, address caller, uint16 period, uint96 amount, bytes32 key) internal {
        IDues.Record memory record = _record(id_);
        uint96 total = dues.usageOf(id_, period) + amount;
        uint256 before = token.balanceOf(payer);
        vm.expectEmit(address(dues));
        emit IDues.UsageCharged(id_, record.subscription.planId, payer, key, period, amount, total);
        vm.prank(caller);
        dues.chargeUsage(id_, period, amount, key);
        assertEq(before - token.balanceOf(payer), amount);
        assertEq(dues.usageOf(id_, period), total);
        assertTrue(dues.isKeySpent(id_, key));
        record.paid += amount;
        assertEq(abi.encode(_record(id_)), abi.encode(record));
    }

    function _assertRefused(uint16 period, uint96 amount, bytes memory refusal) internal {
        _assertRefused(merchant, period, amount, _freshKey(), refusal);
    }

    function _assertRefused(address caller, uint16 period, uint96 amount, bytes32 key, bytes memory refusal) internal {
        IDues.Record memory record = _record(id);
        vm.expectRevert(refusal);
        vm.prank(caller);
        dues.chargeUsage(id, period, amount, key);
        assertEq(abi.encode(_record(id)), abi.encode(record));
    }

    function _assertClosed(uint16 period) internal {
        _assertRefused(period, 1, abi.encodeWithSelector(IDues.PeriodClosed.selector, id, period));
    }

    function _assertOpen(uint16 period) internal {
        uint256 snapshot = vm.snapshotState();
        _use(period, 1);
        vm.revertToState(snapshot);
    }

    function _aboveCap(uint256 total, uint256 cap) internal view returns (bytes memory) {
        return abi.encodeWithSelector(IDues.UsageCapExceeded.selector, id, total, cap);
    }

    function _freshKey() internal returns (bytes32) {
        return bytes32(++_keys);
    }
}

// chargeUsage
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the caller is neither the merchant nor its operator: it reverts with NotMerchant
// ├── when the amount is zero: it reverts with InvalidAmount
// ├── when the period is not open: it reverts with PeriodClosed (see below)
// ├── when the sum of a period goes above the cap: it reverts with UsageCapExceeded, however it is split
// ├── when the key was used for the subscription, here or in refund: it reverts with KeySpent
// ├── when the token does not move the money: it reverts with ChargeRefused, and nothing is left
// └── when all is well
//     ├── it moves the amount from the payer to the payee
//     ├── it emits UsageCharged
//     └── it changes nothing about the periods
contract ChargeUsageTest is UsageBase {
    function testFuzz_movesTheAmount(bool byOperator, uint96 cap, uint96 amount, bytes32 key) public {
        cap = uint96(bound(cap, 1, type(uint96).max));
        amount = uint96(bound(amount, 1, cap));
        _fundWithoutLimit(token, payer);
        uint256 other = _subscribe(payer, _createUsagePlan(cap));
        uint256 before = token.balanceOf(payee);
        _use(other, byOperator ? operator : merchant, 1, amount, key);
        assertEq(token.balanceOf(payee) - before, amount);
        assertEq(token.balanceOf(address(dues)), 0);
    }

    function testFuzz_splittingDoesNotBeatTheCap(uint96[12] memory amounts) public {
        uint256 total = 0;
        for (uint256 i = 0; i < amounts.length; ++i) {
            uint96 amount = uint96(bound(amounts[i], 1, CAP / 2));
            if (total + amount <= CAP) {
                _use(1, amount);
                total += amount;
            } else {
                _assertRefused(1, amount, _aboveCap(total + amount, CAP));
            }
        }
        assertEq(dues.usageOf(id, 1), total);
        assertEq(token.balanceOf(payee), PRICE + total);
        assertEq(_record(id).paid, PRICE + total);
    }

    function testFuzz_theCapItselfIsAllowed(uint96 first) public {
        first = uint96(bound(first, 1, CAP - 1));
        _use(1, first);
        _assertRefused(1, CAP - first + 1, _aboveCap(CAP + 1, CAP));
        _use(1, CAP - first);
        _assertRefused(1, 1, _aboveCap(CAP + 1, CAP));
    }

    function testFuzz_revertsAboveTheCapAlsoWithTheLargestAmounts(uint96 amount) public {
        amount = uint96(bound(amount, CAP, type(uint96).max));
        _use(1, 1);
        _assertRefused(1, amount, _aboveCap(uint256(amount) + 1, CAP));
        _assertRefused(1, type(uint96).max, _aboveCap(uint256(type(uint96).max) + 1, CAP));
    }

    function test_aPlanWithoutACapAllowsNoUsage() public {
        id = _subscribe();
        _assertRefused(1, 1, _aboveCap(1, 0));
    }

    function test_eachSubscriptionHasItsOwnUsage() public {
        _use(1, CAP);
        uint256 other = _subscribe(payer, 1);
        _use(other, merchant, 1, CAP, "key");
    }

    function testFuzz_aKeyIsSpentOnce(bytes32 key, uint96 amount) public {
        amount = uint96(bound(amount, 1, CAP - 1));
        _use(id, merchant, 1, 1, key);
        bytes memory spent = abi.encodeWithSelector(IDues.KeySpent.selector, id, key);
        _assertRefused(merchant, 1, amount, key, spent);
        _assertRefused(operator, 1, amount, key, spent);
        vm.expectRevert(spent);
        vm.prank(merchant);
        dues.refund(id, 1, key);
        // Not in another period either.
        vm.warp(_month(1));
        dues.chargeOne(id);
        _assertRefused(merchant, 2, amount, key, spent);
    }

    function test_aRepeatIsToldThatTheKeyIsSpentWhateverHasHappenedSince() public {
        _use(id, merchant, 1, CAP, "key");
        bytes memory spent = abi.encodeWithSelector(IDues.KeySpent.selector, id, bytes32("key"));
        // Not that it would be above the cap, nor that the period is closed.
        _assertRefused(merchant, 1, CAP, "key", spent);
        vm.warp(_month(1) + GRACE);
        _assertRefused(merchant, 1, CAP, "key", spent);
    }

    function testFuzz_aKeyThatARefundSpentIsSpent(bytes32 key) public {
        _fund(token, merchant);
        vm.prank(merchant);
        dues.refund(id, 1, key);
        _assertRefused(merchant, 1, 1, key, abi.encodeWithSelector(IDues.KeySpent.selector, id, key));
    }

    function testFuzz_aKeyIsSpentForOneSubscription(bytes32 key) public {
        uint256 other = _subscribe(payer, 1);
        _use(id, merchant, 1, 1, key);
        assertFalse(dues.isKeySpent(other, key));
        _use(other, merchant, 1, 1, key);
    }

    function test_whatWasRefusedSpendsNoKey() public {
        vm.prank(payer);
        token.approve(address(dues), 0);
        _assertRefused(merchant, 1, 1, "key", _noMoney(IDues.Reason.Allowance));
        assertFalse(dues.isKeySpent(id, "key"));
        assertEq(dues.usageOf(id, 1), 0);
        _fund(token, payer);
        _use(id, merchant, 1, 1, "key");
    }

    function testFuzz_revertsWhenTheMoneyIsTooLittle(uint96 money, bool balance) public {
        money = uint96(bound(money, 0, CAP - 1));
        if (balance) deal(address(token), payer, money);
        vm.prank(payer);
        token.approve(address(dues), balance ? CAP : money);
        _assertRefused(1, CAP, _noMoney(balance ? IDues.Reason.Balance : IDues.Reason.Allowance));
    }

    function test_revertsWhenTheTokenRefuses() public {
        RevertingToken paused = new RevertingToken();
        _fund(paused, payer);
        IDues.PlanTerms memory terms = _terms();
        (terms.token, terms.usageCap) = (address(paused), CAP);
        id = _subscribe(payer, _createPlan(terms));
        paused.setBroken(true);
        _assertRefused(1, 1, _noMoney(IDues.Reason.Token));
    }

    function test_revertsWhenTheAmountIsZero() public {
        _assertRefused(1, 0, abi.encodeWithSelector(IDues.InvalidAmount.selector));
    }

    function testFuzz_revertsWhenThereIsNoSuchSubscription(uint256 unknown) public {
        vm.assume(unknown != id);
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownSubscription.selector, unknown));
        vm.prank(merchant);
        dues.chargeUsage(unknown, 1, 1, "key");
    }

    function testFuzz_revertsWhenTheCallerIsNotTheMerchant(address caller) public {
        vm.assume(caller != merchant && caller != operator);
        _assertNotMerchant(caller);
    }

    function test_revertsForOtherMerchantsAndTheirOperators() public {
        address other = makeAddr("another merchant");
        vm.startPrank(other);
        dues.createPlan(_terms());
        dues.setOperator(keeper, true);
        vm.stopPrank();
        _assertNotMerchant(other);
        _assertNotMerchant(keeper);
        _assertNotMerchant(payee);
        _assertNotMerchant(payer);
    }

    function _noMoney(IDues.Reason reason) private view returns (bytes memory) {
        return abi.encodeWithSelector(IDues.ChargeRefused.selector, id, reason);
    }

    function _assertNotMerchant(address caller) private {
        _assertRefused(caller, 1, 1, "key", abi.encodeWithSelector(IDues.NotMerchant.selector, 1, caller));
    }
}

// A period is open to usage
// ├── from its first second, if it is paid
// ├── until grace after its end; also if the subscription has lapsed since
// ├── given cancelled: until the end of the paid time
// ├── given ended at once: not at all
// ├── never in a trial, nor before it starts
// └── given a change of plan: only the periods of the new plan
contract ChargeUsageWindowTest is UsageBase {
    function test_isOpenFromItsFirstSecond() public {
        _assertOpen(1);
        id = _subscribePrepaid(1, 3);
        vm.warp(_month(1) - 1);
        _assertClosed(2);
        vm.warp(_month(1));
        _assertOpen(2);
        vm.warp(_month(2) - 1);
        _assertClosed(3);
        vm.warp(_month(2));
        _assertOpen(3);
    }

    function test_isOpenUntilGraceAfterItsEnd() public {
        vm.warp(_month(1));
        dues.chargeOne(id);
        vm.warp(_month(1) + GRACE - 1);
        _assertOpen(1);
        vm.warp(_month(1) + GRACE);
        _assertClosed(1);
        _assertOpen(2);
    }

    function test_pastDueItIsOpenUntilTheLapse() public {
        vm.warp(_month(1) + GRACE - 1);
        _assertStatus(id, IDues.Status.PastDue);
        _assertOpen(1);
        // The one that is due is not paid.
        _assertClosed(2);
        vm.warp(_month(1) + GRACE);
        _assertStatus(id, IDues.Status.Lapsed);
        _assertClosed(1);
    }

    function test_atTheBoundarySecondTheCapOfEachPeriodCountsAlone() public {
        _use(1, CAP - 1);
        vm.warp(_month(1));
        dues.chargeOne(id);
        // One second, two periods: neither has more than its own cap.
        _use(1, 1);
        _use(2, CAP);
        _assertRefused(1, 1, _aboveCap(CAP + 1, CAP));
        _assertRefused(2, 1, _aboveCap(CAP + 1, CAP));
        assertEq(_record(id).paid, 2 * uint256(PRICE) + 2 * CAP);
    }

    function testFuzz_neverMoreThanTheCapOfEachStartedPeriod(uint256[24] memory steps) public {
        id = _subscribePrepaid(1, 4);
        uint256 paid = _record(id).paid;
        uint256 time = START;
        for (uint256 i = 0; i < steps.length; ++i) {
            time += bound(steps[i] >> 128, 0, 10 days);
            vm.warp(time);
            uint16 period = uint16(bound(steps[i] % 6, 0, 5));
            uint96 amount = uint96(bound(uint64(steps[i] >> 8), 1, CAP));
            bool open = period != 0 && period <= 4 && time >= _month(period - 1) && time < _month(period) + GRACE;
            if (!open) {
                _assertClosed(period);
            } else if (dues.usageOf(id, period) + amount > CAP) {
                _assertRefused(period, amount, _aboveCap(dues.usageOf(id, period) + amount, CAP));
            } else {
                _use(period, amount);
                paid += amount;
            }
        }
        assertEq(_record(id).paid, paid);
    }

    function testFuzz_periodsThatAreNotPaidAreClosed(uint16 period) public {
        if (period != 1) _assertClosed(period);
        _assertClosed(0);
        _assertClosed(2);
        _assertClosed(type(uint16).max);
        // In no time that there is, either.
        vm.warp(_month(1) + GRACE / 2);
        _assertClosed(0);
        _assertClosed(2);
    }

    function testFuzz_prepaidPeriodsAreClosedUntilTheyStart(uint16 count) public {
        count = uint16(bound(count, 2, 200));
        id = _subscribePrepaid(1, count);
        _assertClosed(2);
        _assertClosed(count);
        vm.warp(_month(count - 1) - 1);
        _assertClosed(count);
        vm.warp(_month(count - 1));
        _assertOpen(count);
    }

    function test_aTrialHasNoUsage() public {
        IDues.PlanTerms memory terms = _terms();
        (terms.trial, terms.usageCap) = (7 days, CAP);
        id = _subscribe(payer, _createPlan(terms));
        _assertClosed(0);
        _assertClosed(1);
        // Not even in one after which periods are prepaid.
        vm.prank(payer);
        dues.prepay(id, 1);
        vm.warp(START + 7 days - 1);
        _assertClosed(1);
        vm.warp(START + 7 days);
        _assertOpen(1);
    }

    function testFuzz_cancelledItIsOpenUntilTheEndOfThePaidTime(bool byMerchant) public {
        id = _subscribePrepaid(1, 2);
        vm.prank(byMerchant ? merchant : payer);
        dues.cancel(id);
        // An earlier period still has its grace.
        vm.warp(_month(1) + GRACE - 1);
        _assertOpen(1);
        _assertOpen(2);
        vm.warp(_month(2) - 1);
        _assertOpen(2);
        vm.warp(_month(2));
        _assertClosed(2);
    }

    function testFuzz_endedItIsClosed(bool byMerchant) public {
        _use(1, 1);
        vm.prank(byMerchant ? merchant : payer);
        dues.cancelNow(id);
        _assertClosed(1);
    }

    function test_resumedItIsOpenAgain() public {
        vm.startPrank(payer);
        dues.cancel(id);
        dues.resume(id);
        vm.stopPrank();
        vm.warp(_month(1) + GRACE - 1);
        _assertOpen(1);
    }

    function test_isOpenWhileAChangeIsScheduled() public {
        _scheduleChange(id, _createUsagePlan(2 * CAP));
        _assertRefused(1, CAP + 1, _aboveCap(CAP + 1, CAP));
        _use(1, CAP);
        vm.warp(_month(1) + GRACE - 1);
        _assertRefused(1, 1, _aboveCap(CAP + 1, CAP));
    }

    function test_afterAChangeWithAnEqualIntervalOnlyPeriodsOfTheNewPlanAreOpen() public {
        _use(1, 7);
        vm.prank(payer);
        dues.prepay(id, 1);
        _scheduleChange(id, _createUsagePlan(2 * CAP));
        vm.warp(_month(2));
        dues.chargeOne(id);
        // Period 2 has its grace, but it was one of the old plan, which allowed less.
        _assertClosed(1);
        _assertClosed(2);
        _use(3, 2 * CAP);
        _assertRefused(3, 1, _aboveCap(2 * CAP + 1, 2 * CAP));
        assertEq(dues.usageOf(id, 1), 7);
        vm.warp(_month(3));
        dues.chargeOne(id);
        _assertRefused(3, 1, _aboveCap(2 * CAP + 1, 2 * CAP));
        _use(4, 1);
    }

    function test_afterAChangeWithAnotherIntervalPeriodsBeginAnew() public {
        _use(1, CAP);
        IDues.PlanTerms memory terms = _terms();
        (terms.count, terms.usageCap) = (12, 2 * CAP);
        _scheduleChange(id, _createPlan(terms));
        vm.warp(_month(1));
        dues.chargeOne(id);
        assertEq(dues.usageOf(id, 1), 0);
        _use(1, 2 * CAP);
        _assertClosed(2);
    }

    function test_afterAChangeAtOncePeriodsBeginAnew() public {
        _use(1, CAP);
        uint32 planId = _createUsagePlan(2 * CAP);
        vm.warp(START + 1 days);
        vm.prank(payer);
        dues.changeNow(id, planId, 1, type(uint128).max);
        assertEq(dues.usageOf(id, 1), 0);
        _use(1, 2 * CAP);
    }

    function test_aChangeInTheSecondInWhichThePeriodStartedGivesNoCapTwice() public {
        _use(1, CAP);
        uint32 planId = _createUsagePlan(CAP);
        vm.prank(payer);
        dues.changeNow(id, planId, 1, type(uint128).max);
        assertEq(dues.usageOf(id, 1), CAP);
        _assertRefused(1, 1, _aboveCap(CAP + 1, CAP));
    }

    function test_aMigrationLowersTheCapFromTheNextPeriodOn() public {
        uint32 planId = _createUsagePlan(500);
        vm.prank(merchant);
        dues.migrate(id, planId);
        _use(1, CAP);
        vm.warp(_month(1));
        dues.chargeOne(id);
        _assertClosed(1);
        _assertRefused(2, 501, _aboveCap(501, 500));
        _use(2, 500);
    }
}
