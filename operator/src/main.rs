//! The operator's program.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use campfire_operator::cli::{BAD_USAGE, Cli, Command, FAILED, LogFormat};
use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Gives back what a storm of connections took: 10,000 sidecars that come at once leave glibc's with 80 MiB that it does not need.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(BAD_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Crds => ended(crds()),
        Command::Probe { url } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            ended(runtime.context("no thread to run on").and_then(|runtime| {
                println!("{}", runtime.block_on(campfire_operator::probe::run(&url))?);
                Ok(())
            }))
        }
        Command::Run(run) => {
            if let Err(error) = campfire_sys::process::conceal() {
                eprintln!("campfire-operator: other processes of this user can read its memory: {error}");
            }
            let settings = match start_log(&run.log, run.log_format).and_then(|()| run.settings()) {
                Ok(settings) => settings,
                Err(error) => {
                    eprintln!("campfire-operator: {error:#}");
                    return ExitCode::from(BAD_USAGE);
                }
            };
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            ended(runtime.context("no threads to run on").and_then(|runtime| runtime.block_on(campfire_operator::run::run(settings))))
        }
    }
}

fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("campfire-operator: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn crds() -> Result<()> {
    let [campfires, peers] = campfire_api::definitions();
    let (campfires, peers) = (serde_yaml::to_string(&campfires)?, serde_yaml::to_string(&peers)?);
    write!(std::io::stdout(), "---\n{campfires}---\n{peers}").context("standard output")
}

fn start_log(filter: &str, format: LogFormat) -> Result<()> {
    let filter = EnvFilter::try_new(filter).context("--log: expected such as info, debug or info,campfire_operator=debug")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => builder.finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    started.context("the log cannot be started")
}
