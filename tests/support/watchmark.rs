//! The real `watchmark serve`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use watchmark::proto::watchmark::v1::{
    admin_service_client::AdminServiceClient, watch_service_client::WatchServiceClient,
};

use super::{
    admin::{self, Answer},
    etcd::Etcd,
    host::Host,
    process::Process,
    wait,
};

const PORT: u16 = 7379;
const ADMIN_PORT: u16 = 7380;

/// One sidecar; its data outlives its restarts.
#[derive(Debug)]
pub(crate) struct Watchmark {
    host: Host,
    args: Vec<String>,
    /// How to connect to it; `None`: in plaintext.
    tls: Option<ClientTlsConfig>,
    process: Option<Process>,
    // Last: the process goes before its files.
    dir: TempDir,
}

impl Watchmark {
    /// Starts one on all members of `etcd`, and waits until it can be connected
    /// to. That is before it opened its store: a call waits for that, and it
    /// may still end instead, with exit code 3.
    pub(crate) async fn start(etcd: &Etcd, extra: &[&str]) -> Self {
        Self::start_on(&etcd.endpoints(), extra).await
    }

    /// Starts one on the endpoints given.
    pub(crate) async fn start_on(endpoints: &[String], extra: &[&str]) -> Self {
        Self::start_in(TempDir::new().unwrap(), endpoints, extra, None).await
    }

    /// Starts one that is connected to by TLS.
    pub(crate) async fn start_tls(
        endpoints: &[String],
        extra: &[&str],
        tls: Option<ClientTlsConfig>,
    ) -> Self {
        Self::start_in(TempDir::new().unwrap(), endpoints, extra, tls).await
    }

    /// With data and log in `dir`.
    pub(crate) async fn start_in(
        dir: TempDir,
        endpoints: &[String],
        extra: &[&str],
        tls: Option<ClientTlsConfig>,
    ) -> Self {
        let mut watchmark = Self::unstarted_in(dir, endpoints, extra);
        watchmark.tls = tls;
        watchmark.restart().await;
        watchmark
    }

    /// One that is about to be [launched](Self::launch).
    pub(crate) fn unstarted(endpoints: &[String], extra: &[&str]) -> Self {
        Self::unstarted_in(TempDir::new().unwrap(), endpoints, extra)
    }

    fn unstarted_in(dir: TempDir, endpoints: &[String], extra: &[&str]) -> Self {
        let host = Host::claim();
        let mut args = vec![
            "serve".to_owned(),
            format!("--listen={}", host.address(PORT)),
            format!("--admin-listen={}", host.address(ADMIN_PORT)),
            format!("--data-dir={}", dir.path().join("data").display()),
            format!("--etcd-endpoints={}", endpoints.join(",")),
            "--log=info,watchmark=debug".to_owned(),
        ];
        args.extend(extra.iter().map(|&flag| flag.to_owned()));
        Self {
            host,
            args,
            tls: None,
            process: None,
            dir,
        }
    }

    /// Where it keeps its checkpoints.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What it logged so far, over all its lives.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.process().terminate();
    }

    /// Waits until it ends by itself, and returns its exit code.
    pub(crate) async fn exit_code(&mut self, deadline: Duration) -> Option<i32> {
        let mut process = self.process.take().unwrap();
        process.ended(deadline).await.code()
    }

    /// Starts it again where it was.
    pub(crate) async fn restart(&mut self) {
        self.launch();
        let endpoint = self.endpoint();
        wait::until("watchmark to listen", async || {
            let running = self.process.as_mut().is_some_and(Process::is_running);
            assert!(running, "watchmark ended:\n{}", self.log());
            endpoint.connect().await.ok()
        })
        .await;
    }

    /// Adds a flag, from its next start on. The last one wins.
    pub(crate) fn use_flag(&mut self, flag: &str) {
        self.args.push(flag.to_owned());
    }

    /// Removes all flags of that name, from its next start on.
    pub(crate) fn drop_flag(&mut self, name: &str) {
        let flag = format!("{name}=");
        self.args.retain(|arg| !arg.starts_with(&flag));
    }

    /// Changes where it looks for etcd, from its next start on.
    pub(crate) fn use_endpoints(&mut self, endpoints: &[String]) {
        self.drop_flag("--etcd-endpoints");
        self.use_flag(&format!("--etcd-endpoints={}", endpoints.join(",")));
    }

    /// Whether it was started and has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// Starts it without waiting for anything.
    pub(crate) fn launch(&mut self) {
        assert!(self.process.is_none(), "watchmark runs already");
        let program = Path::new(env!("CARGO_BIN_EXE_watchmark"));
        let log = self.log_path();
        self.process = Some(Process::start("watchmark", program, &self.args, &log));
    }

    /// The running process.
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    /// A connection of its own.
    pub(crate) async fn client(&self) -> WatchServiceClient<Channel> {
        WatchServiceClient::new(self.connect().await)
    }

    /// A connection of its own, for an operator.
    pub(crate) async fn admin_client(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.connect().await)
    }

    async fn connect(&self) -> Channel {
        let endpoint = self.endpoint();
        let channel = wait::until("a connection to watchmark", async || {
            endpoint.connect().await.ok()
        });
        channel.await
    }

    /// Where it listens, as `ip:port`.
    pub(crate) fn address(&self) -> String {
        self.host.address(PORT)
    }

    /// Asks the admin port.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        admin::ask(&self.admin_address(), "GET", path, &[]).await
    }

    /// What is wrong, as the status page shows it: by reason, with what to do.
    pub(crate) async fn problems(&self) -> Vec<(String, String)> {
        let page: serde_json::Value =
            serde_json::from_str(&self.get("/status.json").await.body).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let problems = page["problems"].as_array().unwrap().iter();
        problems
            .map(|it| (text(&it["reason"]), text(&it["message"])))
            .collect()
    }

    /// Where operators connect, as `ip:port`.
    pub(crate) fn admin_address(&self) -> String {
        self.host.address(ADMIN_PORT)
    }

    /// Where it listens.
    pub(crate) fn endpoint(&self) -> Endpoint {
        match &self.tls {
            Some(tls) => self.tls_endpoint(tls),
            None => Endpoint::from_shared(self.host.url(PORT)).unwrap(),
        }
    }

    /// Where it listens, for another client.
    pub(crate) fn tls_endpoint(&self, tls: &ClientTlsConfig) -> Endpoint {
        let url = format!("https://{}", self.address());
        let endpoint = Endpoint::from_shared(url).unwrap();
        endpoint.tls_config(tls.clone()).unwrap()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("watchmark.log")
    }
}
