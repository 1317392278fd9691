// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../../src/IDues.sol";
import {SignedActs} from "./SignedActs.sol";
import {Vm} from "forge-std/Vm.sol";

/// @notice What anybody does: charges what is due, at the right time and at wrong ones.
abstract contract KeeperActs is SignedActs {
    function chargeOne(uint256 who, uint256 which) external act {
        _chargeOne(_somebody(who), _pick(which, _isDue));
    }

    function chargeBatch(uint256 who, uint256 length, uint256 seed) external act {
        _chargeBatch(_somebody(who), _batch(length, seed));
    }

    /// @dev A keeper that sends too little gas either changes nothing, or what it would have changed with enough.
    function starve(uint256 who, uint256 length, uint256 seed, uint256 gas) external act {
        _starve(_somebody(who), _batch(length, seed), gas);
    }

    /// @dev As a keeper does: waits for the next subscription to fall due, and charges it within grace.
    function keep(uint256 who, uint256 late, uint256 how, uint256 seed) external act {
        (uint256 next, uint256 due, uint256 grace) = (0, type(uint256).max, 0);
        for (uint256 id = 1; id <= subs.length; ++id) {
            Sub storage s = _sub(id);
            if (s.ended || s.endsByPayer || s.endsByMerchant || s.periods == MAX_PERIODS) continue;
            uint256 g = graceOf(id);
            if (s.end + g > time && s.end < due) (next, due, grace) = (id, s.end, g);
        }
        if (next == 0 || due > time + 400 days) return;
        uint256 earliest = due > time ? due : time;
        _warp(late % 2 == 0 ? earliest : earliest + late % (due + grace - earliest));
        if (how % 4 == 0) _starve(_somebody(who), _batch(1 + how / 4, seed), how >> 128);
        if (how % 4 == 1) _chargeBatch(_somebody(who), _batch(1 + how / 4, seed));
        _chargeOne(_somebody(who), next);
    }

    function _chargeBatch(address keeper, uint256[] memory ids) private {
        (uint256 charged, uint256 events) = _predictBatch(ids);
        bytes memory result = _do(keeper, abi.encodeCall(IDues.chargeBatch, (ids)), "", events);
        assertEq(abi.decode(result, (uint256)), charged, "charged");
        _watchAll(ids);
    }

    function _starve(address keeper, uint256[] memory ids, uint256 gas) private {
        gas = 5000 + gas % (gas % 2 == 0 ? 50_000 : 500_000);
        vm.recordLogs();
        vm.prank(keeper);
        (bool ok, bytes memory result) = address(DUES).call{gas: gas}(abi.encodeCall(IDues.chargeBatch, (ids)));
        Vm.Log[] memory logs = vm.getRecordedLogs();
        if (!ok) {
            bool gone = result.length == 0;
            assertTrue(gone || bytes4(result) == IDues.InsufficientGas.selector, "failed for another cause than gas");
            ++reached[gone ? bytes32("out of gas") : bytes32(IDues.InsufficientGas.selector)];
            return;
        }
        ++reached["enough gas"];
        (uint256 charged, uint256 events) = _predictBatch(ids);
        assertEq(LEDGER.fold(logs, address(DUES)), events, "so many events");
        assertEq(abi.decode(result, (uint256)), charged, "charged");
        _watchAll(ids);
    }

    function _chargeOne(address keeper, uint256 id) private {
        assertEq(uint256(DUES.previewCharge(id)), uint256(preview(id)), "previewCharge");
        (IDues.Reason reason, uint256 events) = _predictCharge(id);
        bytes memory err;
        if (reason != IDues.Reason.None) err = _error(IDues.ChargeRefused.selector, id, reason);
        _do(keeper, abi.encodeCall(IDues.chargeOne, (id)), err, events);
        _watch(id);
    }

    /// @dev Up to six, also unknown ones, and some of them twice.
    function _batch(uint256 length, uint256 seed) private view returns (uint256[] memory ids) {
        ids = new uint256[](length % 7);
        for (uint256 i = 0; i < ids.length; ++i) {
            ids[i] = i != 0 && _roll(seed, i) % 4 == 0 ? ids[i - 1] : _pick(_roll(seed, i) >> 8, _isDue);
        }
    }

    /// @dev One after the other, as each may leave less for the next.
    function _predictBatch(uint256[] memory ids) private returns (uint256 charged, uint256 events) {
        for (uint256 i = 0; i < ids.length; ++i) {
            (IDues.Reason reason, uint256 emitted) = _predictCharge(ids[i]);
            if (reason == IDues.Reason.None) ++charged;
            else if (reason >= IDues.Reason.Allowance) ++events;
            events += emitted;
        }
    }

    function _watchAll(uint256[] memory ids) private {
        for (uint256 i = 0; i < ids.length; ++i) {
            _watch(ids[i]);
        }
    }
}
