//! docs/cli.md is made from the help. With `CAMPFIRE_WRITE_DOCS=1` it is written anew.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fmt::Write as _;
use std::path::Path;

use campfire_cli::check::Check;
use campfire_cli::cli::Cli;
use clap::{Command, CommandFactory as _};

/// What stands before the commands.
const HEAD: &str = "\
# kubectl campfire

What goes on at the campfires of your clusters, and why: a plugin of kubectl, one program without others. It has no state and no rights of its own:
it shows what stands in the objects of the API, and asks sidecars by `kubectl exec`. So it needs the rights of whoever runs it to `list` Campfires,
MeshPeers and pods, and to `create` `pods/exec` where sidecars are asked; it says which is missing.

```sh
cargo build --release --locked -p campfire-cli
install target/release/kubectl-campfire ~/.local/bin/
ln -s kubectl-campfire ~/.local/bin/kubectl_complete-campfire     # completion, by kubectl's own
```

Static programs for Linux on amd64 and arm64 as archives, with a manifest for [krew](https://krew.sigs.k8s.io): `make release` writes them to
`target/release-files`; `kubectl krew install --manifest=campfire.yaml` takes the manifest once the archives are where it says. The workflow of a release
builds for macOS and Windows too; nobody has tried those.

This page is made from the help of each command.
";

/// What stands before the checks.
const CHECKS: &str = "
## What check looks at

Each line of `kubectl campfire check` begins with the name of a check: what it looks at, and *what to do* where it finds something.

`-o json` writes `{\"result\", \"checks\"}`: `result` is `ok`, `warning` or `failed`, for the exit codes 0, 1 and 2; each of `checks` has `id`,
`group`, `context` (empty: all), `result` (`ok`, `unknown`, `warning`, `failed`), `message` and `link`.
";

#[test]
fn the_document_has_the_help_of_each_command() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let made = made();
    if std::env::var_os("CAMPFIRE_WRITE_DOCS").is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == made, "docs/cli.md is not what the help says: CAMPFIRE_WRITE_DOCS=1 cargo test -p campfire-cli --test docs");
}

#[test]
fn help_speaks_of_kubectl_campfire_and_every_command_has_an_example() {
    let mut command = built();
    let help = command.render_long_help().to_string();
    assert!(help.contains("Usage: kubectl campfire [OPTIONS] <COMMAND>"), "{help}");
    for verb in command.get_subcommands_mut().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        let name = verb.get_name().to_owned();
        let help = verb.render_long_help().to_string();
        assert!(help.contains(&format!("Usage: kubectl campfire {name}")), "{help}");
        assert!(help.contains("\nExample") && help.matches("kubectl campfire").count() >= 2, "{name} has no example: {help}");
    }
}

fn built() -> Command {
    let mut command = Cli::command().term_width(110);
    command.build();
    command
}

fn made() -> String {
    let mut out = HEAD.to_owned();
    let mut command = built();
    let help = command.render_long_help().to_string();
    let _ = write!(out, "\n```text\n{}\n```\n", plain(&help));
    for verb in command.get_subcommands_mut().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        let name = verb.get_name().to_owned();
        // What all have stands above.
        let help = verb.render_long_help().to_string();
        let _ = write!(out, "\n## {name}\n\n```text\n{}\n```\n", plain(&without_where(&help)));
    }
    out.push_str(CHECKS);
    let mut group = "";
    for check in Check::ALL {
        if check.group() != group {
            group = check.group();
            let _ = write!(out, "\n### {group}\n");
        }
        let _ = write!(out, "\n#### {}\n\n{}\n\n*{}*\n", check.id(), check.looks(), check.remedy());
    }
    out
}

#[test]
fn what_remedies_point_to_is_there() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let anchors = |file: &str| -> Vec<String> {
        let text = std::fs::read_to_string(docs.join(file)).unwrap();
        let plain = |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-").replace(['.', ',', ':'], "");
        let mut found = Vec::new();
        for anchor in text.lines().filter(|line| line.starts_with('#')).map(plain) {
            // As GitHub does: the second of a name has -1.
            let before = found.iter().filter(|other: &&String| **other == anchor).count();
            found.push(if before == 0 { anchor } else { format!("{anchor}-{before}") });
        }
        found
    };
    let mut looked = 0;
    for check in Check::ALL {
        for link in check.remedy().split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = link.split_once('#').unwrap();
            assert!(anchors(file).iter().any(|known| known == anchor), "{}: {link}", check.id());
            looked += 1;
        }
    }
    assert!(looked > 5);
    assert!(anchors("cli.md").iter().any(|known| known == Check::ALL[0].id()), "each finding links to its own place");
}

/// Without the options that all commands share.
fn without_where(help: &str) -> String {
    let Some((before, rest)) = help.split_once("\nWhere:\n") else { return help.to_owned() };
    // Up to the next line that is not set in.
    let after: Vec<&str> = rest.lines().skip_while(|line| line.is_empty() || line.starts_with(' ')).collect();
    format!("{before}\n{}\n", after.join("\n"))
}

fn plain(help: &str) -> String {
    help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim().to_owned()
}
