//! Bad configuration: exit code 2, a message that names the flag, nothing made.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    any::TypeId,
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use clap::Arg;
use watchmark::{
    config::{self, Task},
    resume::Settings,
    upstream::EtcdConfig,
};

/// Runs `watchmark serve`, which must end by itself.
fn serve(flags: &[&str], environment: &[(&str, &str)]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let mut command = Command::new(env!("CARGO_BIN_EXE_watchmark"));
    command
        .env_clear()
        .envs(environment.iter().copied())
        .arg("serve")
        .arg("--data-dir")
        .arg(&data_dir)
        .args(flags)
        .stdin(Stdio::null());
    for listen in ["--listen", "--admin-listen"] {
        if !flags.iter().any(|flag| flag.starts_with(listen)) {
            command.arg(format!("{listen}=127.0.0.1:0"));
        }
    }
    let output = command.output().unwrap();
    assert!(
        !data_dir.exists(),
        "{flags:?}: refused before anything is made"
    );
    output
}

/// What `watchmark serve` with these flags is to do, as text, or why it is nothing.
fn parse(flags: &[&str]) -> Result<String, String> {
    let args = ["watchmark", "serve"].iter().chain(flags);
    match Task::parse(args) {
        Ok(task) => Ok(format!("{task:?}")),
        Err(error) => Err(error.to_string()),
    }
}

fn flags_of_serve() -> impl Iterator<Item = Arg> {
    let grammar = config::grammar();
    let serve = grammar.find_subcommand("serve").unwrap().clone();
    let flags: Vec<Arg> = serve.get_arguments().cloned().collect();
    flags.into_iter()
}

/// With its dashes.
fn name(flag: &Arg) -> String {
    format!("--{}", flag.get_long().unwrap())
}

#[track_caller]
fn check(flag: &str, output: &Output) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains(flag), "{flag} is not named in: {told}");
    assert!(output.stdout.is_empty());
}

/// Every flag has one, or a line in [`HAS_NO_BAD_VALUE`].
const BAD_VALUES: &[&str] = &[
    "--listen=nonsense",
    "--listen=0.0.0.0:7379",
    "--listen=192.0.2.1:7379",
    "--listen=127.0.0.1",
    "--listen=unix://relative.sock",
    "--listen=unix:///nonexistent/directory/watchmark.sock",
    "--insecure-listen=perhaps",
    "--client-id-from-cert=perhaps",
    "--max-connections=0",
    "--max-connections-per-peer=0",
    "--admin-listen=nonsense",
    "--admin-listen=7380",
    "--admin-listen=",
    "--admin-listen=unix:///tmp/admin.sock",
    "--idle-after=soon",
    "--idle-after=0s",
    "--idle-lag=10",
    "--probe-interval=0s",
    "--progress-interval=-1s",
    "--stall-timeout=",
    "--stall-timeout=18446744073709551615s",
    "--idle-proof=certainly",
    "--snapshot-page-bytes=8MB",
    "--snapshot-page-bytes=0",
    "--snapshot-page-bytes=99999999999GiB",
    "--max-catchups=0",
    "--max-subscriptions=many",
    "--max-subscriptions=0",
    "--on-corrupt-store=wipe",
    "--drain-timeout=forever",
    "--drain-timeout=18446744073709551615s",
    "--log=watchmark=loud",
    "--log=verbose",
    "--log=watchmark[subscription]=debug",
    "--log=watchmark=",
    "--log==debug",
    "--log=",
    "--log-format=xml",
    "--tls-cert-file=alone.pem",
    "--tls-key-file=alone.key",
    "--tls-client-ca-file=alone.pem",
    "--data-dir=",
    "--etcd-endpoints=ftp://127.0.0.1:2379",
    "--etcd-user=root:hunter2",
    "--etcd-password-file=",
    "--etcd-ca-file=",
    "--etcd-cert-file=",
    "--etcd-key-file=",
    "--default-prefix=",
    "--no-such-flag=1",
];

/// Why not.
const HAS_NO_BAD_VALUE: &[(&str, &str)] = &[("--allow-prefix", "any bytes are a prefix")];

#[test]
fn every_bad_value_is_refused_by_the_name_of_its_flag() {
    for bad in BAD_VALUES {
        let flag = bad.split('=').next().unwrap();
        check(flag, &serve(&[bad], &[]));
    }
}

#[test]
fn every_flag_has_a_variable_and_a_value_that_is_refused() {
    let has_no_bad_value: Vec<&str> = HAS_NO_BAD_VALUE.iter().map(|(flag, _)| *flag).collect();
    for flag in flags_of_serve() {
        let name = name(&flag);
        let variable = name[2..].replace('-', "_").to_uppercase();
        let variable = format!("WATCHMARK_{variable}");
        assert_eq!(flag.get_env(), Some(OsStr::new(&variable)), "{name}");
        let is_tried = BAD_VALUES
            .iter()
            .any(|bad| bad.starts_with(&format!("{name}=")));
        let has_none = has_no_bad_value.contains(&&*name);
        assert!(is_tried != has_none, "{name} wants a line in BAD_VALUES");
    }
}

const TLS: &[&str] = &["--tls-cert-file=c", "--tls-key-file=k"];
const CLIENT_TLS: &[&str] = &[
    "--tls-cert-file=c",
    "--tls-key-file=k",
    "--tls-client-ca-file=a",
];

/// For every flag a value other than its default, and what must stand before it.
const SAMPLES: &[(&str, &[&str])] = &[
    ("--listen=127.0.0.1:1", &[]),
    ("--tls-cert-file=other", TLS),
    ("--tls-key-file=other", TLS),
    ("--tls-client-ca-file=other", TLS),
    ("--client-id-from-cert=true", CLIENT_TLS),
    ("--insecure-listen=true", &["--listen=0.0.0.0:1"]),
    ("--max-connections=7", &[]),
    ("--max-connections-per-peer=7", &[]),
    ("--admin-listen=off", &[]),
    ("--data-dir=other", &[]),
    ("--etcd-endpoints=http://other:1", &[]),
    ("--etcd-user=other", &[]),
    ("--etcd-password-file=other", &[]),
    ("--etcd-ca-file=other", &[]),
    ("--etcd-cert-file=other", &[]),
    ("--etcd-key-file=other", &[]),
    ("--default-prefix=other", &[]),
    ("--allow-prefix=other", &[]),
    ("--idle-after=7m", &[]),
    ("--idle-lag=7s", &[]),
    ("--probe-interval=7s", &[]),
    ("--progress-interval=7s", &[]),
    ("--stall-timeout=7s", &[]),
    ("--idle-proof=delay", &[]),
    ("--snapshot-page-bytes=7MiB", &[]),
    ("--max-catchups=7", &[]),
    ("--max-subscriptions=7", &[]),
    ("--on-corrupt-store=quarantine", &[]),
    ("--drain-timeout=7s", &[]),
    ("--log=debug", &[]),
    ("--log-format=json", &[]),
];

/// That what it changes is read, too, the compiler sees to: a field of `Config`
/// that nobody reads is dead code.
#[test]
fn every_flag_changes_something() {
    let flags: BTreeSet<String> = flags_of_serve().map(|flag| name(&flag)).collect();
    let sampled = SAMPLES.iter().map(|(sample, _)| sample.split_once('='));
    let sampled: BTreeSet<String> = sampled.map(|it| it.unwrap().0.to_owned()).collect();
    assert_eq!(flags, sampled, "every flag wants a line in SAMPLES");
    for (sample, before) in SAMPLES {
        let without = parse(before);
        let with = parse(&[*before, &[*sample]].concat());
        assert!(with.is_ok(), "{sample}: {with:?}");
        assert_ne!(with, without, "{sample} changes nothing");
    }
}

#[test]
fn the_readme_tells_of_every_flag_and_its_default() {
    let readme = include_str!("../README.md");
    let table = readme.split("\n## ").find(|it| it.starts_with("Flags\n"));
    let mut told = BTreeMap::new();
    for row in table.unwrap().lines().filter(|it| it.starts_with("| `--")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        for flag in cells[1].split(", ") {
            told.insert(flag.trim_matches('`').to_owned(), cells[2]);
        }
    }
    for flag in flags_of_serve() {
        let name = name(&flag);
        let cell = told.remove(&name);
        let cell = cell.unwrap_or_else(|| panic!("README's table lacks {name}"));
        match flag.get_default_values() {
            [] => assert!(!cell.contains('`'), "{name} has no default: {cell}"),
            [default] => assert_eq!(cell, format!("`{}`", default.to_str().unwrap()), "{name}"),
            more => panic!("{name}: {more:?}"),
        }
    }
    assert!(
        told.is_empty(),
        "README tells of flags that are none: {told:?}"
    );
}

/// Tests, and whoever else uses these without flags, get what an operator gets.
#[test]
fn the_defaults_of_the_parts_are_those_of_the_flags() {
    let config = parse(&[]).unwrap();
    let etcd = EtcdConfig::default();
    for part in [
        format!("resume: {:?}", Settings::default()),
        format!("endpoints: {:?}", etcd.endpoints),
        format!("probe_interval: {:?}", etcd.probe_interval),
        format!("snapshot_page_bytes: {:?}", etcd.snapshot_page_bytes),
        format!("max_catchups: {:?}", etcd.max_catchups),
    ] {
        assert!(config.contains(&part), "{part} is not in {config}");
    }
}

/// What adds it to the time, or multiplies it, would panic.
#[test]
fn no_duration_is_so_long_that_it_overflows() {
    let durations: Vec<Arg> = flags_of_serve()
        .filter(|flag| flag.get_value_parser().type_id() == TypeId::of::<Duration>())
        .collect();
    assert!(durations.len() >= 6, "{durations:?}");
    for duration in durations {
        let flag = name(&duration);
        let told = parse(&["--idle-after=365d", &format!("{flag}=366d")]).unwrap_err();
        assert!(told.contains(&flag), "{told}");
        assert!(told.contains("at most 365d"), "{told}");
        // y is below x.
        let longest = if flag == "--idle-lag" { "364d" } else { "365d" };
        parse(&["--idle-after=365d", &format!("{flag}={longest}")]).unwrap();
    }
    let too_long = [("WATCHMARK_STALL_TIMEOUT", "18446744073709551615s")];
    check("--stall-timeout", &serve(&[], &too_long));
}

#[test]
fn the_environment_is_checked_like_the_flags_and_flags_win() {
    let bad = [("WATCHMARK_IDLE_AFTER", "soon")];
    check("--idle-after", &serve(&[], &bad));
    // The flag wins, so that the next problem is the one that is told.
    let output = serve(&["--idle-after=90s", "--idle-lag=90s"], &bad);
    check("--idle-lag", &output);
}

#[test]
fn the_last_of_a_repeated_flag_wins_and_lists_grow() {
    let flags = ["--idle-after=10m", "--idle-after=90s", "--idle-lag=90s"];
    check("--idle-lag", &serve(&flags, &[]));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = format!("--listen={}", taken.local_addr().unwrap());
    check("--listen", &serve(&[&in_use, "--listen=127.0.0.1:0"], &[]));
    // What is wrong here is the port, not that the first prefix was forgotten.
    let prefixes = [
        "--allow-prefix=a/",
        "--allow-prefix=b/",
        "--default-prefix=a/",
    ];
    check(
        "--listen",
        &serve(&[&prefixes[..], &[&in_use]].concat(), &[]),
    );
}

#[test]
fn the_lag_must_be_shorter_than_the_silence() {
    let output = serve(&["--idle-after=60s", "--idle-lag=60s"], &[]);
    check("--idle-lag", &output);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("--idle-after"), "{told}");
}

#[test]
fn a_password_is_never_a_flags_value() {
    let output = serve(&["--etcd-user=root:hunter2"], &[]);
    check("--etcd-password-file", &output);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn what_is_said_of_etcd_is_checked_before_a_socket_is_bound() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", taken.local_addr().unwrap());
    for (flag, bad) in [
        (
            "--etcd-endpoints",
            &["--etcd-endpoints=ftp://127.0.0.1:2379"][..],
        ),
        ("--etcd-endpoints", &["--etcd-endpoints="]),
        ("--etcd-password-file", &["--etcd-user=app"]),
        (
            "--etcd-password-file",
            &["--etcd-user=app", "--etcd-password-file=/nonexistent"],
        ),
        (
            "--etcd-ca-file",
            &[
                "--etcd-endpoints=https://a:1",
                "--etcd-ca-file=/nonexistent",
            ],
        ),
        (
            "--etcd-key-file",
            &[
                "--etcd-endpoints=https://a:1",
                "--etcd-cert-file=/nonexistent",
            ],
        ),
    ] {
        let output = serve(&[&[&*listen], bad].concat(), &[]);
        check(flag, &output);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!told.contains("in use"), "{told}");
    }
}

#[test]
fn a_default_prefix_that_nobody_may_watch_is_refused() {
    let flags = [
        "--default-prefix=a/",
        "--allow-prefix=b/",
        "--allow-prefix=c/",
    ];
    check("--default-prefix", &serve(&flags, &[]));
    check("--default-prefix", &serve(&["--default-prefix="], &[]));
}

/// `name.pem` and `name.key`, which belong together.
fn self_signed(directory: &Path, name: &str) {
    let output = Command::new("openssl")
        .current_dir(directory)
        .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=test"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args([
            "-keyout",
            &format!("{name}.key"),
            "-out",
            &format!("{name}.pem"),
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn certificates_are_checked_before_a_socket_is_bound() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        self_signed(directory.path(), name);
    }
    std::fs::write(directory.path().join("garbage"), "nothing of the kind").unwrap();
    let header = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
    std::fs::write(directory.path().join("bad.key"), header).unwrap();
    let file = |flag: &str, name: &str| format!("{flag}={}", directory.path().join(name).display());
    let cert = |name: &str| file("--tls-cert-file", name);
    let key = |name: &str| file("--tls-key-file", name);
    let client_ca = |name: &str| file("--tls-client-ca-file", name);
    let from_cert = || "--client-id-from-cert".to_owned();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = format!("--listen={}", taken.local_addr().unwrap());
    for (named, flags) in [
        ("--tls-key-file", vec![cert("one.pem")]),
        ("--tls-cert-file", vec![key("one.key")]),
        ("--tls-client-ca-file needs", vec![client_ca("one.pem")]),
        ("--tls-cert-file", vec![cert("none"), key("one.key")]),
        ("--tls-cert-file", vec![cert("garbage"), key("one.key")]),
        ("--tls-cert-file", vec![cert("one.key"), key("one.key")]),
        ("--tls-key-file", vec![cert("one.pem"), key("none")]),
        ("--tls-key-file", vec![cert("one.pem"), key("garbage")]),
        ("--tls-key-file", vec![cert("one.pem"), key("bad.key")]),
        (
            "--tls-key-file is not",
            vec![cert("one.pem"), key("two.key")],
        ),
        (
            "--tls-client-ca-file",
            vec![cert("one.pem"), key("one.key"), client_ca("garbage")],
        ),
        ("--client-id-from-cert", vec![from_cert()]),
        (
            "--client-id-from-cert",
            vec![cert("one.pem"), key("one.key"), from_cert()],
        ),
        (
            "a socket shows no certificate",
            vec![
                cert("one.pem"),
                key("one.key"),
                client_ca("one.pem"),
                from_cert(),
                "--listen=unix:///nonexistent/watchmark.sock".to_owned(),
            ],
        ),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let output = serve(&[&[&*in_use], &flags[..]].concat(), &[]);
        check(named, &output);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!told.contains("in use"), "{told}");
        assert!(!told.contains("c2VjcmV0"), "{told}");
    }
}

#[test]
fn plaintext_beyond_this_machine_must_be_asked_for() {
    let listen = "--listen=192.0.2.1:7379";
    let output = serve(&[listen], &[]);
    check("--insecure-listen", &output);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("--tls-cert-file"), "{told}");
    for no in ["", "false", "0"] {
        let output = serve(&[listen], &[("WATCHMARK_INSECURE_LISTEN", no)]);
        check("--insecure-listen", &output);
    }
    // No machine has that address: what is wrong is that, and no more its plaintext.
    for (flags, environment) in [
        (&[listen, "--insecure-listen"][..], &[][..]),
        (&[listen], &[("WATCHMARK_INSECURE_LISTEN", "true")]),
    ] {
        let output = serve(flags, environment);
        check("--listen", &output);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("Cannot assign"), "{told}");
    }
}

#[test]
fn an_empty_variable_allows_nothing() {
    let empty = [("WATCHMARK_ALLOW_PREFIX", "")];
    check("--default-prefix", &serve(&["--default-prefix="], &empty));
}

#[test]
fn a_port_in_use_is_refused() {
    for name in ["--listen", "--admin-listen"] {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let flag = format!("{name}={}", taken.local_addr().unwrap());
        let output = serve(&[&flag], &[]);
        check(name, &output);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("in use"), "{told}");
    }
}
