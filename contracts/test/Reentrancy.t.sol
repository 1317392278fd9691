// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {ReenteringToken} from "./doubles/Tokens.sol";
import {Base} from "./utils/Base.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

// given the token calls back while it is called
// ├── every function that changes state is refused
// ├── every view of subscriptions is refused
// ├── plans and counts can be read
// └── the charge itself is not affected, and the guard is off again afterwards
contract ReentrancyTest is Base {
    ReenteringToken private hooked;
    uint256 private id;
    bytes[] private forbidden;
    bytes[] private allowed;

    function setUp() public override {
        super.setUp();
        hooked = new ReenteringToken();
        _fund(hooked, payer);
        // The token itself is a payer too, so that nothing but the guard stands in its way.
        _fund(hooked, address(hooked));
        id = _subscribe(payer, _createPlanIn(hooked));
        uint256 own = _subscribe(address(hooked), 1);

        forbidden.push(abi.encodeCall(IDues.createPlan, (_terms())));
        forbidden.push(abi.encodeCall(IDues.retirePlan, (1)));
        forbidden.push(abi.encodeCall(IDues.subscribe, (1, REF)));
        forbidden.push(abi.encodeCall(IDues.subscribeWithPermit, (1, REF, 0, 0, 0, 0, 0)));
        forbidden.push(abi.encodeCall(IDues.charge, (id)));
        forbidden.push(abi.encodeCall(IDues.charge, (own)));
        forbidden.push(abi.encodeCall(IDues.chargeBatch, (_ids(id, own))));
        forbidden.push(abi.encodeCall(IDues.cancel, (own)));
        forbidden.push(abi.encodeCall(IDues.cancelNow, (own)));
        forbidden.push(abi.encodeCall(IDues.resume, (own)));
        forbidden.push(abi.encodeCall(IDues.subscription, (id)));
        forbidden.push(abi.encodeCall(IDues.subscriptions, (1, 2)));
        forbidden.push(abi.encodeCall(IDues.paidThrough, (id)));
        forbidden.push(abi.encodeCall(IDues.statusOf, (id)));
        forbidden.push(abi.encodeCall(IDues.previewCharge, (id)));
        allowed.push(abi.encodeCall(IDues.plan, (1)));
        allowed.push(abi.encodeCall(IDues.planCount, ()));
        allowed.push(abi.encodeCall(IDues.subscriptionCount, ()));
        allowed.push(abi.encodeCall(IDues.hasUsedTrial, (merchant, payer)));
        vm.warp(_month(1));
    }

    function test_everyForbiddenFunctionIsRefusedDuringACharge() public {
        for (uint256 i = 0; i < forbidden.length; ++i) {
            uint256 snapshot = vm.snapshotState();
            _arm(forbidden[i]);
            dues.charge(id);
            _assertForbidden();
            vm.revertToState(snapshot);
        }
    }

    function test_everyForbiddenFunctionIsRefusedDuringABatch() public {
        for (uint256 i = 0; i < forbidden.length; ++i) {
            uint256 snapshot = vm.snapshotState();
            _arm(forbidden[i]);
            assertEq(dues.chargeBatch(_ids(id)), 1);
            _assertForbidden();
            vm.revertToState(snapshot);
        }
    }

    function test_everyForbiddenFunctionIsRefusedWhileSubscribing() public {
        for (uint256 i = 0; i < forbidden.length; ++i) {
            uint256 snapshot = vm.snapshotState();
            _arm(forbidden[i]);
            _subscribe(payer, 1);
            _assertForbidden();
            vm.revertToState(snapshot);
        }
    }

    function test_plansAndCountsCanBeRead() public {
        for (uint256 i = 0; i < allowed.length; ++i) {
            uint256 snapshot = vm.snapshotState();
            _arm(allowed[i]);
            dues.charge(id);
            assertTrue(hooked.succeeded(0));
            vm.revertToState(snapshot);
        }
    }

    function test_theGuardIsOffAfterwards() public {
        dues.charge(id);
        _assertStatus(id, IDues.Status.Active);
        vm.prank(payer);
        dues.cancel(id);
    }

    function _arm(bytes memory data) private {
        bytes[] memory calls = new bytes[](1);
        calls[0] = data;
        hooked.arm(address(dues), calls);
    }

    function _assertForbidden() private view {
        assertFalse(hooked.succeeded(0));
        assertEq(
            hooked.returned(0), abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector)
        );
    }
}
