//! One etcd process with flags of the test's choice.

use std::{
    env,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use etcd_client::{Client, CompactionOptions, ConnectOptions, Error};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::sleep;
use tonic::Code;
use watchmark::upstream::EtcdConfig;

/// Longer than anything should take on two busy cores.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// A single member; killed when dropped.
pub(crate) struct Server {
    args: Vec<String>,
    port: u16,
    scheme: &'static str,
    child: Child,
    dir: TempDir,
}

impl Server {
    /// Starts etcd in plaintext and waits until it answers.
    pub(crate) async fn start(extra: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let server = Self::launch(dir, "http", extra);
        server.client_ready().await;
        server
    }

    /// Waits until it answers.
    pub(crate) async fn client_ready(&self) {
        let options = ConnectOptions::new().with_timeout(Duration::from_secs(2));
        let client = Client::connect([self.endpoint()], Some(options)).await;
        let mut client = client.unwrap();
        // Where authentication is on, a refusal is an answer too.
        until("etcd to serve", async || {
            match client.get("ready", None).await {
                Ok(_) => Some(()),
                Err(Error::GRpcStatus(status)) if status.code() == Code::InvalidArgument => {
                    Some(())
                }
                Err(_) => None,
            }
        })
        .await;
    }

    /// Starts etcd in `dir` and does not wait.
    pub(crate) fn launch(dir: TempDir, scheme: &'static str, extra: &[&str]) -> Self {
        let [port, peer_port] = free_ports();
        let client_url = format!("{scheme}://127.0.0.1:{port}");
        let peer_url = format!("http://127.0.0.1:{peer_port}");
        let mut args = vec![
            "--name=m0".to_owned(),
            format!("--data-dir={}", dir.path().join("data").display()),
            format!("--listen-client-urls={client_url}"),
            format!("--advertise-client-urls={client_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster=m0={peer_url}"),
            "--heartbeat-interval=20".to_owned(),
            "--election-timeout=200".to_owned(),
        ];
        args.extend(extra.iter().map(|&flag| flag.to_owned()));
        let child = spawn(&args);
        Self {
            args,
            port,
            scheme,
            child,
            dir,
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// A configuration that reaches it.
    pub(crate) fn config(&self) -> EtcdConfig {
        EtcdConfig {
            endpoints: vec![self.endpoint()],
            ..EtcdConfig::default()
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect([self.endpoint()], None).await.unwrap()
    }

    pub(crate) async fn client_as(&self, user: &str, password: &str) -> Client {
        let options = ConnectOptions::new()
            .with_user(user, password)
            .with_auto_token_refresh(true);
        Client::connect([self.endpoint()], Some(options))
            .await
            .unwrap()
    }

    /// Puts one key after the other; the newest revision.
    pub(crate) async fn put(&self, pairs: &[(&str, &str)]) -> i64 {
        let mut client = self.client().await;
        let mut revision = 0;
        for &(key, value) in pairs {
            let answer = client.put(key, value, None).await.unwrap();
            revision = answer.header().unwrap().revision();
        }
        revision
    }

    pub(crate) async fn compact(&self, revision: i64) {
        let options = CompactionOptions::new().with_physical();
        let mut client = self.client().await;
        client.compact(revision, Some(options)).await.unwrap();
    }

    pub(crate) fn kill(&mut self) {
        // Waited for at most once, so the number is still this child's.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.args);
    }

    /// SIGSTOP: connections stay open, nothing answers.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The tested server's `(major, minor, patch)`.
pub(crate) fn version() -> (u32, u32, u32) {
    let output = Command::new(program()).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: "));
    let mut numbers = version
        .unwrap()
        .split(['.', '-'])
        .map(|n| n.parse().unwrap());
    let mut next = || numbers.next().unwrap();
    (next(), next(), next())
}

/// Whether it answers progress requests, and never ahead of events.
pub(crate) fn answers_progress_soundly() -> bool {
    match version() {
        (3, 4, patch) => patch >= 31,
        (3, 5, patch) => patch >= 13,
        version => version >= (3, 6, 0),
    }
}

/// The flag that sets how often etcd certifies progress unasked.
pub(crate) fn progress_notify_flag(interval: &str) -> String {
    let experimental = if version() < (3, 6, 0) {
        "experimental-"
    } else {
        ""
    };
    format!("--{experimental}watch-progress-notify-interval={interval}")
}

/// Looks until there is something, and panics at the deadline.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = std::time::Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "{what}: not in time");
        sleep(PAUSE).await;
    }
}

fn program() -> PathBuf {
    env::var_os("ETCD").map_or_else(|| "etcd".into(), PathBuf::from)
}

fn spawn(args: &[String]) -> Child {
    Command::new(program())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Two ports that were free just now.
pub(crate) fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
