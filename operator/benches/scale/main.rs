//! How the operator does with 200 Campfires and thousands of peers: the real program, an optimised build, on a real API server.
//!
//! `cargo bench -p campfire-operator --bench scale -- --help`. It needs root, for a network namespace of its own: there the
//! cluster's Service addresses are this machine's, and one `campfire-turn` stands behind all of them.
//!
//! Nothing runs pods here. That changes nothing for the operator, which watches the metadata of pods: they are objects with what
//! the webhook stamps. What sidecars say to it, at the fire and to the agent API, is said by this program in their place.

#![allow(missing_docs, reason = "a program")]

mod cluster;
#[path = "../../tests/control_plane/mod.rs"]
#[allow(clippy::unwrap_used, reason = "the tests' own")]
mod control_plane;
mod members;
mod phases;
mod process;
mod sidecars;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use campfire_lab::Net;
use clap::Parser;

use self::table::Results;

/// Set in the network namespace.
const INSIDE: &str = "CAMPFIRE_BENCH_INSIDE";

/// Measures the operator on a bare control plane.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// Campfires, each with one TURN server.
    #[arg(long, default_value_t = 200, value_name = "N")]
    campfires: usize,
    /// Peers; each number is a run of its own.
    #[arg(long, default_value = "1000,10000", value_delimiter = ',', value_name = "N,…")]
    peers: Vec<usize>,
    /// Changes of which the latency is measured, of each kind.
    #[arg(long, default_value_t = 100, value_name = "N")]
    changes: usize,
    /// Pods that are made at once.
    #[arg(long, default_value_t = 400, value_name = "N")]
    burst: usize,
    /// How long it is watched while nothing changes, seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    idle: u64,
    /// How long reports come as fast as they are taken, seconds.
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    flood: u64,
    /// How long sidecars do what they do all day, seconds. Answers about tokens are remembered for five minutes.
    #[arg(long, default_value_t = 240, value_name = "SECONDS")]
    steady: u64,
    /// The program that is measured. [default: the one that was built with this bench]
    #[arg(long, value_name = "FILE")]
    operator: Option<PathBuf>,
    /// The program `campfire-turn`; without it nobody is at the fires.
    #[arg(long, value_name = "FILE")]
    turn: Option<PathBuf>,
    /// Where the results go, as JSON and as text beside it.
    #[arg(long, default_value = "target/bench/operator.json", value_name = "FILE")]
    output: PathBuf,
    /// Given by `cargo bench`; without it nothing is done, as this is no test.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.bench {
        println!("SKIPPED: a bench: `cargo bench -p campfire-operator --bench scale`");
        return Ok(());
    }
    if std::env::var_os(INSIDE).is_none() {
        let net = Net::new("scale")?;
        let namespace = net.namespace("cluster")?;
        // The cluster's Service addresses are ours.
        namespace.ip(&["route", "add", "local", "10.91.0.0/16", "dev", "lo"])?;
        let status = namespace.command(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(INSIDE, "1").status()?;
        ensure!(status.success(), "the bench ended with {status}");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut results = Results::begin(arguments)?;
        for peers in arguments.peers.iter().copied() {
            let Some(run) = phases::run(arguments, peers).await? else { return Ok(()) };
            results.runs.push(run);
            results.write(&arguments.output)?;
        }
        print!("{}", results.text());
        Ok(())
    })
}
