// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// proposePayee
// ├── when the plan does not exist: it reverts with UnknownPlan
// ├── when the caller is not the merchant (but the payee, an operator or somebody else): it reverts with NotMerchant
// ├── when the payee is Dues or the plan's token: it reverts with InvalidPayee
// ├── given an earlier proposal: it replaces it, and the two days begin again
// ├── when the payee is zero: it withdraws the proposal
// └── when all is well
//     ├── it emits PayeeProposed
//     └── it changes nothing of the plan: payments go where they went
contract ProposePayeeTest is Base {
    function testFuzz_storesTheProposalAndChangesNothingElse(
        address proposed,
        FuzzedTerms memory fuzzed,
        uint256 time,
        bool retired
    ) public {
        vm.assume(proposed != address(0) && proposed != address(dues) && proposed != address(token));
        uint32 planId = _createPlan(_terms(fuzzed));
        vm.startPrank(merchant);
        if (retired) dues.retirePlan(planId);
        vm.stopPrank();
        IDues.Plan memory plan = dues.plan(planId);
        vm.warp(bound(time, START, type(uint40).max));
        _propose(planId, proposed, block.timestamp + 2 days);
        assertEq(abi.encode(dues.plan(planId)), abi.encode(plan));
    }

    function test_paymentsGoWhereTheyWent() public {
        uint256 id = _subscribe();
        address proposed = makeAddr("another payee");
        _propose(1, proposed, START + 2 days);
        vm.warp(_month(1));
        dues.chargeOne(id);
        assertEq(token.balanceOf(payee), 2 * uint256(PRICE));
        assertEq(token.balanceOf(proposed), 0);
    }

    function test_isForOnePlanOnly() public {
        uint32 first = _createPlan();
        uint32 second = _createPlan();
        _propose(second, keeper, START + 2 days);
        (address proposed, uint64 acceptableFrom) = dues.proposedPayee(first);
        assertEq(proposed, address(0));
        assertEq(acceptableFrom, 0);
    }

    function testFuzz_replacesAnEarlierProposal(uint256 later, bool same) public {
        uint32 planId = _createPlan();
        address first = makeAddr("first");
        address second = same ? first : makeAddr("second");
        _propose(planId, first, START + 2 days);
        vm.warp(START + bound(later, 1, 1000 days));
        _propose(planId, second, block.timestamp + 2 days);
        // Too early also for who was proposed twice, and no turn any more for who was proposed before.
        vm.prank(first);
        vm.expectRevert(
            same
                ? abi.encodeWithSelector(IDues.TooEarly.selector, planId, block.timestamp + 2 days)
                : abi.encodeWithSelector(IDues.NotProposedPayee.selector, planId, first)
        );
        dues.acceptPayee(planId);
    }

    function testFuzz_zeroWithdrawsTheProposal(bool proposedBefore) public {
        uint32 planId = _createPlan();
        if (proposedBefore) _propose(planId, keeper, START + 2 days);
        _propose(planId, address(0), 0);
        vm.warp(START + 2 days);
        vm.expectRevert(abi.encodeWithSelector(IDues.NotProposedPayee.selector, planId, keeper));
        vm.prank(keeper);
        dues.acceptPayee(planId);
    }

    function test_thePresentPayeeAndTheMerchantMayBeProposed() public {
        uint32 planId = _createPlan();
        _propose(planId, payee, START + 2 days);
        _propose(planId, merchant, START + 2 days);
    }

    function test_revertsWhenThePayeeIsDuesOrTheToken() public {
        uint32 planId = _createPlan();
        address[2] memory payees = [address(dues), address(token)];
        for (uint256 i = 0; i < payees.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IDues.InvalidPayee.selector, payees[i]));
            vm.prank(merchant);
            dues.proposePayee(planId, payees[i]);
        }
    }

    function testFuzz_revertsWhenThePlanDoesNotExist(uint32 planId) public {
        vm.assume(planId != 1);
        _createPlan();
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownPlan.selector, planId));
        vm.prank(merchant);
        dues.proposePayee(planId, keeper);
    }

    function testFuzz_revertsWhenTheCallerIsNotTheMerchant(address caller) public {
        vm.assume(caller != merchant);
        uint32 planId = _createPlan();
        _assertNotMerchant(planId, caller);
    }

    function test_revertsForThePayeeAndOperators() public {
        uint32 planId = _createPlan();
        address operator = makeAddr("operator");
        vm.prank(merchant);
        dues.setOperator(operator, true);
        _assertNotMerchant(planId, payee);
        _assertNotMerchant(planId, operator);
    }

    function _assertNotMerchant(uint32 planId, address caller) private {
        vm.expectRevert(abi.encodeWithSelector(IDues.NotMerchant.selector, planId, caller));
        vm.prank(caller);
        dues.proposePayee(planId, caller);
    }

    function _propose(uint32 planId, address proposed, uint256 from) private {
        vm.expectEmit(address(dues));
        emit IDues.PayeeProposed(planId, proposed, uint64(from));
        vm.prank(merchant);
        dues.proposePayee(planId, proposed);
        (address stored, uint64 acceptableFrom) = dues.proposedPayee(planId);
        assertEq(stored, proposed);
        assertEq(acceptableFrom, from);
    }
}
