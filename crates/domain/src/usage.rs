//! Quota windows, and what may still be used in them.
//!
//! What an account has used stands in a [`Usage`]: one window with its counters. Everything that changes it is a function
//! here, and the store applies them one after the other while it holds the account's row, so that they need no more than
//! to be right about one order.
//!
//! * A window that runs goes on to its end, whatever becomes of the subscription: an upgrade changes the limit at once and
//!   keeps what was used. The next window begins where that one ended, and ends where the anchor says by then. Where the
//!   anchor has moved, that one window is shorter than a month; the account has a whole quota in it all the same, as in
//!   every paid month there must be one.
//! * Nothing is let in that takes what is used and what is held beyond the hard limit of the moment. A limit that has
//!   become lower (a downgrade, a lapse) takes nothing back.
//! * What is used beyond what is included is overage. What a higher tier included in the same window stays included.

use chrono::{DateTime, Utc};

use crate::{
    calendar::{self, OutsideCalendar, Span},
    catalogue::Quota,
};

/// The most that one event may count on any meter. More is a mistake of whoever reports it.
pub const MOST: u32 = 1_000_000_000;

/// How much is used, or to be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quantity {
    /// Requests.
    pub requests: u32,
    /// Tokens.
    pub tokens: u32,
    /// Conversations: counted for statistics, without a limit.
    pub conversations: u32,
}

/// What an account may use by its entitlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Requests in a window.
    pub requests: Quota,
    /// Tokens in a window.
    pub tokens: Quota,
    /// From where windows are counted.
    pub anchor: DateTime<Utc>,
}

/// Which meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeterName {
    /// Requests.
    Requests,
    /// Tokens.
    Tokens,
}

impl MeterName {
    /// The meter as the API spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }
}

/// What one meter has counted in a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    /// Used.
    pub used: u64,
    /// Held by reservations that are neither settled nor released.
    pub reserved: u64,
    /// Used as well, but beyond a reservation and beyond the hard limit: told, and not counted as used.
    pub excess: u64,
    /// The most that was included when anything was let in; `None` where that was everything.
    pub included: Option<u64>,
}

impl Counter {
    const NONE: Self = Self { used: 0, reserved: 0, excess: 0, included: Some(0) };

    /// What is used beyond everything that was included at any time in this window.
    #[must_use]
    pub fn overage(&self) -> u64 {
        self.included.map_or(0, |included| self.used.saturating_sub(included))
    }

    /// Whether `asked` more stay within the hard limit. Nothing always does, also where a limit has become lower.
    fn has_room(&self, asked: u32, quota: Quota) -> bool {
        asked == 0 || self.room(quota).is_none_or(|room| u64::from(asked) <= room)
    }

    /// How much is left below the hard limit; `None` where there is none.
    fn room(&self, quota: Quota) -> Option<u64> {
        quota.hard_limit().map(|hard| hard.saturating_sub(self.used.saturating_add(self.reserved)))
    }

    fn add(&mut self, quantity: u64, quota: Quota) {
        let overage = self.overage();
        self.used = self.used.saturating_add(quantity);
        let included = match quota {
            Quota::Soft { included, .. } => Some(included),
            // What counts without a soft limit is never overage, also where a higher limit had let it in; what was overage
            // before stays it.
            Quota::Limited(limit) => Some(limit.max(self.used.saturating_sub(overage))),
            Quota::Unlimited => None,
        };
        self.included = self.included.zip(included).map(|(before, now)| before.max(now));
    }

    /// Counts `actual`, of which `held` was let in before; gives what is beyond that and beyond the hard limit.
    fn settle(&mut self, held: u32, freed: bool, actual: u32, quota: Quota) -> u32 {
        let held = if freed { 0 } else { held };
        self.reserved = self.reserved.saturating_sub(held.into());
        let within = actual.min(held);
        let beyond = actual.saturating_sub(within);
        // The rest of this very hold is room again before what is beyond is looked at: there is none where there is a
        // beyond.
        let room = Self { used: self.used.saturating_add(within.into()), ..*self }.room(quota);
        let counted = room.map_or(beyond, |room| beyond.min(u32::try_from(room).unwrap_or(u32::MAX)));
        self.add(u64::from(within).saturating_add(counted.into()), quota);
        let excess = beyond.saturating_sub(counted);
        self.excess = self.excess.saturating_add(excess.into());
        excess
    }

    /// The meter that the platform sees.
    fn meter(&self, quota: Quota, resets_at: DateTime<Utc>) -> Meter {
        let (limit, hard_limit) = (quota.limit(), quota.hard_limit());
        let Self { used, reserved, .. } = *self;
        Meter { limit, hard_limit, used, reserved, overage: self.overage(), resets_at }
    }
}

/// What an account has used: the counters of the window that runs, or of the last one that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The window. Empty where nothing was used yet.
    pub window: Span,
    /// Requests.
    pub requests: Counter,
    /// Tokens.
    pub tokens: Counter,
}

/// One meter as the platform sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    /// What is included in the window; `None` where everything is.
    pub limit: Option<u64>,
    /// What is never passed; `None` where there is no such limit. Another one than `limit` where overage is allowed.
    pub hard_limit: Option<u64>,
    /// What is used.
    pub used: u64,
    /// What reservations hold.
    pub reserved: u64,
    /// The part of `used` that was not included.
    pub overage: u64,
    /// When the next window begins.
    pub resets_at: DateTime<Utc>,
}

impl Meter {
    /// What is left of what is included; `None` where everything is.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.used.saturating_add(self.reserved)))
    }
}

/// Both meters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meters {
    /// Requests.
    pub requests: Meter,
    /// Tokens.
    pub tokens: Meter,
}

impl Usage {
    /// Of an account that has used nothing yet: an empty window that ended long ago.
    pub const NONE: Self = Self {
        window: Span { start: DateTime::UNIX_EPOCH, end: DateTime::UNIX_EPOCH },
        requests: Counter::NONE,
        tokens: Counter::NONE,
    };

    /// The usage in the window that `now` is in, and the window before where that one is over and had something in it.
    ///
    /// The window that runs goes on to its end; also for a clock that lies behind its start. What reservations hold, they
    /// hold in the next window too.
    ///
    /// # Errors
    /// [`OutsideCalendar`] where the window has no name (an anchor in the year 262,142).
    pub fn at(
        self,
        anchor: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(Self, Option<Self>), OutsideCalendar> {
        if now < self.window.end && self.window.start < self.window.end {
            return Ok((self, None));
        }
        // A window that was closed at its end stays closed, also for a clock that lies behind.
        let now = now.max(self.window.end);
        let anchored = calendar::quota_window(anchor, now)?;
        let window = Span { start: anchored.start.max(self.window.end), end: anchored.end };
        let held = |counter: Counter| Counter { reserved: counter.reserved, ..Counter::NONE };
        let next = Self { window, requests: held(self.requests), tokens: held(self.tokens) };
        Ok((next, self.is_worth_keeping().then_some(self)))
    }

    /// Whether anything was counted.
    #[must_use]
    pub const fn is_worth_keeping(&self) -> bool {
        self.requests.used > 0 || self.tokens.used > 0 || self.requests.excess > 0 || self.tokens.excess > 0
    }

    /// The usage at the end of its window, with nothing in it: what is left where a window was closed before anybody
    /// used anything in the next one.
    #[must_use]
    pub fn closed(self) -> Self {
        let held = |counter: Counter| Counter { reserved: counter.reserved, ..Counter::NONE };
        let window = Span { start: self.window.end, end: self.window.end };
        Self { window, requests: held(self.requests), tokens: held(self.tokens) }
    }

    /// Whether anything was used beyond what was included.
    #[must_use]
    pub fn has_overage(&self) -> bool {
        self.requests.overage() > 0 || self.tokens.overage() > 0
    }

    /// Whether `asked` fits: all of it or nothing.
    ///
    /// # Errors
    /// The first meter that has no room for it.
    pub fn check(&self, asked: Quantity, requests: Quota, tokens: Quota) -> Result<(), MeterName> {
        if !self.requests.has_room(asked.requests, requests) {
            Err(MeterName::Requests)
        } else if !self.tokens.has_room(asked.tokens, tokens) {
            Err(MeterName::Tokens)
        } else {
            Ok(())
        }
    }

    /// Counts `asked` on every meter, or on none.
    ///
    /// # Errors
    /// The first meter that has no room for it; nothing is counted then.
    pub fn consume(&mut self, asked: Quantity, allowance: &Allowance) -> Result<(), MeterName> {
        self.check(asked, allowance.requests, allowance.tokens)?;
        self.requests.add(asked.requests.into(), allowance.requests);
        self.tokens.add(asked.tokens.into(), allowance.tokens);
        Ok(())
    }

    /// Holds `asked` on every meter, or on none.
    ///
    /// # Errors
    /// As [`consume`](Self::consume).
    pub fn reserve(&mut self, asked: Quantity, allowance: &Allowance) -> Result<(), MeterName> {
        self.check(asked, allowance.requests, allowance.tokens)?;
        self.requests.reserved = self.requests.reserved.saturating_add(asked.requests.into());
        self.tokens.reserved = self.tokens.reserved.saturating_add(asked.tokens.into());
        Ok(())
    }

    /// Takes a hold of `held` back.
    pub fn release(&mut self, held: Quantity) {
        self.requests.reserved = self.requests.reserved.saturating_sub(held.requests.into());
        self.tokens.reserved = self.tokens.reserved.saturating_sub(held.tokens.into());
    }

    /// Counts `actual` in place of a hold of `held`; `freed` where that hold has expired and is taken back already.
    ///
    /// What was held counts in any case: it was let in when it was reserved. What is beyond counts as far as the hard
    /// limits go. The rest has happened all the same: it is kept as excess, and given back.
    pub fn settle(
        &mut self,
        held: Quantity,
        freed: bool,
        actual: Quantity,
        allowance: &Allowance,
    ) -> Quantity {
        Quantity {
            requests: self.requests.settle(held.requests, freed, actual.requests, allowance.requests),
            tokens: self.tokens.settle(held.tokens, freed, actual.tokens, allowance.tokens),
            conversations: 0,
        }
    }

    /// The meters that the platform sees, of a usage that is [`at`](Self::at) the instant that is asked about.
    #[must_use]
    pub fn meters(&self, allowance: &Allowance) -> Meters {
        Meters {
            requests: self.requests.meter(allowance.requests, self.window.end),
            tokens: self.tokens.meter(allowance.tokens, self.window.end),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn t(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn limited(requests: u64, tokens: u64) -> Allowance {
        Allowance { requests: Quota::Limited(requests), tokens: Quota::Limited(tokens), anchor: t(0) }
    }

    fn some(requests: u32, tokens: u32) -> Quantity {
        Quantity { requests, tokens, conversations: 0 }
    }

    fn fresh() -> Usage {
        Usage::NONE.at(t(0), t(10)).unwrap().0
    }

    #[test]
    fn an_upgrade_keeps_the_window_and_what_was_used_in_it() {
        let (basic, upgrade) = (at("2027-01-10T00:00:00Z"), at("2027-01-25T12:00:00Z"));
        let (mut usage, _) = Usage::NONE.at(basic, basic).unwrap();
        usage.consume(some(400, 0), &limited(500, 0)).unwrap();
        let (carried, closed) = usage.at(upgrade, upgrade).unwrap();
        assert_eq!((carried, closed), (usage, None));
        // The next one begins where that one ended, and ends by the new anchor.
        let (next, closed) = carried.at(upgrade, at("2027-02-10T00:00:00Z")).unwrap();
        assert_eq!(next.window, Span { start: at("2027-02-10T00:00:00Z"), end: at("2027-02-25T12:00:00Z") });
        assert_eq!((next.requests.used, closed), (0, Some(usage)));
        let (after, closed) = next.at(upgrade, at("2027-02-25T12:00:00Z")).unwrap();
        assert_eq!(after.window.end, at("2027-03-25T12:00:00Z"));
        assert_eq!(closed, None, "nothing was used in it");
    }

    #[test]
    fn all_meters_or_none() {
        let mut usage = fresh();
        assert_eq!(usage.consume(some(1, 11), &limited(10, 10)), Err(MeterName::Tokens));
        assert_eq!(usage, fresh());
        assert_eq!(usage.consume(some(11, 11), &limited(10, 10)), Err(MeterName::Requests));
        assert_eq!(usage.consume(some(10, 10), &limited(10, 10)), Ok(()));
        assert_eq!(usage.meters(&limited(10, 10)).tokens.remaining(), Some(0));
        assert_eq!(usage.consume(some(0, 0), &limited(10, 10)), Ok(()));
    }

    #[test]
    fn a_lower_limit_takes_nothing_back_and_is_no_overage() {
        let mut usage = fresh();
        usage.consume(some(90, 0), &limited(100, 0)).unwrap();
        let lower = limited(10, 10);
        let meter = usage.meters(&lower).requests;
        assert_eq!((meter.used, meter.remaining(), meter.overage), (90, Some(0), 0));
        assert_eq!(usage.consume(some(1, 0), &lower), Err(MeterName::Requests));
        assert_eq!(usage.consume(some(0, 1), &lower), Ok(()), "the other meter has room");
        assert!(!usage.has_overage());
    }

    #[test]
    fn overage_is_what_no_tier_of_the_window_included() {
        let soft = |included, hard| Allowance { requests: Quota::Soft { included, hard }, ..limited(0, 0) };
        let mut usage = fresh();
        usage.consume(some(130, 0), &soft(100, Some(150))).unwrap();
        assert_eq!(usage.requests.overage(), 30);
        // After a lapse to a hard limit, what was overage stays it, and nothing is added to it.
        let mut lapsed = usage;
        assert_eq!(lapsed.consume(some(0, 5), &limited(10, 10)), Ok(()));
        lapsed.settle(some(7, 0), false, some(7, 0), &limited(10, 10));
        assert_eq!((lapsed.requests.used, lapsed.requests.overage()), (137, 30));
        assert_eq!(usage.consume(some(21, 0), &soft(100, Some(150))), Err(MeterName::Requests));
        // An upgrade in the same window includes what was overage before.
        usage.consume(some(1, 0), &soft(120, None)).unwrap();
        assert_eq!(usage.requests.overage(), 11);
        let unlimited = Allowance { requests: Quota::Unlimited, ..limited(0, 0) };
        usage.consume(some(1_000, 0), &unlimited).unwrap();
        assert_eq!(usage.requests.overage(), 0);
        usage.consume(some(5, 0), &soft(100, None)).unwrap();
        assert_eq!(usage.requests.overage(), 0, "once in a window everything was included");
    }

    #[test]
    fn what_was_reserved_counts_and_what_is_beyond_counts_up_to_the_limit() {
        let allowance = limited(10, 100);
        let mut usage = fresh();
        usage.reserve(some(1, 60), &allowance).unwrap();
        assert_eq!(usage.consume(some(1, 41), &allowance), Err(MeterName::Tokens), "the hold counts");
        usage.consume(some(1, 30), &allowance).unwrap();
        let excess = usage.settle(some(1, 60), false, some(1, 75), &allowance);
        assert_eq!(excess, some(0, 5));
        assert_eq!((usage.tokens.used, usage.tokens.reserved, usage.tokens.excess), (100, 0, 5));
        assert_eq!(usage.requests.used, 2);
    }

    #[test]
    fn a_hold_lives_on_in_the_next_window() {
        let allowance = limited(10, 100);
        let mut usage = fresh();
        usage.reserve(some(1, 60), &allowance).unwrap();
        let (mut next, closed) = usage.at(t(0), at("1970-02-01T00:00:00Z")).unwrap();
        assert_eq!((closed, next.tokens.reserved), (None, 60));
        assert_eq!(next.settle(some(1, 60), false, some(1, 20), &allowance), some(0, 0));
        assert_eq!((next.tokens.used, next.tokens.reserved), (20, 0));
    }

    #[test]
    fn a_window_that_was_closed_is_not_opened_again_by_a_clock_that_lies_behind() {
        let mut usage = fresh();
        usage.consume(some(3, 0), &limited(10, 10)).unwrap();
        let end = usage.window.end;
        let behind = end - chrono::TimeDelta::milliseconds(1);
        assert_eq!(usage.at(t(0), behind), Ok((usage, None)));
        for now in [behind, end] {
            let (next, closed) = usage.closed().at(t(0), now).unwrap();
            assert_eq!((next.window.start, next.requests.used, closed), (end, 0, None));
        }
    }

    #[test]
    fn an_expired_hold_that_is_settled_late_counts_as_far_as_there_is_room() {
        let allowance = limited(10, 100);
        let mut usage = fresh();
        usage.reserve(some(1, 60), &allowance).unwrap();
        usage.release(some(1, 60));
        usage.consume(some(1, 90), &allowance).unwrap();
        assert_eq!(usage.settle(some(1, 60), true, some(1, 60), &allowance), some(0, 50));
        assert_eq!((usage.tokens.used, usage.tokens.excess), (100, 50));
    }

    #[derive(Debug, Clone)]
    enum Act {
        Consume(u32, u32),
        Reserve(u32, u32),
        Settle(usize, u32, u32),
        Release(usize),
        Limits(u64, u64),
        Wait(i64),
    }

    fn act() -> impl Strategy<Value = Act> {
        let small = 0_u32..40;
        prop_oneof![
            4 => (small.clone(), small.clone()).prop_map(|(r, t)| Act::Consume(r, t)),
            2 => (small.clone(), small.clone()).prop_map(|(r, t)| Act::Reserve(r, t)),
            2 => (0_usize..8, small.clone(), small).prop_map(|(n, r, t)| Act::Settle(n, r, t)),
            1 => (0_usize..8).prop_map(Act::Release),
            1 => (0_u64..200, 0_u64..200).prop_map(|(r, t)| Act::Limits(r, t)),
            1 => (0_i64..5_000_000).prop_map(Act::Wait),
        ]
    }

    proptest! {
        /// Nothing that is let in passes the limit of the moment, the holds add up, and nothing is lost.
        #[test]
        fn no_order_of_acts_passes_a_limit_or_loses_anything(acts in proptest::collection::vec(act(), 1..60)) {
            let (mut allowance, mut now) = (limited(100, 100), 10);
            let (mut usage, mut holds) = (fresh(), Vec::<Quantity>::new());
            let (mut happened, mut kept) = (0_u64, 0_u64);
            for act in acts {
                let (rolled, closed) = usage.at(allowance.anchor, t(now)).unwrap();
                if let Some(closed) = closed {
                    prop_assert!(closed.window.end <= t(now));
                    prop_assert_eq!(rolled.window.start.max(closed.window.end), rolled.window.start);
                    kept += closed.tokens.used + closed.tokens.excess;
                }
                usage = rolled;
                prop_assert!(usage.window.start < usage.window.end);
                let before = usage;
                let fits = |q: Quantity| {
                    let fits = |c: Counter, q: u32, quota: Quota| {
                        q == 0 || c.used + c.reserved + u64::from(q) <= quota.hard_limit().unwrap()
                    };
                    fits(before.requests, q.requests, allowance.requests) && fits(before.tokens, q.tokens, allowance.tokens)
                };
                match act {
                    Act::Consume(r, tokens) => {
                        let let_in = usage.consume(some(r, tokens), &allowance).is_ok();
                        prop_assert_eq!(let_in, fits(some(r, tokens)));
                        if let_in { happened += u64::from(tokens) } else { prop_assert_eq!(usage, before) }
                    }
                    Act::Reserve(r, tokens) => {
                        let let_in = usage.reserve(some(r, tokens), &allowance).is_ok();
                        prop_assert_eq!(let_in, fits(some(r, tokens)));
                        if let_in { holds.push(some(r, tokens)) } else { prop_assert_eq!(usage, before) }
                    }
                    Act::Settle(n, r, tokens) if n < holds.len() => {
                        let held = holds.remove(n);
                        let excess = usage.settle(held, false, some(r, tokens), &allowance);
                        happened += u64::from(tokens);
                        let counted = u64::from(tokens - excess.tokens);
                        prop_assert_eq!(usage.tokens.used, before.tokens.used + counted);
                        // Beyond the hold only within the limit.
                        let Quota::Limited(limit) = allowance.tokens else { unreachable!() };
                        if tokens > held.tokens && counted > u64::from(held.tokens) {
                            prop_assert!(usage.tokens.used + usage.tokens.reserved <= limit);
                        }
                        prop_assert!(tokens > held.tokens || excess.tokens == 0);
                    }
                    Act::Release(n) if n < holds.len() => usage.release(holds.remove(n)),
                    Act::Limits(r, tokens) => allowance = Allowance { anchor: t(now), ..limited(r, tokens) },
                    Act::Wait(seconds) => now += seconds,
                    Act::Settle(..) | Act::Release(_) => {}
                }
                let held: u64 = holds.iter().map(|held| u64::from(held.tokens)).sum();
                prop_assert_eq!(usage.tokens.reserved, held);
                prop_assert!(!usage.has_overage(), "there is no soft limit");
                prop_assert_eq!(kept + usage.tokens.used + usage.tokens.excess, happened);
            }
        }
    }
}
