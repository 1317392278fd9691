// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {IPermit2} from "../src/interfaces/IPermit2.sol";
import {TestUSD} from "./doubles/TestUSD.sol";
import {BlocklistToken, BurningToken, DenyingToken, NoReturnToken} from "./doubles/Tokens.sol";
import {OddWallet, OwnedWallet} from "./doubles/Wallets.sol";
import {Permit2Code} from "./utils/Permit2Code.sol";
import {Signing} from "./utils/Signing.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @notice What the tests ask of Permit2, as its documentation has it.
interface Permit2 {
    struct Details {
        address token;
        uint160 amount;
        uint48 expiration;
        uint48 nonce;
    }

    struct Single {
        Details details;
        address spender;
        uint256 sigDeadline;
    }

    function permit(address owner, Single calldata single, bytes calldata signature) external;
    function approve(address token, address spender, uint160 amount, uint48 expiration) external;
    function allowance(address owner, address token, address spender) external view returns (uint160, uint48, uint48);
}

/// @notice Burns all its gas where it is not allowed to move the money, and a lot of it where it is.
contract HeavyToken is TestUSD {
    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        if (allowance(from, msg.sender) < value) {
            assembly ("memory-safe") {
                invalid()
            }
        }
        for (uint256 end = gasleft() - 200_000; gasleft() > end;) {}
        return super.transferFrom(from, to, value);
    }
}

/// @notice Needs more gas to move money than an item of a batch may use.
contract SlowToken is TestUSD {
    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        super.transferFrom(from, to, value);
        for (uint256 end = gasleft() - 400_000; gasleft() > end;) {}
        return true;
    }
}

/// @notice When broken, burns all the gas that it is given, but for what it needs to answer questions.
contract WorstToken is BurningToken {
    function allowance(address owner, address spender) public view override returns (uint256) {
        _burnNearlyAll();
        return super.allowance(owner, spender);
    }

    function balanceOf(address account) public view override returns (uint256) {
        _burnNearlyAll();
        return super.balanceOf(account);
    }

    function _burnNearlyAll() private view {
        if (!broken) return;
        while (gasleft() > 4000) {}
    }
}

/// @notice Moves money for everybody, but not for Permit2.
contract PickyToken is TestUSD {
    address private immutable REFUSED;

    constructor(address refused) {
        REFUSED = refused;
    }

    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        require(msg.sender != REFUSED, "not you");
        return super.transferFrom(from, to, value);
    }
}

// permit2
// ├── when the permit is good: Permit2 keeps the allowance for this contract, whoever sends it
// ├── when it fails (used already, expired, forged, unknown plan, no Permit2): nothing happens, and nothing reverts
// ├── when the owner is a contract that burns gas: it costs at most its cap
// └── in a multicall, a payer without ETH subscribes, also if somebody used the permit before
//
// any debit
// ├── given the direct allowance suffices: Permit2 is not asked
// ├── given it does not, and Permit2's does: it goes through Permit2, straight from payer to payee
// ├── given Permit2's is too small, over, or not backed by the token's: the reason is Allowance
// ├── given the balance is too small: the reason is Balance
// ├── given the token refuses Permit2: the reason is Token
// ├── given there is no Permit2 on the chain: the reason is Allowance
// ├── given too little gas to know: it reverts with InsufficientGas
// └── previewCharge says the same
contract Permit2Test is Signing {
    Permit2 private constant PERMIT2 = Permit2(0x000000000022D473030F116dDEE9F6B43aC78BA3);
    uint48 private constant FOR_EVER = type(uint48).max;

    uint32 private planId;

    function setUp() public override {
        super.setUp();
        vm.etch(address(PERMIT2), new Permit2Code().get());
        planId = _createPlan();
        vm.startPrank(signer);
        token.approve(address(dues), 0);
        token.approve(address(PERMIT2), type(uint256).max);
        vm.stopPrank();
    }

    // THE PERMIT

    function testFuzz_letsTheOwnerAllowWhoeverSendsIt(
        address caller,
        uint160 value,
        uint48 expiration,
        uint256 deadline
    ) public {
        expiration = uint48(bound(expiration, 1, type(uint48).max));
        deadline = bound(deadline, START, type(uint256).max);
        bytes memory signature = _signPermit2(key, value, expiration, 0, deadline);
        vm.recordLogs();
        vm.prank(caller);
        dues.permit2(planId, signer, value, expiration, 0, deadline, signature);
        assertEq(_countLogs(), 0);
        _assertAllowance(signer, value, expiration, 1);
        assertEq(token.balanceOf(signer), 1000 * uint256(PRICE));

        // The next one, with the next nonce.
        dues.permit2(planId, signer, 1, 2, 1, deadline, _signPermit2(key, 1, 2, 1, deadline));
        _assertAllowance(signer, 1, 2, 2);
    }

    function test_ignoresWhatFails() public {
        bytes memory signature = _signPermit2(key, PRICE, FOR_EVER, 0, START);
        dues.permit2(99, signer, PRICE, FOR_EVER, 0, START, signature);
        dues.permit2(planId, payer, PRICE, FOR_EVER, 0, START, signature);
        dues.permit2(planId, signer, PRICE + 1, FOR_EVER, 0, START, signature);
        dues.permit2(planId, signer, PRICE, FOR_EVER - 1, 0, START, signature);
        dues.permit2(planId, signer, PRICE, FOR_EVER, 1, START, signature);
        dues.permit2(planId, signer, PRICE, FOR_EVER, 0, START + 1, signature);
        dues.permit2(planId, signer, PRICE, FOR_EVER, 0, START, "");
        vm.warp(START + 1);
        dues.permit2(planId, signer, PRICE, FOR_EVER, 0, START, signature);
        _assertAllowance(signer, 0, 0, 0);
        _assertAllowance(payer, 0, 0, 0);
        vm.warp(START);
        dues.permit2(planId, signer, PRICE, FOR_EVER, 0, START, signature);
        _assertAllowance(signer, PRICE, FOR_EVER, 1);
        dues.permit2(planId, signer, PRICE, FOR_EVER, 0, START, signature);
        _assertAllowance(signer, PRICE, FOR_EVER, 1);
    }

    function testFuzz_doesNothingWhereThereIsNoPermit2(uint160 value, bytes calldata signature) public {
        vm.etch(address(PERMIT2), "");
        dues.permit2(planId, signer, value, FOR_EVER, 0, START, signature);
    }

    function test_asksAContractAccountAboutItsSignature() public {
        OwnedWallet wallet = new OwnedWallet(signer);
        bytes memory signature = _signPermit2(key, PRICE, FOR_EVER, 0, START);
        dues.permit2(planId, address(wallet), PRICE, FOR_EVER, 0, START, signature);
        _assertAllowance(address(wallet), PRICE, FOR_EVER, 1);
    }

    function test_costsAtMostItsCap() public {
        OddWallet wallet = new OddWallet();
        wallet.set(OddWallet.Answer.Burn);
        uint256 before = gasleft();
        dues.permit2{gas: 3_000_000}(planId, address(wallet), PRICE, FOR_EVER, 0, START, "");
        assertLt(before - gasleft(), 1_000_000 + 20_000);
    }

    function testFuzz_aPayerWithoutEthSubscribes(address relayer, bool burned) public {
        IDues.SubscribeIntent memory intent = IDues.SubscribeIntent(signer, planId, REF, 0, true, 0, START);
        bytes memory signature = _signPermit2(key, 12 * uint160(PRICE), FOR_EVER, 0, START);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(IDues.permit2, (planId, signer, 12 * uint160(PRICE), FOR_EVER, 0, START, signature));
        calls[1] = abi.encodeCall(IDues.subscribeFor, (intent, _sign(intent)));
        if (burned) {
            Permit2.Details memory details = Permit2.Details(address(token), 12 * uint160(PRICE), FOR_EVER, 0);
            PERMIT2.permit(signer, Permit2.Single(details, address(dues), START), signature);
        }
        assertEq(signer.balance, 0);
        vm.prank(relayer);
        dues.multicall(calls);
        assertEq(dues.subscription(1).payer, signer);
        assertEq(token.balanceOf(payee), PRICE);
        _assertAllowance(signer, 11 * uint160(PRICE), FOR_EVER, 1);
    }

    /// @dev Neither Permit2's allowance is consent.
    function testFuzz_isNoConsent(address caller) public {
        vm.assume(caller != signer && caller != payer);
        _allow(type(uint160).max, FOR_EVER);
        IDues.SubscribeIntent memory intent = IDues.SubscribeIntent(signer, planId, REF, 0, true, 0, START);
        vm.expectRevert(_invalid(signer));
        vm.prank(caller);
        dues.subscribeFor(intent, "");
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, 1, IDues.Reason.Allowance));
        vm.prank(caller);
        dues.subscribe(planId, REF);
    }

    // THE DEBIT

    function testFuzz_goesThroughPermit2WhereTheDirectAllowanceIsTooSmall(uint256 direct, uint160 allowed) public {
        allowed = uint160(bound(allowed, PRICE, type(uint160).max - 1));
        uint256 id = _due();
        direct = bound(direct, 0, PRICE - 1);
        _approve(direct);
        _allow(allowed, FOR_EVER);
        _assertPreview(id, IDues.Reason.None);
        vm.recordLogs();
        vm.expectEmit(address(token));
        emit IERC20.Transfer(signer, payee, PRICE);
        vm.expectEmit(address(dues));
        emit IDues.Charged(id, planId, signer, 2, uint64(_month(2)), PRICE);
        dues.chargeOne(id);
        assertEq(_countLogs(), 1);
        _assertAllowance(signer, allowed - PRICE, FOR_EVER, 0);
        assertEq(token.allowance(signer, address(dues)), direct);
        assertEq(token.balanceOf(payee), 2 * uint256(PRICE));
        assertEq(token.balanceOf(address(dues)) + token.balanceOf(address(PERMIT2)), 0);
    }

    function test_isNotAskedWhereTheDirectAllowanceSuffices() public {
        uint256 id = _due();
        _approve(PRICE);
        _allow(PRICE, FOR_EVER);
        vm.expectCall(address(PERMIT2), abi.encodeWithSelector(IPermit2.transferFrom.selector), 0);
        dues.chargeOne(id);
        assertEq(token.allowance(signer, address(dues)), 0);
        _assertAllowance(signer, PRICE, FOR_EVER, 0);
    }

    function test_anInfiniteAllowanceDoesNotDecrease() public {
        uint256 id = _due();
        _allow(type(uint160).max, FOR_EVER);
        dues.chargeOne(id);
        _assertAllowance(signer, type(uint160).max, FOR_EVER, 0);
        assertEq(token.allowance(signer, address(PERMIT2)), type(uint256).max);
    }

    function test_anAllowanceIsUsedToItsEndAndToItsLastSecond() public {
        uint256 id = _due();
        uint48 last = uint48(_month(1));
        _allow(2 * uint160(PRICE), last - 1);
        _assertReason(id, IDues.Reason.Allowance);
        _allow(PRICE - 1, last);
        _assertReason(id, IDues.Reason.Allowance);
        _allow(PRICE, last);
        _assertPreview(id, IDues.Reason.None);
        dues.chargeOne(id);
        _assertAllowance(signer, 0, last, 0);
        vm.warp(_month(2));
        _allow(0, FOR_EVER);
        _assertReason(id, IDues.Reason.Allowance);
    }

    function test_isOnlyAsGoodAsTheTokensAllowance() public {
        uint256 id = _due();
        _allow(type(uint160).max, FOR_EVER);
        vm.prank(signer);
        token.approve(address(PERMIT2), 0);
        _assertReason(id, IDues.Reason.Allowance);
        vm.prank(signer);
        token.approve(address(PERMIT2), PRICE - 1);
        _assertReason(id, IDues.Reason.Allowance);
        vm.prank(signer);
        token.approve(address(PERMIT2), PRICE);
        dues.chargeOne(id);
        assertEq(token.allowance(signer, address(PERMIT2)), 0);
    }

    function test_saysBalanceWhereThatIsWhatIsMissing() public {
        uint256 id = _due();
        _allow(PRICE, FOR_EVER);
        deal(address(token), signer, PRICE - 1);
        _assertReason(id, IDues.Reason.Balance);
        deal(address(token), signer, PRICE);
        dues.chargeOne(id);
        assertEq(token.balanceOf(signer), 0);
    }

    function test_saysTokenWhereTheTokenRefusesPermit2() public {
        PickyToken picky = new PickyToken(address(PERMIT2));
        uint256 id = _dueIn(picky);
        vm.prank(signer);
        PERMIT2.approve(address(picky), address(dues), PRICE, FOR_EVER);
        _assertPreview(id, IDues.Reason.None);
        _assertRefused(id, IDues.Reason.Token);

        BlocklistToken usdc = new BlocklistToken();
        id = _dueIn(usdc);
        vm.prank(signer);
        PERMIT2.approve(address(usdc), address(dues), PRICE, FOR_EVER);
        usdc.setBlocked(payee, true);
        _assertPreview(id, IDues.Reason.None);
        _assertRefused(id, IDues.Reason.Token);
        usdc.setBlocked(payee, false);
        dues.chargeOne(id);
    }

    /// @dev Whatever the first attempt moved and denied is not moved once more.
    function test_whatATokenMovesAndThenDeniesIsUndone() public {
        DenyingToken denying = new DenyingToken();
        uint256 id = _dueIn(denying);
        vm.startPrank(signer);
        PERMIT2.approve(address(denying), address(dues), type(uint160).max, FOR_EVER);
        denying.approve(address(dues), PRICE);
        vm.stopPrank();
        denying.setDenies(true);
        uint256 before = denying.balanceOf(signer);
        _assertRefused(id, IDues.Reason.Token);
        assertEq(denying.balanceOf(signer), before);
        assertEq(denying.allowance(signer, address(dues)), PRICE);
    }

    function test_aTokenThatReturnsNothingIsPaidWith() public {
        NoReturnToken usdt = new NoReturnToken();
        uint256 id = _dueIn(usdt);
        vm.prank(signer);
        PERMIT2.approve(address(usdt), address(dues), PRICE, FOR_EVER);
        dues.chargeOne(id);
        assertEq(usdt.balanceOf(payee), 2 * uint256(PRICE));
    }

    function test_saysAllowanceWhereThereIsNoPermit2() public {
        uint256 id = _due();
        _allow(PRICE, FOR_EVER);
        bytes memory code = address(PERMIT2).code;
        vm.etch(address(PERMIT2), "");
        _assertReason(id, IDues.Reason.Allowance);
        vm.etch(address(PERMIT2), code);
        dues.chargeOne(id);
    }

    function testFuzz_aPreviewAgreesWithTheCharge(
        uint256 direct,
        uint256 balance,
        uint256 backing,
        uint256 allowed,
        uint256 expiration
    ) public {
        uint256 id = _due();
        (direct, balance) = (_near(PRICE, direct), _near(PRICE, balance));
        (backing, allowed) = (_near(PRICE, backing), _near(PRICE, allowed));
        expiration = _near(_month(1), expiration);
        _approve(direct);
        _allow(uint160(allowed), uint48(expiration));
        deal(address(token), signer, balance);
        vm.prank(signer);
        token.approve(address(PERMIT2), backing);

        bool through = allowed >= PRICE && expiration >= _month(1) && backing >= PRICE;
        if (direct < PRICE && !through) return _assertReason(id, IDues.Reason.Allowance);
        if (balance < PRICE) return _assertReason(id, IDues.Reason.Balance);
        _assertPreview(id, IDues.Reason.None);
        assertEq(dues.chargeBatch(_ids(id)), 1);
        assertEq(token.balanceOf(signer), balance - PRICE);
        assertEq(token.allowance(signer, address(dues)), direct < PRICE ? direct : direct - PRICE);
        assertEq(token.allowance(signer, address(PERMIT2)), direct < PRICE ? backing - PRICE : backing);
    }

    function test_everyDebitAndRefundCanGoThroughPermit2() public {
        IDues.PlanTerms memory terms = _terms();
        (terms.price, terms.usageCap) = (2 * PRICE, 10);
        uint32 dearer = _createPlan(terms);
        _allow(type(uint160).max, FOR_EVER);
        vm.startPrank(signer);
        uint256 id = dues.subscribe(planId, REF);
        dues.prepay(id, 1);
        dues.changeNow(id, dearer, 2, 2 * PRICE);
        vm.stopPrank();
        token.mint(merchant, 5);
        vm.startPrank(merchant);
        dues.chargeUsage(id, 1, 7, "usage");
        token.approve(address(PERMIT2), 5);
        PERMIT2.approve(address(token), address(dues), 5, FOR_EVER);
        dues.refund(id, 5, "refund");
        vm.stopPrank();
        assertEq(token.balanceOf(payee), 4 * uint256(PRICE) + 7);
        assertEq(token.balanceOf(signer), 996 * uint256(PRICE) - 2);
    }

    // GAS

    /// @dev A sender cannot make a payer fail by sending too little gas, wherever it runs out: the token fails cheaply
    /// here, so that most of it is left for Permit2.
    function test_aHealthyPayerIsNeverRecordedAsFailedWhateverTheGas() public {
        uint256 id = _due();
        _allow(type(uint160).max, FOR_EVER);
        _assertNeverFails(id, 30_000, 500_000, 3500);
    }

    /// @dev And where the first attempt burns its gas, so that little is left for Permit2.
    function test_norWithATokenThatBurnsWhatTheFirstAttemptIsGiven() public {
        HeavyToken heavy = new HeavyToken();
        uint256 id = _dueIn(heavy);
        vm.prank(signer);
        PERMIT2.approve(address(heavy), address(dues), type(uint160).max, FOR_EVER);
        _assertNeverFails(id, 300_000, 1_100_000, 5000);

        // What is lacking at 500,000 is lacking for the second attempt: 350,000, a 63rd of that, and 10,000.
        bytes memory data = abi.encodeCall(IDues.chargeBatch, (_ids(id)));
        (bool ok, bytes memory reason) = address(dues).call{gas: 500_000}(data);
        assertFalse(ok);
        assertEq(bytes4(reason), IDues.InsufficientGas.selector);
        assertEq(reason.length, 68);
        uint256 required;
        assembly ("memory-safe") {
            required := mload(add(reason, 0x44))
        }
        assertEq(required, 365_555);
    }

    /// @dev The cap is the batch's. Who charges one subscription alone spends its own gas.
    function test_aTokenThatNeedsMoreThanTheCapIsChargedAlone() public {
        SlowToken slow = new SlowToken();
        uint256 id = _dueIn(slow);
        vm.prank(signer);
        PERMIT2.approve(address(slow), address(dues), PRICE, FOR_EVER);
        vm.expectEmit(address(dues));
        emit IDues.ChargeFailed(id, planId, signer, IDues.Reason.Token);
        assertEq(dues.chargeBatch(_ids(id)), 0);
        dues.chargeOne(id);
        assertEq(slow.balanceOf(payee), 2 * uint256(PRICE));
    }

    /// @dev What a sender is told to send per item suffices for the worst of tokens.
    function test_theAdvisedGasSufficesForTheWorstToken() public {
        WorstToken worst = new WorstToken();
        uint256 id = _dueIn(worst);
        vm.prank(signer);
        PERMIT2.approve(address(worst), address(dues), type(uint160).max, FOR_EVER);
        worst.setBroken(true);
        vm.expectEmit(address(dues));
        emit IDues.ChargeFailed(id, planId, signer, IDues.Reason.Token);
        uint256 before = gasleft();
        assertEq(dues.chargeBatch{gas: 1_100_000}(_ids(id)), 0);
        // All of it was there to be burned.
        assertGt(before - gasleft(), 900_000);
    }

    /// @dev With any gas, it is charged or everything reverts.
    function _assertNeverFails(uint256 id, uint256 from, uint256 to, uint256 step) private {
        uint256 charged;
        uint256 starved;
        for (uint256 gas = from; gas < to; gas += step) {
            uint256 snapshot = vm.snapshotState();
            try dues.chargeBatch{gas: gas}(_ids(id)) returns (uint256 count) {
                assertEq(count, 1, "recorded as failed");
                ++charged;
            } catch (bytes memory reason) {
                if (reason.length != 0 && bytes4(reason) == IDues.InsufficientGas.selector) ++starved;
            }
            vm.revertToState(snapshot);
        }
        assertGt(charged, 0);
        assertGt(starved, 0);
    }

    /// @dev A subscription of the signer that is due now, and no allowance.
    function _due() private returns (uint256) {
        return _dueIn(token);
    }

    function _dueIn(TestUSD token_) private returns (uint256 id) {
        vm.warp(START);
        if (token_ != token) {
            _fund(token_, signer);
            planId = _createPlanIn(token_);
        }
        vm.startPrank(signer);
        token_.approve(address(PERMIT2), type(uint256).max);
        token_.approve(address(dues), PRICE);
        id = dues.subscribe(planId, REF);
        vm.stopPrank();
        assertEq(token_.allowance(signer, address(dues)), 0);
        vm.warp(_month(1));
    }

    function _approve(uint256 value) private {
        vm.prank(signer);
        token.approve(address(dues), value);
    }

    function _allow(uint160 value, uint48 expiration) private {
        vm.prank(signer);
        PERMIT2.approve(address(token), address(dues), value, expiration);
    }

    function _assertAllowance(address owner, uint160 value, uint48 expiration, uint48 nonce) private view {
        (uint160 value_, uint48 expiration_, uint48 nonce_) = PERMIT2.allowance(owner, address(token), address(dues));
        assertEq(value_, value, "value");
        assertEq(expiration_, expiration, "expiration");
        assertEq(nonce_, nonce, "nonce");
    }

    /// @dev That this stands in the way, whoever is asked.
    function _assertReason(uint256 id, IDues.Reason reason) private {
        _assertPreview(id, reason);
        _assertRefused(id, reason);
    }

    function _assertRefused(uint256 id, IDues.Reason reason) private {
        IDues.Subscription memory before = dues.subscription(id);
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id, reason));
        dues.chargeOne(id);
        vm.expectEmit(address(dues));
        emit IDues.ChargeFailed(id, planId, signer, reason);
        assertEq(dues.chargeBatch(_ids(id)), 0);
        _assertSame(dues.subscription(id), before);
    }

    function _near(uint256 value, uint256 seed) private pure returns (uint256) {
        return seed % 7 < 2 ? value - 1 + seed % 2 : value - 2 + seed % 5;
    }

    function _signPermit2(uint256 key_, uint160 value, uint48 expiration, uint48 nonce, uint256 deadline)
        private
        view
        returns (bytes memory)
    {
        bytes32 separator = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,uint256 chainId,address verifyingContract)"),
                keccak256("Permit2"),
                block.chainid,
                PERMIT2
            )
        );
        bytes32 details = keccak256(
            abi.encode(
                keccak256("PermitDetails(address token,uint160 amount,uint48 expiration,uint48 nonce)"),
                token,
                value,
                expiration,
                nonce
            )
        );
        bytes32 single = keccak256(
            abi.encode(
                keccak256(
                    "PermitSingle(PermitDetails details,address spender,uint256 sigDeadline)PermitDetails(address token,uint160 amount,uint48 expiration,uint48 nonce)"
                ),
                details,
                dues,
                deadline
            )
        );
        return _sign(key_, keccak256(abi.encodePacked(hex"1901", separator, single)));
    }
}
