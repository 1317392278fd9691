// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {DevUSD} from "../../devnet/DevUSD.sol";
import {Dues} from "../../src/Dues.sol";
import {IDues} from "../../src/IDues.sol";
import {BlocklistToken, FalseToken} from "../doubles/Tokens.sol";
import {Ledger} from "./Ledger.sol";
import {PlainCalendar} from "./PlainCalendar.sol";
import {Test} from "forge-std/Test.sol";
import {Vm} from "forge-std/Vm.sol";

/// @notice Does to Dues what people do to it, and knows beforehand what must come of it: every call is predicted from
/// a shadow of what happened so far, and a wrong prediction fails the test.
contract Handler is Test {
    struct Shadow {
        address payer;
        uint32 planId;
        uint256 anchor;
        uint256 periods;
        bool scheduled;
        bool ended;
        uint256 lastCharge;
    }

    Dues public immutable DUES = new Dues();
    Ledger public immutable LEDGER = new Ledger();
    DevUSD[] public tokens;
    address[] public payers;
    address[] public merchants;
    Shadow[] private _shadows;

    /// @dev How many periods after the first were paid.
    uint256 public renewals;

    /// @dev What each payer has paid in each token.
    mapping(address payer => mapping(DevUSD => uint256)) public paid;
    mapping(address payer => mapping(DevUSD => uint256)) public funded;

    /// @dev Chain time is kept here, and moves only by waiting.
    uint256 public time = 1_769_853_600;

    modifier observed() {
        vm.warp(time);
        vm.recordLogs();
        _;
        vm.stopPrank();
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(DUES)) LEDGER.fold(logs[i]);
        }
    }

    constructor() {
        tokens.push(new DevUSD());
        tokens.push(new BlocklistToken());
        tokens.push(new FalseToken());
        for (uint256 i = 0; i < 4; ++i) {
            payers.push(makeAddr(string.concat("payer ", vm.toString(i))));
            merchants.push(makeAddr(string.concat("merchant ", vm.toString(i))));
            // Enough for some renewals, but not for all.
            for (uint256 t = 0; t < tokens.length; ++t) {
                tokens[t].mint(payers[i], 20_000);
                funded[payers[i]][tokens[t]] = 20_000;
                vm.prank(payers[i]);
                tokens[t].approve(address(DUES), 30_000);
            }
        }
    }

    // MERCHANTS

    function createPlan(uint256 who, uint256 which, uint256 price, uint256 interval, uint256 trial, uint256 grace)
        external
        observed
    {
        if (DUES.planCount() >= 12) return;
        bool month = interval % 2 == 0;
        uint16 units = uint16(1 + interval % (month ? 3 : 40));
        vm.startPrank(merchants[who % merchants.length]);
        DUES.createPlan(
            IDues.PlanTerms({
                token: address(tokens[which % tokens.length]),
                price: uint96(bound(price, 1, 1000)),
                payee: makeAddr("payee"),
                unit: month ? IDues.IntervalUnit.Month : IDues.IntervalUnit.Day,
                count: units,
                trial: trial % 3 == 0 ? uint32(bound(trial, 1, 30 days)) : 0,
                grace: uint32(bound(grace, 1 hours, uint256(units) * (month ? 28 days : 1 days)))
            })
        );
    }

    function retirePlan(uint256 who, uint256 which) external observed {
        if (DUES.planCount() == 0 || who % 8 != 0) return;
        uint32 planId = _planId(which);
        vm.startPrank(DUES.plan(planId).merchant);
        DUES.retirePlan(planId);
    }

    // PAYERS

    function subscribe(uint256 who, uint256 which, bytes32 ref, bool withPermit) external observed {
        if (DUES.planCount() == 0) return;
        address payer = payers[who % payers.length];
        uint32 planId = _planId(which);
        IDues.Plan memory plan = DUES.plan(planId);
        bool trial = plan.trial != 0 && !LEDGER.hasUsedTrial(plan.merchant, payer);
        IDues.Reason obstacle = _obstacle(plan, payer);
        bool possible = !plan.retired && (trial || obstacle == IDues.Reason.None);

        uint256 before = DevUSD(plan.token).balanceOf(payer);
        vm.startPrank(payer);
        (bool ok,) = address(DUES)
            .call(
                withPermit
                    ? abi.encodeCall(IDues.subscribeWithPermit, (planId, ref, 0, 0, 27, ref, ref))
                    : abi.encodeCall(IDues.subscribe, (planId, ref))
            );
        assertEq(ok, possible, "subscribe");
        uint256 debit = before - DevUSD(plan.token).balanceOf(payer);
        assertEq(debit, ok && !trial ? plan.price : 0, "debit by subscribing");
        if (!ok) {
            // Also the logs of what was reverted are recorded; no chain has them.
            vm.getRecordedLogs();
            return;
        }

        paid[payer][DevUSD(plan.token)] += debit;
        _shadows.push(
            Shadow({
                payer: payer,
                planId: planId,
                anchor: trial ? time + plan.trial : time,
                periods: trial ? 0 : 1,
                scheduled: false,
                ended: false,
                lastCharge: trial ? 0 : time
            })
        );
    }

    function cancel(uint256 which) external observed {
        if (_shadows.length == 0) return;
        uint256 id = 1 + which % _shadows.length;
        Shadow storage s = _shadows[id - 1];
        if (!s.ended) s.scheduled = true;
        vm.startPrank(s.payer);
        DUES.cancel(id);
    }

    function cancelNow(uint256 which) external observed {
        if (_shadows.length == 0 || which % 3 != 0) return;
        uint256 id = 1 + which / 3 % _shadows.length;
        Shadow storage s = _shadows[id - 1];
        s.ended = true;
        vm.startPrank(s.payer);
        DUES.cancelNow(id);
    }

    function resume(uint256 which) external observed {
        if (_shadows.length == 0) return;
        uint256 id = 1 + which % _shadows.length;
        Shadow storage s = _shadows[id - 1];
        bool possible = s.scheduled && !s.ended && time < end(id, s.periods);
        vm.startPrank(s.payer);
        (bool ok,) = address(DUES).call(abi.encodeCall(IDues.resume, (id)));
        assertEq(ok, possible, "resume");
        if (ok) s.scheduled = false;
    }

    /// @dev Somebody tries to act on a subscription that belongs to another.
    function trespass(address stranger, uint256 which, uint256 how) external observed {
        if (_shadows.length == 0) return;
        uint256 id = 1 + which % _shadows.length;
        if (stranger == _shadows[id - 1].payer) return;
        bytes4[3] memory selectors = [IDues.cancel.selector, IDues.cancelNow.selector, IDues.resume.selector];
        vm.startPrank(stranger);
        (bool ok,) = address(DUES).call(abi.encodeWithSelector(selectors[how % 3], id));
        assertFalse(ok, "trespass");
    }

    // KEEPERS

    function charge(address keeper, uint256 which) external observed {
        vm.startPrank(keeper);
        _charge(which % (_shadows.length + 2));
    }

    function chargeBatch(address keeper, uint256[] calldata which) external observed {
        uint256[] memory ids = new uint256[](which.length > 8 ? 8 : which.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            ids[i] = which[i] % (_shadows.length + 2);
        }
        uint256[] memory periods = new uint256[](ids.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            periods[i] = DUES.subscription(ids[i]).periods;
        }
        // One after the other, as the batch does: an earlier item may leave a later one without allowance.
        uint256 snapshot = vm.snapshotState();
        uint256 expected = 0;
        bool[] memory charged = new bool[](ids.length);
        vm.startPrank(keeper);
        for (uint256 i = 0; i < ids.length; ++i) {
            try DUES.charge(ids[i]) {
                charged[i] = true;
                ++expected;
            } catch {}
        }
        vm.stopPrank();
        vm.revertToState(snapshot);
        vm.recordLogs();
        vm.startPrank(keeper);
        assertEq(DUES.chargeBatch(ids), expected, "chargeBatch");
        for (uint256 i = 0; i < ids.length; ++i) {
            if (!charged[i]) continue;
            Shadow storage s = _shadows[ids[i] - 1];
            IDues.Plan memory plan = DUES.plan(s.planId);
            assertEq(DUES.subscription(ids[i]).periods, periods[i] + 1, "periods");
            _count(s);
            paid[s.payer][DevUSD(plan.token)] += plan.price;
        }
    }

    // THE WORLD

    function wait(uint256 how) external {
        time += how % 8 == 0 ? bound(how, 1, 45 days) : bound(how, 1, 3 days);
        vm.warp(time);
    }

    /// @dev As a keeper does: waits for the next subscription to fall due, and charges it within grace.
    function keep(uint256 late) external observed {
        (uint256 next, uint256 due) = (0, type(uint256).max);
        for (uint256 id = 1; id <= _shadows.length; ++id) {
            Shadow storage s = _shadows[id - 1];
            if (s.ended || s.scheduled) continue;
            uint256 instant = end(id, s.periods);
            if (instant + DUES.plan(s.planId).grace > time && instant < due) (next, due) = (id, instant);
        }
        if (next == 0) return;
        uint256 latest = due + DUES.plan(_shadows[next - 1].planId).grace - 1;
        uint256 earliest = due > time ? due : time;
        time = late % 2 == 0 ? earliest : bound(late, earliest, latest);
        vm.warp(time);
        _charge(next);
    }

    /// @dev To the second at which something happens to a subscription.
    function waitForIt(uint256 which, uint256 what) external {
        if (_shadows.length == 0) return;
        uint256 id = 1 + which % _shadows.length;
        uint256 instant = end(id, _shadows[id - 1].periods);
        if (what % 2 == 0) instant += DUES.plan(_shadows[id - 1].planId).grace;
        instant = instant + (what / 2 % 3) - 1;
        if (instant > time) time = instant;
        vm.warp(time);
    }

    function fund(uint256 who, uint256 which, uint256 amount) external {
        (address payer, DevUSD token) = (payers[who % payers.length], tokens[which % tokens.length]);
        amount = bound(amount, 0, 20_000);
        token.mint(payer, amount);
        funded[payer][token] += amount;
    }

    function approve(uint256 who, uint256 which, uint256 amount) external {
        DevUSD token = tokens[which % tokens.length];
        vm.prank(payers[who % payers.length]);
        token.approve(address(DUES), amount % 4 == 0 ? type(uint256).max : bound(amount, 0, 30_000));
    }

    function breakTokens(uint256 who, uint256 how) external {
        BlocklistToken(address(tokens[1])).setBlocked(payers[who % payers.length], how % 4 == 0);
        FalseToken(address(tokens[2])).setBroken(how % 4 == 1);
    }

    // THE SHADOW

    function count() external view returns (uint256) {
        return _shadows.length;
    }

    function shadow(uint256 id) external view returns (Shadow memory) {
        return _shadows[id - 1];
    }

    function tokenCount() external view returns (uint256) {
        return tokens.length;
    }

    function payerCount() external view returns (uint256) {
        return payers.length;
    }

    /// @dev The end of period n, counted by hand.
    function end(uint256 id, uint256 n) public view returns (uint256) {
        Shadow storage s = _shadows[id - 1];
        IDues.Plan memory plan = DUES.plan(s.planId);
        return plan.unit == IDues.IntervalUnit.Month
            ? PlainCalendar.addMonths(s.anchor, plan.count * n)
            : s.anchor + plan.count * n * 1 days;
    }

    function predict(uint256 id) public view returns (IDues.Reason) {
        if (id == 0 || id > _shadows.length) return IDues.Reason.UnknownSubscription;
        Shadow storage s = _shadows[id - 1];
        IDues.Plan memory plan = DUES.plan(s.planId);
        if (s.ended) return IDues.Reason.Cancelled;
        if (time < end(id, s.periods)) return IDues.Reason.NotDue;
        if (s.scheduled) return IDues.Reason.Cancelled;
        if (time >= end(id, s.periods) + plan.grace) return IDues.Reason.Lapsed;
        return _obstacle(plan, s.payer);
    }

    function _obstacle(IDues.Plan memory plan, address payer) private view returns (IDues.Reason) {
        DevUSD token = DevUSD(plan.token);
        if (token.allowance(payer, address(DUES)) < plan.price) return IDues.Reason.Allowance;
        if (token.balanceOf(payer) < plan.price) return IDues.Reason.Balance;
        bool refuses = (token == tokens[1] && BlocklistToken(address(token)).blocked(payer))
            || (token == tokens[2] && FalseToken(address(token)).broken());
        return refuses ? IDues.Reason.Token : IDues.Reason.None;
    }

    function _charge(uint256 id) private {
        IDues.Reason reason = predict(id);
        if (reason != IDues.Reason.Token) assertEq(uint256(DUES.previewCharge(id)), uint256(reason), "preview");
        uint256 before = _balance(id);
        (bool ok, bytes memory data) = address(DUES).call(abi.encodeCall(IDues.charge, (id)));
        assertEq(ok, reason == IDues.Reason.None, "charge");
        if (ok) _paid(id, before);
        else assertEq(data, abi.encodeWithSelector(IDues.ChargeRefused.selector, id, reason), "charge's reason");
    }

    function _paid(uint256 id, uint256 before) private {
        Shadow storage s = _shadows[id - 1];
        IDues.Plan memory plan = DUES.plan(s.planId);
        assertEq(before - DevUSD(plan.token).balanceOf(s.payer), plan.price, "debit by charging");
        paid[s.payer][DevUSD(plan.token)] += plan.price;
        _count(s);
    }

    function _count(Shadow storage s) private {
        if (++s.periods > 1) ++renewals;
        s.lastCharge = time;
    }

    function _balance(uint256 id) private view returns (uint256) {
        if (id == 0 || id > _shadows.length) return 0;
        Shadow storage s = _shadows[id - 1];
        return DevUSD(DUES.plan(s.planId).token).balanceOf(s.payer);
    }

    function _planId(uint256 which) private view returns (uint32) {
        return uint32(1 + which % DUES.planCount());
    }
}
