//! CPU time of a process and of the whole machine, out of /proc.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The kernel's unit of CPU time in /proc (`USER_HZ`): a hundredth of a second, on every architecture but one long gone.
fn ticks(count: u64) -> Duration {
    Duration::from_millis(count.saturating_mul(10))
}

/// A reading of the machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    at: Instant,
    process: Duration,
    idle: Duration,
    steal: Duration,
}

/// What was used between two readings.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Wall time.
    pub elapsed: Duration,
    /// CPU time of the process.
    pub process: Duration,
    /// CPU time of everything on the machine, interrupts included.
    pub machine: Duration,
    /// Share of the machine that others took away, 0 to 1.
    pub steal: f64,
}

impl Reading {
    /// Reads the clocks; `process` by its id, or none.
    pub fn take(process: Option<u32>) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let fields: Vec<u64> = stat.lines().next().unwrap_or("").split_whitespace().skip(1).map_while(|f| f.parse().ok()).collect();
        let field = |index: usize| fields.get(index).copied().map(ticks).context("/proc/stat");
        Ok(Self {
            at: Instant::now(),
            process: process.map_or(Ok(Duration::ZERO), process_time)?,
            idle: field(3)? + field(4)?,
            steal: field(7)?,
        })
    }

    /// What was used since `earlier`.
    pub fn since(&self, earlier: &Self) -> Used {
        let elapsed = self.at - earlier.at;
        let all = elapsed * cpus();
        let steal = self.steal.saturating_sub(earlier.steal);
        Used {
            elapsed,
            process: self.process.saturating_sub(earlier.process),
            machine: all.saturating_sub(self.idle.saturating_sub(earlier.idle)).saturating_sub(steal),
            steal: steal.as_secs_f64() / all.as_secs_f64(),
        }
    }
}

/// User and system time of a process.
fn process_time(id: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).context("the measured process is gone")?;
    // The name in parentheses may hold anything; behind it the fields count from the third.
    let fields: Vec<&str> = stat.rsplit_once(')').context("/proc/PID/stat")?.1.split_whitespace().collect();
    let field = |index: usize| -> Result<u64> { Ok(fields.get(index).context("/proc/PID/stat")?.parse()?) };
    Ok(ticks(field(11)? + field(12)?))
}

/// Processors that are online.
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

/// The processor's name.
pub fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("unknown", |(_, model)| model).to_owned()
}

/// The middle one; the upper of two.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The folder of this program, where our others are.
pub fn own_folder() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.parent().context("a program is in a folder")?.to_owned())
}
