//! Starts and ends the processes of the demo: only its own, and all of them,
//! however it ends.

use std::{
    env,
    fs::{self, File},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::{story::DEADLINE, writer};

/// How often is looked whether a process has got where it should be.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// x and y of the delay rule.
pub(crate) const IDLE_AFTER: Duration = Duration::from_secs(2);
pub(crate) const IDLE_LAG: Duration = Duration::from_secs(1);
/// How often etcd's revision is sampled for the delay rule.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// How often watchmark asks etcd for progress, where etcd's version allows.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// A child process. It is killed when this value goes, and when the demo dies.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    /// What it prints to stdout, where that is piped.
    pub(crate) stdout: Option<ChildStdout>,
}

impl Process {
    /// Starts `command` through `with_parent`, in a process group of its own:
    /// Ctrl-C reaches the demo alone, which then ends its children.
    fn start(
        name: &'static str,
        program: &PathBuf,
        set: impl FnOnce(&mut Command),
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command
            .arg("with-parent")
            .arg(program)
            .process_group(0)
            .stdin(Stdio::null());
        set(&mut command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take();
        Ok(Self {
            name,
            child,
            stdout,
        })
    }

    /// SIGKILL: it gets no chance to clean up.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    pub(crate) async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let exited = wait_for(self.name, "did not stop", async || self.child.try_wait());
        exited.await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended: then there is nothing to do.
        let _ = self.kill();
    }
}

/// Becomes `args`, a program with its arguments, which is killed when the
/// parent, the demo, ends in whatever way.
pub(crate) fn with_parent(args: &[String]) -> anyhow::Result<()> {
    let (program, args) = args.split_first().context("with-parent PROGRAM ARGS")?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Err(Command::new(program).args(args).exec()).with_context(|| program.clone())
}

/// Where everything is: programs, ports, and a directory that goes with it.
pub(crate) struct House {
    dir: tempfile::TempDir,
    etcd: PathBuf,
    watchmark: PathBuf,
    etcd_port: u16,
    peer_port: u16,
    watchmark_port: u16,
}

impl House {
    /// Nothing is started yet.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let etcd = env::var_os("ETCD").unwrap_or_else(|| "etcd".into());
        // target/debug/examples/demo -> target/debug/watchmark
        let here = env::current_exe()?;
        let built = here.parent().and_then(|examples| examples.parent());
        let watchmark = built
            .context("no directory of built programs")?
            .join("watchmark");
        if !watchmark.exists() {
            bail!("{} is not built: use make demo", watchmark.display());
        }
        // Held together, so that they differ.
        let ports = [0; 3].map(|any| TcpListener::bind(("127.0.0.1", any)));
        let mut free = Vec::new();
        for listener in ports {
            free.push(listener?.local_addr()?.port());
        }
        Ok(Self {
            dir: tempfile::Builder::new()
                .prefix("watchmark-demo-")
                .tempdir()?,
            etcd: etcd.into(),
            watchmark,
            etcd_port: free[0],
            peer_port: free[1],
            watchmark_port: free[2],
        })
    }

    /// Keeps the directory with the logs, and says where it is.
    pub(crate) fn keep(mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    /// Where etcd listens.
    pub(crate) fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd_port)
    }

    /// Where watchmark listens.
    pub(crate) fn watchmark_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.watchmark_port)
    }

    /// What etcd says its version is.
    pub(crate) fn etcd_version(&self) -> anyhow::Result<String> {
        let output = Command::new(&self.etcd).arg("--version").output();
        let output = output.with_context(|| format!("cannot run {}", self.etcd.display()))?;
        let text = String::from_utf8(output.stdout)?;
        let version = text.lines().next().and_then(|line| line.split(": ").nth(1));
        Ok(version.context("etcd --version says nothing")?.to_owned())
    }

    /// Starts etcd, new or on what it left behind, and waits until it answers.
    pub(crate) async fn start_etcd(&self) -> anyhow::Result<Process> {
        let url = self.etcd_url();
        let peer_url = format!("http://127.0.0.1:{}", self.peer_port);
        let log = self.log("etcd")?;
        let mut etcd = Process::start("etcd", &self.etcd, |command| {
            command
                .args(["--name", "demo", "--data-dir"])
                .arg(self.dir.path().join("etcd"))
                .args([
                    "--listen-client-urls",
                    &url,
                    "--advertise-client-urls",
                    &url,
                ])
                .args(["--listen-peer-urls", &peer_url])
                .args(["--initial-advertise-peer-urls", &peer_url])
                .args(["--initial-cluster", &format!("demo={peer_url}")])
                .stdout(Stdio::null())
                .stderr(log);
        })?;
        wait_for("etcd", "did not come up", async || {
            must_run(&mut etcd)?;
            anyhow::Ok(writer::head(&url).await.ok())
        })
        .await?;
        Ok(etcd)
    }

    /// Starts watchmark and waits until it listens.
    pub(crate) async fn start_watchmark(&self) -> anyhow::Result<Process> {
        let log = self.log("watchmark")?;
        let flags = [
            ("--listen", format!("127.0.0.1:{}", self.watchmark_port)),
            ("--admin-listen", "off".to_owned()),
            ("--etcd-endpoints", self.etcd_url()),
            ("--idle-after", in_ms(IDLE_AFTER)),
            ("--idle-lag", in_ms(IDLE_LAG)),
            ("--probe-interval", in_ms(PROBE_INTERVAL)),
            ("--progress-interval", in_ms(PROGRESS_INTERVAL)),
        ];
        let mut watchmark = Process::start("watchmark", &self.watchmark, |command| {
            command
                .arg("serve")
                .arg("--data-dir")
                .arg(self.dir.path().join("watchmark"));
            for (flag, value) in &flags {
                command.args([flag, value.as_str()]);
            }
            command.stdout(Stdio::null()).stderr(log);
        })?;
        wait_for("watchmark", "did not come up", async || {
            must_run(&mut watchmark)?;
            anyhow::Ok(TcpStream::connect(("127.0.0.1", self.watchmark_port)).ok())
        })
        .await?;
        Ok(watchmark)
    }

    /// Starts a subscriber process; `prefix` may be empty.
    pub(crate) fn start_subscriber(
        &self,
        client_id: &'static str,
        prefix: &str,
        acks: u64,
    ) -> anyhow::Result<Process> {
        Process::start(client_id, &env::current_exe()?, |command| {
            command
                .args(["subscriber", &self.watchmark_url(), client_id, prefix])
                .arg(acks.to_string())
                .stdout(Stdio::piped());
        })
    }

    fn log(&self, name: &str) -> anyhow::Result<File> {
        let path = self.dir.path().join(format!("{name}.log"));
        Ok(fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)?)
    }
}

fn in_ms(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn must_run(process: &mut Process) -> anyhow::Result<()> {
    if let Some(status) = process.child.try_wait()? {
        bail!("{} ended at once: {status}", process.name);
    }
    Ok(())
}

/// Looks until there is something.
async fn wait_for<T, E>(
    who: &str,
    problem: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>, E>,
) -> anyhow::Result<T>
where
    anyhow::Error: From<E>,
{
    let looking = async {
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(DEADLINE, looking)
        .await
        .with_context(|| format!("{who} {problem}"))?
}
