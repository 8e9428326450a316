//! `campfire-bench tunnel`: TCP, small datagrams and latency through two ends of a tunnel on one machine: our data plane beside
//! wireguard-go and boringtun-cli, in turns, and the medians.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use campfire_api::node::Grant;
use campfire_lab::Process;
use campfire_node::make::{Order, make};
use campfire_sys::namespace::Network;
use ipnet::Ipv4Net;
use serde::Serialize;
use serde_json::Value;

use crate::measure::{self, Reading, median};
use crate::world::{ADDRESSES, NODE, Topology, World};

/// How to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Our peer. [default: examples/static_peer beside this program]
    #[arg(long, value_name = "FILE")]
    peer: Option<PathBuf>,
    /// wireguard-go's program (`go install golang.zx2c4.com/wireguard@latest`).
    #[arg(long, value_name = "FILE", default_value = "wireguard")]
    wireguard_go: PathBuf,
    /// boringtun's program (`cargo install boringtun-cli`).
    #[arg(long, value_name = "FILE", default_value = "boringtun-cli")]
    boringtun: PathBuf,
    /// Seconds of each run.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Runs of each; the medians count.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// MTU of the tunnel, the same for all.
    #[arg(long, default_value_t = 1420)]
    mtu: u16,
    /// Small datagrams a second.
    #[arg(long, default_value_t = 50_000)]
    datagrams: u32,
    /// Between the two ends: one cable, or a node's namespace that forwards, as pods have it. Both by default.
    #[arg(long, value_enum)]
    topology: Option<Topology>,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What packets go through.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// No tunnel.
    Nothing,
    /// Our data plane, between two peers that know each other's addresses.
    Campfire,
    /// The same, with devices that a node's agent made.
    Agent,
    /// Two whole peers that may not connect directly, and the server between them.
    Fire,
    /// wireguard-go.
    WireguardGo,
    /// boringtun-cli.
    Boringtun,
}

const CONTENDERS: [Contender; 5] = [Contender::Nothing, Contender::Campfire, Contender::Fire, Contender::WireguardGo, Contender::Boringtun];

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no tunnel",
            Self::Campfire => "campfire",
            Self::Agent => "campfire, by a node's agent",
            Self::Fire => "campfire, through the fire",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun-cli, 1 thread",
        }
    }
}

const PORT: u16 = 4001;

/// Keys in hex: secrets of both ends, their public keys, the preshared key.
const SECRETS: [[u8; 32]; 2] = [[1; 32], [2; 32]];
const PUBLIC: [&str; 2] = [
    "a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209",
    "ce8d3ad1ccb633ec7b70c17814a5c76ecd029685050d344745ba05870e587d59",
];
const PRESHARED: [u8; 32] = [3; 32];

/// One run's figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// See [`Row`], and the next four too.
    pub gbits: f64,
    pub machine_s_per_gb: f64,
    pub process_s_per_gb: f64,
    pub datagram_loss: f64,
    pub datagram_machine_us: f64,
    idle_ms: f64,
    loaded_ms: f64,
    peak_mib: f64,
    steal: f64,
}

/// One line of the table.
#[derive(Serialize)]
struct Row {
    topology: Topology,
    contender: &'static str,
    /// TCP, one stream.
    gbits: f64,
    /// CPU seconds of the whole machine for a GB, both ends and iperf3 included.
    machine_s_per_gb: f64,
    /// CPU seconds of the tunnel's processes for a GB: both ends, and the server where there is one.
    process_s_per_gb: f64,
    /// Share of 64-byte datagrams lost at the fixed rate.
    datagram_loss: f64,
    /// Microseconds of the whole machine for a datagram that arrived.
    datagram_machine_us: f64,
    /// Round trip, median, idle.
    idle_ms: f64,
    /// Round trip, median, beside four TCP streams.
    loaded_ms: f64,
    /// Most memory of one end's process (`VmHWM`), MiB.
    peak_mib: f64,
    /// Throughput against wireguard-go.
    of_wireguard_go: f64,
    runs: usize,
}

/// Measures and prints.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut programs = Programs::of(&measure::own_folder()?);
    if let Some(peer) = &arguments.peer {
        programs.peer.clone_from(peer);
    }
    programs.check()?;
    println!(
        "{} × {}, MTU {}, {} runs of {} s each, interleaved",
        measure::cpus(),
        measure::cpu_model(),
        arguments.mtu,
        arguments.runs,
        arguments.seconds
    );
    let mut rows = Vec::new();
    for topology in Topology::chosen(arguments.topology) {
        let mut figures: [Vec<Figures>; CONTENDERS.len()] = Default::default();
        for _ in 0..arguments.runs {
            for (contender, figures) in CONTENDERS.into_iter().zip(&mut figures) {
                let one = measure_one(contender, topology, arguments, &programs).with_context(|| contender.name())?;
                figures.push(one);
            }
        }
        rows.extend(table(topology, &figures));
    }
    print(&rows);
    if let Some(path) = &arguments.output {
        let all = serde_json::json!({ "cpu": measure::cpu_model(), "cpus": measure::cpus(), "mtu": arguments.mtu, "rows": rows });
        fs::write(path, serde_json::to_string_pretty(&all)?)?;
    }
    Ok(())
}

/// One run of ours, with the programs of one build.
pub fn measure_ours(folder: &Path, topology: Topology, contender: Contender, seconds: u32) -> Result<Figures> {
    let programs = Programs::of(folder);
    programs.check()?;
    let arguments = Arguments {
        peer: None,
        wireguard_go: PathBuf::new(),
        boringtun: PathBuf::new(),
        seconds,
        runs: 1,
        mtu: 1420,
        datagrams: 50_000,
        topology: Some(topology),
        output: None,
    };
    measure_one(contender, topology, &arguments, &programs)
}

/// Our programs, of one build.
struct Programs {
    peer: PathBuf,
    campfire: PathBuf,
    turn: PathBuf,
}

impl Programs {
    /// Those in one folder (`target/release`).
    fn of(folder: &Path) -> Self {
        Self { peer: folder.join("examples/static_peer"), campfire: folder.join("campfire"), turn: folder.join("campfire-turn") }
    }

    fn check(&self) -> Result<()> {
        match [&self.peer, &self.campfire, &self.turn].into_iter().find(|program| !program.exists()) {
            None => Ok(()),
            Some(missing) => bail!(
                "{} is missing: cargo build --release -p campfire-turn -p campfire-sidecar --bins --example static_peer",
                missing.display()
            ),
        }
    }
}

fn measure_one(contender: Contender, topology: Topology, arguments: &Arguments, programs: &Programs) -> Result<Figures> {
    let world = World::new(topology)?;
    let ends = match contender {
        Contender::Nothing => Vec::new(),
        Contender::Campfire => vec![ours(&world, &programs.peer, 1, arguments.mtu)?, ours(&world, &programs.peer, 0, arguments.mtu)?],
        Contender::Agent => vec![by_agent(&world, &programs.peer, 1, arguments.mtu)?, by_agent(&world, &programs.peer, 0, arguments.mtu)?],
        Contender::Fire => through_the_fire(&world, programs, arguments.mtu)?,
        Contender::WireguardGo => {
            vec![theirs(&world, &arguments.wireguard_go, &["-f"], 1)?, theirs(&world, &arguments.wireguard_go, &["-f"], 0)?]
        }
        Contender::Boringtun => {
            let flags = ["--foreground", "--disable-drop-privileges", "--threads", "1"];
            vec![theirs(&world, &arguments.boringtun, &flags, 1)?, theirs(&world, &arguments.boringtun, &flags, 0)?]
        }
    };
    let address = match contender {
        Contender::Nothing => ADDRESSES[1].to_string(),
        Contender::Fire => overlay_address(&world, 1)?,
        Contender::Agent => "10.9.0.2".to_owned(),
        Contender::Campfire | Contender::WireguardGo | Contender::Boringtun => {
            for side in 0..2 {
                addresses(&world, side, arguments.mtu)?;
            }
            "10.9.0.2".to_owned()
        }
    };
    let address = address.as_str();
    wait_for(&world, address)?;
    let mut figures = Figures { idle_ms: ping(&world, address, 200)?, ..Figures::default() };
    let processes: Vec<u32> = ends.iter().map(Process::id).collect();

    let server = iperf_server(&world, address)?;
    let before = readings(&processes)?;
    let result = iperf(&world, address, &["-t", &arguments.seconds.to_string()])?;
    let after = readings(&processes)?;
    let received = number(&result, "/end/sum_received/bytes")?;
    let used: Vec<_> = after.iter().zip(&before).map(|(after, before)| after.since(before)).collect();
    figures.gbits = number(&result, "/end/sum_received/bits_per_second")? / 1e9;
    figures.machine_s_per_gb = used[0].machine.as_secs_f64() / (received / 1e9);
    figures.process_s_per_gb = used[1..].iter().map(|used| used.process.as_secs_f64()).sum::<f64>() / (received / 1e9);
    figures.steal = used[0].steal;

    let rate = u64::from(arguments.datagrams) * 64 * 8;
    let before = Reading::take(None)?;
    let result = iperf(&world, address, &["-u", "-l", "64", "-b", &rate.to_string(), "-t", &(arguments.seconds / 2).max(2).to_string()])?;
    let used = Reading::take(None)?.since(&before);
    let (packets, lost) = (number(&result, "/end/sum/packets")?, number(&result, "/end/sum/lost_packets")?);
    figures.datagram_loss = lost / packets.max(1.0);
    figures.datagram_machine_us = used.machine.as_secs_f64() * 1e6 / (packets - lost).max(1.0);

    let mut load = world.ends[0].command("iperf3").args(["-c", address, "-P", "4", "-t", "4"]).stdout(Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_secs(1));
    figures.loaded_ms = ping(&world, address, 200)?;
    load.wait()?;
    figures.peak_mib = processes.iter().filter_map(|id| peak_mib(*id)).fold(0.0, f64::max);
    drop((server, ends, world));
    Ok(figures)
}

/// The machine's, then each process's.
fn readings(processes: &[u32]) -> Result<Vec<Reading>> {
    std::iter::once(None).chain(processes.iter().copied().map(Some)).map(Reading::take).collect()
}

fn ours(world: &World, program: &Path, side: usize, mtu: u16) -> Result<Process> {
    let child = peer(world, program, side, &device(side), mtu).spawn()?;
    let process = Process(child);
    wait_for_device(world, side)?;
    Ok(process)
}

/// With a device that a node's agent made, as it makes them for pods: persistent, with its rules and settings, and sent to the peer.
fn by_agent(world: &World, program: &Path, side: usize, mtu: u16) -> Result<Process> {
    let end = &world.ends[side];
    let address = Ipv4Net::new(Ipv4Addr::new(10, 9, 0, side as u8 + 1), 24)?;
    let order = Order {
        network: Network::open(&Path::new("/run/netns").join(end.full_name()))?,
        owner: 0,
        grant: Grant { pod_uid: format!("end-{side}"), mtu, addresses: vec![address.into()], routes: Vec::new() },
        outside: BTreeSet::new(),
        device: true,
        node: PathBuf::from("/dev/net/tun"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let made = runtime.block_on(make(order, Duration::from_secs(5)))?.context("no device was made")?;
    Ok(Process(peer(world, program, side, "-", mtu).stdin(made).spawn()?))
}

fn peer(world: &World, program: &Path, side: usize, device: &str, mtu: u16) -> Command {
    let (own, other) = ends(side);
    let flag = if side == 0 { ",initiate" } else { "" };
    let peer = format!("{},{other}:{PORT},10.9.0.{}/32{flag}", PUBLIC[1 - side], 2 - side);
    let mut command = world.ends[side].command(program);
    command.args(["run", device, &format!("{own}:{PORT}"), &hex(&SECRETS[side]), &hex(&PRESHARED), &mtu.to_string(), &peer]);
    command.stdout(Stdio::null());
    command
}

/// `campfire-turn`, and `campfire up` at both ends.
fn through_the_fire(world: &World, Programs { campfire, turn, .. }: &Programs, mtu: u16) -> Result<Vec<Process>> {
    let files = std::env::temp_dir().join("campfire-bench");
    let secrets = files.join("secrets");
    fs::create_dir_all(&secrets)?;
    let psk = files.join("psk");
    // A key of the bench's own, worth nothing elsewhere.
    fs::write(&psk, hex(&[7; 32]))?;
    fs::set_permissions(&psk, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let say = |what: &str| -> Result<String> {
        let output = Command::new(campfire).args(["key", what, "--psk-file"]).arg(&psk).output()?;
        if !output.status.success() {
            bail!("campfire key {what}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    fs::write(secrets.join(say("fingerprint")?), say("relay-secret")?)?;
    // Pods have the server on the node between them; on one cable it has to sit at one end.
    let (place, address) = world.node.as_ref().map_or((&world.ends[1], ADDRESSES[1]), |node| (node, NODE[0]));
    let server = place
        .command(turn)
        .args(["--enable-campfire", "--listen", "0.0.0.0:3478", "--secrets-dir"])
        .arg(&secrets)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut processes = vec![Process(server)];
    for side in [1, 0] {
        let peer = world.ends[side]
            .command(campfire)
            .args(["up", "--no-direct", "--interface", &device(side), "--mtu", &mtu.to_string()])
            .args(["--server", &format!("fire={address}:3478"), "--psk-file"])
            .arg(&psk)
            .arg("--identity-file")
            .arg(files.join(format!("identity-{side}")))
            .arg("--run-dir")
            .arg(files.join(format!("run-{side}")))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        processes.push(Process(peer));
    }
    for side in 0..2 {
        wait_for_device(world, side)?;
    }
    Ok(processes)
}

/// The global IPv6 address that a peer gave its device.
fn overlay_address(world: &World, side: usize) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let output =
            world.ends[side].command("ip").args(["-6", "-o", "address", "show", "dev", &device(side), "scope", "global"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if let Some(address) = text.split_whitespace().skip_while(|word| *word != "inet6").nth(1).and_then(|cidr| cidr.split('/').next()) {
            return Ok(address.to_owned());
        }
        if Instant::now() > deadline {
            bail!("no address on {} within 5 s", device(side));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn theirs(world: &World, program: &Path, flags: &[&str], side: usize) -> Result<Process> {
    let child = world.ends[side]
        .command(program)
        .args(flags)
        .arg(device(side))
        .env("WG_PROCESS_FOREGROUND", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| program.display().to_string())?;
    let process = Process(child);
    wait_for_device(world, side)?;
    let (_, other) = ends(side);
    let configuration = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n[Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = 10.9.0.{}/32\nEndpoint = {other}:{PORT}\n",
        base64(&SECRETS[side]),
        base64(&unhex(PUBLIC[1 - side])),
        base64(&PRESHARED),
        2 - side
    );
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut set = world.ends[side]
            .command("wg")
            .args(["setconf", &device(side), "/dev/stdin"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        set.stdin.take().context("stdin")?.write_all(configuration.as_bytes())?;
        if set.wait()?.success() {
            return Ok(process);
        }
        if Instant::now() > deadline {
            bail!("wg (Debian's package wireguard-tools) cannot configure {}", program.display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The addresses of one end and of the other.
fn ends(side: usize) -> (Ipv4Addr, Ipv4Addr) {
    (ADDRESSES[side], ADDRESSES[1 - side])
}

fn device(side: usize) -> String {
    format!("cfb{side}")
}

fn wait_for_device(world: &World, side: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !world.ends[side].command("ip").args(["link", "show", &device(side)]).output()?.status.success() {
        if Instant::now() > deadline {
            bail!("no interface within 5 s");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn addresses(world: &World, side: usize, mtu: u16) -> Result<()> {
    let (end, device) = (&world.ends[side], device(side));
    end.address(&device, [10, 9, 0, side as u8 + 1], 24)?;
    end.mtu(&device, mtu)?;
    end.up(&device)
}

fn wait_for(world: &World, address: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !world.ends[0].command("ping").args(["-c", "1", "-W", "1", address]).output()?.status.success() {
        if Instant::now() > deadline {
            bail!("{address} does not answer within 15 s");
        }
    }
    Ok(())
}

/// Median round trip, milliseconds.
fn ping(world: &World, address: &str, count: u32) -> Result<f64> {
    let output = world.ends[0].command("ping").args(["-i", "0.01", "-c", &count.to_string(), "-W", "1", address]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let times = text.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse::<f64>().ok());
    Ok(median(times))
}

fn iperf_server(world: &World, address: &str) -> Result<Process> {
    let child = world.ends[1].command("iperf3").args(["-s", "-B", address]).stdout(Stdio::null()).spawn().context("iperf3")?;
    std::thread::sleep(Duration::from_millis(300));
    Ok(Process(child))
}

fn iperf(world: &World, address: &str, arguments: &[&str]) -> Result<Value> {
    let Output { status, stdout, stderr } = world.ends[0].command("iperf3").args(["-J", "-c", address]).args(arguments).output()?;
    if !status.success() {
        bail!("iperf3: {}{}", String::from_utf8_lossy(&stderr), String::from_utf8_lossy(&stdout));
    }
    Ok(serde_json::from_slice(&stdout)?)
}

fn number(value: &Value, pointer: &str) -> Result<f64> {
    value.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("iperf3 says no {pointer}"))
}

/// Most memory that a process had, of its own account.
fn peak_mib(id: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}

fn table(topology: Topology, figures: &[Vec<Figures>; CONTENDERS.len()]) -> Vec<Row> {
    let of = |index: usize, field: fn(&Figures) -> f64| median(figures[index].iter().map(field));
    let go = CONTENDERS.iter().position(|contender| *contender == Contender::WireguardGo).map_or(f64::NAN, |index| of(index, |f| f.gbits));
    let row = |index: usize| Row {
        topology,
        contender: CONTENDERS[index].name(),
        gbits: of(index, |f| f.gbits),
        machine_s_per_gb: of(index, |f| f.machine_s_per_gb),
        process_s_per_gb: of(index, |f| f.process_s_per_gb),
        datagram_loss: of(index, |f| f.datagram_loss),
        datagram_machine_us: of(index, |f| f.datagram_machine_us),
        idle_ms: of(index, |f| f.idle_ms),
        loaded_ms: of(index, |f| f.loaded_ms),
        peak_mib: of(index, |f| f.peak_mib),
        of_wireguard_go: of(index, |f| f.gbits) / go,
        runs: figures[index].len(),
    };
    (0..CONTENDERS.len()).map(row).collect()
}

fn print(rows: &[Row]) {
    println!(
        "{:5} {:24} {:>7} {:>6} {:>9} {:>9} {:>7} {:>9} {:>8} {:>9} {:>8}",
        "", "", "Gbit/s", "×go", "machine", "process", "64 B", "machine", "RTT idle", "RTT load", "peak"
    );
    println!(
        "{:5} {:24} {:>7} {:>6} {:>9} {:>9} {:>7} {:>9} {:>8} {:>9} {:>8}",
        "", "", "", "", "s/GB", "s/GB", "lost", "µs/p", "ms", "ms", "MiB"
    );
    for row in rows {
        println!(
            "{:5} {:24} {:>7.2} {:>6.2} {:>9.2} {:>9.2} {:>6.1}% {:>9.2} {:>8.2} {:>9.2} {:>8.1}",
            if row.topology == Topology::Bare { "bare" } else { "pod" },
            row.contender,
            row.gbits,
            row.of_wireguard_go,
            row.machine_s_per_gb,
            row.process_s_per_gb,
            row.datagram_loss * 100.0,
            row.datagram_machine_us,
            row.idle_ms,
            row.loaded_ms,
            row.peak_mib,
        );
    }
    println!("machine: CPU time of everything, iperf3 included; process: both ends of the tunnel; peak: VmHWM of one end");
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).filter_map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().chain([&0, &0]).take(3).fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        text.extend((0..4).map(|at| if at > chunk.len() { '=' } else { char::from(DIGITS[(word >> (18 - 6 * at)) as usize & 63]) }));
    }
    text
}
