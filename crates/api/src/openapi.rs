//! The OpenAPI 3.1 document.

use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Dues",
        description = "Subscriptions that are paid on chain, and what they entitle to. \
                       `/v1` is for the platform's servers, with an API key as bearer token; \
                       `/api` is for its users, with a session. \
                       Errors are RFC 9457 problems with a stable `code`; instants are RFC 3339 in UTC; \
                       amounts are decimal strings beside their base units.",
        license(name = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "accounts", description = "The platform's users and their wallets"),
        (name = "sessions", description = "End users: signing in, and what they see"),
        (name = "plans", description = "What is sold"),
        (name = "entitlements", description = "What an account may do right now, and why"),
        (name = "usage", description = "Checking and counting what an account uses, within its quotas"),
        (name = "relay", description = "What payers signed, sent for them: they need no ether"),
        (name = "health", description = "For orchestrators and monitors"),
    ),
    modifiers(&ApiKeyScheme),
)]
struct Document;

struct ApiKeyScheme;

impl Modify for ApiKeyScheme {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("dues_sk_…")
            .description(Some(
                "An API key. Scopes: `accounts:read`, `accounts:write`, `entitlements:read`, \
                 `usage:read`, `usage:write`, `relay:write`, `sessions:write`.",
            ))
            .build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("api_key", SecurityScheme::Http(scheme));
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("dues_st_…")
            .description(Some(
                "A session of an end user. Browsers have it in a cookie instead (`__Host-dues_session`; `dues_session` \
                 where there is no TLS); then, whatever may change something must come from `server.public_url`.",
            ))
            .build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("session", SecurityScheme::Http(scheme));
    }
}

/// The document without its paths.
pub(crate) fn base() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// The whole document as pretty JSON: what is served at `/openapi.json` and committed as `docs/openapi.json`.
///
/// # Errors
/// Where the document cannot be written as JSON.
pub fn document() -> Result<String, serde_json::Error> {
    let (_, document) = crate::endpoints().split_for_parts();
    document.to_pretty_json().map(|json| json + "\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_document_is_the_one_that_is_served() {
        let committed = include_str!("../../../docs/openapi.json");
        let served = super::document().unwrap();
        assert!(
            committed == served,
            "docs/openapi.json is out of date: run `cargo run -p dues -- openapi > docs/openapi.json`"
        );
    }
}
