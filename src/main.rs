//! Parse, trace, run, exit.

use std::{process::ExitCode, time::Duration};

use tracing::{Level, error};
use watchmark::{
    app,
    config::{Config, Task},
    logging::LogFilter,
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
    let log = LogFilter::start(&config.log, config.log_format);
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
    let outcome = runtime.block_on(app::run(config, log));
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
