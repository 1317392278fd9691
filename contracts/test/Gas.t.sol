// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {DevUSD} from "../devnet/DevUSD.sol";
import {IDues} from "../src/IDues.sol";
import {TestUSD} from "./doubles/TestUSD.sol";
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

    /// @dev Compiled as it would be for a chain.
    function _deployToken() internal override returns (TestUSD) {
        return TestUSD(address(new DevUSD()));
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
        dues.chargeOne(ids[0]);
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
        _snapshot("cancelNow", 31_000);
    }

    function test_resume() public {
        vm.startPrank(payers[0]);
        dues.cancel(ids[0]);
        dues.resume(ids[0]);
        _snapshot("resume", 35_000);
    }

    function test_subscribePrepaid() public {
        vm.prank(payer);
        dues.subscribePrepaid(1, REF, 12, false);
        _snapshot("subscribePrepaid, 12 periods", 90_000);
    }

    function test_prepay() public {
        vm.prank(payers[0]);
        dues.prepay(ids[0], 3);
        _snapshot("prepay", 65_000);
    }

    function test_changeNow() public {
        uint32 dearer = _createPlanFor(2 * PRICE);
        vm.prank(payers[0]);
        dues.changeNow(ids[0], dearer, 1, 2 * PRICE);
        _snapshot("changeNow", 90_000);
    }

    function test_scheduleChangeAndCharge() public {
        uint32 cheaper = _createPlanFor(PRICE / 2);
        vm.prank(payers[0]);
        dues.scheduleChange(ids[0], cheaper);
        _snapshot("scheduleChange", 75_000);
        vm.prank(payers[1]);
        dues.scheduleChange(ids[1], cheaper);
        vm.prank(payers[1]);
        dues.revokeChange(ids[1]);
        _snapshot("revokeChange", 40_000);
        vm.warp(_month(1));
        vm.prank(keeper);
        dues.chargeOne(ids[0]);
        _snapshot("charge into a scheduled plan", 100_000);
    }

    function test_migrate() public {
        uint32 cheaper = _createPlanFor(PRICE - 1);
        vm.prank(merchant);
        dues.migrate(ids[0], cheaper);
        _snapshot("migrate", 80_000);
    }

    function test_chargeUsage() public {
        IDues.PlanTerms memory terms = _terms();
        terms.usageCap = 1000;
        uint256 id = _subscribe(payer, _createPlan(terms));
        vm.startPrank(merchant);
        dues.chargeUsage(id, 1, 500, "first");
        _snapshot("chargeUsage, the first of a subscription", 135_000);
        dues.chargeUsage(id, 1, 500, "second");
        _snapshot("chargeUsage, the second of a period", 100_000);
    }

    function test_refund() public {
        _fund(token, merchant);
        vm.prank(merchant);
        dues.refund(ids[0], 500, "first");
        _snapshot("refund", 110_000);
    }

    function test_movesOfThePayee() public {
        vm.prank(merchant);
        dues.proposePayee(1, keeper);
        _snapshot("proposePayee", 60_000);
        skip(2 days);
        vm.prank(keeper);
        dues.acceptPayee(1);
        _snapshot("acceptPayee", 35_000);
    }

    function test_cancelByTheMerchant() public {
        vm.prank(merchant);
        dues.cancel(ids[0]);
        _snapshot("cancel, by the merchant", 33_000);
    }

    /// @dev What a renewal costs beside the least that moving a token can cost, in thousandths. Both in this run: a
    /// dearer token or another EVM moves the two together.
    function test_ratios() public {
        vm.prank(payer);
        token.approve(keeper, 1000 * uint256(PRICE));
        vm.prank(keeper);
        token.transferFrom(payer, payee, PRICE);
        uint256 floor = vm.lastCallGas().gasTotalUsed;

        vm.warp(_month(1));
        vm.prank(keeper);
        dues.chargeOne(_pop());
        _ratio("charge, thousandths of a bare transferFrom", vm.lastCallGas().gasTotalUsed, floor, 1410);
        vm.prank(keeper);
        dues.chargeBatch(ids);
        _ratio("charge in a batch, thousandths of it", vm.lastCallGas().gasTotalUsed / ids.length, floor, 615);
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
        vm.snapshotValue("Dues", "initcode hash", uint256(keccak256(vm.getCode("contracts/src/Dues.sol:Dues"))));
        assertLe(address(dues).code.length, 24_576);
    }

    function _createPlanFor(uint96 price) private returns (uint32) {
        IDues.PlanTerms memory terms = _terms();
        terms.price = price;
        return _createPlan(terms);
    }

    function _pop() private returns (uint256 id) {
        id = ids[ids.length - 1];
        ids.pop();
    }

    function _ratio(string memory name, uint256 gas, uint256 floor, uint256 bar) private {
        vm.snapshotValue("Dues", name, gas * 1000 / floor);
        assertLe(gas * 1000 / floor, bar, name);
    }

    function _snapshot(string memory name, uint256 bar) private {
        assertLe(vm.snapshotGasLastCall("Dues", name), bar, name);
    }
}
