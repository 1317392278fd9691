// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";
import {Vm} from "forge-std/Vm.sol";

// cancelNow
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the caller is neither the payer nor the merchant: it reverts with NotParty
// ├── given it is ended already, by whomever: it succeeds and emits nothing
// └── when all is well, whoever of them calls
//     ├── it emits Cancelled, and by whom; who is both is the payer
//     ├── it ends access and debits at once
//     ├── it succeeds whatever the token and the time, also after cancel
//     └── for the payer, it looks at nothing but the subscription's own slot, and calls nobody
contract CancelNowTest is Base {
    function testFuzz_endsAccessAndDebitsAtOnce(bool byMerchant, uint256 time) public {
        uint256 id = _subscribe();
        vm.warp(bound(time, START, type(uint40).max));
        _cancelNow(id, byMerchant);
        _assertStatus(id, IDues.Status.Cancelled);
        assertEq(dues.chargeBatch(_ids(id)), 0);
        // What was paid stays on record.
        assertEq(dues.paidThrough(id), _month(1));
        assertEq(_record(id).paid, PRICE);
    }

    function testFuzz_endsATrialAtOnce(bool byMerchant) public {
        uint256 id = _subscribe(payer, _createTrialPlan(7 days));
        _cancelNow(id, byMerchant);
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function testFuzz_endsPrepaidPeriodsAtOnce(bool byMerchant, uint16 count) public {
        count = uint16(bound(count, 1, 1000));
        uint256 id = _subscribePrepaid(_createPlan(), count);
        _cancelNow(id, byMerchant);
        _assertStatus(id, IDues.Status.Cancelled);
        assertEq(token.balanceOf(payee), count * uint256(PRICE));
    }

    function testFuzz_afterCancelEndsAtOnce(bool cancelledByMerchant, bool byMerchant) public {
        uint256 id = _subscribe();
        vm.prank(cancelledByMerchant ? merchant : payer);
        dues.cancel(id);
        _cancelNow(id, byMerchant);
        assertEq(dues.subscription(id).flags, 2 | (cancelledByMerchant ? 4 : 1));
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function testFuzz_endsAScheduledChangeToo(bool byMerchant) public {
        uint256 id = _subscribe();
        _scheduleChange(id, _createPlan());
        _cancelNow(id, byMerchant);
        vm.warp(_month(1));
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id, IDues.Reason.Cancelled));
        dues.chargeOne(id);
    }

    function testFuzz_needsNothingFromTheToken(bool byMerchant) public {
        uint256 id = _subscribe();
        vm.etch(address(token), hex"fe");
        _cancelNow(id, byMerchant);
    }

    function test_forThePayerLooksAtNothingButTheSubscriptionsOwnSlot() public {
        uint256 id = _subscribe();
        bytes32 slot = keccak256(abi.encode(id, uint256(2)));
        vm.startStateDiffRecording();
        vm.prank(payer);
        dues.cancelNow(id);
        Vm.AccountAccess[] memory calls = vm.stopAndReturnStateDiff();
        uint256 accesses = 0;
        for (uint256 i = 0; i < calls.length; ++i) {
            assertNotEq(calls[i].accessor, address(dues));
            if (calls[i].account != address(dues)) continue;
            for (uint256 j = 0; j < calls[i].storageAccesses.length; ++j) {
                assertEq(calls[i].storageAccesses[j].slot, slot);
                ++accesses;
            }
        }
        assertGt(accesses, 1);
    }

    function testFuzz_aSecondTimeSucceedsAndEmitsNothing(bool first, bool second) public {
        uint256 id = _subscribe();
        _cancelNow(id, first);
        IDues.Subscription memory before = dues.subscription(id);
        vm.recordLogs();
        vm.prank(second ? merchant : payer);
        dues.cancelNow(id);
        assertEq(_countLogs(), 0);
        _assertSame(dues.subscription(id), before);
    }

    function test_whoIsPayerAndMerchantIsThePayer() public {
        _fund(token, merchant);
        uint256 id = _subscribe(merchant, _createPlan());
        vm.expectEmit(address(dues));
        emit IDues.Cancelled(id, 1, merchant, false);
        vm.prank(merchant);
        dues.cancelNow(id);
    }

    function testFuzz_revertsWhenThereIsNoSuchSubscription(uint256 id) public {
        vm.assume(id != 1);
        _subscribe();
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownSubscription.selector, id));
        vm.prank(payer);
        dues.cancelNow(id);
    }

    function testFuzz_revertsWhenTheCallerIsNoParty(address caller) public {
        vm.assume(caller != payer && caller != merchant);
        uint256 id = _subscribe();
        _assertNotParty(id, caller);
    }

    function test_revertsForThePayeeAndOperatorsAndOtherMerchants() public {
        uint256 id = _subscribe();
        address operator = makeAddr("operator");
        vm.prank(merchant);
        dues.setOperator(operator, true);
        address other = makeAddr("another merchant");
        vm.prank(other);
        dues.createPlan(_terms());
        _assertNotParty(id, payee);
        _assertNotParty(id, operator);
        _assertNotParty(id, other);
    }

    function _assertNotParty(uint256 id, address caller) private {
        vm.expectRevert(abi.encodeWithSelector(IDues.NotParty.selector, id, caller));
        vm.prank(caller);
        dues.cancelNow(id);
    }

    function _cancelNow(uint256 id, bool byMerchant) private {
        IDues.Subscription memory s = dues.subscription(id);
        vm.expectEmit(address(dues));
        emit IDues.Cancelled(id, s.planId, payer, byMerchant);
        vm.prank(byMerchant ? merchant : payer);
        dues.cancelNow(id);
        s.flags |= 2;
        _assertSame(dues.subscription(id), s);
    }
}
