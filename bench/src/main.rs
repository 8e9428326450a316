//! `campfire-bench`: our relay beside coturn, our tunnel beside wireguard-go and boringtun-cli, and one build of ours beside another.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod client;
mod load;
mod measure;
mod members;
mod pairs;
mod relay;
mod tunnel;
mod world;

/// Measures Campfire's programs beside others, on this machine, in network namespaces of its own (root).
#[derive(Parser)]
#[command(name = "campfire-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Relayed packets a second and CPU per packet: campfire-turn beside coturn, single datagrams and trains.
    Relay(relay::Arguments),
    /// TCP, small datagrams and latency through a tunnel: our data plane beside wireguard-go and boringtun-cli.
    Tunnel(tunnel::Arguments),
    /// Many members on one server: how long joining takes and what a seat costs.
    Members(members::Arguments),
    /// This build beside another, in turns: the tunnel bare, from pod to pod and through the fire, and the relay.
    Pairs(pairs::Arguments),
    /// Pods whose interface an init container makes beside pods whose interface their node's agent makes, in turns.
    Modes(pairs::Modes),
    /// The load generator, run by `relay` inside a namespace.
    #[command(hide = true)]
    Load(load::Arguments),
    /// Takes datagrams and does nothing with them, run by `relay` inside a namespace.
    #[command(hide = true)]
    Sink(load::SinkArguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Relay(arguments) => relay::run(&arguments),
        Command::Tunnel(arguments) => tunnel::run(&arguments),
        Command::Members(arguments) => members::run(&arguments),
        Command::Pairs(arguments) => pairs::run(&arguments),
        Command::Modes(arguments) => pairs::modes(&arguments),
        Command::Load(arguments) => load::run(&arguments),
        Command::Sink(arguments) => load::sink(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("campfire-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
