//! How cost grows with the number of subscriptions.

use std::time::Instant;

use tokio::task::JoinSet;

use crate::{
    measure::{Load, MIB, median, resident, runs, seconds},
    stage::{Stage, all_after, events_of},
    table::{
        Bar::{AtMost, ForScale},
        Table,
    },
};

const CONNECTIONS: usize = 100;
const COUNTS: [usize; 5] = [1, 10, 100, 1000, 10_000];
/// Linear, as far as a machine is the same for both.
const GROWTH: f64 = 1.5;

pub(crate) async fn figures(table: &mut Table) {
    let mut costs = Vec::new();
    for count in COUNTS {
        let (mut opened, mut told) = (Vec::new(), Vec::new());
        let (mut cpu, mut memory) = (Vec::new(), Vec::new());
        for _ in 0..runs() {
            let run = measure(count).await;
            opened.push(run.opened);
            told.push(run.told);
            cpu.push(run.cpu);
            memory.push(run.memory);
        }
        let [opened, told, cpu, memory] = [opened, told, cpu, memory].map(median);
        costs.push((opened / count as f64, told / count as f64));
        table.row(
            &format!("{count} subscriptions of one range opened, each live"),
            opened,
            "s",
            ForScale,
            format!("{cpu:.2} s of CPU of watchmark; then {memory:.1} MiB"),
        );
        table.row(
            &format!("{count} subscriptions: one event to all"),
            told * 1e3,
            "ms",
            ForScale,
            "from the put's begin to the last".to_owned(),
        );
    }
    let [.., (opened, told), (opened_by_most, told_by_most)] = costs[..] else {
        unreachable!("there are five")
    };
    for (what, most, fewer) in [
        ("opening one", opened_by_most, opened),
        ("telling one", told_by_most, told),
    ] {
        table.row(
            &format!("growth: {what} of 10,000 / {what} of 1,000"),
            most / fewer,
            "x",
            AtMost(GROWTH),
            format!("{:.0} us / {:.0} us", most * 1e6, fewer * 1e6),
        );
    }
}

struct Run {
    /// In seconds, as is `told`.
    opened: f64,
    told: f64,
    /// Of watchmark, while they were opened.
    cpu: f64,
    memory: f64,
}

async fn measure(count: usize) -> Run {
    let stage = Stage::new(&["--max-subscriptions=10000"]).await;
    let head = stage.etcd.head().await;
    let load = Load::of(stage.pid());
    let began = Instant::now();
    let streams = stage.open(count, CONNECTIONS, || all_after(head)).await;
    let opened = seconds(began.elapsed());
    let cpu = load.seconds();
    let memory = resident(stage.pid()) / MIB;
    let mut kv = stage.etcd.client().await.kv_client();
    let readers = streams.into_iter().map(|mut streams| async move {
        for stream in &mut streams {
            while events_of(stream).await.is_empty() {}
        }
    });
    let readers: JoinSet<_> = readers.collect();
    let began = Instant::now();
    kv.put("bench/event", [b'v'; 256], None).await.unwrap();
    readers.join_all().await;
    Run {
        opened,
        told: seconds(began.elapsed()),
        cpu,
        memory,
    }
}
