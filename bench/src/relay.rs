//! `campfire-bench relay`: the same load through campfire-turn and coturn, in turns, and the medians.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use campfire_lab::Process;
use serde::Serialize;
use tempfile::TempDir;

use crate::client::{self, USER};
use crate::load::Measured;
use crate::measure::{self, Reading, median};
use crate::world::{ADDRESSES, NETWORK, Topology, World};

/// How to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Our server's program. [default: campfire-turn beside this program]
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// coturn's program.
    #[arg(long, value_name = "FILE", default_value = "turnserver")]
    coturn: PathBuf,
    /// Seconds of each run.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Runs of each; the medians count.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Between clients and server: one cable, or a node that forwards as to a pod. Both by default.
    #[arg(long, value_enum)]
    topology: Option<Topology>,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs with more of the machine taken away by others are measured again,
const MOST_STEAL: f64 = 0.02;
/// so many times in all; then the one with the least counts.
const TRIES: usize = 4;
/// With more of the machine busy before the start, the machine's CPU time says little.
const MOST_BUSY: f64 = 0.1;

/// A kind of load.
#[derive(Clone, Copy, Serialize)]
struct Load {
    name: &'static str,
    rate: u32,
    train: usize,
    size: usize,
}

const LOADS: [Load; 4] = [
    Load { name: "singles, 20,000 a second", rate: 20_000, train: 1, size: 1_200 },
    Load { name: "singles, 50,000 a second", rate: 50_000, train: 1, size: 1_200 },
    Load { name: "trains of 16", rate: 50_000, train: 16, size: 1_316 },
    Load { name: "trains of 44", rate: 50_000, train: 44, size: 1_316 },
];

/// Who relays, and between whom.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contender {
    Members,
    Allocations,
    Coturn,
    Baseline,
}

const CONTENDERS: [Contender; 4] = [Contender::Members, Contender::Allocations, Contender::Coturn, Contender::Baseline];

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::Members => "campfire-turn, members",
            Self::Allocations => "campfire-turn, allocations",
            Self::Coturn => "coturn, allocations",
            Self::Baseline => "no relay (sink)",
        }
    }

    fn way(self) -> &'static str {
        match self {
            Self::Members => "members",
            Self::Allocations | Self::Coturn => "allocations",
            Self::Baseline => "sink",
        }
    }
}

/// One line of the table.
#[derive(Serialize)]
struct Row {
    topology: Topology,
    load: &'static str,
    contender: &'static str,
    /// Datagrams a second that arrived.
    packets: f64,
    /// Share lost.
    lost: f64,
    /// Microseconds of the server's CPU time for a datagram.
    process: f64,
    /// Microseconds of the machine's CPU time for a datagram, without what the load alone takes.
    machine: f64,
    /// Against coturn under the same load.
    process_ratio: Option<f64>,
    machine_ratio: Option<f64>,
    /// Largest share of the machine that others took away.
    steal: f64,
}

/// Measures and prints.
pub fn run(arguments: &Arguments) -> Result<()> {
    let server = match &arguments.server {
        Some(server) => server.clone(),
        None => std::env::current_exe()?.with_file_name("campfire-turn"),
    };
    if !server.exists() {
        bail!("{} is missing: cargo build --release -p campfire-turn, or give --server", server.display());
    }
    let version = Command::new(&arguments.coturn).arg("--version").output();
    let Ok(version) = version else { bail!("{} is missing: install Debian's package coturn", arguments.coturn.display()) };
    let coturn = String::from_utf8_lossy(&version.stdout).lines().last().unwrap_or("").trim().to_owned();
    let files = Files::new()?;

    println!(
        "{} × {}, coturn {coturn}, {} runs of {} s each, interleaved",
        measure::cpus(),
        measure::cpu_model(),
        arguments.runs,
        arguments.seconds
    );
    let begin = Reading::take(None)?;
    std::thread::sleep(Duration::from_secs(1));
    let busy = Reading::take(None)?.since(&begin);
    let busy = busy.machine.as_secs_f64() / busy.elapsed.as_secs_f64() / f64::from(measure::cpus());
    if busy > MOST_BUSY {
        println!("note: {:.0} % of this machine is busy with other things; trust the process's column alone", busy * 100.0);
    }
    let mut rows = Vec::new();
    for topology in Topology::chosen(arguments.topology) {
        let world = World::new(topology)?;
        for load in LOADS {
            let mut runs: [Vec<Measured>; 4] = Default::default();
            for _ in 0..arguments.runs {
                for (contender, runs) in CONTENDERS.into_iter().zip(&mut runs) {
                    let start = || match contender {
                        Contender::Members | Contender::Allocations => ours(&world, &server, &files),
                        Contender::Coturn => coturn_server(&world, &arguments.coturn),
                        Contender::Baseline => sink(&world),
                    };
                    let measured = measure_quietly(&world, contender, load, arguments.seconds, start)
                        .with_context(|| format!("{}, {}", contender.name(), load.name))?;
                    runs.push(measured);
                }
            }
            rows.extend(table(topology, load, &runs));
        }
    }
    print(&rows);
    if let Some(path) = &arguments.output {
        let all = serde_json::json!({
            "busy": busy, "cpu": measure::cpu_model(), "cpus": measure::cpus(), "coturn": coturn, "loads": LOADS, "rows": rows,
        });
        fs::write(path, serde_json::to_string_pretty(&all)?)?;
    }
    Ok(())
}

/// What `pairs` asks for: a name, and which load.
pub const PAIRED: [(&str, usize); 2] = [("relay singles", 1), ("relay trains of 16", 2)];

/// One run of ours between members, with the server of one build; without a server, what the load alone takes.
pub fn measure_ours(server: Option<&Path>, world: &World, files: &Files, load: usize, seconds: f64) -> Result<Measured> {
    match server {
        Some(server) => measure_quietly(world, Contender::Members, LOADS[load], seconds, || ours(world, server, files)),
        None => measure_quietly(world, Contender::Baseline, LOADS[load], seconds, || sink(world)),
    }
}

/// What our server reads.
pub struct Files {
    secrets: PathBuf,
    users: PathBuf,
    _folder: TempDir,
}

impl Files {
    /// Writes them.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (secrets, users) = (folder.path().join("secrets"), folder.path().join("users"));
        fs::create_dir(&secrets)?;
        client::write_secret(&secrets.join("bench"))?;
        fs::write(&users, format!("{}:{}\n", USER.0, USER.1))?;
        fs::set_permissions(&users, fs::Permissions::from_mode(0o600))?;
        Ok(Self { secrets, users, _folder: folder })
    }
}

/// Measures until others leave the machine alone.
fn measure_quietly(world: &World, contender: Contender, load: Load, seconds: f64, start: impl Fn() -> Result<Process>) -> Result<Measured> {
    let mut best: Option<Measured> = None;
    for _ in 0..TRIES {
        let measured = measure_one(world, contender, load, seconds, &start()?)?;
        let quiet = measured.steal <= MOST_STEAL;
        if best.as_ref().is_none_or(|best| measured.steal < best.steal) {
            best = Some(measured);
        }
        if quiet {
            break;
        }
    }
    best.context("no run")
}

fn measure_one(world: &World, contender: Contender, load: Load, seconds: f64, process: &Process) -> Result<Measured> {
    let output = world.ends[0]
        .command(std::env::current_exe()?)
        .args(["load", "--way", contender.way()])
        .args(["--server", &server_address().to_string()])
        .args(["--process", &process.id().to_string(), "--rate", &load.rate.to_string()])
        .args(["--train", &load.train.to_string(), "--size", &load.size.to_string(), "--seconds", &seconds.to_string()])
        .output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn ours(world: &World, program: &Path, files: &Files) -> Result<Process> {
    let listen = format!("udp://{}", server_address());
    let child = world.ends[1]
        .command(program)
        .args(["--listen", &listen, "--enable-campfire", "--secrets-dir"])
        .arg(&files.secrets)
        .arg("--users-file")
        .arg(&files.users)
        .args(["--relay-address", &server_address().ip().to_string(), "--log", "error"])
        .args(["--allow-peer", &format!("{}/{}", NETWORK.0, NETWORK.1)])
        .stdout(Stdio::null())
        .spawn()?;
    started(child)
}

fn coturn_server(world: &World, program: &PathBuf) -> Result<Process> {
    let address = server_address().ip().to_string();
    let child = world.ends[1]
        .command(program)
        .args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--no-stdout-log", "--log-file", "/dev/null", "--pidfile", "/dev/null"])
        .args(["--listening-ip", &address, "--relay-ip", &address, "--listening-port", "3478"])
        .args(["--lt-cred-mech", "--realm", "bench", "--user", &format!("{}:{}", USER.0, USER.1)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    started(child)
}

fn sink(world: &World) -> Result<Process> {
    let child = world.ends[1].command(std::env::current_exe()?).args(["sink", "--listen", &server_address().to_string()]).spawn()?;
    started(child)
}

/// Where the server is: at the second end.
fn server_address() -> SocketAddr {
    SocketAddr::from((ADDRESSES[1], 3478))
}

/// Gives a server the time to bind its sockets.
fn started(child: std::process::Child) -> Result<Process> {
    let mut process = Process(child);
    std::thread::sleep(Duration::from_millis(700));
    match process.0.try_wait()? {
        Some(status) => bail!("the server ended at once ({status})"),
        None => Ok(process),
    }
}

fn table(topology: Topology, load: Load, runs: &[Vec<Measured>; 4]) -> Vec<Row> {
    let per_packet =
        |runs: &[Measured], time: fn(&Measured) -> f64| median(runs.iter().map(|run| time(run) * 1e6 / run.received.max(1) as f64));
    let of = |wanted: Contender| CONTENDERS.iter().zip(runs).find(|(c, _)| **c == wanted).map_or(&[][..], |(_, runs)| runs);
    let baseline = per_packet(of(Contender::Baseline), |run| run.machine);
    let machine = |contender| per_packet(of(contender), |run| run.machine) - baseline;
    let process = |contender| per_packet(of(contender), |run| run.process);
    let ratio = |contender, value: f64, coturn: f64| (contender != Contender::Baseline).then_some(value / coturn);
    let row = |(contender, runs): (Contender, &Vec<Measured>)| Row {
        topology,
        load: load.name,
        contender: contender.name(),
        packets: median(runs.iter().map(|run| run.received as f64 / run.seconds)),
        lost: median(runs.iter().map(|run| 1.0 - run.received as f64 / run.sent.max(1) as f64)),
        process: process(contender),
        machine: if contender == Contender::Baseline { baseline } else { machine(contender) },
        process_ratio: ratio(contender, process(contender), process(Contender::Coturn)),
        machine_ratio: ratio(contender, machine(contender), machine(Contender::Coturn)),
        steal: runs.iter().map(|run| run.steal).fold(0.0, f64::max),
    };
    CONTENDERS.into_iter().zip(runs).map(row).collect()
}

fn print(rows: &[Row]) {
    println!(
        "{:5} {:26} {:27} {:>9} {:>6} {:>12} {:>12} {:>8} {:>8}",
        "world", "load", "relay", "packets/s", "lost", "process µs/p", "machine µs/p", "process×", "machine×"
    );
    for row in rows {
        let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        println!(
            "{:5} {:26} {:27} {:>9.0} {:>5.1}% {:>12.2} {:>12.2} {:>8} {:>8}{}",
            format!("{:?}", row.topology).to_lowercase(),
            row.load,
            row.contender,
            row.packets,
            row.lost * 100.0,
            row.process,
            row.machine,
            ratio(row.process_ratio),
            ratio(row.machine_ratio),
            if row.steal > MOST_STEAL { format!("  ({:.0} % stolen)", row.steal * 100.0) } else { String::new() },
        );
    }
    println!(
        "process: CPU time of the server; machine: of everything, less what the load alone takes; ×: against coturn, smaller is better"
    );
}
