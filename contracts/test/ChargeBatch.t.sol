// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {DevUSD} from "../devnet/DevUSD.sol";
import {Dues} from "../src/Dues.sol";
import {IDues} from "../src/IDues.sol";
import "./doubles/Tokens.sol" as Doubles;
import {Base} from "./utils/Base.sol";
import {Vm} from "forge-std/Vm.sol";

// chargeBatch
// ├── it charges every item that is past due, and returns how many
// ├── it emits Charged or ChargeFailed for each item that is past due, in order
// ├── when an item is not due, for whatever reason: it passes it over without an event
// ├── when an item fails
// │   ├── it leaves that subscription as it was
// │   ├── it says why: the same reasons as charge
// │   └── it charges the other items as if that one were not there
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
        vm.expectRevert(abi.encodeWithSelector(Dues.NotSelf.selector, caller));
        dues.chargeItem(id);
    }

    function test_aRevertingTokenHarmsNoOtherItem() public {
        _assertIsolated(new Doubles.RevertingToken());
    }

    function test_aTokenThatReturnsFalseHarmsNoOtherItem() public {
        _assertIsolated(new Doubles.FalseToken());
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
        DevUSD gone = new DevUSD();
        _fund(gone, payer);
        uint256 id = _subscribe(payer, _createPlanIn(gone));
        uint256 other = _subscribe(payer, _createPlan());
        vm.etch(address(gone), "");
        vm.warp(_month(1));
        assertEq(dues.chargeBatch(_ids(id, other)), 1);
        assertEq(dues.paidThrough(id), _month(1));
        assertEq(dues.paidThrough(other), _month(2));
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
        for (uint256 gas = 310_000; gas < 350_000; gas += 50) {
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
