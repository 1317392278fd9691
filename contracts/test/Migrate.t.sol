// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {TestUSD} from "./doubles/TestUSD.sol";
import {Changing} from "./utils/Changing.sol";

// migrate
// ├── when there is no such subscription: it reverts with UnknownSubscription
// ├── when the caller is not the merchant, but the payer or an operator: it reverts with NotMerchant
// ├── when a change is scheduled, by whomever: it reverts with ChangePending
// ├── when the new plan does not exist or is retired: it reverts with UnknownPlan or RetiredPlan
// ├── when it is the same plan, or one of another merchant or token: it reverts with PlansUnrelated
// ├── when the new plan is worse in anything, or pays, or may soon pay, another account: it reverts with NotFavourable
// ├── when cancelled, ended or lapsed: it reverts with NotChangeable
// └── when all is well
//     ├── it emits ChangeScheduled and debits nothing
//     ├── the paid time, what was paid and what it is worth in a change stay as they are
//     ├── the next period is charged at the new price
//     └── the payer can revoke it, replace it, change at once or cancel
contract MigrateTest is Changing {
    uint32 private from;
    uint256 private id;

    function setUp() public override {
        super.setUp();
        from = _createPlan(_old());
        id = _subscribe(payer, from);
    }

    function testFuzz_theNextPeriodIsOneOfAPlanThatIsNowhereWorse(
        uint96 price,
        uint96 cap,
        uint32 grace,
        uint32 trial,
        uint256 time
    ) public {
        IDues.PlanTerms memory terms = _old();
        terms.price = uint96(bound(price, 1, BASIC));
        terms.usageCap = uint96(bound(cap, 0, 1000));
        terms.grace = uint32(bound(grace, GRACE, 28 days));
        terms.trial = uint32(bound(trial, 0, 366 days));
        uint32 to = _createPlan(terms);
        vm.warp(bound(time, START, _month(1) + GRACE - 1));
        uint256 before = token.balanceOf(payer);
        IDues.Record memory expected = _record(id);
        (expected.subscription.flags, expected.scheduledPlanId) = (8, to);
        vm.expectEmit(address(dues));
        emit IDues.ChangeScheduled(id, from, payer, to, true);
        vm.recordLogs();
        _migrate(to);
        assertEq(_countLogs(), 1);
        assertEq(token.balanceOf(payer), before);
        assertEq(abi.encode(_record(id)), abi.encode(expected));

        // Within the old grace, however long the new one is.
        vm.warp(_month(1) + GRACE);
        _assertStatus(id, IDues.Status.Lapsed);
        vm.warp(_month(1) + GRACE - 1);
        vm.expectEmit(address(dues));
        emit IDues.PlanChanged(id, to, payer, from, uint40(START), 2, uint64(_month(2)), 0);
        vm.expectEmit(address(dues));
        emit IDues.Charged(id, to, payer, 2, uint64(_month(2)), terms.price);
        dues.chargeOne(id);
        _assertOn(id, to, START, 2, _month(2), BASIC + terms.price);
    }

    /// @dev A lower price for later does not make what was paid worth less.
    function test_theCreditOfAChangeStaysAsItWas() public {
        _prepay(id, 2);
        IDues.PlanTerms memory terms = _old();
        terms.price = 1;
        _migrate(_createPlan(terms));
        uint32 dearer = _monthly(3 * BASIC);
        (uint128 amount, uint128 credit,) = dues.previewChange(id, dearer, 1);
        assertEq(credit, 3 * BASIC);
        assertEq(amount, 0);
        _changeNow(id, dearer, 1, 0);
        _assertOn(id, dearer, START, 1, _month(1), 3 * uint256(BASIC));
    }

    function test_thePayerCanReplaceIt() public {
        _migrate(_createPlan(_old()));
        uint32 other = _monthly(PRO);
        vm.expectEmit(address(dues));
        emit IDues.ChangeScheduled(id, from, payer, other, false);
        _schedule(id, other);
        assertEq(_record(id).scheduledPlanId, other);
    }

    function test_thePayerCanCancel() public {
        _migrate(_createPlan(_old()));
        vm.prank(payer);
        dues.cancel(id);
        vm.warp(_month(1));
        bytes memory reason = abi.encodeWithSelector(IDues.ChargeRefused.selector, id, IDues.Reason.Cancelled);
        _assertRefuses(keeper, id, abi.encodeCall(IDues.chargeOne, (id)), reason);
    }

    function test_aTrialStaysAsItIs() public {
        IDues.PlanTerms memory terms = _old();
        terms.trial = 14 days;
        id = _subscribe(payer, _createPlan(terms));
        (terms.price, terms.trial) = (BASIC - 1, 0);
        uint32 to = _createPlan(terms);
        _migrate(to);
        _assertStatus(id, IDues.Status.Trialing);
        assertEq(dues.paidThrough(id), START + 14 days);
        vm.warp(START + 14 days);
        dues.chargeOne(id);
        _assertOn(id, to, START + 14 days, 1, _monthAfter(START + 14 days), BASIC - 1);
    }

    // WORSE TERMS

    function test_revertsWhenThePriceIsHigher() public {
        IDues.PlanTerms memory terms = _old();
        terms.price += 1;
        _assertNotFavourable(terms);
    }

    function test_revertsWhenTheUsageCapIsHigher() public {
        IDues.PlanTerms memory terms = _old();
        terms.usageCap += 1;
        _assertNotFavourable(terms);
    }

    function test_revertsWhenTheGraceIsShorter() public {
        IDues.PlanTerms memory terms = _old();
        terms.grace -= 1;
        _assertNotFavourable(terms);
    }

    function test_revertsWhenTheIntervalIsAnother() public {
        IDues.PlanTerms memory terms = _old();
        terms.count = 2;
        _assertNotFavourable(terms);

        id = _subscribe(payer, _daily(BASIC, 28));
        terms.count = 28;
        _assertNotFavourable(terms);
    }

    function test_revertsWhenThePayeeIsAnother() public {
        IDues.PlanTerms memory terms = _old();
        terms.payee = merchant;
        _assertNotFavourable(terms);
    }

    /// @dev Else two moves, of the payee and of the subscription, would pass for one that needs no notice.
    function test_revertsWhenAnotherPayeeIsProposed() public {
        IDues.PlanTerms memory terms = _old();
        uint32 to = _createPlan(terms);
        vm.prank(merchant);
        dues.proposePayee(to, keeper);
        bytes memory reason = abi.encodeWithSelector(IDues.NotFavourable.selector, from, to);
        _assertRefuses(merchant, id, _call(to), reason);
        vm.warp(START + 2 days);
        _assertRefuses(merchant, id, _call(to), reason);
        vm.prank(merchant);
        dues.proposePayee(to, address(0));
        _migrate(to);
    }

    function test_aProposalForTheOldPlanIsNoObstacle() public {
        uint32 to = _createPlan(_old());
        vm.prank(merchant);
        dues.proposePayee(from, keeper);
        _migrate(to);
        assertEq(_record(id).scheduledPlanId, to);
    }

    function test_revertsAlsoWhenAllElseIsBetter() public {
        IDues.PlanTerms memory terms = _old();
        (terms.price, terms.usageCap, terms.grace) = (1, 0, 28 days);
        uint256 snapshot = vm.snapshotState();
        terms.price = BASIC + 1;
        _assertNotFavourable(terms);
        vm.revertToState(snapshot);
        (terms.price, terms.usageCap) = (1, 1001);
        _assertNotFavourable(terms);
        vm.revertToState(snapshot);
        (terms.usageCap, terms.grace) = (0, uint32(GRACE) - 1);
        _assertNotFavourable(terms);
        vm.revertToState(snapshot);
        (terms.grace, terms.payee) = (28 days, keeper);
        _assertNotFavourable(terms);
    }

    // REFUSALS

    function testFuzz_revertsWhenThereIsNoSuchSubscription(uint256 unknown) public {
        vm.assume(unknown != id);
        uint32 to = _createPlan(_old());
        vm.expectRevert(abi.encodeWithSelector(IDues.UnknownSubscription.selector, unknown));
        vm.prank(merchant);
        dues.migrate(unknown, to);
    }

    function testFuzz_revertsWhenTheCallerIsNotTheMerchant(address caller) public {
        vm.assume(caller != merchant);
        uint32 to = _createPlan(_old());
        _assertNotMerchant(caller, to);
        _assertNotMerchant(payer, to);
        vm.prank(merchant);
        dues.setOperator(keeper, true);
        _assertNotMerchant(keeper, to);
    }

    function testFuzz_revertsWhenTheNewPlanDoesNotExist(uint32 planId) public {
        vm.assume(planId != from);
        _assertRefuses(merchant, id, _call(planId), abi.encodeWithSelector(IDues.UnknownPlan.selector, planId));
    }

    function test_revertsWhenTheNewPlanIsRetired() public {
        uint32 to = _createPlan(_old());
        vm.prank(merchant);
        dues.retirePlan(to);
        _assertRefuses(merchant, id, _call(to), abi.encodeWithSelector(IDues.RetiredPlan.selector, to));
    }

    function test_revertsWhenThePlansAreUnrelated() public {
        _assertRefuses(merchant, id, _call(from), _unrelated(from, from));
        IDues.PlanTerms memory terms = _old();
        vm.prank(keeper);
        uint32 foreign = dues.createPlan(terms);
        _assertRefuses(merchant, id, _call(foreign), _unrelated(from, foreign));
        terms.token = address(new TestUSD());
        uint32 elsewhere = _createPlan(terms);
        _assertRefuses(merchant, id, _call(elsewhere), _unrelated(from, elsewhere));
    }

    function test_revertsWhenCancelledByWhomeverAndHowever() public {
        uint32 to = _createPlan(_old());
        address[2] memory parties = [payer, merchant];
        for (uint256 i = 0; i < 2; ++i) {
            uint256 snapshot = vm.snapshotState();
            vm.prank(parties[i]);
            dues.cancel(id);
            _assertRefuses(merchant, id, _call(to), _notChangeable(id, IDues.Reason.Cancelled));
            vm.revertToState(snapshot);
            vm.prank(parties[i]);
            dues.cancelNow(id);
            _assertRefuses(merchant, id, _call(to), _notChangeable(id, IDues.Reason.Cancelled));
            vm.revertToState(snapshot);
        }
    }

    function testFuzz_revertsWhenLapsed(uint256 time) public {
        uint32 to = _createPlan(_old());
        vm.warp(bound(time, _month(1) + GRACE, type(uint40).max));
        _assertRefuses(merchant, id, _call(to), _notChangeable(id, IDues.Reason.Lapsed));
    }

    function test_revertsWhenAChangeIsScheduledByWhomever() public {
        uint32 to = _createPlan(_old());
        _schedule(id, to);
        _assertRefuses(merchant, id, _call(to), abi.encodeWithSelector(IDues.ChangePending.selector, id));
        // Before anything is said of the plan.
        _assertRefuses(merchant, id, _call(99), abi.encodeWithSelector(IDues.ChangePending.selector, id));
        vm.prank(payer);
        dues.revokeChange(id);
        _migrate(to);
        _assertRefuses(merchant, id, _call(to), abi.encodeWithSelector(IDues.ChangePending.selector, id));
    }

    /// @dev The plan before: every one of its terms can be made better and worse.
    function _old() private view returns (IDues.PlanTerms memory terms) {
        terms = _terms();
        (terms.price, terms.usageCap) = (BASIC, 1000);
    }

    function _call(uint32 to) private view returns (bytes memory) {
        return abi.encodeCall(IDues.migrate, (id, to));
    }

    function _migrate(uint32 to) private {
        vm.prank(merchant);
        dues.migrate(id, to);
    }

    function _assertNotFavourable(IDues.PlanTerms memory terms) private {
        uint32 present = dues.subscription(id).planId;
        uint32 to = _createPlan(terms);
        bytes memory reason = abi.encodeWithSelector(IDues.NotFavourable.selector, present, to);
        _assertRefuses(merchant, id, _call(to), reason);
    }

    function _assertNotMerchant(address caller, uint32 to) private {
        bytes memory reason = abi.encodeWithSelector(IDues.NotMerchant.selector, from, caller);
        _assertRefuses(caller, id, _call(to), reason);
    }
}
