//! A disk that loses power: what no sync has put there is gone.
//!
//! A file system in a file holds the state of the program, which alone sees it: it runs in a mount
//! namespace of its own, so that the file system goes when the program goes. To lose power, the
//! program is halted, the file is copied as it is then, without what the kernel still holds back,
//! and the program is killed; its next life gets the copy. Where the test may not mount (no root,
//! no `mkfs.ext4`) it reports that.

use std::path::PathBuf;
use std::process::Command;

use crate::rig::{Invocation, Rig, Running};

const IMAGE: &str = "disk.img";
/// While a copy is taken the kernel must write nothing of what it holds back. By itself it waits
/// some seconds before it does; with this the metadata waits longer than any test.
const PATIENT: &str = "commit=300";
/// Holds what the segments of a chain take, none of which is deleted.
const IMAGE_BYTES: u64 = 160 << 20;

/// The disk under `state`.
pub(super) struct Disk {
    /// Mounts the image over its first argument, then runs the rest.
    mount: String,
}

impl Disk {
    /// A fresh one in the directory of `rig`, or why there can be none.
    pub(super) fn new(rig: &Rig) -> Result<Disk, String> {
        let image = std::fs::File::create(rig.path(IMAGE)).map_err(|error| error.to_string())?;
        image.set_len(IMAGE_BYTES).map_err(|error| error.to_string())?;
        std::fs::create_dir(rig.path("state")).map_err(|error| error.to_string())?;
        let mount = format!("mount -o loop,{PATIENT} {IMAGE} \"$0\" && exec \"$@\"");
        let disk = Disk { mount };
        disk.run(rig, Command::new("mkfs.ext4").args(["-q", "-F", IMAGE]))?;
        disk.run(rig, &mut disk.inside("state", &["true"]))?;
        Ok(disk)
    }

    /// Prepares a run of the program with its state on the disk.
    pub(super) fn wordtide(&self, rig: &Rig, arguments: &str) -> Invocation {
        rig.wordtide_by(&["unshare", "--mount", "sh", "-ec", &self.mount, "state"], arguments)
    }

    /// Ends the program by a loss of power.
    pub(super) fn lose_power(&self, rig: &Rig, program: Running) {
        // It may have ended by itself.
        if program.halt() {
            let copy = rig.path("copy.img");
            std::fs::copy(rig.path(IMAGE), &copy).expect("room for a copy of the disk");
            drop(program); // kills it
            std::fs::rename(copy, rig.path(IMAGE)).expect("the rig's own directory");
        }
    }

    /// Brings what is on the disk to `state` itself, for others to look at.
    pub(super) fn take_out(&self, rig: &Rig) {
        let copied = self.run(rig, &mut self.inside("disk", &["cp", "-a", "disk/.", "state"]));
        copied.expect("a disk that was unmounted in order");
    }

    fn inside(&self, mountpoint: &str, command: &[&str]) -> Command {
        let mut inside = Command::new("unshare");
        let make = format!("mkdir -p \"$0\"; {}", self.mount);
        inside.args(["--mount", "sh", "-ec", &make, mountpoint]).args(command);
        inside
    }

    fn run(&self, rig: &Rig, command: &mut Command) -> Result<(), String> {
        let output = command.current_dir(rig.path(PathBuf::new())).output();
        let output = output.map_err(|error| format!("{command:?}: {error}"))?;
        let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(()) } else { Err(said()) }
    }
}
