//! The log: to stderr, as text or JSON, with a filter that can be changed
//! while the process runs.

use std::{
    fmt, io,
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::info;
use tracing_subscriber::{
    Registry, filter::Targets, fmt as lines, layer::SubscriberExt, registry, reload,
    util::SubscriberInitExt,
};

use crate::config::{LogFormat, parse_log_filter};

/// What is logged, and the way to change it.
#[derive(Clone)]
pub struct LogFilter {
    current: Arc<Mutex<String>>,
    applied: reload::Handle<Targets, Registry>,
}

impl LogFilter {
    /// Starts logging what `filter` says, which was checked. Once a process.
    pub fn start(filter: &str, format: LogFormat) -> Self {
        let checked = parse_log_filter(filter).unwrap_or_default();
        let (targets, applied) = reload::Layer::new(checked);
        // Logs go to stderr: stdout belongs to the operator's commands.
        let lines = lines::layer()
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr);
        let filtered = registry().with(targets);
        match format {
            LogFormat::Text => filtered.with(lines).init(),
            LogFormat::Json => filtered.with(lines.json()).init(),
        }
        Self {
            current: Arc::new(Mutex::new(filter.to_owned())),
            applied,
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
        let applied = self.applied.reload(parsed);
        applied.map_err(|error| error.to_string())?;
        info!(filter, before, "log filter changed");
        Ok(())
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFilter").field(&self.current()).finish()
    }
}
