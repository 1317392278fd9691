//! How many requests an API key may make: a bucket of tokens for each, in this process's memory.
//!
//! A bucket holds `burst` tokens, a request takes one, and `per_second` come back each second. Several processes have buckets
//! of their own.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use dues_domain::ids::ApiKeyId;
use tokio::time::Instant;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How many requests each API key may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Tokens that come back in a second.
    pub per_second: NonZeroU32,
    /// Tokens that a bucket holds: requests at once.
    pub burst: NonZeroU32,
}

impl RateLimit {
    /// The time in which one token comes back.
    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second.get()
    }

    /// The time in which an empty bucket becomes full.
    fn window(self) -> Duration {
        self.interval().saturating_mul(self.burst.get())
    }
}

/// The buckets; cheap to clone. There are never more than there are keys.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    limit: RateLimit,
    /// When each bucket will be full again; one that is full is not kept.
    full_at: Arc<Mutex<HashMap<ApiKeyId, Instant>>>,
}

/// How a key stands after a request of its.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    limit: RateLimit,
    /// Tokens that are left.
    remaining: u32,
    /// Until the bucket is full, in whole seconds.
    full_in: u64,
}

impl RateLimiter {
    /// With full buckets.
    #[must_use]
    pub fn new(limit: RateLimit) -> Self {
        Self { limit, full_at: Arc::default() }
    }

    /// Takes a token for a request of `key`. `Err` where there is none, with the seconds until there is one.
    pub(crate) fn take(&self, key: ApiKeyId, now: Instant) -> (Standing, Result<(), u64>) {
        let (interval, window) = (self.limit.interval(), self.limit.window());
        let mut buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = buckets.get(&key).copied().unwrap_or(now).max(now);
        let lacking = full_at.saturating_duration_since(now);
        let after = lacking.saturating_add(interval);
        let (lacking, taken) = if after <= window {
            if let Some(full_at) = now.checked_add(after) {
                buckets.insert(key, full_at);
            }
            (after, Ok(()))
        } else {
            (lacking, Err(whole_seconds(after.saturating_sub(window))))
        };
        drop(buckets);
        let left =
            window.saturating_sub(lacking).as_nanos().checked_div(interval.as_nanos()).unwrap_or_default();
        let remaining = u32::try_from(left).unwrap_or(u32::MAX);
        (Standing { limit: self.limit, remaining, full_in: whole_seconds(lacking) }, taken)
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

/// Where the extractor leaves word for the answer's headers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Word(Arc<OnceLock<Standing>>);

impl Word {
    pub(crate) fn leave(&self, standing: Standing) {
        // A request has one caller.
        let _ = self.0.set(standing);
    }

    /// Tells the caller how it stands, in the form of draft-ietf-httpapi-ratelimit-headers (10).
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let Some(Standing { limit, remaining, full_in }) = self.0.get() else { return };
        let window = whole_seconds(limit.window());
        let told = [
            (RATE_LIMIT_POLICY, format!("\"key\";q={};w={window}", limit.burst)),
            (RATE_LIMIT, format!("\"key\";r={remaining};t={full_in}")),
        ];
        for (name, value) in told {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limiter(per_second: u32, burst: u32) -> RateLimiter {
        let number = |number| NonZeroU32::new(number).unwrap();
        RateLimiter::new(RateLimit { per_second: number(per_second), burst: number(burst) })
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_what_comes_back() {
        let (limiter, key, now) = (limiter(2, 3), ApiKeyId::generate(), Instant::now());
        let mut left = Vec::new();
        for _ in 0..3 {
            let (standing, taken) = limiter.take(key, now);
            assert_eq!(taken, Ok(()));
            left.push((standing.remaining, standing.full_in));
        }
        assert_eq!(left, [(2, 1), (1, 1), (0, 2)]);
        assert_eq!(limiter.take(key, now).1, Err(1));
        // Another key has a bucket of its own.
        assert_eq!(limiter.take(ApiKeyId::generate(), now).1, Ok(()));
        let later = now + Duration::from_millis(500);
        assert_eq!(limiter.take(key, later).1, Ok(()));
        assert_eq!(limiter.take(key, later).1, Err(1));
        // However long nothing is asked, it holds no more than it holds.
        let much_later = now + Duration::from_secs(3_600);
        let taken = (0..10).filter(|_| limiter.take(key, much_later).1.is_ok()).count();
        assert_eq!(taken, 3);
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_what_has_come_back(
            per_second in 1_u32..50, burst in 1_u32..20, waits in prop::collection::vec(0_u64..400, 1..200),
        ) {
            let (limiter, key, start) = (limiter(per_second, burst), ApiKeyId::generate(), Instant::now());
            let (mut now, mut taken) = (start, 0_u64);
            for wait in waits {
                now += Duration::from_millis(wait);
                taken += u64::from(limiter.take(key, now).1.is_ok());
                // An interval is rounded down to a nanosecond.
                let elapsed = u64::try_from((now - start).as_millis()).unwrap() + 1;
                prop_assert!(taken * 1_000 <= u64::from(burst) * 1_000 + elapsed * u64::from(per_second));
            }
        }
    }
}
