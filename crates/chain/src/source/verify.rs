//! Whether answers fit together.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use alloy::{
    primitives::{Address, B256, BloomInput},
    rpc::types::{Header, Log},
};
use chrono::{DateTime, Utc};
use dues_domain::chain::{BlockHeader, BlockRef, ChainSource, EventPosition};

use super::{RawLog, endpoint::Endpoint, failure::Failure};

/// Blocks whose logs are read a second time, by their hash: all of a short stretch, some of a long one.
const SECOND_LOOKS: usize = 64;
/// How often the same odd hash must be given until it is taken for the chain's own way.
const INSISTENCE: u32 = 4;

/// Whether a header's hash is the hash of the header. It is on Ethereum and nearly everywhere else; where headers
/// have fields that we do not know, it cannot be checked.
#[derive(Debug, Default)]
pub(super) struct HashRule {
    /// Some header had the hash that it must have.
    holds: AtomicBool,
    /// The last hash that was not, and how often it was given.
    odd: Mutex<Option<(B256, u32)>>,
}

impl HashRule {
    /// Refuses a hash that is not of its header, unless nothing else can be had: after a fork that gave headers a new
    /// field, the same hash is given again and again.
    pub(super) fn check<'a>(&self, headers: impl IntoIterator<Item = &'a Header>) -> Result<(), Failure> {
        let mut odd = None;
        for header in headers {
            if header.inner.hash_slow() == header.hash {
                self.holds.store(true, Ordering::Relaxed);
            } else {
                odd = odd.or(Some(header.hash));
            }
        }
        let Some(odd) = odd.filter(|_| self.holds.load(Ordering::Relaxed)) else { return Ok(()) };
        let mut last = self.odd.lock().unwrap_or_else(PoisonError::into_inner);
        let times = last.filter(|(hash, _)| *hash == odd).map_or(1, |(_, times)| times.saturating_add(1));
        *last = Some((odd, times));
        if times < INSISTENCE {
            return Err(Failure::Inconsistent("a block's hash is not of its header"));
        }
        if times == INSISTENCE {
            tracing::warn!(hash = %odd, "blocks have hashes that this version cannot check");
        }
        Ok(())
    }
}

/// What is wrong with a stretch that is of another chain than the block before it: no smaller one would be right.
pub(super) const OTHER_PARENT: &str = "blocks do not follow the last one that is known";

pub(super) fn linked(parent: Option<B256>, headers: &[Header]) -> Result<(), Failure> {
    if headers.first().zip(parent).is_some_and(|(first, parent)| first.parent_hash != parent) {
        return Err(Failure::Inconsistent(OTHER_PARENT));
    }
    let is_linked = |pair: &[Header]| match pair {
        [before, after] => before.hash == after.parent_hash,
        _ => true,
    };
    if headers.windows(2).all(is_linked) {
        Ok(())
    } else {
        Err(Failure::Inconsistent("blocks do not follow each other"))
    }
}

/// Looks a second time, by hash, where a range may lack logs. A node without its log index serves headers and
/// answers `[]`: where a bloom filter promises a log and there is none, the block is asked for; a node that cannot
/// serve that says so. Others cut long answers short: of blocks with logs, the last one is read again, and as many
/// others as [`SECOND_LOOKS`] allows.
pub(super) async fn complete(
    endpoint: &Endpoint,
    contract: Address,
    headers: &[Header],
    logs: &[Log],
) -> Result<(), Failure> {
    let mut in_range: HashMap<u64, HashSet<u64>> = HashMap::new();
    for log in logs {
        in_range.entry(log.block_number.unwrap_or_default()).or_default().extend(log.log_index);
    }
    let (found, silent): (Vec<&Header>, Vec<&Header>) =
        headers.iter().partition(|header| in_range.contains_key(&header.number));
    let promised =
        silent.into_iter().filter(|h| h.logs_bloom.contains_input(BloomInput::Raw(contract.as_slice())));
    let mut again: Vec<&Header> = promised.collect();
    again.extend(sample(found));
    let hashes: Vec<_> = again.iter().map(|header| header.hash).collect();
    if hashes.is_empty() {
        return Ok(());
    }
    let answers = endpoint.logs_of_blocks(contract, &hashes).await?;
    for (header, logs) in again.iter().zip(answers) {
        if logs.iter().any(|log| log.block_hash != Some(header.hash)) {
            return Err(Failure::Inconsistent("a block's logs are of another block"));
        }
        let by_hash: HashSet<u64> = logs.iter().filter_map(|log| log.log_index).collect();
        if by_hash != in_range.get(&header.number).cloned().unwrap_or_default() {
            return Err(Failure::Inconsistent(
                "a range lacks logs that its block has, or the other way round",
            ));
        }
    }
    Ok(())
}

/// All, or the last and a random choice of the others.
fn sample(mut headers: Vec<&Header>) -> Vec<&Header> {
    if headers.len() <= SECOND_LOOKS {
        return headers;
    }
    let last = headers.pop();
    fastrand::shuffle(&mut headers);
    headers.truncate(SECOND_LOOKS.saturating_sub(1));
    headers.extend(last);
    headers
}

/// The logs with their places on the chain, in its order.
pub(super) fn placed(source: ChainSource, headers: &[Header], logs: &[Log]) -> Result<Vec<RawLog>, Failure> {
    let by_height: HashMap<u64, &Header> = headers.iter().map(|h| (h.number, h)).collect();
    let logs = logs.iter().map(|log| place(source, log, &by_height)).collect::<Result<Vec<_>, _>>()?;
    let position = |log: &RawLog| (log.at.block.number, log.at.log_index);
    if !logs.iter().map(position).is_sorted_by(|before, after| before < after) {
        return Err(Failure::Inconsistent("logs are out of order, or repeated"));
    }
    Ok(logs)
}

fn place(source: ChainSource, log: &Log, headers: &HashMap<u64, &Header>) -> Result<RawLog, Failure> {
    let (Some(number), Some(hash), Some(tx_hash), Some(log_index)) =
        (log.block_number, log.block_hash, log.transaction_hash, log.log_index)
    else {
        return Err(Failure::Inconsistent("a log has no place on the chain"));
    };
    if log.address() != source.contract {
        return Err(Failure::Inconsistent("a log is of another contract"));
    }
    let header = headers
        .get(&number)
        .filter(|header| header.hash == hash)
        .ok_or(Failure::Inconsistent("a log is of another fork than its header"))?;
    let timestamp = timestamp(header)?;
    Ok(RawLog {
        at: EventPosition { block: BlockRef { number, hash }, log_index, tx_hash, timestamp },
        topics: log.topics().to_vec(),
        data: log.data().data.to_vec(),
    })
}

pub(super) fn block_header(header: &Header) -> Result<BlockHeader, Failure> {
    Ok(BlockHeader {
        block: BlockRef { number: header.number, hash: header.hash },
        parent_hash: header.parent_hash,
        timestamp: timestamp(header)?,
    })
}

fn timestamp(header: &Header) -> Result<DateTime<Utc>, Failure> {
    i64::try_from(header.timestamp)
        .ok()
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
        .ok_or(Failure::Inconsistent("a block's time is no instant"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(number: u64) -> Header {
        let inner = alloy::consensus::Header { number, ..Default::default() };
        Header { hash: inner.hash_slow(), inner, total_difficulty: None, size: None }
    }

    #[test]
    fn an_altered_hash_is_refused_and_one_that_is_insisted_on_is_not() {
        let rule = HashRule::default();
        assert!(rule.check([&header(1)]).is_ok());
        for other in 2..20_u8 {
            let altered = Header { hash: B256::repeat_byte(other), ..header(2) };
            assert!(rule.check([&altered]).is_err(), "{other}");
        }
        let insisted = Header { hash: B256::repeat_byte(99), ..header(2) };
        let verdicts: Vec<_> = (0..INSISTENCE).map(|_| rule.check([&insisted]).is_ok()).collect();
        assert_eq!(verdicts, [false, false, false, true]);
    }

    #[test]
    fn a_chain_with_hashes_of_its_own_is_left_alone() {
        let rule = HashRule::default();
        assert!(rule.check([&Header { hash: B256::repeat_byte(7), ..header(1) }]).is_ok());
    }

    #[test]
    fn of_many_blocks_the_last_is_always_looked_at_again() {
        let headers: Vec<_> = (0..500).map(header).collect();
        let sampled = sample(headers.iter().collect());
        assert_eq!(sampled.len(), SECOND_LOOKS);
        assert_eq!(sampled.last().unwrap().number, 499);
    }
}
