//! What cannot be asked: told so that one knows what to do.

use std::{
    net::TcpListener,
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

use tonic::{Code, Status};

use super::{
    fake::{Said, Served, live},
    run::{command, ran, watchmark},
};
use crate::support::{host::Host, wait};

#[tokio::test]
async fn an_address_where_nobody_listens() {
    let address = Host::claim().address(7379);
    for args in [&["ls"][..], &["tail", "a"], &["health", "--timeout=20s"]] {
        assert_eq!(
            watchmark(&address, args).await.failed(1),
            format!(
                "error: nobody listens at {address}: is watchmark serve running there? If it \
                 listens elsewhere, give --address\n"
            )
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}/watchmark.sock", dir.path().display());
    assert_eq!(
        watchmark(&socket, &["ls"]).await.failed(1),
        format!(
            "error: there is no socket at {socket}: is watchmark serve --listen {socket} running?\n"
        )
    );
    drop(UnixListener::bind(dir.path().join("watchmark.sock")).unwrap());
    let told = watchmark(&socket, &["ls"]).await.failed(1);
    assert!(told.contains("nobody listens at unix://"), "{told}");
    let told = watchmark("nobody.invalid:7379", &["ls"]).await.failed(1);
    assert!(
        told.starts_with("error: cannot connect to nobody.invalid:7379: "),
        "{told}"
    );
}

#[tokio::test]
async fn an_address_that_never_answers() {
    // Connections wait in its queue for ever.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap().to_string();
    let told = watchmark(&address, &["ls", "--timeout=200ms"])
        .await
        .failed(1);
    assert_eq!(
        told,
        format!(
            "error: {address} does not answer in time: see watchmark's log, or give a longer \
             --timeout\n"
        )
    );
    let started = Instant::now();
    let told = watchmark(&address, &["health"]).await.failed(1);
    assert!(told.contains("does not answer in time"), "{told}");
    // It gives up by itself after 800 ms; the rest is a busy machine's.
    assert!(started.elapsed() < Duration::from_secs(9));
}

#[tokio::test]
async fn a_server_that_is_no_watchmark() {
    let (_, health) = tonic_health::server::health_reporter();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = tonic::transport::Server::builder().add_service(health);
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(router.serve_with_incoming(incoming));
    let told = watchmark(&address, &["ls"]).await.failed(1);
    assert_eq!(
        told,
        format!(
            "error: {address} does not have this service: try watchmark's admin port, --address \
             127.0.0.1:7380 by default (UNIMPLEMENTED)\n"
        )
    );
    let told = watchmark(&address, &["tail", "a"]).await.failed(1);
    assert!(
        told.contains("--take-over") && told.contains("UNIMPLEMENTED"),
        "{told}"
    );
}

#[tokio::test]
async fn a_server_that_speaks_no_grpc() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                .await;
        }
    };
    tokio::spawn(serve);
    let told = watchmark(&address, &["ls"]).await.failed(1);
    assert!(told.contains("does it speak gRPC there?"), "{told}");
    let told = watchmark(&format!("https://{address}"), &["ls"])
        .await
        .failed(1);
    assert!(
        told.contains("--ca-file") || told.contains("does not speak TLS"),
        "{told}"
    );
}

#[tokio::test]
async fn a_socket_is_an_address_too_and_the_environment_names_one() {
    let dir = tempfile::tempdir().unwrap();
    let said = Said {
        subscriptions: vec![live("orders")],
        ..Said::default()
    };
    let served = Served::start_unix(said, &dir.path().join("watchmark.sock"));
    let table = watchmark(&served.address, &["ls"]).await.quietly();
    assert!(table.contains("orders"), "{table}");

    let address = served.address.clone();
    let in_environment = move |address: String, args: &'static [&str]| {
        tokio::task::spawn_blocking(move || {
            let mut command = command(args);
            ran(command
                .env("WATCHMARK_ADDRESS", address)
                .env("WATCHMARK_OUTPUT", "json"))
        })
    };
    let ran = in_environment(address.clone(), &["ls"]).await.unwrap();
    assert!(ran.quietly().starts_with("{\"client_id\":\"orders\""));
    let flags = &["ls", "--address=unix:///nonexistent/watchmark.sock"];
    let ran = in_environment(address.clone(), flags).await.unwrap();
    assert!(ran.failed(1).contains("/nonexistent"), "flags win");
    let ran = in_environment(address, &["ls", "--output=text"])
        .await
        .unwrap();
    assert!(ran.quietly().starts_with("CLIENT_ID"), "flags win");
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let said = Said {
        subscriptions: (0..200).map(|n| live(&format!("orders-{n}"))).collect(),
        ..Said::default()
    };
    let served = Served::start(said).await;
    for args in [&["ls"][..], &["ls", "-ojson"]] {
        let mut command = command(args);
        command
            .arg(format!("--address={}", served.address))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let ended = wait::until("ls to end", async || child.try_wait().unwrap()).await;
        let mut told = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut told).unwrap();
        assert_eq!((ended.code(), &*told), (Some(0), ""));
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_dialled() {
    for (args, named) in [
        (&["ls", "--address=nonsense"][..], "--address"),
        (&["ls", "--address="], "--address"),
        (&["ls", "--timeout=0s"], "--timeout"),
        (&["ls", "--timeout=soon"], "--timeout"),
        (&["ls", "--output=yaml"], "--output"),
        (&["ls", "--ca-file=ca.pem"], "--ca-file"),
        (&["ls", "--server-name=a"], "--server-name"),
        (
            &["ls", "--address=https://a:1", "--cert-file=a"],
            "--key-file",
        ),
        (
            &["ls", "--address=https://a:1", "--ca-file=/nonexistent"],
            "--ca-file",
        ),
        (
            &["ls", "--address=https://a:1", "--ca-file=/dev/null"],
            "--ca-file",
        ),
        (&["show"], "CLIENT_ID"),
        (&["show", "white space"], "CLIENT_ID"),
        (&["ack", "a"], "REVISION"),
        (&["ack", "a", "0"], "REVISION"),
        (&["seek", "a"], "--snapshot"),
        (&["seek", "a", "5", "--snapshot"], "--snapshot"),
        (&["tail", "a", "--prefix=a", "--key=b"], "--prefix"),
        (&["tail", "a", "--range-end=b"], "--key"),
        (&["tail", "a", "--start=now"], "--start"),
        (&["completions", "cmd.exe"], "cmd.exe"),
        (&["frob"], "frob"),
    ] {
        let told = ran(&mut command(args)).failed(2);
        assert!(
            told.contains(named),
            "{args:?}: {named} is not named in: {told}"
        );
    }
}

#[tokio::test]
async fn a_status_of_a_proxy_is_told_as_it_is() {
    let served = Served::start(Said {
        refusal: Some(Status::new(Code::Unauthenticated, "who are you?")),
        ..Said::default()
    })
    .await;
    let told = watchmark(&served.address, &["ls"]).await.failed(1);
    assert_eq!(told, "error: who are you? (UNAUTHENTICATED)\n");
}
