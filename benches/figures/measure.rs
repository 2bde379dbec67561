//! Medians, and what processes use.

use std::{env, fs, time::Duration};

/// How often each measurement is repeated.
pub(crate) fn runs() -> usize {
    let runs = env::var("RUNS").ok().and_then(|it| it.parse().ok());
    runs.unwrap_or(5).max(1)
}

/// The value below which `percent` of `values` lie.
pub(crate) fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * percent / 100.0) as usize;
    values[at.min(values.len() - 1)]
}

/// Of the runs.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    percentile(&mut values, 50.0)
}

/// Of the quotients of runs that were made in turn: what slows a machine for
/// a while slows both.
pub(crate) fn median_ratio(values: &[f64], by: &[f64]) -> f64 {
    median(
        values
            .iter()
            .zip(by)
            .map(|(value, by)| value / by)
            .collect(),
    )
}

/// CPU seconds that a process has used.
pub(crate) fn cpu(pid: u32) -> f64 {
    ticks(&format!("/proc/{pid}/stat"), &[11, 12])
}

/// CPU seconds used by everybody, and by this process and its children that
/// have ended.
pub(crate) fn cpu_of_all_and_own() -> (f64, f64) {
    // User, nice, system, steal.
    let all = ticks("/proc/stat", &[0, 1, 2, 7]);
    (all, ticks("/proc/self/stat", &[11, 12, 13, 14]))
}

/// The sum of these fields in the first line, in seconds.
fn ticks(path: &str, fields: &[usize]) -> f64 {
    let stat = fs::read_to_string(path).unwrap();
    let line = stat.lines().next().unwrap();
    // A process' name, in parentheses, may contain anything.
    let values = line.rsplit(')').next().unwrap().trim_start_matches("cpu");
    let values: Vec<_> = values.split_whitespace().collect();
    let sum: f64 = fields
        .iter()
        .map(|&at| values[at].parse::<f64>().unwrap())
        .sum();
    sum / rustix::param::clock_ticks_per_second() as f64
}

/// What a process has done by now.
pub(crate) struct Load {
    pid: u32,
    cpu: f64,
    began: std::time::Instant,
}

impl Load {
    pub(crate) fn of(pid: u32) -> Self {
        Self {
            pid,
            cpu: cpu(pid),
            began: std::time::Instant::now(),
        }
    }

    /// CPU seconds since then.
    pub(crate) fn seconds(&self) -> f64 {
        cpu(self.pid) - self.cpu
    }

    /// Per cent of a core since then.
    pub(crate) fn percent(&self) -> f64 {
        self.seconds() / self.began.elapsed().as_secs_f64() * 100.0
    }
}

/// Resident memory of a process now, in bytes.
pub(crate) fn resident(pid: u32) -> f64 {
    status_bytes(pid, "VmRSS:")
}

/// The most it had since [`forget_peak`].
pub(crate) fn peak(pid: u32) -> f64 {
    status_bytes(pid, "VmHWM:")
}

pub(crate) fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

fn status_bytes(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024.0
}

pub(crate) const MIB: f64 = 1_048_576.0;

pub(crate) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
