//! Parse, trace, run, exit.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::Duration,
};

use tracing::{Level, error};
use tracing_subscriber::EnvFilter;
use watchmark::{
    app,
    config::{Config, LogFormat, Task},
};

/// How long threads may take to end that are still busy when all is done.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    match Task::parse(std::env::args_os()) {
        Ok(Task::Serve(config)) => serve(&config),
        Ok(Task::Operate(operation)) => operation.run(),
        Err(asked_or_wrong) => {
            // Nobody reads it: then there is nobody to tell either.
            let _ = asked_or_wrong.print();
            ExitCode::from(u8::try_from(asked_or_wrong.exit_code()).unwrap_or(1))
        }
    }
}

fn serve(config: &Config) -> ExitCode {
    start_tracing(config);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(app::run(config));
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "cannot serve");
            if !tracing::enabled!(Level::ERROR) {
                eprintln!("error: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Logs go to stderr: stdout belongs to the operator's commands.
fn start_tracing(config: &Config) {
    let subscriber = tracing_subscriber::fmt()
        // The filter is checked by then.
        .with_env_filter(EnvFilter::new(&config.log))
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match config.log_format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
}
