//! `make demo-clusters`, as a person runs it: interrupted in the midst of it, then to its end.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use campfire_kind_tests::{Cluster, root};

#[test]
fn the_demo_on_two_clusters_ends_with_an_answer_across_and_leaves_nothing_even_when_interrupted() {
    // Makes sure that clusters can be made here, or says why not; and keeps the docker of the demo from being made and removed twice.
    if Cluster::one().is_none() {
        return;
    }
    let before = left();
    let (printed, status) = run(Some("and a fire in berlin"));
    assert_eq!(status, Some(130), "{printed}");
    assert_eq!(left(), before, "what an interrupted demo left:\n{printed}");

    let (printed, status) = run(None);
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

/// The demo's output and exit status; interrupted, as by Ctrl-C, once it has said this.
fn run(interrupt_at: Option<&str>) -> (String, Option<i32>) {
    let mut child = Command::new("bash")
        .args(["-c", "exec scripts/demo-clusters 2>&1"])
        .process_group(0)
        .current_dir(root())
        .env("IMAGE_PROGRAMS", programs())
        .env_remove("KEEP")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut printed = String::new();
    let mut asked = false;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        println!("[demo] {line}");
        if !asked && interrupt_at.is_some_and(|at| line.contains(at)) {
            asked = true;
            // All of its group, as a terminal does.
            let killed = Command::new("kill").args(["-INT", "--", &format!("-{}", child.id())]).status();
            assert!(killed.unwrap().success());
        }
        printed.push_str(&line);
        printed.push('\n');
    }
    let status = child.wait().unwrap();
    (printed, status.code())
}

/// Clusters, network namespaces and docker networks that there are.
fn left() -> Vec<String> {
    let lines = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(root()).stderr(Stdio::null()).output().unwrap();
        let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    [
        lines("kind-tests/cluster", &["list"]),
        lines("kind-tests/cluster", &["docker", "network", "ls", "--format", "{{.Name}}"]),
        lines("kind-tests/cluster", &["docker", "ps", "-a", "--format", "{{.Names}}"]),
        lines("ip", &["netns", "list"]),
        lines("sh", &["-c", "ls -d /run/campfire-demo-clusters 2>/dev/null || true"]),
    ]
    .concat()
}

/// The folder of our programs: that of this test's own is below it.
fn programs() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned()
}
