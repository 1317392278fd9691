// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../../src/IDues.sol";
import {TestUSD} from "../doubles/TestUSD.sol";
import {PlainCalendar} from "./PlainCalendar.sol";
import {Test} from "forge-std/Test.sol";
import {Vm} from "forge-std/Vm.sol";

/// @notice What every test needs: the contract, a token, the people, and a month plan that begins on a 31 January.
abstract contract Base is Test {
    uint96 internal constant PRICE = 99_990_000;
    bytes32 internal constant REF = bytes32(uint256(0x0192f3a47b1c7def8a1122334455667788));
    /// @dev 31 January 2026, 10:00 UTC.
    uint256 internal constant START = 1_769_853_600;
    uint256 internal constant GRACE = 3 days;

    struct FuzzedTerms {
        uint96 price;
        address payee;
        bool month;
        uint16 count;
        uint32 trial;
        uint32 grace;
        uint96 usageCap;
    }

    IDues internal dues;
    TestUSD internal token;

    address internal merchant = makeAddr("merchant");
    address internal payee = makeAddr("payee");
    address internal payer = makeAddr("payer");
    address internal keeper = makeAddr("keeper");

    function setUp() public virtual {
        vm.warp(START);
        dues = IDues(deployCode("contracts/src/Dues.sol:Dues"));
        token = _deployToken();
        _fund(token, payer);
    }

    function _deployToken() internal virtual returns (TestUSD) {
        return new TestUSD();
    }

    function _terms() internal view returns (IDues.PlanTerms memory) {
        return IDues.PlanTerms({
            token: address(token),
            price: PRICE,
            payee: payee,
            unit: IDues.IntervalUnit.Month,
            count: 1,
            trial: 0,
            grace: uint32(GRACE),
            usageCap: 0
        });
    }

    /// @dev Any terms that `createPlan` accepts, from whatever the fuzzer says.
    function _terms(FuzzedTerms memory f) internal view returns (IDues.PlanTerms memory terms) {
        terms.token = address(token);
        terms.price = uint96(bound(f.price, 1, type(uint96).max));
        bool bad = f.payee == address(0) || f.payee == address(dues) || f.payee == address(token);
        terms.payee = bad || f.payee == payer ? payee : f.payee;
        terms.unit = f.month ? IDues.IntervalUnit.Month : IDues.IntervalUnit.Day;
        terms.count = uint16(bound(f.count, 1, f.month ? 120 : 3660));
        terms.trial = uint32(bound(f.trial, 0, 366 days));
        terms.grace = uint32(bound(f.grace, 1 hours, uint256(terms.count) * (f.month ? 28 days : 1 days)));
        terms.usageCap = f.usageCap;
    }

    function _createPlan(IDues.PlanTerms memory terms) internal returns (uint32) {
        vm.prank(merchant);
        return dues.createPlan(terms);
    }

    function _createPlan() internal returns (uint32) {
        return _createPlan(_terms());
    }

    function _createTrialPlan(uint32 trial) internal returns (uint32) {
        IDues.PlanTerms memory terms = _terms();
        terms.trial = trial;
        return _createPlan(terms);
    }

    /// @dev The month plan with another price and interval.
    function _createPlan(uint96 price, IDues.IntervalUnit unit, uint16 count) internal returns (uint32) {
        IDues.PlanTerms memory terms = _terms();
        (terms.price, terms.unit, terms.count) = (price, unit, count);
        if (unit == IDues.IntervalUnit.Day && count < 3) terms.grace = uint32(count * 1 days);
        return _createPlan(terms);
    }

    function _createUsagePlan(uint96 usageCap) internal returns (uint32) {
        IDues.PlanTerms memory terms = _terms();
        terms.usageCap = usageCap;
        return _createPlan(terms);
    }

    function _createPlanIn(TestUSD token_) internal returns (uint32) {
        IDues.PlanTerms memory terms = _terms();
        terms.token = address(token_);
        return _createPlan(terms);
    }

    /// @dev Money for, and an allowance of, a thousand periods.
    function _fund(TestUSD token_, address account) internal {
        token_.mint(account, 1000 * uint256(PRICE));
        vm.prank(account);
        token_.approve(address(dues), 1000 * uint256(PRICE));
    }

    /// @dev More money than anything costs, and an allowance without limit.
    function _fundWithoutLimit(TestUSD token_, address account) internal {
        deal(address(token_), account, type(uint128).max);
        vm.prank(account);
        token_.approve(address(dues), type(uint256).max);
    }

    function _subscribe(address account, uint32 planId) internal returns (uint256) {
        vm.prank(account);
        return dues.subscribe(planId, REF);
    }

    /// @dev A subscription of `payer` to a month plan, its first period paid.
    function _subscribe() internal returns (uint256) {
        return _subscribe(payer, _createPlan());
    }

    /// @dev A subscription of `payer` with `count` periods paid.
    function _subscribePrepaid(uint32 planId, uint16 count) internal returns (uint256) {
        vm.prank(payer);
        return dues.subscribePrepaid(planId, REF, count, true);
    }

    function _scheduleChange(uint256 id, uint32 planId) internal {
        vm.prank(payer);
        dues.scheduleChange(id, planId);
    }

    function _end(uint256 anchor, IDues.IntervalUnit unit, uint256 count, uint256 n) internal pure returns (uint256) {
        return
            unit == IDues.IntervalUnit.Month ? PlainCalendar.addMonths(anchor, count * n) : anchor + count * n * 1 days;
    }

    /// @dev The end of month `n` of a subscription that began at `START`.
    function _month(uint256 n) internal pure returns (uint256) {
        return PlainCalendar.addMonths(START, n);
    }

    function _ids(uint256 first) internal pure returns (uint256[] memory ids) {
        ids = new uint256[](1);
        ids[0] = first;
    }

    function _ids(uint256 first, uint256 second) internal pure returns (uint256[] memory ids) {
        ids = new uint256[](2);
        (ids[0], ids[1]) = (first, second);
    }

    function _ids(uint256 first, uint256 second, uint256 third) internal pure returns (uint256[] memory ids) {
        ids = new uint256[](3);
        (ids[0], ids[1], ids[2]) = (first, second, third);
    }

    function _record(uint256 id) internal view returns (IDues.Record memory) {
        return dues.subscriptions(id, 1)[0];
    }

    /// @dev How many events Dues has emitted since `vm.recordLogs`.
    function _countLogs() internal returns (uint256 count) {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(dues)) ++count;
        }
    }

    function _assertSame(IDues.Subscription memory a, IDues.Subscription memory b) internal pure {
        assertEq(abi.encode(a), abi.encode(b), "subscription changed");
    }

    function _assertStatus(uint256 id, IDues.Status status) internal view {
        assertEq(uint256(dues.statusOf(id)), uint256(status), "status");
    }

    function _assertPreview(uint256 id, IDues.Reason reason) internal view {
        assertEq(uint256(dues.previewCharge(id)), uint256(reason), "reason");
    }
}
