//! The programs that are measured, from outside.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use campfire_operator::cli;
use campfire_operator::webhook::containers::Defaults;
use clap::Parser as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::cluster::{CAMP, CLUSTER, SYSTEM};

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_mins(10);
/// The kernel's unit of CPU time (`USER_HZ`), a second's.
const TICKS: f64 = 100.0;

/// What the operator is told, but for its ports.
const ARGUMENTS: [&str; 13] = [
    "run",
    "--namespace",
    SYSTEM,
    "--campfire-namespaces",
    CAMP,
    "--cluster-name",
    CLUSTER,
    "--pod-name",
    "bench-0",
    "--pod-ip",
    "127.0.0.1",
    "--log",
    "warn",
];

/// What it gives sidecars.
pub fn defaults() -> Result<Defaults> {
    let cli::Command::Run(run) = cli::Cli::try_parse_from(["campfire-operator"].into_iter().chain(ARGUMENTS))?.command else {
        bail!("it does not run")
    };
    Ok(Defaults::of(&run.settings()?))
}

/// A running operator. Ends with this.
pub struct Operator {
    process: Child,
    started: Instant,
    http: u16,
    pub agent: u16,
}

/// CPU time used so far.
#[derive(Clone, Copy)]
pub struct Used {
    seconds: f64,
    at: Instant,
}

impl Used {
    /// Seconds of CPU a minute since then.
    pub fn a_minute(self, now: Self) -> f64 {
        (now.seconds - self.seconds) * 60.0 / now.at.duration_since(self.at).as_secs_f64()
    }
}

impl Operator {
    pub fn start(program: Option<&Path>, kubeconfig: &Path, log: &Path) -> Result<Self> {
        let [http, agent, webhook] = ports()?;
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = program_of(program.unwrap_or(Path::new(env!("CARGO_BIN_EXE_campfire-operator"))));
        command.args(ARGUMENTS);
        for (flag, port) in [("--http-port", http), ("--agent-port", agent), ("--webhook-port", webhook)] {
            command.arg(flag).arg(port.to_string());
        }
        command.env("KUBECONFIG", kubeconfig).stdin(Stdio::null()).stderr(log);
        Ok(Self { process: command.spawn()?, started: Instant::now(), http, agent })
    }

    /// Waits until its caches are filled. Since its start, seconds.
    pub async fn ready(&mut self) -> Result<f64> {
        loop {
            if self.get("/readyz").await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return Ok(self.started.elapsed().as_secs_f64());
            }
            self.wait("it is not ready").await?;
        }
    }

    /// Waits until it has looked at so many Campfires, and nothing waits. Since its start, seconds.
    pub async fn synced(&mut self, campfires: usize) -> Result<f64> {
        loop {
            if let Ok(metrics) = self.metrics().await {
                let sum = |name: &str| metrics.iter().filter(|(key, _)| key.starts_with(name)).map(|(_, value)| value).sum::<f64>();
                let looked = sum("campfire_operator_reconciles_total{controller=\"campfire\",result=\"ok\"");
                if looked >= campfires as f64 && sum("campfire_operator_queue{controller=\"meshpeer\"") == 0.0 {
                    return Ok(self.started.elapsed().as_secs_f64());
                }
            }
            self.wait("it does not get done").await?;
        }
    }

    /// Ends it as a kubelet does.
    pub async fn end(mut self) -> Result<()> {
        Command::new("kill").arg(self.process.id().to_string()).status()?;
        let begun = Instant::now();
        while self.process.try_wait()?.is_none() {
            ensure!(begun.elapsed() < Duration::from_secs(20), "the operator does not end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// A number of its own metrics.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        Ok(self.metrics().await?.iter().filter(|(key, _)| key.starts_with(name)).map(|(_, value)| value).sum())
    }

    /// Resident, of it anonymous, and the most that was resident, MiB.
    pub fn memory(&self) -> Result<[f64; 3]> {
        memory(self.process.id())
    }

    pub fn used(&self) -> Result<Used> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).context("/proc/PID/stat");
        Ok(Used { seconds: (ticks(11)? + ticks(12)?) / TICKS, at: Instant::now() })
    }

    async fn wait(&mut self, what: &str) -> Result<()> {
        if let Some(status) = self.process.try_wait()? {
            bail!("the operator ended: {status}; see its log beside the results");
        }
        ensure!(self.started.elapsed() < PATIENCE, "{what} within 10 minutes");
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(())
    }

    async fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let text = self.get("/metrics").await?;
        Ok(text
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)))
            .collect())
    }

    async fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One TURN server behind all Service addresses. Ends with this.
pub struct Turn(Child);

impl Turn {
    /// With the relay secrets of this directory.
    pub fn start(program: &Path, secrets: &Path, log: &Path) -> Result<Self> {
        let log = fs::File::create(log)?;
        let mut command = program_of(program);
        command.args(["--listen", "0.0.0.0:3478", "--enable-campfire", "--log", "error", "--secrets-dir"]).arg(secrets);
        let command = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn().with_context(|| format!("cannot run {}", program.display()))?))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends with this program, should that be killed.
fn program_of(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

fn memory(process: u32) -> Result<[f64; 3]> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let read = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("/proc/PID/status: {name}"))?;
        Ok(line.split_whitespace().next().unwrap_or_default().parse::<f64>()? / 1024.0)
    };
    Ok([read("VmRSS:")?, read("RssAnon:")?, read("VmHWM:")?])
}

/// Ports that are free now.
fn ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
