//! The relay's part of the configuration.

use chrono::TimeDelta;
use dues_domain::relay::RelayLimits;

use super::{Faults, sections::RelaySection};

/// PostgreSQL's bigint counts gas.
const MOST_GAS: u64 = i64::MAX.unsigned_abs();

/// How much is relayed; `None` for nothing.
pub(super) fn check(section: &RelaySection, faults: &mut Faults) -> Option<RelayLimits> {
    let at_least_one = [
        ("per_account_per_day", section.per_account_per_day == 0),
        ("gas_budget_per_day", section.gas_budget_per_day == 0),
        ("max_gas_per_intent", section.max_gas_per_intent == 0),
        ("longest_wait_minutes", section.longest_wait_minutes == 0),
    ];
    for (name, wrong) in at_least_one {
        if wrong {
            faults.add(format_args!(
                "relay.{name}: at least 1 is needed; to relay nothing, relay.enabled = false"
            ));
        }
    }
    if section.max_gas_per_intent > section.gas_budget_per_day || section.gas_budget_per_day > MOST_GAS {
        faults.add("relay.gas_budget_per_day: at least max_gas_per_intent, and no more than 63 bits hold");
    }
    section.enabled.then(|| RelayLimits {
        per_account_per_day: section.per_account_per_day,
        gas_budget_per_day: section.gas_budget_per_day,
        max_gas_per_intent: section.max_gas_per_intent,
        longest_wait: TimeDelta::minutes(section.longest_wait_minutes.into()),
    })
}
