//! Network namespaces and what is in them. All that the project makes are made here: by the demo, tests and benches.
//!
//! A [`Net`] is made by name; each has an id of its own, so that two runs, or two tests of one run, never meet. It removes its namespaces,
//! the processes in them and its files when it is dropped. While its process lives it holds a lock that the kernel releases with the process:
//! what a killed run left behind is known by that, and removed by whoever makes the next one.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// Files of all nets of this machine, a folder for each: private to root.
const STATE_ROOT: &str = "/run/campfire-lab";
/// In a net's folder: held while its process lives.
const LOCK: &str = "lock";
/// In a net's folder: it outlives its process.
const KEPT: &str = "kept";

/// What this machine lacks to make network namespaces with TUN devices, in words; `None`: nothing.
pub fn missing() -> Option<String> {
    // The owner of one's own /proc entry is one's effective user.
    if !fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0) {
        return Some("needs root to make network namespaces; run as root".into());
    }
    for tool in ["ip", "nft", "ping"] {
        if which(tool).is_none() {
            return Some(format!("needs `{tool}`; run scripts/install"));
        }
    }
    if !Path::new("/dev/net/tun").exists() && !Path::new("/sys/class/misc/tun").exists() {
        return Some("needs TUN devices: load the module (modprobe tun)".into());
    }
    None
}

/// For tests: whether this one has to be left out, which is said as a line `SKIPPED: why`.
pub fn skipped() -> bool {
    let why = if std::env::var("CAMPFIRE_TEST_ROOT").is_ok_and(|value| value == "no") { Some("without root".into()) } else { missing() };
    if let Some(why) = &why {
        println!("SKIPPED: {why}");
    }
    why.is_some()
}

/// Finds a program in the path.
pub fn which(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Namespaces that belong together. See the [module](self).
#[derive(Debug)]
pub struct Net {
    id: Id,
    state: PathBuf,
    /// Held as long as this process lives.
    _lock: File,
    keep: bool,
}

impl Net {
    /// Makes an empty one. `name`: at most 12 lower-case letters and digits. What killed runs left behind is removed first.
    pub fn new(name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        ensure!(
            (1..=12).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
            "net's name `{name}`"
        );
        if let Some(why) = missing() {
            bail!("{why}");
        }
        let _one_at_a_time = making()?;
        for id in Id::all()? {
            if !id.is_kept() && id.is_ownerless() {
                id.remove()?;
            }
        }
        let id = Id { name: name.to_owned(), process: std::process::id(), number: NEXT.fetch_add(1, Ordering::Relaxed) };
        let state = id.state();
        fs::create_dir(&state)?;
        let lock = File::create(state.join(LOCK))?;
        lock.lock()?;
        Ok(Self { id, state, _lock: lock, keep: false })
    }

    /// Leaves it standing when this value is dropped and when the process ends: [`Net::kept`] finds it, [`Net::remove`] ends it.
    pub fn keep(&mut self) -> Result<()> {
        File::create(self.state.join(KEPT))?;
        self.keep = true;
        Ok(())
    }

    /// A namespace of one that was left standing, and the net's files.
    pub fn kept(net: &str, namespace: &str) -> Option<(Namespace, PathBuf)> {
        let id = Id::all().ok()?.into_iter().filter(|id| id.name == net && id.is_kept()).max_by_key(|id| id.process)?;
        let found = id.namespace(namespace);
        Path::new("/run/netns").join(&found.full).exists().then(|| (found, id.state()))
    }

    /// Removes all of this name that belong to nobody else: those left standing, those left behind, and this process's own.
    pub fn remove(name: &str) -> Result<()> {
        let _one_at_a_time = making()?;
        for id in Id::all()? {
            if id.name == name && (id.is_kept() || id.process == std::process::id() || id.is_ownerless()) {
                id.remove()?;
            }
        }
        Ok(())
    }

    /// Where files of its own may be (keys, logs, sockets): private to root, removed with it.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A new namespace: loopback is up, nothing is forwarded, addresses are usable at once.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        let namespace = self.id.namespace(name);
        run(Command::new("ip").args(["netns", "add", &namespace.full]))?;
        namespace.sysctl(&[
            "net.ipv4.ip_forward=0",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv6.conf.all.accept_dad=0",
            "net.ipv6.conf.default.accept_dad=0",
            "net.ipv6.conf.default.accept_ra=0",
            "net.ipv4.conf.all.send_redirects=0",
            "net.ipv4.conf.default.send_redirects=0",
        ])?;
        namespace.up("lo")?;
        Ok(namespace)
    }

    /// A cable (a veth pair) between two namespaces, each end by the name of its device: up, and without addresses.
    pub fn cable(&self, one: (&Namespace, &str), other: (&Namespace, &str)) -> Result<()> {
        let ((one, device), (other, peer)) = (one, other);
        for name in [device, peer] {
            ensure!(name.len() <= 15, "a device's name has at most 15 characters: `{name}`");
        }
        let words = ["link", "add", device, "netns", &one.full, "type", "veth", "peer", "name", peer, "netns", &other.full];
        run(Command::new("ip").args(words))?;
        for (namespace, device) in [(one, device), (other, peer)] {
            namespace.ip(&["link", "set", device, "addrgenmode", "none"])?;
            namespace.up(device)?;
        }
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = self.id.remove()
        {
            eprintln!("could not remove {}: {error:#}", self.id.text());
        }
    }
}

/// `NAME-PROCESS.NUMBER`, which names a net's folder, and with `cf-` before it begins the names of its namespaces.
#[derive(Clone, Debug)]
struct Id {
    name: String,
    process: u32,
    number: u32,
}

impl Id {
    /// Of all nets of this machine.
    fn all() -> Result<Vec<Self>> {
        let entries = match fs::read_dir(STATE_ROOT) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot read {STATE_ROOT}"))?,
        };
        Ok(entries.flatten().filter_map(|entry| Self::parse(entry.file_name().to_str()?)).collect())
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once('-')?;
        let (process, number) = rest.split_once('.')?;
        Some(Self { name: name.to_owned(), process: process.parse().ok()?, number: number.parse().ok()? })
    }

    fn text(&self) -> String {
        format!("{}-{}.{}", self.name, self.process, self.number)
    }

    fn state(&self) -> PathBuf {
        Path::new(STATE_ROOT).join(self.text())
    }

    fn namespace(&self, name: &str) -> Namespace {
        Namespace { name: name.to_owned(), full: format!("cf-{}-{name}", self.text()) }
    }

    fn is_kept(&self) -> bool {
        self.state().join(KEPT).exists()
    }

    fn is_ownerless(&self) -> bool {
        match File::open(self.state().join(LOCK)) {
            Ok(lock) => lock.try_lock().is_ok(),
            Err(_) => true,
        }
    }

    /// Ends the processes, and removes namespaces and files.
    fn remove(&self) -> Result<()> {
        let prefix = format!("cf-{}-", self.text());
        let listed = Command::new("ip").args(["netns", "list"]).output()?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let namespaces: Vec<&str> = listed.lines().filter_map(|line| line.split(' ').next()).filter(|ns| ns.starts_with(&prefix)).collect();
        for signal in ["-TERM", "-KILL"] {
            let mut pids = Vec::new();
            for namespace in &namespaces {
                let output = Command::new("ip").args(["netns", "pids", namespace]).output()?;
                pids.extend(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned));
            }
            pids.retain(|pid| *pid != std::process::id().to_string());
            if pids.is_empty() {
                break;
            }
            let _ = Command::new("kill").arg(signal).args(&pids).stderr(Stdio::null()).status();
            for _ in 0..30 {
                sleep(Duration::from_millis(50));
                if pids.iter().all(|pid| !is_running(pid)) {
                    break;
                }
            }
        }
        for namespace in &namespaces {
            let _ = Command::new("ip").args(["netns", "del", namespace]).stderr(Stdio::null()).status();
        }
        match fs::remove_dir_all(self.state()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("cannot remove the net's files"),
            _ => Ok(()),
        }
    }
}

/// One namespace of a [`Net`].
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    full: String,
}

impl Namespace {
    /// Its name in its net.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name on this machine, as `ip netns` takes it.
    pub fn full_name(&self) -> &str {
        &self.full
    }

    /// A command that runs inside; its process becomes the program.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.full]).arg(program).stdin(Stdio::null());
        command
    }

    /// Runs to the end; its standard output, or an error that shows all it said.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        output(self.command(program).args(arguments), &self.name)
    }

    /// Brings a device up.
    pub fn up(&self, device: &str) -> Result<()> {
        self.ip(&["link", "set", device, "up"])
    }

    /// Gives a device an address.
    pub fn address(&self, device: &str, address: impl Into<IpAddr>, prefix: u8) -> Result<()> {
        let address = address.into();
        let words = format!("{address}/{prefix}");
        let mut words = vec!["address", "add", &words, "dev", device];
        if address.is_ipv6() {
            words.push("nodad");
        }
        self.ip(&words)
    }

    /// Adds a route.
    pub fn route(&self, route: &Route) -> Result<()> {
        let words = route.words();
        self.ip(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Sets a device's MTU, bytes.
    pub fn mtu(&self, device: &str, mtu: u16) -> Result<()> {
        self.ip(&["link", "set", device, "mtu", &mtu.to_string()])
    }

    /// A bridge, up.
    pub fn bridge(&self, name: &str) -> Result<()> {
        self.ip(&["link", "add", name, "type", "bridge", "mcast_snooping", "0"])?;
        self.ip(&["link", "set", name, "addrgenmode", "none"])?;
        self.up(name)
    }

    /// Plugs a device into a bridge.
    pub fn plug(&self, device: &str, bridge: &str) -> Result<()> {
        self.ip(&["link", "set", device, "master", bridge])
    }

    /// Makes it a router of both families.
    pub fn forwards(&self) -> Result<()> {
        self.sysctl(&["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
    }

    /// Sets kernel parameters, each as `name=value`.
    pub fn sysctl(&self, settings: &[&str]) -> Result<()> {
        run(self.command("sysctl").arg("-qw").args(settings))
    }

    /// Applies nftables rules.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let mut command = self.command("nft");
        let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start nft")?;
        child.stdin.take().context("no standard input")?.write_all(rules.as_bytes())?;
        let out = child.wait_with_output()?;
        ensure!(out.status.success(), "nft in {}: {}\n{rules}", self.name, String::from_utf8_lossy(&out.stderr));
        Ok(())
    }

    /// `ip WORDS` inside, for what has no method here.
    pub fn ip(&self, words: &[&str]) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.full]).args(words))
    }
}

/// A route, built up: `Route::to([10, 0, 0, 0], 8).via([192, 0, 2, 1]).on("eth0")`.
#[derive(Clone, Debug)]
pub struct Route {
    to: Option<(IpAddr, u8)>,
    via: Option<IpAddr>,
    device: Option<String>,
    onlink: bool,
}

impl Route {
    /// To a network, or to one address.
    pub fn to(network: impl Into<IpAddr>, prefix: u8) -> Self {
        Self { to: Some((network.into(), prefix)), via: None, device: None, onlink: false }
    }

    /// To everything, by a router.
    pub fn default_via(router: impl Into<IpAddr>) -> Self {
        Self { to: None, via: Some(router.into()), device: None, onlink: false }
    }

    /// By a router.
    #[must_use]
    pub fn via(self, router: impl Into<IpAddr>) -> Self {
        Self { via: Some(router.into()), ..self }
    }

    /// By a device.
    #[must_use]
    pub fn on(self, device: &str) -> Self {
        Self { device: Some(device.to_owned()), ..self }
    }

    /// The router is on the device's wire though no address says so.
    #[must_use]
    pub fn onlink(self) -> Self {
        Self { onlink: true, ..self }
    }

    fn words(&self) -> Vec<String> {
        let is_ipv6 = self.to.map(|(network, _)| network).or(self.via).is_some_and(|address| address.is_ipv6());
        let mut words = vec![if is_ipv6 { "-6" } else { "-4" }.to_owned(), "route".into(), "add".into()];
        words.push(self.to.map_or_else(|| "default".to_owned(), |(network, prefix)| format!("{network}/{prefix}")));
        if let Some(via) = self.via {
            words.extend(["via".into(), via.to_string()]);
        }
        if let Some(device) = &self.device {
            words.extend(["dev".into(), device.clone()]);
        }
        if self.onlink {
            words.push("onlink".into());
        }
        words
    }
}

/// A process that ends with this value.
#[derive(Debug)]
pub struct Process(pub Child);

impl Process {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot run {}", command.get_program().display()))?;
        Ok(Self(child))
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Held while nets are made or removed: nobody takes one that is being made for one that was left behind.
fn making() -> Result<File> {
    fs::create_dir_all(STATE_ROOT).with_context(|| format!("cannot make {STATE_ROOT}"))?;
    fs::set_permissions(STATE_ROOT, fs::Permissions::from_mode(0o700))?;
    let file = File::create(Path::new(STATE_ROOT).join(".making"))?;
    file.lock()?;
    Ok(file)
}

/// Runs to the end; its standard output, or an error that shows all it said.
pub(crate) fn output(command: &mut Command, place: &str) -> Result<String> {
    let out = command.stdin(Stdio::null()).output().with_context(|| shown(command))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(out.status.success(), "`{}` on {place}: {}\n{}{}", shown(command), out.status, said(&out.stdout), said(&out.stderr));
    Ok(said(&out.stdout))
}

fn run(command: &mut Command) -> Result<()> {
    let out = command.stdin(Stdio::null()).output().with_context(|| shown(command))?;
    ensure!(out.status.success(), "{}: {}", shown(command), String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn is_running(pid: &str) -> bool {
    // A zombie is as good as gone: its namespace is free.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}
