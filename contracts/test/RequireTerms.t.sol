// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {FickleWallet} from "./doubles/Wallets.sol";
import {Signing} from "./utils/Signing.sol";

// termsHash
// ├── when the plan does not exist: it reverts with UnknownPlan
// ├── it is the EIP-712 hash of the terms
// ├── given one term differs: it differs
// └── given the payee differs or the plan is retired: it is the same
//
// requireTerms
// ├── when the plan does not exist: it reverts with UnknownPlan
// ├── when the hash is another: it reverts with OtherTerms
// ├── when it is this one: it does nothing
// └── in a multicall: it keeps what follows from happening on another plan
contract RequireTermsTest is Signing {
    function testFuzz_isTheHashOfTheTerms(FuzzedTerms memory fuzzed, uint96 cap, address creator) public {
        IDues.PlanTerms memory terms = _terms(fuzzed);
        terms.usageCap = cap;
        vm.prank(creator);
        uint32 planId = dues.createPlan(terms);
        bytes32 expected = keccak256(
            abi.encode(
                keccak256(
                    "Terms(address merchant,address token,uint96 price,uint8 unit,uint16 count,uint32 trial,uint32 grace,uint96 usageCap)"
                ),
                creator,
                token,
                terms.price,
                fuzzed.month ? 1 : 0,
                terms.count,
                terms.trial,
                terms.grace,
                cap
            )
        );
        assertEq(dues.termsHash(planId), expected);
        dues.requireTerms(planId, expected);
    }

    function testFuzz_isTheSameForTheSameTerms(FuzzedTerms memory fuzzed, address otherPayee) public {
        IDues.PlanTerms memory terms = _terms(fuzzed);
        (uint32 first, uint32 second) = (_createPlan(terms), _createPlan(terms));
        vm.prank(merchant);
        dues.retirePlan(second);
        assertEq(dues.termsHash(first), dues.termsHash(second));

        vm.assume(otherPayee != address(0) && otherPayee != address(dues) && otherPayee != address(token));
        vm.prank(merchant);
        dues.proposePayee(second, otherPayee);
        vm.warp(START + 2 days);
        vm.prank(otherPayee);
        dues.acceptPayee(second);
        assertEq(dues.plan(second).payee, otherPayee);
        assertEq(dues.termsHash(first), dues.termsHash(second));
    }

    function test_everyTermCounts() public {
        IDues.PlanTerms memory terms = _terms();
        bytes32[] memory hashes = new bytes32[](9);
        for (uint256 i = 0; i < 9; ++i) {
            terms = _terms();
            if (i == 1) terms.token = address(new FickleWallet());
            else if (i == 2) terms.price += 1;
            else if (i == 3) (terms.unit, terms.grace) = (IDues.IntervalUnit.Day, 1 days);
            else if (i == 4) terms.count = 2;
            else if (i == 5) terms.trial = 1;
            else if (i == 6) terms.grace = 1 days;
            else if (i == 7) terms.usageCap = 1;
            vm.prank(i == 8 ? keeper : merchant);
            hashes[i] = dues.termsHash(dues.createPlan(terms));
            for (uint256 j = 0; j < i; ++j) {
                assertNotEq(hashes[i], hashes[j]);
            }
        }
    }

    function testFuzz_revertsWhenThePlanDoesNotExist(uint32 planId, bytes32 hash) public {
        vm.assume(planId != _createPlan());
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownPlan.selector, planId));
        dues.termsHash(planId);
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownPlan.selector, planId));
        dues.requireTerms(planId, hash);
    }

    function testFuzz_revertsWhenTheHashIsAnother(bytes32 hash) public {
        uint32 planId = _createPlan();
        bytes32 actual = dues.termsHash(planId);
        vm.assume(hash != actual);
        vm.expectRevert(abi.encodeWithSelector(IDues.OtherTerms.selector, planId, actual));
        dues.requireTerms(planId, hash);
    }

    /// @dev A reorganisation: the plan that was looked at is another one when the transaction comes.
    function test_keepsAPayerFromSubscribingToAnotherPlanUnderTheSameId() public {
        uint256 fork = vm.snapshotState();
        uint32 planId = _createPlan();
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(IDues.requireTerms, (planId, dues.termsHash(planId)));
        calls[1] = abi.encodeCall(IDues.subscribe, (planId, REF));
        vm.revertToState(fork);

        IDues.PlanTerms memory terms = _terms();
        terms.price = PRICE + 1;
        assertEq(_createPlan(terms), planId);
        bytes32 actual = dues.termsHash(planId);
        vm.expectRevert(abi.encodeWithSelector(IDues.OtherTerms.selector, planId, actual));
        vm.prank(payer);
        dues.multicall(calls);
        assertEq(dues.subscriptionCount(), 0);

        vm.revertToState(fork);
        _createPlan();
        vm.prank(payer);
        dues.multicall(calls);
        assertEq(dues.subscription(1).payer, payer);
    }
}
