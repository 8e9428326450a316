//! Server texts and `camp://` URIs.
#![allow(clippy::unwrap_used, missing_docs)]

use campfire_protocol::key::Psk;
use campfire_protocol::server::{Server, Transport, merge};
use campfire_protocol::uri::CampUri;

#[test]
fn server_texts_say_which_transports_are_tried() {
    use Transport::{Tcp, Tls, Udp};
    for (text, id, addresses) in [
        ("Turn.Example.com", "turn.example.com:3478", vec![(Udp, 3478), (Tcp, 3478), (Tls, 5349)]),
        ("192.0.2.1:443", "192.0.2.1:443", vec![(Udp, 443), (Tcp, 443)]),
        ("[2001:DB8:0::1]", "[2001:db8::1]:3478", vec![(Udp, 3478), (Tcp, 3478), (Tls, 5349)]),
        ("turn:host", "host:3478", vec![(Udp, 3478), (Tcp, 3478)]),
        ("TURN:host:1?transport=udp", "host:1", vec![(Udp, 1)]),
        ("turn:host?transport=tcp", "host:3478", vec![(Tcp, 3478)]),
        ("turns:host", "host:3478", vec![(Tls, 5349)]),
        ("turns:host:443?transport=tcp", "host:443", vec![(Tls, 443)]),
        ("turns:host:3478", "host:3478", vec![(Tls, 3478)]),
        ("a=turn:[::1]:9", "a", vec![(Udp, 9), (Tcp, 9)]),
        (" b=host ", "b", vec![(Udp, 3478), (Tcp, 3478), (Tls, 5349)]),
    ] {
        let server: Server = text.parse().unwrap();
        assert_eq!(server.id.as_str(), id, "{text}");
        assert_eq!(server.addresses.iter().map(|a| (a.transport, a.port)).collect::<Vec<_>>(), addresses, "{text}");
    }
}

#[test]
fn one_server_may_be_written_in_two_texts() {
    let merged = merge(["turn:host".parse().unwrap(), "turns:host".parse().unwrap(), "turn:host".parse::<Server>().unwrap()]);
    assert_eq!(merged, ["host".parse::<Server>().unwrap()]);
}

#[test]
fn what_is_no_server_is_refused_without_an_echo() {
    let key = "sEcReT".repeat(7);
    for text in [
        "",
        "=",
        "=host",
        "a b=host",
        "host:",
        "host:0",
        "host:65536",
        "host:+1",
        "::1",
        "[::1",
        "[::1]x",
        "[host]",
        "ho st",
        "1.2.3",
        "a..b",
        "turn:",
        "turns:",
        "turn:host?transport=tls",
        "turns:host?transport=udp",
        "host?transport=udp",
        "host?x=y",
        "host?cert=abc",
        "stun:host",
        &format!("{key}:{key}"),
        &format!("host?{key}"),
        &format!("{}:x", "h".repeat(64)),
    ] {
        let error = text.parse::<Server>().unwrap_err();
        assert!(!error.to_string().contains("sEcReT"), "{error}");
    }
}

#[test]
fn a_uri_survives() {
    let psk = Psk::from_bytes([7; 32]).to_text();
    let pin = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
    for text in [
        format!("camp://turn.example.com#{}", *psk),
        format!("camp://a/b:99/c=[2001:db8::1]?net=0011223344#{}", *psk),
        format!("camp://a/b:443?transport=tcp,tls#{}", *psk),
        format!("camp://a?net=0011223344&transport=udp&cert={pin}#{}", *psk),
        format!("camp://a/b?cert=,{pin}#{}", *psk),
    ] {
        let uri: CampUri = text.parse().unwrap();
        assert!(!uri.version1);
        assert_eq!(*uri.to_text(), text);
        assert!(!format!("{uri:?}").contains(&**psk));
    }
}

#[test]
fn a_version_1_uri_gives_its_32_characters_as_the_key() {
    let uri: CampUri = "camp://turn.example.com:3478/?fingerprint=x#0123456789abcdef0123456789abcd%25%20".parse().unwrap();
    assert!(uri.version1);
    assert_eq!(uri.psk, Psk::from_bytes(*b"0123456789abcdef0123456789abcd% "));
    assert!("camp://host#0123456789abcdef".parse::<CampUri>().is_err());
}
