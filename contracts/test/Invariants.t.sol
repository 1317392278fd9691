// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {DevUSD} from "../devnet/DevUSD.sol";
import {IDues} from "../src/IDues.sol";
import {Handler} from "./utils/Handler.sol";
import {Ledger} from "./utils/Ledger.sol";
import {Test} from "forge-std/Test.sol";

// The safety rules of IDues, after any sequence of acts of merchants, payers, keepers, tokens and time.
//
// What the rules say of single calls is checked in `Handler` (each call does exactly what the shadow predicts) and in
// `Ledger` (the events make sense in their order).
contract InvariantsTest is Test {
    Handler private handler;

    function setUp() public {
        handler = new Handler();
        targetContract(address(handler));
    }

    /// @dev (a) and (c): what left a wallet is the price of the periods of its own subscriptions, and no more.
    function invariant_aWalletPaysForItsOwnPeriodsOnly() public view {
        for (uint256 t = 0; t < handler.tokenCount(); ++t) {
            DevUSD token = handler.tokens(t);
            for (uint256 i = 0; i < handler.payerCount(); ++i) {
                address payer = handler.payers(i);
                uint256 owed = 0;
                for (uint256 id = 1; id <= handler.count(); ++id) {
                    Handler.Shadow memory s = handler.shadow(id);
                    IDues.Plan memory plan = handler.DUES().plan(s.planId);
                    if (s.payer == payer && plan.token == address(token)) owed += s.periods * plan.price;
                }
                assertEq(handler.funded(payer, token) - token.balanceOf(payer), owed, "owed");
                assertEq(handler.paid(payer, token), owed, "paid");
            }
        }
    }

    /// @dev (b): a period is paid once, never before it starts, never after its grace.
    function invariant_periodsArePaidOnceAndInTime() public view {
        for (uint256 id = 1; id <= handler.count(); ++id) {
            Handler.Shadow memory s = handler.shadow(id);
            IDues.Subscription memory stored = handler.DUES().subscription(id);
            assertEq(stored.periods, s.periods, "periods");
            assertEq(handler.DUES().paidThrough(id), handler.end(id, s.periods), "paidThrough");
            if (s.periods == 0) continue;
            uint256 start = handler.end(id, s.periods - 1);
            assertGe(s.lastCharge, start, "early");
            assertLt(s.lastCharge, start + handler.DUES().plan(s.planId).grace, "late");
        }
    }

    /// @dev (d): a cancelled subscription is never chargeable once its paid time is over; one ended at once, never.
    function invariant_cancelEndsDebits() public view {
        for (uint256 id = 1; id <= handler.count(); ++id) {
            Handler.Shadow memory s = handler.shadow(id);
            IDues.Reason reason = handler.DUES().previewCharge(id);
            if (s.ended) assertEq(uint256(reason), uint256(IDues.Reason.Cancelled), "ended");
            if (s.scheduled) {
                assertTrue(reason == IDues.Reason.Cancelled || reason == IDues.Reason.NotDue, "scheduled");
            }
        }
    }

    /// @dev (e): the contract holds nothing.
    function invariant_theContractHoldsNothing() public view {
        for (uint256 t = 0; t < handler.tokenCount(); ++t) {
            assertEq(handler.tokens(t).balanceOf(address(handler.DUES())), 0);
        }
        assertEq(address(handler.DUES()).balance, 0);
    }

    /// @dev (h) and (g): the fold of the events is the storage; the terms are those of the first event.
    function invariant_theEventsGiveTheStorage() public view {
        Ledger ledger = handler.LEDGER();
        assertEq(handler.DUES().planCount(), ledger.planCount(), "planCount");
        for (uint32 planId = 1; planId <= ledger.planCount(); ++planId) {
            assertEq(abi.encode(handler.DUES().plan(planId)), abi.encode(ledger.plan(planId)), "plan");
        }
        IDues.Subscription[] memory stored = handler.DUES().subscriptions(1, type(uint256).max);
        assertEq(stored.length, ledger.subscriptionCount(), "subscriptionCount");
        for (uint256 id = 1; id <= stored.length; ++id) {
            assertEq(abi.encode(stored[id - 1]), abi.encode(ledger.subscription(id)), "subscription");
            assertEq(handler.DUES().paidThrough(id), ledger.paidThrough(id), "paidThrough");
            assertEq(
                ledger.debited(id),
                uint256(stored[id - 1].periods) * ledger.plan(stored[id - 1].planId).price,
                "debited"
            );
        }
        for (uint32 planId = 1; planId <= ledger.planCount(); ++planId) {
            address merchant = ledger.plan(planId).merchant;
            for (uint256 i = 0; i < handler.payerCount(); ++i) {
                address payer = handler.payers(i);
                assertEq(
                    handler.DUES().hasUsedTrial(merchant, payer), ledger.hasUsedTrial(merchant, payer), "hasUsedTrial"
                );
            }
        }
    }

    /// @dev The reason that is predicted from the shadow is the one that the contract gives.
    function invariant_previewIsAsPredicted() public view {
        for (uint256 id = 0; id <= handler.count() + 1; ++id) {
            IDues.Reason reason = handler.predict(id);
            if (reason == IDues.Reason.Token) reason = IDues.Reason.None;
            assertEq(uint256(handler.DUES().previewCharge(id)), uint256(reason));
        }
    }
}
