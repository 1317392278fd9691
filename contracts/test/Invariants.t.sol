// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {TestUSD} from "./doubles/TestUSD.sol";
import {Handler} from "./utils/Handler.sol";
import {Ledger} from "./utils/Ledger.sol";
import {Outcomes} from "./utils/Outcomes.sol";
import {Shadow} from "./utils/Shadow.sol";
import {Test} from "forge-std/Test.sol";

// The safety rules of IDues, after any sequence of acts of merchants, payers, keepers, tokens and time.
//
// What the rules say of single calls is checked in `Handler` (each call does exactly what the shadow predicts) and in
// `Ledger` (the events make sense in their order). An invariant may itself act, as nothing of what it does remains.
//
/// forge-config: default.invariant.runs = 20
/// forge-config: default.invariant.check-interval = 16
contract InvariantsTest is Test {
    Handler private handler;
    IDues private dues;
    Ledger private ledger;

    modifier atItsTime() {
        vm.warp(handler.time());
        _;
    }

    function setUp() public {
        handler = new Handler();
        (dues, ledger) = (handler.DUES(), handler.LEDGER());
        targetContract(address(handler));
        targetSelector(FuzzSelector({addr: address(handler), selectors: handler.acts()}));
    }

    // THE SAFETY RULES

    /// @dev (a) Who pays has agreed to the subscription's plan, or to one that is nowhere better. An allowance does not
    /// make a payer.
    function invariant_a_nobodyPaysWithoutConsent() public view {
        for (uint256 id = 1; id <= dues.subscriptionCount(); ++id) {
            IDues.Subscription memory s = dues.subscription(id);
            Shadow.Sub memory shadow = handler.shadow(id);
            assertEq(s.payer, shadow.payer, "payer");
            assertTrue(handler.hasAgreed(s.payer, shadow.agreed), "agreed");
            assertTrue(s.planId == shadow.agreed || handler.favourable(shadow.agreed, s.planId), "worse");
            assertEq(ledger.debitedForPeriods(id) + ledger.debitedForUsage(id), handler.paid(id), "debited");
        }
        for (uint256 t = 0; t < 3; ++t) {
            (TestUSD token, address bystander) = (handler.tokens(t), handler.bystander());
            assertGe(token.balanceOf(bystander), handler.minted(token, bystander), "bystander");
            assertEq(token.allowance(bystander, address(dues)), type(uint256).max, "bystander's allowance");
        }
    }

    /// @dev (b) A period is paid once, and not before it starts unless its payer chose to.
    function invariant_b_periodsArePaidOnceAndWhenTheyHaveStarted() public {
        for (uint256 id = 1; id <= dues.subscriptionCount(); ++id) {
            uint256 received = ledger.debitedForPeriods(id) + ledger.credited(id);
            assertLe(received, handler.justified(id), "more than has started or was chosen");
            assertEq(dues.subscription(id).periods, handler.shadow(id).periods, "periods");
            assertEq(dues.paidThrough(id), handler.shadow(id).end, "paidThrough");
        }
    }

    /// @dev (c) The sum of all debits is the price of all periods paid, less credits, and the usage; and usage stays
    /// within the cap that the payer agreed to.
    function invariant_c_debitsArePriceTimesPeriodsOrUsageWithinTheCap() public {
        IDues.Record[] memory records = dues.subscriptions(1, type(uint256).max);
        for (uint256 id = 1; id <= records.length; ++id) {
            Shadow.Sub memory shadow = handler.shadow(id);
            IDues.Plan memory plan = dues.plan(records[id - 1].subscription.planId);
            uint256 worth = shadow.worth + plan.price * (records[id - 1].subscription.periods - shadow.before);
            assertEq(ledger.debitedForPeriods(id), worth - ledger.credited(id), "periods");
            assertEq(ledger.debitedForUsage(id), shadow.usage, "usage");
            assertEq(records[id - 1].paid, worth - shadow.credits + shadow.usage, "paid");
            uint256 cap = dues.plan(shadow.agreed).usageCap;
            if (shadow.carried > cap) cap = shadow.carried;
            uint256 last = handler.started(id);
            for (uint256 n = last; n > shadow.before && n + 3 > last; --n) {
                assertLe(dues.usageOf(id, uint16(n)), cap, "usage of a period");
            }
        }
    }

    /// @dev (d) With every token broken, the payer cancels, for little gas; and then there is no instant at which
    /// anything more than the paid time can be charged.
    function invariant_d_thePayerCanAlwaysEndDebits() public atItsTime {
        uint256 count = dues.subscriptionCount();
        if (count == 0) return;
        uint256 id = 1 + handler.steps() % count;
        IDues.Record memory record = dues.subscriptions(id, 1)[0];
        uint256 end = record.paidThrough;
        for (uint256 t = 0; t < 3; ++t) {
            vm.etch(address(handler.tokens(t)), hex"fe");
        }
        bool ended = record.subscription.flags & 2 != 0;
        vm.prank(record.subscription.payer);
        dues.cancel{gas: 40_000}(id);
        if (block.timestamp < end && !ended) _assertNotCharged(id, IDues.Reason.NotDue);
        uint256 instant = block.timestamp;
        for (uint256 i = 0; i < 3; ++i) {
            // The end of the paid time, and two instants in what would have been grace and the next period.
            vm.warp((end > instant ? end : instant) + i * (1 hours - 1));
            _assertNoDebit(id, record.subscription);
        }
        vm.warp(instant);
        vm.prank(record.subscription.payer);
        dues.cancelNow{gas: 40_000}(id);
        _assertNoDebit(id, record.subscription);
    }

    /// @dev (e) The contract holds what it was given by mistake, and nothing else.
    function invariant_e_theContractsBalancesNeverChange() public view {
        for (uint256 t = 0; t < 3; ++t) {
            TestUSD token = handler.tokens(t);
            assertEq(token.balanceOf(address(dues)), handler.donated(token), "token");
        }
        assertEq(address(dues).balance, handler.donatedEther(), "ether");
    }

    /// @dev (f) Refunds stay within payments, and what everybody has is what the events say: debits and refunds, and no
    /// other flow.
    function invariant_f_refundsStayWithinPaymentsAndMoneyIsConserved() public view {
        IDues.Record[] memory records = dues.subscriptions(1, type(uint256).max);
        for (uint256 id = 1; id <= records.length; ++id) {
            assertLe(records[id - 1].refunded, records[id - 1].paid, "refunded more than was paid");
            assertEq(records[id - 1].refunded, handler.shadow(id).refunded, "refunded");
        }
        for (uint256 t = 0; t < 3; ++t) {
            TestUSD token = handler.tokens(t);
            for (uint256 i = 0; i < handler.peopleCount(); ++i) {
                address account = handler.people(i);
                int256 has = int256(token.balanceOf(account) + handler.burnt(token, account));
                int256 had = int256(handler.minted(token, account));
                assertEq(has - had, ledger.flow(address(token), account), "flow");
                assertEq(token.balanceOf(account), handler.balance(token, account), "balance");
            }
        }
    }

    /// @dev (g) A plan's terms are for ever, and a subscription is on another plan only after an act that put it there.
    function invariant_g_termsOfASubscriptionStay() public view {
        assertEq(dues.planCount(), handler.planCount(), "planCount");
        for (uint32 planId = 1; planId <= dues.planCount(); ++planId) {
            IDues.Plan memory shadow = handler.shadowPlan(planId);
            assertEq(abi.encode(dues.plan(planId)), abi.encode(shadow), "plan");
            assertEq(dues.termsHash(planId), handler.firstTerms(planId), "terms");
        }
        for (uint256 id = 1; id <= dues.subscriptionCount(); ++id) {
            Shadow.Sub memory shadow = handler.shadow(id);
            assertEq(dues.subscription(id).planId, shadow.planId, "planId");
            assertEq(dues.subscription(id).anchor, shadow.anchor, "anchor");
        }
    }

    /// @dev (h) The fold of the events is the storage.
    function invariant_h_theEventsGiveThePlans() public view {
        assertEq(dues.planCount(), ledger.planCount(), "planCount");
        for (uint32 planId = 1; planId <= ledger.planCount(); ++planId) {
            assertEq(abi.encode(dues.plan(planId)), abi.encode(ledger.plan(planId)), "plan");
            (address payee, uint64 from) = dues.proposedPayee(planId);
            (address payee_, uint64 from_) = ledger.proposedPayee(planId);
            assertEq(payee, payee_, "proposedPayee");
            assertEq(from, from_, "acceptableFrom");
        }
        for (uint256 i = 0; i < handler.peopleCount(); ++i) {
            address account = handler.people(i);
            for (uint256 m = 0; m < 2; ++m) {
                address merchant = handler.merchants(m);
                assertEq(dues.isOperator(merchant, account), ledger.isOperator(merchant, account), "isOperator");
                assertEq(dues.hasUsedTrial(merchant, account), ledger.hasUsedTrial(merchant, account), "hasUsedTrial");
            }
            assertEq(dues.spentNonces(account, 0), ledger.spentNonces(account, 0), "spentNonces");
            assertEq(dues.spentNonces(account, 5), ledger.spentNonces(account, 5), "spentNonces");
            uint256 last = type(uint256).max >> 8;
            assertEq(dues.spentNonces(account, last), ledger.spentNonces(account, last), "spentNonces");
        }
    }

    /// @dev (h) The same for subscriptions.
    function invariant_h_theEventsGiveTheSubscriptions() public view {
        IDues.Record[] memory records = dues.subscriptions(0, type(uint256).max);
        assertEq(records.length, ledger.subscriptionCount(), "subscriptionCount");
        assertEq(records.length, dues.subscriptionCount(), "subscriptionCount");
        for (uint256 id = 1; id <= records.length; ++id) {
            IDues.Record memory r = records[id - 1];
            // All fields of a subscription are all bits of its slot.
            assertEq(abi.encode(r.subscription), abi.encode(ledger.subscription(id)), "subscription");
            assertEq(r.paidThrough, ledger.paidThrough(id), "paidThrough");
            assertEq(r.scheduledPlanId, ledger.scheduled(id), "scheduledPlanId");
            assertEq(r.paid, ledger.debitedForPeriods(id) + ledger.debitedForUsage(id), "paid");
            assertEq(r.refunded, ledger.refunded(id), "refunded");
        }
        if (records.length == 0) return;
        // One after the other, as these are many.
        uint256 one = 1 + handler.steps() % records.length;
        for (uint256 key = 0; key < 12; ++key) {
            assertEq(dues.isKeySpent(one, bytes32(key)), ledger.isKeySpent(one, bytes32(key)), "isKeySpent");
        }
        uint16 most = records[one - 1].subscription.periods;
        for (uint16 n = most < 6 ? most + 1 : 6; n > 0; --n) {
            assertEq(dues.usageOf(one, n), ledger.usageOf(one, n), "usageOf");
        }
    }

    // THE VIEWS

    function invariant_previewChargeIsAsPredicted() public atItsTime {
        for (uint256 id = 0; id <= handler.subscriptionCount() + 1; ++id) {
            assertEq(uint256(dues.previewCharge(id)), uint256(handler.preview(id)), "previewCharge");
        }
    }

    /// @dev And where it stood before is somewhere from which it can get there: see `Outcomes.mayFollow`. What was not
    /// acted on since has not moved.
    function invariant_statusesMoveAlongAllowedEdges() public atItsTime {
        for (uint256 id = 0; id <= handler.subscriptionCount() + 1; ++id) {
            assertEq(uint256(dues.statusOf(id)), uint256(handler.status(id)), "status");
            assertEq(uint256(dues.statusOf(id)), uint256(handler.lastStatus(id)), "lastStatus");
        }
    }

    /// @dev What is previewed is what is debited, if the token plays along.
    function invariant_previewChangeIsWhatChangeNowDebits() public atItsTime {
        uint256 count = dues.subscriptionCount();
        if (count == 0) return;
        uint256 id = 1 + handler.steps() % count;
        IDues.Subscription memory s = dues.subscription(id);
        IDues.Plan memory p = dues.plan(s.planId);
        for (uint32 planId = 1; planId <= dues.planCount(); ++planId) {
            IDues.Plan memory q = dues.plan(planId);
            if (q.merchant != p.merchant || q.token != p.token || q.retired || planId == s.planId) continue;
            try dues.previewChange(id, planId, 2) returns (uint128 amount, uint128, uint64 end) {
                return _assertChanges(id, s.payer, planId, amount, end);
            } catch {}
        }
    }

    // WHAT ALL THIS IS WORTH

    /// @dev Every function has succeeded, every error has been predicted, and every status has followed every other
    /// that it may. The dice are the same in every run.
    function test_everythingHappens() public {
        bytes32[] memory outcomes = Outcomes.all();
        uint256[] memory seen = new uint256[](outcomes.length);
        bytes4[] memory acts = handler.acts();
        uint256 dice = 0;
        for (uint256 run = 0; run < 24; ++run) {
            handler = new Handler();
            for (uint256 i = 0; i < 256; ++i) {
                bytes32 d = keccak256(abi.encode(++dice));
                bytes memory call = abi.encodePacked(acts[uint256(d) % acts.length]);
                for (uint256 argument = 0; argument < 6; ++argument) {
                    call = abi.encodePacked(call, keccak256(abi.encode(d, argument)));
                }
                vm.resetGasMetering();
                (bool ok, bytes memory err) = address(handler).call(call);
                assertTrue(ok, string(err));
            }
            for (uint256 i = 0; i < outcomes.length; ++i) {
                seen[i] += handler.reached(outcomes[i]);
            }
        }
        for (uint256 i = 0; i < outcomes.length; ++i) {
            assertGt(seen[i], 0, vm.toString(outcomes[i]));
        }
    }

    function _assertChanges(uint256 id, address payer, uint32 planId, uint128 amount, uint64 end) private {
        IDues.Plan memory q = dues.plan(planId);
        TestUSD token = TestUSD(q.token);
        if (amount != 0) {
            vm.expectRevert(abi.encodeWithSelector(IDues.AmountExceedsMax.selector, amount, amount - 1));
            vm.prank(payer);
            dues.changeNow(id, planId, 2, amount - 1);
        }
        uint256 before = token.balanceOf(payer);
        vm.prank(payer);
        try dues.changeNow(id, planId, 2, amount) {
            if (payer != q.payee) assertEq(before - token.balanceOf(payer), amount, "amount");
            assertEq(dues.paidThrough(id), end, "newPaidThrough");
            assertEq(dues.subscription(id).planId, planId, "planId");
        } catch (bytes memory err) {
            assertEq(bytes4(err), IDues.ChargeRefused.selector, "another error");
            assertGe(uint8(err[67]), uint8(IDues.Reason.Allowance), "another reason");
        }
    }

    /// @dev Neither for a period nor for usage.
    function _assertNoDebit(uint256 id, IDues.Subscription memory s) private {
        _assertNotCharged(id, IDues.Reason.Cancelled);
        address merchant = dues.plan(s.planId).merchant;
        vm.expectRevert(abi.encodeWithSelector(IDues.PeriodClosed.selector, id, s.periods));
        vm.prank(merchant);
        dues.chargeUsage(id, s.periods, 1, "fresh");
    }

    function _assertNotCharged(uint256 id, IDues.Reason reason) private {
        vm.expectRevert(abi.encodeWithSelector(IDues.ChargeRefused.selector, id, reason));
        dues.chargeOne(id);
    }
}
