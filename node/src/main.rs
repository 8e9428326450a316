//! The node agent's program.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use campfire_node::cli::{BAD_USAGE, Cli, Command, FAILED, LogFormat};
use campfire_node::{probe, run, uninstall};
use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(BAD_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let result = match cli.command {
        Command::Run(options) => {
            if let Err(error) = start_log(&options.log, options.log_format) {
                eprintln!("campfire-node: {error:#}");
                return ExitCode::from(BAD_USAGE);
            }
            runtime().and_then(|runtime| runtime.block_on(run::run(&options)))
        }
        Command::MayUninstall => uninstall::Api::of_pod().and_then(|api| runtime()?.block_on(uninstall::may_uninstall(&api))),
        Command::Probe(options) => {
            runtime().and_then(|runtime| runtime.block_on(probe::run(&options.kubelet.driver_socket(), options.ready)))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("campfire-node: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// One thread for all but interfaces, which have each its own.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no thread to run on")
}

fn start_log(filter: &str, format: LogFormat) -> Result<()> {
    // A newer kernel's messages are longer than the netlink crate knows; each frame of HTTP/2 is news to nobody.
    let filter = EnvFilter::try_new(format!("netlink_packet_route=error,h2=info,{filter}"))
        .context("--log: expected such as info, debug or info,campfire_node=debug")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    }
    .context("logging")
}
