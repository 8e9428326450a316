//! The documentation, command by command, as somebody new would type it: docs/kubernetes.md and docs/operations.md, in two clusters, and on
//! a machine outside.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use campfire_kind_tests::mesh::name;
use campfire_kind_tests::{Cluster, TEST_APP, condition, root};
use serde_json::Value;

/// What needs a registry, or is done by this crate: how a cluster comes to be, and how images get into it.
const DONE_ALREADY: [&str; 3] = ["kind create cluster", "make images", "for image in"];

#[test]
#[expect(clippy::too_many_lines, reason = "a story, one thing after the other")]
fn the_commands_of_the_documentation_work_as_they_stand() {
    let (Some(berlin), Some(paris)) = (Cluster::one(), Cluster::two()) else { return };
    for cluster in [berlin, paris] {
        cluster.load_images();
        cluster.uninstall();
        cluster.kubectl(&["delete", "deployments,jobs,secrets", "--all", "-n", "default"]);
        // The examples' image, where nothing can be pulled: the same program.
        cluster.on_node(&format!("ctr -n k8s.io images tag --force {TEST_APP} docker.io/library/busybox:1.36"));
    }
    let dir = root().join("target/kind-docs");
    fs::create_dir_all(&dir).unwrap();
    let contexts = contexts(&dir, &[(berlin, "berlin"), (paris, "paris")]);
    let kubernetes = read("docs/kubernetes.md");
    let operations = read("docs/operations.md");

    // Quickstart, in both. The README has the same commands, with a word beside each.
    let quickstart = commands(&kubernetes, "Quickstart");
    for line in commands(&read("README.md"), "Use it on Kubernetes").iter().flat_map(|block| block.lines()) {
        let command = line.split("  #").next().unwrap().trim();
        assert!(quickstart[0].lines().any(|typed| typed == command), "in the README and not in the quickstart: {command}");
    }
    let (install, talk) = (&quickstart[0], &quickstart[1]);
    let install: Vec<&str> = install.lines().filter(|line| !DONE_ALREADY.iter().any(|done| line.starts_with(done))).collect();
    assert_eq!(install.iter().filter(|line| !line.is_empty()).count(), 6, "{install:?}");
    let printed = typed(berlin, &install.join("\n"), &[]);
    assert!(printed.contains("meshpeer.campfire.network/hello-"), "{printed}");
    let pods = berlin.pods("default", "hello", 3);
    berlin.wait_for("addresses of all MeshPeers", "default", Duration::from_secs(30), || {
        let peers = berlin.list("default", "meshpeers", "");
        (peers.len() == 3 && peers.iter().all(|peer| peer["status"]["addresses"][0].is_string())).then_some(())
    });
    let printed = typed(berlin, talk, &[]);
    let to = berlin.kubectl(&["get", "pods", "-n", "default", "-l", "app=hello", "-o", "jsonpath={.items[1].metadata.name}"]);
    assert!(printed.starts_with(&format!("{to}\n")) && printed.contains("2 of 2 peers connected"), "{printed}");

    // The plugin, beside this test's own program.
    let path = format!("{}:{}", programs().display(), std::env::var("PATH").unwrap());
    let printed = typed(berlin, &format!("cd {}\n{}", dir.display(), quickstart[2]), &[("PATH", &path)]);
    assert!(printed.contains("default/main") && printed.contains("4 sent, 4 answered, 0% lost"), "{printed}");
    assert!(fs::read_to_string(dir.join("mesh.svg")).unwrap().contains(">hello-"), "a picture with names");
    let printed = typed(berlin, "kubectl campfire check || true", &[("PATH", &path)]);
    assert!(printed.contains("ok   operator-webhook: ") && printed.contains("ok   path-full: "), "{printed}");

    other_examples(berlin);

    // Another cluster. The first's servers are reached where this machine publishes its node ports.
    let patch = format!(r#"{{"spec": {{"turn": {{"exposure": {{"externalAddresses": ["{}"]}}}}}}}}"#, paris.gateway());
    berlin.change("default", &patch);
    berlin.wait_for("the join Secret to have that address", "default", Duration::from_secs(30), || {
        let uri = berlin.bash("kubectl get secret main-join -o jsonpath='{.data.uri}' | base64 -d", &[]).ok()?;
        uri.contains(&paris.gateway()).then_some(())
    });
    typed(paris, install.iter().find(|line| line.starts_with("helm install")).unwrap(), &[]);
    let join = &commands(&kubernetes, "Joining another cluster")[0];
    typed(berlin, join, &[("KUBECONFIG", &contexts)]);
    paris.campfire_ready("default");
    typed(paris, "kubectl apply -f examples/deployment.yaml", &[]);
    paris.pods("default", "hello", 3);
    remote_peers(berlin, 3);

    // A machine outside.
    let outside = &commands(&kubernetes, "Machines outside")[0];
    let _ = fs::remove_file(root().join("laptop.uri"));
    typed(berlin, &format!("umask 077\n{outside}"), &[]);
    let laptop = Laptop::up(berlin);
    remote_peers(paris, 4);
    drop(laptop);
    fs::remove_file(root().join("laptop.uri")).unwrap();
    typed(berlin, "kubectl delete -f examples/external-peer.yaml", &[]);

    // Rotating, with a cluster that joined.
    let before = fingerprint(berlin);
    let rotate = &commands(&operations, "Rotating the key")[0];
    typed(berlin, rotate, &[]);
    let of_join = || berlin.bash("kubectl get secret main-join -o jsonpath='{.data.uri}'", &[]).unwrap();
    let was = of_join();
    berlin.wait_for("the join Secret to have the new key", "default", Duration::from_mins(3), || (of_join() != was).then_some(()));
    berlin.wait_for("the rotation to wait for the cluster that joined", "default", Duration::from_mins(1), || {
        let campfire = berlin.get("default", "campfire", "main")?;
        let rotated = condition(&campfire, "Rotated")?;
        let message = rotated["message"].as_str()?;
        (rotated["reason"] == "WaitingForPeers" && message.contains("3 in cluster paris") && !message.contains("server ")).then_some(())
    });
    let copy: Vec<&str> = join.lines().take_while(|line| !line.contains("examples/join.yaml")).collect();
    typed(berlin, &copy.join("\n"), &[("KUBECONFIG", &contexts)]);
    berlin.wait_for("the old key to be retired", "default", Duration::from_mins(4), || {
        let campfire = berlin.get("default", "campfire", "main")?;
        (condition(&campfire, "Rotated")?["reason"] == "Retired").then_some(())
    });
    assert_ne!(fingerprint(berlin), before);
    remote_peers(berlin, 3);

    // Looking, backup, upgrade, and the end.
    for (section, which) in [("When something is wrong", 0), ("What to back up", 0), ("Upgrade", 0)] {
        let line = commands(&operations, section)[which].replace("POD", name(&pods[0]));
        typed(berlin, &format!("cd {}\n{}", dir.display(), line.replace("charts/", "../../charts/")), &[]);
    }
    let uninstall = commands(&operations, "Uninstall");
    let left = typed(berlin, &uninstall[1], &[]);
    assert!(left.contains("main-psk"), "the key is retained: {left}");
    for cluster in [berlin, paris] {
        cluster.uninstall();
        cluster.kubectl(&["delete", "deployments,secrets", "--all", "-n", "default"]);
    }
    fs::remove_dir_all(&dir).unwrap();
}

/// The examples that no command of the documentation applies, as they stand.
fn other_examples(cluster: &Cluster) {
    typed(cluster, "kubectl apply -f examples/networkpolicy-member.yaml -f examples/networkpolicy-turn.yaml -f examples/job.yaml", &[]);
    typed(cluster, "kubectl wait job/once --for=condition=Complete --timeout=60s", &[]);
    let printed = typed(cluster, "kubectl logs job/once -c app", &[]);
    assert!(printed.contains("inet6"), "the Job's app saw no mesh address: {printed}");
    // Here nobody gives its Services an address: its servers run, and it says what it waits for.
    typed(cluster, "kubectl apply -f examples/loadbalancer.yaml", &[]);
    cluster.wait_for("the Campfire with load balancers to wait for them", "default", Duration::from_mins(1), || {
        let games = cluster.get("default", "campfire", "games")?;
        (games["status"]["turn"] == "2/2" && condition(&games, "TurnAvailable")?["reason"] == "WaitingForAddress").then_some(())
    });
    let all =
        "-f examples/networkpolicy-member.yaml -f examples/networkpolicy-turn.yaml -f examples/job.yaml -f examples/loadbalancer.yaml";
    typed(cluster, &format!("kubectl delete {all}"), &[]);
}

/// A peer on the machine that the clusters stand on.
struct Laptop(Child);

impl Laptop {
    /// `campfire up`, until it sees everybody.
    fn up(cluster: &Cluster) -> Self {
        let program = programs().join("campfire");
        assert!(program.exists(), "no {}: cargo build --workspace --bins", program.display());
        let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(root().join("kind-tests/cluster"));
        command.args(["run", cluster.name(), "env", &format!("PATH={path}"), "campfire", "up", "--uri-file", "laptop.uri"]);
        let laptop = Self(command.current_dir(root()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let seen = cluster.wait_for("the laptop to see the pods of both clusters", "default", Duration::from_mins(1), || {
            cluster.bash("campfire status --wait=10 --peers 6", &[("PATH", &path)]).ok()
        });
        println!("{seen}");
        laptop
    }
}

impl Drop for Laptop {
    fn drop(&mut self) {
        let _ = Command::new("pkill").args(["-TERM", "-f", "^campfire up --uri-file laptop.uri"]).status();
        let _ = self.0.wait();
    }
}

fn fingerprint(cluster: &Cluster) -> String {
    cluster.get("default", "campfire", "main").unwrap()["status"]["keyFingerprint"].as_str().unwrap().to_owned()
}

/// The folder of our programs: that of this test's own is below it.
fn programs() -> std::path::PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned()
}

/// Waits until so many peers of elsewhere are shown as there.
fn remote_peers(cluster: &Cluster, count: usize) {
    let there = |peer: &&Value| peer["spec"]["type"] == "Remote" && condition(peer, "Ready").is_some_and(|it| it["status"] == "True");
    cluster.wait_for(&format!("{count} peers of elsewhere"), "default", Duration::from_mins(2), || {
        let peers = cluster.list("default", "meshpeers", "");
        (peers.iter().filter(there).count() == count).then_some(())
    });
}

/// One kubeconfig with a context for each cluster.
fn contexts(dir: &std::path::Path, clusters: &[(&Cluster, &str)]) -> String {
    let files: Vec<String> = clusters
        .iter()
        .map(|(cluster, name)| {
            let file = dir.join(format!("{name}.kubeconfig"));
            fs::write(&file, cluster.kubectl(&["config", "view", "--raw", "--flatten"])).unwrap();
            let file = file.display().to_string();
            cluster
                .bash(&format!("kubectl config rename-context \"$(kubectl config current-context)\" {name}"), &[("KUBECONFIG", &file)])
                .unwrap();
            file
        })
        .collect();
    files.join(":")
}

/// Types commands, in the checkout; all have to work.
fn typed(cluster: &Cluster, commands: &str, environment: &[(&str, &str)]) -> String {
    println!("[{}] {}", cluster.name(), commands.trim().replace('\n', "\n      "));
    let line = format!("cd {}\n{commands}", root().display());
    cluster.bash(&line, environment).unwrap_or_else(|error| panic!("{commands}\n{error}"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The blocks of commands under a heading.
fn commands(text: &str, heading: &str) -> Vec<String> {
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let commands: Vec<String> = section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect();
    assert!(!commands.is_empty(), "no commands under {heading}");
    commands
}
