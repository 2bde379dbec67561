//! What the kernel says of this process.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use procfs::{
    Current, ProcResult,
    process::{LimitValue, Process},
    ticks_per_second,
};

/// At one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessSample {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    pub(super) open_fds: u64,
    /// 0: as many as it likes.
    pub(super) max_fds: u64,
    pub(super) threads: i64,
    pub(super) started_at: f64,
}

impl ProcessSample {
    /// `None`: there is no /proc.
    pub(super) fn take() -> Option<Self> {
        Self::read().ok()
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "ticks of a processor stay far below 2^53"
    )]
    fn read() -> ProcResult<Self> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let ticks = |ticks: u64| ticks as f64 / ticks_per_second() as f64;
        let max_fds = match process.limits()?.max_open_files.soft_limit {
            LimitValue::Unlimited => 0,
            LimitValue::Value(max) => max,
        };
        let booted_ago = procfs::Uptime::current()?.uptime_duration();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let booted_at = now.saturating_sub(booted_ago).as_secs_f64();
        Ok(Self {
            cpu_seconds: ticks(stat.utime + stat.stime),
            resident_bytes: stat.rss * procfs::page_size(),
            virtual_bytes: stat.vsize,
            open_fds: u64::try_from(process.fd_count()?).unwrap_or(u64::MAX),
            max_fds,
            threads: stat.num_threads,
            // To a tenth of a second: two clocks were read, one after the other.
            started_at: ((booted_at + ticks(stat.starttime)) * 10.0).round() / 10.0,
        })
    }
}
