//! `make demo-clusters`, as a person runs it: interrupted in the midst of it, then to its end. `CAMPFIRE_SEED=s` interrupts the long one at the moments
//! of an earlier run.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use campfire_kind_tests::{Cluster, root};

#[test]
fn the_demo_on_two_clusters_ends_with_an_answer_across_and_leaves_nothing_even_when_interrupted() {
    // Makes sure that clusters can be made here, or says why not; and keeps the docker of the demo from being made and removed twice.
    if Cluster::one().is_none() {
        return;
    }
    let before = left();
    let (printed, status) = run(&Interrupt::At("and a fire in berlin"));
    assert_eq!(status, Some(130), "{printed}");
    assert_eq!(left(), before, "what an interrupted demo left:\n{printed}");

    whole(&before);
}

/// How often the long one is interrupted, and within which time: it takes a little longer as a whole.
const TIMES: u64 = 5;
const WITHIN: u64 = 140;

#[test]
#[ignore = "soak: the demo six times"]
fn soak_a_demo_that_is_interrupted_whenever_leaves_nothing_and_the_next_one_works() {
    if Cluster::one().is_none() {
        return;
    }
    let seed = std::env::var("CAMPFIRE_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed: u64 = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    println!("seed {seed}");
    let before = left();
    let moments: Vec<u64> = (1..=TIMES).map(|n| 1 + mixed(seed.wrapping_add(n)) % WITHIN).collect();
    for after in &moments {
        let (printed, status) = run(&Interrupt::After(Duration::from_secs(*after)));
        // By the signal itself, before there is anything to remove.
        assert!(matches!(status, Some(130) | None), "seed {seed}, {after} s: {status:?}\n{printed}");
        assert_eq!(left(), before, "seed {seed}: what a demo left that was interrupted after {after} s:\n{printed}");
    }
    whole(&before);
    println!("SOAK: the demo interrupted after {moments:?} s (seed {seed}) left nothing each time, and was whole the next");
}

/// SplitMix64 of a number.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// To its end, with all that it shows there, and nothing left.
fn whole(before: &[String]) {
    let (printed, status) = run(&Interrupt::Never);
    assert_eq!(status, Some(0), "{printed}");
    assert_eq!(left(), before, "what a demo left:\n{printed}");
    let said = |text: &str| assert!(printed.contains(text), "{text} is not in:\n{printed}");
    said("hello, I am web-");
    said("3 sent, 3 answered, 0% lost");
    said("5 of 5 peers connected");
    said("3 packets transmitted, 3 received, 0% packet loss");
    said("meshpeer.campfire.network/laptop                        True    AtTheFire");
    let seconds = printed.lines().find(|line| line.contains("from helm install in the second cluster")).unwrap();
    println!("{seconds}");
    let picture = fs::read_to_string(root().join("target/demo-clusters/mesh.svg")).unwrap();
    for name in ["web-", "hello-", "laptop", "berlin", "paris"] {
        assert!(picture.contains(name), "{name} is not in the picture");
    }
}

/// When somebody presses Ctrl-C.
enum Interrupt {
    Never,
    /// Once this was said.
    At(&'static str),
    After(Duration),
}

/// The demo's output and exit status (none: a signal ended it).
fn run(interrupt: &Interrupt) -> (String, Option<i32>) {
    // Who runs this in the background has it ignore what Ctrl-C sends, and what is ignored from the start no shell can trap.
    let mut child = Command::new("env")
        .args(["--default-signal=INT", "bash", "-c", "exec scripts/demo-clusters 2>&1"])
        .process_group(0)
        .current_dir(root())
        .envs(programs().map(|folder| ("IMAGE_PROGRAMS", folder)))
        .env_remove("KEEP")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // All of its group, as a terminal does.
    let group = format!("-{}", child.id());
    let press = move || assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    let (ended, waits) = mpsc::channel::<()>();
    if let Interrupt::After(after) = interrupt {
        let (after, press) = (*after, press.clone());
        // Not once it has ended.
        std::thread::spawn(move || waits.recv_timeout(after).is_err_and(|why| why == mpsc::RecvTimeoutError::Timeout).then(press));
    }
    let mut printed = String::new();
    let mut asked = false;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        println!("[demo] {line}");
        if !asked && matches!(interrupt, Interrupt::At(at) if line.contains(at)) {
            asked = true;
            press();
        }
        printed.push_str(&line);
        printed.push('\n');
    }
    drop(ended);
    let status = child.wait().unwrap();
    (printed, status.code())
}

/// Clusters, docker's networks and containers, network namespaces and interfaces of the demo that there are: all have its names, and other stories run
/// beside it.
fn left() -> Vec<String> {
    let lines = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(root()).stderr(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let ours = text.lines().filter(|line| ["berlin", "paris", "demo"].iter().any(|name| line.contains(name)));
        let mut lines: Vec<String> = ours.map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    [
        lines("kind-tests/cluster", &["list"]),
        lines("kind-tests/cluster", &["docker", "network", "ls", "--format", "{{.Name}}"]),
        lines("kind-tests/cluster", &["docker", "ps", "-a", "--format", "{{.Names}}"]),
        lines("ip", &["netns", "list"]),
        lines("sh", &["-c", "ip -o link | cut -d: -f2"]),
        lines("kind-tests/cluster", &["run", "one", "sh", "-c", "ip -o link | cut -d: -f2"]),
        lines("sh", &["-c", "ls -d /run/campfire-demo-clusters 2>/dev/null || true"]),
    ]
    .concat()
}

/// The folder of our programs, where these are static, as the gate builds them: that of this test's own is below it. Else the demo builds its own.
fn programs() -> Option<PathBuf> {
    std::env::var_os("CARGO_BUILD_TARGET")?;
    Some(std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned())
}
