//! TLS with certificates on both sides.

use std::{path::Path, process::Command};

use tempfile::TempDir;
use watchmark::{
    resume::GuardReading,
    upstream::{Etcd, EtcdConfig, Upstream},
};

use super::{
    harness::{Item, next, prefix, spec},
    server::{Server, until},
};

/// An authority, and certificates for `server` and `client` signed by it.
fn certificates(dir: &Path) {
    let run = |args: &[&str]| {
        let output = Command::new("openssl").current_dir(dir).args(args).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {text}");
    };
    run(&[
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ca",
        "-keyout", "ca.key", "-out", "ca.pem",
    ]);
    for name in ["server", "client"] {
        let extensions = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth";
        std::fs::write(dir.join("extensions"), extensions).unwrap();
        let [key, request, certificate] = ["key", "csr", "pem"].map(|e| format!("{name}.{e}"));
        run(&[
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        run(&[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-extfile",
            "extensions",
            "-out",
            &certificate,
        ]);
    }
}

#[tokio::test]
async fn certificates_on_both_sides() {
    let dir = TempDir::new().unwrap();
    certificates(dir.path());
    let path = |name: &str| dir.path().join(name);
    let flag = |flag: &str, name: &str| format!("--{flag}={}", path(name).display());
    let flags = [
        flag("cert-file", "server.pem"),
        flag("key-file", "server.key"),
        flag("trusted-ca-file", "ca.pem"),
        "--client-cert-auth".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::launch(TempDir::new().unwrap(), "https", &flags);
    let config = EtcdConfig {
        ca_file: Some(path("ca.pem")),
        cert_file: Some(path("client.pem")),
        key_file: Some(path("client.key")),
        ..server.config()
    };
    let etcd = Etcd::connect(config.clone()).unwrap();
    until("etcd to serve", async || {
        let head = next(&mut etcd.head(prefix("a/"))).await;
        matches!(head, Item::Head(_)).then_some(())
    })
    .await;
    let mut watch = etcd.watch(spec("a/", 1));
    match next(&mut watch.events).await {
        Item::WatchOpened(opened) => {
            assert!(matches!(opened.guard, GuardReading::Present { .. }));
        }
        other => panic!("{other:?}"),
    }
    // No certificate, or an authority of somebody else: no connection.
    let anonymous = EtcdConfig {
        cert_file: None,
        key_file: None,
        ..config.clone()
    };
    let etcd = Etcd::connect(anonymous).unwrap();
    assert!(matches!(
        next(&mut etcd.head(prefix("a/"))).await,
        Item::Lost
    ));
    let stranger = TempDir::new().unwrap();
    certificates(stranger.path());
    let stranger = EtcdConfig {
        ca_file: Some(stranger.path().join("ca.pem")),
        ..config
    };
    let etcd = Etcd::connect(stranger).unwrap();
    assert!(matches!(
        next(&mut etcd.head(prefix("a/"))).await,
        Item::Lost
    ));
}

#[test]
fn a_certificate_that_is_none_is_refused_with_its_flag() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("bad.pem"), "no certificate").unwrap();
    let config = EtcdConfig {
        endpoints: vec!["https://127.0.0.1:2379".to_owned()],
        cert_file: Some(dir.path().join("bad.pem")),
        key_file: Some(dir.path().join("bad.pem")),
        ..EtcdConfig::default()
    };
    let refusal = Etcd::connect(config).unwrap_err().to_string();
    assert!(refusal.contains("--etcd-key-file"), "{refusal}");
}
