// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Dues} from "../../src/Dues.sol";
import {IDues} from "../../src/IDues.sol";
import {Periods} from "../../src/libraries/Periods.sol";
import {Test} from "forge-std/Test.sol";

/// @dev The cheat codes of halmos that are used here.
interface Svm {
    function createUint(uint256 bits, string calldata name) external pure returns (uint256);
    function createAddress(string calldata name) external pure returns (address);
    function enableSymbolicStorage(address account) external;
}

/// @dev Writes down what it is asked to move, and says that it did.
contract ObedientToken {
    uint256 public moves;
    address public from;
    address public to;
    uint256 public amount;

    function transferFrom(address from_, address to_, uint256 amount_) external returns (bool) {
        (from, to, amount) = (from_, to_, amount_);
        ++moves;
        return true;
    }
}

/// @title What halmos proves of single calls
/// @notice From any storage whatsoever, also one that no history leads to: every slot of the contract is a symbol. Plans
/// count in days where the end of a period matters: the solver does not carry the divisions of the calendar, which
/// `Periods.t.sol` compares with Solady for every day of four centuries.
contract RulesProof is Test {
    Svm private constant SVM = Svm(0xF3993A62377BCd56AE39D773740A5390411E8BC9);

    // Where `forge inspect Dues storage-layout` has them.
    uint256 private constant PLANS = 1;
    uint256 private constant SUBSCRIPTIONS = 2;

    uint256 private constant ENDED = 2;

    Dues private dues;
    ObedientToken private token;

    struct Anything {
        address payer;
        uint256 anchor;
        uint256 periods;
        uint256 flags;
        uint256 price;
        address payee;
        uint256 count;
        uint256 grace;
    }

    function setUp() public {
        dues = new Dues();
        token = new ObedientToken();
        SVM.enableSymbolicStorage(address(dues));
        vm.warp(SVM.createUint(40, "now"));
    }

    /// @dev (d): the payer's `cancel` succeeds, whatever is stored, and changes one bit.
    function check_d_cancel(uint256 id, uint256 word) external {
        address payer = _payer(word);
        vm.assume(payer != address(0));
        vm.store(address(dues), _key(id, SUBSCRIPTIONS), bytes32(word));

        assertTrue(_call(payer, abi.encodeCall(IDues.cancel, (id))));
        assertEq(_slot(id), word >> 248 & 7 == 0 ? word | 1 << 248 : word);
        assertEq(token.moves(), 0);
    }

    /// @dev (d): the payer's `cancelNow` succeeds, whatever is stored, and changes one bit.
    function check_d_cancelNow(uint256 id, uint256 word) external {
        address payer = _payer(word);
        vm.assume(payer != address(0));
        vm.store(address(dues), _key(id, SUBSCRIPTIONS), bytes32(word));

        assertTrue(_call(payer, abi.encodeCall(IDues.cancelNow, (id))));
        assertEq(_slot(id), word | ENDED << 248);
        assertEq(token.moves(), 0);
    }

    /// @dev (d): after `cancelNow`, and after `cancel` from the end of the paid time on, nobody can charge.
    function check_d_nothingIsChargedAfterwards(address caller, uint256 id, uint32 planId) external {
        Anything memory x = _store(id, planId);
        vm.assume(x.flags & 7 != 0);

        assertFalse(_call(caller, abi.encodeCall(IDues.chargeOne, (id))));
        assertEq(token.moves(), 0);
    }

    /// @dev (a), (d), (g): nobody but the payer and the merchant cancels, and nobody but the payer resumes.
    function check_adg_strangers(address caller, uint256 id, uint256 word, address merchant) external {
        vm.assume(_payer(word) != caller && merchant != caller);
        vm.store(address(dues), _key(id, SUBSCRIPTIONS), bytes32(word));
        uint256 plan = uint256(_key(word >> 160 & type(uint32).max, PLANS));
        vm.store(address(dues), bytes32(plan + 2), bytes32(uint256(uint160(merchant))));

        assertFalse(_call(caller, abi.encodeCall(IDues.cancel, (id))));
        assertFalse(_call(caller, abi.encodeCall(IDues.cancelNow, (id))));
        assertFalse(_call(caller, abi.encodeCall(IDues.prepay, (id, 1))));
        assertFalse(_call(caller, abi.encodeCall(IDues.revokeChange, (id))));
        assertFalse(_call(caller, abi.encodeCall(IDues.scheduleChange, (id, 1))));
        assertFalse(_call(caller, abi.encodeCall(IDues.changeNow, (id, 1, 1, 1))));
        assertFalse(_call(caller, abi.encodeCall(IDues.migrate, (id, 1))));
        assertEq(_slot(id), word);
        assertEq(token.moves(), 0);
    }

    /// @dev (g): whoever retires a plan or moves its payee, its terms stay.
    function check_g_terms(address caller, uint32 planId, address payee) external {
        uint256 plan = uint256(_key(planId, PLANS));
        bytes32 first = vm.load(address(dues), bytes32(plan));
        uint256 second = uint256(vm.load(address(dues), bytes32(plan + 1)));
        bytes32 third = vm.load(address(dues), bytes32(plan + 2));

        _call(caller, abi.encodeCall(IDues.retirePlan, (planId)));
        _call(caller, abi.encodeCall(IDues.proposePayee, (planId, payee)));
        _call(caller, abi.encodeCall(IDues.acceptPayee, (planId)));

        assertEq(vm.load(address(dues), bytes32(plan)), first);
        assertEq(vm.load(address(dues), bytes32(plan + 2)), third);
        // All but the payee below and the retirement above.
        uint256 terms = uint256(vm.load(address(dues), bytes32(plan + 1))) ^ second;
        assertEq(terms >> 160 & type(uint88).max, 0);
    }

    /// @dev Calendar: days are 86,400 seconds, and the next end follows the present one.
    function check_calendar_days(uint40 anchor, uint16 count, uint16 periods) external pure {
        (uint256 end, uint256 next) = Periods.ends(anchor, IDues.IntervalUnit.Day, count, periods);
        assertEq(end, uint256(anchor) + uint256(count) * periods * 86_400);
        assertEq(next - end, uint256(count) * 86_400);
    }

    function _store(uint256 id, uint32 planId) private returns (Anything memory x) {
        x = Anything({
            payer: SVM.createAddress("payer"),
            anchor: SVM.createUint(40, "anchor"),
            periods: SVM.createUint(16, "periods"),
            flags: SVM.createUint(8, "flags"),
            price: SVM.createUint(96, "price"),
            payee: SVM.createAddress("payee"),
            count: SVM.createUint(16, "count"),
            grace: SVM.createUint(32, "grace")
        });
        vm.store(address(dues), _key(id, SUBSCRIPTIONS), bytes32(_pack(x, planId)));
        uint256 plan = uint256(_key(planId, PLANS));
        vm.store(address(dues), bytes32(plan), bytes32(uint160(address(token)) | x.price << 160));
        vm.store(address(dues), bytes32(plan + 1), bytes32(uint160(x.payee) | x.count << 168 | x.grace << 216));
    }

    function _pack(Anything memory x, uint32 planId) private pure returns (uint256) {
        return uint160(x.payer) | uint256(planId) << 160 | x.anchor << 192 | x.periods << 232 | x.flags << 248;
    }

    function _payer(uint256 word) private pure returns (address) {
        return address(uint160(word));
    }

    function _slot(uint256 id) private view returns (uint256) {
        return uint256(vm.load(address(dues), _key(id, SUBSCRIPTIONS)));
    }

    function _key(uint256 id, uint256 mapping_) private pure returns (bytes32) {
        return keccak256(abi.encode(id, mapping_));
    }

    function _call(address caller, bytes memory data) private returns (bool ok) {
        vm.assume(caller != address(dues));
        vm.prank(caller);
        (ok,) = address(dues).call(data);
    }
}
