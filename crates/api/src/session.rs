//! Sessions of end users: how tokens are made, hashed, carried and checked.
//!
//! A token comes as `Authorization: Bearer dues_st_…`, or in a cookie that scripts cannot read. Browsers attach the cookie by
//! themselves, also to requests that another site has them make. So, with the cookie, a request that may change something
//! has to come from our own origin, by what the browser says of it (`Origin`, or else `Sec-Fetch-Site`); pages cannot set
//! either. A request that says nothing of where it comes from is no browser's, and can send the token itself. Reading needs
//! no such check: without CORS, which is not offered, other sites cannot see the answer.

use std::fmt;

use axum::{
    extract::FromRequestParts,
    http::{
        HeaderMap, HeaderValue,
        header::{AUTHORIZATION, COOKIE, InvalidHeaderValue, ORIGIN},
        request::Parts,
    },
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use dues_domain::ids::{AccountId, SessionId};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::{
    AppState,
    problem::{Code, Problem},
    site::Site,
};

/// What every token begins with, so that a leaked one is recognised by people and by secret scanners.
const PREFIX: &str = "dues_st_";
/// The cookie over TLS: browsers take it from this very host only, not from a neighbour below the same domain.
const SECURE_COOKIE: &str = "__Host-dues_session";
/// The cookie without TLS, on this machine.
const PLAIN_COOKIE: &str = "dues_session";

/// A session's token: 256 random bits. It cannot be printed by accident.
#[derive(Debug)]
pub(crate) struct SessionToken(SecretString);

impl SessionToken {
    pub(crate) fn generate() -> Result<Self, Problem> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| Problem::internal(&error))?;
        Ok(Self(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)).into()))
    }

    /// What is stored of it. It has 256 bits of entropy, so a plain hash cannot be searched.
    pub(crate) fn hash(&self) -> [u8; 32] {
        hash(self.0.expose_secret())
    }

    /// The token itself, for its owner.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The header that has a browser keep it for `lifetime`.
    pub(crate) fn cookie(&self, site: &Site, lifetime: TimeDelta) -> Result<HeaderValue, InvalidHeaderValue> {
        cookie(site, self.expose(), lifetime.num_seconds())
    }
}

/// The header that has a browser forget its token.
pub(crate) fn no_cookie(site: &Site) -> Result<HeaderValue, InvalidHeaderValue> {
    cookie(site, "", 0)
}

fn cookie(site: &Site, value: &str, seconds: i64) -> Result<HeaderValue, InvalidHeaderValue> {
    let (name, secure) = if site.is_secure() { (SECURE_COOKIE, "; Secure") } else { (PLAIN_COOKIE, "") };
    let mut header = HeaderValue::from_str(&format!(
        "{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
    ))?;
    header.set_sensitive(true);
    Ok(header)
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// An end user who is signed in. As an extractor it comes first, so that nothing is read of a request that may not be made.
pub(crate) struct EndUser {
    session: SessionId,
    account: AccountId,
}

impl fmt::Debug for EndUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndUser").field("session", &self.session).finish_non_exhaustive()
    }
}

impl EndUser {
    /// Whom the session is of.
    pub(crate) const fn account(&self) -> AccountId {
        self.account
    }

    /// The session itself.
    pub(crate) const fn session(&self) -> SessionId {
        self.session
    }
}

impl FromRequestParts<AppState> for EndUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let (token, by_cookie) = match parts.headers.get(AUTHORIZATION) {
            // One that is wrong is not made good by a cookie.
            Some(value) => (bearer(value), false),
            None => (from_cookies(&parts.headers, &state.site), true),
        };
        let token = token.ok_or(Code::NoSession)?;
        if by_cookie && !parts.method.is_safe() {
            require_same_origin(&parts.headers, &state.site)?;
        }
        let found = state.store.session(&hash(token), state.clock.now()).await?;
        let session = found.ok_or(Code::NoSession)?;
        Ok(Self { session: session.id, account: session.account })
    }
}

/// Refuses what a browser does not say to come from our own origin.
pub(crate) fn require_same_origin(headers: &HeaderMap, site: &Site) -> Result<(), Problem> {
    let same = match (headers.get(ORIGIN), headers.get("sec-fetch-site")) {
        (Some(origin), _) => origin == site.origin(),
        (None, Some(from)) => from == "same-origin",
        (None, None) => false,
    };
    if same { Ok(()) } else { Err(Code::CrossSite.into()) }
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && looks_right(token)).then_some(token)
}

/// The token of our cookie. Where a browser sends several of that name, somebody has planted one: none counts.
fn from_cookies<'h>(headers: &'h HeaderMap, site: &Site) -> Option<&'h str> {
    let name = if site.is_secure() { SECURE_COOKIE } else { PLAIN_COOKIE };
    let mut ours = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, token)| token);
    let token = ours.next()?;
    (ours.next().is_none() && looks_right(token)).then_some(token)
}

/// Anything else is not even looked up.
fn looks_right(token: &str) -> bool {
    token.starts_with(PREFIX) && token.len() <= 100
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn headers(given: &[(&str, &str)]) -> HeaderMap {
        let parsed = given.iter().map(|(name, value)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
        });
        let mut headers = HeaderMap::new();
        for (name, value) in parsed {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn only_what_comes_from_our_own_origin_passes() {
        let site = Site::parse("https://billing.example.org").unwrap();
        let passes = |given: &[(&str, &str)]| require_same_origin(&headers(given), &site).is_ok();
        assert!(passes(&[("origin", "https://billing.example.org")]));
        assert!(passes(&[("sec-fetch-site", "same-origin")]));
        for foreign in [
            &[][..],
            &[("origin", "null")],
            &[("origin", "http://billing.example.org")],
            &[("origin", "https://billing.example.org:444")],
            &[("origin", "https://billing.example.org.evil.example")],
            &[("origin", "https://app.example.org"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "none")],
            &[("referer", "https://billing.example.org/")],
        ] {
            assert!(!passes(foreign), "{foreign:?}");
        }
    }

    #[test]
    fn a_cookie_is_out_of_reach_of_scripts_and_neighbours() {
        let token = SessionToken::generate().unwrap();
        let cookie = |url: &str| {
            let site = Site::parse(url).unwrap();
            let header = token.cookie(&site, TimeDelta::hours(1)).unwrap();
            assert!(header.is_sensitive());
            header.to_str().unwrap().to_owned()
        };
        let of_tls = cookie("https://billing.example.org");
        let rest = "; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure";
        assert_eq!(of_tls, format!("__Host-dues_session={}{rest}", token.expose()));
        assert!(!cookie("http://127.0.0.1:8080").contains("Secure"));
        assert!(!format!("{token:?}").contains(token.expose()));
    }

    #[test]
    fn a_cookie_among_others_is_found_and_of_two_none() {
        let site = Site::parse("https://billing.example.org").unwrap();
        let found = |given: &[(&str, &str)]| from_cookies(&headers(given), &site).map(ToOwned::to_owned);
        assert_eq!(found(&[("cookie", "a=b; __Host-dues_session=dues_st_x; c=d")]).unwrap(), "dues_st_x");
        for none in [
            &[("cookie", "dues_session=dues_st_x")][..],
            &[("cookie", "__Host-dues_session=other")],
            &[("cookie", "__Host-dues_session=dues_st_x; __Host-dues_session=dues_st_y")],
            &[("cookie", "__Host-dues_session=dues_st_x"), ("cookie", "__Host-dues_session=dues_st_y")],
            &[],
        ] {
            assert_eq!(found(none), None, "{none:?}");
        }
    }
}
