//! A subscriber that was away for long.

use std::time::Duration;

use crate::{
    measure::{Load, MIB, forget_peak, median, median_ratio, peak, percentile, resident, runs},
    stage::{Stage, write},
    table::{
        Bar::{AtLeast, AtMost, ForScale},
        Table,
    },
};

const EVENTS: usize = 200_000;
const VALUE_BYTES: usize = 256;

/// The usual history: every write is a revision.
pub(crate) async fn single_puts(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    let from = stage.put(EVENTS, VALUE_BYTES).await;
    forget_peak(stage.pid());
    let (mut direct, mut relayed) = (Vec::new(), Vec::new());
    let (mut etcd_direct, mut etcd_relayed, mut own) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs() {
        let etcd = Load::of(stage.etcd_pid());
        direct.push(stage.direct(from, EVENTS, false).await);
        etcd_direct.push(etcd.seconds());
        let (etcd, watchmark) = (Load::of(stage.etcd_pid()), Load::of(stage.pid()));
        relayed.push(stage.relayed(from, EVENTS).await);
        etcd_relayed.push(etcd.seconds());
        own.push(watchmark.seconds());
    }
    let ratio = median_ratio(&direct, &relayed);
    table.row(
        "catch-up, 200,000 single puts: direct / relayed",
        ratio,
        "x",
        AtLeast(12.0),
        format!("{:.2} s / {:.2} s", median(direct), median(relayed)),
    );
    table.row(
        "the same: etcd's CPU, direct / relayed",
        median_ratio(&etcd_direct, &etcd_relayed),
        "x",
        ForScale,
        format!(
            "{:.2} s / {:.2} s, and {:.2} s of watchmark",
            median(etcd_direct),
            median(etcd_relayed),
            median(own)
        ),
    );
    memory(table, &stage).await;
    kindness(table, &stage, from).await;
}

/// How other clients of etcd fare while such catch-ups go on.
async fn kindness(table: &mut Table, stage: &Stage, from: i64) {
    // In milliseconds, of nobody, direct, relayed.
    let mut p50s = [const { Vec::new() }; 3];
    let mut p99s = [const { Vec::new() }; 3];
    for _ in 0..runs() {
        for at in 0..3 {
            let catch_ups = async {
                match at {
                    0 => {}
                    1 => loop {
                        stage.direct(from, EVENTS, false).await;
                    },
                    _ => loop {
                        stage.relayed(from, EVENTS).await;
                    },
                }
                std::future::pending().await
            };
            let writer = write(stage.etcd.client().await, "other/", 300.0, 256, 1800);
            let puts = tokio::select! {
                puts = tokio::spawn(writer) => puts.unwrap(),
                () = catch_ups => unreachable!("it goes on for ever"),
            };
            let mut took: Vec<f64> = puts.values().map(|(_, took)| took * 1e3).collect();
            p50s[at].push(percentile(&mut took, 50.0));
            p99s[at].push(percentile(&mut took, 99.0));
        }
    }
    for (name, [quiet, direct, relayed]) in [("p50", p50s), ("p99", p99s)] {
        table.row(
            &format!("put latency of others while such catch-ups go on, {name}: direct / relayed"),
            median_ratio(&direct, &relayed),
            "x",
            ForScale,
            format!(
                "{:.2} ms / {:.2} ms; {:.2} ms while nobody catches up",
                median(direct),
                median(relayed),
                median(quiet)
            ),
        );
    }
}

/// 128 operations to a revision.
pub(crate) async fn transactions(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    let from = stage.put_by_transactions(EVENTS, VALUE_BYTES).await;
    forget_peak(stage.pid());
    let (mut plain, mut fragments, mut relayed) = (Vec::new(), Vec::new(), Vec::new());
    // The first is for warming up.
    for _ in 0..=runs() {
        plain.push(stage.direct(from, EVENTS, false).await);
        relayed.push(stage.relayed(from, EVENTS).await);
        fragments.push(stage.direct(from, EVENTS, true).await);
    }
    let [plain, fragments, relayed] = [plain, fragments, relayed].map(|mut it| it.split_off(1));
    let in_fragments = median_ratio(&fragments, &relayed);
    let whole = median_ratio(&plain, &relayed);
    let [plain, fragments, relayed] = [plain, fragments, relayed].map(median);
    table.row(
        "catch-up, 128-operation transactions: direct in fragments / relayed",
        in_fragments,
        "x",
        AtLeast(0.95),
        format!("{fragments:.2} s / {relayed:.2} s"),
    );
    table.row(
        "the same: direct without fragments / relayed",
        whole,
        "x",
        AtLeast(0.8),
        format!("{plain:.2} s / {relayed:.2} s"),
    );
    memory(table, &stage).await;
}

/// 1,000 revisions of 1 MiB.
pub(crate) async fn large_values(table: &mut Table) {
    const REVISIONS: usize = 1000;
    let stage = Stage::new(&[]).await;
    let from = stage.put(REVISIONS, 1 << 20).await;
    forget_peak(stage.pid());
    let (mut direct, mut relayed) = (Vec::new(), Vec::new());
    for _ in 0..runs() {
        direct.push(stage.direct(from, REVISIONS, true).await);
        relayed.push(stage.relayed(from, REVISIONS).await);
    }
    table.row(
        "catch-up, 1,000 values of 1 MiB: direct in fragments / relayed",
        median_ratio(&direct, &relayed),
        "x",
        ForScale,
        format!("{:.2} s / {:.2} s", median(direct), median(relayed)),
    );
    memory(table, &stage).await;
}

async fn memory(table: &mut Table, stage: &Stage) {
    let peak = peak(stage.pid());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let after = resident(stage.pid());
    let of = || "resident memory of watchmark".to_owned();
    table.row(
        "the same: peak memory",
        peak / MIB,
        "MiB",
        AtMost(64.0),
        of(),
    );
    table.row(
        "the same: memory a minute later",
        after / MIB,
        "MiB",
        AtMost(20.0),
        of(),
    );
}
