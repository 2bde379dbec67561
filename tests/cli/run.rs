//! Runs the binary as an operator's shell does.

use std::process::{Command, Output, Stdio};

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `watchmark ARGS --address ADDRESS` to its end.
pub(crate) async fn watchmark(address: &str, args: &[&str]) -> Ran {
    let mut args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    args.push(format!("--address={address}"));
    tokio::task::spawn_blocking(move || ran(&mut command(&args)))
        .await
        .unwrap()
}

/// The command, with nothing in its environment.
pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_watchmark"));
    command.env_clear().args(args).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn ran(command: &mut Command) -> Ran {
    command.output().unwrap().into()
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// What it printed, if all went well and there was nothing else to say.
    #[track_caller]
    pub(crate) fn quietly(self) -> String {
        assert_eq!((self.code, &*self.stderr), (Some(0), ""), "{self:?}");
        self.stdout
    }

    /// What it said, if it failed so and printed nothing.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!((self.code, &*self.stdout), (Some(code), ""), "{self:?}");
        self.stderr
    }
}
