// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// createPlan
// ├── when the token has no code, or is Dues or Permit2: it reverts with InvalidToken
// ├── when the price is zero: it reverts with InvalidPrice
// ├── when the payee is zero, Dues or the token: it reverts with InvalidPayee
// ├── when the count is zero, or above 3660 days or 120 months: it reverts with InvalidCount
// ├── when the trial is above 366 days: it reverts with InvalidTrial
// ├── when the grace is below an hour or above the shortest period: it reverts with InvalidGrace
// └── when all is well
//     ├── it stores the terms and the caller as merchant
//     ├── it emits PlanCreated
//     └── it counts the ids up from 1
contract CreatePlanTest is Base {
    function testFuzz_storesTheTermsAndTheMerchant(address merchant_, FuzzedTerms memory fuzzed) public {
        vm.assume(merchant_ != address(0));
        IDues.PlanTerms memory terms = _terms(fuzzed);
        vm.expectEmit(address(dues));
        emit IDues.PlanCreated(
            1,
            merchant_,
            terms.token,
            terms.payee,
            terms.price,
            terms.unit,
            terms.count,
            terms.trial,
            terms.grace,
            terms.usageCap
        );
        vm.prank(merchant_);
        uint32 planId = dues.createPlan(terms);

        assertEq(planId, 1);
        _assertStored(planId, merchant_, terms);
    }

    function test_idsCountUpFromOne() public {
        assertEq(dues.planCount(), 0);
        for (uint32 i = 1; i <= 3; ++i) {
            assertEq(_createPlan(), i);
            assertEq(dues.planCount(), i);
        }
        assertEq(dues.subscriptionCount(), 0);
    }

    function testFuzz_acceptsEveryLimitItself(bool month) public {
        IDues.PlanTerms memory terms = _terms();
        terms.unit = month ? IDues.IntervalUnit.Month : IDues.IntervalUnit.Day;
        (terms.price, terms.count, terms.trial, terms.grace, terms.usageCap) = (1, 1, 0, 1 hours, 0);
        _assertStored(_createPlan(terms), merchant, terms);
        terms.grace = month ? 28 days : 1 days;
        _assertStored(_createPlan(terms), merchant, terms);
        terms.count = month ? 120 : 3660;
        terms.grace = uint32(terms.count * uint256(month ? 28 days : 1 days));
        (terms.price, terms.trial, terms.usageCap) = (type(uint96).max, 366 days, type(uint96).max);
        _assertStored(_createPlan(terms), merchant, terms);
    }

    function test_theMerchantMayBeThePayee() public {
        IDues.PlanTerms memory terms = _terms();
        terms.payee = merchant;
        _createPlan(terms);
    }

    function testFuzz_revertsWhenTheTokenHasNoCode(address noToken) public {
        vm.assume(noToken.code.length == 0);
        IDues.PlanTerms memory terms = _terms();
        terms.token = noToken;
        vm.expectRevert(abi.encodeWithSelector(IDues.InvalidToken.selector, noToken));
        dues.createPlan(terms);
    }

    function test_revertsWhenTheTokenIsDues() public {
        IDues.PlanTerms memory terms = _terms();
        terms.token = address(dues);
        vm.expectRevert(abi.encodeWithSelector(IDues.InvalidToken.selector, dues));
        dues.createPlan(terms);
    }

    function test_revertsWhenTheTokenIsPermit2() public {
        address permit2 = 0x000000000022D473030F116dDEE9F6B43aC78BA3;
        vm.etch(permit2, hex"00");
        IDues.PlanTerms memory terms = _terms();
        terms.token = permit2;
        vm.expectRevert(abi.encodeWithSelector(IDues.InvalidToken.selector, permit2));
        dues.createPlan(terms);
    }

    function test_revertsWhenThePriceIsZero() public {
        IDues.PlanTerms memory terms = _terms();
        terms.price = 0;
        vm.expectRevert(IDues.InvalidPrice.selector);
        dues.createPlan(terms);
    }

    function test_revertsWhenThePayeeIsZeroDuesOrTheToken() public {
        IDues.PlanTerms memory terms = _terms();
        address[3] memory payees = [address(0), address(dues), address(token)];
        for (uint256 i = 0; i < payees.length; ++i) {
            terms.payee = payees[i];
            vm.expectRevert(abi.encodeWithSelector(IDues.InvalidPayee.selector, payees[i]));
            dues.createPlan(terms);
        }
    }

    function testFuzz_revertsWhenTheCountIsZero(bool month) public {
        _assertInvalidCount(month, 0);
    }

    function testFuzz_revertsWhenTheCountIsTooLarge(bool month, uint16 count) public {
        uint256 least = (month ? 120 : 3660) + 1;
        _assertInvalidCount(month, uint16(least));
        _assertInvalidCount(month, uint16(bound(count, least, type(uint16).max)));
    }

    function testFuzz_revertsWhenThereIsNoSuchUnit(uint8 unit) public {
        unit = uint8(bound(unit, 2, type(uint8).max));
        IDues.PlanTerms memory terms = _terms();
        terms.grace = 1 days;
        bytes memory data = abi.encodeCall(IDues.createPlan, (terms));
        // The unit is the fourth word behind the selector.
        data[4 + 4 * 32 - 1] = bytes1(unit);
        (bool ok,) = address(dues).call(data);
        assertFalse(ok);
        data[4 + 4 * 32 - 1] = bytes1(uint8(0));
        (ok,) = address(dues).call(data);
        assertTrue(ok);
    }

    function testFuzz_revertsWhenTheTrialIsTooLong(uint32 trial) public {
        trial = uint32(bound(trial, 366 days + 1, type(uint32).max));
        IDues.PlanTerms memory terms = _terms();
        terms.trial = trial;
        vm.expectRevert(abi.encodeWithSelector(IDues.InvalidTrial.selector, trial, 366 days));
        dues.createPlan(terms);
    }

    function testFuzz_revertsWhenTheGraceIsTooShort(uint32 grace) public {
        grace = uint32(bound(grace, 0, 1 hours - 1));
        IDues.PlanTerms memory terms = _terms();
        terms.grace = grace;
        vm.expectRevert(abi.encodeWithSelector(IDues.InvalidGrace.selector, grace, 1 hours, 28 days));
        dues.createPlan(terms);
    }

    function testFuzz_revertsWhenTheGraceIsLongerThanTheShortestPeriod(bool month, uint16 count, uint32 grace) public {
        count = uint16(bound(count, 1, month ? 120 : 3660));
        uint256 max = month ? uint256(count) * 28 days : uint256(count) * 1 days;
        grace = uint32(bound(grace, max + 1, type(uint32).max));
        IDues.PlanTerms memory terms = _terms();
        terms.unit = month ? IDues.IntervalUnit.Month : IDues.IntervalUnit.Day;
        terms.count = count;
        terms.grace = grace;
        vm.expectRevert(abi.encodeWithSelector(IDues.InvalidGrace.selector, grace, 1 hours, max));
        dues.createPlan(terms);
    }

    function _assertInvalidCount(bool month, uint16 count) private {
        IDues.PlanTerms memory terms = _terms();
        terms.unit = month ? IDues.IntervalUnit.Month : IDues.IntervalUnit.Day;
        terms.count = count;
        vm.expectRevert(abi.encodeWithSelector(IDues.InvalidCount.selector, count, month ? 120 : 3660));
        dues.createPlan(terms);
    }

    function _assertStored(uint32 planId, address merchant_, IDues.PlanTerms memory terms) private view {
        assertEq(
            abi.encode(dues.plan(planId)),
            abi.encode(
                IDues.Plan({
                    token: terms.token,
                    price: terms.price,
                    payee: terms.payee,
                    unit: terms.unit,
                    count: terms.count,
                    trial: terms.trial,
                    grace: terms.grace,
                    retired: false,
                    merchant: merchant_,
                    usageCap: terms.usageCap
                })
            )
        );
    }
}
