//! The documents say all that there is: fields, reasons, alerts. And what they say to type exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

#[test]
fn every_field_of_the_api_is_explained() {
    let text = read("docs/kubernetes.md");
    for (file, heading) in [("campfires", "## Campfire"), ("meshpeers", "## MeshPeer")] {
        let section = section(&text, heading);
        let definition: Value = serde_yaml::from_str(&read(&format!("crds/campfire.network_{file}.yaml"))).unwrap();
        for part in ["spec", "status"] {
            let schema = definition.pointer(&format!("/spec/versions/0/schema/openAPIV3Schema/properties/{part}")).unwrap();
            for field in schema["properties"].as_object().unwrap().keys() {
                assert!(section.contains(&format!("`{field}")) || section.contains(&format!(".{field}")), "{file}: {part}.{field}");
            }
        }
    }
    let campfire: Value = serde_yaml::from_str(&read("crds/campfire.network_campfires.yaml")).unwrap();
    let spec = campfire.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
    for part in ["psk", "join", "turn", "network", "members", "sidecar"] {
        for field in spec["properties"][part]["properties"].as_object().unwrap().keys() {
            let named = [format!("`{part}.{field}"), format!("`.{field}")];
            assert!(named.iter().any(|named| section(&text, "## Campfire").contains(named)), "{part}.{field}");
        }
    }
}

#[test]
fn every_reason_for_which_a_pod_gets_no_sidecar_has_a_remedy() {
    let source = read("operator/src/webhook/inject.rs");
    let reasons = source.split_once("pub enum Reason {").unwrap().1.split_once("\n}").unwrap().0;
    let reasons: Vec<&str> =
        reasons.lines().map(str::trim).filter_map(|line| line.strip_suffix(',')).filter(|line| !line.contains(' ')).collect();
    assert!(reasons.len() > 8, "{reasons:?}");
    let text = read("docs/kubernetes.md");
    for reason in reasons.iter().filter(|reason| **reason != "NotAsked") {
        assert!(text.contains(&format!("`{reason}`")), "{reason}");
    }
}

#[test]
fn every_alert_is_explained() {
    let rules = read("charts/campfire/templates/alerts.yaml");
    let alerts: Vec<&str> = rules.split("(dict \"name\" \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(alerts.len() > 3);
    for alert in alerts {
        assert!(read("docs/operations.md").contains(&format!("`{alert}`")), "{alert}");
    }
}

#[test]
fn every_file_that_a_command_or_a_link_names_is_there() {
    for document in ["README.md", "docs/kubernetes.md", "docs/operations.md", "docs/architecture.md", "charts/campfire/README.md"] {
        let text = read(document);
        let folder = root().join(document).parent().map(Path::to_path_buf).unwrap();
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', '#']).next())
            .filter(|link| !link.is_empty() && !link.contains("://"));
        for link in links {
            assert!(folder.join(link).exists(), "{document}: {link}");
        }
        for word in text
            .split([' ', '\n', ']'])
            .map(|word| word.trim_matches(|letter: char| !letter.is_alphanumeric() && letter != '/'))
            .filter(|word| word.starts_with("examples/"))
        {
            assert!(root().join(word).exists(), "{document}: {word}");
        }
        let headings: BTreeSet<String> = text.lines().filter(|line| line.starts_with('#')).map(anchor).collect();
        for rest in text.split("](#").skip(1) {
            let link = rest.split(')').next().unwrap_or_default();
            assert!(headings.contains(link), "{document}: #{link}");
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// From a heading to the next one of its level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading}"));
    let body = &text[start + heading.len() + 2..];
    body.find("\n## ").map_or(body, |end| &body[..end])
}

/// The anchor of a heading, as in rendered Markdown.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
        .map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}
