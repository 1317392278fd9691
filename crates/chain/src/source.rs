//! Blocks and logs from a JSON-RPC node, checked against each other before anybody believes them.
//!
//! A node may lag, may answer from another fork, and behind a load balancer two requests may reach two nodes.
//! So a [`Segment`] is returned only where the headers form one chain on top of the block that the caller knows,
//! every log names the hash of the header at its height, and no header's bloom filter promises a log of the
//! contract that the answer lacks.

mod views;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, BloomInput},
    providers::{DynProvider, Provider, ProviderBuilder},
    rpc::types::{Block, Filter, Header, Log},
    transports::{RpcError, TransportError, TransportErrorKind, http::reqwest},
};
use chrono::{DateTime, Utc};
use dues_domain::chain::{BlockHeader, BlockRef, ChainSource, EventPosition};
use futures::{StreamExt, TryStreamExt, stream};
use url::Url;

pub use views::{ContractPlan, ContractSubscription, Receipt, TokenTransfer};

/// How a caller names a block.
pub use alloy::eips::BlockNumberOrTag as BlockTag;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Header requests in flight at once.
const CONCURRENT_HEADERS: usize = 16;

/// Why the chain could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The HTTP client could not be set up (no TLS roots, say).
    #[error("the HTTP client could not be set up")]
    Client(#[source] reqwest::Error),
    /// The node did not answer, or answered with an error.
    #[error("the node failed to answer {method}: {reason}")]
    Rpc {
        /// The JSON-RPC method.
        method: &'static str,
        /// What went wrong, without the node's URL: providers put the key into it.
        reason: String,
    },
    /// The node is of another chain than the configuration says.
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

/// A node, asked about one contract.
#[derive(Debug, Clone)]
pub struct RpcSource {
    provider: DynProvider,
    source: ChainSource,
}

impl RpcSource {
    /// A source that asks the node at `url` about `source`. Nothing is sent before the first question.
    ///
    /// # Errors
    /// [`SourceError::Client`] where no HTTP client can be set up.
    pub fn new(url: Url, source: ChainSource) -> Result<Self, SourceError> {
        Ok(Self { provider: connect(url)?, source })
    }

    /// Which contract on which chain it is asked about.
    #[must_use]
    pub const fn source(&self) -> ChainSource {
        self.source
    }

    /// Checks that the node is of the configured chain.
    ///
    /// # Errors
    /// [`SourceError::WrongChain`] where it is not.
    pub async fn verify_chain(&self) -> Result<(), SourceError> {
        let found = self.provider.get_chain_id().await.map_err(rpc("eth_chainId"))?;
        let expected = self.source.chain_id;
        if found == expected { Ok(()) } else { Err(SourceError::WrongChain { expected, found }) }
    }

    /// The header that `tag` names, or `None` where the node has none.
    ///
    /// # Errors
    /// [`SourceError::Rpc`] where the node does not answer.
    pub async fn header(&self, tag: BlockTag) -> Result<Option<BlockHeader>, SourceError> {
        self.raw_header(tag).await?.map(|header| block_header(&header)).transpose()
    }

    /// The blocks `from..=to` and the contract's logs in them, on top of `parent`, which is block `from - 1`.
    ///
    /// # Errors
    /// [`SourceError::Inconsistent`] where the answers do not fit together; read again later.
    pub async fn segment(&self, from: u64, to: u64, parent: Option<B256>) -> Result<Segment, SourceError> {
        let headers = self.headers(from..=to).await?;
        verify_linked(parent, &headers)?;

        let filter = Filter::new().address(self.source.contract).from_block(from).to_block(to);
        let logs = self.logs(&filter).await?;
        self.verify_complete(&headers, &logs).await?;

        let headers_by_height: HashMap<u64, &Header> = headers.iter().map(|h| (h.number, h)).collect();
        let logs =
            logs.iter().map(|log| self.place(log, &headers_by_height)).collect::<Result<Vec<_>, _>>()?;
        let position = |log: &RawLog| (log.at.block.number, log.at.log_index);
        if !logs.iter().map(position).is_sorted_by(|before, after| before < after) {
            return Err(SourceError::Inconsistent("logs are out of order, or repeated"));
        }
        let headers = headers.iter().map(block_header).collect::<Result<Vec<_>, _>>()?;
        let last =
            headers.last().map(|h| h.block).ok_or(SourceError::Inconsistent("the range has no blocks"))?;
        Ok(Segment { headers, last, logs })
    }

    async fn raw_header(&self, tag: BlockTag) -> Result<Option<Header>, SourceError> {
        let block: Option<Block> =
            self.provider.get_block_by_number(tag).await.map_err(rpc("eth_getBlockByNumber"))?;
        Ok(block.map(|block| block.header))
    }

    async fn headers(&self, heights: impl IntoIterator<Item = u64>) -> Result<Vec<Header>, SourceError> {
        stream::iter(heights)
            .map(|height| async move {
                let header = self.raw_header(height.into()).await?;
                header
                    .filter(|h| h.number == height)
                    .ok_or(SourceError::Inconsistent("a block below the head is missing"))
            })
            .buffered(CONCURRENT_HEADERS)
            .try_collect()
            .await
    }

    async fn logs(&self, filter: &Filter) -> Result<Vec<Log>, SourceError> {
        let logs = self.provider.get_logs(filter).await.map_err(rpc("eth_getLogs"))?;
        // A log that a node marks as removed is of a block that is no longer in the chain.
        Ok(logs.into_iter().filter(|log| !log.removed).collect())
    }

    /// A node without its log index serves headers and answers `[]`. Where a bloom filter promises a log that
    /// the range lacks, the block is asked for by its hash; a node that cannot serve that says so.
    async fn verify_complete(&self, headers: &[Header], logs: &[Log]) -> Result<(), SourceError> {
        let with_logs: HashSet<_> = logs.iter().filter_map(|log| log.block_number).collect();
        for header in headers {
            let promised = header.logs_bloom.contains_input(BloomInput::Raw(self.source.contract.as_slice()));
            if !promised || with_logs.contains(&header.number) {
                continue;
            }
            let filter = Filter::new().address(self.source.contract).at_block_hash(header.hash);
            if !self.logs(&filter).await?.is_empty() {
                return Err(SourceError::Inconsistent("a range lacks logs that its block has"));
            }
        }
        Ok(())
    }

    fn place(&self, log: &Log, headers: &HashMap<u64, &Header>) -> Result<RawLog, SourceError> {
        let (Some(number), Some(hash), Some(tx_hash), Some(log_index)) =
            (log.block_number, log.block_hash, log.transaction_hash, log.log_index)
        else {
            return Err(SourceError::Inconsistent("a log has no place on the chain"));
        };
        if log.address() != self.source.contract {
            return Err(SourceError::Inconsistent("a log is of another contract"));
        }
        let header = headers
            .get(&number)
            .filter(|header| header.hash == hash)
            .ok_or(SourceError::Inconsistent("a log is of another fork than its header"))?;
        let timestamp = timestamp(header)?;
        Ok(RawLog {
            at: EventPosition { block: BlockRef { number, hash }, log_index, tx_hash, timestamp },
            topics: log.topics().to_vec(),
            data: log.data().data.to_vec(),
        })
    }
}

/// An ERC-20 token's decimal places, as the token says.
///
/// # Errors
/// [`SourceError::Rpc`] where the node does not answer, [`SourceError::NoToken`] where the address is none.
pub async fn token_decimals(url: Url, token: Address) -> Result<u8, SourceError> {
    alloy::sol! {
        #[sol(rpc)]
        interface Erc20 {
            function decimals() external view returns (uint8);
        }
    }
    Erc20::new(token, connect(url)?).decimals().call().await.map_err(|error| match error {
        alloy::contract::Error::TransportError(error) => rpc("eth_call")(error),
        _ => SourceError::NoToken(token),
    })
}

fn connect(url: Url) -> Result<DynProvider, SourceError> {
    let client = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build().map_err(SourceError::Client)?;
    Ok(ProviderBuilder::new().disable_recommended_fillers().connect_reqwest(client, url).erased())
}

fn rpc(method: &'static str) -> impl FnOnce(TransportError) -> SourceError {
    move |error| {
        let reason = match error {
            RpcError::ErrorResp(answer) => format!("error {}: {}", answer.code, answer.message),
            RpcError::Transport(TransportErrorKind::HttpError(answer)) => format!("HTTP {}", answer.status),
            RpcError::Transport(TransportErrorKind::Custom(cause)) => {
                match cause.downcast_ref::<reqwest::Error>() {
                    Some(cause) if cause.is_timeout() => "timed out".into(),
                    Some(cause) if cause.is_connect() => "could not connect".into(),
                    _ => "the request failed".into(),
                }
            }
            RpcError::DeserError { .. } => "the answer is not what the method returns".into(),
            RpcError::NullResp => "no answer".into(),
            _ => "the request failed".into(),
        };
        SourceError::Rpc { method, reason }
    }
}

fn verify_linked(parent: Option<B256>, headers: &[Header]) -> Result<(), SourceError> {
    let mut expected = parent;
    for header in headers {
        if expected.is_some_and(|hash| hash != header.parent_hash) {
            return Err(SourceError::Inconsistent("blocks do not follow each other"));
        }
        expected = Some(header.hash);
    }
    Ok(())
}

fn block_header(header: &Header) -> Result<BlockHeader, SourceError> {
    Ok(BlockHeader {
        block: BlockRef { number: header.number, hash: header.hash },
        parent_hash: header.parent_hash,
        timestamp: timestamp(header)?,
    })
}

fn timestamp(header: &Header) -> Result<DateTime<Utc>, SourceError> {
    i64::try_from(header.timestamp)
        .ok()
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
        .ok_or(SourceError::Inconsistent("a block's time is no instant"))
}
