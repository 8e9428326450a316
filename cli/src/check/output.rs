//! Findings for people, for programs (JSON) and for CI (JUnit).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::json;

use super::{Finding, Outcome, code};
use campfire_text::{count, printable};

/// For people. `short`: what is not well alone, and nothing if all is.
pub fn text(found: &[Finding], short: bool) -> String {
    let mut out = String::new();
    let contexts: BTreeSet<&str> = found.iter().map(|finding| finding.context.as_str()).filter(|context| !context.is_empty()).collect();
    // Without a kubeconfig no context has a name.
    let several = contexts.len() > 1 || (!contexts.is_empty() && found.iter().any(|finding| finding.context.is_empty()));
    let mut head = (None, None);
    for finding in found {
        if short && finding.outcome == Outcome::Good {
            continue;
        }
        let now = (Some(finding.context.as_str()), Some(finding.check.group()));
        if !short && now != head {
            let gap = if out.is_empty() { "" } else { "\n" };
            let of = match (several, finding.context.as_str()) {
                (true, "") => " (all contexts)".to_owned(),
                (true, context) => format!(" ({context})"),
                (false, _) => String::new(),
            };
            let _ = writeln!(out, "{gap}{}{of}", finding.check.group());
            head = now;
        }
        let _ = writeln!(out, "{} {}: {}", mark(finding.outcome), finding.check.id(), printable(&finding.words));
        if finding.outcome >= Outcome::Warning {
            let _ = writeln!(out, "    {}", finding.check.link());
        }
    }
    let of = |outcome: Outcome| found.iter().filter(|finding| finding.outcome == outcome).count();
    let (wrong, warnings, unknown) = (of(Outcome::Wrong), of(Outcome::Warning), of(Outcome::Unknown));
    if code(found) == 0 {
        let _ = writeln!(out, "{}all is well: {}", if short { "" } else { "\n" }, count(found.len(), "check"));
    } else {
        let parts = [(wrong, "does not work"), (warnings, "to know of"), (unknown, "could not be looked at")];
        let parts: Vec<String> = parts.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")).collect();
        let _ = writeln!(out, "{}{}", if short { "" } else { "\n" }, parts.join(", "));
    }
    out
}

fn mark(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Good => "ok  ",
        Outcome::Unknown => "??  ",
        Outcome::Warning => "warn",
        Outcome::Wrong => "FAIL",
    }
}

/// The word for it in JSON.
fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Good => "ok",
        Outcome::Unknown => "unknown",
        Outcome::Warning => "warning",
        Outcome::Wrong => "failed",
    }
}

/// JSON: `{"result": "ok" | "warning" | "failed", "checks": [{"id", "group", "context", "result", "message", "link"}]}`.
pub fn json(found: &[Finding]) -> String {
    let result = ["ok", "warning", "failed"].get(usize::from(code(found))).copied().unwrap_or("failed");
    let checks: Vec<_> = found
        .iter()
        .map(|finding| {
            json!({
                "id": finding.check.id(), "group": finding.check.group(), "context": finding.context, "result": name(finding.outcome),
                "message": finding.words, "link": finding.check.link(),
            })
        })
        .collect();
    format!("{:#}\n", json!({ "result": result, "checks": checks }))
}

/// JUnit's XML: a suite for each context.
pub fn junit(found: &[Finding]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    let contexts: BTreeSet<&str> = found.iter().map(|finding| finding.context.as_str()).collect();
    for context in contexts {
        let own: Vec<&Finding> = found.iter().filter(|finding| finding.context == context).collect();
        let of = |outcome: Outcome| own.iter().filter(|finding| finding.outcome == outcome).count();
        let title = if context.is_empty() { "all contexts" } else { context };
        let _ = writeln!(
            out,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">",
            xml(title),
            own.len(),
            of(Outcome::Wrong),
            of(Outcome::Unknown)
        );
        for finding in own {
            let (words, link) = (xml(&finding.words), xml(&finding.check.link()));
            let inside = match finding.outcome {
                Outcome::Good => format!("<system-out>{words}</system-out>"),
                Outcome::Warning => format!("<system-out>warning: {words} {link}</system-out>"),
                Outcome::Unknown => format!("<skipped message=\"{words}\"/>"),
                Outcome::Wrong => format!("<failure message=\"{words}\">{link}</failure>"),
            };
            let _ =
                writeln!(out, "    <testcase classname=\"{}\" name=\"{}\">{inside}</testcase>", finding.check.group(), finding.check.id());
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

fn xml(text: &str) -> String {
    printable(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::Check;
    use super::*;

    #[test]
    fn text_has_a_line_for_each_finding_and_a_link_where_something_is_to_be_done() {
        let found = found();
        let text = text(&found, false);
        assert!(
            text.starts_with(
                "Cluster (berlin)\nok   cluster-version: v1.33.1\n\nOperator (berlin)\nFAIL operator-webhook: not <reached>\n    https://"
            ),
            "{text}"
        );
        assert!(text.contains("\nNames (all contexts)\n??   name-unique: "), "{text}");
        assert!(text.ends_with("\n1 does not work, 1 could not be looked at\n"), "{text}");
    }

    #[test]
    fn short_leaves_out_what_is_well() {
        let short = text(&found(), true);
        assert!(short.starts_with("FAIL operator-webhook") && short.lines().count() == 4, "{short}");
        assert_eq!(text(&found()[..1], true), "all is well: 1 check\n");
    }

    #[test]
    fn json_and_junit_say_the_same() {
        let value: serde_json::Value = serde_json::from_str(&json(&found())).unwrap();
        assert_eq!((value["result"].as_str(), value["checks"][1]["result"].as_str()), (Some("failed"), Some("failed")));
        assert_eq!(value["checks"][2]["result"], "unknown");
        let junit = junit(&found());
        assert!(junit.contains("<testsuite name=\"berlin\" tests=\"2\" failures=\"1\" skipped=\"0\">"), "{junit}");
        assert!(junit.contains("<failure message=\"not &lt;reached&gt;\">https://"), "{junit}");
    }

    fn found() -> Vec<Finding> {
        [
            (Check::ClusterVersion, "berlin", Outcome::Good, "v1.33.1"),
            (Check::OperatorWebhook, "berlin", Outcome::Wrong, "not <reached>"),
            (Check::NameUnique, "", Outcome::Unknown, "nobody knows"),
        ]
        .map(|(check, context, outcome, words)| Finding { check, context: context.into(), outcome, words: words.into() })
        .to_vec()
    }
}
