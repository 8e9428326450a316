//! What nets leave behind: nothing, also when they were killed, and never anything of others.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use campfire_lab::{Net, Process};

#[test]
fn nets_of_one_name_stand_side_by_side_and_each_removes_its_own() {
    if campfire_lab::net::skipped() {
        return;
    }
    let (one, other) = (Net::new("twins").unwrap(), Net::new("twins").unwrap());
    let namespaces = [one.namespace("a").unwrap(), other.namespace("a").unwrap()];
    namespaces[0].address("lo", [10, 1, 2, 3], 32).unwrap();
    assert!(!namespaces[1].output("ip", &["address"]).unwrap().contains("10.1.2.3"));
    let files = one.state().to_owned();
    drop(one);
    assert!(!file(namespaces[0].full_name()).exists() && !files.exists());
    assert!(namespaces[1].output("true", &[]).is_ok());
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next_and_what_a_living_one_has_is_not() {
    if campfire_lab::net::skipped() {
        return;
    }
    let (mut killed, left) = another();
    let (living, kept) = another();
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    assert!(file(&left).exists(), "what was killed removes nothing");
    let pids = || Command::new("ip").args(["netns", "pids", &left]).output().unwrap().stdout;
    assert!(!pids().is_empty(), "a process lives on in it");
    let _next = Net::new("next").unwrap();
    assert!(!file(&left).exists(), "the next one removes it");
    assert!(file(&kept).exists(), "{kept} has an owner");
    drop(living);
    Net::remove("orphan").unwrap();
}

/// Another process with a net: itself, and the name of a namespace in which a process runs.
fn another() -> (Process, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "another_process_with_a_net", "--nocapture"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = Process::start(&mut command).unwrap();
    let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let name = lines.find_map(|line| line.unwrap().strip_prefix("namespace: ").map(str::to_owned)).unwrap();
    std::mem::forget(lines);
    (process, name)
}

#[test]
#[ignore = "what `another` runs"]
fn another_process_with_a_net() {
    let net = Net::new("orphan").unwrap();
    let namespace = net.namespace("a").unwrap();
    let mut sleeper = namespace.command("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap();
    println!("namespace: {}", namespace.full_name());
    sleeper.wait().unwrap();
}

fn file(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}
