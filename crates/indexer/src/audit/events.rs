//! The stored events, with the contract's logs.

use std::{cmp::Ordering, fmt};

use dues_chain::{
    contract,
    source::{RawLog, SourceError},
};
use dues_domain::chain::{ContractEvent, EventPosition, OnchainSubscriptionId};
use dues_store::mirror::StoredEvent;

use super::{Audit, AuditError, Progress, Stage, What};
use crate::scan::{Ours, Scan};

/// An event's name: where it stands, and its transaction.
pub(super) struct Place(pub(super) EventPosition);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(EventPosition { block, log_index, tx_hash, .. }) = self;
        write!(f, "{log_index} of block {} (transaction {tx_hash})", block.number)
    }
}

const fn order(at: &EventPosition) -> (u64, u64) {
    (at.block.number, at.log_index)
}

impl Audit<'_> {
    pub(super) async fn events(&mut self, progress: &mut Progress<'_>) -> Result<(), AuditError> {
        let (start, end) = (self.scope.mirrored.start_block, self.block());
        let blocks = end.number.saturating_add(1).saturating_sub(start);
        let mut ours = Ours::new(self.scope.mirrored.merchant);
        let mut scan = Scan::new(self.rpc, start, None);
        let (mut first, mut last) = (start, None);
        while let Some(segment) = scan.next(end.number).await? {
            let logs: Vec<RawLog> = segment.logs.into_iter().filter(|log| ours.keep(&log.topics)).collect();
            let stored = self.snapshot.events(first, segment.last.number).await?;
            self.compare_events(stored, logs)?;
            last = Some(segment.last);
            first = segment.last.number.saturating_add(1);
            self.findings.checked.blocks = first.saturating_sub(start);
            progress(Stage::Events, self.findings.checked.blocks, blocks);
        }
        if last.is_some_and(|last| last != end) {
            return Err(SourceError::Inconsistent("the chain was reorganised while it was read").into());
        }
        for event in self.snapshot.events_outside(start, end.number).await? {
            self.findings.surplus(What::Event, Place(event.at));
        }
        Ok(())
    }

    /// Both are in the chain's order.
    fn compare_events(
        &mut self,
        stored: Vec<(Option<OnchainSubscriptionId>, StoredEvent)>,
        logs: Vec<RawLog>,
    ) -> Result<(), AuditError> {
        let (mut stored, mut logs) = (stored.into_iter().peekable(), logs.into_iter().peekable());
        loop {
            let next = match (stored.peek(), logs.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((_, event)), Some(log)) => order(&event.at).cmp(&order(&log.at)),
            };
            self.findings.checked.events = self.findings.checked.events.saturating_add(1);
            let event = if next.is_le() { stored.next() } else { None };
            let log = if next.is_ge() { logs.next() } else { None };
            match (event, log) {
                (Some((id, event)), Some(log)) => self.compare_event(id, &event, log)?,
                (Some((_, event)), None) => self.findings.surplus(What::Event, Place(event.at)),
                (None, Some(log)) => self.findings.missing(What::Event, Place(log.at)),
                (None, None) => {}
            }
        }
    }

    fn compare_event(
        &mut self,
        id: Option<OnchainSubscriptionId>,
        event: &StoredEvent,
        log: RawLog,
    ) -> Result<(), AuditError> {
        let place = Place(log.at);
        let mut subject = self.findings.of(What::Event, &place);
        subject.field("block hash", event.at.block.hash, log.at.block.hash);
        subject.field("transaction", event.at.tx_hash, log.at.tx_hash);
        subject.field("time", event.at.timestamp, log.at.timestamp);
        if event.topics != log.topics {
            subject.field("topics", format_args!("{:?}", event.topics), format_args!("{:?}", log.topics));
        }
        if event.data != log.data {
            subject.field("data", hex(&event.data), hex(&log.data));
        }
        let (at, decoded) = (log.at, contract::decode(log.topics, log.data));
        let decoded = decoded.map_err(|source| AuditError::Decode { block: at.block.number, source })?;
        let meant = match decoded {
            ContractEvent::Subscription(event) => Some(event.id),
            _ => None,
        };
        subject.optional("subscription", id, meant);
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    alloy_primitives::hex::encode_prefixed(bytes)
}
