//! The sessions that README.md and docs/tour.md print, typed into a shell as
//! printed, and what they print. Ports are other ones, so that nothing is in
//! the way; ids, ages and addresses are compared by their shape.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::symlink, process::CommandExt},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    root,
    support::{host::Host, wait},
};

/// A session's last command.
const LAST: &str = "rm -r $dir\n";

/// What the pages say where watchmark listens.
const PRINTED_ADDRESS: &str = "127.0.0.1:7379";

/// How long a step may take: one installs from a registry.
const STEP_DEADLINE: Duration = Duration::from_secs(180);

/// What a shell prints when it has done what it was told.
const DONE: &str = "@@done@@";

/// Commands, and what they print.
struct Step {
    commands: String,
    prints: String,
}

/// The blocks of the session under this heading, each with the text printed
/// after it, and what comments say of its lines.
fn steps(page: &str, heading: &str) -> Vec<Step> {
    let (_, session) = page.split_once(heading).unwrap();
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = session.lines();
    while steps
        .last()
        .is_none_or(|step| !step.commands.ends_with(LAST))
    {
        let kind = lines.find_map(|line| line.strip_prefix("```")).unwrap();
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        let block = block.join("\n") + "\n";
        match kind {
            "sh" => {
                let comments = block
                    .lines()
                    .filter_map(|line| Some(line.split_once("  # ")?.1));
                let prints = comments.collect::<Vec<_>>().join("\n");
                steps.push(Step {
                    commands: block,
                    prints,
                });
            }
            "text" => {
                let step = steps.last_mut().unwrap();
                step.prints += &block;
            }
            other => panic!("a block of {other}"),
        }
    }
    steps
}

/// The lines that matter, without what is never twice the same.
fn shape(text: &str) -> Vec<String> {
    let mut shape = Vec::new();
    // grpcurl separates messages by an invisible character.
    let text = text.replace('\u{1e}', "");
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        // A heartbeat may come at any time.
        if line == "progress: <" {
            lines.by_ref().find(|line| *line == ">");
            continue;
        }
        let words: Vec<_> = line.split_whitespace().map(word).collect();
        let line = words.join(" ");
        // What etcdctl answers, and the shell about killed jobs, is not printed there.
        if !line.is_empty() && line != "OK" && line != "1" && !line.starts_with("bash: line") {
            shape.push(line);
        }
    }
    shape
}

fn word(word: &str) -> String {
    let core = word.trim_matches(['(', ')', ',', ';']);
    let is_number =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let age = core.strip_suffix("ms").or_else(|| core.strip_suffix('s'));
    let shape = if core.len() >= 8 && is_number(core) {
        "ID"
    } else if age.is_some_and(is_number) {
        "AGE"
    } else if core.starts_with("20") && core.ends_with('Z') {
        "TIME"
    } else if core.starts_with("127.") {
        "ADDRESS"
    } else {
        core
    };
    word.replace(core, shape)
}

/// bash, with etcd and watchmark on addresses of their own.
struct Shell {
    bash: Child,
    stdin: ChildStdin,
    printed: Arc<Mutex<String>>,
    host: Host,
    // Last: the processes go before their files.
    _dir: TempDir,
}

impl Shell {
    fn start() -> Self {
        let host = Host::claim();
        let dir = TempDir::new().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir_all(dir.path().join("target/debug")).unwrap();
        let watchmark = env!("CARGO_BIN_EXE_watchmark");
        symlink(watchmark, dir.path().join("target/debug/watchmark")).unwrap();
        symlink(root().join("proto"), dir.path().join("proto")).unwrap();
        if let Some(etcd) = env::var_os("ETCD") {
            symlink(etcd, bin.join("etcd")).unwrap();
        }
        let path = env::var_os("PATH").unwrap();
        let tools = root().join("target/tools");
        assert!(
            tools.join("grpcurl").exists(),
            "grpcurl is missing: make test-clients"
        );
        let path: Vec<PathBuf> = [bin, tools]
            .into_iter()
            .chain(env::split_paths(&path))
            .collect();
        let mut command = Command::new("bash");
        command
            .args(["--norc", "--noprofile", "-O", "expand_aliases"])
            .current_dir(dir.path())
            .env_remove("ETCD")
            .env("PATH", env::join_paths(path).unwrap())
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", host.url(2379))
            .env("ETCD_LISTEN_CLIENT_URLS", host.url(2379))
            .env("ETCD_ADVERTISE_CLIENT_URLS", host.url(2379))
            .env("ETCD_LISTEN_PEER_URLS", host.url(2380))
            .env("ETCD_INITIAL_ADVERTISE_PEER_URLS", host.url(2380))
            .env(
                "ETCD_INITIAL_CLUSTER",
                format!("default={}", host.url(2380)),
            )
            .env("WATCHMARK_ETCD_ENDPOINTS", host.url(2379))
            .env("WATCHMARK_LISTEN", host.address(7379))
            .env("WATCHMARK_ADMIN_LISTEN", host.address(7380))
            .env("WATCHMARK_ADDRESS", host.address(7379))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut bash = command.spawn().unwrap();
        let mut stdin = bash.stdin.take().unwrap();
        // Its jobs end with it, also when the test is killed.
        writeln!(stdin, "exec 2>&1; trap 'kill $(jobs -p) 2>/dev/null' EXIT").unwrap();
        let printed = Arc::new(Mutex::new(String::new()));
        let printing = Arc::clone(&printed);
        let stdout = BufReader::new(bash.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines() {
                *printing.lock().unwrap() += &(line.unwrap() + "\n");
            }
        });
        Self {
            bash,
            stdin,
            printed,
            host,
            _dir: dir,
        }
    }

    /// Types the commands, and waits until they have printed what they should.
    async fn run(&mut self, step: &Step) {
        self.printed.lock().unwrap().clear();
        let mut commands = step
            .commands
            .replace(PRINTED_ADDRESS, &self.host.address(7379));
        // What prints until it is ended.
        let is_interrupted = commands.starts_with("watchmark tail") && !commands.contains('&');
        if is_interrupted {
            commands = format!("{} & interrupted=$!\n", commands.trim_end());
        }
        writeln!(self.stdin, "{commands}echo {DONE}").unwrap();
        let expected = shape(&step.prints);
        let started = Instant::now();
        loop {
            let printed = self.printed.lock().unwrap().clone();
            let mut lines = shape(&printed);
            let count = lines.len();
            lines.retain(|line| line != DONE);
            if lines.len() < count && lines == expected {
                break;
            }
            assert!(
                started.elapsed() < STEP_DEADLINE,
                "{}\nshould print\n{}\nbut prints\n{printed}",
                step.commands,
                step.prints
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if is_interrupted {
            writeln!(self.stdin, "kill $interrupted; wait $interrupted").unwrap();
        }
        if commands.contains(" serve ") {
            for port in [2379, 7379] {
                let address = self.host.address(port);
                wait::until("a server to listen", async || {
                    TcpStream::connect(&address).await.ok()
                })
                .await;
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.bash), Signal::KILL);
        let _ = self.bash.wait();
    }
}

async fn type_in(steps: &[Step]) {
    let compared = steps.iter().filter(|step| !step.prints.is_empty());
    assert!(compared.count() > 3, "the session is not found");
    let mut shell = Shell::start();
    for step in steps {
        shell.run(step).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-clients"]
async fn the_session_in_the_readme_prints_what_it_says() {
    let page = fs::read_to_string(root().join("README.md")).unwrap();
    type_in(&steps(&page, "## Try it by hand")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-clients"]
async fn the_session_of_the_tour_prints_what_it_says() {
    let page = fs::read_to_string(root().join("docs/tour.md")).unwrap();
    let mut steps = steps(&page, "# A tour");
    let before = steps.len();
    // make has installed it, by the same command and a version of its own.
    steps.retain(|step| !step.commands.contains("go install"));
    assert_eq!(steps.len(), before - 1);
    type_in(&steps).await;
}

#[test]
fn what_differs_is_seen() {
    let printed = "checkpoint: 3\nsession_id: 1795339939397280\n  since 2s ago\nprogress: <\n  revision: 5\n>\n";
    let again = "OK\ncheckpoint:   3\nsession_id: 1795339939397281\nsince 1.4s ago\n";
    assert_eq!(shape(printed), shape(again));
    assert_ne!(shape(printed), shape(&again.replace('3', "4")));
    assert_ne!(shape(printed), shape(&again.replace("since", "for")));
    assert_ne!(shape("a: 1"), shape(""));
}
