//! Power cuts, simulated: the store lies on a file system in an image file,
//! its writer is stopped at a random moment, and the image is copied without
//! a sync. The copy has what reached the disk and nothing else.

use std::path::Path;

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::support::{Mount, Writer, checkpoint_of, open, random_pause, run, skip_loudly};

/// In the ordinary run. `WATCHMARK_TEST_POWER_CUTS` asks for more.
const CUTS: usize = 8;
/// Without the sync about two of five lose something: 0.6^40 < 1e-8.
const UNSYNCED_CUTS_MAX: usize = 40;

/// What the disk holds after a power cut.
enum AfterCut {
    Intact { acks: u64 },
    Lost(String),
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

    /// Writes to the store on this disk, cuts the power, and looks.
    fn write_and_cut(&self, syncs: bool) -> AfterCut {
        let mount = Mount::new(&["-o", "loop", &self.image()]).unwrap();
        let mut writer = Writer::start(&mount.path().join("data"), syncs);
        writer.wait_for_first_ack();
        random_pause(5, 400);
        kill_process(writer.pid(), Signal::STOP).unwrap();
        // What is in the page cache of the mounted file system is not in the
        // image: that is the power cut.
        run("cp", &["--sparse=always", &self.image(), &self.copy()]).unwrap();
        let acked = writer.kill();
        drop(mount);

        let mount = Mount::new(&["-o", "loop", &self.copy()]).unwrap();
        let store = match open(&mount.path().join("data")) {
            Ok(store) => store,
            Err(err) => return AfterCut::Lost(err.to_string()),
        };
        for (&client, &checkpoint) in &acked {
            let found = checkpoint_of(&store, client);
            if found < checkpoint {
                let loss = format!("client {client} is at {found}, {checkpoint} was answered");
                return AfterCut::Lost(loss);
            }
        }
        AfterCut::Intact {
            acks: acked.values().sum(),
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

#[test]
fn no_power_cut_takes_an_answered_checkpoint_back() {
    let Some(disk) = disk() else { return };
    let cuts =
        std::env::var("WATCHMARK_TEST_POWER_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    let mut total = 0;
    for cut in 0..cuts {
        // Half on a fresh disk, half on the one of the cut before.
        if cut % 2 == 0 {
            disk.format().unwrap();
        } else {
            std::fs::rename(disk.copy(), disk.image()).unwrap();
        }
        match disk.write_and_cut(true) {
            AfterCut::Intact { acks } => total += acks,
            AfterCut::Lost(loss) => panic!("cut {cut}: {loss}"),
        }
    }
    println!("{cuts} cuts, checkpoints acknowledged sum to {total}");
    assert!(Path::new(&disk.copy()).exists() && total > 0);
}

/// Proves that the test above can fail.
#[test]
fn without_the_sync_a_power_cut_does_lose_answered_checkpoints() {
    let Some(disk) = disk() else { return };
    let cuts = std::env::var("WATCHMARK_TEST_POWER_CUTS").map_or(0, |cuts| cuts.parse().unwrap());
    let mut losses = Vec::new();
    let mut cut = 0;
    while cut < cuts || losses.is_empty() {
        assert!(cut < UNSYNCED_CUTS_MAX.max(cuts), "nothing is ever lost");
        disk.format().unwrap();
        if let AfterCut::Lost(loss) = disk.write_and_cut(false) {
            losses.push(loss);
        }
        cut += 1;
    }
    println!("{cut} cuts without sync lost {}: {losses:#?}", losses.len());
}
