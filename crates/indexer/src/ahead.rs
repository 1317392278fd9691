//! Reading ahead: while a segment is written, the next one is read and verified.
//!
//! At most one segment is held beside the one that is written, and both are bounded by their number of events, so that a
//! backfill needs no more memory the longer the history is.

use alloy_primitives::B256;
use dues_chain::source::{MAX_SPAN, RpcSource, Segment, SourceError};
use dues_domain::chain::BlockRef;
use tokio_util::task::AbortOnDropHandle;

/// With how many blocks a backfill begins, not knowing how much is in them.
const FIRST_SPAN: u64 = 64;
/// About how many events a segment is to have. More make a step no faster, but hold more memory.
const EVENTS: u64 = 16_384;

/// Which stretch of the chain is to be read, on top of which block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) parent: Option<B256>,
}

/// What is being read ahead, and how much at a time.
#[derive(Debug)]
pub(crate) struct Ahead {
    span: u64,
    next: Option<(Stretch, AbortOnDropHandle<Result<Segment, SourceError>>)>,
}

impl Ahead {
    pub(crate) const fn new() -> Self {
        Self { span: FIRST_SPAN, next: None }
    }

    /// The last block of the segment that begins with `from`: of the one that is being read already, where it is that one.
    pub(crate) fn end(&self, rpc: &RpcSource, from: u64, parent: Option<B256>) -> u64 {
        match &self.next {
            Some((stretch, _)) if (stretch.from, stretch.parent) == (from, parent) => stretch.to,
            _ => from.saturating_add(self.span(rpc)).saturating_sub(1),
        }
    }

    /// Forgets what was read ahead: it may be from the node that is to blame for a failure.
    pub(crate) fn forget(&mut self) {
        self.next = None;
    }

    /// How many blocks are read at a time: no more than the nodes take at the moment.
    fn span(&self, rpc: &RpcSource) -> u64 {
        self.span.min(rpc.span()).max(1)
    }

    /// The segment of `stretch`, which may have been read meanwhile.
    pub(crate) async fn segment(
        &mut self,
        rpc: &RpcSource,
        stretch: Stretch,
    ) -> Result<Segment, SourceError> {
        let read = match self.next.take() {
            // Where its task has ended without an answer, it is asked for again.
            Some((read, task)) if read == stretch => task.await.ok(),
            _ => None,
        };
        let read = match read {
            Some(read) => read,
            None => rpc.segment(stretch.from, stretch.to, stretch.parent).await,
        };
        if let Ok(segment) = &read {
            self.adapt(stretch, segment.logs.len());
        }
        read
    }

    /// Begins to read what follows `last`, up to `head` at most.
    pub(crate) fn read(&mut self, rpc: &RpcSource, last: BlockRef, head: u64) {
        let from = last.number.saturating_add(1);
        if from > head {
            return;
        }
        let to = from.saturating_add(self.span(rpc)).saturating_sub(1).min(head);
        let stretch = Stretch { from, to, parent: Some(last.hash) };
        let rpc = rpc.clone();
        let task = tokio::spawn(async move { rpc.segment(stretch.from, stretch.to, stretch.parent).await });
        self.next = Some((stretch, AbortOnDropHandle::new(task)));
    }

    /// Aims at [`EVENTS`] in the next segment, and at most twice as many blocks as in the last one.
    fn adapt(&mut self, stretch: Stretch, events: usize) {
        let blocks = stretch.to.saturating_sub(stretch.from).saturating_add(1);
        let events = u64::try_from(events).unwrap_or(u64::MAX).max(1);
        let for_events = blocks.saturating_mul(EVENTS) / events;
        self.span = for_events.min(self.span.saturating_mul(2)).clamp(1, MAX_SPAN);
    }
}
