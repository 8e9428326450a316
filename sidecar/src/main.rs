//! `campfire`: the peer.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use campfire_camp::Tls;
use campfire_mesh::status::Peer;
use campfire_protocol::certificate::RootKey;
use campfire_protocol::key::Psk;
use campfire_sidecar::cli::{
    Cli, Command, GraphArgs, KeyCommand, KeySource, NetcheckArgs, PingArgs, RootCommand, StatusArgs, Up, UriArgs, Which, WhyArgs,
};
use campfire_sidecar::config::{self, BadConfig, EXIT_BAD_CONFIG, PeerSettings};
use campfire_sidecar::report::Report;
use campfire_sidecar::secrets::EnvironmentSecrets;
use campfire_sidecar::{control, graph, http, logging, netcheck, ping, pod, secrets, show, wg, why};
use clap::Parser as _;
use zeroize::Zeroizing;

fn main() -> ExitCode {
    let mut called = std::env::args_os();
    let name = called.next().unwrap_or_default().to_string_lossy().into_owned();
    if Path::new(&name).file_name().is_some_and(|file| file == "wg") {
        let arguments: Vec<String> = called.map(|word| word.to_string_lossy().into_owned()).collect();
        return be_wg(&name, &arguments);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // Help and version are no errors.
            return if error.use_stderr() { ExitCode::from(EXIT_BAD_CONFIG) } else { ExitCode::SUCCESS };
        }
    };
    if let Command::Wg(arguments) = &cli.command {
        return be_wg("campfire wg", &arguments.words);
    }
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("campfire: {error:#}");
            if error.is::<BadConfig>() { ExitCode::from(EXIT_BAD_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

/// Is `wg`, for reading.
fn be_wg(name: &str, arguments: &[String]) -> ExitCode {
    let around = wg::Surroundings::of_process();
    ExitCode::from(wg::run(name, arguments, &around, &mut std::io::stdout().lock(), &mut std::io::stderr().lock()))
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(arguments) => up(&arguments),
        Command::Status(arguments) => status(&arguments),
        Command::Graph(arguments) => draw(&arguments),
        Command::Why(arguments) => explain(&arguments),
        Command::Ping(arguments) => ask_often(&arguments),
        Command::Netcheck(arguments) => try_servers(&arguments),
        // Taken care of before, as its exit codes are those of wg.
        Command::Wg(_) => Ok(()),
        Command::Key(KeyCommand::New) => {
            let mut bytes = Zeroizing::new([0; 32]);
            secrets::random(bytes.as_mut())?;
            print(&Psk::from_bytes(*bytes).to_text())
        }
        Command::Key(KeyCommand::Fingerprint { source, network }) => {
            let keys = key(&source)?.derive();
            print(&if network { keys.network.to_string() } else { keys.fingerprint.to_string() })
        }
        Command::Key(KeyCommand::RelaySecret { source }) => print(key(&source)?.derive().relay.text()),
        Command::Root(RootCommand::New) => {
            let mut seed = Zeroizing::new([0; 32]);
            secrets::random(seed.as_mut())?;
            print(&RootKey::from_seed(&seed).to_text())
        }
        Command::Root(RootCommand::Show { root_file }) => print(&secrets::read_root(&root_file)?.public().to_string()),
        Command::Uri(arguments) => uri(&arguments),
        Command::PodInit(arguments) => {
            let (filter, format) = config::logging(&arguments.options);
            logging::start(filter, format)?;
            client_runtime()?.block_on(pod::init::run(&arguments))
        }
        Command::Ready(arguments) => client_runtime()?.block_on(pod::ready::check(&arguments)),
    }
}

fn up(arguments: &Up) -> Result<()> {
    config::refuse_secret_arguments(arguments)?;
    let environment = if arguments.secrets_on_stdin {
        EnvironmentSecrets::from_stdin().context("the secrets on standard input")?
    } else {
        let environment = EnvironmentSecrets::from_environment();
        environment.hide().context("the keys cannot be taken out of the environment (is /proc there?); use --psk-file or --uri-file")?;
        environment
    };
    // From here on it holds keys.
    if let Err(error) = campfire_sys::process::conceal() {
        eprintln!("campfire: other processes of this user can read its memory: {error}");
    }
    let options = config::options(arguments)?;
    let (filter, format) = config::logging(&options);
    logging::start(filter, format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if options.agent.is_some() {
        let result = runtime.block_on(pod::up(&options));
        runtime.shutdown_timeout(Duration::from_millis(200));
        return result;
    }
    let settings = PeerSettings::new(&options, &environment)?;
    for remark in &settings.remarks {
        tracing::warn!("{remark}");
    }
    let reload = || config::options(arguments).map(|options| (options, environment.clone()));
    let result = runtime.block_on(control::run(settings, reload, None));
    // Name look-ups that hang must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

fn key(source: &KeySource) -> Result<Psk> {
    Ok(config::only_key(source, &EnvironmentSecrets::from_environment())?.0)
}

fn uri(arguments: &UriArgs) -> Result<()> {
    let uri = config::uri(arguments, &EnvironmentSecrets::from_environment())?;
    let text = uri.to_text();
    if arguments.show_secret {
        return print(&text);
    }
    let open = text.split_once('#').map_or("", |(open, _)| open);
    print(&format!("{open}#(key {}; --show-secret prints it)", uri.psk.derive().fingerprint))
}

fn status(arguments: &StatusArgs) -> Result<()> {
    let runtime = client_runtime()?;
    let socket = http::socket_path(&arguments.which.run_dir, &interface(&arguments.which)?);
    if let Some(seconds) = arguments.wait {
        runtime.block_on(wait(&socket, Duration::from_secs(seconds), arguments.peers))?;
    }
    loop {
        let report = runtime.block_on(http::fetch(&socket))?;
        if arguments.json {
            return print(&serde_json::to_string_pretty(&report)?);
        }
        if !arguments.watch {
            return write(&show::status(&report));
        }
        // Home, the text, and what is left of the screen cleared.
        write(&format!("\x1b[H\x1b[2J{}", show::status(&report)))?;
        std::thread::sleep(Duration::from_secs(1));
    }
}

async fn wait(socket: &Path, timeout: Duration, peers: usize) -> Result<()> {
    let start = Instant::now();
    loop {
        let report = http::fetch(socket).await;
        if report.as_ref().is_ok_and(|report| report.settled(peers)) {
            return Ok(());
        }
        if start.elapsed() >= timeout {
            let (connected, known) = report.as_ref().map_or((0, 0), Report::connected);
            let report = report.with_context(|| format!("waited {} s", timeout.as_secs()))?;
            if report.camped() {
                let asked = if connected < peers { format!(", and {peers} were asked for") } else { String::new() };
                bail!("after {} s {connected} of {known} known peers are connected{asked}", timeout.as_secs());
            }
            bail!("after {} s no server answers: see `campfire status`", timeout.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn draw(arguments: &GraphArgs) -> Result<()> {
    let mut reports = Vec::new();
    for path in &arguments.files {
        let shown = path.display();
        let text = fs::read(path).with_context(|| format!("{shown} cannot be read"))?;
        let report: Report = serde_json::from_slice(&text)
            .map_err(|error| BadConfig(format!("{shown} is no output of `campfire status --json`: {error}")))?;
        reports.push(report);
    }
    if reports.is_empty() {
        reports.push(ask(&arguments.which)?);
    }
    write(&graph::dot(&reports))
}

fn explain(arguments: &WhyArgs) -> Result<()> {
    let report = ask(&arguments.which)?;
    write(&why::explain(&report, find(&report, &arguments.peer)?))
}

fn ask_often(arguments: &PingArgs) -> Result<()> {
    let socket = http::socket_path(&arguments.which.run_dir, &interface(&arguments.which)?);
    let plan = ping::Plan { count: arguments.count, interval: arguments.interval, full: arguments.full };
    client_runtime()?.block_on(async {
        let report = http::fetch(&socket).await?;
        ping::run(&socket, find(&report, &arguments.peer)?, plan, print).await
    })
}

fn try_servers(arguments: &NetcheckArgs) -> Result<()> {
    let targets = config::targets(arguments)?;
    let runtime = client_runtime()?;
    let found = runtime.block_on(async {
        if let Some((targets, trust)) = targets {
            let tls = Tls::new(&trust).map_err(|error| BadConfig(format!("--ca-file: {error}")))?;
            return netcheck::run(targets, Arc::new(tls)).await;
        }
        let socket = http::socket_path(&arguments.which.run_dir, &interface(&arguments.which)?);
        serde_json::from_slice(&http::get(&socket, "/v1/netcheck").await?).context("an answer of another version of campfire?")
    });
    // Name look-ups that hang must not keep the process.
    runtime.shutdown_timeout(Duration::ZERO);
    let found = found?;
    if arguments.json {
        print(&serde_json::to_string_pretty(&found)?)?;
    } else {
        write(&netcheck::text(&found))?;
    }
    if netcheck::answered(&found) { Ok(()) } else { bail!("no server answers, by whatever transport") }
}

/// The one peer that is meant.
fn find<'a>(report: &'a Report, wanted: &str) -> Result<&'a Peer> {
    match why::find(report, wanted).as_slice() {
        [peer] => Ok(peer),
        [] => {
            let mut names: Vec<&str> = report.status.peers.iter().map(|peer| peer.name.as_str()).collect();
            names.truncate(20);
            bail!("no peer is called {wanted}; known: {}", if names.is_empty() { "nobody yet".into() } else { names.join(", ") })
        }
        many => {
            let keys: Vec<String> = many.iter().map(|peer| format!("{} ({})", peer.name, peer.public_key)).collect();
            bail!("{wanted} may be any of these: {}; name one by its key", keys.join(", "))
        }
    }
}

fn ask(which: &Which) -> Result<Report> {
    client_runtime()?.block_on(http::fetch(&http::socket_path(&which.run_dir, &interface(which)?)))
}

/// The interface that is meant: the one named, else the only one with a socket, else the default.
fn interface(which: &Which) -> Result<String> {
    if let Some(name) = &which.interface {
        return Ok(name.clone());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&which.run_dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        found.extend(name.strip_suffix(".sock").map(str::to_owned));
    }
    if found.len() > 1 && !found.iter().any(|name| name == config::INTERFACE) {
        found.sort();
        return Err(BadConfig(format!("several peers run here ({}): name one with --interface", found.join(", "))).into());
    }
    Ok(if found.len() == 1 { found.remove(0) } else { config::INTERFACE.to_owned() })
}

fn client_runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn print(line: &str) -> Result<()> {
    write(&Zeroizing::new(format!("{line}\n")))
}

/// To standard output; that a reader like `head` has gone is no error.
fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}
