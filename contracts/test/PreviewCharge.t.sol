// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {BlocklistToken, MuteToken} from "./doubles/Tokens.sol";
import {Base} from "./utils/Base.sol";

// previewCharge
// ├── it agrees with what chargeBatch reports next, but for refusals that only show when charged
// ├── when the token does not answer, in whatever way: Token
// └── when there is too little gas for the token to answer: it reverts with InsufficientGas
contract PreviewChargeTest is Base {
    function testFuzz_agreesWithTheChargeThatFollows(uint256 time, uint256 allowance, uint256 balance, uint8 cancelled)
        public
    {
        uint256 id = _subscribe();
        vm.startPrank(payer);
        if (cancelled % 3 == 1) dues.cancel(id);
        if (cancelled % 3 == 2) dues.cancelNow(id);
        token.approve(address(dues), bound(allowance, 0, 2 * uint256(PRICE)));
        vm.stopPrank();
        deal(address(token), payer, bound(balance, 0, 2 * uint256(PRICE)));
        vm.warp(bound(time, _month(1) - 2 days, _month(1) + GRACE + 2 days));

        IDues.Reason reason = dues.previewCharge(id);
        if (reason == IDues.Reason.None) {
            dues.charge(id);
        } else {
            vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id, reason));
            dues.charge(id);
        }
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
