// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {TestUSD} from "./doubles/TestUSD.sol";
import {ReenteringWallet} from "./doubles/Wallets.sol";
import {ISelf} from "./utils/ISelf.sol";
import {Permit2Code} from "./utils/Permit2Code.sol";
import {Signing} from "./utils/Signing.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @notice Calls back before it moves the money, as a token with hooks lets payer and payee do, and before it refuses a
/// permit. Remembers little of what it got, as it has little gas.
contract HookedToken is TestUSD {
    address private _target;
    bytes private _call;

    bytes32[] public answers;

    function arm(address target, bytes calldata data) external {
        (_target, _call) = (target, data);
        delete answers;
    }

    function answerCount() external view returns (uint256) {
        return answers.length;
    }

    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        _callBack();
        return super.transferFrom(from, to, value);
    }

    function permit(address, address, uint256, uint256, uint8, bytes32, bytes32) public override {
        _callBack();
    }

    function _callBack() private {
        if (_target == address(0)) return;
        (bool ok, bytes memory data) = _target.call(_call);
        answers.push(keccak256(abi.encode(ok, data)));
    }
}

// given the token calls back while it is called, by whatever function
// ├── every function that changes state is refused, also in a multicall
// ├── every view of subscriptions is refused
// ├── plans, counts and what else says nothing of a payment can be read
// └── what was called is not affected, and the guard is off again afterwards
//
// given a wallet calls back while it is asked about a signature
// └── the same
contract ReentrancyTest is Signing {
    address private constant PERMIT2 = 0x000000000022D473030F116dDEE9F6B43aC78BA3;

    /// @dev Of the ways below, the one where the token is called twice: for the permit and for the money.
    uint256 private constant PERMIT_FIRST = 5;

    HookedToken private hooked;
    ReenteringWallet private wallet;
    uint256 private id;
    uint256 private own;
    uint256 private ofWallet;

    bytes[] private forbidden;
    bytes[] private allowed;
    /// @dev Every way to make the token call back.
    bytes[] private ways;
    address[] private callers;

    function setUp() public override {
        super.setUp();
        hooked = new HookedToken();
        wallet = new ReenteringWallet();
        _createPlans();
        // Token and wallet are payers, merchants and operators themselves, so that nothing but the guard stands in their
        // way.
        address[5] memory accounts = [payer, signer, merchant, address(hooked), address(wallet)];
        for (uint256 i = 0; i < accounts.length; ++i) {
            _fund(hooked, accounts[i]);
        }
        id = _subscribe(payer, 1);
        own = _subscribe(address(hooked), 1);
        ofWallet = _subscribe(address(wallet), 1);
        _subscribe(signer, 1);
        vm.startPrank(merchant);
        dues.setOperator(address(hooked), true);
        dues.setOperator(address(wallet), true);
        dues.proposePayee(2, address(wallet));
        vm.stopPrank();
        vm.prank(address(hooked));
        dues.scheduleChange(own, 2);
        vm.etch(PERMIT2, new Permit2Code().get());

        vm.warp(START + 2 days);
        _listForbidden();
        _listAllowed();
        _listWays();
    }

    // THE TOKEN

    function test_whateverIsForbiddenIsRefusedWhateverIsDone() public {
        for (uint256 way = 0; way < ways.length; ++way) {
            for (uint256 i = 0; i < forbidden.length; ++i) {
                _assertRefused(way, forbidden[i]);
            }
        }
    }

    function test_alsoInAMulticall() public {
        for (uint256 way = 0; way < ways.length; ++way) {
            for (uint256 i = 0; i < forbidden.length; ++i) {
                _assertRefused(way, abi.encodeCall(IDues.multicall, (_one(forbidden[i]))));
            }
        }
    }

    function test_anItemOfABatchIsOutOfReach() public {
        for (uint256 way = 0; way < ways.length; ++way) {
            _assertReturns(
                way, abi.encodeCall(ISelf.chargeItem, (own)), abi.encodeWithSelector(ISelf.NotSelf.selector, hooked)
            );
        }
    }

    /// @dev And it says what is true also afterwards.
    function test_whatIsAllowedCanBeRead() public {
        for (uint256 way = 0; way < ways.length; ++way) {
            for (uint256 i = 0; i < allowed.length; ++i) {
                uint256 snapshot = vm.snapshotState();
                _arm(allowed[i]);
                _go(way);
                (bool ok, bytes memory expected) = address(dues).staticcall(allowed[i]);
                assertTrue(ok);
                // The last one: a permit comes before everything else.
                assertEq(hooked.answers(hooked.answerCount() - 1), _answer(true, expected));
                vm.revertToState(snapshot);
            }
        }
    }

    function test_theGuardIsOffAfterwards() public {
        for (uint256 way = 0; way < ways.length; ++way) {
            uint256 snapshot = vm.snapshotState();
            _arm(abi.encodeCall(IDues.statusOf, (id)));
            _go(way);
            dues.statusOf(id);
            vm.prank(payer);
            dues.cancel(id);
            vm.revertToState(snapshot);
        }
    }

    /// @dev Where money goes through Permit2, the token is called by Permit2.
    function test_throughPermit2Too() public {
        vm.startPrank(payer);
        hooked.approve(PERMIT2, type(uint256).max);
        (bool ok,) = PERMIT2.call(
            abi.encodeWithSignature(
                "approve(address,address,uint160,uint48)", hooked, dues, type(uint160).max, type(uint48).max
            )
        );
        assertTrue(ok);
        hooked.approve(address(dues), 0);
        vm.stopPrank();
        vm.warp(_month(1));
        for (uint256 i = 0; i < forbidden.length; ++i) {
            uint256 snapshot = vm.snapshotState();
            _arm(forbidden[i]);
            dues.chargeOne(id);
            _assertAnswers(1, _reentrant());
            vm.revertToState(snapshot);
        }
    }

    // THE WALLET

    /// @dev The wallet accepts only if all calls were refused as they have to be.
    function test_aWalletThatIsAskedAboutASignatureIsRefused() public {
        bytes[] memory calls = new bytes[](2 * forbidden.length);
        for (uint256 i = 0; i < forbidden.length; ++i) {
            calls[2 * i] = forbidden[i];
            calls[2 * i + 1] = abi.encodeCall(IDues.multicall, (_one(forbidden[i])));
        }
        wallet.arm(address(dues), calls);
        uint256 before = hooked.balanceOf(address(wallet));
        dues.subscribeFor(IDues.SubscribeIntent(address(wallet), 1, REF, 0, true, 0, START + 2 days), "");
        dues.changeFor(IDues.ChangeIntent(ofWallet, 2, 1, type(uint128).max, 1, START + 2 days), "");
        dues.cancelFor(IDues.CancelIntent(ofWallet, true, 2, START + 2 days), "");
        assertEq(dues.subscription(ofWallet).planId, 2);
        assertEq(dues.subscription(ofWallet).flags, 2);
        // One period of the one plan, and the difference to the other of 26 of 28 days.
        assertEq(before - hooked.balanceOf(address(wallet)), 3 * uint256(PRICE) - uint256(PRICE) * 26 / 28);
    }

    function test_aWalletCanReadWhatIsAllowed() public {
        for (uint256 i = 0; i < allowed.length; ++i) {
            wallet.arm(address(dues), _one(allowed[i]));
            vm.expectRevert(_invalid(address(wallet)));
            dues.cancelFor(IDues.CancelIntent(ofWallet, true, 0, START + 2 days), "");
        }
    }

    // NOTHING IS FORGOTTEN

    /// @dev The id of the interface is all its selectors, by exclusive or.
    function test_everyFunctionIsListed() public view {
        bytes4 all = IDues.multicall.selector;
        for (uint256 i = 0; i < forbidden.length; ++i) {
            // Each once: some are listed with several arguments, one after the other.
            if (i == 0 || bytes4(forbidden[i]) != bytes4(forbidden[i - 1])) all ^= bytes4(forbidden[i]);
        }
        for (uint256 i = 0; i < allowed.length; ++i) {
            all ^= bytes4(allowed[i]);
        }
        assertEq(all, type(IDues).interfaceId);
    }

    // LISTS

    /// @dev 1 and 2: of the merchant, the second dearer, both with usage. 3: of the token. 4: of the wallet.
    function _createPlans() private {
        IDues.PlanTerms memory terms = _terms();
        (terms.token, terms.usageCap) = (address(hooked), 1000);
        _createPlan(terms);
        terms.price = 2 * PRICE;
        _createPlan(terms);
        vm.prank(address(hooked));
        dues.createPlan(terms);
        vm.prank(address(wallet));
        dues.createPlan(terms);
    }

    function _listForbidden() private {
        IDues.SubscribeIntent memory subscribe = IDues.SubscribeIntent(signer, 1, REF, 0, true, 0, type(uint256).max);
        IDues.ChangeIntent memory change = IDues.ChangeIntent(4, 2, 1, type(uint128).max, 1, type(uint256).max);
        IDues.CancelIntent memory cancel = IDues.CancelIntent(4, true, 2, type(uint256).max);
        forbidden.push(abi.encodeCall(IDues.createPlan, (_terms())));
        forbidden.push(abi.encodeCall(IDues.retirePlan, (3)));
        forbidden.push(abi.encodeCall(IDues.retirePlan, (4)));
        forbidden.push(abi.encodeCall(IDues.proposePayee, (3, keeper)));
        forbidden.push(abi.encodeCall(IDues.proposePayee, (4, keeper)));
        forbidden.push(abi.encodeCall(IDues.acceptPayee, (2)));
        forbidden.push(abi.encodeCall(IDues.setOperator, (keeper, true)));
        forbidden.push(abi.encodeCall(IDues.subscribe, (1, REF)));
        forbidden.push(abi.encodeCall(IDues.subscribeWithPermit, (1, REF, 0, 0, 0, 0, 0)));
        forbidden.push(abi.encodeCall(IDues.subscribePrepaid, (1, REF, 2, false)));
        forbidden.push(abi.encodeCall(IDues.prepay, (own, 1)));
        forbidden.push(abi.encodeCall(IDues.prepay, (ofWallet, 1)));
        forbidden.push(abi.encodeCall(IDues.chargeOne, (id)));
        forbidden.push(abi.encodeCall(IDues.chargeOne, (own)));
        forbidden.push(abi.encodeCall(IDues.chargeBatch, (_ids(id, own))));
        forbidden.push(abi.encodeCall(IDues.chargeBatch, (new uint256[](0))));
        forbidden.push(abi.encodeCall(IDues.chargeUsage, (id, 1, 1, "other")));
        forbidden.push(abi.encodeCall(IDues.changeNow, (own, 2, 1, type(uint128).max)));
        forbidden.push(abi.encodeCall(IDues.changeNow, (ofWallet, 2, 1, type(uint128).max)));
        forbidden.push(abi.encodeCall(IDues.scheduleChange, (own, 2)));
        forbidden.push(abi.encodeCall(IDues.scheduleChange, (ofWallet, 2)));
        forbidden.push(abi.encodeCall(IDues.revokeChange, (own)));
        forbidden.push(abi.encodeCall(IDues.migrate, (id, 2)));
        forbidden.push(abi.encodeCall(IDues.cancel, (own)));
        forbidden.push(abi.encodeCall(IDues.cancel, (ofWallet)));
        forbidden.push(abi.encodeCall(IDues.cancelNow, (own)));
        forbidden.push(abi.encodeCall(IDues.cancelNow, (ofWallet)));
        forbidden.push(abi.encodeCall(IDues.resume, (own)));
        forbidden.push(abi.encodeCall(IDues.refund, (id, 1, "other")));
        forbidden.push(abi.encodeCall(IDues.subscribeFor, (subscribe, _sign(subscribe))));
        forbidden.push(abi.encodeCall(IDues.changeFor, (change, _sign(change))));
        forbidden.push(abi.encodeCall(IDues.cancelFor, (cancel, _sign(cancel))));
        forbidden.push(abi.encodeCall(IDues.invalidateNonces, (0, 1)));
        forbidden.push(abi.encodeCall(IDues.permit, (1, payer, 0, 0, 0, 0, 0)));
        forbidden.push(abi.encodeCall(IDues.permit2, (1, payer, 0, 0, 0, 0, "")));
        forbidden.push(abi.encodeCall(IDues.subscription, (id)));
        forbidden.push(abi.encodeCall(IDues.subscriptions, (1, 2)));
        forbidden.push(abi.encodeCall(IDues.paidThrough, (id)));
        forbidden.push(abi.encodeCall(IDues.statusOf, (id)));
        forbidden.push(abi.encodeCall(IDues.previewCharge, (id)));
        forbidden.push(abi.encodeCall(IDues.previewChange, (id, 2, 1)));
        forbidden.push(abi.encodeCall(IDues.usageOf, (id, 1)));
        forbidden.push(abi.encodeCall(IDues.isKeySpent, (id, "key")));
    }

    function _listAllowed() private {
        allowed.push(abi.encodeCall(IDues.requireTerms, (1, dues.termsHash(1))));
        allowed.push(abi.encodeCall(IDues.plan, (1)));
        allowed.push(abi.encodeCall(IDues.termsHash, (1)));
        allowed.push(abi.encodeCall(IDues.proposedPayee, (2)));
        allowed.push(abi.encodeCall(IDues.isOperator, (merchant, address(hooked))));
        allowed.push(abi.encodeCall(IDues.hasUsedTrial, (merchant, payer)));
        allowed.push(abi.encodeCall(IDues.spentNonces, (payer, 0)));
        allowed.push(abi.encodeCall(IDues.planCount, ()));
        allowed.push(abi.encodeCall(IDues.subscriptionCount, ()));
        allowed.push(abi.encodeCall(IDues.eip712Domain, ()));
    }

    function _listWays() private {
        IDues.SubscribeIntent memory subscribe =
            IDues.SubscribeIntent(signer, 1, REF, 2, false, 1000, type(uint256).max);
        IDues.ChangeIntent memory change = IDues.ChangeIntent(4, 2, 1, type(uint128).max, 1001, type(uint256).max);
        // The first four wait for the end of the paid time.
        _way(keeper, abi.encodeCall(IDues.chargeOne, (id)));
        _way(keeper, abi.encodeCall(IDues.chargeOne, (own)));
        _way(keeper, abi.encodeCall(IDues.chargeBatch, (_ids(id))));
        _way(keeper, abi.encodeCall(IDues.multicall, (_one(abi.encodeCall(IDues.chargeOne, (id))))));
        _way(payer, abi.encodeCall(IDues.subscribe, (1, REF)));
        _way(payer, abi.encodeCall(IDues.subscribeWithPermit, (1, REF, 0, 0, 0, 0, 0)));
        _way(payer, abi.encodeCall(IDues.subscribePrepaid, (1, REF, 2, false)));
        _way(payer, abi.encodeCall(IDues.prepay, (id, 1)));
        _way(payer, abi.encodeCall(IDues.changeNow, (id, 2, 1, type(uint128).max)));
        _way(merchant, abi.encodeCall(IDues.chargeUsage, (id, 1, 1, "key")));
        _way(merchant, abi.encodeCall(IDues.refund, (id, 1, "key")));
        _way(keeper, abi.encodeCall(IDues.subscribeFor, (subscribe, _sign(subscribe))));
        _way(keeper, abi.encodeCall(IDues.changeFor, (change, _sign(change))));
        _way(keeper, abi.encodeCall(IDues.permit, (1, payer, 0, 0, 0, 0, 0)));
    }

    // HOW

    function _way(address caller, bytes memory data) private {
        callers.push(caller);
        ways.push(data);
    }

    function _arm(bytes memory data) private {
        hooked.arm(address(dues), data);
    }

    function _go(uint256 way) private {
        if (way < 4) vm.warp(_month(1));
        vm.prank(callers[way]);
        (bool ok, bytes memory returned) = address(dues).call(ways[way]);
        assertTrue(ok, string(returned));
        if (way == 2) assertEq(abi.decode(returned, (uint256)), 1);
    }

    function _assertRefused(uint256 way, bytes memory data) private {
        _assertReturns(way, data, _reentrant());
    }

    function _assertReturns(uint256 way, bytes memory data, bytes memory reason) private {
        uint256 snapshot = vm.snapshotState();
        _arm(data);
        _go(way);
        _assertAnswers(way == PERMIT_FIRST ? 2 : 1, reason);
        vm.revertToState(snapshot);
    }

    /// @dev That the token was refused every time that it called back.
    function _assertAnswers(uint256 count, bytes memory reason) private view {
        assertEq(hooked.answerCount(), count);
        for (uint256 i = 0; i < count; ++i) {
            assertEq(hooked.answers(i), _answer(false, reason));
        }
    }

    function _answer(bool ok, bytes memory data) private pure returns (bytes32) {
        return keccak256(abi.encode(ok, data));
    }

    function _reentrant() private pure returns (bytes memory) {
        return abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
    }

    function _one(bytes memory data) private pure returns (bytes[] memory calls) {
        calls = new bytes[](1);
        calls[0] = data;
    }
}
