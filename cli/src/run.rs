//! Does what the command line asks for.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;

use crate::cli::{Cli, Command, Format};
use crate::cluster::Cluster;
use crate::{ask, check, complete, dump, graph, join, netcheck, status};

/// Exit code for what clap refuses.
pub const WRONG_ARGUMENTS: u8 = 64;

/// Runs a command; what goes wrong is said on standard error.
pub fn run(cli: Cli) -> ExitCode {
    // The only one that is built in; that it was chosen already is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("kubectl campfire: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(command(cli)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kubectl campfire: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn command(cli: Cli) -> Result<ExitCode> {
    let scope = cli.scope;
    match cli.command {
        Command::Status => print(&status::campfires(&Cluster::of(&scope).await?).await?)?,
        Command::Peers => print(&status::peers(&Cluster::of(&scope).await?).await?)?,
        Command::Why(pair) => ask::why(&Cluster::of(&scope).await?, &pair).await?,
        Command::Ping(arguments) => ask::ping(&Cluster::of(&scope).await?, &arguments).await?,
        Command::Graph(arguments) => draw(&Cluster::of(&scope).await?, arguments.output).await?,
        Command::Join(arguments) => join::join(&scope, &arguments).await?,
        Command::Check(arguments) => return check::check(&scope, &arguments).await,
        Command::Netcheck(arguments) => netcheck::netcheck(&Cluster::of(&scope).await?, &arguments).await?,
        Command::Dump => print(&dump::dump(&Cluster::of(&scope).await?).await?)?,
        Command::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kubectl-campfire", &mut text);
            write(&text)?;
        }
        Command::Complete { words } => print(&complete::answer(&scope, &words).await)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn draw(clusters: &[Cluster], format: Format) -> Result<()> {
    let graph = graph::gather(clusters).await?;
    match format {
        Format::Dot => print(&graph::dot::write(&graph)),
        Format::Svg => print(&graph::svg::write(&graph::layout::place(&graph))),
        Format::Png => write(&graph::png::write(&graph::svg::write(&graph::layout::place(&graph)))?),
    }
}

/// To standard output.
pub fn print(text: &str) -> Result<()> {
    write(text.as_bytes())
}

/// To standard output; that a reader like `head` has gone is no error.
fn write(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}
