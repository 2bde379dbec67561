//! The one table at the end.

use std::{fs, thread};

use crate::{measure::runs, support::Etcd};

#[derive(Debug, Default)]
pub(crate) struct Table(Vec<[String; 4]>);

impl Table {
    /// What was measured, what it should be, what it was, and what it is made of.
    pub(crate) fn row(&mut self, figure: &str, bar: &str, value: String, of: String) {
        eprintln!("  {figure}: {value} ({of})");
        self.0.push([figure.to_owned(), bar.to_owned(), value, of]);
    }

    pub(crate) fn print(&self) {
        let (major, minor, patch) = Etcd::version();
        let cores = thread::available_parallelism().map_or(0, usize::from);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        println!(
            "watchmark {}, etcd {major}.{minor}.{patch}, {cores} cores, Linux {}; medians of {} runs\n",
            env!("CARGO_PKG_VERSION"),
            kernel.trim(),
            runs(),
        );
        let titles = ["figure", "bar", "measured", "of"].map(str::to_owned);
        let rows = || std::iter::once(&titles).chain(&self.0);
        let width = |at: usize| rows().map(|row| row[at].chars().count()).max().unwrap_or(0);
        let widths = [0, 1, 2, 3].map(width);
        let line = |cells: [String; 4]| {
            let cells = cells.into_iter().zip(widths);
            let cells: Vec<_> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            println!("| {} |", cells.join(" | "));
        };
        line(titles.clone());
        line(widths.map(|width| "-".repeat(width)));
        for row in &self.0 {
            line(row.clone());
        }
    }
}
