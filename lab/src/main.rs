//! `campfire-lab`: the demo, and worlds to try things in.

mod demo;

use anyhow::Result;
use campfire_lab::Net;
use clap::{Parser, Subcommand};

/// Campfire in a world of network namespaces on this machine (needs root; nothing leaves the machine).
#[derive(Parser)]
#[command(name = "campfire-lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Two clusters and a laptop behind NATs of different kinds become one mesh: shows it, draws it, breaks a server.
    Demo {
        /// Leave it running afterwards; `campfire-lab enter PEER` looks around, `campfire-lab clean` removes it.
        #[arg(long, env = "KEEP", value_parser = clap::builder::FalseyValueParser::new())]
        keep: bool,
        /// Folder for graph.dot and graph.png.
        #[arg(long, default_value = ".")]
        out: std::path::PathBuf,
    },
    /// Open a shell (or run a command) on a host of the demo that was left running.
    Enter {
        /// Host: a peer or a server of the demo.
        host: String,
        /// Command; a shell if none.
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Remove the demo's world: processes, namespaces, files.
    Clean,
}

fn main() -> std::process::ExitCode {
    // Not by returning the error: what a person can do about it would be followed by a backtrace.
    match run(Cli::parse().command) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("campfire-lab: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<()> {
    match action {
        Action::Demo { keep, out } => demo::run(keep, &out),
        Action::Enter { host, command } => demo::enter(&host, &command),
        Action::Clean => Net::remove(demo::WORLD),
    }
}
