// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../../src/IDues.sol";
import {MoodyToken} from "../doubles/MoodyToken.sol";
import {TestUSD} from "../doubles/TestUSD.sol";
import {ISelf} from "./ISelf.sol";
import {KeeperActs} from "./KeeperActs.sol";
import {Outcomes} from "./Outcomes.sol";

/// @notice Does to Dues what people do to it, and knows beforehand what must come of it: every call is predicted from
/// a shadow of what happened so far, and a wrong prediction fails the test.
contract Handler is KeeperActs {
    /// @dev What was given to Dues by mistake.
    mapping(TestUSD => uint256) public donated;
    uint256 public donatedEther;

    /// @dev Where each subscription stood when it was looked at last.
    mapping(uint256 id => IDues.Status) public lastStatus;

    constructor() {
        _plans();
        bytes[] memory calls = new bytes[](7);
        calls[0] = abi.encodeCall(IDues.chargeOne, (1));
        calls[1] = abi.encodeCall(IDues.chargeBatch, (new uint256[](1)));
        calls[2] = abi.encodeCall(IDues.cancelNow, (1));
        calls[3] = abi.encodeCall(IDues.refund, (1, 1, bytes32(0)));
        calls[4] = abi.encodeCall(IDues.subscribe, (1, bytes32(0)));
        calls[5] = abi.encodeCall(IDues.statusOf, (1));
        bytes[] memory inner = new bytes[](1);
        inner[0] = calls[2];
        calls[6] = abi.encodeCall(IDues.multicall, (inner));
        moody.arm(calls);
    }

    /// @notice What the fuzzer may do, the more important things more often.
    function acts() external pure returns (bytes4[] memory selectors) {
        bytes4[42] memory list = [
            this.createPlan.selector,
            this.createPlan.selector,
            this.retirePlan.selector,
            this.proposePayee.selector,
            this.acceptPayee.selector,
            this.setOperator.selector,
            this.subscribe.selector,
            this.subscribeWithPermit.selector,
            this.subscribePrepaid.selector,
            this.subscribeFor.selector,
            this.prepay.selector,
            this.chargeOne.selector,
            this.chargeBatch.selector,
            this.starve.selector,
            this.keep.selector,
            this.keep.selector,
            this.keep.selector,
            this.chargeUsage.selector,
            this.chargeUsage.selector,
            this.refund.selector,
            this.refund.selector,
            this.changeNow.selector,
            this.changeNow.selector,
            this.scheduleChange.selector,
            this.revokeChange.selector,
            this.changeFor.selector,
            this.migrate.selector,
            this.cancel.selector,
            this.cancelNow.selector,
            this.cancelFor.selector,
            this.resume.selector,
            this.invalidateNonces.selector,
            this.permit.selector,
            this.permit2.selector,
            this.multicall.selector,
            this.trespass.selector,
            this.wait.selector,
            this.waitForIt.selector,
            this.fund.selector,
            this.approve.selector,
            this.breakTokens.selector,
            this.donate.selector
        ];
        selectors = new bytes4[](list.length);
        for (uint256 i = 0; i < list.length; ++i) {
            selectors[i] = list[i];
        }
    }

    // THE WORLD

    function wait(uint256 how) external act {
        _warp(time + 1 + how / 16 % (how % 16 == 0 ? 45 days : 2 days));
    }

    /// @dev To the second at which something happens to a subscription, or to one beside it.
    function waitForIt(uint256 which, uint256 what) external act {
        uint256 id = _pick(which);
        if (!_exists(id)) return;
        Sub storage s = _sub(id);
        uint256 instant = s.end;
        if (what % 8 == 0) instant += _plan(s.planId).grace;
        if (what % 8 == 1) instant += graceOf(id);
        if (what % 8 > 4) instant = _startOf(id, started(id) + 1);
        instant = instant + (what / 8 % 3) - 1;
        // Seldom to the end of what was prepaid for a lifetime.
        bool far = instant > time + (what >> 128 & 63 == 0 ? 200 * 365 days : 400 days);
        if (instant > time && !far) _warp(instant);
    }

    function fund(uint256 who, uint256 which, uint256 amount) external act {
        (address account, TestUSD token) = (_somebody(who), tokens[which % tokens.length]);
        if (account == bystander) return;
        if (amount % 2 == 0) return _mint(token, account, amount % 500);
        // Spent elsewhere.
        amount = balance[token][account] / (1 + amount / 2 % 4);
        vm.prank(account);
        assertTrue(token.transfer(address(0xdead), amount), "transfer");
        balance[token][account] -= amount;
        burnt[token][account] += amount;
    }

    function approve(uint256 who, uint256 which, uint256 amount, uint256 how) external act {
        (address account, TestUSD token) = (_somebody(who), tokens[which % tokens.length]);
        if (account == bystander) return;
        if (how % 8 < 4) {
            uint256 value = how % 8 == 0 ? amount % 500 : how % 8 == 1 ? amount % 30_000 : type(uint256).max;
            _approve(token, account, address(DUES), value);
        } else if (how % 8 == 4) {
            _approve(token, account, address(PERMIT2), amount % 2 == 0 ? type(uint256).max : amount % 2000);
        } else {
            // For Permit2's amounts, too, the maximum stands for no limit.
            _approve(token, account, address(PERMIT2), type(uint256).max);
            _approve(token, account, address(DUES), amount % 50);
            uint160 value = amount % 2 == 0 ? type(uint160).max : uint160(amount % 5000);
            _approveThrough(token, account, value, how % 8 == 5 ? 0 : uint48(time + amount % 90 days));
        }
    }

    function breakTokens(uint256 who, uint256 how) external act {
        _setMood(MoodyToken.Mood(how % 3 == 0 ? 0 : how % 9));
        address account = payers[who % payers.length];
        blocked[account] = how >> 8 & 3 == 0;
        blocklist.setBlocked(account, blocked[account]);
    }

    function donate(uint256 which, uint256 amount) external act {
        TestUSD token = tokens[which % tokens.length];
        token.mint(address(DUES), amount %= 1000);
        donated[token] += amount;
        donatedEther += amount;
        // As the remains of a contract do, which nobody can refuse.
        vm.deal(address(DUES), donatedEther);
    }

    // WHAT NOBODY MAY DO

    /// @dev Somebody tries everything that it must not be able to do.
    function trespass(uint256 who, uint256 which, uint256 nonce) external act {
        uint256 id = _pick(which);
        if (!_exists(id)) return;
        address stranger = _somebody(who);
        uint32 planId = _sub(id).planId;
        address merchant = _merchantOf(id);
        bytes memory err = _notPayer(id, stranger);
        if (err.length != 0) {
            _do(stranger, abi.encodeCall(IDues.prepay, (id, 1)), err, 0);
            _do(stranger, abi.encodeCall(IDues.changeNow, (id, 1, 1, type(uint128).max)), err, 0);
            _do(stranger, abi.encodeCall(IDues.scheduleChange, (id, 1)), err, 0);
            _do(stranger, abi.encodeCall(IDues.revokeChange, (id)), err, 0);
            _do(stranger, abi.encodeCall(IDues.resume, (id)), err, 0);
        }
        if (err.length != 0 && stranger != merchant) {
            err = _error(IDues.NotParty.selector, id, stranger);
            _do(stranger, abi.encodeCall(IDues.cancel, (id)), err, 0);
            _do(stranger, abi.encodeCall(IDues.cancelNow, (id)), err, 0);
        }
        err = _notOperator(id, stranger);
        if (err.length != 0) {
            _do(stranger, abi.encodeCall(IDues.chargeUsage, (id, 1, 1, bytes32(nonce))), err, 0);
            _do(stranger, abi.encodeCall(IDues.refund, (id, 1, bytes32(nonce))), err, 0);
        }
        err = _notMerchant(planId, stranger);
        if (err.length != 0) {
            _do(stranger, abi.encodeCall(IDues.migrate, (id, 1)), err, 0);
            _do(stranger, abi.encodeCall(IDues.retirePlan, (planId)), err, 0);
            _do(stranger, abi.encodeCall(IDues.proposePayee, (planId, stranger)), err, 0);
        }
        _do(stranger, abi.encodeCall(ISelf.chargeItem, (id)), _error(ISelf.NotSelf.selector, uint160(stranger)), 0);
        _forge(stranger, id, planId, nonce);
        _sendEther(stranger);
    }

    /// @dev Somebody sends what the payer has not signed. Nor has the one who allows everything.
    function _forge(address stranger, uint256 id, uint32 planId, uint256 nonce) private {
        nonce = 10_000 + nonce % 1000;
        address payer = _payerOf(id);
        bytes memory signature = _sign(merchants[0], bytes32(nonce));
        bytes memory err = _error(IDues.InvalidSignature.selector, uint160(payer));
        _do(stranger, abi.encodeCall(IDues.cancelFor, (IDues.CancelIntent(id, true, nonce, time), signature)), err, 0);
        IDues.ChangeIntent memory change = IDues.ChangeIntent(id, planId, 1, type(uint128).max, nonce, time);
        _do(stranger, abi.encodeCall(IDues.changeFor, (change, signature)), err, 0);
        IDues.SubscribeIntent memory intent = IDues.SubscribeIntent(payer, planId, 0, 1, true, nonce, time);
        _do(stranger, abi.encodeCall(IDues.subscribeFor, (intent, signature)), err, 0);
        (intent.payer, err) = (bystander, _error(IDues.InvalidSignature.selector, uint160(bystander)));
        _do(stranger, abi.encodeCall(IDues.subscribeFor, (intent, signature)), err, 0);
        (intent.payer, err) = (address(0), _error(IDues.InvalidSignature.selector, 0));
        _do(stranger, abi.encodeCall(IDues.subscribeFor, (intent, "")), err, 0);
    }

    function _sendEther(address stranger) private {
        vm.deal(stranger, 2);
        vm.startPrank(stranger);
        (bool plain,) = address(DUES).call{value: 1}("");
        (bool called,) = address(DUES).call{value: 1}(abi.encodeCall(IDues.planCount, ()));
        vm.stopPrank();
        assertFalse(plain || called, "took ether");
    }

    // LOOKING

    function _warp(uint256 to) internal override {
        time = to;
        vm.warp(to);
        for (uint256 id = 1; id <= subs.length; ++id) {
            _watch(id);
        }
    }

    function _watch(uint256 id) internal override {
        if (!_exists(id)) return;
        (IDues.Status from, IDues.Status to) = (lastStatus[id], DUES.statusOf(id));
        assertEq(uint256(to), uint256(status(id)), "status");
        if (from == to) return;
        assertTrue(Outcomes.mayFollow(from, to), "a status from which there is no way to this one");
        ++reached[Outcomes.edge(from, to)];
        lastStatus[id] = to;
    }

    // THE FIRST PLANS

    /// @dev Some to subscribe to, and to change between, from the first act on.
    function _plans() private {
        IDues.PlanTerms memory terms = IDues.PlanTerms({
            token: address(tokens[0]),
            price: 100,
            payee: payees[0],
            unit: IDues.IntervalUnit.Month,
            count: 1,
            trial: 14 days,
            grace: 3 days,
            usageCap: 50
        });
        _create(merchants[0], terms, "");
        (terms.price, terms.trial, terms.grace) = (250, 0, 5 days);
        _create(merchants[0], terms, "");
        (terms.price, terms.trial, terms.usageCap) = (90, 1 days, 40);
        _create(merchants[0], terms, "");
        (terms.unit, terms.count, terms.price) = (IDues.IntervalUnit.Day, 7, 30);
        _create(merchants[0], terms, "");
        (terms.token, terms.trial) = (address(moody), 0);
        _create(merchants[1], terms, "");
        terms.price = 20;
        _create(merchants[1], terms, "");
        (terms.token, terms.trial, terms.payee) = (address(blocklist), 2 days, payees[2]);
        _create(merchants[1], terms, "");
    }
}
