//! docs/api.md: every field of the resources, from their definitions.

use std::fmt::Write as _;

use campfire_api::conditions::{CAMPFIRE, MESH_PEER, Meaning, NOT_DIRECT};
use campfire_api::names::{GROUP, VERSION};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

const HEAD: &str = "# API reference

Written by `make crds` from the types in [operator/api](../operator/api); a test fails when it differs. How to use it, and what to do about
each reason: [kubernetes.md](kubernetes.md). `kubectl explain campfire.spec` and `kubectl explain meshpeer.spec` say the same.

";

/// The document.
pub fn document(campfire: &CustomResourceDefinition, peer: &CustomResourceDefinition) -> String {
    let mut text = HEAD.to_owned();
    resource(&mut text, campfire, CAMPFIRE);
    resource(&mut text, peer, MESH_PEER);
    text.push_str("### Why a path is not direct\n\n| `status.reason` | what it means |\n| --- | --- |\n");
    for (reason, means) in NOT_DIRECT {
        let _ = writeln!(text, "| `{reason}` | {means} |");
    }
    text
}

fn resource(text: &mut String, definition: &CustomResourceDefinition, reasons: &[Meaning]) {
    let names = &definition.spec.names;
    let version = serde_json::to_value(&definition.spec.versions[0]).unwrap_or_default();
    let schema = &version["schema"]["openAPIV3Schema"];
    let _ = writeln!(text, "## {}\n\n{}\n", names.kind, description(schema));
    let short = names.short_names.iter().flatten().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let categories = names.categories.iter().flatten().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let _ = writeln!(text, "`apiVersion: {GROUP}/{VERSION}`, namespaced; `{}`, short {short}, category {categories}.\n", names.plural);
    let columns: Vec<&Value> = version["additionalPrinterColumns"].as_array().into_iter().flatten().collect();
    let shown = |wide: bool| {
        let of = columns.iter().filter(|column| column.get("priority").is_some() == wide);
        of.filter_map(|column| column["name"].as_str()).collect::<Vec<_>>().join(", ")
    };
    let _ = writeln!(text, "Columns of `kubectl get`: {}; with `-o wide` also {}.\n", shown(false), shown(true));
    list(text, schema);
    for part in ["spec", "status"] {
        let own = &schema["properties"][part];
        let _ = writeln!(text, "### {}.{part}\n\n{}\n", names.kind, description(own));
        list(text, own);
        text.push_str("| field | type | default | what it means |\n| --- | --- | --- | --- |\n");
        fields(text, "", own);
        text.push('\n');
    }
    let _ =
        writeln!(text, "### Conditions of a {}\n\n| condition | status | reason | what it means |\n| --- | --- | --- | --- |", names.kind);
    for Meaning { condition, reason, means } in reasons {
        let _ = writeln!(text, "| `{condition}` | {} | `{reason}` | {means} |", reason.status());
    }
    text.push('\n');
}

/// Rules of the whole.
fn list(text: &mut String, schema: &Value) {
    let rules = rules(schema);
    if rules.is_empty() {
        return;
    }
    text.push_str("What the API server refuses, it refuses with these words:\n\n");
    for message in rules {
        let _ = writeln!(text, "- {message}");
    }
    text.push('\n');
}

/// A row for each field, and for those within it.
fn fields(text: &mut String, path: &str, schema: &Value) {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}{name}");
        let default = match field.get("default") {
            _ if required.contains(&name.as_str()) => "required".into(),
            Some(Value::Object(_)) | None => String::new(),
            Some(default) => format!("`{}`", default.to_string().replace('"', "")),
        };
        let mut meaning = description(field);
        for message in rules(field).into_iter().chain(rules(&field["items"])).chain(rules(&field["additionalProperties"])) {
            let _ = write!(meaning, "<br>Else refused: {message}.");
        }
        let _ = writeln!(text, "| `{path}` | {} | {default} | {meaning} |", kind(name, field));
        if !foreign(name) {
            fields(text, &format!("{path}."), field);
            fields(text, &format!("{path}[]."), &field["items"]);
        }
    }
}

/// Types of Kubernetes' own, which are explained elsewhere.
fn foreign(name: &str) -> bool {
    matches!(name, "conditions" | "selector")
}

fn kind(name: &str, schema: &Value) -> String {
    if foreign(name) {
        return if name == "selector" { "LabelSelector".into() } else { "list of Condition".into() };
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    }
    let number = |key: &str| schema[key].as_f64().map(|number| number.to_string());
    match schema["type"].as_str() {
        Some("array") => {
            let kind = if schema["x-kubernetes-list-type"] == "set" { "set" } else { "list" };
            let bounds = match (number("minItems"), number("maxItems")) {
                (Some(least), Some(most)) => format!(" of {least} to {most}"),
                (None, Some(most)) => format!(" of at most {most}"),
                _ => String::new(),
            };
            let items =
                if schema["items"]["properties"].is_object() { String::new() } else { format!(": {}", self::kind("", &schema["items"])) };
            format!("{kind}{bounds}{items}")
        }
        Some("object") if schema["additionalProperties"].is_object() => {
            let most = number("maxProperties").map(|most| format!(" of at most {most}")).unwrap_or_default();
            let of = if schema["additionalProperties"]["x-kubernetes-int-or-string"] == true { "amount" } else { "string" };
            format!("map{most}: {of}")
        }
        Some("integer") => match (number("minimum"), number("maximum")) {
            (Some(least), Some(most)) => format!("integer, {least} to {most}"),
            _ => "integer".into(),
        },
        Some("string") => {
            let most = number("maxLength").map(|most| format!(", at most {most} bytes")).unwrap_or_default();
            format!("string{most}")
        }
        other => other.unwrap_or("any").into(),
    }
}

/// In one line, as it stands in a table.
fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn rules(schema: &Value) -> Vec<String> {
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    rules
        .map(|rule| {
            let field = rule["fieldPath"].as_str().map(|path| format!("`{}`: ", path.trim_start_matches('.'))).unwrap_or_default();
            format!("{field}{}", rule["message"].as_str().unwrap_or_default())
        })
        .collect()
}
