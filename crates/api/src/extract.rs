//! Extractors whose rejections are problems.

use alloy_primitives::Address;
use axum::{
    Json,
    extract::{
        DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, rejection::JsonRejection,
    },
    http::{
        header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING},
        request::Parts,
    },
};
use dues_domain::ids::{AccountId, RelayIntentId, ReservationId};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    endpoints::parse_reservation_id,
    problem::{Code, Problem},
};

/// A JSON object as a body. (serde would also take an array, field by field.)
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Json(value) =
            Json::<Value>::from_request(request, state).await.map_err(|rejection| match rejection {
                JsonRejection::JsonSyntaxError(_) => Code::InvalidJson,
                JsonRejection::MissingJsonContentType(_) => Code::UnsupportedMediaType,
                rejection if rejection.status() == Code::BodyTooLarge.http_status() => Code::BodyTooLarge,
                _ => Code::InvalidBody,
            })?;
        if !value.is_object() {
            return Err(Problem::new(Code::InvalidBody).with_detail("an object is needed"));
        }
        // serde's text names fields of what the caller sent, nothing of ours.
        T::deserialize(value)
            .map(Self)
            .map_err(|error| Problem::new(Code::InvalidBody).with_detail(error.to_string()))
    }
}

/// The same where it may be left out: no body at all, and no `Content-Type` of one.
#[derive(Debug)]
pub(crate) struct OptionalBody<T>(pub(crate) Option<T>);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for OptionalBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        // HTTP's own word for "nothing follows" (RFC 9112, section 6.3) is that there is neither of the two.
        let headers = request.headers();
        let length = headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
        if !length && !headers.contains_key(TRANSFER_ENCODING) && !headers.contains_key(CONTENT_TYPE) {
            return Ok(Self(None));
        }
        Body::from_request(request, state).await.map(|Body(body)| Self(Some(body)))
    }
}

/// A [`Body`] of many parts, which may be larger than others.
#[derive(Debug)]
pub(crate) struct LargeBody<T>(pub(crate) T);

/// The largest body of many parts.
pub(crate) const LARGE_BODY_LIMIT: usize = 1024 * 1024;

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for LargeBody<T> {
    type Rejection = Problem;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, Problem> {
        DefaultBodyLimit::max(LARGE_BODY_LIMIT).apply(&mut request);
        Body::from_request(request, state).await.map(|Body(body)| Self(body))
    }
}

/// The account id in the path.
#[derive(Debug)]
pub(crate) struct AccountPath(pub(crate) AccountId);

impl<S: Send + Sync> FromRequestParts<S> for AccountPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(id): Path<String> =
            Path::from_request_parts(parts, state).await.map_err(|_| Code::InvalidId)?;
        id.parse().map(Self).map_err(|_| Problem::new(Code::InvalidId))
    }
}

/// The account id and the wallet in the path.
#[derive(Debug)]
pub(crate) struct WalletPath(pub(crate) AccountId, pub(crate) Address);

impl<S: Send + Sync> FromRequestParts<S> for WalletPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path((id, wallet)): Path<(String, String)> =
            Path::from_request_parts(parts, state).await.map_err(|_| Code::InvalidId)?;
        let id = id.parse().map_err(|_| Problem::new(Code::InvalidId))?;
        Ok(Self(id, address(&wallet)?))
    }
}

/// The reservation id in the path, with the account that it names.
#[derive(Debug)]
pub(crate) struct ReservationPath(pub(crate) AccountId, pub(crate) ReservationId);

impl<S: Send + Sync> FromRequestParts<S> for ReservationPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(id): Path<String> =
            Path::from_request_parts(parts, state).await.map_err(|_| Code::InvalidId)?;
        parse_reservation_id(&id).map(|(account, id)| Self(account, id))
    }
}

/// The id of a signed intent in the path.
#[derive(Debug)]
pub(crate) struct RelayPath(pub(crate) RelayIntentId);

impl<S: Send + Sync> FromRequestParts<S> for RelayPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(id): Path<String> =
            Path::from_request_parts(parts, state).await.map_err(|_| Code::InvalidId)?;
        id.parse().map(Self).map_err(|_| Problem::new(Code::InvalidId))
    }
}

/// The query string.
#[derive(Debug)]
pub(crate) struct QueryString<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryString<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Query::from_request_parts(parts, state)
            .await
            .map(|Query(query)| Self(query))
            .map_err(|rejection| Problem::new(Code::InvalidQuery).with_detail(rejection.body_text()))
    }
}

/// An address as callers write it: `0x` and 40 hexadecimal digits. Mixed case must be a right EIP-55 checksum;
/// the zero address belongs to nobody.
pub(crate) fn address(text: &str) -> Result<Address, Problem> {
    let invalid = || Problem::new(Code::InvalidAddress);
    let digits = text.strip_prefix("0x").ok_or_else(invalid)?;
    let one_case =
        !digits.bytes().any(|b| b.is_ascii_uppercase()) || !digits.bytes().any(|b| b.is_ascii_lowercase());
    let address: Address = if one_case {
        text.parse().map_err(|_| invalid())?
    } else {
        Address::parse_checksummed(text, None)
            .map_err(|_| invalid().with_detail("the EIP-55 checksum is wrong"))?
    };
    if address.is_zero() { Err(invalid()) } else { Ok(address) }
}

/// A chain's id, as far as the document goes: the ledger's numbers have a sign.
pub(crate) fn chain_id(id: u64) -> Result<u64, Problem> {
    if i64::try_from(id).is_ok() {
        Ok(id)
    } else {
        Err(Problem::new(Code::InvalidBody).with_detail("chain_id is too large"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_in_one_case_or_with_its_checksum() {
        let checksummed = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
        let expected: Address = checksummed.parse().unwrap();
        for good in [checksummed, &checksummed.to_lowercase()] {
            assert_eq!(address(good).unwrap(), expected);
        }
        let wrong_checksum = "0x70997970c51812dc3A010C7d01b50e0d17dc79C8";
        let zero = format!("0x{}", "0".repeat(40));
        for bad in
            [wrong_checksum, &zero, "0x12", "", "70997970c51812dc3a010c7d01b50e0d17dc79c8", "0xzz", "0xé"]
        {
            assert!(address(bad).is_err(), "{bad:?}");
        }
    }
}
