//! Limits of the port that a real etcd and a real disk cannot be brought to.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;

use std::{sync::Arc, time::Duration};

use fake::{Fixture, next_events, soon, until};
use tonic::{Code, transport::Endpoint};
use tonic_types::StatusExt;
use watchmark::{
    app::Connections,
    config::{ConnectionLimits, Listen},
    grpc::{Api, EdgeRules, Operators},
    proto::watchmark::v1::{AckRequest, watch_service_client::WatchServiceClient},
};

const LIMITS: ConnectionLimits = ConnectionLimits {
    total: 10,
    per_peer: 10,
};

/// Lets that time pass for everybody, at once.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn an_ack_that_the_disk_never_answers_is_told_so_and_may_still_be_durable() {
    let mut fixture = Fixture::new(2);
    let loopback = Listen::Tcp("127.0.0.1:0".parse().unwrap());
    let connections = Connections::bind(&[loopback], LIMITS, None).await.unwrap();
    let address = connections.addresses().remove(0);
    let registry = Arc::clone(&fixture.registry);
    let (api, _) = Api::new(registry, EdgeRules::default(), Operators::default())
        .await
        .unwrap();
    tokio::spawn(api.serve(connections, std::future::pending()));
    let endpoint = Endpoint::new(format!("http://{address}")).unwrap();
    let mut client = WatchServiceClient::new(endpoint.connect().await.unwrap());
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    watch.say_put(11, 10).await;
    assert_eq!(next_events(&mut stream).await, 11);

    fixture.store.hold_puts();
    let request = AckRequest {
        client_id: "orders".to_owned(),
        revision: 11,
        session_id: 0,
    };
    let asking = tokio::spawn({
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.ack(request).await }
    });
    until("the disk is asked", || fixture.store.held_puts() == 1).await;
    assert!(!asking.is_finished());
    pass(Duration::from_secs(20)).await;
    let status = soon("an answer", asking).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "TIMED_OUT");
    assert!(details.retry_info().is_some());

    // Others, and this one's stream, go on; and so does the write.
    watch.say_put(12, 10).await;
    assert_eq!(next_events(&mut stream).await, 12);
    assert_eq!(fixture.store.checkpoint("orders"), Some(10));
    fixture.store.release_puts().await;
    let again = soon("an answer", client.ack(request)).await.unwrap();
    assert_eq!(again.into_inner().checkpoint, 11);
    assert_eq!(fixture.store.checkpoint("orders"), Some(11));
}
