//! `campfire netcheck` behind real NATs and firewalls, in network namespaces. Needs root; says so where it has to skip.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use campfire_lab::peer::{Certificate, Keys, PeerOptions, binary};
use campfire_lab::{Host, Nat, Peer, TurnServer, World};
use serde_json::Value;

#[test]
fn each_server_is_tried_by_each_transport_and_what_the_nat_does_is_told() {
    if campfire_lab::net::skipped() {
        return;
    }
    if let Err(why) = binary("campfire-turn") {
        println!("SKIPPED: {why}");
        return;
    }
    let mut world = World::new("netcheck").unwrap();
    let keys = Keys::make(world.state()).unwrap();
    let certificate = certificate(&world);
    let hosts = ["oak", "elm"].map(|name| world.server(name).unwrap());
    // Both by UDP, TCP and TLS.
    let servers: Vec<String> = hosts.iter().flat_map(|host| ["turn", "turns"].map(|scheme| named(host, scheme))).collect();
    let _turns = hosts.map(|host| TurnServer::start_with(host, &keys.secrets, Some(certificate.clone())).unwrap());
    let options = PeerOptions { servers: servers.clone(), ..PeerOptions::default() };
    let given: Vec<&str> = servers.iter().flat_map(|server| ["--server", server]).collect();

    let worlds = [
        ("cone", Nat::PortRestricted, Some("EndpointIndependent"), true),
        ("symm", Nat::Symmetric, Some("EndpointDependent"), true),
        ("open", Nat::Open, Some("None"), true),
        ("noudp", Nat::UdpBlocked, None, false),
        ("https", Nat::OnlyTcp443, None, false),
    ];
    let places = worlds.map(|(name, nat, ..)| {
        let mut gateway = world.gateway(&format!("{name}gw"), nat, false).unwrap();
        (gateway.ipv4.unwrap().to_string(), world.host(&mut gateway, name).unwrap())
    });
    let given = &given;
    std::thread::scope(|scope| {
        for ((name, nat, kind, udp), (outside, host)) in worlds.iter().zip(&places) {
            scope.spawn(move || {
                let begun = Instant::now();
                let found = json(host, given);
                assert!(begun.elapsed() < Duration::from_secs(5), "{name} took {:?}", begun.elapsed());
                for server in found["servers"].as_array().unwrap() {
                    let by = server["by"].as_array().unwrap().iter().map(|it| (it["transport"].as_str().unwrap(), answers(it)));
                    let expected = [("udp", *udp), ("tcp", *nat != Nat::OnlyTcp443), ("tls", true)];
                    assert_eq!(by.collect::<Vec<_>>(), expected, "{name}: {found:#}");
                }
                let first = &found["servers"][0]["by"][0];
                assert_eq!(found["ipv4"]["nat"].as_str(), *kind, "{name}: {found:#}");
                assert!(!udp || *nat == Nat::Open || first["mapped"].as_str().unwrap().starts_with(outside), "{found:#}");
                assert!(*udp || first["problem"] == "no answer within 3 s", "{found:#}");
            });
        }
    });

    // A running peer is asked for the same, and knows its servers itself.
    let [.., (_, blocked), _] = places;
    let peer = Peer::start(blocked, &keys.psk, &options).unwrap();
    let text = text(&peer.host);
    assert!(text.contains("UDP gets out:    no: servers answer by TCP or TLS alone") && text.contains("no answer within 3 s"), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("  yes  ")).count(), 4, "two servers by TCP and TLS: {text}");
    assert!(!text.contains(fs::read_to_string(&keys.psk).unwrap().trim()), "no key is in it");

    // Nobody is there: it says so, and ends with 1.
    let mut gateway = world.gateway("lonegw", Nat::Masquerade, false).unwrap();
    let host = world.host(&mut gateway, "lone").unwrap();
    let output = netcheck(&host, &["--server", "turn:198.51.100.77", "--server", "turn:nowhere.invalid?transport=udp"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not known: no server answers by anything") && said.contains("the name nowhere.invalid is not found"), "{said}");
    let output = netcheck(&host, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("no campfire runs here"), "{said}");
}

fn named(host: &Host, scheme: &str) -> String {
    let port = if scheme == "turns" { 443 } else { 3478 };
    format!("{}={scheme}:{}:{port}", host.name, host.ipv4.unwrap())
}

fn answers(outcome: &Value) -> bool {
    outcome["problem"].is_null() && outcome["rtt_ms"].is_f64() && outcome["mapped"].is_string()
}

fn netcheck(host: &Host, arguments: &[&str]) -> Command {
    let mut command = host.command(env!("CARGO_BIN_EXE_campfire"));
    command.arg("netcheck").args(arguments).stdin(Stdio::null());
    command
}

fn json(host: &Host, arguments: &[&str]) -> Value {
    let output = netcheck(host, arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a peer that runs there says, once it listens.
fn text(host: &Host) -> String {
    let begun = Instant::now();
    loop {
        let output = netcheck(host, &[]).output().unwrap();
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", String::from_utf8_lossy(&output.stderr));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What the servers show over TLS, which nobody pins here.
fn certificate(world: &World) -> Certificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = rcgen::CertificateParams::new(vec!["turn.example".into()]).unwrap().self_signed(&key).unwrap().pem();
    let files = ["turn.crt", "turn.key"].map(|name| world.state().join(name));
    for (file, text) in files.iter().zip([chain, key.serialize_pem()]) {
        let mut opened = fs::File::options().write(true).create_new(true).mode(0o600).open(file).unwrap();
        std::io::Write::write_all(&mut opened, text.as_bytes()).unwrap();
    }
    let [chain, key] = files;
    Certificate { chain, key }
}
