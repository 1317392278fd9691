//! API keys: how they are made, hashed and checked.

use std::{fmt, marker::PhantomData};

use axum::{
    extract::FromRequestParts,
    http::{header::AUTHORIZATION, request::Parts},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use dues_domain::ids::ApiKeyId;
use dues_store::{Actor, Scope};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::{
    AppState, limits,
    problem::{Code, Problem},
};

/// What every key begins with, so that a leaked one is recognised by people and by secret scanners.
const PREFIX: &str = "dues_sk_";

/// So much of a key is kept readable: the prefix, and 24 bits of the 256.
const SHOWN: usize = PREFIX.len() + 4;

/// A key's secret: 256 random bits. Shown once, when it is made; it cannot be printed by accident.
#[derive(Debug)]
pub struct ApiKeySecret(SecretString);

impl ApiKeySecret {
    /// A new key.
    ///
    /// # Errors
    /// Where the operating system has no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)).into()))
    }

    /// What is stored of it. The key has 256 bits of entropy, so a plain hash cannot be searched.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        hash(self.0.expose_secret())
    }

    /// How it begins: enough to tell keys apart, and of no help in guessing the rest.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.0.expose_secret().get(..SHOWN).unwrap_or(PREFIX)
    }

    /// The key itself, for showing it to its owner.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// A scope as a type, so that a handler's signature says what it needs.
pub trait RequiredScope: Send + Sync {
    /// The scope.
    const SCOPE: Scope;
}

macro_rules! required_scope {
    ($($name:ident),*) => {$(
        /// The scope of this name.
        #[derive(Debug)]
        pub struct $name;
        impl RequiredScope for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )*};
}
required_scope!(
    AccountsRead,
    AccountsWrite,
    EntitlementsRead,
    UsageRead,
    UsageWrite,
    RelayWrite,
    SessionsWrite
);

/// A caller whose key has the scope `S`. As an extractor it comes first, so that nothing is read of a request
/// that may not be made.
pub struct Caller<S> {
    key: ApiKeyId,
    scope: PhantomData<S>,
}

impl<S> fmt::Debug for Caller<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("key", &self.key).finish()
    }
}

impl<S> Caller<S> {
    /// The caller, for the audit log.
    #[must_use]
    pub const fn actor(&self) -> Actor {
        Actor::ApiKey(self.key)
    }
}

impl<S: RequiredScope> FromRequestParts<AppState> for Caller<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let key = bearer(parts).ok_or(Code::Unauthenticated)?;
        let found = state.snapshot.authenticate(&hash(key), state.clock.now()).await?;
        let key = found.ok_or(Code::Unauthenticated)?;
        if let Some(limiter) = &state.rate_limiter {
            let (standing, taken) = limiter.take(key.id, Instant::now());
            if let Some(word) = parts.extensions.get::<limits::Word>() {
                word.leave(standing);
            }
            taken.map_err(|seconds| Problem::new(Code::RateLimited).retry_after(seconds))?;
        }
        if key.scopes.contains(&S::SCOPE) {
            Ok(Self { key: key.id, scope: PhantomData })
        } else {
            Err(Problem::new(Code::InsufficientScope).with_detail(format!("{} is needed", S::SCOPE)))
        }
    }
}

/// The key of `Authorization: Bearer …`, where it can be one: anything else is not even looked up.
fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && key.starts_with(PREFIX) && key.len() <= 100).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_long_recognisable_and_never_printed() {
        let (one, other) = (ApiKeySecret::generate().unwrap(), ApiKeySecret::generate().unwrap());
        assert!(one.expose().starts_with("dues_sk_") && one.expose().len() == PREFIX.len() + 43);
        assert_ne!(one.hash(), other.hash());
        assert!(!format!("{one:?}").contains(one.expose()));
    }
}
