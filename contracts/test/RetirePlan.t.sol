// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// retirePlan
// ├── when the plan does not exist: it reverts with UnknownPlan
// ├── when the caller is not the merchant: it reverts with NotMerchant
// ├── given the plan is retired already: it succeeds and emits nothing
// └── when all is well
//     ├── it emits PlanRetired
//     ├── it changes nothing else of the plan
//     ├── existing subscriptions are charged as before, and can be prepaid
//     ├── a change to it that was scheduled before happens
//     └── nobody subscribes to it any more, nor schedules a change to it
contract RetirePlanTest is Base {
    function testFuzz_retiresAndChangesNothingElse(FuzzedTerms memory fuzzed) public {
        uint32 planId = _createPlan(_terms(fuzzed));
        IDues.Plan memory plan = dues.plan(planId);
        vm.expectEmit(address(dues));
        emit IDues.PlanRetired(planId);
        vm.prank(merchant);
        dues.retirePlan(planId);
        plan.retired = true;
        assertEq(abi.encode(dues.plan(planId)), abi.encode(plan));
    }

    function test_existingSubscriptionsAreChargedAsBefore() public {
        uint256 id = _subscribe();
        vm.prank(merchant);
        dues.retirePlan(1);
        vm.warp(_month(1));
        dues.chargeOne(id);
        assertEq(token.balanceOf(payee), 2 * uint256(PRICE));
    }

    function test_existingSubscriptionsCanBePrepaid() public {
        uint256 id = _subscribe();
        vm.prank(merchant);
        dues.retirePlan(1);
        vm.prank(payer);
        dues.prepay(id, 2);
        assertEq(dues.paidThrough(id), _month(3));
    }

    function testFuzz_aChangeThatWasScheduledHappens(bool batch) public {
        uint256 id = _subscribe();
        uint32 planId = _createPlan();
        _scheduleChange(id, planId);
        vm.prank(merchant);
        dues.retirePlan(planId);
        vm.warp(_month(1));
        _assertPreview(id, IDues.Reason.None);
        if (batch) assertEq(dues.chargeBatch(_ids(id)), 1);
        else dues.chargeOne(id);
        assertEq(dues.subscription(id).planId, planId);
        vm.warp(_month(2));
        dues.chargeOne(id);
        assertEq(dues.paidThrough(id), _month(3));
    }

    function test_nobodySubscribesToItAnyMoreNorSchedulesAChangeToIt() public {
        uint256 id = _subscribe();
        uint32 planId = _createPlan();
        vm.prank(merchant);
        dues.retirePlan(planId);
        bytes memory retired = abi.encodeWithSelector(IDues.RetiredPlan.selector, planId);
        vm.startPrank(payer);
        vm.expectRevert(retired);
        dues.subscribe(planId, REF);
        vm.expectRevert(retired);
        dues.subscribePrepaid(planId, REF, 1, true);
        vm.expectRevert(retired);
        dues.scheduleChange(id, planId);
    }

    function test_aSecondTimeSucceedsAndEmitsNothing() public {
        uint32 planId = _createPlan();
        vm.startPrank(merchant);
        dues.retirePlan(planId);
        vm.recordLogs();
        dues.retirePlan(planId);
        assertEq(_countLogs(), 0);
    }

    function testFuzz_revertsWhenThePlanDoesNotExist(uint32 planId) public {
        vm.assume(planId != 1);
        _createPlan();
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownPlan.selector, planId));
        vm.prank(merchant);
        dues.retirePlan(planId);
    }

    function testFuzz_revertsWhenTheCallerIsNotTheMerchant(address caller) public {
        vm.assume(caller != merchant);
        uint32 planId = _createPlan();
        vm.expectRevert(abi.encodeWithSelector(IDues.NotMerchant.selector, planId, caller));
        vm.prank(caller);
        dues.retirePlan(planId);
    }
}
