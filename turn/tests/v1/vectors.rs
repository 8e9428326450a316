//! `vectors.json`: what nodes of version 1 derive and send, as the original's do. The scripted nodes agree with it, so that
//! what they show of the server counts.

use serde_json::Value;

use crate::node::{self, Side, fields, message, open, seal, sides};
use crate::world::{World, address};

#[test]
fn the_scripted_nodes_derive_what_the_originals_do() {
    for case in vectors()["derived"].as_array().unwrap() {
        let (psk, unix) = (text(case, "psk"), case["unix"].as_u64().unwrap());
        assert_eq!(node::hour(unix), text(case, "hour"));
        let [local, remote] = sides(&psk, unix);
        for (side, expected) in [(&local, &case["local"]), (&remote, &case["remote"])] {
            assert_eq!(hex::encode(&side.secret), text(expected, "secret"));
            assert_eq!((&side.ufrag, &side.pwd), (&text(expected, "ufrag"), &text(expected, "pwd")));
        }
        assert_eq!(u64::from(local.secret[0] % 3), case["server_of_3"].as_u64().unwrap());
    }
}

#[test]
fn the_scripted_nodes_send_what_the_originals_do() {
    for case in vectors()["messages"].as_array().unwrap() {
        let (psk, plain) = (text(case, "psk"), text(case, "plaintext"));
        let [own, other] = sides_of(case, &psk);
        let sealed = if plain.is_empty() { Vec::new() } else { seal(&psk, &plain) };
        let kind = case["type"].as_u64().unwrap() as u8;
        let bytes = message(kind, &text(case, "id"), &own, &other, &sealed);
        assert_eq!(hex::encode(&bytes), text(case, "bytes"), "{}", case["name"]);
        assert_eq!(fields(&bytes).get(&7).and_then(|data| open(&psk, data)).unwrap_or_default(), plain);
    }
}

#[test]
fn the_server_takes_all_of_these_and_passes_them_on_to_the_other_side() {
    let vectors = vectors();
    let messages = vectors["messages"].as_array().unwrap();
    let mut world = World::new();
    let (waiter, joiner) = (address(1), address(2));
    for case in messages {
        let bytes = bytes(case);
        let (from, to) = if text(case, "from") == "waiter" { (waiter, joiner) } else { (joiner, waiter) };
        let sent = world.sends(from, &bytes);
        let expected = if case["type"] == 1 { vec![] } else { vec![(to, bytes)] };
        assert_eq!(sent, expected, "{}", case["name"]);
    }
    let stats = world.server.stats();
    let understood = stats.v1_announces + stats.v1_offers + stats.v1_answers + stats.v1_candidates;
    assert_eq!((understood, stats.v1_forwarded), (messages.len() as u64, messages.len() as u64 - 4));
    assert_eq!((stats.v1_waiters, stats.v1_negotiations), (2, 2));
}

#[test]
fn the_server_takes_none_of_these() {
    for case in vectors()["refused"].as_array().unwrap() {
        let mut world = World::new();
        let announcement = vectors()["messages"].as_array().unwrap().iter().map(bytes).next().unwrap();
        world.sends(address(1), &announcement);
        assert!(world.sends(address(2), &bytes(case)).is_empty(), "{}", case["name"]);
        let stats = world.server.stats();
        assert_eq!((stats.v1_dropped_malformed, stats.v1_waiters, stats.v1_negotiations), (1, 1, 0), "{}", case["name"]);
    }
}

pub fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

pub fn bytes(case: &Value) -> Vec<u8> {
    hex::decode(text(case, "bytes")).unwrap()
}

fn text(case: &Value, name: &str) -> String {
    case[name].as_str().unwrap().to_owned()
}

/// The sender's side and the receiver's.
fn sides_of(case: &Value, psk: &str) -> [Side; 2] {
    let [waiter, joiner] = sides(psk, case["unix"].as_u64().unwrap());
    if text(case, "from") == "waiter" { [waiter, joiner] } else { [joiner, waiter] }
}
