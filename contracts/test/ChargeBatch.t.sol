// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {TestUSD} from "./doubles/TestUSD.sol";
import "./doubles/Tokens.sol" as Doubles;
import {Base} from "./utils/Base.sol";
import {ISelf} from "./utils/ISelf.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Vm} from "forge-std/Vm.sol";

// chargeBatch
// ├── it charges every item that is past due, and returns how many
// ├── it emits Charged or ChargeFailed for each item that is past due, in order
// ├── when an item is not due, for whatever reason: it passes it over without an event
// ├── when an item fails
// │   ├── it leaves that subscription as it was
// │   ├── it says why: the same reasons as chargeOne
// │   └── it charges the other items as if that one were not there
// ├── given a change is scheduled: the item is the first period of the new plan
// ├── when an id comes twice: the second is not due
// └── when the gas is too little to know that a token failed
//     └── it reverts with InsufficientGas
contract ChargeBatchTest is Base {
    function testFuzz_chargesAllThatIsDue(uint8 count) public {
        count = uint8(bound(count, 0, 40));
        uint32 planId = _createPlan();
        uint256[] memory ids = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            address account = vm.addr(i + 1);
            _fund(token, account);
            ids[i] = _subscribe(account, planId);
        }
        vm.warp(_month(1));
        vm.prank(keeper);
        assertEq(dues.chargeBatch(ids), count);
        for (uint256 i = 0; i < count; ++i) {
            assertEq(dues.paidThrough(ids[i]), _month(2));
            assertEq(token.balanceOf(vm.addr(i + 1)), 998 * uint256(PRICE));
        }
        assertEq(token.balanceOf(payee), 2 * uint256(count) * PRICE);
    }

    function test_emitsOneEventPerDueItemInOrder() public {
        uint256 first = _subscribe();
        uint256 second = _subscribe(payer, 1);
        _fund(token, keeper);
        uint256 third = _subscribe(keeper, 1);
        deal(address(token), payer, PRICE);
        vm.warp(_month(1));
        vm.expectEmit(address(dues));
        emit IDues.Charged(first, 1, payer, 2, uint64(_month(2)), PRICE);
        vm.expectEmit(address(dues));
        emit IDues.ChargeFailed(second, 1, payer, IDues.Reason.Balance);
        vm.expectEmit(address(dues));
        emit IDues.Charged(third, 1, keeper, 2, uint64(_month(2)), PRICE);
        assertEq(dues.chargeBatch(_ids(first, second, third)), 2);
    }

    function testFuzz_passesOverWhatIsNotDueWithoutAnEvent(uint256 unknown) public {
        uint256 paid = _subscribe();
        uint256 ended = _subscribe(payer, 1);
        vm.prank(payer);
        dues.cancelNow(ended);
        unknown = bound(unknown, ended + 1, type(uint256).max);
        vm.recordLogs();
        assertEq(dues.chargeBatch(_ids(paid, ended, unknown)), 0);
        vm.warp(_month(1) + GRACE);
        assertEq(dues.chargeBatch(_ids(paid, ended, 0)), 0);
        assertEq(_countLogs(), 0);
    }

    function test_anIdThatComesTwiceIsChargedOnce() public {
        uint256 id = _subscribe();
        vm.warp(_month(1));
        vm.expectEmit(address(dues));
        emit IDues.Charged(id, 1, payer, 2, uint64(_month(2)), PRICE);
        vm.recordLogs();
        assertEq(dues.chargeBatch(_ids(id, id)), 1);
        assertEq(_countLogs(), 1);
        assertEq(token.balanceOf(payee), 2 * uint256(PRICE));
    }

    function test_anItemWithAScheduledChangeIsOneOfTheNewPlan() public {
        uint256 first = _subscribe();
        uint256 second = _subscribe(payer, 1);
        uint256 third = _subscribe(payer, 1);
        uint32 dearer = _createPlan(2 * PRICE, IDues.IntervalUnit.Month, 1);
        uint32 daily = _createPlan(1, IDues.IntervalUnit.Day, 2);
        _scheduleChange(first, dearer);
        _scheduleChange(third, daily);
        vm.warp(_month(1));
        vm.expectEmit(address(dues));
        emit IDues.PlanChanged(first, dearer, payer, 1, uint40(START), 2, uint64(_month(2)), 0);
        vm.expectEmit(address(dues));
        emit IDues.Charged(first, dearer, payer, 2, uint64(_month(2)), 2 * PRICE);
        vm.expectEmit(address(dues));
        emit IDues.Charged(second, 1, payer, 2, uint64(_month(2)), PRICE);
        vm.expectEmit(address(dues));
        emit IDues.PlanChanged(third, daily, payer, 1, uint40(_month(1)), 1, uint64(_month(1) + 2 days), 0);
        vm.expectEmit(address(dues));
        emit IDues.Charged(third, daily, payer, 1, uint64(_month(1) + 2 days), 1);
        assertEq(dues.chargeBatch(_ids(first, second, third)), 3);
        assertEq(token.balanceOf(payee), 6 * uint256(PRICE) + 1);
    }

    function test_aScheduledChangeThatCannotBePaidStaysScheduled() public {
        uint256 id = _subscribe();
        uint32 dearer = _createPlan(2 * PRICE, IDues.IntervalUnit.Month, 1);
        _scheduleChange(id, dearer);
        vm.warp(_month(1));
        deal(address(token), payer, 2 * uint256(PRICE) - 1);
        // Under the plan that it is on.
        _assertFails(id, IDues.Reason.Balance);
        assertEq(_record(id).scheduledPlanId, dearer);
        deal(address(token), payer, 2 * uint256(PRICE));
        assertEq(dues.chargeBatch(_ids(id)), 1);
        assertEq(_record(id).scheduledPlanId, 0);
    }

    function testFuzz_lateBatchesNeverMoveLaterPeriods(uint256[14] memory late) public {
        // The longest grace that there is: on 27 March, February can still be charged.
        IDues.PlanTerms memory terms = _terms();
        terms.grace = 28 days;
        uint256 id = _subscribe(payer, _createPlan(terms));
        for (uint256 n = 1; n <= late.length; ++n) {
            vm.warp(_month(n) + bound(late[n - 1], 0, 28 days - 1));
            assertEq(dues.chargeBatch(_ids(id)), 1);
            assertEq(dues.paidThrough(id), _month(n + 1));
        }
    }

    function test_saysWhyByTheMoneyOfThePayer() public {
        uint256 id = _subscribe();
        vm.warp(_month(1));
        deal(address(token), payer, PRICE - 1);
        _assertFails(id, IDues.Reason.Balance);
        vm.prank(payer);
        token.approve(address(dues), PRICE - 1);
        _assertFails(id, IDues.Reason.Allowance);
    }

    function test_aBlocklistedPayerHarmsNobodyElse() public {
        Doubles.BlocklistToken usdc = new Doubles.BlocklistToken();
        _fund(usdc, payer);
        _fund(usdc, keeper);
        uint256 id = _subscribe(payer, _createPlanIn(usdc));
        uint256 other = _subscribe(keeper, 1);
        vm.warp(_month(1));
        usdc.setBlocked(payer, true);
        assertEq(dues.chargeBatch(_ids(id, other)), 1);
        assertEq(dues.paidThrough(other), _month(2));
        _assertFails(id, IDues.Reason.Token);

        usdc.setBlocked(payer, false);
        usdc.setBlocked(payee, true);
        _assertFails(id, IDues.Reason.Token);
    }

    function test_whatATokenMovesAndThenDeniesIsUndone() public {
        Doubles.DenyingToken denying = new Doubles.DenyingToken();
        _fund(denying, payer);
        uint256 id = _subscribe(payer, _createPlanIn(denying));
        denying.setDenies(true);
        vm.warp(_month(1));
        uint256 before = denying.balanceOf(payer);
        _assertFails(id, IDues.Reason.Token);
        assertEq(dues.chargeBatch(_ids(id, id, id)), 0);
        assertEq(denying.balanceOf(payer), before);
        assertEq(denying.allowance(payer, address(dues)), before);
    }

    function testFuzz_anItemCannotBeChargedOutsideABatch(address caller) public {
        vm.assume(caller != address(dues));
        uint256 id = _subscribe();
        vm.warp(_month(1));
        vm.prank(caller);
        vm.expectRevert(abi.encodeWithSelector(ISelf.NotSelf.selector, caller));
        ISelf(address(dues)).chargeItem(id);
    }

    function test_aRevertingTokenHarmsNoOtherItem() public {
        _assertIsolated(new Doubles.RevertingToken());
    }

    function test_aTokenThatReturnsFalseHarmsNoOtherItem() public {
        _assertIsolated(new Doubles.FalseToken());
    }

    function test_aTokenThatAnswersWithNoBooleanHarmsNoOtherItem() public {
        _assertIsolated(new Doubles.TwoToken());
    }

    function test_aTokenThatAnswersTooShortlyHarmsNoOtherItem() public {
        _assertIsolated(new Doubles.ShortToken());
    }

    function test_aTokenThatBurnsItsGasHarmsNoOtherItem() public {
        _assertIsolated(new Doubles.BurningToken());
    }

    function test_aTokenThatReturnsAMountainHarmsNoOtherItem() public {
        _assertIsolated(new Doubles.BombToken());
    }

    function test_aTokenThatRevertsWithAMountainHarmsNoOtherItem() public {
        _assertIsolated(new Doubles.RevertingBombToken());
    }

    function test_aTokenThatAnswersNothingHarmsNoOtherItem() public {
        Doubles.MuteToken mute = new Doubles.MuteToken();
        _fund(mute, payer);
        uint256 id = _subscribe(payer, _createPlanIn(mute));
        mute.setSilence(Doubles.MuteToken.Silence.Burn, Doubles.MuteToken.Silence.Burn);
        _assertIsolated(id, mute);
    }

    function test_aTokenThatIsGoneHarmsNoOtherItem() public {
        TestUSD gone = new TestUSD();
        _fund(gone, payer);
        uint256 id = _subscribe(payer, _createPlanIn(gone));
        uint256 other = _subscribe(payer, _createPlan());
        vm.etch(address(gone), "");
        vm.warp(_month(1));
        assertEq(dues.chargeBatch(_ids(id, other)), 1);
        assertEq(dues.paidThrough(id), _month(1));
        assertEq(dues.paidThrough(other), _month(2));
    }

    function test_oneOfEachBadTokenHarmsNoOtherItem() public {
        Doubles.BreakableToken[8] memory bad = [
            Doubles.BreakableToken(new Doubles.FalseToken()),
            new Doubles.TwoToken(),
            new Doubles.ShortToken(),
            new Doubles.RevertingToken(),
            new Doubles.BurningToken(),
            new Doubles.BombToken(),
            new Doubles.RevertingBombToken(),
            new Doubles.MuteToken()
        ];
        uint32 planId = _createPlan();
        uint256[] memory ids = new uint256[](2 * bad.length + 1);
        for (uint256 i = 0; i < bad.length; ++i) {
            ids[2 * i] = _subscribe(payer, planId);
            _fund(bad[i], payer);
            ids[2 * i + 1] = _subscribe(payer, _createPlanIn(bad[i]));
            bad[i].setBroken(true);
        }
        ids[2 * bad.length] = _subscribe(payer, planId);
        vm.warp(_month(1));
        vm.expectCall(address(token), abi.encodeWithSelector(token.transferFrom.selector), uint64(bad.length + 1));
        assertEq(dues.chargeBatch{gas: 1_100_000 * ids.length}(ids), bad.length + 1);
        for (uint256 i = 0; i < ids.length; ++i) {
            assertEq(dues.paidThrough(ids[i]), _month(i % 2 == 0 ? 2 : 1));
        }
    }

    function testFuzz_whatBurnsGasBeforeNeverMakesALaterItemFail(uint256 gas) public {
        Doubles.BurningToken bad = new Doubles.BurningToken();
        _fund(bad, payer);
        uint256 burning = _subscribe(payer, _createPlanIn(bad));
        uint256 healthy = _subscribe(payer, _createPlan());
        bad.setBroken(true);
        vm.warp(_month(1));
        // From too little for one burning item to enough for both.
        gas = bound(gas, 200_000, 1_200_000);
        try dues.chargeBatch{gas: gas}(_ids(burning, burning, healthy)) returns (uint256 charged) {
            assertEq(charged, 1);
            assertEq(dues.paidThrough(healthy), _month(2));
        } catch (bytes memory data) {
            assertEq(dues.paidThrough(healthy), _month(1));
            // Either it says so, or there was not even enough gas for that.
            if (data.length != 0) assertEq(bytes4(data), IDues.InsufficientGas.selector);
        }
    }

    function test_aTokenThatNeedsMoreThanItsCapFails() public {
        Doubles.DearToken dear = new Doubles.DearToken();
        _fund(dear, payer);
        uint256 id = _subscribe(payer, _createPlanIn(dear));
        vm.warp(_month(1));
        _assertFails(id, IDues.Reason.Token);
        // But not for ever.
        dues.chargeOne(id);
    }

    function test_aBadTokenCostsAtMostItsCaps() public {
        Doubles.MuteToken mute = new Doubles.MuteToken();
        _fund(mute, payer);
        uint256 id = _subscribe(payer, _createPlanIn(mute));
        mute.setBroken(true);
        mute.setSilence(Doubles.MuteToken.Silence.None, Doubles.MuteToken.Silence.Burn);
        vm.warp(_month(1));
        uint256 before = gasleft();
        assertEq(dues.chargeBatch(_ids(id)), 0);
        assertLt(before - gasleft(), 300_000 + 2 * 100_000 + 30_000);
    }

    function testFuzz_aHealthyItemIsNeverRecordedAsFailedWhateverTheGas(uint256 gas) public {
        uint256 id = _subscribe();
        vm.warp(_month(1));
        gas = bound(gas, 21_000, 400_000);
        vm.recordLogs();
        try dues.chargeBatch{gas: gas}(_ids(id)) returns (uint256 charged) {
            assertEq(charged, 1);
            assertEq(_countLogs(), 1);
        } catch {
            assertEq(dues.paidThrough(id), _month(1));
        }
    }

    function testFuzz_theReasonNeverDependsOnTheGas(uint256 gas) public {
        uint256 id = _subscribe();
        deal(address(token), payer, 0);
        vm.warp(_month(1));
        gas = bound(gas, 21_000, 800_000);
        vm.recordLogs();
        try dues.chargeBatch{gas: gas}(_ids(id)) returns (uint256 charged) {
            assertEq(charged, 0);
            Vm.Log[] memory logs = vm.getRecordedLogs();
            assertEq(logs.length, 1);
            assertEq(abi.decode(logs[0].data, (uint256)), uint256(IDues.Reason.Balance));
        } catch {}
    }

    function test_revertsRatherThanRecordAFailureForALackOfGas() public {
        uint256 id = _subscribe();
        deal(address(token), payer, 0);
        vm.warp(_month(1));
        vm.expectPartialRevert(IDues.InsufficientGas.selector);
        dues.chargeBatch{gas: 300_000}(_ids(id));
    }

    function test_revertsRatherThanMisjudgeAViewForALackOfGas() public {
        Doubles.MuteToken mute = new Doubles.MuteToken();
        _fund(mute, payer);
        uint256 id = _subscribe(payer, _createPlanIn(mute));
        mute.setBroken(true);
        mute.setSilence(Doubles.MuteToken.Silence.Revert, Doubles.MuteToken.Silence.None);
        vm.warp(_month(1));
        // The transfer has its full cap and burns it; what is left is too little for the questions.
        vm.expectPartialRevert(IDues.InsufficientGas.selector);
        dues.chargeBatch{gas: 380_000}(_ids(id));
    }

    /// @dev What has been paid is counted in 120 bits. A merchant and a payer who are one, with a token of their own,
    /// come close to that in some hundred transactions.
    function test_anItemWhoseCountOfWhatWasPaidOverflowsHarmsNoOtherItem() public {
        Doubles.FeeToken own = new Doubles.FeeToken();
        deal(address(own), payer, type(uint128).max);
        vm.prank(payer);
        own.approve(address(dues), type(uint256).max);
        deal(address(own), merchant, type(uint128).max);
        vm.prank(merchant);
        own.approve(address(dues), type(uint256).max);
        IDues.PlanTerms memory terms = _terms();
        (terms.token, terms.payee, terms.price) = (address(own), merchant, type(uint96).max);
        uint32[2] memory plans = [_createPlan(terms), _createPlan(terms)];
        terms.price = 1;
        uint32 cheap = _createPlan(terms);
        uint256 before = _subscribe(payer, _createPlan());
        uint256 behind = _subscribe(payer, dues.planCount());

        uint256 id = _subscribe(payer, plans[0]);
        uint256 target = uint256(uint120(type(int120).max));
        uint256 round = 0;
        while (true) {
            // All that was paid is refunded, so that no credit lowers the next payment.
            IDues.Record memory record = _record(id);
            vm.prank(merchant);
            dues.refund(id, uint128(record.paid - record.refunded), bytes32(++round));
            uint256 room = (target - record.paid) / type(uint96).max;
            vm.prank(payer);
            dues.changeNow(
                id, plans[round % 2], uint16(room == 0 ? 1 : Math.min(room, type(uint16).max)), type(uint128).max
            );
            if (room == 0) break;
        }
        assertEq(dues.subscription(id).periods, 1);
        _scheduleChange(id, cheap);
        vm.warp(_month(1));
        vm.expectEmit(address(dues));
        emit IDues.ChargeFailed(id, dues.subscription(id).planId, payer, IDues.Reason.Token);
        assertEq(dues.chargeBatch(_ids(before, id, behind)), 2);
        _assertStatus(id, IDues.Status.PastDue);
    }

    function _assertIsolated(Doubles.BreakableToken bad) private {
        _fund(bad, payer);
        uint256 id = _subscribe(payer, _createPlanIn(bad));
        _assertIsolated(id, bad);
    }

    function _assertIsolated(uint256 id, Doubles.BreakableToken bad) private {
        uint32 planId = _createPlan();
        uint256 before = _subscribe(payer, planId);
        uint256 behind = _subscribe(payer, planId);
        bad.setBroken(true);
        vm.warp(_month(1));
        IDues.Subscription memory stored = dues.subscription(id);
        vm.expectEmit(address(dues));
        emit IDues.Charged(before, planId, payer, 2, uint64(_month(2)), PRICE);
        vm.expectEmit(address(dues));
        emit IDues.ChargeFailed(id, stored.planId, payer, IDues.Reason.Token);
        vm.expectEmit(address(dues));
        emit IDues.Charged(behind, planId, payer, 2, uint64(_month(2)), PRICE);
        assertEq(dues.chargeBatch{gas: 1_500_000}(_ids(before, id, behind)), 2);
        _assertSame(dues.subscription(id), stored);
        _assertStatus(id, IDues.Status.PastDue);
    }

    function _assertFails(uint256 id, IDues.Reason reason) private {
        IDues.Subscription memory stored = dues.subscription(id);
        vm.expectEmit(address(dues));
        emit IDues.ChargeFailed(id, stored.planId, stored.payer, reason);
        assertEq(dues.chargeBatch(_ids(id)), 0);
        _assertSame(dues.subscription(id), stored);
    }
}

/// @dev Each call is a transaction of its own here, so that the token is as cold as it is for a keeper.
/// forge-config: default.isolate = true
contract ChargeBatchColdTest is Base {
    function test_aTokenThatWantsAllItsGasIsNeverRecordedAsFailedWhateverTheGas() public {
        Doubles.CautiousToken cautious = new Doubles.CautiousToken();
        _fund(cautious, payer);
        uint256 id = _subscribe(payer, _createPlanIn(cautious));
        vm.warp(_month(1));
        (uint256 successes, uint256 reverts) = (0, 0);
        for (uint256 gas = 310_000; gas < 370_000; gas += 50) {
            uint256 snapshot = vm.snapshotState();
            try dues.chargeBatch{gas: gas}(_ids(id)) returns (uint256 charged) {
                assertEq(charged, 1);
                ++successes;
            } catch {
                ++reverts;
            }
            vm.revertToState(snapshot);
        }
        // The range has both sides of the line.
        assertGt(successes, 0);
        assertGt(reverts, 0);
    }
}
