//! Times, medians, and what a process uses.

use std::{env, fs, time::Duration};

/// How often each measurement is repeated.
pub(crate) fn runs() -> usize {
    let runs = env::var("RUNS").ok().and_then(|it| it.parse().ok());
    runs.unwrap_or(5)
}

/// The value below which `percent` of `values` lie.
pub(crate) fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * percent / 100.0) as usize;
    values[at.min(values.len() - 1)]
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    percentile(values, 50.0)
}

/// CPU seconds that a process has used.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, in parentheses, may contain anything.
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = [11, 12]
        .iter()
        .map(|&at| fields[at].parse::<u64>().unwrap())
        .sum();
    let per_second = rustix::param::clock_ticks_per_second();
    Duration::from_secs_f64(ticks as f64 / per_second as f64)
}

/// Resident memory of a process now, in MiB.
pub(crate) fn resident_mib(pid: u32) -> f64 {
    status_mib(pid, "VmRSS:")
}

/// The most it had since [`forget_peak`], in MiB.
pub(crate) fn peak_mib(pid: u32) -> f64 {
    status_mib(pid, "VmHWM:")
}

pub(crate) fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

fn status_mib(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}
