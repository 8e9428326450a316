//! The demo: from a key to a mesh, step by step, with what a person wants to see at each.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use campfire_lab::peer::{Keys, connected};
use campfire_lab::{Host, Nat, Net, Peer, PeerOptions, TurnServer, World};

/// Name of the demo's world.
pub const WORLD: &str = "demo";

struct Steps {
    start: Instant,
}

impl Steps {
    fn say(&self, text: &str) {
        println!("\x1b[1m[{:5.1} s]\x1b[0m {text}", self.start.elapsed().as_secs_f32());
        let _ = std::io::stdout().flush();
    }
}

#[expect(clippy::too_many_lines, reason = "a story, told while it happens")]
pub fn run(keep: bool, out: &Path) -> Result<()> {
    if let Some(why) = campfire_lab::net::missing() {
        bail!("the demo {why}");
    }
    remove_when_interrupted()?;
    let steps = Steps { start: Instant::now() };

    steps.say("an internet with two TURN servers, two clusters and a laptop, each behind a NAT of its own kind");
    Net::remove(WORLD)?;
    let mut world = World::new(WORLD)?;
    let keys = Keys::make(world.state())?;
    let mut servers = Vec::new();
    let mut list = Vec::new();
    for name in ["oak", "birch"] {
        let host = world.server(name)?;
        list.push(format!("{name}={}:3478", host.address()));
        servers.push(TurnServer::start(host, &keys.secrets)?);
    }
    let mut peers = Vec::new();
    let mut hosts = Vec::new();
    for (cluster, nat, names) in [
        ("harbor", Nat::Masquerade, &["api", "web"][..]),
        ("valley", Nat::Symmetric, &["db", "queue", "cache"]),
        ("laptop", Nat::PortRestricted, &["ada"]),
    ] {
        let mut gateway = world.gateway(&format!("gw-{cluster}"), nat, false)?;
        println!("           {cluster}: {} ({})", names.join(", "), nat.label());
        for name in names {
            hosts.push((cluster, world.host(&mut gateway, name)?));
        }
    }

    steps.say(&format!("a key ({}…), the list of servers, and `campfire up` on {} hosts", &keys.fingerprint[..6], hosts.len()));
    for (cluster, host) in hosts {
        let options = PeerOptions { servers: list.clone(), cluster: cluster.to_owned(), ..PeerOptions::default() };
        peers.push(Peer::start(host, &keys.psk, &options)?);
    }
    let others = peers.len() - 1;
    for peer in &peers {
        peer.wait_for_peers(others, Duration::from_secs(20))?;
    }
    steps.say("all see all; now the direct paths (each needs both sides to reach out at one moment)");
    settle(&peers, Duration::from_secs(12));

    let ada = peers.last().context("no peers")?;
    println!("\n$ campfire status          # on {}", ada.host.name);
    println!("{}", ada.campfire(&["status", "--interface", campfire_lab::peer::INTERFACE])?);
    println!("$ wg show                  # on {}", ada.host.name);
    println!("{}", ada.host.output("wg", &["show"])?);

    steps.say("everyone pings everyone, over the mesh's own addresses");
    ping_all(&peers)?;

    let graph = draw(&peers, out)?;
    steps.say(&graph);

    let camped = servers.iter().position(|s| relay_in_use(ada) == Some(s.host.name.clone())).unwrap_or(0);
    steps.say(&format!(
        "killing {}, the server that {}'s relayed links go through, under a ping 20 times a second",
        servers[camped].host.name, ada.host.name
    ));
    let target = relayed_peer(ada, &peers).unwrap_or(&peers[0]);
    let mut ping = ada
        .host
        .command("ping")
        .args(["-6", "-i", "0.05", "-c", "120", "-W", "1", &target.overlay()?])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    std::thread::sleep(Duration::from_millis(1500));
    servers[camped].kill();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut ping.stdout.take().context("no output")?, &mut text)?;
    ping.wait()?;
    let gap = longest_gap(&text, 120);
    println!("           {}", text.lines().find(|l| l.contains("packet loss")).unwrap_or("no answer at all"));
    ensure!(gap < 40, "the pings stopped for {} ms", gap * 50);
    println!("           longest gap {} ms; the WireGuard sessions did not break", gap * 50);
    ping_all(&peers)?;
    steps.say("everyone still reaches everyone");

    if keep {
        world.keep()?;
        for server in servers {
            std::mem::forget(server);
        }
        let names: Vec<String> = peers.iter().map(|p| p.host.name.clone()).collect();
        for peer in peers {
            std::mem::forget(peer);
        }
        let me = std::env::current_exe()?;
        println!(
            "\nLeft running. Look around with:\n  {} enter {} campfire status\n  {} enter {} wg show\n  peers: {}\nRemove it with:\n  {} clean",
            me.display(),
            names[0],
            me.display(),
            names[0],
            names.join(", "),
            me.display()
        );
    } else {
        drop(peers);
        drop(servers);
        drop(world);
        steps.say("all removed. `KEEP=1 make demo` leaves it running to look around");
    }
    println!("\ndemo: ok");
    Ok(())
}

pub fn enter(host: &str, command: &[String]) -> Result<()> {
    let Some(on) = Host::existing(WORLD, host) else {
        bail!("no host {host} in a running demo; start one with `KEEP=1 make demo`");
    };
    let folder = std::env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let (program, arguments) = command.split_first().map_or(("bash", &[][..]), |(program, rest)| (program.as_str(), rest));
    let status = on.command(program).args(arguments).env("PATH", path).env("PS1", format!("{host}# ")).status()?;
    std::process::exit(status.code().unwrap_or(1));
}

/// On Ctrl-C and `kill`, too, nothing may be left behind.
fn remove_when_interrupted() -> Result<()> {
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            eprintln!("\ninterrupted: removing the world");
            if let Err(error) = Net::remove(WORLD) {
                eprintln!("{error:#}; run `campfire-lab clean`");
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Waits until no link is `Pending` any more, or the time is up.
fn settle(peers: &[Peer], timeout: Duration) {
    let start = Instant::now();
    while start.elapsed() < timeout {
        let pending = peers.iter().filter_map(|p| p.status().ok()).any(|status| {
            status["peers"].as_array().is_some_and(|all| all.iter().any(|p| p["path"] != "Direct" && p["why_not_direct"] == "Pending"))
        });
        if !pending {
            return;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn ping_all(peers: &[Peer]) -> Result<()> {
    let overlays: Vec<String> = peers.iter().map(Peer::overlay).collect::<Result<_>>()?;
    print!("           {:>8}", "ms");
    for to in peers {
        print!("{:>8}", to.host.name);
    }
    println!();
    for (i, from) in peers.iter().enumerate() {
        let pings: Vec<_> = overlays
            .iter()
            .enumerate()
            .map(|(j, address)| {
                (i != j).then(|| {
                    from.host
                        .command("ping")
                        .args(["-6", "-c", "2", "-i", "0.2", "-W", "2", "-q", address])
                        .stdin(Stdio::null())
                        .stdout(Stdio::piped())
                        .spawn()
                })
            })
            .collect();
        print!("           {:>8}", from.host.name);
        for (j, ping) in pings.into_iter().enumerate() {
            let Some(ping) = ping else {
                print!("{:>8}", "·");
                continue;
            };
            let out = ping?.wait_with_output()?;
            let text = String::from_utf8_lossy(&out.stdout);
            let average = text.lines().find(|l| l.contains("rtt")).and_then(|l| l.split('/').nth(4)).map(str::to_owned);
            let Some(average) = average else {
                println!();
                bail!("{} does not reach {}; its log ends:\n{}", from.host.name, peers[j].host.name, from.log_tail(20));
            };
            print!("{:>8}", average.split('.').next().map_or(average.clone(), |_| format!("{:.2}", average.parse::<f32>().unwrap_or(0.0))));
        }
        println!();
    }
    Ok(())
}

fn draw(peers: &[Peer], out: &Path) -> Result<String> {
    let mut files = Vec::new();
    for peer in peers {
        let file = peer.host.state().join("status.json");
        fs::write(&file, serde_json::to_vec(&peer.status()?)?)?;
        files.push(file.to_string_lossy().into_owned());
    }
    let mut arguments = vec!["graph"];
    arguments.extend(files.iter().map(String::as_str));
    let dot = peers[0].campfire(&arguments)?;
    fs::create_dir_all(out)?;
    let (dot_file, png_file) = (out.join("graph.dot"), out.join("graph.png"));
    fs::write(&dot_file, dot)?;
    let status = Command::new("dot")
        .arg("-Tpng")
        .arg(&dot_file)
        .arg("-o")
        .arg(&png_file)
        .status()
        .context("`dot` of graphviz; run scripts/install")?;
    ensure!(status.success(), "dot refused {}", dot_file.display());
    Ok(format!("the mesh as a picture: {} and {}", dot_file.display(), png_file.display()))
}

/// The server that most of this peer's relayed links go through.
fn relay_in_use(peer: &Peer) -> Option<String> {
    let status = peer.status().ok()?;
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for other in status["peers"].as_array()? {
        if let (Some("Relay"), Some(server)) = (other["path"].as_str(), other["server"].as_str()) {
            *uses.entry(server.to_owned()).or_default() += 1;
        }
    }
    uses.into_iter().max_by_key(|(_, n)| *n).map(|(server, _)| server)
}

fn relayed_peer<'a>(from: &Peer, peers: &'a [Peer]) -> Option<&'a Peer> {
    let status = from.status().ok()?;
    debug_assert!(connected(&status) > 0);
    let name = status["peers"].as_array()?.iter().find(|p| p["path"] == "Relay")?["name"].as_str()?.to_owned();
    peers.iter().find(|p| p.host.name == name)
}

/// Most answers missed in a row.
fn longest_gap(ping: &str, count: u32) -> u32 {
    let mut last = 0;
    let mut longest = 0;
    for line in ping.lines() {
        if let Some(sequence) =
            line.split("icmp_seq=").nth(1).and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse::<u32>().ok())
        {
            longest = longest.max(sequence.saturating_sub(last + 1));
            last = sequence;
        }
    }
    longest.max(count.saturating_sub(last))
}
