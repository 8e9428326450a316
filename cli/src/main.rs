//! `kubectl-campfire`, which kubectl runs as `kubectl campfire`.

use std::process::ExitCode;

use campfire_cli::cli::Cli;
use campfire_cli::{complete, run};
use clap::Parser as _;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().collect();
    // kubectl completes by a program of this name beside the plugin: a link to it.
    if arguments.first().is_some_and(|name| name.ends_with("kubectl_complete-campfire")) {
        arguments.splice(0..1, ["kubectl-campfire".to_owned(), complete::COMMAND.to_owned()]);
    }
    match Cli::try_parse_from(arguments) {
        Ok(cli) => run::run(cli),
        Err(error) => {
            let _ = error.print();
            // Help and version are no errors.
            if error.use_stderr() { ExitCode::from(run::WRONG_ARGUMENTS) } else { ExitCode::SUCCESS }
        }
    }
}
