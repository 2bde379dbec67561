//! One of the consumers of `examples/`, run by the command of its README.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use watchmark::proto::watchmark::v1::event::EventType;

use crate::{
    built, root, shell_blocks,
    support::{
        history::{History, mod_revision},
        process::Process,
        wait,
    },
};

/// Their directories, which are their client_ids too.
pub(crate) const LANGUAGES: [&str; 5] = ["python", "go", "java", "typescript", "rust"];

/// What each of them watches.
pub(crate) const PREFIX: &str = "app/";

/// The arguments in a README's command.
const PRINTED_ARGUMENTS: &str = " 127.0.0.1:7379 my-app app/ state.json";

/// What a consumer keeps.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct State {
    pub(crate) revision: i64,
    pub(crate) pairs: BTreeMap<String, String>,
}

impl State {
    /// What is in the file; `None`: there is none. A half written one panics.
    pub(crate) fn read(file: &Path) -> Option<Self> {
        let json = fs::read(file).ok()?;
        Some(serde_json::from_slice(&json).unwrap())
    }

    /// What etcd's own history says that it must be.
    pub(crate) fn of(history: &History, revision: i64) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut pairs = BTreeMap::new();
        for event in history
            .events
            .iter()
            .filter(|e| mod_revision(e) <= revision)
        {
            let kv = event.kv.as_ref().unwrap();
            if !kv.key.starts_with(PREFIX.as_bytes()) {
            } else if event.r#type() == EventType::Delete {
                pairs.remove(&text(&kv.key));
            } else {
                pairs.insert(text(&kv.key), text(&kv.value));
            }
        }
        Self { revision, pairs }
    }

    /// Says how it differs from what it should be, if it does.
    pub(crate) fn compare(&self, expected: &Self) -> Result<(), String> {
        let keys = self.pairs.keys().chain(expected.pairs.keys());
        for key in keys {
            let [is, should] = [self, expected].map(|state| state.pairs.get(key));
            if is != should {
                let short =
                    |value: Option<&String>| value.map(|v| v.chars().take(40).collect::<String>());
                return Err(format!(
                    "{key} is {:?} instead of {:?} as of revision {}",
                    short(is),
                    short(should),
                    self.revision
                ));
            }
        }
        Ok(())
    }
}

/// One instance.
pub(crate) struct Consumer {
    pub(crate) client_id: &'static str,
    pub(crate) state_file: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Consumer {
    /// Keeps its files in `dir`, by this name.
    pub(crate) fn new(client_id: &'static str, dir: &Path, name: &str) -> Self {
        Self {
            client_id,
            state_file: dir.join(format!("{name}.json")),
            log: dir.join(format!("{name}.log")),
            process: None,
        }
    }

    /// Starts it as its README says, with arguments of its own.
    pub(crate) fn start(&mut self, address: &str) {
        assert!(self.process.is_none(), "{} runs already", self.client_id);
        let readme = root()
            .join("examples")
            .join(self.client_id)
            .join("README.md");
        let blocks = shell_blocks(&fs::read_to_string(&readme).unwrap());
        let [_build, run] = &blocks[..] else {
            panic!("{}: not two blocks of commands", readme.display());
        };
        let command = run
            .strip_suffix(PRINTED_ARGUMENTS)
            .expect("the command to run it");
        let dir = built().join(self.client_id);
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let args = [
            "-euc".to_owned(),
            format!("cd \"$0\"; exec {command} \"$@\""),
            text(&dir),
            address.to_owned(),
            self.client_id.to_owned(),
            PREFIX.to_owned(),
            text(&self.state_file),
        ];
        let process = Process::start(self.client_id, Path::new("/bin/sh"), &args, &self.log);
        self.process = Some(process);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        assert!(
            process.is_running(),
            "{} ended by itself:\n{}",
            self.client_id,
            self.log()
        );
        process.kill();
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.process.as_ref().unwrap().terminate();
    }

    /// Waits until it ends by itself.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        let mut process = self.process.take().unwrap();
        process.ended(Duration::from_secs(30)).await.code()
    }

    /// What it keeps at present.
    pub(crate) fn state(&self) -> Option<State> {
        State::read(&self.state_file)
    }

    /// Waits until its file holds everything up to `revision`, as etcd has it.
    pub(crate) async fn caught_up(&mut self, history: &History, revision: i64) {
        let what = format!("{} to catch up with {revision}", self.client_id);
        let state = wait::until(&what, async || {
            let running = self.process.as_mut().is_some_and(Process::is_running);
            assert!(
                running,
                "{} ended by itself:\n{}",
                self.client_id,
                self.log()
            );
            self.state().filter(|state| state.revision >= revision)
        })
        .await;
        let compared = state.compare(&State::of(history, revision));
        compared.unwrap_or_else(|wrong| panic!("{}: {wrong}\n{}", self.client_id, self.log()));
    }

    /// The end of what it printed.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}
