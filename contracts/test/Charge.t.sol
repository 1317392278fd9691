// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {FeeToken, NoReturnToken} from "./doubles/Tokens.sol";
import "./doubles/Tokens.sol" as Doubles;
import {Base} from "./utils/Base.sol";

// charge
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the paid time or the trial is not over: it reverts with NotDue
// ├── when grace is over: it reverts with Lapsed
// ├── when cancelled: it reverts with Cancelled
// ├── when the token does not move the money
// │   ├── given too small an allowance: it reverts with Allowance
// │   ├── given too small a balance: it reverts with Balance
// │   ├── given neither: it reverts with Token
// │   └── given too little gas to know: it reverts with InsufficientGas
// └── when past due
//     ├── it moves the price from the payer to the payee, whoever calls
//     ├── it pays one period, whose end depends on the anchor only
//     └── it emits Charged
contract ChargeTest is Base {
    function testFuzz_anyoneChargesExactlyThePrice(address caller, FuzzedTerms memory fuzzed, uint256 late) public {
        IDues.PlanTerms memory terms = _terms(fuzzed);
        uint32 planId = _createPlan(terms);
        deal(address(token), payer, 2 * uint256(terms.price));
        vm.prank(payer);
        token.approve(address(dues), type(uint256).max);
        uint256 id = _subscribe(payer, planId);
        IDues.Subscription memory s = dues.subscription(id);
        uint256 before = token.balanceOf(payer);
        uint256 due = dues.paidThrough(id);
        uint256 next = _end(s.anchor, terms.unit, terms.count, s.periods + 1);

        vm.warp(due + bound(late, 0, terms.grace - 1));
        vm.expectEmit(address(dues));
        emit IDues.Charged(id, planId, payer, s.periods + 1, uint64(next), terms.price);
        vm.prank(caller);
        dues.charge(id);

        assertEq(before - token.balanceOf(payer), terms.price);
        s.periods += 1;
        _assertSame(dues.subscription(id), s);
        assertEq(dues.paidThrough(id), next);
        _assertStatus(id, IDues.Status.Active);
        assertEq(token.balanceOf(address(dues)), 0);
    }

    function testFuzz_lateChargesNeverMoveLaterPeriods(uint256[24] memory late) public {
        uint256 id = _subscribe();
        for (uint256 n = 1; n <= late.length; ++n) {
            vm.warp(_month(n) + bound(late[n - 1], 0, GRACE - 1));
            dues.charge(id);
            assertEq(dues.paidThrough(id), _month(n + 1));
        }
        assertEq(token.balanceOf(payee), (late.length + 1) * PRICE);
    }

    function test_aPeriodIsChargedOnce() public {
        uint256 id = _subscribe();
        vm.warp(_month(1));
        dues.charge(id);
        _assertRefused(id, IDues.Reason.NotDue);
    }

    function testFuzz_chargesTheFirstPeriodAfterATrial(uint32 trial, uint256 late) public {
        trial = uint32(bound(trial, 1, 366 days));
        uint256 id = _subscribe(payer, _createTrialPlan(trial));
        vm.warp(START + trial - 1);
        _assertRefused(id, IDues.Reason.NotDue);
        vm.warp(START + trial + bound(late, 0, GRACE - 1));
        dues.charge(id);
        assertEq(dues.paidThrough(id), _end(START + trial, IDues.IntervalUnit.Month, 1, 1));
    }

    function test_isDueFromTheSecondThatThePaidTimeEnds() public {
        uint256 id = _subscribe();
        vm.warp(_month(1) - 1);
        _assertRefused(id, IDues.Reason.NotDue);
        vm.warp(_month(1));
        dues.charge(id);
    }

    function test_isPossibleUntilTheLastSecondOfGrace() public {
        uint256 id = _subscribe();
        vm.warp(_month(1) + GRACE);
        _assertRefused(id, IDues.Reason.Lapsed);
        vm.warp(_month(1) + GRACE - 1);
        dues.charge(id);
    }

    function testFuzz_thereIsNeverABacklog(uint256 time) public {
        uint256 id = _subscribe();
        vm.warp(bound(time, _month(1) + GRACE, type(uint40).max));
        _assertRefused(id, IDues.Reason.Lapsed);
        assertEq(token.balanceOf(payee), PRICE);
    }

    function testFuzz_endsInTheFutureEvenWithTheLongestGrace(bool month, uint16 count, uint256 periods) public {
        IDues.PlanTerms memory terms = _terms();
        terms.unit = month ? IDues.IntervalUnit.Month : IDues.IntervalUnit.Day;
        terms.count = uint16(bound(count, 1, month ? 120 : 3660));
        terms.grace = uint32(terms.count * (month ? 28 days : uint256(1 days)));
        uint256 id = _subscribe(payer, _createPlan(terms));
        periods = bound(periods, 1, 5);
        for (uint256 i = 0; i < periods; ++i) {
            vm.warp(dues.paidThrough(id) + terms.grace - 1);
            dues.charge(id);
            assertGt(dues.paidThrough(id), block.timestamp);
        }
    }

    function test_theSubscriptionEndsWhenTheCounterOfPeriodsIsFull() public {
        IDues.PlanTerms memory terms = _terms();
        (terms.unit, terms.grace) = (IDues.IntervalUnit.Day, 1 days);
        uint256 id = _subscribe(payer, _createPlan(terms));
        uint256 slot = _slotOf(id);
        uint256 word = uint256(vm.load(address(dues), bytes32(slot)));
        vm.store(address(dues), bytes32(slot), bytes32(word + (uint256(type(uint16).max - 2) << 232)));
        assertEq(dues.subscription(id).periods, type(uint16).max - 1);

        vm.warp(dues.paidThrough(id));
        dues.charge(id);
        assertEq(dues.subscription(id).periods, type(uint16).max);
        _assertStatus(id, IDues.Status.Active);
        vm.warp(dues.paidThrough(id));
        _assertRefused(id, IDues.Reason.Lapsed);
        assertEq(dues.subscription(id).flags, 0);
    }

    function test_cancellingOneSubscriptionLeavesTheOther() public {
        uint256 first = _subscribe();
        uint256 second = _subscribe(payer, 1);
        vm.prank(payer);
        dues.cancelNow(first);
        vm.warp(_month(1));
        _assertRefused(first, IDues.Reason.Cancelled);
        dues.charge(second);
    }

    function test_aTokenThatReturnsNothingIsPaidWith() public {
        NoReturnToken usdt = new NoReturnToken();
        _fund(usdt, payer);
        uint256 id = _subscribe(payer, _createPlanIn(usdt));
        vm.warp(_month(1));
        dues.charge(id);
        assertEq(usdt.balanceOf(payee), 2 * uint256(PRICE));
    }

    function test_aTokenWithAFeeStillDebitsThePrice() public {
        FeeToken taxed = new FeeToken();
        _fund(taxed, payer);
        uint256 before = taxed.balanceOf(payer);
        _subscribe(payer, _createPlanIn(taxed));
        assertEq(before - taxed.balanceOf(payer), PRICE);
        assertEq(taxed.balanceOf(payee), PRICE - PRICE / 100);
    }

    function testFuzz_revertsWhenThereIsNoSuchSubscription(uint256 id) public {
        vm.assume(id != 1);
        _subscribe();
        _assertRefused(id, IDues.Reason.UnknownSubscription);
    }

    function testFuzz_revertsAfterCancelOnceThePaidTimeIsOver(uint256 time) public {
        uint256 id = _subscribe();
        vm.prank(payer);
        dues.cancel(id);
        vm.warp(_month(1) - 1);
        _assertRefused(id, IDues.Reason.NotDue);
        vm.warp(bound(time, _month(1), type(uint40).max));
        _assertRefused(id, IDues.Reason.Cancelled);
    }

    function testFuzz_revertsAfterCancelNowForEver(uint256 time) public {
        uint256 id = _subscribe();
        vm.prank(payer);
        dues.cancelNow(id);
        vm.warp(bound(time, START, type(uint40).max));
        _assertRefused(id, IDues.Reason.Cancelled);
    }

    function testFuzz_revertsWhenTheAllowanceIsTooSmall(uint256 allowance, uint256 balance) public {
        uint256 id = _subscribe();
        vm.warp(_month(1));
        vm.prank(payer);
        token.approve(address(dues), bound(allowance, 0, PRICE - 1));
        // Also if the balance is too small at the same time.
        deal(address(token), payer, bound(balance, 0, 2 * uint256(PRICE)));
        _assertRefused(id, IDues.Reason.Allowance);
    }

    function testFuzz_revertsWhenTheBalanceIsTooSmall(uint256 balance) public {
        uint256 id = _subscribe();
        vm.warp(_month(1));
        deal(address(token), payer, bound(balance, 0, PRICE - 1));
        _assertRefused(id, IDues.Reason.Balance);
    }

    function test_revertsWhenTheTokenRefusesInWhateverWay() public {
        Doubles.BreakableToken[7] memory tokens = [
            Doubles.BreakableToken(new Doubles.FalseToken()),
            new Doubles.TwoToken(),
            new Doubles.ShortToken(),
            new Doubles.RevertingToken(),
            new Doubles.BurningToken(),
            new Doubles.BombToken(),
            new Doubles.RevertingBombToken()
        ];
        for (uint256 i = 0; i < tokens.length; ++i) {
            vm.warp(START);
            _fund(tokens[i], payer);
            uint256 id = _subscribe(payer, _createPlanIn(tokens[i]));
            vm.warp(_month(1));
            tokens[i].setBroken(true);
            _assertRefused(id, IDues.Reason.Token);
            tokens[i].setBroken(false);
            dues.charge(id);
        }
    }

    function test_revertsWhenTheTokenHasNoCodeAnyMore() public {
        uint256 id = _subscribe();
        vm.warp(_month(1));
        vm.etch(address(token), "");
        _assertRefused(id, IDues.Reason.Token);
    }

    function test_revertsRatherThanBlameTheTokenForALackOfGas() public {
        Doubles.RevertingToken broken = new Doubles.RevertingToken();
        _fund(broken, payer);
        uint256 id = _subscribe(payer, _createPlanIn(broken));
        broken.setBroken(true);
        vm.warp(_month(1));
        vm.expectPartialRevert(IDues.InsufficientGas.selector);
        dues.charge{gas: 250_000}(id);
    }

    function _slotOf(uint256 id) private view returns (uint256 slot) {
        // The mapping is the third variable: ids, plans, subscriptions.
        slot = uint256(keccak256(abi.encode(id, uint256(2))));
        assertEq(address(uint160(uint256(vm.load(address(dues), bytes32(slot))))), payer);
    }

    function _assertRefused(uint256 id, IDues.Reason reason) private {
        IDues.Subscription memory before = dues.subscription(id);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id, reason));
        vm.prank(keeper);
        dues.charge(id);
        _assertSame(dues.subscription(id), before);
    }
}
