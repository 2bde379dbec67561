//! The one table at the end.

use std::{env, fs, process::Command, thread};

use crate::{
    measure::{cpu_of_all_and_own, runs},
    support::Etcd,
};

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    AtMost(f64),
    AtLeast(f64),
    /// For scale.
    ForScale,
}

#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<[String; 6]>,
    /// Rows from here on belong to the figure that is being measured.
    begun_at: usize,
    cpu: (f64, f64),
    began: std::time::Instant,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            begun_at: 0,
            cpu: cpu_of_all_and_own(),
            began: std::time::Instant::now(),
        }
    }
}

impl Table {
    /// What was measured, what it should be, and what it is made of.
    pub(crate) fn row(&mut self, figure: &str, value: f64, unit: &str, bar: Bar, of: String) {
        let (bar, met) = match bar {
            Bar::AtMost(most) => (format!("<= {most} {unit}"), Some(value <= most)),
            Bar::AtLeast(least) => (format!(">= {least} {unit}"), Some(value >= least)),
            Bar::ForScale => (String::new(), None),
        };
        let met = met.map_or("", |met| if met { "yes" } else { "NO" });
        let measured = format!("{} {unit}", number(value));
        eprintln!("  {figure}: {measured}; {bar} {met} ({of})");
        let row = [figure.to_owned(), measured, bar, met.to_owned(), of];
        let [figure, measured, bar, met, of] = row.map(|cell| cell.trim().to_owned());
        self.rows
            .push([figure, measured, bar, met, String::new(), of]);
    }

    /// The processes of a figure have ended: what did everybody else use?
    pub(crate) fn end_figure(&mut self) {
        let (all, own) = cpu_of_all_and_own();
        let others = (all - self.cpu.0) - (own - self.cpu.1);
        let took = self.began.elapsed().as_secs_f64();
        let others = format!("{:.0} %", (others / took * 100.0).max(0.0));
        eprintln!("  {took:.0} s; other processes used {others} of a core");
        for row in &mut self.rows[self.begun_at..] {
            row[4].clone_from(&others);
        }
        self.begun_at = self.rows.len();
        self.cpu = (all, own);
        self.began = std::time::Instant::now();
    }

    pub(crate) fn print(&self) {
        let (major, minor, patch) = Etcd::version();
        let cores = thread::available_parallelism().map_or(0, usize::from);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let commit = said("git", &["describe", "--always", "--dirty"]);
        println!(
            "make bench RUNS={}; watchmark {} ({commit}), etcd {major}.{minor}.{patch}, {}, \
             {cores} cores ({}), Linux {}",
            runs(),
            env!("CARGO_PKG_VERSION"),
            said("rustc", &["--version"]),
            processor(),
            kernel.trim(),
        );
        println!(
            "Medians of {} runs. Others: CPU of other processes meanwhile, of a core.\n",
            runs()
        );
        let titles = ["figure", "measured", "bar", "met", "others", "of"].map(str::to_owned);
        let rows = || std::iter::once(&titles).chain(&self.rows);
        let width = |at: usize| rows().map(|row| row[at].chars().count()).max().unwrap_or(0);
        let widths = [0, 1, 2, 3, 4, 5].map(width);
        let line = |cells: [String; 6]| {
            let cells = cells.into_iter().zip(widths);
            let cells: Vec<_> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            println!("| {} |", cells.join(" | "));
        };
        line(titles.clone());
        line(widths.map(|width| "-".repeat(width)));
        for row in &self.rows {
            line(row.clone());
        }
    }
}

/// As many digits as mean something.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        it if it >= 100.0 => 0,
        it if it >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
    text.ok()
        .filter(|it| !it.is_empty())
        .unwrap_or_else(|| format!("no {program}"))
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(": "));
    name.map_or("unknown", |(_, name)| name).to_owned()
}
