//! How lock, witness and tree make a store that can be trusted.
//!
//! Opening a sled tree repairs it and so overwrites. Its files are therefore
//! copied and the copy is opened and verified first; only a store that passes
//! is touched, and one that fails is left as it was found.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tracing::{error, warn};

use super::{
    directory::{self, Directory, DiskSync, Fault},
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
    let rehearsed = rehearse(directory, sync, &witness);
    directory::remove_dir(&directory.rehearsal())?;
    open_tree(directory, sync, witness, Some(rehearsed?))
}

/// Opens the store again after a write failed, and proves that it takes writes.
pub(super) fn reopen(directory: &Directory, sync: &Arc<dyn DiskSync>) -> Result<OpenStore, Fault> {
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
    let witness = Witness::open(&directory.witness())?;
    let mut store = open_tree(directory, sync, witness, None)?;
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
fn rehearse(
    directory: &Directory,
    sync: &Arc<dyn DiskSync>,
    witness: &Witness,
) -> Result<Verified, Fault> {
    let copy = directory.rehearsal();
    directory::remove_dir(&copy)?;
    directory::copy_dir(&directory.tree(), &copy)?;
    let tree = Tree::open(&copy, Arc::clone(sync));
    let verified = tree.and_then(|tree| {
        let verified = verify(&tree, witness, &directory.tree(), None);
        tree.close();
        verified
    });
    verified.map_err(|fault| match fault {
        Fault::Corrupt { cause, .. } => Fault::corrupt(directory.tree(), cause),
        other => other,
    })
}

fn open_tree(
    directory: &Directory,
    sync: &Arc<dyn DiskSync>,
    mut witness: Witness,
    rehearsed: Option<Verified>,
) -> Result<OpenStore, Fault> {
    let path = directory.tree();
    let deadline = Instant::now() + directory::LOCK_WAIT;
    let tree = loop {
        match Tree::open(&path, Arc::clone(sync)) {
            Err(Fault::Locked) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            opened => break opened?,
        }
    };
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
        Err(Unsound::Newer(found)) => Err(Fault::Newer {
            found,
            known: STORE_FORMAT,
        }),
        Err(Unsound::Corrupt(cause)) => Err(Fault::corrupt(path, cause)),
    }
}

/// Notices a process that holds the tree although our lock file is gone: a
/// copy of its files would look corrupt.
fn fail_if_locked(db: &Path) -> Result<(), Fault> {
    let file = OpenOptions::new().read(true).write(true).open(db);
    let file = file.map_err(|err| Fault::io(db, err))?;
    directory::wait_for_lock(&file, db)
}
