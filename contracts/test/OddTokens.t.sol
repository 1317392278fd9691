// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {TestUSD} from "./doubles/TestUSD.sol";
import "./doubles/Tokens.sol" as Doubles;
import {Base} from "./utils/Base.sol";

// What tokens do that are not like others, and what each function that moves money makes of it. How a batch keeps bad
// tokens apart is in ChargeBatch.t.sol, and what hooks may do in Reentrancy.t.sol.
//
// given a token that answers
// ├── with nothing, or with true and more: every function that moves money works
// └── with false, no boolean, less than a word, a revert, a mountain, or not at all: every one of them is refused
// given the token is gone: every one of them is refused, and cancelling works
// given a fee, also one switched on later: the payer is debited the price, and refunds are capped by that
// given balances that change by themselves: the price stays the price
// given a pause or a blocklist: nothing moves until it is over, and cancelling works
// given an allowance
// │   ├── with an end: it goes down by exactly what was debited
// │   ├── without one: it stays, or is counted down by the token, and both work
// │   └── that has to be zero in between: nothing moves while it is zero, and all is well after
// given a token that refuses to move nothing: it is never asked to
// given things instead of amounts: nothing moves that its owner did not approve
contract OddTokensTest is Base {
    uint96 private constant CAP = 100;
    /// @dev Enough to find out why, even where the token burns all that it is given.
    uint256 private constant GAS = 20_000_000;

    function test_whatReturnsNothingOrMoreThanAWordIsPaidWith() public {
        TestUSD[3] memory tokens =
            [TestUSD(new Doubles.NoReturnToken()), new Doubles.LongToken(), new Doubles.ApproveFromZeroToken()];
        for (uint256 i = 0; i < tokens.length; ++i) {
            uint256 id = _subscribeIn(tokens[i]);
            vm.prank(payer);
            dues.prepay(id, 2);
            vm.startPrank(merchant);
            dues.chargeUsage(id, 1, 7, "usage");
            dues.refund(id, 5, "refund");
            vm.stopPrank();
            vm.warp(_month(3));
            dues.chargeOne(id);
            vm.warp(_month(4));
            assertEq(dues.chargeBatch(_ids(id)), 1);
            assertEq(tokens[i].balanceOf(payee), 5 * uint256(PRICE) + 7);
            assertEq(tokens[i].balanceOf(payer), 995 * uint256(PRICE) - 7 + 5);
            assertEq(tokens[i].balanceOf(merchant), 1000 * uint256(PRICE) - 5);
        }
    }

    function test_whateverElseATokenAnswersEveryDebitIsRefused() public {
        Doubles.BreakableToken[8] memory tokens = [
            Doubles.BreakableToken(new Doubles.FalseToken()),
            new Doubles.TwoToken(),
            new Doubles.ShortToken(),
            new Doubles.RevertingToken(),
            new Doubles.BurningToken(),
            new Doubles.BombToken(),
            new Doubles.RevertingBombToken(),
            new Doubles.BombViewsToken()
        ];
        for (uint256 i = 0; i < tokens.length; ++i) {
            uint256 id = _subscribeIn(tokens[i]);
            tokens[i].setBroken(true);
            _assertEveryDebitRefused(id, IDues.Reason.Token);
            _assertCancels(id);
        }
    }

    function test_whatATokenMovesAndThenDeniesIsUndone() public {
        Doubles.DenyingToken denying = new Doubles.DenyingToken();
        uint256 id = _subscribeIn(denying);
        denying.setDenies(true);
        (uint256 ofPayer, uint256 ofMerchant) = (denying.balanceOf(payer), denying.balanceOf(merchant));
        _assertEveryDebitRefused(id, IDues.Reason.Token);
        assertEq(denying.balanceOf(payer), ofPayer);
        assertEq(denying.balanceOf(merchant), ofMerchant);
        assertEq(denying.balanceOf(payee), PRICE);
    }

    function testFuzz_aTokenThatIsGoneMovesNothing(bool emptied) public {
        uint256 id = _subscribeIn(token);
        // Destroyed, or replaced by code that fails.
        vm.etch(address(token), emptied ? bytes("") : bytes(hex"fe"));
        _assertEveryDebitRefused(id, IDues.Reason.Token);
        _assertCancels(id);
    }

    function test_viewsThatReturnAMountainCostAtMostTheirCaps() public {
        Doubles.BombViewsToken bomb = new Doubles.BombViewsToken();
        uint256 id = _subscribeIn(bomb);
        bomb.setBroken(true);
        vm.warp(_month(1));
        uint256 before = gasleft();
        assertEq(dues.chargeBatch{gas: 800_000}(_ids(id)), 0);
        // The refusal itself is cheap, so that nearly all of this is for the two questions.
        assertLt(before - gasleft(), 2 * 100_000 + 50_000);
        before = gasleft();
        dues.previewCharge{gas: 300_000}(id);
        assertLt(before - gasleft(), 2 * 100_000 + 20_000);
    }

    function testFuzz_aFeeIsThePayeesMatter(uint256 basisPoints) public {
        basisPoints = bound(basisPoints, 1, 10_000);
        Doubles.FeeSwitchToken usdt = new Doubles.FeeSwitchToken();
        uint256 id = _subscribeIn(usdt);
        assertEq(usdt.balanceOf(payee), PRICE);
        usdt.setFee(basisPoints);
        uint256 before = usdt.balanceOf(payer);
        vm.warp(_month(1));
        vm.expectEmit(address(dues));
        emit IDues.Charged(id, dues.subscription(id).planId, payer, 2, uint64(_month(2)), PRICE);
        dues.chargeOne(id);
        assertEq(before - usdt.balanceOf(payer), PRICE);
        assertEq(usdt.balanceOf(payee), 2 * uint256(PRICE) - PRICE * basisPoints / 10_000);
        assertEq(_record(id).paid, 2 * uint256(PRICE));

        before = usdt.balanceOf(payer);
        vm.startPrank(merchant);
        dues.refund(id, 2 * PRICE, "refund");
        assertEq(usdt.balanceOf(merchant), 998 * uint256(PRICE));
        assertEq(usdt.balanceOf(payer) - before, 2 * uint256(PRICE) - 2 * uint256(PRICE) * basisPoints / 10_000);
        // However little arrived, nothing is left to refund.
        vm.expectRevert(
            abi.encodeWithSelector(IDues.RefundExceedsPaid.selector, id, 2 * uint256(PRICE) + 1, 2 * uint256(PRICE))
        );
        dues.refund(id, 1, "more");
    }

    function testFuzz_balancesThatChangeDoNotChangeThePrice(uint256 percent) public {
        percent = bound(percent, 1, 1000);
        Doubles.RebasingToken rebasing = new Doubles.RebasingToken();
        uint256 id = _subscribeIn(rebasing);
        rebasing.rebase(percent);
        uint256 before = rebasing.balanceOf(payer);
        vm.warp(_month(1));
        dues.chargeOne(id);
        // But for what the token itself rounds.
        assertApproxEqAbs(before - rebasing.balanceOf(payer), PRICE, percent / 100 + 1);
        assertEq(_record(id).paid, 2 * uint256(PRICE));
        uint256 left = rebasing.parts(payer) - (PRICE - 1) * 100 / percent;
        vm.prank(payer);
        rebasing.transfer(keeper, left);
        vm.warp(_month(2));
        _assertPreview(id, IDues.Reason.Balance);
    }

    function test_aPauseIsWaitedOutWithinGrace() public {
        Doubles.RevertingToken paused = new Doubles.RevertingToken();
        uint256 id = _subscribeIn(paused);
        uint256 other = _subscribe(payer, dues.subscription(id).planId);
        paused.setBroken(true);
        vm.warp(_month(1));
        assertEq(dues.chargeBatch(_ids(id, other)), 0);
        _assertCancels(other);
        paused.setBroken(false);
        vm.warp(_month(1) + GRACE - 1);
        assertEq(dues.chargeBatch(_ids(id, other)), 1);
        assertEq(dues.paidThrough(id), _month(2));
    }

    function testFuzz_aBlocklistStopsDebitsButNoCancelling(bool ofPayee, bool byMerchant) public {
        Doubles.BlocklistToken usdc = new Doubles.BlocklistToken();
        uint256 id = _subscribeIn(usdc);
        usdc.setBlocked(ofPayee ? payee : payer, true);
        vm.warp(_month(1));
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id, IDues.Reason.Token));
        dues.chargeOne(id);
        vm.startPrank(byMerchant ? merchant : payer);
        dues.cancel(id);
        dues.cancelNow(id);
        _assertStatus(id, IDues.Status.Cancelled);
    }

    function testFuzz_anAllowanceGoesDownByWhatWasDebited(uint256 allowance) public {
        allowance = bound(allowance, PRICE, type(uint256).max - 1);
        uint256 id = _subscribeIn(token);
        vm.prank(payer);
        token.approve(address(dues), allowance);
        vm.warp(_month(1));
        dues.chargeOne(id);
        assertEq(token.allowance(payer, address(dues)), allowance - PRICE);
    }

    function testFuzz_anAllowanceWithoutLimitServesForEver(bool counted, uint8 charges) public {
        TestUSD dollar = counted ? new Doubles.CountingToken() : new TestUSD();
        uint256 id = _subscribeIn(dollar);
        vm.prank(payer);
        dollar.approve(address(dues), type(uint256).max);
        for (uint256 n = 1; n <= charges % 32; ++n) {
            vm.warp(_month(n));
            dues.chargeOne(id);
        }
        uint256 debited = uint256(charges % 32) * PRICE;
        assertEq(dollar.allowance(payer, address(dues)), type(uint256).max - (counted ? debited : 0));
        assertEq(dollar.balanceOf(payee), PRICE + debited);
    }

    function testFuzz_anAllowanceIsToppedUpByWayOfZero(uint256 left) public {
        left = bound(left, 1, PRICE - 1);
        Doubles.ApproveFromZeroToken usdt = new Doubles.ApproveFromZeroToken();
        uint256 id = _subscribeIn(usdt);
        vm.startPrank(payer);
        _approve(usdt, 0);
        _approve(usdt, left);
        vm.warp(_month(1));
        _assertPreview(id, IDues.Reason.Allowance);
        vm.expectRevert("not from zero");
        usdt.approve(address(dues), PRICE);
        _approve(usdt, 0);
        // A keeper that comes in between finds nothing to take, and does no harm.
        assertEq(dues.chargeBatch(_ids(id)), 0);
        _approve(usdt, PRICE);
        assertEq(dues.chargeBatch(_ids(id)), 1);
        assertEq(usdt.allowance(payer, address(dues)), 0);
    }

    function testFuzz_aToppedUpAllowanceIsNoConsentToMore(uint256 allowance) public {
        // Whoever comes between two approvals takes no more than what is due.
        allowance = bound(allowance, 2 * uint256(PRICE), type(uint256).max);
        uint256 id = _subscribeIn(token);
        vm.warp(_month(1));
        dues.chargeOne(id);
        vm.prank(payer);
        token.approve(address(dues), allowance);
        uint256 before = token.balanceOf(payer);
        assertEq(dues.chargeBatch(_ids(id, id)), 0);
        assertEq(token.balanceOf(payer), before);
    }

    function test_aTokenThatRefusesToMoveNothingIsNeverAskedTo() public {
        Doubles.NoZeroToken picky = new Doubles.NoZeroToken();
        uint256 id = _subscribeIn(picky);
        uint32 planId = _createPlanIn(picky);
        uint256 before = picky.balanceOf(payer);
        // In the first second all of the price is left, and the same price is asked for.
        vm.prank(payer);
        dues.changeNow(id, planId, 1, 0);
        assertEq(picky.balanceOf(payer), before);
        assertEq(dues.subscription(id).planId, planId);
    }

    function test_thingsAreTakenFromWhoApprovedThemOnly() public {
        Doubles.ThingToken things = new Doubles.ThingToken();
        things.mint(payer, 7);
        IDues.PlanTerms memory terms = _terms();
        (terms.token, terms.price) = (address(things), 7);
        uint32 planId = _createPlan(terms);
        bytes memory refused = abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Token);
        vm.startPrank(payer);
        vm.expectRevert(refused);
        dues.subscribe(planId, REF);
        things.approve(address(dues), 7);
        vm.stopPrank();
        // The approval is no consent of somebody else's.
        vm.expectRevert(refused);
        vm.prank(keeper);
        dues.subscribe(planId, REF);
        uint256 id = _subscribe(payer, planId);
        assertEq(things.ownerOf(7), payee);
        vm.warp(_month(1));
        assertEq(dues.chargeBatch(_ids(id)), 0);
        assertEq(things.ownerOf(7), payee);
    }

    /// @dev A subscription with one period paid, to a plan with usage; the merchant can refund.
    function _subscribeIn(TestUSD token_) private returns (uint256) {
        vm.warp(START);
        token_.mint(payer, 1000 * uint256(PRICE) - token_.balanceOf(payer));
        token_.mint(merchant, 1000 * uint256(PRICE));
        vm.prank(payer);
        _approve(token_, 1000 * uint256(PRICE));
        vm.prank(merchant);
        _approve(token_, 1000 * uint256(PRICE));
        IDues.PlanTerms memory terms = _terms();
        (terms.token, terms.usageCap) = (address(token_), CAP);
        return _subscribe(payer, _createPlan(terms));
    }

    function _assertEveryDebitRefused(uint256 id, IDues.Reason reason) private {
        IDues.Record memory record = _record(id);
        uint32 planId = record.subscription.planId;
        uint256 next = dues.subscriptionCount() + 1;
        bytes memory refused = abi.encodeWithSelector(IDues.ChargeRefused.selector, id, reason);
        bytes memory refusedNext = abi.encodeWithSelector(IDues.ChargeRefused.selector, next, reason);
        vm.startPrank(payer);
        vm.expectRevert(refusedNext);
        dues.subscribe{gas: GAS}(planId, REF);
        vm.expectRevert(refusedNext);
        dues.subscribeWithPermit{gas: GAS}(planId, REF, 0, 0, 0, 0, 0);
        vm.expectRevert(refusedNext);
        dues.subscribePrepaid{gas: GAS}(planId, REF, 2, true);
        vm.expectRevert(refused);
        dues.prepay{gas: GAS}(id, 2);
        vm.stopPrank();
        vm.startPrank(merchant);
        vm.expectRevert(refused);
        dues.chargeUsage{gas: GAS}(id, 1, 1, "usage");
        vm.expectRevert(abi.encodeWithSelector(IDues.RefundRefused.selector, id, reason));
        dues.refund{gas: GAS}(id, 1, "refund");
        vm.stopPrank();
        assertFalse(dues.isKeySpent(id, "usage"));
        assertFalse(dues.isKeySpent(id, "refund"));
        vm.warp(_month(1));
        vm.expectRevert(refused);
        dues.chargeOne{gas: GAS}(id);
        assertEq(dues.chargeBatch(_ids(id)), 0);
        record.status = IDues.Status.PastDue;
        assertEq(abi.encode(_record(id)), abi.encode(record));
        assertEq(dues.subscriptionCount(), next - 1);
    }

    function _assertCancels(uint256 id) private {
        vm.startPrank(payer);
        dues.cancel(id);
        dues.cancelNow(id);
        vm.stopPrank();
        _assertStatus(id, IDues.Status.Cancelled);
    }

    /// @dev Not by its type, which promises an answer.
    function _approve(TestUSD token_, uint256 value) private {
        (bool ok,) = address(token_).call(abi.encodeCall(token_.approve, (address(dues), value)));
        assertTrue(ok);
    }
}
