//! The documents say all that there is: fields, reasons, alerts. And what they say to type exists.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use campfire_api::conditions::{CAMPFIRE, MESH_PEER, NOT_DIRECT, Reason, SkipReason};
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
fn the_pod_that_is_shown_is_what_the_webhook_makes_of_one() {
    let made: Value = serde_json::from_str(&read("operator/src/webhook/golden/node.json")).unwrap();
    let text = read("docs/kubernetes.md");
    let shown = part(&text, "### PodSecurity").split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let shown: Value = serde_yaml::from_str(shown).unwrap();
    assert!(shown["spec"]["initContainers"][0]["volumeMounts"].is_array() && shown["spec"]["volumes"].as_array().unwrap().len() == 3);
    is_within(&shown, &made, "");
}

/// Whether all that is shown is so.
fn is_within(shown: &Value, made: &Value, at: &str) {
    match (shown, made) {
        (Value::Object(shown), Value::Object(made)) => {
            for (key, value) in shown {
                is_within(value, made.get(key).unwrap_or_else(|| panic!("{at}/{key} is shown alone")), &format!("{at}/{key}"));
            }
        }
        (Value::Array(shown), Value::Array(made)) => {
            assert_eq!(shown.len(), made.len(), "{at}");
            shown.iter().zip(made).enumerate().for_each(|(index, (shown, made))| is_within(shown, made, &format!("{at}/{index}")));
        }
        (shown, made) => assert_eq!(shown, made, "{at}"),
    }
}

#[test]
fn every_reason_for_which_a_pod_gets_no_sidecar_has_a_remedy() {
    let reasons = SkipReason::ALL.iter().filter(|reason| **reason != SkipReason::NotAsked).map(|reason| reason.name().to_owned());
    let reasons: BTreeSet<String> = reasons.collect();
    assert!(reasons.len() > 8, "{reasons:?}");
    let text = read("docs/kubernetes.md");
    let explained: BTreeSet<String> = table(part(&text, "### Why a pod got no sidecar")).iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(explained, reasons);
}

#[test]
fn the_reasons_of_the_code_are_those_of_the_api() {
    let mut found = BTreeSet::new();
    for file in sources(&root().join("operator/src")) {
        let source = std::fs::read_to_string(&file).unwrap();
        // Up to the tests in it.
        let source = source.split("\nmod tests {").next().unwrap_or_default();
        // Not a `SkipReason`.
        let named =
            source.split(|letter: char| !letter.is_alphanumeric() && letter != ':').filter_map(|word| word.strip_prefix("Reason::"));
        found.extend(named.filter(|name| *name != "named").map(str::to_owned));
    }
    let known: BTreeSet<String> = CAMPFIRE.iter().chain(MESH_PEER).map(|row| row.reason.to_string()).collect();
    assert_eq!(found, known, "operator/api/src/conditions.rs has those of the code");
    assert_eq!(Reason::ALL.iter().map(ToString::to_string).collect::<BTreeSet<_>>(), known, "and says what each means");
    let paths = variants(&read("crates/mesh/src/io.rs"), "pub enum WhyNotDirect {");
    assert_eq!(NOT_DIRECT.iter().map(|(reason, _)| (*reason).to_owned()).collect::<BTreeSet<_>>(), paths);
}

#[test]
fn every_condition_and_reason_has_a_remedy_and_no_other_is_spoken_of() {
    let text = read("docs/kubernetes.md");
    for (heading, reasons) in [("### Campfire", CAMPFIRE), ("### MeshPeer", MESH_PEER)] {
        let mut explained = BTreeSet::new();
        let mut condition = Vec::new();
        for row in table(part(&text, heading)) {
            if row.len() != 4 {
                continue;
            }
            if !row[0].is_empty() {
                condition = quoted(&row[0]);
            }
            for reason in quoted(&row[1]) {
                assert!(explained.insert((condition[0].clone(), reason.clone())), "{reason} twice");
                // What is true and has nothing to it needs no remedy.
                assert!(!row[3].is_empty() || row[2].starts_with("true") || reason == "Gone", "{reason} has no remedy");
            }
        }
        let known: BTreeSet<(String, String)> = reasons.iter().map(|row| (row.condition.to_string(), row.reason.to_string())).collect();
        // A condition that is true and says no more than its name.
        let plain: BTreeSet<_> = known.iter().filter(|(condition, reason)| condition == reason).cloned().collect();
        assert_eq!(explained, known.difference(&plain).cloned().collect(), "{heading}");
    }
    let explained: BTreeSet<String> =
        table(part(&text, "### MeshPeer")).iter().filter(|row| row.len() == 3).flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(explained, NOT_DIRECT.iter().map(|(reason, _)| (*reason).to_owned()).collect());
}

#[test]
fn every_event_is_explained() {
    // Those with a field are reasons of conditions, and why a pod gets no sidecar.
    let happened = variants(&read("operator/src/events.rs"), "pub enum Happened {");
    let events: BTreeSet<String> = happened.into_iter().filter(|event| !event.contains('(')).collect();
    assert!(events.len() > 1, "{events:?}");
    let text = read("docs/kubernetes.md");
    for event in events {
        assert!(text.contains(&format!("vent `{event}`")), "{event}");
    }
}

/// Variants of an enum without fields.
fn variants(source: &str, begins: &str) -> BTreeSet<String> {
    let body = source.split_once(begins).unwrap().1.split_once("\n}").unwrap().0;
    let lines = body.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    lines.filter_map(|line| line.strip_suffix(',')).filter(|line| !line.contains(' ')).map(str::to_owned).collect()
}

/// The program's sources, without those of tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !name.contains("test") {
            found.push(path);
        }
    }
    found
}

/// From a heading to the next one, whatever its level.
fn part<'a>(text: &'a str, heading: &str) -> &'a str {
    let body = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading}")).1;
    body.split("\n#").next().unwrap_or_default()
}

/// Cells of the tables' rows, without their heads.
fn table(text: &str) -> Vec<Vec<String>> {
    let lines: Vec<&str> = text.lines().collect();
    let rows = lines.iter().enumerate().filter(|(number, line)| {
        let head = lines.get(number + 1).is_some_and(|next| next.starts_with("| ---"));
        line.starts_with('|') && !line.starts_with("| ---") && !head
    });
    rows.map(|(_, line)| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
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
    for document in
        ["README.md", "docs/api.md", "docs/kubernetes.md", "docs/operations.md", "docs/architecture.md", "charts/campfire/README.md"]
    {
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
