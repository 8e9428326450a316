//! `campfire-bench members`: many real members on one real server: how long joining takes and what a seat costs.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use campfire_lab::Process;

use crate::client::{self, Camping};

/// How many, and where.
#[derive(clap::Args)]
pub struct Arguments {
    /// Our server's program. [default: campfire-turn beside this program]
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// Members, all in one room.
    #[arg(long, default_value_t = 1000)]
    members: usize,
    /// Bytes of an announcement.
    #[arg(long, default_value_t = 250)]
    announcement: usize,
}

/// A request that is not answered is sent again after this.
const AGAIN: Duration = Duration::from_millis(500);
/// Nobody waits longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures and prints.
pub fn run(arguments: &Arguments) -> Result<()> {
    let program = match &arguments.server {
        Some(server) => server.clone(),
        None => std::env::current_exe()?.with_file_name("campfire-turn"),
    };
    let files = tempfile::tempdir()?;
    client::write_secret(&files.path().join("bench"))?;
    let address = free_port()?;
    let server = Process(
        Command::new(&program)
            .args(["--listen", &format!("udp://{address}"), "--enable-campfire", "--log", "error", "--secrets-dir"])
            .arg(files.path())
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?,
    );
    std::thread::sleep(Duration::from_millis(700));

    // One member to begin with: code, room and buffers are there, what follows is what members cost.
    join(address, 1, arguments.announcement)?;
    let empty = resident(server.id())?;
    let begin = Instant::now();
    let (_sockets, slowest) = join(address, arguments.members, arguments.announcement)?;
    let all = begin.elapsed();
    std::thread::sleep(Duration::from_secs(1));
    let full = resident(server.id())?;
    let each = full.saturating_sub(empty) as f64 / arguments.members as f64;
    println!(
        "{} members joined in {:.0} ms (slowest answer {:.0} ms); the server grew from {} to {} KiB: {:.0} bytes a member, {:.0} without its announcement of {}",
        arguments.members,
        all.as_secs_f64() * 1e3,
        slowest.as_secs_f64() * 1e3,
        empty / 1024,
        full / 1024,
        each,
        each - arguments.announcement as f64,
        arguments.announcement,
    );
    Ok(())
}

/// Camps with so many members at once; their sockets, and the longest wait for an answer.
fn join(server: SocketAddr, members: usize, announcement: usize) -> Result<(Vec<UdpSocket>, Duration)> {
    let mut waiting = Vec::new();
    for _ in 0..members {
        let socket = client::socket(server)?;
        socket.set_nonblocking(true)?;
        let camping = Camping::new(announcement)?;
        socket.send(camping.request())?;
        waiting.push((socket, camping, Instant::now(), Instant::now()));
    }
    let mut joined = Vec::new();
    let mut slowest = Duration::ZERO;
    let begin = Instant::now();
    let mut bytes = [0; 2048];
    while !waiting.is_empty() {
        ensure!(begin.elapsed() < PATIENCE, "{} of {members} members were not let in", waiting.len());
        let mut later = Vec::new();
        for (socket, camping, begun, mut sent) in waiting {
            let mut answered = false;
            while let Ok(length) = socket.recv(&mut bytes) {
                answered |= camping.answers(bytes.get(..length).unwrap_or_default())?;
            }
            if answered {
                slowest = slowest.max(begun.elapsed());
                joined.push(socket);
                continue;
            }
            if sent.elapsed() > AGAIN {
                socket.send(camping.request())?;
                sent = Instant::now();
            }
            later.push((socket, camping, begun, sent));
        }
        waiting = later;
    }
    Ok((joined, slowest))
}

fn free_port() -> Result<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}

/// Resident memory of a process, bytes.
fn resident(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let Some(kibibytes) = line.split_whitespace().next() else { bail!("VmRSS") };
    Ok(kibibytes.parse::<u64>()? * 1024)
}
