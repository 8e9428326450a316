//! What the program says to wrong arguments, files and environments: exit code 64 and a message that says what to do.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
const OTHER: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8";

#[test]
fn a_new_key_is_a_key_and_never_the_same() {
    let folder = Folder::new();
    let one = folder.campfire(&["key", "new"]);
    let two = folder.campfire(&["key", "new"]);
    assert_eq!(out(&one).trim().len(), 43);
    assert_ne!(out(&one), out(&two));
    folder.file("psk", &out(&one), 0o600);
    assert_eq!(out(&folder.campfire(&["key", "fingerprint", "--psk-file", "psk"])).trim().len(), 16);
    assert_eq!(out(&folder.campfire(&["key", "relay-secret", "--psk-file", "psk"])).trim().len(), 43);
}

#[test]
fn what_follows_from_a_key_is_what_the_vectors_say() {
    let folder = Folder::new();
    let vectors: serde_json::Value =
        serde_json::from_slice(&fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/protocol/vectors/keys.json")).unwrap())
            .unwrap();
    let text = vectors.to_string();
    let fingerprint = folder.campfire_env(&["key", "fingerprint"], &[("CAMPFIRE_PSK", KEY)]);
    let secret = folder.campfire_env(&["key", "relay-secret"], &[("CAMPFIRE_PSK", KEY)]);
    assert!(text.contains(out(&fingerprint).trim()), "{}", out(&fingerprint));
    assert!(text.contains(out(&secret).trim()), "{}", out(&secret));
}

#[test]
fn without_a_key_or_a_server_the_message_says_how_to_give_one() {
    let folder = Folder::new();
    folder.refused(
        &["up", "--server", "turn.example.org"],
        "campfire: no key: give --psk-file FILE or --uri-file FILE, or set CAMPFIRE_PSK or CAMPFIRE_URI; `campfire key new` makes a key\n",
    );
    folder.file("psk", KEY, 0o600);
    folder.refused(&["up", "--psk-file", "psk"], "campfire: no server: give --server HOST once or more, or a camp:// URI with servers\n");
}

#[test]
fn a_key_file_that_everybody_may_read_is_refused_and_one_of_a_group_is_not() {
    let folder = Folder::new();
    for mode in [0o644, 0o604, 0o602, 0o601] {
        folder.file("psk", KEY, mode);
        folder.refused(
            &["up", "--psk-file", "psk", "--server", "a"],
            &format!("campfire: --psk-file: psk is open to everybody on this machine (mode {mode:04o}): chmod 600 psk\n"),
        );
    }
    for mode in [0o400, 0o600, 0o640, 0o440] {
        folder.file("psk", KEY, mode);
        assert!(folder.campfire(&["key", "fingerprint", "--psk-file", "psk"]).status.success(), "{mode:o}");
    }
}

#[test]
fn a_key_file_that_is_missing_a_directory_or_unreadable_is_named() {
    let folder = Folder::new();
    let up = |file: &str| ["up", "--server", "a", "--psk-file"].into_iter().chain([file]).map(str::to_owned).collect::<Vec<_>>();
    folder.refused(&up("nothing"), "campfire: --psk-file: there is no file nothing\n");
    fs::create_dir(folder.path("folder")).unwrap();
    folder.refused(&up("folder"), "campfire: --psk-file: folder is a directory, expected a file\n");
    folder.file("empty", "# no key\n", 0o600);
    folder.refused(&up("empty"), "campfire: empty: no key in it; `campfire key new` makes one\n");
    folder.bytes("binary", &[0xFF; 40], 0o600);
    folder.refused(&up("binary"), "campfire: --psk-file: binary holds no text, expected a key as text\n");
    folder.bytes("huge", &vec![b'a'; 100_000], 0o600);
    folder.refused(&up("huge"), "campfire: --psk-file: huge is longer than 16384 bytes, which no key is\n");
}

#[test]
fn a_key_file_of_another_user_is_named_with_what_to_do() {
    let Some(setpriv) = as_nobody() else { return };
    let folder = Folder::new();
    folder.file("psk", KEY, 0o600);
    fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path("campfire");
    // Not by this process: a child that another test starts meanwhile would hold the copy open for writing, and it could not be run.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_campfire")).arg(&copy).status().unwrap().success());
    let output = folder.run(Command::new(setpriv).args(NOBODY).arg(copy).args(["up", "--server", "a", "--psk-file", "psk"]));
    assert_eq!(
        (output.status.code(), err(&output).as_str()),
        (Some(64), "campfire: --psk-file: psk may not be read by this user: give it to the user, or run as its owner\n")
    );
}

#[test]
fn what_is_no_key_is_refused_without_an_echo() {
    let folder = Folder::new();
    for (text, length) in
        [("hunter2hunter2", 14), (&KEY[..42], 42), (&"zz".repeat(32), 64), ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9", 43)]
    {
        folder.file("psk", text, 0o600);
        let output = folder.campfire(&["up", "--psk-file", "psk", "--server", "a"]);
        assert_eq!(
            (output.status.code(), err(&output)),
            (
                Some(64),
                format!(
                    "campfire: psk: not a campfire key: expected 43 characters of base64url (as `campfire key new` prints) or 64 hex digits, found {length} characters\n"
                )
            )
        );
        let output = folder.campfire_env(&["up", "--server", "a"], &[("CAMPFIRE_PSK", text)]);
        assert_eq!(output.status.code(), Some(64));
        assert!(err(&output).starts_with("campfire: CAMPFIRE_PSK: not a campfire key"), "{}", err(&output));
        assert!(!err(&output).contains(text));
    }
}

#[test]
fn secrets_on_the_command_line_are_refused_without_an_echo() {
    let folder = Folder::new();
    let output = folder.campfire(&["up", "--psk", KEY, "--server", "a"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(err(&output).starts_with(
        "campfire: --psk: a secret on the command line can be read by everybody on this machine; use --psk-file FILE or CAMPFIRE_PSK"
    ));
    assert!(!err(&output).contains(KEY));
    let uri = format!("camp://a#{KEY}");
    for arguments in [
        &["up", "--uri", &uri][..],
        &["up", "--psk-file", KEY, "--server", "a"],
        &["up", "--server", &uri],
        &["up", "--psk-file", "psk", "--uri-file", &uri],
    ] {
        folder.file("psk", KEY, 0o600);
        let output = folder.campfire(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(!err(&output).contains(KEY), "{}", err(&output));
    }
}

#[test]
fn bad_servers_are_refused() {
    let folder = Folder::new();
    folder.file("psk", KEY, 0o600);
    for (server, why) in [
        ("", "expected a DNS name or an IP address as host"),
        ("a:0", "expected a port from 1 to 65535"),
        ("a:99999", "expected a port from 1 to 65535"),
        ("2001:db8::1", "expected brackets around an IPv6 address, as in [2001:db8::1]:3478"),
        ("turns:a?cert=xyz", "expected 43 characters of base64url behind cert=, the SHA-256 of the certificate"),
    ] {
        folder.refused(&["up", "--psk-file", "psk", "--server", server], &format!("campfire: --server: not a server: {why}\n"));
    }
}

#[test]
fn values_out_of_bounds_are_refused() {
    let folder = Folder::new();
    folder.file("psk", KEY, 0o600);
    for (arguments, message) in [
        (&["--mtu", "1279"][..], "campfire: --mtu: expected 1280 to 9000 bytes (IPv6 needs 1280), found 1279\n"),
        (&["--mtu", "65536"], "campfire: --mtu: expected 1280 to 9000 bytes (IPv6 needs 1280), found 65536\n"),
        (&["--interface", "a-name-far-too-long"], "campfire: --interface: expected 1 to 15 letters, digits and . - _\n"),
        (&["--interface", "../etc"], "campfire: --interface: expected 1 to 15 letters, digits and . - _\n"),
        (&["--ipv4-pool", "10.0.0.0/30"], "campfire: --ipv4-pool: expected a network from /8 to /29, such as 100.80.0.0/16\n"),
        (
            &["--wg-dir", "run"],
            "campfire: --run-dir and --wg-dir: give each a directory of its own, both have a socket INTERFACE.sock there\n",
        ),
        (&["--network", "xyz"], "campfire: --network: expected 10 hex digits\n"),
        (&["--name", "a\nb"], "campfire: --name: expected at most 63 printable characters\n"),
        (
            &["--ca-file", "nothing.pem", "--identity-file", "id"],
            "campfire: --ca-file: nothing.pem: cannot be read: No such file or directory (os error 2)\n",
        ),
    ] {
        let mut all = vec!["up", "--psk-file", "psk", "--server", "a", "--run-dir", "run"];
        all.extend(arguments);
        folder.refused(&all, message);
    }
    let output = folder.campfire(&["up", "--listen-port", "70000"]);
    assert_eq!(output.status.code(), Some(64));
    let output = folder.campfire(&["fly"]);
    assert_eq!(output.status.code(), Some(64));
    let output = folder.campfire(&["up", "--psk-file", "psk", "--server", "a", "--log", "a=b=c"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(err(&output).starts_with("campfire: --log: "), "{}", err(&output));
}

#[test]
fn a_route_into_the_overlay_is_refused() {
    let folder = Folder::new();
    folder.file("psk", KEY, 0o600);
    let network = out(&folder.campfire(&["key", "fingerprint", "--network", "--psk-file", "psk"]));
    let network = network.trim();
    let prefix = format!("fd{}:{}:{}::/48", &network[..2], &network[2..6], &network[6..]);
    let route = prefix.replace("::/48", ":1::/64");
    let output = folder.campfire(&["up", "--psk-file", "psk", "--server", "a", "--identity-file", "id", "--advertise-route", &route]);
    assert_eq!(output.status.code(), Some(64));
    assert!(err(&output).contains("overlaps the overlay's own network"), "{}", err(&output));
}

#[test]
fn several_keys_need_their_network_and_one_that_is_announced() {
    let folder = Folder::new();
    folder.file("psk", &format!("# newest first\naccept:{KEY}\n{OTHER}\n"), 0o600);
    let output = folder.campfire(&["up", "--psk-file", "psk", "--server", "a"]);
    folder.file("old", OTHER, 0o600);
    let network = out(&folder.campfire(&["key", "fingerprint", "--network", "--psk-file", "old"]));
    assert_eq!(
        err(&output),
        format!(
            "campfire: several keys: say which network they are of, as addresses follow from it: --network ID (of the oldest key here: {})\n",
            network.trim()
        )
    );
    folder.refused(
        &["up", "--psk-file", "accept:old", "--server", "a"],
        "campfire: all keys are accept: one at least must be announced, or nobody is met\n",
    );
    let five: Vec<String> = (0..5_u8).map(|n| hex::encode([n; 32])).collect();
    folder.file("five", &five.join("\n"), 0o600);
    folder.refused(&["up", "--psk-file", "five", "--server", "a"], "campfire: 5 keys: at most 4 are held at once; drop the oldest\n");
}

#[test]
fn the_file_is_checked_and_its_errors_never_show_what_stands_in_it() {
    let folder = Folder::new();
    let run = |text: &str| {
        folder.file("c.toml", text, 0o644);
        let output = folder.campfire(&["up", "--config", "c.toml"]);
        assert_eq!(output.status.code(), Some(64), "{text}: {}", err(&output));
        assert!(!err(&output).contains(KEY), "{}", err(&output));
        err(&output)
    };
    assert!(
        run(&format!("name = \"x\"\npsk = \"{KEY}\"\n"))
            .starts_with("campfire: --config: c.toml, line 2: unknown field `psk`, expected one of `server`, ")
    );
    assert_eq!(run(&format!("mtu = \"{KEY}\"\n")), "campfire: --config: c.toml, line 1: a text where another kind of value is expected\n");
    assert_eq!(run(&format!("\n\n{KEY}\n")).split(':').nth(2).unwrap().trim(), "c.toml, line 3");
    assert_eq!(run(&format!("log-format = \"{KEY}\"\n")), "campfire: --config: c.toml, line 1: expected `text` or `json`\n");
    assert!(run("server = [1]").starts_with("campfire: --config: c.toml, line 1: "));
    folder.refused(&["up", "--config", "none"], "campfire: --config: none cannot be read: No such file or directory (os error 2)\n");
}

#[test]
fn a_flag_wins_over_the_environment_which_wins_over_the_file() {
    let folder = Folder::new();
    folder.file("psk", KEY, 0o600);
    folder.file("c.toml", "mtu = 1\npsk-file = \"psk\"\nserver = [\"a\"]\n", 0o644);
    let found = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut all = vec!["up", "--config", "c.toml"];
        all.extend(arguments);
        let text = err(&folder.campfire_env(&all, environment));
        text.trim().rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(found(&[], &[]), "1");
    assert_eq!(found(&[], &[("CAMPFIRE_MTU", "2")]), "2");
    assert_eq!(found(&["--mtu", "3"], &[("CAMPFIRE_MTU", "2")]), "3");
}

#[test]
fn an_identity_is_made_once_kept_secret_and_never_shared() {
    let folder = Folder::new();
    folder.file("psk", KEY, 0o600);
    // Ends after the identity was made: the certificates are missing.
    let up = ["up", "--psk-file", "psk", "--server", "a", "--identity-file", "state/id", "--ca-file", "none", "--run-dir", "run"];
    folder.campfire(&up);
    let made = fs::read_to_string(folder.path("state/id")).unwrap();
    assert_eq!(made.trim().len(), 64);
    assert_eq!(fs::metadata(folder.path("state/id")).unwrap().permissions().mode() & 0o777, 0o600);
    folder.campfire(&up);
    assert_eq!(fs::read_to_string(folder.path("state/id")).unwrap(), made);

    folder.file("state/id", "rubbish", 0o600);
    folder.refused(&up, "campfire: --identity-file: state/id holds no identity, expected 64 hex digits; remove it to begin anew\n");
    folder.file("state/id", &made, 0o644);
    folder.refused(&up, "campfire: --identity-file: state/id is open to everybody on this machine (mode 0644): chmod 600 state/id\n");
    folder.file("state/id", &made, 0o600);
    let held = fs::File::open(folder.path("state/id")).unwrap();
    held.lock().unwrap();
    folder.refused(
        &up,
        "campfire: --identity-file: state/id is in use by another campfire: two peers cannot be the same one; give each its own --identity-file\n",
    );
}

#[test]
fn a_uri_is_printed_with_its_key_only_when_asked() {
    let folder = Folder::new();
    folder.file("psk", KEY, 0o600);
    let arguments = ["uri", "--psk-file", "psk", "--server", "a.example", "--server", "oak=192.0.2.1:4000"];
    let hidden = out(&folder.campfire(&arguments));
    assert!(hidden.starts_with("camp://a.example/oak=192.0.2.1:4000?net="), "{hidden}");
    assert!(!hidden.contains(KEY), "{hidden}");
    let shown = out(&folder.campfire(&[&arguments[..], &["--show-secret"]].concat()));
    assert!(shown.trim().ends_with(&format!("#{KEY}")), "{shown}");

    // And back: what is in it is what was given.
    folder.file("join", &shown, 0o600);
    let again = out(&folder.campfire(&["uri", "--uri-file", "join", "--show-secret"]));
    assert_eq!(again, shown);
    assert_eq!(
        out(&folder.campfire(&["key", "fingerprint", "--uri-file", "join"])),
        out(&folder.campfire(&["key", "fingerprint", "--psk-file", "psk"]))
    );
    folder.file("join", "camp://", 0o600);
    folder.refused(&["up", "--uri-file", "join"], "campfire: join: not a campfire URI: expected #KEY at its end\n");
}

#[test]
fn every_command_explains_itself_with_examples() {
    let folder = Folder::new();
    for command in [
        &["up"][..],
        &["status"],
        &["graph"],
        &["why"],
        &["key", "new"],
        &["key", "fingerprint"],
        &["key", "relay-secret"],
        &["root", "new"],
        &["root", "show"],
        &["uri"],
        &[],
    ] {
        let output = folder.campfire(&[command, &["--help"]].concat());
        assert!(output.status.success(), "{command:?}");
        assert!(out(&output).contains("Example"), "{command:?} shows no example");
    }
    assert!(out(&folder.campfire(&["up", "--help"])).contains("[env: CAMPFIRE_PSK_FILE"));
}

#[test]
fn asking_where_nobody_runs_says_so() {
    let folder = Folder::new();
    for command in [&["status"][..], &["graph"], &["why", "ada"], &["status", "--wait=0"]] {
        let output = folder.campfire(&[command, &["--run-dir", "run"]].concat());
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(
            err(&output).contains("no campfire runs here (nothing listens on run/campfire0.sock): start it with `campfire up`"),
            "{}",
            err(&output)
        );
    }
    folder.file("status.json", "{}", 0o600);
    let output = folder.campfire(&["graph", "status.json"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(err(&output).starts_with("campfire: status.json is no output of `campfire status --json`"), "{}", err(&output));
}

const NOBODY: [&str; 4] = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"];

/// The program that runs others without rights, where that is possible.
fn as_nobody() -> Option<&'static str> {
    let works = Command::new("setpriv").args(NOBODY).arg("true").status().is_ok_and(|status| status.success());
    if !works {
        println!("SKIPPED: needs root and setpriv (util-linux)");
    }
    works.then_some("setpriv")
}

/// A folder of its own, in which the program runs.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, text: &str, mode: u32) {
        self.bytes(name, text.as_bytes(), mode);
    }

    fn bytes(&self, name: &str, bytes: &[u8], mode: u32) {
        fs::write(self.path(name), bytes).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn campfire<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Output {
        self.run(Command::new(env!("CARGO_BIN_EXE_campfire")).args(arguments))
    }

    fn campfire_env(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_campfire"));
        self.run(command.args(arguments).envs(environment.iter().copied()))
    }

    fn run(&self, command: &mut Command) -> Output {
        command.current_dir(self.0.path()).stdin(Stdio::null()).output().unwrap()
    }

    fn refused<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S], message: &str) {
        let output = self.campfire(arguments);
        assert_eq!((output.status.code(), err(&output).as_str()), (Some(64), message));
    }
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", err(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
