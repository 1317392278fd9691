// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {BlocklistToken, FeeToken} from "./doubles/Tokens.sol";
import {Base} from "./utils/Base.sol";

// refund
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the caller is neither the merchant nor its operator: it reverts with NotMerchant
// ├── when the amount is zero: it reverts with InvalidAmount
// ├── when the sum of refunds goes above the sum of debits: it reverts with RefundExceedsPaid
// │   └── debits are charges, prepayments, usage and changes, each with what was really debited
// ├── when the key was used for the subscription, here or in chargeUsage: it reverts with KeySpent
// ├── when the token does not move the money: it reverts with RefundRefused and the reason, and nothing is left
// └── when all is well, whatever the status of the subscription
//     ├── it moves the amount from the caller, whoever of them it is, to the payer
//     ├── it emits Refunded
//     └── it changes nothing else about the subscription
contract RefundTest is Base {
    uint96 private constant CAP = 1000;

    address private operator = makeAddr("operator");
    uint256 private id;

    function setUp() public override {
        super.setUp();
        id = _subscribe(payer, _createUsagePlan(CAP));
        vm.prank(merchant);
        dues.setOperator(operator, true);
        _fund(token, merchant);
        _fund(token, operator);
    }

    function testFuzz_movesTheCallersOwnMoney(bool byOperator, uint128 amount, bytes32 key) public {
        address caller = byOperator ? operator : merchant;
        amount = uint128(bound(amount, 1, PRICE));
        uint256 ofOther = token.balanceOf(byOperator ? merchant : operator);
        uint256 ofPayee = token.balanceOf(payee);
        _refund(id, caller, amount, key);
        assertEq(token.balanceOf(byOperator ? merchant : operator), ofOther);
        assertEq(token.balanceOf(payee), ofPayee);
        assertEq(token.balanceOf(address(dues)), 0);
    }

    function testFuzz_splittingGivesNoMoreThanWasPaid(uint128[8] memory amounts) public {
        uint256 total = 0;
        for (uint256 i = 0; i < amounts.length; ++i) {
            uint128 amount = uint128(bound(amounts[i], 1, PRICE / 2));
            if (total + amount <= PRICE) {
                _refund(id, merchant, amount, bytes32(i));
                total += amount;
            } else {
                _assertAbove(amount, total + amount, PRICE);
            }
        }
        assertEq(_record(id).refunded, total);
    }

    function testFuzz_everythingThatWasPaidAndNotABitMore(uint128 first) public {
        first = uint128(bound(first, 1, PRICE - 1));
        _refund(id, merchant, first, "first");
        _assertAbove(PRICE - first + 1, PRICE + 1, PRICE);
        _refund(id, merchant, PRICE - first, "second");
        _assertAbove(1, PRICE + 1, PRICE);
    }

    function testFuzz_chargesPrepaymentsAndUsageCount(uint8 charges, uint16 prepaid, uint96 usage) public {
        charges = uint8(bound(charges, 0, 5));
        prepaid = uint16(bound(prepaid, 0, 100));
        usage = uint96(bound(usage, 0, CAP));
        uint256 paid = PRICE;
        for (uint256 n = 1; n <= charges; ++n) {
            vm.warp(_month(n));
            dues.chargeOne(id);
            paid += PRICE;
        }
        if (usage != 0) {
            vm.prank(merchant);
            dues.chargeUsage(id, charges + 1, usage, "usage");
            paid += usage;
        }
        if (prepaid != 0) {
            vm.prank(payer);
            dues.prepay(id, prepaid);
            paid += uint256(prepaid) * PRICE;
        }
        _assertRefundable(paid);
    }

    function testFuzz_whatAChangeAtOnceDebitedCounts(uint256 time, uint96 price, uint16 prepaid) public {
        prepaid = uint16(bound(prepaid, 0, 5));
        if (prepaid != 0) {
            vm.prank(payer);
            dues.prepay(id, prepaid);
        }
        uint256 paid = (1 + uint256(prepaid)) * PRICE;
        // One period of it costs more than all that can be left of the old plan.
        uint32 planId = _createPlan(uint96(bound(price, 6 * PRICE, 10 * PRICE)), IDues.IntervalUnit.Month, 1);
        vm.warp(bound(time, START, _month(1) - 1));
        uint256 before = token.balanceOf(payer);
        vm.prank(payer);
        dues.changeNow(id, planId, 1, type(uint128).max);
        paid += before - token.balanceOf(payer);
        _assertRefundable(paid);
    }

    function testFuzz_whatAScheduledChangeDebitedCounts(uint96 price, bool day) public {
        price = uint96(bound(price, 1, 100 * PRICE));
        _scheduleChange(id, _createPlan(price, day ? IDues.IntervalUnit.Day : IDues.IntervalUnit.Month, 1));
        vm.warp(_month(1));
        dues.chargeOne(id);
        _assertRefundable(uint256(PRICE) + price);
    }

    function testFuzz_aMigrationChangesNothingAboutWhatWasPaid(uint96 price) public {
        price = uint96(bound(price, 1, PRICE));
        uint32 planId = _createPlan(price, IDues.IntervalUnit.Month, 1);
        vm.prank(merchant);
        dues.migrate(id, planId);
        assertEq(_record(id).paid, PRICE);
        vm.warp(_month(1));
        dues.chargeOne(id);
        _assertRefundable(uint256(PRICE) + price);
    }

    function test_aDearerPlanDoesNotRaiseWhatWasPaid() public {
        // Ten periods at one price and one at another are not eleven at the higher one.
        vm.prank(payer);
        dues.prepay(id, 9);
        _scheduleChange(id, _createPlan(2 * PRICE, IDues.IntervalUnit.Month, 1));
        vm.warp(_month(10));
        dues.chargeOne(id);
        _assertRefundable(12 * uint256(PRICE));
    }

    function test_aTrialPaidNothing() public {
        id = _subscribe(payer, _createTrialPlan(7 days));
        _assertAbove(1, 1, 0);
    }

    function test_refundsOfOneSubscriptionTakeNothingFromAnother() public {
        uint256 other = _subscribe(payer, 1);
        _refund(id, merchant, PRICE, "key");
        _assertAbove(1, PRICE + 1, PRICE);
        _refund(other, merchant, PRICE, "key");
    }

    function testFuzz_isPossibleWhateverTheStatus(uint8 status, bool byOperator) public {
        status = uint8(bound(status, uint8(IDues.Status.Active), uint8(IDues.Status.Cancelled)));
        if (IDues.Status(status) == IDues.Status.PastDue) vm.warp(_month(1));
        if (IDues.Status(status) == IDues.Status.Lapsed) vm.warp(_month(1) + GRACE);
        if (IDues.Status(status) == IDues.Status.Cancelled) {
            vm.prank(merchant);
            dues.cancelNow(id);
        }
        _assertStatus(id, IDues.Status(status));
        _refund(id, byOperator ? operator : merchant, PRICE, "key");
        _assertStatus(id, IDues.Status(status));
    }

    function test_aRefundedPeriodStaysPaid() public {
        _refund(id, merchant, PRICE, "key");
        assertEq(dues.paidThrough(id), _month(1));
        vm.warp(_month(1));
        dues.chargeOne(id);
        assertEq(dues.paidThrough(id), _month(2));
    }

    function testFuzz_aKeyIsSpentOnce(bytes32 key, uint128 amount) public {
        amount = uint128(bound(amount, 1, PRICE - 1));
        _refund(id, merchant, 1, key);
        bytes memory spent = abi.encodeWithSelector(IDues.KeySpent.selector, id, key);
        _assertRefused(merchant, amount, key, spent);
        _assertRefused(operator, amount, key, spent);
        vm.expectRevert(spent);
        vm.prank(merchant);
        dues.chargeUsage(id, 1, 1, key);
    }

    function test_aRepeatIsToldThatTheKeyIsSpentWhateverHasHappenedSince() public {
        _refund(id, merchant, PRICE, "key");
        _assertRefused(merchant, PRICE, "key", abi.encodeWithSelector(IDues.KeySpent.selector, id, bytes32("key")));
    }

    function test_aKeyThatUsageSpentIsSpent() public {
        vm.prank(merchant);
        dues.chargeUsage(id, 1, 1, "key");
        _assertRefused(merchant, 1, "key", abi.encodeWithSelector(IDues.KeySpent.selector, id, bytes32("key")));
    }

    function testFuzz_revertsWhenTheMoneyIsTooLittle(uint256 money, bool balance, bool byOperator) public {
        address caller = byOperator ? operator : merchant;
        money = bound(money, 0, PRICE - 1);
        if (balance) deal(address(token), caller, money);
        vm.prank(caller);
        token.approve(address(dues), balance ? PRICE : money);
        IDues.Reason reason = balance ? IDues.Reason.Balance : IDues.Reason.Allowance;
        _assertRefused(caller, PRICE, "key", abi.encodeWithSelector(IDues.RefundRefused.selector, id, reason));
        assertFalse(dues.isKeySpent(id, "key"));
        _fund(token, caller);
        _refund(id, caller, PRICE, "key");
    }

    function test_revertsWhenThePayerIsBlocklisted() public {
        BlocklistToken usdc = new BlocklistToken();
        _fund(usdc, payer);
        _fund(usdc, merchant);
        id = _subscribe(payer, _createPlanIn(usdc));
        usdc.setBlocked(payer, true);
        _assertRefused(merchant, 1, "key", abi.encodeWithSelector(IDues.RefundRefused.selector, id, IDues.Reason.Token));
    }

    function test_aTokenWithAFeeDebitsTheCallerTheAmount() public {
        FeeToken taxed = new FeeToken();
        _fund(taxed, payer);
        _fund(taxed, merchant);
        id = _subscribe(payer, _createPlanIn(taxed));
        (uint256 ofPayer, uint256 ofMerchant) = (taxed.balanceOf(payer), taxed.balanceOf(merchant));
        vm.prank(merchant);
        dues.refund(id, PRICE, "key");
        assertEq(ofMerchant - taxed.balanceOf(merchant), PRICE);
        assertEq(taxed.balanceOf(payer) - ofPayer, PRICE - PRICE / 100);
    }

    function test_revertsWhenTheAmountIsZero() public {
        _assertRefused(merchant, 0, "key", abi.encodeWithSelector(IDues.InvalidAmount.selector));
    }

    function testFuzz_revertsWhenThereIsNoSuchSubscription(uint256 unknown) public {
        vm.assume(unknown != id);
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownSubscription.selector, unknown));
        vm.prank(merchant);
        dues.refund(unknown, 1, "key");
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

    function testFuzz_theLargestAmountsAreCompared(uint128 amount) public {
        amount = uint128(bound(amount, uint256(PRICE) + 1, type(uint128).max));
        _assertAbove(amount, amount, PRICE);
        _assertAbove(type(uint128).max, type(uint128).max, PRICE);
    }

    function _refund(uint256 id_, address caller, uint128 amount, bytes32 key) private {
        IDues.Record memory record = _record(id_);
        uint128 total = uint128(record.refunded) + amount;
        (uint256 ofCaller, uint256 ofPayer) = (token.balanceOf(caller), token.balanceOf(payer));
        vm.expectEmit(address(dues));
        emit IDues.Refunded(id_, record.subscription.planId, payer, key, caller, amount, total);
        vm.prank(caller);
        dues.refund(id_, amount, key);
        assertEq(ofCaller - token.balanceOf(caller), amount);
        assertEq(token.balanceOf(payer) - ofPayer, amount);
        assertTrue(dues.isKeySpent(id_, key));
        record.refunded = total;
        assertEq(abi.encode(_record(id_)), abi.encode(record));
    }

    /// @dev All of `paid` can be refunded, and no more.
    function _assertRefundable(uint256 paid) private {
        assertEq(_record(id).paid, paid);
        _assertAbove(uint128(paid + 1), paid + 1, paid);
        _refund(id, merchant, uint128(paid), "all");
        _assertAbove(1, paid + 1, paid);
    }

    function _assertAbove(uint128 amount, uint256 total, uint256 paid) private {
        _assertRefused(
            merchant, amount, "above", abi.encodeWithSelector(IDues.RefundExceedsPaid.selector, id, total, paid)
        );
    }

    function _assertNotMerchant(address caller) private {
        _assertRefused(
            caller, 1, "key", abi.encodeWithSelector(IDues.NotMerchant.selector, dues.subscription(id).planId, caller)
        );
    }

    function _assertRefused(address caller, uint128 amount, bytes32 key, bytes memory refusal) private {
        IDues.Record memory record = _record(id);
        vm.expectRevert(refusal);
        vm.prank(caller);
        dues.refund(id, amount, key);
        assertEq(abi.encode(_record(id)), abi.encode(record));
    }
}
