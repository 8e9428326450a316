//! What is released, as those see it who take it: images that say where they come from and what they are made of, and archives that krew takes.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use auditable_info::audit_info_from_file;
use campfire_kind_tests::{image, root};
use serde_json::Value;

/// Each image's program, and a crate that it is nothing without.
const IMAGES: [(&str, &str); 4] =
    [("campfire-operator", "kube"), ("campfire", "boringtun"), ("campfire-turn", "tokio"), ("campfire-node", "tonic")];

#[test]
fn images_say_where_they_come_from_and_what_they_are_made_of() {
    if !image("campfire").exists() {
        println!("SKIPPED: no images: make images first");
        return;
    }
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        _ => "arm64",
    };
    for (program, without_nothing) in IMAGES {
        let folder = unpacked(&image(program));
        let manifest = json(&folder.join("manifest.json"));
        let config = json(&folder.join(manifest[0]["Config"].as_str().unwrap()));
        let layers = manifest[0]["Layers"].as_array().unwrap().iter().map(|layer| folder.join(layer.as_str().unwrap()));
        let content = laid(&folder, layers);
        is_what_it_says(&config, own, program, &content, without_nothing);
        fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn the_same_program_makes_the_same_image() {
    let program = programs().join("campfire-turn");
    if !program.exists() || run(Command::new("readelf").arg("-lW").arg(&program)).contains("INTERP") {
        println!("SKIPPED: no static campfire-turn in {}", programs().display());
        return;
    }
    let folder = emptied("twice");
    let made = |again: &str| {
        let out = folder.join(again);
        let mut images = Command::new(root().join("scripts/images"));
        images.arg("turn").env("IMAGE_FOLDER", &out).env("IMAGE_PROGRAMS", programs()).env("IMAGE_ENGINE", "buildah").env_remove("ARCH");
        // Not what the stories have.
        run(images.env("IMAGE_PREFIX", "localhost/twice-"));
        fs::read(out.join("campfire-turn.tar")).unwrap()
    };
    assert!(made("first") == made("second"), "something in an image is not of its program or its commit");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
#[ignore = "soak: a release build of all programs for two architectures"]
fn soak_one_index_has_both_architectures_whose_programs_start() {
    for (program, without_nothing) in IMAGES {
        let archive = image(&format!("{program}.oci"));
        assert!(archive.exists(), "no {}: make images ARCH=all", archive.display());
        let folder = unpacked(&archive);
        let blob = |descriptor: &Value| folder.join("blobs").join(descriptor["digest"].as_str().unwrap().replace(':', "/"));
        let index = json(&folder.join("index.json"));
        let images = json(&blob(&index["manifests"][0]));
        assert_eq!(images["mediaType"], "application/vnd.oci.image.index.v1+json", "{index}");
        let images = images["manifests"].as_array().unwrap();
        assert_eq!(images.iter().map(|image| image["platform"]["architecture"].as_str().unwrap()).collect::<Vec<_>>(), ["amd64", "arm64"]);
        let mut sizes = Vec::new();
        for image in images {
            let architecture = image["platform"]["architecture"].as_str().unwrap();
            assert_eq!(image["platform"]["os"], "linux");
            let manifest = json(&blob(image));
            let layers = manifest["layers"].as_array().unwrap();
            let content = laid(&folder, layers.iter().map(&blob));
            is_what_it_says(&json(&blob(&manifest["config"])), architecture, program, &content, without_nothing);
            for (asked, said) in [("--version", format!("{program} {}", env!("CARGO_PKG_VERSION"))), ("--help", "Usage: ".to_owned())] {
                let printed = started(architecture, &content.join(program), asked);
                assert!(printed.contains(&said), "{program} {asked} on {architecture}: {printed}");
            }
            sizes.push(format!("{architecture} {} KiB", layers.iter().map(|layer| layer["size"].as_u64().unwrap()).sum::<u64>() / 1024));
            fs::remove_dir_all(content).unwrap();
        }
        println!("SOAK: {program}, compressed: {}", sizes.join(", "));
        fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn archives_of_the_plugin_have_all_that_krew_asks_for() {
    let folder = emptied("archives");
    let program = folder.join("kubectl-campfire");
    run(Command::new("strip").arg("-o").arg(&program).arg(programs().join("kubectl-campfire")));
    let stand_in = folder.join("stand-in");
    fs::write(&stand_in, "of another system").unwrap();
    let files = folder.join("files");
    let release =
        |arguments: &[&str]| Command::new(root().join("scripts/release")).args(arguments).env("RELEASE_FILES", &files).output().unwrap();
    let packed = |system: &str, architecture: &str, program: &Path| {
        let output = release(&["pack", system, architecture, program.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        files.join(format!("kubectl-campfire_v{}_{system}_{architecture}.tar.gz", env!("CARGO_PKG_VERSION")))
    };

    let archive = packed("linux", "amd64", &program);
    run(Command::new("sha256sum").args(["--check", "--quiet"]).arg(format!("{}.sha256", archive.display())).current_dir(&files));
    let content = folder.join("content");
    fs::create_dir(&content).unwrap();
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&content));
    assert_eq!(fs::read(content.join("LICENSE")).unwrap(), fs::read(root().join("LICENSE")).unwrap());
    let version = run(Command::new(content.join("kubectl-campfire")).arg("--version"));
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");

    for (system, architecture) in [("linux", "arm64"), ("darwin", "arm64"), ("windows", "amd64")] {
        let first = fs::read(packed(system, architecture, &stand_in)).unwrap();
        let second = fs::read(packed(system, architecture, &stand_in)).unwrap();
        assert!(first == second, "the same program made another archive");
    }
    // What krew's own validator takes.
    let output = release(&["manifest"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let manifest = fs::read_to_string(files.join("campfire.yaml")).unwrap();
    let sum = fs::read_to_string(format!("{}.sha256", archive.display())).unwrap();
    assert!(manifest.contains(&format!("sha256: {}\n", sum.split(' ').next().unwrap())), "{manifest}");
    assert_eq!(manifest.matches("\n    uri: https://").count(), 4, "{manifest}");
    assert_eq!(manifest.matches("bin: kubectl-campfire.exe\n").count(), 1, "{manifest}");

    // And it does look: an architecture that krew does not know.
    packed("linux", "pdp11", &stand_in);
    let output = release(&["manifest"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("pdp11") && said.contains("krew would not take"), "{said}");
    fs::remove_dir_all(folder).unwrap();
}

/// Where an image comes from (its labels), its list of dependencies (in its program) and its SBOM (beside the archive) are true, and the same.
fn is_what_it_says(config: &Value, architecture: &str, program: &str, content: &Path, without_nothing: &str) {
    assert_eq!((config["architecture"].as_str(), config["os"].as_str()), (Some(architecture), Some("linux")), "{config}");
    let label = |name: &str| config["config"]["Labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap_or_default();
    assert_eq!(label("title"), program);
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("licenses"), "Apache-2.0");
    assert!(root_manifest().contains(&format!("repository = \"{}\"", label("source"))), "{}", label("source"));
    let git = |format: &str| {
        let format = format!("--format={format}");
        let output = run(Command::new("git")
            .args(["log", "-1", &format, "--date=format-local:%Y-%m-%dT%H:%M:%SZ", label("revision").trim_end_matches("-dirty")])
            .env("TZ", "UTC")
            .current_dir(root()));
        output.trim().to_owned()
    };
    assert_eq!(git("%H"), label("revision").trim_end_matches("-dirty"), "a commit");
    assert_eq!(git("%cd"), label("created"), "the commit's time");
    assert!(config["created"].as_str().unwrap().starts_with(label("created").trim_end_matches('Z')), "{}", config["created"]);

    let binary = content.join(program);
    let listed = audit_info_from_file(&binary, auditable_info::Limits::default());
    let listed = listed.unwrap_or_else(|error| panic!("{program} has no list of its dependencies ({error}): make images"));
    let listed: BTreeSet<(String, String)> =
        listed.packages.into_iter().map(|package| (package.name, package.version.to_string())).collect();
    let locked = locked();
    assert_eq!(listed.difference(&locked).collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "not in Cargo.lock");
    assert!(listed.iter().any(|(name, _)| name == without_nothing), "{program} without {without_nothing}: {listed:?}");

    let bom = json(&root().join(format!("target/images/{program}-{architecture}.cdx.json")));
    assert!(!bom.to_string().contains(root().to_str().unwrap()), "where it was built");
    assert_eq!((bom["bomFormat"].as_str(), bom["metadata"]["component"]["name"].as_str()), (Some("CycloneDX"), Some(program)));
    let component = |component: &Value| (component["name"].as_str().unwrap().to_owned(), component["version"].as_str().unwrap().to_owned());
    let components = bom["components"].as_array().unwrap();
    assert!(components.iter().all(|component| component["purl"].as_str().is_some_and(|purl| purl.starts_with("pkg:cargo/"))));
    let in_bom: BTreeSet<(String, String)> = components.iter().map(component).collect();
    assert_eq!(in_bom.difference(&locked).collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "not in Cargo.lock");
    let missed: Vec<_> =
        listed.iter().filter(|(name, version)| name != &package(program) && !in_bom.contains(&(name.clone(), version.clone()))).collect();
    assert!(missed.is_empty(), "in {program} and not in its SBOM: {missed:?}");
}

/// The folder of the programs that were built with this test.
fn programs() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned()
}

/// The package that a program is of.
fn package(program: &str) -> String {
    if program == "campfire" { "campfire-sidecar".to_owned() } else { program.to_owned() }
}

/// Names and versions of Cargo.lock.
fn locked() -> BTreeSet<(String, String)> {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let value = |line: &str, key: &str| line.strip_prefix(key).map(|rest| rest.trim_matches('"').to_owned());
    let mut lines = lock.lines().peekable();
    let mut all = BTreeSet::new();
    while let Some(line) = lines.next() {
        if let (Some(name), Some(next)) = (value(line, "name = "), lines.peek()) {
            all.extend(value(next, "version = ").map(|version| (name, version)));
        }
    }
    all
}

fn root_manifest() -> String {
    fs::read_to_string(root().join("Cargo.toml")).unwrap()
}

/// What a program says, under qemu where it is of another architecture.
fn started(architecture: &str, program: &Path, argument: &str) -> String {
    let machine = match architecture {
        "amd64" => "x86_64",
        _ => "aarch64",
    };
    if machine == std::env::consts::ARCH {
        run(Command::new(program).arg(argument))
    } else {
        run(Command::new(format!("qemu-{machine}-static")).arg(program).arg(argument))
    }
}

/// The files of an archive, in a folder of their own.
fn unpacked(archive: &Path) -> PathBuf {
    let folder = emptied(&archive.file_stem().unwrap().to_string_lossy());
    run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&folder));
    folder
}

/// The root of an image: its layers, one over the other.
fn laid(folder: &Path, layers: impl Iterator<Item = PathBuf>) -> PathBuf {
    let content = folder.join("content");
    fs::create_dir(&content).unwrap();
    for layer in layers {
        run(Command::new("tar").arg("-xf").arg(layer).arg("-C").arg(&content));
    }
    content
}

fn emptied(name: &str) -> PathBuf {
    let folder = root().join("target/kind-release").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
