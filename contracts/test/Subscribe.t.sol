// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// subscribe
// ├── when the plan does not exist: it reverts with UnknownPlan
// ├── given the plan is retired: it reverts with RetiredPlan
// ├── given no trial, or one already used with this merchant
// │   ├── it starts now, with the first period charged
// │   ├── it emits Subscribed, then Charged
// │   └── when the charge fails: it reverts with ChargeRefused, and nothing is left
// └── given an unused trial
//     ├── it starts after the trial, with nothing charged
//     ├── it emits Subscribed only
//     └── it uses up the payer's trial with this merchant
contract SubscribeTest is Base {
    function testFuzz_withoutTrialChargesTheFirstPeriodNow(FuzzedTerms memory fuzzed, bytes32 ref) public {
        IDues.PlanTerms memory terms = _terms(fuzzed);
        terms.trial = 0;
        uint32 planId = _createPlan(terms);
        deal(address(token), payer, terms.price);
        vm.prank(payer);
        token.approve(address(dues), terms.price);
        uint64 end = uint64(_end(START, terms.unit, terms.count, 1));

        vm.expectEmit(address(dues));
        emit IDues.Subscribed(1, planId, payer, ref, uint40(START), uint64(START));
        vm.expectEmit(address(dues));
        emit IDues.Charged(1, planId, payer, 1, end, terms.price);
        vm.prank(payer);
        uint256 id = dues.subscribe(planId, ref);

        assertEq(id, 1);
        _assertSame(dues.subscription(id), IDues.Subscription(payer, planId, uint40(START), 1, 0));
        assertEq(dues.paidThrough(id), end);
        _assertStatus(id, IDues.Status.Active);
        assertEq(token.balanceOf(payer), 0);
        assertEq(token.balanceOf(terms.payee), terms.price);
        assertFalse(dues.hasUsedTrial(merchant, payer));
        assertEq(_record(id).paid, terms.price);
        assertEq(dues.subscriptionCount(), 1);
    }

    function testFuzz_withATrialChargesNothingNow(uint32 trial, bytes32 ref) public {
        trial = uint32(bound(trial, 1, 366 days));
        uint32 planId = _createTrialPlan(trial);
        uint256 before = token.balanceOf(payer);

        vm.recordLogs();
        vm.expectEmit(address(dues));
        emit IDues.Subscribed(1, planId, payer, ref, uint40(START + trial), uint64(START + trial));
        vm.prank(payer);
        uint256 id = dues.subscribe(planId, ref);

        assertEq(_countLogs(), 1);
        _assertSame(dues.subscription(id), IDues.Subscription(payer, planId, uint40(START + trial), 0, 0));
        assertEq(dues.paidThrough(id), START + trial);
        _assertStatus(id, IDues.Status.Trialing);
        assertEq(token.balanceOf(payer), before);
        assertTrue(dues.hasUsedTrial(merchant, payer));
        assertEq(_record(id).paid, 0);
    }

    function test_aTrialNeedsNoAllowance() public {
        uint32 planId = _createTrialPlan(7 days);
        address poor = makeAddr("poor");
        uint256 id = _subscribe(poor, planId);
        vm.warp(START + 7 days);
        _assertPreview(id, IDues.Reason.Allowance);
    }

    function test_theTrialIsOncePerPayerAndMerchant() public {
        uint32 first = _createTrialPlan(7 days);
        uint32 second = _createTrialPlan(14 days);
        vm.prank(makeAddr("another merchant"));
        IDues.PlanTerms memory terms = _terms();
        terms.trial = 30 days;
        uint32 elsewhere = dues.createPlan(terms);

        uint256 id = _subscribe(payer, first);
        vm.prank(payer);
        dues.cancelNow(id);
        // Not by subscribing again, and not by another plan of the same merchant.
        assertEq(dues.paidThrough(_subscribe(payer, first)), _month(1));
        assertEq(dues.paidThrough(_subscribe(payer, second)), _month(1));
        // But with another merchant, and by another payer.
        assertEq(dues.paidThrough(_subscribe(payer, elsewhere)), START + 30 days);
        assertEq(dues.paidThrough(_subscribe(keeper, first)), START + 7 days);
    }

    function test_aPaidSubscriptionDoesNotUseUpTheTrial() public {
        _subscribe();
        assertEq(dues.paidThrough(_subscribe(payer, _createTrialPlan(7 days))), START + 7 days);
    }

    function test_onePayerMayHoldSeveralSubscriptionsToAPlan() public {
        uint32 planId = _createPlan();
        for (uint256 i = 1; i <= 3; ++i) {
            assertEq(_subscribe(payer, planId), i);
            assertEq(dues.subscriptionCount(), i);
            assertEq(token.balanceOf(payee), i * PRICE);
        }
    }

    function test_thePayerMayBeThePayee() public {
        token.mint(payee, PRICE);
        vm.prank(payee);
        token.approve(address(dues), PRICE);
        uint256 id = _subscribe(payee, _createPlan());
        assertEq(token.balanceOf(payee), PRICE);
        assertEq(dues.paidThrough(id), _month(1));
    }

    function testFuzz_nobodySubscribesAnotherOnesWallet(address caller) public {
        // The payer's allowance stands all the time.
        vm.assume(caller != payer && caller != address(0));
        uint32 planId = _createPlan();
        uint256 before = token.balanceOf(payer);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Allowance));
        _subscribe(caller, planId);
        assertEq(token.balanceOf(payer), before);
    }

    function testFuzz_revertsWhenThePlanDoesNotExist(uint32 planId) public {
        vm.assume(planId != 1);
        _createPlan();
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownPlan.selector, planId));
        _subscribe(payer, planId);
    }

    function test_revertsWhenThePlanIsRetired() public {
        uint32 planId = _createPlan();
        vm.prank(merchant);
        dues.retirePlan(planId);
        vm.expectRevert(abi.encodeWithSelector(IDues.RetiredPlan.selector, planId));
        _subscribe(payer, planId);
    }

    function testFuzz_revertsWhenTheAllowanceIsTooSmall(uint256 allowance) public {
        allowance = bound(allowance, 0, PRICE - 1);
        uint32 planId = _createPlan();
        vm.prank(payer);
        token.approve(address(dues), allowance);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Allowance));
        _subscribe(payer, planId);
        assertEq(dues.subscriptionCount(), 0);
    }

    function testFuzz_revertsWhenTheBalanceIsTooSmall(uint256 balance) public {
        balance = bound(balance, 0, PRICE - 1);
        uint32 planId = _createPlan();
        deal(address(token), payer, balance);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Balance));
        _subscribe(payer, planId);
    }

    function test_revertsWhenTheTokenIsGone() public {
        uint32 planId = _createPlan();
        vm.etch(address(token), "");
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Token));
        _subscribe(payer, planId);
    }
}
