// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {TestUSD} from "./doubles/TestUSD.sol";
import {BombPermitToken, BurningPermitToken, PhantomPermitToken} from "./doubles/Tokens.sol";
import {Base} from "./utils/Base.sol";

// subscribeWithPermit
// ├── when the permit is good: it sets the allowance, then subscribes
// ├── when the permit fails (used already, expired, forged, unknown to the token)
// │   ├── given enough allowance: it subscribes
// │   └── given too little: it reverts with ChargeRefused
// ├── when the permit burns gas or returns a mountain: it costs at most its cap
// ├── when the permit seems to succeed but does nothing: the allowance decides
// └── for an unknown or retired plan: it reverts as subscribe does
contract SubscribeWithPermitTest is Base {
    struct Permit {
        uint256 value;
        uint256 deadline;
        uint8 v;
        bytes32 r;
        bytes32 s;
    }

    address private signer;
    uint256 private key;

    function setUp() public override {
        super.setUp();
        (signer, key) = makeAddrAndKey("signer");
        token.mint(signer, 1000 * uint256(PRICE));
    }

    function testFuzz_subscribesWithAnAllowanceByPermit(uint256 value) public {
        value = bound(value, PRICE, type(uint256).max - 1);
        uint32 planId = _createPlan();
        Permit memory permit = _sign(value, START);
        vm.expectEmit(address(dues));
        emit IDues.Subscribed(1, planId, signer, REF, uint40(START), uint64(START));
        vm.expectEmit(address(dues));
        emit IDues.Charged(1, planId, signer, 1, uint64(_month(1)), PRICE);
        uint256 id = _call(signer, planId, permit);
        assertEq(token.allowance(signer, address(dues)), value - PRICE);
        assertEq(token.balanceOf(payee), PRICE);
        _assertStatus(id, IDues.Status.Active);
    }

    function test_anAllowanceWithoutLimitStaysOne() public {
        _call(signer, _createPlan(), _sign(type(uint256).max, START));
        assertEq(token.allowance(signer, address(dues)), type(uint256).max);
    }

    function test_aPermitAddsNothingToAnAllowanceThatIsThere() public {
        // The same allowance by approval and by permit: what is granted is replaced, not summed up.
        vm.prank(signer);
        token.approve(address(dues), 5 * uint256(PRICE));
        _call(signer, _createPlan(), _sign(2 * uint256(PRICE), START));
        assertEq(token.allowance(signer, address(dues)), PRICE);
    }

    function test_aPermitThatBurnsItsGasCostsAtMostItsCap() public {
        _assertBounded(new BurningPermitToken());
    }

    function test_aPermitThatReturnsAMountainCostsAtMostItsCap() public {
        _assertBounded(new BombPermitToken());
    }

    /// @dev 300,000 for the permit, and what a subscription costs with an allowance that is there.
    function _assertBounded(TestUSD bad) private {
        _fund(bad, payer);
        uint32 planId = _createPlanIn(bad);
        vm.prank(payer);
        uint256 before = gasleft();
        dues.subscribeWithPermit{gas: 1_000_000}(planId, REF, PRICE, START, 27, 0, 0);
        assertLt(before - gasleft(), 300_000 + 160_000);
        assertEq(bad.balanceOf(payee), PRICE);
    }

    function test_aTrialSetsTheAllowanceForLater() public {
        uint32 planId = _createTrialPlan(7 days);
        uint256 id = _call(signer, planId, _sign(PRICE, START));
        vm.warp(START + 7 days);
        dues.chargeOne(id);
        assertEq(token.balanceOf(payee), PRICE);
    }

    function testFuzz_aPermitThatSomebodyUsedBeforeDoesNotBlock(address thief) public {
        vm.assume(thief != address(0));
        uint32 planId = _createPlan();
        Permit memory permit = _sign(PRICE, START);
        vm.prank(thief);
        token.permit(signer, address(dues), permit.value, permit.deadline, permit.v, permit.r, permit.s);
        _call(signer, planId, permit);
        assertEq(token.balanceOf(payee), PRICE);
    }

    function testFuzz_aPermitSignedByAnotherAuthorisesNobody(address caller) public {
        vm.assume(caller != signer && caller != payer && caller != address(0));
        uint32 planId = _createPlan();
        Permit memory permit = _sign(PRICE, START);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Allowance));
        _call(caller, planId, permit);
        assertEq(token.allowance(signer, address(dues)), 0);
    }

    function testFuzz_aBadPermitIsIgnoredWhenTheAllowanceSuffices(Permit memory permit) public {
        uint32 planId = _createPlan();
        _call(payer, planId, permit);
        assertEq(token.balanceOf(payee), PRICE);
    }

    function test_revertsWhenThePermitIsExpiredAndThereIsNoAllowance() public {
        uint32 planId = _createPlan();
        Permit memory permit = _sign(PRICE, START - 1);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Allowance));
        _call(signer, planId, permit);
    }

    function test_revertsWhenThePermitIsForLessThanThePrice() public {
        uint32 planId = _createPlan();
        Permit memory permit = _sign(PRICE - 1, START);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Allowance));
        _call(signer, planId, permit);
    }

    function testFuzz_aPhantomPermitAuthorisesNothing(Permit memory permit) public {
        PhantomPermitToken phantom = new PhantomPermitToken();
        phantom.mint(payer, PRICE);
        uint32 planId = _createPlanIn(TestUSD(address(phantom)));
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Allowance));
        _call(payer, planId, permit);

        vm.prank(payer);
        phantom.approve(address(dues), PRICE);
        _call(payer, planId, permit);
        assertEq(phantom.balanceOf(payee), PRICE);
    }

    function testFuzz_revertsWhenThePlanDoesNotExist(uint32 planId, Permit memory permit) public {
        vm.assume(planId != 1);
        _createPlan();
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownPlan.selector, planId));
        _call(payer, planId, permit);
    }

    function test_revertsWhenThePlanIsRetired() public {
        uint32 planId = _createPlan();
        vm.prank(merchant);
        dues.retirePlan(planId);
        Permit memory permit = _sign(PRICE, START);
        vm.expectRevert(abi.encodeWithSelector(IDues.RetiredPlan.selector, planId));
        _call(signer, planId, permit);
    }

    function _sign(uint256 value, uint256 deadline) private view returns (Permit memory permit) {
        bytes32 typeHash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 content = keccak256(abi.encode(typeHash, signer, dues, value, token.nonces(signer), deadline));
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(key, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), content)));
        return Permit(value, deadline, v, r, s);
    }

    function _call(address caller, uint32 planId, Permit memory p) private returns (uint256) {
        vm.prank(caller);
        return dues.subscribeWithPermit(planId, REF, p.value, p.deadline, p.v, p.r, p.s);
    }
}
