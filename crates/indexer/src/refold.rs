//! Folding a subscription's stored events once more.

use std::{collections::HashSet, sync::Arc};

use dues_chain::contract;
use dues_domain::{
    chain::{ChainSource, ContractEvent},
    fold::ChainSubscription,
};
use dues_store::{Grants, StoreError, mirror::StoredEvent};

/// What `events`, one subscription's from its beginning on, amount to; `None` where there are none.
fn refold(events: Vec<StoredEvent>) -> Result<Option<ChainSubscription>, StoreError> {
    let mut state = None;
    for StoredEvent { at, topics, data } in events {
        let event = contract::decode(topics, data)
            .map_err(|_| StoreError::Inconsistent("a stored event is none of the contract"))?;
        if let ContractEvent::Subscription(event) = event {
            let (next, _) = ChainSubscription::apply(state, &event, at)
                .map_err(|_| StoreError::Inconsistent("stored events are no history of the contract"))?;
            state = Some(next);
        }
    }
    Ok(state)
}

/// Access with the block of the payment, but on the chains of `once_final` only once that block is final.
#[must_use]
pub fn grants(once_final: HashSet<ChainSource>) -> Grants {
    Grants::new(once_final, Arc::new(refold))
}
