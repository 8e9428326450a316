//! What was measured, to read and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::Arguments;

#[derive(Serialize)]
pub struct Results {
    pub processor: String,
    pub processors: usize,
    pub kernel: String,
    /// Load of this machine before it began: what else runs.
    pub load_before: f64,
    pub burst_pods: usize,
    pub runs: Vec<Run>,
}

/// Milliseconds.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

impl Latency {
    pub fn of(sorted: &[f64]) -> Self {
        let at = |part: f64| sorted.get(((sorted.len() as f64 * part).ceil() as usize).saturating_sub(1)).copied().unwrap_or_default();
        Self { p50: at(0.5), p99: at(0.99) }
    }

    pub fn of_unsorted(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self::of(&values)
    }
}

/// What is done while nothing changes.
#[derive(Default, Serialize)]
pub struct Quiet {
    pub seconds: f64,
    pub cpu_seconds_a_minute: f64,
    /// By verb and resource, Leases and TokenReviews left out.
    pub writes: BTreeMap<String, f64>,
    pub lease_writes: f64,
    pub token_reviews_per_second: f64,
    pub reads_per_second: f64,
    pub reads: BTreeMap<String, f64>,
}

/// Resident, of it anonymous, and the peak; MiB.
type Memory = [f64; 3];

#[derive(Default, Serialize)]
pub struct Run {
    pub campfires: usize,
    pub peers: usize,
    /// Whether peers were at the fires.
    pub members: bool,
    pub campfires_made_seconds: f64,
    pub ready_seconds: f64,
    pub synced_seconds: f64,
    pub sync_writes: BTreeMap<String, f64>,
    pub after_sync_mib: Memory,
    pub with_members_mib: Memory,
    pub idle: Quiet,
    pub campfire_change: Latency,
    pub new_peer: Latency,
    pub burst_pods: usize,
    pub burst_seconds: f64,
    pub burst_writes: f64,
    pub burst_writes_per_second: f64,
    pub burst_most_in_ten_seconds: f64,
    pub arrival_seconds: f64,
    pub arrival_reviews: f64,
    pub flood_per_second: f64,
    pub flood_refused: u64,
    pub flood_latency: Latency,
    /// CPU seconds a second.
    pub flood_cpu: f64,
    pub steady: Quiet,
    pub steady_reports_per_second: f64,
    pub steady_settings_per_second: f64,
    pub steady_failed: u64,
    pub steady_mib: Memory,
}

impl Results {
    pub fn begin(arguments: &Arguments) -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            processor: model.trim_start_matches([':', '\t', ' ']).to_owned(),
            processors: std::thread::available_parallelism()?.get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load_before: load.split(' ').next().unwrap_or_default().parse()?,
            burst_pods: arguments.burst,
            runs: Vec::new(),
        })
    }

    /// Writes both files.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)?)?;
        Ok(fs::write(path.with_extension("txt"), self.text())?)
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let Self { processor, processors, kernel, load_before, burst_pods, runs } = self;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{processor}, {processors} processors, Linux {kernel}, load before {load_before}\n");
        let mut row = |what: &str, show: &dyn Fn(&Run) -> String| {
            let _ = writeln!(text, "| {what} | {} |", runs.iter().map(show).collect::<Vec<_>>().join(" | "));
        };
        row("", &|run| format!("{} Campfires, {} peers", run.campfires, run.peers));
        row("---", &|_| "---".into());
        row("Campfires made, from nothing, s", &|run| format!("{:.1}", run.campfires_made_seconds));
        row("caches filled after a start, s", &|run| format!("{:.2}", run.ready_seconds));
        row("all looked at after a start, s", &|run| format!("{:.1}", run.synced_seconds));
        row("writes of that", &|run| writes(&run.sync_writes));
        row("resident after it (anonymous; peak), MiB", &|run| memory(run.after_sync_mib));
        row("resident with all peers at the fires, MiB", &|run| if run.members { memory(run.with_members_mib) } else { "–".into() });
        row("idle: writes", &|run| format!("{} in {:.0} s", writes(&run.idle.writes), run.idle.seconds));
        row("idle: CPU, s a minute", &|run| format!("{:.2}", run.idle.cpu_seconds_a_minute));
        row("idle: reads of the API, 1/s", &|run| format!("{:.1}", run.idle.reads_per_second));
        row("Campfire changed → StatefulSet written, ms (p50, p99)", &|run| latency(run.campfire_change));
        row("pod made → MeshPeer there, ms (p50, p99)", &|run| latency(run.new_peer));
        row(&format!("{burst_pods} pods at once: writes a second"), &|run| format!("{:.1}", run.burst_writes_per_second));
        row("most writes in 10 s (budget: 200, and 20 at once)", &|run| format!("{:.0}", run.burst_most_in_ten_seconds));
        row("written after, s", &|run| format!("{:.0}", run.burst_seconds));
        row("all sidecars report to a new leader: heard after, s", &|run| format!("{:.0}", run.arrival_seconds));
        row("TokenReviews of that", &|run| format!("{:.0}", run.arrival_reviews));
        row("reports as fast as they are taken, 1/s", &|run| format!("{:.0}", run.flood_per_second));
        row("their latency, ms (p50, p99)", &|run| latency(run.flood_latency));
        row("the operator's CPU meanwhile, cores", &|run| format!("{:.2}", run.flood_cpu));
        row("a day's traffic: reports, settings, 1/s", &|run| {
            format!("{:.1}, {:.1}", run.steady_reports_per_second, run.steady_settings_per_second)
        });
        row("TokenReviews, 1/s", &|run| format!("{:.1}", run.steady.token_reviews_per_second));
        row("writes", &|run| format!("{} in {:.0} s", writes(&run.steady.writes), run.steady.seconds));
        row("CPU, s a minute", &|run| format!("{:.2}", run.steady.cpu_seconds_a_minute));
        row("resident at the end (anonymous; peak), MiB", &|run| memory(run.steady_mib));
        text
    }
}

fn writes(writes: &BTreeMap<String, f64>) -> String {
    if writes.is_empty() {
        return "0".into();
    }
    writes.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

fn memory([resident, anonymous, peak]: Memory) -> String {
    format!("{resident:.1} ({anonymous:.1}; {peak:.1})")
}

fn latency(latency: Latency) -> String {
    format!("{:.0}, {:.0}", latency.p50, latency.p99)
}
