// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Dues} from "../src/Dues.sol";
import {Base} from "./utils/Base.sol";

// What a whole transaction costs: a token of OpenZeppelin with permits, payer and payee with balances before and
// after, a finite allowance. Kept in snapshots/, and below the bars.
//
/// forge-config: default.isolate = true
contract GasTest is Base {
    address[] private payers;
    uint256[] private ids;

    function setUp() public override {
        super.setUp();
        token.mint(payee, 1);
        // A plan before, so that what is measured is not the first of its kind.
        uint32 planId = _createPlan();
        for (uint256 i = 0; i < 50; ++i) {
            payers.push(vm.addr(i + 1));
            _fund(token, payers[i]);
            ids.push(_subscribe(payers[i], planId));
        }
    }

    function test_createPlan() public {
        _createPlan();
        _snapshot("createPlan", 110_000);
    }

    function test_retirePlan() public {
        vm.prank(merchant);
        dues.retirePlan(1);
        _snapshot("retirePlan", 35_000);
    }

    function test_subscribe() public {
        _subscribe(payer, 1);
        _snapshot("subscribe, first period charged", 90_000);
    }

    function test_subscribeWithTrial() public {
        uint32 planId = _createTrialPlan(14 days);
        _subscribe(payer, planId);
        _snapshot("subscribe, trial", 90_000);
    }

    function test_subscribeWithPermit() public {
        (address signer, uint256 key) = makeAddrAndKey("signer");
        token.mint(signer, 1000 * uint256(PRICE));
        bytes32 typeHash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        uint256 value = 12 * uint256(PRICE);
        bytes32 content = keccak256(abi.encode(typeHash, signer, dues, value, 0, START));
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(key, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), content)));
        vm.prank(signer);
        dues.subscribeWithPermit(1, REF, value, START, v, r, s);
        _snapshot("subscribeWithPermit, first period charged", 135_000);
    }

    function test_charge() public {
        vm.warp(_month(1));
        vm.prank(keeper);
        dues.charge(ids[0]);
        _snapshot("charge", 56_000);
    }

    function test_chargeBatch() public {
        vm.warp(_month(1));
        vm.prank(keeper);
        dues.chargeBatch(ids);
        _snapshot("chargeBatch, 50 items", 50 * 24_500);
    }

    function test_cancel() public {
        vm.prank(payers[0]);
        dues.cancel(ids[0]);
        _snapshot("cancel", 30_000);
    }

    function test_cancelNow() public {
        vm.prank(payers[0]);
        dues.cancelNow(ids[0]);
        _snapshot("cancelNow", 30_000);
    }

    function test_resume() public {
        vm.startPrank(payers[0]);
        dues.cancel(ids[0]);
        dues.resume(ids[0]);
        _snapshot("resume", 35_000);
    }

    function test_transferFromForComparison() public {
        vm.prank(payer);
        token.approve(keeper, 1000 * uint256(PRICE));
        vm.prank(keeper);
        token.transferFrom(payer, payee, PRICE);
        _snapshot("a bare transferFrom", 41_000);
    }

    function test_code() public {
        vm.snapshotValue("Dues", "runtime size", address(dues).code.length);
        vm.snapshotValue("Dues", "initcode hash", uint256(keccak256(type(Dues).creationCode)));
        assertLe(address(dues).code.length, 24_576);
    }

    function _snapshot(string memory name, uint256 bar) private {
        assertLe(vm.snapshotGasLastCall("Dues", name), bar, name);
    }
}
