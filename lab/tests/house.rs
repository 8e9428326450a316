//! The house as docs/architecture.md draws it: who may know whom, and where `unsafe` is allowed. Of each crate's manifest the dependencies
//! on our own crates are compared with its row of the table there, both ways.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

#[test]
fn crates_know_those_that_the_table_lets_them_know_and_no_others() {
    let (drawn, built) = (drawn(), built());
    let names = |rows: &BTreeMap<String, Row>| rows.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&drawn), names(&built), "docs/architecture.md's table has a row for each crate of the workspace, and no others");
    let mut wrong = Vec::new();
    for (name, built) in &built {
        let drawn = &drawn[name];
        for (what, drawn, built) in [("knows", &drawn.knows, &built.knows), ("knows for tests", &drawn.for_tests, &built.for_tests)] {
            wrong.extend(built.difference(drawn).map(|other| format!("{name} {what} {other}: its manifest says so, the table does not")));
            wrong.extend(drawn.difference(built).map(|other| format!("{name} {what} {other}: the table says so, its manifest does not")));
        }
    }
    assert!(wrong.is_empty(), "docs/architecture.md and the manifests do not agree:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_allowed_where_the_table_says_and_nowhere_else() {
    let (drawn, built) = (drawn(), built());
    for (name, row) in built.iter().filter(|(_, row)| row.has_unsafe) {
        let manifest = fs::read_to_string(row.folder.join("Cargo.toml")).unwrap();
        for lint in ["undocumented_unsafe_blocks = \"deny\"", "multiple_unsafe_ops_per_block = \"deny\""] {
            assert!(manifest.contains(lint), "{name} has unsafe code and not {lint}");
        }
    }
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("\nunsafe_code = \"forbid\"\n"), "the workspace forbids unsafe code");
    let of = |rows: &BTreeMap<String, Row>| rows.iter().filter(|(_, row)| row.has_unsafe).map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(of(&drawn), of(&built), "crates with unsafe code, as the table draws them and as they are");
}

#[test]
fn unsafe_code_is_allowed_in_one_crate() {
    let with: Vec<String> = built().into_iter().filter(|(_, row)| row.has_unsafe).map(|(name, _)| name).collect();
    assert_eq!(with, ["sys"]);
}

#[test]
fn the_operator_is_built_without_wireguard() {
    let tree = cargo(&["tree", "--package", "campfire-operator", "--edges", "normal", "--prefix", "none"]);
    assert!(tree.contains("kube-runtime "), "a tree of the operator: {tree}");
    for absent in ["boringtun ", "campfire-tunnel ", "campfire-mesh "] {
        assert!(!tree.lines().any(|line| line.starts_with(absent)), "the operator has {absent}in its tree");
    }
}

/// What is known of one crate, by the table or by its manifest and source.
#[derive(Debug, Default)]
struct Row {
    knows: BTreeSet<String>,
    for_tests: BTreeSet<String>,
    has_unsafe: bool,
    folder: PathBuf,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The table that begins with `| crate | may know |`.
fn drawn() -> BTreeMap<String, Row> {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut lines = text.lines().skip_while(|line| !line.starts_with("| crate | may know |"));
    assert!(lines.next().is_some(), "docs/architecture.md has a table of who may know whom");
    let names = |cell: &str| cell.split(',').map(|name| name.trim().trim_matches('`').to_owned()).filter(|name| !name.is_empty()).collect();
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, knows, for_tests, has_unsafe] = cells[..] else { panic!("four cells: {line}") };
            assert!(["", "yes"].contains(&has_unsafe), "the last cell is `yes` or nothing: {line}");
            let row = Row { knows: names(knows), for_tests: names(for_tests), has_unsafe: has_unsafe == "yes", ..Row::default() };
            (name.trim_matches('`').to_owned(), row)
        })
        .collect()
}

/// The workspace as cargo reads it.
fn built() -> BTreeMap<String, Row> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--no-deps"])).unwrap();
    let short = |name: &Value| name.as_str().unwrap().strip_prefix("campfire-").map(str::to_owned);
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 10, "all crates of the workspace");
    packages
        .iter()
        .map(|package| {
            let folder = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned();
            let mut row = Row { has_unsafe: allows_unsafe(&folder), folder, ..Row::default() };
            for dependency in package["dependencies"].as_array().unwrap() {
                let Some(name) = short(&dependency["name"]) else { continue };
                if dependency["kind"] == "dev" {
                    row.for_tests.insert(name)
                } else {
                    row.knows.insert(name)
                };
            }
            (short(&package["name"]).expect("our crates are called campfire-…"), row)
        })
        .collect()
}

/// Whether a crate has lints of its own: the workspace's forbid unsafe code, and what is forbidden no source can allow.
fn allows_unsafe(folder: &Path) -> bool {
    !fs::read_to_string(folder.join("Cargo.toml")).unwrap().contains("[lints]\nworkspace = true")
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).args(["--offline", "--locked"]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
