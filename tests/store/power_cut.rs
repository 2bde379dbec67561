//! Power cuts, simulated: the store lies on a file system in an image file,
//! its writer is stopped at a random moment, and the image is copied without
//! a sync. The copy has what reached the disk and nothing else.

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;
use watchmark::store::StoreError;

use crate::{
    mount::{Mount, run, skip_loudly},
    support::{open, random_pause},
    writer::{Lives, Syncs, Writer, at_once},
};

/// In the ordinary run. `WATCHMARK_TEST_POWER_CUTS` asks for more.
const CUTS: usize = 30;
/// Disks whose power is cut at once.
const DISKS: usize = 3;
/// Without the sync about two of five lose something: 0.6^40 < 1e-8.
const UNSYNCED_CUTS_MAX: usize = 40;

/// What the disk holds after a power cut.
#[derive(Debug)]
enum AfterCut {
    Intact(Lives),
    Lost(String),
    /// Refused to open; why.
    Corrupt(String),
}

struct Disk {
    directory: TempDir,
}

impl Disk {
    fn new() -> Result<Self, String> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let disk = Self { directory };
        disk.format()?;
        drop(Mount::new(&["-o", "loop", &disk.image()])?);
        Ok(disk)
    }

    fn format(&self) -> Result<(), String> {
        let image = self.image();
        let _ = std::fs::remove_file(&image);
        run("truncate", &["--size=48M", &image])?;
        run("mkfs.ext4", &["-q", "-F", &image])
    }

    fn image(&self) -> String {
        self.directory
            .path()
            .join("image")
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn copy(&self) -> String {
        self.image() + "-copy"
    }

    /// Copies the image as it is at one moment: a sync under way, and the file
    /// system's journal, go on while it is read, which no power cut lets them.
    fn cut(&self) {
        let (image, copy) = (self.image(), self.copy());
        let is_of_one_moment = || {
            run("cp", &["--sparse=always", &image, &copy]).unwrap();
            run("cmp", &["--silent", &image, &copy]).is_ok()
        };
        let copied = (0..100).any(|_| is_of_one_moment());
        assert!(copied, "the image never rests");
    }

    /// Writes to the store on this disk, where there may be `lives`, cuts the
    /// power, and looks.
    fn write_and_cut(&self, syncs: Syncs, lives: Lives) -> AfterCut {
        let mount = Mount::new(&["-o", "loop", &self.image()]).unwrap();
        let mut writer = Writer::start(&mount.path().join("data"), syncs, lives);
        writer.wait_for_first_answer();
        random_pause(5, 400);
        kill_process(writer.pid(), Signal::STOP).unwrap();
        // What is in the page cache of the mounted file system is not in the
        // image: that is the power cut.
        self.cut();
        let mut lives = writer.kill().unwrap();
        drop(mount);

        let mount = Mount::new(&["-o", "loop", &self.copy()]).unwrap();
        let store = match open(&mount.path().join("data")) {
            Ok(store) => store,
            Err(StoreError::Corrupt { cause, .. }) => return AfterCut::Corrupt(cause),
            Err(err) => panic!("{err}"),
        };
        match lives.settle(&store) {
            Ok(()) => AfterCut::Intact(lives),
            Err(loss) => AfterCut::Lost(loss),
        }
    }
}

fn disk() -> Option<Disk> {
    match Disk::new() {
        Ok(disk) => Some(disk),
        Err(why) => {
            skip_loudly(&format!("no loop-mounted ext4 here: {why}"));
            None
        }
    }
}

/// And none makes a checkpoint higher than what was asked for, or another.
#[test]
fn no_power_cut_takes_an_answered_checkpoint_back() {
    if disk().is_none() {
        return;
    }
    let cuts =
        std::env::var("WATCHMARK_TEST_POWER_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    let answers = at_once(DISKS, DISKS, |number| {
        let disk = Disk::new().unwrap();
        let mut lives = Lives::new();
        let mut answers = 0;
        for cut in 0..cuts.div_ceil(DISKS) {
            // Half on a fresh disk, half on the one of the cut before.
            if cut % 2 == 0 {
                disk.format().unwrap();
                lives = Lives::new();
            } else {
                std::fs::rename(disk.copy(), disk.image()).unwrap();
            }
            let before = lives.answers;
            lives = match disk.write_and_cut(Syncs::All, lives) {
                AfterCut::Intact(lives) => lives,
                AfterCut::Lost(loss) | AfterCut::Corrupt(loss) => {
                    panic!("disk {number}, cut {cut}: {loss}")
                }
            };
            answers += lives.answers - before;
        }
        answers
    });
    println!("{cuts} cuts, {answers:?} answers by disk");
    assert!(answers.iter().all(|&it| it > 0));
}

/// Cuts on fresh disks until one cost something, or as often as asked for.
fn cut_until_it_costs(disk: &Disk, syncs: Syncs) -> Vec<AfterCut> {
    let asked = std::env::var("WATCHMARK_TEST_POWER_CUTS").map_or(0, |cuts| cuts.parse().unwrap());
    let mut outcomes = Vec::new();
    let costs = |it: &AfterCut| !matches!(it, AfterCut::Intact(_));
    while outcomes.len() < asked || !outcomes.iter().any(costs) {
        assert!(
            outcomes.len() < UNSYNCED_CUTS_MAX.max(asked),
            "nothing is ever lost"
        );
        disk.format().unwrap();
        outcomes.push(disk.write_and_cut(syncs, Lives::new()));
    }
    println!("{} cuts, syncing {syncs:?}: {outcomes:#?}", outcomes.len());
    outcomes
}

/// Proves that the test above can fail.
#[test]
fn without_the_sync_a_power_cut_does_take_answered_checkpoints_back() {
    let Some(disk) = disk() else { return };
    let outcomes = cut_until_it_costs(&disk, Syncs::Nothing);
    assert!(outcomes.iter().any(|it| matches!(it, AfterCut::Lost(_))));
}

/// A disk that says it has synced the records and has not.
#[test]
fn records_that_a_disk_lost_are_missed_by_the_witness() {
    let Some(disk) = disk() else { return };
    for outcome in cut_until_it_costs(&disk, Syncs::WitnessOnly) {
        if let AfterCut::Lost(loss) = outcome {
            panic!("went unnoticed: {loss}");
        }
    }
}
