//! The rules bite: sources made by hand that break them, and some that look
//! like it but do not.

use super::rules::{CODE_LINES_MAX, TEST_LINES_MAX, check};

fn broken(files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<_> = files
        .iter()
        .map(|(file, text)| ((*file).to_owned(), (*text).to_owned()))
        .collect();
    check(&files)
}

#[track_caller]
fn breaks(file: &str, text: &str, expected: &str) {
    let found = broken(&[(file, text)]);
    assert_eq!(found, [format!("{file}:{expected}")]);
}

#[track_caller]
fn keeps(file: &str, text: &str) {
    assert_eq!(broken(&[(file, text)]), [""; 0]);
}

#[test]
fn resume_names_nothing_of_ours() {
    breaks(
        "src/resume/a.rs",
        "use crate::proto::X;",
        "1: resume names crate::proto::X",
    );
    breaks(
        "src/resume/a.rs",
        "\n\nfn f() { crate::store::put() }",
        "3: resume names crate::store::put",
    );
    breaks(
        "src/resume/a.rs",
        "use super::super::store::X;",
        "1: resume names crate::store::X",
    );
    breaks(
        "src/resume/mod.rs",
        "use super::{session::X};",
        "1: resume names crate::session::X",
    );
    keeps("src/resume/a.rs", "use super::{KeyRange, revision::R};");
}

#[test]
fn each_module_names_only_whom_it_may() {
    breaks(
        "src/upstream/a.rs",
        "use crate::{resume::R, store::S};",
        "1: upstream names crate::store::S",
    );
    breaks(
        "src/store/a.rs",
        "use crate::upstream::U;",
        "1: store names crate::upstream::U",
    );
    breaks(
        "src/grpc/a.rs",
        "use crate::upstream::U;",
        "1: grpc names crate::upstream::U",
    );
    breaks(
        "src/session/a.rs",
        "use crate::grpc::G;",
        "1: session names crate::grpc::G",
    );
    breaks(
        "src/session/a.rs",
        "use crate::app::A;",
        "1: session names crate::app::A",
    );
    keeps(
        "src/app.rs",
        "use crate::{grpc::G, session::S, store::sled::X, upstream::U};",
    );
    keeps("src/main.rs", "use watchmark::app;");
}

#[test]
fn a_module_without_a_rule_is_told_to_get_one() {
    breaks(
        "src/news/a.rs",
        "use crate::resume::R;",
        "1: news has no line in MAY_NAME: say whom it may name",
    );
}

#[test]
fn session_names_the_traits_but_not_what_implements_them() {
    let store = ("src/store/mod.rs", "mod sled; pub use self::sled::Sled;");
    let refused = "session names crate::store::Sled, which is not of the trait's own module";
    let session = "src/session/a.rs";
    assert_eq!(
        broken(&[store, (session, "use crate::store::{Store, Sled};")]),
        [format!("{session}:1: {refused}")]
    );
    let sled = ("src/store/sled.rs", "");
    assert_eq!(
        broken(&[store, sled, (session, "use crate::store::sled::Other;")]).len(),
        1
    );
    assert_eq!(broken(&[store, (session, "use crate::store::*;")]).len(), 1);
    assert_eq!(
        broken(&[store, (session, "use crate::store::Store;")]),
        [""; 0]
    );
    let upstream = "mod permit; pub use self::permit::CatchUpPermit;";
    let upstream = ("src/upstream/mod.rs", upstream);
    let permit = (session, "use crate::upstream::CatchUpPermit;");
    assert_eq!(broken(&[upstream, permit]), [""; 0]);
}

#[test]
fn resume_names_no_runtime_no_clock_and_no_io() {
    let file = "src/resume/a.rs";
    for (text, what) in [
        ("use tokio::sync::mpsc;", "tokio"),
        ("use {tokio};", "tokio"),
        (
            "fn f() { let now = std::time::Instant::now(); }",
            "std::time::Instant",
        ),
        (
            "use std::time::{Duration, SystemTime};",
            "std::time::SystemTime",
        ),
        ("fn f(now: Instant) {}", "Instant"),
        ("fn f() { println!(\"\") }", "println"),
        ("use std::{fmt, fs};", "std::fs"),
        ("use std::io;", "std::io"),
        ("fn f() { std::thread::yield_now() }", "std::thread"),
        ("async fn f() {}", "async"),
    ] {
        breaks(
            file,
            text,
            &format!("1: resume names {what} and is not pure any more"),
        );
    }
    keeps(
        file,
        "// tokio::spawn\n/// std::fs\nuse std::{fmt, time::Duration};\nconst A: &str = \"println\";",
    );
    keeps(
        "src/session/a.rs",
        "use std::{io, time::Instant}; use tokio::sync;",
    );
}

#[test]
fn etcd_client_and_sled_stay_in_one_place() {
    breaks(
        "src/app.rs",
        "use etcd_client::Client;",
        "1: etcd_client is named outside src/upstream/",
    );
    breaks(
        "src/store/mod.rs",
        "fn f(db: sled::Db) {}",
        "1: sled is named outside src/store/sled",
    );
    keeps("src/upstream/connect.rs", "use etcd_client::Client;");
    keeps(
        "src/store/sled.rs",
        "use sled::Db; fn f() { crate::store::g(({ 1 }, 2)) }",
    );
    breaks(
        "src/app.rs",
        "extern crate sled;",
        "1: sled is named outside src/store/sled",
    );
    keeps("src/store/mod.rs", "mod sled;");
}

#[test]
fn only_grpc_makes_a_status() {
    breaks(
        "src/upstream/error.rs",
        "fn f() -> tonic::Status { tonic::Status::internal(\"\") }",
        "1: upstream makes a Status: only grpc does",
    );
    breaks(
        "src/session/a.rs",
        "fn f() { let make = Status::new; }",
        "1: session makes a Status: only grpc does",
    );
    keeps(
        "src/grpc/status/mod.rs",
        "fn f() -> Status { Status::new(c, m) }",
    );
    keeps(
        "src/upstream/error.rs",
        "fn f(status: &tonic::Status) -> Code { status.code() }",
    );
}

#[test]
fn what_stands_in_test_code_is_free() {
    keeps(
        "src/resume/a.rs",
        "fn f() {}\n#[cfg(test)]\nmod tests { use super::*; use std::time::Instant; }",
    );
    keeps("src/upstream/a.rs", "#[cfg(test)] fn f() { Status::new() }");
    breaks(
        "src/resume/a.rs",
        "#[cfg(test)]\nmod tests {}\nuse std::fs;",
        "3: resume names std::fs and is not pure any more",
    );
    let tests = [
        ("src/resume/mod.rs", "#[cfg(test)] mod tests;"),
        ("src/resume/tests/model.rs", "use std::fs;"),
    ];
    assert_eq!(broken(&tests), [""; 0]);
    assert_eq!(broken(&tests[1..]).len(), 1);
}

#[test]
fn a_file_that_outgrows_its_budget_is_named() {
    let code = |lines: usize| "const A: u8 = 0; // a\n\n".repeat(lines);
    let free = "// comment\n/// doc\n\n".repeat(2000) + "const B: u8 = 0;";
    keeps("src/session/a.rs", &free);
    keeps("src/session/a.rs", &code(CODE_LINES_MAX));
    breaks(
        "src/session/a.rs",
        &code(CODE_LINES_MAX + 1),
        " 401 lines of code, more than 400",
    );
    let tests = format!(
        "{}#[cfg(test)]\nmod tests {{\n{}}}",
        code(CODE_LINES_MAX),
        code(TEST_LINES_MAX - 3)
    );
    keeps("src/session/a.rs", &tests);
    breaks(
        "tests/a.rs",
        &code(TEST_LINES_MAX + 1),
        " 501 lines of tests, more than 500",
    );
    breaks(
        "src/session/a.rs",
        "fn {",
        " cannot be read: cannot parse string into token stream",
    );
}
