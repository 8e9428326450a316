//! `helm`, and the chart.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Where the chart is installed.
#[allow(dead_code, reason = "not all tests that share this file use it")]
pub const NAMESPACE: &str = "campfire-system";

/// The chart's folder.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/campfire")
}

/// Where `helm` is.
pub struct Helm(PathBuf);

impl Helm {
    pub fn find() -> Option<Self> {
        let given = std::env::var_os("HELM").map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let in_path = std::env::split_paths(&path).map(|folder| folder.join("helm"));
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
            .map(|cache| cache.join("campfire/kind-tests/tools"));
        let cached =
            cache.and_then(|tools| std::fs::read_dir(tools).ok()).into_iter().flatten().flatten().map(|entry| entry.path().join("helm"));
        let found = given.into_iter().chain(in_path).chain(cached).find(|path| path.is_file());
        if found.is_none() {
            println!("SKIPPED: no helm in the path (https://helm.sh/docs/intro/install, or run the cluster tests once)");
        }
        found.map(Self)
    }

    #[allow(dead_code, reason = "not all tests that share this file use it")]
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        self.run_in(&chart(), arguments)
    }

    /// `helm ARGUMENTS` in a folder: its output, or that and its complaint.
    pub fn run_in(&self, folder: &Path, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.0).args(arguments).current_dir(folder).output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(said) } else { Err(said + &String::from_utf8_lossy(&output.stderr)) }
    }

    #[allow(dead_code, reason = "not all tests that share this file use it")]
    pub fn render(&self, arguments: &[&str]) -> Vec<Value> {
        let all = [&["template", "c", ".", "-n", NAMESPACE], arguments].concat();
        let rendered = self.run(&all).unwrap_or_else(|refused| panic!("{arguments:?}: {refused}"));
        objects(&rendered)
    }
}

/// What `helm template` rendered.
#[allow(dead_code, reason = "not all tests that share this file use it")]
pub fn objects(rendered: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(rendered)
        .map(|document| <Value as serde::Deserialize>::deserialize(document).expect("YAML of helm"))
        .filter(|object| !object.is_null())
        .collect()
}
