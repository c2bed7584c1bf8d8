//! The OpenAPI document: what the handlers say of themselves, and what holds for all of them.

use serde_json::{Value, json};
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, License, OpenApi, Ref, RefOr, ResponseBuilder,
};
use utoipa::{PartialSchema as _, ToSchema as _};

use super::problem::Problem;
use crate::events::Event;

/// What the handlers say.
fn described() -> OpenApi {
    let (_, mut document) = super::routes().split_for_parts();
    document.info = InfoBuilder::new()
        .title("Weir")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Network functions as sandboxed WebAssembly components."))
        .license(Some(License::new("Apache-2.0")))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    // What the data of server-sent events is.
    components.schemas.insert(Event::name().into_owned(), Event::schema());
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("Needed on TCP; the Unix socket speaks for the administrator."))
        .build();
    components.add_security_scheme("token", SecurityScheme::Http(scheme));
    document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    for item in document.paths.paths.values_mut() {
        let changes = [&mut item.put, &mut item.post, &mut item.delete];
        for operation in changes.into_iter().flatten() {
            add_problems(operation, true);
        }
        if let Some(operation) = &mut item.get {
            add_problems(operation, false);
        }
    }
    document
}

/// The document as it is served: with what the types do not tell.
#[must_use]
pub fn document() -> Value {
    let mut document = serde_json::to_value(described()).expect("the document has text keys");
    let mut constrain = |schema: &str, rule: Value| {
        let pointer = format!("/components/schemas/{schema}");
        if let (Some(Value::Object(schema)), Value::Object(rule)) =
            (document.pointer_mut(&pointer), rule)
        {
            schema.extend(rule);
        }
    };
    let both = json!({"properties": {"canary": {"type": "integer"}, "shadow": {"const": true}}, "required": ["canary", "shadow"]});
    constrain("SwapRequest", json!({ "not": both }));
    let a_text = |key: &str| json!({"properties": {key: {"type": "string"}}, "required": [key]});
    let event = json!({"type": "string", "contentMediaType": "application/json", "contentSchema": {"$ref": "#/components/schemas/Event"}});
    constrain("ServerSentEvent/properties/data", event);
    let steered = json!({"properties": {"steered": {"const": true}}, "required": ["steered"]});
    let such = [a_text("to"), steered];
    let needs_from = such.map(|such| json!({"if": such, "then": a_text("from")}));
    // Chains for messages have neither ports nor workers, nor what only functions for packets have.
    let no = json!({"enum": [false, null]});
    let none = json!({"maxItems": 0});
    let of_messages = json!({
        "if": {"properties": {"plane": {"const": "message"}}, "required": ["plane"]},
        "then": {"properties": {
            "from": {"type": "null"}, "to": {"type": "null"}, "steered": {"const": false}, "workers": {"const": 1},
            "function": {"items": {"properties": {
                "targets": none, "per-worker": none, "flow-verdicts": no, "state-shared": no,
            }}},
        }},
    });
    // Those of both planes have a port, and both directions.
    let both = json!({
        "if": {"properties": {"plane": {"const": "both"}}, "required": ["plane"]},
        "then": {"properties": {"from": {"type": "string"}, "symmetric": {"const": true}}, "required": ["from"]},
    });
    let rules: Vec<Value> = needs_from.into_iter().chain([of_messages, both]).collect();
    constrain("Chain", json!({"allOf": rules}));
    constrain("SteeringRule", json!({"oneOf": [a_text("chain"), a_text("to")]}));
    document
}

/// The problems that an operation can end with, by what it takes.
fn add_problems(operation: &mut Operation, changes: bool) {
    // `security(())`: for everybody.
    let open = operation.security.is_some();
    let takes = |place: ParameterIn| {
        operation.parameters.iter().flatten().any(|parameter| match parameter {
            RefOr::T(parameter) => parameter.parameter_in == place,
            RefOr::Ref(_) => false,
        })
    };
    let (query, path) = (takes(ParameterIn::Query), takes(ParameterIn::Path));
    let body = operation.request_body.is_some();
    let conditions = takes(ParameterIn::Header) && changes;
    let streams = matches!(operation.operation_id.as_deref(), Some("events" | "tap_chain"));
    let mut add = |status: &str, description: &str| {
        let schema = Ref::from_schema_name(Problem::name());
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response = ResponseBuilder::new()
            .description(description)
            .content("application/problem+json", content)
            .build();
        operation.responses.responses.insert(status.to_owned(), RefOr::T(response));
    };
    if query || body {
        add("400", "The request's query or body cannot be read.");
    }
    if !open {
        add("401", "The token is missing or unknown.");
        add("403", "The token is not for this.");
        add("408", "The request took too long.");
        add("500", "A bug, or a broken disk.");
    }
    if path || query {
        add("404", "There is no such thing.");
    }
    if body {
        add("413", "The body is too large.");
        add("415", "The body has another type.");
    }
    if !open {
        let too_many = "The tenant has too many requests under way already";
        let of_streams = if streams { ", or there are too many such streams" } else { "" };
        add("429", &format!("{too_many}{of_streams}."));
    }
    if conditions {
        add("412", "It is not as `If-Match` or `If-None-Match` says.");
    }
    if changes {
        add("409", "It does not fit with what there is.");
        add("422", "What is asked for cannot be, or the data plane refuses it.");
        add("503", "The machine has no memory or threads for it, or the host stops.");
        add("507", "The store's disk is full.");
    }
}
