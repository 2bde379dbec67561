//! The log: to stderr, as text or JSON, with a filter that can be changed
//! while the process runs.

use std::{
    fmt, io,
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::info;
use tracing_subscriber::{EnvFilter, reload};

use crate::config::{LogFormat, parse_log_filter};

/// What is logged, and the way to change it.
#[derive(Clone)]
pub struct LogFilter {
    current: Arc<Mutex<String>>,
    apply: Arc<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>,
}

impl LogFilter {
    /// Starts logging what `filter` says, which was checked. Once a process.
    pub fn start(filter: &str, format: LogFormat) -> Self {
        // Logs go to stderr: stdout belongs to the operator's commands.
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr);
        let apply: Arc<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync> = match format
        {
            LogFormat::Text => {
                let subscriber = subscriber.with_filter_reloading();
                let handle = subscriber.reload_handle();
                subscriber.init();
                Arc::new(move |filter| handle.reload(filter))
            }
            LogFormat::Json => {
                let subscriber = subscriber.json().with_filter_reloading();
                let handle = subscriber.reload_handle();
                subscriber.init();
                Arc::new(move |filter| handle.reload(filter))
            }
        };
        Self {
            current: Arc::new(Mutex::new(filter.to_owned())),
            apply,
        }
    }

    /// What is logged.
    pub fn current(&self) -> String {
        let current = self.current.lock();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs what `filter` says, from now on.
    ///
    /// # Errors
    /// What is wrong with it; nothing has changed then.
    pub fn change(&self, filter: &str) -> Result<(), String> {
        let parsed = parse_log_filter(filter)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, filter.to_owned());
        // Said while either of the two lets it through.
        info!(filter, before, "log filter changes");
        (self.apply)(parsed).map_err(|error| error.to_string())?;
        info!(filter, before, "log filter changed");
        Ok(())
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFilter").field(&self.current()).finish()
    }
}
