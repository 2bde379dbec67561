//! The disk of the checkpoints is full: nothing is acknowledged that is not
//! stored, and nobody has to restart anything.

use std::fs;

use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use watchmark::proto::watchmark::v1::Start;

use crate::support::{
    Scenario, Watchmark,
    client::request,
    mount::{fill, small_disk},
    wait,
};

async fn until_health_is(watchmark: &Watchmark, status: ServingStatus) {
    let channel = watchmark.endpoint().connect_lazy();
    let mut health = HealthClient::new(channel);
    wait::until("another health status", async || {
        let service = "watchmark.v1.WatchService".to_owned();
        let answer = health.check(HealthCheckRequest { service }).await.unwrap();
        (answer.into_inner().status() == status).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_acks_goes_on_delivering_and_heals() {
    let Some(disk) = small_disk() else { return };
    let data_dir = format!("--data-dir={}", disk.path().join("data").display());
    let mut scenario = Scenario::start(&[&data_dir]).await;
    let mut latest = request("app", "a/");
    latest.start = Start::Latest.into();
    let mut subscriber = scenario.open(latest).await.unwrap();
    until_health_is(&scenario.watchmark, ServingStatus::Serving).await;

    let filler = fill(disk.path());
    // The store has some allocated space left to use up.
    let mut acked = 0;
    let refused = loop {
        let revision = scenario.writer.put("a/1", "").await;
        subscriber.events_until(revision).await;
        match subscriber.ack(revision).await {
            Ok(checkpoint) => acked = checkpoint,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.cause(), (Code::Unavailable, "STORE_UNAVAILABLE"));
    assert!(refused.retry_delay.is_some());
    assert!(
        refused.message.contains("--data-dir"),
        "{}",
        refused.message
    );
    until_health_is(&scenario.watchmark, ServingStatus::NotServing).await;
    let metrics = scenario.watchmark.get("/metrics").await.body;
    for sample in [
        "watchmark_ready 0",
        "watchmark_store_ready 0",
        "watchmark_problem{reason=\"STORE_UNAVAILABLE\"} 1",
    ] {
        assert!(metrics.contains(sample), "{sample} is not in {metrics}");
    }
    let readyz = scenario.watchmark.get("/readyz").await;
    assert_eq!(readyz.status, 503);
    assert!(readyz.body.contains("[-] store"), "{}", readyz.body);
    let problems = scenario.watchmark.problems().await;
    let problem = problems.iter().find(|(it, _)| it == "STORE_UNAVAILABLE");
    assert!(problem.unwrap().1.contains("--data-dir"), "{problem:?}");
    assert!(
        scenario
            .watchmark
            .log()
            .contains("checkpoint store takes no writes")
    );
    let last = scenario.writer.put("a/2", "").await;
    subscriber.events_until(last).await;

    fs::remove_file(filler).unwrap();
    until_health_is(&scenario.watchmark, ServingStatus::Serving).await;
    wait::until("the metrics to say so", async || {
        let metrics = scenario.watchmark.get("/metrics").await.body;
        let is_over = ["watchmark_ready 1", "watchmark_store_ready 1"];
        is_over.iter().all(|it| metrics.contains(it)).then_some(())
    })
    .await;
    assert_eq!(subscriber.ack(last).await.unwrap(), last);
    assert!(acked < last);

    scenario.watchmark.kill();
    subscriber.end().await;
    scenario.watchmark.restart().await;
    let resumed = scenario.subscribe("app", "a/").await;
    assert_eq!(resumed.opened().checkpoint, last);
    drop(resumed);
    scenario.finish().await;
}
