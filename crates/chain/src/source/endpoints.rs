//! Where a chain's nodes are.

use std::{collections::HashMap, fmt, str::FromStr};

use url::Url;

/// The URLs of one chain's nodes: `http` and `https` for data, in the order of preference, `ws` and `wss` for
/// wake-ups. They hold providers' keys, so only their hosts are ever printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoints {
    pub(super) http: Vec<Url>,
    pub(super) ws: Vec<Url>,
}

/// Why a text does not say where a chain's nodes are. It does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointsError {
    /// There is no URL that data could be read from.
    #[error("there is no http or https URL")]
    NoHttp,
    /// What stands at a place, counted from 1, is no URL.
    #[error("number {0} is no URL")]
    NoUrl(usize),
    /// What stands at a place, counted from 1, is a URL of something else.
    #[error("number {0} is no http, https, ws or wss URL with a host")]
    OtherScheme(usize),
    /// The same URL stands there before.
    #[error("number {0} is there twice")]
    Repeated(usize),
}

impl FromStr for Endpoints {
    type Err = EndpointsError;

    /// URLs between commas or white space.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut endpoints = Self { http: Vec::new(), ws: Vec::new() };
        let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        for (place, word) in (1..).zip(words) {
            let url: Url = word.parse().map_err(|_| EndpointsError::NoUrl(place))?;
            let urls = match url.scheme() {
                "http" | "https" => &mut endpoints.http,
                "ws" | "wss" => &mut endpoints.ws,
                _ => return Err(EndpointsError::OtherScheme(place)),
            };
            if url.host_str().is_none_or(str::is_empty) {
                return Err(EndpointsError::OtherScheme(place));
            }
            if urls.contains(&url) {
                return Err(EndpointsError::Repeated(place));
            }
            urls.push(url);
        }
        if endpoints.http.is_empty() { Err(EndpointsError::NoHttp) } else { Ok(endpoints) }
    }
}

impl From<Url> for Endpoints {
    /// One node, for data.
    fn from(url: Url) -> Self {
        Self { http: vec![url], ws: Vec::new() }
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints").field("http", &names(&self.http)).field("ws", &names(&self.ws)).finish()
    }
}

/// A name for each: its host, with the port where that is not the scheme's, and a number where a host is there more
/// than once. Never the path, the query or the password.
pub(super) fn names(urls: &[Url]) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    urls.iter()
        .map(|url| {
            let host = url.host_str().unwrap_or("?");
            let name = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
            let times = seen.entry(name.clone()).or_default();
            *times = times.saturating_add(1);
            if *times == 1 { name } else { format!("{name}#{times}") }
        })
        .collect()
}

/// The parts of a URL that a provider may repeat in its errors and nobody should read there.
pub(super) fn secrets(url: &Url) -> Vec<String> {
    const TOO_SHORT_FOR_A_KEY: usize = 8;
    let path = url.path_segments().into_iter().flatten().map(str::to_owned);
    let query = url.query_pairs().map(|(_, value)| value.into_owned());
    let user = [Some(url.username()), url.password()].into_iter().flatten().map(str::to_owned);
    path.chain(query).chain(user).filter(|part| part.len() >= TOO_SHORT_FOR_A_KEY).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_in_their_order_and_by_their_scheme() {
        let endpoints: Endpoints =
            " https://a.example/v2/k1,http://b.example:8545\n wss://a.example/v2/k1 ".parse().unwrap();
        assert_eq!(names(&endpoints.http), ["a.example", "b.example:8545"]);
        assert_eq!(names(&endpoints.ws), ["a.example"]);
    }

    #[test]
    fn a_fault_is_named_by_its_place_and_not_by_its_text() {
        for (text, error) in [
            ("", EndpointsError::NoHttp),
            ("wss://a.example", EndpointsError::NoHttp),
            ("https://a.example, hunter2", EndpointsError::NoUrl(2)),
            ("ftp://a.example", EndpointsError::OtherScheme(1)),
            ("https://a.example https://a.example", EndpointsError::Repeated(2)),
        ] {
            assert_eq!(text.parse::<Endpoints>(), Err(error), "{text}");
        }
    }

    #[test]
    fn keys_are_not_printed() {
        let endpoints: Endpoints =
            "https://user:hunter2pass@a.example/v2/hunter2key?apikey=hunter2query https://a.example/other"
                .parse()
                .unwrap();
        let printed = format!("{endpoints:?}");
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(printed.contains("a.example#2"), "{printed}");
        assert_eq!(secrets(&endpoints.http[0]), ["hunter2key", "hunter2query", "hunter2pass"]);
    }
}
