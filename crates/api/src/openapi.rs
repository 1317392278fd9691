//! The OpenAPI 3.1 document.

use std::collections::BTreeMap;

use utoipa::{
    Modify, OpenApi,
    openapi::{
        RefOr, Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{Object, ObjectBuilder, Schema, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
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

/// The document with its paths, as it is served.
pub(crate) fn finished(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    join_tags(&mut document);
    for item in document.paths.paths.values_mut() {
        if let Some(operation) = &mut item.post {
            operation.parameters.get_or_insert_default().push(RefOr::T(idempotency_key()));
        }
    }
    document
}

/// The header that every POST takes, and none needs.
fn idempotency_key() -> Parameter {
    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[!-~]{1,255}$"));
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "1 to 255 visible ASCII characters. Taken, and not needed: every request may be repeated, as what it names \
             makes it the same one.",
        ))
        .schema(Some(text))
        .build()
}

/// A choice by a tag comes as "all of the variant's members, and the tag". But each variant says as well that it has no
/// other members than its own, so that nothing would fit. The two become one object.
fn join_tags(document: &mut utoipa::openapi::OpenApi) {
    let Some(components) = &mut document.components else { return };
    let schemas = components.schemas.clone();
    let mut joined_names = Vec::new();
    for schema in components.schemas.values_mut() {
        let RefOr::T(Schema::OneOf(choice)) = schema else { continue };
        for variant in &mut choice.items {
            let RefOr::T(Schema::AllOf(parts)) = variant else { continue };
            let objects: Option<Vec<&Object>> =
                parts.items.iter().map(|part| object(part, &schemas)).collect();
            let Some(objects) = objects else { continue };
            let mut joined = Object::new();
            joined.description.clone_from(&parts.description);
            for object in objects {
                joined.required.extend(object.required.iter().cloned());
                joined.properties.extend(object.properties.clone());
                joined.additional_properties =
                    joined.additional_properties.or(object.additional_properties.clone());
            }
            joined_names.extend(parts.items.iter().filter_map(referred).map(ToOwned::to_owned));
            *variant = RefOr::T(Schema::Object(joined));
        }
    }
    // Nothing else refers to a variant's struct.
    components.schemas.retain(|name, _| !joined_names.contains(name));
}

/// The name of the schema that `part` stands for.
fn referred(part: &RefOr<Schema>) -> Option<&str> {
    match part {
        RefOr::Ref(reference) => reference.ref_location.rsplit('/').next(),
        RefOr::T(_) => None,
    }
}

fn object<'s>(part: &'s RefOr<Schema>, schemas: &'s BTreeMap<String, RefOr<Schema>>) -> Option<&'s Object> {
    let part = match referred(part) {
        Some(name) => schemas.get(name)?,
        None => part,
    };
    if let RefOr::T(Schema::Object(object)) = part { Some(object) } else { None }
}

/// The whole document as pretty JSON: what is served at `/openapi.json` and committed as `docs/openapi.json`.
///
/// # Errors
/// Where the document cannot be written as JSON.
pub fn document() -> Result<String, serde_json::Error> {
    let (_, document) = crate::endpoints().split_for_parts();
    finished(document).to_pretty_json().map(|json| json + "\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    fn visit<'v>(value: &'v Value, each: &mut impl FnMut(&'v Value)) {
        each(value);
        match value {
            Value::Array(parts) => parts.iter().for_each(|part| visit(part, each)),
            Value::Object(members) => members.values().for_each(|member| visit(member, each)),
            _ => {}
        }
    }

    #[test]
    fn every_schema_is_there_used_and_can_be_fulfilled() {
        let document: Value = serde_json::from_str(&super::document().unwrap()).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let (mut used, mut closed_parts) = (BTreeSet::new(), Vec::new());
        visit(&document, &mut |value| {
            if let Some(reference) = value["$ref"].as_str() {
                used.insert(reference.rsplit('/').next().unwrap().to_owned());
            }
            for part in value["allOf"].as_array().into_iter().flatten() {
                let name = part["$ref"].as_str().map_or("", |name| name.rsplit('/').next().unwrap());
                if part["additionalProperties"] == false
                    || schemas.get(name).is_some_and(|schema| schema["additionalProperties"] == false)
                {
                    closed_parts.push(part);
                }
            }
        });
        assert_eq!(used, schemas.keys().cloned().collect());
        assert!(closed_parts.is_empty(), "beside these nothing else may be there: {closed_parts:?}");
    }

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
