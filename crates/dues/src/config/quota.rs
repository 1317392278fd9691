//! Quotas as they are written.

use dues_domain::catalogue::Quota;

use super::sections::{HardLimit, QuotaSetting, SoftQuota};

/// Far more than anybody uses in a month, and far less than what a counter holds.
const MOST: u64 = 1_000_000_000_000_000;
const FORM: &str = "a number, \"unlimited\", or { included = …, limit = … } is needed";

/// The quota that `setting` is.
pub(super) fn check(setting: QuotaSetting) -> Result<Quota, String> {
    let quota = match setting {
        QuotaSetting::Limit(limit) => Quota::Limited(limit),
        QuotaSetting::Word(word) if word == "unlimited" => Quota::Unlimited,
        QuotaSetting::Soft(SoftQuota { included, limit: HardLimit::Word(word) }) if word == "unlimited" => {
            Quota::Soft { included, hard: None }
        }
        QuotaSetting::Soft(SoftQuota { included, limit: HardLimit::Limit(limit) }) => {
            if limit <= included {
                return Err("the limit must be above what is included".into());
            }
            Quota::Soft { included, hard: Some(limit) }
        }
        QuotaSetting::Word(_) | QuotaSetting::Soft(_) => return Err(FORM.into()),
    };
    if quota.limit().max(quota.hard_limit()).is_some_and(|limit| limit > MOST) {
        return Err(format!("at most {MOST}, or \"unlimited\""));
    }
    Ok(quota)
}
