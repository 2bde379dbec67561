//! A subscriber that was away for long.

use std::time::Duration;

use crate::{
    measure::{cpu, forget_peak, median, peak_mib, resident_mib, runs},
    stage::Stage,
    table::Table,
};

const EVENTS: usize = 200_000;
const VALUE_BYTES: usize = 256;

/// The usual history: every write is a revision.
pub(crate) async fn single_puts(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    let from = stage.put(EVENTS, VALUE_BYTES).await;
    forget_peak(stage.pid());
    let (mut direct, mut relayed, mut used) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs() {
        direct.push(stage.direct(from, EVENTS, false).await.as_secs_f64());
        let before = cpu(stage.pid());
        relayed.push(stage.relayed(from, EVENTS).await.as_secs_f64());
        used.push((cpu(stage.pid()) - before).as_secs_f64());
    }
    let (direct, relayed) = (median(&mut direct), median(&mut relayed));
    table.row(
        "catch-up, 200,000 single puts: direct / relayed",
        ">= 12",
        format!("{:.1}", direct / relayed),
        format!(
            "{direct:.2} s / {relayed:.2} s, {:.2} s of CPU",
            median(&mut used)
        ),
    );
    memory(table, &stage, "the same").await;
}

/// 128 operations to a revision.
pub(crate) async fn transactions(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    let from = stage.put_by_transactions(EVENTS, VALUE_BYTES).await;
    forget_peak(stage.pid());
    let (mut plain, mut fragments, mut relayed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs() {
        plain.push(stage.direct(from, EVENTS, false).await.as_secs_f64());
        relayed.push(stage.relayed(from, EVENTS).await.as_secs_f64());
        fragments.push(stage.direct(from, EVENTS, true).await.as_secs_f64());
    }
    let [plain, fragments, relayed] = [plain, fragments, relayed].map(|mut it| median(&mut it));
    let of = format!("{plain:.2} s, {fragments:.2} s in fragments / {relayed:.2} s");
    table.row(
        "catch-up, 128-operation transactions: direct in fragments / relayed",
        ">= 0.95",
        format!("{:.2}", fragments / relayed),
        of.clone(),
    );
    table.row(
        "the same: direct / relayed",
        ">= 0.8",
        format!("{:.2}", plain / relayed),
        of,
    );
    memory(table, &stage, "the same").await;
}

/// 1,000 revisions of 1 MiB.
pub(crate) async fn large_values(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    let from = stage.put(1000, 1 << 20).await;
    forget_peak(stage.pid());
    let direct = stage.direct(from, 1000, false).await.as_secs_f64();
    let relayed = stage.relayed(from, 1000).await.as_secs_f64();
    table.row(
        "catch-up, 1,000 values of 1 MiB: direct / relayed",
        "-",
        format!("{:.2}", direct / relayed),
        format!("{direct:.2} s / {relayed:.2} s, one run"),
    );
    memory(table, &stage, "the same").await;
}

async fn memory(table: &mut Table, stage: &Stage, what: &str) {
    let peak = peak_mib(stage.pid());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let after = resident_mib(stage.pid());
    table.row(
        &format!("{what}: peak memory; a minute later"),
        "<= 64; < 20 MiB",
        format!("{peak:.0}; {after:.0} MiB"),
        "resident memory of watchmark".to_owned(),
    );
}
