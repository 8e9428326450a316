//! One run: a cluster of one size, step by step.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::sync::mpsc;

use super::Arguments;
use super::cluster::{Cluster, Counted, fire};
use super::members::Members;
use super::process::{Operator, Turn};
use super::sidecars::{Day, Sidecars};
use super::table::{Latency, Quiet, Run};

/// Between two changes.
const PAUSE: Duration = Duration::from_millis(150);
/// The annotation that changes of Campfires change.
const ANNOTATION: &str = "campfire.network/bench";

/// Runs it all; `None`: there is no control plane here, which was said.
#[expect(clippy::too_many_lines, reason = "the phases, one after the other, each on what those before it left")]
pub async fn run(arguments: &Arguments, peers: usize) -> Result<Option<Run>> {
    let dir = arguments.output.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let log = dir.join("operator.log");
    let _ = fs::remove_file(&log);
    say(&format!("{} Campfires, {peers} peers: a control plane", arguments.campfires));
    let Some(mut cluster) = Cluster::start(arguments.campfires).await? else { return Ok(None) };
    let mut run = Run { campfires: arguments.campfires, peers, ..Run::default() };

    say("an operator makes what the Campfires consist of");
    let first = Operator::start(arguments.operator.as_deref(), cluster.plane.kubeconfig(), &log)?;
    let begun = Instant::now();
    cluster.settle().await?;
    run.campfires_made_seconds = begun.elapsed().as_secs_f64();
    first.end().await?;

    say("pods and their peers, as an operator left them that led before");
    let pods = cluster.pods(0..peers).await?;
    cluster.mesh_peers(&pods).await?;
    let secrets = tempfile::tempdir()?;
    let turn = arguments.turn.as_ref().map(|program| async {
        for (name, content) in cluster.relay_secrets().await? {
            fs::write(secrets.path().join(name), content)?;
        }
        Turn::start(program, secrets.path(), &dir.join("turn.log"))
    });
    let turn = match turn {
        Some(turn) => Some(turn.await?),
        None => None,
    };
    run.members = turn.is_some();

    say("the operator starts");
    let before = cluster.counted().await?;
    let mut operator = Operator::start(arguments.operator.as_deref(), cluster.plane.kubeconfig(), &log)?;
    run.ready_seconds = operator.ready().await?;
    run.synced_seconds = operator.synced(arguments.campfires).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    run.sync_writes = named(&cluster.counted().await?.writes(&before));
    run.after_sync_mib = operator.memory()?;
    eprintln!("  in {:.1} s; resident: {:.1} MiB", run.synced_seconds, run.after_sync_mib[0]);

    let members = if turn.is_some() {
        say("peers come to the fires");
        let members = Members::camp(&cluster, &pods).await?;
        cluster.sees(peers).await?;
        Some(members)
    } else {
        None
    };
    run.with_members_mib = operator.memory()?;
    eprintln!("  resident: {:.1} MiB", run.with_members_mib[0]);

    say(&format!("nothing changes for {} s", arguments.idle));
    run.idle = quiet(&cluster, &operator, Duration::from_secs(arguments.idle)).await?;

    say("Campfires change, one by one");
    run.campfire_change = campfire_changes(&cluster, arguments.changes).await?;
    say("pods are made, one by one");
    let made = peers..peers + arguments.changes;
    run.new_peer = new_peers(&cluster, made.clone()).await?;
    say(&format!("{} pods at once", arguments.burst));
    burst(&cluster, &operator, made.end..made.end + arguments.burst, &mut run).await?;

    say("a token for each pod");
    let sidecars = Arc::new(Sidecars::new(&cluster, &pods, operator.agent).await?);
    say("all report to a leader who knows none of them");
    let before = cluster.counted().await?;
    run.arrival_seconds = sidecars.arrive().await?;
    eprintln!("  within {:.0} s; resident: {:.1} MiB", run.arrival_seconds, operator.memory()?[0]);
    run.arrival_reviews = reviews(&cluster.counted().await?, &before);
    ensure!(sidecars.len() == peers, "there are {} sidecars", sidecars.len());
    say(&format!("reports as fast as they are taken, for {} s", arguments.flood));
    let used = operator.used()?;
    let flood = sidecars.flood(Duration::from_secs(arguments.flood)).await?;
    run.flood_cpu = used.a_minute(operator.used()?) / 60.0;
    run.flood_per_second = flood.reports as f64 / flood.seconds;
    run.flood_refused = flood.refused;
    run.flood_latency = Latency::of(&flood.latencies);

    say(&format!("a day's traffic, for {} s", arguments.steady));
    let day = Arc::new(Day::default());
    let living = sidecars.live(&day);
    // They come within the first minute.
    tokio::time::sleep(Duration::from_secs(65)).await;
    let (reports, settings) = (day.reports.load(Ordering::Relaxed), day.settings.load(Ordering::Relaxed));
    run.steady = quiet(&cluster, &operator, Duration::from_secs(arguments.steady)).await?;
    let seconds = run.steady.seconds;
    run.steady_reports_per_second = (day.reports.load(Ordering::Relaxed) - reports) as f64 / seconds;
    run.steady_settings_per_second = (day.settings.load(Ordering::Relaxed) - settings) as f64 / seconds;
    run.steady_failed = day.failed.load(Ordering::Relaxed);
    run.steady_mib = operator.memory()?;
    eprintln!("  resident: {:.1} MiB", run.steady_mib[0]);
    drop(living);
    drop(members);
    operator.end().await?;
    Ok(Some(run))
}

/// What is done while nothing changes.
async fn quiet(cluster: &Cluster, operator: &Operator, time: Duration) -> Result<Quiet> {
    let (before, used) = (cluster.counted().await?, operator.used()?);
    tokio::time::sleep(time).await;
    let (after, now) = (cluster.counted().await?, operator.used()?);
    let seconds = (after.at - before.at).as_secs_f64();
    let reads = after.since(&before, |verb, resource| ["GET", "LIST"].contains(&verb) && resource != "leases");
    let leases = after.since(&before, |verb, resource| verb == "PUT" && resource == "leases");
    Ok(Quiet {
        seconds,
        cpu_seconds_a_minute: used.a_minute(now),
        writes: named(&after.writes(&before)),
        lease_writes: leases.values().sum(),
        token_reviews_per_second: reviews(&after, &before) / seconds,
        reads_per_second: reads.values().sum::<f64>() / seconds,
        reads: named(&reads),
    })
}

fn reviews(after: &Counted, before: &Counted) -> f64 {
    after.since(before, |verb, resource| verb == "POST" && resource == "tokenreviews").values().sum()
}

fn named(counts: &BTreeMap<(String, String), f64>) -> BTreeMap<String, f64> {
    counts.iter().map(|((verb, resource), count)| (format!("{verb} {resource}"), *count)).collect()
}

/// From a Campfire's change until its StatefulSet shows it.
async fn campfire_changes(cluster: &Cluster, changes: usize) -> Result<Latency> {
    let mut seen = cluster.template_changes(ANNOTATION).await?;
    let mut latencies = Vec::new();
    for number in 0..changes {
        let value = format!("change-{number}");
        let patch = Patch::Merge(json!({ "spec": { "turn": { "podTemplate": { "annotations": { ANNOTATION: value } } } } }));
        let begun = Instant::now();
        cluster.fires().patch(&fire(number % cluster.campfires), &PatchParams::default(), &patch).await?;
        latencies.push(until(&mut seen, &value, begun).await?);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(Latency::of_unsorted(latencies))
}

/// From a pod's creation until its MeshPeer is there.
async fn new_peers(cluster: &Cluster, numbers: std::ops::Range<usize>) -> Result<Latency> {
    let mut seen = cluster.new_peers().await?;
    let mut latencies = Vec::new();
    for number in numbers {
        let begun = Instant::now();
        let peer = cluster.pod(number).await?;
        latencies.push(until(&mut seen, &peer.name, begun).await?);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(Latency::of_unsorted(latencies))
}

async fn until(seen: &mut mpsc::UnboundedReceiver<(String, Instant)>, what: &str, begun: Instant) -> Result<f64> {
    let wait = async {
        while let Some((name, at)) = seen.recv().await {
            if name == what {
                return Some(at);
            }
        }
        None
    };
    let at = tokio::time::timeout(Duration::from_mins(1), wait).await.with_context(|| format!("{what}: not within a minute"))?;
    let at = at.context("a watch ended")?;
    Ok(at.saturating_duration_since(begun).as_secs_f64() * 1e3)
}

/// Pods at once, whose peers are written within the budget.
async fn burst(cluster: &Cluster, operator: &Operator, numbers: std::ops::Range<usize>, run: &mut Run) -> Result<()> {
    // A second of silence, that the budget is full.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let pods = numbers.len();
    let start = cluster.counted().await?;
    let wanted = pods as f64 * 2.0;
    let mut samples = vec![(start.at, 0.0)];
    let made = async { cluster.pods(numbers).await.map(drop) };
    let sampled = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = cluster.counted().await?;
            let written = now.peer_writes(&start);
            samples.push((now.at, written));
            if written >= wanted && operator.metric("campfire_operator_queue{controller=\"meshpeer\"").await? == 0.0 {
                return anyhow::Ok(());
            }
            ensure!(
                start.at.elapsed() < Duration::from_mins(10),
                "the burst is not worked off within 10 minutes: {written} of {wanted} writes"
            );
        }
    };
    let (made, sampled) = tokio::join!(made, sampled);
    made.and(sampled)?;
    let last = samples.iter().rev().find(|(_, written)| *written < wanted).copied().unwrap_or((start.at, 0.0));
    run.burst_pods = pods;
    run.burst_seconds = samples.iter().find(|(_, written)| *written >= wanted).map_or(0.0, |(at, _)| (*at - start.at).as_secs_f64());
    run.burst_writes = samples.last().map_or(0.0, |(_, written)| *written);
    run.burst_writes_per_second = last.1 / (last.0 - start.at).as_secs_f64();
    let within = |from: usize| {
        let (begin, written) = samples.get(from).copied()?;
        samples.iter().skip(from).take_while(|(at, _)| *at - begin <= Duration::from_millis(10_500)).map(|(_, now)| now - written).last()
    };
    run.burst_most_in_ten_seconds = (0..samples.len()).filter_map(within).fold(0.0, f64::max);
    Ok(())
}

fn say(what: &str) {
    eprintln!("{what} …");
}
