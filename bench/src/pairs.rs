//! `campfire-bench pairs`: two builds of ours, run by run in turns, so that whatever else the machine does meets both; and the ratios of the medians.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use crate::measure::{self, median};
use crate::relay::{self, Files};
use crate::tunnel::{self, Contender};
use crate::world::{Topology, World};

/// How to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// The other build's programs (its `target/release`); this build's are beside this program.
    #[arg(long, value_name = "FOLDER")]
    base: PathBuf,
    /// Pairs of runs of each.
    #[arg(long, default_value_t = 9)]
    pairs: usize,
    /// Seconds of each run.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// How to measure both ways to an interface.
#[derive(clap::Args)]
pub struct Modes {
    /// Pairs of runs of each.
    #[arg(long, default_value_t = 9)]
    pairs: usize,
    /// Seconds of each run.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

/// One figure of one kind of run, the medians of both builds.
#[derive(Serialize)]
struct Row {
    world: String,
    figure: &'static str,
    base: f64,
    this: f64,
    ratio: f64,
}

/// Measures and prints.
pub fn run(arguments: &Arguments) -> Result<()> {
    let folders = [arguments.base.clone(), measure::own_folder()?];
    println!("{} × {}, {} pairs of runs of {} s each", measure::cpus(), measure::cpu_model(), arguments.pairs, arguments.seconds);
    println!("{:24} {:20} {:>9} {:>9} {:>7}", "", "", "base", "this", "ratio");
    let mut rows = Vec::new();
    for (name, topology, contender) in [
        ("bare", Topology::Bare, Contender::Campfire),
        ("pod", Topology::Pod, Contender::Campfire),
        ("pod, through the fire", Topology::Pod, Contender::Fire),
    ] {
        let runs = in_turns(&folders, arguments.pairs, |folder| tunnel::measure_ours(folder, topology, contender, arguments.seconds))?;
        for (figure, of) in TUNNEL {
            rows.push(row(name, figure, &runs, of));
        }
    }
    let files = Files::new()?;
    for (name, load) in relay::PAIRED {
        let world = World::new(Topology::Bare)?;
        let seconds = f64::from(arguments.seconds);
        let alone = relay::measure_ours(None, &world, &files, load, seconds)?;
        let alone = alone.machine / alone.received.max(1) as f64;
        let runs = in_turns(&folders, arguments.pairs, |folder| {
            let run = relay::measure_ours(Some(&folder.join("campfire-turn")), &world, &files, load, seconds)?;
            let received = run.received.max(1) as f64;
            Ok([run.received as f64 / run.seconds, run.process / received * 1e6, (run.machine / received - alone) * 1e6])
        })?;
        for (figure, of) in RELAY {
            rows.push(row(name, figure, &runs, of));
        }
    }
    println!("machine: CPU time of everything, of a relay less what the load alone takes; process: of our processes");
    if let Some(path) = &arguments.output {
        let all = serde_json::json!({ "cpu": measure::cpu_model(), "cpus": measure::cpus(), "pairs": arguments.pairs, "rows": rows });
        fs::write(path, serde_json::to_string_pretty(&all)?)?;
    }
    Ok(())
}

type Figure<T> = (&'static str, fn(&T) -> f64);

const TUNNEL: [Figure<tunnel::Figures>; 5] = [
    ("Gbit/s", |run| run.gbits),
    ("machine s/GB", |run| run.machine_s_per_gb),
    ("process s/GB", |run| run.process_s_per_gb),
    ("64 B, machine µs/p", |run| run.datagram_machine_us),
    ("64 B, share received", |run| 1.0 - run.datagram_loss),
];

const RELAY: [Figure<[f64; 3]>; 3] = [("packets/s", |run| run[0]), ("process µs/p", |run| run[1]), ("machine µs/p", |run| run[2])];

/// `campfire-bench modes`: pods whose interface an init container makes beside pods whose interface their node's agent makes, run by run in turns.
pub fn modes(arguments: &Modes) -> Result<()> {
    let folder = measure::own_folder()?;
    println!("{} × {}, {} pairs of runs of {} s each", measure::cpus(), measure::cpu_model(), arguments.pairs, arguments.seconds);
    println!("{:24} {:20} {:>9} {:>9} {:>7}", "", "", "Tun", "Node", "ratio");
    let contenders = [Contender::Campfire, Contender::Agent];
    let runs =
        in_turns(&contenders, arguments.pairs, |contender| tunnel::measure_ours(&folder, Topology::Pod, *contender, arguments.seconds))?;
    for (figure, of) in TUNNEL {
        row("pod", figure, &runs, of);
    }
    println!("machine: CPU time of everything; process: of our processes");
    Ok(())
}

/// Runs of both, one after the other; who is first changes with each pair.
fn in_turns<T, W>(of: &[W; 2], pairs: usize, measure: impl Fn(&W) -> Result<T>) -> Result<[Vec<T>; 2]> {
    let mut runs = [Vec::new(), Vec::new()];
    for pair in 0..pairs {
        for turn in 0..2 {
            let which = (pair + turn) % 2;
            runs[which].push(measure(&of[which])?);
        }
    }
    Ok(runs)
}

/// Prints it, too.
fn row<T>(world: &str, figure: &'static str, runs: &[Vec<T>; 2], of: fn(&T) -> f64) -> Row {
    let [base, this] = [0, 1].map(|build| median(runs[build].iter().map(of)));
    println!("{world:24} {figure:20} {base:>9.3} {this:>9.3} {:>7.3}", this / base);
    Row { world: world.to_owned(), figure, base, this, ratio: this / base }
}
