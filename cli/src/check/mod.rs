//! `check`: looks at one cluster or several, and says what is wrong, why, and what to do. Nothing is pulled, nothing is left behind, and no server is
//! asked but those of the clusters themselves.
//!
//! | module | what it holds |
//! | --- | --- |
//! | here | what can be found, and how it is counted |
//! | [`table`] | all checks: what each looks at, and its remedy |
//! | [`output`] | findings as text, JSON and JUnit |
//! | `platform`, `clocks`, `operator`, `webhook`, `node`, `fires` | the looking |

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{CheckArgs, CheckFormat, Scope};
use crate::cluster::Cluster;
use crate::run::print;

mod clocks;
mod fires;
mod node;
mod operator;
pub mod output;
mod platform;
pub mod table;
mod webhook;

pub use table::Check;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// All is well.
    Good,
    /// It could not be found out, or nothing is there to look at.
    Unknown,
    /// It works, and somebody should know.
    Warning,
    /// It does not work.
    Wrong,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which check.
    pub check: Check,
    /// The context that was looked at; empty: all of them.
    pub context: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub words: String,
}

/// The findings in one cluster.
#[derive(Debug)]
pub(crate) struct Findings<'a> {
    context: &'a str,
    found: Vec<Finding>,
}

impl<'a> Findings<'a> {
    fn of(context: &'a str) -> Self {
        Self { context, found: Vec::new() }
    }

    fn add(&mut self, check: Check, outcome: Outcome, words: impl Into<String>) {
        self.found.push(Finding { check, context: self.context.to_owned(), outcome, words: words.into() });
    }

    fn good(&mut self, check: Check, words: impl Into<String>) {
        self.add(check, Outcome::Good, words);
    }

    /// Wrong for each of these, or good.
    fn each(&mut self, check: Check, outcome: Outcome, wrong: Vec<String>, good: impl Into<String>) {
        if wrong.is_empty() {
            return self.good(check, good);
        }
        for words in wrong {
            self.add(check, outcome, words);
        }
    }

    /// It could not be looked at.
    fn unknown(&mut self, check: Check, error: &anyhow::Error) {
        self.add(check, Outcome::Unknown, format!("{error:#}"));
    }
}

/// `check`. The exit code is 0 where all is well, 1 for warnings and for what could not be found out, 2 where something does not work.
pub async fn check(scope: &Scope, arguments: &CheckArgs) -> Result<ExitCode> {
    let clusters = Cluster::of(scope).await?;
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for cluster in &clusters {
        let mut findings = Findings::of(&cluster.context);
        if let Some(clock) = platform::look(cluster, &mut findings, arguments.pre).await.filter(|_| !arguments.pre) {
            operator::look(cluster, &mut findings, clock).await;
            node::look(cluster, &mut findings).await;
            seen.push((cluster, fires::look(cluster, &mut findings, clock).await));
        }
        found.append(&mut findings.found);
    }
    if seen.len() > 1 {
        let mut findings = Findings::of("");
        fires::together(&seen, &mut findings).await;
        found.append(&mut findings.found);
    }
    print(&match arguments.output {
        None => output::text(&found, arguments.short),
        Some(CheckFormat::Json) => output::json(&found),
        Some(CheckFormat::Junit) => output::junit(&found),
    })?;
    Ok(ExitCode::from(code(&found)))
}

/// The exit code.
pub fn code(found: &[Finding]) -> u8 {
    match found.iter().map(|finding| finding.outcome).max() {
        None | Some(Outcome::Good) => 0,
        Some(Outcome::Unknown | Outcome::Warning) => 1,
        Some(Outcome::Wrong) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_makes_the_exit_code() {
        let found = |outcomes: &[Outcome]| -> Vec<Finding> {
            let finding = |outcome: &Outcome| Finding {
                check: Check::ClusterVersion,
                context: String::new(),
                outcome: *outcome,
                words: String::new(),
            };
            outcomes.iter().map(finding).collect()
        };
        assert_eq!(code(&[]), 0);
        assert_eq!(code(&found(&[Outcome::Good, Outcome::Good])), 0);
        assert_eq!(code(&found(&[Outcome::Good, Outcome::Unknown])), 1);
        assert_eq!(code(&found(&[Outcome::Wrong, Outcome::Warning, Outcome::Good])), 2);
    }
}
