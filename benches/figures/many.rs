//! How cost grows with the number of subscriptions.

use std::time::Instant;

use futures_util::future::join_all;

use crate::{
    measure::resident_mib,
    stage::{Stage, events_of, subscribe},
    table::Table,
};

const CONNECTIONS: usize = 100;

pub(crate) async fn figures(table: &mut Table) {
    for count in [1, 10, 100, 1000, 10_000] {
        let flags = [
            "--max-subscriptions=10000",
            "--max-connections-per-peer=200",
        ];
        let stage = Stage::new(&flags).await;
        let head = stage.etcd.head().await;
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS.min(count) {
            clients.push(stage.watchmark.client().await);
        }
        let began = Instant::now();
        let open = |(at, mut api): (usize, _)| async move {
            let mine = (at..count).step_by(CONNECTIONS);
            let mut streams = Vec::new();
            for _ in mine {
                let mut stream = subscribe(&mut api, head).await;
                crate::stage::next(&mut stream).await;
                streams.push(stream);
            }
            streams
        };
        let streams = join_all(clients.into_iter().enumerate().map(open)).await;
        let opened = began.elapsed().as_secs_f64();
        let memory = resident_mib(stage.pid());
        let began = Instant::now();
        stage.put(1, 256).await;
        join_all(
            streams
                .into_iter()
                .flatten()
                .map(|mut stream| async move { while events_of(&mut stream).await == 0 {} }),
        )
        .await;
        let told = began.elapsed().as_secs_f64();
        table.row(
            &format!("{count} subscriptions of one range: opened; one event to all"),
            "linear",
            format!("{:.2} s; {:.1} ms", opened, told * 1e3),
            format!("{memory:.0} MiB"),
        );
    }
}
