//! Wallets proven by what they sign, and sessions of end users, over HTTP with real signatures and contracts.

use std::{collections::BTreeSet, time::Duration};

use alloy::{
    primitives::{Address, B256, U256},
    signers::local::PrivateKeySigner,
};
use dues_api::{problem::Code, proof::ContractWallets};
use dues_chain::source::RpcSource;
use dues_domain::chain::ChainSource;
use dues_tests::{Account, Answer, Chain, OddWallet, Site, Stack, eventually, sign_message, with_high_s};
use futures::future::join_all;
use reqwest::{Method, RequestBuilder, header::SET_COOKIE};
use serde_json::{Value, json};
use uuid::Uuid;

const TEN_MINUTES: Duration = Duration::from_secs(600);
const A_DAY: Duration = Duration::from_secs(86_400);

/// What a wallet does here.
struct Identity<'s>(&'s Stack);

impl Identity<'_> {
    async fn challenge(&self, account: Uuid, wallet: Address, purpose: &str) -> String {
        let body = json!({ "address": wallet, "chain_id": self.0.chain.id, "purpose": purpose });
        let given = self.0.api.post(&format!("/v1/accounts/{account}/wallets/challenge"), &body).await.ok();
        given["message"].as_str().unwrap().to_owned()
    }

    async fn link(&self, account: Uuid, message: &str, signature: &str) -> Answer {
        let body = json!({ "message": message, "signature": signature });
        self.0.api.post(&format!("/v1/accounts/{account}/wallets"), &body).await
    }

    /// A link with everything in order.
    async fn link_wallet(&self, account: Uuid, wallet: &PrivateKeySigner) -> Answer {
        let message = self.challenge(account, wallet.address(), "link").await;
        self.link(account, &message, &sign_message(wallet, &message)).await
    }

    async fn unlink(&self, account: Uuid, wallet: Address, signed: Option<(&str, &str)>) -> Answer {
        let path = format!("/v1/accounts/{account}/wallets/{wallet}");
        let mut request = self.0.api.request(Method::DELETE, &path).bearer_auth(self.0.api.key());
        if let Some((message, signature)) = signed {
            request = request.json(&json!({ "message": message, "signature": signature }));
        }
        Answer::to(request).await
    }

    fn public(&self, method: Method, path: &str) -> RequestBuilder {
        self.0.api.request(method, path)
    }

    fn origin(&self) -> &str {
        self.0.manifest["api_url"].as_str().unwrap()
    }

    async fn sign_in_challenge(&self, wallet: Address) -> String {
        let body = json!({ "address": wallet, "chain_id": self.0.chain.id });
        let given = Answer::to(self.public(Method::POST, "/api/session/challenge").json(&body)).await.ok();
        given["message"].as_str().unwrap().to_owned()
    }

    async fn sign_in(&self, message: &str, signature: &str) -> Answer {
        let body = json!({ "message": message, "signature": signature, "delivery": "token" });
        Answer::to(self.public(Method::POST, "/api/session").json(&body)).await
    }

    /// A sign-in with everything in order; gives the token.
    async fn token(&self, wallet: &PrivateKeySigner) -> String {
        let message = self.sign_in_challenge(wallet.address()).await;
        let answer = self.sign_in(&message, &sign_message(wallet, &message)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert!(!answer.headers.contains_key(SET_COOKIE));
        answer.body["token"].as_str().unwrap().to_owned()
    }

    async fn subscription(&self, token: &str) -> Answer {
        Answer::to(self.public(Method::GET, "/api/subscription").bearer_auth(token)).await
    }

    async fn mint(&self, account: Uuid) -> Value {
        self.0.api.post(&format!("/v1/accounts/{account}/sessions"), &json!({})).await.ok()
    }

    /// Lets the chain's clock, which the devnet's API goes by, move on.
    async fn pass(&self, time: Duration) {
        // The API counts fractions of a second, the chain does not.
        self.0.chain.increase_time(time + Duration::from_secs(2)).await;
        self.0.chain.mine(1).await;
        let head = self.0.chain.head().await.header.timestamp;
        let account = self.0.api.account("watch").await;
        eventually(dues_tests::SOON, "the API's clock is past the chain's", || async {
            let answer = self.0.api.entitlements(account.id).await;
            let now: chrono::DateTime<chrono::Utc> = answer["as_of"].as_str().unwrap().parse().unwrap();
            if now.timestamp() >= i64::try_from(head).unwrap() { Ok(()) } else { Err(now.to_string()) }
        })
        .await;
    }
}

fn wallets(account: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let wallets = account["wallets"].as_array().unwrap();
    wallets.iter().map(|wallet| (text(&wallet["address"]), text(&wallet["proof"]))).collect()
}

async fn customer_with_plan(stack: &Stack, number: u64) -> (Account, PrivateKeySigner) {
    let (account, wallet) = stack.customer(number).await;
    stack.chain.subscribe(&wallet, stack.plan("premium-month").onchain_id, account.reference).await;
    stack.tier_becomes(account.id, "premium").await;
    (account, wallet)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_is_linked_by_what_it_signs_and_stands_above_the_platforms_word() {
    let stack = Stack::start().await;
    let identity = Identity(&stack);
    let account = stack.api.account("nora").await;
    let wallet = PrivateKeySigner::random();
    let address = wallet.address().to_string();
    let message = identity.challenge(account.id, wallet.address(), "link").await;
    for part in [&address, &account.id.to_string(), identity.origin(), "Chain ID: 31337", "moves no money"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let linked = identity.link(account.id, &message, &sign_message(&wallet, &message)).await;
    assert_eq!((linked.status, wallets(&linked.body)), (201, vec![(address.clone(), "signature".into())]));
    let again = identity.link_wallet(account.id, &wallet).await;
    assert_eq!((again.status, &again.body), (200, &linked.body));
    // The platform's word does not lower it.
    assert_eq!(stack.api.link(account.id, wallet.address()).await.body, linked.body);

    // v as 0 or 1, which some wallets give, on a wallet that the platform has linked.
    let other = PrivateKeySigner::random();
    assert_eq!(stack.api.link(account.id, other.address()).await.status, 201);
    let message = identity.challenge(account.id, other.address(), "link").await;
    let signature = sign_message(&other, &message);
    let v = if signature.ends_with("1b") { "00" } else { "01" };
    let raised = identity.link(account.id, &message, &format!("{}{v}", &signature[..130])).await;
    let raised_wallets: BTreeSet<_> = wallets(&raised.body).into_iter().collect();
    assert_eq!(raised.status, 200);
    assert!(raised_wallets.contains(&(other.address().to_string(), "signature".into())), "{raised:?}");
    let links = "SELECT count(*) FROM ledger.audit_log WHERE action = 'wallet.link' AND detail->>'proof' = 'signature'";
    assert_eq!(stack.ledger.count(links).await, 2, "one entry per change");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_wallets_own_signature_of_our_message_for_this_links_nothing() {
    let stack = Stack::start().await;
    let identity = Identity(&stack);
    let (account, other) = (stack.api.account("nora").await, stack.api.account("omar").await);
    let (wallet, stranger) = (PrivateKeySigner::random(), PrivateKeySigner::random());
    let address = wallet.address();
    let message = identity.challenge(account.id, address, "link").await;
    let signature = sign_message(&wallet, &message);
    let v = |v: &str| format!("{}{v}", &signature[..130]);
    stack.synced().await;
    let before = stack.ledger.digest().await;
    for (name, wrong) in [
        ("a stranger's", sign_message(&stranger, &message)),
        ("of something else", sign_message(&wallet, "hello")),
        ("with the higher s", with_high_s(&signature)),
        ("with another v", v("1d")),
        ("with v of a chain", v("25")),
        ("without v", signature[..130].to_owned()),
        ("with something behind", format!("{signature}00")),
        ("of zeros", format!("0x{}1b", "00".repeat(64))),
        ("of ones", format!("0x{}1b", "ff".repeat(64))),
        ("empty", "0x".into()),
        ("no text", String::new()),
        ("no digits", "0xzz".into()),
        ("of half a byte", "0x0".into()),
        ("without 0x", signature[2..].to_owned()),
        ("endless", format!("0x{}", "00".repeat(10_000))),
    ] {
        let answer = identity.link(account.id, &message, &wrong).await;
        answer.assert_problem(name, 422, "invalid_signature");
    }
    let unlink = identity.challenge(account.id, address, "unlink").await;
    let sign_in = identity.sign_in_challenge(address).await;
    let others = identity.challenge(other.id, address, "link").await;
    let touched = message.replace("Chain ID: 31337", "Chain ID: 1");
    let longer = message.replace("Issued", "Not Before: 2020-01-01T00:00:00Z\nIssued");
    let mine = message.replace(identity.origin(), "https://evil.example");
    for (name, message) in [
        ("to unlink", &unlink),
        ("to sign in", &sign_in),
        ("of another account", &others),
        ("of another chain", &touched),
        ("with another field", &longer),
        ("of another site", &mine),
    ] {
        let answer = identity.link(account.id, message, &sign_message(&wallet, message)).await;
        answer.assert_problem(name, 422, "challenge_invalid");
    }
    // Nor does a message to link sign in, or one to sign in or link unlink.
    let answer = identity.sign_in(&message, &signature).await;
    answer.assert_problem("to link, at the door", 422, "challenge_invalid");
    for message in [&message, &sign_in] {
        let signature = sign_message(&wallet, message);
        let answer = identity.unlink(account.id, address, Some((message, &signature))).await;
        answer.assert_problem("to link or sign in, at the exit", 422, "challenge_invalid");
    }
    assert_eq!(stack.ledger.digest().await, before, "challenges and refusals leave nothing behind");
    // All of that has used nothing up.
    assert_eq!(identity.link(account.id, &message, &signature).await.status, 201);

    let late = identity.challenge(account.id, address, "link").await;
    identity.pass(TEN_MINUTES).await;
    let answer = identity.link(account.id, &late, &sign_message(&wallet, &late)).await;
    answer.assert_problem("too late", 422, "challenge_expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_uses_of_one_signature_at_once_exactly_one_has_an_effect() {
    let stack = Stack::start().await;
    let identity = Identity(&stack);
    let account = stack.api.account("nora").await;
    let wallet = PrivateKeySigner::random();
    let message = identity.challenge(account.id, wallet.address(), "link").await;
    let signature = sign_message(&wallet, &message);
    let uses = join_all((0..20).map(|_| identity.link(account.id, &message, &signature))).await;
    let (done, spent): (Vec<_>, Vec<_>) = uses.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(done.len(), 1);
    spent.iter().for_each(|answer| answer.assert_problem("a second link", 409, "challenge_spent"));

    let message = identity.sign_in_challenge(wallet.address()).await;
    let signature = sign_message(&wallet, &message);
    let uses = join_all((0..20).map(|_| identity.sign_in(&message, &signature))).await;
    let (done, spent): (Vec<_>, Vec<_>) = uses.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(done.len(), 1);
    spent.iter().for_each(|answer| answer.assert_problem("a second session", 409, "challenge_spent"));
    assert_eq!(stack.ledger.count("SELECT count(*) FROM ledger.sessions").await, 1);

    // Also after it was undone: the old signature does not link the wallet again.
    let message = identity.challenge(account.id, wallet.address(), "unlink").await;
    let signature = sign_message(&wallet, &message);
    assert_eq!(identity.unlink(account.id, wallet.address(), Some((&message, &signature))).await.status, 200);
    assert_eq!(identity.link_wallet(account.id, &wallet).await.status, 201);
    let answer = identity.unlink(account.id, wallet.address(), Some((&message, &signature))).await;
    answer.assert_problem("a replayed unlink", 409, "challenge_spent");
    // What is spent is forgotten some time after it would have expired.
    assert_eq!(stack.ledger.count("SELECT count(*) FROM ledger.spent_challenges").await, 4);
    identity.pass(Duration::from_secs(2 * 3_600)).await;
    assert_eq!(identity.link_wallet(account.id, &PrivateKeySigner::random()).await.status, 201);
    assert_eq!(stack.ledger.count("SELECT count(*) FROM ledger.spent_challenges").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_claims_what_the_wallet_paid_before_and_nothing_of_another_account() {
    let stack = Stack::start().await;
    let identity = Identity(&stack);
    let wallet = stack.chain.payer(1).await;
    stack.chain.subscribe(&wallet, stack.plan("premium-month").onchain_id, B256::ZERO).await;
    stack.synced().await;
    // The wallet can see what it has before any account claims it.
    let token = identity.token(&wallet).await;
    let own = identity.subscription(&token).await.ok();
    assert_eq!(own["entitlements"]["tier"], "premium");
    assert_eq!(own["subscriptions"][0]["payer"], wallet.address().to_string());

    let account = stack.api.account("nora").await;
    let claimed = identity.link_wallet(account.id, &wallet).await;
    assert_eq!(claimed.status, 201);
    assert_eq!(wallets(&claimed.body), [(wallet.address().to_string(), "signature".into())]);
    assert_eq!(stack.api.entitlements(account.id).await["tier"], "premium");
    identity.subscription(&token).await.assert_problem("the account is gone", 401, "no_session");
    // It signs in to where it belongs now.
    let own = identity.subscription(&identity.token(&wallet).await).await.ok();
    assert_eq!(own["entitlements"]["account"]["external_id"], "nora");

    let other = stack.api.account("omar").await;
    stack.synced().await;
    let before = stack.ledger.digest().await;
    identity.link_wallet(other.id, &wallet).await.assert_problem("taken", 409, "wallet_taken");
    assert_eq!(stack.ledger.digest().await, before, "not even the message is used up");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlinked_wallet_leaves_what_it_paid_for_and_signs_in_to_nothing() {
    let stack = Stack::start().await;
    let identity = Identity(&stack);
    let (account, wallet) = customer_with_plan(&stack, 1).await;
    let address = wallet.address();
    assert_eq!(stack.api.link(account.id, address).await.status, 201);
    let second = PrivateKeySigner::random();
    assert_eq!(identity.link_wallet(account.id, &second).await.status, 201);
    let (first_token, second_token) = (identity.token(&wallet).await, identity.token(&second).await);
    let minted = identity.mint(account.id).await["token"].as_str().unwrap().to_owned();

    let message = identity.challenge(account.id, address, "unlink").await;
    let stranger = sign_message(&second, &message);
    let answer = identity.unlink(account.id, address, Some((&message, &stranger))).await;
    answer.assert_problem("signed by another wallet", 422, "invalid_signature");
    let answer = identity.unlink(account.id, second.address(), Some((&message, &stranger))).await;
    answer.assert_problem("about another wallet", 422, "challenge_invalid");
    let signature = sign_message(&wallet, &message);
    let unlinked = identity.unlink(account.id, address, Some((&message, &signature))).await.ok();
    assert_eq!(wallets(&unlinked), [(second.address().to_string(), "signature".into())]);

    // The money stays, and so does access; renewals, too.
    assert_eq!(stack.api.entitlements(account.id).await["tier"], "premium");
    assert_eq!(stack.api.transactions(account.id).await.len(), 1);
    let id = stack.ledger.subscriptions(address).await[0].onchain_id.unwrap();
    let due = stack.chain.dues().paidThrough(U256::from(id)).call().await.unwrap();
    stack.chain.next_block_at(i64::try_from(due).unwrap()).await;
    stack.chain.mine(1).await;
    stack.chain.charge(U256::from(id)).await;
    stack.synced().await;
    assert_eq!(stack.api.transactions(account.id).await.len(), 2);

    identity.subscription(&first_token).await.assert_problem("signed in with it", 401, "no_session");
    let _ = (second_token, minted);
    let message = identity.sign_in_challenge(address).await;
    let answer = identity.sign_in(&message, &sign_message(&wallet, &message)).await;
    answer.assert_problem("it is nobody's now", 404, "account_not_found");
    identity.unlink(account.id, address, None).await.assert_problem("again", 404, "wallet_not_found");
    // It is free for another account, which gets nothing of what it paid for the first one.
    let other = stack.api.account("omar").await;
    assert_eq!(identity.link_wallet(other.id, &wallet).await.status, 201);
    assert_eq!(stack.api.entitlements(other.id).await["tier"], "free");
    assert_eq!(stack.api.transactions(account.id).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_sessions_of_the_unlinked_wallet_end_and_a_wallets_own_account_keeps_it() {
    let stack = Stack::start().await;
    let identity = Identity(&stack);
    let account = stack.api.account("nora").await;
    let (first, second) = (PrivateKeySigner::random(), PrivateKeySigner::random());
    for wallet in [&first, &second] {
        assert_eq!(identity.link_wallet(account.id, wallet).await.status, 201);
    }
    let (ended, kept) = (identity.token(&first).await, identity.token(&second).await);
    let minted = identity.mint(account.id).await["token"].as_str().unwrap().to_owned();
    assert_eq!(identity.unlink(account.id, first.address(), None).await.status, 200);
    identity.subscription(&ended).await.assert_problem("its own", 401, "no_session");
    for token in [kept, minted] {
        assert_eq!(identity.subscription(&token).await.status, 200);
    }

    let payer = stack.chain.payer(1).await;
    stack.chain.subscribe(&payer, stack.plan("basic-month").onchain_id, B256::ZERO).await;
    stack.synced().await;
    let found = stack.api.get(&format!("/v1/accounts?wallet={}", payer.address())).await.ok();
    let own: Uuid = found["id"].as_str().unwrap().parse().unwrap();
    let before = stack.ledger.digest().await;
    let answer = identity.unlink(own, payer.address(), None).await;
    answer.assert_problem("an account of the wallet's own", 409, "wallet_needed");
    assert_eq!(stack.ledger.digest().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_proves_itself_by_its_own_word_on_its_own_chain() {
    let stack = Stack::start().await;
    let identity = Identity(&stack);
    let account = stack.api.account("nora").await;
    let (owner, stranger) = (PrivateKeySigner::random(), PrivateKeySigner::random());
    let safe = stack.chain.owned_wallet(owner.address()).await;
    let sibling = stack.chain.owned_wallet(owner.address()).await;
    let message = identity.challenge(account.id, safe, "link").await;
    let answer = identity.link(account.id, &message, &sign_message(&stranger, &message)).await;
    answer.assert_problem("a stranger's", 422, "invalid_signature");
    let linked = identity.link(account.id, &message, &sign_message(&owner, &message)).await;
    assert_eq!(wallets(&linked.ok()), [(safe.to_string(), "signature".into())]);
    // The owner's other contract would accept it as well, but the message names the first one.
    let answer =
        identity.link(account.id, &message.replace(&safe.to_string(), &sibling.to_string()), "0x00").await;
    answer.assert_problem("a sibling's", 422, "challenge_invalid");
    let message = identity.sign_in_challenge(safe).await;
    assert_eq!(identity.sign_in(&message, &sign_message(&owner, &message)).await.status, 201);

    // Nobody has put a contract there yet.
    let nothing = Address::repeat_byte(0x42);
    let message = identity.challenge(account.id, nothing, "link").await;
    let answer = identity.link(account.id, &message, &sign_message(&owner, &message)).await;
    answer.assert_problem("no contract", 422, "invalid_signature");

    // On a chain without a node here, a key can be checked, and a contract cannot.
    let ask = async |wallet: Address| {
        let body = json!({ "address": wallet, "chain_id": 1 });
        let path = format!("/v1/accounts/{}/wallets/challenge", account.id);
        stack.api.post(&path, &body).await.ok()["message"].as_str().unwrap().to_owned()
    };
    let message = ask(sibling).await;
    let answer = identity.link(account.id, &message, &sign_message(&owner, &message)).await;
    answer.assert_problem("a contract elsewhere", 422, "signature_not_verifiable");
    let message = ask(stranger.address()).await;
    assert_eq!(identity.link(account.id, &message, &sign_message(&stranger, &message)).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_of_somebody_elses_at_the_same_address_on_another_chain_proves_nothing() {
    const MESSAGE: &str = "hello";
    let stack = Stack::start().await;
    let elsewhere = Site::on_chain(7_777).await;
    let other = Chain::new(
        elsewhere.rpc_url().as_str(),
        7_777,
        stack.chain.contract,
        stack.chain.token,
        stack.chain.merchant,
    );
    let (owner, thief) = (PrivateKeySigner::random(), PrivateKeySigner::random());
    let safe = stack.chain.owned_wallet(owner.address()).await;
    let nodes =
        [(&stack.chain, stack.manifest["rpc_url"].as_str().unwrap()), (&other, elsewhere.rpc_url().as_str())]
            .map(|(chain, url)| {
                let source = ChainSource { chain_id: chain.id, contract: chain.contract };
                RpcSource::new(url.parse::<url::Url>().unwrap(), source).unwrap()
            });
    let wallets = ContractWallets::new(nodes);
    let check = async |chain: &Chain, signer: &PrivateKeySigner| {
        let signature = sign_message(signer, MESSAGE);
        let checked = wallets.check(safe, chain.id, MESSAGE, &signature).await;
        checked.map_err(|problem| problem.code())
    };
    assert_eq!(check(&stack.chain, &owner).await, Ok(()));
    assert_eq!(check(&other, &owner).await, Err(Code::InvalidSignature), "it is not there");
    // The thief gets hold of the address on the other chain, where the owner has never been.
    let theirs = other.owned_wallet(thief.address()).await;
    let code = other.rpc("eth_getCode", json!([theirs, "latest"])).await;
    other.rpc("anvil_setCode", json!([safe, code])).await;
    assert_eq!(check(&other, &thief).await, Err(Code::InvalidSignature), "the owner's contract says no");
    assert_eq!(check(&stack.chain, &thief).await, Err(Code::InvalidSignature));
    // Nor does either of them count alone any more.
    assert_eq!(check(&stack.chain, &owner).await, Err(Code::InvalidSignature));
    // A key's own word needs no chain.
    let signature = sign_message(&thief, MESSAGE);
    assert_eq!(wallets.check(thief.address(), 1, MESSAGE, &signature).await.map_err(|p| p.code()), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_contracts_answers_only_the_right_word_is_a_yes() {
    let stack = Stack::start().await;
    let identity = Identity(&stack);
    let account = stack.api.account("nora").await;
    let odd = stack.chain.odd_wallet().await;
    // As in OddWallet: the first one is the right word with more behind it; all others mean no.
    for answer in 1..=9 {
        let call = OddWallet::setCall { answer_: answer };
        stack.chain.execute(&stack.chain.merchant_wallet(), odd, &call).await;
        let message = identity.challenge(account.id, odd, "link").await;
        let refused = identity.link(account.id, &message, "0x1234").await;
        refused.assert_problem(&format!("answer {answer}"), 422, "invalid_signature");
    }
    stack.chain.execute(&stack.chain.merchant_wallet(), odd, &OddWallet::setCall { answer_: 0 }).await;
    let message = identity.challenge(account.id, odd, "link").await;
    assert_eq!(identity.link(account.id, &message, "0x1234").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_a_cookie_changes_something_only_from_our_own_pages() {
    let stack = Stack::start().await;
    let identity = Identity(&stack);
    let (account, wallet) = customer_with_plan(&stack, 1).await;
    assert_eq!(identity.link_wallet(account.id, &wallet).await.status, 201);
    let origin = identity.origin();
    let message = identity.sign_in_challenge(wallet.address()).await;
    let body = json!({ "message": message, "signature": sign_message(&wallet, &message) });
    let sign_in = || identity.public(Method::POST, "/api/session").json(&body);
    for (name, request) in [
        ("nobody says from where", sign_in()),
        ("from another site", sign_in().header("origin", "https://evil.example")),
        ("from nowhere", sign_in().header("origin", "null")),
        ("from a neighbour", sign_in().header("sec-fetch-site", "same-site")),
    ] {
        let answer = Answer::to(request).await;
        answer.assert_problem(name, 403, "cross_site");
        assert!(!answer.headers.contains_key(SET_COOKIE));
    }
    let answer = Answer::to(sign_in().header("origin", origin)).await;
    assert_eq!((answer.status, &answer.body["token"]), (201, &Value::Null), "{answer:?}");
    assert_eq!(answer.body["account_id"], account.id.to_string());
    let cookie = answer.headers[SET_COOKIE].to_str().unwrap().to_owned();
    assert!(cookie.starts_with("dues_session=dues_st_"), "{cookie}");
    assert!(cookie.ends_with("; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();

    let get =
        |cookie: &str| identity.public(Method::GET, "/api/subscription").header("cookie", cookie.to_owned());
    let own = Answer::to(get(cookie)).await.ok();
    assert_eq!(own["entitlements"], {
        let mut expected = stack.api.entitlements(account.id).await;
        expected["as_of"] = own["entitlements"]["as_of"].clone();
        expected
    });
    let subscription = &own["subscriptions"][0];
    assert_eq!(subscription["plan"], "premium-month");
    assert_eq!((&subscription["status"], &subscription["tier"]), (&json!("active"), &json!("premium")));
    assert_eq!(subscription["payer"], wallet.address().to_string());
    assert_eq!(subscription["id"], own["entitlements"]["source"]["subscription_id"]);

    let sign_out = || identity.public(Method::DELETE, "/api/session").header("cookie", cookie);
    for (name, request) in [
        ("nobody says from where", sign_out()),
        ("from another site", sign_out().header("origin", "https://evil.example")),
        ("from a neighbour", sign_out().header("sec-fetch-site", "same-site")),
    ] {
        Answer::to(request).await.assert_problem(name, 403, "cross_site");
    }
    assert_eq!(Answer::to(get(cookie)).await.status, 200);
    let out = Answer::to(sign_out().header("origin", origin)).await;
    assert_eq!((out.status, &out.body), (204, &Value::Null));
    assert!(out.headers[SET_COOKIE].to_str().unwrap().starts_with("dues_session=; Path=/; Max-Age=0;"));
    Answer::to(get(cookie)).await.assert_problem("signed out", 401, "no_session");
    Answer::to(sign_out().header("origin", origin)).await.assert_problem("again", 401, "no_session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_let_in_by_its_own_token_alone_and_until_it_ends() {
    let stack = Stack::start().await;
    let identity = Identity(&stack);
    let (account, wallet) = stack.customer(1).await;
    assert_eq!(stack.api.link(account.id, wallet.address()).await.status, 201);
    let token = identity.token(&wallet).await;
    let good = format!("dues_session={token}");
    stack.synced().await;
    let before = stack.ledger.digest().await;
    let cases = [
        ("nothing", None, None),
        ("an API key", Some(format!("Bearer {}", stack.api.key())), None),
        ("an API key beside a good cookie", Some(format!("Bearer {}", stack.api.key())), Some(good.clone())),
        ("another scheme", Some(format!("Basic {token}")), None),
        ("no scheme", Some(token.clone()), None),
        ("a token and something behind it", Some(format!("Bearer {token}x")), None),
        ("a token that lacks its end", Some(format!("Bearer {}", &token[..token.len() - 1])), None),
        ("a made-up token", Some(format!("Bearer dues_st_{}", "A".repeat(43))), None),
        ("an endless token", Some(format!("Bearer dues_st_{}", "A".repeat(4_000))), None),
        ("two cookies", None, Some(format!("{good}; dues_session=dues_st_x"))),
        ("another cookie", None, Some(format!("__Host-dues_session={token}"))),
    ];
    for (method, path) in
        [(Method::GET, "/api/subscription"), (Method::GET, "/api/usage"), (Method::DELETE, "/api/session")]
    {
        for (name, authorization, cookie) in &cases {
            let mut request = identity.public(method.clone(), path).header("origin", identity.origin());
            if let Some(authorization) = authorization {
                request = request.header("authorization", authorization);
            }
            if let Some(cookie) = cookie {
                request = request.header("cookie", cookie);
            }
            let answer = Answer::to(request).await;
            answer.assert_problem(&format!("{method} {path} with {name}"), 401, "no_session");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    }
    // Nor is a token a key.
    let answer = stack.api.with_key(&token).get(&format!("/v1/accounts/{}", account.id)).await;
    answer.assert_problem("a token on /v1", 401, "unauthenticated");
    assert_eq!(stack.ledger.digest().await, before);

    assert_eq!(identity.subscription(&token).await.status, 200);
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT s::text FROM ledger.sessions s UNION ALL SELECT a::text FROM ledger.audit_log a",
    )
    .fetch_all(stack.ledger.pool())
    .await
    .unwrap();
    let hex: String = token.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(!rows.is_empty() && rows.iter().all(|row| !row.contains(&token) && !row.contains(&hex)));

    identity.pass(A_DAY).await;
    identity.subscription(&token).await.assert_problem("after a day", 401, "no_session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_tells_nobody_but_the_wallet_whether_it_is_known() {
    let stack = Stack::start().await;
    let identity = Identity(&stack);
    let account = stack.api.account("nora").await;
    let (known, unknown, stranger) =
        (PrivateKeySigner::random(), PrivateKeySigner::random(), PrivateKeySigner::random());
    assert_eq!(stack.api.link(account.id, known.address()).await.status, 201);
    stack.synced().await;
    let before = stack.ledger.digest().await;
    let mut answers = Vec::new();
    for wallet in [&known, &unknown] {
        let message = identity.sign_in_challenge(wallet.address()).await;
        let answer = identity.sign_in(&message, &sign_message(&stranger, &message)).await;
        answer.assert_problem("a stranger", 422, "invalid_signature");
        answers.push(answer.body);
    }
    assert_eq!(answers[0], answers[1]);
    let message = identity.sign_in_challenge(unknown.address()).await;
    let answer = identity.sign_in(&message, &sign_message(&unknown, &message)).await;
    answer.assert_problem("the wallet itself", 404, "account_not_found");
    assert_eq!(stack.ledger.digest().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_signs_its_user_in_for_as_long_as_it_says() {
    let stack = Stack::start().await;
    let identity = Identity(&stack);
    let (account, _) = customer_with_plan(&stack, 1).await;
    let path = format!("/v1/accounts/{}/sessions", account.id);
    let instant = |value: &Value| value.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let as_of = instant(&stack.api.entitlements(account.id).await["as_of"]);
    let empty = stack.api.request(Method::POST, &path).bearer_auth(stack.api.key());
    for (minted, seconds) in [
        (Answer::to(empty).await, 900),
        (stack.api.post(&path, &json!({})).await, 900),
        (stack.api.post(&path, &json!({ "ttl_seconds": 86_400 })).await, 86_400),
    ] {
        assert_eq!(minted.status, 201);
        let lasts = (instant(&minted.body["expires_at"]) - as_of).num_seconds();
        assert!((seconds..seconds + 60).contains(&lasts), "{lasts}");
        let own = identity.subscription(minted.body["token"].as_str().unwrap()).await.ok();
        assert_eq!(own["entitlements"]["account"]["id"], account.id.to_string());
    }
    let all =
        async || Answer::to(stack.api.request(Method::DELETE, &path).bearer_auth(stack.api.key())).await.ok();
    let other = stack.api.account("other").await;
    let kept = identity.mint(other.id).await["token"].as_str().unwrap().to_owned();
    let live = identity.mint(account.id).await["token"].as_str().unwrap().to_owned();
    assert_eq!(all().await, json!({ "ended": 4 }));
    assert_eq!(all().await, json!({ "ended": 0 }));
    identity.subscription(&live).await.assert_problem("signed out everywhere", 401, "no_session");
    assert_eq!(identity.subscription(&kept).await.status, 200);

    let short = stack.api.post(&path, &json!({ "ttl_seconds": 60 })).await.ok();
    let token = short["token"].as_str().unwrap();
    let used = json!({ "external_id": "customer-1", "event_id": "one", "requests": 1, "tokens": 7 });
    assert_eq!(stack.api.post("/v1/usage", &used).await.status, 200);
    let usage = async |query: &str| {
        let path = format!("/api/usage{query}");
        Answer::to(identity.public(Method::GET, &path).bearer_auth(token)).await
    };
    let own = usage("").await.ok();
    assert_eq!(own["current"]["meters"]["tokens"]["used"], 7);
    let mut seen = stack.api.get(&format!("/v1/accounts/{}/usage", account.id)).await.ok();
    seen["as_of"] = own["as_of"].clone();
    assert_eq!(own, seen);
    usage("?from=yesterday").await.assert_problem("no day", 400, "invalid_query");
    assert_eq!(identity.subscription(token).await.status, 200);
    identity.pass(Duration::from_secs(60)).await;
    identity.subscription(token).await.assert_problem("after a minute", 401, "no_session");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_says_what_a_plan_gives_and_where_to_buy_it() {
    let stack = Stack::start().await;
    let identity = Identity(&stack);
    let seen = Answer::to(identity.public(Method::GET, "/api/plans")).await.ok();
    assert_eq!(stack.api.get("/v1/plans").await.ok(), seen);
    let tiers: Vec<_> =
        seen["tiers"].as_array().unwrap().iter().map(|tier| tier["tier"].as_str().unwrap()).collect();
    assert_eq!(tiers, ["free", "basic", "premium", "enterprise"]);
    assert_eq!(seen["tiers"][3]["quotas"], json!({ "requests": null, "tokens": null }));
    assert_eq!(seen["tiers"][1]["quotas"], json!({ "requests": 5_000, "tokens": 500_000 }));
    assert!(seen["tiers"][1]["features"].as_array().unwrap().contains(&json!("basic_assistant")));
    let plans = seen["plans"].as_array().unwrap();
    assert_eq!(plans.len(), 6);
    let plan = plans.iter().find(|plan| plan["id"] == "basic-month").unwrap();
    assert_eq!(
        plan["price"],
        json!({ "amount": "29.99", "currency": "USDC", "base_units": "29990000", "exponent": 6 })
    );
    assert_eq!(plan["interval"], json!({ "unit": "month", "count": 1 }));
    let onchain_id = stack.plan("basic-month").onchain_id;
    let sale = &plan["chains"][0];
    assert_eq!(sale["chain_id"], stack.chain.id);
    assert_eq!(sale["onchain_id"], onchain_id.to_string());
    assert_eq!(sale["contract"], stack.chain.contract.to_string());
    assert_eq!(sale["token"], stack.chain.token.to_string());

    // What is retired is not for sale any more.
    let retire = dues_chain::contract::Dues::retirePlanCall { planId: onchain_id };
    stack.chain.execute(&stack.chain.merchant_wallet(), stack.chain.contract, &retire).await;
    stack.synced().await;
    let seen = Answer::to(identity.public(Method::GET, "/api/plans")).await.ok();
    let plan = seen["plans"].as_array().unwrap().iter().find(|plan| plan["id"] == "basic-month").unwrap();
    assert_eq!(plan["chains"], json!([]));
}
