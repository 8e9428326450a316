//! Secrets and users from files, and noticing that they changed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use campfire_protocol::key::{Fingerprint, RelaySecret};
use campfire_turn::auth::Secrets;
use zeroize::Zeroizing;

use super::config::SecretFiles;

/// The largest file of secrets.
const MAX_FILE: u64 = 4 << 20;

/// Secrets that were loaded, and what stood out on the way.
pub struct Loaded {
    /// For the core.
    pub secrets: Secrets,
    /// How many of each kind.
    pub campfires: usize,
    /// Secrets of other systems.
    pub rest: usize,
    /// Users.
    pub users: usize,
    /// Files that others on this machine may read.
    pub exposed: Vec<PathBuf>,
}

/// Why secrets could not be loaded. Never echoes what a file holds.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file or directory could not be read.
    #[error("cannot read {path}: {error}{}", hint(.error))]
    Read {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// A file holds something else than expected.
    #[error("{path}, line {line}: {problem}")]
    Line {
        /// Which.
        path: String,
        /// Where, counted from 1.
        line: usize,
        /// What was expected.
        problem: &'static str,
    },
    /// Others may read a file, and that was forbidden.
    #[error("others on this machine may read {0}: `chmod 600` it, or run without --strict")]
    Exposed(String),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => " (create it, or correct the path)",
        io::ErrorKind::PermissionDenied => " (the user that the server runs as must be able to read it)",
        _ => "",
    }
}

/// Loads everything.
pub fn load(files: &SecretFiles) -> Result<Loaded, LoadError> {
    let mut loaded = Loaded { secrets: Secrets::new(), campfires: 0, rest: 0, users: 0, exposed: Vec::new() };
    let mut fingerprints = BTreeSet::new();
    if let Some(dir) = &files.campfires {
        for path in secret_files(dir)? {
            let text = read(&path, &mut loaded.exposed)?;
            for (line, entry) in lines(&text) {
                let (fingerprint, secret) = campfire_entry(&path, entry).map_err(|problem| at(&path, line, problem))?;
                if fingerprints.insert(fingerprint) {
                    loaded.secrets.add_campfire(fingerprint, RelaySecret::from_text(secret));
                    loaded.campfires += 1;
                }
            }
        }
    }
    if let Some(path) = &files.users {
        let text = read(path, &mut loaded.exposed)?;
        for (line, entry) in lines(&text) {
            let (name, password) = entry.split_once(':').ok_or_else(|| at(path, line, "expected NAME:PASSWORD"))?;
            if name.is_empty() || name.len() > 512 || password.is_empty() {
                return Err(at(path, line, "expected NAME:PASSWORD, neither of them empty, the name at most 512 bytes"));
            }
            loaded.secrets.add_user(name.to_owned(), Zeroizing::new(password.to_owned()));
            loaded.users += 1;
        }
    }
    if let Some(path) = &files.rest {
        let text = read(path, &mut loaded.exposed)?;
        for (_, entry) in lines(&text) {
            loaded.secrets.add_rest(RelaySecret::from_text(entry));
            loaded.rest += 1;
        }
    }
    match loaded.exposed.first() {
        Some(path) if files.strict => Err(LoadError::Exposed(path.display().to_string())),
        _ => Ok(loaded),
    }
}

/// The files of a directory in the order of their names. What begins with a dot is skipped: a mounted Kubernetes Secret
/// keeps its versions in such directories and shows the newest through links.
fn secret_files(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |error| LoadError::Read { path: dir.display().to_string(), error };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        // A file that vanished since it was listed is gone, not broken: a change is being written.
        if !hidden && fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path, exposed: &mut Vec<PathBuf>) -> Result<Zeroizing<String>, LoadError> {
    let unreadable = |error| LoadError::Read { path: path.display().to_string(), error };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if metadata.len() > MAX_FILE {
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB")));
    }
    // A pod's volume gives its files to the group that the pod runs as, and makes them readable for it.
    let own_group = || rustix::process::getegid().as_raw() == metadata.gid();
    if metadata.mode() & 0o007 != 0 || (metadata.mode() & 0o070 != 0 && (metadata.mode() & 0o020 != 0 || !own_group())) {
        exposed.push(path.to_owned());
    }
    fs::read_to_string(path).map(Zeroizing::new).map_err(unreadable)
}

/// Lines with something on them, without comments, numbered from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// `FINGERPRINT:SECRET`, or the secret alone in a file that is named by the fingerprint.
fn campfire_entry<'a>(path: &Path, entry: &'a str) -> Result<(Fingerprint, &'a str), &'static str> {
    const EXPECTED: &str = "expected FINGERPRINT:RELAY-SECRET (as `campfire key fingerprint` and `campfire key relay-secret` print them), or the relay secret alone in a file named by the fingerprint";
    let named = || path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| Fingerprint::from_str(stem).ok());
    let (fingerprint, secret) = match entry.split_once(':') {
        Some((fingerprint, secret)) => (Fingerprint::from_str(fingerprint.trim()).ok(), secret.trim()),
        None => (named(), entry),
    };
    // A relay secret is 32 bytes in base64url: what is shorter was cut, what is longer is something else, the PSK as hex
    // digits for instance, which a server must not hold.
    match fingerprint {
        Some(fingerprint) if secret.len() == 43 => Ok((fingerprint, secret)),
        _ => Err(EXPECTED),
    }
}

fn at(path: &Path, line: usize, problem: &'static str) -> LoadError {
    LoadError::Line { path: path.display().to_string(), line, problem }
}

/// What can be seen of files without reading them. Different means: changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature(Vec<(PathBuf, Option<Look>)>);

/// Device, inode, seconds and nanoseconds of the last change, length.
type Look = (u64, u64, i64, i64, u64);

impl Signature {
    /// Looks at files and at the files in directories, through links.
    pub fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        let mut seen = Vec::new();
        for path in paths {
            if path.is_dir() {
                seen.extend(secret_files(path).unwrap_or_default().into_iter().map(|path| (path.clone(), look(&path))));
            }
            seen.push((path.to_owned(), look(path)));
        }
        Self(seen)
    }
}

fn look(path: &Path) -> Option<Look> {
    fs::metadata(path).ok().map(|seen| (seen.dev(), seen.ino(), seen.mtime(), seen.mtime_nsec(), seen.len()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const SECRET: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const FINGERPRINT: &str = "0123456789abcdef";

    #[test]
    fn both_forms_of_a_campfire_file_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(FINGERPRINT), &format!("{SECRET}\n"));
        write(&dir.path().join("other"), &format!("# during a rotation\nfedcba9876543210:{SECRET}\naaaaaaaaaaaaaaaa: {SECRET}\n"));
        let loaded = load(&campfires(dir.path())).unwrap();
        assert_eq!(loaded.campfires, 3);
        assert!(loaded.secrets.fingerprints().any(|fingerprint| fingerprint.to_string() == FINGERPRINT));
        assert!(loaded.exposed.is_empty());
    }

    #[test]
    fn a_mounted_kubernetes_secret_is_read_through_its_links_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let version = dir.path().join("..2026_01");
        fs::create_dir(&version).unwrap();
        write(&version.join("relay"), &format!("{FINGERPRINT}:{SECRET}"));
        symlink("..2026_01", dir.path().join("..data")).unwrap();
        symlink("..data/relay", dir.path().join("relay")).unwrap();
        assert_eq!(load(&campfires(dir.path())).unwrap().campfires, 1);
    }

    #[test]
    fn a_wrong_file_is_named_and_its_content_is_not_echoed() {
        let dir = tempfile::tempdir().unwrap();
        for text in [format!("x{SECRET}"), SECRET.to_owned(), format!("{FINGERPRINT}:{SECRET}{SECRET}"), "0123:abc".to_owned()] {
            write(&dir.path().join("wrong"), &text);
            let error = load(&campfires(dir.path())).err().unwrap().to_string();
            assert!(error.contains("wrong, line 1") && error.contains("campfire key relay-secret"), "{error}");
            assert!(!error.contains("AAAA") && !error.contains("abc)"), "{error}");
        }
    }

    #[test]
    fn files_that_others_may_read_are_told_and_refused_when_strict() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        write(&path, "alice:secret:with:colons\n");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let files = SecretFiles { campfires: None, users: Some(path.clone()), rest: None, strict: false };
        let loaded = load(&files).unwrap();
        assert_eq!((loaded.users, loaded.exposed.as_slice()), (1, [path].as_slice()));
        let error = load(&SecretFiles { strict: true, ..files }).err().unwrap().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_signature_differs_when_a_file_is_added_changed_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let look = || Signature::of(std::iter::once(dir.path()));
        let empty = look();
        write(&dir.path().join("a"), "1");
        let one = look();
        assert_ne!(empty, one);
        write(&dir.path().join("a"), "12");
        let changed = look();
        assert_ne!(one, changed);
        fs::remove_file(dir.path().join("a")).unwrap();
        assert_ne!(changed, look());
    }

    fn campfires(dir: &Path) -> SecretFiles {
        SecretFiles { campfires: Some(dir.to_owned()), users: None, rest: None, strict: false }
    }

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}
