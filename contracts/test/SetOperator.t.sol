// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// setOperator
// ├── it emits OperatorSet, also if nothing changes
// ├── it says so for the caller as merchant, and for nobody else
// ├── given approved: the operator charges usage and refunds for all plans of the merchant
// └── given not approved any more: it does neither
contract SetOperatorTest is Base {
    address private operator = makeAddr("operator");

    function testFuzz_storesTheLastWord(address merchant_, address operator_, bool[4] memory words) public {
        for (uint256 i = 0; i < words.length; ++i) {
            _set(merchant_, operator_, words[i]);
        }
    }

    function testFuzz_isForOneMerchantAndOneOperator(address merchant_, address operator_, address a, address b)
        public
    {
        vm.assume(a != merchant_ || b != operator_);
        _set(merchant_, operator_, true);
        assertFalse(dues.isOperator(a, b));
    }

    function test_anOperatorActsForAllPlansOfTheMerchant() public {
        uint256 first = _subscribe(payer, _createUsagePlan(1));
        _set(merchant, operator, true);
        // Also for those created later.
        uint256 second = _subscribe(payer, _createUsagePlan(1));
        _fund(token, operator);
        vm.startPrank(operator);
        dues.chargeUsage(first, 1, 1, "usage");
        dues.chargeUsage(second, 1, 1, "usage");
        dues.refund(first, 1, "refund");
        dues.refund(second, 1, "refund");
    }

    function test_anOperatorThatWasStoppedDoesNothing() public {
        uint256 id = _subscribe(payer, _createUsagePlan(1));
        _set(merchant, operator, true);
        _set(merchant, operator, false);
        _assertRefused(id, operator);
    }

    function testFuzz_nobodyMakesItselfTheOperatorOfAnother(address caller) public {
        vm.assume(caller != merchant);
        uint256 id = _subscribe(payer, _createUsagePlan(1));
        _set(caller, caller, true);
        _assertRefused(id, caller);
        _set(payer, payer, true);
        _assertRefused(id, payer);
    }

    function test_anOperatorCannotNameAnother() public {
        uint256 id = _subscribe(payer, _createUsagePlan(1));
        _set(merchant, operator, true);
        _set(operator, keeper, true);
        _assertRefused(id, keeper);
    }

    function _set(address merchant_, address operator_, bool approved) private {
        vm.expectEmit(address(dues));
        emit IDues.OperatorSet(merchant_, operator_, approved);
        vm.prank(merchant_);
        dues.setOperator(operator_, approved);
        assertEq(dues.isOperator(merchant_, operator_), approved);
    }

    function _assertRefused(uint256 id, address caller) private {
        bytes memory notMerchant =
            abi.encodeWithSelector(IDues.NotMerchant.selector, dues.subscription(id).planId, caller);
        vm.startPrank(caller);
        vm.expectRevert(notMerchant);
        dues.chargeUsage(id, 1, 1, "usage");
        vm.expectRevert(notMerchant);
        dues.refund(id, 1, "refund");
        vm.stopPrank();
    }
}
