// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Changing} from "./utils/Changing.sol";

// revokeChange
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the caller is not the payer: it reverts with NotPayer
// ├── when no change is scheduled: it reverts with NothingScheduled
// ├── when cancelled, ended or lapsed, also by the new plan's shorter grace: it reverts with NotChangeable
// └── when all is well
//     ├── it emits ChangeRevoked
//     └── the next period is one of the present plan, within its grace
contract RevokeChangeTest is Changing {
    uint32 private basic;
    uint32 private pro;
    uint256 private id;

    function setUp() public override {
        super.setUp();
        basic = _monthly(BASIC);
        pro = _monthly(PRO);
        id = _subscribe(payer, basic);
    }

    function testFuzz_everythingIsAsIfNothingHadBeenScheduled(uint256 time) public {
        time = bound(time, START, _month(1) + GRACE - 1);
        vm.warp(time);
        bytes memory before = abi.encode(_record(id));
        _schedule(id, pro);
        vm.expectEmit(address(dues));
        emit IDues.ChangeRevoked(id, basic, payer);
        vm.recordLogs();
        _revoke();
        assertEq(_countLogs(), 1);
        assertEq(abi.encode(_record(id)), before);

        if (time < _month(1)) vm.warp(_month(1));
        vm.recordLogs();
        vm.expectEmit(address(dues));
        emit IDues.Charged(id, basic, payer, 2, uint64(_month(2)), BASIC);
        dues.chargeOne(id);
        assertEq(_countLogs(), 1);
        _assertOn(id, basic, START, 2, _month(2), 2 * uint256(BASIC));
    }

    function test_prepayingIsPossibleAgain() public {
        _schedule(id, pro);
        _revoke();
        _prepay(id, 1);
        _assertOn(id, basic, START, 2, _month(2), 2 * uint256(BASIC));
    }

    function test_canBeScheduledAgain() public {
        _schedule(id, pro);
        _revoke();
        _schedule(id, pro);
        vm.warp(_month(1));
        dues.chargeOne(id);
        _assertOn(id, pro, START, 2, _month(2), BASIC + PRO);
    }

    function test_theOldPlansLongerGraceDecidesAgain() public {
        _schedule(id, _withGrace(2 hours));
        _revoke();
        vm.warp(_month(1) + GRACE);
        _assertStatus(id, IDues.Status.Lapsed);
        vm.warp(_month(1) + GRACE - 1);
        _assertStatus(id, IDues.Status.PastDue);
        dues.chargeOne(id);
    }

    function test_takesBackAlsoWhatTheMerchantScheduled() public {
        uint32 cheaper = _monthly(BASIC - 1);
        bytes memory before = abi.encode(_record(id));
        vm.prank(merchant);
        dues.migrate(id, cheaper);
        vm.expectEmit(address(dues));
        emit IDues.ChangeRevoked(id, basic, payer);
        _revoke();
        assertEq(abi.encode(_record(id)), before);
    }

    /// @dev Nothing revives what has lapsed, also not the old plan's longer grace.
    function test_revertsOnceItHasLapsedByTheNewPlansGrace() public {
        _schedule(id, _withGrace(2 hours));
        vm.warp(_month(1) + 2 hours);
        _assertStatus(id, IDues.Status.Lapsed);
        _assertRefuses(id, _call(), _notChangeable(id, IDues.Reason.Lapsed));
        _assertStatus(id, IDues.Status.Lapsed);
        vm.warp(_month(1) + 2 hours - 1);
        _revoke();
        _assertStatus(id, IDues.Status.PastDue);
    }

    function test_revertsWhenCancelledByWhomeverAndHowever() public {
        _schedule(id, pro);
        address[2] memory parties = [payer, merchant];
        for (uint256 i = 0; i < 2; ++i) {
            uint256 snapshot = vm.snapshotState();
            vm.prank(parties[i]);
            dues.cancel(id);
            _assertRefuses(id, _call(), _notChangeable(id, IDues.Reason.Cancelled));
            vm.revertToState(snapshot);
            vm.prank(parties[i]);
            dues.cancelNow(id);
            _assertRefuses(id, _call(), _notChangeable(id, IDues.Reason.Cancelled));
            vm.revertToState(snapshot);
        }
    }

    function test_revertsWhenNothingIsScheduled() public {
        bytes memory reason = abi.encodeWithSelector(IDues.NothingScheduled.selector, id);
        _assertRefuses(id, _call(), reason);
        _schedule(id, pro);
        _revoke();
        _assertRefuses(id, _call(), reason);
    }

    function test_revertsWhenTheChangeHasHappened() public {
        _schedule(id, pro);
        vm.warp(_month(1));
        dues.chargeOne(id);
        _assertRefuses(id, _call(), abi.encodeWithSelector(IDues.NothingScheduled.selector, id));
    }

    function testFuzz_revertsWhenThereIsNoSuchSubscription(uint256 unknown) public {
        vm.assume(unknown != id);
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownSubscription.selector, unknown));
        vm.prank(payer);
        dues.revokeChange(unknown);
    }

    function testFuzz_revertsWhenTheCallerIsNotThePayer(address caller) public {
        vm.assume(caller != payer);
        _schedule(id, pro);
        _assertRefuses(caller, id, _call(), abi.encodeWithSelector(IDues.NotPayer.selector, id, caller));
    }

    function _call() private view returns (bytes memory) {
        return abi.encodeCall(IDues.revokeChange, (id));
    }

    function _revoke() private {
        vm.prank(payer);
        dues.revokeChange(id);
    }

    function _withGrace(uint32 grace) private returns (uint32) {
        IDues.PlanTerms memory terms = _terms();
        terms.grace = grace;
        return _createPlan(terms);
    }
}
