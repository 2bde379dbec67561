//! The certificate files of our own port: read, checked, and turned into what
//! TLS needs. Keeps nothing, logs nothing.

use std::{fs, io, path::Path, path::PathBuf, sync::Arc, time::SystemTime};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
};

use super::certificate;
use crate::config::TlsFiles;

/// Why the files cannot be used. A person must change one of them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{flag}: cannot read {}: {source}", .path.display())]
    Read {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{flag}: {} holds no {what}: {problem}", .path.display())]
    Content {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The certificate and the key do not belong together.
    #[error("--tls-key-file is not the key of the certificate in --tls-cert-file: {0}")]
    Pair(#[source] rustls::Error),
}

/// What the files held at one moment.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What new connections are accepted with.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    pub(super) not_after: Option<SystemTime>,
}

const CERT: &str = "--tls-cert-file";
const KEY: &str = "--tls-key-file";
const CLIENT_CA: &str = "--tls-client-ca-file";

impl Contents {
    pub(super) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |flag, path: &Path| {
            fs::read(path).map_err(|source| TlsError::Read {
                flag,
                path: path.to_owned(),
                source,
            })
        };
        let client_ca = files.client_ca.as_deref();
        Ok(Self {
            cert: read(CERT, &files.cert)?,
            key: read(KEY, &files.key)?,
            client_ca: client_ca.map(|path| read(CLIENT_CA, path)).transpose()?,
        })
    }

    /// `files`: where this came from.
    pub(super) fn load(&self, files: &TlsFiles) -> Result<Loaded, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?;
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(content), Some(path)) => {
                let unusable =
                    |problem: String| unusable(CLIENT_CA, path, "authority's certificate", problem);
                let mut roots = RootCertStore::empty();
                for authority in certificates(CLIENT_CA, path, content)? {
                    let added = roots.add(authority);
                    added.map_err(|error| unusable(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                let verifier = verifier
                    .build()
                    .map_err(|error: VerifierBuilderError| unusable(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let chain = certificates(CERT, &files.cert, &self.cert)?;
        let not_after = chain
            .first()
            .and_then(|first| certificate::not_after(first));
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| unusable(KEY, &files.key, "private key", in_words(&error)))?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would skip the check of the client's certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Loaded {
            config: Arc::new(config),
            not_after,
        })
    }
}

/// At least one.
fn certificates(
    flag: &'static str,
    path: &Path,
    content: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unusable = |problem| unusable(flag, path, "certificate", problem);
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(unusable(in_words(&pem::Error::NoItemsFound)))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unusable(in_words(&error))),
    }
}

fn unusable(flag: &'static str, path: &Path, what: &'static str, problem: String) -> TlsError {
    TlsError::Content {
        flag,
        path: path.to_owned(),
        what,
        problem,
    }
}

/// Says nothing of the content, which may be a key.
fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "there is none in PEM".to_owned(),
        pem::Error::Base64Decode(_) => "it is not base64".to_owned(),
        pem::Error::MissingSectionEnd { .. } => "its end is missing".to_owned(),
        _ => "it is not PEM".to_owned(),
    }
}
