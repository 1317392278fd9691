//! A JSON-RPC proxy that fails, lags and lies as real providers do, in front of a node that does not.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use alloy::primitives::{B256, hex};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::post,
};
use futures::stream;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use url::Url;

/// How an answer can be wrong. Each is only done to answers that it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The connection breaks off before the answer.
    Drop,
    /// The answer comes 200 ms late.
    Delay,
    /// An earlier answer to the same method, under its old id.
    Replay,
    /// As [`Fault::Replay`], under the right id: a cache that does not look at what is asked.
    Cached,
    /// The body ends in the middle, as if it were whole.
    Truncate,
    /// HTTP 429 with `Retry-After: 1`.
    RateLimit,
    /// A JSON-RPC quota error.
    RateLimitByCode,
    /// HTTP 500.
    ServerError,
    /// A range of logs is too large, in the words of some provider.
    Range,
    /// `[]` for a range of logs that has some.
    MissingLogs,
    /// Some logs of a range are not there.
    SomeLogs,
    /// A log of a range that never was.
    InventedLog,
    /// Logs of a range name another block's hash.
    WrongForkLogs,
    /// The head of three blocks ago.
    StaleHead,
    /// A block under another hash.
    WrongFork,
    /// `null` for a block that is there.
    NullBlock,
    /// Batches are refused.
    NoBatches,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Drop,
        Self::Delay,
        Self::Replay,
        Self::Cached,
        Self::Truncate,
        Self::RateLimit,
        Self::RateLimitByCode,
        Self::ServerError,
        Self::Range,
        Self::MissingLogs,
        Self::SomeLogs,
        Self::InventedLog,
        Self::WrongForkLogs,
        Self::StaleHead,
        Self::WrongFork,
        Self::NullBlock,
        Self::NoBatches,
    ];
}

/// Words in which providers refuse a range.
const REFUSALS: [(i64, &str); 6] = [
    (-32602, "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range"),
    (-32005, "query returned more than 10000 results"),
    (-32614, "eth_getLogs is limited to a 1 range"),
    (-32600, "block range is too wide"),
    (-32701, "exceed maximum block range: 1"),
    (-32005, "Too many logs requested. Max logs per response is 20000."),
];

/// What goes wrong, and how often.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// How often each happens, from 0 to 1.
    pub table: BTreeMap<Fault, f64>,
    /// No range of logs may have more blocks than this.
    pub range_limit: Option<u64>,
    /// The head never rises above this block.
    pub frozen_at: Option<u64>,
    /// What it says its chain is.
    pub chain_id: Option<u64>,
}

impl Faults {
    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Besides, `fault` with `probability`, from 0 to 1.
    #[must_use]
    pub fn with(mut self, fault: Fault, probability: f64) -> Self {
        self.table.insert(fault, probability);
        self
    }
}

/// What a proxy has seen and done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// HTTP requests.
    pub requests: u64,
    /// JSON-RPC calls by method; a batch has several.
    pub calls: BTreeMap<String, u64>,
    /// HTTP requests whose first call is of a method.
    pub round_trips: BTreeMap<String, u64>,
    /// Faults by kind.
    pub injected: BTreeMap<Fault, u64>,
    /// HTTP requests that came sooner after a 429 than its `Retry-After` said.
    pub impatient: u64,
}

impl Counters {
    /// How often a fault was injected.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u64 {
        self.injected.get(&fault).copied().unwrap_or_default()
    }
}

/// The proxy. It ends with this.
#[derive(Debug)]
pub struct FaultProxy {
    shared: Arc<Shared>,
    url: Url,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: Url,
    client: reqwest::Client,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    faults: Faults,
    script: VecDeque<Fault>,
    random: fastrand::Rng,
    counters: Counters,
    earlier: HashMap<String, Value>,
    dead: bool,
    quiet_until: Option<Instant>,
}

impl FaultProxy {
    /// A proxy in front of the node at `upstream`, which does nothing wrong yet. Choices are drawn from `seed`: the
    /// same requests in the same order meet the same faults.
    pub async fn start(upstream: Url, seed: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/v2/a-secret-key", listener.local_addr().unwrap()).parse().unwrap();
        let inner = Inner {
            faults: Faults::none(),
            script: VecDeque::new(),
            random: fastrand::Rng::with_seed(seed),
            counters: Counters::default(),
            earlier: HashMap::new(),
            dead: false,
            quiet_until: None,
        };
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let shared = Arc::new(Shared { upstream, client, inner: Mutex::new(inner) });
        let router = Router::new().route("/v2/a-secret-key", post(answer)).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, url, server }
    }

    /// Where it listens. The path plays a provider's key.
    #[must_use]
    pub fn url(&self) -> Url {
        self.url.clone()
    }

    /// What goes wrong from now on.
    pub fn set(&self, faults: Faults) {
        self.shared.lock().faults = faults;
    }

    /// These go wrong next, one after the other, each with the first answer that it fits.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.lock().script.extend(faults);
    }

    /// Whether all of the script has happened.
    #[must_use]
    pub fn script_is_done(&self) -> bool {
        self.shared.lock().script.is_empty()
    }

    /// From now on every connection breaks, or back to life.
    pub fn kill(&self, dead: bool) {
        self.shared.lock().dead = dead;
    }

    /// What it has seen and done.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.lock().counters.clone()
    }

    /// Counts from nothing again.
    pub fn reset_counters(&self) {
        self.shared.lock().counters = Counters::default();
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    async fn forward(&self, request: &Value) -> Value {
        let sent = self.client.post(self.upstream.clone()).json(request).send().await;
        match sent {
            Ok(answer) => answer.json().await.unwrap(),
            // The node is stopped before its clients where a test ends.
            Err(_) => {
                json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32603, "message": "no node" } })
            }
        }
    }

    /// One call, with whatever is to be wrong about its answer.
    async fn call(&self, request: &Value) -> Value {
        let method = request["method"].as_str().unwrap().to_owned();
        let params = &request["params"];
        let range = (method == "eth_getLogs").then(|| range(&params[0])).flatten();
        {
            let mut inner = self.lock();
            let limit = inner.faults.range_limit;
            let too_large = range.zip(limit).is_some_and(|((from, to), limit)| to - from + 1 > limit);
            if too_large || (range.is_some_and(|(from, to)| to > from) && inner.draw(Fault::Range)) {
                let (code, message) = REFUSALS[inner.random.usize(..REFUSALS.len())];
                return error(request, code, message);
            }
            if inner.draw(Fault::RateLimitByCode) {
                return error(request, -32005, "project ID request rate exceeded");
            }
        }

        if let Some(id) = self.lock().faults.chain_id.filter(|_| method == "eth_chainId") {
            return json!({ "jsonrpc": "2.0", "id": request["id"], "result": format!("{id:#x}") });
        }
        let mut request = request.clone();
        if method == "eth_getBlockByNumber" && params[0] == "latest" {
            let head =
                self.forward(&json!({"jsonrpc":"2.0","id":0,"method":"eth_blockNumber","params":[]})).await;
            let head = quantity(&head["result"]).unwrap_or_default();
            let mut inner = self.lock();
            let mut shown = inner.faults.frozen_at.map_or(head, |frozen| frozen.min(head));
            if shown > 3 && inner.draw(Fault::StaleHead) {
                shown -= 3;
            }
            if shown < head {
                request["params"][0] = json!(format!("{shown:#x}"));
            }
        }
        let mut answer = self.forward(&request).await;

        let mut inner = self.lock();
        let fresh = answer.clone();
        if let Some(earlier) = inner.earlier.get(&method).cloned() {
            if inner.draw(Fault::Replay) {
                answer = earlier;
            } else if inner.draw(Fault::Cached) {
                answer = earlier;
                answer["id"] = request["id"].clone();
            }
        }
        inner.earlier.insert(method.clone(), fresh);
        if range.is_some() {
            inner.spoil_logs(&mut answer["result"]);
        }
        if method == "eth_getBlockByNumber" && answer["result"].is_object() {
            if inner.draw(Fault::NullBlock) {
                answer["result"] = Value::Null;
            } else if inner.draw(Fault::WrongFork) {
                answer["result"]["hash"] = inner.hash();
            }
        }
        answer
    }
}

impl Inner {
    /// Whether a fault is to happen now, by the script or by chance. Counts it then.
    fn draw(&mut self, fault: Fault) -> bool {
        let scripted = self.script.front() == Some(&fault);
        if scripted {
            self.script.pop_front();
        }
        let chance = self.faults.table.get(&fault).copied().unwrap_or_default();
        let happens = scripted || (chance > 0.0 && self.random.f64() < chance);
        if happens {
            *self.counters.injected.entry(fault).or_default() += 1;
        }
        happens
    }

    fn hash(&mut self) -> Value {
        let mut hash = B256::ZERO;
        self.random.fill(hash.as_mut_slice());
        json!(hex::encode_prefixed(hash))
    }

    fn spoil_logs(&mut self, logs: &mut Value) {
        let Some(logs) = logs.as_array_mut().filter(|logs| !logs.is_empty()) else { return };
        if self.draw(Fault::MissingLogs) {
            logs.clear();
        } else if self.draw(Fault::SomeLogs) {
            let gone = self.random.usize(..logs.len());
            logs.remove(gone);
        } else if self.draw(Fault::InventedLog) {
            let mut log = logs[self.random.usize(..logs.len())].clone();
            let index = quantity(&log["logIndex"]).unwrap() + 1_000;
            log["logIndex"] = json!(format!("{index:#x}"));
            log["transactionHash"] = self.hash();
            logs.push(log);
            logs.sort_by_key(|log| (quantity(&log["blockNumber"]), quantity(&log["logIndex"])));
        } else if self.draw(Fault::WrongForkLogs) {
            let hash = self.hash();
            for log in logs {
                log["blockHash"] = hash.clone();
            }
        }
    }
}

async fn answer(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let calls: Vec<&Value> =
        request.as_array().map_or_else(|| vec![&request], |calls| calls.iter().collect());
    let (drop, late, status, no_batch, truncate) = {
        let mut inner = shared.lock();
        let method = |call: &Value| call["method"].as_str().unwrap().to_owned();
        inner.counters.requests += 1;
        inner.counters.impatient += u64::from(inner.quiet_until.is_some_and(|until| Instant::now() < until));
        *inner.counters.round_trips.entry(method(calls[0])).or_default() += 1;
        for call in &calls {
            *inner.counters.calls.entry(method(call)).or_default() += 1;
        }
        let drop = inner.dead || inner.draw(Fault::Drop);
        let status = if inner.draw(Fault::RateLimit) {
            inner.quiet_until = Some(Instant::now() + Duration::from_secs(1));
            Some(StatusCode::TOO_MANY_REQUESTS)
        } else {
            inner.draw(Fault::ServerError).then_some(StatusCode::INTERNAL_SERVER_ERROR)
        };
        let no_batch = request.is_array() && inner.draw(Fault::NoBatches);
        (drop, inner.draw(Fault::Delay), status, no_batch, inner.draw(Fault::Truncate))
    };
    if drop {
        return broken_off(Bytes::new());
    }
    if late {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    match status {
        Some(status @ StatusCode::TOO_MANY_REQUESTS) => {
            return (status, [(header::RETRY_AFTER, "1")], "slow down").into_response();
        }
        Some(status) => return (status, "a load balancer's page").into_response(),
        None => {}
    }
    let answer = if no_batch {
        json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32600, "message": "Invalid Request" } })
    } else if request.is_array() {
        let mut answers = Vec::new();
        for call in calls {
            answers.push(shared.call(call).await);
        }
        Value::Array(answers)
    } else {
        shared.call(&request).await
    };
    let mut body = answer.to_string();
    if truncate {
        body.truncate(body.len() / 2);
    }
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A body that ends with the connection.
fn broken_off(begin: Bytes) -> Response {
    let parts = [Ok(begin), Err(std::io::Error::other("dropped on purpose"))];
    Body::from_stream(stream::iter(parts)).into_response()
}

fn error(request: &Value, code: i64, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": code, "message": message } })
}

/// Of a filter by numbers; none of one by hash.
fn range(filter: &Value) -> Option<(u64, u64)> {
    Some((quantity(&filter["fromBlock"])?, quantity(&filter["toBlock"])?))
}

fn quantity(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}
