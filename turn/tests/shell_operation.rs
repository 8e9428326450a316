//! Secrets that change, health, metrics, and the end.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use std::time::{Duration, Instant};

use common::{Camper, Link, Server, bound_pair, channel_data, eventually, keys, next_channel_data, secret_line, write_secret};

#[test]
fn a_secret_put_into_the_directory_is_taken_without_a_restart_and_one_removed_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let server = campfire(dir.path(), &[]);
    let keys = keys(1);
    assert_eq!(server.metric("secrets{kind=\"campfire\"}"), 0);
    assert!(Camper::new(Link::udp(server.udp[0]), keys.clone()).camp().is_err());
    write_secret(&dir.path().join("blue"), &secret_line(&keys));
    server.wait_for_metric("secrets{kind=\"campfire\"}", 1);
    assert!(Camper::new(Link::udp(server.udp[0]), keys.clone()).camp().is_ok());
    std::fs::remove_file(dir.path().join("blue")).unwrap();
    server.wait_for_metric("secrets{kind=\"campfire\"}", 0);
    assert!(Camper::new(Link::udp(server.udp[0]), keys).camp().is_err());
    server.wait_for_metric("seats", 0);
}

#[test]
fn a_broken_secret_changes_nothing_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(1);
    write_secret(&dir.path().join("blue"), &secret_line(&keys));
    let mut server = campfire(dir.path(), &[]);
    write_secret(&dir.path().join("red"), "not a secret\n");
    server.signal("HUP");
    server.wait_for_log("not reloaded");
    assert!(server.metric("reloads_total{result=\"error\"}") >= 1);
    assert!(Camper::new(Link::udp(server.udp[0]), keys).camp().is_ok());
}

#[test]
fn no_key_is_ever_logged() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(3);
    write_secret(&dir.path().join("blue"), &secret_line(&keys));
    let users = tempfile::tempdir().unwrap();
    write_secret(&users.path().join("users"), "alice:correct-horse-battery\n");
    let users = users.path().join("users").to_str().unwrap().to_owned();
    let server = campfire(dir.path(), &["--users-file", &users, "--log", "trace"]);
    let (mut one, mut other) = bound_pair(Link::udp(server.udp[0]), Link::tcp(server.tcp[0]), &keys);
    one.link.send(&channel_data(0x4001, b"hello"));
    assert_eq!(next_channel_data(&mut other.link), (0x4002, b"hello".to_vec()));
    server.signal("HUP");
    server.wait_for_metric("reloads_total{result=\"ok\"}", 1);
    let log = server.log();
    assert!(log.contains("TRACE"), "{log}");
    assert!(!log.contains(keys.relay.text()) && !log.contains("correct-horse"), "{log}");
}

#[test]
fn health_and_metrics_are_served_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = campfire(dir.path(), &[]);
    assert_eq!(server.get("/healthz").0, 200);
    assert_eq!(server.get("/readyz").0, 200);
    assert_eq!(server.get("/").0, 404);
    let (status, text) = server.get("/metrics");
    assert_eq!(status, 200);
    for name in ["seats", "allocations", "udp_datagrams_total{direction=\"received\"}", "connections{transport=\"tcp\"}"] {
        assert!(text.contains(&format!("\ncampfire_turn_{name} ")), "{name} is missing in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn clients_that_take_all_descriptors_leave_some_to_probes_and_the_log_says_what_to_raise() {
    let dir = tempfile::tempdir().unwrap();
    write_secret(&dir.path().join("users"), "alice:secret\n");
    let users = dir.path().join("users").to_str().unwrap().to_owned();
    let mut server = Server::start_under(400, &["--users-file", &users, "--max-connections-per-source", "10000"]);
    server.wait_for_log("fewer open files are allowed than");
    let held: Vec<_> = (0..500).map(|_| std::net::TcpStream::connect(server.tcp[0]).unwrap()).collect();
    for _ in 0..5 {
        assert_eq!(server.get("/healthz").0, 200);
    }
    // 272 have a place; the rest is refused as it comes.
    eventually(|| (server.metric("connections_refused_total{reason=\"descriptors\"}") == 228).then_some(())).expect("refusals");
    assert_eq!(server.metric("connections{transport=\"tcp\"}"), 272);
    drop(held);
    server.wait_for_metric("connections{transport=\"tcp\"}", 0);
    assert!(!server.log().contains("cannot accept"), "{}", server.log());
}

#[test]
fn silent_connections_keep_no_probe_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = campfire(dir.path(), &[]);
    let _silent: Vec<_> = (0..200).map(|_| std::net::TcpStream::connect(server.http.unwrap()).unwrap()).collect();
    for _ in 0..5 {
        assert_eq!(server.get("/healthz").0, 200);
    }
    assert!(server.metric("http_connections_closed_total{reason=\"silent\"}") >= 136);
}

#[test]
fn sigterm_drains_until_the_last_member_has_left() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(1);
    write_secret(&dir.path().join("blue"), &secret_line(&keys));
    let mut server = campfire(dir.path(), &["--drain-timeout", "1h"]);
    let (mut one, mut other) = bound_pair(Link::udp(server.udp[0]), Link::udp(server.udp[0]), &keys);
    server.signal("TERM");
    server.wait_for_log("draining");
    assert_eq!(server.get("/readyz").0, 503);
    assert_eq!(server.get("/healthz").0, 200);
    assert!(Camper::new(Link::udp(server.udp[0]), keys.clone()).camp().is_err(), "no newcomers");
    one.link.send(&channel_data(0x4001, b"still here"));
    assert_eq!(next_channel_data(&mut other.link).1, b"still here");
    assert!(one.camp().unwrap().leaving, "members are told to move");
    assert!(server.runs());
    one.leave();
    other.leave();
    assert!(server.ended().success());
}

#[test]
fn the_drain_ends_at_its_timeout_or_at_the_second_signal() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(1);
    write_secret(&dir.path().join("blue"), &secret_line(&keys));
    let mut server = campfire(dir.path(), &["--drain-timeout", "300ms"]);
    Camper::new(Link::udp(server.udp[0]), keys.clone()).camp().unwrap();
    let asked = Instant::now();
    server.signal("TERM");
    assert!(server.ended().success());
    assert!(asked.elapsed() >= Duration::from_millis(300));

    let mut server = campfire(dir.path(), &["--drain-timeout", "1h"]);
    Camper::new(Link::udp(server.udp[0]), keys).camp().unwrap();
    server.signal("TERM");
    server.wait_for_log("draining");
    assert!(server.runs());
    server.signal("TERM");
    assert!(server.ended().success());
}

#[test]
fn a_drain_does_not_wait_for_members_that_have_nowhere_to_go() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(1);
    write_secret(&dir.path().join("blue"), &secret_line(&keys));
    let mut server = campfire(dir.path(), &["--drain-timeout", "1h"]);
    let mut leaves = Camper::new(Link::udp(server.udp[0]), keys.clone());
    leaves.camp().unwrap();
    let mut stays = Camper::new(Link::udp(server.udp[0]), keys);
    stays.camp().unwrap();
    server.signal("TERM");
    server.wait_for_log("draining");
    std::thread::sleep(Duration::from_secs(2));
    leaves.leave();
    std::thread::sleep(Duration::from_secs(9));
    assert!(server.runs(), "the last that left began the wait anew");
    assert!(server.ended().success());
    server.wait_for_log("who is left has nowhere to go");
}

fn campfire(dir: &std::path::Path, arguments: &[&str]) -> Server {
    let all = ["--enable-campfire", "--secrets-dir", dir.to_str().unwrap()];
    Server::start(&[&all, arguments].concat())
}
