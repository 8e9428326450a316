//! The agent as its pods and its kubelet see it: real networks, real devices, pods without any right. Needs root; says so where it has to skip.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod world;

use std::fs;
use std::io::{IoSlice, stdin};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use campfire_api::node::{Answer, Grant, GrantKey, MAX_MESSAGE, Request};
use campfire_node::csi::NodePublishVolumeRequest;
use campfire_sys::local;
use campfire_sys::tun::{HEADER, Tun};
use tonic::Code;

use self::world::{Node, Pod, SIDECAR, USER, bytes, grant_of, hex, wait_for};

#[test]
fn a_pod_without_any_right_has_its_interface_and_traffic() {
    let Some(node) = Node::new("pod") else { return };
    let mut pod = node.pod("web");
    assert_eq!(pod.sidecar.tell("rights"), format!("Uid {USER}, CapEff 0000000000000000, CapBnd 0000000000000000, NoNewPrivs 1"));
    let socket = node.target(&pod.uid, "campfire-node").join("node.sock");
    assert!(socket.as_os_str().len() > 107, "longer than a socket's path may be: {}", socket.display());
    let begun = Instant::now();
    assert_eq!(pod.sidecar.ask(&node.wants(&grant_of(&pod.uid))), "made with a device");
    println!("FIGURE: from asking to the device {} ms", begun.elapsed().as_millis());

    let link = pod.shows(&["-d", "link", "show", "campfire0"]);
    assert!(link.contains("mtu 1400") && link.contains("UP,LOWER_UP") && link.contains("persist on"), "{link}");
    assert!(link.contains(&format!("user {USER}")), "{link}");
    let addresses = pod.shows(&["address", "show", "dev", "campfire0"]);
    assert!(addresses.contains("inet 100.80.0.7/16") && addresses.contains("inet6 fd01:203:405::7/48"), "{addresses}");
    for (to, by_mesh) in [("10.77.3.4", true), ("10.77.0.10", false), ("100.80.9.9", true)] {
        let found = pod.namespace.output("ip", &["route", "get", to]);
        assert_eq!(found.is_ok_and(|route| route.contains("dev campfire0")), by_mesh, "{to}");
    }
    assert!(pod.shows(&["-6", "route", "get", "fd77::1"]).contains("dev campfire0"));
    for family in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{family}/conf/campfire0/forwarding");
        assert_eq!(pod.namespace.output("cat", &[&path]).unwrap().trim(), "0");
    }
    pod.sidecar.tell("echo");
    for to in ["100.80.0.9", "fd01:203:405::9"] {
        pod.namespace.output("ping", &["-c", "3", "-i", "0.1", "-W", "2", to]).unwrap();
    }
    // Nothing is left of it in the node's network or the agent's.
    assert!(!Path::new("/sys/class/net/campfire0").exists());
    assert!(node.beside_the_agent(&pod.uid).tell("links").ends_with("links: lo"));
}

#[test]
fn what_was_made_lives_on_without_the_agent_and_the_next_one_goes_on() {
    let Some(mut node) = Node::new("again") else { return };
    let (mut pod, mut later) = (node.pod("web"), node.pod("later"));
    let wants = node.wants(&grant_of(&pod.uid));
    assert_eq!(pod.sidecar.ask(&wants), "made with a device");
    pod.sidecar.tell("echo");
    let mut ping = pod.namespace.command("ping");
    let ping = ping.args(["-c", "200", "-i", "0.01", "-W", "1", "100.80.0.9"]).stdout(Stdio::piped()).spawn().unwrap();
    node.kill();
    assert!(pod.other(&node).ask(&wants).starts_with("nobody"), "there is no agent");
    node.start();
    // What an agent made it knows again; what it does not know yet is who the node is.
    assert!(later.sidecar.ask(&node.wants(&grant_of(&later.uid))).starts_with("Busy: the kubelet has not registered"));
    node.register();
    let mut other = pod.other(&node);
    assert!(other.ask(&wants).starts_with("Busy: campfire0 is in use by another process"), "its sidecar has it");
    let said = ping.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("200 received, 0% packet loss"), "{said}");

    // A sidecar that is killed comes back, from another process of the pod.
    pod.sidecar = pod.other(&node);
    let begun = Instant::now();
    let mut said = pod.sidecar.ask_again(&wants);
    while said.starts_with("Busy") && begun.elapsed() < Duration::from_secs(5) {
        said = pod.sidecar.ask_again(&wants);
    }
    assert_eq!(said, "made with a device");
    pod.sidecar.tell("echo");
    pod.namespace.output("ping", &["-c", "3", "-i", "0.1", "-W", "2", "100.80.0.9"]).unwrap();
    assert_eq!(later.sidecar.ask_again(&node.wants(&grant_of(&later.uid))), "made with a device");
}

#[test]
fn asked_again_the_agent_brings_the_interface_to_the_grant() {
    let Some(node) = Node::new("regrant") else { return };
    let mut pod = node.pod("web");
    let grant = grant_of(&pod.uid);
    assert_eq!(pod.sidecar.ask(&node.wants(&grant)), "made with a device");
    pod.sidecar.tell("echo");
    // Another address of the same network, other routes; while the sidecar has the device.
    let newer = Grant {
        mtu: 1300,
        addresses: vec!["fd01:203:405::8/48".parse().unwrap(), "100.80.0.8/16".parse().unwrap()],
        routes: vec!["10.78.0.0/16".parse().unwrap()],
        ..grant.clone()
    };
    let update = Request { device: false, grant: newer.sign(&node.key).unwrap(), outside: Vec::new() }.encode().unwrap();
    assert_eq!(pod.sidecar.ask_again(&update), "made");
    let addresses = pod.shows(&["address", "show", "dev", "campfire0"]);
    assert!(addresses.contains("mtu 1300") && addresses.contains("inet 100.80.0.8/16") && addresses.contains("::8/48"), "{addresses}");
    assert!(!addresses.contains("100.80.0.7") && !addresses.contains("::7/48"), "{addresses}");
    let routes = pod.shows(&["route", "show", "table", "all"]) + &pod.shows(&["-6", "route", "show", "table", "all"]);
    assert!(routes.contains("10.78.0.0/16") && !routes.contains("10.77.0") && !routes.contains("fd77::"), "{routes}");
    assert_eq!(pod.shows(&["rule", "show"]).matches("20950:").count(), 1, "{}", pod.shows(&["rule", "show"]));
    pod.namespace.output("ping", &["-c", "3", "-i", "0.1", "-W", "2", "100.80.0.9"]).unwrap();

    // Without routes; and from here on a new device, for the old one is closed.
    let none = Grant { routes: Vec::new(), ..newer };
    pod.sidecar.tell("drop");
    assert_eq!(pod.sidecar.ask_again(&node.wants(&none)), "made with a device");
    let routes = pod.shows(&["route", "show", "table", "all"]);
    assert!(!routes.contains("10.78") && !pod.shows(&["rule", "show"]).contains("20951:"), "{routes}");
    // What somebody did to it meanwhile is put right.
    pod.namespace.ip(&["address", "flush", "dev", "campfire0"]).unwrap();
    pod.namespace.ip(&["link", "set", "campfire0", "down"]).unwrap();
    pod.sidecar.tell("drop");
    assert_eq!(pod.sidecar.ask_again(&node.wants(&grant)), "made with a device");
    pod.sidecar.tell("echo");
    pod.namespace.output("ping", &["-c", "3", "-i", "0.1", "-W", "2", "fd01:203:405::9"]).unwrap();
}

#[test]
fn who_may_not_ask_hears_why_and_has_nothing() {
    let Some(node) = Node::new("attacks") else { return };
    let (mut pod, mut other) = (node.pod("web"), node.pod("other"));
    let grant = grant_of(&pod.uid);
    let request = |grant: Vec<u8>| Request { device: true, grant, outside: Vec::new() }.encode().unwrap();
    let stranger = GrantKey::from_seed(&[8; 32]);
    let mut forged = grant.sign(&node.key).unwrap();
    forged[5] ^= 1;
    let refused = [
        (request(Vec::new()), "NotMember: without a grant"),
        (node.wants(&grant_of(&other.uid)), "WrongPod: the grant is another pod's"),
        (request(grant.sign(&stranger).unwrap()), "BadSignature: the grant: it is not signed by this cluster's operator"),
        (request(forged), "BadSignature"),
        (request(vec![1; 63]), "BadRequest: the grant"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "BadRequest: the request: it is of version 71"),
        (vec![1; MAX_MESSAGE], "BadRequest"),
        (vec![1; MAX_MESSAGE + 1], "BadRequest: a request has at most 8192 bytes"),
        (vec![1; 100_000], "BadRequest: a request has at most 8192 bytes"),
    ];
    for (request, why) in refused {
        let said = pod.sidecar.ask_again(&request);
        assert!(said.starts_with(why), "{said:?}, and not {why:?}");
    }
    assert!(pod.sidecar.ask(&node.wants(&grant)).starts_with("TooMany: a pod may ask once a second"));
    // A pod's network is where its process connects from, and that is nobody else's: not the node's, not the agent's.
    std::thread::sleep(Duration::from_secs(1));
    let said = node.on_the_node(&pod.uid).ask_again(&node.wants(&grant));
    assert!(said.starts_with("HostNetwork: "), "{said}");
    let said = node.beside_the_agent(&pod.uid).ask_again(&node.wants(&grant));
    assert!(said.starts_with("HostNetwork: "), "{said}");
    assert!(!Path::new("/sys/class/net/campfire0").exists());
    assert!(pod.namespace.output("ip", &["link", "show", "campfire0"]).is_err());
    // A descriptor that comes along is closed, and nothing else.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(pod.sidecar.tell(&format!("ask-with-descriptor {}", hex(&node.wants(&grant)))), "made with a device");
    // The socket is the agent's: nobody in the pod can put another there.
    assert_eq!(pod.sidecar.tell("tamper"), "refused: write, remove, rename, mode");
    // The key comes and changes without a restart.
    node.write_key("");
    assert!(other.sidecar.ask(&node.wants(&grant_of(&other.uid))).starts_with("NoKey: "));
    node.write_key(&stranger.public().to_string());
    assert!(other.sidecar.ask_again(&node.wants(&grant_of(&other.uid))).starts_with("BadSignature"));
    assert_eq!(other.sidecar.ask_again(&request(grant_of(&other.uid).sign(&stranger).unwrap())), "made with a device");
    let log = node.log();
    assert!(log.contains("shop/web") && !log.contains("panicked"), "{log}");
}

#[test]
fn a_pod_that_floods_the_agent_waits_and_others_do_not() {
    let Some(node) = Node::new("flood") else { return };
    let (mut pod, mut other) = (node.pod("web"), node.pod("other"));
    let before = cpu(node.agent());
    pod.sidecar.order(&format!("flood 4 {}", hex(&node.wants(&grant_of(&other.uid)))));
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    assert_eq!(other.sidecar.ask(&node.wants(&grant_of(&other.uid))), "made with a device");
    let took = begun.elapsed();
    let answers: usize = pod.sidecar.said().parse().unwrap();
    println!(
        "FIGURE: beside a flood {} ms; of the flood {answers} answers in 4 s, {} ms of CPU",
        took.as_millis(),
        cpu(node.agent()) - before
    );
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(answers <= 40, "{answers} answers: four a second are let in, and one of those is looked at");

    // Who says nothing has four places of its own pod for 5 s.
    let mut silent = pod.other(&node);
    assert_eq!(silent.tell("hold 4"), "holding 4");
    let begun = Instant::now();
    let said = pod.sidecar.ask(&node.wants(&grant_of(&pod.uid)));
    assert_eq!(said, "made with a device");
    assert!((3..8).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[test]
fn packets_that_a_sidecar_makes_up_do_not_leave_by_the_pods_other_interface() {
    let Some(node) = Node::new("inject") else { return };
    let mut pod = node.pod("web");
    let outside = node.net.namespace("outside").unwrap();
    node.net.cable((&pod.namespace, "eth0"), (&outside, "eth0")).unwrap();
    // As on a node that forwards, whose settings its pods' networks are made with.
    pod.namespace.forwards().unwrap();
    pod.namespace.sysctl(&["net.ipv4.conf.default.forwarding=1", "net.ipv6.conf.default.forwarding=1"]).unwrap();
    for (namespace, v4, v6) in [(&pod.namespace, "10.5.0.2/24", "fd05::2/64"), (&outside, "10.5.0.1/24", "fd05::1/64")] {
        namespace.ip(&["address", "add", v4, "dev", "eth0"]).unwrap();
        namespace.ip(&["address", "add", v6, "dev", "eth0", "nodad"]).unwrap();
    }
    pod.namespace.ip(&["route", "add", "default", "via", "10.5.0.1"]).unwrap();
    pod.namespace.ip(&["-6", "route", "add", "default", "via", "fd05::1"]).unwrap();
    let rules = "table inet seen {
        counter v4 { }
        counter v6 { }
        chain come {
            type filter hook prerouting priority 0;
            ip daddr 198.51.100.1 counter name v4
            ip6 daddr 2001:db8::1 counter name v6
        }
    }";
    outside.nft(rules).unwrap();
    let seen = || {
        let said = outside.output("nft", &["list", "counters"]).unwrap();
        let packets = said.split("packets ").skip(1).map(|rest| rest.split(' ').next().unwrap().parse::<u32>().unwrap());
        packets.sum::<u32>()
    };
    assert_eq!(pod.sidecar.ask(&node.wants(&grant_of(&pod.uid))), "made with a device");
    let packets = [udp("100.80.0.9", "198.51.100.1"), udp("10.5.0.2", "198.51.100.1"), udp6("fd01:203:405::9", "2001:db8::1")];
    let inject =
        |pod: &mut Pod| packets.iter().for_each(|packet| assert_eq!(pod.sidecar.tell(&format!("inject {}", hex(packet))), "written"));
    inject(&mut pod);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(seen(), 0, "a packet that the sidecar made up has left the pod");

    // Without what the agent did, they would.
    for family in ["ipv4", "ipv6"] {
        pod.namespace.sysctl(&[&format!("net.{family}.conf.campfire0.forwarding=1")]).unwrap();
    }
    pod.namespace.ip(&["rule", "del", "priority", "20950"]).unwrap();
    pod.namespace.ip(&["-6", "rule", "del", "priority", "20950"]).unwrap();
    wait_for("packets that leave", || {
        inject(&mut pod);
        seen() >= 2
    });
}

#[test]
fn volumes_are_published_and_end_as_the_kubelet_says_however_often() {
    let Some(mut node) = Node::new("volumes") else { return };
    let mut pod = node.pod("web");
    let target = node.target(&pod.uid, "campfire-node");
    let socket = fs::metadata(target.join("node.sock")).unwrap();
    assert_eq!((socket.mode() & 0o7777, fs::metadata(&target).unwrap().mode() & 0o7777), (0o666, 0o755));
    // A kubelet that restarts asks again, and the pod's socket is the same.
    node.publish(&pod.uid);
    assert_eq!(fs::metadata(target.join("node.sock")).unwrap().ino(), socket.ino());

    let invalid = |node: &Node, request| {
        let status = node.publish_as(request).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    };
    let second = node.target(&pod.uid, "second");
    fs::create_dir_all(second.parent().unwrap()).unwrap();
    invalid(&node, node.request(&pod.uid, "second"));
    invalid(&node, NodePublishVolumeRequest { readonly: false, ..node.request("another", "campfire-node") });
    invalid(&node, NodePublishVolumeRequest { target_path: "/etc".into(), ..node.request("another", "campfire-node") });
    let mut said = node.request("another", "campfire-node");
    said.volume_context.insert("csi.storage.k8s.io/pod.uid".into(), pod.uid.clone());
    invalid(&node, said);
    let mut said = node.request("another", "campfire-node");
    said.volume_context.insert("mode".into(), "0777".into());
    invalid(&node, said);
    // A link in the way is not followed; nothing is made for a pod that has no directory.
    let elsewhere = node.net.state().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let linked = node.target("linked", "campfire-node");
    fs::create_dir_all(linked.parent().unwrap().parent().unwrap()).unwrap();
    symlink(&elsewhere, linked.parent().unwrap()).unwrap();
    for uid in ["linked", "missing"] {
        assert_eq!(node.publish_as(node.request(uid, "campfire-node")).unwrap_err().code(), Code::Internal);
    }
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);

    // The end of the volume that was refused is not the end of the one that was not.
    node.unpublish(&pod.uid, "second").unwrap();
    assert_eq!(pod.sidecar.ask(&node.wants(&grant_of(&pod.uid))), "made with a device");
    let gone = "0c5d6a0e-43a5-4b0c-9d7c-000000000bad";
    node.publish(gone);
    node.kill();
    // While nobody was there a pod went, by force.
    fs::remove_dir_all(node.kubelet.join("pods").join(gone)).unwrap();
    node.start();
    node.register();
    assert!(!node.record(gone).exists() && node.record(&pod.uid).exists());
    for _ in 0..2 {
        node.unpublish(&pod.uid, "campfire-node").unwrap();
        assert!(!target.exists() && target.parent().unwrap().exists() && !node.record(&pod.uid).exists());
    }
    node.unpublish("never", "campfire-node").unwrap();
    let status = node.unpublish("../../etc", "x").unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(pod.sidecar.ask(&node.wants(&grant_of(&pod.uid))).starts_with("nobody"));
}

#[test]
fn a_crowd_that_comes_at_once_is_served_within_bounds() {
    let Some(node) = Node::new("crowd") else { return };
    let mut pods: Vec<Pod> = (0..24).map(|number| node.pod(&format!("p{number}"))).collect();
    let begun = Instant::now();
    for pod in &mut pods {
        pod.sidecar.order(&format!("ask {}", hex(&node.wants(&grant_of(&pod.uid)))));
    }
    let mut threads = 0;
    for pod in &mut pods {
        threads = threads.max(of_status(node.agent(), "Threads"));
        assert_eq!(pod.sidecar.said(), "made with a device");
    }
    let peak = of_status(node.agent(), "VmHWM");
    println!("FIGURE: {} pods at once {} ms, peak {peak} KiB, {threads} threads seen", pods.len(), begun.elapsed().as_millis());
    assert!(threads <= 8 && peak < 48 * 1_024, "{threads} threads, {peak} KiB");
}

#[test]
fn probes_tell_whether_the_agent_lives_and_whether_it_is_registered() {
    let Some(mut node) = Node::bare("probe") else { return };
    let probe = |node: &Node, ready: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_campfire-node"));
        command.args(["probe", "--kubelet-dir"]).arg(&node.kubelet).args(ready).stderr(Stdio::null()).status().unwrap().success()
    };
    assert!(!probe(&node, &[]));
    node.start();
    assert!(probe(&node, &[]) && !probe(&node, &["--ready"]));
    node.register();
    assert!(probe(&node, &["--ready"]));
    // Told to end, it takes its driver back from the kubelet.
    std::process::Command::new("kill").arg(node.agent().to_string()).status().unwrap();
    wait_for("the end of the driver's socket", || !node.driver().exists());
}

/// Not a test of its own: what runs in a pod, by orders of the test that started it.
#[test]
fn the_sidecar_of_a_pod() {
    let Some(socket) = std::env::var_os(SIDECAR) else { return };
    let socket = Path::new(&socket);
    let (mut device, mut held) = (None::<Arc<Tun>>, Vec::new());
    for line in stdin().lines() {
        let line = line.unwrap();
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let said = match verb {
            "ask" | "ask-with-descriptor" => {
                let (said, descriptor) = ask(socket, &bytes(rest), verb == "ask-with-descriptor");
                if let Some(descriptor) = descriptor {
                    let tun = Tun::adopt(descriptor, true).unwrap();
                    assert_eq!(tun.name(), "campfire0");
                    device = Some(Arc::new(tun));
                }
                said
            }
            "echo" => {
                let tun = Arc::downgrade(device.as_ref().unwrap());
                std::thread::spawn(move || echo(&tun));
                "echoing".into()
            }
            "drop" => {
                let tun = device.take().unwrap();
                let weak = Arc::downgrade(&tun);
                drop(tun);
                wait_for("the device's end", || weak.strong_count() == 0);
                "dropped".into()
            }
            "inject" => {
                device.as_ref().unwrap().write(&[IoSlice::new(&[0; HEADER]), IoSlice::new(&bytes(rest))]).unwrap();
                "written".into()
            }
            "hold" => {
                held.extend((0..rest.parse().unwrap()).map(|_| local::connect(socket).unwrap()));
                format!("holding {}", held.len())
            }
            "flood" => {
                let (seconds, request) = rest.split_once(' ').unwrap();
                flood(socket, Duration::from_secs(seconds.parse().unwrap()), &bytes(request)).to_string()
            }
            "rights" => rights(),
            "links" => {
                let mut links: Vec<_> = fs::read_dir("/proc/sys/net/ipv4/conf")
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .collect();
                links.retain(|name| name != "all" && name != "default");
                format!("links: {}", links.join(" "))
            }
            "tamper" => tamper(socket),
            _ => panic!("{verb}?"),
        };
        println!("SAYS {said}");
    }
}

fn ask(socket: &Path, request: &[u8], with_descriptor: bool) -> (String, Option<OwnedFd>) {
    let Ok(connection) = local::connect(socket) else { return ("nobody listens".into(), None) };
    let along = with_descriptor.then(|| fs::File::open("/proc/self/ns/net").unwrap());
    local::send(&connection, request, along.as_ref().map(std::os::fd::AsFd::as_fd)).unwrap();
    let mut buffer = [0; MAX_MESSAGE];
    let Ok((length, descriptor)) = local::receive_with_descriptor(&connection, &mut buffer) else { return ("no answer".into(), None) };
    match Answer::decode(&buffer[..length]) {
        Ok(Answer::Made) if descriptor.is_some() => ("made with a device".into(), descriptor),
        Ok(Answer::Made) => ("made".into(), None),
        Ok(Answer::Refused(refusal)) => {
            assert!(descriptor.is_none());
            (refusal.to_string(), None)
        }
        Err(why) => (format!("no answer: {why}"), None),
    }
}

/// How many answers came.
fn flood(socket: &Path, how_long: Duration, request: &[u8]) -> usize {
    let end = Instant::now() + how_long;
    let flooders: Vec<_> = (0..8)
        .map(|_| {
            let (socket, request) = (socket.to_owned(), request.to_owned());
            std::thread::spawn(move || {
                let mut answers = 0;
                while Instant::now() < end {
                    answers += usize::from(ask(&socket, &request, false).0.contains(": "));
                }
                answers
            })
        })
        .collect();
    flooders.into_iter().map(|flooder| flooder.join().unwrap()).sum()
}

fn rights() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let value = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        format!("{name} {}", line.split_whitespace().nth(1).unwrap())
    };
    ["Uid", "CapEff", "CapBnd", "NoNewPrivs"].map(value).join(", ")
}

/// What a process of the pod may not do with the socket.
fn tamper(socket: &Path) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = socket.parent().unwrap();
    let mut refused = Vec::new();
    for (what, done) in [
        ("write", fs::write(folder.join("other"), "")),
        ("remove", fs::remove_file(socket)),
        ("rename", fs::rename(socket, folder.join("other"))),
        ("mode", fs::set_permissions(socket, fs::Permissions::from_mode(0o777))),
    ] {
        if done.is_err() {
            refused.push(what);
        }
    }
    format!("refused: {}", refused.join(", "))
}

/// Answers pings that go into the mesh, as if from there.
fn echo(device: &Weak<Tun>) {
    let mut buffer = [0; 2_048];
    while let Some(tun) = device.upgrade() {
        let Some(length) = tun.read(&mut buffer).unwrap() else {
            drop(tun);
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let Some(packet) = buffer.get_mut(HEADER..length) else { continue };
        let (addresses, icmp, request, answer) = if packet[0] >> 4 == 4 { (12, 20, 8, 0) } else { (8, 40, 128, 129) };
        let long = (icmp - addresses) / 2;
        if packet.get(icmp) != Some(&request) {
            continue;
        }
        let (one, other) = packet[addresses..icmp].split_at_mut(long);
        one.swap_with_slice(other);
        packet[icmp] = answer;
        // RFC 1624: the checksum of what changed.
        let sum = u32::from(!u16::from_be_bytes([packet[icmp + 2], packet[icmp + 3]]))
            + (u32::from(answer) << 8)
            + u32::from(!(u16::from(request) << 8));
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        packet[icmp + 2..icmp + 4].copy_from_slice(&sum.to_be_bytes());
        tun.write(&[IoSlice::new(&[0; HEADER]), IoSlice::new(packet)]).unwrap();
    }
}

/// An empty datagram.
fn udp(from: &str, to: &str) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0];
    for address in [from, to] {
        packet.extend(address.parse::<Ipv4Addr>().unwrap().octets());
    }
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0x10, 0, 0x10, 0, 0, 8, 0, 0]);
    packet
}

fn udp6(from: &str, to: &str) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
    for address in [from, to] {
        packet.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
    }
    // Whoever forwards does not look at the checksum.
    packet.extend([0x10, 0, 0x10, 0, 0, 8, 0x12, 0x34]);
    packet
}

fn of_status(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Milliseconds of CPU.
fn cpu(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
}
