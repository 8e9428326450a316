//! The project's own programs on a world's hosts.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::world::Host;

/// Where the project's binaries are: beside this program, or one folder up from a test's.
pub fn binary(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    for folder in me.ancestors().skip(1).take(2) {
        let candidate = folder.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("{name} is not built; run `cargo build -p campfire-turn -p campfire-sidecar` (with --release for the demo and benches)")
}

/// A running `campfire-turn`.
#[derive(Debug)]
pub struct TurnServer {
    /// Where it runs.
    pub host: Host,
    child: Option<Child>,
    secrets: PathBuf,
    certificate: Option<Certificate>,
}

/// What a server shows over TLS: PEM files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl TurnServer {
    /// Starts one that serves the campfires whose relay secrets are in folder `secrets`, on UDP and TCP 3478 and
    /// TCP 443.
    pub fn start(host: Host, secrets: &Path) -> Result<Self> {
        Self::start_with(host, secrets, None)
    }

    /// The same; with a certificate TCP 443 is TLS.
    pub fn start_with(host: Host, secrets: &Path, certificate: Option<Certificate>) -> Result<Self> {
        let mut server = Self { host, child: None, secrets: secrets.to_owned(), certificate };
        server.restart()?;
        Ok(server)
    }

    /// Starts it (again); it remembers nothing.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let log = File::options().create(true).append(true).open(self.host.state().join("campfire-turn.log"))?;
        let mut command = self.host.command(binary("campfire-turn")?);
        command.args(["--enable-campfire", "--secrets-dir"]).arg(&self.secrets);
        for address in [self.host.ipv4.map(|a| a.to_string()), self.host.ipv6.map(|a| format!("[{a}]"))].into_iter().flatten() {
            let scheme = if self.certificate.is_some() { "tls" } else { "tcp" };
            command.args(["--listen", &format!("{address}:3478"), "--listen", &format!("{scheme}://{address}:443")]);
        }
        if let Some(Certificate { chain, key }) = &self.certificate {
            command.arg("--tls-cert").arg(chain).arg("--tls-key").arg(key);
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// Kills it without a word to anybody (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Drop for TurnServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a peer is told beside the key.
#[derive(Clone, Debug, Default)]
pub struct PeerOptions {
    /// Servers, as `--server` takes them.
    pub servers: Vec<String>,
    /// Cluster name.
    pub cluster: String,
    /// Further arguments.
    pub extra: Vec<String>,
    /// Log filter.
    pub log: Option<String>,
    /// A program ([`emulator`]) that it runs under, and what that emulates.
    pub under: Option<(PathBuf, &'static str)>,
}

/// A running `campfire up`.
#[derive(Debug)]
pub struct Peer {
    /// Where it runs.
    pub host: Host,
    child: Child,
}

/// Makes the program `emulate` in `state`: others run under it as with a kernel that is not here (`lab/src/emulate.c` says which there are).
pub fn emulator(state: &Path) -> Result<PathBuf> {
    let (source, program) = (state.join("emulate.c"), state.join("emulate"));
    fs::write(&source, include_str!("emulate.c"))?;
    let out = std::process::Command::new("cc").args(["-O1", "-o"]).args([&program, &source]).output().context("cannot start cc")?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(program)
}

/// The overlay's device in every peer.
pub const INTERFACE: &str = "campfire0";

impl Peer {
    /// Starts one with the key in file `psk`.
    pub fn start(host: Host, psk: &Path, options: &PeerOptions) -> Result<Self> {
        let log = File::options().create(true).append(true).open(host.state().join("campfire.log"))?;
        let mut command = match &options.under {
            Some((emulator, what)) => {
                let mut command = host.command(emulator);
                command.arg(what).arg(binary("campfire")?);
                command
            }
            None => host.command(binary("campfire")?),
        };
        command.args(["up", "--interface", INTERFACE, "--name", &host.name, "--psk-file"]).arg(psk);
        command.arg("--identity-file").arg(host.state().join("identity"));
        if !options.cluster.is_empty() {
            command.args(["--cluster", &options.cluster]);
        }
        for server in &options.servers {
            command.args(["--server", server]);
        }
        command.args(&options.extra);
        if let Some(filter) = &options.log {
            command.args(["--log", filter]);
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Self { host, child })
    }

    /// `campfire status --json`; an error while it is not up yet.
    pub fn status(&self) -> Result<Value> {
        let program = binary("campfire")?;
        let out = self.host.output(&program.to_string_lossy(), &["status", "--interface", INTERFACE, "--json"])?;
        serde_json::from_str(&out).context("status is not JSON")
    }

    /// Runs `campfire` with these arguments on the peer's host.
    pub fn campfire(&self, args: &[&str]) -> Result<String> {
        self.host.output(&binary("campfire")?.to_string_lossy(), args)
    }

    /// Its overlay IPv6 address.
    pub fn overlay(&self) -> Result<String> {
        let out = self.host.output("ip", &["-6", "-o", "addr", "show", "dev", INTERFACE, "scope", "global"])?;
        out.split_whitespace()
            .skip_while(|word| *word != "inet6")
            .nth(1)
            .and_then(|cidr| cidr.split('/').next())
            .map(str::to_owned)
            .with_context(|| format!("{} has no overlay address yet", self.host.name))
    }

    /// Waits until it sees `count` peers with a session; fails with its log's end after `timeout`.
    pub fn wait_for_peers(&self, count: usize, timeout: Duration) -> Result<Value> {
        let start = Instant::now();
        loop {
            let status = self.status();
            if let Ok(status) = &status
                && connected(status) >= count
            {
                return Ok(status.clone());
            }
            if start.elapsed() > timeout {
                bail!(
                    "{} sees {} of {count} peers after {} s; end of its log:\n{}",
                    self.host.name,
                    status.as_ref().map_or(0, connected),
                    timeout.as_secs(),
                    self.log_tail(25)
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = fs::read_to_string(self.host.state().join("campfire.log")).unwrap_or_default();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Asks it to leave (SIGTERM) and waits.
    pub fn stop(mut self) -> Result<()> {
        ensure!(std::process::Command::new("kill").arg(self.child.id().to_string()).status()?.success());
        self.child.wait()?;
        Ok(())
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Peers with a session in a status.
pub fn connected(status: &Value) -> usize {
    status["peers"].as_array().map_or(0, |peers| peers.iter().filter(|p| matches!(p["path"].as_str(), Some("Direct" | "Relay"))).count())
}

/// A key and its relay secret in files for a world: `psk` and `secrets/FINGERPRINT` in its state folder.
#[derive(Clone, Debug)]
pub struct Keys {
    /// File with the key.
    pub psk: PathBuf,
    /// Folder with the relay secrets.
    pub secrets: PathBuf,
    /// The key's fingerprint.
    pub fingerprint: String,
}

impl Keys {
    /// Makes them with `campfire key …`, as a person would.
    pub fn make(state: &Path) -> Result<Self> {
        let campfire = binary("campfire")?;
        let psk = state.join("psk");
        let key = run(&campfire, &["key", "new"])?;
        File::options().create_new(true).write(true).mode(0o600).open(&psk)?.write_all(key.as_bytes())?;
        let secrets = state.join("secrets");
        fs::create_dir_all(&secrets)?;
        let psk_text = psk.to_string_lossy().into_owned();
        let fingerprint = run(&campfire, &["key", "fingerprint", "--psk-file", &psk_text])?.trim().to_owned();
        let secret = run(&campfire, &["key", "relay-secret", "--psk-file", &psk_text])?;
        File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(secrets.join(&fingerprint))?
            .write_all(secret.as_bytes())?;
        Ok(Self { psk, secrets, fingerprint })
    }
}

fn run(program: &Path, args: &[&str]) -> Result<String> {
    let out = std::process::Command::new(program).args(args).stdin(Stdio::null()).output()?;
    ensure!(out.status.success(), "`{} {}`: {}", program.display(), args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    Ok(String::from_utf8(out.stdout)?)
}
