//! A chain with a long history of one merchant: every block has a hundred genuine events of the contract.
//!
//! A tenth of the blocks are beginnings (50 payers subscribe, each `Subscribed` and `Charged`). In all others a keeper's
//! batch charges 85 subscriptions that are due (one payer in 17 has allowed one period only,
//! and fails once), the merchant charges usage six times and refunds three times, one payer cancels and resumes, one schedules a
//! change and revokes it, and one changes to a dearer plan at once (`PlanChanged` and `Charged`).

use std::{cell::RefCell, collections::HashMap, fs, path::PathBuf, time::Duration};

use alloy::{
    primitives::{Address, Bytes, U256, aliases::U96, keccak256},
    sol_types::SolCall,
};
use dues_chain::{
    contract::{Dues, IDues},
    deploy::{CREATE2_DEPLOYER, contract_address, create2_calldata},
};
use dues_embedded::{Anvil, AnvilOptions, tools};
use dues_tests::Token;
use serde_json::{Value, json};

mod bindings {
    alloy::sol!(
        #[derive(Debug)]
        DevUSD,
        "../crates/devnet/abi/DevUSD.json"
    );
}
use bindings::DevUSD;

/// Events of a block.
pub(crate) const EVENTS_PER_BLOCK: u64 = 100;
pub(crate) const CHAIN_ID: u64 = 31_337;
/// Changes whenever the fixture does, so that an older one in the cache is not taken for it.
const VERSION: u32 = 1;

const START: u64 = 1_769_853_600;
const DAY: u64 = 86_400;
const BEGINNINGS: u64 = 50;
const BATCH: u64 = 85;
const PRICE: u64 = 29_990_000;
const FUNDS: u64 = 1_000_000_000_000;
const GAS: u64 = 15_000_000;

/// A chain to index.
pub(crate) struct Fixture {
    pub anvil: Anvil,
    pub contract: Address,
    pub token: Address,
    pub merchant: Address,
    /// The first block with an event: the plans.
    pub start: u64,
    pub head: u64,
}

/// A subscription as the fixture remembers it, to make only calls that succeed.
#[derive(Clone, Copy)]
struct Subscription {
    plan: u32,
    periods: u16,
}

struct Builder {
    http: reqwest::Client,
    url: String,
    contract: Address,
    token: Address,
    merchant: Address,
    /// Of every sender: the node does not count right what is sent to it at once.
    nonces: RefCell<HashMap<Address, u64>>,
}

/// The chain of `blocks` blocks, out of the cache in `dir` where it is there.
pub(crate) async fn chain(dir: PathBuf, blocks: u64) -> Fixture {
    fs::create_dir_all(&dir).unwrap();
    let state = dir.join(format!("chain-v{VERSION}-{blocks}.json"));
    let args = [
        "--no-mining",
        "--base-fee",
        "0",
        "--gas-price",
        "0",
        "--gas-limit",
        "3000000000",
        "--disable-min-priority-fee",
        "--auto-impersonate",
        "--prune-history",
        "--no-request-size-limit",
    ];
    let mut extra_args: Vec<_> = args.into_iter().map(Into::into).collect();
    extra_args.extend(["--timestamp".into(), START.to_string().into()]);
    let options = AnvilOptions {
        state_file: Some(state),
        extra_args,
        ready_within: Duration::from_secs(300),
        ..AnvilOptions::new(tools::anvil().unwrap(), CHAIN_ID, dir)
    };
    let anvil = Anvil::start(options).await.unwrap();
    let token = CREATE2_DEPLOYER.create2_from_code(dues_chain::deploy::SALT, &DevUSD::BYTECODE);
    let builder = Builder {
        http: reqwest::Client::new(),
        url: anvil.rpc_url(),
        contract: contract_address(),
        token,
        merchant: Address::repeat_byte(0x11),
        nonces: RefCell::default(),
    };
    if !anvil.resumed() {
        builder.build(blocks).await;
        anvil.save_state().await.unwrap();
    }
    let head: U256 = serde_json::from_value(builder.call("eth_blockNumber", json!([])).await).unwrap();
    let head: u64 = head.to();
    let Builder { contract, token, merchant, .. } = builder;
    Fixture { anvil, contract, token, merchant, start: head - blocks, head }
}

impl Builder {
    async fn call(&self, method: &str, params: Value) -> Value {
        self.batch(vec![(method, params)]).await.remove(0)
    }

    async fn batch(&self, calls: Vec<(&str, Value)>) -> Vec<Value> {
        let body: Vec<_> = calls
            .iter()
            .enumerate()
            .map(|(id, (method, params))| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
            .collect();
        let answers: Vec<Value> =
            self.http.post(&self.url).json(&body).send().await.unwrap().json().await.unwrap();
        let results = answers.into_iter().zip(calls).map(|(mut answer, (method, _))| {
            assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
            answer["result"].take()
        });
        results.collect()
    }

    async fn send(&self, txs: Vec<(Address, Address, Bytes)>) {
        let calls = txs.into_iter().map(|(from, to, data)| {
            let mut nonces = self.nonces.borrow_mut();
            let nonce = nonces.entry(from).or_default();
            // Whoever pays more comes first: the keeper, so that what the payers do meets charged subscriptions.
            let price = if from == self.merchant { "0x1" } else { "0x0" };
            let tx = json!({
                "from": from, "to": to, "data": data, "gas": format!("{GAS:#x}"), "gasPrice": price,
                "nonce": format!("{nonce:#x}"),
            });
            *nonce += 1;
            ("eth_sendTransaction", json!([tx]))
        });
        let calls = calls.collect();
        self.batch(calls).await;
    }

    async fn mine_at(&self, timestamp: u64) {
        let calls = vec![("evm_setNextBlockTimestamp", json!([timestamp])), ("evm_mine", json!([]))];
        for (method, params) in calls {
            self.call(method, params).await;
        }
    }

    /// Fails where the head has not a hundred events: then some call of it was reverted.
    async fn check(&self) {
        let filter = json!([{ "address": self.contract, "fromBlock": "latest", "toBlock": "latest" }]);
        let logs = self.call("eth_getLogs", filter).await;
        let count = logs.as_array().unwrap().len();
        assert_eq!(count, usize::try_from(EVENTS_PER_BLOCK).unwrap(), "events of a block");
    }

    async fn build(&self, blocks: u64) {
        let subscribing = blocks / 10;
        let subscribers = subscribing * BEGINNINGS;
        let mut now = START + 60;
        self.call("anvil_setBalance", json!([self.merchant, "0x56bc75e2d63100000"])).await;
        let code = [create2_calldata(&Dues::BYTECODE), create2_calldata(&DevUSD::BYTECODE)];
        self.send(code.map(|code| (self.merchant, CREATE2_DEPLOYER, code)).into()).await;
        self.mine_at(now).await;
        self.fund(subscribers, &mut now).await;

        let plans = [PRICE, 3 * PRICE, PRICE / 3].map(|price| {
            let terms = IDues::PlanTerms {
                token: self.token,
                price: U96::from(price),
                payee: self.merchant,
                unit: 0,
                count: 1,
                trial: 0,
                grace: u32::try_from(DAY).unwrap(),
                usageCap: U96::from(1_000_000_000_000_u64),
            };
            (self.merchant, self.contract, Dues::createPlanCall { terms }.abi_encode().into())
        });
        self.send(plans.into()).await;
        now += 60;
        self.mine_at(now).await;

        for block in 0..subscribing {
            let calls = (0..BEGINNINGS).map(|place| {
                let number = block * BEGINNINGS + place;
                let call = Dues::subscribeCall { planId: 1, r#ref: keccak256(number.to_be_bytes()) };
                (payer(number), self.contract, call.abi_encode().into())
            });
            self.send(calls.collect()).await;
            now += DAY / subscribing;
            self.mine_at(now).await;
        }
        self.check().await;

        // Half a day after each is due, so that a batch in the order of the beginnings charges all of it.
        now += DAY / 2;
        let paying = u64::try_from((0..subscribers).filter(|number| pays(*number)).count()).unwrap();
        // A day at least lies between two turns of the same one, though a batch ends in the middle of a round.
        let step = DAY / (paying / BATCH) + 1;
        let mut known = vec![Subscription { plan: 1, periods: 1 }; usize::try_from(subscribers).unwrap()];
        // Who has not paid lapses, and is passed over without an event.
        let renewing = (0..subscribers).filter(|number| pays(*number)).cycle();
        let mut due = (0..subscribers).chain(renewing);
        for block in subscribing..blocks {
            let batch: Vec<u64> = due.by_ref().take(usize::try_from(BATCH).unwrap()).collect();
            self.renewals(block, &batch, &mut known).await;
            now += step;
            self.mine_at(now).await;
            if block % 50 == 49 || block < subscribing + 5 {
                self.check().await;
            }
            if block % 200 == 199 {
                eprintln!("fixture: {} of {blocks} blocks", block + 1);
            }
        }
        self.check().await;
    }

    async fn fund(&self, subscribers: u64, now: &mut u64) {
        let allow = |value: u64| Token::approveCall { spender: self.contract, value: U256::from(value) };
        let mint = |to| Token::mintCall { to, amount: U256::from(FUNDS) }.abi_encode().into();
        let everybody: Vec<u64> = (0..subscribers).collect();
        let own = (self.merchant, self.token, allow(u64::MAX).abi_encode().into());
        self.send(vec![(self.merchant, self.token, mint(self.merchant)), own]).await;
        for some in everybody.chunks(100) {
            let txs = some.iter().flat_map(|number| {
                let value = if pays(*number) { FUNDS } else { PRICE };
                let payer = payer(*number);
                [(payer, self.token, mint(payer)), (payer, self.token, allow(value).abi_encode().into())]
            });
            self.send(txs.collect()).await;
            *now += 1;
            self.mine_at(*now).await;
        }
    }

    async fn renewals(&self, block: u64, batch: &[u64], known: &mut [Subscription]) {
        let ids = batch.iter().map(|number| id(*number)).collect();
        self.send(vec![(self.merchant, self.contract, Dues::chargeBatchCall { ids }.abi_encode().into())])
            .await;
        let paying: Vec<u64> = batch.iter().copied().filter(|number| pays(*number)).collect();
        for number in &paying {
            known[usize::try_from(*number).unwrap()].periods += 1;
        }
        let key = |number: u64, what: u8| {
            keccak256([&block.to_be_bytes()[..], &number.to_be_bytes(), &[what]].concat())
        };
        let mut calls: Vec<Bytes> = Vec::new();
        for number in &paying[0..6] {
            let period = known[usize::try_from(*number).unwrap()].periods;
            let (id, amount, key) = (id(*number), U96::from(1_000 + number), key(*number, 1));
            calls.push(Dues::chargeUsageCall { id, period, amount, key }.abi_encode().into());
        }
        for number in &paying[6..9] {
            let (id, key) = (id(*number), key(*number, 2));
            calls.push(Dues::refundCall { id, amount: u128::from(10 + number % 7), key }.abi_encode().into());
        }
        let changes = paying[11];
        let dearer = &mut known[usize::try_from(changes).unwrap()];
        let last = if dearer.plan == 1 {
            *dearer = Subscription { plan: 2, periods: 1 };
            let call = Dues::changeNowCall { id: id(changes), planId: 2, count: 1, maxAmount: u128::MAX };
            vec![call.abi_encode().into()]
        } else {
            cancel_and_resume(changes)
        };
        let schedule = vec![
            Dues::scheduleChangeCall { id: id(paying[10]), planId: 3 }.abi_encode().into(),
            Dues::revokeChangeCall { id: id(paying[10]) }.abi_encode().into(),
        ];
        let multicall = |from, calls: Vec<Bytes>| {
            (from, self.contract, Bytes::from(Dues::multicallCall { calls }.abi_encode()))
        };
        self.send(vec![
            multicall(self.merchant, calls),
            multicall(payer(paying[9]), cancel_and_resume(paying[9])),
            multicall(payer(paying[10]), schedule),
            multicall(payer(changes), last),
        ])
        .await;
    }
}

fn cancel_and_resume(number: u64) -> Vec<Bytes> {
    let id = id(number);
    vec![Dues::cancelCall { id }.abi_encode().into(), Dues::resumeCall { id }.abi_encode().into()]
}

/// The `number`th payer, from 0.
fn payer(number: u64) -> Address {
    Address::from_word(keccak256([b"payer".as_slice(), &number.to_be_bytes()].concat()))
}

/// The contract's number of the `number`th payer's subscription.
fn id(number: u64) -> U256 {
    U256::from(number + 1)
}

/// Whether the `number`th payer has allowed more than the first period.
fn pays(number: u64) -> bool {
    number % 17 != 16
}
