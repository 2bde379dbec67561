//! TLS on our own port, with certificates that change while it runs.
//!
//! The files are looked at every few seconds by content: a Kubernetes secret
//! changes by a symlink of its directory, others are written in place, and a
//! modification time tells neither for sure. Whatever is found is used only
//! as a whole; until then what was used before goes on.
//!
//! Invariant: a connection that was accepted is never affected.

mod certificate;
mod files;

use std::{
    io,
    time::{Duration, SystemTime},
};

use rustls::CertificateError;
use tokio::{net::TcpStream, sync::watch, task};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{info, warn};

pub use self::files::TlsError;
use self::files::{Contents, Loaded};
use crate::config::TlsFiles;

/// Reading three small files costs nothing; who renews a certificate does so
/// long before the old one expires.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What an operator wants to know of our certificate.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TlsStatus {
    /// When the certificate in use expires; `None` if it does not tell.
    pub not_after: Option<SystemTime>,
    /// Why the files cannot be used as they are now. What was in use before
    /// still is.
    pub problem: Option<String>,
}

/// Accepts TLS on connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls {
    loaded: watch::Receiver<Loaded>,
    status: watch::Receiver<TlsStatus>,
}

/// Follows the files. See [`run`](Self::run).
pub(super) struct Reloader {
    files: TlsFiles,
    used: Contents,
    /// What was found last and cannot be used.
    rejected: Option<Rejected>,
    expiry_was_said: bool,
    loaded: watch::Sender<Loaded>,
    status: watch::Sender<TlsStatus>,
}

struct Rejected {
    /// `None`: they cannot be read.
    contents: Option<Contents>,
    problem: String,
    was_said: bool,
}

/// Loads the certificates. They change while the [`Reloader`] runs.
///
/// # Errors
/// See [`TlsError`].
pub(super) fn load(files: &TlsFiles) -> Result<(Tls, Reloader), TlsError> {
    let used = Contents::read(files)?;
    let loaded = used.load(files)?;
    let status = TlsStatus {
        not_after: loaded.not_after,
        problem: None,
    };
    let (loaded, follow) = watch::channel(loaded);
    let (status, follow_status) = watch::channel(status);
    let reloader = Reloader {
        files: files.clone(),
        used,
        rejected: None,
        expiry_was_said: false,
        loaded,
        status,
    };
    let tls = Tls {
        loaded: follow,
        status: follow_status,
    };
    Ok((tls, reloader))
}

impl Tls {
    /// What an operator wants to know, as it changes.
    pub fn status(&self) -> watch::Receiver<TlsStatus> {
        self.status.clone()
    }

    /// One handshake, with the certificates of this moment; the stream, and
    /// what the client's certificate calls it. Takes as long as the client
    /// likes.
    ///
    /// # Errors
    /// The client's fault, or its opinion of us: see [`in_words`].
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<Vec<String>>)> {
        let config = self.loaded.borrow().config.clone();
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let (_, session) = stream.get_ref();
        let certificates = session.peer_certificates();
        let names = certificates.and_then(|chain| Some(certificate::names(chain.first()?)));
        Ok((stream, names))
    }
}

/// Why a handshake failed, for whoever reads the log.
pub(super) fn in_words(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => "the client does not speak TLS".to_owned(),
        Some(rustls::Error::NoCertificatesPresented) => {
            "the client shows no certificate, which --tls-client-ca-file asks for".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => {
            "the client's certificate is signed by no authority in --tls-client-ca-file".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "the client's certificate has expired".to_owned(),
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("the client does not accept our certificate, or breaks off: {alert:?}")
        }
        Some(_) | None => error.to_string(),
    }
}

impl Reloader {
    /// Follows the files. Never returns.
    pub(super) async fn run(mut self) {
        info!(not_after = %shown(self.status.borrow().not_after), "TLS certificate loaded");
        self.note_expiry();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let files = self.files.clone();
            let read = task::spawn_blocking(move || Contents::read(&files));
            // It is lost only when the process ends.
            let Ok(read) = read.await else { return };
            self.take(read);
            self.note_expiry();
        }
    }

    fn take(&mut self, read: Result<Contents, TlsError>) {
        let (contents, problem) = match read {
            Ok(contents) if contents == self.used => {
                if self.rejected.take().is_some_and(|it| it.was_said) {
                    info!("the TLS files are again as they are in use");
                }
                self.status.send_modify(|status| status.problem = None);
                return;
            }
            Ok(contents) => match contents.load(&self.files) {
                Ok(loaded) => return self.use_from_now_on(contents, loaded),
                Err(problem) => (Some(contents), problem.to_string()),
            },
            Err(problem) => (None, problem.to_string()),
        };
        self.reject(contents, problem);
    }

    fn use_from_now_on(&mut self, contents: Contents, loaded: Loaded) {
        info!(not_after = %shown(loaded.not_after), "TLS certificate replaced");
        self.status.send_replace(TlsStatus {
            not_after: loaded.not_after,
            problem: None,
        });
        self.used = contents;
        self.rejected = None;
        self.expiry_was_said = false;
        self.loaded.send_replace(loaded);
    }

    /// Files may be half written: what is found once is looked at again before
    /// anything is said of it.
    fn reject(&mut self, contents: Option<Contents>, problem: String) {
        match &mut self.rejected {
            Some(it) if it.contents == contents && it.problem == problem => {
                if !it.was_said {
                    it.was_said = true;
                    warn!(
                        problem,
                        "the TLS files cannot be used; what was in use before goes on"
                    );
                    self.status
                        .send_modify(|status| status.problem = Some(problem));
                }
            }
            _ => {
                self.rejected = Some(Rejected {
                    contents,
                    problem,
                    was_said: false,
                });
            }
        }
    }

    fn note_expiry(&mut self) {
        let not_after = self.status.borrow().not_after;
        let has_expired = not_after.is_some_and(|not_after| not_after < SystemTime::now());
        if has_expired && !self.expiry_was_said {
            warn!(
                not_after = %shown(not_after),
                "the certificate of --tls-cert-file has expired: clients will refuse it"
            );
            self.expiry_was_said = true;
        }
    }
}

fn shown(not_after: Option<SystemTime>) -> String {
    not_after.map_or_else(
        || "unknown".to_owned(),
        |not_after| humantime::format_rfc3339_seconds(not_after).to_string(),
    )
}
