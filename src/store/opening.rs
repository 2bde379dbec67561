//! How lock, witness and tree make a store that can be trusted.
//!
//! Opening a sled tree repairs it and so overwrites. Its files are therefore
//! copied and the copy is opened and verified first; only a store that passes
//! is touched, and one that fails is left as it was found.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tracing::{error, warn};

use super::{
    directory::{self, Directory},
    fault::{DiskSync, Fault},
    rows::{Contents, Row, Unsound},
    sled::{DB_FILE, Tree},
    witness::{STORE_FORMAT, Witness},
};

/// A store that is open, verified and durable.
pub(super) struct OpenStore {
    pub(super) tree: Tree,
    pub(super) witness: Witness,
    pub(super) contents: Contents,
}

/// What a tree held, and that it is sound.
struct Verified {
    rows: Vec<Row>,
    contents: Contents,
}

/// Opens the store, or makes a new one where there is none.
pub(super) fn open(directory: &Directory, sync: &Arc<dyn DiskSync>) -> Result<OpenStore, Fault> {
    directory.create_store()?;
    let tree = directory.tree();
    let db = tree.join(DB_FILE);
    let has_tree = directory::exists(&db)?;
    if has_tree {
        // First, so that nothing that is in use or forbidden is called corrupt.
        directory::check_access(&tree)?;
        fail_if_locked(&db)?;
    }
    let witness = Witness::open(&directory.witness())?;
    let answered = witness.answered().sequence;
    if !has_tree && answered > 0 {
        let cause = format!("it is missing, after {answered} commits");
        return Err(Fault::corrupt(db, cause));
    }
    if !has_tree {
        // A first start that was interrupted: nothing was ever answered.
        directory::remove_dir(&tree)?;
        fs::create_dir(&tree).map_err(|err| Fault::io(&tree, err))?;
        return open_tree(directory, sync, witness, None);
    }
    let rehearsed = rehearse(directory, &witness)?;
    open_tree(directory, sync, witness, Some(rehearsed))
}

/// Opens the store again after a write failed, and proves that it takes writes.
pub(super) fn reopen(directory: &Directory, sync: &Arc<dyn DiskSync>) -> Result<OpenStore, Fault> {
    let witness = Witness::open(&directory.witness())?;
    let rehearsed = rehearse(directory, &witness)?;
    // After a failed fdatasync the kernel takes pages for clean that never
    // reached the disk; writing them again is what makes the next sync honest.
    directory::walk(&directory.tree(), &mut |path, is_dir| {
        if !is_dir {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or_default()];
            file.read_exact_at(&mut bytes, 0)?;
            file.write_all_at(&bytes, 0)?;
        }
        Ok(())
    })?;
    let mut store = open_tree(directory, sync, witness, Some(rehearsed))?;
    // Two, so that both slots of the witness are written again, too.
    for _ in 0..2 {
        let group = store.contents.group([]);
        store.tree.write(&group.rows)?;
        store.witness.advance(group.commit, &**sync)?;
        store.contents.accept(group);
    }
    Ok(store)
}

/// As [`open`], but a corrupt store is moved aside, and its new path returned.
pub(super) fn open_or_quarantine(
    directory: &Directory,
    sync: &Arc<dyn DiskSync>,
) -> Result<(OpenStore, Option<PathBuf>), Fault> {
    match open(directory, sync) {
        Err(Fault::Corrupt { path, cause }) => {
            let aside = directory.quarantine()?;
            error!(
                path = %path.display(), cause, moved_to = %aside.display(),
                "checkpoint store is corrupt: moved aside, every subscription starts again"
            );
            open(directory, sync).map(|store| (store, Some(aside)))
        }
        opened => opened.map(|store| (store, None)),
    }
}

/// Opens and verifies a copy, so that the original stays as it is if that fails.
fn rehearse(directory: &Directory, witness: &Witness) -> Result<Verified, Fault> {
    let copy = directory.rehearsal();
    directory::remove_dir(&copy)?;
    let rehearsed =
        directory::copy_dir(&directory.tree(), &copy).and_then(|()| open_twice(&copy, witness));
    directory::remove_dir(&copy)?;
    rehearsed.map_err(|fault| match fault {
        Fault::Corrupt { cause, .. } => Fault::corrupt(directory.tree(), cause),
        other => other,
    })
}

/// sled passes over damage that it has no use for at present, and may refuse
/// all because of it when it opens the next time. So that nothing is answered
/// before that shows, what was written to the copy must be found there again.
fn open_twice(copy: &Path, witness: &Witness) -> Result<Verified, Fault> {
    let no_sync: Arc<dyn DiskSync> = Arc::new(NoSync);
    let tree = Tree::open(copy, Arc::clone(&no_sync))?;
    let verified = verify(&tree, witness, copy, None).and_then(|verified| {
        let next = verified.contents.group([]);
        tree.write(&next.rows)?;
        Ok((verified, next.commit))
    });
    tree.close();
    let (verified, next) = verified?;
    let tree = open_once_free(copy, &no_sync)?;
    let again = tree.rows().and_then(|rows| {
        let contents = Contents::verify(witness.instance(), next, &rows);
        contents.map_err(|unsound| fault(copy, unsound))
    });
    tree.close();
    again.map(|_| verified)
}

/// For what need not survive a power cut.
#[derive(Debug)]
struct NoSync;

impl DiskSync for NoSync {
    fn sync_data(&self, _: &File) -> io::Result<()> {
        Ok(())
    }
}

/// sled gives the lock of a tree back from a background thread.
fn open_once_free(path: &Path, sync: &Arc<dyn DiskSync>) -> Result<Tree, Fault> {
    let deadline = Instant::now() + directory::LOCK_WAIT;
    loop {
        match Tree::open(path, Arc::clone(sync)) {
            Err(Fault::Locked) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            opened => return opened,
        }
    }
}

fn open_tree(
    directory: &Directory,
    sync: &Arc<dyn DiskSync>,
    mut witness: Witness,
    rehearsed: Option<Verified>,
) -> Result<OpenStore, Fault> {
    let path = directory.tree();
    let tree = open_once_free(&path, sync)?;
    let Verified { contents, .. } = verify(&tree, &witness, &path, rehearsed)?;
    directory::sync_all(&path)?;
    directory::sync_names(&path)?;
    let [held, answered] = [contents.commit(), witness.answered()].map(|it| it.sequence);
    if held > answered {
        if held > answered + 1 {
            warn!(held, answered, "the witness is older than the records");
        }
        witness.advance(contents.commit(), &**sync)?;
    }
    Ok(OpenStore {
        tree,
        witness,
        contents,
    })
}

/// `known` spares decoding the same rows again.
fn verify(
    tree: &Tree,
    witness: &Witness,
    path: &Path,
    known: Option<Verified>,
) -> Result<Verified, Fault> {
    let rows = tree.rows()?;
    if let Some(known) = known.filter(|known| known.rows == rows) {
        return Ok(known);
    }
    match Contents::verify(witness.instance(), witness.answered(), &rows) {
        Ok(contents) => Ok(Verified { rows, contents }),
        Err(unsound) => Err(fault(path, unsound)),
    }
}

fn fault(path: &Path, unsound: Unsound) -> Fault {
    match unsound {
        Unsound::Newer(found) => Fault::Newer {
            found,
            known: STORE_FORMAT,
        },
        Unsound::Corrupt(cause) => Fault::corrupt(path, cause),
    }
}

/// Notices a process that holds the tree although our lock file is gone: a
/// copy of its files would look corrupt.
fn fail_if_locked(db: &Path) -> Result<(), Fault> {
    let file = OpenOptions::new().read(true).write(true).open(db);
    let file = file.map_err(|err| Fault::io(db, err))?;
    directory::wait_for_lock(&file, db)
}
