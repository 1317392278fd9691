// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// usageOf
// ├── when there is no such subscription or period: zero
// ├── it is the sum of what was charged to that period, also when it is over or the subscription ended
// └── given a change of plan: periods are counted from the present anchor
contract UsageOfTest is Base {
    uint256 private id;

    function setUp() public override {
        super.setUp();
        id = _subscribe(payer, _createUsagePlan(1000));
    }

    function testFuzz_isZeroForWhatDoesNotExist(uint256 unknown, uint16 period) public {
        vm.assume(unknown != id);
        _use(1, 5);
        assertEq(dues.usageOf(unknown, period), 0);
        if (period != 1) assertEq(dues.usageOf(id, period), 0);
        assertEq(dues.usageOf(id, 0), 0);
        assertEq(dues.usageOf(id, 2), 0);
    }

    function testFuzz_isTheSumPerPeriod(uint8[12] memory amounts) public {
        uint96[4] memory sums;
        for (uint256 i = 0; i < amounts.length; ++i) {
            if (i != 0 && i % 3 == 0) {
                vm.warp(_month(i / 3));
                dues.chargeOne(id);
            }
            if (amounts[i] == 0) continue;
            _use(uint16(i / 3 + 1), amounts[i]);
            sums[i / 3] += amounts[i];
        }
        vm.prank(payer);
        dues.cancelNow(id);
        for (uint16 n = 0; n < sums.length; ++n) {
            assertEq(dues.usageOf(id, n + 1), sums[n]);
        }
    }

    function test_countsPeriodsFromThePresentAnchor() public {
        _use(1, 5);
        uint32 planId = _createUsagePlan(1000);
        vm.warp(START + 1 days);
        vm.prank(payer);
        dues.changeNow(id, planId, 1, PRICE);
        assertEq(dues.usageOf(id, 1), 0);
        _use(1, 6);
        assertEq(dues.usageOf(id, 1), 6);
    }

    function test_knowsThePeriodsOfAnEarlierPlanWithAnEqualInterval() public {
        _use(1, 5);
        _scheduleChange(id, _createUsagePlan(1000));
        vm.warp(_month(1));
        dues.chargeOne(id);
        _use(2, 6);
        assertEq(dues.usageOf(id, 1), 5);
        assertEq(dues.usageOf(id, 2), 6);
    }

    function test_knowsThePeriodsAfterATrial() public {
        IDues.PlanTerms memory terms = _terms();
        (terms.trial, terms.usageCap) = (7 days, 1000);
        id = _subscribe(payer, _createPlan(terms));
        vm.warp(START + 7 days);
        dues.chargeOne(id);
        _use(1, 5);
        assertEq(dues.usageOf(id, 1), 5);
    }

    function _use(uint16 period, uint96 amount) private {
        bytes32 key = keccak256(abi.encode(block.timestamp, amount, gasleft()));
        vm.prank(merchant);
        dues.chargeUsage(id, period, amount, key);
    }
}
