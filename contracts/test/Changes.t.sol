// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Changing} from "./utils/Changing.sol";

// any sequence of changes, prepayments, charges, refunds and usage
// ├── every debit is exactly what a plain model of it says
// ├── the sum of all debits is what the record says was paid
// ├── the time that was had and the time that is left are worth no more than what was paid for them
// └── and, with changes only, less than that by less than one base unit for each change
contract ChangesTest is Changing {
    /// @dev Every length of a period of the plans below divides it: 1, 7, 28, 29, 30 and 31 days.
    uint256 private constant SCALE = 377_580 days;
    uint96 private constant CAP = 1000;

    struct Model {
        uint256 plan;
        uint256 anchor;
        uint256 periods;
        uint256 paid;
        uint256 refunded;
        uint256 usage;
        /// @dev Time of earlier plans, worth that many base units times `SCALE`.
        uint256 had;
        /// @dev How many of the periods are in `had` already.
        uint256 counted;
        uint256 changes;
        uint256 scheduled;
    }

    IDues.PlanTerms[7] private terms;
    Model private m;
    uint256 private id;
    uint256 private time = START;
    uint256 private keys;

    function setUp() public override {
        super.setUp();
        // The first four cost exactly the same for the same time, so that one can change between them at will.
        _add(10_518_984, IDues.IntervalUnit.Month, 1);
        _add(345_600, IDues.IntervalUnit.Day, 1);
        _add(2_419_200, IDues.IntervalUnit.Day, 7);
        _add(10_368_000, IDues.IntervalUnit.Day, 30);
        _add(11_000_003, IDues.IntervalUnit.Month, 1);
        _add(400_001, IDues.IntervalUnit.Day, 1);
        _add(9_999_991, IDues.IntervalUnit.Month, 1);
        deal(address(token), payer, type(uint128).max);
        vm.prank(payer);
        token.approve(address(dues), type(uint256).max);
        id = _subscribe(payer, 1);
        m = Model(1, START, 1, terms[0].price, 0, 0, 0, 0, 0, 0);
        deal(address(token), merchant, type(uint128).max);
        vm.prank(merchant);
        token.approve(address(dues), type(uint256).max);
    }

    function testFuzz_noSequenceOfChangesGivesMoreTimeThanWasPaidFor(uint256[24] memory seeds) public {
        for (uint256 i = 0; i < seeds.length; ++i) {
            uint256 what = seeds[i] % 8;
            if (what < 2) _wait(seeds[i] >> 8);
            else if (what < 6) _change(seeds[i] >> 8);
            else if (what < 7) _prepayModelled(seeds[i] >> 8);
            else _charge();
            _check();
            uint256 worth = _worth();
            // Nothing is lost either, but what rounding takes.
            assertLe(m.paid * SCALE - worth, m.changes * (SCALE - 1), "lost");
        }
    }

    function testFuzz_theRecordAgreesWithTheMoneyWhateverHappens(uint256[32] memory seeds) public {
        for (uint256 i = 0; i < seeds.length; ++i) {
            uint256 what = seeds[i] % 12;
            uint256 seed = seeds[i] >> 8;
            if (what < 2) _wait(seed);
            else if (what < 4) _change(seed);
            else if (what < 5) _prepayModelled(seed);
            else if (what < 7) _charge();
            else if (what < 8) _scheduleModelled(seed);
            else if (what < 9) _revoke();
            else if (what < 10) _refundModelled(seed);
            else if (what < 11) _useModelled(seed);
            else _migrate(seed);
            _check();
        }
    }

    // WHAT HAPPENS

    /// @dev Often a few seconds, sometimes weeks; never beyond the shortest grace after the paid time.
    function _wait(uint256 seed) private {
        uint256 last = _stop(m.periods) + 1 days - 1;
        uint256 most = seed % 3 == 0 ? 60 : seed % 3 == 1 ? 3 days : 40 days;
        uint256 to = time + (seed >> 8) % most;
        time = to > last ? last : to;
        vm.warp(time);
    }

    function _change(uint256 seed) private {
        uint256 to = 1 + seed % 7;
        uint256 end = _stop(m.periods);
        (IDues.PlanTerms memory p, IDues.PlanTerms memory q) = (terms[m.plan - 1], terms[to - 1]);
        uint256 count = 1 + (seed >> 8) % (q.unit == IDues.IntervalUnit.Month ? 3 : 40);
        bool upgrade = uint256(q.price) * _nominal(p) >= uint256(p.price) * _nominal(q);
        (uint256 credit, uint256 had) = _creditAndHad();
        uint256 price = uint256(q.price) * count;
        if (to == m.plan || time >= end || !upgrade || credit > price) return;

        _changeNow(id, uint32(to), uint16(count), uint128(price - credit));
        m.had += had;
        (m.plan, m.anchor, m.periods, m.counted, m.scheduled) = (to, time, count, 0, 0);
        m.paid += price - credit;
        ++m.changes;
    }

    function _prepayModelled(uint256 seed) private {
        if (m.scheduled != 0) return;
        uint256 count = 1 + seed % 3;
        _prepay(id, uint16(count));
        m.periods += count;
        m.paid += count * terms[m.plan - 1].price;
    }

    function _charge() private {
        if (time < _stop(m.periods)) return;
        if (m.scheduled != 0) {
            (IDues.PlanTerms memory p, IDues.PlanTerms memory q) = (terms[m.plan - 1], terms[m.scheduled - 1]);
            m.had += (m.periods - m.counted) * p.price * SCALE;
            if (p.unit != q.unit || p.count != q.count) (m.anchor, m.periods) = (_stop(m.periods), 0);
            m.counted = m.periods;
            (m.plan, m.scheduled) = (m.scheduled, 0);
        }
        dues.chargeOne(id);
        ++m.periods;
        m.paid += terms[m.plan - 1].price;
    }

    function _scheduleModelled(uint256 seed) private {
        uint256 to = 1 + seed % 7;
        if (to == m.plan) return;
        _schedule(id, uint32(to));
        m.scheduled = to;
    }

    function _revoke() private {
        if (m.scheduled == 0) return;
        vm.prank(payer);
        dues.revokeChange(id);
        m.scheduled = 0;
    }

    function _refundModelled(uint256 seed) private {
        uint256 kept = m.paid - m.refunded;
        if (kept == 0) return;
        uint256 amount = 1 + seed % kept;
        vm.prank(merchant);
        dues.refund(id, uint128(amount), bytes32(++keys));
        m.refunded += amount;
    }

    function _useModelled(uint256 seed) private {
        uint256 start;
        uint256 period = m.periods;
        for (; period != 0; --period) {
            start = _stop(period - 1);
            if (start <= time) break;
        }
        if (period <= m.counted) return;
        uint256 left = CAP - dues.usageOf(id, uint16(period));
        if (left == 0) return;
        uint256 amount = 1 + seed % left;
        vm.prank(merchant);
        dues.chargeUsage(id, uint16(period), uint96(amount), bytes32(++keys));
        m.usage += amount;
        m.paid += amount;
    }

    function _migrate(uint256 seed) private {
        uint256 to = 1 + seed % 7;
        (IDues.PlanTerms memory p, IDues.PlanTerms memory q) = (terms[m.plan - 1], terms[to - 1]);
        bool better = p.unit == q.unit && p.count == q.count && q.price <= p.price;
        if (to == m.plan || !better || m.scheduled != 0) return;
        vm.prank(merchant);
        dues.migrate(id, uint32(to));
        m.scheduled = to;
    }

    // WHAT MUST BE TRUE

    function _check() private view {
        IDues.Record memory r = _record(id);
        assertEq(r.subscription.planId, m.plan, "plan");
        assertEq(r.subscription.anchor, m.anchor, "anchor");
        assertEq(r.subscription.periods, m.periods, "periods");
        assertEq(r.subscription.flags, m.scheduled == 0 ? 0 : 8, "flags");
        assertEq(r.scheduledPlanId, m.scheduled, "scheduled");
        assertEq(r.paidThrough, _stop(m.periods), "paid through");
        assertEq(r.paid, m.paid, "paid");
        assertEq(r.refunded, m.refunded, "refunded");
        assertEq(type(uint128).max - token.balanceOf(payer), m.paid - m.refunded, "money");
        assertEq(token.balanceOf(payee), m.paid, "received");
        assertGe((m.paid - m.usage) * SCALE, _worth(), "more time than was paid for");
    }

    /// @dev What all time that was had and is left is worth, times `SCALE`.
    function _worth() private view returns (uint256) {
        return m.had + (m.periods - m.counted) * terms[m.plan - 1].price * SCALE;
    }

    /// @dev What is left of the paid time, as it is credited, and what was had of it, times `SCALE`.
    function _creditAndHad() private view returns (uint256 credit, uint256 had) {
        uint256 price = terms[m.plan - 1].price;
        uint256 end = _stop(m.counted);
        for (uint256 n = m.counted + 1; n <= m.periods; ++n) {
            uint256 start = end;
            end = _stop(n);
            if (time >= end) {
                had += price * SCALE;
            } else if (time < start) {
                credit += price;
            } else {
                credit += price * (end - time) / (end - start);
                had += price * (time - start) * (SCALE / (end - start));
            }
        }
        if (credit > m.paid - m.refunded) credit = m.paid - m.refunded;
    }

    function _stop(uint256 n) private view returns (uint256) {
        IDues.PlanTerms memory p = terms[m.plan - 1];
        return _end(m.anchor, p.unit, p.count, n);
    }

    function _nominal(IDues.PlanTerms memory p) private pure returns (uint256) {
        return p.count * (p.unit == IDues.IntervalUnit.Month ? uint256(365.2425 days) / 12 : 1 days);
    }

    function _add(uint96 price, IDues.IntervalUnit unit, uint16 count) private {
        IDues.PlanTerms memory t = _terms();
        (t.price, t.unit, t.count, t.grace, t.usageCap) = (price, unit, count, 1 days, CAP);
        terms[_createPlan(t) - 1] = t;
    }
}
