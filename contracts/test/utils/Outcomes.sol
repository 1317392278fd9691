// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../../src/IDues.sol";
import {ISelf} from "./ISelf.sol";

/// @notice All that can come of a call to Dues, as `World.reached` counts it.
library Outcomes {
    function all() internal pure returns (bytes32[] memory list) {
        (bytes4[27] memory functions, bytes4[34] memory errors) = (_functions(), _errors());
        bytes32[] memory others = _others();
        list = new bytes32[](functions.length + errors.length + others.length);
        uint256 n = 0;
        for (uint256 i = 0; i < functions.length; ++i) {
            list[n++] = functions[i];
        }
        for (uint256 i = 0; i < errors.length; ++i) {
            list[n++] = errors[i];
        }
        for (uint256 i = 0; i < others.length; ++i) {
            list[n++] = others[i];
        }
    }

    /// @notice How a subscription gets from one status to another.
    function edge(IDues.Status from, IDues.Status to) internal pure returns (bytes32) {
        return keccak256(abi.encode(from, to));
    }

    /// @notice Whether it can, by one act or by waiting.
    function mayFollow(IDues.Status from, IDues.Status to) internal pure returns (bool) {
        if (from == to || from == IDues.Status.Cancelled) return false;
        if (from == IDues.Status.None) return to == IDues.Status.Trialing || to == IDues.Status.Active;
        if (from == IDues.Status.Lapsed) return to == IDues.Status.Cancelled;
        return to > IDues.Status.Trialing;
    }

    function _functions() private pure returns (bytes4[27] memory) {
        return [
            IDues.createPlan.selector,
            IDues.retirePlan.selector,
            IDues.proposePayee.selector,
            IDues.acceptPayee.selector,
            IDues.setOperator.selector,
            IDues.subscribe.selector,
            IDues.subscribeWithPermit.selector,
            IDues.subscribePrepaid.selector,
            IDues.prepay.selector,
            IDues.chargeOne.selector,
            IDues.chargeBatch.selector,
            IDues.chargeUsage.selector,
            IDues.changeNow.selector,
            IDues.scheduleChange.selector,
            IDues.revokeChange.selector,
            IDues.migrate.selector,
            IDues.cancel.selector,
            IDues.cancelNow.selector,
            IDues.resume.selector,
            IDues.refund.selector,
            IDues.subscribeFor.selector,
            IDues.changeFor.selector,
            IDues.cancelFor.selector,
            IDues.invalidateNonces.selector,
            IDues.multicall.selector,
            IDues.permit.selector,
            IDues.permit2.selector
        ];
    }

    function _errors() private pure returns (bytes4[34] memory) {
        return [
            IDues.InvalidToken.selector,
            IDues.InvalidPrice.selector,
            IDues.InvalidPayee.selector,
            IDues.InvalidCount.selector,
            IDues.InvalidTrial.selector,
            IDues.InvalidGrace.selector,
            IDues.UnknownPlan.selector,
            IDues.RetiredPlan.selector,
            IDues.OtherTerms.selector,
            IDues.NotMerchant.selector,
            IDues.NotProposedPayee.selector,
            IDues.TooEarly.selector,
            IDues.UnknownSubscription.selector,
            IDues.NotPayer.selector,
            IDues.NotParty.selector,
            IDues.ChangePending.selector,
            IDues.NothingScheduled.selector,
            IDues.PlansUnrelated.selector,
            IDues.NotAnUpgrade.selector,
            IDues.NotFavourable.selector,
            IDues.CreditExceedsPrice.selector,
            IDues.AmountExceedsMax.selector,
            IDues.NothingToResume.selector,
            IDues.AlreadyEnded.selector,
            IDues.InvalidAmount.selector,
            IDues.PeriodClosed.selector,
            IDues.UsageCapExceeded.selector,
            IDues.RefundExceedsPaid.selector,
            IDues.KeySpent.selector,
            IDues.Expired.selector,
            IDues.NonceSpent.selector,
            IDues.InvalidSignature.selector,
            IDues.InsufficientGas.selector,
            ISelf.NotSelf.selector
        ];
    }

    /// @dev Errors with their reasons, changes of status, and what the handler counts by name.
    function _others() private pure returns (bytes32[] memory list) {
        list = new bytes32[](33);
        uint256 n = 0;
        for (uint8 reason = 0; reason <= uint8(IDues.Reason.Token); ++reason) {
            bytes32 r = bytes32(uint256(reason));
            if (reason != 0) list[n++] = IDues.ChargeRefused.selector | r;
            if (reason >= uint8(IDues.Reason.Allowance)) list[n++] = IDues.RefundRefused.selector | r;
        }
        list[n++] = IDues.NotChangeable.selector | bytes32(uint256(IDues.Reason.None));
        list[n++] = IDues.NotChangeable.selector | bytes32(uint256(IDues.Reason.Cancelled));
        list[n++] = IDues.NotChangeable.selector | bytes32(uint256(IDues.Reason.Lapsed));
        for (uint8 from = 0; from <= uint8(IDues.Status.Cancelled); ++from) {
            for (uint8 to = 0; to <= uint8(IDues.Status.Cancelled); ++to) {
                if (mayFollow(IDues.Status(from), IDues.Status(to))) {
                    list[n++] = edge(IDues.Status(from), IDues.Status(to));
                }
            }
        }
        (list[n++], list[n++]) = ("enough gas", "out of gas");
        (list[n++], list[n++]) = ("scheduled by the payer", "scheduled by the merchant");
        (list[n++], list[n++], list[n++]) = ("change for nothing", "credit is all that was kept", "through Permit2");
        assert(n == list.length);
    }
}
