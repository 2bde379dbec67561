//! A real etcd: one member, or a cluster of three.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use etcd_client::{Client, ConnectOptions, Error, GetOptions};
use tempfile::TempDir;

use super::{host::Host, peers::Peers, process::Process, wait};

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// Where the proxy before a member's peer port listens.
const PEER_PROXY_PORT: u16 = 2390;

/// How long etcd may take to answer one call of a test.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The server to test: `$ETCD`, else the one on PATH.
static PROGRAM: LazyLock<PathBuf> =
    LazyLock::new(|| env::var_os("ETCD").map_or_else(|| "etcd".into(), PathBuf::from));

/// Its `(major, minor, patch)`.
static VERSION: LazyLock<(u32, u32, u32)> = LazyLock::new(|| {
    let text = output(Command::new(&*PROGRAM).arg("--version"));
    let version = text.lines().find_map(|l| l.strip_prefix("etcd Version: "));
    let mut numbers = version.unwrap().split(['.', '-']).map(|n| n.parse());
    let mut next = || numbers.next().unwrap().unwrap();
    (next(), next(), next())
});

/// What `etcd --help` lists.
static HELP: LazyLock<String> =
    LazyLock::new(|| output(Command::new(&*PROGRAM).arg("--help").env_clear()));

/// The servers of one test, with their data.
#[derive(Debug)]
pub(crate) struct Etcd {
    members: Vec<Member>,
    peers: Option<Peers>,
    user: Option<(String, String)>,
    // Last: the processes go before their files.
    dir: TempDir,
}

#[derive(Debug)]
struct Member {
    name: String,
    host: Host,
    data: PathBuf,
    log: PathBuf,
    args: Vec<String>,
    process: Option<Process>,
}

/// A snapshot of the store, as an operator keeps it.
#[derive(Debug)]
pub(crate) struct Backup(PathBuf);

/// Where to connect to, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    endpoints: Vec<String>,
    user: Option<(String, String)>,
}

impl Access {
    /// Connects lazily, unless there is a user: that needs etcd at once. A
    /// token that expired is renewed by the client itself.
    pub(crate) async fn connect(&self) -> Result<Client, Error> {
        let mut options = ConnectOptions::new()
            .with_timeout(CALL_TIMEOUT)
            .with_connect_timeout(CALL_TIMEOUT);
        if let Some((name, password)) = &self.user {
            options = options
                .with_user(name, password)
                .with_auto_token_refresh(true);
        }
        Client::connect(&self.endpoints, Some(options)).await
    }

    /// The same for one member only.
    pub(crate) fn only(&self, at: usize) -> Self {
        Self {
            endpoints: vec![self.endpoints[at].clone()],
            user: self.user.clone(),
        }
    }
}

impl Backup {
    /// Its newest revision.
    pub(crate) fn revision(&self) -> i64 {
        let mut command = Command::new(restore_tool());
        command
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "status", "--write-out=json"]);
        let text = output(command.arg(&self.0));
        let status: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        status["revision"].as_i64().unwrap()
    }
}

impl Etcd {
    /// The tested server's `(major, minor, patch)`.
    pub(crate) fn version() -> (u32, u32, u32) {
        *VERSION
    }

    /// The flag that sets how often etcd certifies progress unasked, in this
    /// version's spelling; `None`: it has none.
    pub(crate) fn progress_notify_flag(interval: &str) -> Option<String> {
        [
            "watch-progress-notify-interval",
            "experimental-watch-progress-notify-interval",
        ]
        .iter()
        .find(|name| HELP.contains(&format!("--{name} ")))
        .map(|name| format!("--{name}={interval}"))
    }

    /// Starts one member.
    pub(crate) async fn single(extra: &[&str]) -> Self {
        // A lone member has nobody to wait for.
        let fast = ["--heartbeat-interval=20", "--election-timeout=200"];
        Self::start(1, &[&fast, extra].concat(), TempDir::new().unwrap()).await
    }

    /// Starts three members, with a proxy between any two.
    pub(crate) async fn cluster(extra: &[&str]) -> Self {
        Self::cluster_in(TempDir::new().unwrap(), extra).await
    }

    /// As [`cluster`](Self::cluster), with data and logs in `dir`.
    pub(crate) async fn cluster_in(dir: TempDir, extra: &[&str]) -> Self {
        let mut etcd = Self::start(3, extra, dir).await;
        let mut ids = Vec::new();
        for at in 0..3 {
            let status = etcd.client_of(at).await.status().await.unwrap();
            ids.push(status.header().unwrap().member_id());
        }
        etcd.peers.as_mut().unwrap().identify(ids);
        etcd
    }

    async fn start(size: usize, extra: &[&str], dir: TempDir) -> Self {
        let hosts: Vec<Host> = (0..size).map(|_| Host::claim()).collect();
        let peer_port = if size > 1 { PEER_PROXY_PORT } else { PEER_PORT };
        let cluster = hosts.iter().enumerate();
        let cluster: Vec<_> = cluster
            .map(|(at, host)| format!("m{at}={}", host.url(peer_port)))
            .collect();
        let peers = if size > 1 {
            let routes = hosts.iter();
            let routes: Vec<_> = routes
                .map(|host| (host.address(PEER_PROXY_PORT), host.address(PEER_PORT)))
                .collect();
            Some(Peers::start(&routes).await)
        } else {
            None
        };
        let members = hosts.into_iter().enumerate().map(|(at, host)| {
            let name = format!("m{at}");
            let mut args = vec![
                format!("--name={name}"),
                format!("--listen-client-urls={}", host.url(CLIENT_PORT)),
                format!("--advertise-client-urls={}", host.url(CLIENT_PORT)),
                format!("--listen-peer-urls={}", host.url(PEER_PORT)),
                format!("--initial-advertise-peer-urls={}", host.url(peer_port)),
                format!("--initial-cluster={}", cluster.join(",")),
                "--initial-cluster-state=new".to_owned(),
                "--initial-cluster-token=watchmark".to_owned(),
            ];
            args.extend(extra.iter().map(|&flag| flag.to_owned()));
            let data = dir.path().join(&name);
            args.push(format!("--data-dir={}", data.display()));
            Member {
                log: dir.path().join(format!("{name}.log")),
                name,
                host,
                data,
                args,
                process: None,
            }
        });
        let mut etcd = Self {
            members: members.collect(),
            peers,
            user: None,
            dir,
        };
        for member in &mut etcd.members {
            member.launch();
        }
        for at in 0..size {
            etcd.ready(at).await;
        }
        etcd
    }

    /// Every member's client URL.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        let urls = self.members.iter();
        urls.map(|member| member.host.url(CLIENT_PORT)).collect()
    }

    /// One member's client URL.
    pub(crate) fn endpoint(&self, at: usize) -> String {
        self.members[at].host.url(CLIENT_PORT)
    }

    /// One running member's process.
    pub(crate) fn pid(&self, at: usize) -> u32 {
        self.members[at].process.as_ref().unwrap().pid()
    }

    /// Every member, as this test's own user.
    pub(crate) fn access(&self) -> Access {
        Access {
            endpoints: self.endpoints(),
            user: self.user.clone(),
        }
    }

    /// Connected to every member.
    pub(crate) async fn client(&self) -> Client {
        connected(&self.access()).await
    }

    /// Connected to one member only.
    pub(crate) async fn client_of(&self, at: usize) -> Client {
        connected(&self.access().only(at)).await
    }

    /// Turns authentication on. This test is `root`, with the password given.
    pub(crate) async fn enable_auth(&mut self, root_password: &str) {
        let mut client = self.client().await;
        client.role_add("root").await.unwrap();
        client.user_add("root", root_password, None).await.unwrap();
        client.user_grant_role("root", "root").await.unwrap();
        client.auth_enable().await.unwrap();
        self.user = Some(("root".to_owned(), root_password.to_owned()));
    }

    /// etcd's newest revision, read linearizably.
    pub(crate) async fn head(&self) -> i64 {
        let mut client = self.client().await;
        wait::until("etcd to say its revision", async || head(&mut client).await).await
    }

    /// Compacts everything below `revision` away, physically.
    pub(crate) async fn compact(&self, revision: i64) {
        let options = etcd_client::CompactionOptions::new().with_physical();
        let mut client = self.client().await;
        client.compact(revision, Some(options)).await.unwrap();
    }

    /// The member that leads, as soon as the reachable ones agree on one.
    pub(crate) async fn leader(&self) -> usize {
        wait::until("a leader", async || {
            for at in 0..self.members.len() {
                if self.members[at].process.is_none() {
                    continue;
                }
                let mut client = self.client_of(at).await;
                let Ok(status) = client.status().await else {
                    continue;
                };
                let own = status.header().map(etcd_client::ResponseHeader::member_id);
                if own == Some(status.leader()) {
                    return Some(at);
                }
            }
            None
        })
        .await
    }

    /// SIGTERM, and waits until the member is gone.
    pub(crate) async fn stop(&mut self, at: usize) {
        let mut process = self.members[at].process.take().unwrap();
        process.terminate();
        process.ended(wait::DEADLINE).await;
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, at: usize) {
        self.members[at].process.take().unwrap().kill();
    }

    /// Starts a stopped member where it was, and waits until it serves.
    pub(crate) async fn restart(&mut self, at: usize) {
        self.members[at].launch();
        self.ready(at).await;
    }

    /// SIGSTOP: connections stay open, nothing answers.
    pub(crate) fn pause(&self, at: usize) {
        self.members[at].process.as_ref().unwrap().pause();
    }

    /// SIGCONT.
    pub(crate) fn resume(&self, at: usize) {
        self.members[at].process.as_ref().unwrap().resume();
    }

    /// Cuts a member of a cluster off from its peers; clients still reach it.
    pub(crate) fn isolate(&self, at: usize) {
        self.peers.as_ref().unwrap().isolate(at);
    }

    /// Ends every [`isolate`](Self::isolate).
    pub(crate) fn heal(&self) {
        self.peers.as_ref().unwrap().heal();
    }

    /// Saves a snapshot of a running member.
    pub(crate) async fn backup(&self, at: usize) -> Backup {
        let path = self
            .dir
            .path()
            .join(format!("backup-{}.db", self.head().await));
        let mut stream = self.client_of(at).await.snapshot().await.unwrap();
        let mut blob = Vec::new();
        while let Some(part) = stream.message().await.unwrap() {
            blob.extend_from_slice(part.blob());
        }
        fs::write(&path, blob).unwrap();
        Backup(path)
    }

    /// Replaces the data of all members, stopped, by a backup, with the same
    /// names, token and URLs: cluster_id and member_ids stay what they were.
    pub(crate) fn restore(&self, backup: &Backup) {
        for at in 0..self.members.len() {
            self.wipe(at);
            self.members[at].restore(&backup.0);
        }
    }

    /// Starts all members, stopped, and waits until they serve.
    pub(crate) async fn restart_all(&mut self) {
        for member in &mut self.members {
            member.launch();
        }
        for at in 0..self.members.len() {
            self.ready(at).await;
        }
    }

    /// Removes the data of a stopped member.
    pub(crate) fn wipe(&self, at: usize) {
        let member = &self.members[at];
        assert!(member.process.is_none(), "{} still runs", member.name);
        fs::remove_dir_all(&member.data).unwrap();
    }

    /// Waits until a member answers a linearizable read.
    pub(crate) async fn ready(&self, at: usize) {
        let mut client = self.client_of(at).await;
        wait::until("etcd to be ready", async || head(&mut client).await).await;
    }
}

impl Member {
    fn launch(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let name = format!("etcd {}", self.name);
        self.process = Some(Process::start(&name, &PROGRAM, &self.args, &self.log));
    }

    fn restore(&self, backup: &Path) {
        let kept = [
            "--name=",
            "--initial-cluster=",
            "--initial-cluster-token=",
            "--data-dir=",
        ];
        let kept = self.args.iter().filter(|arg| {
            arg.starts_with("--initial-advertise-peer-urls=")
                || kept.iter().any(|name| arg.starts_with(name))
        });
        let mut command = Command::new(restore_tool());
        command
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore"]);
        output(command.arg(backup).args(kept));
    }
}

/// A client that outlives restarts of its server.
async fn connected(access: &Access) -> Client {
    wait::until("a client of etcd", async || access.connect().await.ok()).await
}

async fn head(client: &mut Client) -> Option<i64> {
    let options = GetOptions::new().with_count_only();
    let answer = client.get("head", Some(options)).await.ok()?;
    answer.header().map(etcd_client::ResponseHeader::revision)
}

/// etcdutl beside the tested server or on PATH; before 3.5 etcdctl restores.
fn restore_tool() -> PathBuf {
    let beside = |name: &str| PROGRAM.with_file_name(name);
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = env::split_paths(&path).collect();
    dirs.insert(0, beside("").clone());
    let tools = if Etcd::version() < (3, 5, 0) {
        ["etcdctl", "etcdutl"]
    } else {
        ["etcdutl", "etcdctl"]
    };
    let found = tools
        .iter()
        .flat_map(|tool| dirs.iter().map(move |dir| dir.join(tool)));
    let mut found = found.filter(|path| path.is_file());
    found.next().expect("etcdutl or etcdctl (etcd-client)")
}

fn output(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout) + &text(&output.stderr)
}
