//! What the program says about its configuration, good or bad.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{run, write_certificate, write_secret};

#[test]
fn help_teaches_with_examples_and_exits_well() {
    let output = run(&["--help"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for expected in ["Examples:", "--enable-campfire --secrets-dir", "CAMPFIRE_TURN_LISTEN", "SIGHUP", "campfire key relay-secret"] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
}

#[test]
fn a_bad_configuration_ends_with_64_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    write_secret(&users, "alice:secret\n");
    let users = users.to_str().unwrap();
    let wrong_users = dir.path().join("wrong");
    write_secret(&wrong_users, "alice-without-password\n");
    let toml = dir.path().join("turn.toml");
    std::fs::write(&toml, "listen = \"0.0.0.0:1\"\n").unwrap();
    for (arguments, expected) in [
        (vec![], "--users-file"),
        (vec!["--enable-campfire"], "--secrets-dir"),
        (vec!["--listen-on", "x"], "--help"),
        (vec!["--users-file", "/does/not/exist"], "create it"),
        (vec!["--users-file", wrong_users.to_str().unwrap()], "NAME:PASSWORD"),
        (vec!["--users-file", users, "--listen", "tls://127.0.0.1:0"], "--tls-key"),
        (vec!["--users-file", users, "--tls-cert", users, "--tls-key", users], "--tls-cert"),
        (vec!["--users-file", users, "--log", "a=b=c"], "--log"),
        (vec!["--config", "/does/not/exist.toml"], "cannot read"),
        (vec!["--config", toml.to_str().unwrap()], "turn.toml is not a valid configuration"),
        (vec!["--users-file", users, "--secret", "topsecret"], "unexpected argument"),
    ] {
        let output = run(&arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
        assert!(!text.contains("without-password"), "{text}");
    }
}

#[test]
fn a_key_that_does_not_belong_to_the_certificate_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_certificate(one.path());
    write_certificate(other.path());
    let users = one.path().join("users");
    write_secret(&users, "alice:secret\n");
    let (cert, key) = (one.path().join("cert.pem"), other.path().join("key.pem"));
    let output = run(&["--users-file", users.to_str().unwrap(), "--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains("does not belong to the certificate"), "{text}");
}

#[test]
fn check_says_what_the_configuration_means_and_runs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write_secret(&dir.path().join("users"), "alice:secret\nbob:secret\n");
    std::fs::write(
        dir.path().join("turn.toml"),
        "users-file = \"users\"\nlisten = [\"192.0.2.1:3478\"]\nrelay-address = [\"192.0.2.1\"]\nrelay-ports = \"50000-50999\"\n",
    )
    .unwrap();
    let output = run(&["--config", dir.path().join("turn.toml").to_str().unwrap(), "--check", "--realm", "example.org"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("192.0.2.1:3478") && text.contains("2 users") && text.contains("example.org"), "{text}");
    assert!(text.contains("ports 50000-50999"), "{text}");
}

#[test]
fn environment_variables_are_taken_and_flags_win() {
    let dir = tempfile::tempdir().unwrap();
    write_secret(&dir.path().join("users"), "alice:secret\n");
    let mut command = common::program();
    command.env("CAMPFIRE_TURN_USERS_FILE", dir.path().join("users")).env("CAMPFIRE_TURN_REALM", "environment");
    command.env("CAMPFIRE_TURN_LISTEN", "udp://127.0.0.1:1,udp://127.0.0.1:2").args(["--check", "--realm", "flag"]);
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(text.contains("realm flag") && text.contains("127.0.0.1:1, 127.0.0.1:2"), "{text}");
}

#[test]
fn a_file_that_others_may_read_is_warned_about_and_refused_when_strict() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    write_secret(&users, "alice:secret\n");
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o644)).unwrap();
    let users = users.to_str().unwrap();
    let output = run(&["--users-file", users, "--check"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && text.contains("chmod 600"), "{text}");
    let output = run(&["--users-file", users, "--check", "--strict"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(64) && text.contains("chmod 600"), "{text}");
}

#[test]
fn a_port_that_is_taken_is_said_so_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    write_secret(&dir.path().join("users"), "alice:secret\n");
    let users = dir.path().join("users");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = format!("udp://{}", taken.local_addr().unwrap());
    let output = run(&["--users-file", users.to_str().unwrap(), "--listen", &listen]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("another program holds it"), "{text}");
}

#[test]
fn a_relay_address_of_another_machine_is_said_so_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    write_secret(&dir.path().join("users"), "alice:secret\n");
    let users = dir.path().join("users");
    let output = run(&["--users-file", users.to_str().unwrap(), "--listen", "127.0.0.1:0", "--relay-address", "203.0.113.7"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("--relay-external-address"), "{text}");
}
