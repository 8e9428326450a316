//! The server's flags, its TOML file, and its files of secrets. The input is parts divided by lines of `---`: flags one a
//! line, the file, then three files of the secrets directory, users, REST secrets. No error tells a secret.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::Parser as _;
use libfuzzer_sys::fuzz_target;

// The server's shell is a program: these parts of it are compiled in.
#[allow(dead_code)]
#[path = "../../turn/src/shell/config.rs"]
mod config;
#[allow(dead_code)]
#[path = "../../turn/src/shell/secrets.rs"]
mod secrets;

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory of our own");
    std::fs::create_dir(dir.path().join("secrets")).expect("is made");
    dir
});
/// Names of files of the secrets directory: a fingerprint, another name, and one that is skipped.
const NAMES: [&str; 3] = ["secrets/0123456789abcdef", "secrets/other", "secrets/.hidden"];

fuzz_target!(|text: &str| {
    let mut parts = text.split("\n---\n");
    let mut next = || parts.next().unwrap_or_default();

    let flags: Vec<&str> = next().lines().collect();
    let file_of_options = file("turn.toml", next());
    if let Ok(mut options) = config::Options::try_parse_from(std::iter::once("campfire-turn").chain(flags)) {
        options.config = Some(file_of_options);
        let validated = options.with_file().map(|mut options| {
            // Whether there is such a directory is not what is tried here.
            options.secrets_dir = options.secrets_dir.map(|_| DIR.path().join("secrets"));
            options.validate()
        });
        match validated {
            Ok(Ok(settings)) => assert!(!settings.relay_ports.is_empty() && settings.core.limits.memory > 0),
            Ok(Err(error)) | Err(error) => assert!(!error.to_string().is_empty()),
        }
    }

    let mut written = Vec::new();
    for name in NAMES {
        let text = next();
        written.push(text);
        file(name, text);
    }
    let (users, rest) = (next(), next());
    let files = config::SecretFiles {
        campfires: Some(DIR.path().join("secrets")),
        users: Some(file("users", users)),
        rest: Some(file("rest", rest)),
        strict: false,
    };
    match secrets::load(&files) {
        Ok(loaded) => {
            assert_eq!(loaded.secrets.fingerprints().count(), loaded.campfires);
            assert!(loaded.campfires <= written[..2].iter().map(|text| text.lines().count()).sum());
            assert!(loaded.users <= users.lines().count() && loaded.rest <= rest.lines().count());
        }
        Err(error) => {
            let error = error.to_string().replace(&DIR.path().display().to_string(), "");
            // Shorter ones, and words, stand in the sentence by chance.
            for line in written
                .iter()
                .chain([&users, &rest])
                .flat_map(|text| text.lines())
                .filter(|line| line.trim().len() >= 24 && !line.trim().contains(' '))
            {
                assert!(!error.contains(line.trim()), "{error}");
            }
        }
    }
});

fn file(name: &str, text: &str) -> PathBuf {
    let path: &Path = DIR.path();
    let path = path.join(name);
    std::fs::write(&path, text).expect("is written");
    path
}
