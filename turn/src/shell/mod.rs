//! Everything around the core: sockets, files, time, threads and signals.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use clap::error::ErrorKind;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

mod config;
mod descriptors;
mod engine;
mod framing;
mod http;
mod listeners;
mod logging;
mod metrics;
mod outbox;
mod queue;
mod refusals;
mod secrets;
mod sockets;
mod streams;
mod tls;

use config::{ConfigError, Listen, Options, Settings, TlsFiles};
use descriptors::Descriptors;
use engine::{Command, Engine, Handle};
use listeners::Listeners;
use metrics::Counters;
use refusals::Refusals;
use secrets::{Loaded, Signature};
use sockets::{RelaySettings, UdpSockets};
use tls::Identity;

/// Exit status for a configuration that cannot be used (`EX_USAGE`).
const BAD_CONFIGURATION: u8 = 64;
/// How often files are looked at for changes.
const LOOK: Duration = Duration::from_secs(1);
/// A member that is told to move, and can, has left after a few round trips.
const NOWHERE: Duration = Duration::from_secs(10);

/// Runs the program; its exit status.
pub fn main() -> u8 {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
                _ => BAD_CONFIGURATION,
            };
        }
    };
    if let Err(error) = campfire_sys::process::conceal() {
        eprintln!("campfire-turn: other processes of this user can read its memory: {error}");
    }
    let check = options.check;
    let prepared = options.with_file().and_then(Options::validate).and_then(Prepared::new);
    match prepared {
        Err(error) => {
            eprintln!("campfire-turn: {error}");
            BAD_CONFIGURATION
        }
        Ok(prepared) if check => {
            print!("{}", prepared.describe());
            0
        }
        Ok(prepared) => match prepared.run() {
            Ok(()) => 0,
            Err(error) => {
                tracing::error!("{error:#}");
                1
            }
        },
    }
}

/// A valid configuration with everything it speaks of loaded.
struct Prepared {
    settings: Settings,
    loaded: Loaded,
    identity: Option<(Arc<Identity>, TlsFiles)>,
}

impl Prepared {
    fn new(settings: Settings) -> Result<Self, ConfigError> {
        logging::start(settings.log_format, &settings.log)?;
        let loaded = secrets::load(&settings.secrets).map_err(|error| ConfigError(error.to_string()))?;
        let identity = match settings.tls_files.clone() {
            Some(files) => {
                let identity = Identity::load(&files).map_err(|error| ConfigError(error.to_string()))?;
                Some((identity, files))
            }
            None => None,
        };
        warn_about(&settings, &loaded);
        Ok(Self { settings, loaded, identity })
    }

    /// What the configuration means, for `--check`.
    fn describe(&self) -> String {
        let list = |listeners: &[Listen]| {
            let texts: Vec<_> = listeners.iter().map(|listen| listen.address.to_string()).collect();
            if texts.is_empty() { "-".to_owned() } else { texts.join(", ") }
        };
        let relay = |address: Option<config::RelayAddress>| match address {
            Some(address) if address.bind == address.external => address.bind.to_string(),
            Some(address) => format!("{} (as {})", address.bind, address.external),
            None => "-".to_owned(),
        };
        let Settings { udp, tcp, tls, http, core, relay_v4, relay_v6, relay_ports, .. } = &self.settings;
        format!(
            "configuration is valid\nudp:       {}\ntcp:       {}\ntls:       {}\nhttp:      {}\ncampfire:  {} ({} secrets)\nstandard:  {} ({} users, {} REST secrets, realm {})\nrelay:     {} and {}, ports {}-{}\n",
            list(udp),
            list(tcp),
            list(tls),
            http.map_or("-".to_owned(), |address| address.to_string()),
            match (core.campfire, core.campfire_v1) {
                (true, true) => "on, version 1 too",
                (true, false) => "on",
                (false, true) => "version 1 alone",
                (false, false) => "off",
            },
            self.loaded.campfires,
            if core.allocations { "on" } else { "off" },
            self.loaded.users,
            self.loaded.rest,
            core.realm,
            relay(*relay_v4),
            relay(*relay_v6),
            relay_ports.start(),
            relay_ports.end(),
        )
    }

    fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("streams")
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let result = runtime.block_on(self.serve());
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    }

    async fn serve(self) -> anyhow::Result<()> {
        let Self { mut settings, loaded, identity } = self;
        // Handled from the start: a signal during the start is not lost.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;

        let counters = Arc::new(Counters::default());
        let listeners = Listeners::bind(&settings)?;
        if settings.core.allocations {
            settings.core.relay_ipv4 = relay_address_works(settings.relay_v4)?;
            settings.core.relay_ipv6 = relay_address_works(settings.relay_v6)?;
        }
        let addresses = listeners.addresses()?;
        let Listeners { udp, tcp, tls, http } = listeners;
        let (handle, inbox) = engine::channel()?;
        count_loaded(&counters, &loaded);
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no randomness from the system: {error}"))?;
        let relay_sockets = if settings.core.allocations { 2 * settings.core.limits.allocations } else { 0 };
        let descriptors = Descriptors::raise((settings.streams.connections + relay_sockets) as u64, Arc::clone(&counters));
        let (core, relays) = (settings.core.clone(), RelaySettings::new(&settings, descriptors.clone()));
        let (secrets, engine_counters) = (loaded.secrets, Arc::clone(&counters));
        let (done, mut ended) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name("packets".into()).spawn(move || {
            // Its memory is touched by this thread first.
            let engine = Engine::new(core, secrets, seed, UdpSockets::new(udp), relays, inbox, engine_counters);
            let _ = done.send(engine.and_then(Engine::run));
        })?;

        let streams = streams::Streams::new(handle.clone(), settings.streams, Arc::clone(&counters), descriptors);
        for listener in tcp {
            tokio::spawn(Arc::clone(&streams).accept(listener, None));
        }
        if let Some((identity, _)) = &identity {
            let acceptor = TlsAcceptor::from(identity.server_config()?);
            for listener in tls {
                tokio::spawn(Arc::clone(&streams).accept(listener, Some(acceptor.clone())));
            }
        }
        let ready = Arc::new(AtomicBool::new(true));
        if let Some(listener) = http {
            let pages = http::Pages { handle: handle.clone(), counters: Arc::clone(&counters), ready: Arc::clone(&ready) };
            tokio::spawn(http::serve(listener, pages));
        }
        let mut files = Files::new(&settings, identity);
        addresses.say_ready();

        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut refusals = Refusals::default();
        let mut minute = tokio::time::interval(Duration::from_mins(1));
        minute.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                result = &mut ended => return packet_thread(result),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => files.reload(&handle, &counters),
                _ = minute.tick() => if let Some(report) = handle.report().await {
                    refusals.say(report.metrics.into_iter().chain(counters.metrics()));
                },
                _ = look.tick() => files.reload_if_changed(&handle, &counters),
            }
        }

        ready.store(false, Ordering::Release);
        counters.draining.set(1);
        tracing::info!(timeout = ?settings.drain_timeout, "draining: no newcomers, members are told to move; a second signal ends it at once");
        handle.command(Command::Drain);
        tokio::select! {
            result = &mut ended => return packet_thread(result),
            _ = terminate.recv() => tracing::info!("a second signal: ending at once"),
            _ = interrupt.recv() => tracing::info!("a second signal: ending at once"),
            () = tokio::time::sleep(settings.drain_timeout) => tracing::info!("the drain timeout is over"),
            why = drained(&handle) => tracing::info!("the drain is over: {why}"),
        }
        handle.command(Command::Stop);
        let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// How the thread of the packets ended, which it does not before it is told to.
fn packet_thread(ended: Result<std::io::Result<()>, tokio::sync::oneshot::error::RecvError>) -> anyhow::Result<()> {
    ended.context("the packet thread panicked")?.context("the packet thread failed")
}

/// Waits until there is nothing more to wait for, and says what that is: no seat and no allocation is left, or members alone of whom none has
/// left for [`NOWHERE`]. Those have no other server, and the sooner this one is back the better: until then newcomers are refused.
async fn drained(handle: &Handle) -> &'static str {
    let (mut fewest, mut since) = (u64::MAX, Instant::now());
    loop {
        if let Some(report) = handle.report().await {
            if report.idle {
                return "nobody is left";
            }
            if report.clients < fewest || report.allocations > 0 {
                (fewest, since) = (report.clients, Instant::now());
            }
            if since.elapsed() >= NOWHERE {
                return "who is left has nowhere to go";
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The files that are loaded again when they change.
struct Files {
    secrets: config::SecretFiles,
    identity: Option<(Arc<Identity>, TlsFiles)>,
    seen: Signature,
}

impl Files {
    fn new(settings: &Settings, identity: Option<(Arc<Identity>, TlsFiles)>) -> Self {
        let mut files = Self { secrets: settings.secrets.clone(), identity, seen: Signature::default() };
        files.seen = files.look();
        files
    }

    fn look(&self) -> Signature {
        let secrets = [&self.secrets.campfires, &self.secrets.users, &self.secrets.rest].into_iter().flatten();
        let identity = self.identity.iter().flat_map(|(_, files)| [&files.cert, &files.key]);
        Signature::of(secrets.chain(identity).map(Path::new))
    }

    fn reload_if_changed(&mut self, handle: &Handle, counters: &Counters) {
        if self.look() != self.seen {
            self.reload(handle, counters);
        }
    }

    /// Loads everything; what cannot be loaded stays as it was.
    fn reload(&mut self, handle: &Handle, counters: &Counters) {
        // Looked at before reading: what changes in between is noticed the next time.
        self.seen = self.look();
        let secrets = secrets::load(&self.secrets).map(|loaded| {
            count_loaded(counters, &loaded);
            tracing::info!(campfires = loaded.campfires, users = loaded.users, rest_secrets = loaded.rest, "secrets loaded");
            handle.command(Command::Secrets(loaded.secrets));
        });
        let identity = match &self.identity {
            Some((identity, files)) => identity.reload(files),
            None => Ok(()),
        };
        let errors = [secrets.err().map(|error| error.to_string()), identity.err().map(|error| error.to_string())];
        for error in errors.iter().flatten() {
            tracing::error!("not reloaded, what was loaded before stays in use: {error}");
            counters.reload_failures.add(1);
        }
        if errors.iter().all(Option::is_none) {
            counters.reloads.add(1);
        }
    }
}

fn count_loaded(counters: &Counters, loaded: &Loaded) {
    counters.campfires.set(loaded.campfires as u64);
    counters.users.set(loaded.users as u64);
    counters.rest_secrets.set(loaded.rest as u64);
}

fn warn_about(settings: &Settings, loaded: &Loaded) {
    for path in &loaded.exposed {
        tracing::warn!("others on this machine may read {}: `chmod 600` it (in a pod: set defaultMode 0400 on the volume)", path.display());
    }
    if settings.core.campfire && loaded.campfires == 0 {
        tracing::warn!("there is no campfire's secret yet in --secrets-dir: nobody can camp until a file is put there");
    }
    if !settings.core.campfire && loaded.campfires > 0 {
        tracing::warn!("--secrets-dir holds campfires' secrets, but rooms are off: give --enable-campfire to serve them");
    }
    if settings.core.campfire_v1 {
        tracing::warn!("campfire version 1 is served: it authenticates nobody, and whoever sees its datagrams can take a campfire over");
    }
    let loopback = |address: Option<config::RelayAddress>| address.is_none_or(|address| address.external.is_loopback());
    if settings.core.allocations && loopback(settings.relay_v4) && loopback(settings.relay_v6) {
        tracing::warn!("standard users reach this machine alone: give --relay-address to relay to others");
    }
}

/// Whether relay sockets can be bound to an address; one that was asked for must be there.
fn relay_address_works(address: Option<config::RelayAddress>) -> anyhow::Result<bool> {
    let Some(address) = address else { return Ok(false) };
    match std::net::UdpSocket::bind((address.bind, 0)) {
        Ok(_) => Ok(true),
        Err(_) if address.optional => Ok(false),
        Err(error) => Err(anyhow::anyhow!(
            "cannot relay from {}: {error} (--relay-address must be an address of this machine, see `ip address`; behind a NAT give that one, and the outer one as --relay-external-address)",
            address.bind
        )),
    }
}
