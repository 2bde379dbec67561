//! Which server is asked, how it is reached, and how long it may take.

use std::{fmt, fs, future::Future, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use tokio::time::timeout;
use tonic::{
    Response, Status,
    codegen::http::Uri,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{failure::Failure, unreachable};
use crate::proto::watchmark::v1::{
    GetSubscriptionRequest, Subscription, admin_service_client::AdminServiceClient,
    watch_service_client::WatchServiceClient,
};

/// How long a call may take, unless told otherwise.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// A server that vanished without a word is noticed within half a minute.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct ConnectFlags {
    /// The watchmark to ask: HOST:PORT, https://HOST:PORT, or unix:///path.sock
    #[arg(
        short,
        long,
        env = "WATCHMARK_ADDRESS",
        default_value = "127.0.0.1:7379"
    )]
    address: Address,

    /// How long it may take to connect, and to answer one call [default: 10s; of health: 800ms]
    #[arg(long, env = "WATCHMARK_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,

    /// For https://: the authorities that sign its certificate, PEM [default: the system's]
    #[arg(long, env = "WATCHMARK_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// For https://: your certificate, PEM
    #[arg(
        long,
        env = "WATCHMARK_CERT_FILE",
        value_name = "FILE",
        requires = "key_file"
    )]
    cert_file: Option<PathBuf>,

    /// For https://: the key of --cert-file, PEM
    #[arg(
        long,
        env = "WATCHMARK_KEY_FILE",
        value_name = "FILE",
        requires = "cert_file"
    )]
    key_file: Option<PathBuf>,

    /// For https://: the name its certificate must have, if not the address's
    #[arg(long, env = "WATCHMARK_SERVER_NAME", value_name = "NAME")]
    server_name: Option<String>,
}

/// Where a watchmark listens.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Address {
    Plain(Uri),
    Tls(Uri),
    /// The path, absolute.
    Unix(String),
}

/// A watchmark that answers.
#[derive(Debug)]
pub(super) struct Server {
    /// As given.
    pub(super) address: String,
    pub(super) channel: Channel,
    timeout: Duration,
}

impl ConnectFlags {
    /// Connects to it.
    pub(super) async fn connect(&self, default_timeout: Duration) -> Result<Server, Failure> {
        let timeout_after = self.timeout.unwrap_or(default_timeout);
        let endpoint = self
            .endpoint()?
            .connect_timeout(timeout_after)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        let address = self.address.to_string();
        match timeout(timeout_after, endpoint.connect()).await {
            Ok(Ok(channel)) => Ok(Server {
                address,
                channel,
                timeout: timeout_after,
            }),
            Ok(Err(error)) => Err(Failure::Failed(unreachable::never_reached(
                &address, &error,
            ))),
            Err(_) => Err(Failure::Failed(unreachable::no_answer(&address))),
        }
    }

    fn endpoint(&self) -> Result<Endpoint, Failure> {
        let wrong = |error: tonic::transport::Error| {
            Failure::Usage(format!("--address {}: {error}", self.address))
        };
        match &self.address {
            Address::Tls(uri) => {
                Endpoint::from(uri.clone())
                    .tls_config(self.tls()?)
                    .map_err(|error| {
                        let cause = std::error::Error::source(&error)
                            .map_or_else(|| error.to_string(), ToString::to_string);
                        Failure::Usage(format!(
                            "--ca-file, --cert-file or --key-file cannot be used: {cause}"
                        ))
                    })
            }
            Address::Plain(uri) => {
                self.refuse_tls_flags()?;
                Ok(Endpoint::from(uri.clone()))
            }
            Address::Unix(path) => {
                self.refuse_tls_flags()?;
                Endpoint::from_shared(format!("unix://{path}")).map_err(wrong)
            }
        }
    }

    fn tls(&self) -> Result<ClientTlsConfig, Failure> {
        let mut tls = ClientTlsConfig::new();
        tls = match &self.ca_file {
            Some(file) => tls.ca_certificate(Certificate::from_pem(pem(
                "--ca-file",
                file,
                "CERTIFICATE",
            )?)),
            None => tls.with_native_roots(),
        };
        if let (Some(cert_file), Some(key_file)) = (&self.cert_file, &self.key_file) {
            tls = tls.identity(Identity::from_pem(
                pem("--cert-file", cert_file, "CERTIFICATE")?,
                pem("--key-file", key_file, "PRIVATE KEY")?,
            ));
        }
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        Ok(tls)
    }

    /// Who gives these expects an encrypted connection.
    fn refuse_tls_flags(&self) -> Result<(), Failure> {
        let given = [
            ("--ca-file", self.ca_file.is_some()),
            ("--cert-file", self.cert_file.is_some()),
            ("--server-name", self.server_name.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => Err(Failure::Usage(format!(
                "{flag} is for TLS, which --address {} is not: write https://HOST:PORT",
                self.address
            ))),
            None => Ok(()),
        }
    }
}

/// Reads a file that holds such a part. What holds none would be taken for
/// an empty list by the TLS library, and blamed on the server.
fn pem(flag: &str, file: &PathBuf, part: &str) -> Result<Vec<u8>, Failure> {
    let file_name = file.display();
    let text = fs::read(file)
        .map_err(|error| Failure::Usage(format!("{flag} {file_name}: cannot read it: {error}")))?;
    let marker = format!("{part}-----");
    if !text.windows(marker.len()).any(|it| it == marker.as_bytes()) {
        return Err(Failure::Usage(format!(
            "{flag} {file_name}: holds no {part} in PEM"
        )));
    }
    Ok(text)
}

impl Server {
    pub(super) fn admin(&self) -> AdminServiceClient<Channel> {
        // A range's keys have no limit of ours.
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(super) fn watch(&self) -> WatchServiceClient<Channel> {
        // A single event may be larger than 4 MiB.
        WatchServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Waits for the answer to a call.
    pub(super) async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match self.in_time(call).await? {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(Failure::of_call(&self.address, &status)),
        }
    }

    /// Waits no longer than a call may take.
    pub(super) async fn in_time<T>(&self, future: impl Future<Output = T>) -> Result<T, Failure> {
        let in_time = timeout(self.timeout, future).await;
        in_time.map_err(|_| Failure::Failed(unreachable::no_answer(&self.address)))
    }

    /// Asks for one subscription.
    pub(super) async fn subscription(&self, client_id: &str) -> Result<Subscription, Failure> {
        let request = GetSubscriptionRequest {
            client_id: client_id.to_owned(),
        };
        let answer = self.answer(self.admin().get_subscription(request)).await?;
        answer.subscription.ok_or_else(|| {
            Failure::Failed(format!("{} answers without a subscription", self.address))
        })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be above zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it like 500ms or 10s")),
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str =
            "write HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:///path.sock";
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.to_owned()))
            } else {
                Err("a socket needs an absolute path: unix:///path.sock".to_owned())
            };
        }
        let (is_tls, authority) = match text.split_once("://") {
            None => (false, text),
            Some(("http", authority)) => (false, authority),
            Some(("https", authority)) => (true, authority),
            Some(_) => return Err(EXPECTED.to_owned()),
        };
        let scheme = if is_tls { "https" } else { "http" };
        let authority = authority.trim_end_matches('/');
        let uri: Uri = format!("{scheme}://{authority}")
            .parse()
            .map_err(|_| EXPECTED.to_owned())?;
        let is_whole = uri.host().is_some_and(|host| !host.is_empty())
            && uri.port_u16().is_some_and(|port| port > 0)
            && uri.path() == "/"
            && uri.query().is_none()
            && !authority.contains('@');
        match (is_whole, is_tls) {
            (false, _) => Err(EXPECTED.to_owned()),
            (true, true) => Ok(Self::Tls(uri)),
            (true, false) => Ok(Self::Plain(uri)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = |uri: &Uri| uri.authority().map(ToString::to_string).unwrap_or_default();
        match self {
            Self::Plain(uri) => f.write_str(&authority(uri)),
            Self::Tls(uri) => write!(f, "https://{}", authority(uri)),
            Self::Unix(path) => write!(f, "unix://{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_back() {
        for (given, written) in [
            ("127.0.0.1:7379", "127.0.0.1:7379"),
            ("localhost:7379", "localhost:7379"),
            ("[::1]:7379", "[::1]:7379"),
            ("http://127.0.0.1:7379/", "127.0.0.1:7379"),
            (
                "https://watchmark.example:7379",
                "https://watchmark.example:7379",
            ),
            ("unix:///run/watchmark.sock", "unix:///run/watchmark.sock"),
        ] {
            let address = Address::from_str(given).unwrap();
            assert_eq!(address.to_string(), written);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_one_looks_like() {
        for bad in [
            "",
            "localhost",
            ":7379",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0.1:99999",
            "127.0.0.1:7379/path",
            "127.0.0.1:7379?q",
            "user@127.0.0.1:7379",
            "ftp://a:1",
            "unix://relative.sock",
            "unix:/run/w.sock",
            "a b:1",
            "http://",
            "::1:7379",
        ] {
            let refused = Address::from_str(bad).unwrap_err();
            assert!(refused.contains("unix:///path.sock"), "{bad}: {refused}");
        }
    }
}
