//! The keeper's part of the configuration.

use chrono::TimeDelta;
use dues_domain::{dunning::RetrySchedule, money::BaseUnits, relay::RelayLimits};
use dues_keeper::{BatchLimits, FeeLimits, KeeperConfig, KeeperLimits, KeeperSigner};
use rust_decimal::Decimal;

use super::{
    Chain, Faults,
    key::{Key, KeySettings},
    sections::KeeperSection,
};

/// Decimal places of a gwei: a wei.
const GWEI: u8 = 9;

/// How to charge, and with whose gas.
#[derive(Debug, Clone)]
pub(crate) struct KeeperSettings {
    pub(crate) limits: KeeperLimits,
    relay: Option<RelayLimits>,
    pub(super) key: Option<Key>,
}

impl KeeperSettings {
    pub(super) fn check(
        section: KeeperSection,
        relay: Option<RelayLimits>,
        faults: &mut Faults,
    ) -> Option<Self> {
        let key = KeySettings {
            private_key: section.private_key,
            keystore: section.keystore,
            keystore_password: section.keystore_password,
            keystore_password_file: section.keystore_password_file,
        };
        let key = Key::check("keeper", key, faults);
        let max_fee = faults.take("keeper.max_fee_gwei", wei(section.max_fee_gwei));
        let max_priority_fee =
            faults.take("keeper.max_priority_fee_gwei", wei(section.max_priority_fee_gwei));
        let at_least_one = [
            ("batch_size", section.batch_size == 0),
            ("max_gas_per_transaction", section.max_gas_per_transaction == 0),
            ("max_gas_per_block", section.max_gas_per_block == 0),
            ("max_in_flight", section.max_in_flight == 0),
            ("stuck_after_blocks", section.stuck_after_blocks == 0),
            ("retry_first_minutes", section.retry_first_minutes == 0),
            ("means_every_hours", section.means_every_hours == 0),
        ];
        for (name, wrong) in at_least_one {
            if wrong {
                faults.add(format_args!("keeper.{name}: at least 1 is needed"));
            }
        }
        if section.retry_jitter_percent > 50 {
            faults.add("keeper.retry_jitter_percent: at most 50, or attempts come in no order");
        }
        Some(Self {
            limits: KeeperLimits {
                batches: BatchLimits {
                    items: section.batch_size,
                    gas_per_transaction: section.max_gas_per_transaction,
                    gas_per_block: section.max_gas_per_block,
                    in_flight: section.max_in_flight,
                },
                fees: FeeLimits { max_fee: max_fee?, max_priority_fee: max_priority_fee? },
                stuck_after_blocks: section.stuck_after_blocks,
                retry: RetrySchedule {
                    first: TimeDelta::minutes(section.retry_first_minutes.into()),
                    longest: TimeDelta::hours(section.retry_longest_hours.into()),
                    jitter_percent: section.retry_jitter_percent,
                },
                low_balance_charges: section.low_balance_charges,
                runway_interval: TimeDelta::hours(section.means_every_hours.into()),
            },
            relay,
            key,
        })
    }

    /// Whether there is a key to charge with.
    pub(crate) const fn has_signer(&self) -> bool {
        self.key.is_some()
    }

    /// The signer; `None` where there is no key. A keystore takes some seconds to be decrypted.
    pub(crate) fn signer(&self) -> anyhow::Result<Option<KeeperSigner>> {
        self.key.as_ref().map(Key::signer).transpose()
    }

    /// The most that gas may cost on `chain`.
    pub(crate) fn fees(&self, chain: &Chain) -> FeeLimits {
        let mut fees = self.limits.fees;
        if let Some(max_fee) = chain.max_fee {
            fees.max_fee = max_fee;
        }
        fees
    }

    /// What is to be done on `chain`.
    pub(crate) fn config(&self, chain: &Chain) -> KeeperConfig {
        let limits = KeeperLimits { fees: self.fees(chain), ..self.limits };
        KeeperConfig {
            source: chain.indexer.source,
            merchant: chain.indexer.scope.merchant,
            token: chain.token,
            poll_interval: chain.indexer.poll_interval,
            limits,
            relay: self.relay,
        }
    }
}

/// So many gwei in wei.
pub(super) fn wei(gwei: Decimal) -> Result<u64, &'static str> {
    const FORM: &str = "gwei with at most nine decimal places are needed, as in \"0.05\", and more than none";
    let wei = BaseUnits::from_decimal(gwei, GWEI).map_err(|_| FORM)?.get();
    // PostgreSQL's bigint holds nine thousand million gwei.
    let wei = u64::try_from(wei).ok().filter(|wei| *wei > 0 && i64::try_from(*wei).is_ok());
    wei.ok_or(FORM)
}
