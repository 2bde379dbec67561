//! watchmark.
fn main() {}
