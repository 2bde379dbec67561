//! The probe: samples by member, only where a watch is served.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use watchmark::upstream::{Etcd, EtcdConfig, Upstream};

use super::{
    harness::{open, revision, spec},
    server::{DEADLINE, Server},
};

#[tokio::test]
async fn samples_name_the_member_and_follow_the_revision() {
    let server = Server::start(&[]).await;
    let last = server.put(&[("a/1", "1")]).await;
    let origin = Instant::now();
    let config = EtcdConfig {
        probe_interval: Duration::from_millis(50),
        origin,
        ..server.config()
    };
    let etcd = Etcd::connect(config).unwrap();
    let mut samples = etcd.probe();
    let (watch, opened) = open(&etcd, spec("a/", last)).await;
    let before = origin.elapsed();
    let last = server.put(&[("b/1", "elsewhere")]).await;
    let seen = samples.wait_for(|samples| {
        samples
            .iter()
            .any(|sample| sample.revision == revision(last))
    });
    let samples_seen = timeout(DEADLINE, seen).await.unwrap().unwrap().clone();
    let [sample] = samples_seen[..] else {
        panic!("{samples_seen:?}");
    };
    assert_eq!(sample.member_id, opened.member_id);
    assert!(sample.asked_at >= before && sample.asked_at <= origin.elapsed());
    // Without a watch nobody is asked.
    drop(watch);
    let quiet = async {
        loop {
            samples.mark_unchanged();
            if timeout(Duration::from_millis(500), samples.changed())
                .await
                .is_err()
            {
                return;
            }
        }
    };
    timeout(DEADLINE, quiet).await.unwrap();
}
