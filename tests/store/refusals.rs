//! What is not damage: a lock, a permission, a newer format. Told apart, and
//! never quarantined.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
};

use siphasher::sip::SipHasher13;
use watchmark::store::{CheckpointStore as _, DiskStore, OnCorruptStore, StoreError};

use crate::{
    mount::skip_loudly,
    support::{contents, files, id, open, record, wait},
    writer::{Lives, Syncs, Writer},
};

fn assert_refused(path: &Path, expected: impl Fn(&StoreError) -> bool) -> String {
    let before = fs::read_dir(path).unwrap().count();
    let mut message = String::new();
    for policy in [OnCorruptStore::Fail, OnCorruptStore::Quarantine] {
        let refused = DiskStore::open(path, policy).unwrap_err();
        assert!(expected(&refused), "{refused:?}");
        assert!(!refused.is_retryable());
        message = refused.to_string();
        assert!(message.contains("--data-dir"), "{message}");
        assert!(message.contains(path.to_str().unwrap()), "{message}");
    }
    let after = fs::read_dir(path).unwrap().count();
    assert_eq!(before, after, "something was made or moved");
    message
}

fn is_locked(error: &StoreError) -> bool {
    matches!(error, StoreError::Locked { .. })
}

fn is_unreadable(error: &StoreError) -> bool {
    matches!(error, StoreError::Unreadable { .. })
}

#[test]
fn a_store_in_use_by_this_process_is_locked() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).unwrap();
    let message = assert_refused(directory.path(), is_locked);
    assert!(message.contains("another process"), "{message}");
    wait(first.put(&id(1), record(1))).unwrap();
    drop(first);
    assert!(open(directory.path()).is_ok());
}

#[test]
fn a_store_in_use_by_another_process_is_locked_even_without_its_lock_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(directory.path(), Syncs::All, Lives::new());
    writer.wait_for_first_answer();
    assert_refused(directory.path(), is_locked);
    fs::remove_file(directory.path().join("lock")).unwrap();
    fs::write(directory.path().join("lock"), "").unwrap();
    assert_refused(directory.path(), is_locked);
    let mut lives = writer.kill().unwrap();
    let store = open(directory.path()).unwrap();
    assert_eq!(lives.settle(&store), Ok(()));
}

#[test]
fn a_store_in_use_is_locked_even_where_it_looks_corrupt() {
    let directory = tempfile::tempdir().unwrap();
    wait(open(directory.path()).unwrap().put(&id(1), record(1))).unwrap();
    for name in ["checkpoints/tree/db", "checkpoints/witness"] {
        // As while another process writes it: half of it is there.
        fs::write(directory.path().join(name), "half").unwrap();
        let db = fs::File::open(directory.path().join("checkpoints/tree/db")).unwrap();
        db.lock().unwrap();
        assert_refused(directory.path(), is_locked);
    }
    let refused = open(directory.path()).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
}

#[test]
fn a_directory_in_place_of_a_file_is_unreadable_not_corrupt() {
    for name in ["lock", "checkpoints/witness", "checkpoints/tree/db"] {
        let directory = tempfile::tempdir().unwrap();
        wait(open(directory.path()).unwrap().put(&id(1), record(1))).unwrap();
        let file = directory.path().join(name);
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let message = assert_refused(directory.path(), is_unreadable);
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn a_data_dir_that_is_a_file_is_unreadable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    fs::write(&path, "mine").unwrap();
    let refused = open(&path).unwrap_err();
    assert!(is_unreadable(&refused), "{refused:?}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

const OPENS: &str = "WATCHMARK_TEST_OPENS_STORE";

/// Not a test of its own: opens a store as another user.
#[test]
fn opening_process() {
    if let Some(path) = std::env::var_os(OPENS) {
        let refused = DiskStore::open(Path::new(&path), OnCorruptStore::Quarantine).unwrap_err();
        println!("refused: {refused:?}");
    }
}

#[test]
fn a_store_of_another_user_is_unreadable_and_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    wait(open(path).unwrap().put(&id(1), record(1))).unwrap();
    if !rustix::process::geteuid().is_root() {
        skip_loudly("only root can run a process as another user");
        return;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    // The build's own folder may be closed to others.
    let program = tempfile::tempdir().unwrap();
    fs::set_permissions(program.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let opener = program.path().join("opener");
    fs::copy(std::env::current_exe().unwrap(), &opener).unwrap();
    // From outside in, each time one file more is open to everybody.
    for (name, is_directory) in [
        ("lock", false),
        ("checkpoints/witness", false),
        ("checkpoints", true),
        ("checkpoints/tree/db", false),
    ] {
        let before = files(path);
        let output = Command::new(&opener)
            .args(["refusals::opening_process", "--exact", "--nocapture"])
            .env(OPENS, path)
            .uid(65534)
            .gid(65534)
            .stderr(Stdio::inherit())
            .output();
        let output = match output {
            Ok(output) => String::from_utf8(output.stdout).unwrap(),
            Err(err) => return skip_loudly(&format!("cannot run as another user: {err}")),
        };
        assert!(output.contains("refused: Unreadable"), "{name}: {output}");
        assert!(files(path) == before, "{name}: something was overwritten");
        let mode = if is_directory { 0o777 } else { 0o666 };
        fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    assert_eq!(contents(&open(path).unwrap())[&id(1)], record(1));
}

#[test]
fn a_store_of_a_newer_format_is_refused_untouched() {
    use std::hash::Hasher as _;
    let directory = tempfile::tempdir().unwrap();
    wait(open(directory.path()).unwrap().put(&id(1), record(1))).unwrap();
    let witness = directory.path().join("checkpoints/witness");
    let mut bytes = fs::read(&witness).unwrap();
    // As a newer watchmark would write it: the format, and a checksum that fits.
    bytes[16..20].copy_from_slice(&2_u32.to_le_bytes());
    let mut hasher = SipHasher13::new();
    hasher.write(&0_u128.to_le_bytes());
    hasher.write(&bytes[..36]);
    bytes[36..44].copy_from_slice(&hasher.finish().to_le_bytes());
    fs::write(&witness, bytes).unwrap();

    let before = files(directory.path());
    let message = assert_refused(directory.path(), |err| {
        matches!(
            err,
            StoreError::NewerFormat {
                found: 2,
                known: 1,
                ..
            }
        )
    });
    assert!(message.contains("run the newer one"), "{message}");
    assert!(files(directory.path()) == before);
}

#[test]
fn an_interrupted_first_start_is_a_first_start() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let tree = directory.path().join("checkpoints/tree");
    // Before the rename; before the tree; before sled's file.
    for step in 0..3 {
        match step {
            0 => fs::rename(
                directory.path().join("checkpoints"),
                directory.path().join("checkpoints.new"),
            )
            .unwrap(),
            1 => fs::remove_dir_all(&tree).unwrap(),
            _ => fs::remove_file(tree.join("db")).unwrap(),
        }
        let store = open(directory.path()).unwrap();
        assert_eq!(store.client_ids(), [], "step {step}");
    }
    wait(open(directory.path()).unwrap().put(&id(1), record(1))).unwrap();
    assert_eq!(open(directory.path()).unwrap().client_ids(), [id(1)]);
}
