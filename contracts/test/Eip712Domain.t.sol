// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IDues} from "../src/IDues.sol";
import {Signing} from "./utils/Signing.sol";

// eip712Domain
// ├── it names the contract, its version, this chain (also after a fork) and this contract
// └── what a wallet signs that is given the domain and the documented types as JSON is accepted
contract Eip712DomainTest is Signing {
    function testFuzz_namesThisChainAndThisContract(uint64 chainId) public {
        vm.assume(chainId != 0);
        _assertDomain(dues, block.chainid);
        vm.chainId(chainId);
        _assertDomain(dues, chainId);
        _assertDomain(IDues(deployCode("contracts/src/Dues.sol:Dues")), chainId);
    }

    /// @dev As `eth_signTypedData_v4` is called: no hash is computed here.
    function test_acceptsWhatAWalletSigns() public {
        uint32 planId = _createTrialPlan(7 days);
        string memory terms = _termsJson(planId);
        _sendSubscribe(IDues.SubscribeIntent(signer, planId, REF, 3, true, 300, START + 1), terms);

        IDues.PlanTerms memory dearer = _terms();
        dearer.price = 4 * PRICE;
        uint32 to = _createPlan(dearer);
        _sendChange(IDues.ChangeIntent(1, to, 1, PRICE, 301, START + 2), _termsJson(to));
        _sendCancel(IDues.CancelIntent(1, true, 302, START + 3));
        assertEq(dues.spentNonces(signer, 1), 7 << 44);
    }

    function _sendSubscribe(IDues.SubscribeIntent memory i, string memory terms) private {
        string memory message = string.concat(
            _field("payer", vm.toString(i.payer)),
            _field("planId", vm.toString(i.planId)),
            '"terms":',
            terms,
            ",",
            _field("ref", vm.toString(i.ref)),
            _field("count", vm.toString(i.count)),
            i.renews ? '"renews":true,' : '"renews":false,',
            _deadlineAndNonce(i.nonce, i.deadline)
        );
        dues.subscribeFor(i, _signJson("Subscribe", message));
        assertEq(dues.subscription(1).periods, 3);
    }

    function _sendChange(IDues.ChangeIntent memory i, string memory terms) private {
        string memory message = string.concat(
            _field("payer", vm.toString(signer)),
            _field("id", vm.toString(i.id)),
            _field("planId", vm.toString(i.planId)),
            '"terms":',
            terms,
            ",",
            _field("count", vm.toString(i.count)),
            _field("maxAmount", vm.toString(i.maxAmount)),
            _deadlineAndNonce(i.nonce, i.deadline)
        );
        dues.changeFor(i, _signJson("Change", message));
        assertEq(dues.subscription(1).planId, i.planId);
    }

    function _sendCancel(IDues.CancelIntent memory i) private {
        string memory message = string.concat(
            _field("payer", vm.toString(signer)),
            _field("id", vm.toString(i.id)),
            i.atOnce ? '"atOnce":true,' : '"atOnce":false,',
            _deadlineAndNonce(i.nonce, i.deadline)
        );
        dues.cancelFor(i, _signJson("Cancel", message));
        _assertStatus(1, IDues.Status.Cancelled);
    }

    function _signJson(string memory primaryType, string memory message) private view returns (bytes memory) {
        (, string memory name, string memory version, uint256 chainId, address verifier,,) = dues.eip712Domain();
        string memory domain = string.concat(
            _field("name", name),
            _field("version", version),
            '"chainId":',
            vm.toString(chainId),
            ',"verifyingContract":"',
            vm.toString(verifier),
            '"'
        );
        string memory json = string.concat(
            '{"types":',
            _types(),
            ',"primaryType":"',
            primaryType,
            '","domain":{',
            domain,
            '},"message":{',
            message,
            "}}"
        );
        return _sign(key, vm.eip712HashTypedData(json));
    }

    function _types() private pure returns (string memory) {
        return string.concat(
            '{"EIP712Domain":[{"name":"name","type":"string"},{"name":"version","type":"string"},',
            '{"name":"chainId","type":"uint256"},{"name":"verifyingContract","type":"address"}],',
            '"Terms":[{"name":"merchant","type":"address"},{"name":"token","type":"address"},',
            '{"name":"price","type":"uint96"},{"name":"unit","type":"uint8"},{"name":"count","type":"uint16"},',
            '{"name":"trial","type":"uint32"},{"name":"grace","type":"uint32"},{"name":"usageCap","type":"uint96"}],',
            '"Subscribe":[{"name":"payer","type":"address"},{"name":"planId","type":"uint32"},',
            '{"name":"terms","type":"Terms"},{"name":"ref","type":"bytes32"},{"name":"count","type":"uint16"},',
            '{"name":"renews","type":"bool"},{"name":"nonce","type":"uint256"},{"name":"deadline","type":"uint256"}],',
            '"Change":[{"name":"payer","type":"address"},{"name":"id","type":"uint256"},',
            '{"name":"planId","type":"uint32"},{"name":"terms","type":"Terms"},{"name":"count","type":"uint16"},',
            '{"name":"maxAmount","type":"uint128"},{"name":"nonce","type":"uint256"},',
            '{"name":"deadline","type":"uint256"}],',
            '"Cancel":[{"name":"payer","type":"address"},{"name":"id","type":"uint256"},',
            '{"name":"atOnce","type":"bool"},{"name":"nonce","type":"uint256"},{"name":"deadline","type":"uint256"}]}'
        );
    }

    function _termsJson(uint32 planId) private view returns (string memory) {
        IDues.Plan memory p = dues.plan(planId);
        return string.concat(
            "{",
            _field("merchant", vm.toString(p.merchant)),
            _field("token", vm.toString(p.token)),
            _field("price", vm.toString(p.price)),
            _field("unit", vm.toString(uint256(p.unit))),
            _field("count", vm.toString(p.count)),
            _field("trial", vm.toString(p.trial)),
            _field("grace", vm.toString(p.grace)),
            '"usageCap":"',
            vm.toString(p.usageCap),
            '"}'
        );
    }

    function _deadlineAndNonce(uint256 nonce, uint256 deadline) private pure returns (string memory) {
        return string.concat(_field("nonce", vm.toString(nonce)), '"deadline":"', vm.toString(deadline), '"');
    }

    function _field(string memory name, string memory value) private pure returns (string memory) {
        return string.concat('"', name, '":"', value, '",');
    }

    function _assertDomain(IDues contract_, uint256 chainId) private view {
        (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId_,
            address verifier,
            bytes32 salt,
            uint256[] memory extensions
        ) = contract_.eip712Domain();
        assertEq(fields, hex"0f");
        assertEq(name, "Dues");
        assertEq(version, "1");
        assertEq(chainId_, chainId);
        assertEq(verifier, address(contract_));
        assertEq(salt, 0);
        assertEq(extensions.length, 0);
    }
}
