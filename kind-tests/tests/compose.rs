//! examples/compose by the commands of its README, with a real engine: twice, as a person would who looks again tomorrow.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use campfire_kind_tests::{Cluster, root};

/// By `docker compose`, or by Debian's `docker-compose` where docker has none of its own.
const DOCKER: &str = r#"#!/bin/bash
docker=$(PATH=${PATH#*:} command -v docker)
if [ "$1" != compose ] || "$docker" compose version >/dev/null 2>&1; then exec "$docker" "$@"; fi
shift
# The older one does not see by itself that there is no terminal.
if [ "$1" = exec ] && [ "$2" != -T ]; then shift; set -- exec -T "$@"; fi
exec docker-compose "$@"
"#;

#[test]
fn three_sites_behind_routers_of_their_own_meet_by_docker_compose_and_show_themselves_by_wg() {
    // The docker that the clusters stand in.
    let Some(cluster) = Cluster::one() else { return };
    let folder = root().join("examples/compose");
    let shim = root().join("target/kind-compose");
    fs::create_dir_all(&shim).unwrap();
    fs::write(shim.join("docker"), DOCKER).unwrap();
    fs::set_permissions(shim.join("docker"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", shim.display(), std::env::var("PATH").unwrap());
    let typed = |line: &str| {
        println!("$ {line}");
        let line = format!("cd {}\n{line}", folder.display());
        let printed = cluster.bash(&line, &[("PATH", &path)]).unwrap_or_else(|error| panic!("{line}: {error}"));
        println!("{printed}");
        printed
    };
    // Where nothing can be pulled, the routers' base is the Debian that the clusters' nodes are made of.
    typed(
        "docker image inspect debian:bookworm-slim >/dev/null 2>&1 || docker pull -q debian:bookworm-slim 2>/dev/null || docker tag \"$(../../kind-tests/offline/node-image | tail -n 1)\" debian:bookworm-slim",
    );

    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    let block = readme.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let commands: Vec<&str> = block.lines().map(|line| line.split("  #").next().unwrap().trim()).filter(|line| !line.is_empty()).collect();
    assert_eq!(commands.len(), 10, "{commands:?}");
    typed("docker compose down 2>&1; rm -rf keys mesh.dot");
    for again in [false, true] {
        for command in &commands {
            match *command {
                // Made already; and where `typed` is.
                "make images" | "cd examples/compose" => {}
                "./keys.sh" if again => {}
                "docker compose exec site-1-peer campfire status --wait=30 --peers 2" => {
                    let printed = typed(command);
                    assert!(printed.contains("camped; 2 of 2 peers connected"), "{printed}");
                    cluster.wait_for("a direct path between sites 1 and 2", "default", Duration::from_mins(2), || {
                        let status = typed("docker compose exec site-1-peer campfire status");
                        status.lines().any(|line| line.starts_with("site-2-peer ") && line.contains(" direct ")).then_some(())
                    });
                }
                "docker compose exec site-1-peer wg" => {
                    let printed = typed(command);
                    assert!(printed.starts_with("interface: campfire0\n  public key: "), "{printed}");
                    for said in ["  private key: (hidden)\n", "  endpoint: 10.50.0.100:3478\n", "  allowed ips: fd", "  latest handshake: "]
                    {
                        assert!(printed.contains(said), "{said}: {printed}");
                    }
                    assert_eq!(printed.matches("\npeer: ").count(), 2, "{printed}");
                }
                "docker compose exec site-1-peer campfire why site-3-peer" => {
                    let printed = typed(command);
                    assert!(printed.contains("What would help: "), "{printed}");
                }
                other => {
                    typed(&other.replace("target/images/", "../../target/images/"));
                }
            }
        }
        let dot = fs::read_to_string(folder.join("mesh.dot")).unwrap();
        assert!(dot.starts_with("digraph campfire {") && dot.contains("site-3-peer"), "{dot}");
        assert_eq!(typed("docker ps -q --filter name=compose"), "", "after `down`");
    }
    typed("rm -rf keys mesh.dot");
    fs::remove_dir_all(shim).unwrap();
}
