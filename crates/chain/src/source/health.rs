//! How an endpoint has been doing, and whether to ask it now.

use std::time::Duration;

use tokio::time::Instant;

use super::failure::Failure;

/// The rest after the first failure; it doubles with each further one.
const FIRST_REST: Duration = Duration::from_millis(100);
/// The longest rest after failures.
const MAX_REST: Duration = Duration::from_secs(30);
/// The longest rest after answers that contradict each other: what helps is to read again, soon.
const MAX_REST_INCONSISTENT: Duration = Duration::from_millis(500);
/// A provider that asks for more patience than this is asked again anyway.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);
/// How long an endpoint of another chain is left alone: somebody may be changing things.
const WRONG_CHAIN_REST: Duration = Duration::from_secs(60);
/// How long an endpoint that lagged, or contradicted itself, is only asked where no other one can be.
const AVOIDANCE: Duration = Duration::from_secs(30);
/// How long an endpoint is only asked last after its answers made no sense with what is known already.
const DISTRUST: Duration = Duration::from_secs(600);

/// What is known of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// In a row.
    failures: u32,
    rests_until: Option<Instant>,
    avoided_until: Option<Instant>,
    distrusted_until: Option<Instant>,
    /// Whether its chain id was checked. A failure voids that: something else may answer there afterwards.
    verified: bool,
    /// The chain that it turned out to be of.
    wrong_chain: Option<u64>,
}

impl Health {
    pub(super) const fn is_verified(&self) -> bool {
        self.verified
    }

    pub(super) const fn verified(&mut self) {
        self.verified = true;
        self.wrong_chain = None;
    }

    pub(super) const fn wrong_chain(&self) -> Option<u64> {
        self.wrong_chain
    }

    /// Until when it must not be asked.
    pub(super) fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.rests_until.filter(|until| *until > now)
    }

    /// In which order it is asked, lowest first: better not at all, rather not, by all means.
    pub(super) fn rank(&self, now: Instant) -> u8 {
        let until = |instant: Option<Instant>| instant.is_some_and(|until| until > now);
        u8::from(until(self.distrusted_until)) * 2 + u8::from(until(self.avoided_until))
    }

    pub(super) fn is_distrusted(&self, now: Instant) -> bool {
        self.distrusted_until.is_some_and(|until| until > now)
    }

    pub(super) const fn succeeded(&mut self) {
        self.failures = 0;
        self.rests_until = None;
    }

    pub(super) fn avoid(&mut self, now: Instant) {
        self.avoided_until = now.checked_add(AVOIDANCE);
    }

    pub(super) fn distrust(&mut self, now: Instant) {
        self.distrusted_until = now.checked_add(DISTRUST);
    }

    /// Notes a failure, and gives how long the endpoint rests after it. `random` is spread evenly over `u64`, so
    /// that many of us do not come back all at once.
    pub(super) fn failed(&mut self, failure: &Failure, now: Instant, random: u64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let doubled = 1_u32.checked_shl(self.failures.saturating_sub(1).min(16)).unwrap_or(u32::MAX);
        let backoff = jittered(FIRST_REST.saturating_mul(doubled).min(MAX_REST), random);
        let rest = match failure {
            // What was asked for is the least: never earlier, a moment later.
            Failure::RateLimited { wait: Some(wait), .. } => {
                (*wait).min(MAX_RETRY_AFTER).saturating_add(jittered(FIRST_REST, random))
            }
            Failure::WrongChain { found, .. } => {
                self.wrong_chain = Some(*found);
                WRONG_CHAIN_REST
            }
            Failure::Inconsistent(_) => backoff.min(MAX_REST_INCONSISTENT),
            _ => backoff,
        };
        if matches!(failure, Failure::Inconsistent(_)) {
            self.avoid(now);
        }
        self.verified = self.verified && matches!(failure, Failure::RateLimited { .. });
        self.rests_until = now.checked_add(rest);
        rest
    }
}

/// Between half of `full` and all of it.
fn jittered(full: Duration, random: u64) -> Duration {
    let half = full / 2;
    let steps = u32::try_from(random % 1_000).unwrap_or_default();
    half.saturating_add(half.saturating_mul(steps) / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken() -> Failure {
        Failure::Broken { method: "eth_call", reason: String::new() }
    }

    #[test]
    fn the_rest_doubles_up_to_half_a_minute_and_ends_with_a_success() {
        let (mut health, now) = (Health::default(), Instant::now());
        let rests: Vec<_> = (0..12).map(|_| health.failed(&broken(), now, 999).as_millis()).collect();
        assert!(rests.windows(2).all(|pair| pair[1] >= pair[0]), "{rests:?}");
        assert!((99..=100).contains(&rests[0]) && (29_900..=30_000).contains(&rests[11]), "{rests:?}");
        assert!(health.rests_until(now).is_some());
        health.succeeded();
        assert_eq!(health.rests_until(now), None);
        assert!(health.failed(&broken(), now, 0) <= FIRST_REST);
    }

    #[test]
    fn jitter_stays_between_half_and_all() {
        for random in [0, 1, 499, 999, u64::MAX] {
            let rest = Health::default().failed(&broken(), Instant::now(), random);
            assert!((FIRST_REST / 2..=FIRST_REST).contains(&rest), "{random}: {rest:?}");
        }
    }

    #[test]
    fn what_a_provider_asks_for_is_the_least_but_not_without_end() {
        let limited =
            |wait| Failure::RateLimited { method: "eth_call", wait: Some(wait), reason: String::new() };
        let rest = |wait| Health::default().failed(&limited(wait), Instant::now(), 0);
        let asked = Duration::from_secs(52);
        assert!((asked..asked + FIRST_REST).contains(&rest(asked)));
        assert!(rest(Duration::MAX) <= MAX_RETRY_AFTER + FIRST_REST);
    }

    #[test]
    fn a_failure_voids_that_the_chain_was_checked_but_a_quota_does_not() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.verified();
        health.failed(
            &Failure::RateLimited { method: "eth_call", wait: None, reason: String::new() },
            now,
            0,
        );
        assert!(health.is_verified());
        health.failed(&broken(), now, 0);
        assert!(!health.is_verified());
    }

    #[test]
    fn a_lagging_endpoint_is_asked_after_others_and_a_distrusted_one_last() {
        let (mut lagging, mut distrusted, now) = (Health::default(), Health::default(), Instant::now());
        lagging.avoid(now);
        distrusted.distrust(now);
        assert!(Health::default().rank(now) < lagging.rank(now) && lagging.rank(now) < distrusted.rank(now));
        assert_eq!(lagging.rank(now + AVOIDANCE), 0);
    }
}
