// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {BlocklistToken} from "./doubles/Tokens.sol";
import {Base} from "./utils/Base.sol";

// acceptPayee
// ├── when the caller is not the account proposed last (the merchant, the payee, anybody): it reverts with
// │   NotProposedPayee; also for a plan without proposal, and one that does not exist
// ├── when two days have not passed: it reverts with TooEarly
// └── when all is well
//     ├── it emits PayeeChanged
//     ├── it changes the payee and nothing else of the plan
//     ├── the proposal is used up
//     ├── there is no faster way for the merchant
//     └── charges, prepayments and usage of existing subscriptions go to the new payee
contract AcceptPayeeTest is Base {
    address private next = makeAddr("another payee");

    function testFuzz_changesThePayeeAndNothingElse(FuzzedTerms memory fuzzed, uint256 time, bool retired) public {
        uint32 planId = _createPlan(_terms(fuzzed));
        vm.startPrank(merchant);
        if (retired) dues.retirePlan(planId);
        vm.stopPrank();
        IDues.Plan memory plan = dues.plan(planId);
        _propose(planId);
        vm.warp(bound(time, START + 2 days, type(uint40).max));
        _accept(planId);
        plan.payee = next;
        assertEq(abi.encode(dues.plan(planId)), abi.encode(plan));
    }

    function testFuzz_revertsBeforeTwoDaysHavePassed(uint256 time) public {
        uint32 planId = _createPlan();
        _propose(planId);
        vm.warp(bound(time, START, START + 2 days - 1));
        _assertTooEarly(planId);
        vm.warp(START + 2 days - 1);
        _assertTooEarly(planId);
        vm.warp(START + 2 days);
        _accept(planId);
    }

    function test_existingSubscriptionsPayTheNewPayee() public {
        uint32 planId = _createUsagePlan(PRICE);
        uint256 id = _subscribe(payer, planId);
        _propose(planId);
        vm.warp(START + 2 days);
        _accept(planId);

        vm.prank(payer);
        dues.prepay(id, 1);
        assertEq(token.balanceOf(next), PRICE);
        vm.prank(merchant);
        dues.chargeUsage(id, 1, 7, "key");
        assertEq(token.balanceOf(next), PRICE + 7);
        vm.warp(_month(2));
        dues.chargeOne(id);
        assertEq(token.balanceOf(next), 2 * PRICE + 7);
        vm.warp(_month(3));
        dues.chargeBatch(_ids(id));
        assertEq(token.balanceOf(next), 3 * PRICE + 7);
        _subscribe(payer, planId);
        assertEq(token.balanceOf(next), 4 * PRICE + 7);
        assertEq(token.balanceOf(payee), PRICE);
    }

    function test_aPlanWithABlocklistedPayeeCanBeSaved() public {
        BlocklistToken usdc = new BlocklistToken();
        _fund(usdc, payer);
        uint32 planId = _createPlanIn(usdc);
        uint256 id = _subscribe(payer, planId);
        usdc.setBlocked(payee, true);
        vm.warp(_month(1));
        assertEq(dues.chargeBatch(_ids(id)), 0);
        _propose(planId);
        vm.warp(_month(1) + 2 days);
        _accept(planId);
        assertEq(dues.chargeBatch(_ids(id)), 1);
        assertEq(usdc.balanceOf(next), PRICE);
    }

    function test_aStolenKeyOfTheMerchantFindsNoFasterWay() public {
        uint256 id = _subscribe();
        IDues.PlanTerms memory terms = _terms();
        uint32 prepared = _createPlan(terms);
        terms.payee = next;
        uint32 own = _createPlan(terms);
        // A proposal on a plan without subscribers, long before.
        _propose(prepared);
        vm.warp(_month(1) - 2 days + 1);
        vm.startPrank(merchant);
        vm.expectRevert(abi.encodeWithSelector(IDues.NotFavourable.selector, 1, own));
        dues.migrate(id, own);
        vm.expectRevert(abi.encodeWithSelector(IDues.NotFavourable.selector, 1, prepared));
        dues.migrate(id, prepared);
        vm.stopPrank();
        _accept(prepared);
        vm.expectRevert(abi.encodeWithSelector(IDues.NotFavourable.selector, 1, prepared));
        vm.prank(merchant);
        dues.migrate(id, prepared);
        vm.warp(_month(1));
        dues.chargeOne(id);
        assertEq(token.balanceOf(next), 0);
        assertEq(token.balanceOf(payee), 2 * uint256(PRICE));
    }

    function test_theProposalIsUsedUp() public {
        uint32 planId = _createPlan();
        _propose(planId);
        vm.warp(START + 2 days);
        _accept(planId);
        _assertNotProposed(planId, next);
    }

    function test_aTakenBackPayeeCannotComeBack() public {
        // The merchant wins against a thief of its key: the last proposal counts, whoever waited longer.
        uint32 planId = _createPlan();
        _propose(planId);
        vm.warp(START + 2 days);
        vm.prank(merchant);
        dues.proposePayee(planId, payee);
        _assertNotProposed(planId, next);
    }

    function testFuzz_revertsWhenTheCallerIsNotTheProposedOne(address caller) public {
        vm.assume(caller != next);
        uint32 planId = _createPlan();
        _propose(planId);
        vm.warp(START + 2 days);
        _assertNotProposed(planId, caller);
        _assertNotProposed(planId, merchant);
        _assertNotProposed(planId, payee);
    }

    function testFuzz_revertsWhenNobodyIsProposed(uint32 planId, address caller) public {
        vm.assume(caller != address(0));
        _createPlan();
        vm.warp(START + 2 days);
        _assertNotProposed(planId, caller);
        _assertNotProposed(1, caller);
    }

    function test_aProposalForOnePlanIsNoneForAnother() public {
        uint32 planId = _createPlan();
        uint32 other = _createPlan();
        _propose(planId);
        vm.warp(START + 2 days);
        _assertNotProposed(other, next);
    }

    function _propose(uint32 planId) private {
        vm.prank(merchant);
        dues.proposePayee(planId, next);
    }

    function _accept(uint32 planId) private {
        vm.expectEmit(address(dues));
        emit IDues.PayeeChanged(planId, next);
        vm.prank(next);
        dues.acceptPayee(planId);
        assertEq(dues.plan(planId).payee, next);
        (address proposed, uint64 acceptableFrom) = dues.proposedPayee(planId);
        assertEq(proposed, address(0));
        assertEq(acceptableFrom, 0);
    }

    function _assertTooEarly(uint32 planId) private {
        vm.expectRevert(abi.encodeWithSelector(IDues.TooEarly.selector, planId, START + 2 days));
        vm.prank(next);
        dues.acceptPayee(planId);
    }

    function _assertNotProposed(uint32 planId, address caller) private {
        vm.expectRevert(abi.encodeWithSelector(IDues.NotProposedPayee.selector, planId, caller));
        vm.prank(caller);
        dues.acceptPayee(planId);
    }
}
