//! Who may connect, and how many.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::Args;

use super::{
    refuse,
    values::{self, Listen},
};

/// The certificates of our own port, as files. Read again when they change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// `--tls-cert-file`: our certificate and those between it and its authority, PEM.
    pub(crate) cert: PathBuf,
    /// `--tls-key-file`, PEM.
    pub(crate) key: PathBuf,
    /// `--tls-client-ca-file`, PEM. `None`: clients need no certificate.
    pub(crate) client_ca: Option<PathBuf>,
}

/// How many connections there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionLimits {
    /// `--max-connections`.
    pub total: usize,
    /// `--max-connections-per-peer`: from one IP address.
    pub per_peer: usize,
}

/// What the flags below come to.
pub(super) struct Transport {
    pub(super) tls: Option<TlsFiles>,
    pub(super) client_id_from_cert: bool,
    pub(super) connections: ConnectionLimits,
}

#[derive(Debug, Args)]
pub(super) struct TransportFlags {
    /// Our certificate for applications, with its chain, PEM: TLS on every TCP port of --listen. Read again when it changes, as the other two
    #[arg(
        long = "tls-cert-file",
        env = "WATCHMARK_TLS_CERT_FILE",
        value_name = "FILE"
    )]
    cert: Option<PathBuf>,

    /// The key of --tls-cert-file, PEM
    #[arg(
        long = "tls-key-file",
        env = "WATCHMARK_TLS_KEY_FILE",
        value_name = "FILE"
    )]
    key: Option<PathBuf>,

    /// The authorities that sign applications' certificates, PEM: who has none is kept out
    #[arg(
        long = "tls-client-ca-file",
        env = "WATCHMARK_TLS_CLIENT_CA_FILE",
        value_name = "FILE"
    )]
    client_ca: Option<PathBuf>,

    /// A client_id belongs to the application whose certificate names it, as a DNS name or URI in its subject
    /// alternative names: the client_id is that name, or that name, a colon and a suffix of the application's choice
    #[arg(
        long,
        env = "WATCHMARK_CLIENT_ID_FROM_CERT",
        value_name = "BOOL",
        value_parser = values::switch,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true"
    )]
    client_id_from_cert: bool,

    /// Listen in plaintext also where others than this machine can connect
    #[arg(
        long,
        env = "WATCHMARK_INSECURE_LISTEN",
        value_name = "BOOL",
        value_parser = values::switch,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true"
    )]
    insecure_listen: bool,

    /// How many connections there may be
    #[arg(
        long,
        env = "WATCHMARK_MAX_CONNECTIONS",
        value_name = "N",
        default_value = "2000"
    )]
    max_connections: NonZeroUsize,

    /// How many connections there may be from one IP address. In a pod all come from 127.0.0.1
    #[arg(
        long,
        env = "WATCHMARK_MAX_CONNECTIONS_PER_PEER",
        value_name = "N",
        default_value = "1000"
    )]
    max_connections_per_peer: NonZeroUsize,
}

impl TransportFlags {
    /// `listen`: where these apply.
    pub(super) fn check(self, listen: &[Listen]) -> Result<Transport, clap::Error> {
        let tls = match (self.cert, self.key) {
            (Some(cert), Some(key)) => Some(TlsFiles {
                cert,
                key,
                client_ca: self.client_ca,
            }),
            (None, None) if self.client_ca.is_some() => {
                return Err(refuse(
                    "--tls-client-ca-file needs --tls-cert-file and --tls-key-file: without TLS \
                     nobody shows a certificate"
                        .to_owned(),
                ));
            }
            (None, None) => None,
            (Some(_), None) => {
                return Err(refuse("--tls-cert-file needs --tls-key-file".to_owned()));
            }
            (None, Some(_)) => {
                return Err(refuse("--tls-key-file needs --tls-cert-file".to_owned()));
            }
        };
        let asks_for_certificates = tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if self.client_id_from_cert && !asks_for_certificates {
            return Err(refuse(
                "--client-id-from-cert needs --tls-client-ca-file: without it nobody shows a \
                 certificate"
                    .to_owned(),
            ));
        }
        for listen in listen {
            match listen {
                Listen::Unix(_) if self.client_id_from_cert => {
                    return Err(refuse(format!(
                        "--listen {listen}: who connects to a socket shows no certificate, so \
                         with --client-id-from-cert it could use any client_id: leave one of them \
                         out"
                    )));
                }
                Listen::Tcp(address)
                    if !listen.is_local() && tls.is_none() && !self.insecure_listen =>
                {
                    return Err(refuse(format!(
                        "--listen {listen}: {} can be reached from elsewhere, in plaintext and by \
                         anybody: give --tls-cert-file and --tls-key-file (and \
                         --tls-client-ca-file), or listen on 127.0.0.1, [::1] or \
                         unix:///path.sock, or accept it with --insecure-listen",
                        address.ip()
                    )));
                }
                Listen::Unix(_) | Listen::Tcp(_) => {}
            }
        }
        Ok(Transport {
            tls,
            client_id_from_cert: self.client_id_from_cert,
            connections: ConnectionLimits {
                total: self.max_connections.get(),
                per_peer: self.max_connections_per_peer.get(),
            },
        })
    }
}
