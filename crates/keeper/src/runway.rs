//! For how many further periods payers' means last, looked at when there is nothing else to do.

use dues_domain::{chain::BlockHeader, dunning::Runway};
use dues_store::keeper::{KeeperLead, RunwaySubject};
use tokio::time::Instant;

use crate::{Keeper, KeeperError};

/// Subscriptions in one round; each takes two questions.
const AT_ONCE: u32 = 100;

impl Keeper {
    /// Looks at the payers that were not looked at for the longest time.
    ///
    /// Counted is the allowance to the contract itself. One through Permit2 has limits of its own, and is left out.
    pub(crate) async fn look_at_means(
        &mut self,
        lead: &mut KeeperLead,
        head: &BlockHeader,
    ) -> Result<(), KeeperError> {
        let now = head.timestamp;
        let Some(before) = now.checked_sub_signed(self.config.limits.runway_interval) else { return Ok(()) };
        let (source, merchant) = (self.config.source, self.config.merchant);
        let asked = Instant::now();
        let subjects = self.store.runway_subjects(source, merchant, now, before, AT_ONCE).await?;
        // Not even where there are more: nobody waits for it.
        self.memory.means.took(Instant::now(), asked.elapsed(), false);
        if subjects.is_empty() {
            return Ok(());
        }
        let of: Vec<_> = subjects.iter().map(|subject| (subject.payer, subject.token)).collect();
        let means = self.rpc.means(head.block, &of).await?;
        let found: Vec<_> = subjects
            .into_iter()
            .zip(means)
            .map(|(RunwaySubject { subscription, price, .. }, means)| {
                // A token that does not say is as good as none.
                let means = means.unwrap_or_default();
                (subscription, Runway::new(means.balance, means.allowance, price, now))
            })
            .collect();
        Ok(lead.runways(&found).await?)
    }
}
