//! How to reach etcd. Owns the checking of what an operator gave, with errors
//! that name the flag; refuses to touch the network. Invariant: an
//! [`EtcdConfig`] that was accepted can be dialled without a further check.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;
use tonic::{
    codegen::http::Uri,
    transport::{Certificate, ClientTlsConfig, Identity},
};

use crate::metrics;

/// How to reach and use etcd. Checked by [`Etcd::connect`](super::Etcd::connect).
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// `--etcd-endpoints`: `http://host:port` or `https://host:port`; without
    /// a scheme, https when a TLS file is given and http otherwise.
    pub endpoints: Vec<String>,
    /// `--etcd-user`.
    pub user: Option<String>,
    /// `--etcd-password-file`: read again at every authentication; a line
    /// break at its end is no part of the password.
    pub password_file: Option<PathBuf>,
    /// `--etcd-ca-file`, PEM. `None`: the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// `--etcd-cert-file`, PEM.
    pub cert_file: Option<PathBuf>,
    /// `--etcd-key-file`, PEM.
    pub key_file: Option<PathBuf>,
    /// `--snapshot-page-bytes`: what the pages of a snapshot grow towards.
    pub snapshot_page_bytes: usize,
    /// `--probe-interval`: how often etcd's revision is sampled.
    pub probe_interval: Duration,
    /// `--max-catchups`: how many watches may read deep history at a time.
    pub max_catchups: usize,
    /// What `ProbeSample::asked_at` counts from.
    pub origin: Instant,
    /// What is counted.
    pub metrics: metrics::Etcd,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            user: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            snapshot_page_bytes: 32 << 20,
            probe_interval: Duration::from_secs(20),
            max_catchups: 8,
            origin: Instant::now(),
            metrics: metrics::Etcd::default(),
        }
    }
}

/// Why etcd can't be used as configured. Repeating does not help: a person
/// must change the named flag.
#[derive(Debug, thiserror::Error)]
pub enum EtcdConfigError {
    /// No endpoint.
    #[error("--etcd-endpoints: give at least one endpoint")]
    NoEndpoint,
    /// No URL of an etcd server. The endpoint is not repeated when it may
    /// carry a password.
    #[error("--etcd-endpoints: {endpoint:?} {problem}")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file that can't be read.
    #[error("{flag}: cannot read {}: {source}", .path.display())]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Two flags that need each other.
    #[error("{given} needs {missing}")]
    Missing {
        /// What was given.
        given: &'static str,
        /// What was not.
        missing: &'static str,
    },
    /// Certificates or key that TLS does not accept.
    #[error("{flags}: {source}")]
    Tls {
        /// Where they came from.
        flags: &'static str,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// A number that makes no sense.
    #[error("{flag} must be above zero")]
    Zero {
        /// The flag.
        flag: &'static str,
    },
}

impl EtcdConfig {
    /// Checks everything that can be checked without etcd; the endpoints.
    pub(super) fn validate(&self) -> Result<Vec<Uri>, EtcdConfigError> {
        let zero = |flag| Err(EtcdConfigError::Zero { flag });
        if self.snapshot_page_bytes == 0 {
            return zero("--snapshot-page-bytes");
        }
        if self.probe_interval.is_zero() {
            return zero("--probe-interval");
        }
        if self.max_catchups == 0 {
            return zero("--max-catchups");
        }
        needs(
            ("--etcd-user", self.user.is_some()),
            ("--etcd-password-file", self.password_file.is_some()),
        )?;
        needs(
            ("--etcd-cert-file", self.cert_file.is_some()),
            ("--etcd-key-file", self.key_file.is_some()),
        )?;
        if let Some(path) = &self.password_file {
            read_password(path)?;
        }
        if self.endpoints.is_empty() {
            return Err(EtcdConfigError::NoEndpoint);
        }
        self.endpoints
            .iter()
            .map(|endpoint| self.endpoint(endpoint))
            .collect()
    }

    /// The TLS settings, from the files as they are now.
    pub(super) fn tls(&self) -> Result<ClientTlsConfig, EtcdConfigError> {
        let mut tls = ClientTlsConfig::new();
        tls = match &self.ca_file {
            Some(path) => tls.ca_certificate(Certificate::from_pem(read("--etcd-ca-file", path)?)),
            None => tls.with_enabled_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.cert_file, &self.key_file) {
            tls = tls.identity(Identity::from_pem(
                read("--etcd-cert-file", cert)?,
                read("--etcd-key-file", key)?,
            ));
        }
        Ok(tls)
    }

    /// Whether a TLS file is given.
    pub(super) const fn has_tls_files(&self) -> bool {
        self.ca_file.is_some() || self.cert_file.is_some()
    }

    fn endpoint(&self, given: &str) -> Result<Uri, EtcdConfigError> {
        let error = |endpoint: &str, problem| EtcdConfigError::Endpoint {
            endpoint: endpoint.to_owned(),
            problem,
        };
        if given.contains('@') {
            return Err(error(
                "…@…",
                "must not name a user: use --etcd-user and --etcd-password-file",
            ));
        }
        let url = if given.contains("://") {
            given.to_owned()
        } else if self.has_tls_files() {
            format!("https://{given}")
        } else {
            format!("http://{given}")
        };
        let uri: Uri = url
            .parse()
            .map_err(|_| error(given, "is no URL like http://127.0.0.1:2379"))?;
        if uri.port_u16().is_none() {
            return Err(error(given, "has no port, like http://127.0.0.1:2379"));
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err(error(given, "must end after the port"));
        }
        match uri.scheme_str() {
            Some("https") => Ok(uri),
            Some("http") if self.has_tls_files() => Err(error(
                given,
                "is http, but --etcd-ca-file or --etcd-cert-file is given: write https",
            )),
            Some("http") => Ok(uri),
            _ => Err(error(given, "is neither http nor https")),
        }
    }
}

/// The password, without a line break at its end.
pub(super) fn read_password(path: &Path) -> Result<String, EtcdConfigError> {
    let flag = "--etcd-password-file";
    let mut password = fs::read_to_string(path).map_err(|source| EtcdConfigError::File {
        flag,
        path: path.to_owned(),
        source,
    })?;
    password.truncate(password.trim_end_matches(['\r', '\n']).len());
    Ok(password)
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, EtcdConfigError> {
    fs::read(path).map_err(|source| EtcdConfigError::File {
        flag,
        path: path.to_owned(),
        source,
    })
}

/// Both or none.
const fn needs(a: (&'static str, bool), b: (&'static str, bool)) -> Result<(), EtcdConfigError> {
    match (a.1, b.1) {
        (true, false) => Err(EtcdConfigError::Missing {
            given: a.0,
            missing: b.0,
        }),
        (false, true) => Err(EtcdConfigError::Missing {
            given: b.0,
            missing: a.0,
        }),
        (true, true) | (false, false) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(config: &EtcdConfig) -> String {
        config.validate().unwrap_err().to_string()
    }

    fn endpoints(endpoint: &str) -> EtcdConfig {
        EtcdConfig {
            endpoints: vec![endpoint.to_owned()],
            ..EtcdConfig::default()
        }
    }

    #[test]
    fn accepts_http_https_and_no_scheme() {
        for endpoint in ["http://a:1", "https://a:1/", "127.0.0.1:2379", "[::1]:2379"] {
            assert!(endpoints(endpoint).validate().is_ok(), "{endpoint}");
        }
    }

    #[test]
    fn refuses_what_is_no_endpoint_and_names_the_flag() {
        for endpoint in [
            "",
            "http://",
            "http://a",
            "ftp://a:1",
            "http://a:1/x",
            "a b:1",
        ] {
            let refusal = refusal(&endpoints(endpoint));
            assert!(refusal.starts_with("--etcd-endpoints"), "{refusal}");
        }
    }

    #[test]
    fn a_password_in_an_endpoint_is_not_repeated() {
        let refusal = refusal(&endpoints("http://me:secret@a:1"));
        assert!(!refusal.contains("secret") && refusal.contains("--etcd-user"));
    }

    #[test]
    fn files_that_are_missing_are_named_with_their_flag() {
        let config = EtcdConfig {
            user: Some("app".to_owned()),
            password_file: Some("/nonexistent/password".into()),
            ..EtcdConfig::default()
        };
        assert!(refusal(&config).starts_with("--etcd-password-file: cannot read"));
        let config = EtcdConfig {
            ca_file: Some("/nonexistent/ca.pem".into()),
            ..EtcdConfig::default()
        };
        let refusal = config.tls().unwrap_err().to_string();
        assert!(refusal.starts_with("--etcd-ca-file: cannot read"));
    }

    #[test]
    fn flags_that_need_each_other_come_together() {
        let config = EtcdConfig {
            user: Some("app".to_owned()),
            ..EtcdConfig::default()
        };
        assert_eq!(refusal(&config), "--etcd-user needs --etcd-password-file");
        let config = EtcdConfig {
            key_file: Some("key.pem".into()),
            ..EtcdConfig::default()
        };
        assert_eq!(refusal(&config), "--etcd-key-file needs --etcd-cert-file");
    }

    #[test]
    fn plaintext_endpoints_and_tls_files_exclude_each_other() {
        let config = EtcdConfig {
            ca_file: Some("ca.pem".into()),
            ..endpoints("http://a:1")
        };
        assert!(refusal(&config).contains("--etcd-ca-file"));
    }
}
