//! The chain: wallets and the contract's calls.

use std::time::Duration;

use alloy::{
    consensus::transaction::Transaction as _,
    eips::{BlockNumberOrTag, eip2718::Encodable2718 as _},
    network::{EthereumWallet, NetworkTransactionBuilder as _, TransactionBuilder as _},
    primitives::{Address, B256, Bytes, U256, aliases::U96, keccak256},
    providers::{DynProvider, Provider as _, ProviderBuilder},
    rpc::types::{Block, Filter, Log, TransactionReceipt, TransactionRequest},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::{SolCall, SolEvent, SolStruct as _, eip712_domain},
};
use dues_chain::contract::{Dues, IDues};
use serde_json::{Value, json};

use crate::{SOON, eventually};

pub use bindings::{Permit, Token};

mod bindings {
    alloy::sol! {
        #[sol(rpc)]
        #[derive(Debug)]
        interface Token {
            function approve(address spender, uint256 value) external returns (bool);
            function mint(address to, uint256 amount) external;
            function transfer(address to, uint256 value) external returns (bool);
            function balanceOf(address of) external view returns (uint256);
            function allowance(address owner, address spender) external view returns (uint256);
            function nonces(address owner) external view returns (uint256);
        }

        #[derive(Debug)]
        struct Permit {
            address owner;
            address spender;
            uint256 value;
            uint256 nonce;
            uint256 deadline;
        }
    }
}

/// Anvil's account 0, which every anvil has: the devnet deploys from it, and it is the merchant.
const MERCHANT_KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
/// What a payer gets, and approves: 100,000.00.
const FUNDS: u64 = 100_000_000_000;
/// Plenty for one call, so that no estimate is needed.
const GAS: u64 = 500_000;
/// Far above the base fee, so that a transaction stays valid when it is mined again on another fork.
const MAX_FEE: u128 = 50_000_000_000;

/// A node, and what is deployed on its chain.
#[derive(Debug, Clone)]
pub struct Chain {
    provider: DynProvider,
    /// The chain's id.
    pub id: u64,
    /// Dues.
    pub contract: Address,
    /// The test dollar.
    pub token: Address,
    /// Whose plans the catalogue's are.
    pub merchant: Address,
}

/// A transaction that can be sent again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTx {
    /// Its hash.
    pub hash: B256,
    /// As it is sent.
    pub raw: Bytes,
}

impl Chain {
    /// The chain behind `rpc_url`.
    #[must_use]
    pub fn new(rpc_url: &str, id: u64, contract: Address, token: Address, merchant: Address) -> Self {
        let provider = ProviderBuilder::new().disable_recommended_fillers();
        let provider = provider.connect_http(rpc_url.parse().unwrap()).erased();
        Self { provider, id, contract, token, merchant }
    }

    /// Dues, for its views.
    #[must_use]
    pub fn dues(&self) -> Dues::DuesInstance<DynProvider> {
        Dues::new(self.contract, self.provider.clone())
    }

    /// The test dollar, for its views.
    #[must_use]
    pub fn dollars(&self) -> Token::TokenInstance<DynProvider> {
        Token::new(self.token, self.provider.clone())
    }

    /// Any JSON-RPC call.
    ///
    /// # Panics
    /// Where the node refuses it.
    pub async fn rpc(&self, method: &'static str, params: Value) -> Value {
        self.provider.raw_request(method.into(), params).await.unwrap_or_else(|e| panic!("{method}: {e}"))
    }

    /// The merchant's wallet.
    #[must_use]
    pub fn merchant_wallet(&self) -> PrivateKeySigner {
        let wallet: PrivateKeySigner = MERCHANT_KEY.parse().unwrap();
        assert_eq!(wallet.address(), self.merchant);
        wallet
    }

    /// The `number`th of any number of wallets, with something for gas and nothing else.
    pub async fn wallet(&self, number: u64) -> PrivateKeySigner {
        let wallet = PrivateKeySigner::from_bytes(&keccak256(format!("dues test wallet {number}"))).unwrap();
        self.rpc("anvil_setBalance", json!([wallet.address(), "0x56bc75e2d63100000"])).await;
        wallet
    }

    /// As [`wallet`](Self::wallet), with 100,000.00 that it has approved.
    pub async fn payer(&self, number: u64) -> PrivateKeySigner {
        let wallet = self.wallet(number).await;
        self.fund(&wallet).await;
        self.approve(&wallet, FUNDS).await;
        wallet
    }

    /// Gives a wallet 100,000.00.
    pub async fn fund(&self, wallet: &PrivateKeySigner) {
        self.fund_from(wallet, wallet.address()).await;
    }

    /// As [`fund`](Self::fund), for somebody who cannot pay for gas.
    pub async fn fund_from(&self, sender: &PrivateKeySigner, to: Address) {
        let mint = Token::mintCall { to, amount: U256::from(FUNDS) };
        self.execute(sender, self.token, &mint).await;
    }

    /// What an account has for gas.
    pub async fn ether(&self, of: Address) -> U256 {
        self.provider.get_balance(of).await.unwrap()
    }

    /// Signs a call, with the sender's next nonce.
    pub async fn sign(&self, from: &PrivateKeySigner, to: Address, call: &impl SolCall) -> SignedTx {
        let nonce = self.pending_nonce(from.address()).await;
        self.sign_as(from, to, call, nonce, GAS).await
    }

    /// What the next transaction of `from` has to count.
    pub async fn pending_nonce(&self, from: Address) -> u64 {
        self.provider.get_transaction_count(from).pending().await.unwrap()
    }

    /// Signs a call, with everything given.
    pub async fn sign_as(
        &self,
        from: &PrivateKeySigner,
        to: Address,
        call: &impl SolCall,
        nonce: u64,
        gas: u64,
    ) -> SignedTx {
        self.sign_input(from, to, call.abi_encode(), nonce, gas).await
    }

    /// As [`sign_as`](Self::sign_as), of a call that is encoded already.
    pub async fn sign_input(
        &self,
        from: &PrivateKeySigner,
        to: Address,
        input: Vec<u8>,
        nonce: u64,
        gas: u64,
    ) -> SignedTx {
        let request = TransactionRequest::default()
            .with_to(to)
            .with_input(input)
            .with_nonce(nonce)
            .with_chain_id(self.id)
            .with_gas_limit(gas)
            .with_max_fee_per_gas(MAX_FEE)
            .with_max_priority_fee_per_gas(1_000_000_000);
        let envelope = request.build(&EthereumWallet::from(from.clone())).await.unwrap();
        assert_eq!(envelope.nonce(), nonce);
        SignedTx { hash: *envelope.tx_hash(), raw: envelope.encoded_2718().into() }
    }

    /// Puts a contract on the chain, as the merchant, and gives its address.
    pub async fn create(&self, code: Vec<u8>) -> Address {
        let merchant = self.merchant_wallet();
        let request = TransactionRequest::default()
            .with_deploy_code(code)
            .with_nonce(self.pending_nonce(merchant.address()).await)
            .with_chain_id(self.id)
            .with_gas_limit(10 * GAS)
            .with_max_fee_per_gas(MAX_FEE)
            .with_max_priority_fee_per_gas(1_000_000_000);
        let envelope = request.build(&EthereumWallet::from(merchant)).await.unwrap();
        let tx = SignedTx { hash: *envelope.tx_hash(), raw: envelope.encoded_2718().into() };
        self.send(&tx).await;
        let receipt = self.receipt(tx.hash).await;
        assert!(receipt.status(), "a contract could not be created");
        receipt.contract_address.unwrap()
    }

    /// Sends a transaction, for the first time or again.
    pub async fn send(&self, tx: &SignedTx) {
        let hash = *self.provider.send_raw_transaction(&tx.raw).await.unwrap().tx_hash();
        assert_eq!(hash, tx.hash);
    }

    /// Waits until a transaction is in a block.
    pub async fn receipt(&self, hash: B256) -> TransactionReceipt {
        eventually(SOON, &format!("{hash} is in a block"), || async {
            self.try_receipt(hash).await.ok_or_else(|| "no receipt".to_owned())
        })
        .await
    }

    /// The receipt of a transaction that is in a block.
    pub async fn try_receipt(&self, hash: B256) -> Option<TransactionReceipt> {
        self.provider.get_transaction_receipt(hash).await.unwrap()
    }

    /// Sends a call and waits for its block, whether it succeeds or not.
    pub async fn attempt(
        &self,
        from: &PrivateKeySigner,
        to: Address,
        call: &impl SolCall,
    ) -> TransactionReceipt {
        let tx = self.sign(from, to, call).await;
        self.send(&tx).await;
        self.receipt(tx.hash).await
    }

    /// Sends a call, which must succeed, and waits for its block.
    pub async fn execute(
        &self,
        from: &PrivateKeySigner,
        to: Address,
        call: &impl SolCall,
    ) -> TransactionReceipt {
        let receipt = self.attempt(from, to, call).await;
        assert!(receipt.status(), "{} of {} was reverted", hex_selector(call), from.address());
        receipt
    }

    /// Lets Dues take up to `value`.
    pub async fn approve(&self, from: &PrivateKeySigner, value: u64) -> TransactionReceipt {
        let call = Token::approveCall { spender: self.contract, value: U256::from(value) };
        self.execute(from, self.token, &call).await
    }

    /// Signs a subscription, to be sent when the test likes.
    pub async fn sign_subscribe(&self, from: &PrivateKeySigner, plan: u32, reference: B256) -> SignedTx {
        self.sign(from, self.contract, &subscribe_call(plan, reference)).await
    }

    /// Subscribes.
    pub async fn subscribe(&self, from: &PrivateKeySigner, plan: u32, reference: B256) -> TransactionReceipt {
        self.execute(from, self.contract, &subscribe_call(plan, reference)).await
    }

    /// Subscribes without an approval, by an EIP-2612 permit for `value`.
    pub async fn subscribe_with_permit(
        &self,
        from: &PrivateKeySigner,
        plan: u32,
        reference: B256,
        value: u64,
    ) -> TransactionReceipt {
        let Dues::permitCall { value, deadline, v, r, s, .. } = self.sign_permit(from, plan, value).await;
        let call = Dues::subscribeWithPermitCall { planId: plan, r#ref: reference, value, deadline, v, r, s };
        self.execute(from, self.contract, &call).await
    }

    /// An EIP-2612 permit of `owner` for `value` of a plan's token, as Dues takes it.
    pub async fn sign_permit(&self, owner: &PrivateKeySigner, plan: u32, value: u64) -> Dues::permitCall {
        let permit = Permit {
            owner: owner.address(),
            spender: self.contract,
            value: U256::from(value),
            nonce: self.dollars().nonces(owner.address()).call().await.unwrap(),
            deadline: U256::MAX,
        };
        let domain = eip712_domain! {
            name: "Dev USD", version: "1", chain_id: self.id, verifying_contract: self.token,
        };
        let signature = owner.sign_hash_sync(&permit.eip712_signing_hash(&domain)).unwrap();
        Dues::permitCall {
            planId: plan,
            owner: permit.owner,
            value: permit.value,
            deadline: permit.deadline,
            v: 27 + u8::from(signature.v()),
            r: signature.r().into(),
            s: signature.s().into(),
        }
    }

    /// Ends a subscription with its paid period.
    pub async fn cancel(&self, from: &PrivateKeySigner, id: U256) -> TransactionReceipt {
        self.execute(from, self.contract, &Dues::cancelCall { id }).await
    }

    /// Ends a subscription at once.
    pub async fn cancel_now(&self, from: &PrivateKeySigner, id: U256) -> TransactionReceipt {
        self.execute(from, self.contract, &Dues::cancelNowCall { id }).await
    }

    /// Takes a scheduled end back.
    pub async fn resume(&self, from: &PrivateKeySigner, id: U256) -> TransactionReceipt {
        self.execute(from, self.contract, &Dues::resumeCall { id }).await
    }

    /// Sends several calls to Dues as one.
    pub async fn multicall(&self, from: &PrivateKeySigner, calls: Vec<Bytes>) -> TransactionReceipt {
        self.execute(from, self.contract, &Dues::multicallCall { calls }).await
    }

    /// Charges a period, as anybody may.
    pub async fn charge(&self, id: U256) -> TransactionReceipt {
        self.execute(&self.merchant_wallet(), self.contract, &Dues::chargeOneCall { id }).await
    }

    /// Charges a period of each.
    pub async fn charge_batch(&self, ids: &[U256]) -> TransactionReceipt {
        let keeper = self.merchant_wallet();
        let call = Dues::chargeBatchCall { ids: ids.to_vec() };
        let nonce = self.pending_nonce(keeper.address()).await;
        let tx = self.sign_as(&keeper, self.contract, &call, nonce, 10_000_000).await;
        self.send(&tx).await;
        let receipt = self.receipt(tx.hash).await;
        assert!(receipt.status(), "the batch was reverted");
        receipt
    }

    /// Creates a plan of `merchant` and gives its id.
    pub async fn create_plan(&self, merchant: &PrivateKeySigner, terms: &IDues::PlanTerms) -> u32 {
        let receipt =
            self.execute(merchant, self.contract, &Dues::createPlanCall { terms: terms.clone() }).await;
        event::<Dues::PlanCreated>(&receipt).planId
    }

    /// Terms of a plan by the month in the test dollar.
    #[must_use]
    pub fn monthly(&self, price: u64, payee: Address) -> IDues::PlanTerms {
        IDues::PlanTerms {
            token: self.token,
            price: U96::from(price),
            payee,
            unit: 1,
            count: 1,
            trial: 0,
            grace: 604_800,
            usageCap: U96::ZERO,
        }
    }

    /// Every log of Dues in these blocks.
    pub async fn logs(&self, from: u64, to: u64) -> Vec<Log> {
        let filter = Filter::new().address(self.contract).from_block(from).to_block(to);
        self.provider.get_logs(&filter).await.unwrap()
    }

    /// A block.
    pub async fn block(&self, tag: BlockNumberOrTag) -> Block {
        self.provider.get_block_by_number(tag).await.unwrap().unwrap()
    }

    /// The head.
    pub async fn head(&self) -> Block {
        self.block(BlockNumberOrTag::Latest).await
    }

    /// Mines `blocks` without transactions of their own.
    pub async fn mine(&self, blocks: u64) {
        self.rpc("anvil_mine", json!([format!("{blocks:#x}")])).await;
    }

    /// Whether each transaction gets a block at once, or waits for the next [`mine`](Self::mine).
    pub async fn automine(&self, on: bool) {
        self.rpc("evm_setAutomine", json!([on])).await;
    }

    /// A block every `seconds`, instead of one per transaction.
    pub async fn interval_mining(&self, seconds: u64) {
        self.rpc("evm_setIntervalMining", json!([seconds])).await;
    }

    /// Lets the chain's clock jump ahead; shows in the next block.
    pub async fn increase_time(&self, by: Duration) {
        self.rpc("evm_increaseTime", json!([by.as_secs()])).await;
    }

    /// Has the next block at `timestamp`.
    pub async fn next_block_at(&self, timestamp: i64) {
        self.rpc("evm_setNextBlockTimestamp", json!([timestamp])).await;
    }
}

/// The event `E` of a receipt that has it once.
#[must_use]
pub fn event<E: SolEvent>(receipt: &TransactionReceipt) -> E {
    let mut found = receipt.logs().iter().filter_map(|log| log.log_decode::<E>().ok());
    let event = found.next().unwrap_or_else(|| panic!("there is no {} in {receipt:?}", E::SIGNATURE));
    assert!(found.next().is_none(), "there is more than one {}", E::SIGNATURE);
    event.inner.data
}

fn subscribe_call(plan: u32, reference: B256) -> Dues::subscribeCall {
    Dues::subscribeCall { planId: plan, r#ref: reference }
}

fn hex_selector<C: SolCall>(_: &C) -> &'static str {
    C::SIGNATURE
}
