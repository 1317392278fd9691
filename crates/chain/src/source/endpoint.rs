//! One node: requests, batches, and sizes that it takes.

use std::{
    borrow::Cow,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use alloy::primitives::U64;
use alloy::{
    primitives::Address,
    rpc::{
        client::RpcClient,
        json_rpc::{ErrorPayload, RpcRecv, RpcSend},
        types::{Block, Filter, Header, Log},
    },
    transports::http::reqwest,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;
use url::Url;

use super::{
    BlockTag, MAX_SPAN, SourceError,
    adaptive::Adaptive,
    charging::Refusal,
    endpoints,
    failure::{Failure, redact},
    health::Health,
    telemetry::Telemetry,
    transport::HttpTransport,
};

/// Requests in one batch, where nothing objects. Providers with a limit have it at 100 or above, mostly.
const MAX_BATCH: u64 = 100;
/// Batches, ranges or single requests in flight at once.
const IN_FLIGHT: usize = 4;
/// Single requests in flight at once, where batches are refused.
const SINGLES_IN_FLIGHT: usize = 16;

/// The code of an error of a call that reverted.
const REVERTED: i64 = 3;

const GET_BLOCK: &str = "eth_getBlockByNumber";
const GET_LOGS: &str = "eth_getLogs";

/// A node.
pub(super) struct Endpoint {
    name: String,
    /// What nobody should read in its errors.
    secrets: Vec<String>,
    client: RpcClient,
    telemetry: Telemetry,
    state: Mutex<State>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut endpoint = f.debug_struct("Endpoint");
        endpoint.field("name", &self.name).field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    health: Health,
    /// Requests in a batch.
    batch: Adaptive,
    /// Blocks in a range of logs.
    span: Adaptive,
}

impl Endpoint {
    pub(super) fn new(chain_id: u64, name: String, url: Url, http: reqwest::Client) -> Self {
        let secrets = endpoints::secrets(&url);
        let client = RpcClient::new(HttpTransport::new(http, url), false);
        let (batch, span) = (Adaptive::new(MAX_BATCH), Adaptive::new(MAX_SPAN));
        let telemetry = Telemetry::new(chain_id, &name);
        let state = Mutex::new(State { health: Health::default(), batch, span });
        Self { name, secrets, client, telemetry, state }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Looks at its health, or notes something there.
    pub(super) fn health<T>(&self, with: impl FnOnce(&mut Health) -> T) -> T {
        with(&mut self.state().health)
    }

    /// Counts what happens to it.
    pub(super) const fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// How many blocks its logs are read of at once, at the moment.
    pub(super) fn span(&self) -> u64 {
        self.state().span.now()
    }

    // Nothing that panics is done under the lock, and numbers are right whatever happened.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks once that it is of chain `expected`.
    pub(super) async fn verify(&self, expected: u64) -> Result<(), Failure> {
        if self.health(|health| health.is_verified()) {
            return Ok(());
        }
        let found: U64 = self.call("eth_chainId", ()).await?;
        let found = found.to::<u64>();
        if found != expected {
            return Err(Failure::WrongChain { expected, found });
        }
        self.health(Health::verified);
        Ok(())
    }

    pub(super) async fn call<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, Failure> {
        self.telemetry.asked(method, 1);
        let answer = self.client.request(method, params).await;
        answer.map_err(|error| self.counted(Failure::of(method, &error)))
    }

    /// The same where a refusal is an answer: a call that reverts, a transaction that is not taken.
    pub(super) async fn answer<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<Result<R, Refusal>, Failure> {
        self.telemetry.asked(method, 1);
        match self.client.request(method, params).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(error) => {
                let payload = error.as_error_resp();
                let revert_data = payload.and_then(ErrorPayload::as_revert_data);
                let refused = |reason: &str, revert_data| {
                    Ok(Err(Refusal { reason: redact(reason, &self.secrets).into(), revert_data }))
                };
                match (Failure::of(method, &error), payload) {
                    // Before its words are looked at: they may be a contract's, which says what it likes.
                    (_, Some(payload)) if payload.code == REVERTED || revert_data.is_some() => {
                        refused(&payload.message, revert_data)
                    }
                    (Failure::Broken { reason, .. }, Some(_)) => refused(&reason, None),
                    (failure, _) => Err(self.counted(failure)),
                }
            }
        }
    }

    pub(super) async fn header(&self, tag: BlockTag) -> Result<Option<Header>, Failure> {
        let block: Option<Block> = self.call(GET_BLOCK, (tag, false)).await?;
        Ok(block.map(|block| block.header))
    }

    /// The headers of `from..=to`.
    pub(super) async fn headers(&self, from: u64, to: u64) -> Result<Vec<Header>, Failure> {
        let questions: Vec<_> = (from..=to).map(|height| (BlockTag::from(height), false)).collect();
        let blocks: Vec<Option<Block>> = self.batch(GET_BLOCK, &questions).await?;
        (from..=to)
            .zip(blocks)
            .map(|(height, block)| {
                block
                    .map(|block| block.header)
                    .filter(|header| header.number == height)
                    .ok_or(Failure::Inconsistent("a block below the head is missing"))
            })
            .collect()
    }

    /// The logs of `contract` in `from..=to`, in as many requests as it takes.
    pub(super) async fn logs(&self, contract: Address, from: u64, to: u64) -> Result<Vec<Log>, Failure> {
        let mut found = Vec::new();
        let mut next = from;
        while next <= to {
            let span = self.span();
            let ranges = ranges(next, to, span).take(IN_FLIGHT);
            // Futures in a vector: a lazy stream of borrowing closures has no `Send` that rustc could prove.
            let questions: Vec<_> = ranges
                .map(|(first, last)| async move {
                    let filter = Filter::new().address(contract).from_block(first).to_block(last);
                    (first, last, self.call::<_, Vec<Log>>(GET_LOGS, (filter,)).await)
                })
                .collect();
            let mut answers = stream::iter(questions).buffered(IN_FLIGHT);
            while let Some((first, last, answer)) = answers.next().await {
                let size = last.saturating_sub(first).saturating_add(1);
                match answer {
                    Ok(logs) => {
                        found.extend(logs);
                        self.state().span.answered(size);
                        next = last.saturating_add(1);
                    }
                    Err(Failure::TooLarge { fitting, .. }) if size > 1 => {
                        tracing::debug!(
                            endpoint = self.name,
                            blocks = size,
                            fitting,
                            "the range is too large"
                        );
                        self.state().span.refused(size, fitting);
                        break;
                    }
                    Err(failure) => {
                        // A node that needs more time for a range than it gets would never be done with it.
                        if matches!(failure, Failure::TimedOut { .. }) {
                            self.state().span.refused(size, None);
                        }
                        return Err(failure);
                    }
                }
            }
        }
        Ok(present(found))
    }

    /// The logs of `contract` in each block, named by its hash, so that a node that does not know it says so.
    pub(super) async fn logs_of_blocks(
        &self,
        contract: Address,
        blocks: &[alloy::primitives::B256],
    ) -> Result<Vec<Vec<Log>>, Failure> {
        let questions: Vec<_> =
            blocks.iter().map(|hash| (Filter::new().address(contract).at_block_hash(*hash),)).collect();
        let answers: Vec<Vec<Log>> = self.batch(GET_LOGS, &questions).await?;
        Ok(answers.into_iter().map(present).collect())
    }

    /// The same question about many things, in few round trips.
    async fn batch<P, R>(&self, method: &'static str, questions: &[P]) -> Result<Vec<R>, Failure>
    where
        P: RpcSend + Clone,
        R: RpcRecv,
    {
        let mut answers = Vec::with_capacity(questions.len());
        while let Some(rest) = questions.get(answers.len()..).filter(|rest| !rest.is_empty()) {
            let size = usize::try_from(self.state().batch.now()).unwrap_or(usize::MAX);
            if size <= 1 || rest.len() == 1 {
                answers.extend(self.singles(method, rest).await?);
                continue;
            }
            let parts: Vec<_> = rest
                .chunks(size)
                .map(|part| async move { (part.len(), self.send_batch(method, part).await) })
                .collect();
            let mut parts = stream::iter(parts).buffered(IN_FLIGHT);
            while let Some((asked, part)) = parts.next().await {
                let asked = u64::try_from(asked).unwrap_or(u64::MAX);
                match part {
                    Ok(part) => {
                        answers.extend(part);
                        self.state().batch.answered(asked);
                    }
                    Err(Failure::Batch { most, .. }) if asked > 1 => {
                        tracing::debug!(endpoint = self.name, requests = asked, most, "a batch is refused");
                        // Quickly down to single requests: whoever refuses without a number takes none, mostly.
                        self.state().batch.refused(asked, Some(most.unwrap_or(asked / 8)));
                        break;
                    }
                    Err(Failure::TooLarge { .. }) if asked > 1 => {
                        tracing::debug!(endpoint = self.name, requests = asked, "a batch is too large");
                        self.state().batch.refused(asked, None);
                        break;
                    }
                    Err(failure) => return Err(failure),
                }
            }
        }
        Ok(answers)
    }

    async fn singles<P, R>(&self, method: &'static str, questions: &[P]) -> Result<Vec<R>, Failure>
    where
        P: RpcSend + Clone,
        R: RpcRecv,
    {
        let calls: Vec<_> = questions.iter().map(|question| self.call(method, question.clone())).collect();
        stream::iter(calls).buffered(SINGLES_IN_FLIGHT).try_collect().await
    }

    async fn send_batch<P, R>(&self, method: &'static str, questions: &[P]) -> Result<Vec<R>, Failure>
    where
        P: RpcSend,
        R: RpcRecv,
    {
        let failed = |error| self.counted(Failure::of(method, &error));
        let mut batch = self.client.new_batch();
        let waiters = questions
            .iter()
            .map(|question| batch.add_call::<_, R>(Cow::Borrowed(method), question))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        self.telemetry.asked(method, questions.len());
        batch.send().await.map_err(|error| match Failure::of(method, &error) {
            // Whoever refuses a batch without a word about batches refuses it with one of these.
            Failure::Broken { method, reason } if refuses_batches(&error) => {
                self.counted(Failure::Batch { method, most: None, reason })
            }
            failure => self.counted(failure),
        })?;
        let mut answers = Vec::with_capacity(waiters.len());
        for waiter in waiters {
            answers.push(waiter.await.map_err(failed)?);
        }
        Ok(answers)
    }

    fn counted(&self, failure: Failure) -> Failure {
        self.telemetry.failed(&failure);
        failure
    }

    /// Notes that it answered well.
    pub(super) fn succeeded(&self) {
        self.health(Health::succeeded);
        self.telemetry.rests(false);
    }

    /// Notes that it did not, and gives what a caller is told.
    pub(super) fn failed(&self, failure: Failure) -> SourceError {
        let random = fastrand::u64(..);
        let rest = self.health(|health| health.failed(&failure, Instant::now(), random));
        self.telemetry.rests(true);
        // Of all others, the request itself was counted.
        if matches!(failure, Failure::Inconsistent(_) | Failure::WrongChain { .. }) {
            self.telemetry.failed(&failure);
        }
        let error = failure.into_error(&self.name, &self.secrets);
        tracing::debug!(endpoint = self.name, %error, ?rest, "an endpoint failed");
        error
    }
}

/// Invalid request, parse error and method not found; or a bare refusal by HTTP.
fn refuses_batches(error: &alloy::transports::TransportError) -> bool {
    match error {
        alloy::transports::RpcError::ErrorResp(answer) => matches!(answer.code, -32600 | -32601 | -32700),
        alloy::transports::RpcError::Transport(kind) => kind
            .as_http_error()
            .is_some_and(|answer| matches!(answer.status, 400 | 404 | 405 | 415 | 422 | 501)),
        _ => false,
    }
}

/// A log that a node marks as removed is of a block that is no longer in the chain.
fn present(logs: Vec<Log>) -> Vec<Log> {
    logs.into_iter().filter(|log| !log.removed).collect()
}

/// `from..=to` in pieces of `span`.
fn ranges(from: u64, to: u64, span: u64) -> impl Iterator<Item = (u64, u64)> {
    let last_of = move |first: u64| first.saturating_add(span.saturating_sub(1)).min(to);
    std::iter::successors((from <= to).then(|| (from, last_of(from))), move |&(_, last)| {
        let first = last.checked_add(1).filter(|first| *first <= to)?;
        Some((first, last_of(first)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_into_pieces_without_gap_or_overlap() {
        assert_eq!(ranges(5, 12, 3).collect::<Vec<_>>(), [(5, 7), (8, 10), (11, 12)]);
        assert_eq!(ranges(5, 5, 3).collect::<Vec<_>>(), [(5, 5)]);
        assert_eq!(ranges(6, 5, 3).count(), 0);
        assert_eq!(ranges(u64::MAX - 1, u64::MAX, 1).count(), 2);
    }
}
