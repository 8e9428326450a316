//! `campfire wg` beside the real `wg`: recorded answers of other implementations, shown as wireguard-tools shows them, and the real one on the same
//! socket.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use campfire_sidecar::wg::{self, Surroundings};

/// What wireguard-go 0.0.20230223 answers for an interface with a mark and four peers, the third without anything. Its keys are those of nobody.
const RECORDED: &str = "\
private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a
listen_port=12912
fwmark=51820
public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33
preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52
protocol_version=1
endpoint=[abcd:23::33]:51820
last_handshake_time_sec=1700000000
last_handshake_time_nsec=100
tx_bytes=38333
rx_bytes=2224
persistent_keepalive_interval=0
allowed_ip=192.168.4.4/32
public_key=58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376
preshared_key=0000000000000000000000000000000000000000000000000000000000000000
protocol_version=1
endpoint=182.122.22.19:3233
last_handshake_time_sec=1700086461
last_handshake_time_nsec=5
tx_bytes=5368709120
rx_bytes=1099511627776
persistent_keepalive_interval=111
allowed_ip=192.168.4.6/32
allowed_ip=fd00:1::/64
public_key=662e14fd594556f522604703340351258903b64f35553763f19426ab2a515c58
protocol_version=1
last_handshake_time_sec=0
last_handshake_time_nsec=0
tx_bytes=0
rx_bytes=0
persistent_keepalive_interval=0
public_key=0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20
preshared_key=0000000000000000000000000000000000000000000000000000000000000000
protocol_version=1
endpoint=192.0.2.1:1
last_handshake_time_sec=1700086461
last_handshake_time_nsec=9
tx_bytes=1024
rx_bytes=1023
persistent_keepalive_interval=3600
allowed_ip=0.0.0.0/0
allowed_ip=::/0
errno=0

";

const PARAMETERS: [&str; 12] = [
    "public-key",
    "private-key",
    "listen-port",
    "fwmark",
    "peers",
    "preshared-keys",
    "endpoints",
    "allowed-ips",
    "latest-handshakes",
    "transfer",
    "persistent-keepalive",
    "dump",
];

#[test]
fn an_interface_is_shown_as_wireguard_tools_shows_it() {
    let (code, shown, errors) = here(RECORDED, &["show", "wg7"], 1_700_086_461);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(
        shown,
        "\
interface: wg7
  public key: wVMuGz01CPx+vDVPpnliDzPyhxSVQuaExnt7DYE2Kyk=
  private key: (hidden)
  listening port: 12912
  fwmark: 0xca6c

peer: AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=
  endpoint: 192.0.2.1:1
  allowed ips: 0.0.0.0/0, ::/0
  latest handshake: Now
  transfer: 1023 B received, 1.00 KiB sent
  persistent keepalive: every 1 hour

peer: WEAuaVuhdyscyTCXVfBDJR6nf9zxD75jmJzrfhkyE3Y=
  endpoint: 182.122.22.19:3233
  allowed ips: 192.168.4.6/32, fd00:1::/64
  latest handshake: Now
  transfer: 1.00 TiB received, 5.00 GiB sent
  persistent keepalive: every 1 minute, 51 seconds

peer: uFmW/sycfx/G0lcqdu2hHVm80gvo5UOxXOS9hajnWjM=
  preshared key: (hidden)
  endpoint: [abcd:23::33]:51820
  allowed ips: 192.168.4.4/32
  latest handshake: 1 day, 1 minute, 1 second ago
  transfer: 2.17 KiB received, 37.43 KiB sent

peer: Zi4U/VlFVvUiYEcDNANRJYkDtk81VTdj8ZQmqypRXFg=
  allowed ips: (none)
"
    );
    let (_, shown, _) = here(RECORDED, &["show", "wg7"], 1_700_000_001);
    assert!(shown.contains("latest handshake: (System clock wound backward; connection problems may ensue.)\n"), "{shown}");
    let (code, dump, _) = here(RECORDED, &["show", "wg7", "dump"], 0);
    let rows: Vec<Vec<&str>> = dump.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!((code, rows.len()), (0, 5));
    assert_eq!(rows[0][2..], ["12912", "0xca6c"]);
    assert_eq!(rows[3][1..], ["(none)", "(none)", "(none)", "0", "0", "0", "off"], "in the order of the socket");
}

#[test]
fn what_is_wrong_is_said_as_wireguard_tools_says_it() {
    let usage = "Usage: wg show { <interface> | all | interfaces } [public-key | private-key | listen-port | fwmark | peers | preshared-keys | endpoints | allowed-ips | latest-handshakes | transfer | persistent-keepalive | dump]\n";
    for (words, code, errors) in [
        (&["show", "nobody"][..], 1, "Unable to access interface: No such device\n".to_owned()),
        (&["show", "../wg7"], 1, "Unable to access interface: No such device\n".into()),
        (&["show", "wg7", "nonsense"], 1, format!("Invalid parameter: `nonsense'\n{usage}")),
        (&["show", "wg7", "dump", "more"], 1, usage.to_owned()),
        (&["show", "--help"], 0, usage.to_owned()),
        (&["show", "interfaces", "dump"], 1, usage.to_owned()),
    ] {
        let found = here(RECORDED, words, 0);
        assert_eq!((found.0, found.2), (code, errors), "{words:?}");
    }
    assert_eq!(here(RECORDED, &["show", "interfaces"], 0).1, "wg7\n");
    let (code, _, errors) = here(RECORDED, &["set", "wg7", "listen-port", "1"], 0);
    assert!(code == 1 && errors.starts_with("`set` is not here: "), "{errors}");
    for broken in ["", "errno=0\n", "listen_port=x\nerrno=0\n\n", "errno=-5\n\n", "private_key=00\nerrno=0\n\n", "nonsense\n\n"] {
        let (code, shown, errors) = here(broken, &["show", "wg7"], 0);
        assert_eq!((code, shown.as_str(), errors.as_str()), (1, "", "Unable to access interface: Protocol error\n"), "{broken:?}");
    }
}

#[test]
fn the_real_wg_prints_the_same() {
    if Command::new("wg").arg("--version").output().is_err() {
        println!("SKIPPED: needs wg (package wireguard-tools)");
        return;
    }
    // Both see this socket alone: in a mount namespace in which it lies where wg looks, and in a network namespace without interfaces of the kernel.
    let dir = tempfile::tempdir().unwrap();
    let name = "cfwgr0";
    let _socket = Socket::new(dir.path(), name, recorded_now()).unwrap();
    let made = std::fs::create_dir_all("/var/run/wireguard").is_ok();
    if !made || !alone(dir.path(), "true", &[], ("A", "b")).status.success() {
        println!("SKIPPED: needs root, to put a folder in the place of /var/run/wireguard");
        return;
    }
    // Called by the name, as in the image.
    let programs = tempfile::tempdir().unwrap();
    let ours = programs.path().join("wg");
    symlink(env!("CARGO_BIN_EXE_campfire"), &ours).unwrap();
    let mut compared = 0;
    let mut same = |words: &[&str], environment: (&str, &str)| {
        // A second may pass between the two.
        for last in [false, false, true] {
            let [real, own] = ["wg", ours.to_str().unwrap()].map(|program| told(&alone(dir.path(), program, words, environment), program));
            let named_once = words == ["show", "all", "endpoints"];
            // wireguard-tools of before 2025 have the interface's name before the first peer alone.
            let plain = |(code, shown, errors): (Option<i32>, String, String)| {
                (code, if named_once { shown.replace(&format!("{name}\t"), "") } else { shown }, errors)
            };
            let (real, own) = (plain(real), plain(own));
            if real == own || last {
                assert_eq!(own, real, "{words:?} {environment:?}");
                compared += 1;
                return;
            }
        }
    };
    for environment in [("WG_COLOR_MODE", "auto"), ("WG_COLOR_MODE", "always"), ("WG_HIDE_KEYS", "never")] {
        for words in [&[][..], &["show"], &["show", "all"], &["show", name]] {
            same(words, environment);
        }
    }
    for parameter in PARAMETERS {
        same(&["show", name, parameter], ("A", "b"));
        same(&["show", "all", parameter], ("A", "b"));
    }
    // What the real one says of an interface that is not there depends on the kernel's own WireGuard.
    for words in [
        &["show", "interfaces"][..],
        &["show", name, "nonsense"],
        &["show", "all", "nonsense"],
        &["show", name, "dump", "more"],
        &["show", "--help"],
    ] {
        same(words, ("A", "b"));
    }
    assert_eq!(compared, 3 * 4 + 2 * PARAMETERS.len() + 5);
}

/// Of recent handshakes, that `ago` has something to say.
fn recorded_now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    RECORDED.replace("1700086461", &(now - 3_700).to_string()).replace("1700000000", &(now - 40_000_000).to_string())
}

/// Runs a program to which `dir` is /var/run/wireguard.
fn alone(dir: &Path, program: &str, words: &[&str], environment: (&str, &str)) -> Output {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--net", "sh", "-c", "mount --bind \"$0\" /var/run/wireguard && exec \"$@\""])
        .arg(dir)
        .arg(program)
        .args(words);
    command.env(environment.0, environment.1).output().unwrap()
}

/// What a program said, and how it ended.
fn told(output: &Output, program: &str) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace(&format!("Usage: {program} "), "Usage: wg ");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Runs it in this process, with a socket of its own.
fn here(answer: &str, words: &[&str], now: u64) -> (u8, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let _socket = Socket::new(dir.path(), "wg7", answer.to_owned()).unwrap();
    let around = Surroundings { wg_dir: dir.path().to_owned(), run_dir: dir.path().join("run"), show_keys: false, colours: false, now };
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = wg::run("wg", &words, &around, &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// Answers `get=1` with the same text until it is dropped.
struct Socket(PathBuf);

impl Socket {
    fn new(dir: &Path, name: &str, answer: String) -> Option<Self> {
        std::fs::create_dir_all(dir).ok()?;
        let path = dir.join(format!("{name}.sock"));
        let listener = UnixListener::bind(&path).ok()?;
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let mut question = [0; 7];
                if client.read_exact(&mut question).is_ok() {
                    let _ = client.write_all(answer.as_bytes());
                }
            }
        });
        Some(Self(path))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
