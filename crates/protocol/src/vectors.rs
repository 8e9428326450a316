//! The test vectors of `vectors/`: what another implementation must agree with byte for byte.
//!
//! They are checked by every test run and written anew by
//! `cargo test -p campfire-protocol --lib write_the_vectors -- --ignored`, which is right only together with a change of
//! docs/protocol.md: peers and servers in the field speak what the vectors said before.
#![allow(clippy::unwrap_used)]

mod certificates;
mod derivations;
mod messages;
mod texts;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::identity::Identity;
use crate::key::{Keys, Psk};

#[test]
fn the_code_agrees_with_the_vectors() {
    for (name, value) in all() {
        let written = std::fs::read_to_string(path(name)).unwrap();
        let written: Value = serde_json::from_str(&written).unwrap();
        assert_eq!(written, value, "{name} differs");
    }
}

#[test]
fn every_file_of_vectors_is_checked() {
    let mut found: Vec<String> = std::fs::read_dir(path("x").parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .collect();
    let mut known: Vec<&str> = all().into_iter().map(|(name, _)| name).collect();
    found.sort();
    known.sort_unstable();
    assert_eq!(found, known);
}

#[test]
#[ignore = "overwrites the vectors"]
fn write_the_vectors() {
    for (name, value) in all() {
        std::fs::write(path(name), serde_json::to_string_pretty(&value).unwrap() + "\n").unwrap();
    }
}

fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("keys", derivations::keys()),
        ("identities", derivations::identities()),
        ("credentials", derivations::credentials()),
        ("servers", texts::servers()),
        ("uris", texts::uris()),
        ("messages", messages::messages()),
        ("announcements", messages::announcements()),
        ("control", messages::control()),
        ("certificates", certificates::certificates()),
    ]
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(format!("{name}.json"))
}

/// 00 01 02 … as a key that nobody mistakes for a real one.
fn psk() -> Psk {
    Psk::from_bytes(std::array::from_fn(|index| index as u8))
}

fn psks() -> [Psk; 3] {
    [psk(), Psk::from_bytes([0; 32]), Psk::from_bytes([0xFF; 32])]
}

fn secret() -> Keys {
    psk().derive()
}

fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

fn hex(bytes: impl AsRef<[u8]>) -> Value {
    json!(hex::encode(bytes))
}
