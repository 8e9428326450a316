//! `campfire wg`, and `campfire` where it is called by the name `wg`: what `wg show` of wireguard-tools prints, byte for byte, where there is no
//! wireguard-tools, as in the image. It asks the same sockets (<https://www.wireguard.com/xplatform/#configuration-protocol>) and changes
//! nothing: peers follow from the key.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Read as _, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_camp::unix_millis;
use zeroize::Zeroizing;

use crate::http;

/// How long a socket may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";

/// Where sockets are, and how things are shown.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Directory of the sockets that `wg` asks.
    pub wg_dir: PathBuf,
    /// Directory of the control sockets, which know the interface's own public key also where nobody is told the private one.
    pub run_dir: PathBuf,
    /// Keys that are secret are shown none the less (`WG_HIDE_KEYS=never`).
    pub show_keys: bool,
    /// In colours.
    pub colours: bool,
    /// Seconds since 1970.
    pub now: u64,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        let dir = |name: &str, default: &str| PathBuf::from(env::var_os(name).unwrap_or_else(|| default.into()));
        let colours = match env::var("WG_COLOR_MODE").as_deref() {
            Ok("always") => true,
            Ok("never") => false,
            _ => io::stdout().is_terminal(),
        };
        Self {
            wg_dir: dir("CAMPFIRE_WG_DIR", "/var/run/wireguard"),
            run_dir: dir("CAMPFIRE_RUN_DIR", "/run/campfire"),
            show_keys: env::var("WG_HIDE_KEYS").is_ok_and(|value| value == "never"),
            colours,
            now: unix_millis().0 / 1000,
        }
    }
}

/// An interface, as its socket tells it.
#[derive(Clone, Debug, Default)]
pub struct Device {
    name: String,
    private_key: Option<Zeroizing<[u8; 32]>>,
    public_key: Option<[u8; 32]>,
    listen_port: u16,
    fwmark: u32,
    peers: Vec<WgPeer>,
}

#[derive(Clone, Debug, Default)]
struct WgPeer {
    public_key: [u8; 32],
    preshared_key: Option<Zeroizing<[u8; 32]>>,
    endpoint: Option<SocketAddr>,
    allowed_ips: Vec<(IpAddr, u8)>,
    /// Seconds and nanoseconds since 1970; zero: never.
    handshake: (u64, u32),
    received: u64,
    sent: u64,
    keepalive: u16,
}

impl Device {
    /// Reads the answer to `get=1`; `None`: it is none.
    pub fn read(name: &str, answer: &str) -> Option<Self> {
        let mut device = Self { name: name.to_owned(), ..Self::default() };
        for line in answer.lines() {
            if line.is_empty() {
                return Some(device);
            }
            let (key, value) = line.split_once('=')?;
            match (key, device.peers.last_mut()) {
                ("private_key", None) => {
                    let secret = Zeroizing::new(hex_key(value)?);
                    device.public_key = Some(x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*secret)).to_bytes());
                    device.private_key = Some(secret);
                }
                ("listen_port", None) => device.listen_port = value.parse().ok()?,
                ("fwmark", None) => device.fwmark = value.parse().ok()?,
                ("public_key", _) => device.peers.push(WgPeer { public_key: hex_key(value)?, ..WgPeer::default() }),
                ("errno", _) => {
                    if value != "0" {
                        return None;
                    }
                }
                (key, Some(peer)) => peer.read(key, value)?,
                // What a newer one says beside.
                (_, None) => {}
            }
        }
        None
    }
}

impl WgPeer {
    fn read(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "preshared_key" => self.preshared_key = Some(Zeroizing::new(hex_key(value)?)).filter(|key| **key != [0; 32]),
            "endpoint" => self.endpoint = Some(value.parse().ok()?),
            "persistent_keepalive_interval" => self.keepalive = value.parse().ok()?,
            "allowed_ip" => {
                let (address, length) = value.split_once('/')?;
                self.allowed_ips.push((address.parse().ok()?, length.parse().ok()?));
            }
            "last_handshake_time_sec" => self.handshake.0 = value.parse().ok()?,
            "last_handshake_time_nsec" => self.handshake.1 = value.parse().ok()?,
            "rx_bytes" => self.received = value.parse().ok()?,
            "tx_bytes" => self.sent = value.parse().ok()?,
            _ => {}
        }
        Some(())
    }
}

fn hex_key(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    hex::decode_to_slice(text, &mut key).ok()?;
    Some(key)
}

/// Runs `wg` with these arguments (without its own name, which is `program`). Gives the exit code.
pub fn run(program: &str, arguments: &[String], around: &Surroundings, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["-h" | "--help" | "help"] => out.write_all(usage(program).as_bytes()).map(|()| 0),
        ["-v" | "--version" | "version"] => writeln!(out, "campfire v{}: `wg show` as wireguard-tools has it", env!("CARGO_PKG_VERSION")).map(|()| 0),
        [] => show(program, &[], around, out, err),
        ["show", rest @ ..] => show(program, rest, around, out, err),
        [known @ ("showconf" | "set" | "setconf" | "addconf" | "syncconf" | "genkey" | "genpsk" | "pubkey"), ..] => {
            writeln!(
                err,
                "`{known}` is not here: this is campfire, which shows interfaces as wg does. Peers and keys of a campfire follow from its own key (`campfire up --help`); other interfaces need the real wg (package wireguard-tools)"
            )
            .map(|()| 1)
        }
        [other, ..] => err.write_all(format!("Invalid subcommand: `{other}'\n{}", usage(program)).as_bytes()).map(|()| 1),
    };
    // A reader like `head` that has gone is no failure.
    done.unwrap_or(0)
}

fn usage(program: &str) -> String {
    format!(
        "Usage: {program} <cmd> [<args>]\n\nAvailable subcommands:\n  show: Shows the current configuration and device information\nYou may pass `--help' to any of these subcommands to view usage.\n"
    )
}

fn show_usage(program: &str) -> String {
    format!(
        "Usage: {program} show {{ <interface> | all | interfaces }} [public-key | private-key | listen-port | fwmark | peers | preshared-keys | endpoints | allowed-ips | latest-handshakes | transfer | persistent-keepalive | dump]\n"
    )
}

fn show(program: &str, words: &[&str], around: &Surroundings, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    match words {
        [_, _, _, ..] | ["interfaces", _] => err.write_all(show_usage(program).as_bytes()).map(|()| 1),
        ["interfaces"] => {
            let names = interfaces(&around.wg_dir);
            if names.is_empty() { Ok(0) } else { writeln!(out, "{}", names.join(" ")).map(|()| 0) }
        }
        ["-h" | "--help" | "help"] => err.write_all(show_usage(program).as_bytes()).map(|()| 0),
        [] | ["all"] => show_all(program, None, around, out, err),
        ["all", what] => show_all(program, Some(what), around, out, err),
        [name, what @ ..] => match device(name, around) {
            Ok(device) => match what.first() {
                None => out.write_all(pretty(&device, around).as_bytes()).map(|()| 0),
                Some(what) => print(program, &device, what, false, out, err),
            },
            Err(error) => writeln!(err, "Unable to access interface: {}", words_of(&error)).map(|()| 1),
        },
    }
}

fn show_all(program: &str, what: Option<&str>, around: &Surroundings, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let names = interfaces(&around.wg_dir);
    let mut code = u8::from(!names.is_empty());
    for (place, name) in names.iter().enumerate() {
        match device(name, around) {
            Err(error) => writeln!(err, "Unable to access interface {name}: {}", words_of(&error))?,
            Ok(device) => {
                if let Some(what) = what {
                    code = print(program, &device, what, true, out, err)?;
                    if code != 0 {
                        return Ok(code);
                    }
                } else {
                    let after = if place + 1 < names.len() { "\n" } else { "" };
                    out.write_all(Zeroizing::new(format!("{}{after}", *pretty(&device, around))).as_bytes())?;
                    code = 0;
                }
            }
        }
    }
    Ok(code)
}

/// The system's words for an error, without its number.
fn words_of(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Interfaces that a program answers for, by name.
fn interfaces(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".sock").map(str::to_owned));
    let mut names: Vec<String> = names.filter(|name| UnixStream::connect(http::socket_path(dir, name)).is_ok()).collect();
    names.sort_unstable();
    names
}

/// Asks an interface's socket; its own public key, where that does not tell, of the control socket.
fn device(name: &str, around: &Surroundings) -> io::Result<Device> {
    let missing = |error: io::Error| {
        let kind = error.kind();
        let gone = kind == io::ErrorKind::NotFound || kind == io::ErrorKind::ConnectionRefused;
        if gone { io::Error::from_raw_os_error(libc::ENODEV) } else { error }
    };
    if name.is_empty() || name.contains('/') {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let mut stream = UnixStream::connect(http::socket_path(&around.wg_dir, name)).map_err(missing)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"get=1\n\n")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Zeroizing::new(String::new());
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    let mut device = Device::read(name, &answer).ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTO))?;
    if device.public_key.is_none() {
        device.public_key = own_key(&http::socket_path(&around.run_dir, name));
    }
    Ok(device)
}

/// The public key of the peer behind a control socket, if one is there.
fn own_key(socket: &Path) -> Option<[u8; 32]> {
    if !socket.exists() {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let report = runtime.block_on(http::fetch(socket)).ok()?;
    STANDARD.decode(report.status.own.public_key).ok()?.try_into().ok()
}

/// `wg show IF`.
pub fn pretty(device: &Device, around: &Surroundings) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::from(RESET));
    let masked = |key: &[u8; 32]| if around.show_keys { key_text(key) } else { Zeroizing::new("(hidden)".into()) };
    let _ = writeln!(text, "{GREEN}{BOLD}interface{RESET}: {GREEN}{}{RESET}", device.name);
    let mut field = |name: &str, value: &str| {
        let _ = writeln!(text, "  {BOLD}{name}{RESET}: {value}");
    };
    if let Some(key) = &device.public_key {
        field("public key", &key_text(key));
    }
    if let Some(key) = &device.private_key {
        field("private key", &masked(key));
    }
    if device.listen_port != 0 {
        field("listening port", &device.listen_port.to_string());
    }
    if device.fwmark != 0 {
        field("fwmark", &format!("0x{:x}", device.fwmark));
    }
    let mut peers: Vec<&WgPeer> = device.peers.iter().collect();
    peers.sort_by_key(|peer| std::cmp::Reverse(peer.handshake));
    for peer in peers {
        let _ = write!(text, "\n{YELLOW}{BOLD}peer{RESET}: {YELLOW}{}{RESET}\n", *key_text(&peer.public_key));
        let mut field = |name: &str, value: &str| {
            let _ = writeln!(text, "  {BOLD}{name}{RESET}: {value}");
        };
        if let Some(key) = &peer.preshared_key {
            field("preshared key", &masked(key));
        }
        if let Some(endpoint) = peer.endpoint {
            field("endpoint", &endpoint.to_string());
        }
        field("allowed ips", &allowed(peer, ", ", &format!("{CYAN}/{RESET}")));
        if peer.handshake.0 != 0 {
            field("latest handshake", &ago(peer.handshake.0, around.now));
        }
        if peer.received != 0 || peer.sent != 0 {
            field("transfer", &format!("{} received, {} sent", bytes(peer.received), bytes(peer.sent)));
        }
        if peer.keepalive != 0 {
            field("persistent keepalive", &format!("every {}", spelled(u64::from(peer.keepalive))));
        }
    }
    if around.colours { text } else { Zeroizing::new(plain(&text)) }
}

/// Without colours.
fn plain(text: &str) -> String {
    [RESET, BOLD, RED, GREEN, YELLOW, CYAN].into_iter().fold(text.to_owned(), |text, code| text.replace(code, ""))
}

/// `wg show IF WHAT`, and with the interface's name before each line, of `wg show all WHAT`.
fn print(program: &str, device: &Device, what: &str, named: bool, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let mut lines: Vec<Zeroizing<String>> = Vec::new();
    let maybe = |key: Option<&[u8; 32]>| key.map_or_else(|| Zeroizing::new("(none)".to_owned()), key_text);
    let mark = if device.fwmark == 0 { "off".to_owned() } else { format!("0x{:x}", device.fwmark) };
    let keepalive = |peer: &WgPeer| if peer.keepalive == 0 { "off".to_owned() } else { peer.keepalive.to_string() };
    let endpoint = |peer: &WgPeer| peer.endpoint.map_or_else(|| "(none)".to_owned(), |endpoint| endpoint.to_string());
    let private = device.private_key.as_deref();
    let mut each = |value: &dyn Fn(&WgPeer) -> String| {
        for peer in &device.peers {
            let value = Zeroizing::new(value(peer));
            let tab = if value.is_empty() { "" } else { "\t" };
            lines.push(Zeroizing::new(format!("{}{tab}{}", *key_text(&peer.public_key), *value)));
        }
    };
    match what {
        "public-key" => lines.push(maybe(device.public_key.as_ref())),
        "private-key" => lines.push(maybe(private)),
        "listen-port" => lines.push(Zeroizing::new(device.listen_port.to_string())),
        "fwmark" => lines.push(Zeroizing::new(mark)),
        "peers" => each(&|_| String::new()),
        "preshared-keys" => each(&|peer| (*maybe(peer.preshared_key.as_deref())).clone()),
        "endpoints" => each(&endpoint),
        "allowed-ips" => each(&|peer| allowed(peer, " ", "/")),
        "latest-handshakes" => each(&|peer| peer.handshake.0.to_string()),
        "transfer" => each(&|peer| format!("{}\t{}", peer.received, peer.sent)),
        "persistent-keepalive" => each(&keepalive),
        "dump" => {
            let own = [&*maybe(private), &*maybe(device.public_key.as_ref()), &device.listen_port.to_string(), &mark]
                .map(String::as_str)
                .join("\t");
            each(&|peer| {
                let shared = maybe(peer.preshared_key.as_deref());
                let (address, allowed) = (endpoint(peer), allowed(peer, ",", "/"));
                let (handshake, kept) = (peer.handshake.0, keepalive(peer));
                format!("{}\t{address}\t{allowed}\t{handshake}\t{}\t{}\t{kept}", *shared, peer.received, peer.sent)
            });
            lines.insert(0, Zeroizing::new(own));
        }
        other => return err.write_all(format!("Invalid parameter: `{other}'\n{}", show_usage(program)).as_bytes()).map(|()| 1),
    }
    let name = if named { format!("{}\t", device.name) } else { String::new() };
    for line in lines {
        out.write_all(Zeroizing::new(format!("{name}{}\n", *line)).as_bytes())?;
    }
    Ok(0)
}

fn key_text(key: &[u8; 32]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(key))
}

fn allowed(peer: &WgPeer, between: &str, slash: &str) -> String {
    if peer.allowed_ips.is_empty() {
        return "(none)".into();
    }
    peer.allowed_ips.iter().map(|(address, length)| format!("{address}{slash}{length}")).collect::<Vec<_>>().join(between)
}

fn ago(at: u64, now: u64) -> String {
    match now.checked_sub(at) {
        Some(0) => "Now".into(),
        Some(seconds) => format!("{} ago", spelled(seconds)),
        None => format!("({RED}System clock wound backward; connection problems may ensue.{RESET})"),
    }
}

/// `1 hour, 2 minutes`.
fn spelled(seconds: u64) -> String {
    let units = [("year", 31_536_000), ("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)];
    let mut left = seconds;
    let mut parts = Vec::new();
    for (name, length) in units {
        let count = left / length;
        left %= length;
        if count > 0 {
            parts.push(format!("{count} {CYAN}{name}{}{RESET}", if count == 1 { "" } else { "s" }));
        }
    }
    parts.join(", ")
}

fn bytes(count: u64) -> String {
    if count < 1024 {
        return format!("{count} {CYAN}B{RESET}");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = "KiB";
    for next in ["MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.2} {CYAN}{unit}{RESET}")
}
