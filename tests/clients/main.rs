//! What the documentation promises to somebody who writes a client: the
//! consumers of `examples/` in five languages, all driven through one script on
//! a real etcd and a real sidecar, and the sessions that the pages print, typed
//! as printed. `make test-clients` installs and builds what that needs.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod consumer;
mod readme;
mod script;
mod tap;

use std::path::{Path, PathBuf};

/// The project.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where `scripts/clients.sh` has built the consumers.
fn built() -> PathBuf {
    root().join("target/clients/examples")
}

/// The `sh` blocks of a document, in order.
fn shell_blocks(document: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = document.lines();
    while lines.any(|line| line == "```sh") {
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(block.join("\n"));
    }
    blocks
}
