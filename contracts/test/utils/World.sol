// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../../src/IDues.sol";
import {KeyWallet} from "../doubles/KeyWallet.sol";
import {MoodyToken} from "../doubles/MoodyToken.sol";
import {TestUSD} from "../doubles/TestUSD.sol";
import {BlocklistToken} from "../doubles/Tokens.sol";
import {Ledger} from "./Ledger.sol";
import {Preinstalls} from "@eth-optimism/contracts-bedrock/src/libraries/Preinstalls.sol";
import {Test} from "forge-std/Test.sol";
import {Vm} from "forge-std/Vm.sol";

/// @notice What owners do with Permit2 themselves.
interface IPermit2Owner {
    function approve(address token, address spender, uint160 amount, uint48 expiration) external;
    function DOMAIN_SEPARATOR() external view returns (bytes32);
}

/// @notice Tokens, people and time around Dues, and a model of who has and allows what: it knows of every debit
/// whether it will go through, without asking a token.
abstract contract World is Test {
    /// @dev An allowance through Permit2.
    struct Through {
        uint256 amount;
        uint256 expiration;
        uint256 nonce;
    }

    IPermit2Owner internal constant PERMIT2 = IPermit2Owner(0x000000000022D473030F116dDEE9F6B43aC78BA3);
    IDues public immutable DUES = IDues(deployCode("contracts/src/Dues.sol:Dues"));
    Ledger public immutable LEDGER = new Ledger();

    TestUSD[] public tokens;
    BlocklistToken internal blocklist;
    MoodyToken internal moody;

    address[] public people;
    address[] public payers;
    address[] public merchants;
    address[] public payees;
    address public operator = makeAddr("operator");

    /// @dev Allows everything, and asks for nothing.
    address public bystander;

    /// @dev Whose signature is good for an account. A merchant's is in vain.
    mapping(address account => uint256) internal keys;

    /// @dev Chain time is kept here, and moves only by waiting.
    uint256 public time = 1_769_853_600;

    mapping(TestUSD => mapping(address => uint256)) public minted;
    mapping(TestUSD => mapping(address => uint256)) public burnt;
    mapping(TestUSD => mapping(address => uint256)) public balance;
    mapping(TestUSD => mapping(address owner => mapping(address spender => uint256))) public allowed;
    mapping(TestUSD => mapping(address owner => Through)) public through;
    mapping(TestUSD => mapping(address owner => uint256)) internal permitNonces;
    mapping(address => bool) internal blocked;
    MoodyToken.Mood internal mood;

    /// @dev How often a call succeeded (by its selector) or failed in a certain way (by the error's selector and, in
    /// the lowest byte, its reason), and how often certain other things have happened (by their names).
    mapping(bytes32 outcome => uint256) public reached;

    uint256 public steps;

    /// @dev Every act is at the time of this world.
    modifier act() {
        ++steps;
        vm.warp(time);
        _;
    }

    constructor() {
        vm.warp(time);
        vm.etch(address(PERMIT2), Preinstalls.getPermit2Code(block.chainid));
        blocklist = new BlocklistToken();
        moody = new MoodyToken(address(DUES));
        tokens.push(new TestUSD());
        tokens.push(blocklist);
        tokens.push(moody);

        (address alice, address bob) = (_person("alice"), _person("bob"));
        address owner = _person("owner of a wallet");
        address wallet = address(new KeyWallet(owner));
        (people[2], keys[wallet]) = (wallet, keys[owner]);
        // Merchant and payer in one.
        address both = _person("both");
        bystander = _person("bystander");
        address merchant = _person("merchant");
        address payee = _person("payee");
        people.push(operator);
        payers = [alice, bob, wallet, both];
        merchants = [merchant, both];
        // Somebody also receives from itself.
        payees = [payee, merchant, alice];

        for (uint256 t = 0; t < tokens.length; ++t) {
            for (uint256 i = 0; i < people.length; ++i) {
                // Without limit in one token, so that amounts reach the limits of their types; in the others enough for
                // some periods, but not for all.
                uint256 some = people[i] == operator ? 50 : 500;
                _mint(tokens[t], people[i], t == 0 ? 2 ** 122 : some);
                _approve(tokens[t], people[i], address(DUES), t == 0 ? type(uint256).max : 2000);
            }
            _approve(tokens[t], bystander, address(DUES), type(uint256).max);
        }
    }

    // PEOPLE

    function peopleCount() external view returns (uint256) {
        return people.length;
    }

    function _person(string memory name) private returns (address account) {
        uint256 key;
        (account, key) = makeAddrAndKey(name);
        keys[account] = key;
        people.push(account);
    }

    function _somebody(uint256 r) internal view returns (address) {
        return people[r % people.length];
    }

    /// @dev The one who may, but at times somebody else.
    function _mostly(address rightful, uint256 r) internal view returns (address) {
        return r % 8 != 0 && rightful != address(0) ? rightful : _somebody(r / 8);
    }

    function _sign(address account, bytes32 digest) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(keys[account], digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev Independent dice from one.
    function _roll(uint256 seed, uint256 n) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, n)));
    }

    // MONEY

    function _mint(TestUSD token, address to, uint256 amount) internal {
        token.mint(to, amount);
        minted[token][to] += amount;
        balance[token][to] += amount;
    }

    function _approve(TestUSD token, address owner, address spender, uint256 amount) internal {
        vm.prank(owner);
        token.approve(spender, amount);
        allowed[token][owner][spender] = amount;
    }

    function _approveThrough(TestUSD token, address owner, uint160 amount, uint48 expiration) internal {
        vm.prank(owner);
        PERMIT2.approve(address(token), address(DUES), amount, expiration);
        // Permit2 reads zero as the end of this second.
        (through[token][owner].amount, through[token][owner].expiration) = (amount, expiration == 0 ? time : expiration);
    }

    function _setMood(MoodyToken.Mood mood_) internal {
        mood = mood_;
        moody.setMood(mood_);
    }

    /// @dev What can be seen to stand in the way of a debit, and whether it would go through Permit2.
    function _obstacle(TestUSD token, address from, uint256 amount) internal view returns (IDues.Reason, bool) {
        return _obstacle(token, from, amount, allowed[token][from][address(DUES)], balance[token][from]);
    }

    /// @dev A debit: whether it will go through, and if so, what it does.
    function _pull(TestUSD token, address from, address to, uint256 amount) internal returns (IDues.Reason) {
        uint256 has = balance[token][from];
        uint256 allows = allowed[token][from][address(DUES)];
        bool direct = has >= amount && allows >= amount;
        bool refuses = _refuses(token, from, to);
        if (!direct || refuses) {
            // Who denies a transfer has made it, and is asked while it is not yet undone.
            if (direct && token == moody && mood == MoodyToken.Mood.Deny) {
                if (allows != type(uint256).max) allows -= amount;
                if (from != to) has -= amount;
            }
            (IDues.Reason reason, bool permit2) = _obstacle(token, from, amount, allows, has);
            if (reason != IDues.Reason.None) return reason;
            if (refuses || !permit2) return IDues.Reason.Token;
            Through storage t = through[token][from];
            if (t.amount != type(uint160).max) t.amount -= amount;
        }

        if (!direct) ++reached["through Permit2"];
        address spender = direct ? address(DUES) : address(PERMIT2);
        if (allowed[token][from][spender] != type(uint256).max) allowed[token][from][spender] -= amount;
        balance[token][from] -= amount;
        balance[token][to] += amount;
        if (token == moody && mood == MoodyToken.Mood.Fee) {
            balance[token][to] -= amount / 100;
            burnt[token][to] += amount / 100;
        }
        return IDues.Reason.None;
    }

    function _obstacle(TestUSD token, address from, uint256 amount, uint256 allows, uint256 has)
        private
        view
        returns (IDues.Reason reason, bool permit2)
    {
        if (token == moody && mood == MoodyToken.Mood.Mute) return (IDues.Reason.Token, false);
        if (allows < amount) {
            Through storage t = through[token][from];
            permit2 = t.amount >= amount && time <= t.expiration && allowed[token][from][address(PERMIT2)] >= amount;
            if (!permit2) return (IDues.Reason.Allowance, false);
        }
        if (has < amount) return (IDues.Reason.Balance, permit2);
    }

    function _refuses(TestUSD token, address from, address to) private view returns (bool) {
        return
            (token == blocklist && (blocked[from] || blocked[to])) || (token == moody && mood >= MoodyToken.Mood.False);
    }

    // CALLS

    /// @dev Enough for a token to burn nearly all of it and Permit2 nearly all of the rest, and yet to know the cause.
    uint256 private constant GAS = 120_000_000;

    /// @dev One transaction, which must end as predicted: with this error or, if that is empty, with so many events.
    function _do(address who, bytes memory call, bytes memory err, uint256 events) internal returns (bytes memory) {
        vm.recordLogs();
        vm.prank(who);
        (bool ok, bytes memory result) = address(DUES).call{gas: GAS}(call);
        assertEq(ok ? bytes("") : result, err, "the outcome is not the one predicted");
        _reached(ok ? call : err);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        if (ok) assertEq(LEDGER.fold(logs, address(DUES)), events, "so many events");
        return result;
    }

    function _reached(bytes memory call) internal {
        bytes32 outcome = bytes4(call);
        bool reasoned = outcome == IDues.ChargeRefused.selector || outcome == IDues.RefundRefused.selector
            || outcome == IDues.NotChangeable.selector;
        if (reasoned) outcome |= bytes32(uint256(uint8(call[call.length - 1])));
        ++reached[outcome];
    }

    function _error(bytes4 selector) internal pure returns (bytes memory) {
        return abi.encodePacked(selector);
    }

    function _error(bytes4 selector, uint256 a) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a);
    }

    function _error(bytes4 selector, uint256 a, uint256 b) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a, b);
    }

    function _error(bytes4 selector, uint256 a, address b) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a, b);
    }

    function _error(bytes4 selector, uint256 a, uint256 b, uint256 c) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a, b, c);
    }

    function _error(bytes4 selector, uint256 a, IDues.Reason reason) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a, reason);
    }
}
