//! The folder of a bench, and its end: whatever ends the bench ends its child and removes the
//! folder.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::super::failed;
use super::super::signals::{Listener, StopSignal};
use super::super::stderr;
use super::super::{end_process, exit_codes};
use crate::error::{Error, ErrorKind, Result};
use crate::random::random_id;

/// Attempts to remove a folder in which an ended process may still have made a file.
const REMOVALS_MAX: usize = 100;
/// Time between two attempts.
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// The type of tmpfs in `statfs`.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The folder in which programs run. It is removed when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    /// The folder that was asked for, in which it is.
    parent: PathBuf,
    /// The child that runs. Who holds the lock may start one, or knows that none is started.
    child: Arc<Mutex<Option<Pid>>>,
}

impl Scratch {
    /// Creates a folder below `parent`, or below the folder for temporary files. From now on a
    /// signal ends the process, after the child and the folder. `keeps_rows` is true if rows are
    /// written to files.
    ///
    /// # Errors
    ///
    /// `Configuration` if the folder cannot be made.
    pub fn create(parent: Option<&Path>, keeps_rows: bool) -> Result<Scratch> {
        let signals = Listener::new()?;
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let dir = parent.join(format!("wordtide-bench-{}", random_id()?));
        DirBuilder::new().mode(0o700).create(&dir).map_err(|error| {
            let message = format!("cannot make a folder in {}: {error}", parent.display());
            Error::new(ErrorKind::Configuration, message)
                .hint("give --scratch a folder that can be written to")
                .cause(error)
        })?;
        let scratch = Scratch { dir: dir.clone(), parent, child: Arc::default() };
        let child = Arc::clone(&scratch.child);
        signals.on_wish(None, move |wish| {
            // Never given back: nothing starts any more.
            let child = lock(&child);
            if let Some(child) = *child {
                kill_all(child);
            }
            remove(&dir);
            let rows = if keeps_rows { "; the rows so far are complete" } else { "" };
            stderr::line(format!("wordtide: ended by a signal{rows}"));
            end_process::at_once(match wish {
                StopSignal::Stop(code) | StopSignal::EndNow(code) => code,
                StopSignal::Overdue => exit_codes::TERMINATED,
            });
        })?;
        Ok(scratch)
    }

    /// Returns the folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the folder that was asked for, for messages.
    pub fn parent(&self) -> &Path {
        &self.parent
    }

    /// Returns true if files here are in memory, where a sync costs nothing.
    pub fn is_in_memory(&self) -> bool {
        rustix::fs::statfs(&self.dir).is_ok_and(|facts| facts.f_type == TMPFS_MAGIC)
    }

    /// Makes an empty folder for a run.
    ///
    /// # Errors
    ///
    /// `Disk` if it cannot be made.
    pub fn empty(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        let made = match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::create_dir(&dir),
        };
        match made {
            Ok(()) => Ok(dir),
            Err(error) => {
                let message = format!("cannot make {}: {error}", dir.display());
                Err(Error::new(ErrorKind::Disk, message).cause(error))
            }
        }
    }

    /// Starts a child. At most one runs at a time.
    ///
    /// # Errors
    ///
    /// `Failed` if it cannot be started.
    pub fn start(&self, command: &mut Command) -> Result<Child> {
        let mut running = lock(&self.child);
        let started = command.spawn();
        let name = command.get_program().to_string_lossy();
        let child = started.map_err(|error| failed(&format!("cannot start {name}"), error))?;
        *running = Some(Pid::from_child(&child));
        Ok(child)
    }

    /// Waits for the end of a child.
    ///
    /// # Errors
    ///
    /// `Failed` if nothing is known of it.
    pub fn wait(&self, child: &mut Child) -> Result<std::process::ExitStatus> {
        let cannot = |error| failed("cannot wait for a program", error);
        // It stays a zombie until its number is forgotten here: no other process gets the signal.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(error) = waitid(WaitId::Pid(Pid::from_child(child)), options) {
            if error != rustix::io::Errno::INTR {
                return Err(cannot(error.into()));
            }
        }
        let mut running = lock(&self.child);
        let status = child.wait().map_err(cannot)?;
        *running = None;
        Ok(status)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(child) = lock(&self.child).take() {
            kill_all(child);
        }
        remove(&self.dir);
    }
}

fn lock(child: &Mutex<Option<Pid>>) -> MutexGuard<'_, Option<Pid>> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a process and those that it has started, which may be in groups of their own.
fn kill_all(process: Pid) {
    let below = children(process);
    // One that has ended needs no signal. The parent first: it would start others.
    let _ = kill_process(process, Signal::KILL);
    below.into_iter().for_each(kill_all);
}

/// Returns the processes that a process has started and that run.
pub fn children(process: Pid) -> Vec<Pid> {
    let mut found = Vec::new();
    // Each thread has a list of those that it has started.
    let tasks = fs::read_dir(format!("/proc/{}/task", process.as_raw_pid()));
    for task in tasks.into_iter().flatten().flatten() {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let pids = list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        found.extend(pids);
    }
    found
}

/// Removes a folder in which processes that were just killed may still write.
fn remove(dir: &Path) {
    for _ in 0..REMOVALS_MAX {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                std::thread::park_timeout(REMOVAL_PAUSE);
            }
            _ => return,
        }
    }
    stderr::line(format!("wordtide: warning: {} could not be removed", dir.display()));
}
