// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// plan, subscription, paidThrough, hasUsedTrial
// └── when there is no such thing: zero
// subscriptions
// ├── it lists consecutive ids from the given one
// └── it is clamped to what exists
contract ViewsTest is Base {
    function testFuzz_whatDoesNotExistIsZero(uint32 planId, uint256 id, address merchant_, address payer_) public {
        vm.assume(planId != 1 && id != 1);
        _subscribe();
        IDues.Plan memory noPlan;
        IDues.Subscription memory none;
        assertEq(abi.encode(dues.plan(planId)), abi.encode(noPlan));
        _assertSame(dues.subscription(id), none);
        assertEq(dues.paidThrough(id), 0);
        assertFalse(dues.hasUsedTrial(merchant_, payer_));
    }

    function testFuzz_subscriptionsListsWhatExists(uint8 existing, uint256 fromId, uint256 count) public {
        existing = uint8(bound(existing, 0, 12));
        if (fromId % 4 != 0) fromId = bound(fromId, 0, 14);
        if (count % 4 != 0) count = bound(count, 0, 14);
        uint32 planId = _createPlan();
        for (uint256 i = 0; i < existing; ++i) {
            _subscribe(payer, planId);
        }

        IDues.Subscription[] memory list = dues.subscriptions(fromId, count);
        uint256 n = 0;
        for (uint256 id = 1; id <= existing; ++id) {
            if (id < fromId || n == count) continue;
            _assertSame(list[n++], dues.subscription(id));
        }
        assertEq(list.length, n);
    }

    function test_subscriptionsTakesTheLargestNumbers() public {
        _subscribe();
        assertEq(dues.subscriptions(0, type(uint256).max).length, 1);
        assertEq(dues.subscriptions(1, type(uint256).max).length, 1);
        assertEq(dues.subscriptions(type(uint256).max, type(uint256).max).length, 0);
    }
}
