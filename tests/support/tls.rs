//! Certificates, made by openssl, and clients that use them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::mount::run;

/// What watchmark's certificates are made for.
pub(crate) const SERVER_NAME: &str = "watchmark.test";

/// A certificate and its key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// Signs certificates.
#[derive(Debug)]
pub(crate) struct Authority {
    dir: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let authority = Self {
            dir: TempDir::new().unwrap(),
        };
        let [key, cert] = ["ca.key", "ca.pem"].map(|name| authority.path(name));
        let args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
                    -subj /CN=authority";
        openssl(args, &[("-keyout", &key), ("-out", &cert)]);
        let config = format!(
            "[ca]\ndefault_ca = leaf\n[leaf]\ndatabase = {}\nnew_certs_dir = {}\nrand_serial = yes\n\
             unique_subject = no\ndefault_md = sha256\npolicy = any\n[any]\ncommonName = supplied\n",
            authority.path("index").display(),
            authority.dir.path().display(),
        );
        fs::write(authority.path("config"), config).unwrap();
        fs::write(authority.path("index"), "").unwrap();
        authority
    }

    /// For watchmark.
    pub(crate) fn server(&self) -> Pair {
        self.issue(&format!("DNS:{SERVER_NAME}"))
    }

    /// `names`: subject alternative names as openssl writes them; empty: none.
    pub(crate) fn issue(&self, names: &str) -> Pair {
        self.issue_for(&["-days", "2"], names)
    }

    /// A certificate whose time is over.
    pub(crate) fn issue_expired(&self, names: &str) -> Pair {
        let dates = [
            "-startdate",
            "20200101000000Z",
            "-enddate",
            "20200102000000Z",
        ];
        self.issue_for(&dates, names)
    }

    fn issue_for(&self, dates: &[&str], names: &str) -> Pair {
        let dir = TempDir::new().unwrap();
        let [key, request, extensions, cert] =
            ["key", "csr", "ext", "pem"].map(|name| dir.path().join(name));
        let names = match names {
            "" => String::new(),
            names => format!("subjectAltName={names}\n"),
        };
        let text = format!("{names}extendedKeyUsage=serverAuth,clientAuth\n");
        fs::write(&extensions, text).unwrap();
        let args = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=leaf";
        openssl(args, &[("-keyout", &key), ("-out", &request)]);
        let [authority_key, authority, config] =
            ["ca.key", "ca.pem", "config"].map(|name| self.path(name));
        let files = [
            ("-config", &config),
            ("-in", &request),
            ("-cert", &authority),
            ("-keyfile", &authority_key),
            ("-extfile", &extensions),
            ("-out", &cert),
        ];
        openssl(&format!("ca -batch -notext {}", dates.join(" ")), &files);
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        Pair {
            cert: read(&cert),
            key: read(&key),
        }
    }

    /// Its own certificate, PEM.
    pub(crate) fn pem(&self) -> String {
        fs::read_to_string(self.path("ca.pem")).unwrap()
    }

    /// A client that trusts it, and shows a certificate perhaps.
    pub(crate) fn client(&self, pair: Option<&Pair>) -> ClientTlsConfig {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.pem()))
            .domain_name(SERVER_NAME);
        match pair {
            Some(pair) => tls.identity(Identity::from_pem(&pair.cert, &pair.key)),
            None => tls,
        }
    }

    /// The certificate that a new connection is shown, PEM's content as DER.
    pub(crate) async fn shown_at(&self, address: &str, pair: Option<&Pair>) -> Option<Vec<u8>> {
        let mut roots = RootCertStore::empty();
        let pem = self.pem();
        roots
            .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match pair {
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(address).await.ok()?;
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let stream = connector.connect(name, stream).await.ok()?;
        let (_, session) = stream.get_ref();
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        Some(session.peer_certificates()?.first()?.to_vec())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Pair {
    pub(crate) fn der(&self) -> Vec<u8> {
        CertificateDer::from_pem_slice(self.cert.as_bytes())
            .unwrap()
            .to_vec()
    }
}

/// The files that watchmark reads, as a Kubernetes secret is mounted: each is a
/// symlink into `..data`, itself a symlink that is replaced at one stroke.
#[derive(Debug)]
pub(crate) struct Secret {
    dir: TempDir,
}

impl Secret {
    pub(crate) fn new(pair: &Pair, client_ca: &str) -> Self {
        let secret = Self {
            dir: TempDir::new().unwrap(),
        };
        secret.swap(pair, client_ca);
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            let data = Path::new("..data").join(name);
            std::os::unix::fs::symlink(data, secret.dir.path().join(name)).unwrap();
        }
        secret
    }

    /// As kubelet does: a new directory, then its symlink by a rename.
    pub(crate) fn swap(&self, pair: &Pair, client_ca: &str) {
        let fresh = tempfile::Builder::new()
            .prefix("..")
            .tempdir_in(self.dir.path())
            .unwrap()
            .keep();
        fs::write(fresh.join("tls.crt"), &pair.cert).unwrap();
        fs::write(fresh.join("tls.key"), &pair.key).unwrap();
        fs::write(fresh.join("ca.crt"), client_ca).unwrap();
        let new_link = self.dir.path().join("..data_tmp");
        std::os::unix::fs::symlink(fresh.file_name().unwrap(), &new_link).unwrap();
        fs::rename(new_link, self.dir.path().join("..data")).unwrap();
    }

    /// Writes one file in place.
    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::write(self.dir.path().join(name), content).unwrap();
    }

    /// The flags for a certificate.
    pub(crate) fn tls_flags(&self) -> Vec<String> {
        vec![
            self.flag("--tls-cert-file", "tls.crt"),
            self.flag("--tls-key-file", "tls.key"),
        ]
    }

    /// The flags for certificates on both sides.
    pub(crate) fn mtls_flags(&self) -> Vec<String> {
        let mut flags = self.tls_flags();
        flags.push(self.flag("--tls-client-ca-file", "ca.crt"));
        flags
    }

    fn flag(&self, flag: &str, name: &str) -> String {
        format!("{flag}={}", self.dir.path().join(name).display())
    }
}

fn openssl(args: &str, files: &[(&str, &PathBuf)]) {
    let mut all: Vec<&str> = args.split_whitespace().collect();
    for (flag, path) in files {
        all.extend([*flag, path.to_str().unwrap()]);
    }
    run("openssl", &all).unwrap();
}
