//! Blocks and logs from JSON-RPC nodes, checked against each other before anybody believes them.
//!
//! A node may lag, may answer from another fork, and behind a load balancer two requests may reach two nodes.
//! So a [`Segment`] is returned only where the headers form one chain on top of the block that the caller knows,
//! every log names the hash of the header at its height, and no header's bloom filter promises a log of the
//! contract that the answer lacks.
//!
//! There may be several nodes. Each answer (a head, a header, a whole segment) is one node's, so that it fits
//! together; where one fails, contradicts itself, lags behind the ledger or is of another chain, the next one is
//! asked, and the first one rests, longer each time.
//!
//! * `endpoint`: one node, its batches and its ranges of logs; `adaptive`: how large they may be.
//! * `transport`, `failure`, `wording`: what goes over the wire, what went wrong, what providers mean by it.
//! * `health`: which node to ask, and when; `telemetry`: figures of both.
//! * `verify`: whether answers fit together.
//! * `wake`: new heads over WebSocket.
//! * `views`: storage and receipts; `signatures`: contracts' own; `charging`, `acting`: simulations, gas, and what is sent;
//!   `relaying`: the same of what payers signed.

mod acting;
mod adaptive;
mod charging;
mod endpoint;
mod endpoints;
mod failure;
mod health;
mod relaying;
mod signatures;
mod telemetry;
mod transport;
mod verify;
mod wake;
mod wording;

mod views;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    rpc::types::{TransactionInput, TransactionRequest},
    sol_types::SolCall as _,
    transports::http::reqwest,
};
use dues_domain::chain::{BlockHeader, BlockRef, ChainSource, EventPosition};
use futures::future::{join_all, try_join};
use tokio::time::{Instant, sleep_until};

use self::{adaptive::Adaptive, endpoint::Endpoint, failure::Failure, verify::HashRule};

pub use acting::{Call, CallRefused};
pub use charging::{GasPrices, Inclusion, Means, Sent, Simulated, batch_call};
pub use relaying::intent_call;
pub use views::{ContractPlan, ContractSubscription, Receipt, TokenTransfer};

/// How a caller names a block.
pub use alloy::eips::BlockNumberOrTag as BlockTag;
pub use endpoints::{Endpoints, EndpointsError};
pub use telemetry::describe_metrics;
pub use wake::WakeUps;

/// The most blocks of one segment.
pub const MAX_SPAN: u64 = 2_000;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one question may wait for endpoints that rest; longer than that is the caller's to wait.
const MAX_WAIT: Duration = Duration::from_secs(15);
/// How often one question is asked, over all endpoints, before the caller is told.
const MIN_ATTEMPTS: usize = 6;
/// After how many looks at a head that does not move the others' heads are looked at, too.
const STILL_LOOKS: u32 = 10;
/// How far another endpoint must be ahead to show that a head is stuck: one block is the time that news take.
const STUCK_BY: u64 = 2;
/// How many requests for logs a segment may need where ranges are small.
const RANGES_PER_SEGMENT: u64 = 16;

/// Why the chain could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The HTTP client could not be set up (no TLS roots, say).
    #[error("the HTTP client could not be set up")]
    Client(#[source] reqwest::Error),
    /// The node did not answer, or answered with an error.
    #[error("{endpoint} failed to answer {method}: {reason}")]
    Rpc {
        /// Which node, by its host: providers put the key into the URL.
        endpoint: String,
        /// The JSON-RPC method.
        method: &'static str,
        /// What went wrong, without the node's URL.
        reason: String,
    },
    /// No node may be asked at the moment: each of them failed, or asked for patience, a moment ago.
    #[error("no endpoint may be asked before {} seconds have passed", .0.as_secs().saturating_add(1))]
    Resting(Duration),
    /// The node is of another chain than the configuration says. With several nodes: all of them.
    #[error("the node is of chain {found}, configured is {expected}")]
    WrongChain {
        /// What the configuration says.
        expected: u64,
        /// What the node says.
        found: u64,
    },
    /// An address that was configured as a token is none.
    #[error("{0} is no ERC-20 token")]
    NoToken(Address),
    /// Two answers contradict each other: the node lags, switched forks, or lies. Read again.
    #[error("the node's answers contradict each other: {0}")]
    Inconsistent(&'static str),
}

/// A log of the contract, as it stands on the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawLog {
    /// Where it stands.
    pub at: EventPosition,
    /// Indexed parameters, the event's signature first.
    pub topics: Vec<B256>,
    /// The other parameters, ABI-encoded.
    pub data: Vec<u8>,
}

/// A verified stretch of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Headers of its blocks, ascending and without a gap.
    pub headers: Vec<BlockHeader>,
    /// The last block of the stretch.
    pub last: BlockRef,
    /// Every log of the contract in the stretch, in the chain's order.
    pub logs: Vec<RawLog>,
}

/// One or more nodes, asked about one contract. Clones share what is known of the nodes.
#[derive(Debug, Clone)]
pub struct RpcSource {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: ChainSource,
    endpoints: Vec<Arc<Endpoint>>,
    urls: Endpoints,
    /// The endpoint that answered last, by its place: what belongs together is asked of it.
    current: AtomicUsize,
    hashes: HashRule,
    head: StillHead,
    /// How many blocks are read, and verified, at once.
    piece: Mutex<Adaptive>,
}

/// For how many looks the head has not moved.
#[derive(Debug, Default)]
struct StillHead {
    hash: Mutex<B256>,
    looks: AtomicU32,
}

impl StillHead {
    /// Notes a look at the head; whether it is time to look at the others' heads.
    fn looked(&self, hash: B256) -> bool {
        let mut last = self.hash.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != hash {
            *last = hash;
            self.looks.store(0, Ordering::Relaxed);
        }
        self.looks.fetch_add(1, Ordering::Relaxed) % STILL_LOOKS == STILL_LOOKS.saturating_sub(1)
    }
}

/// Which endpoint comes first among those that do equally well.
#[derive(Debug, Clone, Copy)]
enum Prefer {
    /// The order of the configuration.
    Configured,
    /// The one that answered last.
    Current,
}

impl RpcSource {
    /// A source that asks the nodes at `endpoints` about `source`. Nothing is sent before the first question.
    ///
    /// # Errors
    /// [`SourceError::Client`] where no HTTP client can be set up.
    pub fn new(endpoints: impl Into<Endpoints>, source: ChainSource) -> Result<Self, SourceError> {
        let urls: Endpoints = endpoints.into();
        let http =
            reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build().map_err(SourceError::Client)?;
        let endpoints = urls
            .http
            .iter()
            .zip(endpoints::names(&urls.http))
            .map(|(url, name)| Arc::new(Endpoint::new(source.chain_id, name, url.clone(), http.clone())))
            .collect();
        let shared = Shared {
            source,
            endpoints,
            urls,
            current: AtomicUsize::new(0),
            hashes: HashRule::default(),
            head: StillHead::default(),
            piece: Mutex::new(Adaptive::new(MAX_SPAN)),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Which contract on which chain it is asked about.
    #[must_use]
    pub fn source(&self) -> ChainSource {
        self.shared.source
    }

    /// How many blocks to ask for in one [`segment`](Self::segment), at the moment: fewer where a provider answers
    /// only for small ranges, or contradicts itself, so that no segment takes very many requests.
    #[must_use]
    pub fn span(&self) -> u64 {
        let range = self.current().map_or(MAX_SPAN, Endpoint::span);
        range.saturating_mul(RANGES_PER_SEGMENT).min(self.piece().now())
    }

    /// Listens for new heads at the `ws` and `wss` URLs, until the result is dropped. Needs a tokio runtime.
    #[must_use]
    pub fn wake_ups(&self) -> WakeUps {
        WakeUps::listen(&self.shared.urls.ws)
    }

    /// Checks that a node is there and of the configured chain.
    ///
    /// # Errors
    /// [`SourceError::WrongChain`] where every node is of another one.
    pub async fn verify_chain(&self) -> Result<(), SourceError> {
        self.read(Prefer::Configured, |_| async { Ok(()) }).await.map(|(_, ())| ())
    }

    /// The head. A node whose head is below `at_least`, or has not moved for long, is only believed where no other one
    /// is ahead.
    ///
    /// # Errors
    /// [`SourceError::Rpc`] where no node answers.
    pub async fn head(&self, at_least: u64) -> Result<BlockHeader, SourceError> {
        let (place, head) = self
            .read(Prefer::Configured, |endpoint| async move {
                self.one_header(&endpoint, BlockTag::Latest)
                    .await?
                    .ok_or(Failure::Inconsistent("the node has no head"))
            })
            .await?;
        let still = self.shared.head.looked(head.block.hash);
        let behind = head.block.number < at_least;
        if !(behind || still) || self.shared.endpoints.len() < 2 {
            return Ok(head);
        }
        let least = if behind { 1 } else { STUCK_BY };
        match self.highest_of_others(place).await {
            Some((other, ahead)) if ahead.block.number >= head.block.number.saturating_add(least) => {
                self.lagged(place, &head, &ahead);
                self.shared.current.store(other, Ordering::Relaxed);
                Ok(ahead)
            }
            _ => Ok(head),
        }
    }

    /// The header that `tag` names, or `None` where the node has none.
    ///
    /// # Errors
    /// [`SourceError::Rpc`] where no node answers.
    pub async fn header(&self, tag: BlockTag) -> Result<Option<BlockHeader>, SourceError> {
        let ask = |endpoint: Arc<Endpoint>| async move { self.one_header(&endpoint, tag).await };
        self.read(Prefer::Current, ask).await.map(|(_, header)| header)
    }

    /// The blocks `from..=to` and the contract's logs in them, on top of `parent`, which is block `from - 1`. All of
    /// it is one node's answer; where none of them gives one that fits together, it is put together from smaller
    /// pieces, each such an answer on top of the one before.
    ///
    /// # Errors
    /// [`SourceError::Inconsistent`] where no node's answers fit together; read again later.
    pub async fn segment(&self, from: u64, to: u64, parent: Option<B256>) -> Result<Segment, SourceError> {
        let mut whole: Option<Segment> = None;
        let mut next = from;
        while next <= to {
            let size = self.piece().now().min(to.saturating_sub(next).saturating_add(1));
            let last = next.saturating_add(size.saturating_sub(1));
            let parent = whole.as_ref().map_or(parent, |whole| Some(whole.last.hash));
            let ask = |endpoint: Arc<Endpoint>| async move {
                self.one_segment(&endpoint, next, last, parent).await
            };
            // Rather a smaller piece than the same one over and over.
            let attempts = self.shared.endpoints.len().saturating_add(1);
            match self.read_within(attempts, Prefer::Current, ask).await {
                Ok((_, piece)) => {
                    self.piece().answered(size);
                    next = last.saturating_add(1);
                    match &mut whole {
                        None => whole = Some(piece),
                        Some(whole) => {
                            whole.headers.extend(piece.headers);
                            whole.logs.extend(piece.logs);
                            whole.last = piece.last;
                        }
                    }
                }
                Err(SourceError::Inconsistent(why)) if size > 1 && why != verify::OTHER_PARENT => {
                    tracing::debug!(blocks = size, why, "a stretch is read again in smaller pieces");
                    self.piece().refused(size, None);
                }
                Err(error) => {
                    // The more requests it takes, the likelier is it that one of them fails.
                    if matches!(error, SourceError::Rpc { .. }) {
                        self.piece().refused(size, None);
                    }
                    return Err(error);
                }
            }
        }
        whole.ok_or(SourceError::Inconsistent("the range has no blocks"))
    }

    /// An ERC-20 token's decimal places, as the token says.
    ///
    /// # Errors
    /// [`SourceError::Rpc`] where no node answers, [`SourceError::NoToken`] where the address is none.
    pub async fn token_decimals(&self, token: Address) -> Result<u8, SourceError> {
        alloy::sol! {
            function decimals() external view returns (uint8);
        }
        let input = TransactionInput::new(decimalsCall {}.abi_encode().into());
        let call = &TransactionRequest { to: Some(token.into()), input, ..Default::default() };
        let ask = |endpoint: Arc<Endpoint>| async move {
            match endpoint.call::<_, Bytes>("eth_call", (call.clone(), BlockTag::Latest)).await {
                Ok(answer) => Ok(Some(answer)),
                // What is no token reverts, or has no such function.
                Err(Failure::Broken { reason, .. }) if reason.contains("revert") => Ok(None),
                Err(failure) => Err(failure),
            }
        };
        let (_, answer) = self.read(Prefer::Current, ask).await?;
        answer
            .filter(|answer| answer.len() == 32)
            .and_then(|answer| u8::try_from(U256::from_be_slice(&answer)).ok())
            .ok_or(SourceError::NoToken(token))
    }

    /// Notes that what the node said that answered last cannot be, going by what is known already: it is asked last
    /// for a while. Gives whether there is another node that may know better; if not, all are asked as before.
    #[must_use]
    pub fn distrust(&self) -> bool {
        let now = Instant::now();
        if let Some(endpoint) = self.current() {
            tracing::warn!(
                endpoint = endpoint.name(),
                "its answers contradict the ledger; others are asked first"
            );
            endpoint.health(|health| health.distrust(now));
            endpoint.telemetry().distrusted();
        }
        self.shared
            .endpoints
            .iter()
            .any(|endpoint| endpoint.health(|h| !h.is_distrusted(now) && h.wrong_chain().is_none()))
    }

    // Nothing that panics is done under the lock.
    fn piece(&self) -> MutexGuard<'_, Adaptive> {
        self.shared.piece.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Option<&Endpoint> {
        self.shared.endpoints.get(self.shared.current.load(Ordering::Relaxed)).map(AsRef::as_ref)
    }

    async fn one_header(&self, endpoint: &Endpoint, tag: BlockTag) -> Result<Option<BlockHeader>, Failure> {
        let Some(header) = endpoint.header(tag).await? else { return Ok(None) };
        if matches!(tag, BlockTag::Number(number) if number != header.number) {
            return Err(Failure::Inconsistent("a block is not at the height that was asked for"));
        }
        self.shared.hashes.check([&header])?;
        verify::block_header(&header).map(Some)
    }

    async fn one_segment(
        &self,
        endpoint: &Endpoint,
        from: u64,
        to: u64,
        parent: Option<B256>,
    ) -> Result<Segment, Failure> {
        let source = self.shared.source;
        let (headers, logs) =
            try_join(endpoint.headers(from, to), endpoint.logs(source.contract, from, to)).await?;
        verify::linked(parent, &headers)?;
        self.shared.hashes.check(&headers)?;
        let placed = verify::placed(source, &headers, &logs)?;
        verify::complete(endpoint, source.contract, &headers, &logs).await?;
        let headers = headers.iter().map(verify::block_header).collect::<Result<Vec<_>, _>>()?;
        let last = headers.last().map(|h| h.block).ok_or(Failure::Inconsistent("the range has no blocks"))?;
        Ok(Segment { headers, last, logs: placed })
    }

    /// The highest head among the endpoints that may be asked, but that at `place`.
    async fn highest_of_others(&self, place: usize) -> Option<(usize, BlockHeader)> {
        let now = Instant::now();
        let others = self.shared.endpoints.iter().enumerate().filter(|(other, endpoint)| {
            *other != place && endpoint.health(|h| h.rests_until(now).is_none() && !h.is_distrusted(now))
        });
        let heads = join_all(others.map(|(other, endpoint)| async move {
            let asked = async {
                endpoint.verify(self.shared.source.chain_id).await?;
                self.one_header(endpoint, BlockTag::Latest).await
            };
            match asked.await {
                Ok(head) => head.map(|head| (other, head)),
                Err(failure) => {
                    endpoint.failed(failure);
                    None
                }
            }
        }));
        heads.await.into_iter().flatten().max_by_key(|(_, head)| head.block.number)
    }

    fn lagged(&self, place: usize, head: &BlockHeader, ahead: &BlockHeader) {
        if let Some(endpoint) = self.shared.endpoints.get(place) {
            let (head, ahead) = (head.block.number, ahead.block.number);
            tracing::warn!(endpoint = endpoint.name(), head, ahead, "an endpoint lags; another one is asked");
            endpoint.health(|health| health.avoid(Instant::now()));
            endpoint.telemetry().lagged();
        }
    }

    /// Asks one endpoint after the other until one answers well, and gives its place with the answer.
    async fn read<T, F, Fut>(&self, prefer: Prefer, ask: F) -> Result<(usize, T), SourceError>
    where
        F: Fn(Arc<Endpoint>) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let attempts = MIN_ATTEMPTS.max(self.shared.endpoints.len().saturating_mul(2));
        self.read_within(attempts, prefer, ask).await
    }

    async fn read_within<T, F, Fut>(
        &self,
        attempts: usize,
        prefer: Prefer,
        ask: F,
    ) -> Result<(usize, T), SourceError>
    where
        F: Fn(Arc<Endpoint>) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let give_up = Instant::now() + MAX_WAIT;
        let mut last = None;
        for _ in 0..attempts {
            let Some((place, endpoint, until)) = self.pick(prefer) else { break };
            if let Some(until) = until {
                if until > give_up {
                    let rest = until.saturating_duration_since(Instant::now());
                    return Err(last.unwrap_or(SourceError::Resting(rest)));
                }
                sleep_until(until).await;
            }
            let asked = async {
                endpoint.verify(self.shared.source.chain_id).await?;
                ask(endpoint.clone()).await
            };
            match asked.await {
                Ok(answer) => {
                    endpoint.succeeded();
                    let before = self.shared.current.swap(place, Ordering::Relaxed);
                    if before != place {
                        tracing::info!(endpoint = endpoint.name(), "now reading from this endpoint");
                    }
                    return Ok((place, answer));
                }
                Err(failure) => {
                    let error = endpoint.failed(failure);
                    if matches!(error, SourceError::WrongChain { .. }) {
                        tracing::error!(endpoint = endpoint.name(), %error, "an endpoint is not used");
                        if self.all_of_other_chains() {
                            return Err(error);
                        }
                        // Others are only down, which passes.
                        continue;
                    }
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or(SourceError::Inconsistent("there is no endpoint to ask")))
    }

    /// The endpoint to ask next, and until when to wait for it where all of them rest.
    fn pick(&self, prefer: Prefer) -> Option<(usize, Arc<Endpoint>, Option<Instant>)> {
        let now = Instant::now();
        let current = self.shared.current.load(Ordering::Relaxed);
        let endpoints = self.shared.endpoints.iter().enumerate().map(|(place, endpoint)| {
            let (until, rank) = endpoint.health(|health| (health.rests_until(now), health.rank(now)));
            endpoint.telemetry().rests(until.is_some());
            let second = matches!(prefer, Prefer::Current) && place != current;
            ((until, rank, second, place), endpoint)
        });
        endpoints
            .min_by_key(|(order, _)| *order)
            .map(|((until, _, _, place), endpoint)| (place, endpoint.clone(), until))
    }

    fn all_of_other_chains(&self) -> bool {
        self.shared.endpoints.iter().all(|endpoint| endpoint.health(|h| h.wrong_chain().is_some()))
    }
}
