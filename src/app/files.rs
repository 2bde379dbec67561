//! How many files this process may have open. Every connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::config::Config;

/// The store, etcd, the admin port's connections, and what the runtime needs.
const FILES_BESIDES_CONNECTIONS: u64 = 512;

/// Takes as many as the system allows: what a process begins with is often
/// 1024, for the sake of programs that use `select`, which we do not.
pub(super) fn raise_limit(config: &Config) {
    let Some(max_files) = raise() else { return };
    let max_connections = u64::try_from(config.connections.total).unwrap_or(u64::MAX);
    if max_files < max_connections.saturating_add(FILES_BESIDES_CONNECTIONS) {
        warn!(
            max_files,
            max_connections,
            "fewer files may be open than --max-connections needs: raise the limit (ulimit -n), \
             or lower the flag"
        );
    }
}

/// Returns how many there may be; `None`: any number.
fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        // Not ours to decide: then it stays as it was.
        Err(_) => limit.current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limit = getrlimit(Resource::Nofile);
        let lower = Rlimit {
            // Enough for the tests that run beside this one.
            current: limit.maximum.map(|maximum| maximum - 1),
            ..limit
        };
        setrlimit(Resource::Nofile, lower).unwrap();
        assert_eq!(raise(), limit.maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
    }
}
