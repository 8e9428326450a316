//! Specs that the API server refuses, each with the message that it answers, and neighbours that it takes: `validation.yaml`.

#![allow(clippy::unwrap_used)]

mod control_plane;

use std::collections::BTreeSet;

use campfire_api::names::{GROUP, VERSION};
use campfire_api::{Campfire, MeshPeer};
use control_plane::{ControlPlane, define};
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};

/// A row of the table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    kind: String,
    #[serde(default = "fire")]
    name: String,
    /// What is changed to `spec`.
    from: Option<Value>,
    spec: Value,
    /// What the API server answers; left out: it takes the spec.
    #[serde(default)]
    refused: String,
}

fn fire() -> String {
    "fire".into()
}

fn table() -> Vec<Row> {
    serde_yaml::from_str(include_str!("validation.yaml")).unwrap()
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_what_to_change_and_its_neighbours_are_taken() {
    let Some(server) = Server::start().await else { return };
    let table = table();
    let mut wrong = Vec::new();
    for row in &table {
        let answer = match &row.from {
            None => server.create(row).await,
            Some(from) => server.change(row, from).await,
        };
        if answer != row.refused {
            wrong.push(format!("{} {} {}\n  expected {:?}\n  found    {answer:?}", row.kind, row.name, row.spec, row.refused));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), table.len(), wrong.join("\n"));
}

#[test]
fn every_rule_of_the_definitions_is_broken_by_a_row_of_the_table() {
    let refused: Vec<String> = table().into_iter().map(|row| row.refused).collect();
    let mut messages = BTreeSet::new();
    for definition in campfire_api::definitions() {
        rules(&serde_json::to_value(definition).unwrap(), &mut messages);
    }
    assert!(messages.len() > 20, "{messages:?}");
    for message in messages {
        assert!(refused.iter().any(|refused| refused.contains(&message)), "no row breaks the rule: {message}");
    }
}

/// Messages of all rules in a schema.
fn rules(schema: &Value, messages: &mut BTreeSet<String>) {
    let children: Vec<&Value> = match schema {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => return,
    };
    let own = schema.get("x-kubernetes-validations").and_then(Value::as_array);
    messages.extend(own.into_iter().flatten().map(|rule| rule["message"].as_str().unwrap().to_owned()));
    for child in children {
        rules(child, messages);
    }
}

/// A control plane with the definitions.
struct Server {
    client: Client,
    _plane: ControlPlane,
}

impl Server {
    async fn start() -> Option<Self> {
        let plane = ControlPlane::start().await?;
        let client = plane.client.clone();
        define(&client).await;
        Some(Self { client, _plane: plane })
    }

    /// What it says to an object that `kubectl create` brings, or nothing; it is not kept.
    async fn create(&self, row: &Row) -> String {
        let path = format!("{}?dryRun=All&fieldValidation=Strict", path(&row.kind));
        self.answer(row, "POST", &path, &object(row, &row.spec)).await
    }

    /// What it says to a change, or nothing.
    async fn change(&self, row: &Row, from: &Value) -> String {
        let path = path(&row.kind);
        let before = self.send("POST", &path, &object(row, from)).await.unwrap();
        let mut after = object(row, &row.spec);
        after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
        let own = format!("{path}/{}", row.name);
        let answer = self.answer(row, "PUT", &format!("{own}?fieldValidation=Strict"), &after).await;
        self.send("DELETE", &own, &json!({})).await.unwrap();
        answer
    }

    async fn answer(&self, row: &Row, method: &str, path: &str, object: &Value) -> String {
        match self.send(method, path, object).await {
            // Without the words that name the object.
            Err(message) => message.split_once(" is invalid: ").map_or(message.as_str(), |(_, rest)| rest).to_owned(),
            Ok(made) => unreadable(&row.kind, made),
        }
    }

    async fn send(&self, method: &str, path: &str, object: &Value) -> Result<Value, String> {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        match self.client.request(request.body(object.to_string().into_bytes()).unwrap()).await {
            Ok(made) => Ok(made),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }
}

fn object(row: &Row, spec: &Value) -> Value {
    json!({ "apiVersion": format!("{GROUP}/{VERSION}"), "kind": row.kind, "metadata": { "name": row.name }, "spec": spec })
}

fn path(kind: &str) -> String {
    format!("/apis/{GROUP}/{VERSION}/namespaces/default/{}s", kind.to_lowercase())
}

/// What the API server took the operator must be able to read: one object that it cannot read would hide all others.
fn unreadable(kind: &str, made: Value) -> String {
    let read = if kind == "Campfire" {
        serde_json::from_value::<Campfire>(made).map(drop)
    } else {
        serde_json::from_value::<MeshPeer>(made).map(drop)
    };
    read.map_or_else(|error| format!("taken, and cannot be read: {error}"), |()| String::new())
}
