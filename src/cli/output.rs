//! What is printed, and how.

use std::io::{self, BufWriter, Stdout, Write};

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{failure::Failure, json};

/// How answers are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(super) enum Format {
    // No documentation: it would make every --help four times as long.
    #[default]
    #[value(alias = "table")]
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(super) struct OutputFlags {
    /// How to print: for people, or one JSON object a line
    #[arg(
        short,
        long,
        env = "WATCHMARK_OUTPUT",
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(super) output: Format,
}

/// Where answers go.
#[derive(Debug)]
pub(super) struct Output(BufWriter<Stdout>);

impl Output {
    pub(super) fn stdout() -> Self {
        Self(BufWriter::new(io::stdout()))
    }

    /// Prints a line that holds nothing but what is meant for a terminal.
    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.0, "{text}")?)
    }

    pub(super) fn json(&mut self, value: &Value) -> Result<(), Failure> {
        self.line(&json::line(value))
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.0.write_all(bytes)?)
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.0.flush()?)
    }
}
