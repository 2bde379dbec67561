//! Clients that mean no good, or know no better: nobody else notices.

use std::{fs, net::TcpStream, time::Duration};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use watchmark::proto::watchmark::v1::{Start, SubscribeRequest};

use crate::support::{Scenario, client::request, wait};

fn latest(client_id: &str) -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        ..request(client_id, "a/")
    }
}

/// Lets the running watchmark open so many files more.
fn leave_files(scenario: &Scenario, more: u64) {
    let pid = scenario.watchmark.process().pid();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = Rlimit {
        current: Some(u64::try_from(open).unwrap() + more),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    prlimit(pid, Resource::Nofile, limit).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_use_up_all_files_keep_others_out_only_while_they_last() {
    let scenario = Scenario::start(&[]).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    let address = scenario.watchmark.address();
    leave_files(&scenario, 8);
    let crowd: Vec<_> = (0..40)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    wait::until("watchmark to run out of files", async || {
        let log = scenario.watchmark.log();
        log.contains("cannot accept a connection").then_some(())
    })
    .await;
    // Who is connected is served meanwhile.
    let first = scenario.writer.put("a/1", "").await;
    assert_eq!(subscriber.events_until(first).await.len(), 1);

    drop(crowd);
    let opened = tokio::time::timeout(Duration::from_secs(20), scenario.open(latest("late")));
    let mut late = opened.await.expect("connections are taken again").unwrap();
    let second = scenario.writer.put("a/2", "").await;
    assert_eq!(late.events_until(second).await.len(), 1);
    drop((subscriber, late));
    scenario.finish().await;
}
