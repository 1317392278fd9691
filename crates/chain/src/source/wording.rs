//! What providers mean by the errors that they answer with. There is no standard: the same code is a quota with one
//! and a range with another, so words decide before codes do.

use std::time::Duration;

/// What an error means for what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Too many requests: wait, for as long as was said.
    RateLimited(Option<Duration>),
    /// Too many blocks or results for one question: ask for less, for so many blocks where that was said.
    TooLarge(Option<u64>),
    /// Batches are not taken, or only smaller ones.
    Batch(Option<u64>),
    /// Anything else.
    Other,
}

/// Only the beginning of a message is looked at: it is as long as the provider likes.
const LOOKED_AT: usize = 1_000;

const RATE: &[&str] = &[
    "rate limit",
    "rate-limit",
    "ratelimit",
    "rate exceeded",
    "too many requests",
    "request limit reached",
    "requests limit",
    "request limit",
    "request count exceeded",
    "credits limited",
    "compute units per second",
    "capacity limit",
    "throughput limit",
    "maximum number of concurrent requests",
    "daily request",
    "quota",
    "try again in",
];

/// Of ranges that are beyond the head, or upside down: smaller ones are, too.
const NOT_LARGE: &[&str] =
    &["beyond current head", "invalid block range", "after last accepted", "greater than head"];

const LARGE: &[&str] = &[
    "response size",
    "response too large",
    "response is too big",
    "query returned more than",
    "query result",
    "exceeds max results",
    "exceeds limit",
    "limited to",
    "too many logs",
    "too many blocks",
    "too many results",
    "blocks range",
    "block range",
    "max range",
    "maximum rpc range",
    "ranges over",
    "range is too",
    "range too",
    "range limit",
    "exceeds the range",
    "exceed max",
    "exceeds max",
    "query timeout",
    "query timed out",
    "result set too large",
    "please limit the query",
    "limit the query to",
    "limit exceeded",
    "please narrow",
    "reduce the range",
    "smaller range",
];

/// What a JSON-RPC error or the text of an HTTP error means.
pub(super) fn meaning(code: i64, message: &str) -> Meaning {
    let message: String = message.chars().take(LOOKED_AT).collect::<String>().to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if has(&["batch"]) && !has(&["rate limit"]) {
        return Meaning::Batch(first_number(&message).filter(|&number| number < 1_000));
    }
    if code == 429 || has(RATE) {
        return Meaning::RateLimited(wait(&message));
    }
    if !has(NOT_LARGE) && has(LARGE) {
        return Meaning::TooLarge(fitting(&message));
    }
    // -32005 without words that we know is a quota (Infura, Alchemy); so are these with QuickNode and Cloudflare.
    if matches!(code, -32005 | -32007 | -32012 | -32016 | -32055) {
        return Meaning::RateLimited(None);
    }
    Meaning::Other
}

/// How many blocks would have been taken.
fn fitting(message: &str) -> Option<u64> {
    suggested_range(message).or_else(|| stated_limit(message))
}

/// `[0x10, 0x1f]` (Alchemy, Infura, thirdweb), or `range 16-31` (reth).
fn suggested_range(message: &str) -> Option<u64> {
    let blocks = |from: u64, to: u64| to.checked_sub(from)?.checked_add(1);
    if let Some((_, rest)) = message.split_once("[0x")
        && let Some((range, _)) = rest.split_once(']')
        && let Some((from, to)) = range.split_once(',')
    {
        let hex = |text: &str| u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
        return blocks(hex(from)?, hex(to)?);
    }
    let (_, rest) = message.split_once("with the range ")?;
    let (from, to) = rest.split_once('-')?;
    blocks(leading_number(from)?, leading_number(to)?)
}

/// `is limited to a 10,000 range`, `up to a 2k block range`, `maximum block range: 50000`, `the limit is 100`.
/// A limit of results says nothing about blocks.
fn stated_limit(message: &str) -> Option<u64> {
    const BEFORE: &[&str] = &[
        "limited to a ",
        "limited to ",
        "up to a ",
        "maximum block range: ",
        "maximum block range ",
        "max block range: ",
        "max block range ",
        "maximum is set to ",
        "the limit is ",
        "ranges over ",
        "at most ",
        "max range: ",
    ];
    if message.contains("results") && !message.contains("block") {
        return None;
    }
    BEFORE.iter().find_map(|words| {
        let (_, rest) = message.split_once(words)?;
        let (number, after) = number_and_rest(rest)?;
        let counts_logs = ["log", "result", " log", " result"].iter().any(|word| after.starts_with(word));
        (!counts_logs).then_some(number)
    })
}

/// `try again in 250ms`, `retry after 2s`.
fn wait(message: &str) -> Option<Duration> {
    let rest = ["try again in ", "retry after ", "retry in "]
        .iter()
        .find_map(|words| message.split_once(words).map(|(_, rest)| rest))?;
    let (number, unit) = number_and_rest(rest)?;
    match unit.trim_start() {
        unit if unit.starts_with("ms") || unit.starts_with("milli") => Some(Duration::from_millis(number)),
        unit if unit.starts_with('s') => Some(Duration::from_secs(number)),
        unit if unit.starts_with("min") || unit == "m" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    }
}

fn first_number(message: &str) -> Option<u64> {
    leading_number(message.get(message.find(|c: char| c.is_ascii_digit())?..)?)
}

fn leading_number(text: &str) -> Option<u64> {
    number_and_rest(text).map(|(number, _)| number)
}

/// `10,000 …`, `2k …`.
fn number_and_rest(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != ',').unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    let number: u64 = digits.replace(',', "").parse().ok()?;
    match rest.strip_prefix('k') {
        Some(rest) => Some((number.checked_mul(1_000)?, rest)),
        None => Some((number, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_providers_say_of_ranges_is_understood() {
        for (provider, code, message, fitting) in [
            (
                "Alchemy",
                -32602,
                "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range and no \
                 limit on the response size, or you can request any block range with a cap of 10K logs in the \
                 response. Based on your parameters and the response size limit, this block range should work: \
                 [0xc5dc00, 0xc614a7]",
                Some(14_504),
            ),
            (
                "Alchemy, free",
                -32600,
                "Under the Free tier plan, you can make eth_getLogs requests with up to a 10 block range. Based on \
                 your parameters, this block range should work: [0x1180fca, 0x1180fd3]. Upgrade to PAYG for expanded \
                 block range.",
                Some(10),
            ),
            (
                "Alchemy, time",
                -32000,
                "Query timeout exceeded. Consider reducing your block range. Based on your parameters and the \
                 response size limit, this block range should work: [0x5223c98, 0x5223e80]",
                Some(489),
            ),
            (
                "Infura",
                -32005,
                "query returned more than 10000 results. Try with this block range [0xCB3D, 0x7B737].",
                Some(453_627),
            ),
            ("Infura, old", -32005, "query returned more than 10000 results", None),
            ("QuickNode", -32614, "eth_getLogs is limited to a 10,000 range", Some(10_000)),
            ("QuickNode, trial", -32615, "eth_getLogs is limited to a 5 range", Some(5)),
            ("Ankr", -32600, "block range is too wide", None),
            (
                "Chainstack",
                -32000,
                "Block range limit exceeded. See more details at https://docs.chainstack.com/docs/limits#evm-range-limits",
                None,
            ),
            ("publicnode", -32701, "exceed maximum block range: 50000", Some(50_000)),
            ("geth", -32602, "exceed maximum block range: 2048", Some(2_048)),
            ("geth, results", -32000, "logs matched by query exceeds limit of 10000", None),
            ("erigon", -32000, "query returned more than 20000 results", None),
            ("erigon, blocks", -32000, "block range is too large: 5000, max range: 1000", Some(1_000)),
            ("Nethermind", -32005, "Too many logs requested. Max logs per response is 20000.", None),
            ("reth", -32602, "query exceeds max block range 100000", Some(100_000)),
            (
                "reth, results",
                -32602,
                "query exceeds max results 20000, retry with the range 24383075-24383096",
                Some(22),
            ),
            ("Besu", -32005, "Requested range exceeds maximum RPC range limit", None),
            (
                "dRPC",
                -32000,
                "requested too many blocks from 0 to 16777216, maximum is set to 2048",
                Some(2_048),
            ),
            ("dRPC, free", 35, "ranges over 10000 blocks are not supported on freetier", Some(10_000)),
            (
                "BlockPI",
                -32602,
                "eth_getLogs and eth_newFilter are limited to a 1024 blocks range",
                Some(1_024),
            ),
            (
                "Cloudflare",
                -32047,
                "Invalid eth_getLogs request. 'fromBlock'-'toBlock' range too large. Max range: 800",
                Some(800),
            ),
            ("SimplyVC", -32000, "too wide blocks range, the limit is 100", Some(100)),
            ("BNB Chain", -32005, "limit exceeded", None),
            ("a gateway", -32008, "Response is too big", None),
            ("a proxy", -32000, "backend response too large", None),
        ] {
            assert_eq!(meaning(code, message), Meaning::TooLarge(fitting), "{provider}");
        }
    }

    #[test]
    fn what_providers_say_of_quotas_is_understood() {
        let ms = |ms| Some(Duration::from_millis(ms));
        for (provider, code, message, wait) in [
            (
                "Alchemy",
                429,
                "Your app has exceeded its compute units per second capacity. If you have retries enabled, you can \
                 safely ignore this message.",
                None,
            ),
            ("Infura", -32005, "project ID request rate exceeded", None),
            ("Infura, day", -32005, "daily request count exceeded, request rate limited", None),
            ("QuickNode", -32007, "100/second request limit reached - reduce calls per second", None),
            ("QuickNode, credits", -32012, "credits limited to 6000/sec", None),
            ("a gateway", -32005, "rate limited, try again in 4ms", ms(4)),
            ("another", -32000, "Too many requests, retry after 2s", ms(2_000)),
            ("with a hint at ranges", -32000, "rate limit exceeded: try a smaller range", None),
            ("without words", -32005, "", None),
        ] {
            assert_eq!(meaning(code, message), Meaning::RateLimited(wait), "{provider}");
        }
    }

    #[test]
    fn what_providers_say_of_batches_is_understood() {
        for (message, most) in [
            ("batch too large", None),
            (
                "Batch of more than 3 requests are not allowed on free tier, to use this feature register paid account",
                Some(3),
            ),
            ("Batch size is too large. Maximum batch size is 100.", Some(100)),
            ("Batch requests are not supported", None),
        ] {
            assert_eq!(meaning(-32600, message), Meaning::Batch(most), "{message}");
        }
    }

    #[test]
    fn anything_else_is_neither() {
        for (code, message) in [
            (-32000, "header not found"),
            (-32000, "block range extends beyond current head block"),
            (-32602, "invalid block range params"),
            (-32000, "missing trie node 0xabc (path )"),
            (-32601, "the method eth_getLogs does not exist/is not available"),
            (-32603, "Internal error"),
            (3, "execution reverted"),
            (-32000, "unknown block"),
        ] {
            assert_eq!(meaning(code, message), Meaning::Other, "{message}");
        }
    }

    #[test]
    fn absurd_numbers_are_no_suggestions() {
        for message in [
            "block range is too wide, this block range should work: [0x1f, 0x10]",
            "block range is too wide, this block range should work: [0xfffffffffffffffffff, 0x10]",
            "eth_getLogs is limited to a 99999999999999999999999 range",
        ] {
            assert_eq!(meaning(-32000, message), Meaning::TooLarge(None), "{message}");
        }
    }
}
