//! Child processes that die with the test.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::wait;

type Spawn = (Command, mpsc::SyncSender<io::Result<Child>>);

/// The kernel kills a child when the thread that started it ends, so that
/// thread must live as long as the whole test process.
static SPAWNER: LazyLock<mpsc::SyncSender<Spawn>> = LazyLock::new(|| {
    let (spawns, queue) = mpsc::sync_channel::<Spawn>(16);
    thread::spawn(move || {
        for (mut command, reply) in queue {
            let _ = reply.send(command.spawn());
        }
    });
    spawns
});

/// How much of a log a failing test shows.
const LOG_TAIL_BYTES: usize = 8 << 10;

/// A child process. Killed when dropped, and when the test dies.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it prints is appended to `log`.
    pub(crate) fn start(name: &str, program: &Path, args: &[String], log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let (reply, answer) = mpsc::sync_channel(1);
        SPAWNER.send((command, reply)).unwrap();
        let child = answer.recv().unwrap().unwrap_or_else(|error| {
            panic!(
                "setpriv --pdeathsig KILL {}: {error} (util-linux)",
                program.display()
            )
        });
        Self {
            child,
            name: name.to_owned(),
            log: log.to_owned(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} to end", self.name);
        wait::within(deadline, &what, async || self.child.try_wait().unwrap()).await
    }

    /// The most memory it ever had resident.
    pub(crate) fn peak_resident_bytes(&self) -> u64 {
        peak_resident_bytes(self.pid()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(&mut self) {
        // Waited for at most once, so the number is still this child's.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            show_log(&self.name, &self.log);
        }
    }
}

/// The most memory a process ever had resident; `None`: it is gone.
pub(crate) fn peak_resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib = line.split_whitespace().nth(1)?;
    kib.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Prints the end of a log, for the report of a failed test.
fn show_log(name: &str, log: &Path) {
    let text = fs::read(log).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(LOG_TAIL_BYTES)..];
    eprintln!("--- {name}, the end of its log:");
    eprintln!("{}", String::from_utf8_lossy(tail));
    eprintln!("--- {name}");
}
