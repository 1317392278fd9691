//! The chain: what a restart keeps, and what happens to a bad state file.

use std::{fs, net::TcpListener, path::Path};

use dues_embedded::{Anvil, AnvilError, AnvilOptions, tools};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{eventually, is_gone, open_dir, pid};

const ALICE: &str = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";
const BOB: &str = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8";
/// Code that emits LOG1 with topic 0x2a at every call: the runtime, after the constructor that returns it.
const LOGGER: &str = "0x67602a60006000a10060005260086018f3";

fn options(dir: &Path) -> AnvilOptions {
    AnvilOptions {
        state_file: Some(dir.join("state.json")),
        ..AnvilOptions::new(tools::anvil().unwrap(), 31_337, dir.join("logs"))
    }
}

async fn call(anvil: &Anvil, method: &str, params: Value) -> Value {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", anvil.port())).await.unwrap();
    let head = "POST / HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length:";
    stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    let answer: Value = serde_json::from_str(body).unwrap();
    assert!(answer.get("error").is_none(), "{method}: {answer}");
    answer["result"].clone()
}

/// Sends from Alice's unlocked account and gives the transaction's hash once it is in a block.
async fn send(anvil: &Anvil, mut transaction: Value) -> Value {
    transaction["from"] = ALICE.into();
    let hash = call(anvil, "eth_sendTransaction", json!([transaction])).await;
    let included = || async { !call(anvil, "eth_getTransactionReceipt", json!([hash])).await.is_null() };
    eventually("a receipt", included).await;
    hash
}

/// Everything that an indexer of this chain has seen.
async fn view(anvil: &Anvil, transactions: &[Value]) -> Value {
    let mut seen = vec![call(anvil, "eth_blockNumber", json!([])).await];
    let head = u64::from_str_radix(seen[0].as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    for number in 0..=head {
        seen.push(call(anvil, "eth_getBlockByNumber", json!([format!("{number:#x}"), true])).await);
    }
    seen.push(call(anvil, "eth_getLogs", json!([{"fromBlock": "0x0", "toBlock": "latest"}])).await);
    for hash in transactions {
        seen.push(call(anvil, "eth_getTransactionReceipt", json!([hash])).await);
    }
    for account in [ALICE, BOB] {
        seen.push(call(anvil, "eth_getTransactionCount", json!([account, "latest"])).await);
        seen.push(call(anvil, "eth_getBalance", json!([account, "latest"])).await);
    }
    Value::Array(seen)
}

#[tokio::test]
async fn a_saved_chain_goes_on_where_it_was() {
    let dir = open_dir();
    let anvil = Anvil::start(options(dir.path())).await.unwrap();
    assert!(!anvil.resumed());
    let mut transactions = vec![send(&anvil, json!({"data": LOGGER})).await];
    let receipt = call(&anvil, "eth_getTransactionReceipt", json!([transactions[0]])).await;
    let logger = receipt["contractAddress"].clone();
    for value in ["0x1", "0x2"] {
        transactions.push(send(&anvil, json!({"to": logger})).await);
        transactions.push(send(&anvil, json!({"to": BOB, "value": value})).await);
    }
    let before = view(&anvil, &transactions).await;
    let logs = before.as_array().unwrap().iter().find(|part| part[0]["topics"].is_array()).unwrap();
    assert_eq!(logs.as_array().unwrap().len(), 2);
    anvil.save_state().await.unwrap();
    // Later than the last save, and so not kept.
    call(&anvil, "evm_mine", json!([])).await;
    kill(pid(anvil.id()), Signal::SIGKILL).unwrap();
    drop(anvil);

    let mut anvil = Anvil::start(options(dir.path())).await.unwrap();
    assert!(anvil.resumed());
    assert_eq!(view(&anvil, &transactions).await, before);
    // The chain goes on, on top of the loaded head.
    let parent = before[6]["hash"].clone();
    send(&anvil, json!({"to": logger})).await;
    let next = call(&anvil, "eth_getBlockByNumber", json!(["latest", false])).await;
    assert_eq!((next["number"].as_str(), &next["parentHash"]), (Some("0x6"), &parent));
    anvil.save_state().await.unwrap();

    kill(pid(anvil.id()), Signal::SIGKILL).unwrap();
    assert!(anvil.wait().await.to_string().contains("signal: 9"));
}

#[tokio::test]
async fn a_broken_state_file_is_set_aside() {
    let dir = open_dir();
    fs::write(dir.path().join("state.json"), "{\"blocks\":[").unwrap();
    let anvil = Anvil::start(options(dir.path())).await.unwrap();
    assert!(!anvil.resumed());
    assert!(dir.path().join("state.json.invalid").exists());
    let process = pid(anvil.id());
    anvil.stop().await.unwrap();
    assert!(is_gone(process));
}

#[tokio::test]
async fn blocks_come_by_the_clock_and_a_drop_ends_them() {
    let dir = open_dir();
    let options = AnvilOptions { block_time: Some(1), state_file: None, ..options(dir.path()) };
    let anvil = Anvil::start(options).await.unwrap();
    eventually("a block", || async { call(&anvil, "eth_blockNumber", json!([])).await != "0x0" }).await;
    anvil.save_state().await.unwrap();
    let process = pid(anvil.id());
    drop(anvil);
    eventually("anvil ends", || async { is_gone(process) }).await;
}

#[tokio::test]
async fn a_taken_port_and_bad_arguments_are_said() {
    let dir = open_dir();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = Anvil::start(AnvilOptions { port: Some(port), ..options(dir.path()) }).await.unwrap_err();
    assert!(matches!(error, AnvilError::PortTaken { port: taken } if taken == port), "{error}");
    let extra_args = vec!["--no-such-flag".into()];
    let error = Anvil::start(AnvilOptions { extra_args, ..options(dir.path()) }).await.unwrap_err();
    assert!(error.to_string().contains("--no-such-flag"), "{error}");
}
