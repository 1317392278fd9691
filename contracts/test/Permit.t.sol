// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {TestUSD} from "./doubles/TestUSD.sol";
import {BombPermitToken, BurningPermitToken, PhantomPermitToken} from "./doubles/Tokens.sol";
import {Signing} from "./utils/Signing.sol";

// permit
// ├── when the permit is good: the owner allows this contract the value, whoever sends it
// ├── when it fails (used already, expired, forged, unknown plan): nothing happens, and nothing reverts
// ├── when it burns gas or returns a mountain: it costs at most its cap
// ├── when it seems to succeed but does nothing: nobody is authorised to anything
// └── in a multicall
//     ├── a payer without ETH subscribes, and tops up an allowance that ran out
//     └── given somebody used the permit before: the rest goes on
contract PermitTest is Signing {
    function setUp() public override {
        super.setUp();
        vm.prank(signer);
        token.approve(address(dues), 0);
    }

    function testFuzz_letsTheOwnerAllowWhoeverSendsIt(address caller, uint256 value, uint256 deadline) public {
        uint32 planId = _createPlan();
        Permit memory permit = _permit(token, value, bound(deadline, START, type(uint256).max));
        vm.expectCall(
            address(token),
            abi.encodeCall(token.permit, (signer, address(dues), value, permit.deadline, permit.v, permit.r, permit.s)),
            1
        );
        vm.recordLogs();
        vm.prank(caller);
        dues.permit(planId, signer, value, permit.deadline, permit.v, permit.r, permit.s);
        assertEq(_countLogs(), 0);
        assertEq(token.allowance(signer, address(dues)), value);
        assertEq(token.nonces(signer), 1);
        assertEq(token.balanceOf(signer), 1000 * uint256(PRICE));
    }

    function test_isTriedOnTheTokenOfThePlan() public {
        TestUSD other = new TestUSD();
        _createPlan();
        uint32 planId = _createPlanIn(other);
        Permit memory permit = _permit(other, PRICE, START);
        dues.permit(planId, signer, permit.value, permit.deadline, permit.v, permit.r, permit.s);
        assertEq(other.allowance(signer, address(dues)), PRICE);
        assertEq(token.allowance(signer, address(dues)), 0);
    }

    function test_isTriedAlsoForARetiredPlan() public {
        uint32 planId = _createPlan();
        vm.prank(merchant);
        dues.retirePlan(planId);
        Permit memory permit = _permit(token, PRICE, START);
        dues.permit(planId, signer, permit.value, permit.deadline, permit.v, permit.r, permit.s);
        assertEq(token.allowance(signer, address(dues)), PRICE);
    }

    function testFuzz_ignoresWhatFails(uint32 planId, Permit memory permit) public {
        _createPlan();
        dues.permit(planId, payer, permit.value, permit.deadline, permit.v, permit.r, permit.s);
        assertEq(token.allowance(payer, address(dues)), 1000 * uint256(PRICE));
        permit = _permit(token, PRICE, START - 1);
        dues.permit(1, signer, permit.value, permit.deadline, permit.v, permit.r, permit.s);
        assertEq(token.allowance(signer, address(dues)), 0);
    }

    function test_costsAtMostItsCap() public {
        _assertBounded(new BurningPermitToken());
        _assertBounded(new BombPermitToken());
    }

    function _assertBounded(TestUSD bad) private {
        uint32 planId = _createPlanIn(bad);
        uint256 before = gasleft();
        dues.permit{gas: 1_000_000}(planId, signer, PRICE, START, 27, 0, 0);
        assertLt(before - gasleft(), 300_000 + 15_000);
    }

    // IN A MULTICALL

    function testFuzz_aPayerWithoutEthSubscribes(address relayer, uint256 value) public {
        IDues.SubscribeIntent memory intent = _intent(_createPlan());
        Permit memory permit = _permit(token, bound(value, PRICE, type(uint256).max - 1), START);
        assertEq(signer.balance, 0);
        bytes[] memory calls = _calls(permit, intent);
        vm.prank(relayer);
        dues.multicall(calls);
        assertEq(dues.subscription(1).payer, signer);
        assertEq(token.balanceOf(signer), 999 * uint256(PRICE));
        assertEq(token.allowance(signer, address(dues)), permit.value - PRICE);
    }

    function testFuzz_aPermitThatSomebodyUsedBeforeDoesNotBlock(address thief) public {
        vm.assume(thief != address(0));
        IDues.SubscribeIntent memory intent = _intent(_createPlan());
        Permit memory permit = _permit(token, PRICE, START);
        bytes[] memory calls = _calls(permit, intent);
        vm.prank(thief);
        token.permit(signer, address(dues), permit.value, permit.deadline, permit.v, permit.r, permit.s);
        dues.multicall(calls);
        assertEq(token.balanceOf(payee), PRICE);
        assertEq(token.allowance(signer, address(dues)), 0);
    }

    function test_anAllowanceThatRanOutIsToppedUpWithTheCharge() public {
        IDues.SubscribeIntent memory intent = _intent(_createPlan());
        dues.multicall(_calls(_permit(token, PRICE, START), intent));
        vm.warp(_month(1));
        _assertPreview(1, IDues.Reason.Allowance);
        bytes[] memory calls = new bytes[](2);
        calls[0] = _encode(_permit(token, 12 * uint256(PRICE), _month(1)), 1);
        calls[1] = abi.encodeCall(IDues.chargeOne, (1));
        vm.prank(keeper);
        dues.multicall(calls);
        assertEq(token.allowance(signer, address(dues)), 11 * uint256(PRICE));
        assertEq(dues.paidThrough(1), _month(2));
    }

    // A PERMIT IS NO AUTHORITY

    function testFuzz_aPhantomPermitAuthorisesNothing(Permit memory permit, address caller) public {
        vm.assume(caller != signer && caller != payer);
        PhantomPermitToken phantom = new PhantomPermitToken();
        phantom.mint(signer, PRICE);
        phantom.mint(payer, PRICE);
        vm.prank(payer);
        phantom.approve(address(dues), PRICE);
        IDues.SubscribeIntent memory intent = _intent(_createPlanIn(TestUSD(address(phantom))));

        // Without an allowance, what is signed is not paid.
        bytes[] memory calls = _calls(permit, intent);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Allowance));
        vm.prank(caller);
        dues.multicall(calls);
        // With one, what is not signed is not paid either.
        intent.payer = payer;
        calls = _calls(permit, intent);
        vm.expectRevert(_invalid(payer));
        vm.prank(caller);
        dues.multicall(calls);
        calls[1] = abi.encodeCall(IDues.subscribe, (1, REF));
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Allowance));
        vm.prank(caller);
        dues.multicall(calls);
        assertEq(phantom.balanceOf(payer), PRICE);
    }

    /// @dev A payer's permit, in the hands of somebody else, pays for nobody else's subscription.
    function testFuzz_aPermitPaysNothingThatItsOwnerDidNotAskFor(address thief) public {
        vm.assume(thief != signer && thief != payer && thief != address(0));
        uint32 planId = _createPlan();
        Permit memory permit = _permit(token, PRICE, START);
        bytes[] memory calls = new bytes[](2);
        calls[0] = _encode(permit, planId);
        calls[1] = abi.encodeCall(IDues.subscribe, (planId, REF));
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Allowance));
        vm.prank(thief);
        dues.multicall(calls);
        assertEq(token.balanceOf(signer), 1000 * uint256(PRICE));
    }

    function _intent(uint32 planId) private view returns (IDues.SubscribeIntent memory) {
        return IDues.SubscribeIntent(signer, planId, REF, 0, true, 0, START);
    }

    function _calls(Permit memory permit, IDues.SubscribeIntent memory intent)
        private
        view
        returns (bytes[] memory calls)
    {
        calls = new bytes[](2);
        calls[0] = _encode(permit, intent.planId);
        calls[1] = abi.encodeCall(IDues.subscribeFor, (intent, _sign(intent)));
    }

    function _encode(Permit memory p, uint32 planId) private view returns (bytes memory) {
        return abi.encodeCall(IDues.permit, (planId, signer, p.value, p.deadline, p.v, p.r, p.s));
    }
}
