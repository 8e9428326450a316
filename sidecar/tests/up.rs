//! `campfire up` in network namespaces: two peers and a server, and all that can be in the way. Needs root; says so where
//! it has to skip. What happens behind NATs is tested in `lab`.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use campfire_lab::peer::Keys;
use campfire_lab::{Host, TurnServer, World};
use serde_json::Value;

#[test]
fn two_peers_meet_ping_and_one_says_goodbye() {
    let Some(mut lab) = Lab::new("uptwo") else { return };
    let (ada, bob) = (lab.host("ada"), lab.host("bob"));
    let pool = ["--ipv4-pool", "100.80.0.0/16"];
    let one = lab.up(&ada, &[&pool[..], &["--ready-file", &lab.path("ada.ready"), "--metrics-listen", "127.0.0.1:9469"]].concat());
    let two = lab.up(&bob, &[&pool[..], &["--mtu", "1400", "--log-format", "json", "--advertise-route", "10.99.0.0/24"]].concat());
    for host in [&ada, &bob] {
        lab.campfire(host, &["status", "--wait=20"]);
    }
    // Both families, both ways.
    let status = [lab.status(&ada), lab.status(&bob)];
    for (host, other) in [(&ada, &status[1]), (&bob, &status[0])] {
        for address in other["self"]["addresses"].as_array().unwrap() {
            lab.ping(host, address.as_str().unwrap());
        }
    }
    assert_eq!(status[0]["self"]["addresses"].as_array().unwrap().len(), 2, "{}", status[0]);
    assert_eq!(status[0]["peers"][0]["name"], "bob");
    let why = lab.campfire(&ada, &["why", "bob"]);
    assert!(why.starts_with("bob ("), "{why}");
    let (graph, table) = (lab.campfire(&ada, &["graph"]), lab.campfire(&ada, &["status"]));
    assert!(graph.contains("label=\"bob\""), "{graph}");
    assert!(table.contains("camped; 1 of 1 peers connected"), "{table}");

    // Asked inside the session, where a firewall would let no ping through.
    for full in [&[][..], &["--full"]] {
        let pinged = lab.campfire(&ada, &[&["ping", "bob", "--count", "3", "--interval", "0.05"], full].concat());
        let last = pinged.lines().last().unwrap();
        assert!(last.starts_with("3 sent, 3 answered, 0% lost; round trip least "), "{pinged}");
        assert!(
            pinged.lines().nth(1).unwrap().starts_with("1: ") && (pinged.contains(", direct at ") || pinged.contains(", via ")),
            "{pinged}"
        );
    }
    assert!(!lab.output(&ada, &["ping", "nobody"]).status.success());

    // The interface is as it was asked for.
    let link = bob.output("ip", &["-o", "link", "show", "campfire0"]).unwrap();
    assert!(link.contains("mtu 1400") && link.contains(",UP"), "{link}");
    // The real wg.
    let key = status[1]["self"]["public_key"].as_str().unwrap();
    let wg = ada.output("wg", &["show", "campfire0"]).unwrap();
    assert!(wg.contains(&format!("peer: {key}")) && wg.contains("latest handshake: "), "{wg}");
    assert!(!ada.command("wg").args(["set", "campfire0", "listen-port", "1"]).output().unwrap().status.success());
    // Who waits for it knows that it is ready.
    lab.wait("the ready file", || PathBuf::from(lab.path("ada.ready")).exists());
    assert_eq!(http(&ada, "127.0.0.1:9469", "/readyz").0, 200);
    assert_eq!(http(&ada, "127.0.0.1:9469", "/healthz").0, 200);
    let (code, metrics) = http(&ada, "127.0.0.1:9469", "/metrics");
    assert!(code == 200 && metrics.contains("campfire_peers{path=") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert_eq!(http(&ada, "127.0.0.1:9469", "/v1/status").0, 404, "what peers say is for the control socket alone");

    // Goodbye is known at once (who goes without a word is kept for much longer than it takes to look), and nothing is left.
    let bobs: Vec<String> = status[1]["self"]["addresses"].as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect();
    let log = two.end("TERM");
    let left = Instant::now();
    lab.wait("bob to be gone", || lab.status(&ada)["peers"].as_array().unwrap().is_empty());
    assert!(left.elapsed() < Duration::from_secs(5), "{:?}", left.elapsed());
    for line in log.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    assert!(bob.output("ip", &["link", "show", "campfire0"]).is_err(), "the interface is gone");

    // What is sent to nobody is answered, in both families, by ping and to what connects.
    lab.wait("those to be known who are there", || told_unreachable(&ada, &bobs[0]));
    for address in &bobs {
        assert!(told_unreachable(&ada, address), "{address}");
        let connects = "import socket,sys,time\nt=time.monotonic()\ntry: socket.create_connection((sys.argv[1],80),20)\nexcept OSError as e: print(e.errno)\nassert time.monotonic()-t<3";
        assert_eq!(ada.output("python3", &["-c", connects, address]).unwrap().trim(), "113", "EHOSTUNREACH from {address}");
    }
    one.end("INT");
    assert!(!PathBuf::from(lab.path("ada.ready")).exists());
    for folder in ["run-campfire", "run-wireguard"] {
        assert_eq!(fs::read_dir(ada.state().join(folder)).unwrap().count(), 0, "{folder}");
    }
}

#[test]
fn routes_are_taken_only_where_they_are_accepted() {
    let Some(mut lab) = Lab::new("uprt") else { return };
    let (ada, bob, eve) = (lab.host("ada"), lab.host("bob"), lab.host("eve"));
    bob.output("ip", &["address", "add", "10.99.0.1/32", "dev", "lo"]).unwrap();
    let pool = ["--ipv4-pool", "100.80.0.0/16"];
    let _one = lab.up(&ada, &[&pool[..], &["--accept-route", "10.99.0.0/16"]].concat());
    let _two = lab.up(&bob, &[&pool[..], &["--advertise-route", "10.99.0.0/24,10.98.0.0/24", "--accept-route", "0.0.0.0/0"]].concat());
    let _three = lab.up(&eve, &["--accept-route", "10.99.0.0/16"]);
    for host in [&ada, &bob, &eve] {
        lab.campfire(host, &["status", "--wait=20"]);
    }
    let routes = |host: &Host| host.output("ip", &["-4", "route", "show", "table", "all", "dev", "campfire0"]).unwrap();
    lab.wait("the route", || routes(&ada).contains("10.99.0.0/24"));
    assert!(!routes(&ada).contains("10.98.0.0/24"), "{}", routes(&ada));
    let eves = lab.campfire(&eve, &["status"]);
    assert!(!routes(&eve).contains("10.9") && eves.contains("give --ipv4-pool"), "{}\n{eves}", routes(&eve));
    assert!(lab.campfire(&bob, &["status"]).contains("sysctl -w net.ipv4.ip_forward=1"), "what is offered has to be forwarded");
}

#[test]
fn in_a_certified_mesh_the_key_alone_reaches_nobody() {
    let Some(mut lab) = Lab::new("upcert") else { return };
    let (ada, bob, eve) = (lab.host("ada"), lab.host("bob"), lab.host("eve"));
    bob.output("ip", &["address", "add", "10.99.0.1/32", "dev", "lo"]).unwrap();
    let root = lab.secret("root", &lab.campfire(&ada, &["root", "new"]));
    let psk = lab.keys.psk.to_string_lossy().into_owned();
    let uri = |name: &str, more: &[&str]| {
        let arguments = ["uri", "--psk-file", &psk, "--server", &lab.server, "--root-file", &root, "--for", name, "--show-secret"];
        lab.secret(name, &lab.campfire(&ada, &[&arguments[..], more].concat()))
    };
    let uris = [uri("laptop", &[]), uri("router", &["--route", "10.99.0.0/16"])];
    let _one = lab.up_by_uri(&ada, &uris[0], &["--accept-route", "10.0.0.0/8", "--ipv4-pool", "100.80.0.0/16"]);
    let _two = lab.up_by_uri(&bob, &uris[1], &["--name", "bob", "--advertise-route", "10.99.0.0/24", "--ipv4-pool", "100.80.0.0/16"]);
    let _three = lab.up(&eve, &[]);

    // Each is what its URI says, whatever it calls itself.
    let seen = |host: &Host, by: fn(&Value) -> bool| {
        // Nobody listens in the first moments.
        let status: Value = serde_json::from_slice(&lab.output(host, &["status", "--json"]).stdout).ok()?;
        status["peers"].as_array()?.iter().find(|peer| by(peer)).cloned()
    };
    let is_certified = |peer: &Value| peer["certified"] == true && peer["connected"] == true;
    lab.wait("ada to let bob in", || seen(&ada, is_certified).is_some());
    lab.wait("bob to let ada in", || seen(&bob, is_certified).is_some());
    let router = seen(&ada, is_certified).unwrap();
    assert_eq!((router["name"].as_str(), router["routes"][0].as_str()), (Some("router"), Some("10.99.0.0/24")), "{router}");
    assert_eq!(seen(&bob, is_certified).unwrap()["name"], "laptop");
    lab.ping(&ada, router["addresses"][0].as_str().unwrap());

    // Who holds the key has sessions, and they carry nothing.
    let not_let_in = |peer: &Value| peer["refusal"] == "NotCertified" && peer["last_handshake_ms"].is_u64();
    lab.wait("a session with eve", || seen(&ada, not_let_in).is_some());
    let stranger = seen(&ada, not_let_in).unwrap();
    let why = lab.campfire(&ada, &["why", stranger["public_key"].as_str().unwrap()]);
    assert!(why.contains("It is not let in (NotCertified)") && why.contains("campfire uri --for"), "{why}");
    let ping = |host: &Host, address: &Value| {
        host.command("ping").args(["-c", "2", "-i", "0.2", "-W", "2", address.as_str().unwrap()]).output().unwrap().status.success()
    };
    assert!(!ping(&eve, &lab.status(&ada)["self"]["addresses"][0]) && !ping(&ada, &stranger["addresses"][0]));

    // What a URI does not grant is refused with what to do.
    let mut more = eve.command(env!("CARGO_BIN_EXE_campfire"));
    more.args(["up", "--uri-file", &uris[1], "--interface", "campfire1", "--advertise-route", "10.98.0.0/24"]);
    let refused = more.arg("--identity-file").arg(eve.state().join("another")).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(64) && said.contains("campfire uri --for router --route 10.98.0.0/24"), "{said}");
}

#[test]
fn accepted_routes_never_swallow_the_way_of_the_mesh_itself() {
    let Some(mut lab) = Lab::new("updef") else { return };
    let (ada, bob) = (lab.host("ada"), lab.host("bob"));
    bob.output("ip", &["address", "add", "10.99.0.1/32", "dev", "lo"]).unwrap();
    bob.namespace().sysctl(&["net.ipv4.ip_forward=1"]).unwrap();
    // A neighbour of ada's, in a network that bob offers too.
    ada.output("ip", &["link", "add", "lan", "type", "veth", "peer", "name", "lan-other"]).unwrap();
    ada.output("ip", &["address", "add", "10.1.0.11/24", "dev", "lan", "metric", "100"]).unwrap();
    for end in ["lan", "lan-other"] {
        ada.output("ip", &["link", "set", end, "up"]).unwrap();
    }
    let pool = ["--ipv4-pool", "100.80.0.0/16"];
    let one = lab.up(&ada, &[&pool[..], &["--accept-route", "0.0.0.0/0"]].concat());
    let _two = lab.up(&bob, &[&pool[..], &["--advertise-route", "0.0.0.0/0,10.1.0.0/24,10.0.0.0/8"]].concat());
    for host in [&ada, &bob] {
        lab.campfire(host, &["status", "--wait=20"]);
    }
    let leads = |to: &str| ada.output("ip", &["route", "get", to]).unwrap();
    lab.wait("the route", || leads("10.99.0.1").contains("dev campfire0"));
    assert!(
        leads("203.0.113.99").contains("dev campfire0"),
        "{}",
        leads("203.0.113.99")
            + &ada.output("ip", &["rule"]).unwrap()
            + &ada.output("ip", &["-4", "route", "show", "table", "all"]).unwrap()
    );
    lab.ping(&ada, "10.99.0.1");
    assert!(leads("10.1.0.12").contains("dev lan"), "a neighbour stays one: {}", leads("10.1.0.12"));
    assert!(!leads("169.254.169.254").contains("campfire0"), "{}", leads("169.254.169.254"));
    let bytes = |host: &Host| lab.status(host)["peers"][0]["sent_bytes"].as_u64().unwrap();
    let before = bytes(&ada);
    std::thread::sleep(Duration::from_secs(3));
    assert!(bytes(&ada) - before < 10_000, "the tunnel does not carry itself");
    let status = lab.campfire(&ada, &["status"]);
    assert!(status.contains("camped; 1 of 1 peers connected"), "{status}");
    assert!(status.contains("10.1.0.0/24 is not taken: this machine reaches that by lan itself"), "{status}");
    one.end("TERM");
    assert!(!ada.output("ip", &["rule"]).unwrap().contains("0xca3f"), "nothing is left of it");

    // A pool that holds the server is refused.
    let server = lab.server.split(['=', ':']).nth(1).unwrap().to_owned();
    let pool = format!("{}.0.0/16", server.split('.').take(2).collect::<Vec<_>>().join("."));
    let refused = lab.output(&ada, &["up", "--psk-file", lab.keys.psk.to_str().unwrap(), "--server", &lab.server, "--ipv4-pool", &pool]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("holds the server"), "{said}");
}

#[test]
fn with_ipv6_switched_off_a_pool_is_enough() {
    let Some(mut lab) = Lab::new("upno6") else { return };
    let (ada, bob) = (lab.host("ada"), lab.host("bob"));
    ada.namespace().sysctl(&["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"]).unwrap();
    let pool = ["--ipv4-pool", "100.80.0.0/16"];
    // As in a container, where nobody may switch it on again.
    let start = |pool: &[&str]| {
        let mut command = ada.command("sh");
        command.args(["-ec", "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; exec \"$@\"", "sh"]);
        command.args([env!("CARGO_BIN_EXE_campfire"), "up", "--name", "ada", "--server", &lab.server, "--psk-file"]).arg(&lab.keys.psk);
        command.arg("--identity-file").arg(ada.state().join("identity")).args(pool);
        command
    };
    let refused = start(&[]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("or give --ipv4-pool"), "{said}");
    let _one = lab.spawn(&ada, start(&pool));
    let _two = lab.up(&bob, &pool);
    for host in [&ada, &bob] {
        lab.campfire(host, &["status", "--wait=20"]);
    }
    for (host, other) in [(&ada, &bob), (&bob, &ada)] {
        let addresses = lab.status(other)["self"]["addresses"].clone();
        let ipv4 = addresses.as_array().unwrap().iter().find(|address| address.as_str().unwrap().contains('.')).unwrap().clone();
        lab.ping(host, ipv4.as_str().unwrap());
    }
    lab.wait("a word about it", || lab.campfire(&ada, &["status"]).contains("the mesh has IPv4 alone here"));
}

#[test]
fn what_somebody_changes_of_the_interface_is_put_right() {
    let Some(mut lab) = Lab::new("upfix") else { return };
    let (ada, bob) = (lab.host("ada"), lab.host("bob"));
    bob.output("ip", &["address", "add", "10.99.0.1/32", "dev", "lo"]).unwrap();
    let pool = ["--ipv4-pool", "100.80.0.0/16"];
    let one = lab.up(&ada, &[&pool[..], &["--accept-route", "10.99.0.0/16"]].concat());
    let _two = lab.up(&bob, &[&pool[..], &["--advertise-route", "10.99.0.1/32"]].concat());
    for host in [&ada, &bob] {
        lab.campfire(host, &["status", "--wait=20"]);
    }
    let addresses = lab.status(&ada)["self"]["addresses"].clone();
    let dressed = || {
        let addresses_there = ada.output("ip", &["address", "show", "dev", "campfire0"]).unwrap();
        let leads = ada.output("ip", &["route", "get", "10.99.0.1"]).unwrap_or_default();
        addresses.as_array().unwrap().iter().all(|address| addresses_there.contains(address.as_str().unwrap()))
            && addresses_there.contains("mtu 1280")
            && leads.contains("dev campfire0")
    };
    lab.wait("the interface to be dressed", dressed);
    for change in [
        &["ip link set campfire0 down", "ip link set campfire0 up"][..],
        &["ip link set campfire0 down"],
        &["ip address flush dev campfire0"],
        &["sysctl -qw net.ipv6.conf.campfire0.disable_ipv6=1", "sysctl -qw net.ipv6.conf.campfire0.disable_ipv6=0"],
        &["ip link set campfire0 mtu 1500"],
        &["ip rule del priority 20951"],
    ] {
        for command in change {
            let words: Vec<&str> = command.split(' ').collect();
            ada.output(words[0], &words[1..]).unwrap();
        }
        lab.wait(&format!("what `{}` did to be put right", change.join("; ")), dressed);
        lab.ping(&ada, "10.99.0.1");
    }
    let log = one.end("TERM");
    assert!(log.contains("was changed from outside, and is put right"), "{log}");
}

#[test]
fn a_key_in_the_environment_is_nowhere_to_be_seen_afterwards() {
    let Some(mut lab) = Lab::new("upenv") else { return };
    let ada = lab.host("ada");
    let psk = fs::read_to_string(&lab.keys.psk).unwrap().trim().to_owned();
    let mut command = ada.command(env!("CARGO_BIN_EXE_campfire"));
    command.env("CAMPFIRE_PSK", &psk).args(["up", "--name", "ada", "--log", "trace", "--server", &lab.server, "--identity-file"]);
    command.arg(ada.state().join("identity"));
    let peer = lab.spawn(&ada, command);
    lab.campfire(&ada, &["status", "--wait=20"]);
    let mut seen = Vec::new();
    for file in ["environ", "cmdline"] {
        seen.extend(fs::read(format!("/proc/{}/{file}", peer.pid())).unwrap());
    }
    assert!(!seen.is_empty());
    let seen = String::from_utf8_lossy(&seen).into_owned() + &lab.status(&ada).to_string() + &peer.end("TERM");
    for secret in [psk.clone(), hex::encode(base64(&psk)), fs::read_to_string(ada.state().join("identity")).unwrap().trim().to_owned()] {
        assert_eq!(secret.trim(), secret);
        assert!(!seen.contains(&secret), "a secret was shown");
    }
    assert!(seen.contains("camped"), "the log was written: {seen}");
}

#[test]
fn a_hangup_reads_servers_and_keys_again() {
    let Some(mut lab) = Lab::new("uphup") else { return };
    let ada = lab.host("ada");
    let config = ada.state().join("c.toml");
    let psk = ada.state().join("psk");
    fs::copy(&lab.keys.psk, &psk).unwrap();
    let write = |servers: &str| fs::write(&config, format!("psk-file = {psk:?}\nserver = {servers}\n")).unwrap();
    write("[\"192.0.2.1\"]");
    let mut command = ada.command(env!("CARGO_BIN_EXE_campfire"));
    command.args(["up", "--name", "ada", "--identity-file"]).arg(ada.state().join("identity")).arg("--config").arg(&config);
    let peer = lab.spawn(&ada, command);
    lab.wait("it to be up", || lab.output(&ada, &["status"]).status.success());
    let before = lab.status(&ada);
    let network = before["self"]["network"].as_str().unwrap();

    let new = run(Command::new(env!("CARGO_BIN_EXE_campfire")).args(["key", "new"]));
    let old = fs::read_to_string(&psk).unwrap();
    fs::write(&psk, format!("accept:{new}{old}")).unwrap();
    write(&format!("[{:?}]", lab.server));
    peer.signal("HUP");
    lab.campfire(&ada, &["status", "--wait=20"]);
    let after = lab.status(&ada);
    assert_eq!(after["self"]["fingerprints"].as_array().unwrap().len(), 2, "{after}");
    assert_eq!(after["self"]["network"], network, "addresses stay");
    assert_eq!(after["self"]["addresses"], before["self"]["addresses"]);

    // What cannot be read changes nothing.
    write("[\"a:b\"]");
    peer.signal("HUP");
    lab.wait("the complaint", || peer.log().contains("not reloaded, the old configuration stays: --server: not a server"));
    assert_eq!(lab.status(&ada)["self"]["fingerprints"], after["self"]["fingerprints"]);
}

#[test]
fn a_server_made_anew_where_another_was_is_camped_on_once() {
    let Some(mut lab) = Lab::new("upanew") else { return };
    let (host, hosts) = (lab.host("elm"), [lab.host("ada"), lab.host("bob")]);
    let serve = |id: &str| {
        let mut command = host.command(campfire_lab::peer::binary("campfire-turn").unwrap());
        command.args(["--enable-campfire", "--server-id", id, "--secrets-dir"]).arg(&lab.keys.secrets);
        lab.spawn(&host, command)
    };
    let write = |host: &Host, ids: &[&str], address: &Host| {
        let servers: Vec<String> = ids.iter().map(|id| format!("{id}={}:3478", address.address())).collect();
        fs::write(host.state().join("c.toml"), format!("psk-file = {:?}\nserver = {servers:?}\nno-direct = true\n", lab.keys.psk)).unwrap();
    };
    let old = serve("old-0");
    let peers = hosts.each_ref().map(|peer| {
        write(peer, &["old-0"], &host);
        let mut command = peer.command(env!("CARGO_BIN_EXE_campfire"));
        command.args(["up", "--name", &peer.name, "--identity-file"]).arg(peer.state().join("identity"));
        lab.spawn(peer, {
            command.arg("--config").arg(peer.state().join("c.toml"));
            command
        })
    });
    for peer in &hosts {
        lab.campfire(peer, &["status", "--wait=20"]);
    }
    let address = lab.status(&hosts[1])["self"]["addresses"][0].as_str().unwrap().to_owned();
    // Another server comes where it was; first one and then the other peer is told, and one of them knows both ids.
    old.end("KILL");
    let _new = serve("new-0");
    lab.wait("the old seats to be taken again", || hosts.iter().all(|peer| lab.status(peer)["servers"][0]["state"] == "Camped"));
    let pings = |count: &str| {
        let args = ["-c", count, "-i", "0.1", "-W", "1", &address];
        hosts[0].command("ping").args(args).stdout(Stdio::piped()).spawn().unwrap()
    };
    let all = |ping: Child| String::from_utf8(ping.wait_with_output().unwrap().stdout).unwrap();
    lab.wait("the path to work again", || all(pings("5")).contains(" 0% packet loss"));
    let ping = pings("60");
    for (n, ids) in [&["old-0", "new-0"][..], &["new-0"]].into_iter().enumerate() {
        write(&hosts[n], ids, &host);
        peers[n].signal("HUP");
        std::thread::sleep(Duration::from_secs(2));
    }
    let pinged = all(ping);
    assert!(pinged.contains(" 0% packet loss"), "the path through the server is not so much as moved: {pinged}");
    for (n, peer) in hosts.iter().enumerate() {
        let status = lab.status(peer);
        let servers = status["servers"].as_array().unwrap();
        let camped: Vec<&Value> = servers.iter().filter(|server| server["state"] == "Camped").map(|server| &server["id"]).collect();
        assert_eq!(camped, ["new-0"], "{status}");
        assert_eq!(servers[0]["members"], 2, "{status}");
        assert!(status["problems"].as_array().is_none_or(Vec::is_empty), "{status}");
        assert_eq!(servers.len(), 2 - n, "{status}");
        assert!(!peers[n].log().contains("another process"), "{}", peers[n].log());
    }
    let table = lab.campfire(&hosts[0], &["status"]);
    assert!(table.contains("it is new-0 by another id: camped on once"), "{table}");
}

#[test]
fn what_is_in_the_way_is_named_with_what_to_do() {
    let Some(mut lab) = Lab::new("uptkn") else { return };
    let ada = lab.host("ada");
    let peer = lab.up(&ada, &["--listen-port", "4000"]);
    lab.campfire(&ada, &["status", "--wait=20"]);
    let other = |extra: &[&str]| {
        let mut command = ada.command(env!("CARGO_BIN_EXE_campfire"));
        command
            .args(["up", "--psk-file"])
            .arg(&lab.keys.psk)
            .args(["--server", &lab.server, "--identity-file", &lab.path("other")])
            .args(extra);
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap().lines().last().unwrap_or_default().to_owned())
    };
    let run = lab.path("run");
    let (wg, elsewhere) = (lab.path("wg"), ["--run-dir", &run]);
    assert_eq!(
        other(&[]),
        (
            Some(1),
            "campfire: another process listens on /run/campfire/campfire0.sock: is a campfire with this interface running already?".into()
        )
    );
    assert_eq!(
        other(&elsewhere),
        (Some(1), "campfire: interface campfire0 is in use by another process: end it, or choose another with --interface".into())
    );
    assert_eq!(
        other(&[&elsewhere[..], &["--listen-port", "4000", "--interface", "other0"]].concat()),
        (
            Some(1),
            "campfire: UDP port 4000 is taken by another process: choose another with --listen-port, or leave it out for any free one"
                .into()
        )
    );
    let (code, text) = other(&[&elsewhere[..], &["--interface", "lo"]].concat());
    assert_eq!(
        (code, text.as_str()),
        (Some(1), "campfire: interface lo exists and is no TUN device of ours: choose another with --interface")
    );
    let (code, text) = other(&[&elsewhere[..], &["--interface", "other0", "--metrics-listen", "192.0.2.77:1"]].concat());
    assert_eq!(code, Some(1));
    assert!(text.starts_with("campfire: --metrics-listen: 192.0.2.77:1: "), "{text}");

    // A killed peer leaves its sockets behind: the next one takes over.
    peer.end("KILL");
    assert!(ada.state().join("run-campfire/campfire0.sock").exists());
    let peer = lab.up(&ada, &["--wg-dir", &wg]);
    lab.campfire(&ada, &["status", "--wait=20"]);
    peer.end("TERM");
}

#[test]
fn without_rights_it_says_how_and_works_on_a_device_made_before() {
    let Some(mut lab) = Lab::new("uprgt") else { return };
    let (ada, bob) = (lab.host("ada"), lab.host("bob"));
    let home = tempfile::tempdir().unwrap();
    let (psk, copy, run) = (home.path().join("psk"), home.path().join("campfire"), home.path().join("run"));
    fs::copy(&lab.keys.psk, &psk).unwrap();
    // Not by this process: a child that another test starts meanwhile would hold the copy open for writing, and it could not be run.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_campfire")).arg(&copy).status().unwrap().success());
    assert!(Command::new("chown").args(["-R", "65534:65534"]).arg(home.path()).status().unwrap().success());
    let up = |node_mode: &str| {
        let mut command = ada.command("sh");
        command.args(["-ec", "chmod \"$1\" /dev/net/tun; shift; exec \"$@\"", "sh", node_mode]);
        command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]).arg(&copy);
        command.args(["up", "--name", "ada", "--server", &lab.server, "--psk-file"]).arg(&psk);
        command.arg("--run-dir").arg(&run).arg("--state-dir").arg(home.path().join("state")).arg("--wg-dir").arg(home.path().join("wg"));
        command
    };
    let refused = |node_mode| {
        let output = up(node_mode).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = refused("0666");
    assert!(
        text.contains("interface campfire0 cannot be made without rights (")
            && text.contains("): run as root, give the process CAP_NET_ADMIN, or make the device first, as root: ip tuntap add dev campfire0 mode tun user"),
        "{text}"
    );

    // A device node that is root's alone, as where no udev looks after it, has another remedy.
    let text = refused("0600");
    assert!(text.contains("/dev/net/tun may not be opened by this user") && text.contains("as root: chmod 0666 /dev/net/tun"), "{text}");

    // What is missing is told as commands; carried out, it works.
    ada.output("ip", &["tuntap", "add", "dev", "campfire0", "mode", "tun", "user", "65534", "vnet_hdr"]).unwrap();
    let text = refused("0666");
    assert!(
        text.contains("interface campfire0 is not as it should be, and changing it needs root or CAP_NET_ADMIN; run as root once:"),
        "{text}"
    );
    let commands: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with("ip ")).collect();
    assert_eq!(commands.len(), 3, "{text}");
    for command in commands {
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        ada.output("ip", &words).unwrap();
    }
    let peer = lab.spawn(&ada, up("0666"));
    let _bob = lab.up(&bob, &[]);
    let run = run.to_string_lossy().into_owned();
    lab.campfire(&ada, &["status", "--run-dir", &run, "--wait=20"]);
    lab.campfire(&bob, &["status", "--wait=20"]);
    let status = lab.status(&bob);
    lab.wait("the peers to know each other", || !lab.status(&bob)["peers"].as_array().unwrap().is_empty());
    lab.campfire(&bob, &["status", "--wait=20"]);
    lab.ping(&ada, status["self"]["addresses"][0].as_str().unwrap());
    peer.end("TERM");
    assert!(ada.output("ip", &["link", "show", "campfire0"]).is_ok(), "the device is not ours to remove");
}

#[test]
fn without_the_device_node_it_says_what_to_do() {
    let Some(mut lab) = Lab::new("upnod") else { return };
    let ada = lab.host("ada");
    let mut command = ada.command("sh");
    command
        .args(["-c", "mount -t tmpfs none /dev/net && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_campfire"), "up", "--psk-file"])
        .arg(&lab.keys.psk);
    command.args(["--server", &lab.server, "--identity-file", &lab.path("identity")]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("/dev/net/tun is not there (")
            && text.contains("): load the module (modprobe tun), or in a container give it the device (--device /dev/net/tun)"),
        "{text}"
    );
}

/// A world with a server and a key.
struct Lab {
    world: World,
    keys: Keys,
    server: String,
    _turn: TurnServer,
}

impl Lab {
    fn new(name: &str) -> Option<Self> {
        if campfire_lab::net::skipped() {
            return None;
        }
        if let Err(why) = campfire_lab::peer::binary("campfire-turn") {
            println!("SKIPPED: {why}");
            return None;
        }
        let mut world = World::new(name).unwrap();
        let keys = Keys::make(world.state()).unwrap();
        let host = world.server("oak").unwrap();
        let server = format!("oak={}:3478", host.address());
        let turn = TurnServer::start(host, &keys.secrets).unwrap();
        Some(Self { world, keys, server, _turn: turn })
    }

    /// A host in the open, without a NAT.
    fn host(&mut self, name: &str) -> Host {
        self.world.server(name).unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.world.state().join(name).to_string_lossy().into_owned()
    }

    /// A file that nobody else may read.
    fn secret(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn up_by_uri(&self, host: &Host, uri: &str, extra: &[&str]) -> Peer {
        let mut command = host.command(env!("CARGO_BIN_EXE_campfire"));
        command.args(["up", "--uri-file", uri, "--identity-file"]).arg(host.state().join("identity")).args(extra);
        self.spawn(host, command)
    }

    fn up(&self, host: &Host, extra: &[&str]) -> Peer {
        let mut command = host.command(env!("CARGO_BIN_EXE_campfire"));
        command.args(["up", "--name", &host.name, "--server", &self.server, "--psk-file"]).arg(&self.keys.psk);
        command.arg("--identity-file").arg(host.state().join("identity")).args(extra);
        self.spawn(host, command)
    }

    fn spawn(&self, host: &Host, mut command: Command) -> Peer {
        let _ = self;
        let log = host.state().join("campfire.log");
        let file = File::create(&log).unwrap();
        fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Peer { child: Some(child), log }
    }

    fn output(&self, host: &Host, arguments: &[&str]) -> Output {
        let _ = self;
        host.command(env!("CARGO_BIN_EXE_campfire")).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    fn campfire(&self, host: &Host, arguments: &[&str]) -> String {
        let output = self.output(host, arguments);
        let log = fs::read_to_string(host.state().join("campfire.log")).unwrap_or_default();
        assert!(output.status.success(), "campfire {arguments:?}: {}\n{log}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn status(&self, host: &Host) -> Value {
        serde_json::from_str(&self.campfire(host, &["status", "--json"])).unwrap()
    }

    fn ping(&self, host: &Host, address: &str) {
        let _ = self;
        host.output("ping", &["-c", "2", "-i", "0.2", "-W", "3", address]).unwrap();
    }

    fn wait(&self, what: &str, mut until: impl FnMut() -> bool) {
        let _ = self;
        let start = Instant::now();
        while !until() {
            assert!(start.elapsed() < Duration::from_secs(20), "waited 20 s for {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

struct Peer {
    child: Option<Child>,
    log: PathBuf,
}

impl Peer {
    /// `ip netns exec` and `sh` become the program: one process.
    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap().success());
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a signal, waits for the end, which must be in time and clean unless it was killed; returns the log.
    fn end(mut self, signal: &str) -> String {
        self.signal(signal);
        let start = Instant::now();
        let mut child = self.child.take().unwrap();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > Duration::from_secs(5) {
                let _ = child.kill();
                panic!("it does not end on {signal}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(signal == "KILL" || status.success(), "{status}:\n{}", self.log());
        self.log()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether a ping to an address is answered by the word that nobody has it.
fn told_unreachable(host: &Host, address: &str) -> bool {
    let ping = host.command("ping").args(["-c", "1", "-W", "3", address]).output().unwrap();
    let text = String::from_utf8_lossy(&ping.stdout).into_owned();
    text.contains(&format!("From {address}")) && text.contains("nreachable")
}

/// Code and body of a GET.
fn http(host: &Host, address: &str, path: &str) -> (u16, String) {
    let mut child = host
        .command("python3")
        .args(["-c", "import socket,sys\nh,p=sys.argv[1].rsplit(':',1)\ns=socket.create_connection((h,int(p)),5)\ns.sendall(sys.stdin.buffer.read())\nwhile True:\n d=s.recv(65536)\n if not d: break\n sys.stdout.buffer.write(d)"])
        .arg(address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
}
