//! Small file systems, for disks that fill up and machines that lose power.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use tempfile::TempDir;

/// A file system that is unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Mount {
    directory: TempDir,
}

impl Mount {
    pub(crate) fn new(args: &[&str]) -> Result<Self, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        run("mount", &[args, &[path]].concat())?;
        Ok(Self { directory })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let path = self.path().to_str().unwrap();
        if run("umount", &[path]).is_err() {
            let _ = run("umount", &["--lazy", path]);
        }
    }
}

/// 4 MB; `None`, said loudly, where mounting is not permitted.
pub(crate) fn small_disk() -> Option<Mount> {
    small_disk_of("4m")
}

/// As [`small_disk`], of a size in tmpfs's spelling.
pub(crate) fn small_disk_of(size: &str) -> Option<Mount> {
    match Mount::new(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]) {
        Ok(mount) => Some(mount),
        Err(why) => {
            skip_loudly(&format!("cannot mount a small tmpfs: {why}"));
            None
        }
    }
}

/// Takes all the space that is left.
pub(crate) fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("filler");
    let mut file = File::create(&path).unwrap();
    for block in [vec![1; 65536], vec![1; 4096], vec![1; 1]] {
        while file.write_all(&block).is_ok() {}
    }
    path
}

/// Runs a command to its end.
pub(crate) fn run(command: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(command).args(args).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{command} {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(err) => Err(format!("{command}: {err}")),
    }
}

/// Says that something was not tested, whatever captures the output. Where
/// `WATCHMARK_TEST_PRIVILEGED` is set, as in CI, fails instead.
pub(crate) fn skip_loudly(why: &str) {
    assert!(
        std::env::var_os("WATCHMARK_TEST_PRIVILEGED").is_none(),
        "{why}"
    );
    let test = thread::current().name().unwrap_or("?").to_owned();
    let _ = writeln!(io::stderr(), "\n*** NOT TESTED: {test}: {why} ***\n");
}
