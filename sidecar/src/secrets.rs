//! Keys, URIs and identities from files and from the environment. Nothing here ever echoes what it read.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use campfire_fire::config::KeyMode;
use campfire_protocol::certificate::RootKey;
use campfire_protocol::identity::Identity;
use campfire_protocol::key::{self, Psk};
use campfire_protocol::uri::CampUri;
use zeroize::Zeroizing;

use crate::config::BadConfig;

/// Largest file that is read as a secret, in bytes.
const MAX_FILE: u64 = 16 * 1024;

/// Secrets that came by the environment.
#[derive(Clone, Default)]
pub struct EnvironmentSecrets {
    /// `CAMPFIRE_PSK`: keys as in a key file.
    pub psk: Option<Zeroizing<String>>,
    /// `CAMPFIRE_URI`.
    pub uri: Option<Zeroizing<String>>,
}

const PSK: &str = "CAMPFIRE_PSK";
const URI: &str = "CAMPFIRE_URI";

impl EnvironmentSecrets {
    /// Reads them from the environment of this process.
    pub fn from_environment() -> Self {
        let read = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()).map(Zeroizing::new);
        Self { psk: read(PSK), uri: read(URI) }
    }

    fn is_empty(&self) -> bool {
        self.psk.is_none() && self.uri.is_none()
    }

    /// Runs this program again, in this process, without the secrets in its environment: they go over a pipe. What has
    /// once been in a process's environment stays readable in `/proc/PID/environ`, whatever the process does later.
    /// Returns only if there was nothing to hide or hiding failed.
    pub fn hide(&self) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let (reader, mut writer) = io::pipe()?;
        for (name, value) in [(PSK, &self.psk), (URI, &self.uri)] {
            if let Some(value) = value {
                let line = Zeroizing::new(format!("{name}={}\0", value.as_str()));
                if line.len() as u64 > MAX_FILE {
                    return Err(io::Error::other(format!("{name} is longer than {MAX_FILE} bytes")));
                }
                writer.write_all(line.as_bytes())?;
            }
        }
        drop(writer);
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_else(|| OsString::from("campfire"));
        let error = Command::new("/proc/self/exe")
            .arg0(name)
            .args(arguments)
            .arg("--secrets-on-stdin")
            .env_remove(PSK)
            .env_remove(URI)
            .stdin(Stdio::from(reader))
            .exec();
        Err(error)
    }

    /// Reads what [`hide`](Self::hide) wrote.
    pub fn from_stdin() -> io::Result<Self> {
        let mut text = Zeroizing::new(String::new());
        io::stdin().lock().take(2 * MAX_FILE + 64).read_to_string(&mut text)?;
        let mut secrets = Self::default();
        for line in text.split('\0') {
            match line.split_once('=') {
                Some((PSK, value)) => secrets.psk = Some(Zeroizing::new(value.to_owned())),
                Some((URI, value)) => secrets.uri = Some(Zeroizing::new(value.to_owned())),
                _ => {}
            }
        }
        Ok(secrets)
    }
}

/// Keys as a key file or `CAMPFIRE_PSK` holds them ([`key::parse_keys`]), one at least. `from` is named in errors.
pub fn parse_keys(text: &str, mode: KeyMode, from: &str) -> Result<Vec<(Psk, KeyMode)>, BadConfig> {
    let keys = key::parse_keys(text, mode).map_err(|error| BadConfig(format!("{from}: {error}")))?;
    if keys.is_empty() {
        return Err(BadConfig(format!("{from}: no key in it; `campfire key new` makes one")));
    }
    Ok(keys)
}

/// Keys of a `[accept:]FILE` argument.
pub fn read_key_argument(argument: &str) -> Result<Vec<(Psk, KeyMode)>, BadConfig> {
    let (mode, path) = key::split_mode(argument, KeyMode::Announce);
    parse_keys(&read_secret_file(Path::new(path), "--psk-file")?, mode, path)
}

/// The root of a certified mesh.
pub fn read_root(path: &Path) -> Result<RootKey, BadConfig> {
    let shown = path.display();
    let text = read_secret_file(path, "--root-file")?;
    text.parse().map_err(|_| BadConfig(format!("--root-file: {shown} holds no root, expected 43 characters as `campfire root new` prints")))
}

/// A camp:// URI; `from` is named in errors.
pub fn parse_uri(text: &str, from: &str) -> Result<CampUri, BadConfig> {
    text.trim().parse().map_err(|error| BadConfig(format!("{from}: {error}")))
}

/// Reads a file that must not be readable by everybody; what a group may read is the business of who made the group
/// (a pod's secret volume).
#[cfg_attr(not(test), expect(clippy::wildcard_enum_match_arm, reason = "the system's kinds of errors, an open list"))]
pub fn read_secret_file(path: &Path, option: &str) -> Result<Zeroizing<String>, BadConfig> {
    let shown = path.display();
    let bad = |why: String| BadConfig(format!("{option}: {why}"));
    if path.to_str().is_some_and(|text| text.parse::<Psk>().is_ok() || text.contains("://")) {
        // A person pasted the secret where its file belongs: do not echo it.
        return Err(bad("that is a secret, not the name of a file that holds one; treat it as seen by others".into()));
    }
    let file = File::open(path).map_err(|error| {
        bad(match error.kind() {
            io::ErrorKind::NotFound => format!("there is no file {shown}"),
            io::ErrorKind::PermissionDenied => format!("{shown} may not be read by this user: give it to the user, or run as its owner"),
            _ => format!("{shown} cannot be read: {error}"),
        })
    })?;
    let metadata = file.metadata().map_err(|error| bad(format!("{shown} cannot be read: {error}")))?;
    if metadata.is_dir() {
        return Err(bad(format!("{shown} is a directory, expected a file")));
    }
    if metadata.is_file() && metadata.mode() & 0o007 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(bad(format!("{shown} is open to everybody on this machine (mode {mode:04o}): chmod 600 {shown}")));
    }
    let mut text = Zeroizing::new(String::new());
    match file.take(MAX_FILE + 1).read_to_string(&mut text) {
        Ok(_) if text.len() as u64 > MAX_FILE => Err(bad(format!("{shown} is longer than {MAX_FILE} bytes, which no key is"))),
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(bad(format!("{shown} holds no text, expected a key as text"))),
        Err(error) => Err(bad(format!("{shown} cannot be read: {error}"))),
    }
}

/// Who this peer is.
pub struct OwnIdentity {
    /// The key pair.
    pub identity: Identity,
    /// Where it is kept; `None`: nowhere, the next run is somebody else.
    pub path: Option<PathBuf>,
    /// Held locked, so that two processes are never the same peer.
    _lock: Option<File>,
}

impl OwnIdentity {
    /// From this file, which is made (mode 0600) with random content if it is missing.
    pub fn from_file(path: &Path) -> Result<Self, BadConfig> {
        let shown = path.display();
        let bad = |why: String| BadConfig(format!("--identity-file: {why}"));
        if !path.exists() {
            create(path).map_err(|error| bad(format!("{shown} cannot be made: {error}")))?;
        }
        let text = read_secret_file(path, "--identity-file")?;
        let mut seed = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim(), seed.as_mut())
            .map_err(|_| bad(format!("{shown} holds no identity, expected 64 hex digits; remove it to begin anew")))?;
        let lock = File::open(path).map_err(|error| bad(format!("{shown} cannot be read: {error}")))?;
        match lock.try_lock() {
            Err(fs::TryLockError::WouldBlock) => {
                return Err(bad(format!(
                    "{shown} is in use by another campfire: two peers cannot be the same one; give each its own --identity-file"
                )));
            }
            // A file system without locks: go without.
            Ok(()) | Err(fs::TryLockError::Error(_)) => {}
        }
        Ok(Self { identity: Identity::from_seed(&seed), path: Some(path.to_owned()), _lock: Some(lock) })
    }

    /// A new one that is kept nowhere.
    pub fn ephemeral() -> io::Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        random(seed.as_mut())?;
        Ok(Self { identity: Identity::from_seed(&seed), path: None, _lock: None })
    }
}

/// Fills with random bytes of the system's.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(|error| io::Error::other(format!("no random numbers: {error}")))
}

fn create(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    let mut seed = Zeroizing::new([0; 32]);
    random(seed.as_mut())?;
    let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(hex::encode(*seed))));
    // Written whole or not at all: a half-written identity would have to be removed by hand.
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| fs::hard_link(&part, path));
    let _ = fs::remove_file(&part);
    match written {
        // Somebody else was faster: theirs counts.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// The host's name, up to the first dot.
pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().split('.').next().unwrap_or_default().to_owned()
}
