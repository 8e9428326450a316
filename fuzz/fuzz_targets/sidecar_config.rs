//! What `campfire up` may be told: flags, its TOML file, keys and URI. The input is parts divided by lines of `---`: flags
//! one a line, the file, CAMPFIRE_PSK, CAMPFIRE_URI. What comes out keeps its limits; no error tells a key.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use campfire_sidecar::cli::{Cli, Command};
use campfire_sidecar::config::{MAX_KEYS, MAX_ROUTES, MAX_SERVERS, Reloaded, PeerSettings, logging, options, refuse_secret_arguments};
use campfire_sidecar::secrets::EnvironmentSecrets;
use clap::Parser as _;
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a directory of our own"));

fuzz_target!(|text: &str| {
    let mut parts = text.split("\n---\n");
    let flags: Vec<&str> = parts.next().unwrap_or_default().lines().collect();
    let file = parts.next().unwrap_or_default();
    let mut secret = || parts.next().filter(|text| !text.is_empty()).map(|text| Zeroizing::new(text.to_owned()));
    let environment = EnvironmentSecrets { psk: secret(), uri: secret() };

    let Ok(Cli { command: Command::Up(mut up) }) = Cli::try_parse_from(["campfire", "up"].into_iter().chain(flags)) else { return };
    if refuse_secret_arguments(&up).is_err() {
        return;
    }
    let config = DIR.path().join("campfire.toml");
    std::fs::write(&config, file).expect("is written");
    up.config = Some(config);
    let mut options = match options(&up) {
        Ok(options) => options,
        Err(error) => {
            let values = file.parse::<toml::Table>().unwrap_or_default();
            for value in values.values().filter_map(toml::Value::as_str).filter(|value| value.len() >= 24) {
                assert!(!error.0.contains(value), "{error}");
            }
            return;
        }
    };
    // No files but our own are read or made.
    (options.psk_file, options.uri_file, options.state_dir) = (Vec::new(), None, None);
    options.identity_file = Some(identity());
    let _ = logging(&options);
    match PeerSettings::new(&options, &environment) {
        Ok(settings) => {
            let mesh = &settings.mesh;
            assert!((1..=MAX_KEYS).contains(&mesh.fire.keys.len()) && (1..=MAX_SERVERS).contains(&mesh.fire.servers.len()));
            assert!(mesh.fire.routes.len() <= MAX_ROUTES && mesh.accepted_routes.len() <= 64 && settings.mtu >= 1280);
            assert!(!settings.interface.contains('/'));
            let network = mesh.fire.network;
            drop(settings);
            assert!(Reloaded::new(&options, &environment, network).is_ok(), "what was taken once is taken again");
        }
        Err(error) => {
            let secrets = [&environment.psk, &environment.uri].into_iter().flatten();
            for line in secrets.flat_map(|text| text.lines()).map(str::trim).filter(|line| line.len() >= 24 && !line.contains(' ')) {
                assert!(!error.0.contains(line), "{error}");
            }
        }
    }
});

fn identity() -> PathBuf {
    DIR.path().join("identity")
}
