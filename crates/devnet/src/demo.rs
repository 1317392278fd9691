//! Demo accounts, their wallets, and a little history.

use alloy::{
    primitives::{Address, Bytes, TxHash, U256, keccak256},
    signers::local::PrivateKeySigner,
    sol_types::SolCall,
};
use anyhow::Context as _;
use dues_api::clock::{Clock, SystemClock};
use dues_chain::contract::Dues;
use dues_domain::ids::AccountId;
use dues_store::{Actor, Grants, Store};

use crate::chain::{Contracts, DevChain, DevUSD, SoldPlan};

/// Deploys, creates the plans and is paid: anvil's account 0. Every anvil has this key; it protects nothing.
pub(crate) const OPERATOR_KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
/// What each wallet is given: 100,000.00 of the test token.
const FUNDS: u64 = 100_000_000_000;
/// How long ago the history began.
const DAYS_AGO: i64 = 10 * 86_400;

/// A demo account.
#[derive(Debug, Clone, Copy)]
pub struct DemoAccount {
    /// Its external id.
    pub external_id: &'static str,
    /// Its wallet's key: one of anvil's own, which every anvil has and which protect nothing.
    pub private_key: &'static str,
    /// What it did before you came.
    history: History,
}

#[derive(Debug, Clone, Copy)]
enum History {
    Nothing,
    Subscribed { plan: &'static str },
    SubscribedAndCancelled { plan: &'static str },
}

/// The demo's accounts; the last one has done nothing yet.
pub const DEMO_ACCOUNTS: [DemoAccount; 4] = [
    DemoAccount {
        external_id: "ada",
        private_key: "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
        history: History::Subscribed { plan: "premium-month" },
    },
    DemoAccount {
        external_id: "grace",
        private_key: "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
        history: History::SubscribedAndCancelled { plan: "basic-month" },
    },
    DemoAccount {
        external_id: "linus",
        private_key: "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
        history: History::Nothing,
    },
    DemoAccount {
        external_id: "margaret",
        private_key: "0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
        history: History::Nothing,
    },
];

/// A demo account as it is in the ledger.
#[derive(Debug, Clone)]
pub(crate) struct DemoWallet {
    pub(crate) external_id: String,
    pub(crate) private_key: String,
    pub(crate) account: AccountId,
    pub(crate) address: Address,
    history: History,
}

impl DemoWallet {
    async fn link(store: &Store, external_id: String, key: String, history: History) -> anyhow::Result<Self> {
        let address = key.parse::<PrivateKeySigner>()?.address();
        let account = store.upsert_account(&external_id, None).await?.account.id;
        store.link_wallet(account, address, Actor::Operator).await?;
        Ok(Self { external_id, private_key: key, account, address, history })
    }
}

/// Makes the accounts and links their wallets; safe to repeat.
pub(crate) async fn accounts(store: &Store) -> anyhow::Result<Vec<DemoWallet>> {
    let mut wallets = Vec::new();
    for demo in DEMO_ACCOUNTS {
        let (external_id, key) = (demo.external_id.to_owned(), demo.private_key.to_owned());
        wallets.push(DemoWallet::link(store, external_id, key, demo.history).await?);
    }
    Ok(wallets)
}

/// Adds accounts until the last one has done nothing yet: there is always somebody to try a first payment with,
/// whatever the starts before were used for. Only a chain of our own gives them money.
pub(crate) async fn newcomers(
    store: &Store,
    chain: &DevChain,
    contracts: Contracts,
    wallets: &mut Vec<DemoWallet>,
) -> anyhow::Result<()> {
    for number in 1_u32.. {
        let Some(last) = wallets.last() else { return Ok(()) };
        if chain.nonce(last.address).await? == 0
            && store.subscription_facts(last.account, &Grants::at_once()).await?.is_empty()
        {
            return Ok(());
        }
        let external_id = format!("newcomer-{number}");
        // Anybody can know these keys; they protect nothing.
        let key = keccak256(format!("dues devnet {external_id}")).to_string();
        let wallet = DemoWallet::link(store, external_id, key, History::Nothing).await?;
        if !chain.give_ether(wallet.address).await? {
            return Ok(());
        }
        if chain.balance(contracts, wallet.address).await?.is_zero() {
            chain.confirm(vec![mint(chain, contracts, wallet.address).await?]).await?;
        }
        wallets.push(wallet);
    }
    Ok(())
}

async fn mint(chain: &DevChain, contracts: Contracts, to: Address) -> anyhow::Result<TxHash> {
    let mint = DevUSD::mintCall { to, amount: U256::from(FUNDS) }.abi_encode().into();
    chain.send(contracts.merchant, contracts.token, mint).await
}

/// Funds the wallets and lets some of them have subscribed ten days ago. A chain that has seen them is left as
/// it is.
pub(crate) async fn history(
    chain: &DevChain,
    contracts: Contracts,
    plans: &[SoldPlan],
    wallets: &[DemoWallet],
) -> anyhow::Result<()> {
    let mut minted = Vec::new();
    let mut fresh = Vec::new();
    for wallet in wallets {
        if chain.nonce(wallet.address).await? == 0
            && chain.balance(contracts, wallet.address).await?.is_zero()
        {
            minted.push(mint(chain, contracts, wallet.address).await?);
            fresh.push(wallet);
        }
    }
    if fresh.is_empty() {
        return Ok(());
    }
    chain.confirm(minted).await?;
    chain.set_next_time(SystemClock.now().timestamp().saturating_sub(DAYS_AGO)).await?;
    let (mut approvals, mut beginnings, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for wallet in fresh {
        let (key, cancels) = match wallet.history {
            History::Nothing => continue,
            History::Subscribed { plan } => (plan, false),
            History::SubscribedAndCancelled { plan } => (plan, true),
        };
        let plan = plans.iter().find(|plan| plan.offer.key.as_str() == key);
        // A catalogue without the demo's plans has no demo history.
        let Some(plan) = plan else { continue };
        let spender = contracts.source.contract;
        let approve = DevUSD::approveCall { spender, value: U256::from(FUNDS) };
        approvals.push((wallet.address, contracts.token, Bytes::from(approve.abi_encode())));
        let subscribe = Dues::subscribeCall { planId: plan.onchain_id, r#ref: wallet.account.to_reference() };
        beginnings.push((wallet.address, spender, Bytes::from(subscribe.abi_encode())));
        if cancels {
            ends.push(wallet.address);
        }
    }
    send_all(chain, approvals).await?;
    send_all(chain, beginnings).await?;
    for payer in ends {
        let id =
            chain.subscription_of(contracts, payer).await?.context("the demo's subscription is missing")?;
        let cancel = Dues::cancelCall { id }.abi_encode().into();
        send_all(chain, vec![(payer, contracts.source.contract, cancel)]).await?;
    }
    Ok(())
}

async fn send_all(chain: &DevChain, calls: Vec<(Address, Address, Bytes)>) -> anyhow::Result<()> {
    let mut sent = Vec::new();
    for (from, to, input) in calls {
        sent.push(chain.send(from, to, input).await?);
    }
    chain.confirm(sent).await
}
