//! https:// addresses, and certificates on both sides.

use std::{fs, path::Path, process::Command};

use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use super::{
    fake::{Said, Served, live},
    run::watchmark,
};

/// An authority, and certificates for `server` and `client` signed by it, the
/// server's for one name only.
fn certificates(dir: &Path) {
    let run = |args: &[&str]| {
        let output = Command::new("openssl").current_dir(dir).args(args).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {text}");
    };
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let ca = [
        "-x509", "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem",
    ];
    run(&[&["req"], &key[..], &ca].concat());
    for name in ["server", "client"] {
        let extensions =
            "subjectAltName=DNS:watchmark.test\nextendedKeyUsage=serverAuth,clientAuth";
        fs::write(dir.join("extensions"), extensions).unwrap();
        let [private, request, certificate] = ["key", "csr", "pem"].map(|e| format!("{name}.{e}"));
        let subject = format!("/CN={name}");
        let asked = ["-subj", &subject, "-keyout", &private, "-out", &request];
        run(&[&["req"], &key[..], &asked].concat());
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
async fn certificates_are_checked_on_both_sides_and_a_failure_says_what_to_give() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let flag = |flag: &str, name: &str| format!("--{flag}={}", dir.path().join(name).display());
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(read("server.pem"), read("server.key")))
        .client_ca_root(Certificate::from_pem(read("ca.pem")));
    let said = Said {
        subscriptions: vec![live("orders")],
        ..Said::default()
    };
    let served = Served::start_tls(said, tls).await;
    let ca = flag("ca-file", "ca.pem");
    let [cert, key] = [
        flag("cert-file", "client.pem"),
        flag("key-file", "client.key"),
    ];
    let name = "--server-name=watchmark.test";
    let ls =
        async |address: &str, flags: &[&str]| watchmark(address, &[&["ls"], flags].concat()).await;
    let address = &served.address;

    let table = ls(address, &[&ca, name, &cert, &key]).await.quietly();
    assert!(table.contains("orders"), "{table}");
    let told = ls(address, &[&ca, name]).await.failed(1);
    assert!(told.contains("--cert-file"), "{told}");
    let told = ls(address, &[&ca, &cert, &key]).await.failed(1);
    assert!(told.contains("--server-name"), "{told}");
    let stranger = tempfile::tempdir().unwrap();
    certificates(stranger.path());
    let other_ca = format!("--ca-file={}", stranger.path().join("ca.pem").display());
    let told = ls(address, &[&other_ca, name, &cert, &key]).await.failed(1);
    assert!(told.contains("--ca-file"), "{told}");
    let told = ls(address, &[&ca, name, &cert, &flag("key-file", "ca.pem")])
        .await
        .failed(2);
    assert!(told.contains("--key-file"), "{told}");
    let plain = address.strip_prefix("https://").unwrap();
    let told = ls(plain, &[]).await.failed(1);
    assert!(told.contains("https://"), "{told}");
}
