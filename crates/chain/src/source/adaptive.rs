//! A size that finds out by itself what the other side takes.

/// After how many successes in a row a refusal is forgotten: a limit may be of the answer, not of the question.
const FORGET_AFTER: u32 = 20;

/// How much is asked for at once: halves (or does as it is told) on a refusal, grows again on success, and does not
/// run into the size that was refused last again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Adaptive {
    now: u64,
    max: u64,
    /// The smallest size that was refused lately.
    refused: Option<u64>,
    successes: u32,
}

impl Adaptive {
    pub(super) const fn new(max: u64) -> Self {
        Self { now: max, max, refused: None, successes: 0 }
    }

    /// What to ask for, at least 1.
    pub(super) const fn now(&self) -> u64 {
        self.now
    }

    /// `size` was answered. What is smaller than what would have been asked for proves nothing about that.
    pub(super) fn answered(&mut self, size: u64) {
        if size < self.now {
            return;
        }
        self.successes = self.successes.saturating_add(1);
        if self.successes >= FORGET_AFTER {
            (self.refused, self.successes) = (None, 0);
        }
        let next = match self.refused {
            Some(refused) => self.now.saturating_add(refused.saturating_sub(self.now) / 2),
            None => self.now.saturating_mul(2),
        };
        // Never the refused size itself.
        let below = self.refused.map_or(u64::MAX, |refused| refused.saturating_sub(1).max(1));
        self.now = next.min(below).clamp(1, self.max);
    }

    /// `size` was too much; `suggested`, where the other side said so, would not have been.
    pub(super) fn refused(&mut self, size: u64, suggested: Option<u64>) {
        self.successes = 0;
        self.refused = Some(self.refused.map_or(size, |refused| refused.min(size)).max(2));
        let fits = suggested.filter(|suggested| (1..size).contains(suggested)).unwrap_or(size / 2);
        self.now = self.now.min(fits).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_to_what_is_taken_and_stays_close_below() {
        let (mut size, limit) = (Adaptive::new(2_000), 10);
        let (mut refusals, mut answered) = (0, 0);
        for _ in 0..60 {
            let asked = size.now();
            if asked > limit {
                refusals += 1;
                size.refused(asked, None);
            } else {
                answered += asked;
                size.answered(asked);
            }
        }
        assert!(refusals < 20, "{refusals}");
        assert!(answered > 40 * 7, "{answered}");
    }

    #[test]
    fn a_suggestion_is_followed_unless_it_is_nonsense() {
        let mut size = Adaptive::new(2_000);
        size.refused(2_000, Some(800));
        assert_eq!(size.now(), 800);
        size.refused(800, Some(0));
        assert_eq!(size.now(), 400);
        size.refused(400, Some(9_999));
        assert_eq!(size.now(), 200);
    }

    #[test]
    fn it_grows_back_to_the_most_and_no_further() {
        let mut size = Adaptive::new(2_000);
        size.refused(2_000, Some(1));
        for _ in 0..100 {
            size.answered(size.now());
        }
        assert_eq!(size.now(), 2_000);
    }

    #[test]
    fn a_small_answer_proves_nothing_and_one_is_the_least() {
        let mut size = Adaptive::new(8);
        size.refused(8, None);
        size.answered(1);
        assert_eq!(size.now(), 4);
        for _ in 0..5 {
            size.refused(size.now(), None);
        }
        assert_eq!(size.now(), 1);
    }
}
