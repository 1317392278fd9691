// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Base} from "./utils/Base.sol";

// statusOf
// ├── when there is no such subscription: None
// ├── given ended by cancelNow: Cancelled
// ├── given the trial runs: Trialing
// ├── given the paid time runs: Active
// ├── given the paid time or trial is over
// │   ├── given cancelled: Cancelled
// │   ├── given grace runs: PastDue
// │   └── given grace is over: Lapsed
contract StatusOfTest is Base {
    function testFuzz_followsTheClock(FuzzedTerms memory fuzzed, uint256 time, bool cancelled) public {
        IDues.PlanTerms memory terms = _terms(fuzzed);
        deal(address(token), payer, terms.price);
        vm.prank(payer);
        token.approve(address(dues), terms.price);
        uint256 id = _subscribe(payer, _createPlan(terms));
        vm.prank(payer);
        if (cancelled) dues.cancel(id);
        uint256 end = terms.trial != 0 ? START + terms.trial : _end(START, terms.unit, terms.count, 1);

        time = bound(time, START, end + 2 * uint256(terms.grace));
        vm.warp(time);
        if (time < end) _assertStatus(id, terms.trial != 0 ? IDues.Status.Trialing : IDues.Status.Active);
        else if (cancelled) _assertStatus(id, IDues.Status.Cancelled);
        else _assertStatus(id, time < end + terms.grace ? IDues.Status.PastDue : IDues.Status.Lapsed);
    }

    function test_changesAtTheExactSecond() public {
        uint256 id = _subscribe();
        vm.warp(_month(1) - 1);
        _assertStatus(id, IDues.Status.Active);
        vm.warp(_month(1));
        _assertStatus(id, IDues.Status.PastDue);
        vm.warp(_month(1) + GRACE - 1);
        _assertStatus(id, IDues.Status.PastDue);
        vm.warp(_month(1) + GRACE);
        _assertStatus(id, IDues.Status.Lapsed);
    }

    function testFuzz_isNoneForWhatDoesNotExist(uint256 id) public {
        vm.assume(id != 1);
        _subscribe();
        _assertStatus(id, IDues.Status.None);
    }

    function testFuzz_isCancelledForEverAfterCancelNow(uint256 time) public {
        uint256 id = _subscribe();
        vm.prank(payer);
        dues.cancelNow(id);
        vm.warp(bound(time, START, type(uint40).max));
        _assertStatus(id, IDues.Status.Cancelled);
    }
}
