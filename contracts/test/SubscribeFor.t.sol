// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {FickleWallet, OddWallet, OwnedWallet} from "./doubles/Wallets.sol";
import {Signing} from "./utils/Signing.sol";

// subscribeFor
// ├── when the plan does not exist: it reverts with UnknownPlan
// ├── when the deadline is over: it reverts with Expired
// ├── when the nonce is used or invalidated: it reverts with NonceSpent, also after a cancel
// ├── when the signature is not the payer's
// │   ├── given another signer, payer, field, plan, chain, contract or type: it reverts with InvalidSignature
// │   └── given the signature is spelled otherwise: it reverts with InvalidSignature
// ├── when the plan is retired: it reverts with RetiredPlan
// ├── when the charge fails: it reverts with ChargeRefused, and the signature stays good
// └── when all is well
//     ├── it does what subscribe does, or with a count subscribePrepaid, for the payer, whoever sends it
//     ├── it emits NoncesSpent, and without renewal CancelScheduled
//     └── the payer needs no ETH
contract SubscribeForTest is Signing {
    uint32 private planId;

    function setUp() public override {
        super.setUp();
        planId = _createPlan();
    }

    // WHAT IT DOES

    function testFuzz_subscribesThePayerWhoeverSendsIt(address relayer, bytes32 ref, uint256 nonce, uint256 deadline)
        public
    {
        IDues.SubscribeIntent memory intent = _intent();
        (intent.ref, intent.nonce, intent.deadline) = (ref, nonce, bound(deadline, START, type(uint256).max));
        bytes memory signature = _sign(intent);
        uint256 before = token.balanceOf(signer);
        assertEq(signer.balance, 0);
        vm.recordLogs();
        vm.expectEmit(address(dues));
        emit IDues.NoncesSpent(signer, nonce / 256, _bit(nonce));
        vm.expectEmit(address(dues));
        emit IDues.Subscribed(1, planId, signer, ref, uint40(START), uint64(START));
        vm.expectEmit(address(dues));
        emit IDues.Charged(1, planId, signer, 1, uint64(_month(1)), PRICE);
        vm.prank(relayer);
        assertEq(dues.subscribeFor(intent, signature), 1);
        assertEq(_countLogs(), 3);
        _assertSame(dues.subscription(1), IDues.Subscription(signer, planId, uint40(START), 1, 0));
        assertEq(before - token.balanceOf(signer), PRICE);
        assertEq(token.balanceOf(payee), PRICE);
        assertEq(dues.spentNonces(signer, nonce / 256), _bit(nonce));
    }

    function test_takesTheTrialOfThePayer() public {
        planId = _createTrialPlan(7 days);
        IDues.SubscribeIntent memory intent = _intent();
        vm.expectEmit(address(dues));
        emit IDues.Subscribed(1, planId, signer, REF, uint40(START + 7 days), uint64(START + 7 days));
        vm.prank(payer);
        dues.subscribeFor(intent, _sign(intent));
        _assertStatus(1, IDues.Status.Trialing);
        assertTrue(dues.hasUsedTrial(merchant, signer));
        assertFalse(dues.hasUsedTrial(merchant, payer));

        // One trial per payer, also by signature.
        intent.nonce = 1;
        dues.subscribeFor(intent, _sign(intent));
        _assertStatus(2, IDues.Status.Active);
    }

    function testFuzz_prepaysWithACount(uint16 count, bool renews, uint32 trial) public {
        planId = _createTrialPlan(uint32(bound(trial, 0, 366 days)));
        IDues.SubscribeIntent memory intent = _intent();
        (intent.count, intent.renews) = (uint16(bound(count, 1, 1000)), renews);
        uint256 end = _month(intent.count);
        uint256 amount = uint256(PRICE) * intent.count;
        vm.recordLogs();
        vm.expectEmit(address(dues));
        emit IDues.Charged(1, planId, signer, intent.count, uint64(end), uint128(amount));
        if (!renews) {
            vm.expectEmit(address(dues));
            emit IDues.CancelScheduled(1, planId, signer, false);
        }
        dues.subscribeFor(intent, _sign(intent));
        assertEq(_countLogs(), renews ? 3 : 4);
        _assertSame(
            dues.subscription(1), IDues.Subscription(signer, planId, uint40(START), intent.count, renews ? 0 : 1)
        );
        assertEq(token.balanceOf(payee), amount);
        assertFalse(dues.hasUsedTrial(merchant, signer));
    }

    function test_aTrialThatDoesNotRenewIsCancelledFromTheStart() public {
        planId = _createTrialPlan(7 days);
        IDues.SubscribeIntent memory intent = _intent();
        intent.renews = false;
        vm.expectEmit(address(dues));
        emit IDues.Subscribed(1, planId, signer, REF, uint40(START + 7 days), uint64(START + 7 days));
        vm.expectEmit(address(dues));
        emit IDues.CancelScheduled(1, planId, signer, false);
        dues.subscribeFor(intent, _sign(intent));
        _assertStatus(1, IDues.Status.Trialing);
        vm.warp(START + 7 days);
        _assertStatus(1, IDues.Status.Cancelled);
    }

    function test_noncesAreGoodInAnyOrder() public {
        IDues.SubscribeIntent memory intent = _intent();
        uint256[5] memory nonces = [uint256(257), 255, 0, type(uint256).max, 256];
        for (uint256 i = 0; i < 5; ++i) {
            intent.nonce = nonces[i];
            dues.subscribeFor(intent, _sign(intent));
        }
        assertEq(dues.spentNonces(signer, 0), 1 | 1 << 255);
        assertEq(dues.spentNonces(signer, 1), 3);
        assertEq(dues.spentNonces(signer, type(uint256).max / 256), 1 << 255);
    }

    // REFUSALS, IN THEIR ORDER

    function testFuzz_revertsWhenThePlanDoesNotExist(uint32 unknown) public {
        vm.assume(unknown != planId);
        IDues.SubscribeIntent memory intent = _intent();
        bytes memory signature = _sign(intent);
        (intent.planId, intent.deadline) = (unknown, 0);
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.UnknownPlan.selector, unknown));
    }

    function testFuzz_revertsWhenTheDeadlineIsOver(uint256 deadline) public {
        IDues.SubscribeIntent memory intent = _intent();
        intent.deadline = bound(deadline, START, type(uint40).max);
        bytes memory signature = _sign(intent);
        vm.warp(intent.deadline + 1);
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.Expired.selector, intent.deadline));
        vm.warp(intent.deadline);
        dues.subscribeFor(intent, signature);
    }

    function testFuzz_revertsWhenTheNonceIsUsed(uint256 nonce) public {
        IDues.SubscribeIntent memory intent = _intent();
        intent.nonce = nonce;
        bytes memory signature = _sign(intent);
        dues.subscribeFor(intent, signature);
        _assertRefused(intent, signature, _spent(nonce));
        // Before anybody asks who signed it.
        _assertRefused(intent, "", _spent(nonce));
        intent.nonce = nonce ^ 1;
        _assertRefused(intent, signature, _invalid(signer));
        intent.deadline = START - 1;
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.Expired.selector, START - 1));
    }

    function test_isNoConsentToSubscribeAgainAfterACancel() public {
        IDues.SubscribeIntent memory intent = _intent();
        intent.deadline = type(uint256).max;
        bytes memory signature = _sign(intent);
        dues.subscribeFor(intent, signature);
        vm.prank(signer);
        dues.cancelNow(1);
        _assertRefused(intent, signature, _spent(0));
        vm.warp(_month(2));
        _assertRefused(intent, signature, _spent(0));
    }

    function testFuzz_revertsWhenTheNonceIsInvalidated(uint256 nonce) public {
        IDues.SubscribeIntent memory intent = _intent();
        intent.nonce = nonce;
        bytes memory signature = _sign(intent);
        vm.prank(signer);
        dues.invalidateNonces(nonce / 256, _bit(nonce));
        _assertRefused(intent, signature, _spent(nonce));
    }

    function test_revertsWhenThePlanIsRetired() public {
        IDues.SubscribeIntent memory intent = _intent();
        bytes memory signature = _sign(intent);
        vm.prank(merchant);
        dues.retirePlan(planId);
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.RetiredPlan.selector, planId));
        intent.count = 1;
        _assertRefused(intent, signature, _invalid(signer));
    }

    function test_aChargeThatFailsLeavesTheSignatureGood() public {
        IDues.SubscribeIntent memory intent = _intent();
        bytes memory signature = _sign(intent);
        vm.prank(signer);
        token.approve(address(dues), PRICE - 1);
        bytes memory reason = abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Allowance);
        _assertRefused(intent, signature, reason);
        vm.prank(signer);
        token.approve(address(dues), PRICE);
        dues.subscribeFor(intent, signature);
    }

    // WHAT IS SIGNED

    function testFuzz_revertsWhenAnythingElseWasSigned(uint256 which, uint256 change) public {
        IDues.SubscribeIntent memory intent = _intent();
        bytes memory signature = _sign(intent);
        which = bound(which, 0, 6);
        if (which == 0) intent.payer = payer;
        else if (which == 1) intent.planId = _createPlan();
        else if (which == 2) intent.ref = bytes32(_other(uint256(REF), change, type(uint256).max));
        else if (which == 3) intent.count = uint16(_other(0, change, type(uint16).max));
        else if (which == 4) intent.renews = false;
        else if (which == 5) intent.nonce = _other(0, change, type(uint256).max);
        else intent.deadline = bound(change, START + 1, type(uint256).max);
        _assertRefused(intent, signature, _invalid(intent.payer));
    }

    function testFuzz_revertsWhenSomebodyElseSigned(uint256 other) public {
        other = bound(other, 1, 1e30);
        IDues.SubscribeIntent memory intent = _intent();
        _assertRefused(intent, _sign(other, _digest(_hash(intent))), _invalid(signer));
    }

    /// @dev Nobody has the zero account's key: recovering from nonsense must not give it.
    function testFuzz_revertsForTheZeroAccount(bytes calldata signature) public {
        IDues.SubscribeIntent memory intent = _intent();
        intent.payer = address(0);
        _assertRefused(intent, signature, _invalid(address(0)));
        _assertRefused(intent, abi.encodePacked(uint256(0), uint256(0), uint8(27)), _invalid(address(0)));
    }

    function testFuzz_revertsOnAnotherChainOrAfterAFork(uint64 chainId) public {
        vm.assume(chainId != 0 && chainId != block.chainid);
        IDues.SubscribeIntent memory intent = _intent();
        bytes memory signature = _sign(intent);
        bytes memory elsewhere = _sign(key, _digest(_hash(intent), chainId, address(dues)));
        _assertRefused(intent, elsewhere, _invalid(signer));
        // The same contract with the same storage, where the id of the chain has changed.
        vm.chainId(chainId);
        _assertRefused(intent, signature, _invalid(signer));
        dues.subscribeFor(intent, elsewhere);
    }

    function test_revertsForAnotherContract() public {
        IDues.SubscribeIntent memory intent = _intent();
        IDues other = IDues(deployCode("contracts/src/Dues.sol:Dues"));
        bytes memory signature = _sign(key, _digest(_hash(intent), block.chainid, address(other)));
        _assertRefused(intent, signature, _invalid(signer));
    }

    function test_revertsWhenTheSignatureIsSpelledOtherwise() public {
        IDues.SubscribeIntent memory intent = _intent();
        bytes memory signature = _sign(intent);
        bytes[] memory others = _malleated(signature);
        for (uint256 i = 0; i < others.length; ++i) {
            _assertRefused(intent, others[i], _invalid(signer));
        }
        dues.subscribeFor(intent, signature);
        for (uint256 i = 0; i < others.length; ++i) {
            _assertRefused(intent, others[i], _spent(0));
        }
    }

    function test_revertsWhenAnotherTypeWasSigned() public {
        IDues.SubscribeIntent memory intent = _intent();
        IDues.ChangeIntent memory change = IDues.ChangeIntent(1, planId, 0, 0, 0, START);
        _assertRefused(intent, _sign(change), _invalid(signer));
        _assertRefused(intent, _sign(IDues.CancelIntent(1, true, 0, START)), _invalid(signer));
    }

    /// @dev After a reorganisation, the id is another plan's: of any merchant, at any price.
    function testFuzz_revertsWhenAnotherPlanCameUnderTheSameId(uint256 which) public {
        uint256 fork = vm.snapshotState();
        uint32 wanted = _createPlan();
        IDues.SubscribeIntent memory intent = _intent();
        intent.planId = wanted;
        bytes memory signature = _sign(intent);
        vm.revertToState(fork);

        IDues.PlanTerms memory terms = _terms();
        which = bound(which, 0, 7);
        if (which == 0) terms.price += 1;
        else if (which == 1) terms.token = address(new FickleWallet());
        else if (which == 2) (terms.unit, terms.count) = (IDues.IntervalUnit.Day, 30);
        else if (which == 3) terms.count = 2;
        else if (which == 4) terms.trial = 1;
        else if (which == 5) terms.grace += 1;
        else if (which == 6) terms.usageCap = 1;
        vm.prank(which == 7 ? keeper : merchant);
        assertEq(dues.createPlan(terms), wanted);
        _assertRefused(intent, signature, _invalid(signer));

        // Its own plan again: good.
        vm.revertToState(fork);
        _createPlan();
        dues.subscribeFor(intent, signature);
    }

    /// @dev An allowance is no consent: nothing that somebody else does alone debits an account that has one.
    function testFuzz_nobodySubscribesAnAccountThatDidNotAsk(address caller, bytes calldata signature) public {
        vm.assume(caller != payer && caller != signer);
        IDues.SubscribeIntent memory intent = _intent();
        intent.payer = payer;
        bytes memory another = _sign(intent);
        vm.startPrank(caller);
        vm.expectRevert(_invalid(payer));
        dues.subscribeFor(intent, signature);
        vm.expectRevert(_invalid(payer));
        dues.subscribeFor(intent, another);
        dues.permit(planId, payer, PRICE, START, 27, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Allowance));
        dues.subscribe(planId, REF);
        vm.stopPrank();
        assertEq(token.balanceOf(payer), 1000 * uint256(PRICE));
    }

    // ACCOUNTS WITH CODE

    function test_aWalletSubscribesByItsOwnersSignature() public {
        OwnedWallet wallet = _owned();
        IDues.SubscribeIntent memory intent = _intent();
        intent.payer = address(wallet);
        bytes memory signature = _sign(intent);
        vm.prank(keeper);
        dues.subscribeFor(intent, signature);
        assertEq(dues.subscription(1).payer, address(wallet));
        assertEq(token.balanceOf(address(wallet)), 999 * uint256(PRICE));
        _assertRefused(intent, signature, abi.encodeWithSelector(IDues.NonceSpent.selector, wallet, 0));
    }

    function test_whatOneWalletSignedIsNotWhatItsSiblingOrItsOwnerSigned() public {
        (OwnedWallet wallet, OwnedWallet sibling) = (_owned(), _owned());
        IDues.SubscribeIntent memory intent = _intent();
        intent.payer = address(wallet);
        bytes memory signature = _sign(intent);
        intent.payer = address(sibling);
        _assertRefused(intent, signature, _invalid(address(sibling)));
        intent.payer = signer;
        _assertRefused(intent, signature, _invalid(signer));
        intent.payer = address(wallet);
        dues.subscribeFor(intent, signature);
        intent.payer = address(sibling);
        _assertRefused(intent, signature, _invalid(address(sibling)));
    }

    function test_asksTheWalletWhenTheSignatureIsUsed() public {
        FickleWallet wallet = new FickleWallet();
        _fund(token, address(wallet));
        IDues.SubscribeIntent memory intent = _intent();
        intent.payer = address(wallet);
        _assertRefused(intent, "", _invalid(address(wallet)));
        wallet.setAccepts(true);
        dues.subscribeFor(intent, "");
        // Once, although the wallet would say yes for ever.
        _assertRefused(intent, "", abi.encodeWithSelector(IDues.NonceSpent.selector, wallet, 0));
        assertEq(dues.subscriptionCount(), 1);
    }

    function test_anAnswerIsYesOrNo() public {
        OddWallet wallet = new OddWallet();
        _fund(token, address(wallet));
        IDues.SubscribeIntent memory intent = _intent();
        intent.payer = address(wallet);
        for (uint256 i = uint256(type(OddWallet.Answer).max); i > 0; --i) {
            wallet.set(OddWallet.Answer(i));
            _assertRefused(intent, "", _invalid(address(wallet)));
        }
        wallet.set(OddWallet.Answer.Long);
        dues.subscribeFor(intent, "");
    }

    // ACCOUNTS THAT DELEGATE (EIP-7702)

    function test_theKeysSignatureIsGoodWithAndWithoutCode() public {
        address refusing = address(new FickleWallet());
        IDues.SubscribeIntent memory intent = _intent();
        bytes memory signature = _sign(intent);
        // Signed without code, sent with it.
        uint256 snapshot = vm.snapshotState();
        vm.signAndAttachDelegation(refusing, key);
        dues.subscribeFor(intent, signature);
        assertEq(signer.code, abi.encodePacked(hex"ef0100", refusing));
        assertEq(dues.subscription(1).payer, signer);
        vm.revertToState(snapshot);

        // Signed with code, sent without it.
        vm.etch(signer, abi.encodePacked(hex"ef0100", refusing));
        signature = _sign(intent);
        vm.etch(signer, "");
        dues.subscribeFor(intent, signature);
        vm.etch(signer, abi.encodePacked(hex"ef0100", refusing));
        _assertRefused(intent, signature, _spent(0));
    }

    function test_whatTheDelegateAcceptsIsGoodWhileItIsTheDelegate() public {
        (address friend, uint256 friendsKey) = makeAddrAndKey("friend");
        address delegate = address(new OwnedWallet(friend));
        IDues.SubscribeIntent memory intent = _intent();
        bytes memory signature = _sign(friendsKey, _digest(_hash(intent)));
        _assertRefused(intent, signature, _invalid(signer));
        vm.etch(signer, abi.encodePacked(hex"ef0100", delegate));
        dues.subscribeFor(intent, signature);
        assertEq(token.balanceOf(signer), 999 * uint256(PRICE));
        intent.nonce = 1;
        signature = _sign(friendsKey, _digest(_hash(intent)));
        vm.etch(signer, "");
        _assertRefused(intent, signature, _invalid(signer));
    }

    /// @dev A signature of one month by `signer`, good in this second.
    function _intent() private view returns (IDues.SubscribeIntent memory) {
        return IDues.SubscribeIntent({
            payer: signer, planId: planId, ref: REF, count: 0, renews: true, nonce: 0, deadline: START
        });
    }

    function _owned() private returns (OwnedWallet wallet) {
        wallet = new OwnedWallet(signer);
        _fund(token, address(wallet));
    }

    function _spent(uint256 nonce) private view returns (bytes memory) {
        return abi.encodeWithSelector(IDues.NonceSpent.selector, signer, nonce);
    }

    /// @dev Any value up to `max` but this one.
    function _other(uint256 value, uint256 seed, uint256 max) private pure returns (uint256 other) {
        other = bound(seed, 0, max);
        if (other == value) other = value == 0 ? 1 : value - 1;
    }

    function _assertRefused(IDues.SubscribeIntent memory intent, bytes memory signature, bytes memory reason) private {
        uint256 count = dues.subscriptionCount();
        uint256 spent = dues.spentNonces(intent.payer, intent.nonce / 256);
        uint256 balance = token.balanceOf(intent.payer);
        bytes memory data = abi.encodeCall(IDues.subscribeFor, (intent, signature));
        vm.prank(keeper);
        (bool ok, bytes memory returned) = address(dues).call{gas: 5_000_000}(data);
        assertFalse(ok, "not refused");
        assertEq(returned, reason, "reason");
        assertEq(dues.subscriptionCount(), count, "subscriptions");
        assertEq(dues.spentNonces(intent.payer, intent.nonce / 256), spent, "nonces");
        assertEq(token.balanceOf(intent.payer), balance, "balance");
    }
}
