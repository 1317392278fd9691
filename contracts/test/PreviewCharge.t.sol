// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {BlocklistToken, MuteToken} from "./doubles/Tokens.sol";
import {Base} from "./utils/Base.sol";

// previewCharge
// ├── it agrees with the charge that follows, but for refusals that only show when charged
// ├── given a change is scheduled: it looks at the new plan's price and the shorter grace
// ├── when the token does not answer, in whatever way: Token
// └── when there is too little gas for the token to answer: it reverts with InsufficientGas
contract PreviewChargeTest is Base {
    struct State {
        uint256 time;
        uint256 allowance;
        uint256 balance;
        uint8 cancelled;
        bool changes;
        uint96 price;
        uint32 grace;
    }

    function testFuzz_agreesWithTheChargeThatFollows(State memory state) public {
        uint256 id = _subscribe();
        IDues.PlanTerms memory terms = _terms();
        terms.price = uint96(bound(state.price, 1, 2 * PRICE));
        terms.grace = uint32(bound(state.grace, 1 hours, 5 days));
        uint32 planId = _createPlan(terms);
        if (state.changes) _scheduleChange(id, planId);
        uint256 cancelled = state.cancelled % 12;
        vm.startPrank(cancelled % 2 == 0 ? payer : merchant);
        if (cancelled < 2) dues.cancel(id);
        else if (cancelled < 4) dues.cancelNow(id);
        vm.stopPrank();
        vm.prank(payer);
        token.approve(address(dues), bound(state.allowance, 0, 2 * uint256(PRICE)));
        deal(address(token), payer, bound(state.balance, 0, 2 * uint256(PRICE)));
        vm.warp(bound(state.time, _month(1) - 2 days, _month(1) + GRACE + 3 days));

        IDues.Reason reason = dues.previewCharge(id);
        if (reason == IDues.Reason.None) {
            dues.chargeOne(id);
        } else {
            vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id, reason));
            dues.chargeOne(id);
        }
    }

    function test_ofAScheduledChangeLooksAtTheNewPlan() public {
        uint256 id = _subscribe();
        IDues.PlanTerms memory terms = _terms();
        (terms.price, terms.grace) = (2 * PRICE, 1 days);
        _scheduleChange(id, _createPlan(terms));
        _assertPreview(id, IDues.Reason.NotDue);
        vm.warp(_month(1));
        deal(address(token), payer, 2 * uint256(PRICE));
        vm.prank(payer);
        token.approve(address(dues), 2 * uint256(PRICE));
        _assertPreview(id, IDues.Reason.None);
        deal(address(token), payer, 2 * uint256(PRICE) - 1);
        _assertPreview(id, IDues.Reason.Balance);
        vm.prank(payer);
        token.approve(address(dues), 2 * uint256(PRICE) - 1);
        _assertPreview(id, IDues.Reason.Allowance);
        vm.warp(_month(1) + 1 days);
        _assertPreview(id, IDues.Reason.Lapsed);
        vm.warp(_month(1) + 1 days - 1);
        // The old price counts again.
        vm.prank(payer);
        dues.revokeChange(id);
        _assertPreview(id, IDues.Reason.None);
    }

    function test_namesEveryReason() public {
        uint256 id = _subscribe();
        _assertPreview(2, IDues.Reason.UnknownSubscription);
        _assertPreview(id, IDues.Reason.NotDue);
        vm.warp(_month(1));
        _assertPreview(id, IDues.Reason.None);
        vm.prank(payer);
        token.approve(address(dues), PRICE);
        deal(address(token), payer, PRICE);
        _assertPreview(id, IDues.Reason.None);
        deal(address(token), payer, PRICE - 1);
        _assertPreview(id, IDues.Reason.Balance);
        vm.prank(payer);
        token.approve(address(dues), PRICE - 1);
        _assertPreview(id, IDues.Reason.Allowance);
        vm.etch(address(token), "");
        _assertPreview(id, IDues.Reason.Token);
        vm.warp(_month(1) + GRACE);
        _assertPreview(id, IDues.Reason.Lapsed);
        vm.prank(payer);
        dues.cancel(id);
        _assertPreview(id, IDues.Reason.Cancelled);
    }

    function testFuzz_survivesATokenThatDoesNotAnswer(uint8 first, uint8 second) public {
        MuteToken mute = new MuteToken();
        _fund(mute, payer);
        uint256 id = _subscribe(payer, _createPlanIn(mute));
        vm.warp(_month(1));
        MuteToken.Silence allowance = MuteToken.Silence(first % 4);
        MuteToken.Silence balance = MuteToken.Silence(second % 4);
        mute.setSilence(allowance, balance);
        bool answers = allowance == MuteToken.Silence.None && balance == MuteToken.Silence.None;
        _assertPreview(id, answers ? IDues.Reason.None : IDues.Reason.Token);
    }

    function test_doesNotSeeABlocklist() public {
        BlocklistToken usdc = new BlocklistToken();
        _fund(usdc, payer);
        uint256 id = _subscribe(payer, _createPlanIn(usdc));
        usdc.setBlocked(payer, true);
        vm.warp(_month(1));
        _assertPreview(id, IDues.Reason.None);
    }

    function test_revertsRatherThanBlameTheTokenForALackOfGas() public {
        MuteToken mute = new MuteToken();
        _fund(mute, payer);
        uint256 id = _subscribe(payer, _createPlanIn(mute));
        vm.warp(_month(1));
        mute.setSilence(MuteToken.Silence.Revert, MuteToken.Silence.None);
        vm.expectPartialRevert(IDues.InsufficientGas.selector);
        dues.previewCharge{gas: 90_000}(id);
    }
}
