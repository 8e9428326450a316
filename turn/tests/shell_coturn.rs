//! coturn's own tools against our server. They come with Debian's package `coturn`; without it the tests say so.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use std::process::Command;

use common::{Server, write_certificate, write_secret};

#[test]
fn turnutils_uclient_loses_nothing_over_udp_by_channels() {
    uclient(&[]);
}

#[test]
fn turnutils_uclient_loses_nothing_over_udp_by_indications() {
    uclient(&["-s"]);
}

#[test]
fn turnutils_uclient_loses_nothing_over_tcp_by_channels() {
    uclient(&["-t"]);
}

#[test]
fn turnutils_uclient_loses_nothing_over_tcp_by_indications() {
    uclient(&["-t", "-s"]);
}

#[test]
fn turnutils_uclient_loses_nothing_over_tls_by_channels() {
    uclient(&["-t", "-S"]);
}

#[test]
fn turnutils_uclient_loses_nothing_over_tls_by_indications() {
    uclient(&["-t", "-S", "-s"]);
}

/// Behind a one-to-one NAT that turns nothing round: what one client sends to another's relayed address is delivered inside.
#[test]
fn turnutils_uclient_loses_nothing_where_the_server_is_known_by_another_address() {
    uclient_with(&[], &["--relay-external-address", "203.0.113.77", "--allow-peer", "203.0.113.77/32"]);
}

#[test]
fn turnutils_stunclient_gets_its_address() {
    let Some(tool) = tool("turnutils_stunclient") else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path(), &[]);
    let output = Command::new(tool).args(["-p", &server.udp[0].port().to_string(), "127.0.0.1"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("UDP reflexive addr: 127.0.0.1:"), "{text}");
}

/// Four clients, each with an allocation, talk in pairs through it (`-y`).
fn uclient(arguments: &[&str]) {
    uclient_with(arguments, &[]);
}

fn uclient_with(arguments: &[&str], of_server: &[&str]) {
    let Some(tool) = tool("turnutils_uclient") else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path(), of_server);
    let port = match arguments {
        arguments if arguments.contains(&"-S") => server.tls[0].port(),
        arguments if arguments.contains(&"-t") => server.tcp[0].port(),
        _ => server.udp[0].port(),
    };
    let output = Command::new(tool)
        .args(["-u", "alice", "-w", "secret", "-p", &port.to_string()])
        .args(["-y", "-c", "-n", "100", "-m", "4", "-l", "700", "-z", "5"])
        .args(arguments)
        .arg("127.0.0.1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", server.log());
    assert!(text.contains("Total lost packets 0 (0.000000%)"), "{text}\n{}", server.log());
    assert!(text.contains("tot_recv_msgs=400"), "{text}");
    server.wait_for_metric("connections{transport=\"tcp\"}", 0);
}

fn server(dir: &std::path::Path, more: &[&str]) -> Server {
    write_certificate(dir);
    write_secret(&dir.join("users"), "alice:secret\n");
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (users, cert, key) = (path("users"), path("cert.pem"), path("key.pem"));
    let arguments = [
        "--users-file",
        &users,
        "--realm",
        "example.org",
        "--allow-peer",
        "127.0.0.0/8",
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--listen",
        "tls://127.0.0.1:0",
    ];
    Server::start(&[&arguments, more].concat())
}

fn tool(name: &str) -> Option<&str> {
    if Command::new(name).arg("-h").output().is_ok() {
        return Some(name);
    }
    println!("SKIPPED: {name} is not here; Debian's package coturn has it");
    None
}
